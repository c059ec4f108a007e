"""Files that are whole or not there."""

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler.files import _SETTLED, replacing, scratch_folder, write_text


def test_six_threads_save_to_one_path(tmp_path: Path) -> None:
    model, x, path = nn.Conv2d(3, 4, 3).eval(), torch.ones(1, 3, 8, 8), tmp_path / "net.haste"
    compiled = haste_compiler.compile(model, (x,))
    # What a process that was killed left behind blocks nobody.
    (tmp_path / f".net.haste.{os.getpid()}.tmp").write_text("left behind")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(compiled.save, [path] * 12))
    assert torch.equal(haste_compiler.load(path)(x), compiled(x))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_replaced_in_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as made:
        made.write_text("half")
        assert path.read_text() == "before"
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write_text(path, "after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_they_could_before(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")
    assert len({stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}) == 1


def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        write_text(tmp_path / "pipe", "through")
        assert read.result(timeout=10) == "through"
    assert (tmp_path / "pipe").is_fifo()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    held = "import os, sys; from haste_compiler.files import scratch_folder\n"
    held += "with scratch_folder(__import__('pathlib').Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    running = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    running.stdout.readline()
    (folder,) = tmp_path.iterdir()
    long_ago = time.time() - 2 * _SETTLED
    os.utime(folder, (long_ago, long_ago))
    with scratch_folder(tmp_path):
        assert folder.exists()
    running.kill()
    running.wait()
    with scratch_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert not list(tmp_path.iterdir())
