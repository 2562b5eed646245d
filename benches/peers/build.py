"""What the harness runs: Ratoon and its load generator (cargo), the floor (cc), the peers (npm, pip, apt; pinned).

Law: everything is made below target/, but for Debian's packages, which are asked for and installed by apt."""

import glob
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
PLACE = os.path.join(TARGET, "peers")
# Where the programs are, when they are not to be built here. Ratoon is built as packages ship it.
GIVEN = os.environ.get("BENCH_PROGRAMS")
RATOON = os.path.join(GIVEN or os.path.join(TARGET, "dist"), "ratoon")
TOOLS = os.path.join(GIVEN or os.path.join(TARGET, "release"), "examples")
LOAD, BUS = os.path.join(TOOLS, "load"), os.path.join(TOOLS, "bus")
WORKER = os.path.join(PLACE, "worker")
MASTER = os.path.join(PLACE, "master")
SPAWN = os.path.join(PLACE, "spawn")

NPM = {"flora-cluster": "2.0.2", "pm2": "7.0.4"}
PIP = {"gunicorn": "27.0.1", "uvicorn": "0.54.0"}
# The packages of Debian that have the peer; the version is that of the first and is written into the result.
APT = {
    "puma": ["puma"],
    "nginx": ["nginx-light"],
    "start_server": ["libserver-starter-perl"],
    "uwsgi": ["uwsgi-core", "uwsgi-plugin-python3"],
    "php-fpm": ["php-fpm", "nginx-light"],
}


def run(*command, **options):
    print("==", *command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, **options)


def floor():
    os.makedirs(PLACE, exist_ok=True)
    for program in ("worker", "master", "spawn"):
        source, made = os.path.join(ROOT, "benches/floor", f"{program}.c"), os.path.join(PLACE, program)
        sources = (source, os.path.join(ROOT, "benches/floor/floor.h"))
        if not os.path.exists(made) or any(os.path.getmtime(it) > os.path.getmtime(made) for it in sources):
            run(os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-static", "-o", made, source)


def programs():
    run("cargo", "build", "--profile", "dist", "--bin", "ratoon", cwd=ROOT)
    run("cargo", "build", "--release", "--example", "load", "--example", "bus", cwd=ROOT)


def have(peers):
    """Installs what the peers named need and this machine lacks; gives those for which it could not, and why."""
    missing = {}
    for name in peers:
        try:
            install(name)
        except (OSError, subprocess.CalledProcessError) as error:
            missing[name] = str(error)
    return missing


def install(name):
    if name in NPM and not os.path.exists(npm(name)):
        os.makedirs(os.path.join(PLACE, "npm"), exist_ok=True)
        where = os.path.join(PLACE, "npm")
        run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", where, f"{name}@{NPM[name]}")
    if name in PIP and not os.path.exists(pip(name)):
        if not os.path.exists(pip("python")):
            run("/usr/bin/python3", "-m", "venv", os.path.join(PLACE, "venv"))
        run(pip("pip"), "install", "--quiet", "--disable-pip-version-check", f"{name}=={PIP[name]}")
    if name in APT and not all(map(installed, APT[name])):
        sudo = () if os.geteuid() == 0 else ("sudo",)
        run(*sudo, "apt-get", "update", "-q")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(*sudo, "apt-get", "install", "-y", "-q", "--no-install-recommends", *APT[name], env=quiet)


def installed(package):
    """The version of a package of Debian, or nothing."""
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Version}", package], capture_output=True, text=True)
    return asked.stdout.strip()[2:].strip() if asked.stdout.startswith("ii") else ""


def php_fpm():
    """Its name has its version in it."""
    return sorted(glob.glob("/usr/sbin/php-fpm*"))[-1]


def npm(name):
    return os.path.join(PLACE, "npm", "node_modules", name)


def pip(name):
    return os.path.join(PLACE, "venv", "bin", name)


def versions(peers):
    """Of what is compared."""
    found = {name: (NPM | PIP).get(name) for name in peers if name in NPM or name in PIP}
    for name in peers:
        if name in APT:
            found[name] = installed(APT[name][0])
    toml = open(os.path.join(ROOT, "Cargo.toml")).read()
    found["ratoon"] = toml.split('version = "', 1)[1].split('"', 1)[0]
    return found
