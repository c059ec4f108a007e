"""PyTorch's own samples of its operators: compiled right, or refused by name; never wrong, never a foreign error."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

import haste_compiler
from haste_compiler import HasteConfig, HasteError
from haste_compiler.codegen import trusted
from haste_compiler.graph.capture import capture
from haste_compiler.passes.pipeline import rewrite
from tests.operator_samples import Call, Sample, operators, samples

pytest.importorskip("expecttest", reason="expecttest, which PyTorch's operator database needs, is not installed")

OURS = """
    abs add cat ceil cos div.no_rounding_mode erf exp expand flatten floor log mul neg permute reciprocal repeat reshape
    rsqrt select sigmoid sin slice square squeeze stack sub tanh transpose unsqueeze view
    amax bmm chunk constant_pad_nd clamp eq float ge gt le logical_not lt matmul mean ne softmax sqrt where split unbind
    nn.functional.adaptive_avg_pool2d nn.functional.avg_pool2d nn.functional.conv2d nn.functional.elu
    nn.functional.gelu nn.functional.group_norm nn.functional.hardsigmoid nn.functional.hardswish
    nn.functional.hardtanh nn.functional.instance_norm nn.functional.interpolate.bilinear
    nn.functional.interpolate.nearest nn.functional.interpolate.nearest-exact nn.functional.layer_norm
    nn.functional.leaky_relu nn.functional.linear nn.functional.max_pool2d nn.functional.pad.circular
    nn.functional.pad.constant nn.functional.pad.reflect nn.functional.pad.replicate nn.functional.prelu
    nn.functional.relu nn.functional.relu6 nn.functional.scaled_dot_product_attention nn.functional.silu
"""
"""Operators that kernels of ours or of TVM's compute, by name; all others run as PyTorch's own."""


MORE: dict[str, Any] = {
    "comparisons with numbers": lambda x: (x > 0, x >= 0.5, x < 0, x <= 0.5, x == 0, x != 0),
    "truth values as numbers": lambda x: (x > 0).float() + (x < 1).to(torch.float32),
    "whole factors": lambda x: torch.nn.functional.interpolate(x, scale_factor=2),
    "several dimensions of one": lambda x: x[:, None, :1].squeeze((1, 2)),
}
"""What the samples have no call of."""


def further(name: str) -> Sample:
    x = torch.randn(2, 3, 4, 5)
    x[:, 1] = 0.5
    return Sample(Call(MORE[name], *tree_flatten(((x,), {}))), (x,), MORE[name](x))


def outcome(sample: Sample) -> str:
    """ "right", "refused", or what is wrong."""
    try:
        compiled = haste_compiler.compile(
            sample.module, sample.inputs, config=HasteConfig(enabled=False), threads=1, cache=False
        )
        found: Any = compiled(*sample.inputs)
    except HasteError:
        return "refused"
    return sample.differs(found) or "right"


@pytest.mark.parametrize("name", OURS.split())
def test_what_kernels_compute_is_right(name: str) -> None:
    """Breaks where a kernel, or a translation of TVM's, computes something else than PyTorch does."""
    assert {outcome(sample) for sample in samples(name, 2)} <= {"right"}


@pytest.mark.parametrize("name", MORE)
def test_what_the_samples_lack_is_right(name: str) -> None:
    assert outcome(further(name)) == "right"


def test_every_trusted_operator_has_samples() -> None:
    """Breaks where an operator is left to TVM whose samples nobody has tried."""
    tried = [sample for name in OURS.split() for sample in samples(name, 8)]
    seen = set()
    for sample in [*tried, *map(further, MORE)]:
        gm = rewrite(capture(sample.module, sample.inputs))
        seen |= {node.target for node in gm.graph.nodes if node.op == "call_function" and trusted.is_trusted(node)}
    assert set(trusted.TRUSTED) <= seen


@pytest.mark.slow
def test_all_operators() -> None:
    """All samples of all operators: none wrong, no foreign error, and nearly all right."""
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    wrong = []
    for name in operators():
        for number, sample in enumerate(samples(name)):
            found = outcome(sample)
            counts[found if found in ("right", "refused") else "wrong"] += 1
            wrong += [] if found in ("right", "refused") else [f"{name}, sample {number}: {found}"]
    print(dict(counts))
    assert not wrong
    assert counts["right"] >= 0.95 * sum(counts.values())
