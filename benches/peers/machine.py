"""The machine: processes that end with the harness, what /proc says of them, and the stamps that workers leave.

Law: whatever the harness started, or its children left behind, is ended by it, also after an error; nothing else is touched.
The harness is the subreaper of all its descendants, so that they are found by descent and never by name."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 60


def begin():
    """Orphans of ours come to us."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def now():
    """CLOCK_MONOTONIC in nanoseconds, as the workers' stamps have it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def children(pid):
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def reap():
    """Takes in what has ended among our children and is not a `Popen` that waits for its own."""
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "Z" and pid not in known:
                os.waitpid(pid, os.WNOHANG)


known = set()


def start(argv, group=None, **options):
    """Starts a process, in this control group if one is named."""
    if group:
        options["preexec_fn"] = lambda: open(os.path.join(group, "cgroup.procs"), "w").write("0")
    options.setdefault("stdin", subprocess.DEVNULL)
    # Each in a session of its own, as Ratoon's workers are: the scheduler shares CPUs by sessions (autogroup).
    options.setdefault("start_new_session", True)
    process = subprocess.Popen([str(word) for word in argv], **options)
    known.add(process.pid)
    return process


def control_group():
    """A new control group (cgroup v2) beside that of the harness; None where it cannot make one."""
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/self/mountinfo") as mounts:
            mount = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
        with open("/proc/self/cgroup") as groups:
            own = next(line[3:].strip() for line in groups if line.startswith("0::"))
        return tempfile.mkdtemp(prefix="ratoon-bench-", dir=mount + os.path.dirname(own).rstrip("/"))


def remove_group(group):
    """Removes a control group and those below, after the processes in them have ended."""
    for directory, _, _ in os.walk(group, topdown=False) if group else ():
        until(lambda: not open(os.path.join(directory, "cgroup.procs")).read(), f"the end of the processes in {directory}")
        os.rmdir(directory)


def end(process, patience=PATIENCE):
    """SIGTERM, then SIGKILL to it and to all that it leaves."""
    left = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    known.discard(process.pid)
    mine = set(descendants(os.getpid()))
    for pid in left:
        if pid in mine:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    reap()


def end_all():
    """Whatever is left of all that was started."""
    for _ in range(100):
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in children(os.getpid()):
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def until(true, what, patience=None, every=0.002):
    """Waits for it."""
    patience = patience or PATIENCE
    deadline = time.monotonic() + patience
    while not (answer := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patience} s: {what}")
        time.sleep(every)
    return answer


@contextlib.contextmanager
def place():
    """A directory for a row; in memory, as /run is, where systemd puts what a service needs while it runs."""
    memory = os.access("/dev/shm", os.W_OK)
    directory = tempfile.mkdtemp(prefix="ratoon-bench-", dir="/dev/shm" if memory else None)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    """Whether somebody answers a request there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in stream.recv(4096)
    except OSError:
        return False


def pss(pid):
    """Kibibytes of memory that are the process's own, by its share of what it shares."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def wakeups(pid):
    """How often any thread of it went to sleep by itself."""
    count = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as file:
            count += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
    return count


def cpu(pid):
    """Seconds of CPU that it has used, without its children."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def forks():
    """Processes made on the whole machine since its start."""
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("processes"))


median = statistics.median


class Stamps:
    """What the workers of one competitor noted: `struct stamp` of benches/floor/worker.c."""

    RECORD = struct.Struct("=QQQQ")

    def __init__(self, directory):
        self.path = os.path.join(directory, "stamps")
        self.clear()

    def clear(self):
        open(self.path, "w").close()

    def records(self):
        with open(self.path, "rb") as file:
            data = file.read()
        whole = len(data) - len(data) % self.RECORD.size
        return list(self.RECORD.iter_unpack(data[:whole]))

    def born(self):
        """(process, first instruction, ready) of each that became ready."""
        return [record[:3] for record in self.records() if not record[3]]

    def told(self):
        return [record[3] for record in self.records() if record[3]]

    def until_born(self, count):
        def there():
            enough = os.path.getsize(self.path) >= count * self.RECORD.size
            return enough and len(self.born()) >= count

        until(there, f"{count} ready workers")
        return self.born()


@contextlib.contextmanager
def hogs(spawn, count):
    """So many processes that keep a CPU busy each."""
    busy = [start([spawn, "hog"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
            known.discard(process.pid)


class Bus:
    """A message bus of our own; `Bus(directory).address`."""

    POLICY = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="false"/><allow own="*"/></policy>
<limit name="max_incoming_bytes">134217728</limit><limit name="max_outgoing_bytes">134217728</limit>
<limit name="max_message_size">67108864</limit></busconfig>
"""

    def __init__(self, directory):
        path = os.path.join(directory, "bus")
        self.address = f"unix:path={path}"
        config = os.path.join(directory, "bus.conf")
        with open(config, "w") as file:
            file.write(self.POLICY.format(path=path))
        self.process = start(["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"])
        until(lambda: os.path.exists(path), "dbus-daemon")

    def end(self):
        end(self.process)
