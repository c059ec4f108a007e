"""Which tiles of an image a layer computed: the definition's own account."""

from __future__ import annotations

import numpy as np

from haste_compiler.methods.flat.ops.conv2d import FlatConvCall
from haste_compiler.methods.flat.reference.tiles import Tiling, tile_holders
from haste_compiler.methods.observed import Observed
from haste_compiler.methods.work_map import WorkMap


def reference_work_map(observed: Observed) -> WorkMap | None:
    """1 for every tile that was computed, 0 for every copy; arguments as of ``Method.reference_work_map``."""
    if observed.node.target is not FlatConvCall.OP:
        return None
    call = FlatConvCall.of(observed.node)
    tiling = Tiling(call.geometry)
    labels, added = (
        None if node is None else observed.values[node][observed.image].cpu()
        for node in (call.labels, call.residual_labels)
    )
    assert labels is not None
    holders = tile_holders(tiling, labels, added)
    alone = np.arange(len(tiling.corners), dtype=np.int32)
    source = alone if holders is None else np.array(holders, np.int32)
    share = (source == alone).astype(np.float32).reshape(tiling.grid)
    return WorkMap(share, "tiles", "reference", source.reshape(tiling.grid), tiling.size, call.geometry.output_size)
