"""What `import haste_compiler` gives, and what it doesn't wait for."""

import subprocess
import sys

import pytest

import haste_compiler
import haste_compiler.haste as haste
import haste_compiler.runtime as runtime
import haste_compiler.search.allocate


@pytest.mark.parametrize("package", [haste_compiler, haste, runtime], ids=lambda package: package.__name__)
def test_every_name_is_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'compiel'"):
        package.compiel  # type: ignore[attr-defined]  # noqa: B018


def test_search_is_the_function_though_a_package_is_called_so_too() -> None:
    assert callable(haste_compiler.search) and "haste_compiler.search.allocate" in sys.modules
    assert {"search", "compile", "load"} <= set(dir(haste_compiler))


def test_importing_it_imports_neither_pytorch_nor_tvm() -> None:
    code = "import haste_compiler, haste_compiler.cli, sys; print({'torch', 'tvm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
