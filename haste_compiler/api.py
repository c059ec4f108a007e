"""What ``haste_compiler`` offers that needs PyTorch."""

from haste_compiler.compiler import compile
from haste_compiler.energy.estimate import EnergyEstimate, estimate_energy
from haste_compiler.onnx import OnnxNetwork, from_onnx
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search import BudgetError, ParetoPoint, SearchResult, search
from haste_compiler.tuning.tune import tune
from haste_compiler.tuning.tuning import Tuning
from haste_compiler.validation import ThresholdError, ValidationReport, validate

__all__ = [
    "BudgetError",
    "CompiledModule",
    "EnergyEstimate",
    "OnnxNetwork",
    "ParetoPoint",
    "SearchResult",
    "ThresholdError",
    "Tuning",
    "ValidationReport",
    "compile",
    "estimate_energy",
    "from_onnx",
    "search",
    "tune",
    "validate",
]
