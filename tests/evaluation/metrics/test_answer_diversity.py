"""How alike answers are: by hand, against sacrebleu and scikit-learn, intervals by simulation, clients apart."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from statistics import fmean, stdev

import numpy as np
import pytest
from evaluation_records import answer_of, evaluate, plain_prompts, ref_prompts, write_answers, write_prompts
from sacrebleu.metrics import BLEU
from sklearn.metrics.pairwise import cosine_distances

from fedllm_bench.common import files
from fedllm_bench.comparison.open_scores import from_answers
from fedllm_bench.evaluation import split_prompts
from fedllm_bench.evaluation.metrics.answer_diversity import (
    FEW,
    PARTNERS,
    among_scores,
    between_scores,
    distinct,
    self_bleu,
    spread,
    unlike,
)
from fedllm_bench.evaluation.metrics.own_user import OWN_ROWS, Owners, OwnRows, owners_of, owners_of_run
from fedllm_bench.evaluation.metrics.references import remembering
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS, open_metrics
from fedllm_bench.evaluation.scoring.views import pseudo_values
from fedllm_bench.report.page.write import write_evaluation_report
from fedllm_bench.scores.score import Score


def said(prompts, texts):
    return {p.item_id: answer_of(p, (text,)) for p, text in zip(prompts, texts, strict=True)}


def test_distinct_2_by_hand():
    # ab bc | ab bd | one word, which is its own n-gram | no word: likewise
    pairs = {(0, 1): 3 / 4, (0, 2): 1, (0, 3): 1, (1, 2): 1, (1, 3): 1, (2, 3): 1}
    found = distinct(2)(["a b c", "A b, d", "a", ""])
    for i in range(4):
        assert found[i] == pytest.approx(fmean(value for pair, value in pairs.items() if i in pair))
    assert distinct(2)(["x y x y", "x y x y", "x y x y"]) == pytest.approx(2 / 6)  # xy yx of 6 in a pair
    assert distinct(1)(["", "", ""]) == pytest.approx(1 / 2)  # equal answers without words are equal answers


def test_distinct_does_not_hang_on_the_number_of_answers():
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 30, 12))) for _ in range(200)]
    assert fmean(distinct(2)(texts)) == pytest.approx(fmean(distinct(2)(texts[:100])), abs=0.005)
    words = [" ".join(texts[:of]).split() for of in (100, 200)]
    together = [len({*pairwise(found)}) / len(found) for found in words]
    assert together[0] - together[1] > 0.1  # as the share over a whole collection does


def test_self_bleu_is_sacrebleus_mean_over_all_pairs_where_there_are_few():
    texts = ["the cat sat on the mat", "a cat sat on a mat today", "猫が好き", "nothing in common here", "the cat sat"]
    reference = BLEU(effective_order=True, tokenize="none")
    words = [
        "the cat sat on the mat",
        "a cat sat on a mat today",
        "猫 が 好 き",
        "nothing in common here",
        "the cat sat",
    ]
    one_way = [(i, (i + k) % 5) for i in range(5) for k in (1, 2)]  # a circle: each pair in one direction
    pairs = {pair: reference.sentence_score(words[pair[0]], [words[pair[1]]]).score for pair in one_way}
    found = self_bleu(texts)
    for i in range(5):
        assert found[i] == pytest.approx(fmean(value for pair, value in pairs.items() if i in pair))
    assert fmean(found) == pytest.approx(fmean(pairs.values()))
    assert self_bleu(["same words here"] * 30) == pytest.approx(100)
    assert self_bleu(["", "", ""]) == pytest.approx(100)


def test_self_bleu_asks_for_a_bounded_number_of_pairs(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "fedllm_bench.evaluation.metrics.answer_diversity.bleu", lambda a, b: asked.append((a, b)) or 1.0
    )
    assert self_bleu([f"word{i}" for i in range(50)]) == pytest.approx(1)
    assert len(asked) == len({frozenset(pair) for pair in asked}) == 50 * PARTNERS


def test_spread_is_the_mean_cosine_distance_of_scikit_learn_without_the_diagonal():
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = spread(lambda texts: vectors[[int(text) for text in texts]].astype(np.float32))([str(i) for i in range(9)])
    apart = cosine_distances(vectors)
    assert fmean(found) == pytest.approx(fmean(apart[i, j] for i, j in combinations(range(9), 2)), abs=1e-6)


def test_answers_are_compared_within_their_language_and_failed_ones_are_unscored():
    prompts = ref_prompts({"English": 4, "French": 4, "Telugu": 2})
    answers = said(prompts, ["one answer"] * 4 + ["a b", "c d", "e f", "g h"] + ["no"] * 2)
    failed = prompts[0].item_id
    del answers[failed]
    scores = {score.item_id: score for score in among_scores(prompts, answers, distinct(2))}
    assert set(scores) == {p.item_id for p in prompts[:8]}  # two answers in Telugu say nothing of a spread
    assert (scores[failed].value, scores[failed].reason) == (None, "no answer")
    assert [scores[p.item_id].value for p in prompts[1:8]] == [0.5] * 3 + [1.0] * 4
    del answers[prompts[1].item_id]
    again = {score.item_id: score for score in among_scores(prompts, answers, distinct(2))}
    assert [again[p.item_id].reason for p in prompts[:4]] == ["no answer", "no answer", FEW, FEW]


def test_pseudo_values_keep_the_mean_and_have_the_jackknifes_standard_error():
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    pairs = np.abs(values[:, None] - values[None])  # Gini's mean difference, a U-statistic of degree 2
    means = pairs.sum(axis=1) / 11
    found = [s.value for s in pseudo_values([Score(str(i), v, cluster=str(i)) for i, v in enumerate(means)])]
    left_out = [np.delete(np.delete(pairs, i, 0), i, 1).sum() / (11 * 10) for i in range(12)]
    assert fmean(found) == pytest.approx(fmean(means))
    assert found == pytest.approx([12 * fmean(means) - 11 * u for u in left_out])


def test_intervals_over_pairs_cover_the_truth_as_often_as_they_say():
    """Normal values, |x - y|: its mean is 2 / sqrt(pi). The scores' own interval would cover two thirds of the time."""
    rng, truth, covered, naive, count = np.random.default_rng(1), 2 / np.sqrt(np.pi), 0, 0, 40
    for _ in range(400):
        x = rng.normal(size=count)
        means = np.abs(x[:, None] - x[None]).sum(axis=1) / (count - 1)
        moved = [s.value for s in pseudo_values([Score(str(i), v, cluster=str(i)) for i, v in enumerate(means)])]
        half = 2.02 / np.sqrt(count)
        covered += abs(fmean(moved) - truth) <= half * stdev(moved)
        naive += abs(fmean(means) - truth) <= half * stdev(means)
    assert covered / 400 > 0.92
    assert naive / 400 < 0.8


