"""One queue for all workers or one for each slot (`worker.balance`): how evenly 128 kept connections are spread, the slowest
of a hundred answers, and what is lost of a million requests while the pool is reloaded and changes its size. Workers that wait as nginx's do."""

import time

import machine
from figures import figure, spread
from load import Load, run
from masters import Ratoon
from rows.loss import Progress

KEY = "balance"
TITLE = "one queue or one for each slot"
MOST = 1.15
BALANCES = ("per-slot", "shared")
STEADY = [("128 kept connections", ["--keep-alive", "128"]), ("64 clients, a connection for each request", ["--new", "64"])]
MIXED = ["--keep-alive", "8", "--new", "8", "--think", "0.001"]
SIZES = [2, 6, 1, 5, 4]


def pool(directory, balance):
    master = Ratoon(f"{directory}/{balance}", 4, flags=["--balance", balance])
    return master.start()


def uneven(result, workers):
    """Requests of the busiest worker ÷ the mean."""
    by = {}
    for counts in result["classes"].values():
        for one in counts["by"]:
            by[one["pid"]] = by.get(one["pid"], 0) + one["answered"]
    return max(by.values()) * workers / sum(by.values())


def steady(bench, what, clients):
    """Each round with pools of its own: how connections fall is decided when they are made."""
    found = {balance: {"spread": [], "p99": [], "failed": 0} for balance in BALANCES}
    for _ in range(bench.rounds(15, 2)):
        for balance in BALANCES:
            with machine.place() as directory:
                master = pool(directory, balance)
                try:
                    result = run(master.port, *clients, "--time", "0.5" if bench.quick else "1")
                finally:
                    master.end()
            found[balance]["spread"].append(uneven(result, 4))
            found[balance]["p99"].append(result["latency_ms"]["p99"])
            found[balance]["failed"] += result["failed"]
    bench.say(f"{what}: {found}")
    detail = {name: {"spread": spread(it["spread"]), "p99, ms": spread(it["p99"]), "lost": it["failed"]} for name, it in found.items()}
    middle = {(name, key): machine.median(it[key]) for name, it in found.items() for key in ("spread", "p99")}
    ours = middle["per-slot", "spread"]
    return [
        figure(f"worker.balance = per-slot, {what}: requests of the busiest of 4 workers ÷ the mean", "", ours,
               [("shared", middle["shared", "spread"])], reach=f"≤ {MOST}", met=ours <= MOST, detail=detail),
        figure(f"and the slowest of a hundred answers", "ms", middle["per-slot", "p99"], [("shared", middle["shared", "p99"])]),
    ]


def reloads(master, count, more):
    done = 0
    while done < count or more():
        done += 1
        before = set(master.pids())
        master.reload()
        master.until_reloaded(before)


        # One after the other, but no faster than ten a second: the requests are to be many.
        time.sleep(0.1)
    return done


def sizes(master, count, more):
    done = 0
    # Rounds end with 4.
    while done < count or more():
        for size in SIZES:
            done += 1
            master.ask(f"/scale?workers={size}", "POST")
            machine.until(lambda: len(master.pids()) == size, f"{size} workers", every=0.005)
    return done


def measure(bench):
    figures = [it for what, clients in STEADY for it in steady(bench, what, clients)]
    count = 5 if bench.quick else 100
    requests = bench.args.requests or (5_000 if bench.quick else 1_000_000)
    seconds = 20 if bench.quick else 900
    lost, detail = {}, {}
    for balance in BALANCES:
        with machine.place() as directory:
            master = pool(directory, balance)
            try:
                for what, change in (("reloads", reloads), ("changes of size", sizes)):
                    load = Load(master.port, *MIXED, "--progress", "0.5")
                    progress, began = Progress(load.process.stderr), time.monotonic()
                    done = change(master, count, lambda: progress.requests < requests and time.monotonic() - began < seconds)
                    result = load.stop()
                    lost[balance, what] = result["failed"]
                    counted = {key: result[key] for key in ("answered", "failed", "latency_ms")}
                    detail[f"{balance}, {what}"] = {"changes": done, **counted}
            finally:
                master.end()
    bench.say(str(detail))
    for what in ("reloads", "changes of size"):
        answered, done = (detail[f"per-slot, {what}"][key] for key in ("answered", "changes"))
        figures.append(figure(f"lost of {answered:,} requests over {done} {what}, per-slot", "", lost["per-slot", what],
                              [("shared", lost["shared", what])], reach="0", met=lost["per-slot", what] == 0, detail=detail))
    return figures
