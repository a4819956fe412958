"""Corrections as edits of words: what a user changed in a sentence, what an answer changed, and how far they agree.

The F0.5 of edits is the measure of grammatical error correction since CoNLL-2014 (Dahlmeier and Ng, 2012, Better
evaluation for grammatical error correction; Ng et al., 2014): an edit is right where its place and its new words are
exactly those of the reference, and precision counts twice as much as recall. Alignment and edits are those of ERRANT
(Bryant et al., 2017) in a simpler form, which needs no parser and so serves every language: words are aligned by their
spelling alone, neighbouring changes are one edit unless they replace as many words as they put there (then each word is
one), there are no types of errors, and there is one reference.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import regex

BETA = 0.5
ALIKE = 0.5  # of all words of both texts, those that must be in both and in the same order, for a correction
MAX_WORDS = 1000  # of a text: what is longer is no correction of a sentence, and slow to align
MAX_CUTS = 12  # places at which a prompt is cut
# Scripts that put no spaces between words: each letter with its marks is a word.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
LETTERS = rf"(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+"
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|{LETTERS}(?:['\u2019\u02bc-]{LETTERS})*|\S")
CUT = regex.compile(r"\n+|:\s+")

Edit = tuple[int, int, tuple[str, ...]]  # words start:end of the sentence are replaced by these


@dataclass(frozen=True)
class EditCounts:
    """Edits of an answer that the user made too (`right`), other ones (`wrong`), and the user's that are missing."""

    right: int
    wrong: int
    missing: int

    @property
    def f_half(self) -> float:
        """F0.5, 0 to 1, as ERRANT has it: 1 where neither changes anything, 0 where one alone does."""
        precision = self.right / (self.right + self.wrong) if self.wrong else 1.0
        recall = self.right / (self.right + self.missing) if self.missing else 1.0  # without edits both are 1
        below = BETA**2 * precision + recall
        return (1 + BETA**2) * precision * recall / below if below else 0.0


def words(text: str) -> list[str]:
    """Words in their case, each mark by itself, in order; a letter by itself where a script has no spaces."""
    found: list[str] = WORD.findall(text)
    return found


def edits(source: Sequence[str], target: Sequence[str]) -> list[Edit]:
    """What makes `target` of `source`, from left to right.

    Example:
        >>> edits(words("He go home."), words("He goes home now."))
        [(1, 2, ('goes',)), (3, 3, ('now',))]
    """
    found: list[Edit] = []
    for kind, start, end, first, last in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        new = tuple(target[first:last])
        if kind == "replace" and end - start == len(new):
            found += [(start + i, start + i + 1, (word,)) for i, word in enumerate(new)]
        elif kind != "equal":
            found.append((start, end, new))
    return found


def agreement(source: str, answer: str, correction: str) -> EditCounts:
    """How far the edits of `answer` are those of `correction`, both of the sentence `source`."""
    before = words(source)
    made, wanted = (Counter(edits(before, words(text))) for text in (answer, correction))
    right = (made & wanted).total()
    return EditCounts(right, made.total() - right, wanted.total() - right)


@functools.lru_cache(maxsize=4096)  # each row is asked for under every adapter
def copied(prompt: str, correction: str) -> tuple[str, float]:
    """The part of the prompt that is most like the correction, and how alike they are, 0 to 1.

    A prompt is an instruction with a sentence behind it, or before it: it is cut at ends of lines and behind colons,
    and the part may be the whole. How alike: twice the words that both have in the same order, of all their words.
    """
    wanted = words(correction)
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(wanted)
    best = (prompt.strip(), 0.0)
    for part in _parts(prompt):
        have = words(part)
        if max(len(have), len(wanted)) > MAX_WORDS:
            continue
        matcher.set_seq1(have)
        if matcher.real_quick_ratio() > best[1] and matcher.quick_ratio() > best[1] and matcher.ratio() > best[1]:
            best = (part, matcher.ratio())
    return best


def _parts(prompt: str) -> Iterator[str]:
    """The prompt without what stands before some cut and behind another one; the longest first from each start."""
    cuts = list(CUT.finditer(prompt.strip()))[:MAX_CUTS]
    text = prompt.strip()
    for start in (0, *(cut.end() for cut in cuts)):
        for end in (len(text), *(cut.start() for cut in reversed(cuts) if "\n" in cut.group())):
            if end > start:
                yield text[start:end].strip()


def is_correction(prompt: str, correction: str) -> bool:
    """Whether a row is one: a part of the prompt and the answer have most words in common."""
    return copied(prompt, correction)[1] >= ALIKE
