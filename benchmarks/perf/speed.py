"""How fast K clients train in one pass: three variants of the same local training, side by side.

  stacked   `train_block`, all clients through the base together
  loop      plain PEFT, one client after another: a tight loop over batches made beforehand, torch's fused AdamW
  trl       a TRL trainer for each client as TRL makes it: its own preparation of rows, gradient checkpointing
  trl-lean  the same without both

They must end at the same adapters before anything is timed. They then take turns, and the times of a turn are
compared, since a busy machine slows all alike. With one thread, processor time holds there too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedllm_bench.benchmarks.perf.turns import (
    Variant,
    disagreements,
    machine_line,
    peft_loop,
    summary,
    take_turns,
    with_allocator,
)
from fedllm_bench.common import files, provenance
from fedllm_bench.common.process import ALLOCATOR, prepare
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config import presets
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.batches import collate
from fedllm_bench.training.block import ClientTask, train_block
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.trl_client import CPU, adapter_parameters, put

EPILOG = """examples:
  python benchmarks/perf/speed.py --hidden 256 --tokens 128 --repeats 7 --json speed.json
"""
VOCABULARY, LAYERS, HEADS, RANK, BATCH = 900, 4, 4, 8, 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained: `clients` of `steps` steps of BATCH rows of `tokens` tokens, half of which are counted."""

    hidden: int
    clients: int
    steps: int
    tokens: int


@dataclass(frozen=True)
class Work:
    """The shape made up: models with the same random base, rows, and the adapter that all clients start from."""

    config: RunConfig
    model: LoraModel
    peft_model: Any
    tasks: list[ClientTask]
    start: Tree

    @property
    def local(self) -> Local:
        return self.config.local


def make_work(shape: Shape, folder: Path) -> Work:
    from fedllm_bench.training import trl

    save_random_llama(shape, folder)
    rows = (f"lora.rank={RANK}", f"local.steps={shape.steps}", f"local.micro_batch={BATCH}", "local.accumulation=1")
    config = presets.load("aya", "fedavg", "mini", [*rows, "local.lr=1e-3", "local.lr_end=1e-4"], model=str(folder))
    model = load_model(config.model, config.lora)
    start = initial_adapter(model.layers, RANK, seed=0)
    stream = torch.Generator().manual_seed(1)
    start = tmap(lambda t: t + 0.02 * torch.randn(t.shape, generator=stream), start)
    return Work(config, model, trl.load_peft(model, config), make_tasks(shape), start)


def save_random_llama(shape: Shape, folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "w0")), eos_token="w1")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=3 * shape.hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tasks(shape: Shape) -> list[ClientTask]:
    per_client = shape.steps * BATCH
    ids = np.random.default_rng(2).integers(2, VOCABULARY, (shape.clients * per_client, shape.tokens), np.int32)
    counted = np.broadcast_to(np.arange(shape.tokens) >= shape.tokens // 2, ids.shape)
    part = TokenPart(
        ids=ids.reshape(-1),
        counted=counted.reshape(-1),
        starts=np.arange(len(ids) + 1, dtype=np.int64) * shape.tokens,
        rows=np.arange(len(ids)),
        num_cut=0,
        num_skipped=0,
    )
    steps = tuple((tuple(range(first, first + BATCH)),) for first in range(0, per_client, BATCH))
    return [
        ClientTask(
            client=k,
            client_id=str(k),
            seed=0,
            round_num=0,
            rows=part,
            row_numbers=tuple(range(k * per_client, (k + 1) * per_client)),
            steps=steps,
            state={},
        )
        for k in range(shape.clients)
    ]


def stacked(work: Work) -> list[Tree]:
    results = train_block(work.model, FedAvg(), {"params": work.start}, work.tasks, work.local)
    return [tmap(torch.add, work.start, result.upload["delta"]) for result in results]


def prepared(work: Work) -> list[list[tuple[Any, Any]]]:
    """For the loop: ids and targets of each step of each client, shape (BATCH, T) and (BATCH, T - 1)."""
    batches = [
        [collate([task.rows[task.row_numbers[i]].sequences[0] for i in micro], CPU) for (micro,) in task.steps]
        for task in work.tasks
    ]
    return [[(batch.ids, batch.targets[:, 1:].flatten()) for batch in own] for own in batches]


def loop(work: Work, batches: Sequence[Sequence[tuple[Any, Any]]]) -> list[Tree]:
    model = work.peft_model.eval()
    return [peft_loop(model, work.start, work.local, own, whole_loss) for own in batches]


def whole_loss(model: Any, batch: tuple[Any, Any]) -> Any:
    ids, targets = batch
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), targets)


