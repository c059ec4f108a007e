"""The errors that the package raises, one class for each thing that a user can act on; and quoting other errors."""

from __future__ import annotations


class HasteError(Exception):
    """Base of every error that haste_compiler raises on purpose."""


class ConfigError(HasteError, ValueError):
    """A configuration value is out of range, unknown, or a layer pattern matches no layer."""


class CaptureError(HasteError):
    """``torch.export`` could not capture the model as one graph."""


class UnsupportedOperatorError(HasteError):
    """The model uses an operator that cannot be lowered; the message names it and the layer it came from."""


class OnnxError(HasteError):
    """An ONNX file can't be read: it is damaged, isn't consistent, or the package ``onnx`` is missing."""


class InputError(HasteError, ValueError):
    """A tensor given at call time has a wrong dtype, rank, shape or device."""


class TargetError(HasteError, ValueError):
    """The compilation target is unknown, or this machine cannot build for it."""


class ValidationError(HasteError, AssertionError):
    """The compiled model differs from the reference by more than was allowed."""


class ArtifactError(HasteError):
    """A compiled network could not be saved to, or loaded from, a file."""


class DamagedArtifactError(ArtifactError):
    """The file is cut short, altered, or no artifact at all."""


class ArtifactVersionError(ArtifactError):
    """The file was written by a version of this package, or of TVM, that the installed one can't read."""


class ArtifactTargetError(ArtifactError, TargetError):
    """The file's machine code can't run on this machine."""


class MisfitError(ArtifactError):
    """A network's machine code isn't what is said of it; the message says in what."""


class TuningError(HasteError):
    """Measuring failed: no device is left, or a tuning that was loaded doesn't fit; the message says which."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The last line of what an error says, where TVM has the reason; its type where it says nothing."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
