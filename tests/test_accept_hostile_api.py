"""The real daemon against a grid API in every mood: joules go on, the price says what it is, the token stays at home.

One daemon per mood, several at a time, each with an API of its own; what was seen is judged in the test that asks for
it. How long a refused daemon keeps quiet is part of the promise, so the whole file takes about as long as the shortest
of those silences.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast, final

import pytest

from standin.daemon import Daemon, Metrics
from standin.grid import TOKEN, GridApi, Recorder
from standin.nvml import Constant
from standin.stage import attempt
from standin.sysfs import RaplTree, Zone
from standin.web import Handler, Request, Server

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

pytestmark = pytest.mark.busy

MICRO = 1e-6
WATTS = 150.0
ENERGY = "wattgram_device_energy_joules_total"
PRICED = "wattgram_pricing_energy_joules_total"
PRICE = "wattgram_pricing_intensity_grams_per_kwh"
INFO = "wattgram_pricing_info"
REQUESTS = "wattgram_provider_requests_total"
FAILURES = "wattgram_provider_failures_total"
PAGES = ("/", "/metrics", "/api/v1/status", "/api/v1/intensity", "/-/ready", "/nowhere")
FRANCE_2024 = 44.18
GOOD = 75.0

# What each mood is, in the provider's closed words; "" is an answer, and "empty" is no failure.
MOODS = {
    "dead": "server",
    "hang": "timeout",
    "hang_after_headers": "timeout",
    "drip": "timeout",
    "drip_headers": "timeout",
    "status:500": "server",
    "html500": "server",
    "truncated": "server",
    "status:401": "auth",
    "status:403": "auth",
    "plan401": "plan",
    "wrong_zone": "zone",
    "retry429:2": "rate",
    "retry429date:2": "rate",
    "html": "shape",
    "oversize": "shape",
    "redirect": "shape",
    "nan": "shape",
    "negative": "shape",
    "boolean": "shape",
    "garbage_string": "shape",
    "huge": "shape",
    "not_json": "shape",
    "array": "shape",
    "missing_field": "shape",
    "null": "empty",
    "empty": "empty",
    "string": "",
}
# For how long nothing more is asked after one failure: at least this, and a tenth more.
QUIET = {"server": 30.0, "timeout": 30.0, "rate": 60.0, "shape": 60.0, "auth": 900.0, "plan": 3600.0, "zone": 3600.0}
# Moods that stand for their reasons.
FOR_EACH_REASON = ("dead", "drip", "status:401", "plan401", "wrong_zone", "retry429:2", "html", "nan", "empty")


# --- servers worse than the stand-in's moods ------------------------------------------------------


@final
class Echo(Server):
    """Tells everybody what it was told: the caller's own credential stands in its answer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def _answer(self, handler: Handler, request: Request) -> None:
        token = request.headers.get("auth-token", "")
        if self.way == "refusal":
            handler.reply_json(401, {"error": "Invalid auth-token", "message": f"The token {token} is invalid."})
        elif self.way == "server error":
            handler.reply(500, f"upstream: auth-token={token} timed out".encode(), "text/plain")
        elif self.way == "not JSON":
            handler.reply(200, f"<pre>auth-token: {token}</pre>".encode(), "text/html")
        else:
            body = {"zone": token, "carbonIntensity": 1, "datetime": "2025-01-01T00:00:00Z"}
            handler.reply_json(200, body)


