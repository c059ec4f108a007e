"""All that a report tells, as plain data: measured, counted and observed, without a word on how it is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from haste_compiler.cost.peaks import Peaks, measure_peaks
from haste_compiler.errors import ArtifactError, TargetError
from haste_compiler.files import scratch_folder
from haste_compiler.methods.explanation import FallbackChoice
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.merged_channels import MergedChannels
from haste_compiler.methods.registry import method
from haste_compiler.methods.statistics import LayerStatistics, Tally
from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report.layer_graph import LayerNode, layer_graph
from haste_compiler.report.observation import Change, Observation, kernel_seconds, observe
from haste_compiler.runtime.rewritten import part_for
from haste_compiler.validation.batches import Batch, Labels, read_batches
from haste_compiler.validation.report import ValidationReport
from haste_compiler.validation.validate import validate

if TYPE_CHECKING:
    from haste_compiler.runtime.compiled import CompiledModule

CPU = "llvm"
"""TVM's kind of the targets whose peaks are measured."""


@dataclass(frozen=True)
class LayerEvidence:
    """One layer of a compiled network, on the image that was looked at.

    Attributes:
        name: qualified name.
        kind: "conv", "linear", "matmul", "pool".
        method: name of the method that took it; None: it is computed as it is written.
        title: the method's as a person writes it; "dense".
        reason: why a method took it, or why none did; empty where none was asked.
        shape: of what it returns.
        macs: multiply-adds of one call, dense and spent.
        tally: what became of what the method decides about.
        seconds: of one call, the least of a few; None where it has no kernel of its own.
        dense_seconds: the same in the dense compile.
        phases: the part of ``seconds`` by kernel, where it has several.
        roof_seconds: the least that this machine could take for the plain layer: ``Peaks``; None where it isn't known.
        bound: on what the method changes of the output, by the 2-norm, before the activation; None: there is none.
        change: what it changed; None: no method took it, or its definition doesn't say.
        work: where in the image it was computed.
        merged: channels that were taken as one.
    """

    name: str
    kind: str
    method: str | None
    title: str
    reason: str
    shape: tuple[int, ...]
    macs: MacCount
    tally: Tally | None = None
    seconds: float | None = None
    dense_seconds: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    roof_seconds: float | None = None
    bound: float | None = None
    change: Change | None = None
    work: WorkMap | None = None
    merged: MergedChannels | None = None

    @property
    def kept(self) -> float | None:
        """Share of what its method decides about that was computed; None: it decides about nothing."""
        return None if self.tally is None else self.tally.share(self.tally.kept)


