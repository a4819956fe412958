"""The stages of a cell: base scores, training, scores, the local baseline, report.

Each stage writes files into the run's folder, whole or not at all, and is skipped when they are there.
So a killed run goes on where it stopped. Wall times are kept on disk, so that a resumed run counts all its sessions.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from fedllm_bench.common import files, interrupts, provenance
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.bases.terms import texts_to_carry
from fedllm_bench.config.plugins import keep_sources
from fedllm_bench.methods.base import Server, trains_alone
from fedllm_bench.pipeline.beside import Baseline, baseline_of, plan_of
from fedllm_bench.pipeline.clock import Clock
from fedllm_bench.pipeline.offsite_stage import EmulatorScores, emulator_after, emulator_before, preparing
from fedllm_bench.pipeline.pass_search import with_passes
from fedllm_bench.pipeline.plan import PLAN, read_plan, write_plan
from fedllm_bench.pipeline.spreading import spread
from fedllm_bench.pipeline.total_time import TotalTime
from fedllm_bench.results.privacy import warnings_of
from fedllm_bench.runs.canaries import record_of
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.client_rounds import watcher
from fedllm_bench.runs.folder import BASELINE, CANARIES, CONFIG, ENVIRONMENT, OUTPUTS, folder_name
from fedllm_bench.runs.loading import Bench, check_cell, load_bench
from fedllm_bench.runs.personalise import is_wanted, personalise
from fedllm_bench.runs.row_tokens import planted_in
from fedllm_bench.runs.score_files import Scores, has_scores, read_scores
from fedllm_bench.runs.scoring import (
    evaluate,
    own_scores,
    saved_scores,
    shared_scores,
)
from fedllm_bench.runs.serving import own_adapter, scores_under
from fedllm_bench.runs.validation import validation_of
from fedllm_bench.training import engines
from fedllm_bench.training.clock.keeping import keep_timeline, trained_by
from fedllm_bench.training.cluster.pool import close_pool
from fedllm_bench.training.model.adapter import as_wide_as, save_adapter
from fedllm_bench.training.model.full import save_model
from fedllm_bench.training.model.kinds.saving import save_kind
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

log = logging.getLogger(__name__)


def run_cell(cell: Cell, *, is_baseline: bool = False) -> dict[str, Any]:
    """Run what is left of the cell's stages and return its results (docs/results.md).

    `is_baseline`: it is run for another cell. Raises a :class:`UserError` when another process works on the folder;
    the baseline is waited for, since cells of other processes share it.
    """
    check_cell(cell)
    files.make_folder(cell.folder)
    try:
        with _alone_on(cell):
            return cell.finished() or _run_stages(_load(cell, is_baseline), is_baseline)
    finally:
        if not is_baseline:
            close_pool()


@contextmanager
def _alone_on(cell: Cell) -> Iterator[None]:
    """No other process works on the cell's folder inside the block."""
    lock = FileLock(cell.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if cell.config.method.name != BASELINE:
            raise UserError(
                f"{cell.folder}: another process is running this; wait for it, or change SEED or OUT"
            ) from error
        log.info("waiting for another process that runs the baseline `local` in %s", cell.folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load(cell: Cell, is_baseline: bool) -> Bench:
    """The cell with everything loaded; one that cannot be loaded leaves no folder behind."""
    for part in cell.folder.rglob("*.part"):  # what a killed session was writing; nobody else holds the lock
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    plan = read_plan(cell.folder)  # one that cannot be read stays where it is
    try:
        plan = plan or write_plan(cell.folder, spread(plan_of(cell), cell.config))
        # with the threads of the first session: another number would round sums differently
        return with_passes(load_bench(cell.with_threads(plan.threads), is_baseline=is_baseline, is_run=True))
    except UserError:
        if {path.name for path in cell.folder.iterdir()} <= {".lock", PLAN}:
            shutil.rmtree(cell.folder)
        raise


def _run_stages(bench: Bench, is_baseline: bool) -> dict[str, Any]:
    folder = bench.cell.folder
    _describe(bench)
    clock = Clock(folder / "seconds.json")
    with ExitStack() as stack:
        baseline = None if trains_alone(bench.method) else stack.enter_context(baseline_of(bench.cell))
        if not is_baseline:  # else the run that needs it, and may be at work beside, scores the base
            with clock.stage("score the base"):
                score_base(bench)
        with clock.stage("align") if bench.model.student else nullcontext():
            on_emulator = emulator_before(bench)
        with clock.stage("train"):
            server = train(bench, baseline)
        with clock.stage("score the base"):
            before = score_base(bench)
        with clock.stage("score"):
            after = own_scores(bench, "after", lambda ledger: score_after(bench, server, ledger))
            tuned = emulator_after(bench, server, score_after)
        emulator = EmulatorScores(on_emulator, tuned) if on_emulator and tuned else None
        personal = None
        if is_wanted(bench):
            with clock.stage("personalise"), interrupts.deferred() as stop:
                personal = personalise(bench, server, stop)
        with clock.stage("local baseline"):
            local = score_local(bench, baseline) if baseline else None
        from fedllm_bench.pipeline.results_stage import RawSides, write_report  # load what a run in training needs not

        with clock.stage("report"):
            return write_report(bench, RawSides(before, after, local, personal, emulator), clock)


def _describe(bench: Bench) -> None:
    """What a run folder says of its origin; written once, so that a resumed run keeps its first plan."""
    cell, folder = bench.cell, bench.cell.folder
    if (folder / ENVIRONMENT).is_file():
        return
    files.write_json(folder / CONFIG, cell.config.to_dict())
    keep_sources(folder, [plugin.name for plugin in cell.config.plugins])
    if cell.config.data.canaries:
        files.write_json(folder / CANARIES, record_of(planted_in(cell), cell.split.rows("train")))
    data = {"split": cell.split.name, "split_hash": cell.split.hash, "base_hash": cell.base_hash}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    environment = provenance.environment(threads=cell.threads, gpus=gpus)
    files.write_json(folder / ENVIRONMENT, {**environment, "data": data})


def score_base(bench: Bench) -> Scores:
    """The base model's scores; they do not depend on method or seed, so runs share them through the cache."""

    def score(ledger: Ledger) -> Scores:
        return evaluate(bench, [(None, bench.items)], "base", ledger=ledger)

    folder = bench.cell.folder
    return saved_scores(folder, "before", bench.metrics, lambda: shared_scores(bench, "before", score))


def train(bench: Bench, baseline: Baseline | None) -> Server:
    """The rounds; leaves rounds.jsonl, checkpoint/ and the trained adapter."""
    config, cell = bench.config, bench.cell
    for line in warnings_of(bench.method, config, len(bench.clients)):
        log.warning(line)
    map_blocks = engines.ENGINES[config.engine](bench.model, bench.method, config)
    only = frozenset(bench.local_sample) if trains_alone(bench.method) else None
    keep_timeline(cell.folder, bench.timeline, bench.clients.ids)
    with interrupts.deferred() as stop:
        run = TrainingRun(
            config=config,
            method=bench.method,
            clients=bench.clients,
            map_blocks=map_blocks,
            folder=cell.folder,
            plan=bench.model.plan,
            timeline=bench.timeline,
            only=only,
            stop=stop,
            validation=validation_of(bench, stop),
            **preparing(bench, stop),
            watch=TotalTime(bench, watcher(bench, stop), Clock(cell.folder / "seconds.json").seconds, baseline),
        )
        server = run_rounds(run, bench.initial)
        stop.check()  # for a signal in the last block
    for name, tree in final_adapters(bench, server):
        if not (cell.folder / name).is_dir():
            _save(bench, cell.folder / name, tree)
    return server


def _save(bench: Bench, folder: Path, tree: Tree) -> None:
    """What was trained: an adapter, or a whole model; with the licence and notices of its base."""
    config, base = bench.config, bench.cell.model_folder
    texts = texts_to_carry(config.model.name, base)
    if config.model.trainable == "full":
        save_model(folder, bench.model, tree, base, bench.settings.template, texts)
    elif not config.adapter.is_lora:
        save_kind(folder, tree, config.adapter, bench.model, str(base), texts=texts)
    else:
        lora = as_wide_as(tree, config.lora)
        lora = replace(lora, targets=bench.model.targets) if config.offsite.is_on else lora
        save_adapter(folder, tree, lora, str(base), transposed=bench.model.transposed, texts=texts)


def final_adapters(bench: Bench, server: Server) -> Iterator[tuple[str, Tree]]:
    """Folder name and adapter: the global one but under `local`; where clients have their own, those of the sample."""
    kind, ids = OUTPUTS[bench.config.model.trainable], bench.clients.ids
    if not trains_alone(bench.method):
        yield kind, bench.method.adapter(server)
    if bench.method.personal:
        trained = trained_by(bench.timeline, bench.config, bench.clients, server.round)
        for k in (client for client in bench.local_sample if client in trained):
            yield f"{kind}s/{folder_name(ids[k], k)}", own_adapter(bench, server, k)


def score_after(bench: Bench, server: Server, ledger: Ledger) -> Scores:
    """Scores under what was trained."""
    return scores_under(bench, server, bench.config.method.name, bench.local_sample, ledger=ledger)


def score_local(bench: Bench, baseline: Baseline) -> Scores:
    """The scores of clients who trained alone: a run of its own, which all methods of a seed share."""
    cell = baseline.cell
    baseline.wait(lambda: has_scores(cell.folder, "after", bench.metrics))  # its report is made while ours is
    if not baseline.is_beside and cell.finished() is None:
        log.info("the baseline `local` (in %s)", cell.folder)
        run_cell(cell, is_baseline=True)
    return read_scores(cell.folder, "after", bench.metrics)
