"""PyTorch's own samples of its operators (OpInfo), each as a module that can be compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

_RANDOM = """
    bernoulli cauchy empty empty_like empty_permuted empty_strided exponential geometric log_normal multinomial
    new_empty new_empty_strided normal pca_lowrank rand_like randint randint_like randn randn_like randperm resize_
    resize_as_ svd_lowrank uniform nn.functional.alpha_dropout nn.functional.dropout nn.functional.dropout2d
    nn.functional.dropout3d nn.functional.feature_alpha_dropout nn.functional.fractional_max_pool2d
    nn.functional.fractional_max_pool3d nn.functional.rrelu
"""
"""Operators whose results are random, or whatever is in memory."""

_OTHER = (
    *("linalg", "fft", "sparse", "torch.ops", "signal", "masked.", "jiterator"),
    *("cholesky", "complex", "cdouble", "cfloat", "chalf", "eig", "geqrf", "inverse", "istft", "lobpcg", "lu", "ormqr"),
    *("pinverse", "polar", "qr", "stft", "svd", "triangular_solve", "view_as_complex", "view_as_real"),
)
"""Beginnings of the names of what isn't tried: linear algebra, and sparse, masked, complex and made-up tensors."""


class Call(nn.Module):
    """A call of an operator: its tensors are the inputs, all else is fixed."""

    def __init__(self, function: Callable[..., Any], leaves: list[Any], spec: TreeSpec) -> None:
        super().__init__()
        self.function, self.spec = function, spec
        self.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.fixed = [None if place in self.places else leaf for place, leaf in enumerate(leaves)]

    def forward(self, *tensors: Tensor) -> Any:
        leaves = list(self.fixed)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class Sample:
    """One call, with its inputs and what PyTorch makes of them."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    expected: Any

    def differs(self, found: Any) -> str:
        """How a result differs from PyTorch's; empty where it doesn't."""
        wanted, others = tree_flatten(self.expected)[0], tree_flatten(found)[0]
        if len(wanted) != len(others):
            return f"{len(others)} results instead of {len(wanted)}"
        for a, b in zip(wanted, others, strict=True):
            if not isinstance(a, Tensor):
                if a != b:
                    return f"{b} instead of {a}"
                continue
            # Small results are compared by their digits alone.
            small = a.numel() == 0 or not a.is_floating_point() or bool(a.abs().max() < 1e-3)
            try:
                torch.testing.assert_close(b, a, rtol=1e-5, atol=0 if small else 1e-5, equal_nan=True)
            except AssertionError as error:
                return str(error)
        return ""


@functools.cache
def operators() -> dict[str, Any]:
    """Every operator of PyTorch's database that takes float32, by name, but those that aren't tried."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {
        f"{info.name}.{info.variant_test_name}".rstrip("."): info
        for info in op_db
        if torch.float32 in info.dtypes and info.name not in _RANDOM.split() and not info.name.startswith(_OTHER)
    }


def samples(name: str, most: int | None = None) -> Iterator[Sample]:
    """The samples of an operator, or the first few.

    Those that PyTorch itself fails on are left out, and those it gives other results for each time.
    """
    info = operators()[name]
    for sample in islice(info.sample_inputs("cpu", torch.float32, requires_grad=False), most):
        leaves, spec = tree_flatten(((sample.input, *sample.args), sample.kwargs))
        inputs = tuple(leaf.clone() for leaf in leaves if isinstance(leaf, Tensor))
        module = Call(info.op, leaves, spec).eval()
        try:
            expected, again = (module(*(each.clone() for each in inputs)) for _ in range(2))
        except Exception:
            continue
        found = Sample(module, inputs, expected)
        if not found.differs(again):
            yield found
