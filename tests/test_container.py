"""The image: its file as a linter and a reviewer would read it, its steps run, and the daemon in what they made.

No engine is needed: the steps are carried out in a folder that stands for the image's root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from standin.daemon import Daemon, free_port
from standin.watching import wait
from wattgram import config, healthcheck

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = CHECKOUT / "deploy" / "container"
FILE = FOLDER / "Containerfile"
USER = 65532
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the file: its word and the rest, lines joined."""
    text = "".join(line for line in FILE.read_text().splitlines(keepends=True) if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]


def last_stage() -> list[tuple[str, str]]:
    steps = instructions()
    return steps[max(n for n, (word, _) in enumerate(steps) if word == "FROM") :]


def the(word: str) -> str:
    """What the last stage says after a word that it has once."""
    (found,) = [rest for name, rest in last_stage() if name == word]
    return found


def environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", the("ENV")))


# --- as it is read --------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    """Every rule, pragmas of ours none: the linter itself, which comes with the tests' requirements."""
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not program:
        pytest.skip("no hadolint: it comes with the group `test` of pyproject.toml")

    done = subprocess.run([program, "--no-color", FILE], capture_output=True, text=True, timeout=60, check=False)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert "hadolint" not in FILE.read_text()


def test_the_image_is_slim_glibc_with_a_tag_and_room_for_a_digest() -> None:
    (base,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE=")]
    stages = [rest for word, rest in instructions() if word == "FROM"]

    assert re.fullmatch(r"BASE=[\w.]+/library/python:3\.\d+-slim-\w+", base)
    assert ["${BASE} AS build", "${BASE}"] == stages
    assert f"{base}@sha256:" in FILE.read_text()


def test_it_is_nobody_and_needs_no_shell() -> None:
    steps = instructions()

    assert f"{USER}:{USER}" == the("USER")
    assert ["/opt/wattgram/bin/wattgram"] == json.loads(the("ENTRYPOINT"))
    assert ["run"] == json.loads(the("CMD"))
    assert ["/opt/wattgram/bin/wattgram", "healthcheck"] == json.loads(the("HEALTHCHECK").partition("CMD ")[2])
    assert "SIGTERM" == the("STOPSIGNAL")
    assert not {"ADD", "SHELL", "VOLUME", "ONBUILD"} & {word for word, _ in steps}
    assert [] == [word for word, _ in last_stage() if word == "RUN"]
    assert not re.search(r"\b(curl|wget|apt-get|sudo|sh -c)\b", " ".join(rest for word, rest in steps if word == "RUN"))


def test_it_asks_the_nvidia_runtime_for_the_library_and_nothing_else() -> None:
    told = environment()

    assert ("all", "utility") == (told["NVIDIA_VISIBLE_DEVICES"], told["NVIDIA_DRIVER_CAPABILITIES"])
    assert not [name for name in told if re.search("TOKEN|PASSWORD|SECRET", name)]


def test_its_port_is_the_one_that_is_listened_on() -> None:
    assert config.load(None, {}, {}).web.listen.endswith(f":{the('EXPOSE')}")


def test_what_is_copied_is_there_and_passes_the_ignore_file() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for group in copied for source in group}
    passes = (FOLDER / "Containerfile.dockerignore").read_text().split()

    assert [] == [source for source in sources if not (CHECKOUT / source).exists()]
    assert passes[passes.index("*") :] == ["*", *(p for p in passes if p.startswith("!")), "**/__pycache__", "**/*.pyc"]
    assert {source.split("/")[0] for source in sources} == {p[1:] for p in passes if p.startswith("!")}


def pinned(name: str) -> dict[str, str]:
    """What a requirements file pins, by name; each with a hash at least."""
    blocks = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (FOLDER / name).read_text(), flags=re.MULTILINE)).splitlines()
    assert [] == [block for block in blocks if "--hash=sha256:" not in block]
    found = [Requirement(block.partition("--hash")[0].strip()) for block in blocks]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in found}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("requirements.txt", PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["auth"]),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_what_is_pinned_is_what_the_project_asks_for(name: str, asked: list[str]) -> None:
    """A dependency that is added, or whose least version rises, needs the file made anew."""
    known = pinned(name)

    wanted = [Requirement(text) for text in asked]

    assert [] == [str(r) for r in wanted if not r.specifier.contains(known.get(canonicalize_name(r.name), "0"))]


