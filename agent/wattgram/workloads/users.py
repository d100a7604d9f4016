"""Users: whoever is in nothing else. The slice says who logged in, also of what runs there as somebody else.

A user counts only where nobody else is found, so the depth is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from wattgram.model import Named, Subject, Workload
from wattgram.ports import Clock, NamerOptions
from wattgram.tools.users import Users
from wattgram.workloads._paths import living, user_of


@dataclass(frozen=True, kw_only=True)
class Options(NamerOptions):
    """Nothing but whether they are named."""


def open_namer(options: NamerOptions, clock: Clock) -> UserNamer:
    """Return the namer; the machine's own list of users is always there."""
    del options
    return UserNamer(Users(clock))


class UserNamer:
    """Names the user of a slice, else of a process."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def name_of(self, subject: Subject) -> Named | None:
        """Return the user; None: in no user's slice, and whose process it is is not known."""
        in_slices = (user_of(living(path)) for path in subject.paths)
        uid = next((user for user in in_slices if user is not None), subject.uid)
        if uid is None:
            return None
        name = self._users.name(uid)
        return Named(Workload("user", name, name), 0)

    def close(self) -> None:
        """Hold nothing, let go of nothing."""
