"""Records of a stranger's run: every line is checked, and what is whole is read whole."""

from __future__ import annotations

import gzip

import pytest
from submitted_runs import packed, scores_of, small_contents, write_submission

from fedllm_bench.leaderboard.submission import bundle, problems, reading

SCORES = "runs/0/scores/heldout.after.jsonl.gz"


def opened(folder):
    return bundle.open_bundle(folder)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"item_id": "x"}], "value"),
        ([{"item_id": "x", "value": 1.0, "code": "os"}], "code"),
        ([{"item_id": "x", "value": None}], "no reason"),
        ([{"item_id": "x", "value": 1.0, "weight": -1}], "weight"),
        ([scores_of("heldout", 0)[0].to_dict()] * 2, "two scores"),
    ],
)
def test_scores_that_are_none_are_refused_with_their_line(tmp_path, rows, what):
    found, wrong = opened(write_submission(tmp_path / "x", {**small_contents(), SCORES: packed(rows)}))
    assert wrong == []
    with pytest.raises(problems.Refused, match=what) as caught:
        found.runs()[0].scores("heldout", "after")
    assert caught.value.problem.code == "record"
    assert SCORES in caught.value.problem.where


def test_a_gzip_whose_last_bytes_fill_a_piece_is_not_taken_for_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 8)
    for size in range(64):
        path = tmp_path / "x.gz"
        content = bytes(range(size))
        path.write_bytes(gzip.compress(content, mtime=0))
        assert b"".join(reading.pieces(path, "x")) == content
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(problems.Refused, match="cut"):
            list(reading.pieces(path, "x"))
