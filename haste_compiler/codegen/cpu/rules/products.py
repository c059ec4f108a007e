"""Convolutions and linear layers on a CPU: depthwise, dense, or reading only the inputs that aren't zero."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from haste_compiler.codegen.cpu.kernels.dense import dense_kernel, pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import depthwise_kernel, pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.sparse_input import sparse_input_kernel, sparse_input_tiling
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.rules.products import Product, product_rules
from haste_compiler.codegen.walk import Walk


def multiply(walk: Walk[Cpu], product: Product) -> Any:
    """Launch the kernel of a product."""
    machine, geometry, batch = walk.machine, product.geometry, product.batch
    epilogue: dict[str, Any] = {"residual": bool(product.residual), "activation": product.activation}
    if geometry.is_depthwise:
        constants = [pack_depthwise_filters(product.weight), product.full_bias]
        key: tuple[Any, ...] = ("depthwise", geometry, batch, *epilogue.values())

        def build(symbol: str) -> tirx.PrimFunc:
            return depthwise_kernel(symbol, geometry, batch, machine.unit, machine.threads, **epilogue)
    else:
        tiling = machine.choose_tiling(geometry, hint_of(batch), product.winograd)
        constants = pack_dense(product.weight, product.bias, geometry, tiling)
        sparse = sparse_input_tiling(geometry, batch, tiling, product.weight)
        key = (product.kind, geometry, batch, tiling, *epilogue.values(), sparse is not None)

        def build(symbol: str) -> tirx.PrimFunc:
            if sparse is not None:
                return sparse_input_kernel(symbol, geometry, sparse, **epilogue)
            return dense_kernel(symbol, geometry, batch, tiling, **epilogue)

    args = [product.x, *map(walk.param, constants), *product.residual]
    return walk.launch(key, product.layer, args, product.out_shape, build)


RULES = product_rules(multiply)
