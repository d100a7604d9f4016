"""Workload: from a list of jobs and pods to one of them."""

from __future__ import annotations

from scripts.dashboards import queries as q
from scripts.dashboards.boards import asked, dashboard, datasource, go, instance, job, quality
from scripts.dashboards.parts import (
    IDLE_IS_GREY,
    KG,
    KWH,
    PER_KWH,
    WHAT,
    WHERE,
    Column,
    Json,
    Panel,
    Row,
    Target,
    bars,
    graph,
    stat,
    table,
)

ALL = f'kind!="pool",kind=~"$kind",owner=~"$owner",{WHAT}'
ONE = f'{ALL},workload=~"$workload"'
IDLE = 'activity="idle"'
TO_ONE = go("Open this workload", "workload", "instance", "quality", kind="kind", workload="workload")
NAMED = ("kind", "workload", "owner")


def build() -> Json:
    """Return the dashboard."""
    known = f'wattgram_workload_energy_joules_total{{kind!="pool",{WHERE}}}'
    kind = asked("kind", "Kind", f"label_values({known}, kind)")
    owner = asked("owner", "Owner", f'label_values({known[:-1]},kind=~"$kind"}}, owner)')
    workload = asked("workload", "Workload", f'label_values({known[:-1]},kind=~"$kind",owner=~"$owner"}}, workload)')
    return dashboard(
        "workload",
        "Workload",
        "Jobs, pods, containers, units and users; choose one for its energy, grams, price, share and idle part.",
        [datasource(), job(), instance(), kind, owner, workload, quality()],
        [_one(), _course(), _list(), _weeks()],
    )


def energy(which: str = ONE, *more: str) -> str:
    """The workloads' accounts of joules."""
    return f"wattgram_workload_energy_joules_total{{{','.join((which, *more))}}}"


def grams(which: str = ONE) -> str:
    """The workloads' accounts of grams."""
    return f"wattgram_workload_emissions_grams_total{{{which}}}"


def _one() -> Row:
    return Row(
        "$kind $workload",
        [
            stat(
                "Energy",
                f"{q.LIFE} Only what is there at some moment of the time shown. {q.OWNED}",
                f"{q.life(energy())} {q.KWH}",
                "kwatth",
                none=q.SYNTHETIC,
            ),
            stat("CO₂e", f"{q.LIFE} {q.GRAMS}", q.life(grams()), "massg", none="unpriced: set carbon.zone"),
            stat(
                "Its price",
                "Its grams by its kilowatt-hours: the mean intensity, weighted by its own use. Unpriced joules lower "
                "it. "
                "The error is the provider's.",
                f"{q.life(grams())} / ({q.life(energy())} {q.KWH})",
                PER_KWH,
                decimals=0,
                none="unpriced",
            ),
            stat(
                "Its share",
                "Its energy by that of all devices of the servers where it was, in the time shown; idle pools are in "
                "the "
                f"whole. {q.INCREASED}",
                f"{q.gained(energy())} / sum (sum by (job, instance) (increase({q.ENERGY}[$__range]))"
                f" and on (job, instance) sum by (job, instance) (increase({energy()}[$__range])))",
                "percentunit",
                decimals=1,
                none=q.SYNTHETIC,
            ),
            stat(
                "Idle part",
                "Of its whole life: held, and not used. The power of the device when nobody uses it, times the time; a "
                "model.",
                f"{q.life(energy(ONE, IDLE))} / {q.life(energy())}",
                "percentunit",
                decimals=1,
                none="no idle part is known",
            ),
            stat(
                "Power now",
                f"Mean over the last four scrapes; 0 while it is over and still shown. {q.METERED}",
                q.rate(energy()),
                "watt",
                none="over",
            ),
        ],
    )


