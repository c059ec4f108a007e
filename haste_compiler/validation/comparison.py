"""Comparing what two networks return, leaf by leaf, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from haste_compiler.errors import ValidationError
from haste_compiler.validation.report import Accuracy, OutputComparison
from haste_compiler.validation.running import Outputs, describe

TOP = 5


class OutputTally:
    """Compares the outputs of one batch after the other."""

    def __init__(self) -> None:
        self._leaves: list[_LeafTally] | None = None
        self._labelled = 0
        self._correct = [0, 0]

    def add(self, original: Outputs, compiled: Outputs, labels: Tensor | None = None, index: int = 0) -> None:
        """Compare the outputs of one batch.

        Args:
            original, compiled: what the two networks returned.
            labels: class of each image, if known.
            index: of the batch among all: sums are taken in this order, whoever compared which batch.

        Raises:
            ValidationError: structure, shape or dtype differ, a leaf that is no tensor does, there are labels but no
                class scores, or this batch's structure is not that of the batches before.
        """
        check_same_kind(original, compiled)
        if self._leaves is None:
            self._leaves = [_LeafTally(name) for name in original.names]
        if [leaf.name for leaf in self._leaves] != original.names:
            raise ValidationError(f"the original returns another structure than before: {original.described}")
        for tally, mine, theirs in zip(self._leaves, original.copies, compiled.copies, strict=True):
            if isinstance(mine, Tensor):
                tally.add(mine, theirs, index)
        if labels is not None:
            self._count_correct(original, compiled, labels)

    @classmethod
    def joined(cls, tallies: Iterable[OutputTally]) -> OutputTally:
        """Several tallies of different batches as one; it doesn't matter which batches each had.

        Raises:
            ValidationError: they saw outputs of different structures.
        """
        whole = cls()
        for tally in tallies:
            if tally._leaves is None:
                continue
            if whole._leaves is None:
                whole._leaves = [_LeafTally(leaf.name) for leaf in tally._leaves]
            mine, theirs = ([leaf.name for leaf in leaves] for leaves in (whole._leaves, tally._leaves))
            if mine != theirs:
                raise ValidationError(f"the original returns {mine} for some batches, {theirs} for others")
            for leaf, other in zip(whole._leaves, tally._leaves, strict=True):
                leaf.join(other)
            whole._labelled += tally._labelled
            whole._correct = [a + b for a, b in zip(whole._correct, tally._correct, strict=True)]
        return whole

    def comparisons(self) -> tuple[OutputComparison, ...]:
        """One comparison for every leaf that is a tensor."""
        return tuple(leaf.result() for leaf in self._leaves or [] if leaf.described)

    def accuracy(self) -> Accuracy | None:
        """How many of the labels each network found; None without labels."""
        if not self._labelled:
            return None
        original, compiled = (correct / self._labelled for correct in self._correct)
        return Accuracy(original, compiled, self._labelled)

    def warnings(self) -> list[str]:
        """What makes the comparisons say less than they seem to."""
        return [warning for leaf in self._leaves or [] for warning in leaf.warnings()]

    def _count_correct(self, original: Outputs, compiled: Outputs, labels: Tensor) -> None:
        pairs = zip(original.copies, compiled.copies, strict=True)
        scores = next((pair for pair in pairs if is_scores(pair[0]) and len(pair[0]) == len(labels)), None)
        if scores is None:
            raise ValidationError(
                f"labels are given for {len(labels)} images, but no output holds class scores (N, classes) for them: "
                f"{original.described}"
            )
        self._labelled += len(labels)
        for index, leaf in enumerate(scores):
            # A row with NaN has no largest score: PyTorch would call the NaN the largest.
            found = (leaf.cpu().double().argmax(dim=1) == labels) & ~leaf.cpu().isnan().any(dim=1)
            self._correct[index] += int(found.sum())


def check_same_kind(original: Outputs, compiled: Outputs) -> None:
    """Check that two networks return the same structure, and in it the same shapes, dtypes and plain values.

    Raises:
        ValidationError: they do not; the message names the leaf and what both return there.
    """
    if original.spec != compiled.spec:
        raise ValidationError(
            f"the outputs' structure differs: the original returns {original.described}, "
            f"the compiled network {compiled.described}"
        )
    for name, mine, theirs in zip(original.names, original.copies, compiled.copies, strict=True):
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
            same = mine.shape == theirs.shape and mine.dtype == theirs.dtype
        else:
            same = type(mine) is type(theirs) and (bool(mine == theirs) or mine != mine)
        if not same:
            raise ValidationError(
                f"{name} differs: the original returns {describe(mine)}, the compiled network {describe(theirs)}"
            )


def relative_error(original: Outputs, compiled: Outputs) -> float:
    """Largest relative error of the norm over all leaves; both must be of the same kind."""
    errors = [0.0]
    for mine, theirs in zip(original.copies, compiled.copies, strict=True):
        if isinstance(mine, Tensor):
            difference, reference = difference_of(mine, theirs)
            errors.append(ratio(norm(difference), norm(reference)))
    return max(errors)


def is_scores(leaf: object) -> bool:
    """Whether an output looks like class scores: floating-point (N, at least two classes)."""
    return isinstance(leaf, Tensor) and leaf.dim() == 2 and leaf.shape[1] >= 2 and leaf.dtype.is_floating_point


def constant_rows(scores: Tensor) -> int:
    """For how many images all scores, (N, classes), are equal."""
    return int((scores == scores[:, :1]).all(dim=1).sum())


def scores_warnings(rows: int, predicted: set[int], constant: int) -> list[str]:
    """What makes an agreement say less than it seems to.

    Args:
        rows: images that it was measured on.
        predicted: the classes that the original predicts for them.
        constant: see ``constant_rows``.
    """
    found = []
    if rows == 1:
        found.append("agreement rests on one image")
    elif rows and len(predicted) == 1:
        found.append(f"the original predicts class {min(predicted)} for all {rows} images, so agreement says little")
    if constant:
        found.append(
            f"for {constant} of {rows} images the original's scores are all equal, and its prediction means nothing"
        )
    return found


def difference_of(original: Tensor, compiled: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute difference and the original it is measured against, float64, flat.

    Where both hold the same NaN or infinity the difference is 0 and the value does not count; where only one does, or
    where infinities differ in sign, the difference is infinite.
    """
    mine, theirs = _float64(original), _float64(compiled)
    same = (mine == theirs) | (mine.isnan() & theirs.isnan())
    difference = (mine - theirs).abs()
    if not (original.dtype.is_floating_point or original.dtype.is_complex):
        # Large integers that float64 cannot tell apart differ by at least one.
        same = (original == compiled).flatten().cpu()
        difference = difference.clamp(min=1)
    difference = torch.where(same, 0.0, torch.where(difference.isfinite(), difference, math.inf))
    return difference, torch.where(mine.isfinite(), mine, 0.0)


