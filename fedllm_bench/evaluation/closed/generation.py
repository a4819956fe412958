"""What a task asks of generation, and answers to it from the suite's own decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.evaluation.answering.sampling import uniforms
from fedllm_bench.evaluation.answering.stop_strings import cut_at
from fedllm_bench.metrics.running import end_tokens
from fedllm_bench.training.model.lora_model import LoraModel

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
USUAL_LIMIT = 256  # new tokens, where a task says nothing; as HFLM
TAIL = ("top_k", "top_p")
OF_SAMPLING = ("min_p", "typical_p")  # not here; without effect on greedy answers
KNOWN = (*LIMITS, *TAIL, *OF_SAMPLING, "until", "do_sample", "temperature", "num_beams")


@dataclass(frozen=True)
class GenerationSettings:
    """`temperature` is 0 for greedy answers; `until` are strings that end an answer and are no part of it."""

    until: tuple[str, ...]
    limit: int
    temperature: float
    tail: tuple[int, float] = (0, 1.0)  # top_k and top_p of sampling; these cut nothing


def settings_of(task: str, asked: Mapping[str, Any]) -> GenerationSettings:
    """A task's `generation_kwargs`. Raises a :class:`UserError` for one that is not supported."""
    until = asked.get("until") or ()
    samples, temperature = asked.get("do_sample"), float(asked.get("temperature") or 0.0)
    samples = temperature > 0 if samples is None else bool(samples)
    unknown = [name for name in asked if name not in KNOWN]
    if samples:
        unknown += [name for name in OF_SAMPLING if asked.get(name) not in (None, 0, 1.0)]
    if asked.get("num_beams", 1) != 1:
        unknown.append("num_beams")
    if unknown:
        raise UserError(f"the task {task} asks for generation with {', '.join(unknown)}, which this suite has not; it "
                        f"has {', '.join(('until', 'do_sample', 'temperature', *TAIL, LIMITS[0]))}")  # fmt: skip
    limit = next((int(asked[name]) for name in LIMITS if asked.get(name) is not None), USUAL_LIMIT)
    return GenerationSettings(
        until=(until,) if isinstance(until, str) else tuple(map(str, until)),
        limit=max(1, limit),
        temperature=(temperature or 1.0) if samples else 0.0,
        tail=_tail(asked) if samples else (0, 1.0),
    )


def _tail(asked: Mapping[str, Any]) -> tuple[int, float]:
    top_k, top_p = asked.get("top_k"), asked.get("top_p")
    return max(0, int(top_k or 0)), 1.0 if top_p is None else float(top_p)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One answer that is wanted: `item` and `turn` name its random draws."""

    prompt: tuple[int, ...]
    settings: GenerationSettings
    task: str
    item: str
    turn: int

    def inputs(self, seed: int) -> list[Any]:
        """All that the answer depends on beside the model, as JSON data; two equal greedy ones are one."""
        settings = self.settings
        drawn = [seed, self.task, self.item, self.turn] if settings.temperature > 0 else []
        drawn += list(settings.tail) if settings.tail != (0, 1.0) else []
        return ["generate", list(self.prompt), list(settings.until), settings.limit, settings.temperature, drawn]


def cut_prompt(ids: Sequence[int], limit: int, longest: int) -> tuple[tuple[int, ...], int]:
    """The prompt that leaves room for `limit` new tokens, cut on the left, and the limit.

    `HFLM` refuses a limit that leaves no room for a prompt; here half of the context is the prompt's then.
    """
    limit = limit if limit < longest else max(1, longest // 2)
    return tuple(ids[-(longest - limit) :]), limit


@dataclass(frozen=True)
class GeneratedText:
    """`reason` says why there is no text, where there was no memory or logits were not finite."""

    name: str
    text: str
    reason: str
    tokens: int


def generated(
    model: LoraModel, wanted: Mapping[str, Generated], seed: int, batch_tokens: int
) -> Iterator[list[GeneratedText]]:
    """Answers as they end, under the names of what was wanted."""
    stop_ids = end_tokens(model)
    stop_text = model.tokenizer.decode([model.tokenizer.eos_token_id])
    rows = [_row(name, each, seed, stop_text) for name, each in wanted.items()]
    for finished in decode(model, Queue(rows), batch_tokens, stop_ids):
        yield [GeneratedText(row.key[0], _text(model, row, stop_ids), row.reason, len(row.made)) for row in finished]


def _row(name: str, wanted: Generated, seed: int, stop_text: str) -> DecodingRow:
    settings = wanted.settings
    stream = np.zeros(0)
    if settings.temperature > 0:
        stream = uniforms(seed, wanted.task, wanted.item, wanted.turn, settings.limit)
    stops = (*settings.until, stop_text)
    return DecodingRow(
        (name, 0), wanted.prompt, settings.limit, settings.temperature, stream, stops=stops, tail=settings.tail
    )


def _text(model: LoraModel, row: DecodingRow, stop_ids: frozenset[int]) -> str:
    made = row.made[:-1] if row.made and row.made[-1] in stop_ids else row.made
    return cut_at(model.tokenizer.decode(list(made), skip_special_tokens=True), row.stops)