@dataclass(frozen=True)
class Evidence:
    """What is known of a compiled network.

    Attributes:
        name: of the network; its class's.
        report: of the validation on all images: outputs, multiply-adds, times.
        layers: in the order in which they run.
        graph: data flow among their names, ``layer_graph.INPUT`` and ``OUTPUT``.
        fallbacks: what PyTorch runs.
        image: float32 (C, H, W), the input that was looked at, as the network takes it; None: it takes no image.
        file_bytes: of the saved network; None where it can't be saved.
        file_obstacle: why it can't.
        weight_bytes: of the model's parameters and buffers.
        peaks: of the machine; None where it has no model of them.
    """

    name: str
    report: ValidationReport
    layers: tuple[LayerEvidence, ...]
    graph: nx.DiGraph
    fallbacks: tuple[FallbackChoice, ...]
    image: NDArray[np.float32] | None
    file_bytes: int | None
    file_obstacle: str
    weight_bytes: int
    peaks: Peaks | None

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the methods that took a layer, by name."""
        return {layer.method: layer.title for layer in self.layers if layer.method is not None}


def collect(
    model: nn.Module,
    compiled: CompiledModule,
    inputs: Any,
    *,
    labels: Any = None,
    rounds: int = 10,
    image: int = 0,
    progress: bool = False,
) -> Evidence:
    """Run a network and what it was compiled to, and write down all that is to be told of it.

    Args:
        model: the original.
        compiled: what ``compile`` made of it.
        inputs, labels: as of ``validate``; layers are looked at in the first batch.
        rounds: how often each network is timed.
        image: of the first batch.
        progress: see ``validate``.

    Raises:
        InputError, CaptureError, ValidationError: as of ``validate``.
    """
    batches = read_batches(inputs, labels)
    first = next(batches)
    given = (_as_given(batch) for batch in itertools.chain([first], batches))
    labelled: Labels = None if first.labels is None else True
    report = validate(model, compiled, given, labels=labelled, rounds=rounds, progress=progress)
    seen = observe(model, compiled, first.inputs, image)
    graph, peaks = layer_graph(seen.gm), _peaks(compiled)
    file_bytes, obstacle = _file_bytes(compiled)
    return Evidence(
        type(model).__name__,
        report,
        tuple(_layers(compiled, first, seen, graph, peaks)),
        graph,
        compiled.explain().fallbacks,
        _picture(first, image),
        file_bytes,
        obstacle,
        sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers())),
        peaks,
    )


def _as_given(batch: Batch) -> tuple[Any, ...]:
    return batch.inputs if batch.labels is None else (*batch.inputs, batch.labels)


def _layers(
    compiled: CompiledModule, batch: Batch, seen: Observation, graph: nx.DiGraph, peaks: Peaks | None
) -> Iterator[LayerEvidence]:
    """Every layer of a graph, in order."""
    choices = {choice.name: choice for choice in compiled.layers}
    dense = compiled.dense
    plain = seen.seconds if dense is compiled else kernel_seconds(*part_for(dense, batch.inputs)[:2])
    for node in (layer for _, layer in graph.nodes(data="layer") if layer is not None):
        # Statistics of attention go by the name of its products.
        stats = seen.stats.get(node.name) or seen.stats.get(node.layer)
        choice = choices.get(node.layer)
        owner = choice.method if choice is not None else None if stats is None else stats.method
        phases = {symbol: spent for (layer, symbol), spent in seen.seconds.items() if layer == node.layer}
        before = [spent for (layer, _), spent in plain.items() if layer == node.layer]
        yield LayerEvidence(
            name=node.name,
            kind=node.kind,
            method=owner,
            title="dense" if owner is None else method(owner).TITLE,
            reason="" if choice is None else choice.reason,
            shape=node.shape,
            macs=MacCount(node.macs, convolution=node.macs) if stats is None else stats.macs,
            tally=None if stats is None else stats.tally,
            seconds=sum(phases.values()) if phases else None,
            dense_seconds=sum(before) if before else None,
            phases=phases if len(phases) > 1 else {},
            roof_seconds=None if peaks is None else _roof(node, stats, peaks),
            bound=None if stats is None else stats.image_bound,
            change=seen.changes.get(node.layer),
            work=seen.maps.get(node.name) or seen.maps.get(node.layer),
            merged=seen.merged.get(node.layer),
        )


def _roof(node: LayerNode, stats: LayerStatistics | None, peaks: Peaks) -> float | None:
    """The least time of the plain layer; None of what doesn't multiply."""
    macs = node.macs if stats is None else stats.macs.dense
    far = node.filter_bytes + (node.image_bytes if node.image_bytes > peaks.near_bytes else 0)
    return peaks.seconds(2 * macs, far) if macs else None


def _peaks(compiled: CompiledModule) -> Peaks | None:
    """Of this machine; None where the code is for a card."""
    return measure_peaks(compiled.target, compiled.threads) if compiled.target.kind.name == CPU else None


def _file_bytes(compiled: CompiledModule) -> tuple[int | None, str]:
    """How large the saved network is; or why it can't be saved."""
    with scratch_folder() as folder:
        path = folder / "network.haste"
        try:
            compiled.save(path)
        except (ArtifactError, TargetError) as error:
            return None, str(error)
        return path.stat().st_size, ""


def _picture(batch: Batch, image: int) -> NDArray[np.float32] | None:
    """The image that was looked at."""
    for leaf in tree_leaves(batch.inputs):
        if isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point():
            return np.array(leaf[image].float().cpu(), np.float32)
    return None
