"""Which workloads have an account of their own, under which name, and for how long it is shown.

A workload's labels are those it had when its account was opened. It is shown until `linger` after it was last seen, and
its account is kept after that: should it return, it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wattgram.model import OTHER, Instant, Workload
from wattgram.snapshot import WorkloadTotals

# What ended is remembered, the newest so many.
MOST_ENDED = 1000
Cell = tuple[str, str, str, str]  # component, device, activity, quality


@dataclass(slots=True)
class Account:
    """One workload's totals: by `Cell`, microjoules and carbon; and by basis and factor, the same joules."""

    workload: Workload
    born: Instant
    seen: Instant
    uses_gpu: bool = False
    is_nameless: bool = False
    told: tuple[str, str] = ("", "")
    closed: WorkloadTotals | None = None  # as it is shown after its end, built once
    cells: dict[Cell, list[int]] = field(default_factory=dict)
    prices: dict[tuple[str, str], list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many workloads without a GPU are named at a time, how many owners ever; and how long, in seconds, an account
    is shown after its end.
    """

    named: int = 200
    owners: int = 100
    linger: float = 300.0


class Roster:
    """The accounts of workloads, opened at their first joule. One thread at a time."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.overflows = 0
        self._shown: dict[tuple[str, str], Account] = {}
        self._ended: dict[tuple[str, str], Account] = {}
        self._turned_away: dict[tuple[str, str], Instant] = {}
        self._owners: set[tuple[str, str]] = set()

    def account(self, workload: Workload, *, gpu: bool, now: Instant) -> Account:
        """Return the account that a workload's joules are posted to: its own, or that of `other`."""
        key = (workload.kind, workload.id)
        account = self._shown.get(key)
        if account is None:
            account = self._open(key, workload, gpu=gpu, now=now)
        account.seen = now
        account.uses_gpu = account.uses_gpu or gpu
        return account

    def owner(self, account: Account) -> Workload:
        """Return whose name an account's joules stand under among the owners: its own, or `other` for want of place."""
        workload = account.workload
        key = (workload.kind, workload.owner)
        if workload.kind == "pool" or key in self._owners:
            return workload
        if len(self._owners) >= self.bounds.owners:
            self.overflows += not account.is_nameless
            account.is_nameless = True
            return OTHER
        self._owners.add(key)
        return workload

    def see(self, workloads: Iterable[Workload], now: Instant) -> None:
        """Note who is there, whether or not it used anything."""
        for workload in workloads:
            key = (workload.kind, workload.id)
            if key in self._shown:
                self._shown[key].seen = now
            elif key in self._turned_away:
                self._turned_away[key] = now

    def shown(self, now: Instant) -> tuple[Account, ...]:
        """Return the accounts to show, after letting those end that were not seen for so long; pools stay."""
        over = now.mono - self.bounds.linger
        for key in [k for k, a in self._shown.items() if a.seen.mono < over and a.workload.kind != "pool"]:
            self._ended[key] = self._shown.pop(key)
        while len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self._turned_away = {key: seen for key, seen in self._turned_away.items() if seen.mono >= over}
        return tuple(self._shown.values())

    @property
    def ended(self) -> tuple[Account, ...]:
        """The accounts that are shown no more, the oldest first."""
        return tuple(self._ended.values())

    def _open(self, key: tuple[str, str], workload: Workload, *, gpu: bool, now: Instant) -> Account:
        is_free = gpu or workload.kind == "pool" or key in self._ended  # what was named once goes on under its name
        if not is_free and not self._has_place(key, workload):
            if key not in self._turned_away:
                self.overflows += 1
            self._turned_away[key] = now
            return self.account(OTHER, gpu=False, now=now)
        self._turned_away.pop(key, None)
        account = self._ended.pop(key, None) or Account(workload, born=now, seen=now)
        account.closed = None
        self._shown[key] = account
        return account

    def _has_place(self, key: tuple[str, str], workload: Workload) -> bool:
        """Whether a workload without a GPU is named; who found no place once finds none for its life."""
        if key in self._turned_away:
            return False
        named = sum(1 for a in self._shown.values() if not a.uses_gpu and a.workload.kind != "pool")
        owner = (workload.kind, workload.owner)
        return named < self.bounds.named and (owner in self._owners or len(self._owners) < self.bounds.owners)
