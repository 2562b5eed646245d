"""The pools of the row "preload": sixteen workers of one application, which takes long to load, with each master.

A worker under Ratoon is an unmodified gunicorn (two processes: its arbiter and a worker), Puma or uvicorn (one each)."""

import json
import os
import signal

import build
import machine
from masters import Competitor, Ratoon

WORKERS = 16
LIBRARIES = os.path.join(build.ROOT, "clients")

TELL = """
import os, time
def tell():
    with open(os.environ["READY"], "a") as file:
        file.write("%d\\n" % time.monotonic_ns())
"""
DJANGO = TELL + """
import django, pandas
from django.conf import settings
settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
                   INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.admin", "django.contrib.sessions"])
django.setup()
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
FRAME = pandas.DataFrame({"a": range(1000), "b": range(1000)})
urlpatterns = [path("", lambda request: HttpResponse(str(FRAME["a"].sum())))]
django_asgi, wsgi = get_asgi_application(), get_wsgi_application()

async def asgi(scope, receive, send):
    if scope["type"] != "lifespan":
        return await django_asgi(scope, receive, send)
    await receive()
    tell()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""

# Tells when a worker is ready, whoever its master is.
GUNICORN = TELL + """
def post_worker_init(worker):
    tell()
"""

RAILS = """
require 'rails'
require 'action_controller/railtie'
require 'action_view/railtie'
require 'nokogiri'
class Application < Rails::Application
  config.secret_key_base = 'x' * 32
  config.eager_load = true
  config.logger = Logger.new(nil)
  config.hosts.clear
  routes.append { root to: 'pages#show' }
end
class PagesController < ActionController::Base
  def show
    render plain: "hello\\n"
  end
end
Application.initialize!
"""

PUMA = """
threads 1, 1
environment 'production'
$tell = -> { File.open(ENV['READY'], 'a') { |file| file.puts Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond) } }
on_worker_boot { $tell.call } unless ENV.key?('RATOON_INSTANCE')
"""
# Loaded by each worker of Ratoon, and by the master of a Puma that preloads.
RACK = """
require './application'
$tell.call if ENV.key?('RATOON_INSTANCE')
run Rails.application
"""

FILES = {"app.py": DJANGO, "gunicorn.conf.py": GUNICORN, "application.rb": RAILS, "puma.rb": PUMA,
         "config.ru": RACK}


class Pool(Competitor):
    """One that has its own master. `argv` may have {port}, `workers` in it."""

    def __init__(self, kind, directory, name, argv, reload=signal.SIGHUP, workers=WORKERS):
        self.name = name
        super().__init__(os.path.join(directory, kind), workers)
        self.argv, self.signal = argv, reload
        self.ready = os.path.join(self.directory, "ready")
        self.env.update(READY=self.ready, PYTHONDONTWRITEBYTECODE="1", RUBYOPT="-W0", RAILS_ENV="production")
        for file, text in FILES.items():
            with open(os.path.join(self.directory, file), "w") as out:
                out.write(text)
        open(self.ready, "w").close()

    def command(self):
        return [str(word).format(port=self.port, workers=self.workers) for word in self.argv]

    def until_serving(self):
        machine.until(lambda: len(self.told()) >= self.workers, f"the workers of {self.name}: {self.last_words()}", 180)
        machine.until(lambda: machine.answers(self.port), f"an answer of {self.name}")

    def told(self):
        with open(self.ready) as file:
            return [int(line) for line in file.read().split()]

    def reload(self):
        os.kill(self.pid, self.signal)

    def until_reloaded(self, before):
        def over():
            current = set(self.pids())
            return len(current) == self.workers and not current & before and len(self.told()) >= 2 * self.workers

        machine.until(over, f"the reload of {self.name}: {self.last_words()}", 300, every=0.02)

    def crash(self):
        """Milliseconds from the death of a worker until another is ready."""
        told = len(self.told())
        began = machine.now()
        os.kill(self.pids()[0], signal.SIGKILL)
        machine.until(lambda: len(self.told()) > told, f"the replacement of {self.name}")
        return (self.told()[-1] - began) / 1e6

    def processes(self):
        return [self.pid, *machine.descendants(self.pid)]


class ForkedPuma(Pool):
    """Puma whose first worker forks the others. They become the harness's when that worker is replaced."""

    def pids(self):
        return sorted((pid for pid in self.processes() if pid != self.pid), reverse=True)

    def processes(self):
        machine.reap()
        return machine.descendants(os.getpid())


