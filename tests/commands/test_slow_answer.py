"""A real run, answered by processes that are killed: the same answers, and nothing is answered twice."""

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
from forked import Forked

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.records import Answer, Prompt, prompts_file, read_records

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 400
METRICS = ("--metrics", "mini,harmless", "--threads", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world and model, two rounds."""
    out = tmp_path_factory.mktemp("runs")
    with quick():
        settings = ("--profile", "mini", "--metrics", "heldout")
        short = ("--set", "federation.rounds=2", "--set", "evaluation.local_clients=2")
        assert cli.main(["bench", "aya", "fedavg", *settings, *short, "--out", str(out)]) == 0
    return folder_of("fedavg", out)


def words(folder: Path, out: Path, *more: str) -> list[str]:
    # small batches, so that there is much to be killed between
    return ["answer", str(folder), *METRICS, "--batch-tokens", "2000", "--out", str(out), *more]


def start(folder: Path, place: Path, name: str = "said") -> Forked:
    return Forked(words(folder, place / "out"), place / "cache", place / name)


def journals(out: Path) -> dict[str, int]:
    """Whole lines of every journal."""
    return {path.parent.name + path.name: path.read_bytes().count(b"\n") for path in out.rglob("*.partial")}


def is_well_beyond(before: dict[str, int], now: dict[str, int]) -> bool:
    return any(lines >= before.get(name, 0) + 12 for name, lines in now.items())


def wait_for(process: Forked, ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(out: Path) -> dict[str, list[Answer]]:
    found = {}
    for path in sorted(out.rglob("answers/*/*.jsonl")):
        if path.stem != "prompts":
            found[f"{path.parent.name}/{path.stem}"] = read_records(path, Answer)
    return found


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Answer]]:
    """Of a process that is started as from a shell; those of the forked ones are held to it."""
    out = tmp_path_factory.mktemp("undisturbed")
    process = subprocess.run(
        [sys.executable, "-m", "fedllm_bench", *words(trained, out)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=quiet_environment(tmp_path_factory.mktemp("cache")),
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert re.search(r"mini base: \d+ of \d+ in .* tokens/s", process.stderr)
    assert process.stdout.count("items") == 4
    found = answers(out)
    assert sorted(found) == ["harmless/base", "harmless/global", "mini/base", "mini/global"]
    for name, own in found.items():
        prompts = read_records(prompts_file(out, name.split("/")[0]), Prompt)
        assert [answer.prompt_hash for answer in own] == [prompt.hash for prompt in prompts]
        assert all(answer.is_whole for answer in own)
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_again_and_again_it_ends_with_the_same_answers(signum, trained, undisturbed, tmp_path: Path):
    out = tmp_path / "out"
    kept = 0
    seen: list[int] = []
    for _ in range(4):
        before = journals(out)
        process = start(trained, tmp_path)
        wait_for(process, lambda before=before: is_well_beyond(before, journals(out)))
        process.send_signal(signum)
        if process.wait(PATIENCE_SECONDS) == 0:
            break
        assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 130), process.err
        assert "Traceback" not in process.err
        kept = sum(journals(out).values()) + sum(len(own) for own in answers(out).values())
        seen.append(kept)
    assert len(seen) >= 2, "the kills came too late to say anything"
    assert seen == sorted(set(seen)), "nothing that was kept is lost or made again"
    process = start(trained, tmp_path)
    assert process.wait(PATIENCE_SECONDS) == 0, process.err
    found = answers(out)
    assert found.keys() == undisturbed.keys()
    # who shares a batch with whom changes the rounding of float32 sums, and with it a rare tie
    pairs = [(a, b) for name in found for a, b in zip(found[name], undisturbed[name], strict=True)]
    assert [a.item_id for a, _ in pairs] == [b.item_id for _, b in pairs]
    assert sum(a != b for a, b in pairs) <= len(pairs) // 100
    assert not list(out.rglob("*.part*"))


def test_two_processes_do_not_mix_and_a_finished_folder_is_left_alone(trained, undisturbed, tmp_path: Path):
    out = tmp_path / "out"
    first = start(trained, tmp_path)
    wait_for(first, lambda: journals(out))
    second = start(trained, tmp_path, "said by the second")
    second.wait(PATIENCE_SECONDS)
    assert first.wait(PATIENCE_SECONDS) == 0, first.err
    assert second.returncode in (0, 2)
    assert second.returncode == 0 or "another process is answering into it" in second.err
    assert answers(out) == undisturbed  # the same plan, batch by batch
    hashes = {path: files.sha256_file(path) for path in out.rglob("*.json*")}
    again = start(trained, tmp_path, "said at last")
    assert again.wait(PATIENCE_SECONDS) == 0
    assert again.out.count("(there before)") == 4
    assert hashes == {path: files.sha256_file(path) for path in out.rglob("*.json*")}
