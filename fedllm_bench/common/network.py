"""What the environment says about connections: proxies and certificates; wrong values are named, each in one line.

The variables are those of curl: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, where lower case comes first, and
OpenSSL's SSL_CERT_FILE and SSL_CERT_DIR. `requests` reads REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE beside them.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from fedllm_bench.common.errors import UserError, first_line

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
URLLIB_SCHEMES = ("http", "https")  # which also knows no ALL_PROXY
OPENSSL = ("SSL_CERT_FILE",)
REQUESTS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ADDRESS = re.compile(r"https?://[^/\s@]+(/\S*)?")


@dataclass(frozen=True)
class Proxy:
    """A proxy and the variable that names it."""

    variable: str
    value: str

    @property
    def address(self) -> str:
        return self.value if "://" in self.value else f"http://{self.value}"

    def __str__(self) -> str:
        """As it is shown: without user and password."""
        shown = re.sub(r"(//|^)[^/]*@", r"\1***@", self.value)
        return f"{self.variable}={''.join(c if c.isprintable() else '?' for c in shown)[:200]}"


def checked_address(address: str, option: str) -> str:
    """Raises a :class:`UserError` for what is no address of a server; `option` is what gave it."""
    try:
        parts = urlsplit(address)
        is_right = bool(ADDRESS.fullmatch(address)) and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, half a pair of brackets, a name that no host can have
        is_right = False
    if not is_right:
        raise UserError(f"{option} {address!r} is not of the form https://HOST/v1 (without user or password)")
    return address


def proxy_of(address: str, *, by_urllib: bool = False) -> Proxy | None:
    """The proxy that requests to `address` go through; None where they go there directly.

    Raises a :class:`UserError` for a value that is no proxy, or none that `urllib` knows.
    """
    parts = urlsplit(address)
    proxy = _variable(f"{parts.scheme}_proxy") or (None if by_urllib else _variable("all_proxy"))
    if proxy is None or _is_direct(parts):
        return None
    return _checked(proxy, parts.hostname or "", URLLIB_SCHEMES if by_urllib else PROXY_SCHEMES)


@contextmanager
def blamed(certificates: Sequence[str] = OPENSSL) -> Iterator[None]:
    """Around requests by a library that reads the environment for itself: whatever it raises is a :class:`UserError`
    that names the variable, where one is wrong. `certificates` are those that it reads."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # raised again where the environment is in order
        check_environment(certificates, error)
        raise


def check_environment(certificates: Sequence[str] = OPENSSL, cause: Exception | None = None) -> None:
    """Raises a :class:`UserError` for any value that would keep an HTTP client from being made."""
    try:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            if (proxy := _variable(name)) is not None:
                _checked(proxy)
        for name in certificates:
            _check_certificates(name)
    except UserError as error:
        raise error from cause


def ssl_context(address: str) -> ssl.SSLContext | None:
    """For the certificates that SSL_CERT_FILE and SSL_CERT_DIR name; None where neither is set, or none is needed.

    Raises a :class:`UserError` where there are none.
    """
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    _check_certificates("SSL_CERT_FILE")
    if not address.lower().startswith("https:"):
        return None
    if folder and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
        raise UserError(f"SSL_CERT_DIR={folder} is no folder; name one that holds certificates, or unset the variable")
    return ssl.create_default_context(cafile=file, capath=folder) if file or folder else None


def via(address: str, *, by_urllib: bool = False) -> str:
    """ " through the proxy NAME=..." where requests to `address` go through one, else ""; never raises."""
    try:
        proxy = proxy_of(address, by_urllib=by_urllib)
    except UserError as error:
        return f" ({error})"
    return f" through the proxy {proxy}" if proxy else ""


def _variable(name: str) -> Proxy | None:
    spelt, value = _value(name)
    return Proxy(spelt, value) if value else None


def _value(name: str) -> tuple[str, str]:
    """The spelling that counts, and its value. Lower case comes first: where that is empty, it is switched off."""
    spelt = name if name in os.environ else name.upper()
    return spelt, os.environ.get(spelt, "").strip()


def _checked(proxy: Proxy, host: str = "", schemes: Sequence[str] = PROXY_SCHEMES) -> Proxy:
    advice = "set it to http://HOST:PORT or unset it" + (f", or name {host} in NO_PROXY" if host else "")
    try:
        parts = urlsplit(proxy.address)
        is_right = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", proxy.address)
        is_right = is_right and proxy.address.isprintable()
    except ValueError:
        is_right = False
    if not is_right or parts.scheme not in schemes:
        raise UserError(f"the environment variable {proxy} is no proxy of the kinds {', '.join(schemes)}; "
                        f"{advice}")  # fmt: skip
    if parts.scheme.startswith("socks") and not knows_socks():
        raise UserError(f"the environment variable {proxy} is a SOCKS proxy, which needs the package socksio; "
                        f"install it, or {advice}")  # fmt: skip
    return proxy


def knows_socks() -> bool:
    return importlib.util.find_spec("socksio") is not None


def _check_certificates(name: str) -> None:
    value = os.environ.get(name)
    if not value or (name in REQUESTS and Path(value).is_dir()):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except (OSError, ValueError) as error:  # a lost file, a folder, or no certificates (SSLError is an OSError)
        raise UserError(f"the environment variable {name}={value} names no file of certificates "
                        f"({first_line(error)}); correct it or unset it") from error  # fmt: skip


def _is_direct(parts: SplitResult) -> bool:
    """Whether NO_PROXY names this host: "*", a name and what ends with it, an address, a network; a port may follow."""
    _, listed = _value("no_proxy")
    host = (parts.hostname or "").rstrip(".").lower()
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return any(_covers(entry, host, port) for entry in re.split(r"[,\s]+", listed.lower()) if entry)


def _covers(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    entry = entry.partition("://")[2] or entry
    if "]:" not in entry and (network := _network(entry)) is not None:
        return _address_in(host, network)
    named = re.fullmatch(r"\[?([^\[\]]*?)\]?(?::(\d+))?", entry)
    if named is None or (named[2] and int(named[2]) != port):
        return False
    if (network := _network(named[1])) is not None:
        return _address_in(host, network)
    name = named[1].removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def _address_in(host: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
