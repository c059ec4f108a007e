"""Every listed network through the backend, all eligible convolutions HASTE, against eager PyTorch."""

import pytest
import torch

from tests.dynamo.listed import LISTED, listed
from tests.dynamo.networks import EXACT, assert_close, compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_outputs(name: str) -> None:
    model, x = listed(name, batch=2, size=64)
    with torch.inference_mode():
        assert_close(compiled(model, EXACT)(x), model(x), 1e-3)
