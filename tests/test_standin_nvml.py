"""The stand-in driver is asked through the real binding: what other tests learn from it must be true."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from standin.nvml import CompilerMissing, Constant, Gpu, Instance, Load, NvmlStandin, Profile, Sine, Square, build

DEADLINE = 30.0

# Answers each line, a Python expression, with one line of JSON: the value or the NVML code, and the monotonic seconds
# around the call.
CHILD = """
import json, sys, threading, time
import pynvml as nv

MEMBERS = {1: "uiVal", 3: "ullVal"}
finished = {}
kept = []

def keep(handle):
    kept.append(handle)

def gpu(index=0):
    return nv.nvmlDeviceGetHandleByIndex(index)

def field(number, index=0, scope=0):
    (v,) = nv.nvmlDeviceGetFieldValues(gpu(index), [(number, scope)])
    return [v.nvmlReturn, v.valueType, getattr(v.value, MEMBERS[v.valueType])]

def energy(index=0):
    return nv.nvmlDeviceGetTotalEnergyConsumption(gpu(index))

def power(index=0):
    return nv.nvmlDeviceGetPowerUsage(gpu(index))

def samples(last=0, kind=0):
    answer, ring = nv.nvmlDeviceGetSamples(gpu(), kind, last)
    assert answer == 1
    return [[s.timeStamp, s.sampleValue.uiVal] for s in ring]

def start(name, handle):
    threading.Thread(target=lambda: finished.update({name: attempt(lambda: nv.nvmlDeviceGetPowerUsage(handle))}),
                     daemon=True).start()

def attempt(call):
    before = time.monotonic()
    try:
        value, code = call(), 0
    except nv.NVMLError as e:
        value, code = None, e.value
    return {"value": value, "code": code, "before": before, "after": time.monotonic()}

for line in sys.stdin:
    print(json.dumps(attempt(lambda: eval(line)), default=str), flush=True)
