"""`ratoon.preload` against a stand-in for the master, which is a subreaper and knows a worker by the kernel's word."""

import array
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from support import DEADLINE, SOURCE

sys.path.insert(0, str(SOURCE))
from ratoon.preload import _protocol, _run, _server  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
SO_PASSCRED = 16

#: Writes what it is to its standard output.
SCRIPT = """#!/usr/bin/env python3
import json, os, sys
import app
facts = dict(
    loaded=app.LOADED, pid=os.getpid(), parent=os.getppid(), session=os.getsid(0), argv=sys.argv, environ=dict(os.environ),
    files=sorted(int(name) for name in os.listdir("/proc/self/fd")), listens=os.readlink("/proc/self/fd/3"),
    hooks=app.HOOKS, frozen=__import__("gc").get_freeze_count(),
)
print(json.dumps(facts), flush=True)
sys.exit(5)
"""

APP = """
import os
from ratoon import preload

LOADED, HOOKS = os.getpid(), []
FILE = open("app.py")

@preload.before_fork
def before():
    HOOKS.append(["before", os.getpid()])

@preload.after_fork
def after():
    HOOKS.append(["after", os.getpid()])
"""


class Master:
    """A running preload process, and its requests; ended when the context is left."""

    def __init__(self, modules=("app",), app=APP, options=()):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._directory = tempfile.TemporaryDirectory()
        self.directory = Path(self._directory.name)
        (self.directory / "app.py").write_text(app)
        script = self.directory / "server"
        script.write_text(SCRIPT)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.directory / "notify"))
        self.notify.settimeout(DEADLINE)
        self.announced = {}
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(DEADLINE)
        self.channel.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        self.process = subprocess.Popen(
            [sys.executable, *options, "-m", "ratoon.preload", *modules],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(SOURCE),
                "RATOON_FORK": str(theirs.fileno()),
                "NOTIFY_SOCKET": str(self.directory / "notify"),
                "JOURNAL_STREAM": "1:2",
            },
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.notify.close()
        self.process.kill()
        self.process.wait()
        self._directory.cleanup()

    def ask(self, worker, argv=("server", "--port", "1"), program=None, more=b""):
        """Sends a request; returns the reading end of the worker's output."""
        output, write = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        listener = socket.create_server(("127.0.0.1", 0))
        fields = [b"ratoon-fork=1", b"id=%d" % worker, b"master=%d" % os.getpid(), b"later=unknown"]
        fields += [b"program=%s" % os.fsencode(program or self.directory / "server")]
        fields += [b"arg=" + os.fsencode(word) for word in argv]
        fields += [b"unset=RATOON_FORK", b"unset=JOURNAL_STREAM", b"env=LISTEN_FDS=1", b"env=RATOON_WORKER=%d" % worker]
        fields += [b"env=NOTIFY_SOCKET=/its/own", b"fd=stdin", b"fd=stdout", b"fd=stderr", b"fd=listener"]
        message = b"\0".join(fields) + b"\0" + more
        socket.send_fds(self.channel, [message], [null, write, write, listener.fileno()])
        for fd in (write, null):
            os.close(fd)
        listener.close()
        return output

    def reply(self):
        """The next outcome, and the pid of its sender by the kernel's word. The process is announced before."""
        message, pid = self.datagram()
        while b"\0forked=" in message:
            self.announced[_fields(message)["forked"]] = int(_fields(message)["pid"])
            message, pid = self.datagram()
        return message, pid

    def datagram(self):
        space = socket.CMSG_SPACE(struct.calcsize("3i"))
        message, ancillary, _, _ = self.channel.recvmsg(256, space)
        (pid,) = [array.array("i", data)[0] for level, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
        return message, pid


def _fields(message):
    return dict(field.split("=", 1) for field in message.decode().split("\0") if field)


def read(output):
    with os.fdopen(output) as file:
        return file.read()


class Preload(unittest.TestCase):
    def test_worker_is_a_child_of_the_master_and_runs_the_command(self):
        with Master() as master:
            self.assertEqual(master.notify.recv(100), b"READY=1")
            output = master.ask(7)
            message, pid = master.reply()
            self.assertEqual(message, _protocol.confirmed(7))
            self.assertEqual(master.announced, {"7": pid})
            facts = json.loads(read(output))
            self.assertEqual((facts["pid"], facts["parent"], facts["session"]), (pid, os.getpid(), pid))
            self.assertEqual((facts["loaded"], facts["argv"][1:]), (master.process.pid, ["--port", "1"]))
            self.assertEqual(facts["hooks"], [["before", master.process.pid], ["after", pid]])
            environ = facts["environ"]
            self.assertEqual((environ["LISTEN_PID"], environ["NOTIFY_SOCKET"]), (str(pid), "/its/own"))
            self.assertFalse({"RATOON_FORK", "JOURNAL_STREAM"} & environ.keys())
            self.assertGreater(facts["frozen"], 0)
            self.assertTrue(facts["listens"].startswith("socket:"))
            # The file that the module has opened is there, above those of the worker; the kept numbers are not.
            self.assertEqual(facts["files"][:4], [0, 1, 2, 3])
            self.assertTrue(all(number > 3 + 60 or number < 6 for number in facts["files"]), facts["files"])
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 5)

    def serve(self, master, package, text):
        """A console script of a server of this name."""
        (master.directory / package).mkdir()
        (master.directory / package / "__init__.py").touch()
        (master.directory / package / "main.py").write_text(text)
        program = master.directory / "serve"
        program.write_text(f"#!/usr/bin/env python3\nfrom {package}.main import main\nmain()\n")
        return program

    def test_module_of_a_known_server_is_imported_once(self):
        for package, is_known in (("uvicorn", True), ("daphne", False)):
            with Master() as master:
                program = self.serve(master, package, "import os\nLOADED = os.getpid()\ndef main():\n    print(LOADED)\n")
                for worker in (1, 2):
                    output = master.ask(worker, ("serve",), program)
                    _, pid = master.reply()
                    self.assertEqual(int(read(output)), master.process.pid if is_known else pid)
                    os.waitpid(pid, 0)

    def test_module_that_cannot_be_imported_is_the_worker_s_failure(self):
        for how in ("raise KeyError('x')", "raise SystemExit(3)"):
            with Master() as master:
                program = self.serve(master, "uvicorn", how)
                output = master.ask(1, ("serve",), program)
                message, pid = master.reply()
                self.assertEqual(message, _protocol.confirmed(1))
                read(output)
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 3 if "Exit" in how else 1)
                self.assertIsNone(master.process.poll())

    def test_modules_are_those_of_the_server(self):
        with tempfile.TemporaryDirectory() as directory:
            script = Path(directory) / "script"
            for text, first in (
                ("#!/x/python\nimport re\nfrom uvicorn.main import main\n", ["uvicorn.main", "uvicorn.lifespan.on", "uvicorn.loops.auto"]),
                ("#!/x/python\nfrom daphne.cli import main\n", []),
                ("#!/x/python\nfrom .sibling import main\n", []),
                ("from uvicorn.main import main\n", []),
                ("#!/x/python\nfrom uvicorn.main import main\n" + "#" * 5000, []),
                ("#!/x/python\ndef broken(\n", []),
                ("#!/x/python\n\0\n", []),
            ):
                script.write_text(text)
                self.assertEqual(list(_server._modules(str(script), ["script"]))[:3], first, text[:40])
            self.assertEqual(list(_server._modules(directory, ["script"])), [])
        self.assertEqual(list(_server._modules(sys.executable, ["python3", "-u", "-m", "hypercorn", "app"])), ["hypercorn.asyncio.run"])
        self.assertEqual(list(_server._modules(sys.executable, ["python3", "-m"])), [])

    def test_each_request_is_one_worker(self):
        with Master() as master:
            outputs = [master.ask(worker) for worker in (1, 2, 3)]
            replies = [master.reply() for _ in outputs]
            # The workers run at once, so they confirm in any order.
            self.assertEqual(sorted(message for message, _ in replies), [_protocol.confirmed(worker) for worker in (1, 2, 3)])
            for output in outputs:
                read(output)
            for _, pid in replies:
                os.waitpid(pid, 0)

    def test_end_of_the_socket_ends_the_process(self):
        with Master() as master:
            master.notify.recv(100)
            master.channel.close()
            self.assertEqual(master.process.wait(DEADLINE), 0)

    def test_term_ends_the_process(self):
        with Master() as master:
            master.notify.recv(100)
            master.process.terminate()
            self.assertEqual(master.process.wait(DEADLINE), -signal.SIGTERM)

    def test_error_while_loading_is_told_by_the_exit_status(self):
        with Master(app="raise KeyError('DATABASE_URL')") as master:
            self.assertEqual(master.process.wait(DEADLINE), 1)

    def test_module_is_run_as_the_interpreter_runs_it(self):
        with Master() as master:
            (master.directory / "tool.py").write_text("import sys\nassert __name__ == '__main__'\nprint(sys.argv[1:])\n")
            output = master.ask(1, ("python3", "-u", "-m", "tool", "x"), sys.executable)
            _, pid = master.reply()
            self.assertEqual(read(output), "['x']\n")
            self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_option_that_is_that_of_the_process_is_kept(self):
        with Master(options=("-O", "-X", "dev")) as master:
            (master.directory / "tool.py").write_text(
                "import sys\nprint(sys.flags.optimize, sys.flags.dev_mode, sys.stdout.write_through)\n"
            )
            output = master.ask(1, ("python3", "-Ou", "-X", "dev", "-m", "tool"), sys.executable)
            _, pid = master.reply()
            self.assertEqual(read(output), "1 True True\n")
            os.waitpid(pid, 0)

    def test_option_that_is_not_that_of_the_process_is_refused(self):
        for options in (("-O",), ("-X", "dev"), ("-Xutf8=0",), ("-W", "error"), ("-I",)):
            with Master() as master:
                output = master.ask(1, ("python3", *options, "-m", "tool"), sys.executable)
                _, pid = master.reply()
                self.assertIn("write it into worker.preload, too", read(output), options)
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 2)

    def test_end_of_the_program_is_that_of_the_interpreter(self):
        # At the end of each: what is registered is called, threads are waited for, buffers are written.
        end = (
            "import atexit, sys, threading, time\n"
            "atexit.register(lambda: print('exit handler'))\n"
            "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        )
        for how, status, told in (
            ("", 0, ""),
            ("sys.exit(7)", 7, ""),
            ("sys.exit('why')", 1, "why\n"),
            ("raise KeyError('x')", 1, "KeyError: 'x'\n"),
            ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ):
            with Master() as master:
                (master.directory / "tool.py").write_text(end + how)
                output = master.ask(1, ("python3", "-m", "tool"), sys.executable)
                _, pid = master.reply()
                text = read(output)
                self.assertIn(told, text)
                self.assertTrue(text.endswith("thread\nexit handler\n"), text)
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), status, how)

    def test_program_that_is_not_of_python_is_refused(self):
        with Master() as master:
            output = master.ask(1, ("sleep", "1"), "/bin/sleep")
            _, pid = master.reply()
            self.assertIn("'sleep' is no program of Python", read(output))
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 2)

    def test_end_of_a_worker_is_not_that_of_the_process(self):
        with Master() as master:
            master.notify.recv(100)
            read(master.ask(1))
            message, pid = master.reply()
            os.waitpid(pid, 0)
            self.assertEqual(message, _protocol.confirmed(1))
            self.assertIsNone(master.process.poll())

    def test_request_that_cannot_be_read_ends_the_process(self):
        with Master() as master:
            master.notify.recv(100)
            master.channel.send(b"ratoon-fork=2\0id=1\0")
            self.assertEqual(master.process.wait(DEADLINE), 0)

    def test_without_a_master_it_says_so(self):
        environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
        environ.pop("RATOON_FORK", None)
        done = subprocess.run([sys.executable, "-m", "ratoon.preload", "os"], env=environ, capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("RATOON_FORK is not set", done.stderr)


class Protocol(unittest.TestCase):
    HEAD = b"ratoon-fork=1\0id=7\0master=1\0program=/p\0arg=p\0"

    def test_request_is_read(self):
        request = _protocol.parse(self.HEAD + b"arg=\xff\0unset=A\0env=B=c=d\0env=E=\0fd=stdin\0fd=listener\0new=x\0")
        self.assertEqual((request.worker, request.master, request.program), (7, 1, "/p"))
        self.assertEqual(request.argv, ["p", "\udcff"])
        self.assertEqual((request.unset, request.environment), ([b"A"], [(b"B", b"c=d"), (b"E", b"")]))
        self.assertEqual(request.roles, [b"stdin", b"listener"])

    def test_hostile_requests_are_errors(self):
        for message in (
            b"",
            b"\0",
            b"id=7\0",
            self.HEAD[:-1],
            self.HEAD.replace(b"ratoon-fork=1", b"ratoon-fork=2"),
            self.HEAD.replace(b"id=7", b"id=x"),
            self.HEAD.replace(b"master=1\0", b""),
            self.HEAD.replace(b"arg=p\0", b""),
            self.HEAD.replace(b"program=/p\0", b""),
            self.HEAD + b"env==x\0",
            self.HEAD + b"fd=nonsense\0",
        ):
            with self.assertRaises(ValueError, msg=message):
                _protocol.parse(message)

    def test_options_of_the_interpreter_that_change_it_are_refused(self):
        for arguments in (["--check-hash-based-pycs", "always", "x.py"], ["-c", "print()"], [], ["-m"]):
            with self.assertRaises(SystemExit, msg=arguments):
                _run.run(sys.executable, ["python3", *arguments])


if __name__ == "__main__":
    unittest.main()
