"""Configuration: where values come from, what is refused and how the refusal helps, and that no credential shows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattgram import registry
from wattgram.config import Config, duration_text, effective, load, parse_duration
from wattgram.layers import line_of
from wattgram.ports import ConfigError, ReadFailed

TOKEN = "token-that-must-never-show"
TOKEN_VARIABLE = "WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN"
ZONED = '[carbon]\nzone = "FR"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "wattgram.toml"


def given_(text: str, file: Path, env: dict[str, str] | None = None, **flags: Any) -> Config:
    file.write_text(text, encoding="utf-8")
    return load(file, {} if env is None else env, {name.replace("__", "."): value for name, value in flags.items()})


def complaint(text: str, file: Path, env: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        given_(text, file, env, **flags)
    return str(caught.value)


def shown(config: Config) -> dict[str, tuple[str, str]]:
    return {key: (value, origin) for key, value, origin in effective(config)}


# --- precedence -----------------------------------------------------------------------------------


def test_nothing_configured_is_a_configuration(file: Path) -> None:
    config = given_("", file)

    assert (1.0, "", ("auto",), "lifecycle", "0.0.0.0:14044") == (
        config.sampling.interval,
        config.carbon.zone,
        config.carbon.providers,
        config.carbon.factor,
        config.web.listen,
    )
    assert {"default"} == {origin for _, _, origin in effective(config)}


def test_every_plug_has_its_options(file: Path) -> None:
    config = given_("", file)

    assert (list(registry.SOURCES), list(registry.PROVIDERS)) == (list(config.sources), list(config.providers))


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(file: Path) -> None:
    """And each value says where it came from."""
    text = '[carbon]\nzone = "FR"\nfactor = "direct"\n[web]\nlisten = "127.0.0.1:1"\n[log]\nlevel = "debug"\n'
    env = {"WATTGRAM_CARBON__ZONE": "DE", "WATTGRAM_WEB__LISTEN": "127.0.0.1:2"}

    values = shown(given_(text, file, env, web__listen="127.0.0.1:3"))

    assert ('"127.0.0.1:3"', "flag") == values["web.listen"]
    assert ('"DE"', "environment WATTGRAM_CARBON__ZONE") == values["carbon.zone"]
    assert ('"direct"', f"{file}:3") == values["carbon.factor"]
    assert ('"debug"', f"{file}:7") == values["log.level"]
    assert ('"logfmt"', "default") == values["log.format"]


def test_a_flag_that_was_not_given_is_none(file: Path) -> None:
    assert "FR" == given_(ZONED, file, carbon__zone=None).carbon.zone


def test_a_variable_has_the_type_of_its_key(file: Path) -> None:
    env = {
        "WATTGRAM_SOURCES__NVML__ENABLED": "false",
        "WATTGRAM_SOURCES__SYNTHETIC__GPUS": "8",
        "WATTGRAM_SOURCES__ESTIMATE__IDLE_WATTS_PER_PROCESSOR": "2",
        "WATTGRAM_SAMPLING__INTERVAL": "250ms",
        "WATTGRAM_CARBON__PUE": "1.2",
        "WATTGRAM_CARBON__ZONE": "FR",
        "WATTGRAM_CARBON__PROVIDERS": "electricitymaps, annual",
    }

    values = shown(given_("", file, env))

    assert {
        "sources.nvml.enabled": "false",
        "sources.synthetic.gpus": "8",
        "sources.estimate.idle_watts_per_processor": "2.0",
        "sampling.interval": '"250ms"',
        "carbon.pue": "1.2",
        "carbon.providers": '["electricitymaps", "annual"]',
    } == {key: values[key][0] for key in values if values[key][1] != "default" and key != "carbon.zone"}


def test_a_zone_of_digits_is_text_all_the_same(file: Path) -> None:
    """A variable's value is not guessed: `2` for a text is the text `2`."""
    assert "carbon.zone" in complaint("", file, {"WATTGRAM_CARBON__ZONE": "2"})


