"""A stand-in for the master: starts a program with a listening socket as descriptor 3, a status page as 4, and a notify socket."""

from __future__ import annotations

import contextlib
import http.client
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
PAGE_BYTES = 256 * 1024
DEADLINE = 60  # seconds


def header(stop_timeout: float) -> bytes:
    """The first ten words of a page, as the master makes it; `stop_timeout` in seconds."""
    return b"RATOONSB" + struct.pack("=9Q", 1, PAGE_BYTES, 512, 32, 4096, 640, 400, 0, int(stop_timeout * 1e9))


def until(condition, what):
    """Waits for a condition, looking every 10 ms; fails after the deadline."""
    limit = time.monotonic() + DEADLINE
    while time.monotonic() < limit:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"not seen within {DEADLINE} s: {what}")


class Worker:
    """A running worker; ended when the context is left."""

    def __init__(self, arguments, program="", stop_timeout=60.0, environ=None):
        self._directory = tempfile.TemporaryDirectory()
        directory = Path(self._directory.name)
        (directory / "app.py").write_text(program)
        page = os.open(directory / "page", os.O_RDWR | os.O_CREAT)
        os.truncate(page, PAGE_BYTES)
        self.page = mmap.mmap(page, 0)
        self.words = memoryview(self.page).cast("Q")
        self.page[: len(header(stop_timeout))] = header(stop_timeout)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        self._notify.settimeout(DEADLINE)
        self.said = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        # A shell puts the descriptors to their numbers and sets LISTEN_PID, as the master does.
        shell = f'exec 3<&{listener.fileno()} {listener.fileno()}<&- 4<>"$PAGE"; LISTEN_PID=$$ exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "bash", sys.executable, *arguments],
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": f"{SOURCE}:{directory}",
                "LISTEN_FDS": "1",
                "RATOON_SCOREBOARD": "4",
                "PAGE": str(directory / "page"),
                "NOTIFY_SOCKET": str(directory / "notify"),
                **(environ or {}),
            },
            pass_fds=[listener.fileno()],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        listener.close()
        os.close(page)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # gunicorn's worker is a child of the process, and outlives it with its standard output.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self._notify.close()
        self.words.release()
        self.page.close()
        self._directory.cleanup()

    def hears(self, word):
        """Waits until the worker has said `word`."""
        while word not in self.said:
            self.said += self._notify.recv(8192).decode().split("\n")

    def says_nothing(self):
        """What was said and not heard yet, without waiting."""
        self._notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.said += self._notify.recv(8192).decode().split("\n")
        return not self.said

    def drain(self):
        self.process.terminate()
        until(lambda: not self.accepts(), "the worker stops accepting")

    def accepts(self):
        """Whether somebody listens at the port: with the worker's copy closed, the socket is gone."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def exit_status(self):
        self.process.wait(DEADLINE)
        return self.process.returncode

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def counters(self):
        found = {}
        for at in range(64, 64 + 32 * 8, 8):
            if self.words[at] == 2:
                name = bytes(self.page[(at + 2) * 8 : (at + 8) * 8]).rstrip(b"\0").decode()
                found[name] = self.words[at + 1]
        return found

    def slot(self, index=0):
        """State, request's state, method, URL and info of a slot."""
        at = 512 + index * 80
        shape = self.words[at + 13]
        text = lambda word, length: bytes(self.page[(at + word) * 8 : (at + word) * 8 + length]).decode()  # noqa: E731
        return {
            "state": self.words[at],
            "request": self.words[at + 6],
            "sequence": self.words[at + 1],
            "method": text(16, shape & 0xFF),
            "url": text(18, shape >> 32 & 0xFFFF),
            "info": text(48, shape >> 48),
        }


def ask(connection, path="/"):
    """One request: status, Connection header, body."""
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.getheader("connection"), response.read().decode()
