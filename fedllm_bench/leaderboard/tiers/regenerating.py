"""The tier `regenerated`: held-out scores and answers of a random part of the items, made again from the adapter.

Nothing of a submission is run: its config is data, its adapter is safetensors, and the base is the maintainer's own
copy with the hash that the submission names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_file
from fedllm_bench.common.trees import Tree
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.config.run import RunConfig
from fedllm_bench.evaluation.answering.answer_run import AnswerRequest, answer_locally
from fedllm_bench.evaluation.answering.subjects import AnswerSide, Subject, read_adapter
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, Overrides
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.leaderboard.tiers.sample import ItemSample, Made
from fedllm_bench.methods.registry import method_class
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import Bench, load_bench
from fedllm_bench.runs.score_files import Scores
from fedllm_bench.runs.scoring import evaluate
from fedllm_bench.scores.score import Score

CLOSE = 0.02  # of a value: float32 sums of other batches differ by 1e-5, bfloat16 by up to 1e-2
MOST_FAR = 0.02  # of the items, or one of them, whose greedy answers fall otherwise where two tokens are as likely
ALIKE = 0.9  # of the answers that must be the same, letter by letter


@dataclass(frozen=True, kw_only=True)
class Own:
    """What the maintainer gives: a base in place of the config's name, adapters by seed, threads."""

    model: str | None = None
    adapters: Mapping[int, Path] | None = None
    threads: int = 1


def regenerate(bundle: Bundle, context: CheckContext, sample: ItemSample, own: Own) -> Made:
    """Raises a :class:`UserError` where adapter, split or base are not at hand."""
    made = Made()
    with tempfile.TemporaryDirectory(prefix="fedllm-bench-") as scratch:
        for run in bundle.runs():
            _check_trained(run)
            adapter = _adapter(run, own, Path(scratch))
            if adapter is not None:
                made += _run(run, context, sample, own, adapter)
    if not made.ids:
        raise UserError(f"{bundle.folder}: no adapter is inside; fetch one and give --adapter SEED=FOLDER")
    return made


def _check_trained(run: RunFiles) -> None:
    config = config_of(run)
    if config.model.trainable != "adapter":
        raise UserError("all weights were trained: there is no adapter to make answers from; use `board retrain`")
    if has_own_adapters(config):
        raise UserError(f"under {config.method.name} each client is scored under an adapter of its own, and none of "
                        "them is in a submission; use `board retrain`")  # fmt: skip


def has_own_adapters(config: RunConfig) -> bool:
    """Whether clients are scored under adapters of their own; of a method of a plugin nobody knows here."""
    return config.plugin_of("METHODS", config.method.name) is None and method_class(config).personal


def _adapter(run: RunFiles, own: Own, scratch: Path) -> Path | None:
    """The folder of a run's adapter, with the stated tensors."""
    given = (own.adapters or {}).get(run.seed)
    stated = run.entry.adapter
    if given is not None:
        if stated is None or sha256_file(given / "adapter_model.safetensors") != stated.sha256:
            raise UserError(f"--adapter {run.seed}={given}: it is not the adapter that the submission states")
        return given
    if stated is None or not stated.inside:
        return None
    return run.unpacked(scratch / str(run.seed)) / "adapter"


def config_of(run: RunFiles) -> RunConfig:
    """Raises a :class:`UserError` for work done outside this suite, which has none."""
    if not run.has("config.json"):
        raise UserError(f"runs/{run.seed} has no config: no run of this suite made it, so nothing can be made again")
    return run.config()


def cell_of(run: RunFiles, context: CheckContext, own: Own, root: Path) -> Cell:
    """The run's cell on the maintainer's split and base, which have the hashes that it names."""
    config = _config(config_of(run), own)
    split = context.split_of(config, run.entry.split_hash)
    if split is None or split.hash != run.entry.split_hash:
        raise UserError(f"the split {run.entry.split_hash[:16]} is not at hand; give its folder with --split")
    cell = Cell(config=config, split=split, root=root, threads=own.threads)
    if cell.base_hash != run.entry.base_hash:
        raise UserError(f"the base model here has hash {cell.base_hash[:16]}, the run's is {run.entry.base_hash[:16]}; "
                        "give a folder with that one: --model DIR")  # fmt: skip
    return cell