def _course() -> Row:
    return Row(
        "Its course",
        [
            graph(
                "Power by component, active and idle",
                f"Mean power: the rate of its accounts. {q.OWNED}",
                [Target(q.rate(energy(), "component", "activity"), "{{component}} {{activity}}")],
                "watt",
                calcs=("mean",),
                aside=True,
                stacked=True,
                overrides=IDLE_IS_GREY,
                none=q.SYNTHETIC,
            ),
            graph(
                "Price of carbon while it ran",
                "Grams by kilowatt-hours of each moment: nothing is smoothed beyond four scrapes. The "
                "error is the provider's.",
                [
                    Target(
                        f"3.6e6 * {q.rate(grams())} / ({q.rate(energy())} > 0)",
                        "g/kWh",
                    )
                ],
                PER_KWH,
                width=6,
                fill=12,
                none="unpriced",
                legend="list",
                calcs=(),
            ),
            graph(
                "Its share of all power",
                f"By all devices of the servers chosen. {q.OWNED}",
                [Target(f"{q.rate(energy())} / {q.rate(q.ENERGY)}", "share")],
                "percentunit",
                width=6,
                fill=12,
                none=q.SYNTHETIC,
                legend="list",
                calcs=(),
            ),
            *_facts(),
        ],
    )


def _facts() -> list[Panel]:
    """Where it was, and what it is called."""
    fact = f'wattgram_workload_info{{{WHERE},kind=~"$kind",owner=~"$owner",workload=~"$workload"}}'
    return [
        bars(
            "Energy by server and component, the ten largest",
            f"{q.LIFE}",
            [
                Target(
                    f"topk(10, {q.life(energy(), 'instance', 'component')}) {q.KWH}",
                    "{{instance}} {{component}}",
                    instant=True,
                )
            ],
            "kwatth",
            width=12,
            height=8,
            none=q.SYNTHETIC,
        ),
        table(
            "What else is known of it",
            "Its name for people and its account, as a namer told them; may be learnt late. Shown while it is there.",
            [f"max by (kind, workload, owner, name, account) (last_over_time({fact}[$__range]))"],
            [
                Column("kind", "Kind", width=80),
                Column("workload", "Workload"),
                Column("owner", "Owner"),
                Column("name", "Name"),
                Column("account", "Account"),
            ],
            "Workload",
            width=12,
            height=8,
            none="nothing but its name",
        ),
    ]


def _weeks() -> Row:
    """The same list from the recorded sums: a fourth of the series, one sample a minute."""
    which = f'{{{WHERE},kind=~"$kind",owner=~"$owner"}}'
    energy_sum = f"instance_workload:wattgram_workload_energy_joules:sum{which}"
    grams_sum = f"instance_workload:wattgram_workload_emissions_grams:sum{which}"
    return Row(
        "Over weeks, from the recording rules",
        [
            table(
                "Workloads over weeks, the 500 largest",
                f"From the recording rules, whatever Quality says without invented hardware. {q.LIFE} {q.OWNED}",
                [
                    f"topk(500, {q.life(energy_sum, *NAMED)}) {q.KWH}",
                    f"topk(1000, {q.life(grams_sum, *NAMED)}) {q.KG}",
                ],
                [
                    Column("kind", "Kind", width=90),
                    Column("workload", "Workload", links=(TO_ONE,)),
                    Column("owner", "Owner"),
                    Column("Value #A", "Energy", KWH, decimals=2, gauge=0.0),
                    Column("Value #B", "CO₂e", KG, 110, 2),
                ],
                "Energy",
                height=12,
                none=q.RECORDED,
            )
        ],
        collapsed=True,
    )


def _list() -> Row:
    most = f"topk(200, {q.life(energy(ALL), *NAMED)})"
    return Row(
        "Jobs, pods and others in the time shown",
        [
            table(
                "Workloads, the 200 largest",
                f"A workload is a link. {q.LIFE} {q.OWNED} GPU idle: what part of its GPU energy it held and did not "
                "use.",
                [
                    f"{most} {q.KWH}",
                    f"topk(400, {q.life(grams(ALL), *NAMED)}) {q.KG}",
                    f"{q.rate(energy(ALL), *NAMED)} > 0",
                ],
                [
                    Column("kind", "Kind", width=90),
                    Column("workload", "Workload", links=(TO_ONE,)),
                    Column("owner", "Owner"),
                    Column("Value #A", "Energy", KWH, decimals=2, gauge=0.0),
                    Column("Value #B", "CO₂e", KG, 110, 2),
                    Column("Value #C", "Power now", "watt", 110),
                ],
                "Energy",
                height=12,
                none=q.SYNTHETIC,
            )
        ],
    )
