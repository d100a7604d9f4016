"""What a parent and the child that reads for it say to each other: frames of a length and MessagePack, never code."""

from __future__ import annotations

import errno
import struct
from typing import IO, Any

import msgspec

from wattgram.model import Cost, Sample

MAX_FRAME = 16 << 20
LENGTH = struct.Struct(">I")


class Open(msgspec.Struct, tag=True):
    """The first request: which plug to open, with which options, answering how often."""

    seq: int
    plug: str
    options: dict[str, Any]
    every: float


class Read(msgspec.Struct, tag=True):
    """Every other request."""

    seq: int


class Record(msgspec.Struct, tag=True):
    """What to ask a plug instead of opening it: everything its hardware answers, for a fixture."""

    seq: int
    plug: str
    options: dict[str, Any]


class Recorded(msgspec.Struct, tag=True):
    """What the hardware answered."""

    seq: int
    answers: dict[str, Any]


class Opened(msgspec.Struct, tag=True):
    """The source is open."""

    seq: int


class Gave(msgspec.Struct, tag=True):
    """The source gave a sample; what the child used so far travels with it."""

    seq: int
    sample: Sample
    cost: Cost


class Failed(msgspec.Struct, tag=True):
    """The source raised ReadFailed."""

    seq: int
    message: str
    reason: str
    fatal: bool


class Missing(msgspec.Struct, tag=True):
    """The source raised Unavailable."""

    seq: int
    message: str
    remedy: str


Request = Open | Read | Record
Reply = Opened | Gave | Recorded | Failed | Missing


def write(stream: IO[bytes], message: Request | Reply) -> None:
    """Write one frame; raise OSError when the other side is gone, or does not read."""
    frame = msgspec.msgpack.encode(message, enc_hook=float)  # durations travel as plain numbers
    data = LENGTH.pack(len(frame)) + frame
    while data:
        written = stream.write(data)
        if written is None:  # a pipe that is full, and not waited for
            raise BlockingIOError(errno.EAGAIN, "it does not read")
        data = data[written:]
