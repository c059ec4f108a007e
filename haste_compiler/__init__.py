"""Compile pretrained CNNs so that they do less arithmetic on every input, without retraining."""

from haste_compiler.compiler import compile
from haste_compiler.config import HasteConfig
from haste_compiler.errors import (
    CaptureError,
    ConfigError,
    HasteError,
    InputError,
    TargetError,
    UnsupportedOperatorError,
    ValidationError,
)
from haste_compiler.runtime import CompiledModule, LayerStats
from haste_compiler.search import BudgetError, ParetoPoint, SearchResult, search
from haste_compiler.validation import ThresholdError, ValidationReport, validate

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "CaptureError",
    "CompiledModule",
    "ConfigError",
    "HasteConfig",
    "HasteError",
    "InputError",
    "LayerStats",
    "ParetoPoint",
    "SearchResult",
    "TargetError",
    "ThresholdError",
    "UnsupportedOperatorError",
    "ValidationError",
    "ValidationReport",
    "compile",
    "search",
    "validate",
]
