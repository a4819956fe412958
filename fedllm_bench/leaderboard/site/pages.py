"""What all pages of the site share: template, style, script and the policy that allows nothing else.

A page asks nothing of any host, whatever a submission says: templates escape, the policy names the scripts by hash.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedllm_bench import __version__
from fedllm_bench.report.page.parts import environment, own_file, policy

PACKAGE, FOLDER = "fedllm_bench.leaderboard.site", ""
LIGHT = re.compile(r"^:root \{(.*?)^\}", re.S | re.M)
DARK = re.compile(r"^@media \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)^  \}", re.S | re.M)


@dataclass(frozen=True, kw_only=True)
class Page:
    """`root` leads from the page to the site's first folder: "", "../" or "../../"."""

    title: str
    root: str
    policy: str
    style: Markup
    script: Markup
    version: str = __version__


def render(template: str, *, title: str, root: str, values: dict[str, Any]) -> str:
    """A whole page of the site."""
    scripts = [_own("board.js"), *([browser_script()] if template == "answers_page.html.jinja" else [])]
    page = Page(title=title, root=root, policy=policy(scripts), style=Markup(_style()), script=Markup(scripts[0]))
    text: str = environment((PACKAGE, FOLDER)).get_template(template).render(page=page, **values)
    return text


def browser_script() -> str:
    """The answers browser of report.html, which the site's pages of answers use too."""
    return own_file("report.js")


@functools.cache
def _style() -> str:
    """The report's style, the colours of its two schemes for the switch, and what boards have beside it."""
    report = own_file("report.css")
    return f"{report}\n{switch(report)}\n{_own('board.css')}"


def switch(style: str) -> str:
    """The light and the dark colours of a style sheet, under the names by which a reader chooses one of them."""
    found = {name: pattern.search(style) for name, pattern in (("light", LIGHT), ("dark", DARK))}
    rules = {name: match[1].replace("color-scheme: light dark;", "") for name, match in found.items() if match}
    if len(rules) < len(found):
        raise ValueError("the style sheet has no colours of both schemes")
    return "\n".join(f':root[data-theme="{name}"] {{{colours}}}' for name, colours in rules.items())


def _own(name: str) -> str:
    return own_file(name, PACKAGE, FOLDER)
