"""Settings for the whole test run, and the fixtures that every part of it may ask for."""

import os

# Test processes share the machine (pytest-xdist); set before torch and TVM start their thread pools.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache on disk of the module's own, for modules that use this fixture by a mark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Give every test the same random numbers, one thread, and no gradients."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
