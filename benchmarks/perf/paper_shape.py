"""What the published settings take at the published size: memory and useful tokens a second of training.

The base is a random Llama-2-7B, made on the device: neither weights nor rows are fetched. Rows have random tokens, and
the lengths of the published data: log-normal, of the mean and standard deviation that its paper gives, cut at the
sequence length. Clients, steps, rows of a step, LoRA and optimiser are those of the presets. Each line is a row of a
Markdown table for benchmarks/LOG.md; one round before the first measured one is not counted.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.process import prepare
from fedllm_bench.common.text import size
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.memory import estimate
from fedllm_bench.training.model import quantized, targets
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

EPILOG = """examples:
  python benchmarks/perf/paper_shape.py --rounds 3
  python benchmarks/perf/paper_shape.py --datasets aya --set local.gradient_checkpointing=false
  python benchmarks/perf/paper_shape.py --shape tiny                       (to see that it runs; without a GPU too)
"""
HEAD = "| data set | shape | base | tokens a round | seconds a round | useful tokens/s | peak | estimate |"
SHAPES: dict[str, dict[str, int]] = {
    "7b": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "max_position_embeddings": 4096},
    "tiny": {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 2, "max_position_embeddings": 128},
}  # fmt: skip
TINY = ("local.steps=1", "local.micro_batch=2", "local.accumulation=2", "local.sequence_length=48")
BASES = {"bf16": "none", "8bit": "8bit", "4bit": "4bit"}


@dataclass(frozen=True)
class Published:
    """Rows of a client, and tokens of a prompt and of an answer as (mean, standard deviation). arXiv:2406.04845."""

    rows: int
    prompt: tuple[float, float]
    answer: tuple[float, float]


DATA = {
    "aya": Published(rows=25513 // 38, prompt=(116, 199), answer=(225, 411)),
    "chatbot_pa": Published(rows=round(9508 / 747), prompt=(69, 124), answer=(218, 178)),
}


def make_config(dataset: str, shape: str, base: str, overrides: Sequence[str]) -> RunConfig:
    small = TINY if shape == "tiny" else ()
    words = [*small, f"model.quantization={BASES[base]}", *overrides]
    return presets.load(dataset, "fedavg", "paper", words, model=f"random {shape}")


def make_model(config: RunConfig, settings: Any, device: str) -> LoraModel:
    """A random base on `device` with LoRA layers; without tokenizer."""
    base = make_base(config, settings, device)
    names = targets.resolve(base, config.lora.targets)
    layers, switch = targets.insert(base, replace(config.lora, targets=names))
    return LoraModel(base, None, layers, switch, names)


def make_base(config: RunConfig, settings: Any, device: str) -> Any:
    """The same weights for the same settings on one device."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, config.model.dtype)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.device(device):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval()
    if config.model.quantization != "none":
        pack(base, dtype, config.model.quantization)
    return base


def pack(base: Any, dtype: torch.dtype, quantization: str) -> None:
    """Quantise a base in place ("4bit" or "8bit"), layer by layer, as transformers does when it loads one."""
    for name, layer in quantized.packed(base).items():
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, PACKING[quantization](layer, dtype).requires_grad_(False).eval())
    quantized.make_exact(base, "random")


def in_4_bits(layer: torch.nn.Linear, dtype: torch.dtype) -> torch.nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    sizes, how = (layer.in_features, layer.out_features), {"compress_statistics": True, "quant_type": "nf4"}
    new: torch.nn.Module = Linear4bit(*sizes, bias=False, compute_dtype=dtype, device="meta", **how)
    new.weight = Params4bit(layer.weight.data, requires_grad=False, module=new, **how).to(layer.weight.device)
    return new


def in_8_bits(layer: torch.nn.Linear, dtype: torch.dtype) -> torch.nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    sizes = (layer.in_features, layer.out_features)
    new: torch.nn.Module = Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
    # it quantises what comes from the CPU, and nothing else
    weight = Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    new.weight = weight.to(layer.weight.device)
    return new


PACKING = {"4bit": in_4_bits, "8bit": in_8_bits}


def lengths(rng: np.random.Generator, of: tuple[float, float], count: int) -> Any:
    """Whole numbers, 1 or more, log-normal of this mean and standard deviation."""
    mean, deviation = of
    variance = math.log(1 + (deviation / mean) ** 2)
    drawn = rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
    return np.maximum(1, drawn.round()).astype(int)


