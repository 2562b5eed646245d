"""A pool of one server's workers under `ratoon run`, in a directory of its own."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from . import processes
from .install import PLACE
from .servers import TREE

RATOON = TREE / "target/debug/ratoon"
#: Seconds until a pool is ready or has drained. A JVM on a busy machine needs a part of it.
TIMEOUT = 90


class Pool:
    """Starts with the server's files in place; `with` ends it."""

    def __init__(self, server, setup, count):
        self.server, self.setup, self.count = server, setup, count
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="matrix-"))
        # Servers that give up root read the files, too.
        self.top.chmod(0o755)
        self.place = self.top / "server"
        self.place.mkdir()
        self.port = processes.free_port(socket.SOCK_DGRAM if server.client == "udp" else socket.SOCK_STREAM)
        self.others = []
        self.master = None
        for link, target in (("node_modules", "npm/node_modules"), ("venv", "venv")):
            (self.place / link).symlink_to(PLACE / target)
        (self.place / "run").mkdir()
        (self.place / "big").write_bytes(bytes(24 << 20))
        self.write({**setup.program, **setup.recipe})
        self._config()
        if server.front:
            self.front_port = processes.free_port()

    def __enter__(self):
        try:
            self.build()
            self.start()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error):
        self.close()

    def fill(self, text):
        """Placeholders of the server's file: the port, this repository, a front server's port."""
        text = text.replace("@PORT@", str(self.port)).replace("@TREE@", str(TREE)).replace("@PLACE@", str(self.place))
        return text.replace("@FRONT_PORT@", str(getattr(self, "front_port", 0)))

    def write(self, files):
        for name, text in files.items():
            path = self.place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.fill(text))

    def _config(self):
        text = ""
        for table in ("worker", "reload"):
            keys = dict(self.setup.config.get(table, {}))
            if table == "worker":
                keys = {"count": self.count, "directory": str(self.place), "stop_timeout": "20s", "start_timeout": "60s", **keys}
            environment = keys.pop("environment", {})
            text += f"[{table}]\n" + "".join(f"{key} = {self.fill(json.dumps(value))}\n" for key, value in keys.items())
            if environment:
                text += f"[{table}.environment]\n" + "".join(f"{key} = {self.fill(json.dumps(value))}\n" for key, value in environment.items())
        # One failure is one failure: the delays of restarts are not measured here.
        text += '[restart]\ninitial = "100ms"\n'
        (self.top / "ratoon.toml").write_text(text)

    def environment(self):
        keep = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "INVOCATION_ID", "LISTEN_FDS", "LISTEN_PID")}
        return {**keep, "RUNTIME_DIRECTORY": str(self.top / "run"), "PYTHONDONTWRITEBYTECODE": "1", "GOCACHE": str(TREE / "target/go")}

    def build(self):
        """Builds the release in place, as its author does before the reload. Raises the builder's words."""
        for command in self.setup.build:
            said = subprocess.run(["sh", "-c", self.fill(command)], cwd=self.place, env=self.environment(), capture_output=True, text=True)
            if said.returncode:
                raise BuildFailed((said.stderr + said.stdout).strip())

    def start(self):
        command = [RATOON, "run", "--config", self.top / "ratoon.toml", "--name", "matrix"]
        listen = self.fill(self.server.listen)
        (self.top / "run").mkdir(exist_ok=True)
        self.log_path = self.top / "log"
        with open(self.log_path, "wb") as log:
            self.master = processes.start([*command, "--listen", listen], env=self.environment(), cwd=self.place, stdout=log, stderr=log)
        if self.server.front:
            self._start_front()
        self.wait_ready()

    def _start_front(self):
        self.write({"front.conf": self.server.front["config"]})
        command = [self.fill(word) for word in self.server.front["command"]]
        with open(self.top / "front.log", "wb") as log:
            self.others.append(processes.start(command, cwd=self.place, stdout=log, stderr=log))

    @property
    def address(self):
        """Where clients connect."""
        return f"127.0.0.1:{self.front_port if self.server.front else self.port}"

    def log(self):
        with contextlib.suppress(OSError):
            return self.log_path.read_text(errors="replace")
        return ""

    def ratoon(self, *words, timeout=TIMEOUT * 2):
        command = [RATOON, *words, "--control", self.top / "run/control"]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL)

    def status(self):
        said = self.ratoon("status", "--json")
        with contextlib.suppress(ValueError):
            return json.loads(said.stdout)
        return None

    def _is_settled(self):
        if self.master.poll() is not None:
            raise RuntimeError(f"the master ended with {self.master.returncode}:\n{self.log()}")
        status = self.status()
        if not status or status["state"] != "running" or status["workers_ready"] != self.count:
            return None
        workers = status["workers"]
        alone = all(worker["generation"] == status["generation"] and worker["state"] == "ready" for worker in workers)
        return status if alone and len(workers) == self.count else None

    def wait_ready(self):
        """Waits until the workers of the current generation, and no others, are there and ready."""
        try:
            return processes.wait(f"{self.server.name}: {self.count} ready workers", self._is_settled, TIMEOUT)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log()[-4000:]}") from None

    def reload(self):
        """The outcome of `ratoon reload`: whether it was committed, and what it printed."""
        said = self.ratoon("reload")
        return said.returncode == 0, (said.stdout + said.stderr).strip()

    def memory(self):
        """Proportional set size of a worker with its processes: the mean, in bytes."""
        found = [processes.pss(worker["pid"]) for worker in self.status()["workers"]]
        return None if None in found else sum(found) / len(found)

    def close(self):
        self.drained = True
        for process in [self.master, *self.others]:
            if process is not None:
                self.drained &= processes.end(process, 30)
        shutil.rmtree(self.top, ignore_errors=True)


class BuildFailed(Exception):
    """The release could not be built; nothing was asked of the running pool."""
