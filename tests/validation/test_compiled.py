"""The validator on networks that the compiler compiled."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler.errors import ValidationError
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.validation import ThresholdError, validate
from tests.methods.haste.networks import redundant_images
from tests.validation.standin import MERGED, SmallNet, StandIn

# Dense planes: where the images are black, those of two pixels compare what is equal but for the rounding of whoever
# computed it, and PyTorch rounds otherwise.
CONFIG = HasteConfig(min_reads=0, cost_model=False, num_hyperplanes=4, nonzeros=None, patch_size=4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.cat([torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 3, 16, 16)])


@pytest.fixture(scope="module")
def merging(model: nn.Module, images: Tensor) -> CompiledModule:
    torch.set_num_threads(1)
    return haste_compiler.compile(model, (images,), config=CONFIG)


@pytest.fixture
def restored(merging: CompiledModule) -> Iterator[CompiledModule]:
    yield merging
    merging.tolerance = CONFIG.tolerance


def test_report_is_that_of_the_eager_operator(model: nn.Module, images: Tensor, merging: CompiledModule) -> None:
    report = validate(model, merging, images, rounds=2, threads=1)
    eager = validate(model, StandIn(model, CONFIG), images, time=False)
    assert [layer.name for layer in report.layers if layer.kind == "haste"] == MERGED
    for mine, theirs in zip(report.layers, eager.layers, strict=True):
        assert (mine.name, mine.kind, mine.macs, mine.channels) == (
            theirs.name,
            theirs.kind,
            theirs.macs,
            theirs.channels,
        )
        if theirs.error_bound is not None:
            assert mine.error_bound == pytest.approx(theirs.error_bound, rel=1e-3)
    assert report.max_rel_error == pytest.approx(eager.max_rel_error, rel=1e-2)
    assert 0 < report.max_rel_error < 0.5
    assert report.times is not None and report.times.dense_rel_error < 1e-5
    for layer in report.layers:
        assert layer.seconds is not None and layer.seconds > 0
        assert layer.dense_seconds is not None and layer.dense_seconds > 0


def test_energy_knows_which_layers_are_integers() -> None:
    class Attending(nn.Module):
        """A convolution, a linear layer and attention over the pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).flatten(2).mT.unsqueeze(1)
            return self.head(nn.functional.scaled_dot_product_attention(y, y, y).mean((1, 2)))

    model, x, names = Attending().eval(), torch.randn(1, 3, 12, 12), ("stem", "matmul", "head")
    config = QuantizedConfig(cost_model=False, max_error=None)
    compiled = haste_compiler.compile(model, (x,), precision="int8", config=config, threads=1)
    report = validate(model, compiled, x, time=False)
    assert {layer.name: layer.arithmetic for layer in report.layers} == dict.fromkeys(names, "int8")
    assert report.energy.float32 / report.energy.compiled == pytest.approx((1.31 + 0.38) / (0.07 + 0.007))
    assert "conv int8" in str(report) and "energy of products" in str(report)


def test_the_bound_of_a_single_layer_holds() -> None:
    conv = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1)).eval()
    x = redundant_images(3, 24, 13, 11)
    config = HasteConfig(min_reads=0, cost_model=False, num_hyperplanes=3, tolerance=0.8, patch_size=5)
    compiled = haste_compiler.compile(conv, (x,), config=config)
    bound = validate(conv, compiled, x, time=False).layers[0].error_bound
    worst = float((compiled(x) - conv(x)).flatten(1).norm(dim=1).max())
    assert bound is not None and 1e-3 < worst <= bound


def test_steering_shows_in_the_next_report(model: nn.Module, images: Tensor, restored: CompiledModule) -> None:
    before = validate(model, restored, images, time=False)
    restored.tolerance = 0.0
    after = validate(model, restored, images, time=False)
    assert after.macs.dense == before.macs.dense
    merged = [sum(layer.channels.merged for layer in r.layers if layer.channels) for r in (before, after)]
    assert merged[0] > merged[1]
    assert after.max_rel_error < before.max_rel_error


def test_thresholds_on_a_compiled_network(model: nn.Module, images: Tensor, merging: CompiledModule) -> None:
    validate(model, merging, images, time=False, max_rel_error=0.5, min_agreement=0.3, min_mac_reduction=-1)
    with pytest.raises(ThresholdError, match=r"max_rel_error is .*; mac_reduction is "):
        validate(model, merging, images, time=False, max_rel_error=0, min_mac_reduction=0.999)


def test_batches_of_several_sizes(model: nn.Module, images: Tensor, merging: CompiledModule) -> None:
    report = validate(model, merging, [images, images[:1], images[:0]], time=False)
    assert (report.batches, report.images) == (3, 4)
    whole = validate(model, merging, images, time=False)
    assert 3 * report.macs.dense == 4 * whole.macs.dense


def test_the_wrong_model(images: Tensor, merging: CompiledModule) -> None:
    torch.manual_seed(5)
    assert validate(SmallNet(), merging, images, time=False).max_rel_error > 0.5
    narrower = SmallNet()
    narrower.block[1] = nn.Conv2d(16, 16, 1)
    with pytest.raises(ValidationError, match=r"block\.1: the compiled network counts"):
        validate(narrower, merging, images, time=False)


class Siblings(nn.Module):
    """Two convolutions that read the same windows, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 8, 3), nn.Conv2d(16, 24, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.left(x).mean(dim=(2, 3)), {"right": self.right(x).relu()}


def test_convolutions_that_share_a_grouping() -> None:
    model, x = Siblings().eval(), redundant_images(2, 16, 12, 12)
    report = validate(model, haste_compiler.compile(model, (x,), config=HasteConfig.exact()), x, rounds=1, threads=1)
    assert [output.name for output in report.outputs] == ["output[0]", "output[1]['right']"]
    assert report.max_rel_error < 1e-3
    left, right = report.layers
    assert left.kind == right.kind == "haste" and left.channels == right.channels
    # The work that they share is counted once.
    assert left.macs.hashing > 0 and right.macs.hashing == 0
    assert report.macs.spent == left.macs.spent + right.macs.spent


def test_nan_and_infinity_propagate_as_in_the_model(model: nn.Module, images: Tensor, merging: CompiledModule) -> None:
    broken = images.clone()
    broken[0, 0, 3, 3], broken[1, 1, 5, 5] = torch.nan, torch.inf
    report = validate(model, merging, broken, time=False)
    assert report.max_rel_error < 0.5 and report.agreement is not None
    assert any("NaN or infinite" in warning for warning in report.warnings)
