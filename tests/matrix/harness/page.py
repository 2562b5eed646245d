"""docs/servers.md from tests/matrix/results.json and the servers' own files."""

import contextlib
import fcntl
import json
import os

from .servers import BREAKS, HERE, TREE

RESULTS = HERE / "results.json"
PAGE = TREE / "docs/servers.md"


def results():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


@contextlib.contextmanager
def _locked():
    """Several runs may record at once."""
    directory = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def record(server, result):
    """Keeps a row; cells that were not measured this time stay as they are."""
    with _locked():
        known = results()
        known[server.name] = {**known.get(server.name, {}), **{key: value for key, value in result.items() if key != "wrong"}}
        for found in known[server.name].get("broken", {}).values():
            found.pop("said", None)
        RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")


def short(result):
    """One line for the terminal."""
    if "missing" in result:
        return result["missing"]
    words = ["starts" if result["starts"] else "does not start"]
    words += [f"{name} {counts['lost']}/{counts['requests']}" for name, counts in result.get("lost", {}).items()]
    words += [f"plain {name} {counts['lost']}/{counts['requests']}" for name, counts in result.get("plain", {}).items() if name != "error"]
    words += [f"{kind} {found['outcome']}" for kind, found in result.get("broken", {}).items()]
    return ", ".join(words)


def write(servers, languages):
    known = results()
    text = (HERE / "page.md").read_text()
    rows = [row(server, known.get(server.name, {"missing": "not measured"})) for server in servers]
    text = text.replace("@LOST@\n", table(["server", "starts", "lost: new", "kept", "fast kept", "slow request", "MB a worker", "lines"], [a for a, _, _ in rows]))
    text = text.replace("@BROKEN@\n", table(["server", "syntax error", "error after 2 s", "hangs", "exits with 0", "error at the first request"], [b for _, b, _ in rows]))
    text = text.replace("@PLAIN@\n", table(["server", "new", "kept", "fast kept"], [c for _, _, c in rows if c]))
    text = text.replace("@RECIPES@\n", "\n".join(recipe(server, known[server.name]) for server in servers if server.name in known))
    PAGE.write_text(text)


def table(head, rows):
    lines = [" | ".join(head), "|".join("---" for _ in head), *(" | ".join(cells) for cells in rows)]
    return "".join(f"|{' ' if '---' not in line else ''}{line}{' ' if '---' not in line else ''}|\n" for line in lines)


def row(server, result):
    """The server's cells in the three tables; None where a table has no row for it."""
    name = f"[{server.title}](#{anchor(server.title)})"
    if "missing" in result:
        return [name, result["missing"], *[""] * 6], [name, *[""] * 5], None
    lost = [counts(result.get("lost", {}).get(each)) + mark(server, each, "lost", result.get("lost", {}).get(each, {}).get("lost")) for each in ("new", "kept", "fast")]
    slow = "–" if "slow" not in result else "kept" if result["slow"] is None else "**lost**" + mark(server, "slow", "slow", True)
    memory = f"{result['memory'] / 1e6:.0f}" if result.get("memory") else "?"
    first = [name, "yes" if result["starts"] else "**no**", *lost, slow, memory, str(server.setup.lines())]
    broken = result.get("broken", {})
    second = [name, *(outcome(kind, broken.get(kind)) + mark(server, kind, f"{kind} reason", is_bad(broken.get(kind))) for kind in BREAKS)]
    third = None
    plain = result.get("plain")
    if plain:
        third = [name, *([counts(plain.get(each)) for each in ("new", "kept", "fast")] if "error" not in plain else [plain["error"], "", ""])]
    elif server.plain_cannot:
        third = [name, server.plain_cannot, "", ""]
    return first, second, third


def mark(server, cell, other, bad):
    """The sign of a cell that is not perfect and is explained with the recipe."""
    return "¹" if bad and (cell in server.known or other in server.known) else ""


def is_bad(found):
    return found and (found["outcome"] in ("committed", "changed") or found.get("reason_lacks"))


def counts(found):
    if not found:
        return "–"
    text = f"{found['lost']} / {found['requests']:,}"
    text = f"**{text}**" if found["lost"] else text
    refused = len(found.get("refused", []))
    return f"{text} ({refused} of {found['reloads']} reloads refused)" if refused else text


def outcome(kind, found):
    if not found:
        return "?"
    if found["outcome"] == "none":
        return "–"
    if kind == "lazy" and found["outcome"] == "committed":
        return "committed, no probe"
    return {"told": "rolled back", "committed": "**committed**", "at build": "not built"}.get(found["outcome"], f"**{found['outcome']}**")


def anchor(title):
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def recipe(server, result):
    """What the server was run with: packages, files and the configuration."""
    text = f"### {server.title}\n\n"
    if result.get("versions"):
        text += f"Run with {result['versions']}.\n"
    if server.remark:
        text += f"{server.remark.strip()}\n"
    text += "".join(f"\n¹ {cell}: {why}.\n" for cell, why in server.known.items())
    files = {**server.setup.program, **server.setup.recipe}
    for name, content in files.items():
        text += f"\n`{name}`:\n\n```{language(name)}\n{shown(content).strip()}\n```\n"
    for command in server.setup.build:
        text += f"\n```sh\n{shown(command)}\n```\n"
    config = ""
    for name, keys in server.setup.config.items():
        config += f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in keys.items() if key != "start_timeout")
    return text + f"\n```toml\n{shown(config).strip()}\n```\n"


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def shown(text):
    """Placeholders as a reader would write them."""
    return text.replace("@PORT@", "8080").replace("@TREE@", "../ratoon").replace("@PLACE@", "/srv/web").replace("@FRONT_PORT@", "8000")


def language(name):
    endings = {"js": "js", "mjs": "js", "ts": "ts", "py": "python", "rb": "ruby", "ru": "ruby", "go": "go", "php": "php", "java": "java", "psgi": "perl", "erl": "erlang", "exs": "elixir"}
    return endings.get(name.rsplit(".", 1)[-1], "text")
