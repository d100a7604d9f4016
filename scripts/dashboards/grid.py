"""Grid: what a joule costs in carbon, how that is known, what is foreseen, and who says so."""

from __future__ import annotations

from scripts.dashboards import queries as q
from scripts.dashboards.boards import asked, dashboard, datasource, instance, job, quality
from scripts.dashboards.overview import PRICED
from scripts.dashboards.parts import (
    PER_KWH,
    WHAT,
    WHERE,
    Column,
    Json,
    Row,
    Target,
    bars,
    by_pattern,
    columns,
    graph,
    stat,
    table,
)

ZONE = f'{WHERE},grid_zone=~"$grid_zone"'
KNOWN = f"wattgram_grid_intensity_grams_per_kwh{{{ZONE}}}"
AHEAD = f'wattgram_grid_forecast_grams_per_kwh{{{ZONE},signal="average"}}'
JOULES = f"wattgram_pricing_energy_joules_total{{{WHAT}}}"
UNPRICED_JOULES = f'wattgram_pricing_energy_joules_total{{basis="none",{WHAT}}}'
PRICED_JOULES = f'wattgram_pricing_energy_joules_total{{basis!="none",{WHAT}}}'
PRICED_GRAMS = f'wattgram_pricing_emissions_grams_total{{basis!="none",{WHAT}}}'
REQUESTS = f"wattgram_provider_requests_total{{{WHERE}}}"
FAILURES = f"wattgram_provider_failures_total{{{WHERE}}}"
NOW = f"scalar(avg (wattgram_pricing_intensity_grams_per_kwh{{{ZONE}}}))"
NO_FORECAST = "no provider with a forecast is asked"


def build() -> Json:
    """Return the dashboard."""
    zone = asked("grid_zone", "Zone", f"label_values(wattgram_grid_intensity_grams_per_kwh{{{WHERE}}}, grid_zone)")
    return dashboard(
        "grid",
        "Grid",
        "The intensity that prices joules, how it is known, what is foreseen, and how the providers answer.",
        [datasource(), job(), instance(), zone, quality()],
        [_answer(), _course(), _ahead(), _providers(), _configured()],
        since="now-24h",
    )


def _answer() -> Row:
    return Row(
        "Now",
        [
            stat(
                "Price now",
                "Grams of CO₂e per kWh, mean over the servers of a zone. The error is the provider's.",
                q.price_now(ZONE),
                PER_KWH,
                width=6,
                legend="{{grid_zone}}",
                decimals=0,
                none="unpriced",
                text="value_and_name",
            ),
            stat(
                "Age and basis",
                "How long ago the interval began that the price is for, and how it is known. Exact, if the clocks "
                "agree.",
                PRICED,
                "s",
                width=6,
                legend="{{basis}}, {{provider}}",
                none="unpriced",
                text="value_and_name",
                decimals=0,
            ),
            stat(
                "Price really paid",
                "Grams by kilowatt-hours of the priced joules in the time shown: weighted by use, so a job that runs "
                "at "
                "night lowers it. The error is the provider's.",
                f"3.6e6 * {q.gained(PRICED_GRAMS)} / ({q.gained(PRICED_JOULES)} > 0)",
                PER_KWH,
                width=6,
                decimals=0,
                none=q.SYNTHETIC,
            ),
            stat(
                "Unpriced energy",
                "Joules of the time shown for which no price was known; they stay unpriced and are in no gram.",
                f"{q.gained(UNPRICED_JOULES)} {q.KWH}",
                "kwatth",
                width=6,
                decimals=2,
                none="none",
            ),
        ],
    )


def _course() -> Row:
    return Row(
        "Its course",
        [
            graph(
                "Intensity by provider and basis",
                "What each provider says of the grid, mean over the servers that asked; bold, the price in force. "
                "Average "
                "signals price; a marginal one is only shown. The error is the provider's: none states one.",
                [
                    Target(
                        f"avg by (grid_zone, provider, basis, signal, factor) ({KNOWN})",
                        "{{grid_zone}} {{provider}} {{basis}} {{signal}} {{factor}}",
                    ),
                    Target(q.price_now(ZONE), "{{grid_zone}} price in force"),
                ],
                PER_KWH,
                none="no zone is configured",
                step=True,
                overrides=[by_pattern(".*price in force$", custom__lineWidth=3, custom__fillOpacity=0)],
            ),
            graph(
                "Power by how its price was known",
                "Power by the basis of its price. held: the last value, after its interval was over; annual: a yearly "
                "average, which hides daily swings; none: unpriced.",
                [Target(f"{q.rate(JOULES, 'basis')} > 0", "{{basis}}")],
                "watt",
                stacked=True,
                none=q.SYNTHETIC,
            ),
        ],
    )


