"""Health of the meter: do its sources answer, do its books balance, what does it cost."""

from __future__ import annotations

from scripts.dashboards import queries as q
from scripts.dashboards.boards import dashboard, datasource, go, instance, job
from scripts.dashboards.parts import (
    BAD,
    GOOD,
    WARN,
    WHERE,
    Column,
    Json,
    Panel,
    Row,
    Target,
    bars,
    graph,
    stat,
    states,
    steps,
    table,
)

BAD_IF_ANY = steps((None, GOOD), (1, BAD))
TO_SERVER = go("Open this server", "server", instance="instance")
DEVICES = f"sum by (job, instance, component) (wattgram_device_energy_joules_total{{{WHERE}}})"
OWNERS = f"sum by (job, instance, component) (wattgram_owner_energy_joules_total{{{WHERE}}})"
PRICES = f"sum by (job, instance) (wattgram_pricing_energy_joules_total{{{WHERE}}})"
UNMETERED = f"wattgram_device_unmetered_seconds_total{{{WHERE}}}"
EVENTS = f"wattgram_device_events_total{{{WHERE}}}"
SAMPLES = f"wattgram_source_samples_total{{{WHERE}}}"
FAILURES = f"wattgram_source_failures_total{{{WHERE}}}"
READING = f"wattgram_source_read_seconds_total{{{WHERE}}}"
UP = f"up{{{WHERE}}}"
STARTED = f"process_start_time_seconds{{{WHERE}}}"


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "health",
        "Health of the meter",
        "Sources, gaps, events, books that balance, and what the meter itself costs.",
        [datasource(), job(), instance()],
        [_verdict(), _sources(), _gaps(), _cost()],
    )


def _verdict() -> Row:
    return Row(
        "At a glance",
        [
            stat(
                "Meters up",
                "Scrapes that succeeded last, by targets: from Prometheus itself.",
                f"sum ({UP}) / count ({UP})",
                "percentunit",
                colors=steps((None, BAD), (0.9, WARN), (1, GOOD)),
                decimals=0,
                none="no target of this job",
            ),
            stat(
                "Sources that fail",
                "Sources whose last reading failed, and that were there once or asked for by name.",
                f"count (wattgram_source_up{{{WHERE}}}) - sum (wattgram_source_up{{{WHERE}}})",
                "none",
                colors=BAD_IF_ANY,
                none="no source answers yet",
            ),
            stat(
                "Error of books",
                "Devices less owners, and devices less prices, the largest difference on any server, now. They are "
                "equal "
                "to the microjoule; a thousandth of a joule is left to floating point.",
                f"round (max ({_difference()}), 0.001)",
                "joule",
                colors=steps((None, GOOD), (1, BAD)),
                decimals=0,
                none="nothing is metered",
            ),
            stat(
                "Not metered",
                "Device-seconds in the time shown in which a device should have been metered and was not.",
                q.gained(UNMETERED),
                "s",
                colors=steps((None, GOOD), (60, WARN), (3600, BAD)),
                decimals=0,
                none="nothing is metered",
            ),
            stat(
                "Restarts",
                "How often a daemon began anew in the time shown; each loses up to a scrape of energy to Prometheus.",
                f"sum (changes({STARTED}[$__range]))",
                "none",
                colors=steps((None, GOOD), (1, WARN), (10, BAD)),
                none="no target of this job",
            ),
            stat(
                "Bad configs",
                "Daemons whose configuration was bad when it was last read; the one before stays in force.",
                f"count (wattgram_config_last_reload_successful{{{WHERE}}})"
                f" - sum (wattgram_config_last_reload_successful{{{WHERE}}})",
                "none",
                colors=BAD_IF_ANY,
                none="no daemon answers",
            ),
        ],
    )


def _difference() -> str:
    """Devices less owners and less prices, in joules; an account that is missing altogether differs by all of it."""
    devices = f"sum by (job, instance) (wattgram_device_energy_joules_total{{{WHERE}}})"
    return f"abs({DEVICES} - {OWNERS}) or abs({devices} - {PRICES}) or {DEVICES} unless {OWNERS}"


