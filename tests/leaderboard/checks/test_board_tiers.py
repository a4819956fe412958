"""What a maintainer makes again: samples, records, and what each tier finds that recomputing cannot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_runs import code_of, quick
from shipped import shipped_as
from submissions import SEEDS, Forgery, codes, context, rejudged

from fedllm_bench.common import files, hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.submission import bundle, tiers
from fedllm_bench.leaderboard.tiers import bands, regenerating, rejudging, sample

NAME = ("--name", "A. Maintainer")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hardware, "num_threads", lambda: 1)
    with quick():
        yield


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Forgery:
    return Forgery(Path(shutil.copytree(honest, tmp_path / honest.name)))


def board(tier: str, folder: Path, *words: Any) -> int:
    return code_of(["board", tier, str(folder), *NAME, *map(str, words)])


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [files.read_json(path) for path in sorted((folder / "records").glob("*.json"))]


def tier_of(folder: Path, split: Split) -> str:
    return str(validate.validate(folder, context(split)).tier)


def test_a_sample_is_a_function_of_its_seed_and_has_no_fewer_than_ten():
    names = [f"item {n}" for n in range(500)]
    assert sample.ItemSample(seed=1, share=0.1).of(names) == sample.ItemSample(seed=1, share=0.1).of(reversed(names))
    assert sample.ItemSample(seed=1, share=0.1).of(names) != sample.ItemSample(seed=2, share=0.1).of(names)
    assert [len(sample.ItemSample(seed=1, share=share).of(names)) for share in (0.001, 0.1, 1.0)] == [10, 50, 500]
    assert len(sample.ItemSample(seed=1, share=0.1).of(names[:4])) == 4


def test_rejudging_an_honest_submission_lifts_it_until_it_changes(copy: Forgery, tiny_split: Split):
    split = ("--split", tiny_split.folder)
    assert board("rejudge", copy.folder, "--seed", 5, *split) == 0
    (record,) = records_of(copy.folder)
    assert (record["tier"], record["outcome"], record["seed"], record["name"]) == ("rejudged", "passed", 5, NAME[1])
    assert len(record["ids"]) >= 20  # at least ten of each side
    assert str(copy.folder.parent) not in str(record)
    assert tier_of(copy.folder, tiny_split) == "rejudged"
    assert board("rejudge", copy.folder, *split) == 0
    assert len(records_of(copy.folder)) == 2
    copy.set_head(lambda head: head.update(method="renamed"))
    assert tier_of(copy.folder, tiny_split) == "recomputed"


def test_a_refused_submission_is_not_rejudged(copy: Forgery, tiny_split: Split, capsys):
    copy.set_head(lambda head: head.update(track="mini-aya/none"))
    assert board("rejudge", copy.folder, "--split", tiny_split.folder) == 1
    assert "nothing was made again" in capsys.readouterr().out
    assert not (copy.folder / "records").exists()


def test_a_record_that_failed_or_of_another_content_lifts_nothing(copy: Forgery, tiny_split: Split):
    opened = bundle.open_bundle(copy.folder)[0]
    made = {"name": "A", "command": "c", "seed": 1, "ids": [], "details": {}}
    for problems, tier in (([], "regenerated"), (["one"], "recomputed"), ([], "regenerated"), (["one"], "recomputed")):
        tiers.write_record(copy.folder, tiers.new_record(opened, "regenerated", problems=problems, **made))
        assert tier_of(copy.folder, tiny_split) == tier  # the last one counts
    other = replace(tiers.new_record(opened, "retrained", problems=[], **made), digest="0" * 64)
    tiers.write_record(copy.folder, other)
    assert tier_of(copy.folder, tiny_split) == "recomputed"


@pytest.mark.parametrize(
    ("claimed", "again", "passes"),
    [
        ([5, 6, 7, 8, 9] * 4, [5, 6, 7, 8, 9] * 4, True),
        ([5, 6, 7, 8, 9] * 4, [6, 5, 8, 7, 9] * 4, True),  # noise both ways
        ([5, 6, 7, 8, 9] * 4, [8, 9, 9, 9, 9] * 4, True),  # worse than the judge gives
        ([9, 9, 9, 9, 10] * 4, [5, 6, 7, 8, 9] * 4, False),
        ([10] * 20, [9] * 20, False),
    ],
)
def test_claimed_ratings_may_differ_by_chance_and_not_be_better(claimed: list[int], again: list[int], passes: bool):
    pairs = [rejudging.Pair(str(n), float(a), float(b)) for n, (a, b) in enumerate(zip(claimed, again, strict=True))]
    assert (rejudging.compared(pairs, "here", is_rule=False) == []) == passes
    lower = rejudging.compared(pairs, "here", is_rule=False, higher_is_better=False)
    assert lower == [] or not all(a >= b for a, b in zip(claimed, again, strict=True))
    assert (rejudging.compared(pairs, "here", is_rule=True) == []) == (claimed == again)


def test_the_judge_of_a_submission_is_never_asked_where_it_says(copy: Forgery):
    """Its address and the name of its key are a stranger's: a judge that is not ours is refused."""
    with pytest.raises(ValueError, match=r"give its settings with --judge"):
        rejudging.own_judge("gpt-x-00000000")


