"""Comparing a compiled network with the model that it was compiled from: outputs, multiply-adds, time."""

from haste_compiler.methods.products import OperatorMacs, operator_macs
from haste_compiler.methods.statistics import (
    Tally as Channels,
)
from haste_compiler.validation.macs import dense_macs
from haste_compiler.validation.report import (
    Accuracy,
    LayerReport,
    OutputComparison,
    ThresholdError,
    Times,
    Timing,
    ValidationReport,
)
from haste_compiler.validation.validate import validate

__all__ = [
    "Accuracy",
    "Channels",
    "LayerReport",
    "OperatorMacs",
    "OutputComparison",
    "ThresholdError",
    "Times",
    "Timing",
    "ValidationReport",
    "dense_macs",
    "operator_macs",
    "validate",
]
