"""Judges of one's own compared with each other: by hand, against another implementation, and with bad files."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.judging import vote_forms
from fedllm_bench.evaluation.judging.agreement import EXPERTS, PUBLISHED
from fedllm_bench.evaluation.judging.judge_check import FEW_JUDGES, votes_check
from fedllm_bench.evaluation.judging.vote_files import read_vote_file

HEAD = "question,model_a,model_b,winner,judge\n"
MIRROR = os.environ.get("FEDLLM_BENCH_MIRROR")


def written(folder: Path, text: str) -> Path:
    path = folder / "votes"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def found(path: Path) -> list[tuple[str, str, str | None]]:
    return [(vote.match.question, vote.judge, vote.winner) for vote in read_vote_file(path)]


ROWS: list[dict[str, Any]] = [
    {"question": 1, "model_a": "x", "model_b": "y", "winner": "model_a", "judge": "me"},
    {"question": 1, "model_a": "y", "model_b": "x", "winner": "model_a", "judge": "you"},
    {"question": 2, "model_a": "y", "model_b": "x", "winner": "x", "judge": "me"},
    {"question": 2, "model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "judge": "you"},
    {"question": 3, "model_a": "x", "model_b": "y", "winner": "", "judge": "me"},
]
READ = [("1", "me", "a"), ("1", "you", "b"), ("2", "me", "a"), ("2", "you", "tie"), ("3", "me", None)]


def as_csv(delimiter: str = ",") -> str:
    lines = [list(ROWS[0]), *([str(value) for value in row.values()] for row in ROWS)]
    return "".join(delimiter.join(line) + "\r\n" for line in lines)


TEXTS = {
    "CSV": as_csv(),
    "semicolons, with a mark at its beginning": "\ufeff" + as_csv(";"),
    "tabs": as_csv("\t"),
    "JSON lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "a JSON array": json.dumps(ROWS),
    "FastChat's name of the question": as_csv().replace("question", "question_id"),
}  # fmt: skip


@pytest.mark.parametrize("form", TEXTS)
def test_all_forms_give_the_same_votes_in_one_order_of_the_models(form: str, tmp_path: Path):
    assert found(written(tmp_path, TEXTS[form])) == READ


def test_one_judge_in_both_orders_has_one_decision(tmp_path: Path):
    rows = ["1,x,y,x,j", "1,y,x,x,j", "2,x,y,model_a,j", "2,y,x,model_a,j", "3,x,y,tie,j", "3,y,x,y,j"]
    votes = read_vote_file(written(tmp_path, HEAD + "\n".join(rows)))
    assert [(vote.winner, vote.consistent) for vote in votes] == [("a", True), ("tie", False), ("tie", False)]


def test_agreement_equals_a_plain_count_over_pairs_of_votes(tmp_path: Path):
    """Judges like PandaLM's annotators: one turn, three verdicts."""
    rng = np.random.default_rng(0)
    said = {(q, j): str(rng.choice(["model_a", "model_b", "tie"])) for q in range(60) for j in "abc"}
    path = written(tmp_path, HEAD + "".join(f"{q},m1,m2,{winner},{j}\n" for (q, j), winner in said.items()))
    rows = votes_check(read_vote_file(path))["agreement"]
    means = {(row["who"], row["setup"]): (row["share"]["mean"], row["share"]["n_scored"]) for row in rows}
    assert len(rows) == 8
    for who, judges in {
        "a with b": "ab",
        "a with c": "ac",
        "b with c": "bc",
        "all judges with each other": "abc",
    }.items():
        pairs = [(said[q, i], said[q, j]) for q in range(60) for i, j in itertools.combinations(judges, 2)]
        for setup, kept in {"S1": pairs, "S2": [pair for pair in pairs if "tie" not in pair]}.items():
            share = sum(one == other for one, other in kept) / len(kept)
            assert means[who, setup] == (pytest.approx(share), len(kept))


def test_many_judges_are_each_compared_with_all_others(tmp_path: Path):
    judges = [f"j{n}" for n in range(FEW_JUDGES + 1)]
    path = written(tmp_path, HEAD + "".join(f"{q},x,y,x,{judge}\n" for q in range(3) for judge in judges))
    rows = votes_check(read_vote_file(path))["agreement"]
    assert {row["who"] for row in rows} == {"all judges with each other", *(f"{j} with all others" for j in judges)}


def pandalm(**more: Any) -> dict[str, Any]:
    row = {"idx": 0, "cmp_key": "m1_m2", "instruction": "Do it.", "input": "", "response1": "A", "response2": "B"}
    return {**row, "annotator1": 1, "annotator2": 0, "annotator3": 2, **more}


