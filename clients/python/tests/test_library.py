"""The library by itself."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

from support import PAGE_BYTES, SOURCE, Worker, header

sys.path.insert(0, str(SOURCE))
from ratoon import _scoreboard, handed_sockets, identity, server_status  # noqa: E402
from ratoon.wsgi import Shown  # noqa: E402


def new_page(stop_timeout=4.0):
    fd = os.memfd_create("page")
    os.truncate(fd, PAGE_BYTES)
    os.pwrite(fd, header(stop_timeout), 0)
    return fd


class Scoreboard(unittest.TestCase):
    def test_page_of_another_writer_is_refused(self):
        fd = new_page()
        board = _scoreboard.Scoreboard(fd)
        self.assertEqual(board.stop_timeout, 4.0)
        with self.assertRaisesRegex(ValueError, f"written by process {os.getpid()} already"):
            _scoreboard.Scoreboard(fd)

    def test_file_that_is_no_page_is_refused(self):
        fd = os.memfd_create("nothing")
        os.truncate(fd, 4096)
        with self.assertRaisesRegex(ValueError, "no status page"):
            _scoreboard.Scoreboard(fd)

    def test_request_without_a_slot_is_counted(self):
        board = _scoreboard.Scoreboard(new_page())
        requests = [board.request("GET", "/", 11, ("", 0)) for _ in range(401)]
        self.assertEqual((board.words[_scoreboard.REQUESTS], board.words[_scoreboard.UNLISTED]), (401, 1))
        for request in requests:
            request.end(200)
        self.assertEqual(board.words[512], _scoreboard.FREE)

    def test_times_to_answer_are_summed_once_for_each_answer(self):
        board = _scoreboard.Scoreboard(new_page())
        board.timed(1_024_000)
        board.timed(0)
        self.assertEqual(list(board.words[25:28]), [2, 160, 160 * 160])
        request = board.request("GET", "/", 11, ("", 0))
        request.sending()
        request.end(200)
        board.request("GET", "/", 11, ("", 0)).end(None)
        self.assertEqual(board.words[_scoreboard.TIMED], 3)

    def test_counters_beyond_32_are_not_shown(self):
        board = _scoreboard.Scoreboard(new_page())
        for number in range(40):
            board.count(f"counter_{number}")
        board.count("x" * 49)
        self.assertEqual(sum(board.words[64 + index * 8] == 2 for index in range(32)), 32)

    def test_addresses_are_in_network_order(self):
        self.assertEqual(_scoreboard._address("192.0.2.1"), (4, bytes([192, 0, 2, 1])))
        self.assertEqual(_scoreboard._address("::ffff:192.0.2.1"), (4, bytes([192, 0, 2, 1])))
        self.assertEqual(_scoreboard._address("2001:db8::1%eth0")[1][:4], bytes([0x20, 1, 0x0D, 0xB8]))
        self.assertEqual(_scoreboard._address("unix"), (0, b""))


class Wsgi(unittest.TestCase):
    def setUp(self):
        self.board = _scoreboard.Scoreboard(new_page())
        self.previous = (_scoreboard._board, _scoreboard._opened_by)
        _scoreboard._board, _scoreboard._opened_by = self.board, os.getpid()
        self.addCleanup(lambda: setattr(_scoreboard, "_board", self.previous[0]))
        self.addCleanup(lambda: setattr(_scoreboard, "_opened_by", self.previous[1]))
        self.environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/é", "QUERY_STRING": "a=1", "SERVER_PROTOCOL": "HTTP/1.1"}

    def errors(self):
        return self.board._counters.get("errors") is not None

    def test_answer_that_is_not_taken_whole_is_an_error(self):
        def app(_environ, start_response):
            start_response("200 OK", [])
            return [b"first", b"last"]

        answer = Shown(app)(self.environ, lambda *_: None)
        next(iter(answer))
        answer.close()
        self.assertTrue(self.errors())

    def test_exception_of_the_application_is_an_error(self):
        def app(_environ, _start_response):
            raise RuntimeError("broken")

        with self.assertRaises(RuntimeError):
            Shown(app)(self.environ, lambda *_: None)
        self.assertTrue(self.errors())

    def test_url_is_quoted(self):
        Shown(lambda *_: [])(self.environ, lambda *_: None)
        self.assertEqual(bytes(self.board.words[512 + 18 : 512 + 21])[:11], b"/%C3%A9?a=1")


class Environment(unittest.TestCase):
    def test_nothing_is_handed_without_a_master(self):
        self.assertEqual(handed_sockets({}), [])
        self.assertIsNone(identity())

    def test_messages_are_sent_in_order(self):
        program = "import ratoon\nratoon.status('warm\\nup')\nratoon.info(a=1)\nratoon.leaving()\nratoon.ready()\nimport time\ntime.sleep(60)"
        with Worker(["app.py"], program) as worker:
            worker.hears("READY=1")
            self.assertEqual(worker.said, ["STATUS=warm up", 'X_RATOON_INFO={"a": 1}', "STOPPING=1", "READY=1"])

    def test_watchdog_is_fed(self):
        with Worker(["app.py"], "import ratoon, time\nratoon.ready()\ntime.sleep(60)", environ={"WATCHDOG_USEC": "20000"}) as worker:
            worker.hears("WATCHDOG=1")
            worker.said.clear()
            worker.hears("WATCHDOG=1")

    def test_sigterm_begins_the_drain_once(self):
        program = """
import ratoon, signal
ratoon.handle_sigterm()
ratoon.when_draining(lambda: print('draining', flush=True))
ratoon.ready()
while not ratoon.draining(): signal.pause()
ratoon.when_draining(lambda: print('told late', flush=True))
"""
        with Worker(["app.py"], program) as worker:
            worker.hears("READY=1")
            worker.process.terminate()
            output, _ = worker.process.communicate(timeout=20)
            self.assertEqual(output, "draining\ntold late\n")

    def test_server_status_is_read_from_the_control_socket(self):
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory) / "control")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            body = json.dumps({"state": "running"}).encode()

            def answer():
                connection, _ = listener.accept()
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                connection.close()

            thread = threading.Thread(target=answer)
            thread.start()
            os.environ["RATOON_CONTROL"] = path
            try:
                self.assertEqual(server_status(), {"state": "running"})
            finally:
                del os.environ["RATOON_CONTROL"]
                thread.join()
                listener.close()
        with self.assertRaisesRegex(RuntimeError, "RATOON_CONTROL is not set"):
            server_status()

    def test_import_needs_nothing_else(self):
        command = [sys.executable, "-S", "-c", "import ratoon, ratoon.wsgi, ratoon.asgi"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})


if __name__ == "__main__":
    unittest.main()
