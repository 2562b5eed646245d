"""The slowest of a hundred requests while the pool is reloaded, over that when it is not: 200 new connections a second by
the clock (open loop: latency counts from the scheduled arrival), workers that need half a second to start.

Rounds without and with reloads take turns; in the latter one reload follows the other."""

import threading

import machine
from figures import figure, spread
from load import run
from masters import LeastMaster, Ratoon, Restart

KEY = "tail"
TITLE = "tail latency in a reload"
MOST = 1.25
LOAD = ["--rate", "200", "--new", "64"]


def reloading(master, port, seconds):
    """A run beside which one reload follows the other."""
    over = threading.Event()
    count = 0

    def work():
        nonlocal count
        while not over.is_set():
            before = set(master.pids())
            master.reload()
            master.until_reloaded(before)
            count += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return run(port, *LOAD, "--time", str(seconds)), count
    finally:
        over.set()
        thread.join()


def measure(bench):
    seconds = 2 if bench.quick else 8
    kinds = [Ratoon, LeastMaster, Restart]
    masters = [kind(bench.directory, 4, env={"WORKER_START": "500"}) for kind in kinds]
    times = {kind.name: {"steady": [], "reloading": [], "p50": [], "failed": 0, "reloads": 0} for kind in kinds}
    try:
        for master in masters:
            master.start()
        for _ in range(bench.rounds(4, 1)):
            for master in masters:
                steady = run(master.port, *LOAD, "--time", str(seconds))
                busy, reloads = reloading(master, master.port, seconds)
                found = times[master.name]
                found["steady"].append(steady["latency_ms"]["p99"])
                found["reloading"].append(busy["latency_ms"]["p99"])
                found["p50"].append(busy["latency_ms"]["p50"])
                found["failed"] += steady["failed"] + busy["failed"]
                found["reloads"] += reloads
    finally:
        for master in masters:
            master.end()
    ratios = {name: machine.median(it["reloading"]) / machine.median(it["steady"]) for name, it in times.items()}
    detail = {name: {**it, "steady": spread(it["steady"]), "reloading": spread(it["reloading"]), "p50": spread(it["p50"])} for name, it in times.items()}
    bench.say(str(detail))
    beside = [(kind.name, ratios[kind.name]) for kind in kinds[1:]]
    ours = ratios["ratoon"]
    return [figure("p99 while reloading ÷ p99 steady, 200 requests/s, workers that need 500 ms to start", "×", ours, beside,
                   reach=f"≤ {MOST}", met=ours <= MOST, detail=detail)]
