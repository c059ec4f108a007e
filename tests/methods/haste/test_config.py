"""HasteConfig: what it accepts, and one clear sentence for what it does not."""

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haste_compiler.errors import ConfigError, HasteError
from haste_compiler.methods.haste.config import HasteConfig


def test_defaults_and_presets() -> None:
    config = HasteConfig()
    assert (config.num_hyperplanes, config.patch_size, config.merge, config.tolerance) == (16, None, "projection", 0.4)
    assert (config.skip, config.flat_tolerance, config.seed, config.min_channels) == ("flat", 0.15, 0, 8)
    paper = HasteConfig.paper()
    assert (paper.num_hyperplanes, paper.patch_for((32, 32)), paper.merge, paper.tolerance, paper.skip) == (
        14,
        (8, 8),
        "mean",
        None,
        "none",
    )
    exact = HasteConfig.exact()
    assert (exact.merge, exact.tolerance, exact.skip) == ("projection", 0.0, "zeros")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("enabled", 1, "True or False"),
        ("num_hyperplanes", 0, "between 1 and 30"),
        ("num_hyperplanes", 31, "between 1 and 30"),
        ("num_hyperplanes", 8.0, "integer"),
        ("num_hyperplanes", True, "integer"),
        ("patch_size", 0, "between 1 and 64"),
        ("patch_size", (8, 65), "between 1 and 64"),
        ("patch_size", (8,), "height, width"),
        ("patch_size", "8", "integer"),
        ("merge", "median", "'mean', 'projection'"),
        ("merge", None, "'mean', 'projection'"),
        ("tolerance", -0.1, "at least 0"),
        ("tolerance", float("nan"), "finite"),
        ("tolerance", float("inf"), "None turns it off"),
        ("tolerance", "0.4", "number"),
        ("skip", "all", "'none', 'zeros', 'flat'"),
        ("flat_tolerance", None, "number"),
        ("flat_tolerance", -1, "at least 0"),
        ("seed", -1, "between 0"),
        ("seed", 2**31, "between 0"),
        ("min_channels", 0, "between 1"),
        ("layers", ["a"], "layers"),
        ("layers", {"a": 3}, "layers"),
        ("layers", {3: {}}, "layers"),
        ("winograd", 3, "winograd must be one of 0, 2, 4, not 3"),
        ("winograd", 6, "winograd"),
        ("layers", {"a": {"tolerence": 1}}, "did you mean 'tolerance'"),
        ("layers", {"a": {"layers": {}}}, "layers"),
        ("layers", {"a": {"tolerance": -1}}, r"layers\['a'\]: tolerance"),
    ],
)
def test_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        HasteConfig(**{field: value})
    assert isinstance(caught.value, (HasteError, ValueError))
    with pytest.raises(ConfigError, match=words):
        HasteConfig().replace(**{field: value})
    with pytest.raises(ConfigError, match=words):
        HasteConfig.from_dict({field: value})


def test_overrides_apply_in_order() -> None:
    config = HasteConfig(
        tolerance=0.1,
        layers={"layer1.*": {"tolerance": 0.2, "patch_size": [4, 6]}, "layer1.0.conv1": {"tolerance": None}},
    )
    assert config.for_layer("stem").tolerance == 0.1
    assert config.for_layer("layer1.1").tolerance == 0.2
    first = config.for_layer("layer1.0.conv1")
    assert (first.tolerance, first.patch_for((9, 9)), first.layers) == (None, (4, 6), {})
    swapped = HasteConfig(layers=dict(reversed(list(config.layers.items()))))
    assert swapped.for_layer("layer1.0.conv1").tolerance == 0.2
    assert swapped != config.replace(tolerance=0.4)


def test_names_with_brackets_match_themselves() -> None:
    config = HasteConfig(layers={"blocks[0]": {"enabled": False}})
    config.check_layers(["blocks[0]"])
    assert not config.for_layer("blocks[0]").enabled


def test_patterns_must_match_a_layer() -> None:
    names = ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1"]
    HasteConfig(layers={"layer?.0.conv1": {}, "layer2.0.conv1": {}}).check_layers(names)
    with pytest.raises(ConfigError, match=r"'layer1.0.conv3' matches none of the 3 .*'layer1.0.conv2'"):
        HasteConfig(layers={"layer1.0.conv3": {}}).check_layers(names)
    with pytest.raises(ConfigError, match=r"'zzz' matches none of the 0 eligible layers$"):
        HasteConfig(layers={"zzz": {}}).check_layers([])


