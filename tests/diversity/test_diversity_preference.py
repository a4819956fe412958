"""What chosen answers have more of, and agreement of users: by hand, against scipy and against all pairs of votes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from diverse_rows import row
from scipy import stats

from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.agreement import NO_PAIRS, agreement
from fedllm_bench.diversity.preference import preference_section
from fedllm_bench.diversity.traits import TRAITS, scripts

MARKDOWN = """# Title
Some **bold** and __also bold__ words, 2 * 3 * 4.

- one
* two
1. three

```python
# no heading
- no item
**no bold**
```
"""


@pytest.mark.parametrize(
    ("trait", "prompt", "answer", "value"),
    [
        ("characters", "", "日本 ok", 5),
        ("words", "", "Two words, 日本", 4),
        ("line_breaks", "", "\na\nb\n\nc\n", 3),
        ("list_items", "", MARKDOWN, 3),
        ("headings", "", MARKDOWN, 1),
        ("bold", "", MARKDOWN, 2),
        ("code_blocks", "", MARKDOWN, 1),
        ("code_blocks", "", "```\ncut off", 1),
        ("code_blocks", "", "uses ``` inside a line", 0),
        ("list_items", "", "2019 was good. -5 degrees", 0),
        ("headings", "", "#hashtag", 0),
        ("latin_letters", "", "да ok", 0.5),
        ("latin_letters", "", "123", None),
        ("script_of_prompt", "как", "да ok", 0.5),
        ("script_of_prompt", "これは何ですか", "それは水です ok", 0.75),
        ("script_of_prompt", "ఏమిటి", "ఇది నీరు", 1),
        ("script_of_prompt", "1 + 1", "two", None),
    ],
)
def test_a_trait_by_hand(trait, prompt, answer, value):
    assert TRAITS[trait].value(prompt, answer) == value


def test_every_trait_has_a_case_and_takes_empty_texts():
    assert len(TRAITS) == 9
    assert {name: trait.value("", "") for name, trait in TRAITS.items()} == dict.fromkeys(TRAITS, 0.0) | {
        "latin_letters": None,
        "script_of_prompt": None,
    }


def test_marks_belong_to_their_script():
    assert scripts("\u00e9 e\u0301 తెలుగు 12!") == {"Latin": 2, "Telugu": 6}
    assert scripts("ꨀ") == {"other": 1}  # Cham: not among the named ones, but a letter


def longer_by(client: str, differences: list[int]):
    return [row(client, f"{client} {i}", "x" * (50 + d), "y" * 50) for i, d in enumerate(differences)]


def test_paired_differences_of_a_client_have_students_t():
    differences = [4, -1, 7, 3, 2]  # as far from 3 above it as below
    measured = preference_section(longer_by("a", differences) + longer_by("b", [2]))
    own = measured.clients["a"]["preference"]["characters"]
    interval = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (own["mean"], own["n"]) == (3, 5)
    assert (own["low"], own["high"]) == pytest.approx((interval.low, interval.high))
    assert measured.clients["b"]["preference"]["characters"] == {"mean": 2, "low": None, "high": None, "n": 1}


def test_the_split_is_the_mean_over_clients_and_not_over_pairs():
    rows = longer_by("a", [10] * 8) + longer_by("b", [-2, -4]) + longer_by("c", [0])
    found = preference_section(rows).section["features"]["characters"]
    means = [10, -3, 0]
    interval = stats.ttest_1samp(means, 0).confidence_interval()
    assert (found["mean"], found["low"]) == pytest.approx((np.mean(means), interval.low))
    assert found["high"] > interval.high  # 10 lies far above the others: widened on that side
    assert (found["n"], found["clients"]) == (11, 3)
    assert (found["share_chosen_more"], found["share_chosen_less"]) == pytest.approx((8 / 11, 2 / 11))


def test_a_pair_without_letters_has_no_script_and_is_not_counted():
    section = preference_section([row("a", "1", "2", "3"), row("b", "q", "yes", "да")]).section
    assert section["features"]["latin_letters"]["n"] == 1
    assert section["features"]["latin_letters"]["mean"] == 1
    assert section["features"]["characters"]["n"] == 2


def test_rows_without_rejected_answers_have_no_preferences():
    with pytest.raises(UserError, match="only a split of preferences"):
        preference_section([row("a", "q")])


def random_votes(seed: int, num: int = 120):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num):
        prompt, first = f"p{rng.integers(6)}", rng.integers(3)
        answers = [f"{'long ' * first}answer", "short"]
        chosen = int(rng.random() < 0.3)
        rows.append(row(f"u{rng.integers(8)}", prompt, answers[chosen], answers[1 - chosen]))
    return rows


def all_pairs_of_votes(rows):
    """Of every two different votes of two clients on one prompt and pair of answers, whether they are equal."""
    unique = {(r.client, r.prompt, r.completion, r.rejected): r for r in rows}.values()
    return [
        a.completion == b.completion
        for a, b in combinations(unique, 2)
        if a.client != b.client and a.prompt == b.prompt and {a.completion, a.rejected} == {b.completion, b.rejected}
    ]


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_over_all_pairs_of_votes(seed):
    rows = random_votes(seed)
    found, expected = agreement(rows), all_pairs_of_votes(rows)
    assert found["pairs"] == len(expected) > 50
    assert found["agree"] == pytest.approx(np.mean(expected))
    assert found["kappa"] == pytest.approx(2 * np.mean(expected) - 1)
    assert found["low"] <= found["agree"] <= found["high"]
    assert found["prompts"] == 6


def test_agreement_by_hand():
    votes = [row("a", "p", "yes", "no"), row("b", "p", "yes", "no"), row("c", "p", "no", "yes")]
    found = agreement([*votes, row("a", "q", "yes", "no"), row("b", "q", "yes", "other")])
    assert (found["pairs"], found["agree"]) == (3, pytest.approx(1 / 3))
    assert (found["prompts"], found["shared_prompts"], found["answer_pairs"]) == (1, 2, 1)
    assert found["expected_by_length"] == pytest.approx((2 / 3) ** 2 + (1 / 3) ** 2)
    assert found["kappa"] == pytest.approx(-1 / 3)


def test_nobody_agrees_with_oneself():
    own = [row("a", "p", "yes", "no"), row("a", "p", "no", "yes")]
    assert agreement(own) == {"skipped": NO_PAIRS, "shared_prompts": 0}
    found = agreement([*own, row("b", "p", "yes", "no")])
    assert (found["pairs"], found["agree"]) == (2, 0.5)
