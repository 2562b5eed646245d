"""A configuration module for gunicorn: `gunicorn --config python:ratoon.gunicorn app:app`.

gunicorn's arbiter says READY=1 before its worker has imported the application, so a broken release would count as ready. With this
module READY=1 comes from gunicorn's worker, after the import. Requests are shown on the status page.

One gunicorn worker is one worker of Ratoon: `--workers` stays 1; `--threads 4` gives it threads.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from . import asgi, ready, wsgi

# The arbiter says nothing without it. The library has read it already (ratoon._notify).
os.environ.pop("NOTIFY_SOCKET", None)

#: Ratoon is asked by its own control socket.
control_socket_disable = True

#: More than any kernel's limit, which cuts it (listen(2)): the socket keeps the backlog that it was made with.
backlog = 65535


def post_worker_init(worker: Any) -> None:
    """Called in gunicorn's worker when it has loaded the application, right before it accepts."""
    if _serves_with_uvicorn(worker):
        return
    module = type(worker).__module__
    worker.wsgi = asgi.Shown(worker.wsgi) if "asgi" in module else wsgi.Shown(worker.wsgi)
    ready()


def _serves_with_uvicorn(worker: Any) -> bool:
    """Whether it is a uvicorn worker; if so, it serves with the `Server` of ratoon.asgi, which says READY=1 and drains without loss."""
    for module in (sys.modules[kind.__module__] for kind in type(worker).__mro__):
        if module.__name__.split(".")[0] in ("uvicorn", "uvicorn_worker") and hasattr(module, "Server"):
            from .asgi import _uvicorn

            setattr(module, "Server", _uvicorn.Server)
            return True
    return False