@final
class Flood(Server):
    """Sends more than anybody can want: a small body that unpacks to a large one, or headers that never begin."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.bomb = gzip.compress(bytes(UNPACKED_BYTES), 1) if way == "gzip" else b""

    def _answer(self, handler: Handler, request: Request) -> None:
        if self.way == "gzip":
            handler.reply(200, self.bomb, Content_Encoding="gzip")
            return
        with suppress(OSError):
            while not handler.left_within(0.001):
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        handler.close_connection = True


UNPACKED_BYTES = 1 << 27
ECHOES = ("refusal", "server error", "not JSON", "zone")
FLOODS = {"gzip": "shape", "preliminaries": "timeout"}


# --- one daemon and its API -----------------------------------------------------------------------


@dataclass
class Ward:
    """A daemon, its API, and where the API would send it."""

    directory: Path
    api: GridApi
    elsewhere: Recorder
    daemon: Daemon

    def fall_ill(self, mood: str) -> None:
        """Let the API be in this mood from now on."""
        if mood == "dead":
            self.api.stop()
        else:
            self.api.mode = f"redirect:{self.elsewhere.url}/v4/" if mood == "redirect" else mood

    def recover(self, mood: str) -> None:
        """Let the API answer well from now on."""
        self.api.mode = "ok"
        if mood == "dead":
            self.api.start()

    def energy_goes_on(self, joules: float) -> Metrics:
        """Return the scrape in which so much more is counted."""
        before = self.daemon.metrics().sum(ENERGY)
        return self.daemon.until(lambda m: m.sum(ENERGY) > before + joules)

    def said(self, level: str = "") -> list[str]:
        """Log lines about the provider."""
        return [x for x in self.daemon.log.splitlines() if "electricitymaps" in x and f"level={level}" in x]


def configuration(tree: RaplTree, directory: Path, base_url: str) -> str:
    """RAPL by a stand-in, the API on loopback, asked every 300 ms if it is well."""
    (directory / "token").write_text(TOKEN)
    return (
        '[sampling]\ninterval = "500ms"\n[sources.nvml]\nenabled = false\n'
        f'[sources.rapl]\nenabled = true\npath = "{tree.sys}"\nproc = "{tree.proc}"\n'
        '[carbon]\nzone = "FR"\nproviders = ["electricitymaps", "annual"]\n'
        f'cache_file = "{directory}/kept.json"\n[carbon.electricitymaps]\nbase_url = "{base_url}"\n'
        f'token_file = "{directory}/token"\nevery = "300ms"\ntimeout = "3s"\n'
    )


def failures(metrics: Metrics) -> dict[str, float]:
    """Failures of the provider by reason, those that there were."""
    found = metrics.samples(FAILURES, provider="electricitymaps")
    assert {"auth", "plan", "zone", "rate", "quota", "server", "shape", "timeout"} == {
        s.labels["reason"] for s in found
    }
    return {s.labels["reason"]: s.value for s in found if s.value}


def asked(metrics: Metrics) -> float:
    """How often the provider was asked."""
    return metrics.value(REQUESTS, provider="electricitymaps")


def balances(metrics: Metrics) -> bool:
    """Whether pricing and owner are the devices' joules, to the microjoule."""
    views = (ENERGY, PRICED, "wattgram_owner_energy_joules_total")
    return len({sum(round(s.value / MICRO) for s in metrics.samples(view)) for view in views}) == 1


def leaks(ward: Ward) -> list[str]:
    """Where the token is to be seen, of all that a reader can see."""
    places = {path: ward.daemon.get(path).body for path in PAGES}
    places |= {"log": ward.daemon.log.encode(), "output": ward.daemon.output.encode()}
    kept = ward.directory / "kept.json"
    places["cache"] = kept.read_bytes() if kept.exists() else b""
    return [place for place, text in places.items() if TOKEN.encode() in text]


def judge_ill(ward: Ward, reason: str, price: float, basis: str, heard: int) -> Metrics:
    """What is true while the API misbehaves, whatever was known before; `heard`: log lines before it began."""
    daemon = ward.daemon
    if reason == "empty":
        before = asked(daemon.metrics())
        daemon.until(lambda m: asked(m) >= before + 4)
    else:
        daemon.until(lambda m: failures(m) == {reason: 1})
    metrics = ward.energy_goes_on(2 * WATTS)
    quiet = failures(metrics)
    later = ward.energy_goes_on(2 * WATTS)

    for scrape in (metrics, later):
        assert price == scrape.value(PRICE, grid_zone="FR")
        assert 1.0 == scrape.value(INFO, basis=basis, factor="lifecycle", grid_zone="FR")
        assert balances(scrape)
        assert 0.0 == scrape.sum(PRICED, basis="none")
        assert scrape.sum(PRICED, basis=basis) > 0
    assert later.sum(PRICED, basis=basis) > metrics.sum(PRICED, basis=basis)
    # A refused daemon asks no more for a while, and says its trouble once.
    assert ({} if reason == "empty" else {reason: 1.0}) == quiet == failures(later)
    assert reason == "empty" or asked(metrics) == asked(later)
    warnings = ward.said("warning")[heard:]
    # An empty answer is said only when several came in a row.
    assert len(warnings) in ((0, 1) if reason == "empty" else (1,)), warnings
    assert 0 == daemon.log.count("Traceback")
    return later


