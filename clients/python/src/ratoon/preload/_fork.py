"""Requests of the master, and the fork of a worker: a child of the master, with a session, a control group and descriptors of its own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import socket
import sys
import time
from typing import List, Optional

from .. import _notify
from . import _after, _before, _protocol, _server
from ._protocol import Request

#: Descriptors from 3 on that are kept for those of a worker, so that no file which a module opens gets their numbers.
KEPT = 64
#: How long a worker waits for its parent to end, seconds.
PARENT_TIMEOUT = 30.0
_FIRST = 3


class Channel:
    """The socket on which the master asks for workers."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._has_server = False

    @classmethod
    def from_environment(cls) -> Optional[Channel]:
        """The socket that RATOON_FORK names; None without a master."""
        try:
            given = int(os.environ.pop("RATOON_FORK"))
        except (KeyError, ValueError):
            return None
        try:
            moved = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, _FIRST + KEPT)
            os.close(given)
            sock = socket.socket(fileno=moved)
            _keep_numbers()
        except OSError as error:
            print(f"ratoon.preload: cannot keep {KEPT} descriptors for those of a worker: {error}; "
                  "worker.limits.nofile must be 128 or more", file=sys.stderr)
            raise SystemExit(2) from None
        return cls(sock)

    def serve(self) -> Optional[Request]:
        """Forks a worker for each request. Returns its request in each worker, and None at the end of the requests."""
        while True:
            try:
                message, descriptors, flags, _ = socket.recv_fds(
                    self._socket, _protocol.REQUEST_MAX + 1, _protocol.DESCRIPTORS_MAX
                )
            except ConnectionResetError:
                return None
            if not message:
                return None
            try:
                request = _protocol.parse(message)
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) != len(request.roles):
                    raise ValueError("a request that is cut off")
            except ValueError as error:
                # The master is of another version: it learns that by the end of this process.
                print(f"ratoon.preload: {error}", file=sys.stderr)
                return None
            if not self._has_server:
                # All workers of a generation run the same command.
                self._has_server = True
                _server.load(request.program, request.argv)
                gc.freeze()
            if self._fork(request, descriptors):
                return request
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, request: Request, descriptors: List[int]) -> bool:
        """Forks twice, so that the worker becomes a child of the master. Returns True in the worker."""
        for hook in _before:
            hook()
        # Buffered output would be written by both processes.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.flush()
        try:
            child = os.fork()
        except OSError as error:
            self._say(_protocol.failed(request.worker, error.errno or errno.EAGAIN))
            return False
        if child:
            # A program that ignores SIGCHLD, or reaps all children, has no status of it.
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(child, 0)[1] != 0:
                    self._say(_protocol.failed(request.worker, errno.EAGAIN))
            return False
        try:
            worker = os.fork()
            if worker:
                # Before this process ends, and the worker is the master's child.
                self._say(_protocol.forked(request.worker, worker))
                os._exit(0)
            self._become(request, descriptors)
        except OSError as error:
            self._say(_protocol.failed(request.worker, error.errno or errno.EIO))
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            self._say(_protocol.failed(request.worker, errno.EIO))
            os._exit(0)
        for hook in _after:
            hook()
        return True

    def _become(self, request: Request, descriptors: List[int]) -> None:
        _wait_for(request.master)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _place(request.roles, descriptors)
        _set_environment(request)
        self._say(_protocol.confirmed(request.worker), must=True)
        self._socket.close()

    def _say(self, message: bytes, must: bool = False) -> None:
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
        except OSError:
            if must:
                # The master does not wait for this worker any more.
                os._exit(1)


def _keep_numbers() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        while null < _FIRST + KEPT:
            null = os.dup(null)
    finally:
        os.close(null)


def _wait_for(master: int) -> None:
    """Waits until the master is the parent: the process between them has ended."""
    limit = time.monotonic() + PARENT_TIMEOUT
    while os.getppid() != master:
        if time.monotonic() > limit:
            raise OSError(errno.ESRCH, "the master is not the parent")
        time.sleep(0.0005)


def _place(roles: List[bytes], descriptors: List[int]) -> None:
    """Puts the descriptors to their numbers: 0 to 2, the listening sockets from 3 on, then the status page."""
    wanted = [fd for role in (b"stdin", b"stdout", b"stderr", b"listener", b"scoreboard") for fd in _of(role, roles, descriptors)]
    if len(wanted) > _FIRST + KEPT:
        # The next numbers may be those of the application's own files.
        raise OSError(errno.E2BIG, "more descriptors than are kept for a worker")
    # Above all numbers that are written to.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST + max(KEPT, len(wanted))) for fd in wanted]
    for fd in descriptors:
        os.close(fd)
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=True)
        os.close(copy)
    os.closerange(len(copies), max(_FIRST + KEPT, len(copies)))


def _of(role: bytes, roles: List[bytes], descriptors: List[int]) -> List[int]:
    return [fd for known, fd in zip(roles, descriptors) if known == role]


def _set_environment(request: Request) -> None:
    for name in request.unset:
        os.environb.pop(name, None)
    for name, value in request.environment:
        os.environb[name] = value
    own = str(os.getpid())
    if "LISTEN_FDS" in os.environ:
        os.environ["LISTEN_PID"] = own
    if "WATCHDOG_USEC" in os.environ:
        os.environ["WATCHDOG_PID"] = own
    _notify.forked()
