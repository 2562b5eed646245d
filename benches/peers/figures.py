"""A figure of the result, the table of them, and the result as JSON. Every number that is shown anywhere is in the JSON."""

import datetime
import json
import os
import platform
import re
import statistics

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

# The rows that README.md shows; docs/measured.md has all.
FEW = ["lost of a million requests, new", "lost of a million requests, kept", "reload: SIGHUP → all ready, 64 workers, quiet",
       "master's memory (PSS)", "requests a second with the master ÷ its worker alone, new"]


def figure(what, unit, ratoon, beside=(), ratio=None, reach="", met=None, detail=None):
    """What was measured, in which unit, of Ratoon and of the others (name, value); the ratio to the first of them, what is to
    be reached, and whether it is."""
    return {"what": what, "unit": unit, "ratoon": ratoon, "beside": [list(it) for it in beside], "ratio": ratio,
            "reach": reach, "met": met, "detail": detail or {}}


def spread(values):
    """Minimum, median, maximum, how many."""
    return [round(min(values), 3), round(statistics.median(values), 3), round(max(values), 3), len(values)]


def shown(value, unit=""):
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if float(value).is_integer() or abs(value) >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{text} {unit}".strip()


def few(result):
    """The table of README.md: a few rows, without goals."""
    lines = ["| what | Ratoon | beside it, in the same run |", "|---|--:|---|"]
    for it in result["figures"]:
        if any(it["what"].startswith(name) for name in FEW):
            beside = ", ".join(f"{name} {shown(value, it['unit'])}" for name, value in it["beside"])
            lines.append(f"| {it['what']} | {shown(it['ratoon'], it['unit'])} | {beside} |")
    return "\n".join([*lines, ""])


def table(result):
    """The table of docs/measured.md."""
    lines = ["| what | Ratoon | beside it, in the same run | ratio | to reach | |", "|---|--:|---|--:|---|---|"]
    for it in result["figures"]:
        beside = ", ".join(f"{name} {shown(value, it['unit'])}" for name, value in it["beside"])
        ratio = "" if it["ratio"] is None else f"{it['ratio']:.2f}"
        met = {True: "reached", False: "**missed**", None: ""}[it["met"]]
        lines.append(f"| {it['what']} | {shown(it['ratoon'], it['unit'])} | {beside} | {ratio} | {it['reach']} | {met} |")
    about = result["about"]
    machine = f"{about['cpus']} CPUs ({about['cpu']}), Linux {about['kernel']}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(about["versions"].items()))
    missing = ", ".join(sorted(about.get("missing", {})))
    without = f" Could not be installed, and is not compared: {missing}." if missing else ""
    return "\n".join([*lines, "", f"On {machine}; medians of rounds that take turns. Versions: {versions}.{without}", ""])


def about(versions, missing):
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return {"cpus": os.cpu_count(), "cpu": cpu, "kernel": platform.release(), "versions": versions, "missing": missing,
            "rows": {}}


def run_of_row(command):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    return {"at": now, "command": command, "load": [round(it, 1) for it in os.getloadavg()]}


def merged(old, new, order):
    """The rows of a new run in the place of the same rows of an old one."""
    rows = new["about"]["rows"]
    kept = [it for it in old["figures"] if it["row"] not in rows]
    figures = sorted(kept + new["figures"], key=lambda it: order.index(it["row"]))
    about = {**new["about"], "rows": {**old["about"]["rows"], **rows}}
    about["versions"] = {**old["about"]["versions"], **new["about"]["versions"]}
    missing = {**old["about"].get("missing", {}), **new["about"]["missing"]}
    about["missing"] = {name: why for name, why in missing.items() if name not in new["about"]["versions"]}
    return {"about": about, "figures": figures}


def write(path, result):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        json.dump(result, file, indent=1, ensure_ascii=False)
        file.write("\n")
    os.rename(path + ".new", path)


def into_page(path, text_between):
    """Puts a table between the marks of a page."""
    with open(path) as file:
        text = file.read()
    block = re.compile(f"{BEGIN}.*?{END}", re.S)
    if not block.search(text):
        raise SystemExit(f"{path} has no {BEGIN} … {END}")
    with open(path, "w") as file:
        file.write(block.sub(lambda _: f"{BEGIN}\n{text_between}{END}", text))
