"""Random small networks: every pass keeps the result."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.methods.haste.config import HasteConfig
from tests.passes.checking import check_passes, settled
from tests.random_networks import RandomNetwork


@settings(max_examples=14)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 9), merged=st.booleans())
def test_every_pass_keeps_the_result(seed: int, steps: int, merged: bool) -> None:
    torch.manual_seed(seed)
    model = settled(RandomNetwork(seed, steps, channels=4, size=7, width=8))
    config = HasteConfig.exact().replace(min_channels=2, patch_size=3) if merged else None
    check_passes(model, torch.randn(2, 4, 7, 8), config=config, tolerance=1e-4)
