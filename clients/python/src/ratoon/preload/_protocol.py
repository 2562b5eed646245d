"""Messages between the master and a preload process, version 1: fields `name=value`, each ended by a NUL byte. See ratoon-worker(7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Tuple

HEAD = b"ratoon-fork=1"
#: The longest request, bytes.
REQUEST_MAX = 96 * 1024
#: The most descriptors of a request.
DESCRIPTORS_MAX = 253
#: What a descriptor is for.
ROLES = (b"stdin", b"stdout", b"stderr", b"listener", b"scoreboard")


@dataclass
class Request:
    """A request for one worker."""

    worker: int
    #: The pid of the master, whose child the worker becomes.
    master: int
    program: str = ""
    argv: List[str] = field(default_factory=list)
    unset: List[bytes] = field(default_factory=list)
    environment: List[Tuple[bytes, bytes]] = field(default_factory=list)
    roles: List[bytes] = field(default_factory=list)


def parse(message: bytes) -> Request:
    """Reads a request; fields with other names are ignored. Raises ValueError."""
    fields = message.split(b"\0")
    if fields[0] != HEAD:
        raise ValueError("a request of another version")
    if fields.pop() != b"":
        raise ValueError("a request that is cut off")
    values = [(name, value) for name, _, value in (entry.partition(b"=") for entry in fields[1:])]
    numbers = dict(values)
    try:
        request = Request(int(numbers[b"id"]), int(numbers[b"master"]))
    except KeyError as missing:
        raise ValueError(f"a request without {missing}") from None
    for name, value in values:
        if name == b"program":
            request.program = _text(value)
        elif name == b"arg":
            request.argv.append(_text(value))
        elif name == b"unset":
            request.unset.append(value)
        elif name == b"env":
            variable, _, text = value.partition(b"=")
            if not variable:
                raise ValueError("a variable without a name")
            request.environment.append((variable, text))
        elif name == b"fd":
            if value not in ROLES:
                raise ValueError(f"a descriptor for {value!r}")
            request.roles.append(value)
    if not request.argv or not request.program:
        raise ValueError("a request without a program")
    return request


def forked(worker: int, pid: int) -> bytes:
    """The process `pid` will confirm the worker. By that the master notices its exit before it has confirmed."""
    return HEAD + b"\0forked=%d\0pid=%d\0" % (worker, pid)


def confirmed(worker: int) -> bytes:
    """The sender is this worker."""
    return HEAD + b"\0confirmed=%d\0" % worker


def failed(worker: int, errno: int) -> bytes:
    """The worker could not be made."""
    return HEAD + b"\0failed=%d\0errno=%d\0" % (worker, errno)


def _text(value: bytes) -> str:
    # As sys.argv has it.
    return value.decode("utf-8", "surrogateescape")
