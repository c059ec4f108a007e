"""``haste watch``."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from haste_compiler.cli.images import ImageSource
from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import compile_options, gather, network_options
from haste_compiler.cli.output import note
from haste_compiler.cli.parameter_types import EXISTING_FILE
from haste_compiler.cli.video import VideoSource
from haste_compiler.errors import HasteError, InputError

if TYPE_CHECKING:
    from haste_compiler.watch.scene import Scene

_PORT = 8642
_MOST_IMAGES = 16


@dataclass(frozen=True)
class _Examples:
    """What the page has to begin with.

    Attributes:
        images: a folder or an .npz file, see ``read_images``; None: none but a made-up one.
        video: see ``VideoSource``; None: none but a made-up one.
        normalize: of videos and of files that are opened.
    """

    images: str | None
    video: str | None
    normalize: bool

    def read(self, shape: tuple[int, ...]) -> list[Scene]:
        """Read them; raises what ``read_images`` and ``VideoSource`` raise."""
        from haste_compiler.watch.scene import as_taken, from_images, made_up, most_frames

        found = []
        if self.images is not None:
            pixels = ImageSource(self.images, _MOST_IMAGES).read(shape).pixels
            found += [as_taken(f"image {number + 1}", each[None]) for number, each in enumerate(pixels)]
        if self.video is not None:
            source = VideoSource(self.video, most_frames(shape), self.normalize)
            if source.is_camera:
                raise InputError("--video is a camera's number: allowed are a video file and a folder of images")
            images = islice(source.images(), source.limit)
            found.append(from_images(Path(self.video).name, images, shape, self.normalize))
        return [*found, *made_up(shape)]


@dataclass(frozen=True)
class _Place:
    """Where the page is served.

    Attributes:
        address, port: see ``WatchServer``.
        open_browser: shows it.
    """

    address: str
    port: int
    open_browser: bool


@click.command(short_help="Steer MODEL on a page, and see where it works.")
@network_options()
@click.option("--images", metavar="FOLDER|FILE.npz", help="Examples to choose from; the first few.")
@click.option("--video", metavar="VIDEO", help="An example, too: a video file, or a folder of images.")
@click.option("--labels", type=EXISTING_FILE, help="Names of the classes: a text file with a line for each.")
@click.option(
    "--normalize/--no-normalize",
    default=True,
    help="Pixels of files as torchvision's networks want them, or from 0 to 1.  [default: normalize]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_PORT,
    show_default=True,
    help="Of the page; where it is taken, another.",
)
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="Of this machine; the default is seen by no other."
)
@click.option("--open", "open_browser", is_flag=True, help="Show the page in the browser.")
@compile_options()
@gather("place", _Place, ("address", "port", "open_browser"))
@gather("examples", _Examples, ("images", "video", "normalize"))
def watch(network: NetworkSource, examples: _Examples, labels: Path | None, place: _Place, how: dict[str, Any]) -> None:
    """Serve a page on which MODEL is steered while one looks at what it does, next to the dense network.

    The page takes an image or a video, and shows what the network says, what it costs, and a map of where each layer
    worked; a video is played as a stream. It is for this machine's browser and loads nothing from elsewhere. Tabs have
    settings of their own, and take turns.

    \b
    Examples:
      haste watch haste_compiler.demo:load_network --input 1x1x32x32 --no-cost-model
      haste watch torchvision:resnet18 --images photographs/ --labels names.txt --open
      haste watch torchvision:resnet18 --video street.mp4 --input 1x3x224x288
    """
    try:
        from haste_compiler.watch.server import WatchServer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("bokeh", "tornado"):
            raise
        raise HasteError('the page needs Bokeh: `pip install "haste-compiler[watch]"`') from None
    from haste_compiler.watch.network import Watched

    loaded = network.load()
    if len(loaded.example) != 1:
        raise InputError(f"a picture is one input, and {loaded.name} takes {len(loaded.example)}")
    shape = tuple(loaded.example[0].shape)
    names = () if labels is None else _names(labels)
    note(f"compiling {loaded.name} for {'x'.join(map(str, shape))}")
    watched = Watched(loaded.name, loaded.model, shape, labels=names, **how)
    scenes = examples.read(watched.shape)
    server = WatchServer(watched, scenes, normalize=examples.normalize, address=place.address, port=place.port)
    click.echo(f"{loaded.name} is watched at {server.url} until Ctrl-C")
    if place.open_browser:
        webbrowser.open(server.url)
    server.run()


def _names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
