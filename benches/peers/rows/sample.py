"""What it costs the master to look at its pool: CPU time of one sample of the load of an elastic pool (once a second), and of one look for
workers that hang (ten a second while a connection is open). Each is the difference to a master that does not look, over the looks."""

import socket
import time

import machine
from figures import figure, spread
from masters import Ratoon

KEY = "sample"
TITLE = "a sample of the load, a look for workers that hang"


def cpu(pid):
    """CPU time of a process with all its threads, ended ones too, seconds: the clock of clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def spent(workers, flags, seconds, connected):
    """CPU time of the master in so many seconds, microseconds; with an open connection if wanted."""
    with machine.place() as directory:
        master = Ratoon(directory, workers, flags=flags)
        try:
            master.start()
            clients = [socket.create_connection(("127.0.0.1", master.port)) for _ in range(int(connected))]
            time.sleep(2)
            before = cpu(master.pid)
            time.sleep(seconds)
            taken = cpu(master.pid) - before
            for client in clients:
                client.close()
        finally:
            master.end()
    return taken * 1e6


def measure(bench):
    seconds = 5 if bench.quick else 30
    figures = []
    for workers in [4] if bench.quick else [4, 64]:
        kinds = {
            "a sample of the load": ([], ["--min", workers, "--max", workers + 1], 1, False),
            "a look for workers that hang": (["--balance", "per-slot", "--balance-hung", "off"], ["--balance", "per-slot"], 10, True),
        }
        for what, (without, looking, each_second, connected) in kinds.items():
            costs = []
            for _ in range(bench.rounds(5, 1)):
                idle = spent(workers, without, seconds, connected)
                costs.append((spent(workers, looking, seconds, connected) - idle) / (seconds * each_second))
            detail = {"cost, µs": spread(costs)}
            bench.say(f"{what}, {workers} workers: {detail}")
            figures.append(figure(f"{what}, {workers} workers: the master's CPU", "µs", machine.median(costs), detail=detail))
    return figures