def nothing_known(ward: Ward, mood: str, reason: str, longest: float) -> str:
    """The API misbehaves from the start: the yearly table prices; when it behaves again, it does."""
    daemon = ward.daemon
    metrics = judge_ill(ward, reason, FRANCE_2024, "annual", 0)
    assert 1.0 == metrics.value(INFO, provider="annual", basis="annual", edition="2024")
    assert metrics.sum(PRICED, basis="annual") == metrics.sum(PRICED)
    assert [] == leaks(ward)
    assert [] == ward.elsewhere.requests
    assert reason == "empty" or asked(metrics) == 1.0 == len(ward.api.requests) + (mood == "dead")
    assert {TOKEN} >= {r.headers["auth-token"] for r in ward.api.requests}
    failed_at = time.monotonic()
    if QUIET.get(reason, 0.0) > longest:
        return "quiet"

    ward.recover(mood)
    again = daemon.until(lambda m: m.sum(PRICED, basis="live") > 0, QUIET.get(reason, 0.0) * 1.1 + 30)
    assert GOOD == again.value(PRICE, grid_zone="FR")
    assert 1.0 == again.value(INFO, provider="electricitymaps", basis="live")
    assert balances(again)
    assert ({} if reason == "empty" else {reason: 1.0}) == failures(again)
    assert again.sum(PRICED, basis="annual") >= metrics.sum(PRICED, basis="annual")  # nothing is re-priced
    daemon.wait_for_log("electricitymaps prices with")  # said after the value has begun to price
    assert 1 == len([line for line in ward.said() if "electricitymaps prices with" in line])
    if reason != "empty" and mood != "dead":
        assert ward.api.requests[1].at - ward.api.requests[0].at >= QUIET[reason]
    took = time.monotonic() - failed_at

    ward.fall_ill(mood)
    if reason == "empty":
        last = ward.energy_goes_on(2 * WATTS)
    else:
        daemon.until(lambda m: failures(m) == {reason: 2})
        last = ward.energy_goes_on(2 * WATTS)
        assert 2 == len(ward.said("warning"))
    assert 1.0 == last.value(INFO, provider="electricitymaps", basis="live")
    assert balances(last)
    assert [] == leaks(ward)
    return f"back after {took:.0f} s"


def something_known(ward: Ward, mood: str, reason: str, longest: float) -> str:
    """A value was had, of an hour that is over by now: it is held, whatever the API says after it."""
    known = ward.daemon.until(lambda m: m.sum(PRICED, basis="held") > 0)
    ward.daemon.wait_for_log("no history")
    ward.daemon.wait_for_log("no forecast")
    assert GOOD == known.value(PRICE, grid_zone="FR")
    heard = len(ward.said("warning"))

    ward.fall_ill(mood)
    metrics = judge_ill(ward, reason, GOOD, "held", heard)
    assert 1.0 == metrics.value(INFO, provider="electricitymaps", basis="held")
    assert [] == leaks(ward)
    assert [] == ward.elsewhere.requests
    if QUIET.get(reason, longest) >= longest:
        return "held"
    # The same trouble again is no news, and is given more time.
    ward.daemon.until(lambda m: failures(m) == {reason: 2}, QUIET[reason] * 1.1 + 30)
    assert heard + 1 == len(ward.said("warning"))
    again = ward.energy_goes_on(2 * WATTS)
    assert {reason: 2.0} == failures(again)
    assert 1.0 == again.value(INFO, provider="electricitymaps", basis="held")
    assert balances(again)
    return "held, refused twice, said once"


