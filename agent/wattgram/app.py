"""Builds the house from the configuration, starts it, waits, and stops it within a second."""

from __future__ import annotations

import ipaddress
import logging
import os
import platform
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from wattgram import __version__, logs, registry
from wattgram.config import Config
from wattgram.crew import Crew
from wattgram.feed import SourceFeed
from wattgram.ledger import Ledger
from wattgram.lens import Lens
from wattgram.local import LocalServer
from wattgram.model import Instant
from wattgram.plan import DOUBT
from wattgram.ports import Clock, ConfigError, Exporter, Unavailable
from wattgram.rundir import RunDirectory
from wattgram.snapshot import Reload, Snapshot
from wattgram.systemd import Notifier, Watchdog, watchdog_seconds
from wattgram.tools.procfs import own_cost

GOOD, BUG, BAD_CONFIG, MISSING = 0, 1, 2, 3
PAUSE, RESUME = signal.SIGUSR1, signal.SIGUSR2
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, PAUSE, RESUME})
READY_SECONDS, STATUS_SECONDS = 0.1, 10.0
SOCKET = "api.sock"
# What cannot change while the daemon runs.
FIXED = ("listen", "config_file")

log = logging.getLogger("wattgram")


def hold_signals() -> None:
    """Keep signals for the main thread to take one by one; before that, a SIGHUP would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class App:
    """The house, built; `run` opens the door."""

    def __init__(self, config: Config, clock: Clock, environ: Mapping[str, str]) -> None:
        self.config = config
        self._clock = clock
        self._notifier = Notifier(environ)
        self._directory = RunDirectory(config.web.listen, environ)
        self.ledger = Ledger(clock, cost=own_cost, host=platform.node())
        self._watchdog = Watchdog(self._notifier, watchdog_seconds(environ))
        self._lens = Lens(clock, self.ledger.snapshot, Path(config.attribution.proc), "daemon")
        self._crew = Crew(config, clock, environ, self.ledger, self._watchdog, self._not_there, self._lens.windows)
        self._local = self._local_server()
        self._code: int | None = None
        self._told = ""
        self._bell = clock.bell()
        self._heard: deque[int] = deque()

    @property
    def feeds(self) -> dict[str, SourceFeed]:
        """The sources' feeds by name."""
        return self._crew.feeds

    def learn_prices(self) -> None:
        """Ask every provider once, for a command that does not stay."""
        self._crew.learn_prices()

    def exporter(self) -> Exporter:
        """Return the endpoint as configured; raise ConfigError when it cannot be."""
        web = self.config.web
        return registry.exporter("prometheus")(web.listen, self.ledger.snapshot, web.config_file)

    def run(self, reload: Callable[[Config], Config]) -> int:
        """Meter until told to stop; return the exit code.

        `reload` reads the configuration anew, given the one in force; it raises ConfigError.
        """
        hold_signals()  # every thread inherits it: only this one hears them
        threading.excepthook = self._bug
        self.ledger.note(self._crew.remarks)
        self.ledger.reloaded(Reload(successful=True, at=self._clock.now().wall))
        exporter = self.exporter()
        exporter.start()
        self._introduce(exporter)
        self._crew.start()
        self._directory.announce()
        self._open_local()
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        self._wait(reload)
        log.info("stopping")
        self._notifier.stopping()
        self._directory.withdraw()
        self._close_local()
        self._crew.stop()
        exporter.stop()
        self._crew.close()
        return self._code or GOOD

    def _local_server(self) -> LocalServer | None:
        """The local API as configured; None: it is off, or has nowhere to be."""
        local, folder = self.config.local, self._directory.folder
        if not local.enabled or not (local.socket or folder):
            return None
        path = Path(local.socket) if local.socket or folder is None else folder / SOCKET
        return LocalServer(path, self._lens.office, int(local.mode, 8), local.group)

    def _open_local(self) -> None:
        if self._local is None:
            return
        self._lens.start(self._crew.read_now)
        if trouble := self._local.start():
            asked_for = bool(self.config.local.socket or self.config.local.group)
            log.log(logging.WARNING if asked_for else logging.INFO, "no local API: %s", trouble)

    def _close_local(self) -> None:
        if self._local is not None:
            self._local.stop()
            self._lens.stop()

    def _introduce(self, exporter: Exporter) -> None:
        listen = self.config.web.listen
        log.info("wattgram %s listens on %s://%s", __version__, exporter.scheme, listen)
        if exporter.is_open and not _is_loopback(listen):
            log.warning(
                "whoever reaches %s may read what this server draws; TLS and passwords are set by web.config_file",
                listen,
            )
        for remark in self._crew.remarks:
            log.log(logging.WARNING if remark.startswith(DOUBT) else logging.INFO, "%s", remark)

    def _wait(self, reload: Callable[[Config], Config]) -> None:
        """Do what signals say until one says to stop."""
        while True:
            snapshot = self.ledger.snapshot()
            status = _status(snapshot)
            if not snapshot.awaited and status != self._told:
                self._notifier.status(status) if self._told else self._notifier.ready(status)
                self._told = status
            self._watchdog.idle()
            patience = min(STATUS_SECONDS, self._watchdog.every or STATUS_SECONDS)
            self._bell.wait(patience if self._told else READY_SECONDS)
            while self._heard:
                if not self._obey(self._heard.popleft(), reload):
                    return

    def _listen(self) -> None:
        """Hear signals, in a thread: `sigtimedwait` of Python, stopped and continued past its time, returns one that
        never was.
        """
        while True:
            self._heard.append(signal.sigwait(SIGNALS))
            self._bell.ring()

    def _obey(self, number: int, reload: Callable[[Config], Config]) -> bool:
        """Do what one signal says; return whether to go on."""
        if number == signal.SIGHUP:
            self._reload(reload)
        elif number == PAUSE:
            self._pause()
        elif number == RESUME:
            self._crew.resume()
        else:
            self._code = self._code or GOOD
            return False
        return True

    def _reload(self, reload: Callable[[Config], Config]) -> None:
        if self._told:  # else the service is still starting, and that is what its manager knows
            self._notifier.reloading()
        at = self._clock.now().wall
        try:
            config = reload(self.config)
            changed = self._crew.adopt(config)
        except (ConfigError, OSError) as error:
            log.error("the configuration is not taken, the old one stays in force: %s", error)  # noqa: TRY400 - news
            self.ledger.reloaded(Reload(successful=False, at=at))
        else:
            fixed = [f"web.{key}" for key in FIXED if getattr(config.web, key) != getattr(self.config.web, key)]
            fixed += ["local"] if config.local != self.config.local else []
            self.config = replace(config, web=self.config.web, local=self.config.local)
            logs.set_up(config.log.level, config.log.format)
            self.ledger.note(self._crew.remarks)
            self.ledger.reloaded(Reload(successful=True, at=at))
            changed += [f"{key} is taken at the next start" for key in fixed]
            log.log(
                logging.WARNING if fixed else logging.INFO,
                "the configuration was read anew: %s",
                ", ".join(changed) or "nothing changed",
            )
        if self._told:
            self._notifier.ready(self._told)

    def _pause(self) -> None:
        seconds = self._directory.take_wish()
        now = self._clock.now()
        self._crew.pause(None if seconds is None else Instant(now.mono + seconds, now.wall + seconds))

    def _bug(self, caught: threading.ExceptHookArgs) -> None:
        """A meter that stops must not look alive: a bug in any thread ends the process, with its traceback."""
        if self._code is not None:  # already leaving: what breaks now breaks because it is being closed
            return
        error = caught.exc_value or caught.exc_type()
        logs.last_words("".join(traceback.format_exception(caught.exc_type, error, caught.exc_traceback)))
        os._exit(BUG)

    def _not_there(self, name: str, missing: Unavailable) -> None:
        """What was asked for by name is not there: leave, and say so."""
        log.error("%s was asked for and is not there: %s; %s", name, missing, missing.remedy)
        self._code = MISSING
        os.kill(os.getpid(), signal.SIGTERM)


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _status(snapshot: Snapshot) -> str:
    """What the service manager shows of us, in a line."""
    components = [d.device.component for d in snapshot.devices]
    found = ", ".join(f"{components.count(c)} {c}" for c in dict.fromkeys(components))
    troubles = [f"; {h.name}: {h.error}" for h in snapshot.health if h.kind == "source" and h.error and h.up is False]
    return (f"metering {found}" if found else "nothing is metered: see wattgram doctor") + "".join(troubles)
