"""Watching a daemon from outside: its status, its instants on our clock, and measured time that passes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from standin.daemon import Daemon


def mono(wall: float) -> float:
    """The monotonic instant of a wall time of this run."""
    return wall - (time.time() - time.monotonic())


def devices(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The devices of `/api/v1/status`, which says of each when it was read, by id."""
    return {d["device"]: d for d in json.loads(daemon.get("/api/v1/status").text)["devices"]}


def wait(condition: Callable[[], Any], deadline: float = 30.0) -> Any:
    """Poll for something true."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {deadline} s: {condition}")


def pause(seconds: float) -> None:
    """Let measured time pass: what is tested is an integral over it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
