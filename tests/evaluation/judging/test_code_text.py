"""Code in Markdown, by the examples and rules of CommonMark 0.31, sections 4.5 and 6.1."""

from __future__ import annotations

import pytest

from fedllm_bench.evaluation.code_text import inline_code, line_kinds

LINES = {
    "three backticks": ("```\na\n```\nb", "FCF."),
    "an information string": ("``` py x\na\n```\nb", "FCF."),
    "a longer fence holds a shorter one": ("````\n```\na\n```\n````\nb", "FCCCF."),
    "a longer fence may close": ("```\na\n`````\nb", "FCF."),
    "tildes hold backticks": ("~~~\n```\n~~~\nb", "FCF."),
    "backticks hold tildes": ("```\n~~~\n```\nb", "FCF."),
    "tildes may have backticks behind them": ("~~~ a`b\nc\n~~~\nb", "FCF."),
    "text behind a fence does not close it": ("```\na\n``` b\n```\nc", "FCCF."),
    "blanks behind a fence close it": ("```\na\n```  \nb", "FCF."),
    "one line of backticks is inline code": ("```a```\nb", ".."),
    "two backticks are no fence": ("``\na\n``", "..."),
    "three blanks before it": ("   ```\na\n  ```\nb", "FCF."),
    "four blanks before it are no fence": ("    ```\na", ".."),
    "four blanks do not close it": ("```\na\n    ```\nb", "FCCC"),
    "what never closes runs to the end": ("a\n```\nb\nc", ".FCC"),
    "in a list item": ("- ```\n  a\n  ```\nb", "FCF."),
    "in a numbered item, indented as its text": ("1. x\n\n    ```\n    a\n    ```\nb", "..FCF."),
    "behind a list": ("- x\n\ny\n    ```\nb", "....."),
    "a block quote is none": ("> ```\n> a\nb", "..."),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_are_code_as_commonmark_says(name: str) -> None:
    text, kinds = LINES[name]
    letters = {"text": ".", "fence": "F", "code": "C"}
    assert "".join(letters[kind] for kind in line_kinds(text.split("\n"))) == kinds


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a `b` c", ["`b`"]),
        ("``b ` c`` d", ["``b ` c``"]),
        ("```b``` `c`", ["```b```", "`c`"]),
        ("`b", []),
        ("`b``", []),
        ("`b\nc`", ["`b\nc`"]),
        ("`b\n\nc`", []),
    ],
)
def test_inline_code_closes_with_as_many_backticks(text: str, code: list[str]) -> None:
    assert [text[start:end] for start, end in inline_code(text)] == code
