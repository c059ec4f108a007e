"""What is timed is attention, by all three."""

from benchmarks.attention import Shape, measure


def test_ours_compute_what_pytorch_does() -> None:
    for biased in (False, True):
        found = measure(Shape(2, 2, 20, 8, biased), threads=1, rounds=1)
        assert set(found.seconds) == {"PyTorch", "float32", "int8"}
        assert found.errors["float32"] < 1e-6 < 1e-3 < found.errors["int8"] < 0.03
