"""The competitors whose workers are the benchmark's own: Ratoon, the least master (floor/master.c), a worker alone.

One interface for these and for the peers (others.py): `name`, `pid` of the master, `port`, `start()` until all serve,
`reload()` asks for one, `pids()` of the workers, `end()`."""

import contextlib
import http.client
import json
import os
import signal
import socket

import build
import machine


class Competitor:
    name = ""
    # The control group of its own, if it has one.
    group = None

    def __init__(self, directory, workers=4, env=(), listen=True):
        self.directory = os.path.join(directory, f"{self.name}-{workers}".replace(" ", "-"))
        os.makedirs(self.directory)
        self.workers = workers
        self.stamps = machine.Stamps(self.directory)
        self.port = machine.free_port()
        self.env = {**os.environ, "WORKER_STAMPS": self.stamps.path, **dict(env)}
        for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            self.env.pop(name, None)
        self.listen = listen
        self.log = open(os.path.join(self.directory, "log"), "wb")
        self.process = None

    def command(self):
        raise NotImplementedError

    def begin(self):
        """Starts it, and waits for nothing."""
        streams = {"stdout": self.log, "stderr": self.log}
        self.process = machine.start(self.command(), self.group, env=self.env, cwd=self.directory, **streams)

    def start(self):
        self.begin()
        self.until_serving()
        return self

    def until_serving(self):
        self.stamps.until_born(self.workers)

    @property
    def pid(self):
        return self.process.pid

    def pids(self):
        return machine.children(self.pid)

    def reload(self):
        os.kill(self.pid, signal.SIGHUP)

    def until_reloaded(self, before):
        """None of the processes before is left, and all of the new are there."""

        def over():
            if self.process and self.process.poll() is not None:
                raise RuntimeError(f"{self.name} has ended; its log is\n{self.last_words()}")
            current = set(self.pids())
            return len(current) == self.workers and not current & before

        machine.until(over, f"the end of a reload of {self.name}", every=0.005)

    def last_words(self):
        with open(self.log.name, errors="replace") as file:
            return file.read()[-2000:]

    def end(self):
        if self.process:
            machine.end(self.process)
        self.log.close()


class Ratoon(Competitor):
    name = "ratoon"
    # Rows that kill workers shall not come to the limit of restarts.
    limits = ["--restart-limit", 1000000, "--restart-max", "1s"]

    def __init__(self, directory, workers=4, env=(), listen=True, flags=(), bus=None, status=False):
        super().__init__(directory, workers, env, listen)
        self.flags = list(flags)
        self.env["RUNTIME_DIRECTORY"] = self.directory
        self.env["DBUS_SYSTEM_BUS_ADDRESS"] = bus or f"unix:path={self.directory}/no-bus"
        self.status_port = machine.free_port() if status else None

    def command(self):
        command = [build.RATOON, "run", "--name", "bench", "--workers", self.workers]
        command += [*self.limits, *self.flags]
        if self.listen:
            command += ["--listen", f"127.0.0.1:{self.port}"]
        if self.status_port:
            command += ["--status-listen", f"127.0.0.1:{self.status_port}"]
        return [*command, "--", build.WORKER]

    def until_serving(self):
        super().until_serving()
        machine.until(lambda: self.state() == "running", "the end of Ratoon's start")

    def state(self):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.ask("/status"))["state"]

    def ask(self, path, method="GET"):
        """What the control socket answers."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(machine.PATIENCE)
        with contextlib.closing(connection):
            connection.sock.connect(os.path.join(self.directory, "control"))
            connection.request(method, path)
            return connection.getresponse().read().decode()


class LeastMaster(Competitor):
    name = "least master"

    def command(self):
        return [build.MASTER, self.port, self.workers, os.path.join(self.directory, "notify"), build.WORKER]


class Restart(LeastMaster):
    """What `systemctl restart` does behind a socket unit."""

    name = "restart, socket kept"

    def __init__(self, directory, workers=4, env=()):
        super().__init__(directory, workers, {**dict(env), "MASTER_RESTARTS": "1"})


class Alone(Competitor):
    """One worker without a master."""

    name = "worker alone"

    def __init__(self, directory, workers=1, env=()):
        super().__init__(directory, 1, env)
        self.env["WORKER_PORT"] = str(self.port)

    def command(self):
        return [build.WORKER]

    def pids(self):
        return [self.pid]


class Spawner:
    """floor/spawn.c: `fork` or `command`; each `round()` starts a whole generation and ends the one before."""

    def __init__(self, directory, how, workers):
        self.directory = os.path.join(directory, f"spawn-{how}-{workers}")
        os.makedirs(self.directory)
        self.stamps = machine.Stamps(self.directory)
        self.workers = workers
        command = [build.SPAWN, how, workers, os.path.join(self.directory, "notify"), build.WORKER]
        env = {**os.environ, "WORKER_STAMPS": self.stamps.path}
        pipe = machine.subprocess.PIPE
        self.process = machine.start(command, env=env, stdin=pipe, stdout=pipe, text=True)

    def round(self):
        """When it began, and when all were ready by their own stamps."""
        self.stamps.clear()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        began = int(self.process.stdout.readline().split()[0])
        return began, max(ready for _, _, ready in self.stamps.until_born(self.workers))

    def end(self):
        self.process.stdin.close()
        self.process.wait(machine.PATIENCE)
        machine.end(self.process)
