"""Requests a second with the master over those of the same worker alone: the master touches no client's bytes."""

import machine
from figures import figure, spread
from load import run
from masters import Alone, Ratoon

KEY = "throughput"
TITLE = "throughput with a master"
LEAST = 0.98


def measure(bench):
    seconds = "0.5" if bench.quick else "2"
    masters = [Ratoon(bench.directory, 1), Alone(bench.directory)]
    figures = []
    try:
        for master in masters:
            master.start()
        for clients, what in (("--new", "new connections"), ("--keep-alive", "kept connections")):
            rates, slow = {"ratoon": [], "worker alone": []}, {"ratoon": [], "worker alone": []}
            for turn in range(bench.rounds(20, 3)):
                for master in masters if turn % 2 else masters[::-1]:
                    result = run(master.port, clients, "32", "--time", seconds)
                    rates[master.name].append(result["per_second"])
                    slow[master.name].append(result["latency_ms"]["p99"])
            ours, alone = machine.median(rates["ratoon"]), machine.median(rates["worker alone"])
            # Neighbours in time are compared, so that what else the machine does weighs on both.
            ratio = machine.median([a / b for a, b in zip(rates["ratoon"], rates["worker alone"])])
            late = machine.median([a / b for a, b in zip(slow["ratoon"], slow["worker alone"])])
            detail = {"rates": {name: spread(found) for name, found in rates.items()}, "p99 ratio": round(late, 3)}
            bench.say(f"{what}: {detail}")
            figures.append(figure(f"requests a second with the master, {what}", "/s", round(ours), [("worker alone", round(alone))],
                                  ratio, f"≥ {LEAST}", ratio >= LEAST, detail))
    finally:
        for master in masters:
            master.end()
    return figures
