"""How much is looked at, and that it is said once when there is more."""

from __future__ import annotations

import logging

MOST_GROUPS, MOST_PROCESSES, DEEPEST = 10_000, 20_000, 32
# Who is in a group, for whom, and what groups are below it, is looked at anew so often, in seconds.
LOOK_SECONDS = 10.0

log = logging.getLogger("wattgram")


class Bounds:
    """What one source looks at, at most."""

    def __init__(self, groups: int = MOST_GROUPS, processes: int = MOST_PROCESSES, depth: int = DEEPEST) -> None:
        self.groups = groups
        self.processes = processes
        self.depth = depth
        self._said = False

    def exceeded(self, what: str) -> None:
        """Say once that there is more than is looked at."""
        if not self._said:
            log.warning("cgroups: more than %s: what the rest uses goes to the system's account", what)
        self._said = True