def test_variables_without_a_section_are_not_ours(file: Path) -> None:
    """A test's, a unit's, a shell's."""
    config = given_("", file, {"WATTGRAM_STANDIN_NVML": "x", "WATTGRAM_": "x", "WATTGRAM": "x", "HOME": "/root"})

    assert {} == dict(config.origins)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("WATTGRAM_SAMPLING__INTERVAL", "sampling.interval"),
        ("WATTGRAM_SOURCES__NVML__ENABLED", "sources.nvml.enabled"),
        ("WATTGRAM_CARBON__PUE", "carbon.pue"),
        ("WATTGRAM_CARBON__FACTOR", "carbon.factor"),
        ("WATTGRAM_WEB__LISTEN", "web.listen"),
        ("WATTGRAM_LOG__LEVEL", "log.level"),
    ],
)
def test_an_empty_variable_is_no_value(file: Path, name: str, key: str) -> None:
    """`NAME=` as compose files leave it: either as if unset, or refused by the variable's name. Never guessed."""
    try:
        value, origin = shown(given_("", file, {name: ""}))[key]
    except ConfigError as error:
        value, origin = "", str(error)

    assert origin == "default" or name in origin, value


def test_an_empty_zone_unsets_the_files(file: Path) -> None:
    assert "" == given_(ZONED, file, {"WATTGRAM_CARBON__ZONE": ""}).carbon.zone


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        pytest.param("[sampling]\n\nintervall = 1\n", 3, "sampling.intervall", "sampling.interval", id="a key"),
        pytest.param('[carbn]\nzone = "FR"\n', 2, "carbn.zone", "carbon.zone", id="a table"),
        pytest.param("[source.nvml]\nenabled = true\n", 2, "source.nvml.enabled", "sources.nvml.enabled", id="a plug"),
        pytest.param(
            "[sources.nvlm]\nenabled = true\n", 2, "sources.nvlm.enabled", "sources.nvml.enabled", id="its name"
        ),
        pytest.param("[sources.nvlm]\n", 1, "sources.nvlm", "sources.nvml", id="an empty table"),
        pytest.param("# first\nzone = 1\n", 2, "zone", "carbon", id="outside of any table"),
        pytest.param(
            "[carbon.electricitymap]\ntimeout = 5\n", 2, "carbon.electricitymap.timeout", "carbon.elec", id="s"
        ),
        pytest.param("sampling.intervall = 1\n", 1, "sampling.intervall", "sampling.interval", id="dotted"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_its_nearest(
    file: Path, text: str, line: int, key: str, nearest: str
) -> None:
    message = complaint(text, file)

    assert message.startswith(f"{file}:{line}: unknown key {key} ")
    assert nearest in message.rpartition("nearest")[2]


def test_an_unknown_variable_is_named_with_its_nearest(file: Path) -> None:
    message = complaint("", file, {"WATTGRAM_SAMPLING__INTERVAL_": "1s"})

    assert "environment WATTGRAM_SAMPLING__INTERVAL_" in message
    assert "sampling.interval" in message.rpartition("nearest")[2]


@pytest.mark.parametrize(
    ("text", "key", "line", "value"),
    [
        ("[sampling]\ninterval = true\n", "sampling.interval", 2, "true"),
        ('[sampling]\ninterval = "soon"\n', "sampling.interval", 2, '"soon"'),
        ("[sampling]\ninterval = 0\n", "sampling.interval", 2, "0"),
        ('[sources.nvml]\nenabled = "yes"\n', "sources.nvml.enabled", 2, '"yes"'),
        ("[sources.synthetic]\ngpus = 1.5\n", "sources.synthetic.gpus", 2, "1.5"),
        ("[carbon]\nzone = 5\n", "carbon.zone", 2, "5"),
        ('[carbon]\nzone = "FR"\nproviders = "annual"\n', "carbon.providers", 3, '"annual"'),
        ('[carbon]\nzone = "FR"\nproviders = [1]\n', "carbon.providers", 3, "[1]"),
        ('[carbon]\nfactor = "both"\n', "carbon.factor", 2, '"both"'),
        ("[carbon]\npue = 0.9\n", "carbon.pue", 2, "0.9"),
        ("[carbon]\nmarket_intensity = -1\n", "carbon.market_intensity", 2, "-1"),
        ('[log]\n\n\nlevel = "loud"\n', "log.level", 4, '"loud"'),
        ("[web]\nlisten = 14044\n", "web.listen", 2, "14044"),
        ('[carbon.electricitymaps]\ntimeout = "1 parsec"\n', "carbon.electricitymaps.timeout", 2, '"1 parsec"'),
        ('[carbon.electricitymaps]\ntoken_file = "s3cr3t"\n', "carbon.electricitymaps.token_file", 2, "…"),
        ('[carbon.gb]\nbase_url = "https://a.example/?key=1"\n', "carbon.gb.base_url", 2, "…"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_path_line_and_value(
    file: Path, text: str, key: str, line: int, value: str
) -> None:
    message = complaint(text, file)

    assert message.startswith(f"{file}:{line}: {key} = {value}: ")


@pytest.mark.parametrize("text", ["sampling = 5\n", "[[sampling]]\ninterval = 1\n", "[carbon]\nzone = {}\n"])
def test_a_table_for_a_value_and_a_value_for_a_table_are_told_as_such(file: Path, text: str) -> None:
    """Not `unknown key sampling; the nearest known one is sampling`."""
    message = complaint(text, file)

    assert str(file) in message
    assert "unknown key" not in message


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("sources.estimate.idle_watts_per_processor", "-1.0"),
        ("sources.estimate.busy_watts_per_processor", "nan"),
        ("sources.estimate.memory_watts_per_gigabyte", "inf"),
        ("sources.estimate.memory_watts_per_gigabyte", "-0.4"),
        ("sources.synthetic.gpus", "-1"),
        ("carbon.pue", "nan"),
        ("carbon.pue", "inf"),
        ("carbon.market_intensity", "inf"),
        ("carbon.price", "nan"),
        ("sampling.interval", "inf"),
        ("sampling.interval", "nan"),
        ("sampling.interval", "1e300"),
        ("sources.nvml.interval", '"99999999999999d"'),
        ("carbon.electricitymaps.timeout", "inf"),
        ("carbon.electricitymaps.every", '"1ms"'),
    ],
)
def test_a_number_that_breaks_the_arithmetic_is_refused(file: Path, key: str, number: str) -> None:
    """TOML knows nan and inf; a negative coefficient would let a counter fall; a million requests an hour ban us."""
    section, _, name = key.rpartition(".")

    assert key in complaint(f"[{section}]\n{name} = {number}\n", file)


@pytest.mark.parametrize("interval", ["49ms", "1ms", 0.001])
@pytest.mark.parametrize("section", ["sampling", "sources.nvml", "sources.rapl"])
def test_nobody_is_asked_more_often_than_its_sensors_change(file: Path, section: str, interval: object) -> None:
    text = f"[{section}]\ninterval = {interval!r}\n"

    assert "50ms" in complaint(text, file)


def test_a_provider_that_is_not_known_is_told_the_nearest(file: Path) -> None:
    message = complaint('[carbon]\nzone = "FR"\nproviders = ["electricitymap"]\n', file)

    assert "'electricitymaps'" in message


def test_providers_without_a_zone_have_nothing_to_be_asked(file: Path) -> None:
    assert "carbon.zone" in complaint('[carbon]\nproviders = ["annual"]\n', file)


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["this is no TOML", "[sampling", "a = 1\na = 2\n", "a = 2024-13-01\n", "\x00"])
def test_a_file_that_is_not_toml_says_where(file: Path, text: str) -> None:
    assert complaint(text, file).startswith(f"{file}: not TOML: ")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5_000 + "\n", "a." * 3_000 + "a = 1\n"])
