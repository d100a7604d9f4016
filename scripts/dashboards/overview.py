"""Overview: the answer first, then by server, component and owner."""

from __future__ import annotations

from scripts.dashboards import queries as q
from scripts.dashboards.boards import dashboard, datasource, go, instance, job, quality
from scripts.dashboards.parts import (
    IDLE_IS_GREY,
    KG,
    KWH,
    PER_KWH,
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

PRICED = (
    "max by (grid_zone, provider, basis) (wattgram_pricing_info{" + WHERE + "}) * on (grid_zone, provider) "
    'group_left () (time() - max by (grid_zone, provider) (wattgram_grid_intensity_timestamp_seconds{signal="average",'
    + WHERE
    + "}))"
)
PHONE_KWH, FLIGHT_KG = 0.022, 1770
TO_SERVER = go("Open this server", "server", "quality", instance="instance")
TO_OWNER = go("Open the workloads of this owner", "workload", "instance", "quality", kind="kind", owner="owner")


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "overview",
        "Overview",
        "Watts now, energy and CO₂e today, the grid now; then by server, component and owner.",
        [datasource(), job(), instance(), quality()],
        [_answer(), _course(), _servers(), _owners(), _trust(), _weeks(), _otherwise()],
    )


def _answer() -> Row:
    return Row(
        "Now and today",
        [
            stat(
                "Power now",
                f"Mean power over the last four scrapes: the rate of the energy counters, summed. {q.METERED}",
                q.rate(q.ENERGY),
                "watt",
                width=6,
                none=q.SYNTHETIC,
                links=[go("Open the servers", "server", "instance", "quality")],
            ),
            stat(
                "Energy today",
                "Since midnight where you are; where the dashboard shows a fixed time, in that. "
                f"{q.INCREASED} {q.METERED}",
                f"{q.gained(q.ENERGY)} {q.KWH}",
                "kwatth",
                width=5,
                today=True,
                none=q.SYNTHETIC,
            ),
            stat(
                "CO₂e today",
                f"Since midnight where you are; where the dashboard shows a fixed time, in that. {q.GRAMS} "
                f"{q.INCREASED} The error is the energy's and the provider's; a yearly average hides daily swings of "
                "two to five times.",
                q.gained(q.EMISSIONS),
                "massg",
                width=5,
                today=True,
                none="unpriced: set carbon.zone",
            ),
            *_grid_now(),
        ],
    )


def _grid_now() -> list[Panel]:
    """What a joule costs, and how that is known."""
    return [
        stat(
            "Price now",
            "Grams of CO₂e per kWh that joules cost at this moment, mean over the servers of a zone, each of which "
            "asks for itself. The error is the provider's.",
            q.price_now(),
            PER_KWH,
            width=4,
            legend="{{grid_zone}}",
            decimals=0,
            none="unpriced",
            text="value_and_name",
            links=[go("Open the grid", "grid", "instance")],
        ),
        stat(
            "Age and basis",
            "How long ago the interval began that the price is for, and how it is known: live, estimated, "
            "forecast, "
            "held (its interval is over), annual (a yearly table) or constant. Exact, if the clocks agree.",
            PRICED,
            "s",
            width=4,
            legend="{{basis}}, {{provider}}",
            none="unpriced",
            text="value_and_name",
            decimals=1,
        ),
    ]


def _course() -> Row:
    return Row(
        "Power and emissions",
        [
            graph(
                "Power by component",
                f"Mean power of all GPUs, processors and memory: the rate of their energy counters. {q.COURSE} "
                f"{q.METERED}",
                [Target(q.rate(q.ENERGY, "component"), "{{component}}")],
                "watt",
                stacked=True,
                none=q.SYNTHETIC,
            ),
            graph(
                "CO₂e per hour by component",
                f"Grams per hour at the pace of each moment. {q.GRAMS} The error is the energy's and the provider's.",
                [Target(f"{q.rate(q.EMISSIONS, 'component')} * 3600", "{{component}}")],
                "massg",
                stacked=True,
                none="unpriced: set carbon.zone",
            ),
        ],
    )


