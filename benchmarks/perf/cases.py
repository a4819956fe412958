"""What is trained in each case of `make speed`: a base, rows as text and as tokens, the clients of one round.

Bases of the cases tiny and small are random Llamas, made on the spot; real is any base that is at hand. Rows have
random words. Their lengths are log-normal: with the spread of SPREAD, micro-batches of four in the order of a plan
hold as much padding as those of real rows of Aya do (useful over processed tokens 0.73).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config import presets
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.runs.reference import log_probabilities
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

SPREAD = 0.35  # of the logarithm of lengths; published Fed-Aya has 1.2
PROMPT = 1 / 3  # of a row, as in Fed-Aya: 116 tokens of an instruction, 225 of its answer
WORDS = 2000  # different ones in rows
SHORTEST = 8
DATASETS = {"sft": "aya", "dpo": "chatbot_pa"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A base and the rows it is trained on; `hidden` is None for a base that is given.

    `tokens` is the mean length of a row, `longest` where it is cut.
    """

    name: str
    tokens: int
    longest: int
    hidden: int | None = None
    vocabulary: int = 8192
    layers: int = 4
    heads: int = 4


@dataclass(frozen=True, kw_only=True)
class Round:
    """What the clients of a round do: `steps` of `accumulation` micro-batches of `micro_batch` rows or pairs each."""

    clients: int
    steps: int
    micro_batch: int
    accumulation: int
    rank: int

    @property
    def rows(self) -> int:
        """Of one client, each of which is trained on once."""
        return self.steps * self.micro_batch * self.accumulation


CASES = {
    case.name: case
    for case in (
        Case(name="tiny", hidden=64, vocabulary=1024, tokens=32, longest=96),
        Case(name="small", hidden=256, tokens=128, longest=384),
        Case(name="real", tokens=100, longest=256),
    )
}
# As published: Fed-Aya's clients, and those of Fed-ChatbotPA, of which one with 13 pairs takes two steps.
ROUNDS = {
    "sft": Round(clients=4, steps=10, micro_batch=4, accumulation=4, rank=16),
    "dpo": Round(clients=10, steps=2, micro_batch=8, accumulation=1, rank=8),
}
# 135M weights on two cores are 300 tokens a second: a round of the published size would take minutes.
SHORT_ROUNDS = {
    "sft": Round(clients=2, steps=2, micro_batch=4, accumulation=2, rank=16),
    "dpo": Round(clients=2, steps=1, micro_batch=4, accumulation=1, rank=8),
}


@dataclass(frozen=True)
class TextRow:
    """A prompt and its answer, or the chosen and the rejected one."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """One round: a base, what clients do, and the adapter that all start from. `texts` are the rows of `tasks`."""

    case: Case
    round: Round
    config: RunConfig
    model: LoraModel
    texts: list[TextRow]
    tasks: list[ClientTask]
    start: Tree

    @property
    def local(self) -> Local:
        return self.config.local

    @cached_property
    def peft_model(self) -> Any:
        """The same base under plain PEFT, which those who are compared share."""
        from fedllm_bench.training import trl

        return trl.load_peft(self.model, self.config).eval()

    def without_base(self) -> Work:
        """The same for a way that has the base under PEFT only, so that memory holds it once."""
        about = SimpleNamespace(dtype=self.model.base.dtype, device="cpu")
        return replace(self, model=replace(self.model, base=about, layers={}))

    def planned(self, task: ClientTask) -> list[int]:
        """Numbers of a client's rows in `texts`, in the order of its plan."""
        return [task.row_numbers[i] for step in task.steps for micro in step for i in micro]


def make_work(
    case: Case,
    of_round: Round,
    loss: str,
    folder: str,
    settings: Sequence[str] = (),
    *,
    spread: float = SPREAD,
    engine: str = "inprocess",
) -> Work:
    """The base in `folder`, a name or id of the hub too. Raises a :class:`UserError` for one that there is not."""
    config = make_config(case, of_round, loss, folder, settings, engine)
    model = load_model(config.model, config.lora)
    count = of_round.clients * of_round.rows
    texts = make_texts(case, count, model.tokenizer, pairs=loss == "dpo", spread=spread)
    start = initial_adapter(model.layers, of_round.rank, seed=0)
    stream = torch.Generator().manual_seed(1)
    start = tmap(lambda t: t + 0.002 * torch.randn(t.shape, generator=stream), start)  # B is not zero after round one
    rows = with_reference(model, make_rows(texts, model.tokenizer, case.longest), config)
    tasks = [make_task(client, of_round, rows) for client in range(of_round.clients)]
    return Work(case, of_round, config, model, texts, tasks, start)


