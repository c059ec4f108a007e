"""Running `haste` in this process, on the network that the package carries."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from haste_compiler.cli import main
from haste_compiler.demo import load_network
from tests.methods.haste.networks import redundant_images

Result = tuple[int, str, str]
Haste = Callable[..., Result]


@pytest.fixture
def haste(capsys: pytest.CaptureFixture[str]) -> Haste:
    """`haste ARGUMENTS`: exit code, standard output, standard error."""

    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="package")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of four images, labelled by the network itself."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    images = redundant_images(4, 1, 32, 32, seed=0)
    with torch.no_grad():
        labels = load_network()(images).argmax(dim=1)
    np.savez(path, images=images.numpy(), labels=labels.numpy())
    return path