def _servers() -> Row:
    power = q.rate(q.ENERGY, "job", "instance")
    return Row(
        "By server",
        [
            table(
                "Servers",
                "Power over the last four scrapes; energy, grams and their ratio over the time shown. A server is a "
                f"link. {q.INCREASED} {q.METERED}",
                [
                    power,
                    f"{q.gained(q.ENERGY, 'job', 'instance')} {q.KWH}",
                    f"{q.gained(q.EMISSIONS, 'job', 'instance')} {q.KG}",
                    f"{q.gained(owner_idle(), 'job', 'instance')} / {q.gained(q.owner(GPU), 'job', 'instance')}",
                ],
                [
                    Column("instance", "Server", links=(TO_SERVER,)),
                    Column("Value #A", "Power now", "watt", gauge=0.0, least=120),
                    Column("Value #B", "Energy", KWH, 100, 3),
                    Column("Value #C", "CO₂e", KG, 85, 3),
                    Column("Value #D", "GPU idle", "percentunit", 75, 0),
                ],
                "Power now",
                width=12,
                none=q.SYNTHETIC,
            ),
            graph(
                "Power of the ten largest servers",
                f"The ten that used most in the time shown: the rate of their energy counters. {q.METERED}",
                [Target(q.largest(power, q.SERVER, q.ENERGY), "{{instance}}")],
                "watt",
                calcs=("mean",),
                aside=True,
                none=q.SYNTHETIC,
            ),
        ],
    )


GPU = 'component="gpu"'


def owner_idle() -> str:
    """The idle part of the GPUs, whoever holds them."""
    return q.owner(GPU, 'activity="idle"')


def _owners() -> Row:
    shares = [
        q.rate(q.OWNER, "kind", "owner"),
        f"{q.gained(q.OWNER, 'kind', 'owner')} {q.KWH}",
        f"{q.gained(q.OWNER_GRAMS, 'kind', 'owner')} {q.KG}",
        f"{q.gained(owner_idle(), 'kind', 'owner')} / {q.gained(q.owner(GPU), 'kind', 'owner')}",
    ]
    says = (
        "Everything, by who used it. The kind pool is nobody in particular: idle (nobody held the device), system, "
        "unattributed (somebody's, not known whose), other (beyond the limit of named ones)."
    )
    return Row(
        "By owner",
        [
            table(
                "Owners",
                f"{says} {q.OWNED} {q.INCREASED}",
                shares,
                [
                    Column("kind", "Kind", width=65),
                    Column("owner", "Owner", links=(TO_OWNER,)),
                    Column("Value #A", "Power now", "watt", gauge=0.0, least=120),
                    Column("Value #B", "Energy", KWH, 100, 3),
                    Column("Value #C", "CO₂e", KG, 85, 3),
                    Column("Value #D", "GPU idle", "percentunit", 75, 0),
                ],
                "Energy",
                width=12,
                none=q.SYNTHETIC,
            ),
            graph(
                "Power of the ten largest owners",
                f"The ten that used most in the time shown, pools included. {says} {q.OWNED}",
                [Target(q.largest(q.rate(q.OWNER, "kind", "owner"), "kind, owner", q.OWNER), "{{kind}} {{owner}}")],
                "watt",
                calcs=("mean",),
                aside=True,
                stacked=True,
                overrides=IDLE_IS_GREY,
                none=q.SYNTHETIC,
            ),
        ],
    )


