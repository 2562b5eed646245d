"""`python -m ratoon.asgi [--server uvicorn|hypercorn] [OPTION…] app:app`: the server's own command line, as a worker."""

from __future__ import annotations

import importlib.util
import sys
from typing import List, NoReturn, Tuple

SERVERS = ("uvicorn", "hypercorn")


def main() -> None:
    server, arguments = _choose(sys.argv[1:])
    if server == "uvicorn":
        from . import _uvicorn as module
    else:
        from . import _hypercorn as module  # type: ignore[no-redef]
    sys.argv = [f"{sys.executable} -m ratoon.asgi", *arguments]
    module.run(arguments)


def _choose(arguments: List[str]) -> Tuple[str, List[str]]:
    """The server to use, and the arguments without `--server`."""
    asked = None
    if arguments[:1] == ["--server"] and len(arguments) > 1:
        asked, arguments = arguments[1], arguments[2:]
    elif arguments and arguments[0].startswith("--server="):
        asked, arguments = arguments[0].split("=", 1)[1], arguments[1:]
    if asked == "granian":
        _fail("granian accepts in threads that Python cannot stop without closing connections; use uvicorn or hypercorn")
    if asked is not None and asked not in SERVERS:
        _fail(f"unknown server {asked!r}; known are {' and '.join(SERVERS)}")
    for server in [asked] if asked else SERVERS:
        if importlib.util.find_spec(server):
            return server, arguments
    _fail(f"{asked or 'no ASGI server'} is not installed; `pip install {asked or 'uvicorn'}` into the environment of {sys.executable}")


def _fail(message: str) -> NoReturn:
    print(f"ratoon.asgi: {message}", file=sys.stderr)
    raise SystemExit(2)


main()
