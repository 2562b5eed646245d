# Copyright (c) the Ratoon authors
# MIT License
"""The modules as processes, with a stand-in for ratoon that answers from files and writes down how it was called."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

COLLECTION = "ansible_collections.ratoon.ratoon.plugins.modules"

STAND_IN = """#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>calls
cat "$1.err" >&2 2>/dev/null
cat "$1.out" 2>/dev/null
exit "$(cat "$1.status" 2>/dev/null || echo 0)"
"""

STATUS = {"instance": "web", "generation": 2, "release": {"generation": 2, "directory": "/srv/web/releases/2/app"}}
HISTORY = [
    {"generation": 3, "directory": "/srv/web/releases/2/app"},
    {"generation": 2, "directory": "/srv/web/releases/2/app"},
    {"generation": 1, "directory": "/srv/web/releases/1/app"},
]
ROLLED_BACK = {
    "generation": 3, "result": "rolled-back", "reason": "worker 6 (slot 1): exit 1 before it was ready",
    "detail": "RuntimeError: no such table", "output": ["Traceback", "RuntimeError: no such table"], "worker": 6,
}


class StandIn:
    """A directory with a program, its answers, and the list of its calls."""

    def __init__(self, path):
        self.path = path
        self.program = path / "ratoon"
        self.program.write_text(STAND_IN)
        self.program.chmod(0o755)

    def answer(self, verb, out="", err="", status=0):
        self.path.joinpath(f"{verb}.out").write_text(out if isinstance(out, str) else json.dumps(out))
        self.path.joinpath(f"{verb}.err").write_text(err)
        self.path.joinpath(f"{verb}.status").write_text(str(status))

    def calls(self):
        calls = self.path / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def module(self, called, /, check=False, **params):
        params = {"program": str(self.program), **params, "_ansible_check_mode": check, "_ansible_diff": True}
        params["_ansible_remote_tmp"] = str(self.path)
        ended = subprocess.run(
            [sys.executable, "-m", f"{COLLECTION}.{called}"], input=json.dumps({"ANSIBLE_MODULE_ARGS": params}),
            capture_output=True, text=True, timeout=60, check=False, umask=0o077,
        )
        assert ended.stdout, ended.stderr
        result = json.loads(ended.stdout)
        assert bool(result.get("failed")) == (ended.returncode != 0), ended.stdout + ended.stderr
        return result


@pytest.fixture
def ratoon(tmp_path):
    place = tmp_path / "bin"
    place.mkdir()
    stand_in = StandIn(place)
    stand_in.answer("status", STATUS)
    stand_in.answer("history", HISTORY)
    return stand_in


def test_reload_returns_the_outcome(ratoon):
    ratoon.answer("reload", {"generation": 3, "result": "committed", "reason": "", "warnings": ["the same directory"]})
    result = ratoon.module("ratoon_reload", name="web", wait="drained", watch=True)
    assert (result["changed"], result["result"], result["generation"]) == (True, "committed", 3)
    assert "reload --json --wait drained --watch web" in ratoon.calls()
    assert "the same directory" in json.dumps(result["warnings"])


def test_reload_fails_with_the_worker_s_reason(ratoon):
    ratoon.answer("reload", ROLLED_BACK, status=1)
    result = ratoon.module("ratoon_reload", control="/run/ratoon/web/control")
    assert result["failed"] and result["result"] == "rolled-back" and result["worker"] == 6
    assert result["msg"] == (
        "reload to generation 3 rolled back: worker 6 (slot 1): exit 1 before it was ready; it printed: RuntimeError: no such table"
    )
    assert result["output"] == ROLLED_BACK["output"]
    assert "reload --json --wait committed --control /run/ratoon/web/control" in ratoon.calls()


def test_reload_leaves_out_a_release_that_serves(ratoon):
    result = ratoon.module("ratoon_reload", name="web", release="/srv/web/releases/2")
    assert (result["changed"], result["result"], result["generation"]) == (False, "unchanged", 2)
    assert ratoon.calls() == ["status web --json"]
    # A name that only begins like it is another release.
    ratoon.answer("reload", {"generation": 3, "result": "refused", "reason": "no"}, status=1)
    assert ratoon.module("ratoon_reload", name="web", release="/srv/web/releases/2/ap")["result"] == "refused"


def test_reload_forced_reloads_what_serves(ratoon):
    ratoon.answer("reload", {"generation": 3, "result": "committed", "reason": ""})
    assert ratoon.module("ratoon_reload", name="web", release="/srv/web/releases/2", force=True)["changed"]


def test_reload_fails_when_another_release_serves_then(ratoon):
    ratoon.answer("reload", {"generation": 3, "result": "committed", "reason": ""})
    result = ratoon.module("ratoon_reload", name="web", release="/srv/web/releases/9")
    assert result["failed"] and "/srv/web/releases/2/app serves, not the one in /srv/web/releases/9" in result["msg"]


def test_reload_in_check_mode_only_reads(ratoon):
    result = ratoon.module("ratoon_reload", check=True, name="web", release="/srv/web/releases/9")
    assert result["changed"] and result["diff"]["after"] == "/srv/web/releases/9\n"
    assert ratoon.calls() == ["status web --json"]


def test_reload_without_a_master_says_so(ratoon):
    ratoon.answer("status", err="ratoon: no instance \"web\" runs here\n", status=2)
    result = ratoon.module("ratoon_reload", name="web")
    assert result["failed"] and result["result"] == "not-asked" and result["msg"] == 'no instance "web" runs here'


def test_reload_without_the_program_says_so(ratoon):
    result = ratoon.module("ratoon_reload", name="web", program="/nowhere/ratoon")
    assert result["failed"] and "cannot run /nowhere/ratoon" in result["msg"]


def test_reload_that_prints_no_outcome_fails(ratoon):
    for text in ("", "[]", "{}", "null", '{"result"'):
        ratoon.answer("reload", text, err="ratoon: gone\n", status=2)
        result = ratoon.module("ratoon_reload", name="web")
        assert result["failed"] and result["result"] == "not-asked" and result["msg"] == "reload: gone"


def test_undo_goes_to_a_generation(ratoon):
    ratoon.answer("undo", {"generation": 4, "result": "committed", "reason": ""})
    result = ratoon.module("ratoon_undo", name="web", generation=1)
    assert result["changed"] and result["directory"] == "/srv/web/releases/2/app"
    assert result["diff"]["after"] == "/srv/web/releases/1/app\n"
    assert "undo --json --wait committed web 1" in ratoon.calls()


def test_undo_finds_the_newest_other_release(ratoon):
    ratoon.answer("undo", {"generation": 4, "result": "committed", "reason": ""})
    assert ratoon.module("ratoon_undo", name="web", from_release="/srv/web/releases/2")["changed"]
    assert "undo --json --wait committed web 1" in ratoon.calls()


def test_undo_leaves_alone_what_serves_another_release(ratoon):
    result = ratoon.module("ratoon_undo", name="web", from_release="/srv/web/releases/3")
    assert (result["changed"], result["result"]) == (False, "unchanged")
    assert ratoon.calls() == ["status web --json"]


def test_undo_with_nothing_else_kept_fails(ratoon):
    ratoon.answer("history", HISTORY[:2])
    result = ratoon.module("ratoon_undo", name="web", from_release="/srv/web/releases/2")
    assert result["failed"] and "no kept release is outside of /srv/web/releases/2" in result["msg"]


def test_undo_in_check_mode_only_reads(ratoon):
    assert ratoon.module("ratoon_undo", check=True, name="web")["changed"]
    assert ratoon.calls() == ["status web --json", "history web --json"]


def test_info_reads_every_instance(ratoon):
    ratoon.answer("list", [{"instance": "web", "control": "/run/ratoon/web/control"}])
    result = ratoon.module("ratoon_info")
    assert result["instances"] == {"web": {"status": STATUS, "history": HISTORY, "error": None}}
    assert not result["changed"]
    assert "status --control /run/ratoon/web/control --json" in ratoon.calls()


def test_info_tells_of_a_master_that_does_not_answer(ratoon):
    ratoon.answer("status", err="ratoon: the master is dead\n", status=2)
    result = ratoon.module("ratoon_info", name="web")
    assert result["instances"] == {"web": {"status": None, "history": [], "error": "the master is dead"}}


def test_instance_is_idempotent(ratoon, tmp_path):
    root = tmp_path / "root"
    wanted = {
        "name": "web", "root": str(root), "listen": ["8080"], "service": {"User": "www-data", "ReadWritePaths": ["/a", "/b"]},
        "config": {"worker": {"command": ["./server"], "count": 2, "limits": {"nofile": 1024}}, "reload": {"probe": "GET /up"}},
    }
    first = ratoon.module("ratoon_instance", check=True, **wanted)
    assert first["changed"] and first["units_changed"] and len(first["diff"]) == 3 and not root.exists()
    second = ratoon.module("ratoon_instance", **wanted)
    assert second["changed_paths"] == first["changed_paths"]
    text = root.joinpath("etc/ratoon/web.toml").read_text()
    assert text == (
        '# Written by Ansible.\n[worker]\ncommand = ["./server"]\ncount = 2\n\n[worker.limits]\nnofile = 1024\n\n[reload]\nprobe = "GET /up"\n'
    )
    units = root / "etc/systemd/system"
    assert "ListenStream=8080\n" in units.joinpath("ratoon@web.socket.d/listen.conf").read_text()
    service = units.joinpath("ratoon@web.service.d/instance.conf").read_text()
    assert service.endswith("[Service]\nUser=www-data\nReadWritePaths=/a\nReadWritePaths=/b\n")
    third = ratoon.module("ratoon_instance", **wanted)
    assert not third["changed"] and third["diff"] == []
    assert root.joinpath("etc/ratoon/web.toml").stat().st_mode & 0o777 == 0o644


def test_instance_diff_shows_the_changed_line(ratoon, tmp_path):
    ratoon.module("ratoon_instance", name="web", root=str(tmp_path), content="[worker]\ncommand = ['a']", mode="0600")
    result = ratoon.module("ratoon_instance", name="web", root=str(tmp_path), content="[worker]\ncommand = ['b']")
    assert result["diff"][0]["before"] == "[worker]\ncommand = ['a']\n" and result["diff"][0]["after"] == "[worker]\ncommand = ['b']\n"
    assert not result["units_changed"]
    assert tmp_path.joinpath("etc/ratoon/web.toml").stat().st_mode & 0o777 == 0o600, "a file that is there keeps its mode"


def test_instance_does_not_write_what_ratoon_refuses(ratoon, tmp_path):
    ratoon.answer("check", err="ratoon: 1:1: unknown key\n", status=1)
    for check in (True, False):
        result = ratoon.module("ratoon_instance", check=check, name="web", root=str(tmp_path), content="x = 1")
        assert result["failed"] and "was not written: 1:1: unknown key" in result["msg"]
    assert not tmp_path.joinpath("etc").exists()


def test_instance_absent_removes_the_files(ratoon, tmp_path):
    ratoon.module("ratoon_instance", name="web", root=str(tmp_path), content="x = 1", listen=["/run/x.sock"])
    listen = tmp_path / "etc/systemd/system/ratoon@web.socket.d/listen.conf"
    assert "NoDelay=no" in listen.read_text()
    assert ratoon.module("ratoon_instance", check=True, name="web", root=str(tmp_path), state="absent")["changed"]
    assert listen.exists()
    assert ratoon.module("ratoon_instance", name="web", root=str(tmp_path), state="absent")["changed"]
    assert not listen.parent.exists() and not tmp_path.joinpath("etc/ratoon/web.toml").exists()
    assert not ratoon.module("ratoon_instance", name="web", root=str(tmp_path), state="absent")["changed"]


def test_instance_refuses_a_name_that_leads_away(ratoon, tmp_path):
    for name in ("../web", "a/b", "", "..", "12", "web\n"):
        assert ratoon.module("ratoon_instance", name=name, root=str(tmp_path), content="x = 1")["failed"], name
    assert not tmp_path.joinpath("etc").exists()


def test_toml_is_what_it_was_made_of():
    tomllib = pytest.importorskip("tomllib")
    module = importlib.import_module(f"{COLLECTION}.ratoon_instance")
    for table in (
        {"a": 1, "b": {"c": True, "d": {"e": "x\"\\\n\x7f\u00e9\x01"}}, "f": [1.5, "y"]},
        {"a b": {"c.d": [{"e": 1}, {}]}, "g": {}, "h": {"i": {}}},
        {"z": {"a": 1}, "y": 2},
    ):
        assert tomllib.loads(module.toml_text(table)) == table
    assert tomllib.loads(module.toml_text({"a": None, "b": {"c": None}})) == {"b": {}}
    with pytest.raises(ValueError, match="no form in TOML"):
        module.toml_text({"a": [None]})
