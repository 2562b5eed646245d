"""The drain: whether it has begun, and who is told."""

from __future__ import annotations

import signal
import threading
from typing import Any, Callable, List

_begun = threading.Event()
_lock = threading.Lock()
_callbacks: List[Callable[[], None]] = []


def draining() -> bool:
    """Whether the drain has begun."""
    return _begun.is_set()


def when_draining(callback: Callable[[], None]) -> None:
    """Calls `callback` when the drain begins, at once if it has begun: stop timers and consumers there."""
    with _lock:
        if not _begun.is_set():
            _callbacks.append(callback)
            return
    callback()


def begin_drain() -> None:
    """Begins the drain; a second call does nothing. The servers of this library do it at SIGTERM."""
    with _lock:
        if _begun.is_set():
            return
        _begun.set()
        callbacks, _callbacks[:] = _callbacks[:], []
    for callback in callbacks:
        callback()


def handle_sigterm() -> None:
    """Makes SIGTERM begin the drain, and then do what it did before. For programs with a loop of their own; in the main thread."""
    before = signal.getsignal(signal.SIGTERM)

    def handler(number: int, frame: Any) -> None:
        begin_drain()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handler)
