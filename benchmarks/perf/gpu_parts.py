"""What `make speed-gpu` measures, one function for each part: each returns the numbers of a row, or raises.

All is made on the device: a random base, rows of random tokens with the published lengths. Settings are those of the
presets, with fewer local steps, so that a part takes seconds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedllm_bench.benchmarks.perf import cases, floor, paper_shape, published, ways
from fedllm_bench.benchmarks.perf.paper_shape import Published
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config.run import RunConfig
from fedllm_bench.evaluation.answering.budget import batch_tokens
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.client_round import Block, ClientTask
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import PassPlan, most_tokens
from fedllm_bench.training.tasks import batched, clients_per_block

NO_RECOMPUTE = "local.gradient_checkpointing=false"
FULL = Published(rows=16, prompt=(1024, 0), answer=(4096, 0))  # cut: every row has the full sequence length
SMALL = Published(rows=160, prompt=(43, 20), answer=(85, 40))
NO_END = frozenset({2**31 - 1})  # no token has this id
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """What one way trained, for the next to train too: the tasks, where all began, and where the first ended."""

    tasks: list[ClientTask]
    start: Tree
    end: Tree


@dataclass
class Bench:
    """A device and what lies on it. `steps` are local steps of a client; a part repeats its work for `seconds`."""

    device: str
    shape: str
    folder: Path
    steps: int = 2
    seconds: float = 10.0
    kept: dict[str, Kept] = field(default_factory=dict)
    _model: LoraModel | None = None
    _peft: tuple[str, int, Any] | None = None

    def config(self, dataset: str, *settings: str, base: str = "bf16") -> RunConfig:
        steps = (f"local.steps={self.steps}",) if dataset == "aya" else ()
        words = ["lora.dropout=0.0", *steps, *settings]  # masks are drawn in another order by each way
        found: RunConfig = paper_shape.make_config(dataset, self.shape, base, words)
        return found

    @property
    def settings(self) -> Any:
        from transformers import LlamaConfig

        sizes = paper_shape.SHAPES[self.shape]
        return LlamaConfig(**sizes, tie_word_embeddings=False, eos_token_id=1, pad_token_id=0, bos_token_id=None)

    @property
    def tokenizer(self) -> Any:
        return cases.word_tokenizer(self.settings.vocab_size)

    @property
    def model(self) -> LoraModel:
        """The bfloat16 base with our LoRA layers."""
        if self._model is None:
            self.free()
            made = paper_shape.make_model(self.config("aya"), self.settings, self.device)
            self._model = replace(made, tokenizer=self.tokenizer)
        return self._model

    def peft_model(self, config: RunConfig) -> Any:
        """The same base under plain PEFT, in bfloat16 or packed."""
        base, rank = config.model.quantization, config.lora.rank
        if self._peft is None or self._peft[:2] != (base, rank):
            self.free()
            self._peft = base, rank, self._made_peft(config)
        return self._peft[2]

    def _made_peft(self, config: RunConfig) -> Any:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=0.0, task_type="CAUSAL_LM",
                          target_modules=["q_proj", "v_proj"])  # fmt: skip
        return get_peft_model(paper_shape.make_base(config, self.settings, self.device), lora)

    def free(self) -> None:
        self._model = self._peft = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_of(self, work: Callable[[], object]) -> int | None:
        """Bytes of tensors on the device at the most; None on a CPU."""
        if self.device != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()

    def timed(self, work: Callable[[], object], most: int = 5) -> list[float]:
        """Seconds of each of up to `most` times, until `seconds` are over. The first counts only if it is alone."""
        found: list[float] = []
        while len(found) <= most and sum(found) < self.seconds:
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - started)
        return found[1:] or found


def tasks_of(bench: Bench, config: RunConfig, data: Published, clients: int | None = None) -> list[ClientTask]:
    federation = config.federation
    if clients is not None:
        config = replace(config, federation=replace(federation, clients_per_round=clients))
    count = config.federation.clients_per_round * data.rows
    rows = paper_shape.make_rows(config, data, count, bench.settings.vocab_size)
    found: list[ClientTask] = paper_shape.make_tasks(config, data, rows, 0)
    return found


def train(bench: Bench, model: LoraModel, config: RunConfig, blocks: Sequence[Block], params: Tree) -> list[Tree]:
    """The adapters of all clients; a :class:`RuntimeError` for one without a finite answer."""
    ends = []
    model = replace(model, plan=PassPlan(most_tokens(config.local, bench.device)))
    for results in in_process(model, FedAvg(), config)({"params": params}, blocks, config.local):
        for result in results:
            if result.failure:
                raise RuntimeError(f"a client has no finite answer ({result.failure})")
            ends.append(tmap(torch.add, params, result.upload["delta"]))
    return ends


def limit(bench: Bench) -> Numbers:
    """The device's bfloat16 matmul limit at the shapes of the base."""
    size, inner = bench.settings.hidden_size, bench.settings.intermediate_size
    shapes = floor.Shapes({(size, size): 4, (inner, size): 2, (size, inner): 1})
    return {"matmul_flops": floor.matmul_limit(shapes, torch.bfloat16, bench.device, rows=4096)}


