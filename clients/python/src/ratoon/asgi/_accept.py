"""Stops accepting on asyncio servers without losing a connection that was accepted already."""

from __future__ import annotations

import asyncio
from typing import Any, Iterable

#: Seconds in which connections that the loop has accepted get their transports: asyncio makes them in a later turn, and refuses to
#: when the server is closed by then.
SETTLE = 0.05


async def stop_accepting(servers: Iterable[Any]) -> None:
    """Leaves new connections in the kernel's queue, for other workers; then closes the servers."""
    loop = asyncio.get_running_loop()
    servers = list(servers)
    if isinstance(loop, asyncio.SelectorEventLoop):
        for server in servers:
            for sock in server.sockets:
                loop.remove_reader(sock.fileno())
        await asyncio.sleep(SETTLE)
    # Other loops (uvloop) make the transport when they accept.
    for server in servers:
        server.close()
