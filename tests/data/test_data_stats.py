"""`fedllm-bench data stats`: numbers by hand, and what it says to bad input."""

from __future__ import annotations

import json

import pytest
from built_splits import make
from data_runs import run
from raw_rows import aya, random_rows, vote

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.lengths import spread, token_counter
from fedllm_bench.data.split_stats import concentration, duplicates, part_facts, split_stats


def test_stats_by_hand(tmp_path):
    rows = [aya("a", "one", "x" * 4), aya("a", "three", "x" * 8), aya("a", "both", "too"), aya("a", "q", "a")]
    rows += [aya("b", "both", "too", language_code="fra"), aya("b", "q", "b", language_code="fra")]
    split = make(tmp_path, "aya", rows, heldout=0)
    found = split_stats(split)
    train = found["parts"]["train"]
    assert (train["rows"], train["clients"], train["languages"]) == (6, 2, {"eng": 4, "fra": 2})
    per = train["rows_per_client"]
    assert (per["mean"], per["std"], per["largest_share"]) == (3, 1, pytest.approx(4 / 6))
    assert per["gini"] == pytest.approx(1 / 6)  # mean difference 1, twice the mean 6
    assert train["lengths"]["prompt_characters"]["largest"] == 5
    assert train["lengths"]["completion_characters"]["mean"] == pytest.approx(20 / 6)
    assert found["duplicates"] == {"rows_of_several_clients": 2, "prompts_of_several_clients": 4}
    assert found["parts"]["heldout"] == {
        "rows": 0, "clients": 0, "rows_per_client": {}, "languages": {}, "lengths": {},
    }  # fmt: skip
    assert found["table1"][0] == {"what": "clients", "published": "38", "here": "2"}
    assert not [line for line in found["table1"] if "length" in line["what"]]


def test_gini_is_zero_for_equal_clients_and_near_one_for_one_of_many():
    assert concentration([5, 5, 5]) == {"gini": 0, "largest_share": pytest.approx(1 / 3)}
    assert concentration([0] * 99 + [7])["gini"] == pytest.approx(0.99)
    assert (concentration([]), spread([])) == ({}, {})


@pytest.mark.parametrize("dataset", ["aya", "chatbot_pa", "wildchat_multi"])
def test_parts_add_up_and_tokens_are_counted(tmp_path, dataset):
    split = make(tmp_path, dataset, random_rows(dataset, 5), min_samples=9, languages=(), unseen_clients=3)
    found = split_stats(split, token_counter("mini"))
    parts = found["parts"]
    assert found["clients"]["rows"] == parts["train"]["rows"] + parts["heldout"]["rows"] > 30
    assert parts["unseen"]["clients"] == len(split.manifest.unseen) > 0
    names = {name.rpartition("_")[0] for name in found["clients"]["lengths"]}
    assert names == {"prompt", "completion"} | ({"rejected"} if dataset == "chatbot_pa" else set())
    assert found["clients"]["lengths"]["prompt_tokens"]["least"] >= 1
    assert len(found["table1"]) == (4 if dataset == "wildchat_multi" else 6)


def test_a_client_alone_has_no_duplicates_across_clients(tmp_path):
    rows = [vote("j", f"q{i % 3}", f"a{i}", "b") for i in range(9)]
    split = make(tmp_path, "chatbot_pa", rows, heldout=0)
    facts = part_facts(split, "train", None)
    assert len(facts) == 9
    assert duplicates(facts) == {"rows_of_several_clients": 0, "prompts_of_several_clients": 0}


def test_the_command_prints_and_writes_the_same_numbers(tmp_path, capsys):
    split = make(tmp_path, "aya", random_rows("aya", 6), min_samples=5, languages=())
    out = tmp_path / "stats.json"
    assert run("stats", split.folder, "--tokenizer", "mini", "--json", out) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["hash"] == split.hash
    assert found["tokenizer"] == "mini"
    sizes = found["clients"]["rows_per_client"]
    for words in (f"Gini {sizes['gini']:.2f}", "prompt tokens", "unseen: no rows", "across clients", "116 +- 199"):
        assert words in printed
    with pytest.raises(SystemExit):
        run("stats", "--help")
    assert "examples:" in capsys.readouterr().out


def test_a_tokenizer_that_is_none_is_one_line(tmp_path):
    split = make(tmp_path, "aya", [aya("a", "q", "a")], heldout=0)
    with pytest.raises(UserError, match="no tokenizer in"):
        run("stats", split.folder, "--tokenizer", tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(UserError, match="no readable tokenizer") as caught:
        run("stats", split.folder, "--tokenizer", tmp_path)
    assert "\n" not in str(caught.value)
