"""Death of a worker: SIGKILL to the first instruction of its replacement, by the replacement's own stamp."""

import os
import signal

import build
import machine
from figures import figure, spread
from masters import LeastMaster, Ratoon

KEY = "respawn"
TITLE = "death of a worker"
MOST = 1.25


class Bare:
    """poll(2) on a pidfd, then fork and exec: floor/spawn.c."""

    def __init__(self, directory):
        self.directory = os.path.join(directory, "bare")
        os.makedirs(self.directory)
        self.stamps = machine.Stamps(self.directory)
        env = {**os.environ, "WORKER_STAMPS": self.stamps.path}
        command = [build.SPAWN, "respawn", 1, os.path.join(self.directory, "notify"), build.WORKER]
        self.process = machine.start(command, env=env)
        self.pid = self.process.pid
        self.stamps.until_born(1)

    def end(self):
        machine.end(self.process)


def replaced(master):
    """A worker that has lived a little is killed: milliseconds."""
    victim = machine.children(master.pid)[0]
    master.stamps.clear()
    killed = machine.now()
    os.kill(victim, signal.SIGKILL)
    return (master.stamps.until_born(1)[0][1] - killed) / 1e6


def fresh(master):
    """A new generation: nobody has failed in it, so nobody waits."""
    before = set(master.pids())
    master.reload()
    master.until_reloaded(before)


def measure(bench):
    figures = []
    for workers in [4] if bench.quick else [4, 1000]:
        # Ratoon waits after the first deaths in a row of one slot; with many workers each dies once in a generation.
        masters = [Ratoon(bench.directory, workers), LeastMaster(bench.directory, workers)]
        bare = Bare(os.path.join(bench.directory, str(workers)))
        try:
            for master in masters:
                master.start()
            times = {name: [] for name in ("ratoon", "least master", "pidfd, fork, exec")}
            for turn in range(bench.rounds(60, 5)):
                if workers == 4 or turn % 20 == 0:
                    fresh(masters[0])
                    machine.time.sleep(0.02)
                times["ratoon"].append(replaced(masters[0]))
                times["pidfd, fork, exec"].append(replaced(bare))
                times["least master"].append(replaced(masters[1]))
        finally:
            bare.end()
            for master in masters:
                master.end()
        middle = {name: machine.median(taken) for name, taken in times.items()}
        bench.say(f"{workers} workers: { {name: spread(taken) for name, taken in times.items()} }")
        ratio = middle["ratoon"] / middle["pidfd, fork, exec"]
        beside = [(name, middle[name]) for name in ("pidfd, fork, exec", "least master")]
        what = f"death of a worker → its replacement's first instruction, {workers:,} workers"
        detail = {name: spread(taken) for name, taken in times.items()}
        figures.append(figure(what, "ms", middle["ratoon"], beside, ratio, f"≤ {MOST} ×", ratio <= MOST, detail))
    return figures
