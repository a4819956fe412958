"""Names that look like others: letters of two scripts in a word, and names whose skeleton is that of another.

Unicode Technical Standard 39 (UTS #39, "Unicode Security Mechanisms"): a skeleton stands for all names that look alike
(section 4), and a name with letters of two scripts in a word is suspicious (section 5). The tables below hold those
entries of its confusables.txt that matter for names in Latin letters, and a few small letters that are drawn as
capitals. Full-width and mathematical letters are covered by NFKC.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedllm_bench.config import presets

SUITE_TEAM = "FedLLM-Bench"  # whose rows stand on the board from the beginning
# Latin letters, and below each the letter of another script (or of Latin) that looks like it.
LOOK_ALIKE = (
    ("aeopcyxsijdhqwlvbrkmtunzghb", "аеорсухѕіјԁһԛԝӏѵьгкмтцпзԍнв"),  # Cyrillic, small
    ("ABEKMHOPCTXSlJGQWYYlVRF", "АВЕКМНОРСТХЅІЈԌԚԜҮУӀѴЯҒ"),  # Cyrillic, capital
    ("aopvuikxyntwoejcbz", "αορνυικχγητωσεϳϲβζ"),  # Greek, small
    ("ABEZHlKMNOPTYXCF", "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹϜ"),  # Greek, capital
    ("ouhngqjUOLS", "օսհոցզյՍՕԼՏ"),  # Armenian
    ("ABCEGHJKLMPRSTVWZD", "ᎪᏴᏟᎬᏀᎻᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᏃᎠ"),  # Cherokee
    ("BPDTGKJCZFMNLSRVHWXYAElOU", "ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ"),  # Lisu
    ("iagLNRMHBDEFIfldotOL", "ıɑɡʟɴʀᴍʜʙᴅᴇꜰɪƒłđøŧØŁ"),  # Latin
)
TABLE = str.maketrans({theirs: ours for row in LOOK_ALIKE for ours, theirs in zip(*row, strict=True)})
SIGNS = str.maketrans({**dict.fromkeys("‐‑‒–—―−﹘ー一ㅡᅳ", "-"), **dict.fromkeys("’ʼ´`ʹ", "'")})  # letters among them
SAME = str.maketrans({"I": "l", "1": "l", "|": "l", "0": "O"})  # of ASCII
MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")  # of any script
WORD = re.compile(r"[^\W_]+")
TOGETHER = frozenset({"CJK", "HANGUL", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "IDEOGRAPHIC"})
NO_SCRIPT = frozenset({"MODIFIER", "COMBINING", ""})


class Named(Protocol):
    @property
    def team(self) -> str: ...
    @property
    def method(self) -> str: ...


def letters(name: str) -> str:
    """The name in Latin letters that look like its own; marks on letters, and what shows nothing, are left out."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return MARKS.sub("", unicodedata.normalize("NFD", shown)).translate(TABLE).translate(SIGNS)


def skeletons(name: str) -> frozenset[str]:
    """Two names that share one look alike: as they are drawn, or in letters and digits alone without case.

    A name of signs alone has no letters that could be alike.
    """
    plain = letters(name)
    drawn, read = f"drawn {plain.translate(SAME).replace('rn', 'm')}", folded(plain)
    return frozenset({drawn, f"read {read}"} if read else {drawn})


def folded(name: str) -> str:
    """Letters and digits without case."""
    return "".join(c for c in name.casefold() if c.isalnum())


def mixed_scripts(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The first word with letters of two scripts, and their names; None where there is none.

    Scripts of East Asia stand together, and beside Latin, in ordinary names ("highly restrictive" of UTS #39).
    """
    for word in WORD.findall(unicodedata.normalize("NFKC", name)):
        scripts = {_script(letter) for letter in word if letter.isalpha()} - NO_SCRIPT
        kinds = {"East Asian" if script in TOGETHER else script for script in scripts}
        if len(kinds) > 1 and kinds != {"East Asian", "LATIN"}:
            return word, tuple(sorted(script.title() for script in kinds))
    return None


def _script(letter: str) -> str:
    """As the first word of its name in Unicode: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(letter, "").partition(" ")[0]


def by_skeleton(names: Iterable[str]) -> dict[str, list[str]]:
    """Skeleton -> the distinct names that have it, in order."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        for skeleton in skeletons(name):
            found.setdefault(skeleton, []).append(name)
    return found


def notes(kind: str, name: str, others: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader should know of the name of a `kind` ("team" or "method"); `others` are names by skeleton.

    A method in other case or with other signs is the same method in words, and no note; a team is another team.
    """
    found = []
    if mixed := mixed_scripts(name):
        word, scripts = mixed
        found.append(f"the {kind} {name!a} has letters of {' and '.join(scripts)} in one word ({word!a})")
    alike = sorted({other for skeleton in skeletons(name) for other in others.get(skeleton, ()) if other != name})
    if kind == "method":
        alike = [other for other in alike if folded(other) != folded(name)]
    if alike:
        found.append(f"the {kind} {name!a} looks like the {kind} {alike[0]!a}")
    return found


@dataclass(frozen=True)
class Known:
    """Names of others, by skeleton; the suite's own team and methods are among them."""

    teams: Mapping[str, Sequence[str]]
    methods: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, others: Iterable[Named]) -> Known:
        found = list(others)
        teams = by_skeleton([SUITE_TEAM, *(other.team for other in found)])
        return cls(teams, by_skeleton([*presets.method_names(), *(other.method for other in found)]))

    def notes(self, said: Named) -> list[str]:
        """What a reader should know of the names of a submission."""
        return [*notes("team", said.team, self.teams), *notes("method", said.method, self.methods)]
