"""The peers: each as its own documentation says, with its own kind of worker, which answers as little as ours does.

Where a setting helps or hurts it is said here: gunicorn with threads (its plain worker keeps no connection), Puma without
preload and by phased restart, PM2 with --wait-ready, Server::Starter with one worker and --interval=1, its own default,
uWSGI with --http11-socket (else it closes each connection without a word), PHP-FPM behind nginx and with
process_control_timeout, without which it cuts off its requests."""

import contextlib
import os
import signal

import build
import machine
from masters import Competitor

# What the row of crash loops asks of a worker: a byte for each start, and to die while a file exists.
STARTS = """const { WORKER_STARTS, WORKER_BROKEN } = process.env;
if (WORKER_STARTS) require('fs').appendFileSync(WORKER_STARTS, '.');
if (WORKER_BROKEN && require('fs').existsSync(WORKER_BROKEN)) process.exit(1);
"""
NODE = "const server = require('http').createServer((_, answer) => answer.end('hello\\n'));\n"


class Peer(Competitor):
    files = {}

    def begin(self):
        for name, text in self.files.items():
            with open(os.path.join(self.directory, name), "w") as file:
                file.write(text % {"port": self.port, "workers": self.workers, "directory": self.directory})
        self.env["NODE_PATH"] = os.path.join(build.PLACE, "npm", "node_modules")
        super().begin()

    def until_serving(self):
        machine.until(lambda: machine.answers(self.port) and len(self.pids()) >= self.workers, f"{self.name} serves")


class FloraCluster(Peer):
    name = "flora-cluster"
    files = {
        "master.js": "const { Master } = require('flora-cluster');\n"
        "new Master({ exec: __dirname + '/worker.js', workers: %(workers)d }).run();\n",
        "worker.js": STARTS + "const { Worker } = require('flora-cluster');\n" + NODE + "const worker = new Worker();\nworker.attach(server);\n"
        "worker.on('close', () => server.close());\nserver.listen(%(port)d, '127.0.0.1', () => worker.ready());\n",
    }

    def command(self):
        return ["node", "master.js"]


class NodeCluster(Peer):
    """Node.js' own module, with its own way of sharing: the master accepts, and hands each connection to a worker."""

    name = "node cluster"
    files = {
        "app.js": "const cluster = require('cluster');\n"
        "if (cluster.isPrimary) for (let i = 0; i < %(workers)d; i++) cluster.fork();\nelse {\n" + NODE + "server.listen(%(port)d, '127.0.0.1');\n}\n"
    }

    def command(self):
        return ["node", "app.js"]


class NodeAlone(Peer):
    """The same server without a master."""

    name = "node alone"
    files = {"app.js": NODE + "server.listen(%(port)d, '127.0.0.1');\n"}

    def command(self):
        return ["node", "app.js"]

    def pids(self):
        return [self.pid]


class Pm2(Peer):
    name = "pm2"
    files = {
        "app.js": NODE + "process.on('SIGINT', () => server.close(() => process.exit(0)));\n"
        "server.listen(%(port)d, '127.0.0.1', () => process.send('ready'));\n"
    }

    def tool(self, *words):
        self.env["PM2_HOME"] = os.path.join(self.directory, "home")
        command = ["node", os.path.join(build.npm("pm2"), "bin", "pm2"), *words]
        return machine.start(command, env=self.env, cwd=self.directory, stdout=self.log, stderr=self.log)

    def begin(self):
        super().begin()

    def command(self):
        self.env["PM2_HOME"] = os.path.join(self.directory, "home")
        pm2 = os.path.join(build.npm("pm2"), "bin", "pm2")
        return ["node", pm2, "start", "app.js", "-i", self.workers, "--wait-ready", "--kill-timeout", 8000]

    @property
    def pid(self):
        with open(os.path.join(self.directory, "home", "pm2.pid")) as file:
            return int(file.read())

    def pids(self):
        with contextlib.suppress(OSError, ValueError):
            return machine.children(self.pid)
        return []

    def until_reloaded(self, before):
        machine.until(lambda: len(self.pids()) == self.workers and not set(self.pids()) & before, "pm2's reload", every=0.02)

    def reload(self):
        self.tool("reload", "all")

    def end(self):
        with contextlib.suppress(Exception):
            self.tool("kill").wait(machine.PATIENCE)
        super().end()


class Gunicorn(Peer):
    name = "gunicorn"
    files = {
        "app.py": "def app(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '6')])\n"
        "    return [b'hello\\n']\n"
    }

    def command(self):
        bind = ["--bind", f"127.0.0.1:{self.port}", "--workers", self.workers]
        return [build.pip("gunicorn"), *bind, "--no-control-socket", "-k", "gthread", "--threads", 8, "app:app"]


