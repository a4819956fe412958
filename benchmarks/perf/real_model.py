"""How fast a real base trains and is scored: this suite beside plain transformers and PEFT, on the same rows.

  ours      `train_block`, one client
  counted   plain transformers and PEFT: the head at counted tokens only, torch's fused AdamW
  all       the same with the logits of all tokens, as a Trainer has them

They must end at the same adapters before anything is timed. They then take turns, and processor times of a turn are
compared. Scoring is compared alike: `summed_nll` beside the logits of all tokens. Then: where the time of a step
goes, and where the memory of the process goes. Rows are made here, of random tokens: half of them are shorter than 92
tokens, one in ten is longer than 165, and the last 40% of a row are counted, as in corrected writing under a short
template. The smaller that share, the more the logits of all tokens cost beside the others.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedllm_bench.benchmarks.perf import parts
from fedllm_bench.benchmarks.perf.turns import (
    SPREAD,
    TOLERANCE,
    Variant,
    disagreements,
    machine_line,
    peft_loop,
    take_turns,
    with_allocator,
)
from fedllm_bench.common import files, provenance
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.own_memory import resident_bytes
from fedllm_bench.common.process import prepare
from fedllm_bench.common.text import size
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.pairs import whole
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.metrics.running import by_length
from fedllm_bench.training.batches import Batch, collate, plan_steps
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.trl_client import CPU, adapter_parameters, put

EPILOG = """examples:
  python benchmarks/perf/real_model.py
  python benchmarks/perf/real_model.py --model ../models/gemma --set model.dtype=float32 --json speed.json
"""
MEDIAN_TOKENS, SPREAD_OF_LOG = 92, math.log(165 / 92) / 1.2816
MOVED = {"float32": TOLERANCE, "bfloat16": 0.5}  # relative L2 of adapters; AdamW turns rounding errors into steps
SCORED, TO_REACH = {"float32": 1e-4, "bfloat16": 5e-2}, {"counted": 0.95, "all": 2.0}  # nats per token; ratios


@dataclass(frozen=True)
class Work:
    """One client's local training from `start`, and rows to be scored, on two copies of the same base."""

    config: RunConfig
    model: LoraModel
    task: ClientTask
    start: Tree
    rows: TokenPart

    @cached_property
    def peft_model(self) -> Any:
        from fedllm_bench.training import trl

        return trl.load_peft(self.model, self.config).eval()

    @cached_property
    def batches(self) -> list[Batch]:
        """One for each step, of the rows as `train_block` takes them."""
        return [parts.batch_of(self.task, number) for number in range(len(self.task.steps))]


def make_work(model: str | None, overrides: Sequence[str], num_scored: int, counted: float = 0.4) -> Work:
    """Raises a :class:`UserError` for a model or setting that there is not."""
    config = presets.load("rows", "fedavg", "small", ["local.accumulation=1", *overrides], model=model)
    loaded = load_model(config.model, config.lora)
    local = config.local
    plan = plan_steps(0, 0, 0, num_rows=local.steps * local.micro_batch, steps=local.steps,
                      micro_batch=local.micro_batch, accumulation=1)  # fmt: skip
    sizes = (loaded.vocabulary, local.sequence_length, counted)
    rows = make_rows(2, local.steps * local.micro_batch, *sizes)
    task = ClientTask(client=0, client_id="0", seed=0, round_num=0, rows=rows, row_numbers=tuple(range(len(rows))),
                      steps=plan, state={})  # fmt: skip
    stream = torch.Generator().manual_seed(1)
    start = initial_adapter(loaded.layers, config.lora.rank, seed=0)
    start = tmap(lambda t: t + 0.002 * torch.randn(t.shape, generator=stream), start)  # B is not zero after round one
    return Work(config, loaded, task, start, make_rows(3, num_scored, *sizes))


