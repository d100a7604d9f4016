"""The acceptance line of faults, what its operator does: a log that nobody reads, strangers in it, configurations."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from standin.books import change, moment, parsed, texts
from standin.daemon import Daemon, free_port
from standin.nvml import Constant
from standin.rig import BRIDGED, Outcome, assert_bridged, assert_powered, rig, with_counter, with_rapl
from standin.stage import Report, Seconds, Stage, every_scene, scene
from standin.sysfs import RaplTree, Zone
from standin.watching import devices, mono, pause, wait

WATTS = 200.0
# By so much the writer of the counters' files may come late.
FORGED = '\x1b[31m12"\\\nlevel=error msg=forged\n'


# --- a log that nobody reads ----------------------------------------------------------------------


def deaf(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """Standard error is a pipe, full; the reading process is killed, a bad file is offered, we are told to leave."""
    log = directory / "stderr.log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with rig(directory, [with_counter(), with_counter()]) as r:
            pause(2.0)
            plug = os.open(log, os.O_WRONLY | os.O_NONBLOCK)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(plug, b"#" * 512)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(plug, b"#")
            os.close(plug)
            before = _unlogged(r.daemon)
            start = time.monotonic()
            os.kill(r.daemon.children()[0], signal.SIGKILL)
            r.daemon.config_file.write_text("[nonsense]\n")
            r.daemon.send(signal.SIGHUP)
            wait(lambda: mono(devices(r.daemon)[r.uuid(0)]["read_at"]) > start + 1.0, 15.0)
            back = time.monotonic() - start
            pause(seconds(3.0, 20.0))
            after = _unlogged(r.daemon)
            r.auditor.finish()
            silences = list(r.auditor.silences)
            code, took = r.daemon.stop(deadline=20.0)
            nvml = r.nvml
    finally:
        os.close(reader)
    found = Outcome(nvml, before, after, start, start, "", silences)
    return {"found": found, "back": back, "code": code, "took": took}


def _unlogged(daemon: Daemon) -> Any:
    """The books, of a daemon whose log cannot be looked at."""

    class Silent:
        log = ""
        get = daemon.get

    return moment(Silent())  # type: ignore[arg-type]


@scene(deaf)
@pytest.mark.accept("4.1", "standard error full and unread: sampling goes on, a child is replaced, leaving is prompt")
def test_a_log_that_nobody_reads_stops_nothing(outcome: Any, report: Report) -> None:
    """Whoever should read it hangs, or was told to stop: that is no reason to stop metering."""
    error = assert_bridged(outcome["found"], 0)

    report(
        f"{error:+.3%}, read again {outcome['back']:.1f} s after the child was killed, left in {outcome['took']:.2f} s"
    )
    assert [] == outcome["found"].silences
    assert 0 == outcome["code"]
    assert outcome["took"] < 2.0


# --- strangers in a log of JSON -------------------------------------------------------------------


def json_log(directory: Path, seconds: Seconds) -> list[Any]:
    """Garbage in a counter, logged as JSON."""
    packages = [Zone(path, f"package-{n}", Constant(WATTS)) for n, path in enumerate(("intel-rapl:0", "intel-rapl:1"))]
    with RaplTree(directory / "tree", packages) as tree:
        tree.start_writer(0.01)
        with Daemon(directory, with_rapl(tree), arguments=("--log-format", "json")) as daemon:
            wait(lambda: len(devices(daemon)) == 2)
            tree.set_raw("intel-rapl:1", FORGED)
            _heard(daemon, 0, "forged")
            tree.release("intel-rapl:1")
            pause(1.0)
            daemon.stop()
            return parsed(daemon.log, "json")


@scene(json_log)
@pytest.mark.accept("4.1", "escape codes and line breaks in a counter's file, logged as JSON: one escaped line")
def test_a_stranger_cannot_write_into_a_log_of_json(outcome: Any) -> None:
    """Every line is one object; what was meant to look like one of ours is inside a string."""
    told = [line for line in outcome if "forged" in line.text]

    assert ["warning"] == [line.level for line in told], told
    assert "rapl" in told[0].text


# --- the configuration ----------------------------------------------------------------------------


def reload(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """A bad file, a good one that changes prices and one source, and one that changes the address."""
    packages = [Zone("intel-rapl:0", "package-0", Constant(WATTS))]
    port = free_port()
    found: dict[str, Any] = {}

    def config(tree: RaplTree, *, zone: str = "FR", every: str = "200ms", listen: int = port) -> str:
        return with_rapl(
            tree,
            f'[carbon]\nzone = "{zone}"\nproviders = ["annual"]\n[web]\nlisten = "127.0.0.1:{listen}"\n',
            f'enabled = true\ninterval = "{every}"',
        )

    with RaplTree(directory / "tree", packages) as tree:
        tree.start_writer(0.005)
        with rig(directory, [with_counter(), with_counter(profile=Constant(250.0))], config(tree), port=port) as r:
            wait(lambda: len(devices(r.daemon)) == 3)
            before = r.quiet(2.0)
            (child,) = r.daemon.children()
            steps = (
                ("bad", config(tree) + "[nonsense]\nkey = 1\n", 0.0, "not taken"),
                ("worse", "[sampling\n\x00", 0.0, "not taken"),
                ("same", config(tree), 1.0, ""),
                ("zone", config(tree, zone="DE"), 1.0, ""),
                ("source", config(tree, zone="DE", every="300ms"), 1.0, ""),
                ("address", config(tree, zone="DE", every="300ms", listen=port + 1), 1.0, "web.listen"),
            )
            for name, text, successful, word in steps:
                logged = len(r.daemon.log)
                r.daemon.config_file.write_text(text)
                begun = time.time()
                r.daemon.send(signal.SIGHUP)
                r.daemon.until(
                    lambda m, begun=begun, successful=successful: (
                        (  # type: ignore[misc]
                            m.value("wattgram_config_last_reload_successful") == successful
                            and m.value("wattgram_config_last_reload_success_timestamp_seconds") >= begun
                        )
                        if successful and m.samples("wattgram_config_last_reload_success_timestamp_seconds")
                        else m.value("wattgram_config_last_reload_successful") == successful
                    )
                )
                _heard(r.daemon, logged, word)
                after = r.quiet(seconds(2.0, 10.0))
                log = r.daemon.log[logged : after.logged]
                found[name] = Outcome(r.nvml, before, after, begun, begun, log, [])
                found[f"{name} child"] = r.daemon.children()
                before = after
            found["first child"] = child
            found["prices"] = r.daemon.metrics().samples("wattgram_pricing_info")
            found["silences"] = list(r.auditor.silences)
            r.auditor.finish()
        found["late"] = tree.late
    return found


def _heard(daemon: Daemon, logged: int, word: str) -> None:
    """Wait for a word in the log; whether it came is for the tests to judge."""
    with contextlib.suppress(AssertionError):
        wait(lambda: word in daemon.log[logged:], 5.0)


def assert_uninterrupted(found: Outcome, late: float) -> None:
    """Nothing unmetered, nothing lost, on any source."""
    assert_bridged(found, 0)
    assert_bridged(found, 1)
    package = change(found.before, found.after, "package-0")
    assert 0.0 == package.unmetered
    assert_powered(package, WATTS, BRIDGED, late)


@scene(reload)
@pytest.mark.accept("4.1", "SIGHUP with a bad file: the old configuration goes on, one error line, the metric says 0")
@pytest.mark.parametrize("file", ["bad", "worse"])
def test_a_bad_file_changes_nothing(outcome: Any, file: str) -> None:
    """A typing error on a Friday evening."""
    found: Outcome = outcome[file]

    assert_uninterrupted(found, outcome["late"])
    assert ["error"] == [line.level for line in found.lines], found.lines
    assert [outcome["first child"]] == outcome[f"{file} child"]
    assert [] == outcome["silences"]


@scene(reload)
@pytest.mark.accept("4.1", "SIGHUP with a good file: sources that are as they were run on; another zone prices at once")
def test_a_good_file_changes_what_it_changes(outcome: Any) -> None:
    """Whoever changes the zone loses no joule, and the child that reads is the same."""
    for step in ("same", "zone"):
        assert_uninterrupted(outcome[step], outcome["late"])
        assert [outcome["first child"]] == outcome[f"{step} child"]
        assert [] == texts(outcome[step].lines, "warning", "error")
    assert ["DE"] == [price.labels["grid_zone"] for price in outcome["prices"]]


@scene(reload)
@pytest.mark.accept("4.1", "SIGHUP that changes a source: it is opened anew with its memory, nothing unmetered")
def test_a_changed_source_is_opened_anew_with_its_memory(outcome: Any) -> None:
    """Its counters tell what was used while nobody looked."""
    found: Outcome = outcome["source"]

    assert_uninterrupted(found, outcome["late"])
    assert 1 == len(outcome["source child"])
    assert 0.3 == found.after.health["nvml"]["every"]
    assert [] == texts(found.lines, "warning", "error")


@scene(reload)
@pytest.mark.accept("4.1", "SIGHUP that changes the address: it stays, and the log says that it takes a restart")
def test_a_changed_address_needs_a_restart(outcome: Any) -> None:
    """Nobody loses the endpoint that scrapes find."""
    found: Outcome = outcome["address"]

    assert_uninterrupted(found, outcome["late"])
    assert 1 == len([line for line in found.lines if re.search(r"web\.listen.*(restart|next start)", line.text)])


@every_scene
@pytest.mark.accept("4.1", "no counter ever went down or vanished; Σ owners = Σ devices = Σ prices at every scrape")
def test_the_books_were_in_order_all_the_time(stage: Stage) -> None:
    """Five scrapes a second through all of the above."""
    audits = stage.audits()

    assert audits
    assert {} == {play: wrongs[:3] for play, wrongs in audits.items() if wrongs}
