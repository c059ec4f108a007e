"""On which targets ``precision="bf16"`` is, what it means there, and how it is refused elsewhere."""

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import BFloat16Config, HasteConfig, QuantizedConfig
from haste_compiler.codegen.target import parse_target
from haste_compiler.dynamo.backend import haste
from haste_compiler.errors import ConfigError
from haste_compiler.methods.bfloat16.cpu.unit import EXAMPLES, bfloat16_unit
from tests.methods.bfloat16.test_rewrite import EVERYTHING
from tests.methods.quantized.test_rewrite import Mixed

WITHOUT, WITH = "llvm -mcpu=haswell", "llvm -mcpu=znver4"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Mixed().eval()


def test_precision_means_the_default_configuration(model: nn.Module) -> None:
    assert haste_compiler.compile(model, target=WITH, precision="bf16").configs.given == BFloat16Config()
    both = haste_compiler.compile(model, target=WITH, config=HasteConfig(), precision="bf16").configs.given
    assert both == (HasteConfig(), BFloat16Config())
    own = haste_compiler.compile(model, target=WITH, config=EVERYTHING, precision="bf16").configs.given
    assert own == EVERYTHING


def test_a_card_keeps_a_precision_of_its_own(model: nn.Module) -> None:
    made = haste_compiler.compile(model, target="cuda -arch=sm_80", precision="bf16")
    assert made.configs.given == HasteConfig()


@pytest.mark.parametrize("how", [{"precision": "bf16"}, {"config": BFloat16Config()}])
def test_a_cpu_that_lacks_the_instruction_is_refused_and_told_of_some_that_have_it(
    model: nn.Module, how: dict[str, object]
) -> None:
    with pytest.raises(ConfigError) as caught:
        haste_compiler.compile(model, target=WITHOUT, **how)  # type: ignore[arg-type]
    assert "haswell" in str(caught.value) and EXAMPLES in str(caught.value)


@pytest.mark.parametrize("config", [BFloat16Config(), QuantizedConfig()])
def test_a_configuration_that_a_target_has_no_kernels_for_is_refused(model: nn.Module, config: object) -> None:
    with pytest.raises(ConfigError, match=f"config is {type(config).__name__}: sm_80 has no kernels for it"):
        haste_compiler.compile(model, target="cuda -arch=sm_80", config=config)  # type: ignore[arg-type]


def test_torch_compile_refuses_it_where_the_machine_lacks_it() -> None:
    if bfloat16_unit(parse_target("llvm")) is not None:
        pytest.skip("this machine multiplies bfloat16")
    with pytest.raises(ConfigError, match="precision is 'bf16'"):
        haste(torch.fx.symbolic_trace(nn.ReLU()), [torch.ones(2)], options={"precision": "bf16"})


@pytest.mark.parametrize("cpu", ["znver4", "znver5", "cooperlake", "sapphirerapids", "graniterapids"])
def test_which_x86_multiplies_bfloat16(cpu: str) -> None:
    found = bfloat16_unit(parse_target(f"llvm -mcpu={cpu}"))
    assert found is not None and found.lanes == 16


@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v4", "znver3", "icelake-server"])
def test_which_x86_does_not(cpu: str) -> None:
    assert bfloat16_unit(parse_target(f"llvm -mcpu={cpu}")) is None


def test_layers_are_taken_where_that_is_predicted_to_be_faster_and_exact_enough(model: nn.Module) -> None:
    """Code for another machine, which can't run here."""
    wide = nn.Sequential(nn.Conv2d(64, 256, 1), nn.ReLU(), nn.Conv2d(256, 64, 1)).eval()
    x = torch.randn(1, 64, 28, 28)
    chosen = haste_compiler.compile(wide, (x,), target=WITH, precision="bf16", threads=1)
    assert [layer.method for layer in chosen.layers] == ["bfloat16", "bfloat16"], str(chosen.explain())
    careful = haste_compiler.compile(wide, (x,), target=WITH, config=BFloat16Config(max_error=1e-6), threads=1)
    assert all("rounding would change its output by" in layer.reason for layer in careful.layers)