def a_number_in_a_string(ward: Ward, mood: str, reason: str, longest: float) -> str:
    """It is a number, and prices."""
    del mood, reason, longest
    metrics = ward.daemon.until(lambda m: m.sum(PRICED, basis="live") > 0)
    assert GOOD == metrics.value(PRICE, grid_zone="FR")
    assert {} == failures(metrics)
    assert balances(metrics)
    return "live"


def live(tree: RaplTree, directory: Path, mood: str, known: str, longest: float) -> str:
    """One daemon's life in one mood."""
    begun = time.time()
    with ExitStack() as stack:
        # An hour that has just begun; or one that is over for a good while and will be held for a good while.
        hour = begun - 3700 if known == "known" else begun
        api = GridApi(GOOD, lambda: hour)
        api.step, api.drip_every = 1.0, 0.2  # a byte in every read's time, but no answer in the request's
        api.misbehave("history", "empty")
        api.misbehave("forecast", "empty")
        stack.enter_context(api)
        elsewhere = stack.enter_context(Recorder(json.dumps({"zone": "FR", "carbonIntensity": 1}).encode()))
        daemon = Daemon(directory, configuration(tree, directory, api.url))
        ward = Ward(directory, api, elsewhere, daemon)
        if known != "known":
            ward.fall_ill(mood)
        stack.enter_context(daemon)
        story = something_known if known == "known" else nothing_known if MOODS[mood] else a_number_in_a_string
        return story(ward, mood, MOODS[mood], longest)


def told_back(tree: RaplTree, directory: Path, way: str, _: str, longest: float) -> str:
    """One daemon's life with an API that tells the token to whoever reads its answer."""
    del longest
    with ExitStack() as stack:
        echo = stack.enter_context(Echo(way))
        daemon = stack.enter_context(Daemon(directory, configuration(tree, directory, echo.url)))
        daemon.until(lambda m: sum(failures(m).values()) > 0)
        assert TOKEN == echo.requests[0].headers["auth-token"]
        assert [] == leaks(Ward(directory, GridApi(), Recorder(), daemon))
    return "kept"


def flooded(tree: RaplTree, directory: Path, way: str, _: str, longest: float) -> str:
    """One daemon's life with an API that sends too much: neither its time nor its memory is at a stranger's mercy."""
    del longest
    with ExitStack() as stack:
        flood = stack.enter_context(Flood(way))
        daemon = stack.enter_context(Daemon(directory, configuration(tree, directory, flood.url)))
        metrics = daemon.until(lambda m: sum(failures(m).values()) > 0)
        assert {FLOODS[way]: 1.0} == failures(metrics)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
        assert peak is not None
        assert int(peak[1]) * 1024 < UNPACKED_BYTES
        assert FRANCE_2024 == metrics.value(PRICE)
    return f"at most {int(peak[1]) >> 10} MiB"


# --- all of them, several at a time ---------------------------------------------------------------

Life = Callable[[RaplTree, Path, str, str, float], str]
Name = tuple[str, str]


class Wards:
    """Begins all that the selected tests will ask for as soon as the first one asks."""

    def __init__(self, stack: ExitStack, directory: Path, names: list[Name]) -> None:
        zone = Zone("intel-rapl:0", "package-0", Constant(WATTS))
        self._tree = stack.enter_context(RaplTree(directory / "tree", [zone]))
        self._tree.start_writer(0.05)
        self._pool = stack.enter_context(ThreadPoolExecutor(6 * (os.cpu_count() or 2)))
        self._directory = directory
        # The longest first: they wait most of the time.
        self._names = sorted(names, key=lambda name: (MOODS.get(name[1]) not in ("server", "timeout"), name))
        self._futures: dict[Name, Future[str]] = {}

    def outcome(self, name: Name, longest: float, attempt: int = 1) -> str:
        """How one of them went; raise what it raised. A test that is repeated judges another life."""
        if attempt > 1:
            return self._live(*name, longest, attempt)
        if not self._futures:
            self._futures = {n: self._pool.submit(self._live, *n, longest, attempt) for n in self._names}
        return self._futures[name].result(280.0)

    def _live(self, kind: str, mood: str, longest: float, attempt: int) -> str:
        directory = self._directory / re.sub(r"\W", "-", f"{kind}-{mood}-{attempt}")
        directory.mkdir()
        life: Life = {"echo": told_back, "flood": flooded}.get(kind, live)
        return life(self._tree, directory, mood, kind, longest)


