"""CSV files that a spreadsheet opens: nothing in them is run."""

from __future__ import annotations

import csv
import io

import pytest

from fedllm_bench.common.csv_text import FORMULA, csv_text

HOSTILE = [f"{sign}1" for sign in FORMULA] + [" =1", "\n@x", "\tx"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text):
    (name,), (cell,) = csv.reader(io.StringIO(csv_text([text], [{text: text}]), newline=""))
    assert name == cell == f"'{text}"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_cell_with_several_lines_begins_no_line_of_its_own(end):
    text = csv_text(["a"], [{"a": f"x{end}=1"}])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a"], ["x\n=1"]]


def test_numbers_keep_their_sign_and_what_there_is_not_is_empty():
    lines = [{"a": -0.1, "b": None, "c": "-"}, {"a": 3, "b": "x"}]
    assert csv_text(["a", "b", "c"], lines) == "a,b,c\n-0.1,,'-\n3,x,\n"
