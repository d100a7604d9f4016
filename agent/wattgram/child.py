"""The process that reads for a parent: serves one source over standard input and output until the parent goes."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from wattgram.clock import SystemClock
from wattgram.frames import LENGTH, Failed, Gave, Missing, Open, Opened, Record, Recorded, Reply, Request, write
from wattgram.model import Cost
from wattgram.ports import ReadFailed, Source, Unavailable

LETTING_GO_SECONDS = 0.2


def main() -> None:
    """Serve one source over standard input and output until the parent goes."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent blocks what only its main thread may hear
    # Libraries print where they like: what they say goes to standard error, the pipe is ours alone.
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    threading.excepthook = _bug
    decoder = msgspec.msgpack.Decoder(Request)
    source: Source | None = None
    while True:
        frame = requests.get()
        if frame is None:
            if source is not None:
                source.close()
            os._exit(0)
        request: Request = decoder.decode(frame)
        reply: Reply
        try:
            if isinstance(request, Open):
                source = _opened(request)
                reply = Opened(request.seq)
            elif isinstance(request, Record):
                plug = import_module(request.plug)
                reply = Recorded(request.seq, plug.record(_options(plug, request.options)))
            else:
                assert source is not None
                reply = Gave(request.seq, source.read(), _own_cost())
        except Unavailable as missing:
            reply = Missing(request.seq, str(missing), missing.remedy)
        except ReadFailed as failure:
            reply = Failed(request.seq, str(failure), failure.reason, failure.fatal)
        write(output, reply)


def _bug(caught: threading.ExceptHookArgs) -> None:
    """A bug in any thread ends the child, with its traceback; the parent sees it go and starts another."""
    sys.excepthook(caught.exc_type, caught.exc_value or caught.exc_type(), caught.exc_traceback)
    os._exit(1)


def _opened(request: Open) -> Source:
    plug = import_module(request.plug)
    source: Source = plug.open_source(_options(plug, request.options), SystemClock(), request.every)
    return source


def _options(plug: ModuleType, given: dict[str, Any]) -> Any:
    return msgspec.convert({**given, "interval": None}, plug.Options, dec_hook=_seconds)


def _seconds(kind: type[Any], value: object) -> Any:
    """Durations travel as plain numbers."""
    return kind(value)


def _listen(requests: queue.Queue[bytes | None]) -> None:
    """Read requests; the end of input is the parent's end, and then nothing may keep this process."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            size = LENGTH.unpack(_exactly(LENGTH.size))[0]
            requests.put(_exactly(size))
    requests.put(None)
    time.sleep(LETTING_GO_SECONDS)
    os._exit(0)


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _own_cost() -> Cost:
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Cost(time.process_time(), resident * os.sysconf("SC_PAGE_SIZE"))


if __name__ == "__main__":
    main()
