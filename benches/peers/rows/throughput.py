"""Requests a second with the master over those of the same worker alone: the master touches no client's bytes.

Beside it two masters that do: Node.js' own cluster, and flora-cluster, which is built on it; one worker each, over the same
server alone, in rounds of their own."""

import machine
import others
from figures import figure, spread
from load import run
from masters import Alone, Ratoon

KEY = "throughput"
TITLE = "throughput with a master"
LEAST = 0.98
KINDS = {"--new": "new connections", "--keep-alive": "kept connections"}


def compared(bench, masters, clients, rounds):
    """Of the first over the second, round by round: neighbours in time, so that what else the machine does weighs on both.
    Rounds differ by a fifth and more: many short ones tell more of the median than few long ones."""
    seconds = "0.5"
    rates, slow = ({master.name: [] for master in masters} for _ in range(2))
    for turn in range(rounds):
        for master in masters if turn % 2 else masters[::-1]:
            result = run(master.port, clients, "32", "--time", seconds)
            rates[master.name].append(result["per_second"])
            slow[master.name].append(result["latency_ms"]["p99"])
    with_master, alone = (master.name for master in masters)
    ratio = machine.median([a / b for a, b in zip(rates[with_master], rates[alone])])
    late = machine.median([a / b for a, b in zip(slow[with_master], slow[alone])])
    return rates, ratio, late, {"rates": {name: spread(found) for name, found in rates.items()}, "p99 ratio": round(late, 3)}


def measure(bench):
    kinds = [[Ratoon, Alone]] + [[kind, others.NodeAlone] for kind in (others.NodeCluster, others.FloraCluster) if "flora-cluster" in bench.peers]
    figures = []
    found = {}
    for pair in kinds:
        with machine.place() as directory:
            masters = [kind(directory, 1) for kind in pair]
            try:
                for master in masters:
                    master.start()
                for clients in KINDS:
                    found[pair[0].name, clients] = compared(bench, masters, clients, bench.rounds(80, 3) if pair[0] is Ratoon else bench.rounds(10, 1))
                    bench.say(f"{pair[0].name}, {clients}: {found[pair[0].name, clients][3]}")
            finally:
                for master in masters:
                    master.end()
    for clients, what in KINDS.items():
        rates, ratio, late, detail = found["ratoon", clients]
        detail["ratios"] = {name: it[1] for (name, which), it in found.items() if which == clients}
        beside = [(name, round(it[1], 3)) for (name, which), it in found.items() if which == clients and name != "ratoon"]
        figures.append(figure(f"requests a second with the master ÷ its worker alone, {what}", "×", round(ratio, 3), beside,
                              reach=f"≥ {LEAST}", met=ratio >= LEAST, detail=detail))
        late_beside = [(name, round(it[2], 3)) for (name, which), it in found.items() if which == clients and name != "ratoon"]
        figures.append(figure(f"and the slowest of a hundred answers, p99 ÷ p99, {what}", "×", round(late, 3), late_beside))
    return figures
