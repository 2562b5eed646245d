"""Real programs from the registries, below target/matrix: npm, pip, and packages of Debian as root."""

import hashlib
import os
import shutil
import subprocess

from .servers import TREE

PLACE = TREE / "target/matrix"
QUIET_NPM = {"npm_config_update_notifier": "false", "npm_config_fund": "false", "npm_config_audit": "false"}


def install(servers):
    """Installs what the servers need and is missing. Gives the reason for each server that cannot be had."""
    wanted = {kind: sorted({package for server in servers for package in server.install.get(kind, [])}) for kind in ("apt", "npm", "pip")}
    PLACE.mkdir(parents=True, exist_ok=True)
    failed = {}
    for kind, packages in wanted.items():
        for package in _missing(kind, packages):
            failed |= {(kind, bad): why for bad, why in _get(kind, package).items()}
    missing = {}
    for server in servers:
        for kind in wanted:
            for package in server.install.get(kind, []):
                if (kind, package) in failed:
                    missing[server.name] = f"{package} ({kind}) cannot be installed: {failed[kind, package]}"
    return missing


def _missing(kind, packages):
    """Lists of packages to install together: those that are not there yet."""
    if kind == "apt":
        wanted = [package for package in packages if not _has_deb(package)]
    else:
        wanted = [package for package in packages if _version(package) not in _stamp(kind)]
    return [wanted] if wanted else []


def _has_deb(package):
    said = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True)
    return said.stdout.endswith(" installed")


def _stamp(kind):
    path = PLACE / f"{kind}.installed"
    return path.read_text().split() if path.exists() else []


def _version(package):
    """The package, with a hash of its files if it is one of this repository."""
    if not package.startswith("./"):
        return package
    files = sorted(path for path in (TREE / package).rglob("*.py"))
    return f"{package}#{hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]}"


def _get(kind, packages):
    """Installs the packages at once; if that fails, one by one. Gives the reasons for those that failed."""
    print(f"== {kind}: {' '.join(packages)}", flush=True)
    said = _run(kind, packages)
    if said.returncode == 0:
        good, failed = packages, {}
    elif len(packages) == 1:
        good, failed = [], {packages[0]: (said.stderr.strip().splitlines() or ["no reason given"])[-1]}
    else:
        failed = {}
        for package in packages:
            failed |= _get(kind, [package])
        return failed
    if kind != "apt":
        (PLACE / f"{kind}.installed").write_text(" ".join(sorted({*_stamp(kind), *map(_version, good)})))
    return failed


def _run(kind, packages):
    if kind == "apt":
        # Nothing is started: the packages' services would take the ports that the workers use.
        root = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*root, "apt-get", "update", "-q"], capture_output=True)
        command = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
        return subprocess.run(command, capture_output=True, text=True)
    if kind == "npm":
        place = PLACE / "npm"
        place.mkdir(exist_ok=True)
        if not (place / "package.json").exists():
            (place / "package.json").write_text("{}\n")
        command = ["npm", "install", "--silent", "--no-package-lock", *packages]
        return subprocess.run(command, cwd=place, env={**os.environ, **QUIET_NPM}, capture_output=True, text=True)
    python = PLACE / "venv/bin/python"
    if not python.exists():
        shutil.rmtree(PLACE / "venv", ignore_errors=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", PLACE / "venv"], check=True)
    constraint = TREE / "tests/workers/requirements.txt"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraint, *packages]
    said = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    ours = [package for package in packages if package.startswith("./")]
    if said.returncode == 0 and ours:
        # pip leaves a package alone whose version is there already, although its files have changed.
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps", *ours]
        said = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    return said


def versions(server):
    """Names with versions, as they are installed."""
    found = []
    for package in server.install.get("apt", []):
        said = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
        found.append(f"{package} {said.stdout.split('-')[0].split('+')[0].split(':')[-1]}")
    for package in server.install.get("npm", []):
        command = ["node", "-p", f"require('./node_modules/{package.rsplit('@', 1)[0] or package}/package.json').version"]
        said = subprocess.run(command, cwd=PLACE / "npm", capture_output=True, text=True)
        found.append(f"{package} {said.stdout.strip()}")
    for package in server.install.get("pip", []):
        if package.startswith("./"):
            continue
        command = [PLACE / "venv/bin/python", "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
        said = subprocess.run(command, capture_output=True, text=True)
        found.append(f"{package} {said.stdout.strip()}")
    return ", ".join(found)
