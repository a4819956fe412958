"""Proxies and certificates of the environment: a wrong one is named in one line, and a right one is used."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_server import judge_server, says
from judged import write_answers

from fedllm_bench import cli
from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.base_model import locate
from fedllm_bench.data.fetch import download as downloads
from fedllm_bench.data.fetch.download import download
from fedllm_bench.evaluation.judges import asking
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.served import served_judge

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
HTTPS = "https://a.org/v1"
NO_PORT = "http://127.0.0.1:9"  # nobody listens


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*NAMES, *(name.lower() for name in NAMES), "SSL_CERT_FILE", "SSL_CERT_DIR", *network.REQUESTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    """`judge` or `answer --endpoint` against a server that replies; returns the code and what was written to stderr."""
    write_answers(tmp_path / "run", "advbench", "base")
    with judge_server(lambda body, before: says()) as server:

        def command(name: str) -> tuple[int, str]:
            judge = ["judge", str(tmp_path / "run"), "--judge-url", server.address, "--judge-model", "m"]
            answer = ["answer", "--endpoint", server.address, "--model", "m", "--metrics", "harmless", "--limit", "2"]
            words = {"judge": judge, "answer": [*answer, "--out", str(tmp_path / "answers")]}
            code = cli.main(words[name])
            return code, capsys.readouterr().err

        yield command


@pytest.fixture
def no_certificates(tmp_path: Path) -> Path:
    path = tmp_path / "not.pem"
    path.write_text("hello")
    return path


WRONG = {
    "SOCKS without its package": {"ALL_PROXY": "socks5://127.0.0.1:9"},
    "SOCKS in lower case": {"http_proxy": "socks5h://127.0.0.1:9"},
    "another scheme": {"HTTP_PROXY": "ftp://127.0.0.1:9"},
    "blanks": {"HTTP_PROXY": "::rub bish"},
    "half a pair of brackets": {"HTTP_PROXY": "http://[::1"},
    "a port that is none": {"HTTP_PROXY": "http://localhost:99999"},
    "no host": {"HTTP_PROXY": "http://"},
    "a file that is lost": {"SSL_CERT_FILE": "/nope/ca.pem"},
    "a file without certificates": {"SSL_CERT_FILE": "NOT"},
    "a folder for a file": {"SSL_CERT_FILE": "/"},
}


@pytest.mark.parametrize("command", ["judge", "answer"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_variable_is_named_in_one_line(
    case: str, command: str, ask, no_certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "knows_socks", lambda: False)
    ((name, value),) = WRONG[case].items()
    value = str(no_certificates) if value == "NOT" else value
    monkeypatch.setenv(name, value)
    code, err = ask(command)
    assert code == 2
    assert err.count("\n") == 1
    assert f"{name}={value}" in err


@pytest.mark.parametrize(
    "listed",
    [
        "127.0.0.1",
        "*",
        "example.org,127.0.0.1",
        "127.0.0.0/8",
        "http://127.0.0.1",
        "x *",
        "0.0.0.0/0",
    ],
)
def test_a_proxy_that_is_not_used_does_not_matter(listed: str, ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr(network, "knows_socks", lambda: False)
    monkeypatch.setenv("NO_PROXY", listed)
    assert ask("judge") == (0, "")


@pytest.mark.parametrize("value", [NO_PORT, "127.0.0.1:9"])
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_through_which_requests_fail_is_named(
    name: str, value: str, ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert ask("judge") == (0, "")  # two questions are too few to say that the server is down
    (path,) = (tmp_path / "run" / "judgements").rglob("*.jsonl")
    assert f"through the proxy {name}={value}" in path.read_text()


def test_user_and_password_of_a_proxy_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("http://me:secret@127.0.0.1:9", "me:secret@127.0.0.1:9"):
        monkeypatch.setenv("HTTPS_PROXY", value)
        shown = network.via("https://example.org/v1")
        assert "HTTPS_PROXY=" in shown
        assert "secret" not in shown
    monkeypatch.setenv("HTTPS_PROXY", "socks4://me:secret@x")
    assert "secret" not in network.via("https://example.org/v1")


@pytest.mark.parametrize(
    ("listed", "address", "is_direct"),
    [
        ("", "http://a.org", False),
        ("a.org", "http://a.org", True),
        ("a.org", "http://b.a.org", True),
        ("a.org", "http://ba.org", False),
        (".a.org", "http://b.a.org", True),
        ("*.a.org", "http://b.a.org", True),
        ("A.ORG", "http://a.org.", True),
        ("a.org:8000", "http://a.org:8000", True),
        ("a.org:8000", "http://a.org", False),
        ("a.org:80", "http://a.org", True),
        ("::1", "http://[::1]:8000", True),
        ("[::1]", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::1]:9", False),
        ("fe80::/10", "http://[fe80::5]", True),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("[::1, ]]]:x, /", "http://a.org", False),
        ("localhost b.org", "http://b.org", True),
    ],
)
def test_hosts_that_no_proxy_names_are_reached_directly(
    listed: str, address: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", NO_PORT)
    monkeypatch.setenv("NO_PROXY", listed)
    assert (network.proxy_of(address) is None) == is_direct


def test_lower_case_comes_first_and_an_empty_one_switches_a_proxy_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://upper:1")
    monkeypatch.setenv("http_proxy", "http://lower:1")
    assert str(network.proxy_of("http://a.org")) == "http_proxy=http://lower:1"
    monkeypatch.setenv("http_proxy", "")
    assert network.proxy_of("http://a.org") is None


def test_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.ssl_context(HTTPS) is None
    monkeypatch.setenv("SSL_CERT_DIR", "/nope")
    with pytest.raises(UserError, match="SSL_CERT_DIR=/nope"):
        network.ssl_context(HTTPS)
    assert network.ssl_context("http://a.org") is None  # needs none
    monkeypatch.delenv("SSL_CERT_DIR")
    file = ssl.get_default_verify_paths().cafile
    if file is None:
        pytest.skip("this machine has no file of certificates")
    monkeypatch.setenv("SSL_CERT_FILE", file)
    context = network.ssl_context(HTTPS)
    assert context is not None
    assert context.get_ca_certs()


ADDRESSES = ("ftp://a", "http://[::1", "http://a:b/v1", "http://", "http://me:word@a/v1", "http://a b/v1", "host:8000")


@pytest.mark.parametrize("command", ["answer", "judge"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none_is_refused(
    address: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ["--endpoint", address, "--model", "m", "--metrics", "harmless", "--out", str(tmp_path)]
    judge = [str(tmp_path), "--judge-url", address, "--judge-model", "m"]
    assert cli.main([command, *(answer if command == "answer" else judge)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{address!r} is not of the form https://HOST/v1" in err


@pytest.mark.parametrize("key", ["sk-ü", "sk-1\nX-Other: 2"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str, ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert ask("judge") == (0, "")  # a server of one's own needs none, and is sent none
    code, err = ask("answer")
    assert code == 2
    assert err.count("\n") == 1
    assert "OPENAI_API_KEY" in err
    assert "sk-" not in err
    preset = Preset(name="j", model="m", base_url="http://127.0.0.1:9/v1", key_env="OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY, which holds no plain text"):
        served_judge(preset).key()


def test_certificates_of_requests_are_named_where_a_library_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in network.REQUESTS:
        monkeypatch.setenv(name, "/nope/ca.pem")
        with pytest.raises(UserError, match=f"{name}=/nope/ca.pem"), network.blamed(network.REQUESTS):
            raise OSError("Could not find a suitable TLS CA certificate bundle")
        with pytest.raises(OSError, match="other"), network.blamed():  # httpx does not read it
            raise OSError("other")
        monkeypatch.delenv(name)


def test_downloads_name_a_wrong_proxy_before_they_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.time, "sleep", None)
    monkeypatch.setenv("HTTP_PROXY", "::rub bish")
    with pytest.raises(UserError, match="HTTP_PROXY=::rub bish"):
        download(f"{NO_PORT}/x", tmp_path / "x", lambda path: None)
    monkeypatch.setenv("HTTP_PROXY", NO_PORT)
    with pytest.raises(UserError, match=f"through the proxy HTTP_PROXY={NO_PORT}"):
        download("http://127.0.0.1:8/x", tmp_path / "x", lambda path: None)


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "::rub bish"])
def test_the_hub_is_not_reached_with_a_traceback(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("ALL_PROXY", value)

    def made(*_: object, **__: object) -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", made)
    monkeypatch.setattr(network, "knows_socks", lambda: False)
    with pytest.raises(UserError, match="ALL_PROXY="):
        locate("org/name")
