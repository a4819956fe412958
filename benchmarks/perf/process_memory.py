"""What a whole process takes on a CPU, scoring and training, beside the estimate of it that runs are checked by.

A real base, and rows of random tokens: batches of scoring that grow to `evaluation.batch_tokens`, as batches by length
do, and two steps of a pass of `local.block_size` clients with rows of the full sequence length. Each call is one row
of a table for benchmarks/LOG.md. The process is started anew with the allocator's settings of the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.own_memory import peak_bytes
from fedllm_bench.common.process import prepare, variables_of_a_restart
from fedllm_bench.common.text import size
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.fitting import model_settings, process_in_words
from fedllm_bench.training.passes import DEFAULT
from fedllm_bench.training.process_memory import ProcessEstimate, estimate_process
from fedllm_bench.training.tasks import clients_of_length

EPILOG = """examples:
  python benchmarks/perf/process_memory.py --model smollm2-135m-instruct
  python benchmarks/perf/process_memory.py --model gemma3-270m --set model.dtype=float32 --set local.block_size=4
"""
HEAD = "| base | settings | libraries | loaded | scored | trained | peak with mapped files | estimate | of peak |"
ANSWER_SHARE = 4  # every fourth token is of an answer and counts, about as in real rows


def taken() -> int:
    """Bytes that the process has for itself now, without mapped files. With this allocator it is the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024


def make_rows(lengths: Sequence[int], vocabulary: int) -> TokenPart:
    ids = np.random.default_rng(0).integers(4, vocabulary, sum(lengths), np.int32)
    counted = np.concatenate([np.arange(n) >= n - max(1, n // ANSWER_SHARE) for n in lengths])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenPart(ids=ids, counted=counted, starts=starts, rows=np.arange(len(lengths)), num_cut=0, num_skipped=0)


def growing(config: RunConfig) -> list[int]:
    """Lengths of rows that fill one batch of scoring at each of three lengths up to the sequence length."""
    longest, tokens = config.local.sequence_length, config.evaluation.batch_tokens
    found: list[int] = []
    for third in range(1, 4):
        length = max(2, longest * third // 3)
        found += [length] * max(1, tokens // length)
    return found


def measured(config: RunConfig) -> list[int]:
    """Bytes with the libraries and the base, after scoring and after training, and the peak with mapped files."""
    import torch

    import fedllm_bench.pipeline.stages  # noqa: F401  # all that a run imports
    from fedllm_bench.methods.base import FedAvg
    from fedllm_bench.metrics.likelihood import summed_nll
    from fedllm_bench.training.engines import in_process
    from fedllm_bench.training.model.lora import initial_adapter
    from fedllm_bench.training.model.lora_model import load_model

    torch.set_num_threads(1)
    peaks = [taken()]
    model = load_model(config.model, config.lora)
    peaks.append(taken())
    rows = make_rows(growing(config), model.vocabulary)
    with model.using(None):
        summed_nll(model, [rows[i] for i in range(len(rows))], config.evaluation.batch_tokens)
    peaks.append(taken())
    local = config.local
    how = {"steps": 2, "micro_batch": local.micro_batch, "accumulation": local.accumulation}
    num_rows = local.micro_batch * local.accumulation
    part = make_rows([local.sequence_length] * num_rows, model.vocabulary)
    tasks = [
        ClientTask(client=k, client_id=str(k), seed=0, round_num=0, rows=part, row_numbers=tuple(range(num_rows)),
                   steps=plan_steps(0, 0, k, num_rows=num_rows, **how), state={})
        for k in range(together(config))
    ]  # fmt: skip
    params = initial_adapter(model.layers, config.lora.rank, 0)
    list(in_process(model, FedAvg(), config)({"params": params}, [tasks], local))
    return [*peaks, taken(), peak_bytes()]


def together(config: RunConfig) -> int:
    """Clients whose rows all have the full length, in one block."""
    return clients_of_length(config.local, config.local.sequence_length, DEFAULT)


def as_row(config: RunConfig, found: Sequence[int], needed: ProcessEstimate) -> str:
    local, tokens = config.local, config.evaluation.batch_tokens
    rows = local.micro_batch * local.accumulation
    passes = f"{together(config)} x {rows} rows of {local.sequence_length}"
    cells = [
        Path(config.model.name).name,
        f"{config.model.dtype}, batches of {tokens}, {passes}",
        *map(size, found),
        process_in_words(needed),
        f"{needed.total / found[-1]:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def run(args: argparse.Namespace) -> None:
    config = presets.load("aya", "local", "small", args.overrides, model=args.model)
    found = measured(config)
    needed = estimate_process(config, model_settings(config))
    sys.stdout.write(f"{HEAD}\n{as_row(config, found, needed)}\n")


def main() -> int:
    variables = variables_of_a_restart(training=True)
    if variables is not None:
        os.execve(sys.executable, [sys.executable, *sys.argv], variables)
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a base: a name, a folder or an id of the hub")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    try:
        prepare()
        run(parser.parse_args())
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
