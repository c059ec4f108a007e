"""MODEL on the command line: where networks come from, and what they are called with."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from haste_compiler.errors import HasteError, InputError, first_line, last_line

if TYPE_CHECKING:
    from torch import Tensor, nn

_IMAGENET = (1, 3, 224, 224)


@dataclass(frozen=True)
class Network:
    """A network, and examples of what it is called with.

    Attributes:
        name: as it was asked for.
        model: in evaluation mode.
        examples: positional arguments, one tuple for each signature that was asked for.
        declared: what the network itself says of its inputs, where that leaves something open.
    """

    name: str
    model: nn.Module
    examples: list[tuple[Tensor, ...]]
    declared: str = ""

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The first of them.

        Raises:
            UsageError: there is none.
        """
        if not self.examples:
            raise click.UsageError(
                "what is the network called with? Give --input, such as --input 1x3x224x224"
                + (f"; it declares {self.declared}" if self.declared else ""),
                click.get_current_context(silent=True),
            )
        return self.examples[0]


@dataclass(frozen=True)
class NetworkSource:
    """Where a network comes from, as the command line says; it is loaded when it is asked for.

    Attributes:
        model, weights, inputs: see ``load_network``.
    """

    model: str
    weights: str | None = None
    inputs: tuple[str, ...] = ()

    def load(self) -> Network:
        """Load it; raises what ``load_network`` raises."""
        return load_network(self.model, self.weights, self.inputs)


def load_network(name: str, weights: str | None = None, inputs: Sequence[str] = ()) -> Network:
    """Load what MODEL names.

    Args:
        name: torchvision:NAME, timm:NAME, FILE.pt2, FILE.onnx, FILE.py:FACTORY or PACKAGE.MODULE:FACTORY.
        weights: a .safetensors file; "random", of torchvision and timm; None: pretrained, or as the factory made them.
        inputs: signatures, such as "1x3x224x224" or, for two arguments, "1x3x32x32,1x10:int64".

    Raises:
        UsageError: the name has another form, or an input can't be read.
        InputError: there is no such network, its weights don't fit it, or it can't be called with an input.
    """
    pretrained = weights is None
    usual: tuple[Tensor, ...] | None
    where, colon, what = name.rpartition(":")
    if name.startswith("torchvision:"):
        model, usual = _torchvision(what, pretrained)
    elif name.startswith("timm:"):
        model, usual = _timm(what, pretrained)
    elif name.endswith(".pt2"):
        model, usual = _exported(Path(name))
    elif name.endswith(".onnx"):
        model, usual = _onnx(Path(name))
    elif colon and where and what:
        model, usual = _factory(where, what), None
    else:
        raise click.UsageError(
            f"MODEL is {name!r}: allowed are torchvision:NAME, timm:NAME, FILE.pt2, FILE.onnx, FILE.py:FACTORY "
            "and PACKAGE.MODULE:FACTORY",
            click.get_current_context(silent=True),
        )
    if weights not in (None, "random"):
        _set_weights(model, Path(str(weights)))
    if not name.endswith(".pt2"):
        model.eval()
    examples = [_examples(text) for text in inputs]
    for text, example in zip(inputs, examples, strict=True):
        _try(model, example, text)
    declared = ", ".join(map(str, getattr(model, "inputs", ()))) if name.endswith(".onnx") and not usual else ""
    return Network(name, model, examples or ([usual] if usual else []), declared)


def _torchvision(name: str, pretrained: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    models = _optional("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classification network {name!r}{_close(name, known)}")
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    side = (getattr(transforms, "crop_size", None) or [_IMAGENET[-1]])[0]
    return _fetch(lambda: models.get_model(name, weights="DEFAULT" if pretrained else None), name), _random(
        (1, 3, side, side)
    )


def _timm(name: str, pretrained: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    timm = _optional("timm", "timm")
    if name not in timm.list_models() and name.partition(".")[0] not in timm.list_models():
        raise InputError(f"timm has no network {name!r}{_close(name, timm.list_models())}")
    model = _fetch(lambda: timm.create_model(name, pretrained=pretrained), name)
    size = getattr(model, "default_cfg", {}).get("input_size", _IMAGENET[1:])
    return model, _random((1, *size))


def _fetch(make: Any, name: str) -> nn.Module:
    """Make a network, which may download its weights."""
    try:
        model: nn.Module = make()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name} can't be had: {first_line(error)}; --weights takes a .safetensors file, or random"
        ) from error
    return model


