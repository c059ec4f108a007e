"""On a real card: the same networks as under the emulator, inputs and outputs on the device, streams, torch.compile."""

from pathlib import Path
from typing import Any

import pytest
import torch

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.methods.haste.reference.swap import swap_convs
from tests.codegen.cuda.test_network import FORCED, images, network
from tests.dynamo.networks import DENSE, EXACT, Residual, made
from tests.dynamo.networks import compiled as compiled_by_torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card, and PyTorch finds none")


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("tf32", 3e-3), ("bf16", 3e-2)])
def test_dense_network(precision: str, error: float) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(
        model, (x,), target="cuda", config=HasteConfig(enabled=False), precision=precision
    )
    y = compiled(x.cuda())[0]
    assert y.device.type == "cuda"
    wanted = model(x)[0]
    assert (y.cpu() - wanted).norm() <= error * wanted.norm()
    assert torch.equal(compiled(x)[0], y.cpu())


def test_haste_network_against_the_oracle(tmp_path: Path) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=FORCED, precision="fp32")
    oracle = swap_convs(model, FORCED.replace(patch_size=64))(x)[0]
    torch.testing.assert_close(compiled(x)[0], oracle, rtol=1e-3, atol=1e-3)
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert torch.equal(loaded(x.cuda())[0].cpu(), compiled(x)[0])


def test_calls_follow_pytorchs_stream() -> None:
    model, x = network(), images().cuda()
    compiled = haste_compiler.compile(model.cuda(), (x,), target="cuda", config=HasteConfig(enabled=False))
    wanted = compiled(x + 1)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The input is still being made when the network is launched.
        late = x.clone()
        torch.cuda._sleep(10_000_000)
        late += 1
        y = compiled(late)[0]
    stream.synchronize()
    assert torch.equal(y, wanted)


def test_calls_on_two_streams_keep_their_memory_apart() -> None:
    model, x = network().cuda(), images().cuda()
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=FORCED)
    wanted = [compiled(x * scale)[0] for scale in range(1, 9)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    outputs = []
    for scale in range(1, 9):
        with torch.cuda.stream(streams[scale % 2]):
            torch.cuda._sleep(1_000_000)
            outputs.append(compiled(x * scale)[0])
    torch.cuda.synchronize()
    assert all(torch.equal(y, w) for y, w in zip(outputs, wanted, strict=True))


def test_statistics_and_profile_wait_for_the_card() -> None:
    x = images().cuda()
    compiled = haste_compiler.compile(network().cuda(), (x,), target="cuda", config=FORCED)
    counts = [compiled.stats(x)["block"].counts for _ in range(3)]
    assert (counts[0] == counts[1]).all() and (counts[0] == counts[2]).all() and counts[0][..., :5].sum() > 0
    assert min(compiled.profile(x).values()) > 0


@pytest.mark.parametrize("options", [DENSE, EXACT, None], ids=["dense", "exact", "default"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_torch_compile_backend(
    options: dict[str, Any] | None, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = made(Residual).cuda().to(memory_format=layout)
    run = compiled_by_torch(model, options)
    for batch in (2, 3, 4):
        x = torch.randn(batch, 3, 24, 24, device="cuda").to(memory_format=layout)
        wanted = model(x)
        y = run(x)
        assert y.device == x.device and y.shape == wanted.shape
        assert (y - wanted).norm() <= 1e-4 * wanted.norm()


def test_the_backend_within_recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = made(Residual).cuda()
    torch._dynamo.reset()
    run = torch.compile(lambda x: torch.fft.rfft(model(x)).abs(), backend="haste", mode="reduce-overhead")
    with torch.no_grad():
        for seed in range(4):
            x = torch.randn(2, 3, 24, 24, device="cuda", generator=torch.Generator("cuda").manual_seed(seed))
            wanted = torch.fft.rfft(model(x)).abs()
            assert (run(x) - wanted).norm() <= 1e-4 * wanted.norm()
