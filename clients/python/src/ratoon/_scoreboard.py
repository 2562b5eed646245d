"""The worker's status page: memory shared with the master, which reads it also when this process hangs or is dead.

RATOON_SCOREBOARD is the number of its descriptor; the layout (version 1) is in clients/rust/src/scoreboard/mod.rs. Numbers are 64-bit words in the
machine's byte order. A page has one writer: one process, any number of threads.
"""

from __future__ import annotations

import ipaddress
import json
import math
import mmap
import os
import struct
import threading
import time
from typing import Any, Dict, List, Mapping, MutableMapping, Optional, Tuple

MAGIC = b"RATOONSB"
VERSION = 1

# Words of the header.
PID, STOP_TIMEOUT, CONNECTIONS, REQUESTS, BYTES_READ, BYTES_WRITTEN, SLOTS_USED, UNLISTED = 8, 9, 16, 17, 18, 19, 20, 21
NOT_COUNTED, UNLISTED_IN_WORK = 22, 24
TIMED, TIMED_LOGS, TIMED_SQUARES = 25, 26, 27
#: Bits of the word NOT_COUNTED: connections, bytes read, bytes written. This library counts requests.
REQUESTS_ONLY = 7
# States of a connection, and of its request.
FREE, IDLE, ACTIVE = 0, 1, 2
NONE, PROCESSING, SENDING, FINISHED, ABORTED = 0, 1, 2, 3, 4
# Words of a named counter.
COUNTER_WORDS, COUNTER_NAME_BYTES = 8, 48

METHOD_BYTES, URL_BYTES, INFO_BYTES = 16, 240, 256

#: Under this key a request's environ, scope or META holds what `describe` shows it by.
KEY = "ratoon.request"


class Request:
    """A request on the page; the connection that carries it has the same slot."""

    def __init__(self, board: "Scoreboard", slot: Optional[int], method: str, url: str, version: int, peer: Tuple[str, int]):
        self._board, self._slot = board, slot
        self._method, self._url, self._version = method.encode()[:METHOD_BYTES], url.encode(errors="replace")[:URL_BYTES], version
        self._peer, self._began = peer, time.monotonic_ns()
        self._ended, self._timed = False, False
        self._show(b"")

    def describe(self, info: Mapping[str, Any]) -> None:
        """Shows a JSON object of at most 256 bytes with the request; a larger one is left out."""
        text = json.dumps(info, separators=(",", ":")).encode()
        self._show(text if len(text) <= INFO_BYTES else b"")

    def sending(self) -> None:
        """The head of the answer is sent."""
        self._take_time()
        if self._slot is not None:
            self._board.words[self._slot + 6] = SENDING

    def end(self, status: Optional[int]) -> None:
        """The answer was sent whole with this status; None: it was cut off."""
        if self._ended:
            return
        self._ended = True
        if status:
            self._take_time()
        self._board.count(f"responses_{status // 100}xx" if status else "errors")
        if self._slot is not None:
            self._board.words[self._slot + 6] = FINISHED if status else ABORTED
            self._board.free(self._slot)
        else:
            self._board.free_unlisted()

    def _take_time(self) -> None:
        if not self._timed:
            self._timed = True
            self._board.timed(time.monotonic_ns() - self._began)

    def _show(self, info: bytes) -> None:
        if self._slot is None or self._ended:
            return
        words, slot = self._board.words, self._slot
        family, address = _address(self._peer[0])
        peer = family | (self._peer[1] & 0xFFFF) << 16
        shape = len(self._method) | self._version << 8 | family << 16 | len(self._url) << 32 | len(info) << 48
        fields = (self._began, peer, address, self._began, shape, address, self._method, self._url, info)
        words[slot + 1] |= 1  # odd while the guarded words are written
        words[slot + 8 : slot + 80] = memoryview(struct.pack("=2Q16s2Q16s16s240s256s", *fields)).cast("Q")
        words[slot + 1] += 1
        words[slot + 3] = 1
        words[slot + 6] = PROCESSING
        words[slot] = ACTIVE


