#!/usr/bin/python
# Copyright (c) the Ratoon authors
# MIT License

from __future__ import annotations

DOCUMENTATION = r"""
module: ratoon_instance
short_description: Configuration and drop-ins of an instance of Ratoon
version_added: 0.1.0
description:
  - Writes C(/etc/ratoon/NAME.toml) and the drop-ins C(ratoon@NAME.socket.d/listen.conf) and C(ratoon@NAME.service.d/instance.conf),
    the files that C(ratoon init) writes. Files that are as they should be are left alone.
  - A configuration that C(ratoon check --file-only) refuses is not written.
  - It starts and reloads nothing. A running instance reads the configuration at its next reload; a changed address of the socket
    needs a restart of C(ratoon@NAME.socket).
author:
  - The Ratoon authors (@ratoon)
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    description: In check mode the configuration is checked and nothing is written.
    support: full
  diff_mode:
    description: The diff shows each file.
    support: full
options:
  name:
    description: The instance.
    type: str
    required: true
  state:
    description: V(absent) removes the three files. It stops nothing.
    type: str
    choices: [present, absent]
    default: present
  config:
    description: The configuration as a dictionary, written as TOML with its tables in the order given.
    type: dict
  content:
    description: The configuration as text, in place of O(config).
    type: str
  listen:
    description:
      - Addresses of the socket unit, as C(ListenStream=) takes them. An empty list removes the drop-in; without the option it
        is left alone.
    type: list
    elements: str
  service:
    description:
      - Settings of the drop-in of the service, as C(User), with a text or a list of texts. An empty dictionary removes the
        drop-in; without the option it is left alone.
    type: dict
  daemon_reload:
    description: Run C(systemctl daemon-reload) after a drop-in was changed, where systemd runs and O(root) is V(/).
    type: bool
    default: true
  root:
    description: Directory below which the files are written, for the image of another machine.
    type: path
    default: /
  program:
    description: The program C(ratoon), by name or path.
    type: str
    default: ratoon
  mode:
    description: Mode of the configuration. A new one gets V(0644).
    type: raw
  owner:
    description: Owner of the configuration.
    type: str
  group:
    description: Group of the configuration.
    type: str
"""

EXAMPLES = r"""
- name: An instance
  ratoon.ratoon.ratoon_instance:
    name: web
    config:
      worker:
        command: [./server]
        directory: /srv/web/current
        user: www-data
        count: 4
      reload:
        probe: GET /up
    listen: ["8080"]

- name: The same from a template
  ratoon.ratoon.ratoon_instance:
    name: web
    content: "{{ lookup('ansible.builtin.template', 'web.toml.j2') }}"
"""

RETURN = r"""
paths:
  description: The files that are the instance's, as far as the task is about them.
  type: list
  elements: str
  returned: success
changed_paths:
  description: The files that were written or removed, or would be.
  type: list
  elements: str
  returned: success
units_changed:
  description: Whether a drop-in is among them.
  type: bool
  returned: success
"""

import json
import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ratoon.ratoon.plugins.module_utils.ratoon import Ratoon, error_text


def value_text(value):
    """A value of TOML. Texts are basic strings, whose escapes are those of JSON but for DEL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key_text(key)} = {value_text(item)}" for key, item in value.items()) + " }" if value else "{}"
    raise ValueError(f"a value of type {type(value).__name__} has no form in TOML: {value!r}")


def key_text(key):
    """A key of TOML, bare where it may be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else value_text(key)


def toml_text(table, path=()):
    """A table of TOML with its tables after its values. A key whose value is null is left out."""
    present = {str(key): value for key, value in table.items() if value is not None}
    lines = [f"{key_text(key)} = {value_text(value)}" for key, value in present.items() if not isinstance(value, dict)]
    parts = []
    if path and (lines or not present):
        lines.insert(0, "[" + ".".join(key_text(key) for key in path) + "]")
    if lines:
        parts.append("\n".join(lines) + "\n")
    parts += [toml_text(value, (*path, key)) for key, value in present.items() if isinstance(value, dict)]
    return "\n".join(parts)


def socket_text(addresses):
    """The drop-in of the socket unit; an empty text when there is nothing in it."""
    if not addresses:
        return ""
    lines = ["# Written by Ansible. Where the instance listens; systemd holds the socket.", "[Socket]"]
    lines += [f"ListenStream={address}" for address in addresses]
    if all(address.startswith(("/", "@")) for address in addresses):
        lines += ["# A path has no TCP_NODELAY; systemd would warn.", "NoDelay=no"]
    return "\n".join(lines) + "\n"


