"""Booted systemds in a network of their own: machines that are reached by ssh, and can be powered off.

Needs a network, a mount and a process namespace of its own (`run` makes them): what is made here ends with them. A machine has
three layers: a Debian of target/roots, Ratoon as its package installs it, and its own disk, which outlives a power cut.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 120  # seconds, for any one step
NETWORK = "10.77.0"
PORT, STATUS_PORT = 8080, 9101
# The unit files and what goes with them, as the package installs them.
PACKAGE = {
    "systemd/ratoon@.service": "usr/lib/systemd/system/ratoon@.service",
    "systemd/ratoon@.socket": "usr/lib/systemd/system/ratoon@.socket",
    "systemd/ratoon-leftovers@.service": "usr/lib/systemd/system/ratoon-leftovers@.service",
    "systemd/dbus/org.ratoon1.conf": "usr/share/dbus-1/system.d/org.ratoon1.conf",
    "systemd/dbus/org.ratoon1.xml": "usr/share/dbus-1/interfaces/org.ratoon1.xml",
}
INSTANCE = f"""[worker]
command = ["./worker"]
directory = "/srv/web/current"
count = 2
ready = "notify"
start_timeout = "10min"

[status]
listen = "0.0.0.0:{STATUS_PORT}"
"""
# A release holds at its start while this file is there, which a power cut removes.
HOLD = "/run/hold"
WORKER = f"#!/bin/sh\nwhile [ -e {HOLD} ]; do sleep 0.1; done\nexec /opt/ratoon/hello\n"
BROKEN = "#!/bin/sh\necho 'RuntimeError: no such table: users' >&2\nexit 1\n"


class Failed(Exception):
    """What a machine or a play did not do."""


def wait(what, condition, timeout=TIMEOUT):
    """Asks until the condition gives something."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {timeout} s")
        time.sleep(0.1)
    return found


def call(*command, **options):
    """Runs a command that must succeed; gives what it wrote."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=TIMEOUT, check=False, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def release(directory, worker):
    """The files of a release, whose name is that of its directory."""
    directory.mkdir(parents=True)
    (directory / "version").write_text(directory.name)
    (directory / "worker").write_text(worker)
    (directory / "worker").chmod(0o755)


def archive(top, version, worker=WORKER):
    """The archive of a release."""
    directory, file = top / "archives" / version, top / "archives" / f"{version}.tar.gz"
    release(directory, worker)
    call("tar", "-C", directory, "-czf", file, ".")
    return file


def network():
    """A bridge to which the machines are connected; this process has its first address."""
    call("ip", "link", "set", "lo", "up")
    call("ip", "link", "add", "fleet", "type", "bridge")
    call("ip", "address", "add", f"{NETWORK}.1/24", "dev", "fleet")
    call("ip", "link", "set", "fleet", "up")


def installed(top, programs):
    """The layer with Ratoon, an instance that serves release 1, and the key by which this process comes in."""
    layer, ssh = top / "installed", top / "ssh"
    ssh.mkdir(mode=0o700)
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "key")
    for source, target in {**PACKAGE, programs / "ratoon": "usr/bin/ratoon"}.items():
        (layer / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREE / source, layer / target)
    for path, text in {
        "etc/ratoon/web.toml": INSTANCE,
        "etc/systemd/system/ratoon@web.socket.d/listen.conf": f"[Socket]\nListenStream=0.0.0.0:{PORT}\n",
        "root/.ssh/authorized_keys": (ssh / "key.pub").read_text(),
    }.items():
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text(text)
    (layer / "root").chmod(0o700)
    (layer / "root/.ssh").chmod(0o700)
    release(layer / "srv/web/releases/1", WORKER)
    (layer / "srv/web/current").symlink_to("releases/1")
    for unit, target, file in (
        ("ssh.service", "multi-user.target", "ssh.service"),
        ("ratoon@web.socket", "sockets.target", "ratoon@.socket"),
        ("ratoon@web.service", "multi-user.target", "ratoon@.service"),
    ):
        wants = layer / f"etc/systemd/system/{target}.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / unit).symlink_to(f"/usr/lib/systemd/system/{file}")
    return layer


def let_ssh_in(top, machines):
    """A configuration of ssh that knows the machines and the key, in place of this machine's own."""
    hosts = "".join(
        f"{machine.address} {' '.join((machine.root / 'etc/ssh/ssh_host_ed25519_key.pub').read_text().split()[:2])}\n"
        for machine in machines
    )
    call("mount", "-t", "tmpfs", "tmpfs", "/etc/ssh")
    (top / "ssh/known_hosts").write_text(hosts)
    Path("/etc/ssh/ssh_config").write_text(f"User root\nIdentityFile {top}/ssh/key\nUserKnownHostsFile {top}/ssh/known_hosts\n")


