"""Those at work are changed while they work: through the real daemon, since it is about threads and signals."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from standin.books import change, parsed, texts
from standin.nvml import Constant, Gpu
from standin.rig import ONLY_NVML, Rig, rig
from standin.watching import wait

OFF = ONLY_NVML.replace(
    "[sources.nvml]\nenabled = true", "[sources.nvml]\nenabled = false\n[sources.synthetic]\nenabled = true"
)


def reload(r: Rig, config: str) -> None:
    """Write the file, send the signal, and return when it was taken."""
    before = r.daemon.log.count("was read anew")
    r.daemon.config_file.write_text(config)
    r.daemon.send(signal.SIGHUP)
    wait(lambda: r.daemon.log.count("was read anew") > before)


def test_a_source_that_is_switched_off_and_on_again_at_once_books_no_second_twice(tmp_path: Path) -> None:
    """One of two cards hangs, so that a turn takes long: the new one begins when the old one has ended."""
    with rig(tmp_path, [Gpu(profile=Constant(300.0), counter_step=0.001), Gpu(profile=Constant(300.0))]) as r:
        before = r.quiet(1.0)
        r.nvml.change(1, hang=3600.0)
        for _ in range(4):
            reload(r, OFF)
            reload(r, ONLY_NVML)
            time.sleep(0.3)
        r.fresh(time.monotonic(), 0)
        after = r.quiet(1.0)
        r.auditor.finish()
        seen = change(before, after, r.uuid(0))

    assert [] == r.auditor.wrongs
    assert seen.joules <= 300.0 * seen.seconds * 1.005


def test_a_pause_outlives_a_reload(tmp_path: Path) -> None:
    """Whoever resets a card relies on it: a source that is switched on meanwhile is paused too."""
    with rig(tmp_path, [Gpu()]) as r:
        r.daemon.send(signal.SIGUSR1)
        wait(lambda: not r.daemon.children())
        reload(r, OFF)
        reload(r, ONLY_NVML)
        wait(lambda: "paused" in r.moment().health["nvml"]["error"])
        held = r.daemon.children()
        r.daemon.send(signal.SIGUSR2)
        r.fresh(time.monotonic())

    assert [] == held


def test_what_is_asked_for_by_name_by_a_reload_is_said(tmp_path: Path) -> None:
    """The next start would end with 3: better to hear it now."""
    optional = ONLY_NVML.replace("enabled = true", 'interval = "200ms"')
    with rig(tmp_path, [Gpu()], optional) as r:
        reload(r, ONLY_NVML)
        lines = texts(parsed(r.daemon.log), "info")

    assert any("nvml is asked for by name" in line for line in lines)