def service_text(settings):
    """The drop-in of the service; an empty text when there is nothing in it."""
    if not settings:
        return ""
    lines = ["# Written by Ansible. What the instance needs beyond ratoon@.service.", "[Service]"]
    for key, values in settings.items():
        lines += [f"{key}={value}" for value in (values if isinstance(values, list) else [values])]
    return "\n".join(lines) + "\n"


class Files:
    """The files of the task: what is there, what shall be there, and what has changed."""

    def __init__(self, module):
        self.module = module
        self.paths, self.changed, self.diff = [], [], []

    def make(self, path, text):
        """Makes the file hold the text; removes it when the text is empty."""
        self.paths.append(path)
        try:
            with open(path, encoding="utf-8") as file:
                before = file.read()
        except FileNotFoundError:
            before = ""
        except (OSError, UnicodeDecodeError) as error:
            self.module.fail_json(msg=f"cannot read {path}: {error}")
        if before == text and (text or not os.path.lexists(path)):
            return
        self.changed.append(path)
        self.diff.append({"before": before, "after": text, "before_header": path, "after_header": path})
        if self.module.check_mode:
            return
        try:
            if text:
                self.write(path, text)
            else:
                self.remove(path)
        except OSError as error:
            self.module.fail_json(msg=f"cannot write {path}: {error}", changed_paths=self.changed[:-1])

    def write(self, path, text):
        """Replaces the file at once. A new one gets mode 0644."""
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        mode = None if os.path.exists(path) else 0o644
        fd, name = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        self.module.atomic_move(name, path)
        # Otherwise the umask of the connection would decide.
        if mode is not None:
            os.chmod(path, mode)

    def remove(self, path):
        """Removes the file, and the directory of drop-ins that it leaves empty."""
        os.unlink(path)
        directory = os.path.dirname(path)
        if directory.endswith(".d") and not os.listdir(directory):
            os.rmdir(directory)


def check(module, text):
    """Fails the module with what `ratoon check` says when the configuration is wrong."""
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir, suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        status, out, err = Ratoon(module).run("check", "--file-only", file.name)
        if status != 0:
            said = error_text(err or out).replace(file.name, f"{module.params['name']}.toml")
            module.fail_json(msg=f"the configuration is wrong, and was not written: {said}")


def configuration(module):
    """The text of the configuration; None when the task is not about it."""
    if module.params["config"] is None:
        text = module.params["content"]
        return text if text is None or text.endswith("\n") else text + "\n"
    try:
        return "# Written by Ansible.\n" + toml_text(module.params["config"])
    except ValueError as error:
        module.fail_json(msg=f"config: {error}")


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "config": {"type": "dict"},
            "content": {"type": "str"},
            "listen": {"type": "list", "elements": "str"},
            "service": {"type": "dict"},
            "daemon_reload": {"type": "bool", "default": True},
            "root": {"type": "path", "default": "/"},
            "program": {"type": "str", "default": "ratoon"},
        },
        mutually_exclusive=[("config", "content")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    name, root = module.params["name"], module.params["root"]
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name in (".", "..") or name.isdigit():
        module.fail_json(msg=f"{name!r} is no name of an instance: letters, digits, and _ - . (and not digits alone)")
    units = os.path.join(root, "etc/systemd/system")
    toml = os.path.join(root, f"etc/ratoon/{name}.toml")
    listen = os.path.join(units, f"ratoon@{name}.socket.d/listen.conf")
    service = os.path.join(units, f"ratoon@{name}.service.d/instance.conf")
    files = Files(module)
    if module.params["state"] == "absent":
        for path in (listen, service, toml):
            files.make(path, "")
    else:
        text = configuration(module)
        if text is not None:
            check(module, text)
        # The configuration last: a drop-in without it harms less than the reverse.
        if module.params["listen"] is not None:
            files.make(listen, socket_text(module.params["listen"]))
        if module.params["service"] is not None:
            files.make(service, service_text(module.params["service"]))
        if text is not None:
            files.make(toml, text)
    units_changed = any(path in files.changed for path in (listen, service))
    changed = bool(files.changed)
    if module.params["state"] == "present" and (os.path.exists(toml) or not module.check_mode) and toml in files.paths:
        attributes = module.load_file_common_arguments(module.params, path=toml)
        changed = module.set_fs_attributes_if_different(attributes, changed)
    if units_changed and not module.check_mode and module.params["daemon_reload"] and root == "/" and os.path.isdir("/run/systemd/system"):
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    module.exit_json(
        changed=changed, diff=files.diff, paths=files.paths, changed_paths=files.changed, units_changed=units_changed
    )


if __name__ == "__main__":
    main()
