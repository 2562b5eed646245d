"""Runs a command of Python in this process: `python -m MODULE`, `python SCRIPT`, or a console script."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import runpy
import signal
import sys
import threading
from typing import List, NoReturn

#: Options of the interpreter without a value, and what each one sets. An interpreter that runs can take -u only.
_FLAGS = {
    "b": "bytes_warning", "B": "dont_write_bytecode", "d": "debug", "E": "ignore_environment", "i": "inspect", "I": "isolated",
    "O": "optimize", "P": "safe_path", "q": "quiet", "R": "hash_randomization", "s": "no_user_site", "S": "no_site", "v": "verbose",
}
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")


def run_and_exit(program: str, argv: List[str]) -> NoReturn:
    """Runs the command as :func:`run` does, and ends the process as the interpreter does, but for one thing: no module is torn down.

    That would write to all objects, and so copy the memory that the worker shares, at its very end.
    """
    status = 0
    try:
        run(program, argv)
    except SystemExit as end:
        status = _status(end.code)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.flush()
        if status < 0:
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)


def _status(code: object) -> int:
    """The exit status of SystemExit with this code."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def run(program: str, argv: List[str]) -> None:
    """Runs `argv`, whose program is at the path `program`. Returns when it does; raises what it raises."""
    if _PYTHON.fullmatch(os.path.basename(program)) or _PYTHON.fullmatch(os.path.basename(argv[0])):
        return _interpret(argv[1:])
    with open(program, "rb") as file:
        head = file.read(512)
    if not head.startswith(b"#!") or b"python" not in b"\n".join(head.split(b"\n")[:3]):
        _fail(f"worker.command {argv[0]!r} is no program of Python; leave worker.preload out, or name a console script")
    sys.argv = [program, *argv[1:]]
    runpy.run_path(program, run_name="__main__")


def _interpret(arguments: List[str]) -> None:
    """Runs what the interpreter would run with these arguments."""
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-m", "-c", "-"):
        word = arguments.pop(0)
        if word in ("-W", "-X") and arguments:
            word += arguments.pop(0)
        if not _has(word):
            _fail(f"worker.command has the option {word!r} of the interpreter, which a forked worker cannot take; write it into "
                  "worker.preload, too")
    if len(arguments) > 1 and arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments and not arguments[0].startswith("-"):
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        _fail("worker.command names no module and no script for the interpreter to run")


def _has(option: str) -> bool:
    """Whether the interpreter has this option, which it may take only now."""
    if option.startswith("-W"):
        return option[2:] in sys.warnoptions
    if option.startswith("-X"):
        name, _, value = option[2:].partition("=")
        return sys._xoptions.get(name) == (value or True)
    if "u" in option[1:]:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(write_through=True)
    wanted = option[1:].replace("u", "")
    return all(name in _FLAGS and getattr(sys.flags, _FLAGS[name], 0) >= wanted.count(name) for name in wanted)


def _fail(message: str) -> NoReturn:
    print(f"ratoon.preload: {message}", file=sys.stderr)
    raise SystemExit(2)
