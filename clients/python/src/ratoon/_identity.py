"""Who this worker is, and the whole pool's status."""

from __future__ import annotations

import http.client
import json
import os
import socket
from dataclasses import dataclass
from typing import Any, Dict, Optional


@dataclass(frozen=True)
class Identity:
    """The words of ratoon(1)."""

    instance: str
    generation: int
    worker: int
    slot: int


def identity() -> Optional[Identity]:
    """Who this worker is, or None without a master."""
    environ = os.environ
    if "RATOON_INSTANCE" not in environ:
        return None
    generation, worker, slot = (int(environ.get(f"RATOON_{name}") or 0) for name in ("GENERATION", "WORKER", "SLOT"))
    return Identity(environ["RATOON_INSTANCE"], generation, worker, slot)


class _ControlConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def server_status(timeout: float = 10) -> Dict[str, Any]:
    """The status document of the whole pool (docs/contract.md §6). `timeout` in seconds.

    Raises RuntimeError without a master, OSError when it cannot be reached.
    """
    path = os.environ.get("RATOON_CONTROL")
    if not path:
        raise RuntimeError("RATOON_CONTROL is not set: this process has no master")
    connection = _ControlConnection(path, timeout)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise OSError(f"GET /status at {path}: HTTP {response.status}: {body.decode(errors='replace').strip()}")
        document: Dict[str, Any] = json.loads(body)
        return document
    finally:
        connection.close()
