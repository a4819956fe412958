"""A judge that is no model: for the mini world, where right answers are known, it compares and says so.

It makes the same records as others, so that profile mini goes the whole way of judging without a network. Its scores
say nothing about how a judge would grade.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Self

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.cost import Budget
from fedllm_bench.evaluation.judges.faults import NoReplyError
from fedllm_bench.evaluation.judges.preset import OF_PLUGINS, Preset
from fedllm_bench.evaluation.judges.questions import Question, request_hash
from fedllm_bench.evaluation.records import Reply


class RuleJudge:
    """As :class:`AskingJudge`, but it asks nobody and stores nothing."""

    def __init__(self, preset: Preset) -> None:
        self.preset, self.budget = preset, Budget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def name(self) -> str:
        return self.preset.id

    def key(self, question: Question) -> str:
        return request_hash(self.preset.model, self.preset.options, question.messages, question.slot.repeat)

    def stored(self, question: Question) -> Reply | None:
        """The reply; None where no right answer is known, or where the function of a plugin has nothing to say."""
        if self.preset.plugin:
            text = _of_plugin(self.preset, question)
        else:
            text = _verdict(question) if question.right else None
        return None if not text else Reply(text=text, model=self.preset.model, finish="stop", price=0.0)

    def submit(self, question: Question) -> Future[Reply]:
        """Only for what :meth:`stored` has nothing to say about."""
        future: Future[Reply] = Future()
        future.set_exception(NoReplyError("this judge is a rule for prompts with one right answer, and this has none"))
        return future

    def check_any(self) -> None:
        """A rule refuses nothing."""


def _verdict(question: Question) -> str:
    is_right = [given.strip() == question.right.strip() for given in question.given]
    if len(is_right) == 1:
        return (
            "This is the right answer. Rating: [[10]]" if is_right[0] else "This is not the right answer. Rating: [[1]]"
        )
    winner = "C" if is_right[0] == is_right[1] else "A" if is_right[0] else "B"
    return f"Compared with the right answer. [[{winner}]]"


def _of_plugin(preset: Preset, question: Question) -> str | None:
    """Raises a :class:`UserError` where the plugin is not in use, or gives anything but text."""
    _, rule = OF_PLUGINS.get(preset.model, (preset, None))
    if rule is None:
        raise UserError(f"the judge {preset.model} is of the plugin {preset.plugin}; give --plugin {preset.plugin}")
    text = rule(question)
    if text is not None and not isinstance(text, str):
        raise UserError(f"the judge {preset.model} ({preset.plugin}) gave {text!r}; it should give text, or None")
    return text
