"""Tests side by side: most wait for daemons that live through real seconds, and waiting can be shared.

    make test                   several workers; what is marked `alone` runs afterwards, one after the other
    make test ARGS="-n 0 …"     one after the other
    @pytest.mark.alone          a test that measures latency, processor time or a bound that others would upset
    @pytest.mark.apart          a test that takes seconds and shares nothing with the others of its file
    @pytest.mark.busy           a test that computes for seconds, or starts many daemons: after those that wait

The tests of a file stay together, and in their order, unless they are apart. Each worker collects all tests and lays a
plan beside those of the others; the scheduler, in the process that started them, takes one: they are all the same.
"""

from __future__ import annotations

import json
import os
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE = "alone"
MOST = 8
PLANS = pytest.StashKey[Path]()


def number() -> int:
    """How many workers this machine carries: one more than it has processors, since much of it is waiting."""
    return min(MOST, len(os.sched_getaffinity(0)) + 1)


def plans(config: pytest.Config) -> Path:
    """The folder where workers lay their plans; it goes with the process that starts them."""
    if PLANS not in config.stash:
        folder = TemporaryDirectory(prefix="plans-")
        config.add_cleanup(folder.cleanup)
        config.stash[PLANS] = Path(folder.name)
    return config.stash[PLANS]


def plan(items: list[pytest.Item], file: Path) -> None:
    """Put all tests in the order in which they begin, and write for each to which unit it belongs.

    First files and single tests in turns, so that those that compute stand beside those that wait; then what is busy,
    when those that watch the time have it behind them; last what runs alone.
    """
    files: dict[str, list[pytest.Item]] = {}
    single: list[list[pytest.Item]] = []
    busy: dict[str, list[pytest.Item]] = {}
    last: list[pytest.Item] = []
    for item in items:
        if item.get_closest_marker("alone"):
            last.append(item)
        elif item.get_closest_marker("busy"):
            busy.setdefault(item.nodeid if item.get_closest_marker("apart") else item.path.name, []).append(item)
        elif item.get_closest_marker("apart"):
            single.append([item])
        else:
            files.setdefault(item.path.name, []).append(item)
    turns = chain.from_iterable(zip_longest(files.values(), single))
    items[:] = [*chain.from_iterable(unit for unit in turns if unit), *chain.from_iterable(busy.values()), *last]
    units = {item.nodeid: name for name, unit in (*files.items(), (ALONE, last)) for item in unit}
    units |= {item.nodeid: f"busy {name}" for name, unit in busy.items() for item in unit}
    file.write_text(json.dumps(units))


class AloneLast(LoadScopeScheduling):  # type: ignore[misc]  # it says nothing of its types
    """Units in their order; the unit `alone` goes to the last worker left, when every other has nothing to do."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        self._plans = plans(config)
        self._units: dict[str, str] = {}

    def schedule(self) -> None:
        """Begin: all workers have collected."""
        if not self._units:
            self._units = json.loads(next(self._plans.iterdir()).read_text())
        super().schedule()

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Book a test that ended, which may have been the last that kept the unit `alone` waiting."""
        super().mark_test_complete(node, item_index, duration)
        if self._is_alone_left():
            for other in self.nodes:
                self._reschedule(other)

    def _split_scope(self, nodeid: str) -> str:
        return self._units.get(nodeid, nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        if not self._is_alone_left() or node.shutting_down:
            super()._reschedule(node)
            return
        if self._pending_of(self.assigned_work[node]) > 1:
            return
        others = [other for other in self.nodes if other is not node]
        if any(not other.shutting_down for other in others):
            node.shutdown()  # it runs what it has, and leaves
        elif not any(self._pending_of(self.assigned_work[other]) for other in others):
            self._assign_work_unit(node)

    def _is_alone_left(self) -> bool:
        return list(self.workqueue) == [ALONE]


def schedule(config: pytest.Config, log: object) -> AloneLast:
    """The scheduler of a run with several workers."""
    config.option.loadscopereorder = False
    return AloneLast(config, log)
