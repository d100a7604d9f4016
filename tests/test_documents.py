"""The documents for people are true: the gram is counted again, what they name is there."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from standin import prometheus
from test_document_queries import asked
from test_queries import Scrape, Story, scraped
from wattgram import cli, config
from wattgram.accountant import Accountant, Desk
from wattgram.activity import Board
from wattgram.attribution import split
from wattgram.clock import ManualClock
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import (
    CARBON_PER_GRAM,
    Activity,
    Actor,
    Charge,
    Counter,
    Device,
    Instant,
    Intensity,
    Process,
    Reading,
    Sample,
    Share,
    Workload,
    grams,
)
from wattgram.sources.nvml.binding import chosen
from wattgram.tariff import Rung, Tariff

ROOT = Path(__file__).resolve().parent.parent
FIRST, GRAM, FAQ = (ROOT / "docs" / name for name in ("first-ten-minutes.md", "how-a-gram-is-made.md", "faq.md"))

# --- how a gram is made ---------------------------------------------------------------------------

NOON = 1_795_348_800.0  # 2026-11-22 12:00:00 UTC
MILLIJOULES, EVERY_SECOND = 482_913_417, 583_200
KWH = EVERY_SECOND * 3600 / 1e3 / 3.6e6  # in the hour
FLOOR = 70.4
WEIGHTS = {"4711": 62.0, "4712": 21.0}
PRICES = (312.4, 287.65)
BEFORE_NOON = 0.375  # seconds; of the second in which the price changes
GPU = Device("gpu", "GPU-7c1f", "H100", "0", max_watts=1000.0)
OWNERS = {"4711": "ada", "4712": "bob"}
SERIES = 'wattgram_workload_emissions_grams_total{kind="slurm",workload="4711",owner="ada",component="gpu",activity='


def counter(second: int) -> Counter:
    """What the NVML source makes of the energy counter, so many seconds after the first reading."""
    power = chosen(MILLIJOULES + EVERY_SECOND * second, None, None, None, None)
    assert power.microjoules is not None
    return Counter(power.microjoules)


def tariff() -> Tariff:
    """One price before noon, another from then on."""
    known = Tariff("FR", "lifecycle", (Rung("electricitymaps", 0.0, ("live",)),))
    hours = enumerate(PRICES)
    known.learn(
        "electricitymaps",
        [
            Intensity("FR", "electricitymaps", NOON + 3600 * (n - 1), NOON + 3600 * n, price, "live", "lifecycle")
            for n, price in hours
        ],
        NOON,
    )
    return known


class Names:
    """Two processes, of two jobs."""

    def __call__(self, actor: Actor) -> Workload | None:
        assert actor.process
        job = str(actor.process.pid)
        return Workload("slurm", job, OWNERS[job])

    def holders(self) -> Mapping[str, tuple[Workload, ...]]:
        return {}


def looked(start: Instant, end: Instant) -> Activity:
    actors = tuple(Actor(Process(int(job), 1), weight=weight) for job, weight in WEIGHTS.items())
    return Activity("gpu", GPU.id, start, end, 1.0, actors)


@dataclass(frozen=True)
class Second:
    """The second in which the price changes."""

    old: Counter
    new: Counter
    microjoules: int
    shares: tuple[Share, ...]
    charges: tuple[Charge, ...]


@functools.cache
def the_second() -> Second:
    start = Instant(1000.0, NOON - BEFORE_NOON)
    end = Instant(1001.0, start.wall + 1.0)
    old, new = counter(0), counter(1)
    meter = Meter(3.0)
    meter.advance(Sample(start, (Reading(GPU, start, counter=old),)))
    (delta,) = meter.advance(Sample(end, (Reading(GPU, end, counter=new),))).deltas
    shares = split(delta, looked(start, end), Names(), FLOOR)
    price = tariff().price
    return Second(old, new, delta.microjoules, shares, tuple(c for share in shares for c in price(share)))


@functools.cache
def the_hour() -> tuple[Scrape, ...]:
    """The same second after second from half past eleven for an hour, as scraped every 15 s."""
    clock = ManualClock(1000.0, NOON - 1800 - BEFORE_NOON)
    prices = tariff()
    ledger = Ledger(clock, prices.view, provenances=(("live", "lifecycle"),))
    accountant = Accountant("nvml", 1.0, Meter(3.0), prices, ledger, Desk(Board(), Names(), {GPU.id: FLOOR}))
    scrapes, last = [], clock.now()
    for second in range(3601):
        now = clock.now()
        activities = (looked(last, now),) if second else ()
        accountant.receive(Sample(now, (Reading(GPU, now, counter=counter(second)),), activities))
        if second % 15 == 0:
            scrapes.append(scraped(ledger.snapshot(), "gpu-01"))
        last = now
        clock.advance(1.0)
    return tuple(scrapes)


def the_shortcut() -> float:
    """How far the hour's energy times its last price is off, as a part."""
    return KWH * PRICES[1] / shown_grams(the_hour()[-1]) - 1


def spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def gram_rows() -> Iterator[str]:
    """Every row of every table of the worked example, from the code."""
    second = the_second()
    for moment, value in (("first", second.old), ("second", second.new)):
        yield f"| {moment} | {spaced(value.microjoules // 1000)} | {spaced(value.microjoules)} |"
    yield f"| difference | {spaced(EVERY_SECOND)} | {spaced(second.microjoules)} |"
    for share in second.shares:
        yield f"| {share.workload.id} | {share.activity} | {spaced(share.microjoules)} |"
    yield f"| sum | | {spaced(sum(share.microjoules for share in second.shares))} |"
    for charge in second.charges:
        carbon, job = charge.carbon or 0, charge.share.workload.id
        micrograms = spaced(carbon // charge.microjoules)
        head = f"| {job} | {charge.share.activity} | {spaced(charge.microjoules)} |"
        yield f"{head} {micrograms} | {spaced(carbon)} | {grams(carbon):.9f} |"
    carbon = sum(charge.carbon or 0 for charge in second.charges)
    yield f"| sum | | {spaced(sum(c.microjoules for c in second.charges))} | | {spaced(carbon)} | {grams(carbon):.9f} |"


def shown_grams(scrape: Scrape, **wanted: str) -> float:
    """What a scrape shows of the workloads' grams, added up."""
    name = "wattgram_workload_emissions_grams_total"
    return sum(v for (n, labels), v in scrape.items() if n == name and wanted.items() <= dict(labels).items())


def gram_facts() -> Iterator[str]:
    """Every figure of its text."""
    hour = the_hour()
    yield f"`{spaced(CARBON_PER_GRAM)}`"
    yield f'{SERIES}"active"}} {shown_grams(hour[-1], workload="4711", activity="active"):.3f}'
    yield f'{SERIES}"idle"}} {shown_grams(hour[-1], workload="4711", activity="idle"):.3f}'
    ada, all_of_it = shown_grams(hour[-1], workload="4711") / 1000, shown_grams(hour[-1]) / 1000
    yield f"**{ada:.3f} kg**"
    yield f"{all_of_it:.3f} kg"
    kwh = KWH
    yield f"{kwh:.4f} kWh"
    yield f"{all_of_it * 1000 / kwh:.1f} g/kWh"
    yield f"{kwh * PRICES[1] / 1000:.3f} kg"


def figures(text: str) -> set[str]:
    """Every number of a text, as it is written."""
    return set(re.findall(r"(?<![\w.-])\d+(?: \d{3})*(?:\.\d+)?(?![\w])", text))


def test_the_tables_of_the_worked_gram_are_what_the_code_gives() -> None:
    """From the driver's millijoules to the carbon product, row by row, in order."""
    table = [line for line in GRAM.read_text().splitlines() if re.match(r"\| (?!Reading|Job|---)", line)]

    assert list(gram_rows()) == table


def test_the_figures_in_its_text_are_what_the_code_gives() -> None:
    """Each computed one is there, and no other number is but those that the example begins with."""
    text = GRAM.read_text()
    given = {
        "12",
        "11",
        "1",
        "0.375",
        "0.625",
        "583.2",
        "70.4",
        "62",
        "21",
        "83",
        "312.4",
        "287.65",
        "15",
        "1000",
        "4711",
    }
    computed = [*gram_rows(), *gram_facts()]

    assert [] == [fact for fact in gram_facts() if fact not in text]
    prose = re.sub(r"^\|.*$|^## \d\.|step \d|2026-11-22|\]\([^)]*\)", "", text, flags=re.MULTILINE)
    assert set() == figures(prose) - given - figures(" ; ".join(computed))


def test_the_worked_gram_balances() -> None:
    """Whatever the figures are: nothing is lost on the road."""
    second = the_second()

    assert second.microjoules == sum(s.microjoules for s in second.shares) == sum(c.microjoules for c in second.charges)


@pytest.fixture
def _promtool() -> None:
    prometheus.tools_or_skip()


@pytest.mark.usefixtures("_promtool")
def test_the_panels_of_the_worked_gram_show_what_it_says() -> None:
    """Both queries of the document, over the series of its hour."""
    panels = re.findall(r"```promql\n(.*?)```", GRAM.read_text(), re.DOTALL)
    told = [float(figure) for figure in re.findall(r"^\**([\d.]+) kg", GRAM.read_text(), re.MULTILINE)]

    questions = [asked(panel, ({}, figure), minutes=60, step=0.001) for panel, figure in zip(panels, told, strict=True)]
    story = Story("gpu-01", list(the_hour()))
    test = {"interval": "15s", "input_series": story.series(), "promql_expr_test": questions}
    assert prometheus.test_rules({"tests": [test]}) is None


# --- the first ten minutes ------------------------------------------------------------------------


def commands() -> list[str]:
    """Every line that the page has its reader type."""
    fences = re.findall(r"```sh\n(.*?)```", FIRST.read_text(), re.DOTALL)
    return [line for fence in fences for line in fence.splitlines()]


def test_every_command_of_the_first_ten_minutes_exists() -> None:
    """Each menu entry, and each command of wattgram with its flags; other programs are those that it speaks of."""
    menu = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    parser = cli._parser()
    others = set()
    for command in commands():
        program, *arguments = shlex.split(command)
        if program == "make":
            assert arguments[0] in menu
            assert all(argument.split("=")[0] in {"ZONE", "LISTEN"} for argument in arguments[1:])
        elif program == ".venv/bin/wattgram":
            parser.parse_args(arguments)
        else:
            others.add(program)

    assert others == {
        "curl",
        "sed",
        "promtool",
        "prometheus",
        "docker",
        ".venv/bin/pip",
        "scripts/venv.sh",
        "npm",
        "env",
    }


def test_every_path_of_the_first_ten_minutes_exists() -> None:
    """Below deploy/, but what a command makes; the example that is edited holds what is replaced."""
    text = FIRST.read_text()
    (edit,) = (command for command in commands() if command.startswith("sed"))
    _, script, source, _, made = shlex.split(edit)
    named = set(re.findall(r"(?<![\w./-])deploy/[\w./-]*[\w]", text)) - {made}
    _, before, after, _ = script.split("/")

    assert set() == {path for path in named if not (ROOT / path).exists()}
    assert before in (ROOT / source).read_text()
    scrape = yaml.safe_load((ROOT / source).read_text().replace(before, after))
    assert scrape["scrape_configs"][0]["static_configs"] == [{"targets": ["localhost:14044"]}]
    assert scrape["scrape_configs"][0]["job_name"] == "wattgram"
    assert all((ROOT / source).parent.joinpath(rules).is_file() for rules in scrape["rule_files"])
    assert Path(made).parent == Path(source).parent


def test_the_ports_of_the_first_ten_minutes_agree() -> None:
    """With the default of the daemon, with the demonstration, with the stack."""
    values = {key: str(value).strip('"') for key, value, _ in config.effective(config.load(None, {}, {}))}
    services = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"]
    published = {port.split(":")[1] for service in services.values() for port in service.get("ports", ())}
    daemon = values["web.listen"].rpartition(":")[2]

    ports = set(re.findall(r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0):(\d+)", FIRST.read_text()))
    other = "14055"  # for whoever has something else on the daemon's
    assert ports - {other} == {daemon, "9090", "9093", "3000"} == published
    assert {profile for service in services.values() for profile in service.get("profiles", ())} >= set(
        re.findall(r"--profile (\w+)", FIRST.read_text())
    )


def test_the_counts_of_rules_are_those_of_the_files() -> None:
    """As promtool prints them."""
    told = [int(count) for count in re.findall(r"SUCCESS: (\d+) rules found", FIRST.read_text())]

    files = (ROOT / "deploy/prometheus" / name for name in ("wattgram.rules.yml", "wattgram.alerts.yml"))
    assert told == [sum(len(g["rules"]) for g in yaml.safe_load(path.read_text())["groups"]) for path in files]


# --- questions ------------------------------------------------------------------------------------


def test_each_answer_is_short_and_names_the_page_that_shows_it() -> None:
    """At most six lines; that the pages are there is seen in test_docs.py."""
    parts = re.split(r"^#{2,3} (.+)$", FAQ.read_text(), flags=re.MULTILINE)[1:]
    answers = {question: answer.strip() for question, answer in zip(parts[::2], parts[1::2], strict=True)}
    asked_for = {question: answer for question, answer in answers.items() if answer}

    assert len(asked_for) >= 25
    assert [] == [q for q, answer in asked_for.items() if len(answer.splitlines()) > 6 or "](" not in answer]


def test_the_figures_of_an_answer_are_those_of_the_page_it_names() -> None:
    """What the meter costs, how wrong others are, how many series: they change there first."""
    for figure, page in {
        "18 s": r"\| 18\.3 ",
        "26 s": r"cost 9 s per hour more: 26 s\.",
        "42 MiB": r"\| 41\.5 MiB",
        "+75 %": r"\| square, 15 s, a quarter later \|.*\+75\.00 %",
    }.items():
        assert figure in FAQ.read_text()
        assert re.search(page, (ROOT / "docs/performance.md").read_text()), figure
    assert "about 700 samples" in (ROOT / "docs/prometheus.md").read_text()
    assert "4 %" in FAQ.read_text()
    assert round(the_shortcut() * 100) == -4
