"""All workers die at start, again and again: forks a second and worker, and the master's CPU, from the tenth second on."""

import os
import time

import machine
from figures import figure
from masters import LeastMaster, Ratoon
import others

KEY = "crashes"
TITLE = "a crash loop of all workers"


def looping(competitor, seconds, settle):
    """Forks a second and worker, and the share of a CPU that the master takes."""
    broken = competitor.env["WORKER_BROKEN"]
    competitor.start()
    try:
        open(broken, "w").close()
        for pid in competitor.pids():
            os.kill(pid, 9)
        time.sleep(settle)
        forks, cpu = forks_of(competitor), machine.cpu(competitor.pid)
        time.sleep(seconds)
        return (forks_of(competitor) - forks) / seconds / competitor.workers, (machine.cpu(competitor.pid) - cpu) / seconds * 100
    finally:
        competitor.end()


def forks_of(competitor):
    """Its own: each start of the worker adds a byte to a file."""
    return os.path.getsize(competitor.env["WORKER_STARTS"])


def measure(bench):
    seconds, settle = (3, 2) if bench.quick else (10, 10)
    found = {}
    for kind in (Ratoon, LeastMaster, *others.those(bench.peers, "flora-cluster", "puma")):
        with machine.place() as directory:
            env = {"WORKER_BROKEN": os.path.join(directory, "broken"), "WORKER_STARTS": os.path.join(directory, "starts")}
            open(env["WORKER_STARTS"], "w").close()
            competitor = kind(directory, 4, env=env)
            if kind is Ratoon:
                # The defaults: those of the other rows let it restart for ever.
                competitor.limits = []
            found[kind.name] = looping(competitor, seconds, settle)
            bench.say(f"{kind.name}: {found[kind.name]}")
    ours = found.pop("ratoon")
    what = f"crash loop of 4 workers, after {settle} s"
    beside = lambda index: [(name, it[index]) for name, it in found.items()]
    detail = {"forks and CPU": {"ratoon": ours, **found}}
    return [
        figure(f"{what}: forks a second and worker", "/s", ours[0], beside(0), reach="≤ 1", met=ours[0] <= 1, detail=detail),
        figure(f"{what}: the master's CPU", "%", ours[1], beside(1), reach="< 1", met=ours[1] < 1),
    ]
