# Copyright (c) the Ratoon authors
# MIT License
"""Plays of the collection against real masters: four machines that are this one, each with a master of its own and releases below
a directory of its own. RATOON names the program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tarfile
import time
import urllib.request

import pytest

HOSTS = ("one", "two", "three")

SERVER = """#!/usr/bin/python3
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
{start}
listening = socket.socket(fileno=3)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
body = b"{version}"
while True:
    connection, _ = listening.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 {status} X\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body) + body)
    connection.close()
"""

# What a release does at its start, by its version.
STARTS = {
    "bad": 'raise RuntimeError("no such table: users")',
    # Fails on the machine of this name only.
    "half": 'if "/two/" in os.getcwd(): raise RuntimeError("two has no disk")',
}
DEADLINE = 60


class Machine:
    """A master, its releases, and its files."""

    def __init__(self, path, name):
        self.name = name
        self.path = path / name
        self.releases = self.path / "releases"
        self.current = self.path / "current"
        self.control = self.path / "run" / "control"
        self.log = self.path / "log"
        for directory in (self.releases, self.control.parent):
            directory.mkdir(parents=True)
        unpack(archive(path, "1"), self.releases / "1")
        self.current.symlink_to(self.releases / "1")
        self.path.joinpath("web.toml").write_text(
            f'[worker]\ncommand = ["./server"]\ndirectory = "{self.current}"\ncount = 1\nready = "notify"\n'
        )
        self.process = None

    def start(self):
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(self.control.parent)}
        environment.pop("NOTIFY_SOCKET", None)
        with open(self.log, "wb") as log:
            # pylint: disable-next=consider-using-with
            self.process = subprocess.Popen(
                [os.environ["RATOON"], "run", "--name", "web", "--config", str(self.path / "web.toml"), "--listen", "127.0.0.1:0"],
                env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )

    def wait(self):
        """Waits until the master serves."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                if self.status()["workers_ready"] > 0:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self.name} does not serve: {self.log.read_text()}")

    def stop(self):
        """Ends the master and all that it has started."""
        if self.process is None:
            return
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DEADLINE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)

    def status(self):
        command = [os.environ["RATOON"], "status", "--json", "--control", str(self.control)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False).stdout)

    def body(self):
        """What a client gets when no worker of another generation is left."""
        end = time.monotonic() + DEADLINE
        status = self.status()
        while any(worker["generation"] != status["generation"] for worker in status["workers"]):
            assert time.monotonic() < end, f"{self.name}: the old workers do not end: {status['workers']}"
            time.sleep(0.05)
            status = self.status()
        address = status["sockets"][0]["address"]
        with urllib.request.urlopen(f"http://{address}/", timeout=DEADLINE) as answer:
            return answer.read().decode()

    def serves(self, version):
        """Fails unless this release serves and the symlink leads to it."""
        found = (self.body(), os.path.basename(os.readlink(self.current)), self.status()["release"]["path_leads_elsewhere"])
        assert found == (version, version, False), f"{self.name}: {found}"


def archive(path, version):
    """The archive of a release."""
    file = path / f"{version}.tar.gz"
    if not file.exists():
        server = path / "server"
        status = 500 if version == "unwell" else 200
        server.write_text(SERVER.format(start=STARTS.get(version, ""), version=version, status=status))
        server.chmod(0o755)
        with tarfile.open(file, "w:gz") as tar:
            tar.add(server, "server")
    return file


def unpack(file, directory):
    directory.mkdir()
    subprocess.run(["tar", "-xzf", str(file), "-C", str(directory)], check=True, timeout=DEADLINE)


