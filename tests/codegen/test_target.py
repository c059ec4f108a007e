"""Target strings, and code for instruction sets other than this machine's."""

import platform
import re
from typing import Any

import pytest
import tvm
from tvm.target import Target

from haste_compiler.codegen import processor as target_module
from haste_compiler.codegen.cpu.kernels.conv2d import conv2d_kernel, conv_work
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import choose_tiling
from haste_compiler.codegen.target import TargetLike, machine_of, parse_target
from haste_compiler.errors import TargetError
from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.kernels import on_x86

ARM = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72"


def test_llvm_alone_is_this_machine() -> None:
    target = parse_target("llvm")
    assert target.attrs["mcpu"]
    assert vector_unit(target).lanes >= 4


@on_x86
@pytest.mark.parametrize(
    ("target", "lanes", "registers"),
    [
        ("llvm -mcpu=skylake-avx512", 16, 32),
        ("llvm -mcpu=haswell", 8, 16),
        ("llvm -mcpu=znver3", 8, 16),
        ("llvm -mcpu=x86-64", 4, 16),
        ("llvm -mcpu=x86-64 -mattr=+avx2,+fma", 8, 16),
        ({"kind": "llvm", "mcpu": "haswell"}, 8, 16),
        (Target({"kind": "llvm", "mcpu": "haswell"}), 8, 16),
        (ARM, 4, 32),
    ],
)
def test_vector_width_follows_the_target(target: TargetLike, lanes: int, registers: int) -> None:
    unit = vector_unit(parse_target(target))
    assert (unit.lanes, unit.registers) == (lanes, registers)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("cuba", "unknown target 'cuba': allowed are 'llvm' and 'cuda'"),
        ("llvm -mcpu=hasswell", "unknown CPU 'hasswell' .*did you mean haswell"),
        ("llvm -mcpu", "'-mcpu' .* is malformed: write -name=value"),
        ("llvm mcpu=haswell", "malformed"),
        ("llvm -mcpu='has", "closing quotation"),
        ("llvm -nonsense=3", "nonsense"),
        ("llvm -mtriple=pdp11-dec-none", "'pdp11-dec-none': allowed are x86_64 and aarch64"),
        ("llvm -mtriple=pdp11-dec-none -mcpu=haswell", "pdp11"),
        ({"mcpu": "haswell"}, "unknown target None"),
        ({"kind": "llvm", "mcpu": 3}, "mcpu is 3: allowed is a string"),
        (Target({"kind": "c"}), "unknown target 'c'"),
        (7, "target is int"),
        (None, "target is NoneType"),
    ],
)
def test_bad_targets(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        parse_target(target)
    assert "Traceback" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_whether_this_machine_runs_the_code() -> None:
    assert machine_of(parse_target("llvm")).missing() == []
    other = "x86_64-linux-gnu" if platform.machine() == "aarch64" else "aarch64-linux-gnu"
    assert machine_of(parse_target(f"llvm -mtriple={other}")).missing() == [other.partition("-")[0]]


@on_x86
def test_a_virtual_machine_may_hide_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset({"sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"})
    monkeypatch.setattr(target_module, "_own_flags", lambda: flags)
    monkeypatch.setattr("tvm.target.codegen.llvm_get_system_cpu", lambda: "skylake-avx512")
    target_module.own_cpu.cache_clear()
    try:
        assert parse_target("llvm").attrs["mcpu"] == "x86-64-v3"
        missing = machine_of(parse_target("llvm -mcpu=skylake-avx512")).missing()
        assert missing == ["avx512f", "avx512bw", "avx512dq", "avx512vl"]
    finally:
        target_module.own_cpu.cache_clear()


@on_x86
def test_products_of_narrow_numbers_are_among_what_a_machine_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else code with such an instruction would start, and the system would end it."""
    flags = "sse4_1 sse4_2 avx f16c fma avx2 bmi2 avx512f avx512bw avx512dq avx512vl"
    monkeypatch.setattr(target_module, "_own_flags", lambda: frozenset(flags.split()))
    assert machine_of(parse_target("llvm -mcpu=znver4")).missing() == ["avx512vnni", "avx512bf16"]
    monkeypatch.setattr(target_module, "_own_flags", lambda: frozenset([*flags.split(), "avx512_vnni", "avx512_bf16"]))
    assert machine_of(parse_target("llvm -mcpu=znver4")).missing() == []


def assembly(target: str) -> str:
    geometry = ConvGeometry(16, 40, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (14, 14), (8, 8))
    tiling = choose_tiling(conv_work(geometry, 1), vector_unit(parse_target(target)), 1)
    machine = machine_of(parse_target(target))
    with machine.pass_context():
        functions = tvm.IRModule({"conv": conv2d_kernel("conv", geometry, 1, tiling)})
        return str(tvm.compile(functions, target=machine.generated).mod.inspect_source("s"))


def test_neon() -> None:
    code = assembly(ARM)
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", code)) >= 16


@on_x86
@pytest.mark.parametrize(
    ("cpu", "register", "wider"), [("skylake-avx512", "zmm", ""), ("haswell", "ymm", "zmm"), ("x86-64", "xmm", "ymm")]
)
def test_x86_registers(cpu: str, register: str, wider: str) -> None:
    code = assembly(f"llvm -mcpu={cpu}")
    arithmetic = [line for line in code.splitlines() if re.search(r"\b(v?f(n?m)add\w*ps|v?mulps)\b", line)]
    assert sum(register in line for line in arithmetic) >= 16
    assert not wider or wider not in code


@on_x86
@pytest.mark.parametrize("cpu", ["skylake-avx512", "haswell"])
def test_sums_stay_in_registers(cpu: str) -> None:
    """An inner loop that stores its sums would be three times slower."""
    code = assembly(f"llvm -mcpu={cpu}")
    runs, longest = re.split(r"^\.LBB|^\s+j\w+\s", code, flags=re.MULTILINE), 0
    for block in runs:
        products = len(re.findall(r"\bvfn?madd", block))
        if products > longest:
            longest, inner = products, block
    stores = re.findall(r"^\s+vmov[au]ps\s+%[xyz]mm\d+,\s*-?\w*\(", inner, flags=re.MULTILINE)
    assert longest >= 8 and not stores
