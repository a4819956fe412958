"""Each measure by hand, from what the model said and not from what lm-eval made of it."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from closed_records import choice, made, text

from fedllm_bench.evaluation.closed.declared import MatchRule, closed_benchmarks
from fedllm_bench.evaluation.closed.measures import MEASURES, OF_FORM, as_given, by_rule, measures_of
from fedllm_bench.scores.score import Score

LM_EVAL = [",", "\\$", "(?s).*#### ", "\\.$"]  # as lm-eval's gsm8k.yaml has it: quadratic where nothing is found
NUMBER = closed_benchmarks()["gsm8k"].match or MatchRule()


def value(name: str, sample) -> float | None:
    return MEASURES[name].of(sample).value


def test_the_first_of_the_most_likely_choices_is_the_answer():
    assert value("acc", choice(0, (-3.0, -1.0, -2.0), 1, values={"acc": 0.0})) == 1
    assert value("acc", choice(0, (-1.0, -1.0), 1)) == 0
    assert value("acc", choice(0, (-1.0, -1.0), 0)) == 1


@pytest.mark.parametrize("target", ["2", "-100", "²", "9" * 5000, "yes", "[]", "[0, x]", ""])
def test_where_no_choice_is_right_there_is_no_score(target):
    score = MEASURES["acc"].of(choice(0, (-1.0, -2.0), 0, target=target))
    assert (score.value, score.reason) == (None, "none of its choices is the right one")


def test_several_choices_may_be_right():
    for right, expected in (("[0, 2]", 1), ("[1]", 0), ("[-100, 0]", 1)):
        assert value("acc", choice(0, (-1.0, -2.0, -3.0), 0, target=right)) == expected


def test_length_is_counted_in_bytes():
    sample = choice(0, (-4.0, -6.0), 1, lengths=(4, 8))
    assert (value("acc", sample), value("acc_norm", sample)) == (0, 1)
    assert value("acc_norm", choice(0, (-4.0, -6.0), 0, lengths=(0, 0))) == 1  # of nothing: nothing is divided by 0


def test_a_text_is_right_where_what_was_found_in_it_is():
    assert value("acc", text(0, "yes", "yes")) == 1
    assert value("exact_match", text(0, "Yes", "yes")) == 0
    assert (value("unparsable", text(0, "", "yes")), value("unparsable", text(0, "no", "yes"))) == (1, 0)


@pytest.mark.parametrize(
    ("said", "right", "equal"),
    [("1,234", "so it is\n#### 1234", 1), ("$18.", "#### 18", 1), ("18", "#### 19", 0), ("", "#### 0", 0)],
)
def test_exact_match_follows_the_declared_rule_as_lm_eval_does(said, right, equal):
    metrics = pytest.importorskip("lm_eval.api.metrics")
    assert by_rule(MEASURES["exact_match"], NUMBER).of(text(0, said, right)).value == equal
    theirs = metrics.exact_match_hf_evaluate([said], [right], regexes_to_ignore=LM_EVAL, ignore_case=True)
    assert theirs["exact_match"] == equal


@pytest.mark.parametrize("name", [name for name, one in closed_benchmarks().items() if one.match is not None])
@pytest.mark.parametrize("letters", [" ", "\n", "#", "#### ", "1,", "a. "])
def test_no_text_makes_a_rule_slow(name, letters):
    """A stranger's text may be as long as a line; a rule that goes back would take hours."""
    rule = closed_benchmarks()[name].match
    start = time.process_time()
    assert rule.normal(f"x{letters * 300_000}x").endswith("x")
    assert time.process_time() - start < 2


def test_blanks_are_cut_at_both_ends_alone():
    assert closed_benchmarks()["mini_closed_text"].match.normal(" \n so it  is \t ") == "so it  is"


