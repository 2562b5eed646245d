"""Imports the modules of the workers' server in the preload process, before the first fork.

A module that each worker imports by itself costs memory of its own and CPU time in each. Only modules of known servers are imported here:
another one may open descriptors when it is imported, which all workers would share (daphne makes an event loop).
"""

from __future__ import annotations

import ast
import contextlib
import importlib
from typing import Dict, Iterator, List, Tuple

#: Modules of the known servers, by the package: that of the console script, and those that it imports when it starts to serve.
_SERVERS: Dict[str, Tuple[str, ...]] = {
    "celery": ("celery.bin.celery", "celery.apps.worker", "celery.concurrency.prefork", "celery.worker.worker"),
    "gunicorn": ("gunicorn.app.wsgiapp", "gunicorn.workers.sync", "gunicorn.workers.gthread"),
    "hypercorn": ("hypercorn.asyncio.run",),
    "uvicorn": (
        "uvicorn.main",
        "uvicorn.lifespan.on",
        "uvicorn.loops.auto",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto",
    ),
}
#: The most bytes of a program that are read to find its imports: a console script has some hundred.
_SCRIPT_MAX = 4096


def load(program: str, argv: List[str]) -> None:
    """Imports the modules of the server that this command runs. A module that cannot be imported is left to the worker, which tells why."""
    for name in _modules(program, argv):
        # The import of a module may end the process, or fail in any way.
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)


def _modules(program: str, argv: List[str]) -> Iterator[str]:
    if "-m" in argv[:-1]:
        named = [argv[argv.index("-m") + 1]]
    else:
        named = _imports(program)
    for name in named:
        yield from _SERVERS.get(name.partition(".")[0], ())


def _imports(program: str) -> List[str]:
    """The modules from which a console script imports what it calls; none for another program."""
    try:
        with open(program, "rb") as file:
            text = file.read(_SCRIPT_MAX + 1)
        if len(text) > _SCRIPT_MAX or not text.startswith(b"#!"):
            return []
        body = ast.parse(text).body
    except (OSError, ValueError, SyntaxError):
        return []
    return [line.module for line in body if isinstance(line, ast.ImportFrom) and line.module and not line.level]
