"""Who a uid is: asked once, within a moment, whatever the directory behind it does."""

from __future__ import annotations

import os
import pwd
import threading
import time
from collections.abc import Iterator

import pytest

from wattgram.clock import ManualClock
from wattgram.tools.users import FRESH_SECONDS, NAMELESS_SECONDS, Owners, Users

PATIENT = 20.0  # only a machine that hangs takes so long


class Directory:
    """A list of users that remembers what it was asked, and answers when its door is open."""

    def __init__(self, **names: int) -> None:
        self.names: dict[int, str] = {uid: name for name, uid in names.items()}
        self.asked: list[int] = []
        self.door = threading.Event()
        self.door.set()

    def __call__(self, uid: int) -> str | None:
        self.asked.append(uid)
        assert self.door.wait(60)
        return self.names.get(uid)


@pytest.fixture
def hanging() -> Iterator[Directory]:
    """A directory that answers only after its door is opened; at the end it is."""
    directory = Directory(alice=1000, bob=1001)
    directory.door.clear()
    yield directory
    directory.door.set()
    settled()


def settled() -> None:
    """Wait until nobody asks any more."""
    deadline = time.monotonic() + PATIENT
    while any(thread.name == "users" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_machines_own_users_are_known() -> None:
    me = os.geteuid()

    assert pwd.getpwuid(me).pw_name == Users(ManualClock(), patience=PATIENT).name(me)


def test_a_uid_is_asked_for_once_and_again_after_an_hour() -> None:
    clock = ManualClock()
    directory = Directory(alice=1000)
    users = Users(clock, directory, PATIENT)

    names = [users.name(1000), users.name(1000)]
    directory.names[1000] = "alicia"
    clock.advance(FRESH_SECONDS)
    users.name(1000)  # whoever asks first does not wait: the old name will do
    settled()
    names.append(users.name(1000))

    assert (["alice", "alice", "alicia"], [1000, 1000]) == (names, directory.asked)


def test_a_uid_without_a_name_is_its_number_and_asked_for_again_sooner() -> None:
    clock = ManualClock()
    directory = Directory()
    users = Users(clock, directory, PATIENT)

    before = [users.name(4242), users.name(4242)]
    directory.names[4242] = "carol"
    clock.advance(NAMELESS_SECONDS)
    users.name(4242)
    settled()

    assert (["4242", "4242"], "carol", 2) == (before, users.name(4242), len(directory.asked))


def test_a_directory_that_forgets_a_name_does_not_change_it() -> None:
    """It may only be away; the name is still the user's."""
    clock = ManualClock()
    directory = Directory(alice=1000)
    users = Users(clock, directory, PATIENT)
    users.name(1000)

    directory.names.clear()
    clock.advance(FRESH_SECONDS)
    users.name(1000)
    settled()

    assert "alice" == users.name(1000)


def test_a_directory_that_hangs_costs_one_moment_and_no_more(hanging: Directory) -> None:
    """Until it answers, a user goes by his number."""
    users = Users(ManualClock(), hanging, patience=0.05)
    began = time.monotonic()

    while_it_hangs = [users.name(uid) for uid in (1000, 1001, *range(5000, 7000))]
    took = time.monotonic() - began
    hanging.door.set()
    settled()

    assert ["1000", "1001", *map(str, range(5000, 7000))] == while_it_hangs
    assert ["alice", "bob"] == [users.name(1000), users.name(1001)]
    assert took < 100 * 0.05  # 2002 moments were 100 s


def test_whoever_asks_twice_is_answered_by_one_question(hanging: Directory) -> None:
    users = Users(ManualClock(), hanging, patience=PATIENT)
    answers: list[str] = []
    askers = [threading.Thread(target=lambda: answers.append(users.name(1000))) for _ in range(4)]

    for asker in askers:
        asker.start()
    deadline = time.monotonic() + PATIENT / 2
    while len(users._asked.get(1000, ())) < len(askers):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    hanging.door.set()
    opened = time.monotonic()
    for asker in askers:
        asker.join()

    assert (["alice"] * 4, [1000]) == (answers, hanging.asked)
    assert time.monotonic() - opened < PATIENT / 2  # nobody's bell was lost


def test_names_are_fit_to_print() -> None:
    users = Users(ManualClock(), {1: "ev\x07il"}.get, PATIENT)

    assert "ev\N{REPLACEMENT CHARACTER}il" == users.name(1)


def test_no_more_users_are_remembered_than_agreed() -> None:
    directory = Directory()
    users = Users(ManualClock(), directory, PATIENT, most=3)

    for uid in (1, 2, 3, 4, 4, 1):
        users.name(uid)

    assert [1, 2, 3, 4, 1] == directory.asked


def test_a_things_owner_is_its_first_user_for_as_long_as_it_is_remembered() -> None:
    owners = Owners(Users(ManualClock(), {1: "a", 2: "b"}.get, PATIENT), most=2)

    seen = [owners.of(thing, uid) for thing, uid in (("x", None), ("x", 1), ("x", 2), ("y", 2), ("z", 2), ("x", None))]

    assert ["", "a", "a", "b", "b", ""] == seen
