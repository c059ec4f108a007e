"""Nonnegative least squares."""

import numpy as np
import pytest

from haste_compiler.cost.nnls import nonnegative_least_squares


def test_exact_solutions_are_found() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        matrix = generator.random((30, 8)) * 10.0 ** generator.integers(-2, 3, 8)
        x = generator.random(8) * (generator.random(8) > 0.5)
        np.testing.assert_allclose(nonnegative_least_squares(matrix, matrix @ x), x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_no_allowed_step_improves_the_solution(seed: int) -> None:
    # The conditions of Karush, Kuhn and Tucker, where the plain least squares would have negative parts.
    generator = np.random.default_rng(seed)
    matrix, values = generator.standard_normal((15, 6)), generator.standard_normal(15)
    x = nonnegative_least_squares(matrix, values)
    gradient = matrix.T @ (matrix @ x - values)
    assert (x >= 0).all() and (gradient >= -1e-8).all() and (abs(gradient[x > 0]) < 1e-8).all()


def test_phases_that_never_happened_cost_nothing() -> None:
    assert nonnegative_least_squares(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([3.0, 6.0])).tolist() == [3.0, 0.0]
