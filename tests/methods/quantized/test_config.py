"""What ``QuantizedConfig`` takes and refuses."""

import pytest

from haste_compiler import QuantizedConfig
from haste_compiler.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_error": -1}, "max_error must be finite and at least 0"),
        ({"max_error": "small"}, "max_error must be a number"),
        ({"max_output_error": -0.1}, "max_output_error must be finite and at least 0"),
        ({"max_output_error": 0.1, "cost_model": False}, "allowed is one of the two"),
        ({"max_output_error": 0.1, "layers": {"fc": {"cost_model": False}}}, "allowed is one of the two"),
        ({"layers": {"fc": {"max_output_error": 0.1}}}, "max_output_error is the whole network's"),
        ({"winograd": 3}, "winograd must be one of 0, 2, 4, not 3"),
        ({"winograd": 6}, "winograd must be between 0 and 4"),
        ({"enabled": 1}, "enabled must be True or False"),
        ({"bits": 4}, "bits must be between 7 and 8"),
        ({"bit": 8}, "did you mean 'bits'?"),
        ({"layers": {"conv": {"max_eror": 0.1}}}, "did you mean 'max_error'?"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuantizedConfig.from_dict(fields)
    assert words in str(caught.value)


def test_the_plain_form_is_read_back_with_its_overrides() -> None:
    config = QuantizedConfig(max_error=None, winograd=2, layers={"layer1.*": {"enabled": False}, "fc": {"winograd": 0}})
    assert QuantizedConfig.from_dict(config.to_dict()) == config
    assert not config.for_layer("layer1.0.conv1").enabled and config.for_layer("layer2").enabled
    assert config.for_layer("fc").winograd == 0 and config.for_layer("fc").max_error is None
