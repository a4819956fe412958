"""How fast MT-Bench is answered: 80 questions of two turns on the embedded model, in batches and one prompt at a time.

  batched     what `fedllm-bench answer` does
  one by one  transformers' generate for one prompt after another, as the published code does

Both have the same model and adapter, and take turns, since a busy machine slows all alike. The published code keeps
the adapter beside the weights; `answer` adds it to those of a small model.
Greedy answers must be the same text before a ratio is shown. The embedded model soon ends its answers; with
--new-tokens N every answer has N tokens, whatever the model says, as a model of useful size would go on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common import files, provenance
from fedllm_bench.common.hardware import num_threads
from fedllm_bench.common.process import prepare
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config import presets
from fedllm_bench.data.chat import template_text
from fedllm_bench.evaluation.answering.budget import batch_tokens
from fedllm_bench.evaluation.answering.encoding import ChatTemplate, Encode, encoder
from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Key
from fedllm_bench.evaluation.answering.merged_adapter import answering_with
from fedllm_bench.evaluation.answering.model_answers import ModelAnswerer, conversation
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, Overrides, PromptContext, make_prompts
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.metrics.running import end_tokens
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

EPILOG = """examples:
  python benchmarks/perf/answers.py --threads 1 --new-tokens 64 --repeats 3
  python benchmarks/perf/answers.py --threads 1 --questions 20        (answers end where the model ends them)
"""
NO_END = frozenset({2**31 - 1})  # no token has this id
HEAD = """| answers | turns | new tokens | one by one, tokens/s | batched | ratio | of CPU time | greedy equal |
|---|---|---|---|---|---|---|---|
"""
Turns = dict[Key, AnsweredTurn]


@dataclass(frozen=True)
class Work:
    model: LoraModel
    encode: Encode
    prompts: Sequence[Prompt]
    stop_ids: frozenset[int]
    budget: int
    adapter: Tree


def make_work(questions: int, new_tokens: int | None) -> Work:
    config = presets.load("aya", "fedavg", "mini", [])
    model = load_model(config.model, config.lora)
    prompts = make_prompts(BENCHMARKS["mt_bench"], PromptContext(), Overrides(max_new_tokens=new_tokens))
    stride = max(1, len(prompts) // questions)
    stop_ids = end_tokens(model) if new_tokens is None else NO_END
    encode = encoder(ChatTemplate("mini", template_text("mini")), model.tokenizer)
    stream = torch.Generator().manual_seed(1)
    start = initial_adapter(model.layers, config.lora.rank, seed=0)
    adapter = tmap(lambda t: t + 0.02 * torch.randn(t.shape, generator=stream), start)
    return Work(model, encode, prompts[::stride][:questions], stop_ids, batch_tokens(model), adapter)


def batched(work: Work) -> Turns:
    answerer = ModelAnswerer(
        model=work.model,
        encode=work.encode,
        benchmark="mt_bench",
        seed=0,
        batch_tokens=work.budget,
        stop_ids=work.stop_ids,
    )
    with answering_with(work.model, work.adapter):
        return {turn.key: turn for some in answerer(work.prompts, {}) for turn in some}


def one_by_one(work: Work) -> Turns:
    with work.model.using(work.adapter):
        return _one_by_one(work)


def _one_by_one(work: Work) -> Turns:
    turns: Turns = {}
    for prompt in work.prompts:
        for number in range(len(prompt.turns)):
            ids = work.encode(conversation(prompt, turns, number))
            made = _generate(work, ids, prompt)
            text = work.model.tokenizer.decode(made, skip_special_tokens=True).strip()
            turns[prompt.item_id, number] = AnsweredTurn(
                item_id=prompt.item_id, prompt_hash="", turn=number, text=text, tokens=len(made), finish="stop"
            )
    return turns


def _generate(work: Work, ids: list[int], prompt: Prompt) -> list[int]:
    room = work.model.base.config.max_position_embeddings - len(ids)
    how = {"do_sample": True, "temperature": prompt.temperature} if prompt.temperature else {"do_sample": False}
    out = work.model.base.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=min(prompt.max_new_tokens, room),
        pad_token_id=work.model.tokenizer.pad_token_id,
        eos_token_id=sorted(work.stop_ids),
        **how,
    )
    made: list[int] = out[0, len(ids) :].tolist()
    return made


def check_equal(work: Work, ours: Turns, theirs: Turns) -> int:
    """The number of greedy turns; all must have the same text."""
    greedy = [(p.item_id, n) for p in work.prompts if not p.temperature for n in range(len(p.turns))]
    other = [key for key in greedy if ours[key].text != theirs[key].text]
    if other:
        raise SystemExit(f"{len(other)} of {len(greedy)} greedy turns differ, as {other[0]}: no ratio is shown")
    return len(greedy)


def timed(run: Callable[[Work], Turns], work: Work) -> tuple[Turns, float, float]:
    """The turns, with wall and processor seconds per new token."""
    wall, cpu = time.perf_counter(), time.process_time()
    turns = run(work)
    tokens = sum(turn.tokens for turn in turns.values())
    return turns, (time.perf_counter() - wall) / tokens, (time.process_time() - cpu) / tokens


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Seconds per token of both, taking turns; the first session is for warming up where there are several."""
    rows = []
    for _ in range(repeats):
        ours, our_wall, our_cpu = timed(batched, work)
        theirs, their_wall, their_cpu = timed(one_by_one, work)
        greedy = check_equal(work, ours, theirs)
        rows.append((our_wall, their_wall, our_cpu, their_cpu))
    median = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [(row[1] / row[0], row[3] / row[2]) for row in rows]
    return {
        "turns": len(ours),
        "greedy_turns_equal": greedy,
        "new_tokens": sum(turn.tokens for turn in ours.values()),
        "tokens_per_second": [1 / median[0], 1 / median[1]],
        "ratio": statistics.median(ratio for ratio, _ in ratios),
        "ratio_of_processor_time": statistics.median(ratio for _, ratio in ratios),
    }


def row_of(found: dict[str, Any], what: str) -> str:
    ours, theirs = found["tokens_per_second"]
    return (
        f"| {what} | {found['turns']} | {found['new_tokens']:,} | {theirs:,.0f} | {ours:,.0f} | {found['ratio']:.1f} | "
        f"{found['ratio_of_processor_time']:.1f} | {found['greedy_turns_equal']} of {found['greedy_turns_equal']} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=80, help="of MT-Bench, evenly over its categories (80)")
    parser.add_argument("--new-tokens", type=int, help="of every answer (default: until the model ends it)")
    parser.add_argument("--threads", type=int, default=num_threads(), help="cores (all, or OMP_NUM_THREADS)")
    parser.add_argument("--repeats", type=int, default=3, help="how often both take their turn (3)")
    parser.add_argument("--json", help="a file for the numbers")
    args = parser.parse_args(argv)
    prepare()
    torch.set_num_threads(args.threads)
    work = make_work(args.questions, args.new_tokens)
    batched(replace(work, prompts=work.prompts[:2]))  # what is loaded at first use is loaded
    found = measure(work, args.repeats)
    what = f"{args.new_tokens} new tokens a turn" if args.new_tokens else "until the model ends"
    sys.stdout.write(HEAD)
    sys.stdout.write(f"{row_of(found, what)}\n")
    if args.json:
        about = {**vars(args), "environment": provenance.environment(threads=args.threads)}
        files.write_text(Path(args.json), files.canonical_json({**found, **about}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