class Fleet:
    """The machines, and plays on them."""

    def __init__(self, path):
        self.path = path
        self.machines = {name: Machine(path, name) for name in HOSTS}

    def __getitem__(self, name):
        return self.machines[name]

    def inventory(self):
        lines = ["[canary]", "one", "", "[web]"]
        for name, machine in self.machines.items():
            lines.append(f"{name} ansible_connection=local deploy_root={machine.path} deploy_control={machine.control}")
        # A machine that is off: nobody listens on its port.
        lines += ["", "[gone]", "off ansible_host=127.0.0.1 ansible_port=1 ansible_ssh_common_args='-o BatchMode=yes'"]
        file = self.path / "inventory.ini"
        file.write_text("\n".join(lines) + "\n")
        return file

    def play(self, book, version, *options, **variables):
        """Runs a playbook. Returns its exit status and what it printed."""
        variables = {
            "deploy_instance": "web", "deploy_program": os.environ["RATOON"], "ansible_python_interpreter": "/usr/bin/python3", **variables,
        }
        if version:
            variables.update(deploy_version=version, deploy_archive=str(archive(self.path, version)))
        ended = subprocess.run(
            ["ansible-playbook", "-i", str(self.inventory()), book, "-e", json.dumps(variables), *options],
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "True"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10 * DEADLINE, check=False,
        )
        print(ended.stdout)
        return ended.returncode, ended.stdout

    def generations(self):
        return [machine.status()["generation"] for machine in self.machines.values()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        for machine in fleet.machines.values():
            machine.start()
        for machine in fleet.machines.values():
            machine.wait()
        yield fleet
    finally:
        for machine in fleet.machines.values():
            machine.stop()


def recap(output, host):
    """The figures of a host at the end of a play."""
    line = next((line for line in output.split("PLAY RECAP", 1)[1].splitlines() if line.startswith(f"{host} ")), None)
    return {key: int(value) for key, value in (word.split("=") for word in line.split() if "=" in word)} if line else None


# The tests go on from each other, as a day of a fleet does.


def test_check_mode_changes_nothing(fleet):
    before = fleet.generations()
    status, output = fleet.play("ratoon.ratoon.rollout", "2", "--check", "--diff", rollout_serial="100%")
    assert status == 0
    assert recap(output, "three")["changed"] > 0
    assert fleet.generations() == before
    for machine in fleet.machines.values():
        machine.serves("1")
        assert sorted(os.listdir(machine.releases)) == ["1"]


def test_good_release_goes_to_all_canary_first(fleet):
    status, output = fleet.play("ratoon.ratoon.rollout", "2", rollout_canary="three")
    assert status == 0
    for machine in fleet.machines.values():
        machine.serves("2")
    reloads = output.split("TASK [ratoon.ratoon.deploy : Reload]")[1:]
    assert "changed: [three]" in reloads[0] and "[one]" not in reloads[0].split("\n\n", 1)[0]


def test_second_run_changes_nothing(fleet):
    before = fleet.generations()
    status, output = fleet.play("ratoon.ratoon.rollout", "2", rollout_serial="100%")
    assert status == 0
    assert [recap(output, host)["changed"] for host in HOSTS] == [0, 0, 0]
    assert fleet.generations() == before


def test_bad_release_stops_at_the_first_machine(fleet):
    before = fleet.generations()
    status, output = fleet.play("ratoon.ratoon.rollout", "bad")
    assert status == 2
    assert "exit 1 before it was ready; it printed: RuntimeError: no such table: users" in output
    assert recap(output, "one")["failed"] == 1 and recap(output, "two") is None and recap(output, "three") is None
    for machine in fleet.machines.values():
        machine.serves("2")
    assert fleet.generations() == before


def test_release_that_fails_on_one_is_undone_where_this_play_brought_it(fleet):
    plays = [("4", "100%"), ("half", 1)]
    book = fleet.path / "two.yml"
    book.write_text(json.dumps([{"import_playbook": "ratoon.ratoon.rollout", "vars": {
        "deploy_version": version, "deploy_archive": str(archive(fleet.path, version)), "rollout_serial": serial,
    }} for version, serial in plays]))
    status, output = fleet.play(str(book), None, deploy_undo_on_failure=True)
    assert status == 2
    assert "two has no disk" in output
    told = next(line for line in output.splitlines() if "undone on" in line)
    assert "; undone on one" in told and "three" not in told and "NOT undone" not in output
    for machine in fleet.machines.values():
        machine.serves("4")
    assert not (fleet["three"].releases / "half").exists()


def test_release_that_answers_badly_is_taken_back(fleet):
    address = fleet["one"].status()["sockets"][0]["address"]
    status, output = fleet.play("ratoon.ratoon.rollout", "unwell", deploy_url=f"http://{address}/")
    assert status == 2
    assert "Status code was 500" in output and "; undone; the symlink leads to" in output
    fleet["one"].serves("4")
    fleet["two"].serves("4")


def test_machine_that_is_off_is_told_and_stops_the_rollout(fleet):
    variables = {"rollout_hosts": "gone:web"}
    # A canary, then the machine that is off beside another one.
    status, output = fleet.play("ratoon.ratoon.rollout", "3", rollout_serial=[1, 2], **variables)
    assert status == 4
    assert recap(output, "off")["unreachable"] == 1
    assert [machine.body() for machine in fleet.machines.values()] == ["3", "3", "4"]
    # The play goes on where it ended, when it may leave the machine out.
    status, output = fleet.play("ratoon.ratoon.rollout", "3", rollout_serial=2, deploy_stop_when_unreachable=False, **variables)
    assert status == 4
    assert recap(output, "one")["changed"] == 0
    for machine in fleet.machines.values():
        machine.serves("3")


def test_interrupted_run_does_not_take_the_new_release_for_the_one_before(fleet):
    machine = fleet["one"]
    machine.current.unlink()
    machine.current.symlink_to(machine.releases / "bad")
    status, _output = fleet.play("ratoon.ratoon.rollout", "bad")
    assert status == 2
    machine.serves("3")


def test_undo_of_the_fleet(fleet):
    status, _output = fleet.play("ratoon.ratoon.undo", "3")
    assert status == 0
    for machine in fleet.machines.values():
        machine.serves("4")
    status, output = fleet.play("ratoon.ratoon.undo", "3")
    assert status == 0
    assert [recap(output, host)["changed"] for host in HOSTS] == [0, 0, 0]


def test_machine_without_a_master_is_refused(fleet):
    fleet["one"].stop()
    status, output = fleet.play("ratoon.ratoon.rollout", "3")
    assert status == 2
    assert "set deploy_not_running to switch" in output
    assert os.path.basename(os.readlink(fleet["one"].current)) == "4"
    fleet["two"].serves("4")
