"""Ten thousand reloads one after the other (`--reloads`), under load: nothing is lost, and memory and descriptors are as they
were."""

import machine
from figures import figure
from load import Load
from masters import Ratoon
from rows.storm import LOAD, brief, once, rested, settled, total

KEY = "soak"
TITLE = "a soak of reloads"
GROWN = 256


def measure(bench):
    reloads = bench.args.reloads or (30 if bench.quick else 10_000)
    master = Ratoon(bench.directory, 4)
    try:
        master.start()
        before = settled(master)
        load = Load(master.port, *LOAD)
        began = machine.now()
        for count in range(reloads):
            once(master)
            if count % 1000 == 999:
                bench.say(f"{count + 1:,} reloads, {(machine.now() - began) / 1e9:.0f} s, {machine.pss(master.pid)} KiB")
        seconds = (machine.now() - began) / 1e9
        result = load.stop()
        after = rested(master)
    finally:
        master.end()
    detail = {**brief(result), "reloads, seconds": round(seconds, 1), "before": before, "after": after}
    bench.say(str(detail))
    grown = after[0] - before[0]
    return [
        figure(f"lost of {total(result):,} requests, {reloads:,} reloads one after the other", "", result["failed"], reach="0",
               met=result["failed"] == 0, detail=detail),
        figure("the master's memory after them, more than before", "KiB", grown, reach=f"≤ {GROWN}", met=grown <= GROWN),
        figure("its descriptors after them, more than before", "", after[1] - before[1], reach="0", met=after[1] == before[1]),
    ]
