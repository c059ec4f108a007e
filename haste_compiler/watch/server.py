"""Serving the page: to this machine alone, unless another address is asked for."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import signal
from collections.abc import Sequence
from functools import partial

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.routing import HostMatches, Rule, RuleRouter

from haste_compiler.errors import ConfigError
from haste_compiler.watch.network import Watched
from haste_compiler.watch.page import make_page
from haste_compiler.watch.scene import MOST_BYTES, Scene
from haste_compiler.watch.worker import Worker

LOOPBACK = "127.0.0.1"

_MOST_MESSAGE = 4 * MOST_BYTES
"""Of a message from the page, in bytes: a file that is too large is read, to be refused in words."""


class WatchServer:
    """A server of the page. Requests that name another host, and pages of other origins, are refused.

    Args:
        watched: the network.
        scenes: that a tab begins with.
        normalize: of files that are opened, see ``read_scene``.
        address: an address of this machine.
        port: where it listens; any other that is free, where that one is taken.

    Raises:
        ConfigError: the address is none of this machine's, or means all of them.
    """

    def __init__(
        self,
        watched: Watched,
        scenes: Sequence[Scene],
        *,
        normalize: bool = True,
        address: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        hosts = _hosts(address)
        try:
            try:
                sockets = bind_sockets(port, address)
            except OSError:
                sockets = bind_sockets(0, address)
        except OSError as error:
            raise ConfigError(f"can't listen at {address}: {error.strerror or error}") from None
        self.port: int = sockets[0].getsockname()[1]
        named = f"[{address}]" if ":" in address else address
        self.url = f"http://{named}:{self.port}/"
        self._worker = Worker()
        page = partial(make_page, watched=watched, scenes=scenes, worker=self._worker, normalize=normalize)
        pages = BokehTornado(
            {"/": Application(FunctionHandler(page))},
            extra_websocket_origins=[f"{host}:{self.port}" for host in hosts],
            websocket_max_message_size_bytes=_MOST_MESSAGE,
        )
        allowed = "|".join(map(re.escape, hosts))
        # A page of another origin whose name is made to mean this address sends that name: it gets "not found".
        http = HTTPServer(RuleRouter([Rule(HostMatches(f"^(?:{allowed})$"), pages)]), max_buffer_size=_MOST_MESSAGE)
        self.loop = IOLoop.current()
        self._server = BaseServer(self.loop, pages, http)
        http.add_sockets(sockets)
        self._server.start()

    def run(self) -> None:
        """Serve until ``stop``, or an interrupt.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        interrupts: list[int] = []

        def interrupt() -> None:
            interrupts.append(signal.SIGINT)
            self.loop.stop()

        # Raised anywhere, an interrupt would be logged as some callback's error.
        asyncio_loop = asyncio.get_event_loop_policy().get_event_loop()
        asyncio_loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            self.loop.start()
        finally:
            asyncio_loop.remove_signal_handler(signal.SIGINT)
            self.close()
        if interrupts:
            raise KeyboardInterrupt

    def close(self) -> None:
        """End serving, after what is being computed."""
        self._server.stop()
        self._worker.close()


def _hosts(address: str) -> tuple[str, ...]:
    """What a request may call an address.

    Raises:
        ConfigError: it means all addresses.
    """
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return (address,)
    if known.is_unspecified:
        raise ConfigError(f"{address} means all addresses of this machine: give one of them")
    own = f"[{address}]" if known.version == 6 else address
    return (own, "localhost") if known.is_loopback else (own,)