def test_a_model_that_says_one_thing_to_everybody_is_seen(tmp_path):
    prompts = ref_prompts({"English": 12, "French": 12})
    rng = np.random.default_rng(0)
    write_prompts(tmp_path, "ref_gpt4", prompts)
    many = {p.item_id: " ".join(f"w{i}" for i in rng.integers(0, 40, 9)) for p in prompts}
    write_answers(tmp_path, "ref_gpt4", "base", prompts, lambda p, turn: many[p.item_id])
    write_answers(tmp_path, "ref_gpt4", "global", prompts, lambda p, turn: "As ever, it depends on what you want")
    found = evaluate(tmp_path).metrics
    for name, change in (("ref_gpt4_distinct_2", -0.45), ("ref_gpt4_self_bleu", 80)):
        view = found[name].views["mean"]
        assert view.estimator == "mean over languages of the mean over questions"
        assert view.differences["global"].significant
        assert view.differences["global"].mean / change > 1
        assert set(found[name].views) == {"mean", "language_English", "language_French"}


def test_what_compare_reads_has_the_mean_and_the_wider_intervals(tmp_path):
    prompts = plain_prompts(9)
    write_prompts(tmp_path, "mini", prompts)
    write_answers(
        tmp_path, "mini", "global", prompts, lambda p, turn: "a b" if int(p.item_id) < 4 else f"c {p.item_id}"
    )
    shown = evaluate(tmp_path).metrics["mini_distinct_2"].views["mean"].sides["global"]
    values = [score.value for score in from_answers(tmp_path)["mini_distinct_2"].scores]
    assert fmean(values) == pytest.approx(shown.mean)
    half = 2.306 * stdev(values) / 3  # Student's t with 8 degrees of freedom
    assert shown.mean - shown.ci_low > half  # the four alike are far below the others: widened on that side
    assert shown.ci_high == pytest.approx(min(1.0, shown.mean + half), rel=1e-3)


