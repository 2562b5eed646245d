"""The listening sockets that the master hands over, as sd_listen_fds(3): descriptors from 3 on, LISTEN_FDS of them."""

from __future__ import annotations

import os
import socket
from typing import List, Mapping, Optional, Tuple

FIRST = 3


def handed_sockets(environ: Optional[Mapping[str, str]] = None) -> List[Tuple[str, socket.socket]]:
    """The handed sockets in their order, each with its name in LISTEN_FDNAMES.

    LISTEN_PID is not compared: a wrapper passes the sockets on to a child. A descriptor that is no socket is left out instead.
    """
    environ = os.environ if environ is None else environ
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for index in range(int(environ.get("LISTEN_FDS") or 0)):
        try:
            # Family, type and protocol come from the kernel: asyncio sets TCP_NODELAY only on a socket whose protocol is TCP.
            sock = socket.socket(fileno=FIRST + index)
        except OSError:
            continue
        found.append((names[index] if index < len(names) else "", sock))
    return found