@pytest.mark.parametrize(("passed", "k", "expected"), [("1000", 1, 0.25), ("0" * 10, 10, 0), ("1" + "0" * 19, 10, 0.5)])
def test_pass_at_k_has_no_bias(passed, k, expected):
    tests = tuple(mark == "1" for mark in passed)
    sample = made(0, form="code", target="", texts=("x",) * len(tests), passed=tests)
    assert value(f"pass_{k}", sample) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize(("n", "passed"), [(n, c) for n in (10, 11, 12) for c in range(n + 1)])
def test_pass_at_k_is_the_share_of_all_choices_of_k_programs_with_one_that_passes(n, passed, k):
    tests = tuple(place < passed for place in range(n))
    choices = [any(chosen) for chosen in itertools.combinations(tests, k)]
    sample = made(0, form="code", target="", texts=("x",) * n, passed=tests)
    assert value(f"pass_{k}", sample) == pytest.approx(sum(choices) / len(choices))


def test_a_share_of_unparsable_answers_is_better_when_it_is_less_behind_any_filter():
    found = {name: measure for name, measure in measures_of("fpb", "text").items() if name == "fpb_unparsable"}
    assert [measure.higher_is_better for measure in found.values()] == [False]
    assert measures_of("fpb", "text")["fpb_strict"].higher_is_better


def test_bbh_does_not_count_the_space_before_an_answer():
    measure = measures_of("bbh", "text")["bbh"]
    assert [measure.of(text(0, said, "(A)")).value for said in (" (A)", "(A)\n", "(B)", "A", "")] == [1, 1, 0, 0, 0]


def test_pass_at_ten_of_one_program_is_unscored():
    score = MEASURES["pass_10"].of(made(0, form="code", target="", texts=("x",), passed=(True,)))
    assert (score.value, score.reason) == (None, "1 programs, and pass@10 needs 10")


def test_bits_per_byte_are_weighed_by_bytes():
    sample = made(0, form="rolling", target="", log_likelihoods=(-8 * math.log(2),), lengths=(3, 16))
    assert MEASURES["bits_per_byte"].of(sample) == Score("t/0", 0.5, weight=16.0)


def test_what_lm_eval_alone_can_say_is_taken_as_it_is_and_says_so():
    drop = measures_of("drop", "text")
    assert list(drop) == ["drop", "drop_f1"]
    assert "cannot be computed again" in drop["drop_f1"].description
    assert drop["drop_f1"].of(text(0, "a", "b", values={"f1": 0.25})).value == 0.25
    assert as_given("f1").of(text(0, "a", "b")).reason == "lm-eval gave no f1"
    assert as_given("f1").of(text(0, "a", "b", values={"f1": 7.0})).reason == "lm-eval gave an impossible f1"


def test_without_a_declared_rule_the_task_decides_whether_a_text_is_right():
    imdb, bbh = measures_of("imdb", "text")["imdb"], measures_of("bbh", "text")["bbh"]
    assert imdb.of(text(0, "Positive", "positive", values={"quasi_exact_match": 1.0})).value == 1
    assert "cannot be computed again" in imdb.description
    assert bbh.of(text(0, " yes", "yes", values={"exact_match": 0.0})).value == 1
    assert bbh.theirs == ()  # here lm-eval's rule is left on purpose


def test_no_answer_and_another_form_are_unscored():
    hole = made(0, form="choice", target="0", reason="too long")
    assert MEASURES["acc"].of(hole) == Score("t/0", None, "too long")
    assert MEASURES["acc_norm"].of(text(0, "a", "b")).reason == "acc_norm is not of the form text"


@pytest.mark.parametrize("name", closed_benchmarks())
def test_every_declared_score_has_a_measure_of_its_form(name):
    about = closed_benchmarks()[name]
    found = measures_of(name, about.form)
    assert list(found) == [name, *about.also]
    assert all(about.form in measure.forms for measure in found.values())


def test_what_is_not_declared_is_measured_by_its_form():
    assert set(OF_FORM.values()) <= MEASURES.keys()
    assert measures_of("something_else", "choice") == {"something_else": MEASURES["acc"]}
