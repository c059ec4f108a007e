"""What became of merged tokens, for every token that went into them."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.rows import TASK_VALUES, UNROLL, matrices_of, places_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.tokens.cpu.merge import MergeSizes


def copy_kernel(name: str, sizes: MergeSizes, out: Operand, lanes: int) -> tirx.PrimFunc:
    """The kernel (y, assignment, copied): the row of each token's slot.

    Args:
        name: its symbol.
        sizes: of the tensors.
        out: where (*leading, tokens, width) is written, columns without a gap.
        lanes: of a vector.
    """
    tokens, slots, width = sizes.tokens, sizes.slots, sizes.width
    # Heads go innermost: where they lie side by side, whole lines are written.
    *outer, heads = sizes.leading if len(sizes.leading) > 1 else (*sizes.leading, 1)
    block = max(1, min(tokens, TASK_VALUES // (width * heads)))
    blocks = emit.ceil_div(tokens, block)

    def body(y: Expr, assignment: Expr, copied: Expr) -> None:
        with T.parallel(0, matrices_of(outer) * blocks) as task:
            group, first = emit.bind(task // blocks), emit.bind(task % blocks * block)
            at = emit.bind(out.at(places_of(outer, group)))
            apart = out.strides[-3] if len(sizes.leading) > 1 else 0
            with T.serial(0, emit.minimum(block, tokens - first)) as i, T.serial(0, heads) as head:
                token, matrix = emit.bind(first + i), emit.bind(group * heads + head)
                read = emit.bind((matrix * slots + assignment[matrix * tokens + token]) * width)
                written = emit.bind(at + token * out.strides[-2] + head * apart)
                emit.sweep(
                    width, lanes, lambda c, n: emit.store(copied, written + c, emit.load(y, read + c, n), n), UNROLL
                )

    arguments = [
        ("y", (*sizes.leading, slots, width), FLOAT32.dtype),
        ("assignment", (*sizes.leading, tokens), "int32"),
        ("copied", out.shape, FLOAT32.dtype),
    ]
    return emit.kernel(name, arguments, body)
