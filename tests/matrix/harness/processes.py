"""Processes of the matrix: started in sessions of their own, ended with the program, and measured by /proc.

The program is the subreaper of its descendants, so that a process is found by descent, never by its name."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of what its children leave behind."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(argv, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([str(word) for word in argv], start_new_session=True, **options)


def descendants(pid):
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    return found


def end(process, timeout=20):
    """SIGTERM, after `timeout` seconds SIGKILL, and SIGKILL to every descendant that is left. True if it ended by itself."""
    left = descendants(process.pid)
    ended = True
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            ended = False
            left += descendants(process.pid)
            process.kill()
            process.wait()
    mine = set(descendants(os.getpid()))
    for pid in mine.intersection(left):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return ended


def pss(pid):
    """Proportional set size of the process and its descendants, in bytes; None where the kernel does not show it."""
    total = 0
    for each in [pid, *descendants(pid)]:
        try:
            with open(f"/proc/{each}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except OSError:
            if each == pid:
                return None
    return total


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait(what, condition, timeout):
    """Waits for a true value of `condition()` and gives it; `what` stands in the error after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.05)