def make_rows(seed: int, num_rows: int, vocabulary: int, longest: int, counted: float) -> TokenPart:
    """Rows of at most `longest` tokens, of which the last share `counted` is counted."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(math.log(MEDIAN_TOKENS), SPREAD_OF_LOG, num_rows)).astype(int).clip(8, longest)
    return TokenPart(
        ids=rng.integers(3, vocabulary, lengths.sum(), np.int32),
        counted=np.concatenate([np.arange(n) >= (1 - counted) * n for n in lengths]),
        starts=np.cumsum([0, *lengths], dtype=np.int64),
        rows=np.arange(num_rows),
        num_cut=0,
        num_skipped=0,
    )


def ours(work: Work) -> list[Tree]:
    (result,) = train_block(work.model, FedAvg(), {"params": work.start}, [work.task], work.config.local)
    if result.failure:
        raise UserError(f"no finite answer ({result.failure}); give another --model or --set model.dtype=float32")
    return [tmap(torch.add, work.start, result.upload["delta"])]


def counted_loss(peft_model: Any, batch: Batch) -> torch.Tensor:
    base = peft_model.get_base_model()
    hidden = base.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    targets = batch.targets[:, 1:]
    logits = base.get_output_embeddings()(hidden[targets != -100])
    return F.cross_entropy(logits.float(), targets[targets != -100])


def whole_loss(peft_model: Any, batch: Batch) -> Any:
    return peft_model(input_ids=batch.ids, attention_mask=mask_of(batch), labels=batch.targets, use_cache=False).loss


def mask_of(batch: Batch) -> torch.Tensor:
    return (batch.ids != 0).long()  # 0 is padding, and in no row


def make_variants(work: Work) -> dict[str, Variant]:
    def plain(loss_of: Any) -> list[Tree]:
        return [peft_loop(work.peft_model, work.start, work.config.local, [[b] for b in work.batches], loss_of)]

    return {"ours": lambda: ours(work), "counted": lambda: plain(counted_loss), "all": lambda: plain(whole_loss)}


def our_scores(work: Work) -> list[float]:
    with work.model.using(work.start):
        return summed_nll(work.model, list(map(work.rows.__getitem__, range(len(work.rows)))), batch_tokens(work))


def plain_scores(work: Work) -> list[float]:
    """Summed loss over the counted tokens of each row, from the logits of all tokens."""
    rows, sums = [work.rows[i] for i in range(len(work.rows))], [0.0] * len(work.rows)
    put(adapter_parameters(work.peft_model), work.start)
    for places in by_length([len(row.ids) for row in rows], batch_tokens(work)):
        batch = collate([rows[i] for i in places], CPU)
        with torch.no_grad():
            logits = work.peft_model(input_ids=batch.ids, attention_mask=mask_of(batch), use_cache=False).logits
        logits = logits[:, :-1].flatten(0, 1).float()
        nll = F.cross_entropy(logits, batch.targets[:, 1:].flatten(), reduction="none")
        for i, total in zip(places, nll.view(len(places), -1).double().sum(1).tolist(), strict=True):
            sums[i] = total
    return sums


def batch_tokens(work: Work) -> int:
    return work.config.evaluation.batch_tokens


def check_scores(work: Work) -> float:
    """Difference of the mean loss in nats per counted token; a :class:`RuntimeError` beyond SCORED."""
    apart = abs(sum(our_scores(work)) - sum(plain_scores(work))) / work.rows.num_counted
    if not apart <= SCORED[work.config.model.dtype]:
        raise RuntimeError(f"scores differ by {apart:.2e} nats per token > {SCORED[work.config.model.dtype]}")
    return apart


def compared(ways: Mapping[str, Callable[[], object]], repeats: int, tokens: int) -> dict[str, Any]:
    """JSON data: processor seconds of each turn, tokens per second, and how much slower than ours the others are."""
    seconds = {name: found["cpu"] for name, found in take_turns(ways, repeats).items()}
    ratios = {name: [b / a for a, b in zip(seconds["ours"], own, strict=True)] for name, own in seconds.items()}
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": {name: tokens / statistics.median(own) for name, own in seconds.items()},
        "slower": {name: {kind: f(own) for kind, f in SPREAD.items()} for name, own in ratios.items()},
    }


def measure(model: str | None, settings: Sequence[str], repeats: int, scored: int, counted: float) -> dict[str, Any]:
    """JSON data: both comparisons, the parts of a step's time, and those of the process's memory."""
    import peft  # noqa: F401  # it counts with the libraries

    libraries = resident_bytes()
    work = make_work(model, settings, scored, counted)
    in_memory = parts.memory_parts(work.model, work.start, work.task, lambda: ours(work), libraries)
    variants = make_variants(work)
    apart = {"adapters": disagreements(variants, work.start, MOVED[work.config.model.dtype])}
    apart |= {"scores": check_scores(work)}
    scorers = {"ours": lambda: our_scores(work), "all": lambda: plain_scores(work)}
    return {
        "shape": shape(work),
        "apart": apart,
        "train": compared(variants, repeats, sum(int((batch.ids != 0).sum()) for batch in work.batches)),
        "score": compared(scorers, repeats, len(work.rows.ids)),
        "time": parts.step_parts(work.model, lambda: ours(work)),
        "memory": in_memory,
        "environment": provenance.environment(threads=torch.get_num_threads(), gpus=[]),
    }


def shape(work: Work) -> dict[str, Any]:
    local, rows = work.config.local, work.task.rows
    return {
        "model": work.config.model.name,
        "dtype": work.config.model.dtype,
        "vocabulary": work.model.vocabulary,
        "steps": local.steps,
        "rows": local.micro_batch,
        "tokens": len(rows.ids),
        "padded": sum(batch.ids.numel() for batch in work.batches),
        "counted": whole(rows).num_counted,
        "rank": work.config.lora.rank,
        "scored_rows": len(work.rows),
    }


def as_table(found: dict[str, Any]) -> str:
    made, machine = found["shape"], found["environment"]
    lines = [
        f"{made['model']} in {made['dtype']}: {made['steps']} steps of {made['rows']} rows, {made['tokens']} tokens "
        f"({made['padded']} with padding, {made['counted']} counted); LoRA of rank {made['rank']}",
        f"{'processor seconds':22}{'a step':>9}{'tokens/s':>10}{'slower':>9}{'least':>8}{'largest':>9}",
    ]
    for kind, times in (("train", made["steps"]), ("score", 1)):
        for name, seconds in found[kind]["seconds"].items():
            ratio = found[kind]["slower"][name]
            line = f"{kind + ', ' + name:22}{statistics.median(seconds) / times:9.3f}"
            line += f"{found[kind]['tokens_per_second'][name]:10.0f}{ratio['median']:8.2f}x{ratio['least']:7.2f}x"
            lines.append(f"{line}{ratio['largest']:8.2f}x")
    for name, least in TO_REACH.items():
        ratio = found["train"]["slower"][name]["median"]
        lines.append(f"speed beside {name}: {ratio:.2f}, {'reached' if ratio >= least else 'below'} {least}")
    return "\n".join([*lines, *notes(found), machine_line(machine)]) + "\n"


def notes(found: dict[str, Any]) -> list[str]:
    apart = ", ".join(f"{name} {value:.1e}" for name, value in found["apart"]["adapters"].items())
    return [
        f"same adapters: relative L2 {apart}; same scores: {found['apart']['scores']:.1e} nats per token",
        "time of a step: " + ", ".join(f"{name} {share:.0%}" for name, share in found["time"].items()),
        "memory: " + ", ".join(f"{name} {size(amount)}" for name, amount in found["memory"].items()),
    ]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", help="a base by name, a folder or an id of the hub (that of profile small)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way, 1 or more (5)")
    parser.add_argument("--scored", type=int, default=64, help="rows that are scored, 1 or more (64)")
    parser.add_argument("--counted", type=float, default=0.4, help="share of a row that is counted, up to 1 (0.4)")
    parser.add_argument("--threads", type=int, default=1, help="cores for torch (1: processor time is then comparable)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    prepare()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(args.threads)
    try:
        if low := [name for name in ("repeats", "scored") if getattr(args, name) < 1]:
            raise UserError(f"--{low[0]}: got {getattr(args, low[0])}, give 1 or more")
        if not 0 < args.counted <= 1:
            raise UserError(f"--counted: got {args.counted}, give a share above 0 and up to 1")
        found = measure(args.model, args.overrides, args.repeats, args.scored, args.counted)
    except UserError as error:
        sys.stderr.write(f"real_model: {error}\n")
        return 2
    sys.stdout.write(as_table(found))
    if args.json:
        files.write_json(args.json, found)
    return 0


if __name__ == "__main__":
    with_allocator(__file__)
    sys.exit(main())