class Puma(Peer):
    name = "puma"
    files = {
        "config.ru": "run ->(env) { [200, { 'content-type' => 'text/plain' }, [\"hello\\n\"]] }\n",
        "puma.rb": "bind 'tcp://127.0.0.1:%(port)d'\nworkers %(workers)d\nthreads 8, 8\nlog_requests false\n"
        "on_worker_boot do\n  starts, broken = ENV['WORKER_STARTS'], ENV['WORKER_BROKEN']\n"
        "  File.write(starts, '.', mode: 'a') if starts\n  exit! 1 if broken && File.exist?(broken)\nend\n",
    }

    def command(self):
        return ["puma", "-C", "puma.rb", "config.ru"]

    def reload(self):
        os.kill(self.pid, signal.SIGUSR1)


class ServerStarter(Peer):
    name = "start_server"

    def __init__(self, directory, workers=1, env=()):
        super().__init__(directory, 1, env)

    def command(self):
        return ["start_server", f"--port=127.0.0.1:{self.port}", "--interval=1", "--", build.WORKER]


class Nginx(Peer):
    name = "nginx"
    files = {
        "nginx.conf": "daemon off; pid %(directory)s/pid; error_log %(directory)s/error.log; worker_processes %(workers)d;\n"
        "events { worker_connections 4096; }\nhttp { access_log off; keepalive_requests 100000000; "
        "client_body_temp_path %(directory)s/a; proxy_temp_path %(directory)s/b; fastcgi_temp_path %(directory)s/c; "
        "uwsgi_temp_path %(directory)s/d; scgi_temp_path %(directory)s/e;\n"
        "server { listen 127.0.0.1:%(port)d; location / { return 200 'hello\\n'; } } }\n"
    }

    def command(self):
        return ["/usr/sbin/nginx", "-c", os.path.join(self.directory, "nginx.conf")]


class Uwsgi(Peer):
    name = "uwsgi"
    files = {"app.py": Gunicorn.files["app.py"].replace("def app(", "def application(")}

    def command(self):
        uwsgi = ["uwsgi-core", "--plugins", "python3", "--http11-socket", f"127.0.0.1:{self.port}", "--wsgi-file", "app.py"]
        return [*uwsgi, "--master", "--workers", self.workers, "--lazy-apps", "--need-app", "--die-on-term", "--disable-logging"]

    def until_serving(self):
        super().until_serving()
        self.until_said(1)

    def until_reloaded(self, before):
        super().until_reloaded(before)
        self.generations += 1
        self.until_said(self.generations)

    def until_said(self, generations):
        """A SIGHUP before all workers of a generation have said that they are ready is lost."""
        self.generations = generations

        def said():
            with open(self.log.name, errors="replace") as log:
                return log.read().count("WSGI app 0 ") >= self.workers * generations

        machine.until(said, "uWSGI's workers")


class PhpFpm(Peer):
    """PHP-FPM is what is reloaded; the nginx in front of it is only its door."""

    name = "php-fpm"
    files = {
        "index.php": "<?php header('Content-Type: text/plain'); echo \"hello\\n\";\n",
        "fpm.conf": "[global]\ndaemonize = no\nerror_log = %(directory)s/fpm.log\nprocess_control_timeout = 10s\n"
        "[www]\nlisten = %(directory)s/fpm\nlisten.backlog = 4096\nuser = root\ngroup = root\n"
        "pm = static\npm.max_children = %(workers)d\n",
        "nginx.conf": "user root;\n" + Nginx.files["nginx.conf"].replace(
            "location / { return 200 'hello\\n'; }",
            "location / { fastcgi_pass unix:%(directory)s/fpm; fastcgi_param SCRIPT_FILENAME %(directory)s/index.php; fastcgi_param REQUEST_METHOD GET; }",
        ),
    }

    def begin(self):
        super().begin()
        nginx = ["/usr/sbin/nginx", "-c", os.path.join(self.directory, "nginx.conf")]
        self.door = machine.start(nginx, cwd=self.directory, stdout=self.log, stderr=self.log)

    def command(self):
        return [build.php_fpm(), "--allow-to-run-as-root", "--fpm-config", "fpm.conf"]

    def reload(self):
        os.kill(self.pid, signal.SIGUSR2)

    def end(self):
        machine.end(self.door)
        super().end()


PEERS = {kind.name: kind for kind in (FloraCluster, Pm2, Gunicorn, Puma, ServerStarter, Nginx, Uwsgi, PhpFpm)}


def those(wanted, *names):
    """Those of the peers named that are wanted."""
    return [PEERS[name] for name in names if name in wanted]