def test_a_file_that_is_meant_to_break_the_reader_is_refused_too(file: Path, text: str) -> None:
    """By ConfigError and exit 2; a traceback would say that it is our bug."""
    complaint(text, file)


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file, {}, {})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {}, {})


def test_a_file_that_was_named_must_be_there(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(file, {}, {})


def test_a_file_that_may_not_be_read_is_refused(file: Path) -> None:
    """A sysctl that is written and never read: the kernel refuses it to everybody, root included."""
    file.symlink_to("/proc/sys/vm/compact_memory")

    with pytest.raises(ConfigError, match="Permission denied"):
        load(file, {}, {})


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("[a]\nx = 1\n[b]\nx = 2\n", "b.x", 4),
        ("[a.b]\nx = 1\n", "a.b.x", 2),
        ("[ a . b ]\nx = 1\n", "a.b.x", 2),
        ("a.b.x = 1\n", "a.b.x", 1),
        ("[a]\nb.x = 1\n", "a.b.x", 2),
        ('["a"]\n"x" = 1\n', "a.x", 2),
        ("# x = 0\nx = 1\n", "x", 2),
        ("[a]\n", "a", 1),
        ("[a]\n", "a.x", None),
        ("a = { x = 1 }\n", "a.y", None),
    ],
)
def test_the_line_of_a_key_is_found(text: str, path: str, line: int | None) -> None:
    """The parser does not tell."""
    assert line == line_of(text, path)


