"""The commands."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wattgram import __version__, config, errand, healthcheck, logs, registry
from wattgram.app import BAD_CONFIG, GOOD, MISSING, PAUSE, RESUME, App, hold_signals
from wattgram.clock import SystemClock
from wattgram.measuring import METERS, Measure
from wattgram.ports import ConfigError, ReadFailed, Unavailable
from wattgram.rundir import RunDirectory, children

ONCE_SECONDS = 1.0
LETTING_GO_SECONDS = 10.0


def main() -> None:
    """Run the command that the arguments name, and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no accents must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = _parser().parse_args()
    try:
        code = arguments.command(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"wattgram: {error}", file=sys.stderr)
        code = BAD_CONFIG
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = GOOD
    finally:
        logs.flush()
    sys.exit(code)


def run(arguments: argparse.Namespace) -> int:
    """Meter what is found, until told to stop."""
    hold_signals()
    settings = _load(arguments)
    logs.set_up(settings.log.level, settings.log.format)
    return App(settings, SystemClock(), os.environ).run(lambda old: _load(arguments, old))


def demo(arguments: argparse.Namespace) -> int:
    """Show the same pipeline over invented hardware, on loopback only."""
    listen = arguments.listen or "127.0.0.1:14044"
    host = listen.rpartition(":")[0].strip("[]")
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(f"--listen {listen}: the demonstration listens on loopback only; its joules are invented")
    arguments.listen = listen
    arguments.zone = arguments.zone or "FR"
    arguments.only = {f"sources.{name}.enabled": name == "synthetic" for name in registry.SOURCES}
    arguments.only |= {f"workloads.{name}.enabled": name == "synthetic" for name in registry.WORKLOADS}
    arguments.only["carbon.providers"] = ["annual"]  # invented joules are worth nobody's request
    settings = _load(arguments)
    logs.set_up(settings.log.level, settings.log.format)
    print(f"wattgram demo: invented hardware, every joule labelled synthetic: http://{listen}/", file=sys.stderr)
    return App(settings, SystemClock(), os.environ).run(lambda old: _load(arguments, old))


def once(arguments: argparse.Namespace) -> int:
    """Print one measurement and leave."""
    settings = _load(arguments)
    logs.set_up("warning", settings.log.format)
    app = App(settings, SystemClock(), os.environ)
    app.learn_prices()
    failures = _turn(app)
    time.sleep(ONCE_SECONDS)  # a power needs two readings of a counter
    _turn(app)
    for feed in app.feeds.values():
        feed.close()
    snapshot = app.ledger.snapshot()
    write = sys.stdout.buffer.write
    write(registry.renderer("prometheus", arguments.format)(snapshot))
    sys.stdout.flush()
    for name, failure in failures.items():
        print(f"wattgram: {name}: {failure}", file=sys.stderr)
    wanted = {name for name in failures if settings.sources[name].enabled}
    return MISSING if wanted or not snapshot.devices else GOOD


def measure(arguments: argparse.Namespace) -> int:
    """Run a command and print what it used; its exit code is the command's."""
    command = arguments.command_line[1:] if arguments.command_line[:1] == ["--"] else arguments.command_line
    if not command:
        raise ConfigError("measure: no command; such as: wattgram measure -- sleep 1")
    options = {"zone": arguments.zone, "config": arguments.config and str(Path(arguments.config).resolve())}
    window = Measure(
        arguments.name or " ".join(command),
        socket_path=arguments.socket or "",
        options={key: value for key, value in options.items() if value},
    )
    try:
        output = errand.Output(arguments.output) if arguments.output else None
    except OSError as error:
        raise ConfigError(f"--output {arguments.output}: {error.strerror}") from error
    outcome = errand.run(command, window)
    METERS.close()
    errand.hand_over(window, command, outcome, output, as_json=arguments.json)
    return outcome.leave()


def intensity(arguments: argparse.Namespace) -> int:
    """Print what each provider of the chain says of the grid now."""
    settings = _load(arguments)
    logs.set_up("warning", settings.log.format)
    if not settings.carbon.zone:
        raise ConfigError("carbon.zone is not set; give one with --zone, such as --zone FR")
    from wattgram import doctor  # noqa: PLC0415 - 13 MiB, its HTTP client's, that no daemon should carry

    return doctor.show_intensity(settings, SystemClock(), ahead=arguments.forecast)


