"""Workers that send to the notify socket as fast as they can: how long a neighbour's death then takes to be mended, how late
its READY=1 is heard, and whether the master's memory stays what it was, each time when it has come to rest beside the floods."""

import json
import os
import signal
import socket

import machine
from figures import figure, spread
from masters import Ratoon
from rows.respawn import fresh

KEY = "flood"
TITLE = "workers that flood the notify socket"
MOST = 2.0
LATE, GROWN = 10, 256
# A second after the last change the master lets go of what it no longer needs.
SETTLED = 2.5


class Events:
    """What the master tells those who listen."""

    def __init__(self, master):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(machine.PATIENCE)
        self.socket.connect(os.path.join(master.directory, "control"))
        self.socket.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        self.lines = self.socket.makefile("rb")

    def until_ready(self, pid):
        """The moment at which it is told that this worker is ready."""
        for line in self.lines:
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                if data.get("pid") == pid and data.get("state") == "ready":
                    return machine.now()
        raise RuntimeError("the master tells nothing any more")

    def close(self):
        self.lines.close()
        self.socket.close()


def replaced(master, events):
    """The worker of the last slot, which does not flood, is killed: milliseconds to its replacement's READY=1, and from there
    until the master tells of it."""
    workers = json.loads(master.ask("/status"))["workers"]
    victim = next(it["pid"] for it in workers if it["slot"] == master.workers - 1 and it["state"] == "ready")
    master.stamps.clear()
    killed = machine.now()
    os.kill(victim, signal.SIGKILL)
    pid, _, ready = master.stamps.until_born(1)[0]
    return (ready - killed) / 1e6, (events.until_ready(pid) - ready) / 1e6


def measure(bench):
    rounds = bench.rounds(200, 3)
    masters, events = {}, {}
    times = {"quiet": [], "one": [], "two": []}
    late = {name: [] for name in times}
    try:
        for name, slots in (("quiet", ""), ("one", "0"), ("two", "0,1")):
            with_name = os.path.join(bench.directory, name)
            masters[name] = Ratoon(with_name, 4, env={"WORKER_FLOOD": slots})
            masters[name].start()
            fresh(masters[name])
            events[name] = Events(masters[name])
        machine.time.sleep(SETTLED)
        before = {name: machine.pss(master.pid) for name, master in masters.items()}
        # Only the one that is asked runs: the others' floods must not weigh on it.
        for master in masters.values():
            hold(master, signal.SIGSTOP)
        for _ in range(rounds):
            for name, master in masters.items():
                hold(master, signal.SIGCONT)
                fresh(master)
                death, heard = replaced(master, events[name])
                times[name].append(death)
                late[name].append(heard)
                hold(master, signal.SIGSTOP)
        for master in masters.values():
            hold(master, signal.SIGCONT)
        machine.time.sleep(SETTLED)
        grown = max(machine.pss(master.pid) - before[name] for name, master in masters.items())
    finally:
        for it in events.values():
            it.close()
        for master in masters.values():
            hold(master, signal.SIGCONT)
            master.end()
    worst = {name: sorted(found)[int(len(found) * 0.99)] for name, found in times.items()}
    latest = {name: sorted(found)[int(len(found) * 0.99)] for name, found in late.items()}
    detail = {**{name: spread(found) for name, found in times.items()}, "READY heard": {name: spread(it) for name, it in late.items()},
              "memory grown by, KiB": grown}
    bench.say(str(detail))
    figures = []
    for name, what in (("one", "one worker floods"), ("two", "two workers flood")):
        ratio = worst[name] / worst["quiet"]
        figures.append(figure(f"death of a worker → its replacement ready, p99, {what} the notify socket", "ms", worst[name],
                              [("none floods", worst["quiet"])], ratio, f"≤ {MOST:.0f} ×", ratio <= MOST, detail))
        figures.append(figure(f"and a neighbour's READY=1 → the master tells of it, p99, {what}", "ms", latest[name],
                              [("none floods", latest["quiet"])], reach=f"≤ {LATE}", met=latest[name] <= LATE))
    figures.append(figure("the master's memory after the floods, more than before", "KiB", grown, reach=f"≤ {GROWN}", met=grown <= GROWN))
    return figures


def hold(master, what):
    for pid in [master.pid, *master.pids()]:
        try:
            os.kill(pid, what)
        except OSError:
            pass
