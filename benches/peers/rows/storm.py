"""A thousand reloads asked for every 1 to 20 ms, and then ten thousand one after the other, under load: nothing is lost, and
memory and descriptors are as they were."""

import random
import time

import machine
from figures import figure
from load import Load
from masters import Ratoon

KEY = "storm"
TITLE = "a storm of reloads, and a soak"
GROWN = 256


def measure(bench):
    asked, soak = (50, 30) if bench.quick else (1000, bench.rounds(10000, 30))
    master = Ratoon(bench.directory, 2)
    chance = random.Random(7)
    try:
        master.start()
        for _ in range(20):
            once(master)
        machine.time.sleep(1)
        before = machine.pss(master.pid), machine.descriptors(master.pid)
        load = Load(master.port, "--new", "4", "--keep-alive", "4", "--think", "0.005")
        for _ in range(asked):
            master.reload()
            time.sleep(chance.uniform(0.001, 0.020))
        machine.until(lambda: master.state() == "running", "the end of the storm")
        once(master)
        storm = load.stop()
        load = Load(master.port, "--new", "4", "--keep-alive", "4", "--think", "0.005")
        began = time.monotonic()
        for _ in range(soak):
            once(master)
        took = time.monotonic() - began
        soaked = load.stop()
        machine.time.sleep(1)
        after = machine.pss(master.pid), machine.descriptors(master.pid)
    finally:
        master.end()
    detail = {"storm": brief(storm), "soak": brief(soaked), "soak, seconds": round(took, 1), "before": before, "after": after}
    bench.say(str(detail))
    grown = after[0] - before[0]
    return [
        figure(f"lost of {total(storm):,} requests, {asked:,} reloads asked for every 1 to 20 ms", "", storm["failed"], reach="0",
               met=storm["failed"] == 0, detail=detail),
        figure(f"lost of {total(soaked):,} requests, {soak:,} reloads one after the other", "", soaked["failed"], reach="0",
               met=soaked["failed"] == 0),
        figure(f"the master's memory after them, more than before", "KiB", grown, reach=f"≤ {GROWN}", met=grown <= GROWN),
        figure(f"its descriptors after them, more than before", "", after[1] - before[1], reach="0", met=after[1] == before[1]),
    ]


def once(master):
    before = set(master.pids())
    master.reload()
    master.until_reloaded(before)


def total(result):
    return result["answered"] + result["failed"]


def brief(result):
    return {key: result[key] for key in ("answered", "failed", "seconds", "latency_ms")}
