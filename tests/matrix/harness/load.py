"""Clients: the load generator (`benches/load`) for HTTP, and programs of `clients/` with its arguments for other protocols."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time

from . import processes
from .install import PLACE
from .servers import HERE, TREE

#: Seconds without one finished request after which a load is given up.
STALLED = 60
#: How clients connect: a connection for each request; kept ones with pauses; few kept ones without much of a pause.
CLASSES = {"new": ["--new", "8"], "kept": ["--keep-alive", "8"], "fast": ["--keep-alive", "2"]}
#: A connection that the server closed before a request was sent on it is no loss: clients look, and connect again.
FLAGS = {"http": ["--reconnect"]}


def program(client):
    if client == "http":
        return [TREE / "target/debug/examples/load"]
    path = next((HERE / "clients").glob(f"{client}.*"))
    if path.suffix == ".py":
        return [PLACE / "venv/bin/python", path]
    return ["node", path]


class Load:
    """Runs until `stop()`, which gives the report."""

    def __init__(self, client, address, arguments):
        command = [*program(client), address, *arguments, *FLAGS.get(client, []), "--until-eof", "--json", "--progress", "0.1"]
        self.process = processes.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
        self.requests = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            words = line.split()
            if words[:1] == ["requests"]:
                self.requests = int(words[1])
            else:
                print(line, end="", file=sys.stderr)

    def wait_for(self, requests):
        """Waits until so many requests are over."""
        last, since = self.requests, time.monotonic()
        while self.requests < requests:
            if self.requests != last:
                last, since = self.requests, time.monotonic()
            if time.monotonic() - since > STALLED or self.process.poll() is not None:
                raise TimeoutError(f"{self.requests} of {requests} requests; none in the last {STALLED} s")
            time.sleep(0.02)

    def stop(self):
        self.process.stdin.close()
        text = self.process.stdout.read()
        self.process.wait(60)
        return json.loads(text)

    def kill(self):
        processes.end(self.process, 1)


def _environment():
    return {**os.environ, "NODE_PATH": str(PLACE / "npm/node_modules")}


def failures(report):
    """Kinds of failed requests with their numbers."""
    found = {}
    for counts in report.get("classes", {}).values():
        for kind, number in counts["failures"].items():
            found[kind] = found.get(kind, 0) + number
    return found


def get(address, path="/", timeout=10):
    """Status and body of one GET, or the error's text with status 0."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def slow_request(address, kind, begun):
    """A request of 3 s; `begun()` is called while it is in work. None if it was answered in full, else what was wrong.

    `answer`: the server takes 3 s for it. `download`: the client takes 3 s to read an answer that no buffer can hold."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        if kind == "download":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        path = "/big" if kind == "download" else "/slow"
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        if kind == "download":
            time.sleep(0.5)
        thread = threading.Thread(target=begun)
        thread.start()
        if kind == "download":
            time.sleep(3)
        answer = http.client.HTTPResponse(sock)
        try:
            answer.begin()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            thread.join()
        wanted = bytes(24 << 20) if kind == "download" else b"hello\n"
        if answer.status != 200 or body != wanted:
            return f"status {answer.status}, {len(body)} bytes"
    return None
