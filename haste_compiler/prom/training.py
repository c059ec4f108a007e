"""One phase of training, which can be stopped after any epoch and goes on to the bit where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler.errors import ConfigError, HasteError, first_line
from haste_compiler.files import replacing
from haste_compiler.progress import Tick
from haste_compiler.prom.augment import shifted
from haste_compiler.prom.data import Labelled, normalized
from haste_compiler.prom.distillation import distillation_loss
from haste_compiler.prom.recipe import Phase, Recipe

_LOOKED_AT = 2000
"""Test images that are enough between two epochs; after the last one all are looked at."""

TESTED = 500
"""Images of a call when testing."""

_SEEDS = 10_000
"""Seeds that a phase has, one for each of its epochs."""

Log = list[dict[str, Any]]
"""For each epoch: epoch, side, rate, loss, accuracy, images (tested on) and seconds."""


class Trainer:
    """Trains one network through one phase.

    Args:
        network: is trained in place.
        teacher: in evaluation mode; None: labels alone.
        data: images to train and to test on.
        recipe, phase: how.
        number: of the phase; phases differ in their random numbers.
        checkpoint: file that is written after each epoch, and read where there is one.

    Raises:
        ConfigError: the checkpoint is of another network, recipe or phase.
        HasteError: it can't be read.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module | None,
        data: tuple[Labelled, Labelled],
        recipe: Recipe,
        phase: Phase,
        number: int,
        checkpoint: Path,
    ) -> None:
        self.network, self.teacher, (self.train, self.test) = network, teacher, data
        self.recipe, self.phase, self.checkpoint = recipe, phase, checkpoint
        self.first_seed = (2 * recipe.seed + number) * _SEEDS
        self.optimizer = _optimizer(network, recipe, phase)
        self.log: Log = []
        # Lists, as they come back from a file.
        self.settings = {
            **asdict(recipe),
            **asdict(phase),
            "sizes": list(phase.sizes),
            "images": len(self.train.labels),
        }
        if checkpoint.exists():
            self._resume()

    def run(self, tick: Tick, after_epoch: Callable[[Log], object]) -> float:
        """Train for the epochs that are left.

        Args:
            tick: is told of every step.
            after_epoch: is told what is logged so far.

        Returns:
            The share of all test images that the trained network classifies right.
        """
        resized: dict[int, Labelled] = {}
        for epoch in range(len(self.log), len(self.phase.sizes)):
            side = self.phase.sizes[epoch]
            if side not in resized:
                resized = {side: self.train.resized(side)}
            self._epoch(epoch, resized[side], tick)
            after_epoch(self.log)
        return float(self.log[-1]["accuracy"])

    def _epoch(self, epoch: int, images: Labelled, tick: Tick) -> None:
        start, epochs, recipe = time.monotonic(), len(self.phase.sizes), self.recipe
        steps = len(images.labels) // recipe.batch
        seed = self.first_seed + epoch
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images.labels), generator=generator)
        self.network.train()
        total = torch.zeros(())
        for step in range(steps):
            done = epoch * steps + step
            rate = self.phase.rate(done, epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            which = order[step * recipe.batch : (step + 1) * recipe.batch]
            x = normalized(shifted(images.pixels[which], generator, mirrored=images.mirrored))
            loss = self._loss(x, images.labels[which])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
            tick(f"{self.phase.name}, epoch {epoch + 1} of {epochs}", (done + 1) / (epochs * steps))
        whole = epoch == epochs - 1
        tested, right = accuracy(self.network, self.test, images.side, whole=whole)
        self.log.append(
            {
                "epoch": epoch + 1,
                "side": images.side,
                "rate": rate,
                "loss": float(total) / steps,
                "accuracy": right,
                "images": tested,
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        self._save()

    def _loss(self, x: Tensor, labels: Tensor) -> Tensor:
        scores = self.network(x)
        loss = F.cross_entropy(scores, labels, label_smoothing=self.recipe.smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = self.teacher(x)
        part = self.phase.distillation
        return (1 - part) * loss + part * distillation_loss(scores, wanted, self.recipe.temperature)

    def _save(self) -> None:
        state = {
            "settings": self.settings,
            "log": self.log,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.checkpoint) as path:
            torch.save(state, path)

    def _resume(self) -> None:
        try:
            state = torch.load(self.checkpoint, weights_only=True)
            settings = state["settings"]
        except Exception as error:
            raise HasteError(f"{self.checkpoint} can't be read: {first_line(error)}") from None
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise ConfigError(
                    f"{self.checkpoint} was trained with {name} {settings.get(name)}, not {value}: "
                    "go on with the same, or give another folder"
                )
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{self.checkpoint} is of another network: {first_line(error)}") from None
        self.log = state["log"]


@torch.no_grad()
def accuracy(
    network: Callable[[Tensor], Tensor], test: Labelled, side: int, *, whole: bool = True
) -> tuple[int, float]:
    """How many images were looked at, and the share of them that is classified right.

    Args:
        network: a module is put into evaluation mode.
        test: images.
        side: that they are resized to.
        whole: look at all; else at 2,000, evenly spread.
    """
    if isinstance(network, nn.Module):
        network.eval()
    every = 1 if whole else max(1, len(test.labels) // _LOOKED_AT)
    seen = Labelled(test.pixels[::every], test.labels[::every], test.mirrored).resized(side)
    right = 0
    for pixels, labels in zip(seen.pixels.split(TESTED), seen.labels.split(TESTED), strict=True):
        right += int((network(normalized(pixels)).argmax(1) == labels).sum())
    return len(seen.labels), right / len(seen.labels)


def _optimizer(network: nn.Module, recipe: Recipe, phase: Phase) -> torch.optim.SGD:
    """Nesterov's; only parameters that hold several numbers for each output channel decay."""
    filters: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in network.parameters():
        (filters if parameter.dim() > 1 and parameter[0].numel() > 1 else others).append(parameter)
    groups = [{"params": filters, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=phase.peak, momentum=0.9, nesterov=True)
