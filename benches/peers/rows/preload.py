"""Sixteen workers of an application that takes long to load (Django and pandas; Rails), forked from a process that has loaded it
(`worker.preload`), beside servers that preload by themselves and pools that do not: the memory of all processes, the CPU and the time
of a reload, and the time from the death of a worker until another is ready.

gunicorn with --preload has its reload of the old code measured: it loads no new one at SIGHUP. Puma with preload_app! is restarted."""

import os

import machine
import preloads
from figures import figure, spread

KEY = "preload"
TITLE = "an application that is loaded once"
TICKS = os.sysconf("SC_CLK_TCK")
MEMORY, MEMORY_ONE, CPU, CRASH = 1.5, 1.15, 1.2, 50


def cpu(pids):
    """Seconds of CPU of these processes, and of all that they have waited for."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                total += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:15]))
        except OSError:
            continue
    return total / TICKS


def memory(pids):
    total = 0
    for pid in pids:
        try:
            total += machine.pss(pid)
        except OSError:
            continue
    return total / 1024


def life(make, rounds, reloads=True):
    """The figures of one pool."""
    pool = make()
    try:
        pool.start()
        start = cpu(pool.processes())
        for _ in range(20 * pool.workers):
            machine.answers(pool.port)
        found = {"start, CPU s": start, "memory, MiB": memory(pool.processes()), "its master, MiB": memory([pool.pid])}
        if not reloads:
            return pool.name, found
        found["crash, ms"] = spread([pool.crash() for _ in range(rounds) if not machine.time.sleep(2)])
        pool.until_serving()
        open(pool.ready, "w").write("0\n" * pool.workers)
        before = set(pool.pids())
        used, began = cpu(pool.processes()), machine.now()
        pool.reload()
        pool.until_reloaded(before)
        found["reload, s"] = (machine.now() - began) / 1e9
        found["reload, CPU s"] = cpu(pool.processes()) - used
        pool.until_serving()
        return pool.name, found
    finally:
        pool.end()


def of(bench, what, kinds, boot, first):
    found = {}
    for make in kinds:
        with_figures = life(make, bench.rounds(5, 2))
        found[with_figures[0]] = with_figures[1]
        bench.say(f"{what}: {with_figures}")
    _, alone = life(boot, 0, reloads=False)
    bench.say(f"{what}: one boot {alone}")
    return told(what, found, alone, first)


def told(what, found, alone, first):
    """The figures of a kind of application; `first`: the pool that the memory is compared with."""
    ours = found["preload"]
    others = [first, *(name for name in found if name not in (first, "preload"))]
    beside = lambda key: [(name, found[name][key][1] if isinstance(found[name][key], list) else found[name][key]) for name in others]
    ratio = ours["memory, MiB"] / found[first]["memory, MiB"]
    boot_cpu = alone["start, CPU s"]
    figures = [
        figure(f"memory of 16 workers of {what}, all processes (PSS)", "MiB", ours["memory, MiB"], beside("memory, MiB"), ratio,
               f"≤ {MEMORY} × {first}", ratio <= MEMORY, {**found, "one boot": alone}),
        figure("CPU of a reload of them", "s", ours["reload, CPU s"], [("one boot", boot_cpu), *beside("reload, CPU s")],
               ours["reload, CPU s"] / boot_cpu, f"≤ {CPU} × one boot", ours["reload, CPU s"] <= CPU * boot_cpu),
        figure("and its time, until the old ones are gone", "s", ours["reload, s"], beside("reload, s")),
        figure("death of one → its replacement ready", "ms", ours["crash, ms"][1], beside("crash, ms"), reach=f"≤ {CRASH}",
               met=ours["crash, ms"][1] <= CRASH),
    ]
    one = found.get("preload, uvicorn")
    if one:
        ratio = one["memory, MiB"] / found[first]["memory, MiB"]
        figures.append(figure("memory of 16 workers of it with a server of one process (uvicorn)", "MiB", one["memory, MiB"],
                              beside("memory, MiB")[:1], ratio, f"≤ {MEMORY_ONE} × {first}", ratio <= MEMORY_ONE))
    return figures


def measure(bench):
    return [
        *of(bench, "Django and pandas", *preloads.of_python(bench.directory), "gunicorn --preload"),
        *of(bench, "Rails, Puma", *preloads.of_ruby(bench.directory), "puma preload_app!"),
    ]