def by_trl(work: Work, *, lean: bool) -> list[Tree]:
    from fedllm_bench.training import trl

    parameters, ends = adapter_parameters(work.peft_model), []
    for task in work.tasks:
        put(parameters, work.start)
        with trl.undisturbed(), tempfile.TemporaryDirectory() as folder:
            from trl import SFTTrainer  # draws from Python's generator when it is loaded

            steps = trl.planned_rows(task)
            local = replace(work.local, gradient_checkpointing=not lean)
            args = trl.arguments(local, steps, output_dir=folder, use_cpu=True)
            args.dataset_kwargs = args.dataset_kwargs if lean else None
            trl.make_trainer(SFTTrainer, work.peft_model, work.model.tokenizer, steps, args=args).train()
            trl.unpatch(work.peft_model)
            work.peft_model.get_base_model().gradient_checkpointing_disable()
        ends.append({name: parameters[name].detach().clone() for name in work.start})
    return ends


def make_variants(work: Work) -> dict[str, Variant]:
    batches = prepared(work)
    ways: dict[str, Variant] = {"stacked": lambda: stacked(work), "loop": lambda: loop(work, batches)}
    return ways | {"trl": lambda: by_trl(work, lean=False), "trl-lean": lambda: by_trl(work, lean=True)}


def measure(shape: Shape, repeats: int) -> dict[str, Any]:
    """JSON data: seconds of each turn, and how much slower than `stacked` the others are."""
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(shape, Path(folder))
        variants = make_variants(work)
        distances = disagreements(variants, work.start)
        seconds = take_turns(variants, repeats)
    return {
        "shape": {**vars(shape), "rows": BATCH, "vocabulary": VOCABULARY, "layers": LAYERS, "rank": RANK},
        "relative_l2": distances,
        "seconds": seconds,
        "ratios": {name: summary(seconds["stacked"], seconds[name]) for name in variants},
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR},
        "load_average": os.getloadavg()[0],
        "environment": provenance.environment(threads=torch.get_num_threads(), gpus=[]),
    }


def as_table(found: dict[str, Any]) -> str:
    shape, machine = found["shape"], found["environment"]
    lines = [
        f"{shape['clients']} clients x {shape['steps']} steps x {BATCH} rows x {shape['tokens']} tokens, hidden "
        f"{shape['hidden']}, {LAYERS} layers, vocabulary {VOCABULARY}, LoRA of rank {RANK} on all linear layers",
        f"{'':8}{'seconds':>9}{'ms a step':>11}{'slower':>9}{'least':>8}{'largest':>9}{'processor':>11}",
    ]
    for name, ratio in found["ratios"].items():
        median = statistics.median(found["seconds"][name]["wall"])
        line = f"{name:8}{median:9.3f}{1000 * median / shape['clients'] / shape['steps']:11.2f}"
        line += f"{ratio['median']:8.2f}x{ratio['least']:7.2f}x{ratio['largest']:8.2f}x{ratio['cpu']:10.2f}x"
        lines.append(line)
    lines.append("same adapters: relative L2 " + ", ".join(f"{k} {v:.1e}" for k, v in found["relative_l2"].items()))
    lines.append(machine_line(machine, "trl"))
    if found["load_average"] > machine["threads"] + 0.5:
        lines.append(f"other processes ran (load {found['load_average']:.1f}): trust --threads 1 and processor time")
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--hidden", type=int, default=64, help="width of the model, a multiple of 8 (64)")
    parser.add_argument("--clients", type=int, default=8, help="clients in one pass (8)")
    parser.add_argument("--steps", type=int, default=10, help="local steps of each client (10)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a row, without padding (32)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each variant (5)")
    parser.add_argument("--threads", type=int, help="cores for torch (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    prepare()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    found = measure(Shape(**{name: getattr(args, name) for name in Shape.__annotations__}), args.repeats)
    sys.stdout.write(as_table(found))
    if args.json:
        files.write_json(args.json, found)
    return 0


if __name__ == "__main__":
    with_allocator(__file__)
    sys.exit(main())