class Machine:
    """A booted systemd with an address."""

    def __init__(self, number, debian, top, layers, programs):
        self.name, self.address = f"web{number}", f"{NETWORK}.{10 + number}"
        self.root = (TREE / "target/roots" / debian).resolve()
        if not (self.root / "usr/bin/python3").exists():
            raise Failed(f"{self.root} is missing, or has no Python: run tests/setup")
        self._layers = ":".join(map(str, (*layers, self.root)))
        self._number, self._programs = number, programs
        self._disk = top / "machines" / self.name
        self._group = None
        self._boot = None
        self.pid = None
        for directory in ("upper", "work", "root"):
            (self._disk / directory).mkdir(parents=True)

    def boot(self):
        """Powers it on, and waits until all its units have started."""
        self._group = cgroup(self.name)
        self._boot = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--",
             TREE / "tests/system/boot.sh", self._layers, self._disk, self._group, self._programs / "examples"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )
        self.pid = wait(f"{self.name}: systemd", self._init)
        link = f"fleet{self._number}"
        call("ip", "link", "add", link, "type", "veth", "peer", "name", "host0", "netns", self.pid)
        call("ip", "link", "set", link, "master", "fleet", "up")
        enter = ("nsenter", "--net", "--target", self.pid, "--", "ip")
        call(*enter, "address", "add", f"{self.address}/24", "dev", "host0")
        call(*enter, "link", "set", "host0", "up")
        wait(f"{self.name}: the end of the boot", self._is_up)

    def _init(self):
        if self._boot.poll() is not None:
            raise Failed(f"{self.name}: systemd-nspawn ended with {self._boot.returncode}")
        try:
            return int((self._group / "payload/init.scope/cgroup.procs").read_text().split()[0])
        except (OSError, IndexError):
            return None

    def _is_up(self):
        said = self.run("systemctl", "is-system-running", "--wait").stdout.strip()
        if said == "degraded":
            raise Failed(f"{self.name}: {self.run('systemctl', '--failed', '--no-legend').stdout}")
        return said == "running"

    def run(self, *command):
        """Runs a command there, past the network."""
        enter = ["nsenter", "--all", "--target", str(self.pid), "--", *command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": ""}
        return subprocess.run(enter, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)

    def version(self):
        """The systemd."""
        return self.run("systemctl", "--version").stdout.split()[1]

    def releases(self):
        """The names of the releases that are on its disk."""
        return self.run("ls", "-A", "/srv/web/releases").stdout.split()

    def power_off(self):
        """Cuts its power: all its processes end at once, and its disk stays as it is."""
        # First the cable, or the kernel would tell the other ends of its connections.
        call("ip", "link", "delete", f"fleet{self._number}")
        self._boot.stdin.close()
        self._boot.wait(TIMEOUT)
        remove_cgroup(self._group)


class Fleet:
    """All machines."""

    def __init__(self, top, programs, debians):
        network()
        layers = [installed(top, programs)]
        # Not every file system can hold the upper layer of an overlay.
        disks = top / "machines"
        disks.mkdir()
        call("mount", "-t", "tmpfs", "tmpfs", disks)
        self.top, self._ratoon = top, programs / "ratoon"
        self.machines = [Machine(number, debian, top, layers, programs) for number, debian in enumerate(debians, 1)]
        let_ssh_in(top, self.machines)
        with concurrent.futures.ThreadPoolExecutor() as threads:
            list(threads.map(Machine.boot, self.machines))
        self.serves({machine: "1" for machine in self.machines})

    def power_off(self):
        """Powers off what is on, at the end."""
        for machine in self.machines:
            if machine.pid is not None:
                machine.power_off()

    def status(self):
        """The status of each machine that answers, as `ratoon -H` tells it."""
        hosts = [word for machine in self.machines for word in ("-H", machine.address)]
        said = subprocess.run(
            [self._ratoon, *hosts, "status", "web", "--json"], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        try:
            answers = {one["host"]: one.get("status") for one in json.loads(said.stdout)}
        except (ValueError, TypeError, KeyError) as error:
            raise Failed(f"ratoon -H … status: {error!r}: {said.stdout}{said.stderr}") from error
        return {machine: answers[machine.address] for machine in self.machines}

    def serves(self, wanted):
        """Waits until each of these machines serves this release with all its workers, and nothing else."""
        seen = {}

        def agree():
            status = self.status()
            seen.update({machine.name: said and summary(said) for machine, said in status.items()})
            return all(status[machine] and summary(status[machine]) == calm(version) for machine, version in wanted.items())

        try:
            wait(f"serve {sorted({*wanted.values()})}", agree)
        except Failed as error:
            raise Failed(f"{error}: {json.dumps(seen)}") from error


def summary(status):
    """The release that serves, ready workers, all workers, and whether all is well."""
    release = status.get("release") or {}
    name = os.path.basename(release.get("directory") or "")
    is_well = not status["degraded"] and status["state"] == "running" and not release.get("path_leads_elsewhere")
    return [name, status["workers_ready"], len(status["workers"]), is_well]


def calm(version):
    return [version, 2, 2, True]


def cgroup(name):
    """A cgroup of the machine's own, with every controller that there is."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if top is None:
        raise Failed("no cgroup2 is mounted on this machine")
    own = top / f"ratoon-fleet-{os.environ['RATOON_FLEET']}-{name}"
    own.mkdir()
    for controller in (top / "cgroup.controllers").read_text().split():
        try:
            (top / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            pass  # in use elsewhere
    return own


def remove_cgroup(path):
    """Removes a cgroup and those below it, once their last process is gone."""
    def is_removed():
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return False
        return True

    wait(f"{path} is empty", is_removed)
