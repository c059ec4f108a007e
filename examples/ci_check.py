"""A test for your CI: the compiled network still computes what the model does. `python -m examples.ci_check` runs it.

`assert_equivalent` is a fixture of the pytest plugin that comes with the package. Where outputs differ by more than the
limits of `[tool.haste]` in pyproject.toml, or of the test, it names the layer at fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import haste_compiler
from examples.networks import network_and_images


def test_the_compiled_network_is_the_model(assert_equivalent: Callable[..., Any]) -> None:
    """In float32 by rounding alone."""
    model, images = network_and_images(None, 8)
    assert_equivalent(model, haste_compiler.compile(model, (images,), threads=1), images, max_rel_error=1e-5)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
