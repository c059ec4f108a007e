"""The pytest plugin, as other projects' tests use it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest_plugins = "pytester"

PLUGIN = ("-p", "haste_compiler.testing.plugin", "-p", "no:cacheprovider")

TESTS = """
import pytest
import torch
import haste_compiler
from haste_compiler.demo import load_network

@pytest.fixture(scope="module")
def networks():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = load_network().eval(), torch.randn(2, 1, 32, 32)
    return model, haste_compiler.compile(model, (x,), config=haste_compiler.HasteConfig(cost_model=False)), x

def test_project(assert_equivalent, networks):
    assert_equivalent(*networks)

def test_own_limit(assert_equivalent, networks):
    assert_equivalent(*networks, max_rel_error=0.9)

def test_another_compiler(assert_equivalent, networks):
    model, _, x = networks
    assert_equivalent(model, lambda x: model(x), x)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    # The plugin is asked for by name, so that it makes no difference whether it is installed.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(TESTS)
    return pytester


def write(project: pytest.Pytester, table: str) -> None:
    project.makepyprojecttoml(f"[tool.haste]\n{table}\n[tool.pytest.ini_options]\n")


def test_limits_of_the_project(project: pytest.Pytester) -> None:
    write(project, "max-rel-error = 1e-6\nmin_mac_reduction = -10")
    result = project.runpytest_inprocess(*PLUGIN)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["E *EquivalenceError: the compiled DigitsResNet differs from the model: max_rel_error is *"]
    )
    result.stdout.fnmatch_lines(["E *all 10 layers compute what their settings say; *"])
    result.stdout.no_fnmatch_line("*torch.__trace*")
    result.stdout.no_fnmatch_line("*site-packages*")


def test_the_command_line_wins(project: pytest.Pytester) -> None:
    write(project, "max-rel-error = 1e-6")
    result = project.runpytest_inprocess(*PLUGIN, "--haste-max-rel-error=0.5")
    result.assert_outcomes(passed=3)


def test_an_unknown_limit(project: pytest.Pytester) -> None:
    write(project, "max_error = 0.1")
    result = project.runpytest_inprocess(*PLUGIN)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        ["*pyproject.toml: [[]tool.haste[]] has no limit 'max_error'; did you mean max_rel_error?*"]
    )


def test_it_is_light(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\ndef test():\n    assert not {'torch', 'tvm', 'numpy', 'rich'} & set(sys.modules)\n"
    )
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "pytest", "-q", *PLUGIN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_found_by_its_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"haste": "haste_compiler.testing.plugin"}
