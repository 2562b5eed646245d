"""One of four workers hangs for five seconds (SIGSTOP) while 500 new connections a second come by the clock: how many requests take
longer than a second, with one queue for all, and with one for each slot, whose connections are steered away from the worker or not.

A connection that a worker had, in its queue too, when it was seen to hang waits for it, or for `worker.balance_hung`: those are counted
apart, a second after the stop."""

import json
import os
import signal
import time

import machine
from figures import figure, spread
from load import Load
from masters import Ratoon

KEY = "hang"
TITLE = "one of four workers hangs for five seconds"
HANG = 5
RATE = 500
# Clients enough that one is free for each arrival, also while those that wait for the hung worker are busy.
CLIENTS = 1200
PER_SLOT = ["--balance", "per-slot"]
KINDS = {
    "per-slot": PER_SLOT,
    "per-slot, balance_hung 500 ms": [*PER_SLOT, "--balance-hung", "500ms"],
    "per-slot without steering": [*PER_SLOT, "--balance-hung", "off"],
    "shared": ["--balance", "shared"],
}


def round_of(directory, flags):
    master = Ratoon(directory, 4, flags=flags)
    try:
        master.start()
        load = Load(master.port, "--new", CLIENTS, "--rate", RATE)
        time.sleep(1)
        victim = json.loads(master.ask("/status"))["workers"][1]["pid"]
        os.kill(victim, signal.SIGSTOP)
        time.sleep(1)
        held = of_worker(json.loads(master.ask("/status")), victim)
        time.sleep(HANG - 1)
        os.kill(victim, signal.SIGCONT)
        time.sleep(2)
        result = load.stop()
    finally:
        master.end()
    return {"slow": result["slower_than_a_second"], "held": held, "failed": result["failed"] + result["never_sent"],
            "answered": result["answered"], "p99": result["latency_ms"]["p99"], "max": result["latency_ms"]["max"]}


def of_worker(status, pid):
    """The connections that a worker has: open ones, and with a queue for each slot those that wait in its own."""
    worker = next(it for it in status["workers"] if it["pid"] == pid)
    queues = status["sockets"][0].get("slots")
    return (worker["open_connections"] or 0) + (queues[worker["slot"]] if queues else 0)


def measure(bench):
    found = {name: [] for name in KINDS}
    for _ in range(bench.rounds(5, 1)):
        for name, flags in KINDS.items():
            with machine.place() as directory:
                found[name].append(round_of(directory, flags))
    detail = {name: {key: spread([it[key] for it in rounds]) for key in rounds[0]} for name, rounds in found.items()}
    bench.say(str(detail))
    middle = {name: machine.median([it["slow"] for it in rounds]) for name, rounds in found.items()}
    rounds = found["per-slot"]
    met = all(it["slow"] <= it["held"] and it["failed"] == 0 for it in rounds)
    answered = machine.median([it["answered"] for it in rounds])
    held = machine.median([it["held"] for it in rounds])
    ours, *others = KINDS
    return [
        figure(f"one of 4 workers hangs for 5 s: of {answered:,.0f} requests slower than 1 s, per-slot ({held:,.0f} were in that worker)", "",
               middle[ours], [(name, middle[name]) for name in others], reach="none but those", met=met, detail=detail),
    ]
