"""A status over D-Bus, beside the bus's own cost for a reply of that size: `GetStatus` and a bare service take turns
(benches/bus.rs); with many workers also while all of them are reloaded."""

import json
import os
import subprocess
import threading

import build
import machine
from figures import figure, spread
from masters import Ratoon

KEY = "status"
TITLE = "status over D-Bus"
MOST, BUSY = 1.3, 3.0


def asked(bus, rounds):
    """Both times in microseconds, and the size of the reply."""
    env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
    process = machine.start([build.BUS, "bench", rounds], env=env, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=10 * machine.PATIENCE)
    machine.known.discard(process.pid)
    return json.loads(out)


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def while_reloading(master, bus, rounds):
    over = threading.Event()

    def work():
        while not over.is_set():
            before = set(master.pids())
            master.reload()
            master.until_reloaded(before)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return asked(bus, rounds)
    finally:
        over.set()
        thread.join()


def measure(bench):
    figures = []
    bus = machine.Bus(bench.directory)
    env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
    bare = machine.start([build.BUS, "--serve"], env=env)
    try:
        for workers in [4, 64] if bench.quick else [4, 1000]:
            master = Ratoon(bench.directory, workers, bus=bus.address)
            try:
                master.start()
                machine.until(lambda: "on the message bus as" in master.last_words(), "D-Bus")
                quiet = asked(bus, bench.rounds(1000 if workers == 4 else 100, 10))
                busy = while_reloading(master, bus, bench.rounds(50, 5)) if workers > 4 else None
            finally:
                master.end()
            ours, bus_alone = machine.median(quiet["ratoon_us"]), machine.median(quiet["bare_us"])
            ratio = ours / bus_alone
            detail = {"bytes": quiet["bytes"], "ratoon": spread(quiet["ratoon_us"]), "bare": spread(quiet["bare_us"])}
            bench.say(f"{workers} workers: {detail}")
            what = f"status over D-Bus, {workers:,} workers, {quiet['bytes']:,} bytes"
            figures.append(figure(what, "µs", ours, [("a reply of that size", bus_alone)], ratio, f"≤ {MOST} ×", ratio <= MOST, detail))
            if busy:
                slow, before = percentile(busy["ratoon_us"], 0.99), percentile(quiet["ratoon_us"], 0.99)
                figures.append(figure(f"its p99 while {workers:,} workers are reloaded", "µs", slow, [("quiet", before)],
                                      slow / before, f"≤ {BUSY:.0f} ×", slow / before <= BUSY))
    finally:
        machine.end(bare)
        bus.end()
    return figures
