"""The preload process: imports the modules, says READY=1, and forks a worker for each request."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Optional

from .. import notify
from . import _fork, _protocol, _run


def main() -> None:
    channel = _fork.Channel.from_environment()
    if channel is None:
        print(
            "ratoon.preload: RATOON_FORK is not set: this is the program of worker.preload, which Ratoon starts; "
            'write `preload = ["venv/bin/python", "-m", "ratoon.preload", "app"]` into [worker]',
            file=sys.stderr,
        )
        raise SystemExit(2)
    request = _serve(channel)
    if request is None:
        # The master has closed the socket: the generation is over.
        os._exit(0)
    _run.run_and_exit(request.program, request.argv)


def _serve(channel: _fork.Channel) -> Optional[_protocol.Request]:
    """Returns in each worker its request, and in the preload process nothing, at its end."""
    # A collection would write to all objects and so copy the pages that the workers are to share.
    gc.disable()
    for name in sys.argv[1:]:
        importlib.import_module(name.partition(":")[0])
    gc.freeze()
    notify(READY=1)
    request = channel.serve()
    gc.enable()
    return request


main()
