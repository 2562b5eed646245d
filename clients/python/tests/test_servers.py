"""Real servers as workers: readiness after the application is loaded, and a drain without loss."""

import contextlib
import threading
import unittest

from support import Worker, ask, until

ASGI = """
import asyncio, contextlib
@contextlib.asynccontextmanager
async def lifespan(app):
    print('started', flush=True)
    yield
    print('stopped', flush=True)
from fastapi import FastAPI, Request
import ratoon
app = FastAPI(lifespan=lifespan)
@app.get('/')
async def hello(): return 'hello'
@app.get('/slow')
async def slow(request: Request):
    ratoon.describe(request.scope, user='ada')
    await asyncio.sleep(0.5)
    return 'slow'
@app.get('/stream')
async def stream():
    from fastapi.responses import StreamingResponse
    async def parts():
        yield 'first'
        await asyncio.sleep(0.5)
        yield 'last'
    return StreamingResponse(parts())
@app.get('/fail')
async def fail(): raise RuntimeError('broken')
"""

WSGI = """
import time, ratoon
def app(environ, start_response):
    if environ['PATH_INFO'] == '/slow':
        ratoon.describe(environ, user='ada')
        time.sleep(0.5)
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '5')])
    return [b'hello']
"""

DJANGO = """
import time
from django.conf import settings
settings.configure(SECRET_KEY='x' * 50, ROOT_URLCONF='app', ALLOWED_HOSTS=['*'], MIDDLEWARE=['ratoon.django.Middleware'])
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
def order(request, number):
    time.sleep(0.5)
    return HttpResponse(f'order {number}')
urlpatterns = [path('orders/<int:number>', order, name='order')]
app = get_wsgi_application()
asgi = get_asgi_application()
"""

FLASK = """
import time
import ratoon.flask
from flask import Flask
app = Flask(__name__)
@app.get('/orders/<int:number>')
def order(number):
    time.sleep(0.5)
    return f'order {number}'
ratoon.flask.show(app)
"""

SERVERS = {
    "uvicorn": ["-m", "ratoon.asgi", "--server", "uvicorn", "--loop", "asyncio", "--http", "h11", "app:app"],
    "uvicorn_httptools": ["-m", "ratoon.asgi", "--loop", "uvloop", "--http", "httptools", "app:app"],
    "hypercorn": ["-m", "ratoon.asgi", "--server", "hypercorn", "app:app"],
    "gunicorn_uvicorn": ["-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--config", "python:ratoon.gunicorn", "app:app"],
}
GUNICORN = ["-m", "gunicorn", "--threads", "4", "--config", "python:ratoon.gunicorn", "app:app"]


def for_each_server(stop_timeout=60.0):
    """Runs a test once for each ASGI server. `stop_timeout` in seconds: an idle connection is kept for 10 s, at most half of it."""

    def decorate(method):
        def run(self):
            for name, arguments in SERVERS.items():
                with self.subTest(name), Worker(arguments, ASGI, stop_timeout) as worker:
                    worker.hears("READY=1")
                    method(self, worker)

        run.__name__ = method.__name__
        return run

    return decorate


