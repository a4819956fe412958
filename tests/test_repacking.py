"""Results of a shipped submission made again: from its scores alone, whole, and once."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench import files
from fedllm_bench.errors import UserError
from fedllm_bench.leaderboard.packing import compressed, encoded, listed
from fedllm_bench.leaderboard.repacking import main, repacked
from fedllm_bench.report.schema import check_results

SHIPPED = Path(__file__).parents[1] / "leaderboard" / "submissions"
NAME = "runs/0/results.json.gz"
SINCE_5 = ("no_interval", "sd", "detectable")


@pytest.fixture
def submission(tmp_path):
    """A shipped submission with the results of one run as version 4 had them."""
    (shipped,) = SHIPPED.glob("*-fedprox-*")
    folder = shutil.copytree(shipped, tmp_path / shipped.name)
    old = _without(json.loads(gzip.decompress((folder / NAME).read_bytes())))
    old |= {"schema_version": 4, "intervals": {"level": 0.95, "samples": 2000, "seed": 0, "bootstrap_from": 20}}
    check_results(old)  # files of version 4 are read as before
    (folder / NAME).write_bytes(compressed(encoded(old)))
    head = files.read_json(folder / "submission.json")
    head["files"] |= listed({NAME: (folder / NAME).read_bytes()})
    (folder / "submission.json").write_bytes(encoded(head))
    return folder, shipped


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(each) for each in value]
    if not isinstance(value, dict):
        return "bootstrap" if value in ("t_skew", "share", "exact") else value
    gone = SINCE_5 if "unit_of_resampling" in value else ()  # `sd` of other objects was there before
    return {key: _without(each) for key, each in value.items() if key not in gone}


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """Path -> number or text."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inside is None:
        return {at: value}
    return {path: leaf for key, part in inside for path, leaf in _flat(part, f"{at}.{key}").items()}


@pytest.mark.slow
def test_results_are_made_again_from_the_scores_and_then_left_alone(submission, capsys):
    folder, shipped = submission
    assert repacked(folder)
    again, before = (json.loads(gzip.decompress((place / NAME).read_bytes())) for place in (folder, shipped))
    again, before = _flat(again), _flat(before)
    assert again.keys() == before.keys()
    for where, value in before.items():  # processors differ in the last digits
        assert again[where] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), where
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: as it was\n"


@pytest.mark.parametrize("words", [[], ["no-such-folder"]])
def test_bad_words_are_one_line(words, capsys):
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_submission_that_is_changed_otherwise_is_refused(submission):
    folder, _ = submission
    path = folder / "runs" / "0" / "scores" / "heldout.after.jsonl.gz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="heldout"):
        repacked(folder)
