"""The systemd unit and its companions, judged by systemd's own tools, and agreeing with the code and the documents."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from standin.nvml import Constant
from standin.sysfs import RaplTree, Zone
from standin.systemd import ran
from wattgram import app, cli, config, isolated, registry

ROOT = Path(__file__).resolve().parents[1]
SYSTEMD = ROOT / "deploy" / "systemd"
UNIT = SYSTEMD / "wattgram.service"
README = (SYSTEMD / "README.md").read_text(encoding="utf-8")
PROGRAM = "/opt/wattgram/bin/wattgram"
GROUP = "wattgram-rapl"
# Section by section what is no hardening and explains itself.
PLAIN = {"Type", "ExecStart", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec"}
MOST_GPUS = 16


def lines(path: Path = UNIT) -> Iterator[tuple[str, str]]:
    """The directives of a unit file, in order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            yield key, value


def directives() -> dict[str, list[str]]:
    """The unit's directives by name; one that is given several times has several values."""
    found: dict[str, list[str]] = {}
    for key, value in lines():
        found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    """A time span of the unit, all of which are in seconds."""
    return float(text.removesuffix("s"))


def commands() -> list[list[str]]:
    """Every command of the README, as words without sudo."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    joined = "\n".join(blocks).replace("|\n", "| ").replace("\\\n", " ")
    return [[w for w in shlex.split(line) if w != "sudo"] for line in joined.splitlines() if line.strip()]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit as on a machine where its program exists."""
    program = tmp_path / "wattgram"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "units" / UNIT.name
    unit.parent.mkdir()
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(program)))
    return unit


# --- systemd's own judgement ----------------------------------------------------------------------


def test_systemd_has_nothing_to_say_about_the_unit(installed: Path) -> None:
    """An unknown key is only a warning to systemd, so that any word of it is a failure here."""
    verified = ran("systemd-analyze", "verify", installed)

    assert (0, "") == (verified.returncode, verified.stdout)


@pytest.mark.parametrize("drop_in", sorted(SYSTEMD.glob("*.d/*.conf")), ids=lambda path: path.name)
def test_nor_about_the_unit_with_a_drop_in(installed: Path, drop_in: Path) -> None:
    folder = installed.with_name(f"{UNIT.name}.d")
    folder.mkdir()
    (folder / drop_in.name).write_text(drop_in.read_text())

    verified = ran("systemd-analyze", "verify", installed)

    assert (0, "") == (verified.returncode, verified.stdout)


def test_its_exposure_is_at_most_1_6() -> None:
    """A bare unit has 9.6; what is left is the network, the driver's devices and one group."""
    judged = ran("systemd-analyze", "security", "--offline=true", "--threshold=16", UNIT)

    assert judged.returncode == 0, judged.stdout


