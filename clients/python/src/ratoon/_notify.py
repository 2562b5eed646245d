"""Messages to the master, as in sd_notify(3)."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any, Mapping, Union

from . import _scoreboard

Value = Union[str, int, Mapping[str, Any]]

#: Read once, so that a server which says READY=1 too early can be kept from it (ratoon.gunicorn).
_path = os.environ.get("NOTIFY_SOCKET")


def forked() -> None:
    """Call in a forked process that is a worker of its own: it has another NOTIFY_SOCKET, and no thread that feeds the watchdog."""
    global _path, _feeding
    _path, _feeding = os.environ.get("NOTIFY_SOCKET"), threading.Lock()


def supervised() -> bool:
    """Whether a master listens: NOTIFY_SOCKET was set when the library was imported."""
    return _path is not None


def notify(**assignments: Value) -> bool:
    """Sends assignments, like ``notify(READY=1)``; a mapping is sent as JSON.

    Returns whether they were sent: False without a master, and when it cannot be reached. A full queue is waited for, at most a second.
    """
    if _path is None:
        return False
    text = "\n".join(f"{name}={_format(value)}" for name, value in assignments.items())
    address = "\0" + _path[1:] if _path.startswith("@") else _path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1)
            sock.sendto(text.encode(), address)
    except OSError:
        return False
    return True


def _format(value: Value) -> str:
    return json.dumps(value) if isinstance(value, Mapping) else str(value).replace("\n", " ")


def ready() -> bool:
    """Says READY=1: this worker serves. Feeds the watchdog from then on, and takes the status page, which shows no requests so far."""
    _scoreboard.board()
    feed_watchdog()
    return notify(READY=1)


def status(text: str) -> bool:
    """Says STATUS=, a line that `ratoon status` shows."""
    return notify(STATUS=text)


def leaving() -> bool:
    """Says STOPPING=1: this worker leaves by its own will, and a replacement starts at once."""
    return notify(STOPPING=1)


def info(**values: Any) -> bool:
    """Shows a JSON object of at most 3 KiB as the worker's info."""
    return notify(X_RATOON_INFO=values)


_feeding = threading.Lock()


def feed_watchdog() -> None:
    """Sends WATCHDOG=1 at half of WATCHDOG_USEC from a thread of its own, where `worker.watchdog` is set.

    That shows that the interpreter runs. A program whose event loop may hang says WATCHDOG=1 from the loop instead.
    """
    microseconds = int(os.environ.get("WATCHDOG_USEC") or 0)
    if not supervised() or microseconds <= 0 or not _feeding.acquire(blocking=False):
        return
    stop = threading.Event()

    def feed() -> None:
        while True:
            notify(WATCHDOG=1)
            stop.wait(microseconds / 2e6)

    threading.Thread(target=feed, name="ratoon-watchdog", daemon=True).start()
