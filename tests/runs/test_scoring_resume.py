"""Scoring that is cut off between two batches goes on there, and its scores are those of scoring that was not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_runs import TINY, quick
from benches import Killed, bench_loader, lines_of, run_of, trained

from fedllm_bench.common import files
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.pairs import tokenise_pairs
from fedllm_bench.methods.base import Server
from fedllm_bench.metrics import likelihood, running
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.pipeline import stages
from fedllm_bench.runs import reference, scoring
from fedllm_bench.runs.client_rounds import watcher
from fedllm_bench.runs.loading import Bench
from fedllm_bench.training.rounds import run_rounds

OF_TASK = {task: ",".join(name for name, metric in METRICS.items() if metric.task == task)
           for task in ("sft", "preference")}  # fmt: skip
SMALL = (*TINY, "federation.rounds=4", "evaluation.batch_tokens=400")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def bench_of(
    tiny_split: Split, pair_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Bench]:
    """bench_of("sft"): a loaded cell with all metrics of the task, in an empty folder."""
    of = {"sft": tiny_split, "preference": pair_split}

    def load(task: str, *settings: str, method: str = "fedavg") -> Bench:
        bench = bench_loader(of[task], tiny_folder, tmp_path_factory, SMALL)(method, *settings)
        return replace(bench, metrics=tuple(OF_TASK[task].split(",")))

    return load


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the batches that the model computes: [done, allowed]; a further one is a kill."""
    count = [0, 10**9]

    def counting(real: Any) -> Any:
        def batch(*args: Any) -> Any:
            if count[0] >= count[1]:
                raise Killed
            count[0] += 1
            return real(*args)

        return batch

    monkeypatch.setattr(likelihood, "counted_nll", counting(likelihood.counted_nll))
    monkeypatch.setattr(running, "_batch_answers", counting(running._batch_answers))
    return count


def after(bench: Bench, server: Server) -> bytes:
    """The score files of the trained side, as the stage writes them."""
    scoring.own_scores(bench, "after", lambda ledger: stages.score_after(bench, server, ledger))
    paths = sorted((bench.cell.folder / "scores").glob("*.after.jsonl"))
    assert len(paths) == len(bench.metrics)
    return b"".join(path.read_bytes() for path in paths)


@pytest.mark.parametrize(("task", "method"), [("sft", "fedavg"), ("preference", "fedavg"), ("sft", "local")])
def test_a_kill_between_any_two_batches_loses_none_and_changes_no_bit(task, method, bench_of, batches):
    bench = bench_of(task, method=method)
    server = trained(bench)
    batches[0] = 0  # loading pairs takes some for the reference
    whole = after(bench, server)
    total, ledger = batches[0], bench.cell.folder / "scores" / "after.batches"
    assert total >= 6
    for kill in {0, 1, total // 2, total - 1}:
        for path in (bench.cell.folder / "scores").glob("*.jsonl"):
            path.unlink()
        batches[:] = [0, kill]
        with pytest.raises(Killed):
            after(bench, server)
        assert ledger.is_file() == (kill > 0)
        if kill > 1:
            ledger.write_bytes(ledger.read_bytes() + b'["torn:1",[0.')
        batches[:] = [0, 10**9]
        assert after(bench, server) == whole
        assert batches[0] == total - kill
        assert not ledger.exists()


def test_batches_of_another_adapter_are_not_taken(bench_of, batches):
    bench = bench_of("sft")
    total_of = (after(bench, trained(bench)), batches[0])[1]
    first = bench_of("sft")
    batches[:] = [0, total_of // 2]
    with pytest.raises(Killed):
        after(first, trained(first))
    batches[:] = [0, 10**9]
    other = Server(first.initial, round=4)
    found = after(first, other)
    assert batches[0] == total_of
    assert found == after(bench_of("sft"), other)


def test_base_scores_go_on_in_the_cache_for_whoever_comes_next(bench_of, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "cache_root", lambda: tmp_path / "whole")
    expected = stages.score_base(bench_of("sft"))
    total, root = batches[0], tmp_path / "cache"
    monkeypatch.setattr(files, "cache_root", lambda: root)
    batches[:] = [0, 5]
    with pytest.raises(Killed):
        stages.score_base(bench_of("sft"))
    (ledger,) = (root / "base_scores").glob("*.batches")
    batches[:] = [0, 10**9]
    assert stages.score_base(bench_of("sft", "local.lr=1e-3")) == expected  # another run with the same base scores
    assert batches[0] == total - 5
    assert not ledger.exists()
    assert stages.score_base(bench_of("sft")) == expected
    assert batches[0] == total - 5
    assert [path.name for path in (root / "base_scores").iterdir()] == [ledger.stem]


def test_the_reference_of_dpo_goes_on_where_it_was(pair_split: Split, tiny_model, batches, tmp_path: Path):
    parts = tokenise_pairs(pair_split, tiny_model.tokenizer, template_text("mini"), 256, tmp_path)

    def made(cache: Path) -> bytes:
        found = reference.with_reference(parts, tiny_model, base_hash="x", batch_tokens=400, cache=cache)
        return b"".join(np.ascontiguousarray(part.reference).tobytes() for part in found.values())

    whole, total = made(tmp_path / "whole"), batches[0]
    batches[:] = [0, 3]
    with pytest.raises(Killed):
        made(tmp_path / "cut")
    batches[:] = [0, 10**9]
    assert made(tmp_path / "cut") == whole
    assert (batches[0], total >= 8) == (total - 3, True)
    assert not list((tmp_path / "cut").rglob("*.batches"))


def test_a_look_between_rounds_stops_within_a_batch_and_goes_on_there(bench_of, batches, monkeypatch):
    whole = bench_of("sft", "evaluation.every=2")
    run_rounds(run_of(whole), whole.initial)
    assert [line["round"] for line in lines_of(whole)] == [2]
    total, bench, stop = batches[0], bench_of("sft", "evaluation.every=2"), Stop()
    put = Ledger.put

    def signalled(self: Ledger, name: str, value: Any) -> None:
        put(self, name, value)
        stop.signum = 15

    run = replace(run_of(bench), stop=stop, watch=watcher(bench, stop))
    batches[:] = [0, 10**9]
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "put", signalled)
        with pytest.raises(Interrupted):
            run_rounds(run, bench.initial)
    assert (batches[0], lines_of(bench)) == (1, [])
    assert (bench.cell.folder / "clients.batches").is_file()
    run_rounds(run_of(bench), bench.initial)
    assert lines_of(bench) == lines_of(whole)
    assert batches[0] == total
    assert not (bench.cell.folder / "clients.batches").exists()
