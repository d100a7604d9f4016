"""NVIDIA GPUs through NVML: runs in a child process of its own, one thread per GPU."""

from __future__ import annotations

from dataclasses import dataclass

from wattgram.ports import Clock, Seconds, Source, SourceOptions


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """`state_every` is the seconds between readings of what is not power: utilisation, memory, temperature, limit."""

    state_every: Seconds = Seconds(5)


def open_source(options: Options, clock: Clock, every: float) -> Source:
    """Return the source; raise Unavailable without driver, library or GPU, ReadFailed when it cannot say."""
    # Imported here: the daemon reads Options, and must not carry the binding that only the child uses.
    from wattgram.sources.nvml.binding import Nvml  # noqa: PLC0415
    from wattgram.sources.nvml.source import NvmlSource  # noqa: PLC0415

    source = NvmlSource(Nvml(), clock, every=every, state_every=options.state_every)
    source.open()
    return source
