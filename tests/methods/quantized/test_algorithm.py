"""How a layer of integers is computed, as it is kept and told."""

from haste_compiler.methods.quantized.algorithm import Algorithm


def test_an_algorithm_is_one_number() -> None:
    """Those of 8 bits are their tiles' sizes, as in files that were saved before there were others."""
    algorithms = [Algorithm(size, bits) for size in (0, 2, 4) for bits in (8, 7)]
    assert [Algorithm.of(each.setting) for each in algorithms] == algorithms
    assert [each.setting for each in algorithms if each.bits == 8] == [0, 2, 4]


def test_an_algorithm_is_described_by_what_sets_it_apart() -> None:
    described = [Algorithm(size, bits).described() for size in (0, 4) for bits in (8, 7)]
    assert described == ["", " from 7 bits", " by F(4×4)", " by F(4×4) from 7 bits"]
