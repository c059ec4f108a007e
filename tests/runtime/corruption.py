"""Spoiling a saved network's file at random, and loading what is left; run as a program, so that a crash is seen.

    python -m tests.runtime.corruption FILE FOLDER FIRST LAST

prints a line for each seed from FIRST up to LAST: "refused", "harmless" or what went wrong.
"""

import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import haste_compiler
from haste_compiler import HasteError


def flip(data: bytearray, draw: random.Random) -> bytes:
    """Change up to eight bytes anywhere."""
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] ^= draw.randint(1, 255)
    return bytes(data)


def flip_directory(data: bytearray, draw: random.Random) -> bytes:
    """Change up to four bytes where the zip says what is in it, or of the first entries."""
    for _ in range(draw.randint(1, 4)):
        place = draw.choice([draw.randrange(400), len(data) - 1 - draw.randrange(400)])
        data[place] ^= draw.randint(1, 255)
    return bytes(data)


def cut(data: bytearray, draw: random.Random) -> bytes:
    """Keep the beginning."""
    return bytes(data[: draw.randrange(len(data))])


def remove(data: bytearray, draw: random.Random) -> bytes:
    """Take a piece out."""
    start = draw.randrange(len(data))
    del data[start : start + draw.randint(1, 4096)]
    return bytes(data)


def insert(data: bytearray, draw: random.Random) -> bytes:
    """Put bytes in."""
    place = draw.randrange(len(data) + 1)
    data[place:place] = draw.randbytes(draw.randint(1, 4096))
    return bytes(data)


def clear(data: bytearray, draw: random.Random) -> bytes:
    """Write zeros over a piece, as a disk does that lost some sectors."""
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.randint(1, 65536))
    data[start:end] = bytes(end - start)
    return bytes(data)


def move(data: bytearray, draw: random.Random) -> bytes:
    """Exchange two pieces."""
    size = draw.randint(1, len(data) // 4)
    first = draw.randrange(len(data) // 2 - size)
    second = draw.randrange(len(data) // 2, len(data) - size)
    a, b = slice(first, first + size), slice(second, second + size)
    data[a], data[b] = data[b], data[a]
    return bytes(data)


RAW = (flip, flip_directory, cut, remove, insert, clear, move)


def swap_parts(source: Path, target: Path, draw: random.Random) -> None:
    """Write a sound zip in which two parts have each other's content, or one is missing, empty or there twice."""
    with zipfile.ZipFile(source) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    first, second = draw.sample(range(len(parts)), 2)
    how = draw.choice(["swap", "drop", "empty", "again"])
    if how == "swap":
        (a, x), (b, y) = parts[first], parts[second]
        parts[first], parts[second] = (a, y), (b, x)
    elif how == "drop":
        del parts[first]
    elif how == "empty":
        parts[first] = (parts[first][0], b"")
    else:
        parts.append((parts[first][0], parts[second][1]))
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in parts:
            archive.writestr(zipfile.ZipInfo(name), content)


def spoil(source: Path, target: Path, seed: int) -> str:
    """Write a spoiled copy of a file; returns how it was spoiled."""
    draw = random.Random(seed)
    if draw.random() < 0.15:
        swap_parts(source, target, draw)
        return "swap_parts"
    change: Callable[[bytearray, random.Random], bytes] = draw.choice(RAW)
    target.write_bytes(change(bytearray(source.read_bytes()), draw))
    return change.__name__


def outcome(path: Path, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]], expected: bytes) -> str:
    """What loading a file leads to."""
    try:
        network = haste_compiler.load(path)
    except HasteError as error:
        return "refused" if str(path) in str(error) else f"refused without naming the file: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "harmless" if network(x).tobytes() == expected else "other outputs"


def main(file: Path, folder: Path, first: int, last: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 32, 32), np.float32)
    expected = haste_compiler.load(file)(x).tobytes()
    for seed in range(first, last):
        path = folder / f"{seed}.haste"
        how = spoil(file, path, seed)
        # Said before it is loaded: the last line names what crashed.
        print(seed, how, end=" ", flush=True)
        print(outcome(path, x, expected), flush=True)
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
