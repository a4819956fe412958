"""Folders of samples, also a stranger's: what can be scored is read, anything else is one clear line."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from closed_records import choice, made, right_or_wrong, text, write_closed

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.closed_folder import asked_hash, read_closed
from fedllm_bench.evaluation.closed.closed_samples import samples_file


def test_nothing_is_there_where_nothing_was_asked(tmp_path):
    assert read_closed(tmp_path) == {}
    write_closed(tmp_path, "mmlu", {"benchmark": {"version": "1"}}, **{"global": []})
    assert read_closed(tmp_path) == {}


def test_sides_and_items_are_in_order_and_plans_are_read(tmp_path):
    plan = {"benchmark": {"version": "7"}, "overrides": {"limit": 2, "shots": None}}
    samples = [choice(1, (-1.0, -2.0), 0, "b"), choice(10, (-1.0, -2.0), 0, "a"), choice(2, (-1.0, -2.0), 0, "a")]
    write_closed(tmp_path, "mmlu", plan, **{"client_x": samples[:1], "global": samples[::-1], "base": samples})
    (material,) = read_closed(tmp_path).values()
    assert list(material.sides) == ["base", "global", "client-x"]
    assert (list(material.items), material.tasks) == (["a/2", "a/10", "b/1"], ["a", "b"])
    assert (material.plan.benchmark.version, material.plan.changed) == ("7", {"limit": "2"})
    assert (material.unpaired, material.notes) == (frozenset(), [])


def test_a_side_that_was_asked_otherwise_is_not_paired_and_one_line_says_so(tmp_path):
    samples = right_or_wrong([True, False])
    other = [*samples[:1], choice(1, (-1.0, -2.0), 0, prompt_hash="with a template")]
    write_closed(tmp_path, "mmlu", **{"base": samples, "global": other, "client_x": samples[:1]})
    (material,) = read_closed(tmp_path).values()
    assert material.unpaired == {"global"}
    line = "mmlu: global was asked with other prompts, or for other answers, than base: they are not paired"
    assert material.notes == [line]
    assert asked_hash(samples) == asked_hash(samples[::-1]) != asked_hash(other)


HOSTILE = {
    "not JSON": (b"{", "Invalid JSON"),
    "a pickle": (b"\x80\x04\x95\x00\x00", "Invalid JSON"),
    "not UTF-8": (b'{"task": "\xff"}', "Invalid JSON"),
    "nested deep": (b"[" * 100_000, "Invalid JSON"),
    "no object": (b"[1, 2]", "Input should be an object"),
    "nothing in it": (b"{}", "Field required"),
}


def changed(**more) -> bytes:
    return json.dumps(asdict(choice(0, (-1.0, -2.0), 0)) | more).encode()


HOSTILE |= {
    "another key": (changed(extra=1), "Unexpected keyword argument"),
    "not a number": (changed(log_likelihoods=["x", -1]), "valid number"),
    "NaN": (changed().replace(b"-1.0", b"NaN"), "finite number"),
    "an infinite value": (changed(values={"acc": 1e999}), "finite number"),
    "a path for a task": (changed(task="../../etc"), "no name of a task"),
    "escapes in a task": (changed(task="\x1b[2J"), "no name of a task"),
    "escapes in a reason": (changed(reason="\x1b[2J"), "control characters"),
    "a reason that turns the line": (changed(reason="\u202egnorw"), "control characters"),
    "a negative number": (changed(doc_id=-1), "a number that no item has"),
    "an endless number": (changed(doc_id=10**4000), "a number that no item has"),
    "an endless length": (
        changed(form="rolling", log_likelihoods=[-1.0], lengths=[1, 10**400]),
        "a length that no text has",
    ),
    "half a letter": (changed(reason="\ud800"), "Invalid JSON"),
    "more lengths than choices": (changed(lengths=[2]), "2 log-likelihoods and 1 length"),
    "no choices": (changed(log_likelihoods=[], lengths=[]), "0 log-likelihoods"),
    "more likely than sure": (changed(log_likelihoods=[1.0, -2.0]), "above 0"),
    "a negative length": (changed(lengths=[-2, 2]), "a negative length"),
    "an unknown form": (changed(form="essay"), "Input should be 'choice'"),
    "a text that nothing was found in": (changed(form="text"), "no parsed answer"),
    "programs without verdicts": (changed(form="code", texts=["x"]), "1 program, and 0 verdicts"),
    "running text without bytes": (changed(form="rolling"), "its words and bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_line_that_cannot_be_scored_is_one_clear_error(name, tmp_path):
    line, what = HOSTILE[name]
    path = samples_file(write_closed(tmp_path, "mmlu", base=right_or_wrong([True])), "mmlu", "global")
    path.write_bytes(json.dumps(asdict(choice(5, (-1.0, -2.0), 0))).encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError) as error:
        read_closed(tmp_path)
    text = str(error.value)
    assert text.startswith(f"{path}, line 2")
    assert what in text
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text.replace(str(path), "")) < 400


def test_an_item_stands_once(tmp_path):
    write_closed(tmp_path, "mmlu", base=right_or_wrong([True]) * 2)
    with pytest.raises(UserError, match=r"line 2, item 't/0': two lines are of this item"):
        read_closed(tmp_path)


def test_no_link_is_followed(tmp_path):
    write_closed(tmp_path / "other", "mmlu", base=right_or_wrong([True]))
    place = tmp_path / "closed" / "mmlu"
    place.mkdir(parents=True)
    (place / "base.jsonl").symlink_to(tmp_path / "other" / "closed" / "mmlu" / "base.jsonl")
    with pytest.raises(UserError, match=r"base\.jsonl is a link"):
        read_closed(tmp_path)


@pytest.mark.parametrize("value", ["\x1b[2J", "x" * 100_000])
def test_settings_that_no_terminal_should_show_are_one_line(value, tmp_path):
    write_closed(tmp_path, "mmlu", base=right_or_wrong([True]))
    (tmp_path / "closed" / "mmlu" / "plan.json").write_text(json.dumps({"overrides": {"limit": value}}))
    with pytest.raises(UserError, match=r"plan\.json is no plan of answers \(control characters") as error:
        read_closed(tmp_path)
    assert value not in str(error.value)


@pytest.mark.parametrize("name", ["mini", "advbench_legacy", "over_refusal"])
def test_a_name_of_an_open_benchmark_or_metric_is_refused(name, tmp_path):
    write_closed(tmp_path, name, base=right_or_wrong([True]))
    with pytest.raises(UserError, match=f"closed/{name}: {name} is no closed benchmark; remove that folder"):
        read_closed(tmp_path)


def test_a_failed_item_needs_no_answer(tmp_path):
    write_closed(tmp_path, "mmlu", base=[made(0, form="choice", target="0", reason="longer than the model reads")])
    assert read_closed(tmp_path)["mmlu"].sides["base"]["t/0"].reason == "longer than the model reads"


def test_long_texts_are_read(tmp_path):
    write_closed(tmp_path, "gsm8k", base=[text(0, "1" * 2_000_000, "1")])
    assert len(read_closed(tmp_path)["gsm8k"].items) == 1
