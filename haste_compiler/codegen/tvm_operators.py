"""TVM's own translation of PyTorch's operators, of those that it is trusted with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from tvm import ir, relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from haste_compiler.codegen.shapes import same_shape
from haste_compiler.codegen.symbolic import SymbolicSizes
from haste_compiler.codegen.values import dtype_name
from haste_compiler.errors import last_line
from haste_compiler.graph.nodes import unsupported

aten = torch.ops.aten


class TvmOperators:
    """TVM's translations, into a function that is being built.

    Args:
        builder: of the function.
        sizes: the graph's symbolic sizes.
    """

    def __init__(self, builder: relax.BlockBuilder, sizes: SymbolicSizes) -> None:
        self._importer, self._sizes = ExportedProgramImporter(), sizes
        self._importer.block_builder = builder

    def convert(self, node: fx.Node, sources: Sequence[Any], *, nhwc: bool = False) -> Any:
        """Translate a call that is trusted.

        Args:
            node: the call.
            sources: expressions for ``node.all_input_nodes``, stored as their shapes say.
            nhwc: they are stored as NHWC, and so is the result; of calls to which axes are all the same.

        Raises:
            UnsupportedOperatorError: the translation fails, or gives another shape or dtype than PyTorch.
        """
        self._importer.env.update(zip(node.all_input_nodes, sources, strict=True))
        try:
            expression = self._importer.convert_map[node.target.__name__](node)  # type: ignore[union-attr]
            self._check_kind(node, expression.ty, (0, 2, 3, 1) if nhwc else None)
            return expression
        except Exception as error:
            raise unsupported(node, last_line(error)) from None

    def _check_kind(self, node: fx.Node, kind: Any, order: tuple[int, ...] | None) -> None:
        """Check that TVM's translation has the shapes and dtypes that PyTorch says: some ignore arguments."""
        expected, found = node.meta["val"], kind
        pairs = zip(expected, found.fields, strict=True) if isinstance(found, ir.TupleType) else [(expected, found)]
        for value, tensor in pairs:
            if not isinstance(value, torch.Tensor) or not isinstance(tensor, relax.TensorType) or tensor.shape is None:
                continue
            sizes = value.shape if order is None else [value.shape[axis] for axis in order]
            shape, wanted = list(tensor.shape.values), [self._sizes.expression(size) for size in sizes]
            if not same_shape(shape, wanted) or str(tensor.dtype) != dtype_name(value.dtype):
                described = f"{dtype_name(value.dtype)}{tuple(value.shape)}"
                raise ValueError(f"TVM's translation gives {tensor.dtype}{tuple(shape)} instead of {described}")