@pytest.fixture(scope="module")
def wards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wards]:
    """The daemons of the tests of this file that were selected."""
    mine = [i for i in request.session.items if isinstance(i, pytest.Function) and i.module is request.module]
    names = [cast("Name", i.callspec.params["name"]) for i in mine if hasattr(i, "callspec")]
    with ExitStack() as stack:
        yield Wards(stack, tmp_path_factory.mktemp("wards"), names)


@pytest.fixture
def story(request: pytest.FixtureRequest, wards: Wards, name: Name, seconds: Seconds) -> str:
    """How the life went that this test judges."""
    return wards.outcome(name, seconds(35, 70), attempt(request))


def named(kind: str, moods: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrise over moods."""
    return pytest.mark.parametrize("name", [pytest.param((kind, mood), id=mood) for mood in moods])


# --- 3.5 ------------------------------------------------------------------------------------------


@pytest.mark.accept("3.5", "an API in every mood, from the start: the yearly table prices, and says so")
@named("unknown", MOODS)
def test_a_mood_from_the_start_leaves_the_yearly_table(name: Name, story: str, report: Report) -> None:
    """Energy goes on, the right reason is counted and no other, nothing leaks, one line is logged, and it heals."""
    report(f"{name[1]}: {story}")


@pytest.mark.accept("3.5", "an API that falls ill: the value that was had is held, and says so")
@named("known", FOR_EACH_REASON)
def test_a_mood_after_a_value_leaves_that_value_held(name: Name, story: str, report: Report) -> None:
    """Not a joule goes to another rung while the hold lasts."""
    report(f"{name[1]}: {story}")


@pytest.mark.accept("3.5", "an API that tells the token back: it is shown nowhere")
@named("echo", ECHOES)
def test_a_token_told_back_is_shown_nowhere(name: Name, story: str, report: Report) -> None:
    """A stranger's words in a log line or on the page are fit to be read only without our secret in them."""
    report(f"{name[1]}: {story}")


@pytest.mark.accept("3.5", "an API that floods: bounded time and memory")
@named("flood", FLOODS)
def test_a_flood_is_bounded_in_time_and_memory(name: Name, story: str, report: Report) -> None:
    """A few kilobytes that unpack to many, and headers that never begin."""
    report(f"{name[1]}: {story}")


@pytest.mark.accept("3.5", "every request that left is counted")
def test_every_request_is_counted(tmp_path: Path) -> None:
    """A quota is spent by requests, not by turns: the day behind and the day ahead are questions too."""
    zone = Zone("intel-rapl:0", "package-0", Constant(WATTS))
    with ExitStack() as stack:
        tree = stack.enter_context(RaplTree(tmp_path / "tree", [zone]))
        tree.start_writer()
        api = stack.enter_context(GridApi(GOOD))
        daemon = stack.enter_context(Daemon(tmp_path, configuration(tree, tmp_path, api.url)))
        daemon.until(lambda m: asked(m) >= 3 and m.sum(ENERGY) > 0)
        kinds = Counter(r.path.rpartition("/")[2] for r in api.requests)
        api.mode = "status:401"
        daemon.until(lambda m: sum(failures(m).values()) > 0)
        metrics = daemon.metrics()
        sent = len(api.requests)

    assert {"latest", "history", "forecast"} == set(kinds)
    assert sent == asked(metrics)
