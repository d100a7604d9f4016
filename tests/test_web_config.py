"""web.config.yml is read as Go's toolkit reads it; what cannot be used is refused with its line and the remedy."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest

from standin.certificates import Authority, hashed
from standin.wire import descriptors
from wattgram.ports import ConfigError
from wattgram_exporters import webconfig
from wattgram_exporters.guard import Guard
from wattgram_exporters.prometheus import check_web_config, open_exporter
from wattgram_exporters.tls import is_allowed
from wattgram_exporters.yamlfile import MOST_BYTES

HASH = hashed("wonder")
SECRET = "hunter2-the-secret"
PAIR = "tls_server_config: {cert_file: cert.pem, key_file: key.pem"
BEGIN = "-----BEGIN "


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where certificates lie, and some that are none."""
    path = tmp_path_factory.mktemp("web")
    authority = Authority()
    authority.server(path)
    authority.server(path, "other.pem", "other-key.pem")
    authority.write(path / "ca.pem")
    (path / "empty.pem").write_text("")
    (path / "half.pem").write_text((path / "cert.pem").read_text()[:200])
    (path / "locked.pem").write_text(f"{BEGIN}ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    subprocess.run(
        ["openssl", "pkey", "-in", path / "key.pem", "-aes128", "-passout", "pass:x", "-out", path / "locked.pem"],
        check=True,
        capture_output=True,
    )
    os.mkfifo(path / "pipe.pem")
    return path


def write(directory: Path, text: str) -> Path:
    """A configuration among the certificates."""
    path = directory / "web.yml"
    path.write_text(text)
    return path


GOOD = {
    "nothing at all": "",
    "comments": "# later\n",
    "empty tables": "tls_server_config:\nbasic_auth_users: {}\nhttp_server_config:\nrate_limit: {}\n",
    "a certificate": PAIR + "}",
    "its own settings": PAIR + ", min_version: TLS13, max_version: TLS13, prefer_server_cipher_suites: no}",
    "old versions": PAIR + ", min_version: TLS10, max_version: TLS12}",
    "suites": PAIR + ", cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]}",
    "suites of TLS 1.3 alone": PAIR + ", cipher_suites: [TLS_AES_128_GCM_SHA256]}",
    "a curve": PAIR + ", curve_preferences: [CurveP384]}",
    "another curve": PAIR + ", curve_preferences: [CurveP521]}",
    "a client's certificate": PAIR + ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}",
    "with names": PAIR
    + ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [a.example]}",
    "one if given": PAIR + ", client_ca_file: ca.pem, client_auth_type: VerifyClientCertIfGiven}",
    "none": PAIR + ", client_auth_type: NoClientCert}",
    "one that does not matter": PAIR + ", client_auth_type: RequestClientCert}",
    "headers": "http_server_config: {http2: false, headers: {X-Frame-Options: deny, Strict-Transport-Security: a}}",
    "users": f"basic_auth_users:\n  alice: {HASH}\n  1: {HASH}\n",
    "a limit": "rate_limit: {interval: 1m30s, burst: 5}",
    "a limit in nanoseconds": "rate_limit: {interval: 1000000000, burst: 5}",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_what_the_toolkit_takes_is_taken(directory: Path, text: str) -> None:
    """Keys, spellings and defaults are its own."""
    check_web_config(str(write(directory, text)))


def test_a_certificate_may_stand_in_the_file(directory: Path) -> None:
    """As Go's toolkit allows; it never lies on a disk again."""
    pems = {"cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem"}
    lines = [f"  {key}: |\n" + _indented((directory / name).read_text()) for key, name in pems.items()]
    before = descriptors()

    check_web_config(
        str(write(directory, "tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n" + "".join(lines)))
    )

    assert before == descriptors()


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


