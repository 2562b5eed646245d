"""The servers: one file each in `servers/`, and what their languages share in `languages.toml`."""

import pathlib
import tomllib

HERE = pathlib.Path(__file__).resolve().parent.parent
TREE = HERE.parent.parent

#: Kinds of broken releases, in the order of the page's columns.
BREAKS = ["syntax", "late", "hang", "exit", "lazy"]


class Server:
    """One file of `servers/`. README.md says what its keys mean."""

    def __init__(self, path, languages):
        with open(path, "rb") as file:
            data = tomllib.load(file)
        self.name = path.stem
        self.language = data["language"]
        self.order = list(languages).index(self.language)
        self.title = data["title"]
        self.install = data.get("install", {})
        self.main = data.get("main", False)
        self.client = data.get("client", "http")
        self.listen = data.get("listen", "127.0.0.1:@PORT@")
        self.front = data.get("front")
        self.slow = data.get("slow", "answer")
        self.remark = data.get("remark", "")
        self.known = data.get("known", {})
        self.setup = Setup(data, data)
        self.plain = Setup(data["plain"], data) if "plain" in data else None
        self.plain_cannot = data.get("plain_cannot", "")
        self.broken = self._broken(data, languages[self.language])

    @staticmethod
    def _broken(data, language):
        """For each kind of broken release: the file, what it becomes, and words that the reason must have. Or why there is none."""
        own = data.get("broken", {})
        broken = {}
        for kind in BREAKS:
            change = own.get(kind, language.get(kind))
            if change is None or "none" in own and kind not in own:
                broken[kind] = own.get("none", "no such thing")
            elif isinstance(change, str):
                broken[kind] = change
            else:
                broken[kind] = {"file": own.get("file", language.get("file")), **change}
        return broken


class Setup:
    """A way to run the server: with what the recipe says, or plain."""

    def __init__(self, data, base):
        self.program = data.get("program", base.get("program", {}))
        self.recipe = data.get("recipe", {})
        self.build = data.get("build", base.get("build", []))
        self.own_lines = data.get("lines", 0)
        self.config = {name: data[name] for name in ("worker", "reload") if name in data}

    def lines(self):
        """Lines that a user writes for Ratoon: those of the recipe's files, keys beside the command, and `lines` within the program."""
        files = sum(1 for text in self.recipe.values() for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))
        keys = sum(1 for table in self.config.values() for key in table if key not in ("command", "start_timeout"))
        return self.own_lines + files + keys


def all_servers():
    with open(HERE / "languages.toml", "rb") as file:
        languages = tomllib.load(file)
    servers = [Server(path, languages) for path in (HERE / "servers").glob("*.toml")]
    return sorted(servers, key=lambda server: (server.order, not server.main, server.title.lower())), languages