class Scoreboard:
    """Writes the page that the master reads."""

    def __init__(self, fd: int):
        """Raises ValueError when the descriptor is no page of a version that is known, or when another process writes it."""
        self._lock = threading.Lock()
        page = mmap.mmap(fd, 0)
        self.words = memoryview(page).cast("Q")
        if page[:8] != MAGIC or self.words[1] != VERSION:
            raise ValueError(f"descriptor {fd} is no status page of version {VERSION}")
        if self.words[PID] != 0:
            raise ValueError(f"the status page is written by process {self.words[PID]} already")
        self.words[NOT_COUNTED] = REQUESTS_ONLY
        self.words[PID] = os.getpid()
        self._first, self._size, self._slots = self.words[5] // 8, self.words[6] // 8, self.words[7]
        self._free: List[int] = []
        self._counters: Dict[str, Optional[int]] = {}

    @property
    def stop_timeout(self) -> Optional[float]:
        """How long a drain may take until the worker is killed, in seconds; None when the master does not say."""
        return self.words[STOP_TIMEOUT] / 1e9 or None

    def request(self, method: str, url: str, version: int, peer: Tuple[str, int]) -> Request:
        """Shows a request until it ends. `version`: 10, 11, 20 or 30."""
        with self._lock:
            self.words[REQUESTS] += 1
            slot: Optional[int] = None
            if self._free:
                slot = self._free.pop()
            elif self.words[SLOTS_USED] < self._slots:
                slot = self._first + self.words[SLOTS_USED] * self._size
                self.words[SLOTS_USED] += 1
            else:
                self.words[UNLISTED] += 1
                self.words[UNLISTED_IN_WORK] += 1
        return Request(self, slot, method, url, version, peer)

    def free(self, slot: int) -> None:
        """The request of this slot has ended."""
        with self._lock:
            self.words[slot] = FREE
            self._free.append(slot)

    def free_unlisted(self) -> None:
        """A request that found no slot has ended."""
        with self._lock:
            self.words[UNLISTED_IN_WORK] -= 1

    def timed(self, nanoseconds: int) -> None:
        """An answer was given after this time."""
        log = min(640, round(16 * math.log2(max(nanoseconds / 1000, 1))))
        with self._lock:
            self.words[TIMED] += 1
            self.words[TIMED_LOGS] += log
            self.words[TIMED_SQUARES] += log * log

    def count(self, name: str, by: int = 1) -> None:
        """Adds to a named counter: at most 32 names of at most 48 bytes; further ones are not shown."""
        with self._lock:
            if name not in self._counters:
                self._counters[name] = self._new_counter(name)
            at = self._counters[name]
            if at is not None:
                self.words[at + 1] += by

    def _new_counter(self, name: str) -> Optional[int]:
        index = sum(1 for at in self._counters.values() if at is not None)
        encoded = name.encode()
        if index >= self.words[4] or len(encoded) > COUNTER_NAME_BYTES:
            return None
        at = self.words[3] // 8 + index * COUNTER_WORDS
        self.words[at + 2 : at + COUNTER_WORDS] = memoryview(encoded.ljust(COUNTER_NAME_BYTES, b"\0")).cast("Q")
        self.words[at] = 2  # it counts from now on
        return at


def _address(text: str) -> Tuple[int, bytes]:
    """Family (0: none, 4, 6) and the address's bytes in network order."""
    try:
        address = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return 0, b""
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return address.version, address.packed


_board: Optional[Scoreboard] = None
_opened_by: Optional[int] = None
_opening = threading.Lock()


def board() -> Optional[Scoreboard]:
    """The page of this process, or None: without a master, or when another process writes it. Opened at the first call."""
    global _board, _opened_by
    with _opening:
        if _opened_by != os.getpid():
            _opened_by, _board = os.getpid(), None
            try:
                _board = Scoreboard(int(os.environ["RATOON_SCOREBOARD"]))
            except (KeyError, ValueError, OSError):
                pass
    return _board


def count(name: str, by: int = 1) -> None:
    """Adds to a running total that is summed over the pool. At most 32 names."""
    page = board()
    if page:
        page.count(name, by)


def describe(request: MutableMapping[str, Any], **info: Any) -> None:
    """Shows values with a request of the middleware: pass its WSGI environ, its ASGI scope, or Django's request.META."""
    shown = request.get(KEY)
    if shown is not None:
        shown.describe(info)


def drain_times() -> Tuple[float, float]:
    """Seconds for which an idle connection is kept during a drain, and after which the drain ends: 10 s but at most half of
    worker.stop_timeout, and five sixths of it (of 30 s where it is not told)."""
    page = board()
    time_left = (page.stop_timeout if page else None) or 30.0
    return min(10.0, time_left / 2), time_left * 5 / 6
