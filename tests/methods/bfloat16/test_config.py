"""What ``BFloat16Config`` takes and refuses."""

import pytest

from haste_compiler import BFloat16Config
from haste_compiler.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_error": -1}, "max_error must be finite and at least 0"),
        ({"winograd": 3}, "winograd must be one of 0, 2, 4, not 3"),
        ({"enabled": 1}, "enabled must be True or False"),
        ({"bits": 16}, "unknown field 'bits'"),
        ({"layers": {"conv": {"max_eror": 0.1}}}, "did you mean 'max_error'?"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BFloat16Config.from_dict(fields)
    assert words in str(caught.value)


def test_the_plain_form_is_read_back_with_its_overrides() -> None:
    config = BFloat16Config(max_error=None, winograd=2, layers={"layer1.*": {"enabled": False}, "fc": {"winograd": 0}})
    assert BFloat16Config.from_dict(config.to_dict()) == config
    assert not config.for_layer("layer1.0.conv1").enabled and config.for_layer("fc").winograd == 0
