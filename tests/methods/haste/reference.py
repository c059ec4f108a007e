"""The HASTE convolution once more, one patch and one channel at a time in float64, written apart from the package."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
TIE = 1e-5
"""Decisions closer than this, as a share of what was added up for them, may fall either way in float32."""


@dataclass
class Layer:
    """A convolution and its HASTE settings; names as in the package."""

    channels: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    size: tuple[int, int]
    patch: tuple[int, int]
    merge: str = "projection"
    skip: str = "flat"
    planes: int = 6
    tolerance: float = math.inf
    flat_tolerance: float = 0.2

    def outputs(self, axis: int) -> int:
        padded = self.size[axis] + self.padding[2 * axis] + self.padding[2 * axis + 1]
        return len(range(0, padded - (self.kernel[axis] - 1) * self.dilation[axis], self.stride[axis]))

    def side(self, axis: int) -> int:
        return min(self.patch[axis], self.outputs(axis))

    def grid(self, axis: int) -> int:
        return math.ceil(self.outputs(axis) / self.side(axis))

    def window_side(self, axis: int) -> int:
        return (self.side(axis) - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1


@dataclass
class Patch:
    """What the loop finds for one patch: (C, qh, qw) windows, (qh, qw) mask, and the decisions, (C,) each."""

    window: Array
    mask: Array
    slot: list[int]
    coeff: list[float]
    offset: list[float]
    near_tie: bool


def read_window(image: Array, layer: Layer, row: int, column: int) -> tuple[Array, Array]:
    """Window and mask of one patch of an image (C, H, W), pixel by pixel."""
    window = np.zeros((layer.channels, layer.window_side(0), layer.window_side(1)))
    mask = np.zeros(window.shape[1:])
    last = []
    for axis, index in ((0, row), (1, column)):
        outputs = min(layer.side(axis), layer.outputs(axis) - index * layer.side(axis))
        last.append((outputs - 1) * layer.stride[axis] + (layer.kernel[axis] - 1) * layer.dilation[axis])
    for i in range(last[0] + 1):
        for j in range(last[1] + 1):
            y = row * layer.side(0) * layer.stride[0] + i - layer.padding[0]
            x = column * layer.side(1) * layer.stride[1] + j - layer.padding[2]
            if 0 <= y < layer.size[0] and 0 <= x < layer.size[1]:
                window[:, i, j] = image[:, y, x]
                mask[i, j] = 1
    return window, mask


def norms_of(weight: Array, layer: Layer) -> Array:
    """|F_c| of every channel, (C,), from filters (K, C / groups, kh, kw)."""
    filters = layer.filters // layer.groups
    parts = [weight[group * filters : (group + 1) * filters] for group in range(layer.groups)]
    return np.concatenate([np.sqrt((part**2).sum(axis=(0, 2, 3))) for part in parts])


def decide(image: Array, norm: Array, planes: Array, layer: Layer, row: int, column: int) -> Patch:
    """Everything up to the convolution, for one patch; ``norm`` is |F_c| of every channel."""
    window, mask = read_window(image, layer, row, column)
    per_group = layer.channels // layer.groups
    slot = [-2] * layer.channels
    coeff, offset = [0.0] * layer.channels, [0.0] * layer.channels
    near_tie: Any = False
    for group in range(layer.groups):
        channels = list(range(group * per_group, (group + 1) * per_group))
        flat = {c: window[c].ravel() for c in channels}
        energy = {c: float(flat[c] @ flat[c]) for c in channels}
        rms = math.sqrt(sum(energy[c] * norm[c] ** 2 for c in channels) / per_group)

        codes, unsure = {c: 0 for c in channels}, dict.fromkeys(channels, False)
        centre = sum(flat[c] for c in channels) / per_group
        for bit in range(layer.planes):
            added = {c: float(np.abs(flat[c]) @ np.abs(planes[bit])) for c in channels}
            for c in channels:
                dot = float((flat[c] - centre) @ planes[bit])
                # The mean over the channels is rounded too.
                size = added[c] + sum(added.values()) / per_group
                unsure[c] |= per_group > 1 and abs(dot) < TIE * size
                codes[c] |= int(dot > 0) << bit

        left = []
        for c in channels:
            mean = flat[c].sum() / max(mask.sum(), 1)
            spread = np.linalg.norm(flat[c] - mean * mask.ravel()) * norm[c]
            if layer.skip != "none" and energy[c] == 0:
                slot[c] = -1
            elif layer.skip == "flat" and spread <= layer.flat_tolerance * rms:
                slot[c], offset[c] = -1, mean
            else:
                left.append(c)
            if layer.skip == "flat":
                # The kernel takes the mean's square from the energy, so that rounding is a share of the energy.
                limit = (layer.flat_tolerance * rms) ** 2
                near_tie |= abs(spread**2 - limit) < TIE * (energy[c] * norm[c] ** 2 + limit)
        # The code of a dropped channel is never looked at.
        near_tie |= any(unsure[c] for c in left)

        def members_by_code(left: list[int], codes: dict[int, int]) -> list[list[int]]:
            return [[c for c in left if codes[c] == code] for code in dict.fromkeys(codes[c] for c in left)]

        def represent(members: list[int], flat: dict[int, Array]) -> tuple[Array, list[float]]:
            total = np.sum([flat[c] for c in members], axis=0)
            if len(members) == 1:
                return total, [1.0]
            if layer.merge == "mean":
                return total / len(members), [1.0] * len(members)
            square = float(total @ total)
            return total, [float(flat[c] @ total) / square if square else 0.0 for c in members]

        alone = []
        if math.isfinite(layer.tolerance):
            for members in members_by_code(left, codes):
                if len(members) == 1:
                    continue
                merged, coefficients = represent(members, flat)
                for c, a in zip(members, coefficients, strict=True):
                    damage = np.linalg.norm(flat[c] - a * merged) * norm[c]
                    near_tie |= abs(damage - layer.tolerance * rms) < TIE * (rms + math.sqrt(energy[c]) * norm[c])
                    if damage > layer.tolerance * rms:
                        alone.append(c)
        for members in [*members_by_code([c for c in left if c not in alone], codes), *([c] for c in alone)]:
            _, coefficients = represent(members, flat)
            for c, a in zip(members, coefficients, strict=True):
                slot[c], coeff[c] = members[0], a
    return Patch(window, mask, slot, coeff, offset, bool(near_tie))


def rebuild(patch: Patch, slot: list[int], coeff: list[float], offset: list[float], merge: str) -> Array:
    """Windows as the convolution takes them, from given decisions."""
    rebuilt = np.zeros_like(patch.window)
    for c, leader in enumerate(slot):
        if leader < 0:
            rebuilt[c] = offset[c] * patch.mask
            continue
        members = [m for m, other in enumerate(slot) if other == leader]
        merged = sum(patch.window[m] for m in members)
        rebuilt[c] = coeff[c] * (merged / len(members) if merge == "mean" else merged)
    return rebuilt


def convolve_patch(window: Array, weight: Array, layer: Layer, rows: int, columns: int) -> Array:
    """Outputs (K, rows, columns) of one window, one output pixel at a time."""
    filters, channels = layer.filters // layer.groups, layer.channels // layer.groups
    result = np.zeros((layer.filters, rows, columns))
    for k in range(layer.filters):
        own = window[k // filters * channels :][:channels]
        for i in range(rows):
            for j in range(columns):
                top, left = i * layer.stride[0], j * layer.stride[1]
                taps = own[:, top :: layer.dilation[0], left :: layer.dilation[1]]
                result[k, i, j] = (taps[:, : layer.kernel[0], : layer.kernel[1]] * weight[k]).sum()
    return result


def to_array(tensor: Tensor) -> Array:
    """A tensor as float64."""
    return tensor.detach().double().numpy()
