"""A real run, answered by real processes that are killed: the same answers, and nothing is answered twice."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_runs import folder_of, quick, quiet_environment

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.records import Answer, Prompt, prompts_file, read_records

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 400
METRICS = ("--metrics", "mini,harmless", "--threads", "1")
SIGINT_AS_IN_A_TERMINAL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world and model, two rounds."""
    out = tmp_path_factory.mktemp("runs")
    with quick():
        settings = ("--profile", "mini", "--metrics", "heldout")
        short = ("--set", "federation.rounds=2", "--set", "evaluation.local_clients=2")
        assert cli.main(["bench", "aya", "fedavg", *settings, *short, "--out", str(out)]) == 0
    return folder_of("fedavg", out)


def start(folder: Path, out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    # small batches, so that there is much to be killed between
    words = ["answer", str(folder), *METRICS, "--batch-tokens", "2000", "--out", str(out), *more]
    command = [sys.executable, "-c", SIGINT_AS_IN_A_TERMINAL, sys.executable, "-m", "fedllm_bench", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet_environment(cache)
    )


def journals(out: Path) -> dict[str, int]:
    """Whole lines of every journal."""
    return {path.parent.name + path.name: path.read_bytes().count(b"\n") for path in out.rglob("*.partial")}


def is_well_beyond(before: dict[str, int], now: dict[str, int]) -> bool:
    return any(lines >= before.get(name, 0) + 12 for name, lines in now.items())


def wait_for(process: subprocess.Popen[str], ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def answers(out: Path) -> dict[str, list[Answer]]:
    found = {}
    for path in sorted(out.rglob("answers/*/*.jsonl")):
        if path.stem != "prompts":
            found[f"{path.parent.name}/{path.stem}"] = read_records(path, Answer)
    return found


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Answer]]:
    out = tmp_path_factory.mktemp("undisturbed")
    process = start(trained, out, tmp_path_factory.mktemp("cache"))
    shown, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    assert re.search(r"mini base: \d+ of \d+ in .* tokens/s", err)
    assert shown.count("items") == 4
    found = answers(out)
    assert sorted(found) == ["harmless/base", "harmless/global", "mini/base", "mini/global"]
    for name, own in found.items():
        prompts = read_records(prompts_file(out, name.split("/")[0]), Prompt)
        assert [answer.prompt_hash for answer in own] == [prompt.hash for prompt in prompts]
        assert all(answer.is_whole for answer in own)
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_again_and_again_it_ends_with_the_same_answers(signum, trained, undisturbed, tmp_path: Path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    kept = 0
    seen: list[int] = []
    for _ in range(4):
        before = journals(out)
        process = start(trained, out, cache)
        wait_for(process, lambda before=before: is_well_beyond(before, journals(out)))
        process.send_signal(signum)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        if process.returncode == 0:
            break
        assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 130), err
        assert "Traceback" not in err
        kept = sum(journals(out).values()) + sum(len(own) for own in answers(out).values())
        seen.append(kept)
    assert len(seen) >= 2, "the kills came too late to say anything"
    assert seen == sorted(set(seen)), "nothing that was kept is lost or made again"
    process = start(trained, out, cache)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    found = answers(out)
    assert found.keys() == undisturbed.keys()
    # who shares a batch with whom changes the rounding of float32 sums, and with it a rare tie
    pairs = [(a, b) for name in found for a, b in zip(found[name], undisturbed[name], strict=True)]
    assert [a.item_id for a, _ in pairs] == [b.item_id for _, b in pairs]
    assert sum(a != b for a, b in pairs) <= len(pairs) // 100
    assert not list(out.rglob("*.part*"))


def test_two_processes_do_not_mix_and_a_finished_folder_is_left_alone(trained, undisturbed, tmp_path: Path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    first = start(trained, out, cache)
    wait_for(first, lambda: journals(out))
    second = start(trained, out, cache)
    _, err = second.communicate(timeout=PATIENCE_SECONDS)
    _, first_err = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 0, first_err
    assert second.returncode in (0, 2)
    assert second.returncode == 0 or "another process is answering into it" in err
    assert answers(out) == undisturbed  # the same plan, batch by batch
    hashes = {path: files.sha256_file(path) for path in out.rglob("*.json*")}
    again = start(trained, out, cache)
    shown, _ = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0
    assert shown.count("(there before)") == 4
    assert hashes == {path: files.sha256_file(path) for path in out.rglob("*.json*")}
