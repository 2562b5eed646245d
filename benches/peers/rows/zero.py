"""From zero workers (`worker.min = 0`) to the first answer, over the worker's own start: from its first instruction until it is ready."""

import socket

import machine
from figures import figure, spread
from masters import Ratoon

KEY = "zero"
TITLE = "from zero workers to the first answer"
MOST = 1.2
# Milliseconds that the worker needs to start.
START = 100


def waken(master):
    """Milliseconds until the first answer, and of the worker's own start."""
    machine.until(lambda: master.state() == "idle" and not master.pids(), "the end of the workers", every=0.01)
    master.stamps.clear()
    began = machine.now()
    with socket.create_connection(("127.0.0.1", master.port), machine.PATIENCE) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        if not stream.recv(4096):
            raise RuntimeError("no answer")
    answered = machine.now()
    first = min((stamp for stamp in master.stamps.until_born(1)), key=lambda stamp: stamp[2])
    return (answered - began) / 1e6, (first[2] - first[1]) / 1e6


def measure(bench):
    flags = ["--min", 0, "--idle", "500ms"]
    with machine.place() as directory:
        master = Ratoon(directory, 2, {"WORKER_START": str(START)}, flags=flags)
        try:
            master.begin()
            taken = [waken(master) for _ in range(bench.rounds(20, 3))]
        finally:
            master.end()
    answers, starts = zip(*taken)
    answer, start = machine.median(answers), machine.median(starts)
    ratio = machine.median([answer / start for answer, start in taken])
    detail = {"answer": spread(answers), "start": spread(starts)}
    bench.say(str(detail))
    return [figure(f"from zero workers to the first answer, a worker that starts in {START} ms", "ms", answer, [("its own start", start)],
                   ratio, f"≤ {MOST} ×", ratio <= MOST, detail)]