# --- durations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86_400.0),
        (" 5s ", 5.0),
        (5, 5),
        (0.5, 0.5),
    ],
)
def test_durations_are_written_as_people_write_them(text: object, seconds: float) -> None:
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "5",
        "5 s",
        "5S",
        "-5s",
        "0s",
        "0ms",
        "1w",
        "1h30m",
        "1e3s",
        "inf",
        "nans",
        "²s",
        "5s\n5s",
        True,
        False,
        None,
        [],
        0,
        -1,
    ],
)
def test_anything_else_is_no_duration(text: object) -> None:
    """A number without a unit is seconds only where it is a number."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(50, 10**9))
def test_a_duration_is_written_as_it_is_read(milliseconds: int) -> None:
    seconds = parse_duration(f"{milliseconds}ms")

    assert seconds == pytest.approx(parse_duration(duration_text(seconds)), rel=1e-12)


# --- addresses and zones --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:14044", "127.0.0.1:1", "[::1]:14044", "[::]:65535", "localhost:14044", ":14044", "host.example:80"],
)
def test_an_address_to_listen_on_is_a_host_and_a_port(file: Path, listen: str) -> None:
    assert listen == given_(f'[web]\nlisten = "{listen}"\n', file).web.listen


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "14044",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "127.0.0.1:-1",
        "127.0.0.1:65536",
        "127.0.0.1:²",
        "127.0.0.1:80/metrics",
        "http://127.0.0.1:80",
    ],
)
def test_anything_else_is_no_address(file: Path, listen: str) -> None:
    """Refused here and not when the port is opened: check-config must find it."""
    assert "web.listen" in complaint("", file, web__listen=listen)


@pytest.mark.parametrize("zone", ["FR", "WORLD", "DK-DK1", "US-CAL-CISO", "RU-1", "ES-CN-FV", "NKR", "US-EGRID-CAMX"])
def test_a_zone_is_an_iso_code_or_the_providers_own(file: Path, zone: str) -> None:
    assert zone == given_("", file, carbon__zone=zone).carbon.zone


@pytest.mark.parametrize(
    "zone", ["fr", "F", "France", "FR-", "-FR", "FR DE", "FR\n", "FR;DE", "FR&key=1", "ÎL", "../FR", "F" * 99]
)
def test_anything_else_is_no_zone(file: Path, zone: str) -> None:
    """A typo must not reach an API that answers with the caller's own place."""
    assert "carbon.zone" in complaint("", file, carbon__zone=zone)


# --- credentials ----------------------------------------------------------------------------------


def every_text_of(config: Config) -> str:
    return "\n".join([repr(config), str(config), repr(dict(config.secrets)), *map(str, effective(config))])