def test_each_annotator_of_pandalm_is_a_judge(tmp_path: Path):
    rows = [pandalm(), pandalm(idx=1, cmp_key="m3_m1", annotator1="2", annotator3=None), pandalm(idx=2)]
    votes = read_vote_file(written(tmp_path, json.dumps(rows)))
    assert [(vote.match.model_a, vote.match.model_b, vote.judge[-1], vote.winner) for vote in votes] == [
        ("m1", "m2", "1", "a"), ("m1", "m2", "2", "tie"), ("m1", "m2", "3", "b"),
        ("m1", "m3", "1", "a"), ("m1", "m3", "2", "tie"), ("m1", "m3", "3", None),
        ("m1", "m2", "1", "a"), ("m1", "m2", "2", "tie"), ("m1", "m2", "3", "b"),
    ]  # fmt: skip
    questions = [vote.match.question for vote in votes]
    assert questions[0] == questions[3] != questions[6]  # the third row repeats the first one's models


def test_pairs_of_nobody_are_told_apart_by_their_responses(tmp_path: Path):
    rows = [
        {key: value for key, value in pandalm(response2=text).items() if key not in ("cmp_key", "idx")} for text in "BC"
    ]
    votes = read_vote_file(written(tmp_path, json.dumps(rows)))
    assert {(vote.match.model_a, vote.match.model_b) for vote in votes} == {("response1", "response2")}
    assert len({vote.match.question for vote in votes}) == 2


def test_a_ranking_is_a_vote_on_every_two_systems(tmp_path: Path):
    places = {"s1": (1, 90), "s2": (2, 80.5), "s3": (2, 80.5), "s4": ("", None)}
    expected = {("s1", "s2"): "a", ("s1", "s3"): "a", ("s2", "s3"): "tie",
                ("s1", "s4"): None, ("s2", "s4"): None, ("s3", "s4"): None}  # fmt: skip
    by_rank = "source,system,judge,rank\n" + "".join(f"7,{name},j,{rank}\n" for name, (rank, _) in places.items())
    by_score = [{"segment": 7, "model": name, "annotator": "j", "score": score} for name, (_, score) in places.items()]
    for text in (by_rank, json.dumps(by_score[::-1])):
        votes = read_vote_file(written(tmp_path, text))
        assert {(vote.match.model_a, vote.match.model_b): vote.winner for vote in votes} == expected
        assert {(vote.match.question, vote.judge) for vote in votes} == {("7", "j")}


@pytest.mark.parametrize("form", ["pandalm", "rankings"])
def test_other_forms_are_compared_like_plain_votes(form: str, tmp_path: Path, capsys):
    if form == "pandalm":
        rows = [pandalm(idx=n, instruction=f"{n}", annotator2=1) for n in range(5)]
    else:
        rows = [
            {"source": n, "system": s, "judge": j, "rank": "xyz".index(s)}
            for n in range(5)
            for s in "xyz"
            for j in "ab"
        ]
    assert cli.main(["judge-check", "--votes", str(written(tmp_path, json.dumps(rows)))]) == 0
    assert "100.0%" in capsys.readouterr().out


