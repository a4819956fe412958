"""Whole runs of other kinds of adapters: what they leave, who answers from it, and what a board makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench_runs import assert_refused, quick, run
from kind_models import KINDS
from submissions import Forgery, codes, context, honest

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.answering.subjects import subject_of_run
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.runs.folder import RunFolder
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.model.kinds.loading import read_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


def settings(kind: str, *more: str) -> list[str]:
    given = [f"adapter.kind={kind}", *(["adapter.tokens=3"] if KINDS[kind].num_tokens else []), *more]
    return [word for setting in given for word in ("--set", setting)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_an_adapter_that_answers(kind, tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys):
    small = ("--model", str(tiny_folder), "--metrics", "heldout,mini_exact", *settings(kind))
    folder = run("fedavg", tiny_split.folder, tmp_path, *small)
    results, server = files.read_json(folder / "results.json"), load_server(folder / "checkpoint")
    assert server is not None
    sent = 4 * sum(tensor.numel() for tensor in server.params.values())
    assert [r["bytes_up"] for r in files.read_jsonl(folder / "rounds.jsonl")] == [3 * sent, 3 * sent]
    assert results["run"]["base"].endswith(RunFolder(folder).config.adapter.in_words)
    assert subject_of_run(folder, None).adapter.kind == KINDS[kind].written.kind
    written = read_tensors(folder / "adapter")
    if kind != "p_tuning":
        assert all(torch.equal(written[name], server.params[name]) for name in server.params)
    assert cli.main(["answer", str(folder), "--metrics", "mini"]) == 0
    assert {"base.jsonl", "global.jsonl"} <= {path.name for path in (folder / "answers" / "mini").iterdir()}
    capsys.readouterr()
    merge = ["merge", str(folder), "--out", str(tmp_path / "merged")]
    if kind == "ia3":
        assert cli.main(merge) == 0
    else:
        assert_refused(merge, tmp_path / "merged", capsys, "cannot be merged")


@pytest.mark.parametrize("method", ["ditto", "local", "fedem"])
def test_clients_with_prompts_of_their_own_are_scored_under_them(method, tiny_split: Split, tiny_folder, tmp_path):
    small = ("--model", str(tiny_folder), "--metrics", "heldout", *settings("prefix"))
    folder = run(method, tiny_split.folder, tmp_path, *small)
    own = sorted((folder / "adapters").iterdir())
    assert len(own) == 2
    assert all(read_tensors(path)["prompt_embeddings"].shape == (3, 2 * 2 * 32) for path in own)


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_recomputes_the_bytes_of_a_kind(kind, tiny_split: Split, tmp_path: Path):
    slower = ("local.lr=1e-3",) if kind == "p_tuning" else ()  # its network diverges where LoRA does not
    folder = honest(tiny_split, tmp_path, *settings(kind, *slower), answers=False)
    report = validate.validate(folder, context(tiny_split))
    assert codes(report) == {"few-seeds"}, report.problems
    forgery = Forgery(Path(shutil.copytree(folder, tmp_path / "forged")))
    other = {"kind": "ia3", "tokens": None} if kind != "ia3" else {"kind": "prompt", "tokens": 7}
    forgery.json("runs/0/config.json", lambda config: config["adapter"].update(other))
    forgery.fix_claims()
    assert {"bytes", "adapter-file"} <= codes(validate.validate(forgery.folder, context(tiny_split)), "refused")
