"""Run folders that an earlier layout of the code has written are recognised (tests/fixtures/runs_before/README.md)."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_runs import folder_of, quick, quiet_environment
from safetensors.torch import load_file
from shipped import shipped_as

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree, norm, tmap

BEFORE = Path(__file__).parents[1] / "fixtures" / "runs_before"
SETTINGS = (
    *("federation.rounds=4", "federation.clients_per_round=2", "local.steps=2", "local.micro_batch=4"),
    *("local.accumulation=1", "local.block_size=1", "lora.rank=1", 'lora.targets=["q_proj"]'),
    *("evaluation.local_clients=2", "evaluation.max_new_tokens=4", "evaluation.bootstrap_samples=200"),
)
TOLERANCE = 1e-4  # docs/running.md, for a machine of another kind; on one of the same kind the bits are equal
LEFT_ALONE = ("config.json", "environment.json", "plan.json", "scores/heldout.before.jsonl")
SHOW = """
import sys
from fedllm_bench import cli
code = cli.main(sys.argv[1:])
print("LOADED", sorted(sys.modules.keys() & {"torch", "transformers", "peft", "trl"}))
sys.exit(code)
"""


def words(method: str, out: Path) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["bench", "aya", method, "--profile", "mini", "--metrics", "heldout", "--out", str(out),
            "--threads", "1", *settings]  # fmt: skip


def copied(name: str, out: Path) -> Path:
    """A copy of a folder of runs, with its scores unpacked."""
    shutil.copytree(BEFORE / name, out)
    for packed in out.rglob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return out


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): files.sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_shown_at_once(tmp_path: Path):
    out = copied("finished", tmp_path / "runs")
    before = contents(out)
    command = [sys.executable, "-c", SHOW, *words("fedavg", out)]
    environment = quiet_environment(files.cache_root())
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Finished before; nothing to do" in done.stdout
    after = files.read_json(folder_of("fedavg", out) / "results.json")["metrics"]["heldout"]["after"]["mean"]
    assert f"{after:.3f}" in done.stdout
    assert "LOADED []" in done.stdout  # so nothing was trained
    assert contents(out) == before


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"}
            for record in files.read_jsonl(folder / "rounds.jsonl")]  # fmt: skip


def adapter_of(folder: Path) -> Tree:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_a_half_done_run_goes_on_to_the_same_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = copied("half_done", tmp_path / "runs")
    folder, undisturbed = folder_of("scaffold", out), folder_of("scaffold", BEFORE / "undisturbed")
    begun, kept = rounds_of(folder), contents(folder)
    assert len(begun) == 2
    with quick():
        assert cli.main(words("scaffold", out)) == 0
    assert "Finished before" not in capsys.readouterr().out
    assert folder_of("scaffold", out) == folder  # no second one beside it
    rounds, expected = rounds_of(folder), rounds_of(undisturbed)
    assert rounds[:2] == begun == expected[:2]
    assert [record["client_ids"] for record in rounds] == [record["client_ids"] for record in expected]
    for record, other in zip(rounds, expected, strict=True):
        for key in ("losses", "update_norm", "lr"):
            assert record[key] == pytest.approx(other[key], rel=TOLERANCE)
    now = contents(folder)
    assert {name: now[name] for name in LEFT_ALONE} == {name: kept[name] for name in LEFT_ALONE}
    adapter, wanted = adapter_of(folder), adapter_of(undisturbed)
    assert norm(tmap(lambda a, b: a - b, adapter, wanted)) < TOLERANCE * norm(wanted)
    sides = [files.read_json(path / "results.json")["metrics"]["heldout"] for path in (folder, undisturbed)]
    for side in ("before", "after", "local"):
        assert sides[0][side]["mean"] == pytest.approx(sides[1][side]["mean"], abs=TOLERANCE)


def test_an_adapter_of_before_is_merged_with_the_base_that_has_moved(tmp_path: Path):
    out = copied("finished", tmp_path / "runs")
    assert cli.main(["merge", str(folder_of("fedavg", out)), "--out", str(tmp_path / "merged")]) == 0
    made = json.loads((tmp_path / "merged" / "merged_from.json").read_text())
    assert "s0-a1bee07276" in json.dumps(made)


@pytest.mark.slow
def test_a_submission_of_before_is_recomputed(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["board", "validate", str(shipped_as("constant-answer"))]) == 0
    assert "tier: recomputed" in capsys.readouterr().out
