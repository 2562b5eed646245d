#!/usr/bin/python
# Copyright (c) the Ratoon authors
# MIT License

from __future__ import annotations

DOCUMENTATION = r"""
module: ratoon_reload
short_description: Reload an instance of Ratoon, and wait for the outcome
version_added: 0.1.0
description:
  - Runs C(ratoon reload) and returns at the commit. The task fails when the reload was refused, rolled back or aborted, with the
    reason and the output of the worker.
  - Without O(release) each run reloads. With it a run changes nothing when that release serves already.
author:
  - The Ratoon authors (@ratoon)
attributes:
  check_mode:
    description: In check mode the status is read and nothing is reloaded.
    support: full
  diff_mode:
    description: The diff shows the directory of the release before and after.
    support: full
options:
  name:
    description: The instance. It may be left out when one instance runs.
    type: str
  release:
    description:
      - Directory of the release that shall serve. The reload is left out when the directory in which the workers run is this one,
        or below it.
      - It changes no symlink. When another release serves after the commit, the task fails.
    type: path
  force:
    description: Reload also when O(release) serves already, as after a change of the configuration.
    type: bool
    default: false
  wait:
    description: V(committed) returns when the new generation serves, V(drained) when no worker of the old one is left.
    type: str
    choices: [committed, drained]
    default: committed
  watch:
    description: Return at the end of the watch after the commit (C(reload.watch)), and fail when it undoes the new generation.
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
- name: Reload
  ratoon.ratoon.ratoon_reload:
    name: web

- name: Reload unless this release serves
  ratoon.ratoon.ratoon_reload:
    name: web
    release: /srv/web/releases/1.4
    wait: drained
"""

RETURN = r"""
result:
  description:
    - V(committed), V(refused), V(rolled-back), V(aborted), V(undone), V(undo-failed). V(unchanged) when nothing was to do or in
      check mode, V(not-asked) when the master could not be asked.
  type: str
  returned: always
  sample: rolled-back
generation:
  description: Number of the new generation, 0 when none was made; of the serving one when nothing was reloaded.
  type: int
  returned: when the master was asked
reason:
  description: Why the reload was not committed.
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
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ratoon.ratoon.plugins.module_utils.ratoon import BRING, COMMON, Ratoon, is_below, serving


def main():
    spec = {"release": {"type": "path"}, "force": {"type": "bool", "default": False}}
    module = AnsibleModule(argument_spec={**COMMON, **BRING, **spec}, supports_check_mode=True)
    ratoon = Ratoon(module)
    release, force = module.params["release"], module.params["force"]
    before = ratoon.status()
    unchanged = {"result": "unchanged", "generation": before.get("generation"), "reason": ""}
    if release and not force and is_below(serving(before), release):
        module.exit_json(changed=False, **unchanged)
    diff = {"before": f"{serving(before)}\n", "after": f"{release or 'what the configuration names'}\n"}
    if module.check_mode:
        module.exit_json(changed=True, diff=diff, **unchanged)
    outcome = ratoon.bring("reload")
    if release:
        after = serving(ratoon.status())
        if not is_below(after, release):
            outcome["reason"] = f"the release in {after} serves, not the one in {release}: worker.directory does not lead there"
            module.fail_json(msg=f"reload to generation {outcome['generation']} committed, but {outcome['reason']}", changed=True, **outcome)
    module.exit_json(changed=True, diff=diff, **outcome)


if __name__ == "__main__":
    main()
