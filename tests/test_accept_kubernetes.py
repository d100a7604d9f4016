"""5.5: 300 pods on a Kubernetes API that is served here over TLS: names come and go, calls and memory are few.

The API forgets (410), refuses (401), goes away and comes back; the namer is the one that the daemon opens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from standin.certificates import Authority
from standin.kubernetes import NODE, TOKEN, KubernetesApi, Pod
from wattgram.clock import ManualClock
from wattgram.model import Subject
from wattgram.workloads.kubernetes import Options, open_namer
from wattgram.workloads.kubernetes.namer import KubernetesNamer
from wattgram.workloads.kubernetes.watch import Pace

PODS = 300
MOST_GROWTH = 2 << 20
REFUSED = 0.5

# A process of its own, so that only the namer's memory is counted: a line of UIDs in, how many have names and what
# the process has resident out.
PROGRAM = """
    import gc, json, os, sys
    from pathlib import Path
    from wattgram.clock import SystemClock
    from wattgram.model import Subject
    from wattgram.workloads.kubernetes import Options, open_namer

    api, node, account = sys.argv[1:]
    namer = open_namer(Options(api=api, node=node, pods_log=""), SystemClock(), {}, Path(account))
    for line in sys.stdin:
        said = [namer.name_of(Subject((f"/kubepods/burstable/pod{uid}",))) for uid in json.loads(line)]
        named = sum(bool(one and one.workload and one.workload.owner) for one in said)
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        print(json.dumps([named, resident]), flush=True)
"""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    authority = Authority()
    authority.write(tmp_path / "ca.crt")
    (tmp_path / "token").write_text(TOKEN)
    with KubernetesApi(authority, tmp_path) as running:
        yield running


def pods(wave: str, count: int = PODS) -> list[Pod]:
    return [
        Pod(
            f"{wave}-{number}",
            f"team-{number % 7}",
            owner=("ReplicaSet", f"{wave}-5d8f"),
            labels={"pod-template-hash": "5d8f"},
        )
        for number in range(count)
    ]


def known(namer: KubernetesNamer, those: list[Pod]) -> int:
    """How many are called what they are called; a wrong name fails at once."""
    count = 0
    for pod in those:
        path = f"/kubepods.slice/kubepods-pod{pod.uid.replace('-', '_')}.slice/cri-containerd-{'ab' * 32}.scope"
        said = namer.name_of(Subject((path,)))
        assert said
        if said.workload and said.name:
            wave = pod.name.partition("-")[0]
            assert (pod.uid, f"{pod.namespace}/{pod.name}") == (said.workload.id, said.name)
            assert f"deployment/{wave}" == said.account
            count += 1
    return count


def until(question: Callable[[], object], deadline: float = 20.0) -> None:
    end = time.monotonic() + deadline
    while not question():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.mark.accept("5.5", "Kubernetes: names of 300 pods come and go through 410, 401 and a restart, in few calls")
def test_names_come_and_go(api: KubernetesApi, tmp_path: Path, report: Callable[[str], None], lines: list[str]) -> None:
    """Each kind of trouble costs one list and one watch, and none of them a name."""
    clock = ManualClock()
    first, second, third, fourth = pods("first"), pods("second"), pods("third"), pods("fourth")
    api.add(*first)
    pace = Pace(first=0.02, most=0.1, refused=REFUSED)
    began = time.monotonic()
    namer = open_namer(Options(api=api.url, node=NODE, pods_log=""), clock, {}, tmp_path, pace)
    opening = time.monotonic() - began
    assert known(namer, first) == PODS
    api.wait_for_watches()
    seconds = []
    calls = [api.asked("list")]

    # A wave comes while the one before it goes; those that went are called by their names for ten minutes.
    api.add(*second)
    began = time.monotonic()
    until(lambda: known(namer, second) == PODS)
    seconds.append(time.monotonic() - began)
    api.delete(*first)
    api.bookmark()
    until(lambda: namer._watch is not None and namer._watch._version == str(api._version))
    assert known(namer, first) == PODS
    clock.advance(601.0)
    assert known(namer, first) == 0
    calls.append(api.asked("list"))

    # 410: too far behind.
    api.expire()
    api.add(*third)
    until(lambda: known(namer, third) == PODS)
    calls.append(api.asked("list"))

    # 401: the token has run out, and is replaced.
    api.wait_for_watches()
    api.token = "replaced"
    api.cut()
    until(lambda: any("HTTP 401" in line for line in lines))
    api.delete(*second)
    api.add(*fourth)
    (tmp_path / "token").write_text(api.token)
    until(lambda: any("recovered" in line for line in lines))
    assert known(namer, third) + known(namer, fourth) == 2 * PODS
    calls.append(api.asked("list"))

    # A restart, with a pod that came meanwhile.
    api.wait_for_watches()
    api.stop()
    until(lambda: any("refused" in line for line in lines))
    api.add(*(late := pods("late", 1)))
    api.start()
    until(lambda: known(namer, late) == 1)
    api.wait_for_watches()
    namer.close()
    api.wait_for_watches(0)

    lists, watches = api.asked("list"), api.asked("watch")
    assert [1, 1, 2] == calls[:3]
    assert lists == 4
    # A restart may be met halfway: what was cut off is asked for once more.
    assert watches <= 7
    assert not any(TOKEN in line or "replaced" in line for line in lines)
    report(
        f"{4 * PODS + 1} pods, {lists} lists, {watches} watches; opened with {PODS} names in {opening:.2f} s, "
        f"{PODS} more {max(seconds):.2f} s after they came; 0 wrong names"
    )


@pytest.mark.accept("5.5", "Kubernetes: 300 pods cost bounded memory and calls")
def test_memory_and_calls_are_bounded(
    api: KubernetesApi,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    report: Callable[[str], None],
) -> None:
    """Of each only who it is stays, however large its object, and of what went before it only so much."""
    warm, crowd = pods("warm", 3), pods("crowd")
    api.add(*warm)
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), api.url, NODE, str(tmp_path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def ask(those: list[Pod]) -> tuple[int, int]:
            stdin.write(json.dumps([pod.uid for pod in those]) + "\n")
            stdin.flush()
            named, resident = json.loads(stdout.readline())
            return named, resident

        assert len(warm) == ask(warm)[0]
        api.wait_for_watches()
        before = ask(warm)[1]
        api.add(*crowd)
        until(lambda: ask(crowd)[0] == PODS)
        full = ask(crowd)[1]
        waves = round(seconds(3, 30))  # so many, not so long
        for wave in range(waves):
            fresh = pods(f"wave{wave}")
            api.add(*fresh)
            api.delete(*crowd)
            until(lambda fresh=fresh: ask(fresh)[0] == PODS)  # type: ignore[misc]
            crowd = fresh
        after = ask(crowd)[1]
        calls = len(api.requests)
        api.expire()
        until(lambda: len(api.requests) >= calls + 2)
        assert ask(crowd)[0] == PODS
        listed = ask(crowd)[1]
        stdin.close()

    size = len(json.dumps([pod.metadata() for pod in crowd]))
    report(
        f"{PODS} pods: +{(full - before) / 1024:.0f} KiB; {PODS * (waves + 1)} pods within ten minutes: "
        f"+{(after - before) / 1024:.0f} KiB; and one list of {size / 1024:.0f} KiB: "
        f"+{(listed - before) / 1024:.0f} KiB; "
        f"{calls} calls, then {len(api.requests) - calls} for a 410"
    )
    assert full - before <= MOST_GROWTH
    assert after - before <= 2 * MOST_GROWTH
    assert listed - before <= 3 * MOST_GROWTH
    assert calls == 2
    assert len(api.requests) == calls + 2
