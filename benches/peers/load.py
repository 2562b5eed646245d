"""The load: benches/load, as a process of its own, and what it counted."""

import json
import subprocess

import build
import machine


class Load:
    """Runs until `stop()`, which gives the result."""

    def __init__(self, port, *flags):
        command = [build.LOAD, f"127.0.0.1:{port}", "--json", "--until-eof", "--timeout", "10", *flags]
        self.process = machine.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def stop(self):
        out, _ = self.process.communicate(timeout=machine.PATIENCE)
        machine.known.discard(self.process.pid)
        return json.loads(out)


def run(port, *flags, patience=3600):
    """A run that ends by itself (`--time`, `--requests`)."""
    command = [build.LOAD, f"127.0.0.1:{port}", "--json", "--timeout", "10", *flags]
    process = machine.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out, _ = process.communicate(timeout=patience)
    machine.known.discard(process.pid)
    return json.loads(out)


def per_million(counts):
    """Lost requests of a million, of one class of clients."""
    total = counts["answered"] + counts["failed"]
    return counts["failed"] * 1e6 / max(total, 1)