@pytest.mark.parametrize(
    "config",
    [
        HasteConfig(),
        HasteConfig.paper(),
        HasteConfig(
            patch_size=(4, 8), layers={"a.*": {"tolerance": None, "patch_size": (2, 3)}, "a.b": {"merge": "mean"}}
        ),
    ],
)
def test_round_trips(config: HasteConfig) -> None:
    assert HasteConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for copied in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), config.replace()):
        assert copied == config
        assert hash(copied) == hash(config)
    assert config != config.replace(seed=7)
    assert config != "config"


def test_numbers_take_their_plain_form() -> None:
    config = HasteConfig(num_hyperplanes=np.int64(7), tolerance=np.float32(0.5), patch_size=[np.int32(4), 4])  # type: ignore[arg-type]
    assert json.loads(json.dumps(config.to_dict()))["patch_size"] == [4, 4]
    assert type(config.num_hyperplanes) is int
    assert type(config.tolerance) is float
    assert HasteConfig(tolerance=1) == HasteConfig(tolerance=1.0)


def test_configurations_do_not_share_overrides_with_their_caller() -> None:
    override = {"tolerance": 0.1}
    layers = {"a": override}
    config = HasteConfig(layers=layers)
    layers["b"], override["tolerance"] = {}, 0.9
    assert config.layers == {"a": {"tolerance": 0.1}}


@pytest.mark.parametrize("made", [lambda c: c, lambda c: c.replace(seed=1), copy.deepcopy, copy.copy])
def test_overrides_cannot_be_changed(made: Any) -> None:
    config = made(HasteConfig(layers={"a": {"tolerance": 0.1}}))
    before = hash(config)
    with pytest.raises(TypeError):
        config.layers["b"] = {}
    with pytest.raises(TypeError):
        config.layers["a"]["tolerance"] = 0.9
    # What is handed out as a dictionary is a copy.
    config.to_dict()["layers"]["a"]["tolerance"] = 0.9
    assert config.layers == {"a": {"tolerance": 0.1}} and hash(config) == before


def test_unknown_fields() -> None:
    with pytest.raises(ConfigError, match="did you mean 'patch_size'"):
        HasteConfig.from_dict({"patchsize": 4})
    with pytest.raises(ConfigError, match="the fields are enabled"):
        HasteConfig().replace(xyzzy=1)
    with pytest.raises(ConfigError, match="list"):
        HasteConfig.from_dict([])  # type: ignore[arg-type]


def test_patches_share_the_plane_evenly_by_default() -> None:
    """Without a patch size, 28 rows are cut into four patches of 7, not three of 8 and one of 4."""
    sizes = [HasteConfig().patch_for((side, side))[0] for side in (1, 4, 7, 10, 14, 16, 28, 56, 112)]
    assert sizes == [1, 4, 7, 10, 7, 8, 7, 8, 8]
    assert HasteConfig(patch_size=(3, 5)).patch_for((28, 28)) == (3, 5)


SOME = HasteConfig(
    patch_size=(4, 8), layers={"a.*": {"tolerance": None, "patch_size": (2, 3)}, "b": {"enabled": False}}
)


@pytest.mark.parametrize("name", ["x.json", "x.yaml", "x.yml"])
def test_files_hold_every_field(tmp_path: Path, name: str) -> None:
    if not name.endswith("json"):
        pytest.importorskip("yaml")
    SOME.save(tmp_path / name)
    assert HasteConfig.load(str(tmp_path / name)) == SOME


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.toml", "", "ends in .json, .yaml or .yml, not '.toml'"),
        ("x", "", "not ''"),
        ("x.json", "{", "x.json can't be parsed"),
        ("x.json", "[1]", "x.json: a configuration is a mapping"),
        ("x.json", '{"tolerence": 1}', "x.json: .*did you mean 'tolerance'"),
        ("x.json", '{"tolerance": -1}', "x.json: tolerance must be"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        HasteConfig.load(tmp_path / name)


def test_broken_yaml_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "x.yaml").write_text("tolerance: [")
    with pytest.raises(ConfigError, match=r"x\.yaml can't be parsed"):
        HasteConfig.load(tmp_path / "x.yaml")


def test_yaml_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="PyYAML"):
        SOME.save(tmp_path / "x.yaml")
    assert not list(tmp_path.iterdir())
