"""Workers that send to the notify socket as fast as they can: how long a neighbour's death then takes to be mended, and
whether the master's memory stays what it was."""

import json
import os
import signal

import machine
from figures import figure, spread
from masters import Ratoon
from rows.respawn import fresh

KEY = "flood"
TITLE = "workers that flood the notify socket"
MOST = 2.0


def replaced(master):
    """The worker of the last slot, which does not flood, is killed: milliseconds to its replacement's READY=1."""
    workers = json.loads(master.ask("/status"))["workers"]
    victim = next(it["pid"] for it in workers if it["slot"] == master.workers - 1 and it["state"] == "ready")
    master.stamps.clear()
    killed = machine.now()
    os.kill(victim, signal.SIGKILL)
    return (master.stamps.until_born(1)[0][2] - killed) / 1e6


def measure(bench):
    rounds = bench.rounds(50, 3)
    masters = {}
    times = {"quiet": [], "one": [], "two": []}
    try:
        for name, slots in (("quiet", ""), ("one", "0"), ("two", "0,1")):
            with_name = os.path.join(bench.directory, name)
            masters[name] = Ratoon(with_name, 4, env={"WORKER_FLOOD": slots})
            masters[name].start()
            fresh(masters[name])
        before = {name: machine.pss(master.pid) for name, master in masters.items()}
        # Only the one that is asked runs: the others' floods must not weigh on it.
        for master in masters.values():
            hold(master, signal.SIGSTOP)
        for _ in range(rounds):
            for name, master in masters.items():
                hold(master, signal.SIGCONT)
                fresh(master)
                times[name].append(replaced(master))
                hold(master, signal.SIGSTOP)
        for master in masters.values():
            hold(master, signal.SIGCONT)
        grown = max(machine.pss(master.pid) - before[name] for name, master in masters.items())
    finally:
        for master in masters.values():
            hold(master, signal.SIGCONT)
            master.end()
    worst = {name: sorted(found)[int(len(found) * 0.99)] for name, found in times.items()}
    detail = {**{name: spread(found) for name, found in times.items()}, "memory grown by, KiB": grown}
    bench.say(str(detail))
    figures = []
    for name, what in (("one", "one worker floods"), ("two", "two workers flood")):
        ratio = worst[name] / worst["quiet"]
        figures.append(figure(f"death of a worker → its replacement ready, p99, {what} the notify socket", "ms", worst[name],
                              [("none floods", worst["quiet"])], ratio, f"≤ {MOST:.0f} ×", ratio <= MOST, detail))
    return figures


def hold(master, what):
    for pid in [master.pid, *master.pids()]:
        try:
            os.kill(pid, what)
        except OSError:
            pass