def test_clients_with_adapters_of_their_own_are_as_far_apart_as_their_answers(tmp_path):
    prompts = plain_prompts(3)
    texts = {"client-a": ["x y", "x y", ""], "client-b": ["x y", "x z", ""], "client-c": ["q", "x y", "w"]}
    answers = {side: said(prompts, of) for side, of in texts.items()} | {"base": said(prompts, ["x"] * 3)}
    found = {side: [score.value for score in scores] for side, scores in between_scores(prompts, answers).items()}
    assert found == {"client-a": [0.5, 0.25, 0.5], "client-b": [0.5, 0.5, 0.5], "client-c": [1.0, 0.25, 1.0]}
    assert unlike("X, y!", "x y") == 0
    del answers["client-c"]["1"], answers["client-b"]["1"]
    alone = between_scores(prompts, answers)
    assert [scores[1].reason for scores in alone.values()] == ["no other client's answer", "no answer", "no answer"]
    assert between_scores(prompts, {"base": {}, "global": {}, "client-a": answers["client-a"]}) == {}
    write_prompts(tmp_path, "heldout_ref", prompts)
    for side in texts:
        write_answers(tmp_path, "heldout_ref", side, prompts, lambda p, turn, side=side: texts[side][int(p.item_id)])
    entry = evaluate(tmp_path).metrics["heldout_ref_between_clients"]
    assert entry.views["mean"].sides["client-c"].mean == 0.75
    assert entry.views["mean"].differences == {}


def test_answers_near_the_users_own_rows_are_told_from_those_near_everybodys():
    axes = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1], "all": [3**-0.5] * 3}
    owners = Owners(
        client_of={"0": "ann", "1": "bob", "2": "eve", "3": "ann"},
        rows={("ann", ""): ["a", "a"], ("bob", ""): ["b"], ("eve", "fra"): ["c"]},
    )
    metric = OwnRows(owners, lambda texts: np.array([axes[text] for text in texts], dtype=np.float32))
    prompts = plain_prompts(5)
    scores = metric(prompts, said(prompts[:4], ["a", "all", "c", "b"]))
    assert [(s.item_id, s.value) for s in scores] == [("0", 1), ("1", pytest.approx(0, abs=1e-7)), ("3", -1)]
    assert metric(prompts[:1], {})[0].reason == "no answer"


def test_owners_of_a_split_are_its_heldout_rows_clients(tiny_split):
    owners = owners_of(tiny_split)
    heldout = {row.row_id: row.client_id for row in tiny_split.rows("heldout")}
    assert heldout.items() <= owners.client_of.items()
    rows = Counter((row.client_id, row.language) for row in tiny_split.rows("train"))
    assert {key: len(found) for key, found in owners.rows.items()} == {k: min(n, OWN_ROWS) for k, n in rows.items()}


def test_metrics_that_need_a_model_carry_its_name_and_encode_each_text_once(tmp_path):
    prompts = ref_prompts({"English": 4})
    for benchmark in ("ref_gpt4", "heldout_ref"):
        write_prompts(tmp_path, benchmark, prompts)
        write_answers(tmp_path, benchmark, "global", prompts, lambda p, turn: f"{p.item_id} said")
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.eye(64, dtype=np.float32)[[len(asked) - len(texts) + i for i in range(len(texts))]]

    owners = Owners(client_of={}, rows={})
    chosen = open_metrics(remembering(encode), "my-encoder", owners)
    found = evaluate(tmp_path, metrics=chosen, embedding_model="my-encoder").metrics
    named = [name for name, entry in found.items() if entry.version == "2+my-encoder"]
    assert named == [n for n in OPEN_METRICS if n.endswith(("_embedding", "_spread"))]  # no row of any user is known
    assert found["ref_gpt4_spread"].views["mean"].sides["global"].mean == 1  # all vectors are orthogonal
    assert len(asked) == len(set(asked)) == 8


def test_a_runs_report_breaks_down_by_the_client_whose_row_was_asked(tiny_split, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", split=str(tiny_split.folder))
    files.write_json(tmp_path / "config.json", config.to_dict())
    files.write_json(tmp_path / "environment.json", {"data": {"split_hash": tiny_split.hash}})
    prompts = split_prompts.heldout(tiny_split)
    write_prompts(tmp_path, "heldout_ref", prompts)
    write_answers(tmp_path, "heldout_ref", "global", prompts, lambda p, turn: p.references[0])
    owners = owners_of_run(tmp_path)
    asked = {owners.client_of[prompt.item_id] for prompt in prompts}
    views = write_evaluation_report(tmp_path).evaluation.metrics["heldout_ref_rouge_l"].views
    assert {name for name in views if name.startswith("client_")} == {f"client_{client}" for client in asked}
    one = sorted(asked)[0]
    scored = views[f"client_{one}"].sides["global"].n_scored
    assert scored == sum(owners.client_of[prompt.item_id] == one for prompt in prompts) > 0
    files.write_json(tmp_path / "environment.json", {"data": {"split_hash": "f" * 64}})  # another split by now
    assert owners_of_run(tmp_path) is None
    views = write_evaluation_report(tmp_path).evaluation.metrics["heldout_ref_rouge_l"].views
    assert not any(name.startswith("client_") for name in views)