def _sources() -> Row:
    return Row(
        "Sources",
        [
            states(
                "Sources, over time",
                "Whether the last reading of each source had succeeded. A hole: nobody scraped, or it was never there.",
                Target(f"max by (instance, source) (wattgram_source_up{{{WHERE}}})", "{{instance}} {{source}}"),
                {"1": ("answers", GOOD), "0": ("fails", BAD)},
                width=12,
                height=8,
                none="no source answers yet",
            ),
            graph(
                "Age of the newest sample",
                "Prometheus' clock less the moment of the last sample: about the interval of sampling, else it stands "
                "still. Wrong by what the clocks differ.",
                [
                    Target(
                        f"max by (source) (time() - wattgram_source_last_success_timestamp_seconds{{{WHERE}}})",
                        "{{source}}, the oldest",
                    )
                ],
                "s",
                height=8,
                none="no source answers yet",
            ),
            graph(
                "Time of one reading",
                "Seconds spent reading by samples: the mean of all servers, and the slowest.",
                [
                    Target(f"{q.rate(READING, 'source')} / {q.rate(SAMPLES, 'source')}", "{{source}}, mean"),
                    Target(
                        f"max by (source) ({q.rate(READING, 'job', 'instance', 'source')}"
                        f" / {q.rate(SAMPLES, 'job', 'instance', 'source')})",
                        "{{source}}, slowest server",
                    ),
                ],
                "s",
                height=8,
                none="no source answers yet",
            ),
            graph(
                "Readings per minute that gave nothing",
                "Failures, all servers together.",
                [Target(f"{q.rate(FAILURES, 'source')} * 60", "{{source}}")],
                "short",
                height=8,
                soft=1,
                none="no source answers yet",
                decimals=2,
            ),
        ],
    )


def _gaps() -> Row:
    by = ("job", "instance", "device")
    return Row(
        "Gaps, events, books",
        [
            table(
                "Devices with time that is missing",
                "The fifty with most seconds in the time shown that should have been metered and were not. The "
                "energy of "
                f"that time is in no figure. {q.INCREASED}",
                [f"topk(50, {q.gained(UNMETERED, *by)}) > 0"],
                [
                    Column("instance", "Server", links=(TO_SERVER,)),
                    Column("device", "Device"),
                    Column("Value", "Not metered", "s", 130, 0),
                ],
                "Not metered",
                width=10,
                height=8,
                none="everything was metered",
            ),
            bars(
                "Events",
                "Remarkable things that happened to meters in the time shown: wraps are harmless; a reset or a gap is "
                "explained; implausible, stuck and lost want somebody to look. increase() makes fractions of whole "
                "counts.",
                [Target(f"{q.gained(EVENTS, 'event')} > 0.5", "{{event}}", instant=True)],
                "none",
                width=6,
                height=8,
                decimals=0,
                none="nothing happened",
            ),
            graph(
                "Error of the books over time",
                "The largest of all servers: devices less owners, devices less prices.",
                [Target(f"round (max ({_difference()}), 0.001)", "largest")],
                "joule",
                width=8,
                height=8,
                soft=1,
                none="nothing is metered",
                legend="list",
                calcs=(),
            ),
        ],
    )


def _cost() -> Row:
    own = f"process_cpu_seconds_total{{{WHERE}}}"
    child = f"wattgram_child_cpu_seconds_total{{{WHERE}}}"
    memory = f"sum by (job, instance) (process_resident_memory_bytes{{{WHERE}}})"
    children = f"sum by (job, instance) (wattgram_child_resident_memory_bytes{{{WHERE}}})"
    return Row(
        "Its own cost",
        [
            graph(
                "Processor time",
                "Of one core: the daemon, and the processes that read for it. Mean and worst server.",
                [
                    Target(f"avg ({q.rate(own, 'job', 'instance')})", "daemon, mean"),
                    Target(f"max ({q.rate(own, 'job', 'instance')})", "daemon, worst"),
                    Target(f"max ({q.rate(child, 'job', 'instance')})", "its readers, worst"),
                ],
                "percentunit",
                width=8,
                height=8,
                decimals=2,
                none="no target of this job",
            ),
            graph(
                "Memory",
                "Resident memory of the daemon and of the processes that read for it; pages they share are counted "
                "twice.",
                [
                    Target(f"avg ({memory})", "daemon, mean"),
                    Target(f"max ({memory})", "daemon, worst"),
                    Target(f"max ({children})", "its readers, worst"),
                ],
                "bytes",
                width=8,
                height=8,
                none="no target of this job",
            ),
            graph(
                "Time of a scrape",
                "As Prometheus saw it, the slowest target.",
                [Target(f"max (scrape_duration_seconds{{{WHERE}}})", "slowest")],
                "s",
                width=8,
                height=8,
                none="no target of this job",
                legend="list",
                calcs=(),
            ),
            *_counts(),
        ],
    )


def _counts() -> list[Panel]:
    """What runs, and what found no place."""
    return [
        table(
            "Versions",
            "What runs, and on how many servers.",
            [f"count by (version, python) (wattgram_build_info{{{WHERE}}})"],
            [Column("version", "wattgram"), Column("python", "Python"), Column("Value", "Servers", "none")],
            "Servers",
            width=12,
            height=6,
            none="no target of this job",
        ),
        stat(
            "Workloads without a place of their own",
            "Booked to the pool other in the time shown, since attribution.max_named was reached.",
            q.gained(f"wattgram_workload_overflows_total{{{WHERE}}}"),
            "none",
            width=12,
            height=6,
            decimals=0,
            none="nothing is metered",
        ),
    ]
