"""How busy each process was, from samples of which some are left-overs, some of long ago and some of nobody."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from wattgram.sources.nvml.occupants import MOST_PER_CENT, Busy

MICROSECONDS = 1e6
# Samples of one round carry times this close together; the driver takes a round every 1/6 to 1 s.
ROUND_MICROSECONDS = 20_000
# The driver's clock may be ahead of what passed on ours by so much; a sample that is more so is a left-over.
SLACK_SECONDS = 5.0
# Between two rounds, which come every 1/6 to 1 s, nothing is new: what was known goes on for so long.
LULL_SECONDS = 1.5
# A busy GPU that shows no sample of anybody for so long has had its clock set.
SILENT_SECONDS = 5.0


class Usage:
    """One GPU's samples since the last time; its first answer reaches back further, and is not taken."""

    def __init__(self) -> None:
        self.last = 0
        self._begun = False
        self._heard = 0.0
        self._known: Mapping[int, float] = {}

    def weights(
        self, samples: Sequence[Busy] | None, is_there: Callable[[int], bool], mono: float, *, is_busy: bool
    ) -> Mapping[int, float] | None:
        """Return the mean per cent, above 0, of each process that was busy since the last time; None: not known.

        `samples` None: this GPU has none. `is_busy`: it works, whoever makes it.
        """
        if samples is None:
            return None
        newest = self.last + (mono - self._heard + SLACK_SECONDS) * MICROSECONDS if self.last else None
        sane = [s for s in samples if is_sane(s, self.last, newest) and is_there(s.pid)]
        begun, self._begun = self._begun, True
        if sane:
            last, self.last, self._heard = self.last, max(s.at for s in sane), mono
            self._known = mean(sane, last) if begun else {}
            return self._known if begun else None
        if not begun:
            self._heard = mono
            return None
        if is_busy and mono - self._heard > SILENT_SECONDS:
            self.last, self._begun, self._heard = 0, False, mono
        if is_busy and mono - self._heard <= LULL_SECONDS:
            return {pid: weight for pid, weight in self._known.items() if is_there(pid)}
        return {}


def is_sane(sample: Busy, last: int, newest: float | None) -> bool:
    """Whether a sample is one: of a process, newer than `last`, not of the future, and of no more than all."""
    return (
        sample.pid > 0
        and sample.at > last
        and (newest is None or sample.at <= newest)
        and all(0 <= each <= MOST_PER_CENT for each in (sample.sm, sample.encoder, sample.decoder))
    )


def mean(samples: Sequence[Busy], last: int) -> dict[int, float]:
    """Return each process's mean over the time from `last` to the newest sample; absent from a round is 0 there.

    After a long silence the first round is not longer than the others.
    """
    rounds: list[int] = []
    for at in sorted({s.at for s in samples}):
        if not rounds or at - rounds[-1] > ROUND_MICROSECONDS:
            rounds.append(at)
    gaps = [later - earlier for earlier, later in pairwise(rounds)]
    lengths = [min(rounds[0] - last, max(gaps, default=1)), *gaps]
    busiest: list[dict[int, int]] = [{} for _ in rounds]
    for sample in samples:
        place = bisect_right(rounds, sample.at) - 1
        weight = max(sample.sm, sample.encoder, sample.decoder)
        busiest[place][sample.pid] = max(weight, busiest[place].get(sample.pid, 0))
    sums: dict[int, float] = {}
    for length, found in zip(lengths, busiest, strict=True):
        for pid, weight in found.items():
            sums[pid] = sums.get(pid, 0.0) + weight * length
    return {pid: total / sum(lengths) for pid, total in sums.items() if total > 0}
