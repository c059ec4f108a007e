"""Random networks through ``compile``, as a user would: outputs against eager PyTorch, layers against the operators."""

import random

import pytest
import torch

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.testing.layers import check_layers
from tests.methods.haste.networks import redundant_images
from tests.passes.checking import assert_same, settled
from tests.random_networks import RandomNetwork

#: How a network may be compiled, and how far its outputs may then be from the model's; None: as far as merging goes.
CONFIGS: dict[str, tuple[HasteConfig, float | None]] = {
    "dense": (HasteConfig(enabled=False), 1e-4),
    "default": (HasteConfig(), None),
    "everywhere": (HasteConfig(min_reads=0, cost_model=False), None),
    "exact": (HasteConfig.exact(), 1e-3),
    "paper": (HasteConfig.paper(), None),
}


def check(seed: int, *names: str) -> None:
    """Compile the network of a seed in some ways."""
    choose = random.Random(seed)
    size, batch, threads = choose.randint(8, 20), choose.randint(1, 5), choose.choice((1, 2))
    torch.manual_seed(seed)
    model = settled(RandomNetwork(seed, choose.randint(3, 9), size=size))
    x = redundant_images(batch, 3, size, size + choose.choice((0, 1)), seed)
    expected = model(x)
    for name in names:
        config, limit = CONFIGS[name]
        compiled = haste_compiler.compile(model, (x,), config=config, threads=threads)
        found = compiled(x.contiguous(memory_format=torch.channels_last) if choose.random() < 0.3 else x)
        try:
            if limit is not None:
                assert_same(found, expected, limit)
            assert not [str(layer) for layer in check_layers(model, compiled, (x,)) if layer.wrong]
        except AssertionError as error:
            error.add_note(f"{name}, images {tuple(x.shape)}, {threads} threads, {model}")
            raise


@pytest.mark.parametrize("seed", range(4))
def test_compiled(seed: int) -> None:
    check(seed, "dense", ("default", "everywhere", "exact", "paper")[seed])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 104))
def test_compiled_more(seed: int) -> None:
    check(seed, *CONFIGS)
