"""Joining the other processes of a run that ``torchrun`` started."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from haste_compiler.errors import HasteError, first_line

if TYPE_CHECKING:
    from haste_compiler.validation.processes import Processes

_PATIENCE = datetime.timedelta(seconds=60)
"""How long the processes wait for each other at the start."""

_LONGEST = datetime.timedelta(days=1)
"""How long the one that is done first may wait for the last one's share of the images."""


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that share the work: those of ``WORLD_SIZE``, or this one alone where it isn't set.

    Raises:
        HasteError: ``WORLD_SIZE`` is set, but the processes can't find each other.
    """
    from haste_compiler.validation.processes import Processes

    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield Processes()
        return
    from torch import distributed

    try:
        _join(int(size), int(os.environ["RANK"]))
    except Exception as error:
        reason = f"{error.args[0]} is not set" if isinstance(error, KeyError) else first_line(error)
        raise HasteError(
            f"WORLD_SIZE is {size}, but the process group can't be made: {reason}. Start with `torchrun "
            "--nproc-per-node N -m haste_compiler.cli validate …`, or unset WORLD_SIZE"
        ) from error
    try:
        yield Processes.of_default_group()
    finally:
        distributed.destroy_process_group()


def _join(size: int, rank: int) -> None:
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ[name]  # a KeyError names it
    store, rank, size = next(rendezvous("env://", rank, size, timeout=_PATIENCE))
    both = torch.cuda.is_available() and distributed.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if both else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_LONGEST)
