"""The master's memory: PSS with D-Bus and HTTP connected, at 4 workers and what each further one adds."""

import socket

import machine
from figures import figure
from masters import LeastMaster, Ratoon

KEY = "memory"
TITLE = "the master's memory"
REACH, EACH = 2560, 1024


def ours(bench, workers, bus):
    master = Ratoon(bench.directory, workers, bus=bus.address, status=True)
    try:
        master.start()
        machine.until(lambda: "on the message bus as" in master.last_words(), "D-Bus")
        with socket.create_connection(("127.0.0.1", master.status_port)) as kept:
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            kept.recv(4096)
            # A second after the last change it lets go of what it no longer needs.
            machine.time.sleep(2.5)
            memory = machine.pss(master.pid)
        reloads = reloaded(master) if workers == 4 and not bench.quick else {}
        return memory, machine.descriptors(master.pid), reloads
    finally:
        master.end()


def reloaded(master):
    """The same after the first reload and after ten more."""
    found = {}
    for reload in range(11):
        before = set(master.pids())
        master.reload()
        master.until_reloaded(before)
        if reload in (0, 10):
            machine.time.sleep(2.5)
            found[f"after {reload + 1} reloads"] = machine.pss(master.pid)
    return found


def floor(bench, workers):
    master = LeastMaster(bench.directory, workers)
    try:
        return machine.pss(master.start().pid)
    finally:
        master.end()


def measure(bench):
    bus = machine.Bus(bench.directory)
    counts = [4, 64] if bench.quick else [4, 64, 1000]
    try:
        taken = {workers: ours(bench, workers, bus) for workers in counts}
    finally:
        bus.end()
    most = counts[-1]
    beside = [("least master", floor(bench, 4))]
    few, many = taken[4][0], taken[most][0]
    each = (many - few) * 1024 / (most - 4)
    detail = {"pss_kib": {n: t[0] for n, t in taken.items()}, "descriptors": {n: t[1] for n, t in taken.items()}, **taken[4][2]}
    return [
        figure("master's memory (PSS), 4 workers", "KiB", few, beside, reach=f"≤ {REACH}", met=few <= REACH, detail=detail),
        figure(f"and for each worker, up to {most:,}", "B", each, [("least master", (floor(bench, most) - beside[0][1]) * 1024 / (most - 4))],
               reach=f"≤ {EACH:,}", met=each <= EACH),
    ]
