"""Global attention of video with tokens merged by head, and the parts of it, beside ours of all tokens.

`python -m benchmarks.tokens`; `--matching` for the matching of images instead.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import tvm
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tvm import tirx

from benchmarks.short_calls import Call, in_turns
from haste_compiler.codegen.cpu.kernels.attention import Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.kernels.attention_products import FloatProducts
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, choose_attention
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.graph.views import contiguous_strides
from haste_compiler.methods.tokens.cpu.copy import copy_kernel
from haste_compiler.methods.tokens.cpu.cut import Cut, cut_blocks, cut_pairs
from haste_compiler.methods.tokens.cpu.distance import distance_kernel
from haste_compiler.methods.tokens.cpu.largest import largest_kernel
from haste_compiler.methods.tokens.cpu.merge import MergeSizes, merge_kernel
from haste_compiler.methods.tokens.cpu.nearest import NearestSizes, nearest_kernel
from haste_compiler.methods.tokens.cpu.number import number_kernel
from haste_compiler.methods.tokens.reference.blocks import Blocks
from haste_compiler.methods.tokens.reference.heads import most_outliers


@dataclass(frozen=True)
class Video:
    """Frames, tokens of each of which the first ``special`` are no patches, heads and their width."""

    frames: int
    of_frame: int = 1041
    special: int = 5
    heads: int = 16
    width: int = 64

    @property
    def tokens(self) -> int:
        """Of all frames."""
        return self.frames * self.of_frame


@dataclass(frozen=True)
class Setting:
    """How tokens are merged: blocks of ``places`` × ``depth``, shares of queries, of outliers among them, of keys."""

    places: int = 128
    depth: int = 30
    queries: float = 0.1
    outliers: float = 0.1
    keys: float = 0.3


class Kernels:
    """Builds kernels for one number of threads, and the tensors that they write."""

    def __init__(self, threads: int) -> None:
        self.machine = machine_of(parse_target("llvm"), threads)
        self.unit = vector_unit(self.machine.target)

    def call(self, kernel: tirx.PrimFunc, tensors: Sequence[Tensor]) -> Call:
        """A call of a kernel."""
        with self.machine.pass_context():
            code = tvm.compile(tvm.IRModule({"main": kernel}), target=self.machine.generated)
        arguments, function = [tvm.runtime.from_dlpack(tensor) for tensor in tensors], code["main"]
        return lambda: function(*arguments)

    def matching(self, x: Tensor, cut: Cut, alone: int, *, merged: int = 0) -> tuple[dict[str, Call], Tensor, Tensor]:
        """The kernels that match tokens (B, H, N, D), called once each: assignment and lengths with them."""
        batch, heads, tokens, width = x.shape
        sizes, place = NearestSizes.of((batch, heads), width, cut), _compact(x)
        order, tasks, blocks = (torch.tensor(table) for table in (cut.order, cut.tasks, cut.blocks))
        nearest, assignment = (torch.empty(x.shape[:3], dtype=torch.int32) for _ in range(2))
        score, lengths = torch.empty(x.shape[:3]), torch.empty(x.shape[:2], dtype=torch.int32)
        calls = {
            "nearest": self.call(nearest_kernel("main", sizes, place, self.unit), [x, order, tasks, nearest, score])
        }
        chosen: list[Tensor] = []
        if alone:
            kernel = distance_kernel("main", sizes, place, self.unit.lanes)
            calls["distance"] = self.call(kernel, [x, order, blocks, nearest, score])
        if count := alone or merged:
            chosen = [score, torch.empty((batch, 1 + heads), dtype=torch.int32)]
            kernel = largest_kernel("main", batch, heads, tokens, count, self.unit.lanes)
            calls["largest"] = self.call(kernel, chosen)
        kernel = number_kernel("main", (batch, heads), tokens, chosen_merge=bool(merged) if chosen else None)
        calls["number"] = self.call(kernel, [nearest, order, *chosen, assignment, lengths])
        for call in calls.values():
            call()
        return calls, assignment, lengths

    def merging(self, x: Tensor, given: Tensor, assignment: Tensor, slots: int) -> tuple[Call, Tensor, Tensor]:
        """Means by an assignment, called once: tokens and sizes with it."""
        *leading, tokens, width = x.shape
        y, total = torch.empty(*leading, slots, width), torch.empty(*leading, slots)
        sizes, by_length = MergeSizes(tuple(leading), tokens, slots, width), given.dtype == torch.int32
        kernel = merge_kernel("main", sizes, _compact(x), self.unit.lanes, by_length=by_length)
        call = self.call(kernel, [x, given, assignment, y, total])
        call()
        return call, y, total

    def copying(self, y: Tensor, assignment: Tensor) -> Call:
        """Copies to (B, N, H, D)."""
        batch, heads, slots, width = y.shape
        copied = torch.empty(batch, assignment.shape[-1], heads, width)
        place = Operand(tuple(copied.shape), (copied.stride(0), width, heads * width, 1))
        sizes = MergeSizes((batch, heads), assignment.shape[-1], slots, width)
        return self.call(copy_kernel("main", sizes, place, self.unit.lanes), [y, assignment, copied])

    def attention(self, tensors: Sequence[Tensor], **beside: Tensor) -> tuple[Call, Tensor]:
        """Attention of (B, H, N, D) tensors, called once."""
        query, key, _ = tensors
        y = torch.empty_like(query)
        batch, heads, queries, width = query.shape
        sizes = AttentionSizes((batch, heads), queries, key.shape[2], width, width)
        products = FloatProducts(sizes, choose_attention(sizes, self.unit, self.machine.threads), self.unit.lanes)
        names = dict(zip(("query", "key", "value"), tensors, strict=True))
        places = {name: _compact(tensor) for name, tensor in {**names, "out": y}.items()}
        for name, tensor in beside.items():
            strides = (*tensor.stride()[:2], 0, 1) if name == "mask" else tensor.stride()
            places[name] = Operand(tuple(tensor.shape), strides)
        kernel = attention_kernel("main", sizes, Operands(**places), width**-0.5, products)
        call = self.call(kernel, [*tensors, *beside.values(), y])
        call()
        return call, y


def _compact(x: Tensor) -> Operand:
    return Operand(tuple(x.shape), contiguous_strides(x.shape))


def merged_attention(
    kernels: Kernels, video: Video, setting: Setting, tensors: Sequence[Tensor]
) -> dict[str, dict[str, Call]]:
    """Calls of all kernels, by what they belong to."""
    query, key, value = tensors

    def cut(kept: float) -> tuple[Cut, int]:
        blocks = Blocks(video.tokens, video.frames, video.special, setting.places, setting.depth, kept, anchored=False)
        return cut_blocks(blocks, video.width), blocks.count

    (of_queries, least), (of_keys, keys) = cut(setting.queries), cut(setting.keys)
    alone = most_outliers(video.heads, video.tokens, setting.outliers)
    matching: dict[str, Call] = {}
    calls, to_query, queries = kernels.matching(query, of_queries, alone)
    matching.update({f"Q {name}": call for name, call in calls.items()})
    calls, to_key, lengths = kernels.matching(key, of_keys, 0)
    matching.update({f"K {name}": call for name, call in calls.items()})
    room = min(video.tokens, least + alone)
    aggregation: dict[str, Call] = {}
    aggregation["Q merge"], merged_query, _ = kernels.merging(query, queries, to_query, room)
    aggregation["K merge"], merged_key, size = kernels.merging(key, lengths, to_key, keys)
    aggregation["V merge"], merged_value, _ = kernels.merging(value, lengths, to_key, keys)
    merged = (merged_query, merged_key, merged_value)
    attend, y = kernels.attention(merged, mask=size.log()[:, :, None].contiguous(), query_lengths=queries)
    aggregation["copy"] = kernels.copying(y, to_query)
    return {"matching": matching, "aggregation": aggregation, "attention": {"attention": attend}}


def of_frame_sequence(smooth: float, video: Video) -> Tensor:
    """Tokens of one head after the other that change from frame to frame as little as ``smooth`` is near one."""
    own = torch.randn(1, video.heads, 1, video.of_frame, video.width)
    noise = torch.randn(1, video.heads, video.frames, video.of_frame, video.width)
    return (smooth * own + (1 - smooth) * noise).flatten(2, 3)


def show_video(given: argparse.Namespace, console: Console) -> None:
    """A table for each number of frames."""
    kernels = Kernels(given.threads)
    for frames in given.frames:
        video = Video(frames, heads=given.heads)
        setting = Setting(places=given.places, depth=given.depth)
        tensors = [of_frame_sequence(0.7, video) for _ in range(3)]
        parts = merged_attention(kernels, video, setting, tensors)
        one_head = [tensor[:, :1].contiguous() for tensor in tensors]
        all_tokens, _ = kernels.attention(one_head)
        calls = {name: call for part in parts.values() for name, call in part.items()}
        times = in_turns({**calls, "all tokens, one head": all_tokens}, given.rounds)
        table = Table("part", "best ms", "median ms", "÷ reduced attention", title=f"{frames} frames, {setting}")

        def row(
            name: str, best: float, middle: float, table: Table = table, times: dict[str, list[float]] = times
        ) -> None:
            share = best / min(times["attention"])
            table.add_row(name, f"{1e3 * best:.2f}", f"{1e3 * middle:.2f}", f"{share:.3f}")

        totals = {
            name: [sum(each) for each in zip(*(times[call] for call in part), strict=True)]
            for name, part in parts.items()
        }
        for name in calls:
            row(name, min(times[name]), statistics.median(times[name]))
        table.add_section()
        for name, each in totals.items():
            row(name, min(each), statistics.median(each))
        whole = [sum(each) for each in zip(*totals.values(), strict=True)]
        dense = [video.heads * each for each in times["all tokens, one head"]]
        row("whole", min(whole), statistics.median(whole))
        row(f"all tokens, {video.heads} times one head", min(dense), statistics.median(dense))
        console.print(table)
        ratio, middle = min(dense) / min(whole), statistics.median(dense) / statistics.median(whole)
        console.print(f"all tokens ÷ whole: {ratio:.2f} ({middle:.2f})")


def show_images(given: argparse.Namespace, console: Console) -> None:
    """What merging 16 of an image's tokens takes, beside its attention."""
    kernels = Kernels(given.threads)
    table = Table("network", "part", "best µs", "median µs", title="merging of 16 tokens, and attention of all")
    for name, (heads, width) in {"DeiT-S": (6, 64), "ViT-B": (12, 64)}.items():
        metric, size = torch.randn(1, 1, 197, width), torch.ones(1, 197)
        calls, assignment, _ = kernels.matching(metric, cut_pairs(197, 1, width), 0, merged=16)
        calls["merge"], _, _ = kernels.merging(
            torch.randn(1, 197, heads * width), size, assignment[:, 0].contiguous(), 181
        )
        calls["attention"], _ = kernels.attention([torch.randn(1, heads, 197, width) for _ in range(3)])
        for part, times in in_turns(calls, given.rounds).items():
            table.add_row(name, part, f"{1e6 * min(times):.1f}", f"{1e6 * statistics.median(times):.1f}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens", description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--places", type=int, default=128)
    parser.add_argument("--depth", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--matching", action="store_true", help="the matching of images")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        (show_images if given.matching else show_video)(given, Console(width=120))


if __name__ == "__main__":
    main()
