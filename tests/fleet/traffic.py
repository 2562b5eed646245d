"""HAProxy before the machines, and a load through it whose requests come by the clock."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

from machines import NETWORK, PORT, TIMEOUT, TREE, Failed, wait

ADDRESS = f"{NETWORK}.1:80"
RATE = 60  # requests a second


class Balancer:
    """HAProxy with the configuration of examples/balancers. `strict`: it sends no request twice."""

    def __init__(self, top, machines, strict):
        directory = top / ("strict" if strict else "balancer")
        directory.mkdir()
        self._admin_socket, self._log = directory / "admin.sock", directory / "log"
        text = (TREE / "examples/balancers/haproxy.cfg").read_text()
        lines = [line for line in text.splitlines() if not line.strip().startswith("server ")]
        text = "\n".join(lines + [f"    server {machine.name} {machine.address}:{PORT}" for machine in machines]) + "\n"
        text = text.replace("192.0.2.10:80\n", f"{ADDRESS}\n").replace("/run/haproxy/admin.sock", str(self._admin_socket))
        if strict:
            text = text.replace("disable-l7-retry unless METH_GET", "disable-l7-retry")
        if "192.0.2." in text or strict == ("unless METH_GET" in text):
            raise Failed(f"examples/balancers/haproxy.cfg has other lines than expected:\n{text}")
        (directory / "haproxy.cfg").write_text(text)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(["haproxy", "-db", "-f", directory / "haproxy.cfg"], stdout=log, stderr=log)
        wait("the balancer listens", self._listens)
        for machine in machines:
            self.finds(machine, "UP")

    def _listens(self):
        if self._process.poll() is not None:
            raise Failed(f"HAProxy ended:\n{self._log.read_text()}")
        host, port = ADDRESS.split(":")
        with socket.socket() as client, socket.socket(socket.AF_UNIX) as admin:
            return client.connect_ex((host, int(port))) == 0 == admin.connect_ex(str(self._admin_socket))

    def _rows(self):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._admin_socket))
            admin.sendall(b"show stat\n")
            text = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        rows = [line.split(",") for line in text.lstrip("# ").splitlines() if line]
        return {row[1]: dict(zip(rows[0], row)) for row in rows[1:]}

    def finds(self, machine, state):
        """Waits until its check has found the machine `UP` or `DOWN`."""
        wait(f"HAProxy finds {machine.name} {state}", lambda: self._rows()[machine.name]["status"] == state)

    def retries(self):
        """Connections and requests that it had to send to another machine or once more."""
        return sum(int(row[column] or 0) for name, row in self._rows().items() if name.startswith("web")
                   for column in ("wretr", "wredis") if row["svname"] not in ("FRONTEND", "BACKEND"))

    def end(self):
        self._process.kill()
        self._process.wait()


class Load:
    """An open loop: requests come by the clock, on kept connections and on new ones, however long the answers take."""

    def __init__(self, programs):
        command = [programs / "examples/load", ADDRESS, "--rate", str(RATE), "--keep-alive", "8", "--new", "8", "--timeout", "40"]
        self._client = subprocess.Popen(
            command + ["--until-eof", "--json", "--progress", "0.1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        self._requests = 0
        self._progress = threading.Thread(target=self._read_progress, daemon=True)
        self._progress.start()
        self.more()

    def _read_progress(self):
        # Lines like "requests 17 failures 0".
        for line in self._client.stderr:
            words = line.split()
            if words[:1] == ["requests"]:
                self._requests = int(words[1])
            else:
                print(line, file=sys.stderr, end="")

    def more(self):
        """Waits until requests of another second are over."""
        enough = self._requests + RATE
        wait(f"{enough} requests are over", lambda: self._requests >= enough)

    def report(self):
        """Ends it: what was answered and lost."""
        self._client.stdin.close()
        self._progress.join(TIMEOUT)
        report = json.loads(self._client.stdout.read())
        self._client.wait(TIMEOUT)
        return report

    def lossless(self, part):
        """Ends it; nothing may be lost."""
        self.more()
        report = self.report()
        told(part, report)
        if report["failed"] or not report["answered"]:
            raise Failed(f"{part}: {json.dumps(report, indent=1)}")


def told(part, report):
    print(f"fleet: {part}: {report['answered']} requests answered, {report['failed']} lost", flush=True)
