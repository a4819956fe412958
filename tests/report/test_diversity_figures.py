"""Every figure of a diversity report: equal to the byte, no missing glyph, and saying what it was computed on."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import pytest
from diversity_reports import against, made_up
from sweeps import sweep

from fedllm_bench.report import style
from fedllm_bench.report.diversity import drawing, fonts
from fedllm_bench.report.diversity.drawing import CAPTIONS
from fedllm_bench.report.diversity.frame import PALETTE, Frame
from fedllm_bench.report.diversity.writing import frame_of

SECTION = {
    "instruction_sunburst": "instruction",
    "instruction_clients": "instruction",
    "topics_by_client": "instruction",
    **dict.fromkeys(
        ("map_by_language", "map_by_client", "similarity", "distance_to_rest", "heterogeneity"), "embedding"
    ),
}


@pytest.fixture(autouse=True)
def one_kind_of_file(monkeypatch):
    """Drawing twice would double the time."""
    monkeypatch.setattr(style, "METADATA", {"svg": style.METADATA["svg"]})


def frame(folder: Path, num_clients: int, **kinds) -> Frame:
    return frame_of(*reported(num_clients, **kinds), folder)


def reported(num_clients: int, **kinds):
    report, arrays = made_up(num_clients, preference=True, **kinds)
    report["against"] = against(report, made_up(5, seed=1)[0])
    return report, arrays


@cache
def many():
    return reported(747)


def text_of(folder: Path, name: str) -> str:
    """matplotlib writes each text as a comment beside its outline."""
    return (folder / f"{name}.svg").read_text(encoding="utf-8")


def test_every_figure_has_a_caption_and_there_are_fourteen():
    assert CAPTIONS.keys() == drawing.FIGURES.keys()
    assert len(drawing.FIGURES) == 14


@pytest.mark.parametrize("name", sweep(drawing.FIGURES, "quantity", "similarity"))
def test_every_figure_holds_747_clients_and_says_on_how_many_rows_it_was_computed(name, tmp_path):
    found = frame_of(*many(), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or a layout that does not fit is a warning
        told = drawing.FIGURES[name](found)
    assert told is not None
    assert told.name == name
    rows = found.report["split"]["rows"]
    assert f"{rows:,} rows of 747 clients; " in told.footer
    text = text_of(tmp_path, name)
    assert all(word in text for word in told.footer.split() if word.isalnum())


def test_figures_are_equal_to_the_byte_for_equal_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "METADATA", {"png": {"Software": None}, **style.METADATA})
    for folder in ("a", "b"):
        drawing.FIGURES["similarity"](frame(tmp_path / folder, 6))
    assert len(list((tmp_path / "a").iterdir())) == 2
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_skipped_section_has_no_figure(tmp_path):
    found = frame(tmp_path, 3, embedded=False)
    for name, section in SECTION.items():
        assert drawing.FIGURES[name](found) is None, section
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_one_client_has_no_pairs_and_all_other_figures(tmp_path):
    found = frame(tmp_path, 1)
    found.clients[0]["distance_to_rest"] = None
    lacking = [name for name, draw in drawing.FIGURES.items() if draw(found) is None]
    assert lacking == ["similarity", "distance_to_rest"]
    assert "No index of heterogeneity" in text_of(tmp_path, "heterogeneity")


def test_features_without_an_interval_or_without_any_value_are_no_error(tmp_path):
    found = frame(tmp_path, 3)
    features = found.report["sections"]["preference"]["features"]
    features["lists"] |= {"low": None, "high": None}
    features["language"] = {"mean": None, "low": None, "high": None, "n": 0, "share_chosen_more": None, "unit": "share"}
    drawing.FIGURES["preference"](found)
    text = text_of(tmp_path, "preference")
    assert "[no interval]" in text
    assert "1 of 2 features differ" in text


def test_a_feature_in_which_no_pair_differs_is_named_and_takes_no_room(tmp_path):
    found = frame(tmp_path, 3)
    features = found.report["sections"]["preference"]["features"]
    features["lists"] |= {"mean": 0.0, "low": 0.0, "high": 0.0, "share_chosen_more": 0.0}
    drawing.FIGURES["preference"](found)
    text = text_of(tmp_path, "preference")
    assert "equal in every pair: lists" in text.replace("\n", " ")
    assert "lists: 0" not in text


def test_quality_without_a_model_shows_duplicates_alone(tmp_path):
    found = frame(tmp_path, 3)
    found.report["sections"]["quality"] |= {"ifd": None, "model": None, "share_above_one": None}
    for client in found.clients:
        del client["ifd"]
    drawing.FIGURES["quality"](found)
    text = text_of(tmp_path, "quality")
    assert "no IFD; 1.0% of rows are copies" in text
    assert "mean of a client" not in text


@pytest.mark.slow
def test_names_of_clients_are_shown_up_to_sixty(tmp_path):
    drawing.FIGURES["distance_to_rest"](frame(tmp_path / "few", 60))
    drawing.FIGURES["distance_to_rest"](frame(tmp_path / "many", 61))
    assert "user-059" in text_of(tmp_path / "few", "distance_to_rest")
    assert "user-059" not in text_of(tmp_path / "many", "distance_to_rest")


def test_more_than_eight_languages_keep_seven_colours_and_the_rest_are_counted(tmp_path):
    found = frame(tmp_path, 30)
    for i, client in enumerate(found.clients[:12]):
        client["languages"] = {f"x{i:02d}": client["rows"]}
    colours = [colour for _, colour, _ in found.languages.values()]
    assert colours[:7] == list(PALETTE[:7])
    assert set(colours[7:]) == {"#a9adb5"}
    assert len(colours) > 9


# ---- letters of all scripts


def test_every_script_of_the_suite_is_drawn_as_written_where_fonts_have_it(tmp_path):
    found = frame(tmp_path, 8)
    if found.letters.missing:
        pytest.skip(f"needs fonts: {fonts.ADVICE}")
    drawing.FIGURES["instruction_sunburst"](found)
    text = text_of(tmp_path, "instruction_sunburst")
    assert all(term in text for term in ("اللون", "颜色", "భాష", "письмо"))


@pytest.fixture
def only_our_font(monkeypatch):
    """A machine without any font but matplotlib's."""
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", list)


