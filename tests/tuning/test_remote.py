"""Tuning on the servers of a tracker, some of which die."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from tvm.rpc.client import RPCSession

import haste_compiler
from haste_compiler import HasteConfig, InputError, Tuning, TuningError
from tests.codegen.cross import AARCH64, COMPILER, is_missing
from tests.tuning.servers import HOST, KEY, Farm, farm

DENSE = HasteConfig(enabled=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def one() -> Iterator[Farm]:
    """A farm of one server, which nobody kills."""
    with farm(1) as made:
        yield made


def network(layers: int) -> nn.Module:
    """Every layer has a shape of its own; there are few ways to compute it, which are soon compiled."""
    return nn.Sequential(*(nn.Conv2d(4 + i, 5 + i, 1) for i in range(layers))).eval()


X = torch.zeros(1, 4, 1, 3)


def tune(tracker: str, layers: int = 4, **options: Any) -> Tuning:
    options = {"threads": 1, "config": DENSE, "key": KEY, **options}
    return haste_compiler.tune(network(layers), (X,), tracker=tracker, **options)


def test_measured_there_used_here(one: Farm) -> None:
    tuning = tune(one.tracker, layers=2)
    assert len(tuning.layers) == 2 and not tuning.skipped
    assert all(0 < each.seconds <= each.modelled_seconds for each in tuning.layers.values())
    model, x = network(2), torch.randn(1, 4, 1, 3)
    compiled = haste_compiler.compile(model, (x,), threads=1, config=DENSE, tune=tuning)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_what_is_known_is_not_measured_again(one: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tune(one.tracker, layers=1)

    def again(*arguments: Any) -> None:
        raise AssertionError("measured a second time")

    monkeypatch.setattr(RPCSession, "load_module", again)
    assert tune(one.tracker, layers=1).to_dict() == first.to_dict()


def test_servers_die_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    load, dying = RPCSession.load_module, 1

    def load_and_die(self: RPCSession, path: str) -> Any:
        nonlocal dying
        module = load(self, path)
        if dying:
            dying -= 1
            made.kill_busy()
        return module

    monkeypatch.setattr(RPCSession, "load_module", load_and_die)
    with farm(2) as made:
        tuning = tune(made.tracker)
        assert made.known() == [f"server:{KEY}"]
        assert len(tuning.layers) == 4 and not tuning.skipped
        dying = 1
        with pytest.raises(TuningError, match=r"tracker at 127.0.0.1:\d+ has no server of key 'board' left"):
            tune(made.tracker, layers=6)
    # What was measured before is kept.
    assert len(haste_compiler.tune(network(6), X, threads=1, config=DENSE, seconds=1e-9).layers) == 4


def test_what_is_refused(one: Farm) -> None:
    with pytest.raises(TuningError, match=r"has no server of key 'other'$"):
        tune(one.tracker, key="other")
    with pytest.raises(TuningError, match=r"uses 1 threads where 2 were asked for: start it with TVM_NUM_THREADS=2"):
        tune(one.tracker, threads=2)
    with pytest.raises(TuningError, match="tracker is 'here': allowed is its address, host:port"):
        tune("here")
    with pytest.raises(InputError, match="tracker and key belong together"):
        tune(one.tracker, key=None)
    with socket.create_server((HOST, 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(TuningError, match=rf"no RPC tracker answers at {HOST}:{port}: "):
        tune(f"{HOST}:{port}")


@pytest.mark.skipif(is_missing(COMPILER), reason=f"{COMPILER} not found")
def test_servers_of_another_kind(one: Farm) -> None:
    with pytest.raises(TuningError, match=r"3 servers of key 'board' at .* failed at the same kernels: .+"):
        tune(one.tracker, layers=1, target=AARCH64)
    assert one.known() == [f"server:{KEY}"]