class AsgiServers(unittest.TestCase):
    @for_each_server()
    def test_drain_answers_a_kept_connection_with_close(self, worker):
        connection = worker.connection()
        status, kept, body = ask(connection)
        self.assertEqual((status, body), (200, '"hello"'))
        self.assertNotEqual(kept, "close")
        worker.drain()
        self.assertEqual(ask(connection), (200, "close", '"hello"'))
        self.assertIn(worker.exit_status(), (0, -15))
        self.assertIn("stopped", worker.process.stdout.read())

    @for_each_server()
    def test_drain_serves_a_request_in_work(self, worker):
        connection = worker.connection()
        connection.request("GET", "/slow")
        until(lambda: worker.slot()["info"], "the request is described")
        self.assertEqual(worker.slot()["info"], '{"user":"ada"}')
        worker.process.terminate()
        response = connection.getresponse()
        self.assertEqual((response.read().decode(), response.getheader("connection")), ('"slow"', "close"))
        self.assertIn(worker.exit_status(), (0, -15))

    @for_each_server()
    def test_drain_keeps_a_connection_whose_head_was_sent(self, worker):
        connection = worker.connection()
        connection.request("GET", "/stream")
        response = connection.getresponse()
        worker.drain()
        self.assertEqual(response.read().decode(), "firstlast")
        self.assertEqual(ask(connection), (200, "close", '"hello"'))
        self.assertIn(worker.exit_status(), (0, -15))

    @for_each_server(stop_timeout=1.0)
    def test_drain_closes_an_idle_connection_after_the_grace(self, worker):
        connection = worker.connection()
        ask(connection)
        worker.process.terminate()
        self.assertEqual(connection.sock.recv(1), b"")
        self.assertIn(worker.exit_status(), (0, -15))

    @for_each_server()
    def test_answers_are_counted_by_class(self, worker):
        for path in ("/", "/missing", "/fail"):
            ask(worker.connection(), path)
        counters = {"responses_2xx": 1, "responses_4xx": 1, "responses_5xx": 1}
        until(lambda: worker.counters() == counters, f"{counters} are counted")
        self.assertEqual(worker.words[17], 3)

    def test_broken_application_never_says_ready(self):
        for name, arguments in SERVERS.items():
            with self.subTest(name), Worker(arguments, "raise RuntimeError('broken release')") as worker:
                self.assertNotEqual(worker.exit_status(), 0)
                self.assertTrue(worker.says_nothing(), worker.said)
                self.assertIn("broken release", worker.process.stdout.read())

    def test_failed_startup_never_says_ready(self):
        program = ASGI.replace("print('started', flush=True)", "raise RuntimeError('no database')")
        for name, arguments in SERVERS.items():
            with self.subTest(name), Worker(arguments, program) as worker:
                self.assertNotEqual(worker.exit_status(), 0)
                self.assertTrue(worker.says_nothing(), worker.said)

    def test_workers_option_is_refused(self):
        for server in ("uvicorn", "hypercorn"):
            with Worker(["-m", "ratoon.asgi", "--server", server, "--workers", "4", "app:app"]) as worker:
                self.assertEqual(worker.exit_status(), 2)
                self.assertIn("Ratoon's business", worker.process.stdout.read())

    def test_unknown_server_is_refused(self):
        with Worker(["-m", "ratoon.asgi", "--server", "granian", "app:app"]) as worker:
            self.assertEqual(worker.exit_status(), 2)
            self.assertIn("use uvicorn or hypercorn", worker.process.stdout.read())


class Gunicorn(unittest.TestCase):
    def test_ready_comes_after_the_import(self):
        with Worker(GUNICORN, "raise RuntimeError('broken release')") as worker:
            self.assertNotEqual(worker.exit_status(), 0)
            self.assertTrue(worker.says_nothing(), worker.said)

    def test_drain_serves_a_request_in_work(self):
        with Worker(GUNICORN, WSGI) as worker:
            worker.hears("READY=1")
            connection = worker.connection()
            connection.request("GET", "/slow")
            until(lambda: worker.slot()["info"], "the request is described")
            worker.process.terminate()
            self.assertEqual(connection.getresponse().read(), b"hello")
            self.assertEqual(worker.exit_status(), 0)
            self.assertEqual(worker.counters(), {"responses_2xx": 1})

    def test_ready_worker_has_taken_the_page(self):
        with Worker(GUNICORN, WSGI) as worker:
            worker.hears("READY=1")
            self.assertNotIn(worker.words[8], (0, worker.process.pid))

    def test_threads_count_every_request(self):
        with Worker(GUNICORN, WSGI) as worker:
            worker.hears("READY=1")

            def ask_ten_times():
                with contextlib.closing(worker.connection()) as connection:
                    for _ in range(10):
                        ask(connection)

            threads = [threading.Thread(target=ask_ten_times) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            until(lambda: worker.counters() == {"responses_2xx": 40}, "40 answers are counted")
            self.assertEqual(worker.words[17], 40)


class Frameworks(unittest.TestCase):
    """The middleware for a framework, below a server that shows requests by itself."""

    def shows(self, arguments, program, info):
        with Worker(arguments, program) as worker:
            worker.hears("READY=1")
            with contextlib.closing(worker.connection()) as connection:
                connection.request("GET", "/orders/17?full=1")
                slot = until(lambda: worker.slot()["info"] and worker.slot(), "the request is described")
                self.assertEqual((slot["method"], slot["url"], slot["info"]), ("GET", "/orders/17?full=1", info))
                self.assertEqual(connection.getresponse().read(), b"order 17")
            until(worker.counters, "the answer is counted")
            self.assertEqual((worker.counters(), worker.words[17]), ({"responses_2xx": 1}, 1))

    def test_django_under_gunicorn_shows_the_view(self):
        self.shows(GUNICORN, DJANGO, '{"view":"order"}')

    def test_django_under_uvicorn_shows_the_view(self):
        self.shows([*SERVERS["uvicorn"][:-1], "app:asgi"], DJANGO, '{"view":"order"}')

    def test_flask_under_gunicorn_shows_the_endpoint(self):
        self.shows(GUNICORN, FLASK, '{"endpoint":"order"}')


if __name__ == "__main__":
    unittest.main()