def ours(bench: Bench, dataset: str) -> Numbers:
    """Training by this suite in bfloat16 without recomputing."""
    config = bench.config(dataset, NO_RECOMPUTE)
    tasks = tasks_of(bench, config, paper_shape.DATA[dataset])
    rows = cases.with_reference(bench.model, tasks[0].rows, config)
    tasks = [replace(task, rows=rows) for task in tasks]
    blocks = list(batched(tasks, clients_per_block(config, rows, PassPlan(most_tokens(config.local, bench.device)))))
    params = initial_adapter(bench.model.layers, config.lora.rank, 0)
    bench.kept[dataset] = Kept(tasks, params, train(bench, bench.model, config, blocks, params)[0])
    seconds: list[float] = []
    peak = bench.peak_of(lambda: seconds.extend(bench.timed(lambda: train(bench, bench.model, config, blocks, params))))
    weights = sum(count * rows * columns for (rows, columns), count in floor.shapes_of(bench.model).items())
    head = bench.settings.vocab_size * bench.settings.hidden_size
    flop = 4.0 * (weights * ways.useful_tokens(tasks) + head * ways.counted_tokens(tasks))
    share = ways.useful_tokens(tasks) / ways.processed_tokens(blocks, bench.model.plan)
    found = {"peak_bytes": peak, "flops": flop / float(np.median(seconds)), "useful_share": share}
    return rate(tasks, seconds) | found


def rate(tasks: Sequence[ClientTask], seconds: Sequence[float]) -> Numbers:
    tokens = ways.useful_tokens(tasks)
    return {"seconds": list(seconds), "useful_tokens": tokens, "tokens_per_second": tokens / float(np.median(seconds))}


def by_trl(bench: Bench, dataset: str) -> Numbers:
    """What ours trained, by a TRL trainer for each client, in bfloat16, as TRL makes it; how far its adapter is."""
    if dataset not in bench.kept:
        raise RuntimeError("ours was not trained")
    kept, config = bench.kept[dataset], bench.config(dataset)
    model, tokenizer = bench.peft_model(config), bench.tokenizer
    (end,) = ways.train_by_trl(model, tokenizer, kept.tasks[:1], kept.start, config.local)
    seconds = bench.timed(lambda: ways.train_by_trl(model, tokenizer, kept.tasks, kept.start, config.local), most=1)
    return rate(kept.tasks, seconds) | {"relative_l2": _apart(kept, end)}


def _apart(kept: Kept, end: Tree) -> float:
    """Relative L2 distance of the first client's adapters."""
    moved = [tmap(lambda a, b: a.float().cpu() - b.float().cpu(), one, kept.start) for one in (kept.end, end)]
    return float(norm(tmap(torch.sub, *moved)) / norm(moved[0]))


def by_published(bench: Bench) -> Numbers:
    """The published shape: a base in int8, checkpointing, padding, a tokenisation and a Trainer for each client."""
    from fedllm_bench.training.trl import undisturbed

    config = bench.config("aya", base="8bit")
    tasks = tasks_of(bench, config, paper_shape.DATA["aya"])[:1]
    model, tokenizer, local = bench.peft_model(config), bench.tokenizer, config.local
    model.enable_input_require_grads()
    texts = [_texts(task) for task in tasks]
    of_round = cases.Round(clients=1, steps=len(tasks[0].steps), micro_batch=local.micro_batch,
                           accumulation=local.accumulation, rank=config.lora.rank)  # fmt: skip

    def one_round() -> None:
        for own in texts:
            with undisturbed():
                rows = published.tokenised(own, tokenizer, local.sequence_length)
                published.make_trainer(model, rows, local, of_round, str(bench.folder)).train()
            vars(model.get_base_model()).pop("forward", None)

    return rate(tasks, bench.timed(one_round, most=1))