def make_config(
    case: Case, of_round: Round, loss: str, model: str, settings: Sequence[str], engine: str = "inprocess"
) -> RunConfig:
    """Rates are those of profile mini but for `settings`; no dropout, of which each way draws masks of its own."""
    words = [
        *(f"local.{name}={getattr(of_round, name)}" for name in ("steps", "micro_batch", "accumulation")),
        *(f"lora.rank={of_round.rank}", f"lora.alpha={2 * of_round.rank}", "lora.dropout=0.0", "lora.targets=auto"),
        *(f"local.sequence_length={case.longest}", "local.lr=1e-3", "local.lr_end=1e-4", "model.dtype=float32"),
        *("local.steps_rule=fixed", f"federation.clients_per_round={of_round.clients}"),
    ]
    config = presets.load(DATASETS[loss], "fedavg", "mini", [*words, *settings], model=model, engine=engine)
    if config.lora.dropout:
        raise UserError("--set lora.dropout: each way draws other masks, so that no adapters could be compared; give 0")
    if config.model.quantization != "none" or config.model.trainable != "adapter":
        raise UserError("--set: the comparison is of LoRA on a base that is not quantised")
    return config


def word_tokenizer(vocabulary: int) -> Any:
    """A tokenizer of whole words: "w5" is token 5; 0 is for padding and what is unknown, 1 ends a row."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<unk>", "</s>", *(f"w{i}" for i in range(2, vocabulary))])}
    tokens = Tokenizer(WordLevel(words, "<unk>"))
    tokens.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", eos_token="</s>", pad_token="<unk>")


def save_random_llama(case: Case, folder: Path) -> None:
    """A base of random weights with a :func:`word_tokenizer`, as a folder of transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=3 * (case.hidden or 0),
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer(case.vocabulary).save_pretrained(folder)


def words_of(tokenizer: Any) -> list[str]:
    """Up to WORDS words that are one token each behind a space."""
    order = np.random.default_rng(4).permutation(len(tokenizer))[: 20 * WORDS]
    texts = [text.strip() for text in tokenizer.batch_decode([[int(i)] for i in order], skip_special_tokens=True)]
    texts = list(dict.fromkeys(text for text in texts if text.isalnum()))
    ids = tokenizer([f" {text}" for text in texts], add_special_tokens=False)["input_ids"]
    found = [text for text, own in zip(texts, ids, strict=True) if len(own) == 1][:WORDS]
    if len(found) < 2:
        raise UserError("the tokenizer of this base has no words of one token each; give another --model")
    return found


def make_texts(case: Case, count: int, tokenizer: Any, *, pairs: bool, spread: float) -> list[TextRow]:
    """`count` rows of random words, of which the first third is the prompt."""
    rng, words = np.random.default_rng(2), words_of(tokenizer)

    def text(length: int) -> str:
        return "".join(f" {words[i]}" for i in rng.integers(len(words), size=length))

    def lengths() -> Any:
        drawn = rng.lognormal(np.log(case.tokens) - spread**2 / 2, spread, count)
        return drawn.round().astype(int).clip(SHORTEST, case.longest)

    prompts = (PROMPT * lengths()).astype(int).clip(1, case.longest // 2)
    answers = [[max(1, int(n * (1 - PROMPT)) - 1) for n in lengths()] for _ in range(1 + pairs)]
    return [
        TextRow(text(prompt)[1:], tuple(text(min(n, case.longest - prompt - 1)) for n in own))
        for prompt, own in zip(prompts.tolist(), zip(*answers, strict=True), strict=True)
    ]


def encoded(tokenizer: Any, prompt: str, answer: str, longest: int) -> tuple[list[int], int]:
    """The tokens of a row with its end, cut at `longest`, and how many of them are the prompt's."""
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    return [*first, *second, tokenizer.eos_token_id][:longest], len(first)


def make_rows(texts: Sequence[TextRow], tokenizer: Any, longest: int) -> TokenPart | PairPart:
    found = [encoded(tokenizer, row.prompt, answer, longest) for row in texts for answer in row.answers]
    answers = len(texts[0].answers)
    rows = TokenPart(
        ids=np.concatenate([np.array(ids, np.int32) for ids, _ in found]),
        counted=np.concatenate([np.arange(len(ids)) >= prompt for ids, prompt in found]),
        starts=np.cumsum([0, *(len(ids) for ids, _ in found)], dtype=np.int64),
        rows=np.arange(len(found)) // answers,
        num_cut=0,
        num_skipped=0,
    )
    return PairPart(rows) if answers == 2 else rows


def with_reference(model: LoraModel, rows: TokenPart | PairPart, config: RunConfig) -> TokenPart | PairPart:
    """Pairs with the log-probabilities of the base, which a run computes once, before its rounds."""
    if not isinstance(rows, PairPart):
        return rows
    sequences = [rows.sequences[i] for i in range(len(rows.sequences))]
    found = log_probabilities(model, sequences, config.evaluation.batch_tokens)
    return replace(rows, reference=found.reshape(-1, 2))


def make_task(client: int, of_round: Round, rows: TokenPart | PairPart, round_num: int = 0) -> ClientTask:
    first = client * of_round.rows
    how = {name: getattr(of_round, name) for name in ("steps", "micro_batch", "accumulation")}
    return ClientTask(
        client=client,
        client_id=str(client),
        seed=0,
        round_num=round_num,
        rows=rows,
        row_numbers=tuple(range(first, first + of_round.rows)),
        steps=plan_steps(0, round_num, client, num_rows=of_round.rows, **how),
        state={},
    )
