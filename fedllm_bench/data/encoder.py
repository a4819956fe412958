"""Conversations as token ids: what the template writes is markup, what people or models wrote is text.

Training, scoring and answering all come through here, so that a text has the same tokens in each.

**The suite's own templates** mark what the assistant says. Each segment is tokenised alone, so that a prompt is always
the same, after the token that begins a text where the tokenizer itself puts one.

**A model maker's template** is rendered and tokenised as transformers does it, and writes the token that begins a text
itself. It marks nothing (marks in it are not used: some have the header inside). So a conversation is cut at its last
answer: before it stand the ids of the prompt, exactly those that answering begins from, and behind them the answer with
the mark that ends it, tokenised by itself. Counted are the answer and that mark. An earlier answer counts too where
the whole prompt goes on from the text that it would be asked with. Where it does not (models with thoughts write an
empty thought before the answer that they are asked for, and none before earlier ones), only the last answer counts: the
model is never asked for one in such a place. `data.template=plain` counts all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import NAMES, Segment, render, render_quoted, template_text, without_input
from fedllm_bench.data.rows import INPUT, Turn
from fedllm_bench.data.templates.answer_form import AnswerForm, answer_form
from fedllm_bench.data.templates.marked_text import Ids, MarkedText
from fedllm_bench.data.templates.refusals import refusals, say_not_kept, say_system

log = logging.getLogger(__name__)
BOS_FIRST = "{{- bos_token -}}"  # before one of the suite's templates, for plain transformers


@dataclass(frozen=True)
class Encoded:
    """One conversation: token ids by piece, and which pieces the assistant said.

    `holds_control`: a text in it has a control token of the tokenizer, which is tokenised as text.
    """

    pieces: tuple[Ids, ...]
    counted: tuple[bool, ...]
    holds_control: bool = False

    @property
    def ids(self) -> Ids:
        return list(chain.from_iterable(self.pieces))


@dataclass(frozen=True, eq=False)
class ChatEncoder:
    """A fast tokenizer of transformers with the Jinja source of a chat template.

    A conversation without control tokens in its texts gets the ids that the tokenizer itself gives it.
    """

    tokenizer: Any
    template: str
    _expected: dict[tuple[bool, tuple[str, ...]], int] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, conversations: Sequence[Sequence[Turn]], *, asks: bool = False) -> list[Encoded]:
        """Ids of whole conversations; with `asks` up to where the assistant begins.

        Raises a :class:`UserError` for a conversation that the template refuses, for a role that is no word, and for a
        whole conversation under a template of which answers cannot be told apart (:func:`answer_form`).
        """
        conversations = [self._adapted(turns) for turns in conversations]
        if asks or self.is_cut:
            return [encoded for encoded, _ in self._rendered(conversations, asks)]
        ends = [max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
                for turns in conversations]  # fmt: skip
        prompts = self._rendered([turns[:end] for turns, end in zip(conversations, ends, strict=True)], True)
        return [
            encoded if end is None else self._with_answers(turns[: end + 1], encoded, text)
            for turns, end, (encoded, text) in zip(conversations, ends, prompts, strict=True)
        ]

    def markup(self, text: str) -> Ids:
        """Ids of a stretch that the template itself wrote, after the token that begins a text."""
        return self._begin + self.marked.usual([text])[0]

    def asked(self, turns: Sequence[Turn]) -> str:
        """The text of turns that end with the user's, up to where the assistant begins."""
        (found,) = self._render([self._adapted(turns)], asks=True)
        return "".join(segment.text for segment in found)

    def masked(self, turns: Sequence[Turn]) -> str:
        """As :meth:`asked`, with the template's own marks under secret names: `marked` encodes what goes on from it."""
        turns = self._adapted(turns)
        with refusals():
            found = render_quoted(self._source, turns, self.marked.quoted_in(turns), self._values, asks=True)
        return "".join(map(self.marked.masked, found))

    @property
    def control(self) -> dict[int, str]:
        """The control tokens by id."""
        return self.marked.control

    @cached_property
    def is_cut(self) -> bool:
        """Whether it is one of the suite's own templates, which mark what the assistant says."""
        return self.template.removeprefix(BOS_FIRST) in map(template_text, NAMES)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: the mark that the template writes behind one, and the tokenizer's own."""
        own = {self.tokenizer.eos_token_id} - {None}
        try:
            marks = self.marked.marks(self._answer_end)
        except UserError:  # of a template that cannot be trained with, but asks all the same
            marks = []
        return frozenset(own | {token for _, _, token in marks})

    @cached_property
    def form(self) -> AnswerForm:
        """What a model maker's template writes around an answer; a :class:`UserError` where that cannot be told."""

        def write(turns: Sequence[Turn], asks: bool) -> str:
            (found,) = self._render([turns], asks=asks)
            return "".join(segment.text for segment in found)

        return answer_form(write, lambda text: next((stop for _, stop, _ in self.marked.marks(text)), None))

    def check_trains(self) -> None:
        """Raise a :class:`UserError` for a model maker's template under which no answer can be trained."""
        if not self.is_cut:
            _ = self.form

    @property
    def written_out(self) -> str:
        """The template for whoever tokenises its text without a token that begins it, as transformers does."""
        return BOS_FIRST + self._source if self.is_cut and self._begin else self._source

    @property
    def special(self) -> Any:
        """What ids depend on beside the template's source and the tokenizer's vocabulary, as JSON data."""
        if self.is_cut:
            return [next(iter(self._begin), None), self.tokenizer.eos_token]
        return dict(self.tokenizer.special_tokens_map)

    @property
    def cache_name(self) -> str:
        """The template in keys of caches; another one where earlier versions put a token that begins a text."""
        puts_none = self.is_cut and self.tokenizer.bos_token_id is not None and not self._begin
        return self.template + ("\0no token begins a text" if puts_none else "")

    @property
    def _answer_end(self) -> str:
        if not self.is_cut:
            return self.form.end
        (found,) = self._render([[{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]], asks=False)
        return found[-1].text

    @cached_property
    def _source(self) -> str:
        return self.template.removeprefix(BOS_FIRST) if self.is_cut else self.template

    @property
    def _values(self) -> Mapping[str, str]:
        """What a template may name: the maker's own writes all marks itself."""
        own: Mapping[str, str] = self.tokenizer.special_tokens_map
        return {"eos_token": self.tokenizer.eos_token or ""} if self.is_cut else own

    @cached_property
    def _begin(self) -> Ids:
        """The token that begins a text, where the tokenizer puts one."""
        bos = self.tokenizer.bos_token_id
        if bos is None or not self.is_cut:
            return []
        puts_it = self._source != self.template or self.tokenizer("a")["input_ids"][:1] == [bos]
        return [bos] if puts_it else []

    @cached_property
    def marked(self) -> MarkedText:
        return MarkedText(self.tokenizer, self._source)

    @cached_property
    def _has_system(self) -> bool:
        try:
            render(self._source, [[{"role": "system", "content": "a"}, _USER]], self._values, asks=True)
        except Exception:  # a template raises anything
            return False
        return True

    @cached_property
    def _has_input(self) -> bool:
        """Whether it is a template of the suite that writes an input apart: it then names the role."""
        return self.is_cut and f'"{INPUT}"' in self._source

    def _adapted(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """An input, and a system turn that the template refuses, stand in the user's turn."""
        turns = turns if self._has_input else without_input(turns)
        if self.is_cut or [turn["role"] for turn in turns[:2]] != ["system", "user"] or self._has_system:
            return turns
        say_system()
        text = turns[0]["content"] + "\n\n" + turns[1]["content"]
        return [{"role": "user", "content": text}, *turns[2:]]

    def _render(self, conversations: Sequence[Sequence[Turn]], *, asks: bool) -> list[list[Segment]]:
        with refusals():
            return render(self._source, conversations, self._values, asks=asks)

    def _rendered(self, conversations: Sequence[Sequence[Turn]], asks: bool) -> list[tuple[Encoded, Segment]]:
        """Each conversation as the template writes it, and the last segment of its text."""
        cut = self._render(conversations, asks=asks)
        ids = iter(self.marked.usual([segment.text for found in cut for segment in found]))
        return [
            self._checked(turns, found, [next(ids) for _ in found], asks)
            for turns, found in zip(conversations, cut, strict=True)
        ]

    def _checked(
        self, turns: Sequence[Turn], found: Sequence[Segment], usual: list[Ids], asks: bool
    ) -> tuple[Encoded, Segment]:
        """The usual ids where no text has a control token.

        The number of them alone does not tell: a template may leave out an empty turn, and unknown characters count.
        Nor do their names: a normaliser may make one of other letters.
        """
        pieces = usual
        if self.marked.names_any(turns) or self.marked.count(usual) != self._expected_count(turns, asks):
            spans = self.marked.quoted_in(turns)
            if any(spans):
                with refusals():
                    found = render_quoted(self._source, turns, spans, self._values, asks=asks)
                pieces = [self.marked.encode_quoted(segment) for segment in found]
        counted = (False, *(segment.counted for segment in found))
        encoded = Encoded((self._begin, *pieces), counted, holds_control=pieces != usual)
        return encoded, found[-1] if found else Segment("", False)

    def _expected_count(self, turns: Sequence[Turn], asks: bool) -> int:
        """Control tokens of a conversation of the same roles whose texts have none."""
        key = asks, tuple(turn["role"] for turn in turns)
        if key not in self._expected:
            neutral: list[Turn] = [{"role": role, "content": "a"} for role in key[1]]
            (found,) = self._render([neutral], asks=asks)
            self._expected[key] = self.marked.count(self.marked.usual([segment.text for segment in found]))
        return self._expected[key]

    def _with_answers(self, turns: Sequence[Turn], prompt: Encoded, segment: Segment) -> Encoded:
        """Under a maker's template: the prompt of the last turn, with earlier answers that it keeps, and that turn."""
        spans = self._kept(turns[:-1], segment.text)
        places = [place for span in spans for place in span]
        cuts = self.marked.tokens_before(segment, places, is_quoted=prompt.holds_control) if spans else []
        ids = prompt.ids
        pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
        answer, holds_control = self._answer(turns[-1])
        counted = [bool(place % 2) for place in range(len(pieces))]
        return Encoded((*pieces, answer), (*counted, True), prompt.holds_control or holds_control)

    def _kept(self, turns: Sequence[Turn], text: str) -> list[tuple[int, int]]:
        """Where earlier answers stand in the text of a prompt, as they would be asked for and answered."""
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        found = []
        for place in places:
            before, said = self.asked(turns[:place]), self.form.written(turns[place]["content"])
            if text.startswith(before + said):
                found.append((len(before), len(before) + len(said)))
        if len(found) < len(places):
            say_not_kept()
        return found

    def _answer(self, turn: Turn) -> tuple[Ids, bool]:
        """Ids of an answer with the mark that ends it, and whether a control token was found in its text."""
        form, content = self.form, self.form.content(turn["content"])
        segment = Segment(form.written(content), True)
        usual = self.marked.answer(segment)
        if not self.marked.names_any([turn]) and self.marked.count([usual]) == self._marks_behind:
            return usual, False
        place = len(form.lead), len(form.lead) + len(content)
        ids = self.marked.answer(Segment(segment.text, True, (place,)))
        return ids, ids != usual

    @cached_property
    def _marks_behind(self) -> int:
        return self.marked.count([self.marked.answer(Segment(self.form.written("a"), True))])


_USER: Turn = {"role": "user", "content": "a"}
