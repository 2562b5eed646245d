"""A load that steps from 10 to 100 % and back, by the clock: the slowest of a hundred requests while it is high, the step up included, and
the worker-seconds of the whole, beside a fixed pool of the largest size, PHP-FPM `dynamic` and uWSGI `cheaper`.

A request takes 20 ms, in which its worker serves no other; 100 % is what keeps 60 % of the largest pool busy."""

import threading
import time

import machine
import others
from figures import figure, spread
from load import run
from masters import Ratoon

KEY = "scale"
TITLE = "a load that steps from 10 to 100 % and back"
LEAST, MOST = 2, 8
WORK = 20
HIGH = 0.6 * MOST * 1000 / WORK
LATER, FEWER = 1.2, 0.6
SCALE = ["--min", LEAST, "--max", MOST, "--scale-up-after", "1s", "--scale-down-after", "10s", "--scale-step", "100%"]


class Fixed(Ratoon):
    name = "fixed"

    def __init__(self, directory, workers=MOST, flags=()):
        super().__init__(directory, workers, {"WORKER_WORK": str(WORK)}, flags=flags)


class Elastic(Fixed):
    name = "elastic"

    def __init__(self, directory):
        super().__init__(directory, LEAST, SCALE)


class Dynamic(others.PhpFpm):
    name = "php-fpm dynamic"
    files = {
        **others.PhpFpm.files,
        "index.php": f"<?php usleep({WORK} * 1000); header('Content-Type: text/plain'); echo \"hello\\n\";\n",
        "fpm.conf": others.PhpFpm.files["fpm.conf"].replace(
            "pm = static\npm.max_children = %(workers)d\n",
            f"pm = dynamic\npm.max_children = {MOST}\npm.start_servers = {LEAST}\npm.min_spare_servers = 1\npm.max_spare_servers = {LEAST}\n",
        ),
    }


class Cheaper(others.Uwsgi):
    name = "uwsgi cheaper"
    files = {"app.py": "import time\n" + others.Uwsgi.files["app.py"].replace("    start(", f"    time.sleep({WORK / 1000})\n    start(")}

    def command(self):
        words = super().command()
        words[words.index("--workers") + 1] = MOST
        return [*words, "--cheaper", LEAST, "--cheaper-initial", LEAST, "--cheaper-step", 2]


PEERS = {"php-fpm": Dynamic, "uwsgi": Cheaper}


class WorkerSeconds:
    """Counts the workers ten times a second until it is stopped."""

    def __init__(self, competitor):
        self.total, self.competitor, self.over = 0.0, competitor, threading.Event()
        self.thread = threading.Thread(target=self.count, daemon=True)
        self.thread.start()

    def count(self):
        before = time.monotonic()
        while not self.over.wait(0.1):
            now = time.monotonic()
            self.total += len(self.competitor.pids()) * (now - before)
            before = now

    def stop(self):
        self.over.set()
        self.thread.join()
        return self.total


def round_of(kind, phases):
    with machine.place() as directory:
        competitor = kind(directory) if issubclass(kind, Fixed) else kind(directory, LEAST)
        try:
            competitor.start()
            counter = WorkerSeconds(competitor)
            results = [run(competitor.port, "--new", 200, "--rate", rate, "--time", seconds) for rate, seconds in phases]
            spent = counter.stop()
        finally:
            competitor.end()
    high = results[1]
    return {"p99": high["latency_ms"]["p99"], "worker-seconds": spent, "failed": sum(it["failed"] + it["never_sent"] for it in results)}


def measure(bench):
    low, high, end = (5, 20, 15) if bench.quick else (30, 300, 120)
    phases = [(HIGH / 10, low), (HIGH, high), (HIGH / 10, end)]
    kinds = [Elastic, Fixed, *(PEERS[name] for name in bench.peers if name in PEERS)]
    found = {kind.name: [] for kind in kinds}
    for _ in range(bench.rounds(3, 1)):
        for kind in kinds:
            try:
                found[kind.name].append(round_of(kind, phases))
            except Exception as error:
                if issubclass(kind, Fixed):
                    raise
                bench.fail(f"{kind.name}: {error}")
    found = {name: rounds for name, rounds in found.items() if rounds}
    detail = {name: {key: spread([it[key] for it in rounds]) for key in rounds[0]} for name, rounds in found.items()}
    bench.say(str(detail))
    p99, seconds = ({name: machine.median([it[key] for it in rounds]) for name, rounds in found.items()} for key in ("p99", "worker-seconds"))
    later, fewer = p99["elastic"] / p99["fixed"], seconds["elastic"] / seconds["fixed"]
    beside = [name for name in found if name != "elastic"]
    return [
        figure("load from 10 to 100 % and back, 2 to 8 workers: p99 at 100 %, the step included", "ms", p99["elastic"],
               [(name, p99[name]) for name in beside], later, f"≤ {LATER} × fixed", later <= LATER, detail),
        figure("and the worker-seconds", "s", seconds["elastic"], [(name, seconds[name]) for name in beside], fewer,
               f"≤ {FEWER} × fixed", fewer <= FEWER),
    ]
