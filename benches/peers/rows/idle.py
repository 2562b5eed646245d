"""Wake-ups of the idle master: how often any of its threads went to sleep, which is how often it had woken.

With `worker.ready = "notify"`: else it looks every 10 s whether the workers accept.
"""

import time

import machine
from figures import figure
from masters import LeastMaster, Ratoon

KEY = "idle"
TITLE = "wake-ups of the idle master"


def measure(bench):
    bus = machine.Bus(bench.directory)
    seconds = 5 if bench.quick else 60
    counts = [4] if bench.quick else [4, 64, 1000]
    masters = []
    try:
        for workers in counts:
            masters.append(Ratoon(bench.directory, workers, bus=bus.address, status=True, flags=["--ready", "notify"]))
            masters[-1].start()
        masters.append(LeastMaster(bench.directory, 4).start())
        # What follows a start is not idleness: the last words of the log, the first look at the bus.
        time.sleep(3)
        before = [(machine.wakeups(it.pid), machine.cpu(it.pid)) for it in masters]
        time.sleep(seconds)
        woken = [machine.wakeups(it.pid) - count for it, (count, _) in zip(masters, before)]
    finally:
        for it in masters:
            it.end()
        bus.end()
    return [
        figure(f"wake-ups of the idle master in {seconds} s, {workers:,} workers", "", count, [("least master", woken[-1])],
               reach="0", met=count == 0)
        for workers, count in zip(counts, woken)
    ]