def _trust() -> Row:
    every = f"wattgram_device_energy_joules_total{{{WHERE}}}"
    priced = f'wattgram_pricing_energy_joules_total{{{WHERE},quality=~"$quality"}}'
    return Row(
        "How it is known",
        [
            bars(
                "Energy by quality, chosen or not",
                "How the joules of the time shown were obtained: measured by a meter, estimated by a model, synthetic "
                "for invented hardware. The figures above hold only what is chosen in Quality. " + q.INCREASED,
                [Target(f"{q.gained(every, 'quality')} {q.KWH}", "{{quality}}", instant=True)],
                "kwatth",
                width=8,
                height=5,
                above=True,
            ),
            bars(
                "Energy by how its price was known",
                "The joules of the time shown by the basis of their price; none is unpriced and stays so. "
                + q.INCREASED,
                [Target(f"{q.gained(priced, 'basis')} {q.KWH} > 0", "{{basis}}", instant=True)],
                "kwatth",
                width=8,
                height=5,
                above=True,
                none=q.SYNTHETIC,
            ),
            bars(
                "GPU energy: active and idle",
                "Idle is the power a device has when nobody uses it, times the time, whoever held it meanwhile. "
                + q.OWNED,
                [Target(f"{q.gained(q.owner(GPU), 'activity')} {q.KWH}", "{{activity}}", instant=True)],
                "kwatth",
                overrides=IDLE_IS_GREY,
                width=8,
                height=5,
                above=True,
                none=q.SYNTHETIC,
            ),
        ],
    )


def _weeks() -> Row:
    says = (
        "From the recording rules, once a minute, whatever Quality says without invented hardware: the sum of the mean "
        "power of each minute. Minutes in which Prometheus or the meter was not there are missing."
    )
    idle = q.OWNER_POWER.replace("{", '{activity="idle",')
    return Row(
        "Over weeks, from the recording rules",
        [
            table(
                "Owners, over weeks",
                f"{says} {q.OWNED}",
                [
                    f"{q.summed(q.OWNER_POWER, 'kind', 'owner')} {q.KWH}",
                    f"{q.summed(q.OWNER_PACE, 'kind', 'owner')} {q.KG}",
                    f"{q.summed(idle, 'kind', 'owner')} {q.KWH}",
                ],
                [
                    Column("kind", "Kind", width=65),
                    Column("owner", "Owner"),
                    Column("Value #A", "Energy", KWH, decimals=2, gauge=0.0, least=120),
                    Column("Value #B", "CO₂e", KG, 90, 2),
                    Column("Value #C", "Idle", KWH, 90, 2),
                ],
                "Energy",
                width=12,
                none=q.RECORDED,
            ),
            graph(
                "Power by component, over weeks",
                f"{says} {q.METERED}",
                [Target(f"sum by (component) ({q.POWER})", "{{component}}")],
                "watt",
                stacked=True,
                none=q.RECORDED,
            ),
            stat(
                "Energy, over weeks",
                f"{says} {q.METERED}",
                f"{q.summed(q.POWER)} {q.KWH}",
                "kwatth",
                width=12,
                none=q.RECORDED,
            ),
            stat("CO₂e, over weeks", f"{says} {q.GRAMS}", q.summed(q.PACE), "massg", width=12, none=q.RECORDED),
        ],
        collapsed=True,
    )


def _otherwise() -> Row:
    return Row(
        "Said otherwise (a comparison is no measure: open it if it helps you)",
        [
            stat(
                "As charges of a smartphone",
                f"The energy of the time shown by {PHONE_KWH} kWh for one full charge (US EPA, Greenhouse Gas "
                "Equivalencies Calculator, 2024). An energy for an energy: no grid is in it. Telephones differ.",
                f"{q.gained(q.ENERGY)} {q.KWH} / {PHONE_KWH}",
                "locale",
                width=12,
                decimals=0,
                none=q.SYNTHETIC,
            ),
            stat(
                "As return flights Paris–New York, per passenger",  # noqa: RUF001 - two towns
                f"The CO₂e of the time shown by {FLIGHT_KG} kg for one passenger there and back "
                "(ADEME, Impact CO2, 2024). Grams for grams; flights differ.",
                f"{q.gained(q.EMISSIONS)} / 1000 / {FLIGHT_KG}",
                "locale",
                width=12,
                decimals=3,
                none="unpriced: set carbon.zone",
            ),
        ],
        collapsed=True,
    )
