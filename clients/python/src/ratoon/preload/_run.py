"""Runs a command of Python in this process: `python -m MODULE`, `python SCRIPT`, or a console script."""

from __future__ import annotations

import os
import re
import runpy
import sys
from typing import List, NoReturn

#: Options of the interpreter without a value; they cannot be changed any more and are left out.
_FLAGS = re.compile(r"-[bBdEhiIOPqsSuvVxR]+")
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")


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
            arguments.pop(0)
        elif not _FLAGS.fullmatch(word) and not word.startswith(("-W", "-X")):
            _fail(f"worker.command has the option {word!r} of the interpreter, which a forked worker cannot take")
    if len(arguments) > 1 and arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments and not arguments[0].startswith("-"):
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        _fail("worker.command names no module and no script for the interpreter to run")


def _fail(message: str) -> NoReturn:
    print(f"ratoon.preload: {message}", file=sys.stderr)
    raise SystemExit(2)
