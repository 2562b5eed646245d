"""The playbooks of packaging/ansible, by ssh against the machines."""

import os
import re
import resource
import shutil
import subprocess
import time

from machines import TIMEOUT, TREE, Failed

# That a machine has lost its power is noticed after 15 s (docs/fleet.md).
SSH = "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=3 -o ConnectTimeout=30"


class Ansible:
    """Ansible with the collection, and the machines in an inventory: the first one is the canary."""

    def __init__(self, top, machines):
        self._top = top
        # The play that was begun last, for the report of a failure.
        self.last = None
        self._programs = TREE / "target/ansible/bin"
        if not (self._programs / "ansible-playbook").exists():
            raise Failed("target/ansible is missing: run tests/ansible")
        shutil.copytree(TREE / "packaging/ansible", top / "ansible_collections/ratoon/ratoon")
        line = "{0.name} ansible_host={0.address} ansible_python_interpreter=/usr/bin/python3".format
        first, *others = map(line, machines)
        inventory = ["[canary]", first, "[web:children]", "canary", "others", "[others]", *others, ""]
        (top / "hosts.ini").write_text("\n".join(inventory))

    def start(self, playbook, pipelining=False, **variables):
        """Begins a play; `finish` gives its outcome. `pipelining`: fewer steps by ssh for each task."""
        environment = {
            **os.environ,
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self._top),
            "ANSIBLE_HOME": str(self._top / "home"),
            # Connections that are kept would serve another run that has machines with these addresses.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._top / "cp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_ARGS": SSH,
            "ANSIBLE_PIPELINING": str(pipelining),
        }
        words = [f"{name}={value}" for name, value in {"deploy_instance": "web", **variables}.items()]
        command = ["ansible-playbook", "-i", self._top / "hosts.ini", f"ratoon.ratoon.{playbook}"]
        command += ["-e", '{"rollout_serial": [1, 2]}', *(part for word in words for part in ("-e", word))]
        self.last = Play(command, environment, f"{playbook} {' '.join(words)}")
        return self.last

    def run(self, playbook, pipelining=False, **variables):
        """A play from its beginning to its end."""
        return self.start(playbook, pipelining, **variables).finish()


class Play:
    """A run of ansible-playbook."""

    def __init__(self, command, environment, text):
        self.text, self.code, self.output, self.seconds, self.cpu = text, None, "", 0.0, 0.0
        self._began, self._before = time.monotonic(), cpu_of_children()
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )

    def finish(self):
        self.output, _ = self._process.communicate(timeout=5 * TIMEOUT)
        self.code, self.seconds = self._process.returncode, time.monotonic() - self._began
        self.cpu = cpu_of_children() - self._before
        return self

    def tasks(self):
        """Tasks that were carried out, over all machines."""
        return sum(int(ok) for ok in re.findall(r"^web\d+ +: ok=(\d+)", self.output, re.MULTILINE))

    def figures(self):
        """Its times, for docs/fleet.md."""
        return f"{self.seconds:.1f} s, {self.tasks()} tasks, {self.cpu:.1f} s of CPU at Ansible"

    def expect(self, code, *parts):
        """Fails unless it exited with this status and its output has these parts."""
        missing = [part for part in parts if part not in self.output]
        if self.code != code or missing:
            raise Failed(f"{self.text}: exit {self.code}, wanted {code}; missing in its output: {missing}")
        return self


def cpu_of_children():
    """CPU time of all ended children of this process and of theirs, seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
