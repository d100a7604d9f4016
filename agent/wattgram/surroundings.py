"""What a daemon needs of its host beside meters: rights, files, a port, a clock; and what mends each."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import platform
import pwd
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from shlex import quote

from wattgram import __version__, registry
from wattgram.config import DEFAULT_FILE, Config
from wattgram.crew import cache_file
from wattgram.diagnosis import ABSENT, BROKEN, FILES, FINE, HOST, PORT, RIGHTS, Finding
from wattgram.measuring import find_daemon
from wattgram.plan import enabled_sources
from wattgram.ports import ConfigError, ReadFailed, Secret
from wattgram.rundir import RunDirectory
from wattgram.tools.fetch import Fetcher

GROUP = "wattgram"
HEALTHY_SECONDS = 2.0
ALIVE = b"wattgram is alive"
# Those of capabilities(7) that matter to a meter, by their bit.
CAPABILITIES = {1: "CAP_DAC_OVERRIDE", 2: "CAP_DAC_READ_SEARCH", 21: "CAP_SYS_ADMIN", 38: "CAP_PERFMON"}
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
CLOCK_WRONG = 5  # TIME_ERROR of adjtimex(2)
TIMEX_BYTES = 1024  # more than any `struct timex`
REFUSED = (errno.EACCES, errno.EPERM)
CONTAINER = (
    "docker run --user 0 --cap-drop ALL --cap-add DAC_READ_SEARCH --volume /sys:/sys:ro --gpus all "
    "--env NVIDIA_DRIVER_CAPABILITIES=utility IMAGE"
)
POD = (
    "in the container's spec: securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [DAC_READ_SEARCH]}}, "
    "the host's /sys as a read-only volume, and runtimeClassName: nvidia"
)


# --- rights -----------------------------------------------------------------------------------------


def rights(config: Config, environ: Mapping[str, str], dev: Path = Path("/dev")) -> Iterator[Finding]:
    """Yield who we are, and whether that suffices for the files that meters are read from."""
    roots = {name: Path(str(getattr(config.sources[name], "path", "/sys"))) for name in enabled_sources(config)}
    yield Finding(RIGHTS, "user", FINE, _identity())
    if "nvml" in roots:
        yield _nvidia(dev, roots["nvml"], environ)
    if "rapl" in roots:
        yield _powercap(roots["rapl"] / "class" / "powercap", environ)


def _identity() -> str:
    groups = ", ".join(sorted({_group(gid) for gid in (os.getegid(), *os.getgroups())}))
    held = _capabilities()
    return f"{_user()} (uid {os.geteuid()}); groups {groups}; capabilities: {', '.join(held) or 'none that matters'}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _capabilities() -> list[str]:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        held = int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
        return [name for bit, name in CAPABILITIES.items() if held >> bit & 1]
    return []


def _sudo() -> str:
    return "" if os.geteuid() == 0 else "sudo "


def _nvidia(dev: Path, sysfs: Path, environ: Mapping[str, str]) -> Finding:
    files = sorted(path for path in dev.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
    files += [path for path in (dev / "nvidiactl",) if _is_there(path)]
    cards = _cards(sysfs)
    what = "NVIDIA files"
    if not files and cards:
        inside = _container(environ)
        remedy = _anew(inside) if inside else f"{_sudo()}modprobe nvidia\nnvidia-smi"
        seen = f"{cards} NVIDIA GPU{'s' if cards > 1 else ''} on the PCI bus"
        return Finding(RIGHTS, what, BROKEN, f"{seen}, and no {dev}/nvidiactl", remedy)
    if not files:
        return Finding(RIGHTS, what, ABSENT, f"no {dev}/nvidia*, and no NVIDIA GPU on the PCI bus")
    denied = [path for path in files if not os.access(path, os.R_OK | os.W_OK)]
    if not denied:
        return Finding(RIGHTS, what, FINE, f"{len(files)} of {dev}/nvidia* may be read and written")
    names = " ".join(quote(str(path)) for path in denied)
    return Finding(RIGHTS, what, BROKEN, f"may not be read and written: {names}", _device_grant(denied[0], names))


def _device_grant(example: Path, names: str) -> str:
    joined = _join_group(example, stat.S_IRGRP | stat.S_IWGRP)
    return joined or f"{_sudo()}setfacl -m u:{_user()}:rw {names}\nlost at the next start of the driver: use its group"


def _cards(sysfs: Path) -> int:
    """NVIDIA GPUs on the PCI bus, whether or not a driver has them."""
    count = 0
    for vendor in (sysfs / "bus" / "pci" / "devices").glob("*/vendor"):
        with contextlib.suppress(OSError):
            kind = vendor.with_name("class").read_text(encoding="ascii", errors="replace")
            count += _line(vendor) == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS)
    return count


def _powercap(powercap: Path, environ: Mapping[str, str]) -> Finding:
    files = sorted(powercap.glob("intel-rapl*:*/energy_uj"))
    what = "RAPL counters"
    if not files:
        return Finding(RIGHTS, what, ABSENT, f"none in {powercap}")
    denied = [path for path in files if _refusal(path) in REFUSED]
    if not denied:
        return Finding(RIGHTS, what, FINE, f"{len(files)} of {powercap}/*/energy_uj may be read")
    detail = f"{len(denied)} of {len(files)} may not be read, such as {denied[0]}"
    return Finding(
        RIGHTS,
        what,
        BROKEN,
        detail,
        _counter_grant(denied[0], powercap, _container(environ), is_root=os.geteuid() == 0),
    )


def _counter_grant(example: Path, powercap: Path, container: str, *, is_root: bool) -> str:
    """The commands that let a group read the counters, now and after a restart; never everybody (PLATYPUS)."""
    if container:
        return _anew(container)
    if is_root:
        return "the service lacks a capability: AmbientCapabilities=CAP_DAC_READ_SEARCH in its unit"
    joined = _join_group(example, stat.S_IRGRP)
    if joined:
        return joined
    zones = f"{quote(f'{powercap}/intel-rapl:*')} {quote(f'{powercap}/intel-rapl:*:*')}"
    return (
        f"sudo groupadd -f {GROUP} && sudo usermod -aG {GROUP} {_user()}\n"
        f"printf 'z %s/energy_uj 0440 root {GROUP} -\\n' {zones} | sudo tee /etc/tmpfiles.d/wattgram.conf\n"
        "sudo systemd-tmpfiles --create wattgram.conf\nthen log in again, or restart the service"
    )


def _anew(container: str) -> str:
    """How a container is started so that it sees the meters of its host."""
    return POD if container.startswith("kubernetes") else CONTAINER


def _join_group(path: Path, wanted: int) -> str:
    """The command that makes us a member of a file's group, if that would help."""
    try:
        found = path.stat()
    except OSError:
        return ""
    helps = found.st_gid != 0 and found.st_mode & wanted == wanted
    return f"sudo usermod -aG {_group(found.st_gid)} {_user()}\nthen log in again" if helps else ""


