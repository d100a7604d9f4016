"""Server: each GPU against its limit, throttled, checked; processors and memory; idle against active."""

from __future__ import annotations

from scripts.dashboards import queries as q
from scripts.dashboards.boards import asked, dashboard, datasource, instance, job, quality
from scripts.dashboards.parts import (
    BAD,
    GOOD,
    IDLE_IS_GREY,
    KG,
    KWH,
    WARN,
    WHAT,
    WHERE,
    Column,
    Json,
    Panel,
    Row,
    Target,
    bars,
    by_pattern,
    graph,
    stat,
    steps,
    table,
)

CHOSEN = f'{WHAT},device=~"$device"'
SEEN = f'{WHERE},device=~"$device"'
ENERGY = f"wattgram_device_energy_joules_total{{{CHOSEN}}}"
EMISSIONS = f"wattgram_device_emissions_grams_total{{{CHOSEN}}}"
UNMETERED = f"wattgram_device_unmetered_seconds_total{{{SEEN}}}"
# A GPU is called by its number; there is one identity for each device of a server.
NUMBER = f'* on (job, instance, device) group_left (index) wattgram_device_info{{component="gpu",{SEEN}}}'
GPU = f'wattgram_device_energy_joules_total{{component="gpu",{CHOSEN}}}'
LIMIT = f"wattgram_gpu_power_limit_watts{{{SEEN}}}"
THROTTLED = f"wattgram_gpu_throttled_seconds_total{{{SEEN}}}"
EACH = "GPU {{index}} {{instance}}"


def build() -> Json:
    """Return the dashboard."""
    device = asked("device", "Device", f"label_values(wattgram_device_info{{{WHERE}}}, device)")
    return dashboard(
        "server",
        "Server",
        "One server or a few: each GPU, the processors, the memory, and how well each is metered.",
        [datasource(), job(), instance(every=False), device, quality()],
        [_answer(), _gpus(), _host(), _metering()],
    )


def _answer() -> Row:
    idle = q.owner('activity="idle"')
    return Row(
        "$instance",
        [
            stat(
                "Power now",
                f"Mean power over the last four scrapes of the devices chosen. {q.METERED}",
                q.rate(ENERGY),
                "watt",
                width=5,
                none=q.SYNTHETIC,
            ),
            stat(
                "Energy",
                f"In the time shown. {q.INCREASED} {q.METERED}",
                f"{q.gained(ENERGY)} {q.KWH}",
                "kwatth",
                width=5,
                none=q.SYNTHETIC,
            ),
            stat(
                "CO₂e",
                f"In the time shown. {q.GRAMS} {q.INCREASED}",
                q.gained(EMISSIONS),
                "massg",
                width=5,
                none="unpriced: set carbon.zone",
            ),
            stat(
                "Idle part",
                f"Of the whole server, GPUs, processors and memory, in the time shown. {q.OWNED}",
                f"{q.gained(idle)} / {q.gained(q.OWNER)}",
                "percentunit",
                width=4,
                decimals=0,
                none="no idle power known yet",
            ),
            stat(
                "Not metered",
                "Device-seconds in the time shown in which a device should have been metered and was not: its energy "
                "of "
                "that time is in no figure. Exact to about one reading.",
                q.gained(UNMETERED),
                "s",
                width=5,
                colors=steps((None, GOOD), (1, WARN), (600, BAD)),
                decimals=0,
            ),
        ],
    )


def _gpus() -> Row:
    by = ("job", "instance", "device")
    return Row(
        "GPUs",
        [
            graph(
                "Power of each GPU against its limit",
                "Mean power, the rate of its energy counter; dashed, the limit in force, the least of all limiters, as "
                f"the driver says. {q.METERED}",
                [
                    Target(f"{q.rate(GPU, *by)} {NUMBER}", EACH),
                    Target(f"max by (instance) ({LIMIT})", "limit {{instance}}"),
                ],
                "watt",
                calcs=("mean", "max"),
                aside=True,
                none="no GPU, or invented hardware: choose quality synthetic",
                overrides=[
                    by_pattern(
                        "^limit ",
                        custom__lineStyle={"dash": [8, 6], "fill": "dash"},
                        custom__fillOpacity=0,
                        color={"mode": "fixed", "fixedColor": "red"},
                    )
                ],
            ),
            *_gpu_bars(),
            *_gpu_courses(),
        ],
    )


def _gpu_bars() -> list[Panel]:
    """How near to the limit, and how long below the clocks asked for."""
    by = ("job", "instance", "device")
    return [
        bars(
            "Power by its limit, now",
            "Mean power of the last four scrapes by the limit in force. At 100 % the limit decides how fast it "
            "works. " + q.METERED,
            [
                Target(
                    f"{q.rate(GPU, *by)} / on (job, instance, device) group_left () {LIMIT} {NUMBER}",
                    EACH,
                    instant=True,
                )
            ],
            "percentunit",
            width=6,
            height=9,
            high=1,
            decimals=0,
            colors=steps((None, GOOD), (0.9, WARN), (0.98, BAD)),
            none="no GPU, or no limit known",
        ),
        bars(
            "Throttled, by reason",
            "Part of the time shown in which a GPU ran below the clocks asked for, the worst GPU of each reason. "
            "Reasons overlap: their sum means nothing. As the driver counts it.",
            [Target(f"max by (reason) (increase({THROTTLED}[$__range]) / $__range_s)", "{{reason}}", instant=True)],
            "percentunit",
            width=6,
            height=9,
            high=1,
            decimals=1,
            above=True,
            colors=steps((None, GOOD), (0.05, WARN), (0.5, BAD)),
            none="the driver counts none",
        ),
    ]


