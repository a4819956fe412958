"""Judging as a process of its own: killed again and again, and thousands of judgements with a fault in every tenth."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from judge_server import Body, JudgeServer, Said, fails, judge_server, says
from judged import answer

from fedllm_bench.evaluation.judges.preset import load_judge
from fedllm_bench.evaluation.judges.questions import request_hash
from fedllm_bench.evaluation.judges.store import ReplyStore
from fedllm_bench.evaluation.records import (
    Judgement,
    Prompt,
    answers_file,
    prompts_file,
    read_records,
    write_records,
)

pytestmark = pytest.mark.slow
CONCURRENCY = 8
ONE_ITEM = {"hard": "[[2]]", "easy": "[[9]]"}


def write_run(folder: Path, items: int) -> Path:
    prompts = [Prompt(item_id=str(n), turns=(f"{'hard' if n % 3 else 'easy'} question {n}",)) for n in range(items)]
    write_records(prompts_file(folder, "heldout_ref"), prompts)
    answers = [answer(prompt, f"answer {prompt.item_id} " + "because " * 80) for prompt in prompts]
    write_records(answers_file(folder, "heldout_ref", "global"), answers)
    return folder


def write_judge(path: Path, server: JudgeServer, concurrency: int) -> Path:
    limits = f"[limits]\nconcurrency = {concurrency}\ntimeout_seconds = 10\n"
    path.write_text(f'model = "m"\nbase_url = "{server.address}"\n{limits}')
    return path


def start(folder: Path, judge: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedllm_bench", "judge", str(folder), "--judge", str(judge)]
    environment = {**os.environ, "FEDLLM_BENCH_CACHE": str(cache), "no_proxy": "127.0.0.1"}
    sigint = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", sigint, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(process: subprocess.Popen[str], server: JudgeServer, requests: int) -> None:
    deadline = time.monotonic() + 120
    while server.requests < requests and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def graded(body: Body) -> Said:
    """By the question alone, and with some time to be killed in."""
    text = body["messages"][-1]["content"]
    return replace(says(next(said for word, said in ONE_ITEM.items() if f"{word} question" in text)), delay=0.02)


def results(folder: Path) -> list[Judgement]:
    (path,) = (folder / "judgements").rglob("*.jsonl")
    found = read_records(path, Judgement)
    assert all(j.reply is not None for j in found)
    return [replace(j, reply=replace(j.reply, seconds=0.0)) if j.reply else j for j in found]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_and_started_again_nothing_stored_is_asked_again(signum: int, code: int, tmp_path: Path) -> None:
    """Each tenth request fails once. Requests: one for each item and fault, and for an end those under way."""
    items, cache = 240, tmp_path / "cache"

    def script(body: Body, before: int) -> Said:
        ill = int(request_hash("m", {}, tuple(body["messages"]), 0), 16) % 10 == 0
        return fails(429, retry_after="0") if ill and before == 0 else graded(body)

    with judge_server(script) as server:
        run, judge = write_run(tmp_path / "run", items), write_judge(tmp_path / "j.toml", server, CONCURRENCY)
        rng, ends = random.Random(int(signum)), 0
        stored: set[str] = set()
        for _ in range(4):
            began = len(server.asked)
            process = start(run, judge, cache)
            wait_for(process, server, server.requests + rng.randint(5, 60))
            process.send_signal(signum)
            _, err = process.communicate(timeout=60)
            assert process.returncode == code, err
            assert "Traceback" not in err
            again = {request_hash("m", {}, tuple(body["messages"]), 0) for _, body in server.asked[began:]}
            assert not again & stored
            ends += 1
            store = ReplyStore(cache / "judgements" / load_judge(str(judge)).id)
            stored = {key for key in _hashes(server) if store.get(key)}
        assert 0 < len(stored) < items
        process = start(run, judge, cache)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        faults = sum(int(key, 16) % 10 == 0 for key in _hashes(server))
        assert len(server.times) == items
        assert items + faults <= server.requests <= items + faults + ends * CONCURRENCY
        assert server.most_under_way <= CONCURRENCY
    with judge_server(lambda body, before: graded(body)) as calm:
        other = write_run(tmp_path / "other", items)
        process = start(other, write_judge(tmp_path / "j.toml", calm, CONCURRENCY), tmp_path / "cache2")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert results(run) == results(other)


def _hashes(server: JudgeServer) -> set[str]:
    return {request_hash("m", {}, tuple(body["messages"]), 0) for _, body in server.asked}


def seconds_of(process: subprocess.Popen[str]) -> float:
    """Processor time, while it lives; 0.0 when it has ended."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(process: subprocess.Popen[str]) -> int:
    """The most memory that the process has held, while it lives."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else 0


def test_thousands_of_judgements_with_a_fault_in_each_tenth_request(tmp_path: Path) -> None:
    items, width, seconds = 4_000, 32, 0.1
    rng = random.Random(0)
    faults = [fails(429, retry_after="0"), fails(429), fails(500), says(_cut=150), Said(body=b"{"), says(choices=[])]

    def script(body: Body, before: int) -> Said:
        return replace(rng.choice(faults) if rng.random() < 0.1 else says(), delay=seconds)

    with judge_server(script, keep_bodies=False) as server:
        run, judge = write_run(tmp_path / "run", items), write_judge(tmp_path / "j.toml", server, width)
        process, peaks, used = start(run, judge, tmp_path / "cache"), [], [0.0]
        while process.poll() is None:
            peaks.append(peak_bytes(process))
            used.append(seconds_of(process))
            time.sleep(0.2)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert f"7.000  {items}/{items}" in out
        assert 1.05 * items < server.requests < 1.2 * items
        assert width / 2 < server.most_under_way <= width  # not one after the other
    assert len(results(run)) == items
    each = max(used) / items
    print(f"{each * 1000:.1f} ms of a processor for each, peak {max(peaks) / 2**20:.0f} MiB")  # noqa: T201
    assert each < 0.03
    assert max(peaks) < 150 * 2**20  # it was 101 for ten thousand
