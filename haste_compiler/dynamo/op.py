"""``haste::region``: a call of a compiled region, as an operator that every tracer of PyTorch understands."""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.dynamo.region import Region
from haste_compiler.errors import HasteError
from haste_compiler.forking import Lock

_regions: weakref.WeakValueDictionary[str, Region] = weakref.WeakValueDictionary()
_lock = Lock(brief=True)

_library = torch.library.Library("haste", "FRAGMENT")
# A recorded graph of a card would write to memory that TVM has given to others since.
_library.define(
    "region(Tensor[] tensors, Tensor[] weights, SymInt[] sizes, str handle) -> Tensor[]",
    tags=(torch.Tag.cudagraph_unsafe,),
)


def register(region: Region) -> str:
    """A name for a region that ``haste::region`` knows it by, as long as the region lives.

    It begins with what the region computes, so that whatever Inductor keeps on disk about a graph that calls it is
    still true in another process.
    """
    digest = hashlib.sha256(_text(region.gm).encode()).hexdigest()[:16]
    with _lock.lock:
        handle = next(name for i in itertools.count() if (name := f"{digest}-{i}") not in _regions)
        _regions[handle] = region
    return handle


def _text(gm: fx.GraphModule) -> str:
    shapes = [str(getattr(node.meta.get("val"), "shape", None)) for node in gm.graph.nodes]
    return f"{gm.graph}{shapes}"


def _find(handle: str) -> Region:
    region = _regions.get(handle)
    if region is None:
        raise HasteError(f"haste::region: there is no region {handle!r} any more: the compiled graph has been dropped")
    return region


def _run(tensors: list[Tensor], weights: list[Tensor], sizes: list[int], handle: str) -> list[Tensor]:
    return _find(handle)(tensors, weights, sizes)


def _shapes(tensors: list[Tensor], weights: list[Tensor], sizes: Sequence[Any], handle: str) -> list[Tensor]:
    return _find(handle).fake(tensors, weights, sizes)


def _without_gradient(tensors: list[Tensor], weights: list[Tensor], sizes: list[int], handle: str) -> list[Tensor]:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, *weights)):
        raise HasteError("haste::region has no gradient: call it under torch.no_grad() or torch.inference_mode()")
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.haste.region.default(tensors, weights, sizes, handle)


for _device in ("CPU", "CUDA"):
    _library.impl("region", _run, _device)
_library.impl("region", _without_gradient, "Autograd")
torch.library.register_fake("haste::region", _shapes, lib=_library)