def _config(config: RunConfig, own: Own) -> RunConfig:
    if config.model.adapter is not None:
        raise UserError("a starting adapter is part of this base; merge it and give the folder with --model")
    return replace(config, split=None, model=replace(config.model, name=own.model or config.model.name))


def _run(run: RunFiles, context: CheckContext, sample: ItemSample, own: Own, adapter: Path) -> Made:
    cell = cell_of(run, context, own, adapter.parent)
    cell = replace(cell, config=replace(cell.config, adapter=cell.config.adapter.written))  # as the file has it
    bench = load_bench(cell)
    tree = read_adapter(adapter, bench.model, cell.config.lora.rank)
    return _scores(run, bench, tree, sample) + _answers(run, bench, adapter, sample)


# --- scores of held-out items


def _scores(run: RunFiles, bench: Bench, tree: Tree, sample: ItemSample) -> Made:
    names = {f"{item.row.client_id}/{item.row.row_id}": item for item in bench.items}
    chosen = sample.of(names)
    items = [names[name] for name in chosen]
    made = Made(ids=[f"seed {run.seed}, item {name}" for name in chosen])
    for side, adapter in (("before", None), ("after", tree)):
        again = evaluate(bench, [(adapter, items)], f"seed {run.seed} {side}")
        made += _compared(run, side, again)
    return made


def _compared(run: RunFiles, side: str, again: Scores) -> Made:
    """Every metric of a side, item by item; of a run whose items are clients' own the sampled ones."""
    made = Made()
    for metric, scores in again.items():
        told = {(score.cluster, score.item_id): score for score in run.scores(metric, side)}
        far = [score for score in scores if not _is_close(score, told.get((score.cluster, score.item_id)))]
        where = f"seed {run.seed}, {metric}.{side}"
        problems = []
        if len(far) > max(1.0, MOST_FAR * len(scores)):
            first = f"{far[0].cluster}/{far[0].item_id}"
            problems = [f"{where}: {len(far)} of {len(scores)} scores come out otherwise, as {first}"]
        made += Made(problems=problems, details={where: {"compared": len(scores), "far": len(far)}})
    return made


def _is_close(score: Score, told: Score | None) -> bool:
    if told is None or score.value is None or told.value is None:
        return told is not None and score.value is None and told.value is None
    return abs(score.value - told.value) <= CLOSE * max(1.0, abs(told.value))


# --- open-ended answers


def _answers(run: RunFiles, bench: Bench, adapter: Path, sample: ItemSample) -> Made:
    made = Made()
    for benchmark in run.benchmarks():
        if GLOBAL in run.sides(benchmark) and benchmark in BENCHMARKS:
            made += _benchmark(run, bench, adapter, sample, benchmark)
    return made


def _benchmark(run: RunFiles, bench: Bench, adapter: Path, sample: ItemSample, benchmark: str) -> Made:
    told = {answer.item_id: answer for answer in run.answers(benchmark, GLOBAL)}
    chosen = set(sample.of(told))
    prompts = [prompt for prompt in run.prompts(benchmark) if prompt.item_id in chosen]
    plan = run.json(f"answers/{benchmark}/plan.json")
    with tempfile.TemporaryDirectory(prefix="fedllm-bench-") as folder:
        order = AnswerRequest(
            folder=Path(folder),
            asked=[(BENCHMARKS[benchmark], prompts)],
            overrides=Overrides(),
            seed=int(plan["seed"]),
            threads=torch.get_num_threads(),
        )
        (done,) = answer_locally(order, _subject(bench, adapter), torch.get_num_threads())
    same = [answer.item_id for answer in done.outcome.answers if answer.turns == told[answer.item_id].turns]
    where = f"seed {run.seed}, answers to {benchmark}"
    problems = []
    if len(same) < ALIKE * len(prompts):
        problems = [f"{where}: only {len(same)} of {len(prompts)} come out the same"]
    ids = [f"{where}, {prompt.item_id}" for prompt in prompts]
    return Made(ids=ids, problems=problems, details={where: {"compared": len(prompts), "same": len(same)}})


def _subject(bench: Bench, adapter: Path) -> Subject:
    config = bench.config
    return Subject(
        model=config.model,
        lora=config.lora,
        template=config.data.template,
        sides=(AnswerSide(GLOBAL, adapter),),
        base_hash=bench.cell.base_hash,
        adapter=config.adapter,
    )
