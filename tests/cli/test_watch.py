"""What ``haste watch`` refuses before it serves anything."""

import pytest

from tests.cli.conftest import Haste

NETWORK = ("watch", "haste_compiler.demo:load_network", "--threads", "1", "--preset", "dense")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "2x1x32x32"), "takes 2x1x32x32"),
        (("--input", "1x1x32x32", "--address", "0.0.0.0"), "means all addresses of this machine"),
        (("--input", "1x1x32x32", "--video", "0"), "allowed are a video file and a folder of images"),
    ],
)
def test_what_cannot_be_served_is_refused(haste: Haste, arguments: tuple[str, ...], message: str) -> None:
    pytest.importorskip("bokeh", reason="bokeh isn't installed")
    code, out, err = haste(*NETWORK, *arguments)
    assert code == 2 and out == "" and message in err.splitlines()[-1]
