"""Settings for the whole test run, and the fixtures that every part of it may ask for."""

import gc
import os

# Test processes share the machine (pytest-xdist); set before torch and TVM start their thread pools.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

from haste_compiler.lazy import quick_imports

with quick_imports():
    from collections.abc import Iterator

    import pytest
    import torch
    from hypothesis import settings

    from haste_compiler.cache.entries import write_json
    from haste_compiler.codegen.cpu.machine import Cpu
    from haste_compiler.codegen.target import parse_target
    from haste_compiler.cost.calibration import costs_file, default_model

# What was imported stays: the collector needn't look through it again and again.
gc.freeze()

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache on disk for this run, which its processes share.

    The cost model's coefficients in it are the package's: measuring this machine takes seconds, and what it found
    would decide what the tests compile.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTE_CACHE", str(folder / "cache"))
        for threads in (1, 2):
            machine = Cpu(parse_target("llvm"), threads)
            write_json(costs_file(machine), default_model(machine.unit, threads).seconds)
        yield


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test the same random numbers, one thread, no gradients, and no terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