def _texts(task: ClientTask) -> list[cases.TextRow]:
    """Rows of a task as words, in the order of its plan; their last token is left to the end of a row."""
    rows = [row for micros in ways.planned_rows(task) for some in micros for row in ways.sequences_of(some)]
    found = []
    for row in rows:
        words, prompt = [f"w{token}" for token in row.ids], int(row.counted.argmax())
        found.append(cases.TextRow(" ".join(words[:prompt]), (" ".join(words[prompt:-1]),)))
    return found


def small(bench: Bench) -> Numbers:
    """Ten clients of a small model: in passes of several clients, and one after another."""
    size = {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
    bench.free()
    config = bench.config("aya", NO_RECOMPUTE, "local.block_size=10")
    settings = type(bench.settings)(**size, num_attention_heads=4)
    model = paper_shape.make_model(config, settings, bench.device)
    count = 10 * SMALL.rows
    config = replace(config, federation=replace(config.federation, clients_per_round=10))
    tasks = paper_shape.make_tasks(config, SMALL, paper_shape.make_rows(config, SMALL, count, 8192), 0)
    params = initial_adapter(model.layers, config.lora.rank, 0)
    seconds = {
        name: bench.timed(lambda number=number: train(bench, model, config, list(batched(tasks, number)), params))  # type: ignore[misc]
        for name, number in (("stacked", 10), ("sequential", 1))
    }
    stacked, sequential = (float(np.median(own)) for own in seconds.values())
    return rate(tasks, seconds["stacked"]) | {
        "ratio": sequential / stacked,
        "sequential_seconds": seconds["sequential"],
    }


def generation(bench: Bench, new_tokens: int = 128, alone: int = 2) -> Numbers:
    """Greedy answers of `new_tokens` tokens to as many prompts as AdvBench has, in batches, and a few one by one."""
    prompts = 520 if bench.device == "cuda" else 40
    rng, model = np.random.default_rng(5), bench.model
    lengths = rng.integers(8, 24, prompts)
    texts = [tuple(int(i) for i in rng.integers(2, bench.settings.vocab_size, n)) for n in lengths]
    none = np.zeros(0)
    with model.using(initial_adapter(model.layers, 16, 0)), torch.no_grad():

        def answer(some: Sequence[tuple[int, ...]]) -> int:
            rows = [DecodingRow((str(i), 0), text, new_tokens, 0.0, none) for i, text in enumerate(some)]
            ended = [row for rows in decode(model, Queue(rows), batch_tokens(model), NO_END) for row in rows]
            return sum(len(row.made) for row in ended)

        answer(texts[:2])
        started = time.perf_counter()
        made = answer(texts)
        bench.wait()
        together = made / (time.perf_counter() - started)
        started = time.perf_counter()
        for text in texts[:alone]:
            ids = torch.tensor([text], device=bench.device)
            model.base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens,
                                min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)  # fmt: skip
        bench.wait()
        one = alone * new_tokens / (time.perf_counter() - started)
    return {"tokens_per_second": together, "one_by_one": one, "ratio": together / one, "prompts": prompts}


def memory(bench: Bench, dataset: str, base: str, *settings: str) -> Numbers:
    """Peak of a local step of one client with rows of the full length, beside the estimate of `--dry-run`."""
    from fedllm_bench.training.memory import estimate

    config = bench.config(dataset, "local.steps=1", "local.steps_rule=fixed", *settings, base=base)
    needed = estimate(config, bench.settings).total
    plain = base == "bf16" and not config.lora.dora
    if not plain:
        bench.free()
    model = bench.model if plain else paper_shape.make_model(config, bench.settings, bench.device)
    params = initial_adapter(model.layers, config.lora.rank, 0)
    tasks = tasks_of(bench, config, FULL, clients=1)
    peak = bench.peak_of(lambda: train(bench, model, config, [tasks], params))
    return {"peak_bytes": peak, "estimate_bytes": needed}
