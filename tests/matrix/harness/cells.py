"""The cells of one server's row: what is done with its pool, and what came of it."""

import time

from . import load
from .pool import BuildFailed, Pool
from .servers import BREAKS

#: The part of requests that an explanation in the server's file excuses; more is another fault.
KNOWN_MAX = 0.01


def row(server, options):
    """Everything about one server, as data for the page. `wrong` has what is neither good nor explained by the server's file."""
    result = {"title": server.title, "lines": server.setup.lines(), "wrong": []}
    began = time.monotonic()
    try:
        with Pool(server, server.setup, options.workers) as pool:
            result["starts"] = True
            result["readiness"] = sorted({str(worker.get("readiness")) for worker in pool.status()["workers"]})
            if options.lost:
                result["lost"] = {name: lost(pool, server, name, options) for name in options.classes(server)}
                result["memory"] = pool.memory()
            if options.slow and server.client == "http" and server.slow != "none":
                result["slow"] = slow(pool, server)
        if not pool.drained:
            result["wrong"].append("the pool had to be killed at its end")
        if options.breaks(server):
            result["broken"] = broken(server, options)
        if options.plain and server.plain:
            result["plain"] = plain(server, options)
    except Exception as error:
        result["starts"] = result.get("starts", False)
        result["wrong"].append(f"{type(error).__name__}: {error}")
    result["seconds"] = round(time.monotonic() - began)
    result["wrong"] += judge(server, result)
    return result


def lost(pool, server, name, options):
    """Requests of one class of clients, and those that got no good answer, over some reloads."""
    arguments = load.CLASSES.get(name) or sum((load.CLASSES[each] for each in ("new", "kept")), [])
    clients = load.Load(server.client, pool.address, [*arguments, "--rate", str(options.rate)])
    refused = []
    try:
        for number in range(1, options.reloads + 1):
            clients.wait_for(options.requests * number // (options.reloads + 1))
            committed, said = pool.reload()
            if not committed:
                refused.append(said.split("rolled back: ")[-1].splitlines()[0])
        clients.wait_for(options.requests)
        report = clients.stop()
    finally:
        clients.kill()
    pool.wait_ready()
    found = {"requests": report["answered"] + report["failed"], "lost": report["failed"], "reloads": options.reloads}
    if report["failed"]:
        found["how"] = load.failures(report)
    if refused:
        found["refused"] = refused
    return found


def slow(pool, server):
    """A request of 3 s with a reload in the middle: None if it got its answer, else what was wrong."""
    outcome = []
    wrong = load.slow_request(pool.address, server.slow, lambda: outcome.append(pool.reload()))
    pool.wait_ready()
    if not wrong and not outcome[0][0]:
        return f"the reload failed: {outcome[0][1]}"
    return wrong


def plain(server, options):
    """The same server without the adapter or recipe: a smaller load, to show what is lost."""
    found = {}
    try:
        with Pool(server, server.plain, options.workers) as pool:
            few = options.but(requests=options.plain_requests)
            for name in options.classes(server):
                found[name] = lost(pool, server, name, few)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def broken(server, options):
    """For each kind of broken release, what became of it while clients asked. A pool of its own: two workers are enough."""
    found = {}
    setup = server.setup
    setup.config = {**setup.config, "worker": {**setup.config["worker"], "start_timeout": f"{options.start_timeout(server)}s"}}
    with Pool(server, setup, 2) as pool:
        for kind in BREAKS:
            change = server.broken[kind]
            found[kind] = {"outcome": "none", "why": change} if isinstance(change, str) else break_release(pool, server, kind, change)
    return found


def break_release(pool, server, kind, change):
    """Reloads to the broken release: `told`, `at build` or `committed`; and whether clients lost requests meanwhile."""
    path = pool.place / change["file"]
    good = path.read_text()
    path.write_text(pool.fill(broken_text(good, change)))
    before = pool.status()["generation"]
    clients = load.Load(server.client, pool.address, ["--new", "2", "--rate", "20"])
    try:
        clients.wait_for(5)
        try:
            pool.build()
            committed, said = pool.reload()
        except BuildFailed as error:
            committed, said = None, str(error)
        clients.wait_for(clients.requests + 20)
        report = clients.stop()
    finally:
        clients.kill()
    found = {"outcome": {None: "at build", True: "committed", False: "told"}[committed], "lost": report["failed"]}
    words = change.get("says")
    if committed is False and words and words not in said:
        found["reason_lacks"] = words
        found["said"] = said
    after = pool.status()["generation"]
    if committed is False and after != before:
        found["said"] = f"generation {before} became {after}: {said}"
        found["outcome"] = "changed"
    path.write_text(good)
    if committed is not False:
        pool.build()
        if committed:
            pool.reload()
    pool.wait_ready()
    return found


def broken_text(good, change):
    if "text" in change:
        return change["text"]
    if "replace" in change:
        old, new = change["replace"]
        if old not in good:
            raise ValueError(f"the program has no {old!r} that a broken release could replace")
        return good.replace(old, new)
    if "append" in change:
        return good + change["append"]
    return change["prepend"] + good


def judge(server, result):
    """What of the row is wrong and not explained under `[known]`."""
    wrong = []
    for name, counts in result.get("lost", {}).items():
        explained = {"lost", *(("new", "kept", "fast") if name == "both" else (name,))}
        few = counts["lost"] <= counts["requests"] * KNOWN_MAX
        if counts["lost"] and not (few and explained.intersection(server.known)):
            wrong.append(f"{name}: {counts['lost']} of {counts['requests']} lost: {counts['how']}")
        for said in counts.get("refused", []):
            wrong.append(f"{name}: a good release was refused: {said}")
    if result.get("slow") and "slow" not in server.known:
        wrong.append(f"the slow request was not kept: {result['slow']}")
    for kind, found in result.get("broken", {}).items():
        # The probe finds a release that fails only with its first request.
        found_out = kind != "lazy" or "probe" in server.setup.config.get("reload", {})
        if found["outcome"] in ("committed", "changed") and found_out and kind not in server.known:
            wrong.append(f"broken release, {kind}: {found['outcome']}: {found.get('said', '')}")
        if found.get("reason_lacks") and f"{kind} reason" not in server.known:
            wrong.append(f"broken release, {kind}: the reason does not name {found['reason_lacks']!r}: {found['said']}")
        if found["outcome"] == "told" and found["lost"] and kind not in server.known:
            wrong.append(f"broken release, {kind}: told, but {found['lost']} requests were lost")
    return wrong


def only_lost_kept(result):
    """Whether all that is wrong is that the server closed at most two kept connections under a request."""
    counts = list(result.get("lost", {}).values())
    lost = [count for count in counts if count["lost"]]
    stale = all(set(count["how"]) == {"stale-keep-alive"} and count["lost"] <= 2 for count in lost)
    return bool(lost) and stale and len(result["wrong"]) == len(lost)
