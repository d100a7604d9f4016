"""`wattgram top` over the real daemon: over TLS with a password, and the figures are the daemon's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from standin.certificates import Authority, hashed
from standin.daemon import Daemon
from standin.wire import free_port

CONFIG = """
[sources]
synthetic.enabled = true
nvml.enabled = false
rapl.enabled = false
hwmon.enabled = false
cgroups.enabled = false
[workloads.synthetic]
enabled = true
[carbon]
zone = "FR"
providers = ["annual"]
[web]
listen = "127.0.0.1:{port}"
config_file = "{web}"
"""


def top(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-m", "wattgram", "top", *arguments],
        env={**environment, "HOME": str(directory), "LANG": "C.UTF-8", "COLUMNS": "140"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.accept(
    "6.top", "the real daemon over TLS with a password: every device and workload, W of workloads add up"
)
def test_the_real_daemon_is_shown_over_tls_with_a_password(
    tmp_path: Path, seconds: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    """A healthcheck finds the same daemon alive; without the password, and without trust, nothing is shown."""
    authority = Authority()
    authority.server(tmp_path)
    ca = authority.write(tmp_path / "ca.pem")
    (tmp_path / "password").write_text("correct horse\n")
    web = tmp_path / "web.yml"
    web.write_text(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
        f"basic_auth_users:\n  ada: {hashed('correct horse')}\n"
    )
    port = free_port()
    proof = ("--user", "ada", "--password-file", str(tmp_path / "password"))
    address = f"localhost:{port}"
    with Daemon(tmp_path, CONFIG.format(port=port, web=web), port=port, wait=False) as daemon:
        daemon.wait_for_log("synthetic answers")
        untrusted = top(tmp_path, f"https://{address}", *proof, "--once")
        nameless = top(tmp_path, address, "--ca-file", str(ca), "--once")
        clear = top(tmp_path, f"http://{address}", "--once")
        good = top(tmp_path, address, "--ca-file", str(ca), *proof, "--once", "--interval", f"{seconds(2, 6):g}s")
        health = [sys.executable, "-m", "wattgram", "healthcheck", "--config", str(daemon.config_file)]
        alive = subprocess.run(health, capture_output=True, text=True, timeout=60, check=False)

    assert good.returncode == 0, good.stderr
    rows = good.stdout.splitlines()
    total = float(re.search(r"([\d,]+) W now", good.stdout)[1].replace(",", ""))  # type: ignore[index]
    watts = [line for line in rows if re.match(r"(slurm|pod|unit|idle|system)", line)]
    shown = [float(re.split(r"  +", line)[1].replace(",", "")) for line in watts]
    assert len([line for line in rows if line.startswith("GPU ")]) == 4
    assert len(watts) == 6
    assert sum(shown) == pytest.approx(total, rel=0.25)  # a moment against seconds
    assert all(done.returncode == 3 for done in (untrusted, nameless, clear))
    assert "--user" in nameless.stderr
    assert "HTTPS" in clear.stderr
    assert (0, "wattgram answers\n") == (alive.returncode, alive.stdout)
    assert "CERTIFICATE" in untrusted.stderr.upper()
    report(f"{total:.0f} W of devices, {sum(shown):.0f} W of {len(watts)} workloads")