def test_the_pairs_of_a_ranking_are_bounded(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(vote_forms, "MOST_VOTES", 2)
    text = "source,system,judge,rank\n" + "".join(f"7,{name},j,1\n" for name in "xyz")
    assert cli.main(["judge-check", "--votes", str(written(tmp_path, text))]) == 2
    assert "3 pairs of systems, more than 2" in capsys.readouterr().err


RANKS = "source,system,judge,rank\n"
BAD = {
    "another verdict of an annotator": (json.dumps([pandalm(annotator2=3)]), "entry 1: annotator2 is 3; give 0"),
    "a truth value of an annotator": (json.dumps([pandalm(annotator2=True)]), "annotator2 is True"),
    "no annotator": ('{"response1": "a", "response2": "b"}', "no annotator1; a vote as of PandaLM"),
    "no response": (json.dumps([pandalm(), {"annotator1": 1, "response1": ""}]), "entry 2: no response2"),
    "one model of PandaLM twice": (json.dumps([pandalm(cmp_key="x_x")]), "model_a and model_b are both 'x'"),
    "a rank that is no number": (RANKS + "1,x,j,first\n", "line 2: rank is 'first'; give a number"),
    "a rank that is not a number": (RANKS + "1,x,j,nan\n", "line 2: rank is 'nan'; give a number"),
    "an endless score": ('[{"source": 1, "system": "x", "judge": "j", "score": Infinity}]', "score is inf"),
    "a huge score": (
        '[{"source": 1, "system": "x", "judge": "j", "score": 1' + "0" * 400 + "}]",
        "give a number",
    ),
    "a ranking by nobody": ("source,system,rank\n1,x,1\n", "line 2: no judge; a ranking has source"),
    "a system twice": (RANKS + "1,x,j,1\n1,x,j,2\n", "line 3: 'j' has ranked 'x' for '1' before"),
    "a system without a name": (RANKS + "1,,j,1\n1,x,j,2\n", "model_a is ''"),
    "nothing in it": ("", "there is no vote in it"),
    "a header alone": (HEAD, "there is no vote in it"),
    "a column missing": ("question,model_a,model_b,winner\n1,x,y,x\n", "no judge"),
    "a column twice": ("question,model_a,model_b,winner,judge,winner\n", "the column 'winner' appears twice"),
    "a cell too many": (HEAD + "1,x,y,x,j,k\n", "line 2: 6 cells, the header has 5"),
    "an unknown winner": (HEAD + "1,x,y,z,j\n", "line 2: winner is 'z'; give model_a, model_b, tie, 'x' or 'y'"),
    "a number for a winner": (HEAD + "1,x,y,1,j\n", "winner is '1'"),
    "one model twice": (HEAD + "1,x,x,tie,j\n", "model_a and model_b are both 'x'"),
    "no judge's name": (HEAD + "1,x,y,x,\n", "judge is ''"),
    "a third turn": ("question,turn,model_a,model_b,winner,judge\n1,3,x,y,x,j\n", "turn is '3'"),
    "one vote twice": (HEAD + "1,x,y,x,j\n1,x,y,x,j\n", "line 3: 'j' has voted on question '1'"),
    "three votes": (HEAD + "1,x,y,x,j\n1,y,x,x,j\n1,x,y,y,j\n", "give one vote for each order"),
    "one judge": (HEAD + "1,x,y,x,j\n2,x,y,x,j\n", "no two judges voted on the same question"),
    "names that cross": (HEAD + "1,model_b,y,model_b,j\n", "a model's name and the other one's column"),
    "an open quotation mark": (HEAD + '1,"x,y,x,j\n', "no CSV"),
    "broken JSON": ('{"question": 1', "line 1: no JSON"),
    "a list in JSON lines": ('{"question": 1}\n', "no model_a, model_b, winner, judge"),
    "numbers in an array": ("[1]", "entry 1: a number, not an object"),
    "null for a model": (json.dumps({**ROWS[0], "model_a": None}), "model_a is None"),
    "a list for a winner": (json.dumps({**ROWS[0], "winner": ["x"]}), "winner is ['x']"),
    "not UTF-8": (b"question,model_a\n\xff", "not UTF-8"),
    "half a character": (json.dumps({**ROWS[0], "judge": "\ud800"}), "judge has half a character"),
    "half a question": (json.dumps({**ROWS[0], "question": "\ud800"}), "question has half a character"),
    "a name that moves the cursor": (json.dumps({**ROWS[0], "judge": "\x1b[2J"}), "judge is '\\x1b[2J', not a name"),
    "a digit that Python groups": (RANKS + "1,x,j,1_0\n", "line 2: rank is '1_0'; give a number"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_line_and_ends_with_2(what: str, tmp_path: Path, capsys):
    content, expected = BAD[what]
    path = tmp_path / "votes"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["judge-check", "--votes", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_whole_numbers_as_pandas_writes_them_beside_empty_cells_are_read(tmp_path: Path):
    text = "question,model_a,model_b,winner,judge,turn\n1,x,y,x,j,1.0\n1,x,y,x,k,\n1,x,y,y,j,2.0\n"
    assert [vote.match.turn for vote in read_vote_file(written(tmp_path, text))] == [1, 1, 2]
    rows = json.dumps([pandalm(annotator1=1.0, annotator2="2.0", annotator3="0.0")])
    assert [vote.winner for vote in read_vote_file(written(tmp_path, rows))][-1] == "tie"


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--votes", "/nowhere"], "No such file"), (["--votes", "x", "--judge", "local"], "leave out the judge")],
)
def test_bad_words_are_refused_in_one_line(words: list[str], expected: str, capsys):
    assert cli.main(["judge-check", *words]) == 2
    assert expected in capsys.readouterr().err


def test_the_command_shows_the_table_and_writes_it_as_json(tmp_path: Path, capsys):
    path = written(tmp_path, TEXTS["CSV"])
    assert cli.main(["judge-check", "--votes", str(path), "--json", str(tmp_path / "check.json")]) == 0
    told = capsys.readouterr().out
    assert "all judges with each other" in told
    assert "5 of 2 judges, 1 of them without a verdict" in told
    payload = files.read_json(tmp_path / "check.json")
    assert [row["share"]["mean"] for row in payload["agreement"]] == [0.0, 0.0]
    assert payload["votes"]["judges"] == ["me", "you"]


@pytest.mark.assets
def test_the_experts_votes_agree_as_published(tmp_path: Path):
    rows = files.read_jsonl(Path(str(MIRROR)) / "mt_bench" / "human_labels.jsonl")
    experts = [json.dumps(row) for row in rows if row["judge"].startswith("expert_")]
    made = votes_check(read_vote_file(written(tmp_path, "\n".join(experts))))["agreement"]
    shares = {(row["turn"], row["setup"]): row["share"] for row in made if row["who"].startswith("all")}
    for (turn, setup), share in shares.items():
        expected = PUBLISHED[EXPERTS, turn, setup]
        assert (round(share["mean"], 2), share["n_scored"]) == expected
    assert len(shares) == 4