def test_a_token_in_the_environment_is_taken_out_of_it(file: Path) -> None:
    """So that no child inherits it."""
    env = {TOKEN_VARIABLE: TOKEN, "PATH": "/bin"}
    config = given_("", file, env)

    assert {"PATH": "/bin"} == env
    assert TOKEN == config.secrets["electricitymaps"].reveal()


def test_a_token_leaves_the_environment_also_when_the_configuration_is_bad(file: Path) -> None:
    env = {TOKEN_VARIABLE: TOKEN}
    complaint("[nonsense]\n", file, env)

    assert {} == env


def test_no_token_shows_in_what_is_printed_of_a_configuration(file: Path, tmp_path: Path) -> None:
    """Where it comes from may be shown, what it is may not."""
    (tmp_path / "token").write_text(TOKEN)
    by_variable = given_("", file, {TOKEN_VARIABLE: TOKEN})
    by_file = given_(f'[carbon.electricitymaps]\ntoken_file = "{tmp_path / "token"}"\n', file)

    assert TOKEN not in every_text_of(by_variable) + every_text_of(by_file)
    assert ("(secret)", f"environment {TOKEN_VARIABLE}") == shown(by_variable)["carbon.electricitymaps.token"]
    assert ("(secret)", f"file {tmp_path / 'token'}") == shown(by_file)["carbon.electricitymaps.token"]


def test_a_token_written_into_the_file_is_refused_without_being_told(file: Path) -> None:
    """A natural mistake: the message must not carry it into the journal."""
    message = complaint(f'[carbon.electricitymaps]\ntoken = "{TOKEN}"\n', file)

    assert "token_file" in message
    assert TOKEN not in message


@pytest.mark.parametrize(
    "name",
    [
        "WATTGRAM_CARBON__ELECTRICTYMAPS__TOKEN",
        "WATTGRAM_CARBON__ELECTRICITYMAPS__TOKENS",
        "WATTGRAM_CARBON__ELECTRICITYMAPS__API_KEY",
        "WATTGRAM_CARBON__WATTTIME__PASSWORD",
        "WATTGRAM_CARBON__TOKEN",
    ],
)
def test_a_token_under_a_misspelt_name_is_refused_without_being_told(file: Path, name: str) -> None:
    message = complaint("", file, {name: TOKEN})

    assert name in message
    assert TOKEN not in message


def test_a_password_in_an_address_does_not_show(file: Path) -> None:
    """Refused or masked; a gateway's address may hold one, and it is printed and logged with every failure."""
    text = f'[carbon.electricitymaps]\nbase_url = "https://user:{TOKEN}@gateway.example"\n'
    try:
        said = every_text_of(given_(text, file))
    except ConfigError as error:
        said = str(error)

    assert TOKEN not in said


@pytest.mark.parametrize(
    "address", ["gateway.example", "ftp://gateway.example", "http://", "https://a b/", "file:///etc"]
)
def test_an_address_that_nobody_can_be_asked_at_is_refused(file: Path, address: str) -> None:
    """check-config says good to it, and then every fetch fails."""
    assert "base_url" in complaint(f'[carbon.electricitymaps]\nbase_url = "{address}"\n', file)


def test_a_file_goes_before_systemds_credential_before_the_environment(file: Path, tmp_path: Path) -> None:
    for name in ("named", "electricitymaps-token"):
        (tmp_path / name).write_text(f"{name}\n")
    named = f'[carbon.electricitymaps]\ntoken_file = "{tmp_path / "named"}"\n'

    def revealed(text: str, env: Mapping[str, str]) -> str:
        return given_(text, file, {TOKEN_VARIABLE: "variable", **env}).secrets["electricitymaps"].reveal()

    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert ["named", "electricitymaps-token", "variable", "variable"] == [
        revealed(named, systemd),
        revealed("", systemd),
        revealed("", {}),
        revealed("", {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}),
    ]