MUTUAL = ", client_ca_file: ca.pem, client_auth_type: "
BAD = {
    "not text": ("\xff\xfe", "UTF-8"),
    "no YAML": ("a: [\n", ":2: "),
    "a tab": ("tls_server_config:\n\tcert_file: a\n", ":2: "),
    "no table": ("- a\n", "expected keys"),
    "a table that is none": ("tls_server_config: 5", ":1: tls_server_config: expected keys"),
    "an unknown key": (
        "tls_server_config:\n  cert_fil: a\n",
        ":2: tls_server_config.cert_fil: unknown key; the nearest",
    ),
    "its neighbour": ("tls_server_config: {cert_fil: a}", "is tls_server_config.cert_file"),
    "an unknown table": ("tls_config: {}", "tls_config: unknown key; the nearest is tls_server_config"),
    "a key in the wrong table": ("burst: 1", "the nearest is rate_limit.burst"),
    "a key twice": (
        "tls_server_config:\n  cert_file: a\n  cert_file: b\n",
        ":3: tls_server_config.cert_file: it stands",
    ),
    "a table twice": ("rate_limit: {}\nrate_limit: {}\n", ":2: rate_limit: it stands there twice"),
    "a user twice": (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", ":3: basic_auth_users.a: it stands there twice"),
    "a list for text": ("tls_server_config: {cert_file: [a]}", "cert_file: expected text"),
    "text for a list": (PAIR + ", cipher_suites: a}", "cipher_suites: expected a list"),
    "a word for a truth": ("http_server_config: {http2: maybe}", "http2: expected true or false"),
    "half a number": ("rate_limit: {burst: 1.5}", "burst: expected a whole number"),
    "an odd duration": ("rate_limit: {interval: 5 parsecs, burst: 1}", "interval: expected a duration"),
    "a limit that lets nobody in": ("rate_limit: {interval: 1s}", "set burst: 1 or more"),
    "no key": ("tls_server_config: {cert_file: cert.pem}", "key_file (or key) is missing"),
    "no certificate": ("tls_server_config: {key_file: key.pem}", "cert_file (or cert) is missing"),
    "clients and no certificate": ("tls_server_config: {client_auth_type: NoClientCert}", "cert_file"),
    "a certificate that is not there": ("tls_server_config: {cert_file: no, key_file: key.pem}", "No such file"),
    "an empty certificate": ("tls_server_config: {cert_file: empty.pem, key_file: key.pem}", "no certificate in it"),
    "half a certificate": ("tls_server_config: {cert_file: half.pem, key_file: key.pem}", "half.pem"),
    "a pipe": ("tls_server_config: {cert_file: pipe.pem, key_file: key.pem}", "no regular file"),
    "a folder": ("tls_server_config: {cert_file: ., key_file: key.pem}", "Is a directory"),
    "a certificate as key": ("tls_server_config: {cert_file: cert.pem, key_file: cert.pem}", "no private key in it"),
    "another's key": ("tls_server_config: {cert_file: cert.pem, key_file: other-key.pem}", "do not belong together"),
    "a key with a password": ("tls_server_config: {cert_file: cert.pem, key_file: locked.pem}", "has a password"),
    "authorities without effect": (PAIR + ", client_ca_file: ca.pem}", "no effect without client_auth_type"),
    "authorities that are none": (PAIR + MUTUAL.replace("ca.pem", "key.pem") + "VerifyClientCertIfGiven}", "no certif"),
    "no authorities": (PAIR + ", client_auth_type: RequireAndVerifyClientCert}", "client_ca_file is missing"),
    "any certificate": (PAIR + MUTUAL + "RequireAnyClientCert}", "Python's ssl cannot"),
    "any certificate, as of old": (PAIR + MUTUAL + "RequireClientCert}", "Python's ssl cannot"),
    "an unknown kind": (PAIR + MUTUAL + "RequireAndVerifyClientCerts}", "the nearest is RequireAndVerifyClientCert"),
    "names without certificates": (PAIR + MUTUAL + "VerifyClientCertIfGiven, client_allowed_sans: [a]}", "it needs"),
    "an unknown version": (PAIR + ", min_version: TLS1.2}", "min_version: TLS1.2 is not known; the nearest is TLS12"),
    "versions the wrong way": (PAIR + ", min_version: TLS13, max_version: TLS12}", "above max_version"),
    "an unknown suite": (PAIR + ", cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}", "the nearest is TLS_RSA_WITH_"),
    "suites that cannot be": (PAIR + ", max_version: TLS12, cipher_suites: [TLS_AES_128_GCM_SHA256]}", "forbids"),
    "an unknown curve": (PAIR + ", curve_preferences: [CurveP257]}", "the nearest is CurveP256"),
    "a header that cannot be set": ("http_server_config: {headers: {Server: a}}", "Server: this header cannot be set"),
    "a header's odd value": ("http_server_config: {headers: {X-Frame-Options: never}}", "never is not known"),
    "a header in two lines": ('http_server_config: {headers: {X-XSS-Protection: "1\\nX: y"}}', "one line of ASCII"),
    "a password in place of a hash": (f"basic_auth_users: {{alice: {SECRET}}}", "users.alice: expected a bcrypt hash"),
    "no hash": ("basic_auth_users: {alice: }", "expected a bcrypt hash"),
    "a hash cut short": (f"basic_auth_users: {{alice: {HASH[:-1]}}}", "expected a bcrypt hash"),
    "a cost that takes minutes": (f"basic_auth_users: {{alice: {HASH.replace('$04$', '$20$')}}}", "a cost of 20"),
    "a hash in place of a user": (f"basic_auth_users: {{{HASH}: alice}}", "basic_auth_users.…"),
    "a secret with a quote": (f"basic_auth_users:\n  alice: '{SECRET}\n", ":"),
    "a secret as an alias": (f"basic_auth_users:\n  alice: *{SECRET}\n", "undefined alias"),
    "a secret as a tag": (f"basic_auth_users:\n  alice: !{SECRET} x\n", "expected text"),
    "a secret as a key": (f"basic_auth_users:\n  alice: {{{SECRET}: 1}}\n", "expected text"),
    "a bottomless list": ("[" * 100_000, "nested too deep"),
    "itself": ("rate_limit: &a {interval: *a}", "expected text"),
    "a thousand lines": ("#" * (MOST_BYTES + 1), "longer than"),
}


@pytest.mark.parametrize(("text", "complaint"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_refused_with_its_place(directory: Path, text: str, complaint: str) -> None:
    """File, line, key path and what to do; never a value that may be a secret."""
    path = directory / "web.yml"
    path.write_bytes(text.encode("latin-1") if "\xff" in text else text.encode())

    with pytest.raises(ConfigError) as caught:
        check_web_config(str(path))

    told = str(caught.value)
    assert complaint in told
    assert SECRET not in told
    assert HASH not in told
    assert len(told) < 400


def test_a_file_that_is_not_there_is_named(directory: Path) -> None:
    """With its key in our own configuration."""
    with pytest.raises(ConfigError, match=r"web\.config_file = .*/nowhere.yml: No such file"):
        open_exporter("127.0.0.1:0", lambda: None, str(directory / "nowhere.yml"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["yaml", "bcrypt"])
def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    directory: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who wants passwords or TLS needs them."""
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ConfigError, match=rf'{name}.*pip install "wattgram\[auth\]"'):
        check_web_config(str(write(directory, f"basic_auth_users: {{alice: {HASH}}}")))


def test_neither_library_is_imported_without_a_file() -> None:
    """They cost memory."""
    code = "import sys, wattgram_exporters.prometheus as p; p.open_exporter('127.0.0.1:0', None); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert set() == {"yaml", "bcrypt"} & set(done.stdout.split())


def test_what_was_read_shows_no_secret(directory: Path) -> None:
    """A traceback shows reprs."""
    key = "  key: |\n" + _indented((directory / "key.pem").read_text())
    users = f"basic_auth_users: {{alice: {HASH}}}\n"

    settings = webconfig.read(write(directory, f"tls_server_config:\n  cert_file: cert.pem\n{key}{users}"))

    assert HASH not in repr(settings)
    assert "PRIVATE" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "scheme", "is_open"),
    [
        ("", "http", True),
        (f"basic_auth_users: {{a: {HASH}}}", "http", False),
        (PAIR + "}", "https", True),
        (PAIR + MUTUAL + "VerifyClientCertIfGiven}", "https", True),
        (PAIR + MUTUAL + "RequireAndVerifyClientCert}", "https", False),
    ],
    ids=["nothing", "a password", "TLS", "a certificate if given", "a certificate"],  # a hash is new at each run
)
def test_it_is_known_who_may_look(directory: Path, text: str, scheme: str, is_open: bool) -> None:  # noqa: FBT001
    """For the line that says where to look, and the warning that anybody may."""
    exporter = open_exporter("127.0.0.1:0", lambda: None, str(write(directory, text)))  # type: ignore[arg-type]

    assert (scheme, is_open) == (exporter.scheme, exporter.is_open)


def test_several_curves_are_one_warning(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Python's ssl takes one."""
    Guard(str(write(directory, PAIR + ", curve_preferences: [X25519, CurveP256]}")))

    (record,) = caplog.records
    assert "only one" in record.getMessage()
    assert record.getMessage().split()[-1] in ("X25519", "CurveP256")


@pytest.mark.parametrize(
    ("kind", "name", "allowed"),
    [
        ("DNS", "a.example", True),
        ("DNS", "A.example", False),
        ("DNS", "a.example.org", False),
        ("email", "a.example", True),
        ("URI", "spiffe://a/b", True),
        ("IP Address", "192.0.2.7", True),
        ("IP Address", "2001:DB8:0:0:0:0:0:1", True),
        ("IP Address", "192.0.2.77", False),
        ("Registered ID", "192.0.2.7", False),
    ],
)
def test_a_name_is_allowed_exactly(kind: str, name: str, allowed: bool) -> None:  # noqa: FBT001
    """Of whatever kind, as Go writes it."""
    sans = ("a.example", "spiffe://a/b", "192.0.2.7", "2001:db8::1")

    assert allowed == is_allowed([("DNS", "b.example"), (kind, name)], sans)
    assert is_allowed([], None)
    assert not is_allowed([], ())


def test_nothing_is_printed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a password must not ask for it: a daemon has no terminal, and would wait for ever."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked"))

    with pytest.raises(ConfigError, match="nobody is there to type"):
        check_web_config(str(write(directory, "tls_server_config: {cert_file: cert.pem, key_file: locked.pem}")))