@pytest.mark.slow
def test_letters_that_no_font_has_are_found_before_drawing_and_named_by_language(tmp_path, only_our_font):
    found = frame(tmp_path, 8)
    assert found.letters.families == ("DejaVu Sans",)
    assert "CJK, Telugu" in found.letters.warning
    assert "fonts-noto-cjk" in found.letters.warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no glyph is missing
        for name in ("instruction_sunburst", "instruction_clients", "topics_by_client"):
            drawing.FIGURES[name](found)
    text = text_of(tmp_path, "topics_by_client")
    assert "topic 6 (Telugu)" in text
    assert "topic 7 (Chinese)" in text
    assert "اللون" in text  # DejaVu has Arabic
    assert "颜色" not in text


def test_scripts_that_need_shaping_count_as_missing_where_matplotlib_cannot_shape(monkeypatch):
    monkeypatch.setattr(fonts.matplotlib, "__version__", "3.10.1")
    letters = fonts.letters_of(["اللون", "письмо", "భాష", "é"])
    assert letters.shown("письмо é", "?") == "письмо é"
    assert letters.shown("اللون", "topic 1") == "topic 1"
    assert letters.shown("భాష", "topic 2") == "topic 2"


def test_a_letter_that_nothing_has_is_replaced_and_named():
    letters = fonts.letters_of(["a\U0010ffff", "b"])  # no character
    assert letters.shown("a\U0010ffff", "text 1") == "text 1"
    assert letters.shown("b", "?") == "b"
    assert "Other letters" in letters.warning or "Other" in letters.warning


def test_a_right_to_left_word_is_shaped_and_joined():
    """Joined letters are other glyphs than single ones; without shaping the word would be as wide as its letters."""
    if not fonts.shapes():
        pytest.skip("needs matplotlib 3.11")
    from matplotlib.textpath import TextPath

    def width(text):
        return TextPath((0, 0), text, size=100).get_extents().x1

    word = "مدينة"
    assert width(word) < 0.9 * sum(width(letter) for letter in word)
    first, last = TextPath((0, 0), "اب", size=100), TextPath((0, 0), "ا", size=100)
    assert first.get_extents().x1 > 2 * last.get_extents().x1  # the first letter, alef, stands at the right
