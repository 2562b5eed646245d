"""Cold start: exec of the master to the first answer to a client that tries again and again."""

import socket

import machine
from figures import figure, spread
from masters import LeastMaster, Ratoon
import others

KEY = "cold"
TITLE = "cold start"
MOST = 2.0


def first_answer(competitor):
    """Milliseconds; the client connects every quarter of a millisecond until somebody listens, and then waits."""
    try:
        began = machine.now()
        competitor.begin()
        while True:
            try:
                with socket.create_connection(("127.0.0.1", competitor.port), machine.PATIENCE) as stream:
                    stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if stream.recv(4096):
                        return (machine.now() - began) / 1e6
            except OSError:
                pass
            machine.time.sleep(0.00025)
            if machine.now() - began > machine.PATIENCE * 1e9:
                raise TimeoutError(f"{competitor.name} does not answer")
    finally:
        competitor.end()


def measure(bench):
    kinds = [Ratoon, LeastMaster, *others.those(bench.peers, "nginx", "gunicorn", "puma", "flora-cluster", "pm2")]
    times = {kind.name: [] for kind in kinds}
    for turn in range(bench.rounds(15, 3)):
        for kind in kinds:
            if turn < 5 or kind in (Ratoon, LeastMaster):
                with machine.place() as directory:
                    times[kind.name].append(first_answer(kind(directory, 4)))
    middle = {name: machine.median(taken) for name, taken in times.items()}
    ratio = middle["ratoon"] / middle["least master"]
    beside = [(kind.name, middle[kind.name]) for kind in kinds[1:]]
    detail = {name: spread(taken) for name, taken in times.items()}
    bench.say(str(detail))
    return [figure("cold start: exec of the master → first answer, 4 workers", "ms", middle["ratoon"], beside, ratio,
                   f"≤ {MOST:.0f} × least master", ratio <= MOST, detail)]
