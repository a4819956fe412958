"""The resident model behind lm-eval's `LM` interface: the same answers as lm-eval's own `HFLM`, in less time.

Every answer is kept in a ledger as it comes, under the hash of what was asked, so a killed process goes on from there.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from fedllm_bench.common import files
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.progress import Meter
from fedllm_bench.evaluation.closed.generation import Generated, cut_prompt, generated, settings_of
from fedllm_bench.evaluation.closed.likelihood import NOTHING, Answer, ScoredRow, as_rows, scored
from fedllm_bench.evaluation.closed.texts import AskedPair, ClosedTexts, windows
from fedllm_bench.training.model.kinds.virtual_attention import standing_before
from fedllm_bench.training.model.lora_model import LoraModel

USUAL_CONTEXT = 2048  # tokens, of a model and a tokenizer that say nothing; as HFLM
NO_LIKELIHOOD = ("no likelihood: a choice has no tokens, or more than the model's context, or the logits are not "
                 "finite")  # fmt: skip
Of = tuple[str, int]  # a task, and the number of an item of it


@dataclass(eq=False)
class ResidentLM(LM):  # type: ignore[misc]  # lm-eval has no types here
    """A model with whatever adapter is attached. `batch_tokens` bounds what is computed at once; `seed` is of draws.

    `context`: tokens of a request that are read, the last ones; 0 for as many as the model's context holds.
    `failed`: why an item has no answer, where it has none.
    """

    model: LoraModel
    texts: ClosedTexts
    kept: Ledger
    batch_tokens: int
    label: str
    seed: int = 0
    context: int = 0
    failed: dict[Of, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def max_length(self) -> int:
        """Tokens of the context, as HFLM reads them off the model's settings, and no more than `context`."""
        config = self.model.base.config.get_text_config()
        stated = [getattr(config, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")]
        own = self.model.tokenizer.model_max_length
        usual = own if own and own < 10**12 else USUAL_CONTEXT  # transformers' word for "not said" is 10**30
        held = int(next((length for length in stated if length), usual))
        before = standing_before(self.model.base)
        held -= 0 if before is None else before.reserved
        return min(held, self.context) if self.context else held

    @property
    def tokenizer_name(self) -> str:
        name = f"{self.model.tokenizer.name_or_path}{self.texts.template or ''}"
        return hashlib.sha256(name.encode()).hexdigest()[:16]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.texts.chat(chat_history, goes_on=not add_generation_prompt)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        pairs = self.texts.pairs([request.args for request in requests])
        answers = self._answers(pairs)
        self._note([request for request, answer in zip(requests, answers, strict=True) if answer is NOTHING])
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        ids = self.texts.encode([request.args[0] for request in requests])
        parts = [list(windows(each, self.texts.prefix, self.max_length)) for each in ids]
        answers = iter(self._answers([pair for part in parts for pair in part]))
        found = [[next(answers) for _ in part] for part in parts]
        self._note([request for request, part in zip(requests, found, strict=True) if NOTHING in part])
        return [sum(value for value, _ in part) for part in found]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        asked = self._asked(requests)
        names = [_name(each.inputs(self.seed)) for each in asked]
        wanted = {name: each for name, each in zip(names, asked, strict=True) if self.kept.get(name) is None}
        with Meter(self.label, len(set(names)), len(set(names)) - len(wanted)) as meter:
            for done in generated(self.model, wanted, self.seed, self.batch_tokens) if wanted else ():
                for answer in done:
                    self.kept.put(answer.name, [answer.text, answer.reason])
                meter.add(len(done), sum(answer.tokens for answer in done))
        answers = [self.kept.get(name) or ("", "not answered") for name in names]
        for request, (_, reason) in zip(requests, answers, strict=True):
            self._note([request] if reason else [], reason)
        return [text for text, _ in answers]

    def _asked(self, requests: Sequence[Instance]) -> list[Generated]:
        """An item that is asked several times has the turns 0, 1, ..."""
        turns: Counter[int] = Counter()
        found = []
        prompts = self.texts.encode([request.args[0] for request in requests])
        for request, ids in zip(requests, prompts, strict=True):
            settings = settings_of(str(request.task_name), request.args[1])
            prompt, limit = cut_prompt(ids or [self.texts.prefix], settings.limit, self.max_length)
            turn, turns[id(request)] = turns[id(request)], turns[id(request)] + 1
            found.append(
                Generated(
                    prompt=prompt,
                    settings=replace(settings, limit=limit),
                    task=str(request.task_name),
                    item=f"{request.doc_id}/{request.idx}",
                    turn=turn,
                )
            )
        return found

    def _answers(self, pairs: Sequence[AskedPair]) -> list[Answer]:
        """The answer to each pair, from the ledger where it is there; NOTHING for one that cannot be scored."""
        rows, places = as_rows(pairs, self.max_length)
        names = [_row_name(row) for row in rows]
        kept = [self.kept.get(name) is not None for name in names]
        with Meter(self.label, len(rows), sum(kept)) as meter:
            for done in scored(self.model, rows, self.batch_tokens, kept.__getitem__):
                for number, answers in done:
                    self.kept.put(names[number], answers)
                new = [len(rows[number].ids) for number, _ in done if not kept[number]]
                meter.add(len(new), sum(new))
        found = [[_answer(value) for value in self.kept.get(name) or ()] for name in names]
        return [NOTHING if place is None else found[place[0]][place[1]] for place in places]

    def _note(self, requests: Sequence[Instance], reason: str = NO_LIKELIHOOD) -> None:
        for request in requests:
            self.failed[str(request.task_name), int(request.doc_id or 0)] = reason


def _answer(value: Sequence[Any]) -> Answer:
    total, is_greedy = float(value[0]), bool(value[1])
    return NOTHING if math.isnan(total) else (total, is_greedy)


def _name(inputs: Any) -> str:
    return files.sha256_json(inputs)[:32]


def _row_name(row: ScoredRow) -> str:
    """As :func:`_name`, of many thousand tokens, in less time."""
    parts = (row.ids, *row.targets)
    digest = hashlib.sha256(array("q", map(len, parts)).tobytes())
    for part in parts:
        digest.update(array("q", part).tobytes())
    return digest.hexdigest()[:32]
