#!/usr/bin/python
# Copyright (c) the Ratoon authors
# MIT License

from __future__ import annotations

DOCUMENTATION = r"""
module: ratoon_undo
short_description: Take a release of an instance of Ratoon back
version_added: 0.1.0
description:
  - Runs C(ratoon undo). It is a reload whose release is an earlier committed one, with the program, environment and configuration
    that it had. The task fails like M(ratoon.ratoon.ratoon_reload).
  - It moves no symlink. The next reload reads the disk again, so put the symlink back, too.
author:
  - The Ratoon authors (@ratoon)
attributes:
  check_mode:
    description: In check mode status and history are read and nothing is undone.
    support: full
  diff_mode:
    description: The diff shows the directory of the release before and after.
    support: full
options:
  name:
    description: The instance. It may be left out when one instance runs.
    type: str
  generation:
    description: The generation whose release is to serve again. By default the one before the current one.
    type: int
  from_release:
    description:
      - Directory of the release that is taken back. Nothing is done when another release serves, so the task can run again.
      - Without O(generation) the newest kept release that is not in this directory serves again.
    type: path
  wait:
    description: V(committed) returns when the new generation serves, V(drained) when no worker of the old one is left.
    type: str
    choices: [committed, drained]
    default: committed
  watch:
    description: Return at the end of the watch after the commit (C(reload.watch)).
    type: bool
    default: false
  control:
    description: Path of the control socket, in place of O(name).
    type: path
  program:
    description: The program C(ratoon), by name or path.
    type: str
    default: ratoon
"""

EXAMPLES = r"""
- name: Back to the release before
  ratoon.ratoon.ratoon_undo:
    name: web

- name: Take release 1.4 back where it serves
  ratoon.ratoon.ratoon_undo:
    name: web
    from_release: /srv/web/releases/1.4
"""

RETURN = r"""
result:
  description:
    - V(committed), V(refused), V(rolled-back), V(aborted), V(undone), V(undo-failed). V(unchanged) when nothing was to do or in
      check mode, V(not-asked) when the master could not be asked.
  type: str
  returned: always
  sample: committed
generation:
  description: Number of the new generation, 0 when none was made; of the serving one when nothing was undone.
  type: int
  returned: when the master was asked
reason:
  description: Why the undo was not committed.
  type: str
  returned: when the master was asked
detail:
  description: The line of the worker's output that looks like the error.
  type: str
  returned: when a worker printed one
output:
  description: The last lines that the worker, the hook or the check printed.
  type: list
  elements: str
  returned: when there are any
worker:
  description: Number of the worker that failed.
  type: int
  returned: when one failed
directory:
  description: Directory of the release that serves after the undo.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ratoon.ratoon.plugins.module_utils.ratoon import BRING, COMMON, Ratoon, is_below, serving


def wanted(module, ratoon, history):
    """The row of the history that the undo goes to; None when the master shall say why there is none."""
    generation, release = module.params["generation"], module.params["from_release"]
    if generation is not None:
        return next((row for row in history if row["generation"] == generation), None)
    if release is None:
        return history[1] if len(history) > 1 else None
    other = next((row for row in history if not is_below(row["directory"], release)), None)
    if other is None:
        module.fail_json(
            msg=f"no kept release is outside of {release}: 'ratoon history' shows those that are kept, reload.keep how many",
            result="refused", generation=0, reason="no other release is kept",
        )
    return other


def main():
    spec = {"generation": {"type": "int"}, "from_release": {"type": "path"}}
    module = AnsibleModule(argument_spec={**COMMON, **BRING, **spec}, supports_check_mode=True)
    ratoon = Ratoon(module)
    before = ratoon.status()
    unchanged = {"result": "unchanged", "generation": before.get("generation"), "reason": "", "directory": serving(before)}
    release = module.params["from_release"]
    if release and not is_below(serving(before), release):
        module.exit_json(changed=False, **unchanged)
    history, error = ratoon.ask("history")
    if history is None:
        module.fail_json(msg=error, result="not-asked")
    row = wanted(module, ratoon, history)
    generation = module.params["generation"] if row is None else row["generation"]
    diff = {"before": f"{serving(before)}\n", "after": f"{row['directory'] if row else 'unknown'}\n"}
    if module.check_mode:
        module.exit_json(changed=True, diff=diff, **unchanged)
    outcome = ratoon.bring("undo", *([] if generation is None else [str(generation)]))
    module.exit_json(changed=True, diff=diff, directory=serving(ratoon.status()), **outcome)


if __name__ == "__main__":
    main()
