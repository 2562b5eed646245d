"""Lost requests while the pool is reloaded again and again under load: new connections, and kept ones.

Every kind of failure counts, a kept connection that is closed under its client (stale keep-alive) among them. Ratoon has
so many reloads and requests as are asked for, whichever takes longer; a peer has fewer, told per million."""

import threading
import time

import machine
import others
from figures import figure
from load import Load, per_million
from masters import Ratoon

KEY = "loss"
TITLE = "lost requests over reloads"
KINDS = {"new": "new connections", "keep-alive": "kept connections, stale ones included"}


def under_reloads(competitor, clients, reloads, requests, seconds):
    """What was counted, and how many reloads there were; a slow one has at least the time."""
    load = Load(competitor.port, f"--{clients}", "32", "--progress", "0.5")
    progress = Progress(load.process.stderr)
    began, done = time.monotonic(), 0
    late = ""
    while done < reloads or progress.requests < requests:
        if time.monotonic() - began > seconds:
            break
        before = set(competitor.pids())
        competitor.reload()
        try:
            competitor.until_reloaded(before)
        except TimeoutError:
            late = "a reload did not end"
            break
        done += 1
        # Kept connections come to rest between two, so that an idle one may be closed under its client.
        rate = progress.requests / max(time.monotonic() - began, 0.5)
        spare = max(requests - progress.requests, 0) / max(rate, 1) / max(reloads - done, 1)
        time.sleep(min(max(spare, 0.02), 0.5) if requests else 0.05)
    return load.stop(), done, late


class Progress:
    """The requests so far, as the load says them now and then."""

    def __init__(self, stream):
        self.requests = 0
        threading.Thread(target=self.read, args=(stream,), daemon=True).start()

    def read(self, stream):
        for line in stream:
            words = line.split()
            if len(words) == 4 and words[0] == "requests":
                self.requests = int(words[1])


def measure(bench):
    requests = bench.args.requests or (5_000 if bench.quick else 1_000_000)
    names = ("flora-cluster", "pm2", "gunicorn", "puma", "uwsgi", "php-fpm", "start_server", "nginx")
    plan = [(Ratoon, 5 if bench.quick else 100, requests, 20 if bench.quick else 900)]
    plan += [(kind, 5 if bench.quick else 20, 0, 10 if bench.quick else round(15 * bench.args.share)) for kind in others.those(bench.peers, *names)]
    rows = {clients: [] for clients in KINDS}
    detail = {}
    for kind, reloads, wanted, seconds in plan:
        detail[kind.name] = {}
        for clients, what in KINDS.items():
            found = rows[clients]
            with machine.place() as directory:
                competitor = kind(directory, 4)
                try:
                    competitor.start()
                    result, done, late = under_reloads(competitor, clients, reloads, wanted, seconds)
                except Exception as error:
                    if kind is Ratoon:
                        raise
                    # One peer that does not start here is told, and costs no other's figure.
                    bench.fail(f"{kind.name}, {what}: {error}")
                    found.append((kind.name, "failed"))
                    detail[kind.name][clients] = {"note": str(error)}
                    continue
                finally:
                    competitor.end()
            counts = result["classes"][clients]
            found.append((kind.name, per_million(counts)))
            keep = ("answered", "failed", "failures", "announced_closes")
            detail[kind.name][clients] = {"reloads": done, "note": late, **{key: counts[key] for key in keep}}
        bench.say(f"{kind.name}: {detail[kind.name]}")
    figures = []
    for clients, what in KINDS.items():
        (_, ours), *beside = rows[clients]
        mine = detail["ratoon"][clients]
        total = mine["answered"] + mine["failed"]
        text = f"lost of a million requests, {what}; Ratoon: {mine['failed']} of {total:,} over {mine['reloads']} reloads"
        figures.append(figure(text, "", ours, beside, reach="0", met=mine["failed"] == 0, detail=detail))
    return figures
