"""A reload of workers whose own start is nothing: SIGHUP to all ready, beside fork and exec of as many and nothing else.

All ready is the last READY=1 by the worker's own stamp. The rounds of Ratoon, of fork and exec that does not wait for exec,
and of posix_spawn (what std::process::Command does) take turns; quiet, and with two processes that keep a CPU busy each."""

import contextlib

import build
import machine
from figures import figure, spread
from masters import LeastMaster, Ratoon, Spawner

KEY = "reload"
TITLE = "reload, start of a generation"
MOST, TIMES = 1.15, 4.0


def reload(master):
    before = set(master.pids())
    master.stamps.clear()
    asked = machine.now()
    master.reload()
    ready = max(record[2] for record in master.stamps.until_born(master.workers))
    master.until_reloaded(before)
    told = master.stamps.told()
    return (ready - asked) / 1e6, ((min(told) if told else ready) - asked) / 1e6


def measure(bench):
    figures = []
    for workers in [4, 64] if bench.quick else [4, 64, 1000]:
        rounds = bench.rounds({4: 40, 64: 20, 1000: 5}[workers], 3)
        with contextlib.ExitStack() as stack:
            masters = [stack.enter_context(started(kind(bench.directory, workers))) for kind in (Ratoon, LeastMaster)]
            spawners = [stack.enter_context(contextlib.closing(Ended(bench.directory, how, workers))) for how in ("fork", "command")]
            for busy in (0, 2):
                if busy and workers == 1000:
                    rounds = bench.rounds(3, 1)
                figures.append(compared(masters, spawners, rounds, busy, bench))
    return figures


def compared(masters, spawners, rounds, busy, bench):
    ours, commits, least, fork, command = [], [], [], [], []
    with machine.hogs(build.SPAWN, busy):
        for _ in range(rounds):
            ready, told = reload(masters[0])
            ours.append(ready)
            commits.append(told)
            fork.append(took(spawners[0]))
            least.append(reload(masters[1])[0])
            command.append(took(spawners[1]))
    middle, floor, waits = map(machine.median, (ours, fork, command))
    beside = [("fork+exec", floor), ("least master", machine.median(least)), ("std::process::Command", waits)]
    ratio = middle / floor
    met = ratio <= MOST
    reach = f"≤ {MOST} ×"
    workers = masters[0].workers
    if busy and workers == 64:
        reach += f", ≤ 1/{TIMES:.0f} of Command"
        met = met and waits / middle >= TIMES
    detail = {"ratoon": spread(ours), "ratoon until the old are told": spread(commits), "fork+exec": spread(fork),
              "least master": spread(least), "command": spread(command)}
    bench.say(f"{workers} workers, {busy} hogs: {detail}")
    what = f"reload: SIGHUP → all ready, {workers:,} workers, {'two CPU hogs' if busy else 'quiet'}"
    return figure(what, "ms", middle, beside, ratio, reach, met, detail)


def took(spawner):
    began, ready = spawner.round()
    return (ready - began) / 1e6


@contextlib.contextmanager
def started(master):
    try:
        yield master.start()
    finally:
        master.end()


class Ended(Spawner):
    def close(self):
        self.end()
