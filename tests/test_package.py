"""What `import haste_compiler` gives, and what it doesn't wait for."""

import dataclasses
import gc
import subprocess
import sys

import pytest

import haste_compiler
import haste_compiler.haste as haste
import haste_compiler.runtime as runtime
import haste_compiler.search.allocate
from haste_compiler.lazy import quick_imports
from haste_compiler.methods.explanation import Explanation


@pytest.mark.parametrize("package", [haste_compiler, haste, runtime], ids=lambda package: package.__name__)
def test_every_name_is_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'compiel'"):
        package.compiel  # type: ignore[attr-defined]  # noqa: B018


def test_search_is_the_function_though_a_package_is_called_so_too() -> None:
    assert callable(haste_compiler.search) and "haste_compiler.search.allocate" in sys.modules
    assert {"search", "compile", "load"} <= set(dir(haste_compiler))


def test_a_notebook_shows_what_print_shows() -> None:
    """Python shows what a cell returns by its repr, which of a dataclass is all its fields."""
    public = [Explanation, *(getattr(haste_compiler, name) for name in haste_compiler.__all__)]
    assert not [each for each in public if dataclasses.is_dataclass(each) and each.__str__ is not object.__str__]
    assert repr(Explanation(())) == str(Explanation(())) and "LayerChoice" not in repr(Explanation(()))


def test_importing_it_imports_neither_pytorch_nor_tvm() -> None:
    code = "import haste_compiler, haste_compiler.cli, sys; print({'torch', 'tvm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_quick_imports_leave_all_as_it_was() -> None:
    """What they switch off is on again, and what they hide from TVM can be imported."""
    code = (
        "import gc, haste_compiler; haste_compiler.compile; import tvm.runtime.disco; "
        "print(gc.isenabled(), tvm.runtime.disco.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True tvm.runtime.disco", done.stderr
    with pytest.raises(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
