"""Whether what a search promises holds on images that it didn't see: `python -m benchmarks.promise 24 64`.

Of the digits some are searched on, drawn anew for each seed; the promise is held against others.
"""

import argparse
import sys
import time

import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import SearchResult
from haste_compiler.demo import load_network, training_digits
from haste_compiler.demo.digits import held_out_digits

BUDGETS = ("min_agreement", "max_accuracy_drop", "max_output_error")


_CALL = 64
"""Images of a call. A promise is held against all images that a search didn't see, up to a whole number of calls."""


def kept(model: nn.Module, found: SearchResult, others: Tensor) -> tuple[float, bool]:
    """What became of the budget's quantity on images that a search didn't see, and whether that keeps it."""
    compiled = haste_compiler.compile(model, (others[:_CALL],), config=found.config, threads=1)
    with torch.inference_mode():
        original = torch.cat([model(batch) for batch in others.split(_CALL)]).double()
        outputs = torch.cat([compiled(batch) for batch in others.split(_CALL)]).double()
    limit = found.budget.limit
    if found.budget.kind == "max_output_error":
        error = float((outputs - original).norm() / original.norm())
        return error, error <= limit
    expected, best = original.argmax(dim=1), outputs.argmax(dim=1)
    if found.budget.kind == "min_agreement":
        agreement = float((expected == best).double().mean())
        return agreement, agreement >= limit
    sure = original.softmax(dim=1)
    rows = torch.arange(len(best))
    drop = float((sure[rows, expected] - sure[rows, best]).mean())
    return drop, drop <= limit


def main() -> None:
    """Search on so many images under every seed, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promise", description=(__doc__ or "").split(":")[0])
    parser.add_argument("images", type=int, nargs="+", help="how many are searched on")
    parser.add_argument("--budget", choices=BUDGETS, default=BUDGETS[0])
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--patches", type=int, nargs="+", default=[4])
    given = parser.parse_args()
    digits = torch.cat([training_digits()[0], held_out_digits()[0]])
    model = load_network()
    for count in given.images:
        held = 0
        for seed in range(given.seeds):
            start = time.perf_counter()
            order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
            found = haste_compiler.search(
                model,
                digits[order[:count]],
                **{given.budget: given.limit},
                patches=given.patches,
                threads=1,
                progress=False,
            )
            others = (len(digits) - count) // _CALL * _CALL
            value, holds = kept(model, found, digits[order[count : count + others]])
            held += holds
            print(
                f"{count} images, seed {seed}: {found.chosen.mac_reduction:.1%} saved, agreement "
                f"{found.chosen.agreement:.4f} on {found.images} held out; "
                f"{given.budget} {value:.4f} on {others} others, {'kept' if holds else 'MISSED'}, "
                f"{time.perf_counter() - start:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        print(f"{count} images: {given.budget}={given.limit:g} kept under {held} of {given.seeds} seeds")


if __name__ == "__main__":
    main()
