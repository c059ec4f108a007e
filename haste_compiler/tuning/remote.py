"""Timing kernels on other machines: the servers that one of TVM's RPC trackers knows under a key."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from tvm import rpc

from haste_compiler.codegen.job import Job
from haste_compiler.codegen.library import Code
from haste_compiler.errors import TuningError, last_line
from haste_compiler.files import scratch_folder
from haste_compiler.tuning.device import FILL, median_seconds

_ATTEMPTS = 3
"""Servers that may fail at one and the same library before it is the library's fault."""

_LONGEST_SESSION = 120.0
"""Seconds after which a server ends a session by itself."""

_LONGEST_ATTEMPT = 300.0
"""Seconds to wait for a server that is free and for its answer: one without power closes no connection."""

_POLL = 0.5
_BIG_CORES = 1

T = TypeVar("T")


class RemoteDevices:
    """Servers of one kind, used side by side. One that dies is done without: what it was asked, another is.

    Args:
        tracker: its address, "host:port".
        key: the servers' key.
        threads: threads of TVM's pool that work on a kernel there.

    Raises:
        TuningError: no tracker is there, or it knows no server of that key.
    """

    def __init__(self, tracker: str, key: str, threads: int) -> None:
        self._tracker, self._key, self._threads = tracker, key, threads
        self._address = _address(tracker)
        self._reason = ""
        self.at_once = 1 + self._check()

    def time(self, job: Job, code: Code) -> dict[str, float]:
        """Median seconds of one call of each kernel of a job, on a server that is free.

        Raises:
            TuningError: no server is left, several failed at these kernels, or none became free.
            TargetError: there is no linker for the target.
        """
        with scratch_folder() as folder:
            library = folder / "kernels.so"
            code.write_library(library)
            for _ in range(_ATTEMPTS):
                try:
                    return self._within(_LONGEST_ATTEMPT, partial(self._attempt, library, job))
                except (RuntimeError, OSError) as error:
                    self._reason = f": {last_line(error)}"
        raise TuningError(
            f"{_ATTEMPTS} servers of key {self._key!r} at {self._tracker} failed at the same kernels{self._reason}"
        )

    def _attempt(self, library: Path, job: Job) -> dict[str, float]:
        """A session of its own for each job: one that loaded two libraries of the same name would crash."""
        tracker = rpc.connect_tracker(*self._address)
        session = tracker.request(self._key, session_timeout=_LONGEST_SESSION, max_retry=1)
        session.get_function("runtime.config_threadpool")(_BIG_CORES, self._threads)
        threads = session.get_function("runtime.NumThreads")()
        if threads != self._threads:
            raise TuningError(
                f"a server of key {self._key!r} uses {threads} threads where {self._threads} were asked for: start it "
                f"with TVM_NUM_THREADS={self._threads}"
            )
        session.upload(str(library))
        return median_seconds(job, session.load_module(library.name), session.cpu(), session.get_function(FILL))

    def _within(self, seconds: float, function: Callable[[], T]) -> T:
        """What a function returns, but no longer than so many seconds, and only as long as there is a server."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                # A session ends with the last reference to it: the traceback's frames would keep the server busy.
                future.set_exception(error.with_traceback(None))

        threading.Thread(target=work, daemon=True).start()
        end = time.monotonic() + seconds
        while not wait([future], _POLL).done:
            self._check()
            if time.monotonic() > end:
                raise TimeoutError(f"a server said nothing for {seconds:.0f} s")
        return future.result()

    def _check(self) -> int:
        """How many servers there are.

        Raises:
            TuningError: none, or no tracker.
        """
        try:
            # TVM's client would go on trying for a minute.
            socket.create_connection(self._address, timeout=10).close()
            known = rpc.connect_tracker(*self._address).summary()["server_info"]
        except (OSError, RuntimeError) as error:
            raise TuningError(f"no RPC tracker answers at {self._tracker}: {last_line(error)}") from None
        servers = sum(server["key"] == f"server:{self._key}" for server in known)
        if not servers:
            left = " left" if hasattr(self, "at_once") else ""
            raise TuningError(
                f"the RPC tracker at {self._tracker} has no server of key {self._key!r}{left}{self._reason}"
            )
        return servers


def _address(tracker: str) -> tuple[str, int]:
    host, _, port = tracker.rpartition(":")
    if not host or not port.isdecimal():
        raise TuningError(f"tracker is {tracker!r}: allowed is its address, host:port")
    return host, int(port)
