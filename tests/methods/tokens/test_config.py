import pytest

from haste_compiler import ConfigError, TokenConfig
from haste_compiler.methods.tokens.schedule import merged_at_once, merged_in
from tests.cli.test_options import config_of


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "walking"}, "mode must be one of 'running', 'local', not 'walking'"),
        ({"schedule": "rising"}, "schedule must be one of"),
        ({"keep": 0}, "keep must be more than 0 and at most 1, not 0.0"),
        ({"keep": 1.5}, "keep must be more than 0 and at most 1, not 1.5"),
        ({"keep": 0.5, "r": 8}, "keep is 0.5 and r is 8: allowed is one of the two"),
        ({"r": -1}, "r must be between 0"),
        ({"r": 1.5}, "r must be an integer"),
        ({"start": -1}, "start must be between 0"),
        ({"layers": {"a": {"mode": "local"}}}, "mode is the whole network's"),
        ({"layers": {"a": {"keeep": 1}}}, "did you mean 'keep'"),
    ],
)
def test_values_that_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenConfig(**fields)  # type: ignore[arg-type]


def test_an_override_of_one_amount_takes_the_others_place() -> None:
    config = TokenConfig(keep=0.7, layers={"a*": {"r": 3}, "ab": {"keep": 0.2}})
    assert (config.for_layer("b").keep, config.for_layer("b").r) == (0.7, None)
    assert (config.for_layer("aa").keep, config.for_layer("aa").r) == (None, 3)
    assert (config.for_layer("ab").keep, config.for_layer("ab").r) == (0.2, None)


def test_there_and_back() -> None:
    config = TokenConfig(r=8, schedule="falling", layers={"a": {"enabled": False}})
    assert TokenConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(("keep", "layers"), [(0.5, 12), (0.25, 7), (1.0, 3), (0.9, 24)])
def test_a_share_adds_up(keep: float, layers: int) -> None:
    config = TokenConfig(keep=keep)
    merged = [merged_in(config, 197, 1, layers, layer) for layer in range(layers)]
    assert sum(merged) == round((1 - keep) * 196) and max(merged) - min(merged) <= 1


def test_schedules() -> None:
    constant, falling = TokenConfig(r=8), TokenConfig(r=8, schedule="falling")
    assert [merged_in(constant, 197, 1, 12, layer) for layer in range(12)] == [8] * 12
    found = [merged_in(falling, 197, 1, 12, layer) for layer in range(12)]
    assert found == [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0]
    assert merged_in(falling, 197, 1, 1, 0) == 8


def test_at_once_at_most_half() -> None:
    assert merged_at_once(TokenConfig(keep=0.1), 197, 1) == 98
    assert merged_at_once(TokenConfig(r=5), 197, 1) == 5
    assert merged_at_once(TokenConfig(), 64, 0) == 32


def test_the_command_lines_options() -> None:
    assert config_of("--r", "13", "--mode", "local") == TokenConfig(r=13, mode="local")
    assert config_of("--preset", "tome") == TokenConfig(r=13)
