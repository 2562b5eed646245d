"""What a worker of Ratoon links: sockets, readiness, drain, and what it is doing.

Each call does nothing where the program runs without a master, so the same program runs alone.
"""

from ._drain import begin_drain, draining, handle_sigterm, when_draining
from ._identity import Identity, identity, server_status
from ._notify import feed_watchdog, info, leaving, notify, ready, status, supervised
from ._scoreboard import count, describe
from ._sockets import handed_sockets

__all__ = [
    "Identity",
    "begin_drain",
    "count",
    "describe",
    "draining",
    "feed_watchdog",
    "handed_sockets",
    "handle_sigterm",
    "identity",
    "info",
    "leaving",
    "notify",
    "ready",
    "server_status",
    "status",
    "supervised",
    "when_draining",
]