def make_rows(config: RunConfig, data: Published, count: int, vocabulary: int) -> TokenPart | PairPart:
    """`count` rows or pairs; every row keeps a token of its answer."""
    rng, longest = np.random.default_rng(3), config.local.sequence_length
    answers = 2 if config.local.loss == "dpo" else 1
    prompts = np.repeat(np.minimum(lengths(rng, data.prompt, count), longest // 2), answers)
    ends = np.minimum(prompts + lengths(rng, data.answer, count * answers), longest)
    sequences = TokenPart(
        ids=rng.integers(4, vocabulary, ends.sum(), np.int32),
        counted=np.concatenate([np.arange(end) >= prompt for prompt, end in zip(prompts, ends, strict=True)]),
        starts=np.concatenate([[0], np.cumsum(ends)]).astype(np.int64),
        rows=np.arange(len(ends)) // answers,
        num_cut=0,
        num_skipped=0,
    )
    if answers == 1:
        return sequences
    for chosen, rejected, prompt in zip(*(sequences.starts[first:-1:2] for first in (0, 1)), prompts[::2], strict=True):
        sequences.ids[rejected : rejected + prompt] = sequences.ids[chosen : chosen + prompt]  # a pair has one prompt
    return PairPart(sequences, np.full((count, 2), -200.0))


def make_tasks(config: RunConfig, data: Published, rows: TokenPart | PairPart, round_num: int) -> list[ClientTask]:
    """The clients of one round, each with its own rows."""
    local, federation = config.local, config.federation
    turns = federation.rounds * federation.clients_per_round / (config.data.clients or 1)
    steps = local.num_steps(data.rows, turns)
    how = {"num_rows": data.rows, "steps": steps, "micro_batch": local.micro_batch, "accumulation": local.accumulation}
    return [
        ClientTask(
            client=k,
            client_id=str(k),
            seed=0,
            round_num=round_num,
            rows=rows,
            row_numbers=tuple(range(k * data.rows, (k + 1) * data.rows)),
            steps=plan_steps(0, round_num, k, **how),
            state={},
        )
        for k in range(federation.clients_per_round)
    ]


def useful_tokens(task: ClientTask) -> int:
    """Tokens of all rows that a task trains on, without padding."""
    numbers = [task.row_numbers[i] for step in task.steps for micro in step for i in micro]
    return sum(len(sequence.ids) for number in numbers for sequence in task.rows[number].sequences)


def measure(config: RunConfig, data: Published, shape: str, rounds: int, device: str) -> dict[str, Any]:
    """Tokens, seconds and peak memory in bytes (None without a GPU) of the rounds after the first."""
    from transformers import LlamaConfig

    settings = LlamaConfig(**SHAPES[shape], tie_word_embeddings=False)
    needed = estimate(config, settings).total
    model = make_model(config, settings, device)
    rows = make_rows(config, data, config.federation.clients_per_round * data.rows, settings.vocab_size)
    params = initial_adapter(model.layers, config.lora.rank, 0)
    engine, cuda = in_process(model, FedAvg(), config), device == "cuda"
    tokens, seconds = 0, 0.0
    for round_num in range(rounds + 1):
        tasks = make_tasks(config, data, rows, round_num)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        for results in engine({"params": params}, [[task] for task in tasks], config.local):
            if failure := results[0].failure:
                raise UserError(f"{config.dataset}: a client has no finite answer ({failure})")
        if round_num:
            seconds += time.perf_counter() - started  # answers lie on the CPU: nothing is still being computed
            tokens += sum(map(useful_tokens, tasks))
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return {"tokens": tokens / rounds, "seconds": seconds / rounds, "peak": peak, "estimate": needed}


def as_row(dataset: str, shape: str, base: str, found: dict[str, Any]) -> str:
    peak = "not measured" if found["peak"] is None else size(found["peak"])
    speed = f"{found['tokens'] / found['seconds']:,.0f}"
    values = (dataset, shape, base, f"{found['tokens']:,.0f}", f"{found['seconds']:.2f}", speed, peak)
    return f"| {' | '.join(values)} | {size(found['estimate'])} |"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="of the base (7b, which needs a CUDA GPU)")
    parser.add_argument("--datasets", default=",".join(DATA), help=f"with commas between ({','.join(DATA)})")
    parser.add_argument("--bases", default=",".join(BASES), help=f"with commas between ({','.join(BASES)})")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, 1 or more (3)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    return parser


def chosen(names: str, known: Sequence[str], option: str) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    if wrong := [name for name in found if name not in known]:
        raise UserError(f"{option}: got {wrong[0]!r}; there are {', '.join(known)}")
    return found


def run(args: argparse.Namespace) -> None:
    """Print the table; a :class:`UserError` for wrong options, and for 7b without a GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.shape == "7b" and device == "cpu":
        raise UserError("--shape 7b needs a CUDA GPU, and none was found; to see that it runs, give --shape tiny")
    if args.rounds < 1:
        raise UserError(f"--rounds: got {args.rounds}, give 1 or more")
    datasets = chosen(args.datasets, list(DATA), "--datasets")
    bases = chosen(args.bases, list(BASES), "--bases")
    configs = {(d, b): make_config(d, args.shape, b, args.overrides) for d in datasets for b in bases}
    for config in configs.values():
        quantized.loading_options(config.model, device)  # says what is missing before anything is made
    sys.stdout.write(f"{HEAD}\n|{'---|' * HEAD.count(' | ')}---|\n")
    for (dataset, base), config in configs.items():
        found = measure(config, DATA[dataset], args.shape, args.rounds, device)
        sys.stdout.write(as_row(dataset, args.shape, base, found) + "\n")
        sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    try:
        run(build_parser().parse_args(argv))
    except UserError as error:
        sys.stderr.write(f"paper_shape: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