def _refusal(path: Path) -> int:
    """The error number of reading a file; 0: none."""
    try:
        with path.open("rb", buffering=0) as file:
            file.read(1)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


# --- files ------------------------------------------------------------------------------------------


def files(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield how each file stands that the configuration names; never what is in a secret one."""
    yield _configuration(config.file)
    for name, secret in config.secrets.items():
        required = name in config.carbon.providers
        options = config.providers[name]
        named = [str(getattr(options, f.name)) for f in fields(options) if f.name.endswith("_file")]
        paths = [Path(path) for path in named if path]
        yield from (_secret_file(name, path, required=required) for path in paths)
        if not paths:
            yield _secret(name, secret, required=required)
    if config.carbon.zone:
        yield _cache(cache_file(config, environ))
    if config.web.config_file:
        yield _web(Path(config.web.config_file))


def _configuration(file: Path | None) -> Finding:
    if file is None:
        detail = f"none: {DEFAULT_FILE} is not there; flags, environment and defaults are in force"
        return Finding(FILES, "configuration", FINE, detail)
    with contextlib.suppress(OSError):
        if file.stat().st_mode & stat.S_IWOTH:  # whoever writes it can send the token elsewhere
            remedy = f"{_sudo()}chmod o-w {quote(str(file))}"
            return Finding(FILES, "configuration", BROKEN, f"{file} can be written by everybody", remedy)
    return Finding(FILES, "configuration", FINE, f"{file} is good")


def _secret_file(name: str, path: Path, *, required: bool) -> Finding:
    what, shown = f"{name} token", quote(str(path))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        remedy = f"{_sudo()}install -m 0400 -o {_user()} /dev/stdin {shown}\nand paste it, ended with Ctrl-D"
        return Finding(FILES, what, BROKEN, f"{path}: {error.strerror}", remedy, required)
    if _refusal(path):
        remedy = f"{_sudo()}chown {_user()} {shown}\n{_sudo()}chmod 0400 {shown}"
        return Finding(FILES, what, BROKEN, f"{path} may not be read by {_user()}", remedy, required)
    if mode & stat.S_IRWXO:
        remedy = f"{_sudo()}chmod o= {shown}"
        return Finding(FILES, what, BROKEN, f"{path} is open to everybody: mode {stat.S_IMODE(mode):04o}", remedy)
    return Finding(FILES, what, FINE, f"{path} may be read, and not by everybody", required=required)


def _secret(name: str, secret: Secret, *, required: bool) -> Finding:
    what = f"{name} token"
    try:
        secret.reveal()
    except ReadFailed as failure:
        remedy = f"give it again: {secret.origin}, or carbon.{name}.token_file"
        return Finding(FILES, what, BROKEN, str(failure), remedy, required)
    return Finding(FILES, what, FINE, f"from {secret.origin}", required=required)


def _cache(path: Path | None) -> Finding:
    what = "carbon.cache_file"
    if path is None:
        return Finding(FILES, what, ABSENT, "nowhere to keep it: HOME is not set", "set carbon.cache_file")
    nearest = next((p for p in path.parents if _is_there(p)), Path("/"))
    with contextlib.suppress(OSError):
        if os.access(nearest, os.W_OK) and nearest.is_dir() and not path.is_dir():
            age = f", last written {(time.time() - path.stat().st_mtime) / 60:,.0f} min ago" if _is_there(path) else ""
            return Finding(FILES, what, FINE, f"{path} can be written{age}")
    remedy = f"{_sudo()}install -d -o {_user()} {quote(str(path.parent))}\nor set carbon.cache_file"
    return Finding(FILES, what, ABSENT, f"{path} cannot be written: a restart begins without a fetched price", remedy)


def _web(path: Path) -> Finding:
    trouble = _refusal(path)
    if trouble:
        remedy = f"{_sudo()}chown {_user()} {quote(str(path))}\nor set web.config_file"
        return Finding(FILES, "web.config_file", BROKEN, f"{path}: {os.strerror(trouble)}", remedy, required=True)
    try:
        registry.web_config_check("prometheus")(str(path))
    except ConfigError as error:
        return Finding(FILES, "web.config_file", BROKEN, str(error), "wattgram check-config, until it is good", True)  # noqa: FBT003
    return Finding(FILES, "web.config_file", FINE, f"{path} and what it names are good")


def _is_there(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.exists()
    return False


# --- port -------------------------------------------------------------------------------------------


def local_api(config: Config) -> Iterator[Finding]:
    """Look whether this user may ask a daemon what a command used."""
    if not config.local.enabled:
        return
    daemon, refusals = find_daemon(config.local.socket)
    if daemon is not None:
        words = f"wattgram measure --socket {config.local.socket}" if config.local.socket else "wattgram measure"
        yield Finding(PORT, "local API", FINE, f"a daemon answers: {words} asks it")
        return
    why = "; ".join(refusals) or "no daemon has opened one"
    remedy = "needed only for wattgram measure, which meters itself else; docs/local-api.md says who may connect"
    yield Finding(PORT, "local API", ABSENT, why, remedy)


def port(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether the address is free, held by a wattgram that lives, or held by somebody else."""
    listen = config.web.listen
    host, _, number = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        host.encode("idna")  # the socket would refuse such a name with an error of another kind
        socket.create_server((host, int(number)), family=family).close()
    except (OSError, OverflowError, UnicodeError) as error:
        ours = RunDirectory(listen, environ).daemon() is not None
        yield _taken(listen, host, number, error, ours=ours)
    else:
        yield Finding(PORT, "web.listen", FINE, f"{listen} is free")


def _taken(listen: str, host: str, number: str, error: Exception, *, ours: bool) -> Finding:
    code = getattr(error, "errno", None)
    detail = f"{listen}: {os.strerror(code) if code and code > 0 else error}"
    if code == errno.EADDRINUSE and (ours or _is_ours(host, number)):
        return Finding(PORT, "web.listen", FINE, f"{listen} is held by a wattgram that runs and answers")
    if code == errno.EADDRINUSE:
        other = f"{listen.rpartition(':')[0]}:{int(number) + 1}"
        remedy = f"{_sudo()}ss -ltnp 'sport = :{number}'\nwattgram run --listen {other}"
        return Finding(PORT, "web.listen", BROKEN, f"{detail}, by somebody who is no wattgram", remedy)
    if code in REFUSED:
        remedy = "take a port above 1023: wattgram run --listen 0.0.0.0:14044"
        return Finding(PORT, "web.listen", BROKEN, detail, remedy)
    return Finding(
        PORT, "web.listen", BROKEN, detail, "set web.listen to an address of this host, as ip -brief address"
    )


def _is_ours(host: str, number: str) -> bool:
    near = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not listened on
    fetcher = Fetcher(HEALTHY_SECONDS)
    try:
        reply = fetcher.get(f"http://{f'[{near}]' if ':' in near else near}:{number}/-/healthy", {}, {})
    except ReadFailed:
        return False
    finally:
        fetcher.close()
    return reply.status == 200 and reply.body.startswith(ALIVE)  # noqa: PLR2004


# --- host -------------------------------------------------------------------------------------------


def host(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what this host is, and whether its clock may be believed."""
    versions = f"wattgram {__version__}, Python {platform.python_version()}, Linux {platform.release()}"
    yield Finding(HOST, "versions", FINE, f"{versions} on {platform.machine()}")
    inside = _container(environ)
    yield Finding(HOST, "container", FINE, inside or "none seen")
    yield from _credentials(environ)
    yield _clock(environ)


def _container(environ: Mapping[str, str], root: Path = Path("/")) -> str:
    """Which container this is, and how that is known; empty: none is seen."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes (KUBERNETES_SERVICE_HOST)"
    if environ.get("container"):  # what systemd-nspawn, podman and LXC set
        return f"{environ['container']} (the variable container)"
    marks = {"docker": root / ".dockerenv", "podman": root / "run" / ".containerenv"}
    return next((f"{name} ({path})" for name, path in marks.items() if _is_there(path)), "")


def _credentials(environ: Mapping[str, str]) -> Iterator[Finding]:
    given = environ.get("CREDENTIALS_DIRECTORY")
    if given:
        try:
            names = ", ".join(sorted(path.name for path in Path(given).iterdir())) or "nothing"
        except OSError as error:
            yield Finding(HOST, "credentials", BROKEN, f"{given}: {error.strerror}", "LoadCredential= in the unit")
        else:
            yield Finding(HOST, "credentials", FINE, f"{given} holds {names}")
    elif _is_there(Path("/run/systemd/system")):
        yield Finding(HOST, "credentials", ABSENT, "no $CREDENTIALS_DIRECTORY: only a service sees its LoadCredential=")


def _clock(environ: Mapping[str, str]) -> Finding:
    """Whether the kernel believes that its clock is disciplined: a joule is priced by the time of its use."""
    state = -1
    with contextlib.suppress(OSError, AttributeError):
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # all zero: it only asks
    if state < 0:
        return Finding(HOST, "clock", ABSENT, "the kernel does not say whether it is synchronised")
    if state != CLOCK_WRONG:
        return Finding(HOST, "clock", FINE, "synchronised")
    remedy = "on the host, not in here: timedatectl set-ntp true" if _container(environ) else ""
    remedy = remedy or f"{_sudo()}timedatectl set-ntp true"
    return Finding(HOST, "clock", BROKEN, "not synchronised: joules may be priced at the wrong hour", remedy)


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()
