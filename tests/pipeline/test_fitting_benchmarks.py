"""`evaluate RUN` asks what fits the run: its users, its held-out rows and the time that its profile is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedllm_bench.common import files
from fedllm_bench.config import presets
from fedllm_bench.pipeline.evaluating import PUBLISHED, EvaluationPlan, plan_of
from fedllm_bench.runs.folder import RunFolder


def run_of(folder: Path, dataset: str, profile: str, split: str, heldout: int = 9) -> Path:
    files.make_folder(folder)
    config = presets.load(dataset, "fedavg", profile)
    files.write_json(folder / "config.json", config.to_dict())
    files.write_json(folder / "environment.json", {"data": {"split": split}})
    files.write_json(folder / "results.json", {"data": {"num_heldout_rows": heldout}})
    return folder


@pytest.mark.parametrize(
    ("dataset", "profile", "split", "heldout", "asked", "ruled", "most"),
    [
        ("aya", "mini", "mini-aya", 9, "mini,harmless", True, None),
        ("aya", "mini", "mine", 9, "heldout_ref,harmless", False, "of the profile"),
        ("aya", "small", "mine", 9, "heldout_ref,harmless", False, "of the profile"),
        ("rows", "small", "mine", 0, "harmless", False, "of the profile"),
        ("aya", "small", "mini-aya", 9, "mini,harmless", True, None),
        ("aya", "paper", "aya", 9, PUBLISHED, False, None),
        ("rows", "gpu24", "mine", 9, "mt_bench,vicuna_bench,advbench,harmless", False, None),
    ],
)
def test_the_benchmarks_follow_the_run(tmp_path, dataset, profile, split, heldout, asked, ruled, most) -> None:
    run = run_of(tmp_path, dataset, profile, split, heldout)
    wanted = RunFolder(run).config.evaluation.max_new_tokens if most else None
    plan = plan_of(run, None, has_judge=False)
    judged, closed = ("mini", "mini_closed_choice") if ruled else ("", "")
    assert plan == EvaluationPlan(asked=asked, judged=judged, is_ruled=ruled, max_new_tokens=wanted, closed=closed)
    assert plan_of(run, "mt_bench", has_judge=False).max_new_tokens is None  # whoever names them gets them as published


def test_own_rows_under_profile_mini_have_no_questions_of_the_mini_world(tmp_path: Path) -> None:
    own, world = run_of(tmp_path / "a", "aya", "mini", "mine"), run_of(tmp_path / "b", "aya", "mini", "mini-aya")
    missing = {path.name: " ".join(RunFolder(path).missing()) for path in (own, world)}
    assert "mini_exact" in missing["b"]
    assert "mini_exact" not in missing["a"]
    assert "scores/heldout.before.jsonl" in missing["a"]