def test_the_group_would_be_created(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")

    dry = ran("systemd-sysusers", "--dry-run", f"--root={tmp_path}", SYSTEMD / "wattgram.sysusers.conf")

    assert dry.returncode == 0, dry.stdout
    assert [GROUP] == re.findall(r"Creating group '([^']+)'", dry.stdout)
    assert "user" not in dry.stdout.lower()


def test_the_group_and_nobody_else_may_read_every_energy_counter(tmp_path: Path) -> None:
    """The real tool over a tree as the kernel lays it out: the class folder holds links, sub-zones beside parents."""
    tree = RaplTree(
        tmp_path,
        [
            Zone("intel-rapl:0", "package-0", Constant(100)),
            Zone("intel-rapl:0:0", "dram", Constant(10)),
            Zone("intel-rapl:1", "package-1", Constant(100)),
        ],
    )
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text(f"root:x:0:\n{GROUP}:x:{os.getgid()}:\n")

    created = ran("systemd-tmpfiles", "--create", f"--root={tmp_path}", SYSTEMD / "wattgram.tmpfiles.conf")

    counters = [path.stat() for path in tree.sys.glob("class/powercap/intel-rapl:*/energy_uj")]
    assert (0, "") == (created.returncode, created.stdout)
    assert [(0o440, os.getgid())] * 3 == [(stat.S_IMODE(s.st_mode), s.st_gid) for s in counters]


def test_the_udev_rule_applies_them_by_their_installed_name() -> None:
    """There is no udev to try it with: program, file and subsystem are compared."""
    rule = (SYSTEMD / "60-wattgram-rapl.rules").read_text().splitlines()[-1]

    assert {'ACTION=="add"', 'SUBSYSTEM=="powercap"', 'KERNEL=="intel-rapl:*"'} < set(rule.split(", "))
    assert 'RUN+="/bin/systemd-tmpfiles --create wattgram.conf"' in rule
    assert "/etc/tmpfiles.d/wattgram.conf" in README


# --- agreement with the code ----------------------------------------------------------------------


def test_it_is_not_started_again_where_that_mends_nothing() -> None:
    assert {str(app.BAD_CONFIG), str(app.MISSING)} == set(directives()["RestartPreventExitStatus"][0].split())


def test_it_starts_a_command_that_exists_with_arguments_it_knows() -> None:
    program, *arguments = directives()["ExecStart"][0].split()

    assert program == PROGRAM
    assert cli._parser().parse_args(arguments).command is cli.run


def test_reload_is_the_signal_that_the_daemon_takes_for_it() -> None:
    name = directives()["ExecReload"][0].split()[1].removeprefix("-")

    assert f"SIG{name}" in {signal.name for signal in app.SIGNALS}


def test_it_keeps_its_files_where_the_daemon_looks() -> None:
    assert config.DEFAULT_FILE.parent == Path("/etc") / directives()["ConfigurationDirectory"][0]
    assert ["wattgram"] == directives()["StateDirectory"]
    assert Path("/x") == config.state_directory({"STATE_DIRECTORY": "/x"})


def test_every_provider_with_a_token_may_have_it_as_a_credential_and_none_must() -> None:
    """What is no absolute path is looked for in the credential store and may be missing; an absolute one must not."""
    given = dict(value.split(":") for value in directives()["LoadCredential"])
    wanted = {f"{name}-token" for name in registry.PROVIDERS if registry.provider(name).TRAITS.needs_token}

    assert {name: f"wattgram.{name}" for name in wanted} == given
    assert [] == [path for path in given.values() if f"/etc/credstore/{path}" not in README]


def test_its_patience_is_longer_than_the_daemons() -> None:
    """A driver that takes its time to open is no hang, and a stop is over before it is a kill."""
    assert seconds(directives()["WatchdogSec"][0]) > isolated.OPEN_SECONDS
    assert seconds(directives()["TimeoutStartSec"][0]) > isolated.OPEN_SECONDS
    assert seconds(directives()["TimeoutStopSec"][0]) > isolated.GOODBYE_SECONDS + 1


def test_it_allows_the_tasks_of_the_worst_day() -> None:
    """Children that cannot be killed, each with a thread per GPU and two of its own, and our own loops."""
    children = isolated.MAX_ABANDONED + 1
    loops = len(registry.SOURCES) + len(registry.PROVIDERS) + 8

    assert int(directives()["TasksMax"][0]) > children * (MOST_GPUS + 2) + loops


def test_the_base_unit_hides_the_processes_of_others_and_the_drop_in_shows_them() -> None:
    assert ["invisible"] == directives()["ProtectProc"]
    assert [("ProtectProc", "default")] == list(lines(SYSTEMD / "wattgram.service.d/attribution.conf"))


def test_the_group_is_one_everywhere() -> None:
    assert [GROUP] == directives()["SupplementaryGroups"]
    for path in (SYSTEMD / "wattgram.sysusers.conf", SYSTEMD / "wattgram.tmpfiles.conf", ROOT / "docs/permissions.md"):
        assert GROUP in path.read_text(), path.name


def test_the_example_configuration_is_good() -> None:
    assert config.load(SYSTEMD / "wattgram.toml", {}, {}).file == SYSTEMD / "wattgram.toml"


# --- agreement with the documents -----------------------------------------------------------------


def test_every_file_is_in_the_readme_and_the_readme_names_no_other() -> None:
    files = {path.relative_to(SYSTEMD).as_posix() for path in SYSTEMD.rglob("*") if path.is_file()} - {"README.md"}

    assert files == set(re.findall(r"^\| `([^`]+)` \| `/etc", README, re.MULTILINE))


def test_every_file_that_is_installed_exists_and_goes_where_the_table_says() -> None:
    table = dict(re.findall(r"^\| `([^`]+)` \| `(/etc[^`]+)`", README, re.MULTILINE))
    moved = [words[-2:] for words in commands() if words[0] == "install" and words[-2] in table]

    assert set(table) - {"wattgram.service.d/attribution.conf", "wattgram.toml"} == {source for source, _ in moved}
    assert [] == [(source, to) for source, to in moved if not to.startswith(table[source])]


def test_every_command_of_ours_in_the_readme_exists() -> None:
    used = [words[words.index(PROGRAM) + 1 :] for words in commands() if PROGRAM in words]

    assert used
    for arguments in used:
        cli._parser().parse_args(arguments)


def test_every_line_of_hardening_is_explained() -> None:
    """docs/security.md says of each what it takes away, and of each limit why it is there."""
    text = (ROOT / "docs" / "security.md").read_text()
    service = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]

    keys = {line.partition("=")[0] for line in service.splitlines() if line and line[0] != "#"} - PLAIN

    assert set() == {key for key in keys if f"`{key}" not in text}
