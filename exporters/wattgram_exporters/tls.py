"""What `tls_server_config` asks for becomes the TLS library's context; Go's names become OpenSSL's."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
import warnings
from collections.abc import Collection, Iterator

from wattgram.ports import ConfigError
from wattgram_exporters.webconfig import CIPHERS, OPTIONAL, REQUIRED, Pem, Tls
from wattgram_exporters.yamlfile import content

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
BEGIN_CERTIFICATE, END_OF_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def context(tls: Tls) -> ssl.SSLContext:
    """Return what connections are encrypted with; raise ConfigError when the files do not serve."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Every connection proves itself anew: a resumed one would outlive a change of the authorities.
    made.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    made.num_tickets = 0
    made.set_alpn_protocols(["http/1.1"])
    if not tls.prefers_own_ciphers:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _set_versions(made, tls)
    if tls.curves:
        made.set_ecdh_curve(CURVES[curve(tls.curves)])
    _set_pair(made, tls)
    _set_clients(made, tls)
    return made


def curve(wanted: tuple[str, ...]) -> str:
    """Return the first curve that can be enforced here: Python's ssl takes one, and before 3.11 not X25519."""
    for name in wanted:
        with contextlib.suppress(ssl.SSLError, ValueError):
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve(CURVES[name])
            return name
    raise ConfigError(f"tls_server_config.curve_preferences: Python's ssl cannot enforce {', '.join(wanted)} here")


# The kinds of names that the toolkit compares: DNS, address, mail, URI, as OpenSSL calls them.
KINDS = frozenset({"DNS", "IP Address", "email", "URI"})


def is_allowed(names: Collection[tuple[str, str]], allowed: tuple[str, ...] | None) -> bool:
    """Whether one of a client certificate's names is allowed, exactly; `allowed` None: any."""
    return allowed is None or any(_as_go_writes(kind, name) in allowed for kind, name in names if kind in KINDS)


def _as_go_writes(kind: str, name: str) -> str:
    """OpenSSL writes an IPv6 address in capitals and at full length."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name.strip())) if kind == "IP Address" else name
    return name


def _set_versions(made: ssl.SSLContext, tls: Tls) -> None:
    """The versions, and what is spoken in them; the suites of TLS 1.3 cannot be chosen, in Go neither."""
    least, most = (VERSIONS[version] for version in tls.versions)
    older = [CIPHERS[cipher] for cipher in tls.ciphers if cipher in CIPHERS]
    if tls.ciphers and not older:
        least = ssl.TLSVersion.TLSv1_3
        if most < least:
            raise ConfigError("tls_server_config.cipher_suites: they are all of TLS 1.3, which max_version forbids")
    with warnings.catch_warnings():  # of old versions the user knows
        warnings.simplefilter("ignore", DeprecationWarning)
        made.minimum_version, made.maximum_version = least, most
    if older:
        try:
            made.set_ciphers(":".join(older))
        except ssl.SSLError as error:
            raise ConfigError("tls_server_config.cipher_suites: this system's OpenSSL offers none of them") from error


def _set_pair(made: ssl.SSLContext, tls: Tls) -> None:
    certificate, key = _read(tls.cert), _read(tls.key)
    if BEGIN_CERTIFICATE not in certificate:
        raise ConfigError(f"{_where(tls.cert)}: there is no certificate in it")
    if END_OF_KEY not in key:
        raise ConfigError(f"{_where(tls.key)}: there is no private key in it")
    both = f"{_where(tls.cert)} and {_where(tls.key)}"
    try:
        with _as_file(certificate) as certificate_file, _as_file(key) as key_file:
            made.load_cert_chain(certificate_file, key_file, password=_no_password)
    except ssl.SSLError as error:
        reason = "they do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else _reason(error)
        raise ConfigError(f"{both}: {reason}") from error
    except (PermissionError, ValueError) as error:
        raise ConfigError(f"{_where(tls.key)}: the key has a password, which nobody is there to type") from error


def _set_clients(made: ssl.SSLContext, tls: Tls) -> None:
    if tls.client_ca:
        authorities = _read(tls.client_ca)
        if BEGIN_CERTIFICATE not in authorities:
            raise ConfigError(f"{_where(tls.client_ca)}: there is no certificate in it")
        try:
            with _as_file(authorities) as file:
                made.load_verify_locations(file)
        except ssl.SSLError as error:
            raise ConfigError(f"{_where(tls.client_ca)}: {_reason(error)}") from error
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what is named is trusted, as in Go, be it a root or not
    verified = {REQUIRED: ssl.CERT_REQUIRED, OPTIONAL: ssl.CERT_OPTIONAL}
    made.verify_mode = verified.get(tls.client_auth, ssl.CERT_NONE)


def _read(pem: Pem) -> bytes:
    return content(pem.file, pem.key) if pem.file else pem.text.encode()


def _where(pem: Pem) -> str:
    return f"{pem.key} = {pem.file}" if pem.file else pem.key


@contextlib.contextmanager
def _as_file(text: bytes) -> Iterator[str]:
    """A path of what was read: the library takes only paths, and what lies in the file may have changed by now."""
    descriptor = os.memfd_create("wattgram-tls")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_password() -> str:
    raise PermissionError("the key has a password")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "cannot be used").replace("_", " ").lower()
