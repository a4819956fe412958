"""The canary `random`: an adapter of noise, scored by the code that scores trained ones."""

from __future__ import annotations

from safetensors.torch import load_file, save

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.leaderboard.submission.noise import like
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.packing import TENSORS, contents_of, packed_rows
from fedllm_bench.runs.cell import Cell, resolve_split
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.runs.scoring import evaluate


def random_contents(run: OwnRun) -> dict[str, bytes]:
    """The files of the canary: the base's scores, those under the noise, and the adapter itself.

    Raises a :class:`UserError` for a run without an adapter of all clients, and where its split is not at hand.
    """
    if run.adapter is None:
        raise UserError(f"RUN={run.path}: it has no adapter of all clients; give runs of fedavg")
    given = contents_of(run, with_adapter=True)
    kept = {name: given[name] for name in given if name.endswith((".before.jsonl.gz", "adapter_config.json"))}
    noise = like(load_file(run.adapter / TENSORS), run.seed)
    where = f"runs/{run.seed}"
    scores = {f"{where}/scores/{name}.after.jsonl.gz": rows for name, rows in _scores(run, noise).items()}
    return {**kept, **scores, f"{where}/adapter/{TENSORS}": save(noise, metadata={"format": "pt"})}


def _scores(run: OwnRun, adapter: Tree) -> dict[str, bytes]:
    """Metric -> packed scores of every held-out item under `adapter`, as the pipeline scores a trained one."""
    split = resolve_split(run.config)
    if split.hash != run.environment_value("data", "split_hash"):
        raise UserError(f"{split.folder} is not the split of {run.path} any more; restore it")
    threads = run.environment_value("threads") or 1
    bench = load_bench(Cell(run.config, split, run.path, threads))
    scores = evaluate(bench, [(adapter, bench.items)], "random adapter")
    return {name: packed_rows([score.to_dict() for score in found]) for name, found in scores.items()}