"""


class Answer(NamedTuple):
    """What the child got, and the monotonic seconds around its call."""

    value: Any
    code: int
    before: float
    after: float


class Child:
    """A process with the real binding, which is killed if it does not answer in time."""

    def __init__(self, standin: NvmlStandin) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env={**os.environ, **standin.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def ask(self, expression: str) -> Answer:
        """The whole answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(DEADLINE, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(expression + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"no answer to {expression}: {self._process.communicate()[1]}"
        return Answer(**json.loads(line))

    def value(self, expression: str) -> Any:
        """The value of what must succeed."""
        answer = self.ask(expression)
        assert answer.code == 0, f"{expression}: NVML code {answer.code}"
        return answer.value

    def code(self, expression: str) -> int:
        """The NVML code; 0: it succeeded."""
        return self.ask(expression).code

    def death(self) -> tuple[int, str]:
        """How it ends at its next call, and its last words."""
        _, errors = self._process.communicate("nv.nvmlInit()\n", timeout=DEADLINE)
        return self._process.returncode, errors


Stage = Callable[..., tuple[NvmlStandin, Child]]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Cards on a stand-in driver, and an initialised child that sees them."""
    children: list[Child] = []

    def play(*gpus: Gpu, init: bool = True, **options: Any) -> tuple[NvmlStandin, Child]:
        standin = made(tmp_path, *gpus, **options)
        children.append(Child(standin))
        if init:
            children[-1].value("nv.nvmlInit()")
        return standin, children[-1]

    yield play
    for child in children:
        child.close()


def made(directory: Path, *gpus: Gpu, **options: Any) -> NvmlStandin:
    """The stand-in, or a skip that says why; never a skip where the whole suite must run."""
    try:
        return NvmlStandin(directory, gpus, **options)
    except CompilerMissing as e:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(e))


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.002)


def counter(standin: NvmlStandin, at: float, since: float | None = None, base: int = 5_000_000_000) -> float:
    """The millijoules that a card with the default counter must show at an instant."""
    start = standin.started if since is None else since
    return base + 1000 * standin.joules(0, start, max(start, math.floor(at / 0.02) * 0.02))


def steady(child: Child, expression: str, step: float) -> Answer:
    """An answer that was given within one step of the sensor, so that its truth is one number."""
    deadline = time.monotonic() + DEADLINE
    while True:
        answer = child.ask(expression)
        if math.floor(answer.before / step) == math.floor(answer.after / step):
            return answer
        assert time.monotonic() < deadline, "never within one step"


@pytest.mark.parametrize(
    "profile",
    [Constant(300.0), Square(100.0, 600.0, 2.0, 0.3, 0.7), Square(0.0, 50.0, 0.1), Sine(400.0, 300.0, 3.0, 0.5)],
)
def test_the_joules_of_a_profile_are_the_sum_of_its_watts(profile: Profile) -> None:
    start, end, parts = 1_000_003.21, 1_000_008.9, 200_000
    step = (end - start) / parts

    summed = sum(profile.watts(start + (i + 0.5) * step) for i in range(parts)) * step

    assert summed == pytest.approx(profile.joules(start, end), rel=1e-4)


def test_splitting_an_interval_does_not_change_its_energy() -> None:
    profile = Square(100.0, 600.0, 2.0, 0.3, 0.7)

    parts = profile.joules(1000.0, 1000.31) + profile.joules(1000.31, 1007.77)

    assert parts == pytest.approx(profile.joules(1000.0, 1007.77), rel=1e-9)


def test_a_card_says_who_it_is(stage: Stage) -> None:
    name = "NVIDIA 100% test = card"
    standin, child = stage(Gpu(), Gpu(name=name, architecture=7, bus_id="00000000:CA:00.0"), driver="550.1")

    assert child.value("nv.nvmlDeviceGetCount()") == 2
    assert child.value("nv.nvmlSystemGetDriverVersion()") == "550.1"
    assert child.value("nv.nvmlSystemGetNVMLVersion()") == "12.550.1"
    assert child.value("nv.nvmlSystemGetCudaDriverVersion()") == 12080
    assert child.value("nv.nvmlDeviceGetUUID(gpu(1))") == standin.gpus[1].uuid
    assert child.value("nv.nvmlDeviceGetName(gpu(1))") == name
    assert child.value("nv.nvmlDeviceGetSerial(gpu(1))") == standin.gpus[1].serial
    assert child.value("nv.nvmlDeviceGetPciInfo(gpu(1)).busId") == "00000000:CA:00.0"
    assert child.value("nv.nvmlDeviceGetPciInfo(gpu(1)).bus") == 0xCA
    assert child.value("nv.nvmlDeviceGetMinorNumber(gpu(1))") == 1
    assert child.value("nv.nvmlDeviceGetModuleId(gpu(1))") == 2
    assert child.value("nv.nvmlDeviceGetArchitecture(gpu(1))") == 7
    assert child.value("nv.nvmlDeviceGetPersistenceMode(gpu(1))") == 1
    assert child.value("nv.nvmlDeviceGetMigMode(gpu(1))") == [0, 0]


@pytest.mark.parametrize("finder", ["UUID({0.uuid!r}.encode())", "PciBusId(b'0000:08:00.0')"])
def test_a_card_is_found_by_its_name_or_address(stage: Stage, finder: str) -> None:
    standin, child = stage(Gpu(), Gpu())

    found = f"nv.nvmlDeviceGetHandleBy{finder.format(standin.gpus[1])}"

    assert child.value(f"nv.nvmlDeviceGetIndex({found})") == 1


def test_what_is_not_there_is_not_found(stage: Stage) -> None:
    _, child = stage(Gpu())

    assert child.code("gpu(1)") == 2
    assert child.code("nv.nvmlDeviceGetHandleByUUID(b'GPU-none')") == 6


def test_after_the_last_shutdown_nothing_answers(stage: Stage) -> None:
    _, child = stage(Gpu())
    child.value("nv.nvmlInit()")
    child.value("nv.nvmlShutdown()")

    assert child.code("power()") == 0
    child.value("nv.nvmlShutdown()")
    assert child.code("power()") == 1


@pytest.mark.parametrize("profile", [Constant(250.0), Square(0.0, 700.0, 0.2, 0.3, 0.05), Sine(300.0, 300.0, 0.5)])
def test_the_counter_is_the_integral_of_the_profile_and_never_decreases(stage: Stage, profile: Profile) -> None:
    standin, child = stage(Gpu(profile=profile))

    answers = [child.ask("energy()") for _ in range(300)]

    values = [a.value for a in answers]
    assert values == sorted(values)
    for a in answers:
        assert counter(standin, a.before) - 1 <= a.value <= counter(standin, a.after) + 1


def test_energy_has_64_bits_as_a_field(stage: Stage) -> None:
    standin, child = stage(Gpu())

    for number in (83, 191):
        answer = child.ask(f"field({number})")
        code, kind, value = answer.value
        assert (code, kind) == (0, 3)
        assert counter(standin, answer.before) - 1 <= value <= counter(standin, answer.after) + 1


def test_two_processes_see_the_same_counter(stage: Stage) -> None:
    standin, first = stage(Gpu(profile=Constant(0.0)))
    with contextlib.closing(Child(standin)) as second:
        second.value("nv.nvmlInit()")

        assert first.value("energy()") == second.value("energy()") == 5_000_000_000


def test_a_reset_counter_counts_from_zero(stage: Stage) -> None:
    standin, child = stage(Gpu())
    before = child.value("energy()")
    reset = time.monotonic()

    standin.change(0, counter_reset_at=reset)
    answer = child.ask("energy()")

    assert answer.value < before
    assert counter(standin, answer.before, reset, 0) - 1 <= answer.value <= counter(standin, answer.after, reset, 0) + 1


def test_a_frozen_counter_is_stuck_until_the_fault_is_cleared(stage: Stage) -> None:
    standin, child = stage(Gpu())
    frozen = time.monotonic()
    standin.change(0, counter_frozen_at=frozen)

    stuck = child.value("energy()")
    until(lambda: time.monotonic() > frozen + 0.05)

    assert stuck == pytest.approx(counter(standin, frozen), abs=1)
    assert child.value("energy()") == stuck
    standin.change(0, counter_frozen_at=None)
    assert child.value("energy()") > stuck


def test_a_counter_can_be_zero_wrong_or_that_of_the_module(stage: Stage) -> None:
    standin, child = stage(Gpu(profile=Constant(100.0), module_profile=Constant(500.0), counter_start_mj=0))

    standin.change(0, counter_zero=True)
    assert child.value("energy()") == 0
    for change, factor in (({"counter_scale": 0.5}, 0.5), ({"counter_module": True}, 5.0)):
        standin.change(0, **{"counter_zero": False, "counter_scale": 1.0, "counter_module": False, **change})
        answer = steady(child, "energy()", 0.02)
        assert answer.value == pytest.approx(counter(standin, answer.before, base=0) * factor, abs=1)


def test_an_instant_sensor_averages_over_its_window_at_its_last_look(stage: Stage) -> None:
    standin, child = stage(Gpu(profile=Square(100.0, 600.0, 0.31), sensor_update=0.1, sensor_window=0.025))

    for _ in range(20):
        answer = steady(child, "field(186)", 0.1)
        look = math.floor(answer.before / 0.1) * 0.1
        assert answer.value[:2] == [0, 1]
        assert answer.value[2] == pytest.approx(1000 * standin.joules(0, look - 0.025, look) / 0.025, abs=2)


def test_average_power_lags_behind_instant_power(stage: Stage) -> None:
    standin, child = stage(Gpu(profile=Square(100.0, 600.0, 0.7), average_window=1.0))

    answer = steady(child, "[field(185)[2], power()]", 0.1)

    look = math.floor(answer.before / 0.1) * 0.1
    expected = pytest.approx(1000 * standin.joules(0, look - 1.0, look), abs=2)
    assert answer.value == [expected, expected]


def test_without_an_average_power_usage_is_the_instant_sensor(stage: Stage) -> None:
    standin, child = stage(Gpu(profile=Square(100.0, 600.0, 0.31), average_window=0.0, sensor_window=0.0))

    answer = steady(child, "power()", 0.1)

    look = math.floor(answer.before / 0.1) * 0.1
    assert answer.value == 1000 * standin.watts(0, look)
    assert child.value("field(185)")[0] == 3


def test_module_power_is_a_scope_of_a_superchip_only(stage: Stage) -> None:
    _, child = stage(Gpu(profile=Constant(166.0), module_profile=Constant(467.0)), Gpu())

    assert child.value("[field(186, 0, s) for s in (0, 1)]") == [[0, 1, 166_000], [0, 1, 467_000]]
    assert child.value("[field(186, 0, s)[0] for s in (2, 3, 4)]") == [3, 3, 2]
    assert child.value("[field(186, 1, s)[0] for s in (0, 1)]") == [0, 3]


def test_a_card_without_meters_says_not_supported(stage: Stage) -> None:
    _, child = stage(Gpu(counter=False, power_supported=False, serial=None, mig_capable=False))

    assert child.code("energy()") == 3
    assert child.code("power()") == 3
    assert child.code("samples()") == 3
    assert child.code("nv.nvmlDeviceGetSerial(gpu())") == 3
    assert child.code("nv.nvmlDeviceGetMigMode(gpu())") == 3
    assert child.value("[field(n)[0] for n in (83, 191, 185, 186, 82, 9999)]") == [3] * 6


def test_limits_come_as_calls_and_as_fields(stage: Stage) -> None:
    _, child = stage(Gpu(min_limit_watts=200.0, max_limit_watts=700.0, default_limit_watts=650.0, limit_watts=500.0))

    assert child.value("nv.nvmlDeviceGetEnforcedPowerLimit(gpu())") == 500_000
    assert child.value("nv.nvmlDeviceGetPowerManagementLimit(gpu())") == 500_000
    assert child.value("nv.nvmlDeviceGetPowerManagementDefaultLimit(gpu())") == 650_000
    assert child.value("nv.nvmlDeviceGetPowerManagementLimitConstraints(gpu())") == [200_000, 700_000]
    assert child.value("[field(n) for n in (187, 188, 189, 190)]") == [
        [0, 1, 200_000],
        [0, 1, 700_000],
        [0, 1, 650_000],
        [0, 1, 500_000],
    ]


def test_the_ring_holds_what_the_sensor_said_at_each_period(stage: Stage) -> None:
    gpu = Gpu(profile=Square(100.0, 600.0, 0.31), sensor_update=0.01, sensor_window=0.02, samples_clock="boottime")
    standin, child = stage(gpu)

    ring = child.value("samples()")

    ahead = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    assert len(ring) == 120
    for stamp, milliwatts in ring:
        at = round((stamp * 1e-6 - ahead) / 0.1) * 0.1
        assert stamp * 1e-6 - ahead == pytest.approx(at, abs=1e-4)
        assert milliwatts == pytest.approx(1000 * standin.joules(0, at - 0.02, at) / 0.02, abs=300_000 * 0.01)


def test_the_ring_gives_each_sample_once_and_then_nothing_newer(stage: Stage) -> None:
    _, child = stage(Gpu(samples_period=0.05))
    seen = child.value("samples()")
    assert seen[-1][0] * 1e-6 == pytest.approx(time.time(), abs=5)

    assert child.code(f"samples({seen[-1][0] + 3_600_000_000})") == 6
    while len(seen) < 125:
        newer = child.ask(f"samples({seen[-1][0]})")
        assert newer.code in (0, 6)
        seen += newer.value or []

    steps = {later - sooner for (sooner, _), (later, _) in itertools.pairwise(seen)}
    assert steps <= {49_999, 50_000, 50_001}


def test_a_card_tells_its_state(stage: Stage) -> None:
    _, child = stage(
        Gpu(
            utilization_gpu=97,
            utilization_memory=41,
            memory_total=1000,
            memory_used=300,
            memory_reserved=50,
            temperature=66,
            pstate=2,
            clock_sm=1500,
            clock_memory=1600,
            clock_reasons=4,
        )
    )

    assert child.value("[(u := nv.nvmlDeviceGetUtilizationRates(gpu())).gpu, u.memory]") == [97, 41]
    assert child.value("[(m := nv.nvmlDeviceGetMemoryInfo(gpu())).total, m.used, m.free]") == [1000, 350, 650]
    memory = "nv.nvmlDeviceGetMemoryInfo(gpu(), version=nv.nvmlMemory_v2)"
    assert child.value(f"[(m := {memory}).total, m.used, m.reserved, m.free]") == [1000, 300, 50, 650]
    assert child.value("nv.nvmlDeviceGetTemperature(gpu(), 0)") == 66
    assert child.value("nv.nvmlDeviceGetTemperatureV(gpu(), 0)") == 66
    assert child.value("[nv.nvmlDeviceGetClockInfo(gpu(), k) for k in (1, 2)]") == [1500, 1600]
    assert child.value("nv.nvmlDeviceGetPerformanceState(gpu())") == 2
    assert child.value("nv.nvmlDeviceGetCurrentClocksEventReasons(gpu())") == 4


def test_processes_are_listed(stage: Stage) -> None:
    _, child = stage(Gpu(compute=((4321, 2**33), (77, 1))), Gpu())
    listed = "[(p.pid, p.usedGpuMemory) for p in nv.nvmlDeviceGetComputeRunningProcesses(gpu({}))]"

    assert child.value(listed.format(0)) == [[4321, 2**33], [77, 1]]
    assert child.value(listed.format(1)) == []
    assert child.value("nv.nvmlDeviceGetGraphicsRunningProcesses(gpu())") == []
    assert child.value("nv.nvmlDeviceGetMPSComputeRunningProcesses(gpu())") == []
    assert child.code("nv.nvmlDeviceGetProcessUtilization(gpu(), 0)") == 6
    assert child.code("nv.nvmlDeviceGetProcessesUtilizationInfo(gpu(), 0)") == 6


def test_throttling_is_counted_by_reason_and_a_change_never_steps(stage: Stage) -> None:
    standin, child = stage(Gpu(throttle_power=0.5, throttle_base=1000.0))
    answers = [child.ask("field(74)")]

    standin.change(0, throttle_power=0.0, throttle_thermal=1.0)
    changed = time.monotonic()
    while answers[-1].before < changed + 0.2:
        answers.append(child.ask("field(74)"))

    values = [a.value[2] for a in answers]
    assert values == sorted(values)
    assert values[-1] == values[-2] == pytest.approx(standin.throttled(0, "power", answers[-1].before) * 1e9, abs=2)
    for a in answers:
        low, high = (standin.throttled(0, "power", t) * 1e9 for t in (a.before, a.after))
        assert low - 2 <= a.value[2] <= high + 2
    code, kind, thermal = child.value("field(75)")
    assert (code, kind) == (0, 3)
    assert thermal > 1000 * 10**9
    assert child.value("nv.nvmlDeviceGetViolationStatus(gpu(), 1).violationTime") >= thermal
    assert child.value("field(77)") == [0, 3, 1000 * 10**9]


def test_a_card_that_hangs_delays_no_other_and_is_released_when_cleared(stage: Stage) -> None:
    standin, child = stage(Gpu(), Gpu(), log=True)
    child.value("keep(gpu(0))")
    standin.change(0, hang=math.inf)

    child.value("start('stuck', kept[0])")
    until(lambda: standin.calls()["nvmlDeviceGetPowerUsage", 0] == 1)
    others = [child.code("power(1)") for _ in range(200)]

    assert others == [0] * 200
    assert child.value("finished") == {}
    standin.change(0, hang=0.0)
    until(lambda: bool(child.value("finished")))
    assert child.value("finished")["stuck"]["code"] == 0


def test_a_hang_of_some_seconds_ends_by_itself(stage: Stage) -> None:
    standin, child = stage(Gpu())

    standin.change(0, hang=0.05)
    answer = child.ask("gpu()")

    assert answer.code == 0
    assert answer.after - answer.before >= 0.05


@pytest.mark.parametrize("code", [15, 16, 999])
def test_a_lost_card_fails_alone_and_comes_back(stage: Stage, code: int) -> None:
    standin, child = stage(Gpu(), Gpu())

    standin.change(0, error=code)
    lost = child.code("power(0)")
    other = child.code("power(1)")
    standin.change(0, error=0)

    assert (lost, other, child.code("power(0)")) == (code, 0, 0)


def test_faults_can_be_of_one_kind_of_call(stage: Stage) -> None:
    standin, child = stage(Gpu(), Gpu())

    standin.change(0, power_error=999)
    assert [child.code(call) for call in ("gpu()", "power()", "samples()", "energy()")] == [0, 999, 999, 0]
    assert child.value("[field(n)[0] for n in (83, 185, 186, 190)]") == [0, 999, 999, 0]

    standin.change(0, power_error=0, counter_error=10)
    assert [child.code(call) for call in ("gpu()", "power()", "samples()", "energy()")] == [0, 0, 0, 10]
    assert child.value("[field(n)[0] for n in (83, 185, 186, 190)]") == [10, 0, 0, 0]

    standin.change(0, counter_error=0, handle_error=4)
    assert [child.code(call) for call in ("gpu(0)", "gpu(1)")] == [4, 0]


def test_the_whole_driver_can_fail(stage: Stage) -> None:
    standin, child = stage(Gpu(), init=False)

    standin.library(init_error=18)
    assert child.code("nv.nvmlInit()") == 18
    standin.library(init_error=0, init_hang=0.05)
    answer = child.ask("nv.nvmlInit()")
    assert answer.code == 0
    assert answer.after - answer.before >= 0.05
    standin.library(error=30)
    assert child.code("nv.nvmlDeviceGetCount()") == 30
    assert child.code("power()") == 30
    assert child.value("str(nv.NVMLError(30))") == "Reset type not supported"


def test_a_node_without_cards_must_be_asked_for(stage: Stage) -> None:
    _, child = stage(init=False)

    assert child.code("nv.nvmlInit()") == 9
    assert child.code("nv.nvmlInitWithFlags(1)") == 0
    assert child.value("nv.nvmlDeviceGetCount()") == 0


def test_an_old_driver_lacks_functions(stage: Stage) -> None:
    _, child = stage(Gpu(), without=("nvmlDeviceGetFieldValues",))

    assert child.code("field(186)") == 13
    assert child.code("power()") == 0


def test_a_function_that_was_never_there_cannot_be_left_out(tmp_path: Path) -> None:
    made(tmp_path)

    with pytest.raises(ValueError, match=r"never had nvmlDeviceGetFieldValue$"):
        build(tmp_path, without=("nvmlDeviceGetFieldValue",))


def test_every_rewrite_is_seen_at_the_next_call(stage: Stage) -> None:
    standin, child = stage(Gpu())
    temperatures = [10 + i % 90 for i in range(300)]

    seen = []
    for temperature in temperatures:
        standin.change(0, temperature=0)
        standin.change(0, temperature=temperature)
        seen.append(child.value("nv.nvmlDeviceGetTemperature(gpu(), 0)"))

    assert seen == temperatures


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("gpu index=0 samples_clock=boottime profile=constant:1 temprature=3", "unknown key: temprature"),
        ("gpu index=1 samples_clock=boottime profile=constant:1", "GPU 1 stands in place 0"),
        ("gpu index=0 samples_clock=boottime profile=square:1:2", "not a profile: square:1:2"),
        ("gpu index=0 samples_clock=boottime profile=constant:1 pstate=x", "not a whole number: x"),
        ("gpus", "unknown line: gpus"),
    ],
)
def test_a_typing_error_in_a_scenario_is_fatal(stage: Stage, wrong: str, words: str) -> None:
    standin, child = stage(init=False)
    Path(standin.env["WATTGRAM_STANDIN_NVML"]).write_text(wrong + "\n")

    code, errors = child.death()

    assert code == -signal.SIGABRT
    assert words in errors


@pytest.mark.parametrize("change", [{"profile": Constant(1.0)}, {"module_profile": Constant(1.0)}])
def test_the_profile_of_a_card_is_fixed(tmp_path: Path, change: dict[str, Profile]) -> None:
    standin = made(tmp_path, Gpu())

    with pytest.raises(ValueError, match="fixed"):
        standin.change(0, **change)


def test_an_unknown_property_is_refused(tmp_path: Path) -> None:
    standin = made(tmp_path, Gpu())

    with pytest.raises(TypeError, match="temprature"):
        standin.change(0, temprature=3)


def test_calls_are_counted_by_function_and_card(stage: Stage) -> None:
    standin, child = stage(Gpu(), Gpu(), log=True)

    child.value("[power(1), power(1), energy(0)]")

    calls = standin.calls()
    assert calls["nvmlInitWithFlags", -1] == 1
    assert calls["nvmlDeviceGetPowerUsage", 1] == 2
    assert calls["nvmlDeviceGetPowerUsage", 0] == 0
    assert calls["nvmlDeviceGetTotalEnergyConsumption", 0] == 1


# --- processes that register themselves -----------------------------------------------------------

LISTED = "[p.pid for p in nv.nvmlDeviceGet{}RunningProcesses(gpu())]"
SAMPLES = "[[s.pid, s.timeStamp, s.smUtil, s.encUtil] for s in nv.nvmlDeviceGetProcessUtilization(gpu(), {})]"


def test_a_real_process_is_on_a_card_while_it_runs_and_draws_its_watts(stage: Stage) -> None:
    """Nobody is there, then one is, then nobody: the counter is the truth at each moment."""
    standin, child = stage(Gpu(profile=Load(70.0), counter_start_mj=0), Gpu(profile=Load(70.0)))
    quiet = child.ask("energy()")
    with standin.running("0:200:60") as process:
        assert child.value(LISTED.format("Compute")) == [process.pid]
        assert child.value("[u.gpu for u in [nv.nvmlDeviceGetUtilizationRates(gpu(1))]]") == [0]
        assert standin.watts(0, time.monotonic()) == 270.0
        busy = [child.ask("energy()") for _ in range(100)]
    process.wait(DEADLINE)
    after = [child.ask("energy()") for _ in range(100)]

    assert child.value(LISTED.format("Compute")) == []
    (was,) = standin.registered()
    assert was.end < math.inf
    values = [a.value for a in (quiet, *busy, *after)]
    assert values == sorted(values)
    for a in (quiet, *busy, *after):
        assert counter(standin, a.before, base=0) - 1 <= a.value <= counter(standin, a.after, base=0) + 1
    joules = standin.truth(standin.started, after[-1].after)
    assert joules == {process.pid: pytest.approx(200.0 * (was.end - was.start))}
    assert standin.truth(standin.started, after[-1].after, index=1) == {}


def test_a_killed_process_leaves_its_card_by_itself(stage: Stage) -> None:
    """Though nobody has waited for it: a zombie holds no card."""
    standin, child = stage(Gpu(profile=Load(70.0)))
    with standin.running("0:200:60:4096:mps") as process:
        assert child.value(LISTED.format("MPSCompute")) == [process.pid]
        process.kill()
        killed = time.monotonic()
        until(lambda: child.value(LISTED.format("MPSCompute")) == [])

    (was,) = standin.registered()
    assert killed <= was.end < killed + 5
    first, second = child.value("[energy(), energy()]")
    assert first <= second


def test_two_observers_of_a_killed_process_agree_on_its_end(stage: Stage) -> None:
    standin, child = stage(Gpu(profile=Load(0.0), counter_start_mj=0, counter_step=0.0))
    with standin.running("0:200:60") as process:
        process.kill()
        process.wait(DEADLINE)
    (was,) = standin.registered()

    assert standin.registered() == (was,)
    assert child.value("energy()") == pytest.approx(1000 * 200.0 * (was.end - was.start), abs=1)


def test_registered_processes_are_known_by_their_kind_and_instants(stage: Stage) -> None:
    standin, child = stage(Gpu())
    now = time.monotonic()
    standin.put("0:100:60:4096:graphics", 4_000_001, start=now - 1)
    standin.put("0:100:60:4096:compute", 4_000_002, start=now - 2, end=now - 1)
    standin.put("0:100:60", 4_000_003, start=now + 3600)

    assert child.value(LISTED.format("Graphics")) == [4_000_001]
    assert child.value(LISTED.format("Compute")) == []
    standin.change(0, hidden=True)
    assert child.value(LISTED.format("Graphics")) == []
    standin.change(0, hidden=False, graphics_error=3)
    assert child.code(LISTED.format("Graphics")) == 3
    standin.change(0, processes_error=4)
    assert child.code(LISTED.format("Compute")) == 4


@pytest.mark.parametrize("call", ["ProcessUtilization", "ProcessesUtilizationInfo"])
def test_how_busy_a_process_was_is_told_by_periods_since_a_moment(stage: Stage, call: str) -> None:
    standin, child = stage(Gpu(util_period=0.1, busy=((77, 20, 0, 5),)))
    now = time.monotonic()
    standin.put("0:100:60:1:compute:30:0", 78, start=now - 10)

    all_kept = child.value(SAMPLES.replace("ProcessUtilization", call).format(0))

    assert {(pid, sm, enc) for pid, _, sm, enc in all_kept} == {(77, 20, 0), (78, 60, 30)}
    times = sorted({at for _, at, _, _ in all_kept})
    assert len(times) == 20
    newest = times[-1]
    assert newest * 1e-6 == pytest.approx(time.time(), abs=5)
    later = child.value(f"[t for _, t, _, _ in {SAMPLES.replace('ProcessUtilization', call).format(times[10])}]")
    assert set(times[11:]) <= set(later)
    assert min(later) == times[11]


def test_a_driver_says_that_nobody_was_busy_in_two_ways(stage: Stage) -> None:
    standin, child = stage(Gpu())

    assert child.code(SAMPLES.format(0)) == 6
    standin.change(0, util_success_if_nobody=True)
    answer = child.ask("(lambda: nv.nvmlDeviceGetProcessUtilization(gpu(), 0))()")
    assert (answer.code, answer.value) == (0, None)
    standin.change(0, util_garbage=True)
    assert {sm for _, _, sm, _ in child.value(SAMPLES.format(0))} == {3_000_000_000, 100, 99, 50}
    standin.change(0, util_insufficient=1)
    assert [child.code(SAMPLES.format(0)) for _ in range(2)] == [7, 0]
    standin.change(0, util_error=999)
    assert child.code(SAMPLES.format(0)) == 999


def test_a_card_with_instances_shows_each(stage: Stage) -> None:
    instances = (Instance(sms=32, compute=((4321, 2**30),)), None, Instance(sms=16, activity=25.0))
    standin, child = stage(Gpu(mig=instances), Gpu())
    slots = "[nv.nvmlDeviceGetMigDeviceHandleByIndex(gpu(), i) for i in (0, 2)]"
    standin.put("0.2:100:50", 99, start=time.monotonic() - 10)

    assert child.value("[nv.nvmlDeviceGetMigMode(gpu(i)) for i in (0, 1)]") == [[1, 1], [0, 0]]
    assert child.value("[nv.nvmlDeviceGetMaxMigDeviceCount(gpu(i)) for i in (0, 1)]") == [7, 0]
    assert child.code("nv.nvmlDeviceGetMigDeviceHandleByIndex(gpu(), 1)") == 6
    made = [i.uuid for i in standin.gpus[0].mig or () if i]
    assert child.value(f"[nv.nvmlDeviceGetUUID(h) for h in {slots}]") == made
    assert child.value(f"[nv.nvmlDeviceGetAttributes_v2(h).multiprocessorCount for h in {slots}]") == [32, 16]
    assert child.value(f"[nv.nvmlDeviceGetGpuInstanceId(h) for h in {slots}]") == [1, 3]
    listed = "[(p.pid, p.gpuInstanceId) for p in nv.nvmlDeviceGetComputeRunningProcesses({})]"
    assert child.value(f"[{listed.format('h')} for h in {slots}]") == [[[4321, 1]], [[99, 3]]]
    assert sorted(child.value(listed.format("gpu()"))) == [[99, 3], [4321, 1]]
    assert child.code(SAMPLES.format(0)) == 3
    assert child.code("nv.nvmlDeviceGetUtilizationRates(gpu())") == 3
    child.value(f"keep({slots}[1])")
    standin.change(0, mig=instances[:1])
    assert child.code("nv.nvmlDeviceGetComputeRunningProcesses(kept[0])") == 2


GPM = """
(lambda a, b: (nv.nvmlGpmMigSampleGet(gpu(), 3, a), time.sleep({}), nv.nvmlGpmMigSampleGet(gpu(), 3, b),
 (m := nv.c_nvmlGpmMetricsGet_t()), setattr(m, "version", 1), setattr(m, "numMetrics", 1), setattr(m, "sample1", a),
 setattr(m, "sample2", b), setattr(m.metrics[0], "metricId", 2), nv.nvmlGpmMetricsGet(m),
 [m.metrics[0].nvmlReturn, m.metrics[0].value])[-1])(nv.nvmlGpmSampleAlloc(), nv.nvmlGpmSampleAlloc())
"""


def test_the_activity_of_an_instance_lies_between_two_moments(stage: Stage) -> None:
    standin, child = stage(Gpu(mig=(None, None, Instance(activity=25.0))))
    standin.put("0.2:100:50", 99, start=time.monotonic() - 10)
    lines = "".join(GPM.splitlines())

    assert child.value("nv.nvmlGpmQueryDeviceSupport(gpu()).isSupportedDevice") == 1
    assert child.value(lines.format(0.11)) == [0, 75.0]
    assert child.code(lines.format(0.01)) == 2
    standin.change(0, gpm=False)
    assert child.code(lines.format(0.11)) == 3
