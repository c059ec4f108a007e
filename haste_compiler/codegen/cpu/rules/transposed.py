"""Transposed convolutions on a CPU: as a plain product where they are one, or by their phases."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import tirx

from haste_compiler.codegen.cpu.kernels.conv_transpose2d import (
    choose_phased,
    conv_transpose2d_kernel,
    pack_phased,
)
from haste_compiler.codegen.cpu.kernels.depthwise_transposed import (
    depthwise_transposed_kernel,
    pack_depthwise_transposed,
)
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.products import multiply
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.rules.transposed import Transposed, transposed_rule
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.transposed import Phased
from haste_compiler.codegen.walk import Walk
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D


def by_phases(walk: Walk[Cpu], node: fx.Node, call: Transposed) -> Any:
    """Launch the kernel that computes all phases."""
    machine, batch = walk.machine, call.batch
    epilogue: dict[str, Any] = {"residual": bool(call.residual), "activation": call.activation}
    if call.geometry.is_depthwise:
        phased = Phased(call.geometry, joined=False)
        constants = pack_depthwise_transposed(call.weight, call.bias, phased)
        key: tuple[Any, ...] = ("depthwise_transposed", phased, batch, *epilogue.values())

        def build(symbol: str) -> tirx.PrimFunc:
            return depthwise_transposed_kernel(symbol, phased, batch, machine.unit, machine.threads, **epilogue)
    else:
        phased, tiling = choose_phased(call.geometry, hint_of(batch), machine.unit, machine.threads)
        constants = pack_phased(call.weight, call.bias, phased, tiling)
        key = ("conv_transpose2d", phased, batch, tiling, *epilogue.values())

        def build(symbol: str) -> tirx.PrimFunc:
            return conv_transpose2d_kernel(symbol, phased, batch, tiling, **epilogue)

    return walk.launch(
        key,
        call.layer,
        [call.x, *map(walk.param, constants), *call.residual],
        call.out_shape,
        build,
    )


RULES: Rules = {CONV_TRANSPOSE2D: transposed_rule(multiply, by_phases)}
