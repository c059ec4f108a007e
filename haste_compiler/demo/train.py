"""Train the carried network on scikit-learn's digits: `python -m haste_compiler.demo.train`."""

import argparse
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler.demo.digits import held_out_digits, training_digits
from haste_compiler.demo.network import WEIGHTS, DigitsResNet, load_network, save_network


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images (N, 1, H, W) each turned, stretched, slanted and shifted a little, at random."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, slant = uniform(0.2), uniform(0.2)
    width, height = 1 + uniform(0.12), 1 + uniform(0.12)
    across, down = uniform(0.12), uniform(0.12)
    top = torch.stack([width * angle.cos(), slant - angle.sin(), across], dim=1)
    bottom = torch.stack([angle.sin(), height * angle.cos(), down], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train(epochs: int = 15, batch_size: int = 64, peak_rate: float = 0.1, seed: int = 0) -> DigitsResNet:
    """Return the network after `epochs` of Nesterov SGD with one learning-rate cycle up to `peak_rate`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = training_digits()
    network = DigitsResNet().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=peak_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batches = len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=epochs * batches)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in track(range(epochs), description="training"):
        order = torch.randperm(len(images), generator=generator)[: batches * batch_size]
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            loss_of(network(distort(images[batch], generator)), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of `images` (N, 1, 32, 32) that `network` gives their label."""
    right = [
        (network(some).argmax(dim=1) == theirs).sum().item()
        for some, theirs in zip(images.split(90), labels.split(90), strict=True)
    ]
    return sum(right) / len(images)


def main() -> None:
    """Train, store the weights, read them back and print how many of the held-out digits they get right."""
    parser = argparse.ArgumentParser(prog="python -m haste_compiler.demo.train", description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="where the weights go (default: the package's)")
    arguments = parser.parse_args()

    save_network(train(arguments.epochs, seed=arguments.seed), arguments.output)
    share = accuracy(load_network(arguments.output), *held_out_digits())
    print(f"{arguments.output}: {share:.2%} of the held-out digits are right")


if __name__ == "__main__":
    main()
