"""What can be found out by trying: each source and each provider of this host, and the whole in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from wattgram import registry
from wattgram.config import Config
from wattgram.feed import Claims
from wattgram.model import COMPONENTS, Device, Intensity, Sample
from wattgram.plan import Link, chain, enabled_sources, source_opener
from wattgram.ports import Clock, ReadFailed, Telling, Told, Unavailable
from wattgram.tools.procfs import identity
from wattgram.tools.sysfs import read_text

FINE, ABSENT, BROKEN = "ok", "missing", "failed"
SOURCES, NAMES, CARBON, RIGHTS, FILES = "Sources", "On whose behalf", "Carbon", "Rights", "Files"
PORT, HOST = "Port", "Host"
# One and several of each component, in the words of people.
NOUNS = {
    "gpu": ("GPU", "GPUs"),
    "cpu": ("processor", "processors"),
    "dram": ("memory", "memory"),
    "module_rest": ("rest of a module", "rests of modules"),
    "host_rest": ("rest of the host", "rest of the host"),
}
EXPECTED = ("gpu", "cpu", "dram")
INIT, KTHREADD = 1, 2
COUNTLESS = frozenset({"dram", "host_rest"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `required`: its absence is an error, since it was asked for by name.

    Each line of `remedy` is a command that can be typed, or a sentence.
    """

    group: str
    what: str
    state: str
    detail: str
    remedy: str = ""
    required: bool = False

    @property
    def is_trouble(self) -> bool:
        """Whether there is something to mend; what is merely not there is none."""
        return self.state == BROKEN or (self.required and self.state != FINE)


