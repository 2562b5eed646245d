"""A thousand reloads asked for every 1 to 20 ms, under load: nothing is lost, and memory and descriptors are as they were."""

import random
import time

import machine
from figures import figure
from load import Load
from masters import Ratoon

KEY = "storm"
TITLE = "a storm of reloads"
GROWN = 256
LOAD = ["--new", "4", "--keep-alive", "4", "--think", "0.005"]


def measure(bench):
    asked = 50 if bench.quick else 1000
    master = Ratoon(bench.directory, 4)
    chance = random.Random(7)
    try:
        master.start()
        before = settled(master)
        load = Load(master.port, *LOAD)
        for _ in range(asked):
            master.reload()
            time.sleep(chance.uniform(0.001, 0.020))
        machine.until(lambda: master.state() == "running", "the end of the storm")
        once(master)
        result = load.stop()
        after = rested(master)
    finally:
        master.end()
    return unharmed(bench, f"{asked:,} reloads asked for every 1 to 20 ms", "the storm", result, before, after)


def unharmed(bench, reloads, what, result, before, after, **more):
    """The figures of both rows of many reloads: requests lost, memory grown, descriptors kept."""
    detail = {**brief(result), **more, "before": before, "after": after}
    bench.say(str(detail))
    grown, kept = after[0] - before[0], after[1] - before[1]
    return [
        figure(f"lost of {total(result):,} requests, {reloads}", "", result["failed"], reach="0", met=result["failed"] == 0,
               detail=detail),
        figure(f"the master's memory after {what}, more than before", "KiB", grown, reach=f"≤ {GROWN}", met=grown <= GROWN),
        figure(f"its descriptors after {what}, more than before", "", kept, reach="0", met=kept == 0),
    ]


def settled(master):
    """Memory in KiB and descriptors, after a few reloads: the first map what the later ones use again."""
    for _ in range(20):
        once(master)
    return rested(master)


def rested(master):
    """Memory and descriptors; a second after the last change the master lets go of what it no longer needs."""
    time.sleep(2)
    was = None

    def still():
        nonlocal was
        before, was = was, machine.pss(master.pid)
        return before == was

    machine.until(still, "the master's memory at rest", every=0.5)
    return was, machine.descriptors(master.pid)


def once(master):
    before = set(master.pids())
    master.reload()
    master.until_reloaded(before)


def total(result):
    return result["answered"] + result["failed"]


def brief(result):
    return {key: result[key] for key in ("answered", "failed", "seconds", "latency_ms")}
