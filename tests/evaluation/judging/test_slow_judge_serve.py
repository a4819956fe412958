"""A judge behind `transformers serve`, with the embedded mini model: a real server's replies, kept and read.

The mini model cannot judge: what it says has no verdict, and so everything is unscored.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from judged import write_answers

from fedllm_bench import cli
from fedllm_bench.config import base_model
from fedllm_bench.evaluation.records import Judgement, read_records

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 180


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason="transformers serve needs fastapi and uvicorn (the extra dev)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", base_model.locate("mini")]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1"},
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it is there, and says something else
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


def test_replies_of_transformers_serve_are_kept_and_unscored(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = write_answers(tmp_path / "run", "mini", "global")
    mine = tmp_path / "served.toml"
    limits = "[options]\nmax_tokens = 20\ntemperature = 0\n[limits]\nconcurrency = 2\n"
    mine.write_text(f'model = "{base_model.locate("mini")}"\nbase_url = "{address}"\n{limits}')
    assert cli.main(["judge", str(folder), "--judge", str(mine)]) == 0
    assert "0/2  (2 of 2 questions have no score: no verdict in the judge's reply)" in capsys.readouterr().out
    (path,) = (folder / "judgements").rglob("*.jsonl")
    first = read_records(path, Judgement)
    assert len(first) == 2
    for judgement in first:
        assert judgement.reply
        assert judgement.reply.finish in ("stop", "length")
        assert 0 < judgement.reply.completion_tokens <= 20
        assert judgement.reply.prompt_tokens > 0
        assert judgement.reply.model
    monkeypatch.setattr("socket.socket.connect", None)  # what is stored needs no server
    assert cli.main(["judge", str(folder), "--judge", str(mine)]) == 0
    assert read_records(path, Judgement) == first