def test_without_any_there_is_no_secret(file: Path) -> None:
    assert {} == given_("", file).secrets


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_an_empty_token_is_none(file: Path, token: str) -> None:
    """`TOKEN=` as compose files leave it: nothing is sent."""
    secret = given_("", file, {TOKEN_VARIABLE: token}).secrets.get("electricitymaps")

    if secret is not None:
        with pytest.raises(ReadFailed) as caught:
            secret.reveal()
        assert "auth" == caught.value.reason


@pytest.mark.parametrize("token", ["two\nlines", "two words", "tail\r\nX-Injected: yes", "ümläut", "bell\x07"])
def test_a_variable_that_holds_no_token_is_refused_as_a_file_is(file: Path, token: str) -> None:
    """By `auth`, with where it came from and without what it is."""
    secret = given_("", file, {TOKEN_VARIABLE: token}).secrets["electricitymaps"]

    with pytest.raises(ReadFailed) as caught:
        secret.reveal()

    assert "auth" == caught.value.reason
    assert token not in str(caught.value)


def test_a_token_file_with_a_folder_in_its_place_is_a_failure_of_that_reading(file: Path, tmp_path: Path) -> None:
    secret = given_(f'[carbon.electricitymaps]\ntoken_file = "{tmp_path}"\n', file).secrets["electricitymaps"]

    with pytest.raises(ReadFailed, match="Is a directory"):
        secret.reveal()


def test_a_credentials_folder_that_cannot_be_looked_into_is_no_bug(file: Path) -> None:
    """A name that is too long stands for every refusal of the kernel."""
    config = given_("", file, {"CREDENTIALS_DIRECTORY": "x" * 300})

    assert {} == config.secrets


# --- strangers' strings ---------------------------------------------------------------------------

PATHS = ("sources.rapl.path", "sources.rapl.proc", "sources.estimate.proc", "carbon.cache_file", "web.config_file")


@pytest.mark.parametrize("key", [*PATHS, "carbon.electricitymaps.token_file"])
def test_a_path_with_a_nul_in_it_is_refused(file: Path, key: str) -> None:
    """No file can have that name; unchecked it ends the program with a ValueError later on."""
    section, _, name = key.rpartition(".")

    assert key in complaint(f'[{section}]\n{name} = "/a\\u0000b"\n', file)


@pytest.mark.parametrize("text", ["\\u001b[2J", "one\\ntwo", "a\\u0007b"])
def test_a_strangers_string_is_printed_harmlessly(file: Path, text: str) -> None:
    """On one line, without control characters, in what `config` prints and in what a refusal says."""
    config = given_(f'[carbon]\ncurrency = "{text}"\n', file)
    message = complaint(f'[carbon]\nzone = "{text}"\n', file)

    assert shown(config)["carbon.currency"][0].isprintable()
    assert message.isprintable()


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=8), st.integers(), st.booleans()), max_size=3))
def test_whatever_the_flags_hold_it_is_refused_or_taken(flags: dict[str, object]) -> None:
    """ConfigError or a configuration; nothing else."""
    try:
        load(Path(os.devnull), {}, flags)
    except ConfigError:
        return


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "SAMPLING__INTERVAL",
                "CARBON__ZONE",
                "CARBON__PUE",
                "CARBON__PROVIDERS",
                "WEB__LISTEN",
                "LOG__LEVEL",
                "X__Y",
            ]
        ),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
        max_size=3,
    )
)
def test_whatever_the_environment_holds_it_is_refused_or_taken(env: dict[str, str]) -> None:
    try:
        load(Path(os.devnull), {f"WATTGRAM_{name}": value for name, value in env.items()}, {})
    except ConfigError:
        return


def test_idle_watts_are_by_device(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[attribution.idle_watts]\n"GPU-1" = 62\n')
    assert {"GPU-1": 62.0} == load(file, {}, {}).attribution.idle_watts

    file.write_text('[attribution.idle_watts]\n"GPU-1" = -1.0\n')
    with pytest.raises(ConfigError, match=r"idle_watts.*GPU-1 = -1: expected 0 or more"):
        load(file, {}, {})
