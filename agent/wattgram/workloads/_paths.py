r"""How a control group's path is read: by whole components, as the host's systemd names and escapes them.

A process outside our own control group namespace has a path that begins with `/..`; that of one whose group was
removed ends in ` (deleted)` (cgroups(7), cgroup_namespaces(7)).
"""

from __future__ import annotations

import re

# Only below slices: the user slices of a systemd in a container are not this host's users.
_USER = re.compile(r"(?:/\.\.)*(?:/user\.slice)?/user-([0-9]{1,10})\.slice(?=/|\Z)")
_ESCAPED = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")
NOBODYS_UID = 2**32 - 1


def living(path: str) -> str:
    """Return the path without the kernel's remark that the group is removed."""
    return path.removesuffix(" (deleted)")


def user_of(path: str) -> int | None:
    """Return the uid in whose slice a path is; None: in no user's."""
    found = _USER.match(path)
    return uid(found[1]) if found else None


def uid(digits: str) -> int | None:
    """Return the uid that the digits say; None: there can be no such user."""
    number = int(digits)
    return number if number < NOBODYS_UID else None


def unescaped(unit: str) -> str:
    r"""Return the name with `\x2d` and the like undone (systemd.unit(5)); what is not UTF-8 is replaced."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("utf-8", "replace"), unit)
