"""An HTML page as a browser reads it."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements, the text of each script, attributes that load or run something, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.suspect: list[str] = []
        self.open_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.open_script = tag == "script"
        names = {name for name, _ in attrs}
        self.suspect += [
            name for name in names if name.startswith("on") or name in ("src", "srcset", "style", "action")
        ]
        self.suspect += [value for name, value in attrs if name == "href" and not str(value).startswith("#")]

    def handle_endtag(self, tag):
        self.open_script = False

    def handle_data(self, text):
        (self.scripts if self.open_script else self.words).append(text)
