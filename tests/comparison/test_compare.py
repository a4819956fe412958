"""Two models and two methods: by hand, equal to what they are made of, symmetric, and right as often as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scored_folders import a_run, of_units, scores_of

from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison.compare import (
    alike_named,
    check_alike,
    chosen_metrics,
    compare_methods,
    compare_models,
    shared_seeds,
)
from fedllm_bench.report.page.compare_text import sentence
from fedllm_bench.scores.power import detectable, needed
from fedllm_bench.scores.summaries import paired_clusters, paired_difference


def models(a, b, **more):
    (found,) = compare_models(a_run(a, **more), a_run(b, **more), ["m"])
    return found


def methods(ours, theirs, **more):
    """Of one value for each seed and unit, shape (seeds, units)."""
    pairs = [(a_run(of_units(x), s, **more), a_run(of_units(y), s, "b", **more))
             for s, (x, y) in enumerate(zip(ours, theirs, strict=True))]  # fmt: skip
    (found,) = compare_methods(pairs, ["m"])
    return found


def test_models_by_hand():
    found = models(of_units([1.0, 0.0, 5.0]), of_units([0.0, 0.0, 0.0]))  # differences 1, 0, 5
    assert (found.mean, found.mean_a, found.mean_b, found.n, found.interval) == (2.0, 2.0, 0.0, 3, "t_skew")
    sd = np.std([1, 0, 5], ddof=1)
    half = 4.302653 * sd / np.sqrt(3)
    assert found.ci_low == pytest.approx(2 - half, rel=1e-6)
    assert found.ci_high > 2 + half  # 5 lies far above 0 and 1: widened on that side
    assert found.d_z == pytest.approx(2 / sd)
    assert found.needed == needed(2 / sd) == 16
    assert found.detectable == pytest.approx(detectable(3) * sd)
    assert (found.estimand, found.verdict, found.p_value) == ("models", "not distinguishable", None)


@pytest.mark.parametrize("n", [12, 80])
def test_the_interval_of_models_is_the_paired_difference_of_the_suite(n):
    rng = np.random.default_rng(n)
    a, b = of_units(rng.exponential(size=n)), of_units(rng.exponential(size=n))
    found, expected = models(a, b), paired_difference(*paired_clusters(a, b))
    assert found.interval == expected.interval == "t_skew"
    assert (found.mean, found.ci_low, found.ci_high) == pytest.approx(
        (expected.mean, expected.ci_low, expected.ci_high)
    )
    assert (found.n, found.n_unscored) == (expected.n, 0)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.1, 5.0])
@pytest.mark.parametrize("n", [8, 40])
def test_swapping_the_sides_negates(n, shift, higher):
    rng = np.random.default_rng([n, round(10 * shift)])
    a, b = rng.exponential(size=(3, n)), rng.exponential(size=(3, n)) + shift
    both = [models(of_units(x), of_units(y), higher_is_better=higher) for x, y in ((a[0], b[0]), (b[0], a[0]))]
    both += [methods(x, y, higher_is_better=higher) for x, y in ((a, b), (b, a))]
    other = {"A": "B", "B": "A"}
    for one, back in (both[:2], both[2:]):
        swapped = [-back.mean, -back.ci_high, -back.ci_low, -back.d_z, back.mean_b, back.needed, back.p_holm]
        assert [one.mean, one.ci_low, one.ci_high, one.d_z, one.mean_a, one.needed, one.p_holm] == pytest.approx(
            swapped
        )
        assert one.verdict == other.get(back.verdict, back.verdict)
    if shift == 5.0:
        assert {one.verdict for one in both} == {"A", "B"}
        assert both[0].verdict == ("B" if higher else "A")


@pytest.mark.parametrize("n", [1, 2, 19, 20, 80])
def test_equal_runs_say_so_and_are_never_better(n):
    values = np.random.default_rng(n).normal(size=(3, n))
    for found in (models(of_units(values[0]), of_units(values[0])), methods(values, values)):
        assert (found.verdict, found.mean, found.d_z, found.needed, found.p_holm) == ("equal", 0.0, None, None, None)
        assert sentence(found.to_dict()).startswith("equal: no difference on any of")


def test_an_equal_mean_of_unequal_units_is_not_called_equal():
    assert models(of_units([1.0, 0.0] * 15), of_units([0.0, 1.0] * 15)).verdict == "not distinguishable"


def test_one_unit_and_seeds_that_change_nothing_claim_nothing():
    alone = models(of_units([1.0]), of_units([0.0]))
    assert (alone.verdict, alone.interval, alone.needed) == ("no interval", "none", None)
    assert sentence(alone.to_dict()) == "nothing can be said: n = 1 client has no interval"
    constant = methods(np.ones((3, 5)), np.zeros((3, 5)))
    assert (constant.verdict, constant.p_value, constant.mean) == ("no interval", None, 1.0)
    assert "is +1.000 in each of 3 seeds" in sentence(constant.to_dict())


def test_items_that_one_side_lacks_are_counted_and_in_no_mean():
    a = scores_of({"q1": [1.0, None], "q2": [1.0], "q3": [1.0]})
    b = scores_of({"q1": [0.0, 0.0], "q2": [None], "q4": [0.0]})
    found = models(a, b, cluster="question")
    assert (found.n, found.n_unscored, found.mean, found.unit_of_n) == (1, 2, 1.0, "question")
    assert "; 2 items without a score on one side in neither mean" in sentence(found.to_dict())
    none = models(scores_of({"q1": [1.0]}), scores_of({"q2": [1.0]}))
    assert (none.verdict, none.mean, none.n) == ("nothing in common", None, 0)
    assert "no client is scored on both sides" in sentence(none.to_dict())


def test_methods_are_scipys_paired_t_over_seeds():
    rng = np.random.default_rng(7)
    ours, theirs = rng.normal(0.4, 0.2, size=(4, 30)), rng.normal(size=(4, 30))
    found = methods(ours, theirs)
    expected = stats.ttest_rel(ours.mean(axis=1), theirs.mean(axis=1))
    low, high = expected.confidence_interval()
    assert (found.mean, found.p_value) == pytest.approx((np.mean(ours - theirs), expected.pvalue))
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high))
    assert (found.n, found.unit_of_n, found.estimand, found.interval) == (4, "seed", "methods", "t")
    assert found.p_holm == found.p_value  # one metric: nothing to correct


def test_holm_decides_over_the_table_of_metrics():
    rng = np.random.default_rng(8)
    shifts = {"strong": 1.0, "weak": 0.32, "none": 0.0}
    noise = {name: rng.normal(0, 0.1, size=4) for name in shifts}
    pairs = []
    for seed in range(4):
        runs = [a_run([], seed, name) for name in "ab"]
        sides = [{name: of_units([shift * (side == 0) + noise[name][seed] * (side == 0)] * 2)
                  for name, shift in shifts.items()} for side in (0, 1)]  # fmt: skip
        for run, side in zip(runs, sides, strict=True):
            run.measured.update({name: a_run(scores).measured["m"] for name, scores in side.items()})
        pairs.append(tuple(runs))
    found = {each.metric: each for each in compare_methods(pairs, list(shifts))}
    p = {name: each.p_value for name, each in found.items()}
    assert p["strong"] < p["weak"] < p["none"]
    assert found["strong"].p_holm == pytest.approx(3 * p["strong"])
    assert found["weak"].p_holm == pytest.approx(2 * p["weak"])
    assert [found[name].verdict for name in ("strong", "none")] == ["A", "not distinguishable"]
    alone = compare_methods(pairs, ["weak"])[0]
    assert alone.p_holm == pytest.approx(p["weak"])


def test_a_plain_p_below_five_percent_is_no_claim_where_holm_says_no():
    found = methods([[0.9], [1.4], [0.5]], [[0.0], [0.0], [0.0]]).to_dict()
    assert found["p_value"] < 0.1
    blurred = {**found, "p_value": 0.04, "p_holm": 0.12, "verdict": "not distinguishable"}
    assert sentence(blurred).startswith("not distinguishable at n = 3 seeds after Holm's correction")


def test_one_seed_never_says_anything_of_methods():
    run = a_run(of_units([1.0, 2.0]))
    with pytest.raises(ValueError, match="one seed"):
        compare_methods([(run, run)], ["m"])


def test_equal_methods_whose_seeds_differ_are_told_apart_as_models_but_seldom_as_methods():
    rng, trials = np.random.default_rng(9), 150
    as_models = as_methods = 0
    for _ in range(trials):
        of_seed = rng.normal(size=(2, 3, 1)) + 0.3 * rng.normal(size=(2, 3, 12))  # side, seed, client
        as_methods += methods(*of_seed).verdict in ("A", "B")
        as_models += models(of_units(of_seed[0, 0]), of_units(of_seed[1, 0])).verdict in ("A", "B")
    assert as_models / trials > 0.6  # rightly: these two models do differ
    assert as_methods / trials < 0.11  # 0.05 has a standard error of 0.018


@pytest.mark.parametrize(("n", "trials"), [(12, 300), (40, 100)])
def test_intervals_over_questions_cover_where_turns_of_a_question_are_alike(n, trials):
    rng, covered, by_items = np.random.default_rng(n), 0, 0
    for _ in range(trials):
        values = rng.normal(0.5, 1.0, size=(n, 1)) + 0.3 * rng.normal(size=(n, 4))
        a = scores_of({f"q{i}": row for i, row in enumerate(values.tolist())})
        b = scores_of({f"q{i}": [0.0] * 4 for i in range(n)})
        found = models(a, b)
        covered += found.ci_low <= 0.5 <= found.ci_high
        low, high = stats.t.interval(0.95, 4 * n - 1, values.mean(), stats.sem(values.ravel()))
        by_items += low <= 0.5 <= high
    assert covered / trials > 0.91  # 0.95 has a standard error of 0.013 and 0.022
    assert by_items / trials < 0.8  # items as if they were independent


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("version", {"version": "2"}),
        ("judge", {"judge": "gpt-4-0613"}),
        ("unit", {"unit": "nats"}),
        ("unit of resampling", {"cluster": "question"}),
    ],
)
def test_unlike_metrics_are_refused(field, change):
    a, b = a_run(of_units([1.0])), a_run(of_units([1.0]), **change)
    with pytest.raises(UserError, match=f"m cannot be compared, for its {field} is") as caught:
        check_alike([a, b], ["m"])
    assert "\n" not in str(caught.value)
    check_alike([a, a], ["m"])


def test_seeds_are_paired_by_number():
    a, b = [a_run([], seed) for seed in (0, 1, 2)], [a_run([], seed) for seed in (1, 2, 5)]
    assert [(x.seed, y.seed) for x, y in shared_seeds(a, b)] == [(1, 1), (2, 2)]
    assert shared_seeds(a[:1], b[:1]) == [(a[0], b[0])]  # two models may have two seeds
    with pytest.raises(UserError, match="no seed in common: A has 0, 1, B has 5"):
        shared_seeds(a[:2], b[2:])


def test_metrics_are_those_of_both_sides_or_as_asked():
    a, b = a_run([]), a_run([])
    a.measured["only_a"] = a.measured["m"]
    assert chosen_metrics(a, b, None) == ["m"]
    assert chosen_metrics(a, b, ["m", "m"]) == ["m"]
    with pytest.raises(UserError, match="no metric 'only_a'"):
        chosen_metrics(a, b, ["only_a"])
    del b.measured["m"]
    with pytest.raises(UserError, match="no metric in common"):
        chosen_metrics(a, b, None)


def test_a_judged_metric_is_found_by_the_name_that_the_report_gives_it():
    one, two = a_run([], judge="rule"), a_run([], judge="rule")
    assert chosen_metrics(*alike_named([one, two], ["m@rule"]), ["m@rule"]) == ["m@rule"]
    assert chosen_metrics(*alike_named([one, two], ["m"]), ["m"]) == ["m"]
    with pytest.raises(UserError, match="no metric 'm@other'"):
        chosen_metrics(*alike_named([one, two], ["m@other"]), ["m@other"])


def test_a_run_of_one_judge_is_matched_with_one_of_several():
    one, several = a_run([], judge="rule"), a_run([], judge="rule")
    other = replace(one.measured["m"], judge="gpt")
    several = replace(several, measured={"m@rule": one.measured["m"], "m@gpt": other})
    named = alike_named([one, several], None)
    assert chosen_metrics(*named, None) == ["m@rule"]
    check_alike(named, ["m@rule"])
    assert list(one.measured) == ["m"]  # the run itself stays


SENTENCES = {
    "better": ("A", 0.31, 0.1, 0.5, True, "model A is better by 0.310 [0.100, 0.500] at n = 80 questions"),
    "worse": ("B", -0.31, -0.5, -0.1, True, "model B is better by 0.310 [0.100, 0.500] at n = 80 questions"),
    "lower": (
        "A",
        -2.0,
        -3.0,
        -1.0,
        False,
        "model A is better by 2.000 [1.000, 3.000] at n = 80 questions",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_sentences(case):
    verdict, mean, low, high, higher, expected = SENTENCES[case]
    row = models(of_units([1.0, 0.0]), of_units([0.0, 0.0]), cluster="question").to_dict()
    row |= {"verdict": verdict, "mean": mean, "ci_low": low, "ci_high": high, "higher_is_better": higher, "n": 80}
    assert sentence(row) == expected + ("" if higher else " (lower is better)")
    plain = sentence({**row, "verdict": "not distinguishable", "needed": 1234, "detectable": 0.5})
    assert plain == (
        f"not distinguishable at n = 80 questions; with 80% power that many tell a difference of 0.500 apart, and one "
        f"of {abs(mean):.3f} needs 1,234"
    )
