# Copyright (c) the Ratoon authors
# MIT License
"""The program ratoon as the modules call it: arguments in, the JSON that it prints out."""

from __future__ import annotations

import json
import os

# Parameters of every module.
COMMON = {
    "control": {"type": "path"},
    "program": {"type": "str", "default": "ratoon"},
}

# Parameters of the modules that bring a generation.
BRING = {
    "name": {"type": "str"},
    "wait": {"type": "str", "choices": ["committed", "drained"], "default": "committed"},
    "watch": {"type": "bool", "default": False},
}


class Ratoon:
    """The program, and the instance that a module is about."""

    def __init__(self, module):
        self.module = module
        self.name = module.params.get("name")
        self.control = module.params.get("control")

    def run(self, *arguments):
        """Runs the program. Returns its exit status and what it printed on both outputs."""
        command = [self.module.params["program"], *arguments]
        try:
            return self.module.run_command(command, handle_exceptions=False)
        except OSError as error:
            self.module.fail_json(msg=f"cannot run {command[0]}: {error}; install Ratoon, or set 'program' to its path")

    def target(self, control=None):
        """The arguments that name the instance."""
        control = control or self.control
        if control:
            return ["--control", control]
        return [self.name] if self.name else []

    def ask(self, verb, control=None):
        """The JSON that a verb without effect prints of the instance, and None; or None and the program's error."""
        _status, out, err = self.run(verb, *self.target(control), "--json")
        try:
            return json.loads(out), None
        except ValueError:
            return None, error_text(err) or f"ratoon {verb} printed no JSON: {out[:200]!r}"

    def status(self):
        """The status document. Fails the module when there is none."""
        document, error = self.ask("status")
        if document is None:
            self.module.fail_json(msg=error, result="not-asked")
        return document

    def bring(self, verb, *arguments):
        """Runs reload or undo to its end and ends the module with the outcome."""
        params = self.module.params
        options = ["--json", "--wait", params["wait"]] + (["--watch"] if params["watch"] else [])
        # A GENERATION comes after the NAME.
        _status, out, err = self.run(verb, *options, *self.target(), *arguments)
        outcome, error = None, error_text(err)
        try:
            outcome = json.loads(out)
        except ValueError:
            pass
        if not isinstance(outcome, dict) or "result" not in outcome:
            self.module.fail_json(msg=f"{verb}: {error or 'ratoon printed no outcome'}", result="not-asked")
        for warning in outcome.pop("warnings", None) or []:
            self.module.warn(warning)
        if outcome["result"] != "committed":
            self.module.fail_json(msg=failure_text(verb, outcome), **outcome)
        return outcome


def error_text(err):
    """An error of the program without its name before it."""
    text = err.strip()
    return text[len("ratoon: "):] if text.startswith("ratoon: ") else text


def failure_text(verb, outcome):
    """An outcome that is not a commit, in one line: the reason, and the line that looks like the worker's error."""
    generation = outcome.get("generation")
    to = f" to generation {generation}" if generation else ""
    text = f"{verb}{to} {outcome['result'].replace('-', ' ')}: {outcome.get('reason') or 'no reason was told'}"
    output = outcome.get("output") or []
    detail = outcome.get("detail") or (output[-1] if output else None)
    return f"{text}; it printed: {detail}" if detail else text


def is_below(directory, release):
    """Whether a directory is that of a release, or in it. Symlinks in the release's path are followed."""
    if not directory:
        return False
    release = os.path.realpath(release)
    return directory == release or directory.startswith(release.rstrip("/") + "/")


def serving(document):
    """The directory of the release that serves; None when it is not known."""
    return (document.get("release") or {}).get("directory")