def test_regenerating_an_honest_submission_lifts_it(copy: Forgery, tiny_split: Split):
    assert board("regenerate", copy.folder, "--split", tiny_split.folder, "--share", "0.2") == 0
    (record,) = records_of(copy.folder)
    assert (record["tier"], record["outcome"]) == ("regenerated", "passed")
    assert {"seed 0, heldout.after", "seed 0, heldout.before", "seed 0, answers to mini"} <= record["details"].keys()
    assert tier_of(copy.folder, tiny_split) == "regenerated"


def lowered(lines: list[Any]) -> None:
    for line in lines:
        line["value"] *= 0.9


def made_up_losses(forgery: Forgery) -> None:
    forgery.set_lines("runs/0/scores/heldout.after.jsonl.gz", lowered)


def answers_written_by_hand(forgery: Forgery) -> None:
    right = {line["item_id"]: line["references"] for line in forgery.lines("runs/0/answers/mini/prompts.jsonl.gz")}

    def change(lines: list[Any]) -> None:
        for line in lines:
            line["turns"] = right[line["item_id"]]

    forgery.set_lines("runs/0/answers/mini/global.jsonl.gz", change)
    rejudged(forgery)


@pytest.mark.parametrize("forge", [made_up_losses, answers_written_by_hand])
def test_regenerating_finds_what_recomputing_cannot(forge: Any, copy: Forgery, tiny_split: Split):
    forge(copy)
    copy.fix_claims()
    assert tier_of(copy.folder, tiny_split) == "recomputed"
    assert board("regenerate", copy.folder, "--split", tiny_split.folder) == 1
    (record,) = records_of(copy.folder)
    assert record["outcome"] == "failed"
    assert record["details"]["problems"]
    assert tier_of(copy.folder, tiny_split) == "recomputed"


@pytest.mark.parametrize("tier", ["regenerate", "retrain"])
@pytest.mark.slow
def test_what_no_run_made_cannot_be_made_again(tier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shipped = shipped_as("base-model")
    folder = shutil.copytree(shipped, tmp_path / shipped.name)
    assert board(tier, folder) == 2
    assert "runs/0 has no config: no run of this suite made it" in capsys.readouterr().err
    assert not (folder / "records").exists()


@pytest.mark.slow
def test_where_all_weights_were_trained_only_the_training_is_made_again(three_seeds: Path):
    """Else the two commands would each send people to the other."""
    run = bundle.open_bundle(three_seeds)[0].runs()[0]
    config = run.config()
    full = replace(config, model=replace(config.model, trainable="full"))
    of_full = SimpleNamespace(seed=0, has=lambda name: True, config=lambda: full)
    with pytest.raises(UserError, match="use `board retrain`"):
        regenerating._check_trained(of_full)
    assert regenerating._config(full, regenerating.Own()).model.trainable == "full"


def test_a_band_is_of_one_cell_under_five_seeds(three_seeds: Path):
    runs = [next((three_seeds.parents[1] / "runs" / str(seed) / "mini-aya" / "fedavg").glob("s*")) for seed in SEEDS]
    with pytest.raises(ValueError, match="at least 5 seeds"):
        bands.band_of(runs)


def test_a_claim_may_be_better_than_the_training_made_again_by_what_seeds_differ_by():
    spread = bands.Spread(mean=1.0, sd=0.1, higher_is_better=False)
    up = bands.Spread(mean=0.5, sd=0.1, higher_is_better=True)
    of = {"version": 1, "seeds": [0, 1, 2, 3, 4], "split_hash": "", "base_hash": "", "config": {}}
    band = bands.Band(**of, metrics={"l": spread, "a": up})
    assert band.width("l") == pytest.approx(3.7469 * 0.1 * 2**0.5, rel=1e-4)  # t of 4 degrees of freedom at 99%
    assert bands.too_good(band, {"l": 0.6, "a": 0.9}, {"l": 1.0, "a": 0.5}) == []
    assert len(bands.too_good(band, {"l": 0.4, "a": 1.1}, {"l": 1.0, "a": 0.5})) == 2
    assert bands.too_good(band, {"l": 9.0, "a": 0.0}, {"l": 1.0, "a": 0.5}) == []  # worse is no problem of honesty


@pytest.mark.slow
def test_retraining_an_honest_submission_lifts_it(three_seeds: Path, tiny_split: Split, tmp_path: Path):
    """The band is of the same runs, with the spread of five invented seeds."""
    folder = Path(shutil.copytree(three_seeds, tmp_path / "mine"))
    runs = three_seeds.parents[1] / "runs"
    ours = next((runs / "0" / "mini-aya" / "fedavg").glob("s*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "FEWEST", 3)
        band = bands.band_of([next((runs / str(seed) / "mini-aya" / "fedavg").glob("s*")) for seed in SEEDS])
    assert ours.is_dir()
    bands.write_band(tmp_path / "band.json", band)
    words = ("--band", tmp_path / "band.json", "--split", tiny_split.folder, "--out", tmp_path / "again")
    assert board("retrain", folder, *words) == 0
    (record,) = records_of(folder)
    assert (record["tier"], record["outcome"]) == ("retrained", "passed")
    found = codes(validate.validate(folder, context(tiny_split)))
    assert found == {"tier-record"}  # whoever submits can write one, so it is looked at
    assert tier_of(folder, tiny_split) == "retrained"
