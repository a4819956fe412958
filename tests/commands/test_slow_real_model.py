"""Profile small from the command line, on a real pretrained base: two rounds on users made here.

Killed in base scoring and in training it has the same bits. Plain PEFT, `merge`, `answer` and TRL take what it left.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import outcome, quick
from merged_models import IDS, cli_merge, logits
from real_base import LABEL, NAME, cache_with_base
from real_runs import run_counting, run_folder, users_split, words
from trl_steps import difference

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.evaluation.records import Answer, answers_file, read_records
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.model.lora_model import load_model

pytestmark = pytest.mark.slow
LOGITS = 1e-4  # relative L2 in float32: 30 layers whose sums are taken in another order (1.4e-5 was measured)


@dataclass(frozen=True)
class Done:
    split: Path
    out: Path
    cache: Path
    shown: str
    seen: str  # what was scored (s) and trained (t), in this order

    @property
    def folder(self) -> Path:
        return run_folder(self.out)


@pytest.fixture(scope="module")
def undisturbed(real_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("real")
    split, cache = users_split(place), cache_with_base(place / "cache", real_cache)
    code, shown = run_counting(words(split, place / "runs"), cache, place / "seen")
    assert code == 0, shown
    return Done(split, place / "runs", cache, shown, (place / "seen").read_text())


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture
def _its_cache(undisturbed: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(undisturbed.cache))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative L2."""
    return float((a - b).norm() / b.norm())


def but_for_places(folder: Path) -> dict[str, Any]:
    """The outcome of a run without what says where its base lies: the caches of these runs are folders of their own."""
    found = outcome(folder)
    (name,) = (name for name in found["files"] if name.endswith("adapter_config.json") and name.startswith("adapter/"))
    settings = files.read_json(folder / name)
    assert Path(settings.pop("base_model_name_or_path")).name.startswith(NAME)
    found["files"][name] = settings
    return found


def adapter_of(folder: Path) -> Tree:
    server = load_server(folder / "checkpoint")
    assert server is not None
    return server.params


def test_two_rounds_end_with_a_table_that_names_the_base(undisturbed: Done):
    results = files.read_json(undisturbed.folder / "results.json")
    heldout = results["metrics"]["heldout"]
    assert heldout["before"]["n_scored"] == heldout["after"]["n_scored"] == 12
    assert 1 < heldout["before"]["mean"] < 10
    assert 0 < heldout["after"]["mean"] < heldout["before"]["mean"] - 1
    assert LABEL in undisturbed.shown
    assert "embedded" not in undisturbed.shown
    config = files.read_json(undisturbed.folder / "config.json")
    assert (config["model"]["name"], config["profile"], config["track"]) == (NAME, "small", "small")
    rounds = files.read_jsonl(undisturbed.folder / "rounds.jsonl")
    assert len(rounds) == 2
    assert (
        undisturbed.seen.count("t") == 2 * 2 * 2 + 2
    )  # two rounds, two clients, two steps; one visit of a local client


def test_killed_in_base_scoring_and_in_training_it_ends_with_the_same_bits(
    undisturbed: Done, real_cache: Path, tmp_path: Path
):
    cache, seen = cache_with_base(tmp_path / "cache", real_cache), tmp_path / "seen"
    command = words(undisturbed.split, tmp_path / "runs")
    kills = (("s", 3), ("t", 5))  # in the fourth batch of the base's scores; in the first step of round two
    for letter, most in kills:
        code, shown = run_counting(command, cache, seen, letter, most)
        assert code == -signal.SIGKILL, shown
    first = seen.read_text()
    assert first.startswith("sss")
    assert first.count("t") == 5
    code, shown = run_counting(command, cache, seen)
    assert code == 0, shown
    assert but_for_places(run_folder(tmp_path / "runs")) == but_for_places(undisturbed.folder)
    assert not list((tmp_path / "runs").rglob("*.part"))
    # what was scored is kept but for the batch in which it was killed; what was trained, up to the client
    assert seen.read_text().count("s") <= undisturbed.seen.count("s") + 1
    assert seen.read_text().count("t") <= undisturbed.seen.count("t") + 2


def test_plain_peft_and_the_merged_model_have_the_logits_of_the_run(undisturbed: Done, real_base: Path, tmp_path: Path):
    model = load_model(
        Model(name=str(real_base), dtype="float32"), Lora(rank=4, alpha=8, dropout=0.0, targets=("all-linear",))
    )
    with model.using(adapter_of(undisturbed.folder)):
        ours = model.base(input_ids=IDS).logits
    del model
    assert apart(logits(real_base, undisturbed.folder / "adapter"), ours) < LOGITS
    assert apart(logits(real_base), ours) > 100 * LOGITS  # the adapter does something
    cli_merge(undisturbed.folder, tmp_path / "merged")
    assert apart(logits(tmp_path / "merged"), ours) < LOGITS


@pytest.mark.usefixtures("_its_cache")
def test_it_answers_with_and_without_the_adapter(undisturbed: Done, tmp_path: Path):
    few = ("--limit", "2", "--max-new-tokens", "6", "--threads", "1")
    assert cli.main(["answer", str(undisturbed.folder), "--metrics", "heldout_ref", *few, "--out", str(tmp_path)]) == 0
    said = [read_records(answers_file(tmp_path, "heldout_ref", side), Answer) for side in ("base", "global")]
    assert [len(answers) for answers in said] == [2, 2]
    assert all(answer.turns[0].strip() for answers in said for answer in answers)
    assert [answer.turns for answer in said[0]] != [answer.turns for answer in said[1]]


@pytest.mark.usefixtures("_its_cache")
def test_trl_trains_the_same_adapter(undisturbed: Done, tmp_path: Path):
    """What was learned is in B, which begins at zero. AdamW makes steps of rounding errors in its first steps."""
    out = tmp_path / "runs"
    local = ("--set", "evaluation.local_clients=1")
    assert cli.main(words(undisturbed.split, out, "--engine", "trl", *local)) == 0
    ours, theirs = adapter_of(undisturbed.folder), adapter_of(run_folder(out))
    learned = [{name: t for name, t in tree.items() if "lora_B" in name} for tree in (ours, theirs)]
    assert len(learned[0]) == 210
    assert difference(*learned) < 5e-3  # 1.1e-3 was measured
