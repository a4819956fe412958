"""From recorded replies to scores: equal to an independent computation, nothing lost, nothing made up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from judged import answer

from fedllm_bench.evaluation.judges.questions import Slot
from fedllm_bench.evaluation.judging.grading import mean_or_refusal, scores_of
from fedllm_bench.evaluation.judging.pairing import pair_scores_of
from fedllm_bench.evaluation.records import Answer, Judgement, Order, Prompt, Reply
from fedllm_bench.scores.summaries import per_cluster, summarise

PROMPTS = [
    Prompt(item_id=str(number), turns=("q1", "q2"), category="writing", language="eng") for number in range(81, 161)
]
ANSWERS = {prompt.item_id: answer(prompt, "a1", "a2") for prompt in PROMPTS}
REPEATS = 2


def judgement(item: str, turn: int, text: str | None, repeat: int = 0, order: Order = "") -> Judgement:
    reply = None if text is None else Reply(text=text, finish="stop")
    reason = "timed out" if text is None else ""
    return Judgement(item_id=item, turn=turn, request_hash=f"{item} {turn} {repeat}", repeat=repeat, order=order,
                     reply=reply, reason=reason)  # fmt: skip


def recorded(seed: int = 0) -> tuple[list[Judgement], dict[tuple[str, int, int], Fraction]]:
    """Replies with ratings in halves, and the ratings themselves."""
    rng = random.Random(seed)
    slots = [(p.item_id, turn, repeat) for p in PROMPTS for turn in (1, 2) for repeat in range(REPEATS)]
    ratings = {slot: Fraction(rng.randint(2, 20), 2) for slot in slots}
    said = [judgement(i, t, f'It says "[[1]]". Rating: [[{float(r):g}]]', n) for (i, t, n), r in ratings.items()]
    rng.shuffle(said)
    return said, ratings


def mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, Fraction()) / len(values)


def test_scores_equal_an_independent_computation_to_the_last_digit() -> None:
    said, ratings = recorded()
    scores = scores_of(PROMPTS, ANSWERS, said, benchmark="mt_bench")
    assert len(scores) == 160
    for score in scores:
        turn = int(score.group["turn"])
        assert score.item_id == f"{score.cluster}/{turn}"
        assert score.value == float(mean([ratings[score.cluster, turn, n] for n in range(REPEATS)]))
    graded = mean_or_refusal(scores)
    by_turn = [mean_or_refusal([s for s in scores if s.group["turn"] == turn]).mean for turn in ("1", "2")]
    turns = [mean([r for (_, t, _), r in ratings.items() if t == turn]) for turn in (1, 2)]
    assert by_turn == [float(turn) for turn in turns]
    assert graded.mean == float(mean(turns)) == float(mean(list(ratings.values())))
    assert (graded.coverage, graded.reason) == ("80/80", "")
    assert summarise(per_cluster(scores)).mean == pytest.approx(graded.mean, abs=1e-12)


@pytest.mark.parametrize("lost", ["the judgement", "its reply", "its verdict", "one repeat of it"])
def test_with_one_reply_lost_coverage_is_79_of_80_and_no_other_mean_is_shown(lost: str) -> None:
    said, ratings = recorded()
    gone = [j for j in said if (j.item_id, j.turn) == ("100", 2)]
    kept = [j for j in said if j not in gone]
    changed = {
        "the judgement": [],
        "its reply": [replace(j, reply=None, reason="timed out") for j in gone],
        "its verdict": [replace(j, reply=Reply(text="I cannot say.")) for j in gone],
        "one repeat of it": gone[:1],
    }[lost]
    scores = scores_of(PROMPTS, ANSWERS, [*kept, *changed], benchmark="mt_bench")
    assert len(scores) == 160
    (unscored,) = (score for score in scores if not score.is_scored)
    assert unscored.item_id == "100/2"
    graded = mean_or_refusal(scores)
    assert (graded.mean, graded.coverage) == (None, "79/80")
    assert unscored.reason in graded.reason
    rest = mean([r for (item, _, _), r in ratings.items() if item != "100"])
    allowed = mean_or_refusal(scores, min_coverage=0.95)
    assert (allowed.mean, allowed.coverage) == (pytest.approx(float(rest), rel=1e-15), "79/80")


@pytest.mark.parametrize(("min_coverage", "is_shown"), [(1.0, False), (0.9875, True), (0.99, False), (0.0, True)])
def test_a_mean_is_refused_below_the_limit(min_coverage: float, is_shown: bool) -> None:
    said, _ = recorded()
    scores = scores_of(PROMPTS, ANSWERS, [j for j in said if j.item_id != "81"], benchmark="mt_bench")
    assert (mean_or_refusal(scores, min_coverage=min_coverage).mean is not None) == is_shown


def test_without_a_judge_every_item_is_unscored() -> None:
    scores = scores_of(PROMPTS, ANSWERS, [], benchmark="mt_bench")
    assert [(s.value, s.reason) for s in scores] == [(None, "no judge")] * 160
    assert mean_or_refusal(scores, min_coverage=0.0).mean is None
    assert mean_or_refusal([]).mean is None


ONE = Prompt(item_id="x", turns=("q1", "q2"))


@pytest.mark.parametrize(
    ("given", "said", "reasons"),
    [
        (None, [judgement("x", 1, "[[5]]"), judgement("x", 2, "[[5]]")], ["no answer", "no answer"]),
        (replace(answer(ONE, "a", ""), finish=("stop", "failed"), reason="cut"),
         [judgement("x", 1, "[[5]]"), judgement("x", 2, "[[5]]")], ["", "no answer: cut"]),
        (replace(answer(ONE, "a", "b"), prompt_hash="h"), [judgement("x", 1, "[[5]]")], ["the answer is to"] * 2),
        (answer(ONE, "a", "b"), [judgement("x", 1, "[[5]]")], ["", "no judge"]),
        (answer(ONE, "a", "b"), [judgement("x", 1, "[[5]]"), judgement("x", 1, "[[9]]")], ["two judgem", "no judge"]),
        (answer(ONE, "a", "b"), [judgement("x", 1, "[[11]]"), judgement("x", 2, "")], ["its rating 11", "the judge"]),
        (answer(ONE, "a", "b"), [judgement("x", 1, "[[5]]", order="ab")], ["no judge", "no judge"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(given: Answer | None, said: list[Judgement], reasons: list[str]) -> None:
    scores = scores_of([ONE], {ONE.item_id: given} if given else {}, said, benchmark="heldout_ref")
    assert len(scores) == 2
    for score, reason in zip(scores, reasons, strict=True):
        assert score.reason.startswith(reason)
        assert (score.value == 5) == (reason == "")


def test_a_judgement_of_another_answer_does_not_count() -> None:
    said = [judgement("x", 1, "[[5]]"), judgement("x", 2, "[[6]]")]
    hashes = {Slot("x", 1): "x 1 0", Slot("x", 2): "of the answer that stands there now"}
    scores = scores_of([ONE], {ONE.item_id: answer(ONE, "a", "b")}, said, benchmark="heldout_ref", hashes=hashes)
    assert [score.value for score in scores] == [5, None]
    assert "another answer" in scores[1].reason


def test_harm_is_rated_from_1_to_5() -> None:
    prompt = Prompt(item_id="0", turns=("q",))
    for text, value in (("[[5]]", 5), ("[[6]]", None)):
        answers = {"0": answer(prompt, "a")}
        (score,) = scores_of([prompt], answers, [judgement("0", 1, text)], benchmark="advbench")
        assert score.value == value
        assert score.item_id == score.cluster == "0"


def test_what_a_judge_was_not_shown_is_said() -> None:
    prompt = Prompt(item_id="0", turns=("q",))
    answers = {"0": answer(prompt, "x" * 10**6)}
    (score,) = scores_of([prompt], answers, [judgement("0", 1, "[[5]]")], benchmark="advbench")
    assert score.evidence["characters_not_shown"] == 10**6 - 20_000


PAIRS = {  # verdict in the order ab, in the order ba (there A is the other's answer), points of the side's own answer
    "wins in both": ("A", "B", 1.0),
    "loses in both": ("B", "A", 0.0),
    "the first place wins": ("A", "A", 0.5),
    "the second place wins": ("B", "B", 0.5),
    "ties": ("C", "C", 0.5),
    "a win and a tie": ("A", "C", 0.5),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_win_counts_only_where_both_orders_agree(name: str) -> None:
    ab, ba, points = PAIRS[name]
    prompt = Prompt(item_id="0", turns=("q",), category="math")
    said = [judgement("0", 1, f"[[{ab}]]", order="ab"), judgement("0", 1, f"[[{ba}]]", order="ba")]
    (score,) = pair_scores_of([prompt], said)
    assert score.value == points
    assert score.group == {"turn": "1", "category": "math"}
    (half,) = pair_scores_of([prompt], said[:1])
    assert (half.value, half.reason) == (None, "a judgement of one order is missing")
    (none,) = pair_scores_of([prompt], [])
    assert (none.value, none.reason) == (None, "no judge")
