"""Ten thousand reloads one after the other (`--reloads`), under load: nothing is lost, and memory and descriptors are as they
were."""

import machine
from load import Load
from masters import Ratoon
from rows.storm import LOAD, once, rested, settled, unharmed

KEY = "soak"
TITLE = "a soak of reloads"


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
    more = {"reloads, seconds": round(seconds, 1)}
    return unharmed(bench, f"{reloads:,} reloads one after the other", "them", result, before, after, **more)