class RatoonPool(Pool):
    """Ratoon, which says by itself when its workers are ready."""

    def __init__(self, kind, directory, name, command, preload, keys="", workers=WORKERS):
        super().__init__(kind, directory, name, [], workers=workers)
        self.env["RUNTIME_DIRECTORY"] = self.directory
        self.env["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={self.directory}/no-bus"
        self.env["PYTHONPATH"] = os.path.join(LIBRARIES, "python", "src")
        words = lambda argv: json.dumps([str(word) for word in argv])
        with open(os.path.join(self.directory, "bench.toml"), "w") as out:
            out.write(f"[worker]\ncommand = {words(command)}\ncount = {workers}\nstart_timeout = '2min'\n{keys}\n")
            if preload:
                out.write(f"preload = {words(preload)}\npreload_fallback = false\n")
            # A worker that was ready for a second is replaced at once; otherwise there is a delay, which would be measured.
            out.write("[restart]\nmax = '1s'\nlimit = 1000000\n")

    def command(self):
        return [build.RATOON, "run", "--name", "bench", "--config", "bench.toml", "--listen", f"127.0.0.1:{self.port}"]

    def begin(self):
        """Starts it in a control group that is delegated to it, as its unit does (`Delegate=yes`), where the harness can make one."""
        self.group = machine.control_group()
        if self.group:
            self.env["RATOON_DELEGATED"] = "1"
        super().begin()

    def end(self):
        super().end()
        machine.remove_group(self.group)

    ask = Ratoon.ask

    def status(self):
        try:
            return json.loads(self.ask("/status"))
        except (OSError, ValueError):
            return {"state": "unknown", "workers": [], "workers_ready": 0}

    def until_serving(self):
        machine.until(lambda: self.serves(self.status()), f"the workers of {self.name}: {self.last_words()}", 180, every=0.3)

    @property
    def preload(self):
        preload = self.status()["preload"]
        return [preload["pid"]] if preload and preload["pid"] else []

    def serves(self, status):
        return status["state"] == "running" and status["workers_ready"] == self.workers == len(status["workers"])

    def pids(self):
        return [worker["pid"] for worker in self.status()["workers"]]

    def until_reloaded(self, before):
        # By the kernel's list: a status document costs the master CPU, which is measured.
        old = before | set(self.preload)
        machine.until(lambda: not old & set(machine.children(self.pid)), f"the reload of {self.name}: {self.last_words()}", 300, every=0.02)


def python():
    """The interpreter of an environment with the applications' libraries."""
    place = os.path.join(build.PLACE, "preload")
    if not os.path.exists(os.path.join(place, "done")):
        build.run("python3", "-m", "venv", place)
        packages = ["django==5.2.8", "pandas==2.3.3", "gunicorn==23.0.0", "uvicorn==0.38.0"]
        build.run(os.path.join(place, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", *packages)
        open(os.path.join(place, "done"), "w").close()
    return os.path.join(place, "bin", "python")


def of_python(directory):
    interpreter = python()
    gunicorn = [os.path.join(os.path.dirname(interpreter), "gunicorn"), "app:wsgi", "--log-level", "warning"]
    uvicorn = [os.path.join(os.path.dirname(interpreter), "uvicorn"), "--fd", "3", "--no-access-log", "app:asgi"]
    preload = [interpreter, "-m", "ratoon.preload", "app"]
    bind = ["--bind", "127.0.0.1:{port}", "--workers", "{workers}"]
    return [
        lambda: RatoonPool("python", directory, "preload", gunicorn, preload),
        lambda: RatoonPool("python", directory, "preload, uvicorn", uvicorn, preload, "ready = 'accepting'"),
        lambda: Pool("python", directory, "gunicorn --preload", [*gunicorn, *bind, "--preload"]),
        lambda: Pool("python", directory, "gunicorn", [*gunicorn, *bind]),
        lambda: RatoonPool("python", directory, "without preload", gunicorn, None),
    ], lambda: Pool("python", directory, "one boot", [*gunicorn, *bind], workers=1)


def of_ruby(directory):
    puma = ["puma", "--config", "puma.rb", "config.ru"]
    worker = ["puma", "--config", "puma.rb", "--bind", "tcp://127.0.0.1:1", "config.ru"]
    bind = ["--bind", "tcp://127.0.0.1:{port}", "--workers", "{workers}"]
    library = os.path.join(LIBRARIES, "ruby")
    keys = f"environment = {{ RUBYOPT = '-W0 -r{library}/lib/ratoon/adapter' }}"
    preload = ["ruby", os.path.join(library, "exe", "ratoon-preload"), "-r", "./application", "-r", "puma/cli"]
    return [
        lambda: RatoonPool("ruby", directory, "preload", worker, preload, keys),
        # A new master: that is how Puma loads new code then.
        lambda: Pool("ruby", directory, "puma preload_app!", [*puma, *bind, "--preload"], signal.SIGUSR2),
        lambda: ForkedPuma("ruby", directory, "puma fork_worker", ["puma", "--config", "puma.rb", *bind, "--fork-worker", "config.ru"], signal.SIGUSR1),
        lambda: RatoonPool("ruby", directory, "without preload", worker, None, keys),
    ], lambda: Pool("ruby", directory, "one boot", [*puma, *bind[:2], "--workers", "1"], workers=1)
