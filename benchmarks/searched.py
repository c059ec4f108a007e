"""Configurations that a search found for a case, kept in a file: ``python -m benchmarks.searched CASE FILE``."""

import argparse
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, searched_images
from haste_compiler import HasteConfig

BUDGET = 0.0125
"""Most accuracy that may be lost, as the search estimates it without labels: 1.25 points."""

_MOST_AT_ONCE = 16


def read(path: Path, case: str) -> HasteConfig | None:
    """What was found for a case; None where it wasn't searched yet, or for another budget."""
    entry = _stored(path).get(case)
    return HasteConfig.from_dict(entry["config"]) if entry and entry["budget"] == BUDGET else None


def search(path: Path, case: str) -> None:
    """Search a configuration for a case, spending the budget on time, and write it beside those of other cases.

    Raises:
        AbsentError: the case or its images are not there.
    """
    import haste_compiler

    images = searched_images(case)
    found = haste_compiler.search(
        CASES[case](1).model, images, max_accuracy_drop=BUDGET, save="time", batch_size=_MOST_AT_ONCE
    )
    point = found.chosen
    entry = {
        "budget": BUDGET,
        "images": len(images),
        "seconds": found.seconds,
        "mac_reduction": point.mac_reduction,
        "agreement": point.agreement,
        "expected_drop": point.expected_drop,
        "config": found.config.to_dict(),
    }
    made = path.with_suffix(f".{os.getpid()}")
    made.write_text(json.dumps({**_stored(path), case: entry}, indent=1) + "\n")
    os.replace(made, path)


def _stored(path: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return stored


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searched", description=(__doc__ or "").split(",")[0])
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("file", type=Path, help="JSON, read and written")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    search(given.file, given.case)