def examine(arguments: argparse.Namespace) -> int:
    """Try everything on this host, and say what is missing and how to mend it."""
    from wattgram import doctor  # noqa: PLC0415 - as above

    settings = _load(arguments)
    logs.set_up("error", settings.log.format)
    if arguments.record:
        return doctor.record(settings, os.environ, Path(arguments.record))
    return doctor.examine(settings, SystemClock(), os.environ, as_json=arguments.json)


def show_config(arguments: argparse.Namespace) -> int:
    """Print every value in force and where it comes from."""
    rows = list(config.effective(_load(arguments)))
    width = max(len(f"{key} = {value}") for key, value, _ in rows)
    for key, value, origin in rows:
        print(f"{f'{key} = {value}':<{min(width, 72)}}  # {origin}")
    return GOOD


def check_config(arguments: argparse.Namespace) -> int:
    """Say whether a configuration can be used."""
    arguments.config = arguments.file or arguments.config
    settings = _load(arguments)
    App(settings, SystemClock(), os.environ).exporter()
    print(f"{settings.file or 'the defaults'}: good")
    return GOOD


def check_health(arguments: argparse.Namespace) -> int:
    """Say whether the daemon of this machine answers: 0 or 1, as container engines understand it."""
    try:
        trouble = healthcheck.trouble(_load(arguments).web.listen)
    except ConfigError as error:
        trouble = str(error)
    print(f"wattgram: {trouble}" if trouble else "wattgram answers", file=sys.stderr if trouble else sys.stdout)
    return 1 if trouble else GOOD


def top(arguments: argparse.Namespace) -> int:
    """Show a daemon, near or far, live in this terminal."""
    try:
        from wattgram.top import asking, command  # noqa: PLC0415 - its libraries are an extra's, and nobody else's
    except ImportError as error:
        raise ConfigError(f'{error.name} is not installed, which draws: pip install "wattgram[top]"') from error
    try:
        every = config.parse_duration(arguments.interval)
    except ValueError as error:
        raise ConfigError(f"--interval {arguments.interval}: {error}") from error
    place = arguments.url or asking.near(_load(arguments).web.listen)
    return command.run(
        asking.address(place, tls=bool(arguments.ca_file)),
        asking.credentials(arguments.user, arguments.password_file),
        ca_file=arguments.ca_file,
        every=every,
        sort=arguments.sort,
        is_once=arguments.once,
    )


