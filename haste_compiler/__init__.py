"""Compile pretrained CNNs so that they do less arithmetic on every input, without retraining."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from haste_compiler.errors import (
    ArtifactError,
    ArtifactTargetError,
    ArtifactVersionError,
    CaptureError,
    ConfigError,
    DamagedArtifactError,
    HasteError,
    InputError,
    OnnxError,
    TargetError,
    TuningError,
    UnsupportedOperatorError,
    ValidationError,
)
from haste_compiler.lazy import on_demand
from haste_compiler.methods.bfloat16.config import BFloat16Config
from haste_compiler.methods.flat.config import FlatConfig
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.tokens.config import TokenConfig
from haste_compiler.version import __version__ as __version__

if TYPE_CHECKING:
    from haste_compiler.api import (
        BudgetError,
        CompiledModule,
        EnergyEstimate,
        OnnxNetwork,
        ParetoPoint,
        SearchResult,
        ThresholdError,
        Tuning,
        ValidationReport,
        compile,
        estimate_energy,
        from_onnx,
        search,
        tune,
        validate,
    )
    from haste_compiler.methods.haste.statistics import LayerStats
    from haste_compiler.runtime.artifact_load import LoadedModule, load


__all__ = [
    "ArtifactError",
    "ArtifactTargetError",
    "ArtifactVersionError",
    "BFloat16Config",
    "BudgetError",
    "CaptureError",
    "CompiledModule",
    "ConfigError",
    "DamagedArtifactError",
    "EnergyEstimate",
    "FlatConfig",
    "HasteConfig",
    "HasteError",
    "InputError",
    "LayerStats",
    "LoadedModule",
    "OnnxError",
    "OnnxNetwork",
    "ParetoPoint",
    "QuantizedConfig",
    "SearchResult",
    "TargetError",
    "ThresholdError",
    "TokenConfig",
    "Tuning",
    "TuningError",
    "UnsupportedOperatorError",
    "ValidationError",
    "ValidationReport",
    "compile",
    "estimate_energy",
    "from_onnx",
    "load",
    "search",
    "tune",
    "validate",
]


class _Package(ModuleType):
    """Keeps ``search`` the function: Python binds a package's modules to its names, and one is called search too."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "search" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:
    # A saved network is loaded and called without PyTorch, and `haste --help` doesn't wait for it.
    __getattr__ = on_demand(
        __name__,
        {
            "api": set(__all__) - set(globals()) - {"LayerStats", "LoadedModule", "load"},
            "runtime.artifact_load": ["LoadedModule", "load"],
            "methods.haste.statistics": ["LayerStats"],
        },
    )
    sys.modules[__name__].__class__ = _Package