class Trial:
    """Tries sources and providers, and remembers what they give for the sentence about the whole."""

    def __init__(self, config: Config, clock: Clock, environ: Mapping[str, str]) -> None:
        self._config = config
        self._clock = clock
        self._environ = environ
        self._metered: Counter[tuple[str, str]] = Counter()
        self._covered: set[str] = set()
        self._priced = ""

    @property
    def is_metering(self) -> bool:
        """Whether any device is metered."""
        return bool(self._metered)

    def sources(self) -> Iterator[Finding]:
        """Open and read each enabled source once."""
        claims = Claims(tuple(enabled_sources(self._config)))
        for name in enabled_sources(self._config):
            what, required = f"source {name}", bool(self._config.sources[name].enabled)
            source = None
            try:
                source = source_opener(name, self._config, self._clock, self._environ)()
                sample = source.read()
                claims.outcome(name, sample.readings)
                self._count(r.device for r in sample.readings if claims.keeps(name, r.device.component))
                detail = _seen(sample) if registry.SOURCES[name].meters else _told(sample)
                detail += _not_booked(name, sample, claims)
                answers = sample.readings or not registry.SOURCES[name].meters
                state = FINE if answers and not sample.failed else BROKEN
                yield Finding(SOURCES, what, state, detail, _advised(sample), required)
            except Unavailable as missing:
                claims.withdraw(name)
                yield Finding(SOURCES, what, ABSENT, str(missing), missing.remedy, required)
            except ReadFailed as failure:
                claims.withdraw(name)
                yield Finding(SOURCES, what, BROKEN, str(failure), "", required)
            finally:
                if source is not None:
                    source.close()

    def names(self) -> Iterator[Finding]:
        """Try each namer, and whether processes of others can be seen, by which GPUs are named."""
        for name in registry.WORKLOADS:
            options = self._config.namers[name]
            what, required = f"workloads {name}", bool(options.enabled)
            if options.enabled is False:
                continue
            try:
                namer = registry.namer(name).open_namer(options, self._clock)
            except Unavailable as missing:
                yield Finding(NAMES, what, ABSENT, str(missing), missing.remedy, required)
                continue
            told = namer.told() if isinstance(namer, Telling) else Told("is asked")
            namer.close()
            detail = "; ".join(filter(None, (told.goes_by, told.lacks)))
            if told.lacks:  # it is there, which is all that may be asked for
                yield Finding(NAMES, what, ABSENT, detail, told.remedy)
            else:
                yield Finding(NAMES, what, FINE, detail, required=required)
        yield _processes(Path(self._config.attribution.proc))

    def carbon(self) -> Iterator[Finding]:
        """Ask each provider of the chain once."""
        links, remarks = chain(self._config)
        for link in links:
            what = f"provider {link.name}"
            try:
                said = newest(asked(link, self._config, self._clock))
            except ReadFailed as failure:
                yield Finding(CARBON, what, BROKEN, str(failure), _advice(failure, link, self._config), link.named)
            else:
                if not self._priced:
                    self._priced = next((_prices(i) for i in said if prices(link, i, self._config)), "")
                detail = "; ".join(described(i).removeprefix(f"{link.name}: ") for i in said)
                yield Finding(CARBON, what, FINE, detail, required=link.named)
        for remark in remarks:
            name, _, rest = remark.partition(": ")
            detail, _, remedy = rest.partition("; ")
            yield Finding(CARBON, f"carbon, {name}", ABSENT, detail, remedy)

    def verdict(self, findings: Iterable[Finding]) -> str:
        """Return the whole in one sentence."""
        parts = ["nothing is metered"]
        if self._metered:
            lacking = [NOUNS[c][1] for c in EXPECTED if c not in self._covered]
            parts = [f"meters {_enumerated(self._nouns())}"]
            parts += [f"not metered: {', '.join(lacking)}"] if lacking else []
        if self._priced:
            parts.append(f"joules are priced {self._priced}")
        else:
            why = "no provider has a value" if self._config.carbon.zone else "carbon.zone is not set"
            parts.append(f"joules are not priced: {why}")
        troubles = sum(1 for finding in findings if finding.is_trouble)
        parts.append("nothing to mend" if not troubles else f"{troubles} thing{'s' if troubles > 1 else ''} to mend")
        return "; ".join(parts)

    def _count(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self._metered[device.component, device.quality] += 1
            self._covered |= {device.component, *device.covers.split("+")}

    def _nouns(self) -> list[str]:
        """`8 GPUs`, `2 processors (estimated)`, `memory`."""
        found = []
        for (component, quality), count in sorted(self._metered.items(), key=lambda m: COMPONENTS.index(m[0][0])):
            noun = NOUNS[component][count > 1]
            mark = "" if quality == "measured" else f" ({quality})"
            found.append(f"{'' if component in COUNTLESS else f'{count} '}{noun}{mark}")
        return found


def _processes(proc: Path) -> Finding:
    """Whether the host's processes can be seen: a driver tells their numbers, and /proc whose they are."""
    what, hidden = "processes", "whose a GPU's energy is stays unknown"
    try:
        identity(proc, INIT)
        is_host = read_text(proc / str(KTHREADD) / "comm") == "kthreadd"
    except ReadFailed as failure:
        if failure.reason == "auth" or (proc / str(INIT)).exists():
            remedy = "mount /proc without hidepid; as a service: install wattgram.service.d/attribution.conf"
            return Finding(NAMES, what, BROKEN, f"those of others cannot be read ({failure}): {hidden}", remedy)
        is_host = False
    if is_host:
        return Finding(NAMES, what, FINE, f"the host's are seen in {proc}")
    remedy = "run it with the host's processes in sight: hostPID: true, docker run --pid=host"
    return Finding(NAMES, what, ABSENT, f"the host's are not seen in {proc}: {hidden}", remedy)


def asked(link: Link, config: Config, clock: Clock, turns: int = 1) -> tuple[Intensity, ...]:
    """Return what a provider says; raise ReadFailed."""
    provider = link.open(config, clock)
    try:
        said: tuple[Intensity, ...] = ()
        for _ in range(turns):  # a forecast is asked for by a provider that stays
            said = tuple(provider.fetch())
        return said
    finally:
        provider.close()


def newest(said: tuple[Intensity, ...]) -> tuple[Intensity, ...]:
    """Return the newest value that is no forecast."""
    return tuple(i for i in said if i.basis != "forecast")[-1:]


def prices(link: Link, intensity: Intensity, config: Config) -> bool:
    """Whether a provider's value may price: it is of the wanted kind, or its provider was asked for by name."""
    return intensity.basis != "forecast" and (link.named or intensity.factor == config.carbon.factor)


def described(i: Intensity) -> str:
    """Return a value with all that it rests on."""
    begun = datetime.fromtimestamp(i.start, tz=timezone.utc)
    when = i.edition or begun.strftime("%Y-%m-%d %H:%M UTC")
    how = f"{i.basis}, {i.factor}, {i.boundary}, for {when}"
    return f"{i.provider}: {i.grams_per_kwh:g} g/kWh in {i.zone}, {how}; {i.source}"


def _prices(i: Intensity) -> str:
    if i.basis == "annual":
        return f"by the yearly average of {i.edition} ({i.provider}), {i.grams_per_kwh:.0f} g/kWh"
    how = "live" if i.basis == "live" else f"({i.basis})"
    return f"{how} by {i.provider}, {i.grams_per_kwh:.0f} g/kWh"


def _seen(sample: Sample) -> str:
    """The devices of a sample, those alike together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for r in sample.readings:
        name = "" if r.device.name == r.device.id else f"{r.device.name}, "
        alike.setdefault((r.device.component, name, "counter" if r.counter else "power"), []).append(r.device.id)
    found = "; ".join(f"{', '.join(ids)} ({name}by {means})" for (_, name, means), ids in alike.items())
    count = len(sample.readings)
    lost = ", ".join(f"{f.device.id}: {f.reason}" for f in sample.failed)
    devices = f"{count} device{'' if count == 1 else 's'}{': ' if found else ''}{found}"
    return f"{devices}; not answering: {lost}" if lost else devices


def _told(sample: Sample) -> str:
    """How many are told apart by a source that says who was busy."""
    actors = max((activity.actors for activity in sample.activities), key=len, default=())
    processes = sum(1 for actor in actors if actor.process is not None)
    found = f": control groups: {len(actors) - processes}, processes in none: {processes}" if actors else ""
    return f"says who keeps processors and memory busy{found}"


def _advised(sample: Sample) -> str:
    """What to do about devices that did not answer."""
    if any(f.device.component == "gpu" for f in sample.failed):
        return "nvidia-smi\nsudo dmesg | grep -i -e xid -e nvrm"
    return f"ask the kernel why: sudo dmesg | tail -n 50 (of {sample.failed[0].device.id})" if sample.failed else ""


def _not_booked(name: str, sample: Sample, claims: Claims) -> str:
    """What of a sample is not booked, since another source keeps that account."""
    others = sorted({r.device.component for r in sample.readings if not claims.keeps(name, r.device.component)})
    return f"; not booked, since another source meters it: {', '.join(others)}" if others else ""


def _advice(failure: ReadFailed, link: Link, config: Config) -> str:
    origin = link.secret.origin if link.secret else "nowhere"
    address = getattr(config.providers[link.name], "base_url", "")
    return {
        "auth": f"check the token (from {origin}); Files, below, says whether it can be read",
        "plan": 'the provider\'s plan does not cover this; choose another: [carbon] providers = ["annual"]',
        "zone": "check carbon.zone against the provider's list of zones",
        "rate": f"it asks us to wait; set a longer carbon.{link.name}.every",
        "quota": f"the plan's requests are spent; set a longer carbon.{link.name}.every",
        "timeout": f"is the API reachable from this host?\ncurl -sS -m 10 -o /dev/null {address}".rstrip(),
        "server": f"is the API reachable from this host?\ncurl -sS -m 10 -o /dev/null {address}".rstrip(),
    }.get(failure.reason, "")


def _enumerated(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
