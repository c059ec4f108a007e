"""What compiled code is called with: where tensors may be."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from haste_compiler import InputError
from haste_compiler.runtime.inputs import prepare


@pytest.mark.parametrize(
    ("place", "places", "allowed"), [("cuda:0", ("cpu",), "cpu"), ("cuda:1", ("cpu", "cuda:0"), "cuda:0")]
)
def test_tensors_elsewhere_are_refused(place: str, places: tuple[str, ...], allowed: str) -> None:
    with FakeTensorMode():
        elsewhere = torch.empty(1, device=place)
    with pytest.raises(InputError, match=f"input 1 is on {place}: the network was compiled for {allowed}"):
        prepare([torch.zeros(1), elsewhere], None, places)
