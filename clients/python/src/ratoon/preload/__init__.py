"""`python -m ratoon.preload MODULE…`: imports the modules once; Ratoon's workers are forked from this process (`worker.preload`).

Each worker runs the unmodified `worker.command` in a fork: a console script such as gunicorn, uvicorn or hypercorn, `python -m MODULE`,
or a script of Python. The memory that the imports have filled is shared until a worker writes to it.

A thread, a connection or a lock does not survive a fork in a usable state. A module that opens one when it is imported closes it in
`before_fork`, or opens it in `after_fork`::

    from ratoon import preload

    @preload.after_fork
    def connect() -> None:
        database.connect()

Without a master both do nothing but keep the function.
"""

from __future__ import annotations

from typing import Callable, List, TypeVar

__all__ = ["after_fork", "before_fork"]

Hook = TypeVar("Hook", bound=Callable[[], object])

_before: List[Callable[[], object]] = []
_after: List[Callable[[], object]] = []


def before_fork(hook: Hook) -> Hook:
    """Calls the function in the preload process, before each fork of a worker. To be used as a decorator."""
    _before.append(hook)
    return hook


def after_fork(hook: Hook) -> Hook:
    """Calls the function in each worker, before its program runs. To be used as a decorator."""
    _after.append(hook)
    return hook
