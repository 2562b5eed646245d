#!/usr/bin/python
# Copyright (c) the Ratoon authors
# MIT License

from __future__ import annotations

DOCUMENTATION = r"""
module: ratoon_info
short_description: Read the instances of Ratoon on a machine
version_added: 0.1.0
description:
  - Returns the status document and the history of one instance, or of all that run. Changes nothing.
  - An instance whose master cannot be asked is in the result with its error; the task does not fail for it.
author:
  - The Ratoon authors (@ratoon)
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It only reads.
    support: none
options:
  name:
    description: The instance; all when left out.
    type: str
  control:
    description: Path of the control socket of one instance.
    type: path
  program:
    description: The program C(ratoon), by name or path.
    type: str
    default: ratoon
"""

EXAMPLES = r"""
- name: Read all instances
  ratoon.ratoon.ratoon_info:
  register: ratoon

- name: Say what serves
  ansible.builtin.debug:
    msg: "{{ item.key }}: {{ item.value.status.release.directory }}"
  loop: "{{ ratoon.instances | dict2items | selectattr('value.status') }}"
"""

RETURN = r"""
instances:
  description: The instances by their name.
  type: dict
  returned: always
  contains:
    status:
      description: What C(ratoon status --json) prints; null when the master could not be asked.
      type: dict
      returned: always
    history:
      description: The committed releases that can be gone back to, newest first.
      type: list
      elements: dict
      returned: always
    error:
      description: Why the master could not be asked; null when it answered.
      type: str
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ratoon.ratoon.plugins.module_utils.ratoon import COMMON, Ratoon


def instance(ratoon, control=None):
    """What is known of one instance."""
    status, error = ratoon.ask("status", control)
    history = []
    if status is not None:
        history, error = ratoon.ask("history", control)
    return {"status": status, "history": history or [], "error": error}


def main():
    module = AnsibleModule(argument_spec={**COMMON, "name": {"type": "str"}}, supports_check_mode=True)
    ratoon = Ratoon(module)
    if ratoon.name or ratoon.control:
        found = instance(ratoon)
        name = ratoon.name or (found["status"] or {}).get("instance") or ratoon.control
        module.exit_json(changed=False, instances={name: found})
    listed, error = ratoon.ask("list")
    if listed is None:
        module.fail_json(msg=error)
    module.exit_json(changed=False, instances={row["instance"]: instance(ratoon, row["control"]) for row in listed})


if __name__ == "__main__":
    main()