def norm(values: Tensor) -> float:
    """2-norm of float64 values, without overflow on the way."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0 or math.isinf(largest):
        return largest
    return largest * float((values / largest).norm())


def ratio(error: float, reference: float) -> float:
    """``error / reference``; 0 where there is no error, infinite where there is one and nothing to hold it against."""
    if error == 0:
        return 0.0
    return error / reference if reference > 0 else math.inf


def _float64(leaf: Tensor) -> Tensor:
    leaf = leaf.detach().cpu()
    return (torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf).double().flatten()


class _LeafTally:
    """One leaf of the outputs, over all batches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.described = ""
        self._max_abs = 0.0
        self._norms: list[tuple[int, float, float]] = []
        self._rows = self._agree = self._overlap = self._top = 0
        self._not_finite = 0
        self._predicted: set[int] = set()
        self._constant_rows = 0

    def add(self, original: Tensor, compiled: Tensor, index: int) -> None:
        self.described = self.described or describe(original)
        difference, reference = difference_of(original, compiled)
        error, size = norm(difference), norm(reference)
        self._max_abs = max(self._max_abs, float(difference.max()) if difference.numel() else 0.0)
        self._norms.append((index, error, size))
        self._not_finite += int((~_float64(original).isfinite()).sum())
        if is_scores(original):
            self._compare_ranks(original.cpu().double(), compiled.cpu().double())

    def join(self, other: _LeafTally) -> None:
        self.described = self.described or other.described
        self._max_abs = max(self._max_abs, other._max_abs)
        self._norms += other._norms
        for name in ("_rows", "_agree", "_overlap", "_top", "_not_finite", "_constant_rows"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._predicted |= other._predicted

    def result(self) -> OutputComparison:
        # In the batches' order, so that the sum's rounding doesn't depend on who compared them.
        whole = whole_reference = 0.0
        for _, error, size in sorted(self._norms):
            whole, whole_reference = math.hypot(whole, error), math.hypot(whole_reference, size)
        return OutputComparison(
            name=self.name,
            kind=self.described,
            max_abs_error=self._max_abs,
            rel_error=ratio(whole, whole_reference),
            worst_rel_error=max((ratio(error, size) for _, error, size in self._norms), default=0.0),
            agreement=self._agree / self._rows if self._rows else None,
            top5_agreement=self._overlap / (TOP * self._top) if self._top else None,
        )

    def warnings(self) -> list[str]:
        found = []
        if self._not_finite:
            found.append(f"{self.name}: {self._not_finite} values of the original are NaN or infinite")
        scores = scores_warnings(self._rows, self._predicted, self._constant_rows)
        found += [f"{self.name}: {warning}" for warning in scores]
        return found

    def _compare_ranks(self, original: Tensor, compiled: Tensor) -> None:
        rows, classes = original.shape
        self._rows += rows
        if not rows:
            return
        # Where there is NaN there is no rank: such rows agree only if they are the same throughout.
        unranked = original.isnan().any(dim=1) | compiled.isnan().any(dim=1)
        equal = ((original == compiled) | (original.isnan() & compiled.isnan())).all(dim=1)
        best = original.argmax(dim=1)
        self._agree += int(torch.where(unranked, equal, best == compiled.argmax(dim=1)).sum())
        self._predicted |= set(best.tolist())
        self._constant_rows += constant_rows(original)
        if classes > TOP:
            mine, theirs = original.topk(TOP, dim=1).indices, compiled.topk(TOP, dim=1).indices
            shared = (mine.unsqueeze(2) == theirs.unsqueeze(1)).sum(dim=(1, 2))
            self._overlap += int(torch.where(unranked, TOP * equal, shared).sum())
            self._top += rows