def _exported(path: Path) -> tuple[nn.Module, tuple[Tensor, ...] | None]:
    import torch

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InputError(f"{path} is no exported program: {first_line(error)}") from error
    arguments = program.example_inputs[0] if program.example_inputs else ()
    tensors = all(isinstance(argument, torch.Tensor) for argument in arguments)
    model = program.module()
    # It refuses eval(): what it does was settled when it was exported.
    for module in model.modules():
        module.training = False
    return model, tuple(arguments) if arguments and tensors else None


def _onnx(path: Path) -> tuple[nn.Module, tuple[Tensor, ...] | None]:
    from haste_compiler.onnx import from_onnx

    model = from_onnx(path)
    try:
        return model, model.example_inputs()
    except InputError:
        # The network leaves sizes open.
        return model, None


def _factory(where: str, what: str) -> nn.Module:
    from torch import nn

    try:
        module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    except Exception as error:
        raise InputError(
            f"{where} can't be imported: {type(error).__name__}: {first_line(error)}{_place(error)}"
        ) from error
    made = getattr(module, what, None)
    if made is None:
        raise InputError(f"{where} has no {what!r}{_close(what, vars(module))}")
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise InputError(f"{where}:{what} is {type(made).__name__}: allowed are a function and a torch.nn.Module")
        try:
            made = made()
        except Exception as error:
            raise InputError(
                f"{where}:{what}() fails: {type(error).__name__}: {first_line(error)}{_place(error)}"
            ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{where}:{what}() returns {type(made).__name__}: allowed is a torch.nn.Module")
    return made


def _place(error: BaseException) -> str:
    """The last line of the user's own code that an error came through: of no installed package, and not of this one."""
    frames = traceback.extract_tb(error.__traceback__)
    known = {str(Path(__file__).parent), *(str(Path(path)) for path in sysconfig.get_paths().values())}
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith("<") and not any(frame.filename.startswith(path) for path in known)
    ]
    if not own:
        return ""
    file = Path(own[-1].filename)
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f" ({shown}:{own[-1].lineno}; --traceback shows all)"


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Files may import their neighbours.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _import_module(name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def _set_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise InputError(f"--weights {path}: allowed are a .safetensors file and random")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} doesn't fit the network: {last_line(error)}") from error
    # Batch norms' counters are of no use at inference, and often not stored.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        names = ", ".join([*missing, *unexpected][:3])
        raise InputError(
            f"{path} doesn't fit the network: it lacks {len(missing)} of its tensors and has {len(unexpected)} others "
            f"({names}, …)"
        )


def _examples(text: str) -> tuple[Tensor, ...]:
    return tuple(_example(part.strip()) for part in text.split(","))


def _try(model: nn.Module, example: tuple[Tensor, ...], text: str) -> None:
    """Call the network as --input says: a wrong shape is best found before anything is compiled."""
    import torch

    from haste_compiler.graph.explain_failure import explain_failure

    try:
        with torch.inference_mode():
            model(*example)
    except Exception as error:
        reason = explain_failure(model, example) or f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"the network can't be called with --input {text}: {reason}") from error


def _example(text: str) -> Tensor:
    import torch

    found = re.fullmatch(r"(\d+(?:x\d+)*)(?::(\w+))?", text)
    dtype = getattr(torch, found[2] or "float32", None) if found else None
    if not found or not isinstance(dtype, torch.dtype) or "0" in found[1].split("x"):
        raise click.UsageError(
            f"--input {text!r}: allowed are sizes such as 1x3x224x224, with a dtype as in 1x10:int64",
            click.get_current_context(silent=True),
        )
    shape = tuple(map(int, found[1].split("x")))
    return _random(shape)[0] if dtype == torch.float32 else torch.zeros(shape, dtype=dtype)


def _random(shape: Sequence[int]) -> tuple[Tensor, ...]:
    import torch

    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)),)


def _optional(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise HasteError(f"{package}:NAME needs {package}: `pip install {package}` ({first_line(error)})") from error
    except Exception as error:
        raise HasteError(
            f"{package} can't be imported: {type(error).__name__}: {first_line(error)}{_remedy(error)}"
        ) from error


def _remedy(error: BaseException) -> str:
    """What helps where the installed torchvision was built for another PyTorch."""
    if "torchvision" not in str(error):
        return ""
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    fitting = f"torchvision==0.{minor + 15}.*" if major == 2 else "torchvision"
    return (
        f"; the installed torchvision was built for another PyTorch than {torch.__version__}: "
        f"`pip install --force-reinstall --no-deps {fitting!r}`, from where torch came from"
    )


def _close(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""