def _gpu_courses() -> list[Panel]:
    """How busy, how hot, how long throttled."""
    by = ("job", "instance", "device")
    return [
        graph(
            "Utilisation",
            "Part of the driver's sampling period with a kernel running: neither occupancy nor work. As the driver "
            "says; its error is not stated.",
            [Target(f"wattgram_gpu_utilization_ratio{{{SEEN}}} {NUMBER}", EACH)],
            "percentunit",
            width=8,
            height=7,
            high=1,
            legend="list",
            calcs=(),
        ),
        graph(
            "Temperature",
            "Of the core, as the driver says: whole degrees.",
            [Target(f"wattgram_gpu_temperature_celsius{{{SEEN}}} {NUMBER}", EACH)],
            "celsius",
            width=8,
            height=7,
            low=None,
            legend="list",
            calcs=(),
        ),
        graph(
            "Throttled time by reason",
            "Share of each moment below the clocks asked for, per GPU and reason. Reasons overlap: do not add them.",
            [Target(f"{q.rate(THROTTLED, *by, 'reason')} {NUMBER} > 0", EACH + " {{reason}}")],
            "percentunit",
            width=8,
            height=7,
            legend="list",
            calcs=(),
            none="nothing was throttled",
        ),
    ]


def _host() -> Row:
    rest = f'wattgram_device_energy_joules_total{{component!="gpu",{CHOSEN}}}'
    return Row(
        "Processors, memory, and who keeps it all busy",
        [
            graph(
                "Power of processors and memory",
                "Mean power of each package, memory or module, the rate of its energy counter (RAPL, hwmon, or a model "
                "where quality is estimated). The error of RAPL is not established; a model's is half the value.",
                [Target(q.rate(rest, "job", "instance", "device"), "{{device}} {{instance}}")],
                "watt",
                calcs=("mean",),
                aside=True,
                stacked=True,
                none="no meter for processors or memory",
            ),
            graph(
                "Idle against active",
                "Everything of this server, by component: idle is the power a device has when nobody uses it. "
                f"{q.OWNED}",
                [Target(q.rate(q.OWNER, "component", "activity"), "{{component}} {{activity}}")],
                "watt",
                calcs=("mean",),
                aside=True,
                stacked=True,
                overrides=IDLE_IS_GREY,
                none=q.SYNTHETIC,
            ),
        ],
    )


def _metering() -> Row:
    return Row(
        "Each device, and how well it is metered",
        [
            _devices(),
            graph(
                "Counter by power",
                "What the energy counter showed by what its power added up to, over the last 5 minutes: about 1, or "
                "one "
                "of the two is wrong.",
                [Target(f"wattgram_device_crosscheck_ratio{{{SEEN}}}", "{{device}} {{instance}}")],
                "none",
                width=12,
                height=7,
                low=None,
                decimals=3,
                lines=steps((None, BAD), (0.9, GOOD), (1.1, BAD)),
                none="no device has both counter and power",
            ),
            graph(
                "Not metered",
                "Part of each moment in which a device should have been metered and was not.",
                [Target(f"{q.rate(UNMETERED, 'job', 'instance', 'device')} > 0", "{{instance}} {{device}}")],
                "percentunit",
                width=12,
                height=7,
                high=1,
                none="everything was metered",
            ),
        ],
    )


def _devices() -> Panel:
    by = ("job", "instance", "component", "device")
    facts = (
        f"max by (job, instance, component, device, index, model) (wattgram_device_info{{{SEEN}}})",
        f"max by (job, instance, component, device, method) (wattgram_device_meter_info{{{SEEN}}})",
    )
    gauges = ("idle_power_watts", "crosscheck_ratio", "uncertainty_ratio")
    return table(
        "Devices",
        "Identity, energy and grams of the time shown, the idle power that is set or learnt, counter by integrated "
        "power, the stated 95 % half-width of its energy (absent where nobody has established one), and seconds not "
        f"metered. {q.INCREASED}",
        [
            *facts,
            f"{q.gained(ENERGY, *by)} {q.KWH}",
            f"{q.gained(EMISSIONS, *by)} {q.KG}",
            *(f"max by ({', '.join(by)}) (wattgram_device_{name}{{{SEEN}}})" for name in gauges),
            q.gained(UNMETERED, *by),
        ],
        [
            Column("instance", "Server", width=140),
            Column("component", "Component", width=95),
            Column("index", "No.", width=55),
            Column("device", "Device"),
            Column("model", "Model"),
            Column("method", "Method", width=80),
            Column("Value #C", "Energy", KWH, 100, 2),
            Column("Value #D", "CO₂e", KG, 90, 3),
            Column("Value #E", "Idle power", "watt", 90, 0),
            Column("Value #F", "Cross-check", "none", 100, 3),
            Column("Value #G", "± stated", "percentunit", 80, 0),
            Column("Value #H", "Not metered", "s", 105, 0),
        ],
        "Device",
        height=14,
        descending=False,
        none=q.SYNTHETIC,
    )