def _ahead() -> Row:
    return Row(
        "The next hours",
        [
            columns(
                "Forecast",
                "What the provider foresees for so many whole hours from now, mean over the servers that asked. Its "
                "error "
                "is the provider's and grows with the hours.",
                Target(f"avg by (hours_ahead) ({AHEAD})", instant=True, table=True),
                "hours_ahead",
                PER_KWH,
                width=16,
                height=9,
                none=NO_FORECAST,
            ),
            table(
                "The five best hours",
                "The cleanest hours foreseen, and what a joule would cost then by what it costs now: below 0 % it "
                "pays to "
                "wait. As good as the forecast.",
                [
                    f"bottomk(5, avg by (hours_ahead) ({AHEAD}))",
                    f"avg by (hours_ahead) ({AHEAD}) / {NOW} - 1 and bottomk(5, avg by (hours_ahead) ({AHEAD}))",
                ],
                [
                    Column("hours_ahead", "In hours"),
                    Column("Value #A", "Intensity", PER_KWH, decimals=0),
                    Column("Value #B", "By now", "percentunit", decimals=0),
                ],
                "Intensity",
                width=8,
                height=9,
                none=NO_FORECAST,
                descending=False,
            ),
        ],
    )


def _providers() -> Row:
    return Row(
        "Providers",
        [
            graph(
                "Questions in the hour before",
                "How often providers were asked over the network, all servers together: what a quota counts.",
                [Target(f"sum by (provider) (increase({REQUESTS}[1h]))", "{{provider}}")],
                "short",
                width=8,
                none="no provider is asked",
                decimals=1,
            ),
            graph(
                "Failures in the hour before, by reason",
                "Turns that brought no value. One now and then is bridged by the value before, which is then held.",
                [Target(f"sum by (provider, reason) (increase({FAILURES}[1h])) > 0", "{{provider}} {{reason}}")],
                "short",
                width=8,
                none="none failed",
                decimals=1,
            ),
            bars(
                "Energy by basis and factor",
                "In the time shown. lifecycle counts building and fuel, direct only what burns: do not compare grams "
                "of "
                "the two. " + q.INCREASED,
                [Target(f"{q.gained(JOULES, 'basis', 'factor')} {q.KWH} > 0", "{{basis}} {{factor}}", instant=True)],
                "kwatth",
                above=True,
                width=8,
                height=9,
                none=q.SYNTHETIC,
            ),
        ],
    )


def _configured() -> Row:
    return Row(
        "As configured: nothing above is multiplied by these",
        [
            stat(
                "PUE",
                "Power usage effectiveness of the site, as configured.",
                f"avg (wattgram_pue_ratio{{{WHERE}}})",
                "none",
                width=8,
                decimals=2,
                none="not configured",
            ),
            stat(
                "Market-based intensity",
                "What your contract says, as configured.",
                f"avg (wattgram_market_intensity_grams_per_kwh{{{WHERE}}})",
                PER_KWH,
                width=8,
                decimals=0,
                none="not configured",
            ),
            stat(
                "Cost of the energy",
                "Energy of the time shown times the price of electricity as configured on each server, by currency. "
                + q.INCREASED,
                f"sum by (currency) (sum by (job, instance) (increase({q.ENERGY}[$__range])) {q.KWH}"
                " * on (job, instance) group_right () max by (job, instance, currency)"
                f" (wattgram_electricity_price_per_kwh{{{WHERE}}}))",
                "none",
                width=8,
                decimals=2,
                legend="{{currency}}",
                text="value_and_name",
                none="no price is configured",
            ),
        ],
        collapsed=True,
    )
