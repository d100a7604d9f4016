"""Which workloads have an account, under which name, and for how long it is shown."""

from __future__ import annotations

from wattgram.model import IDLE, OTHER, Instant, Workload
from wattgram.roster import MOST_ENDED, Bounds, Roster


def at(seconds: float) -> Instant:
    return Instant(seconds, 1e9 + seconds)


def job(number: int, owner: str = "ada") -> Workload:
    return Workload("slurm", str(number), owner)


def shown(roster: Roster, seconds: float) -> list[str]:
    return [account.workload.id for account in roster.shown(at(seconds))]


def test_a_workload_is_shown_until_a_while_after_it_was_last_seen() -> None:
    roster = Roster(Bounds(linger=60.0))
    roster.account(job(1), gpu=True, now=at(0))
    roster.see([job(1)], at(100))

    assert shown(roster, 160) == ["1"]
    assert shown(roster, 161) == []


def test_one_that_returns_goes_on_where_it_stopped() -> None:
    """A counter that began anew would be read as one that was reset."""
    roster = Roster(Bounds(linger=60.0))
    first = roster.account(job(1), gpu=True, now=at(0))
    assert shown(roster, 100) == []
    assert [a.workload for a in roster.ended] == [job(1)]

    assert roster.account(job(1), gpu=True, now=at(200)) is first
    assert roster.ended == ()


def test_its_owner_is_the_one_it_had_first() -> None:
    """A label that changed would begin another series."""
    roster = Roster(Bounds())
    roster.account(job(1, ""), gpu=True, now=at(0))

    assert roster.account(job(1, "ada"), gpu=True, now=at(1)).workload.owner == ""


def test_pools_do_not_end() -> None:
    roster = Roster(Bounds(linger=60.0))
    roster.account(IDLE, gpu=True, now=at(0))

    assert shown(roster, 1e6) == ["idle"]


def test_what_finds_no_place_is_others_from_its_birth_and_stays_there() -> None:
    """Its joules would count twice if they moved."""
    roster = Roster(Bounds(named=2, linger=60.0))
    for number in (1, 2, 3, 4, 3):
        roster.account(job(number), gpu=False, now=at(0))
    assert shown(roster, 0) == ["1", "2", "other"]
    assert roster.overflows == 2

    roster.see([job(1), job(3)], at(100))
    assert shown(roster, 120) == ["1", "other"]
    assert roster.account(job(3), gpu=False, now=at(120)).workload == OTHER
    assert roster.account(job(5), gpu=False, now=at(120)).workload == job(5)
    assert roster.overflows == 2


def test_one_that_was_gone_may_find_a_place_when_it_returns() -> None:
    roster = Roster(Bounds(named=1, linger=60.0))
    roster.account(job(1), gpu=False, now=at(0))
    roster.account(job(2), gpu=False, now=at(0))
    shown(roster, 100)

    assert roster.account(job(2), gpu=False, now=at(100)).workload == job(2)


def test_a_gpu_always_has_a_name() -> None:
    roster = Roster(Bounds(named=0, owners=100))

    assert roster.account(job(1), gpu=False, now=at(0)).workload == OTHER
    assert roster.account(job(1), gpu=True, now=at(1)).workload == job(1)
    assert roster.account(job(1), gpu=False, now=at(2)).workload == job(1)


def test_owners_are_bounded_for_ever() -> None:
    """They never vanish, so they would fill a scrape."""
    roster = Roster(Bounds(owners=1))
    first = roster.account(job(1, "ada"), gpu=True, now=at(0))
    second = roster.account(job(2, "bob"), gpu=True, now=at(0))

    assert (roster.owner(first), roster.owner(second)) == (job(1, "ada"), OTHER)
    assert roster.account(job(3, "bob"), gpu=False, now=at(0)).workload == OTHER
    assert roster.owner(roster.account(IDLE, gpu=False, now=at(0))) == IDLE


def test_only_the_newest_that_ended_are_remembered() -> None:
    roster = Roster(Bounds(linger=1.0))
    for number in range(MOST_ENDED + 10):
        roster.account(job(number), gpu=True, now=at(number * 10))
        roster.shown(at(number * 10 + 5))

    assert len(roster.ended) == MOST_ENDED
    assert roster.ended[0].workload == job(10)


def test_one_that_was_named_goes_on_under_its_name_when_all_places_are_taken() -> None:
    """Its last joules may come after its end."""
    roster = Roster(Bounds(named=1, linger=60.0))
    roster.account(job(1), gpu=False, now=at(0))
    shown(roster, 100)
    roster.account(job(2), gpu=False, now=at(100))

    assert roster.account(job(1), gpu=False, now=at(101)).workload == job(1)


def test_an_owner_without_a_place_is_counted() -> None:
    roster = Roster(Bounds(owners=1))
    accounts = [roster.account(job(number, owner), gpu=True, now=at(0)) for number, owner in ((1, "ada"), (2, "bob"))]
    for account in (*accounts, *accounts):
        roster.owner(account)

    assert roster.overflows == 1
