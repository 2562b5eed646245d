"""uvicorn as a worker: READY=1 after the application's startup, TCP_NODELAY, and a drain that loses no request."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any, Dict, List, Optional

import uvicorn

from .. import _scoreboard, begin_drain, handed_sockets, ready
from . import Shown
from ._accept import stop_accepting

#: More than any kernel's limit, which cuts it (listen(2)): the socket keeps the backlog that it was made with.
BACKLOG = 65535


class Server(uvicorn.Server):
    """Serves on the handed sockets, else where the options say."""

    def run(self, sockets: Optional[List[Any]] = None) -> None:
        handed = [sock for _, sock in handed_sockets()]
        if handed:
            self.config.backlog = BACKLOG
        super().run(sockets=handed or sockets)

    async def _serve(self, sockets: Optional[List[Any]] = None) -> None:
        if not self.config.loaded:
            self.config.load()
        self.config.loaded_app = Shown(self.config.loaded_app)
        await super()._serve(sockets)

    async def startup(self, sockets: Optional[List[Any]] = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            ready()

    async def shutdown(self, sockets: Optional[List[Any]] = None) -> None:
        begin_drain()
        grace, deadline = _scoreboard.drain_times()
        await stop_accepting(self.servers)
        await self._drain(grace, time.monotonic() + deadline)
        await super().shutdown(sockets=sockets)

    async def _drain(self, grace: float, until: float) -> None:
        """Waits until each connection was told `Connection: close` with an answer, or was idle for `grace` seconds."""
        idle_since: Dict[Any, float] = {}
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if not hasattr(connection, "cycle"):
                    connection.shutdown()  # a WebSocket: it is told 1012, service restart
                    continue
                # uvicorn would close it after timeout_keep_alive, under a request that is on its way.
                timer = getattr(connection, "timeout_keep_alive_task", None)
                if timer is not None:
                    timer.cancel()
                if connection.cycle is not None and not connection.cycle.response_complete:
                    idle_since.pop(connection, None)
                elif now - idle_since.setdefault(connection, now) > grace:
                    connection.shutdown()
            await asyncio.sleep(0.05)


def run(arguments: List[str]) -> None:
    """uvicorn's command line with this server."""
    # The package has a function of the same name.
    command_line = importlib.import_module("uvicorn.main")
    command_line.Server = Server  # type: ignore[attr-defined]
    for option in ("--workers", "--reload"):
        if any(argument == option or argument.startswith(option + "=") for argument in arguments):
            print(f"ratoon.asgi: {option} is Ratoon's business: take it out, and set worker.count", file=sys.stderr)
            raise SystemExit(2)
    command_line.main(args=arguments, prog_name="python -m ratoon.asgi")