def pause(arguments: argparse.Namespace) -> int:
    """Let go of the NVIDIA driver for a while: for a reset, a change of MIG, a new driver."""
    try:
        seconds = config.parse_duration(arguments.span) if arguments.span else None
    except ValueError as error:
        raise ConfigError(f"--for {arguments.span}: {error}") from error
    directory, pid = _daemon(arguments)
    if pid is None:
        return MISSING
    try:
        directory.wish(seconds)
        os.kill(pid, PAUSE)
    except OSError as error:
        print(
            f"wattgram: process {pid} cannot be told: {error.strerror}; run this as its user or root", file=sys.stderr
        )
        return MISSING
    end = time.monotonic() + LETTING_GO_SECONDS
    while (left := children(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    if left:
        print(f"wattgram: process {left[0]} still holds the driver: it hangs there", file=sys.stderr)
        return MISSING
    again = f"wattgram resume{f' --listen {arguments.listen}' if arguments.listen else ''}"
    print(f"paused {f'for {arguments.span}' if seconds else f'until told: {again}'}; the driver is let go of")
    return GOOD


def resume(arguments: argparse.Namespace) -> int:
    """Take the NVIDIA driver up again."""
    _, pid = _daemon(arguments)
    if pid is None:
        return MISSING
    try:
        os.kill(pid, RESUME)
    except OSError as error:
        print(
            f"wattgram: process {pid} cannot be told: {error.strerror}; run this as its user or root", file=sys.stderr
        )
        return MISSING
    print("resumed")
    return GOOD


def _daemon(arguments: argparse.Namespace) -> tuple[RunDirectory, int | None]:
    """The daemon that serves the configured port."""
    listen = _load(arguments).web.listen
    directory = RunDirectory(listen, os.environ)
    pid = directory.daemon()
    if directory.folder is None:
        print("wattgram: this user has no runtime directory (XDG_RUNTIME_DIR); kill -USR1 PID pauses", file=sys.stderr)
    elif pid is None:
        print(
            f"wattgram: no daemon for {listen} is known in {directory.folder}; is it another's, or on another port "
            "(--listen)? In a service: systemctl kill --signal=SIGUSR1 wattgram (SIGUSR2 resumes)",
            file=sys.stderr,
        )
    return directory, pid


def version(arguments: argparse.Namespace) -> int:
    """Print the versions."""
    del arguments
    print(f"wattgram {__version__}, Python {platform.python_version()}")
    return GOOD


def _turn(app: App) -> dict[str, str]:
    failures: dict[str, str] = {}
    for name, feed in app.feeds.items():
        try:
            feed()
        except Unavailable as missing:
            failures[name] = f"{missing}; {missing.remedy}"
        except ReadFailed as failure:
            failures[name] = str(failure)
    return failures


def _load(arguments: argparse.Namespace, old: config.Config | None = None) -> config.Config:
    """The configuration; the environment's credentials were taken out of it by the `old` one."""
    flags: dict[str, Any] = {
        "web.listen": getattr(arguments, "listen", None),
        "carbon.zone": getattr(arguments, "zone", None),
        "log.level": getattr(arguments, "log_level", None),
        "log.format": getattr(arguments, "log_format", None),
        **getattr(arguments, "only", {}),
    }
    path = getattr(arguments, "config", None)
    return config.load(Path(path) if path else None, os.environ, flags, old.given if old else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wattgram",
        allow_abbrev=False,
        description="A live power meter for training servers: watts in, grams out.",
        epilog="Exit codes: 0 good, 1 bug, 2 configuration, 3 something asked for by name is not there.",
    )
    parser.add_argument("--version", action="version", version=f"wattgram {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help=f"configuration (default: {config.DEFAULT_FILE}, if there)")
    common.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    common.add_argument("--log-format", metavar="FORMAT", help="logfmt or json")
    zone = argparse.ArgumentParser(add_help=False)
    zone.add_argument("--zone", metavar="ZONE", help="the grid's zone, such as FR or US-CAL-CISO")
    listen = argparse.ArgumentParser(add_help=False)
    listen.add_argument("--listen", metavar="ADDR", help="HOST:PORT to serve on")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        text = (command.__doc__ or "").strip()
        added = commands.add_parser(name, help=text, description=text, parents=[common, *parents], allow_abbrev=False)
        added.set_defaults(command=command)
        return added

    add("run", run, zone, listen)
    add("demo", demo, zone, listen)
    add("once", once, zone).add_argument("--format", choices=("prometheus", "json"), default="prometheus")
    add_doctor = add("doctor", examine, zone, listen)
    add_doctor.add_argument("--json", action="store_true", help="for programs")
    add_doctor.add_argument("--record", metavar="DIR", help="write a masked recording of this host's hardware to DIR")
    add_measure = add("measure", measure, zone)
    add_measure.usage = "wattgram measure [OPTIONS] -- COMMAND [ARGUMENT ...]"
    add_measure.add_argument("--json", action="store_true", help="for programs")
    add_measure.add_argument("--output", metavar="FILE", help="where the receipt goes; default: standard error")
    add_measure.add_argument("--name", metavar="NAME", help="what the receipt calls it; default: the command")
    add_measure.add_argument(
        "--socket", metavar="PATH", help="the daemon's socket, if it is not where it is looked for"
    )
    add_measure.add_argument("command_line", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    add("intensity", intensity, zone).add_argument("--forecast", action="store_true", help="and the hours ahead")
    add("config", show_config, zone, listen)
    add("check-config", check_config).add_argument("file", nargs="?", metavar="FILE")
    _add_top(add("top", top))
    add("healthcheck", check_health, listen)
    add("pause", pause, listen).add_argument("--for", dest="span", metavar="DURATION", help="such as 10m")
    add("resume", resume, listen)
    add("version", version)
    return parser


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", metavar="URL", help="such as gpu-01 or https://gpu-01:14044; default: here")
    parser.add_argument("--interval", metavar="DURATION", default="2s", help="between two looks (default: 2s)")
    parser.add_argument("--once", action="store_true", help="print it once, after one interval")
    parser.add_argument(
        "--sort", choices=("watts", "energy", "grams", "name"), default="watts", help="workloads by this"
    )
    parser.add_argument("--user", metavar="NAME", default="", help="for a daemon with passwords; asks for it")
    parser.add_argument("--password-file", metavar="FILE", default="", help="its first line is the password")
    parser.add_argument("--ca-file", metavar="FILE", default="", help="who signs for the server's certificate")
