"""Steps of a person who looks at a board in a browser."""

from __future__ import annotations

METHODS = """return [...document.querySelectorAll('#board tbody tr')].filter((r) => !r.hidden)
  .map((r) => r.cells[1].querySelector('a').textContent)"""
COUNT = "return document.getElementById('count').textContent"
SORT = "return [...document.querySelectorAll('#board thead th')].map((e) => e.getAttribute('aria-sort'))"


def head(column):
    return f"#board thead th:nth-child({column}) button"


def column_of(browser, name):
    heads = "return [...document.querySelectorAll('#board thead th')].map((e) => e.textContent)"
    (place,) = [place for place, text in enumerate(browser.run(heads), start=1) if text.startswith(name)]
    return place


def choose(browser, name, value):
    browser.run(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input'))",
        f"f-{name}",
        value,
    )
