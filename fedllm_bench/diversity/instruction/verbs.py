"""Root verbs and their direct objects, as in Self-Instruct (Wang et al., 2022, arXiv:2212.10560, section 4.2).

spaCy parses where it and a pipeline of the row's language are installed (extra `parser`; nothing is downloaded).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.progress import track
from fedllm_bench.diversity.rows import DiversityRow

# ISO 639-3 -> the first part of names of spaCy's pipelines, for the languages that have any
PIPELINES = {
    "cat": "ca", "zho": "zh", "hrv": "hr", "dan": "da", "nld": "nl", "eng": "en", "fin": "fi", "fra": "fr", "deu": "de",
    "ell": "el", "ita": "it", "jpn": "ja", "kor": "ko", "lit": "lt", "mkd": "mk", "nob": "nb", "pol": "pl", "por": "pt",
    "ron": "ro", "rus": "ru", "slv": "sl", "spa": "es", "swe": "sv", "ukr": "uk",
}  # fmt: skip
OBJECTS = ("dobj", "obj")  # of spaCy's English labels, and of Universal Dependencies
LETTERS = 2_000  # of a prompt that are parsed: what is asked stands before the material
MOST_OBJECTS = 20
Parse = Callable[[Sequence[str]], Iterator[Any]]  # texts -> one document each


@dataclass(frozen=True)
class VerbAndObject:
    """The verb of a prompt and its object, as lemmas; "" where there is none."""

    verb: str = ""
    object: str = ""


def parsers(languages: Sequence[str]) -> dict[str, Parse]:
    """A parser for each of these languages (ISO 639-3) that a spaCy pipeline is installed for; {} without spaCy."""
    try:
        import spacy
    except ImportError:
        return {}
    installed = sorted(spacy.util.get_installed_models(), key=lambda name: (not name.endswith("_sm"), name))
    found: dict[str, Parse] = {}
    for language in languages:
        short = PIPELINES.get(language, "")
        names = [name for name in installed if short and name.split("_")[0] == short]
        if names:
            found[language] = spacy.load(names[0]).pipe
    return found


def asked(rows: Sequence[DiversityRow], parse: Mapping[str, Parse]) -> list[VerbAndObject | None]:
    """What each row asks for; None where no parser knows its language."""
    found: list[VerbAndObject | None] = [None] * len(rows)
    for language, pipe in parse.items():
        own = [i for i, row in enumerate(rows) if row.language == language]
        texts = [rows[i].prompt[:LETTERS] for i in own]
        for i, document in zip(own, track(pipe(texts), f"parsing {language}", len(own)), strict=True):
            found[i] = asked_in(document)
    return found


def asked_in(document: Any) -> VerbAndObject:
    """The verb nearest to the root of the first sentence that has one, and its first direct object."""
    for token in document:
        if token.dep_ == "ROOT":
            verb = _nearest_verb(token)
            if verb is not None:
                objects = [child.lemma_.lower() for child in verb.children if child.dep_ in OBJECTS]
                return VerbAndObject(verb.lemma_.lower(), objects[0] if objects else "")
    return VerbAndObject()


def _nearest_verb(root: Any) -> Any | None:
    level = [root]
    while level:
        for token in level:
            if token.pos_ == "VERB":
                return token
        level = [child for token in level for child in token.children]
    return None


def verb_entries(rows: Sequence[DiversityRow], found: Sequence[VerbAndObject | None]) -> list[dict[str, Any]]:
    """Verbs by number of rows, each with its objects; a verb of two languages is two."""
    objects: dict[tuple[str, str], Counter[str]] = {}
    for row, one in zip(rows, found, strict=True):
        if one is not None and one.verb:
            objects.setdefault((row.language, one.verb), Counter())[one.object] += 1
    entries = [
        {
            "verb": verb,
            "language": language,
            "rows": sum(counts.values()),
            "objects": [{"object": name, "rows": n} for name, n in counts.most_common() if name][:MOST_OBJECTS],
        }
        for (language, verb), counts in objects.items()
    ]
    return sorted(entries, key=lambda entry: (-int(str(entry["rows"])), entry["language"], entry["verb"]))