# --- as it is built -------------------------------------------------------------------------------


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder for the image's root, which its user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="wattgram-image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def build(root: Path) -> None:
    """Carry out the first stage below `root`. With a wheel at hand, and not at full length, without a network."""
    wheel = os.environ.get("WATTGRAM_WHEEL")
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for source in sources:
                copy(CHECKOUT / source, root / "src" / target / ("" if target == source else Path(source).name))
        elif word == "RUN" and wheel and os.environ.get("WATTGRAM_ACCEPT") != "full":
            if "hatchling" not in rest:
                step(root, "python -m venv --without-pip /opt/wattgram")
                (site,) = (root / "opt/wattgram/lib").glob("python3*/site-packages")
                (site / "libraries.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
            else:
                (root / "dist").mkdir()
                shutil.copy(wheel, root / "dist")
                # The libraries of this environment, which are lent, hold a wattgram too: it is not the image's.
                step(root, rest.partition("&& ")[2].replace("--no-cache-dir", "--no-cache-dir --ignore-installed"))
        elif word == "RUN":
            step(root, rest)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def step(root: Path, text: str) -> None:
    """Run a step as the builder's shell would, with `root` in front of each path of the image."""
    text = re.sub(r"(?<![\w.])/(opt|dist|home)\b", rf"{root}/\1", text)
    text = re.sub(r"(?<!/)\bpython(?= -m)", sys.executable, text)
    if os.geteuid() != 0:
        text = re.sub(r"--(owner|group) \d+", "", text)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        ["sh", "-ec", text],
        cwd=root / "src",
        env={**kept, "SOURCE_DATE_EPOCH": "1580601600", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.accept(
    "6.image", "the image's steps in clean environments, then the demonstration as nobody, healthy, ended"
)
def test_the_steps_make_a_daemon_that_is_healthy_and_ends(root: Path, report: Callable[[str], None]) -> None:
    """As its user, who can write nowhere but in two folders; the healthcheck is the image's own."""
    (root / "src").mkdir()
    build(root)
    state, run = root / "home/wattgram/state", root / "home/wattgram/run"
    told = {**environment(), "STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": str(run), "PATH": os.environ["PATH"]}
    program = [str(root) + json.loads(the("ENTRYPOINT"))[0]]
    listen = f"127.0.0.1:{free_port()}"
    told["WATTGRAM_WEB__LISTEN"] = listen
    user = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 and is_open_to_all(root) else {}
    before = files(root)

    def checked() -> subprocess.CompletedProcess[str]:
        check = [str(root) + json.loads(the("HEALTHCHECK").partition("CMD ")[2])[0], "healthcheck"]
        return subprocess.run(check, env=told, capture_output=True, text=True, timeout=60, check=False, **user)  # type: ignore[call-overload, no-any-return]

    first = checked()
    demo = subprocess.Popen([*program, "demo", "--listen", listen], env=told, stderr=subprocess.PIPE, text=True, **user)  # type: ignore[call-overload]
    try:
        wait(lambda: checked().returncode == 0)
        demo.terminate()
        code = demo.wait(10)
    finally:
        demo.kill()
        log = demo.communicate()[1]

    assert (1, True) == (first.returncode, "refused" in first.stderr)
    assert code == 0, log
    assert {state, run} >= {path.parent for path in files(root) - before}
    packages = len(list((root / "opt/wattgram/lib").glob("python3*/site-packages/*.dist-info")))
    who = f"as uid {USER}" if user else "as ourselves: this Python is not open to others"
    size = sum(path.stat().st_size for path in files(root / "opt/wattgram"))
    report(f"{who}; {packages} distributions, {size / 2**20:.0f} MiB")


def is_open_to_all(root: Path) -> bool:
    """Whether another user may run this Python, which is not so where it lies in a home."""
    python = (root / "opt/wattgram/bin/python").resolve()
    return all(path.stat().st_mode & 0o001 for path in (python, *python.parents))


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# --- the healthcheck ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("0.0.0.0:14044", ("127.0.0.1", 14044)),
        (":14044", ("127.0.0.1", 14044)),
        ("[::]:14044", ("::1", 14044)),
        ("192.0.2.7:80", ("192.0.2.7", 80)),
    ],
)
def test_a_daemon_is_reached_where_it_listens(listen: str, place: tuple[str, int]) -> None:
    assert place == healthcheck.near(listen)


@contextlib.contextmanager
def server(says: bytes | None) -> Iterator[str]:
    """Answers each question with these bytes and closes; None: says nothing and stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    held.append(connection)
                    if says is not None:
                        connection.recv(4096)
                        connection.sendall(says)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    ("says", "trouble"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nwattgram is alive\n", ""),
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", ""),  # it speaks TLS there
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", ""),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", ""),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "status 500"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 \r\n", "does not speak HTTP"),
        (b"", "said nothing"),
        (b"x" * 100_000, "does not speak HTTP"),
        (None, "in time|timed out"),
    ],
)
def test_what_answers_is_judged_by_its_first_line(says: bytes | None, trouble: str) -> None:
    with server(says) as listen:
        found = healthcheck.trouble(listen, patience=5.0 if says is not None else 0.2)

    assert (found == "") == (trouble == "")
    assert re.search(trouble, found)


def test_a_daemon_that_stands_still_is_not_well(tmp_path: Path) -> None:
    """The kernel still takes connections for a stopped process: only an answer counts."""
    off = "\n".join(f"[sources.{name}]\nenabled = false" for name in ("nvml", "rapl", "hwmon", "cgroups"))
    with Daemon(tmp_path, f"[sources.synthetic]\nenabled = true\n{off}\n") as daemon:
        well = healthcheck.trouble(daemon.target)
        daemon.send(signal.SIGSTOP)
        wait(lambda: " T " in Path(f"/proc/{daemon.pid}/stat").read_text())  # a thread may answer until then
        still = healthcheck.trouble(daemon.target, patience=0.5)
        daemon.send(signal.SIGCONT)

    assert "" == well
    assert "time" in still


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "nonsense"])
def test_the_command_leaves_with_one_and_says_why(listen: str) -> None:
    """Whatever is wrong: 2 is reserved by engines."""
    done = subprocess.run(
        [sys.executable, "-m", "wattgram", "healthcheck", "--listen", listen],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 1 == done.returncode
    assert done.stderr.startswith("wattgram: ")
    assert 1 == done.stderr.count("\n")
