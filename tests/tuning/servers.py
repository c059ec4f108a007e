"""A tracker and servers of TVM's RPC on this machine."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from tvm import rpc

psutil = pytest.importorskip("psutil", reason="psutil not found: install the dev extra")
pytest.importorskip("tornado", reason="tornado not found: install the dev extra")

from tvm.rpc.server import Server  # noqa: E402
from tvm.rpc.tracker import Tracker  # noqa: E402

HOST, KEY = "127.0.0.1", "board"


class Farm:
    """One tracker and some servers."""

    def __init__(self, servers: int) -> None:
        self._tracker = Tracker(HOST, port=9190, port_end=9690, silent=True)
        self._address = (HOST, self._tracker.port)
        self.tracker = f"{HOST}:{self._tracker.port}"
        options: Any = {"tracker_addr": self._address, "key": KEY, "silent": True, "custom_addr": HOST}
        with ThreadPoolExecutor(servers) as pool:
            started = [pool.submit(Server, HOST, port=9700, port_end=9990, **options) for _ in range(servers)]
            self._servers = [server.result() for server in started]
        self._wait(lambda: len(self.known()) == servers)

    def known(self) -> list[str]:
        """The keys of the servers that the tracker knows."""
        return [server["key"] for server in rpc.connect_tracker(*self._address).summary()["server_info"]]

    def kill_busy(self) -> None:
        """Kill a server with a session, as a crash would."""
        left = len(self.known())
        processes = {server: psutil.Process(server.proc._proc.pid) for server in self._servers}
        server, sessions = next(
            (server, sessions)
            for server, process in processes.items()
            if (sessions := process.children(recursive=True))
        )
        self._servers.remove(server)
        for each in (processes[server], *sessions):
            each.kill()
        self._wait(lambda: len(self.known()) < left)

    def close(self) -> None:
        """End everything."""
        for server in self._servers:
            server.terminate()
        self._tracker.terminate()

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "servers that neither come nor go"
            time.sleep(0.05)


@contextmanager
def farm(servers: int) -> Iterator[Farm]:
    made = Farm(servers)
    try:
        yield made
    finally:
        made.close()
