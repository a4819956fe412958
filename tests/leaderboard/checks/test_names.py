"""Names that look alike are told apart for the reader: two scripts in a word, and equal skeletons."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedllm_bench.leaderboard.submission import names

OWN = "FedLLM-Bench"
LOOK_ALIKE = {
    "a Cyrillic letter": "F\u0435dLLM-Bench",
    "full width": "\uff26\uff45\uff44\uff2c\uff2c\uff2d\uff0d\uff22\uff45\uff4e\uff43\uff48",
    "a mathematical letter": "\U0001d405edLLM-Bench",
    "a Greek letter": "FedLL\u039c-Bench",
    "a Cherokee letter": "FedLL\u13b7-Bench",
    "another dash": "FedLLM\u2013Bench",
    "a Japanese sign that is drawn as a dash": "FedLLM\u30fcBench",
    "the Chinese one, drawn as a dash": "FedLLM\u4e00Bench",
    "a Korean vowel that is drawn as a dash": "FedLLM\u3161Bench",
    "a zero-width letter": "Fed\u200bLLM-Bench",
    "a combining mark": "FedLLM-Be\u0323nch",
    "a small capital": "Fed\u029fLM-Bench",
    "other case and signs": "fedllm bench",
}
ANOTHER = ("FedLLM-Branch", "Zh\u014dngw\u00e9n Lab", "\u5b9e\u9a8c\u5ba4", "\u041b\u0430\u0431", "Bench")
PLAIN = (
    "FedAvg",
    "\u03b2-Fed",
    "\u00dcn\u00ef",
    "FedLLM\u5b9f\u9a13\u30e9\u30dc\u30fc",
    "\u041b\u0435\u0441 2",
    "\u5b9e\u9a8c Lab",
)


@pytest.mark.parametrize("name", LOOK_ALIKE.values(), ids=LOOK_ALIKE)
def test_a_name_that_looks_like_a_teams_is_noted(name: str):
    found = names.notes("team", name, names.by_skeleton([OWN]))
    assert any(f"looks like the team {OWN!a}" in text and text.isascii() for text in found)


@pytest.mark.parametrize("name", [*ANOTHER, OWN])
def test_other_names_and_the_same_name_are_not_noted(name: str):
    assert names.notes("team", name, names.by_skeleton([OWN])) == []


def test_names_of_signs_alone_look_alike_only_where_the_signs_are_equal():
    assert names.notes("team", "\u2602\u2602", names.by_skeleton(["\u2605", "+++"])) == []
    assert names.notes("team", "\u2014", names.by_skeleton(["-"]))


def test_letters_of_two_scripts_in_one_word_are_noted_and_words_of_two_scripts_are_not():
    assert names.mixed_scripts("Team F\u0435d") == ("F\u0435d", ("Cyrillic", "Latin"))
    assert names.mixed_scripts("Fed\u03b2Avg") == ("Fed\u03b2Avg", ("Greek", "Latin"))
    assert [names.mixed_scripts(name) for name in PLAIN] == [None] * len(PLAIN)


def test_a_method_in_other_case_is_the_same_method_and_no_look_alike():
    others = names.by_skeleton(["fedavg"])
    assert names.notes("method", "FedAvg", others) == names.notes("method", "Fed-Avg", others) == []
    assert names.notes("method", "fed\u0430vg", others)


def test_the_suites_own_names_are_known_on_an_empty_board():
    found = names.Known.of([]).notes(SimpleNamespace(team="FedLLM\u2010Bench", method="fedpr\u043ex"))
    assert [text.split()[1] for text in found] == ["team", "method", "method"]


def test_each_letter_of_the_tables_stands_for_one_latin_letter():
    theirs = "".join(row[1] for row in names.LOOK_ALIKE)
    assert len(set(theirs)) == len(theirs) == len(names.TABLE) >= 150
    assert all(ours.isascii() for ours in names.TABLE.values())
