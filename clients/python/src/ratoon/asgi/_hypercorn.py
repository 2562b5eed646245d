"""hypercorn as a worker: READY=1 after the application's startup, and a drain that loses no request."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Any, List

import hypercorn.__main__ as command_line
import hypercorn.asyncio.run as runner
from hypercorn.config import Config

from .. import _scoreboard, begin_drain, handed_sockets, ready
from . import Shown
from ._accept import stop_accepting

BACKLOG = 65535


async def _worker_serve(app: Any, config: Config, *, sockets: Any = None, shutdown_trigger: Any = None) -> None:
    servers: List[Any] = []
    open_connections = 0
    drain_asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain_asked.set)
    loop.add_signal_handler(signal.SIGINT, drain_asked.set)
    start_server = asyncio.start_server

    async def recording_start_server(callback: Any, **options: Any) -> Any:
        async def counted(reader: Any, writer: Any) -> None:
            nonlocal open_connections
            open_connections += 1
            try:
                await callback(reader, writer)
            finally:
                open_connections -= 1

        server = await start_server(counted, **options)
        servers.append(server)
        return server

    async def drained() -> None:
        ready()
        await drain_asked.wait()
        begin_drain()
        grace, _ = _scoreboard.drain_times()
        # An idle connection is kept for so long; with its next answer it is told `Connection: close` (Shown).
        config.keep_alive_timeout = grace
        await stop_accepting(servers)
        until = time.monotonic() + grace
        while open_connections and time.monotonic() < until:
            await asyncio.sleep(0.05)

    asyncio.start_server = recording_start_server  # type: ignore[assignment]
    try:
        await _original(_wrapped(app), config, sockets=sockets, shutdown_trigger=drained)
    finally:
        asyncio.start_server = start_server


def _wrapped(app: Any) -> Any:
    """hypercorn calls an application with helpers of its own beside the three of ASGI; only the scope and `send` matter here."""

    async def wrapper(scope: Any, receive: Any, send: Any, *helpers: Any) -> None:
        async def inner(inner_scope: Any, inner_receive: Any, inner_send: Any) -> None:
            await app(inner_scope, inner_receive, inner_send, *helpers)

        await Shown(inner)(scope, receive, send)

    return wrapper


_original = runner.worker_serve


def run(arguments: List[str]) -> None:
    """hypercorn's command line with this server."""
    if any(argument in ("-w", "--workers", "--reload") or argument.startswith("--workers=") for argument in arguments):
        print("ratoon.asgi: --workers and --reload are Ratoon's business: take them out, and set worker.count", file=sys.stderr)
        raise SystemExit(2)
    runner.worker_serve = _worker_serve
    # Without a process of its own for the worker.
    arguments = ["--workers", "0", "--backlog", str(BACKLOG), *arguments]
    for _, sock in handed_sockets():
        arguments = ["--bind", f"fd://{sock.detach()}", *arguments]
    command_line.main(arguments)
