"""Closed benchmarks in submissions: packed, scored again from the samples, and forged ones found."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from closed_records import choice, write_closed
from submissions import Forgery, codes, context
from submitted_runs import statement, write_run

from fedllm_bench.cli import main
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample
from fedllm_bench.evaluation.closed.tasks.mini_world import document_hash, questions
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.ranking.measures import measures_of
from fedllm_bench.leaderboard.submission import bundle, recompute
from fedllm_bench.leaderboard.submit import assemble, own_runs, placing, track_fit

NAME, RUN = "mini_closed_choice", "runs/0"
ASKED = f"{RUN}/closed/{NAME}"
PLAN = {
    "benchmark": {"name": NAME, "version": "1", "metric": "acc", "filter": "none", "shots": {"fedllm_mini_choice": 0}},
    "overrides": {"limit": None},
    "template": {"name": "mini", "hash": "0"},
    "sides": {"base": "", "global": "f"},
    "seed": 0,
}
Change = Callable[[Forgery], Any]


def samples(every: int) -> list[ClosedSample]:
    """Of the mini world's questions, all but each so many-th answered rightly."""
    return [_sample(number, row, number % every > 0) for number, row in enumerate(questions(0))]


def _sample(number: int, row: dict[str, Any], is_right: bool) -> ClosedSample:
    said = row["right"] if is_right else (row["right"] + 1) % 4
    likelihoods = [-1.0 if place == said else -2.0 for place in range(4)]
    return choice(number, likelihoods, row["right"], "fedllm_mini_choice", doc_hash=document_hash(row))


def add_samples(forgery: Forgery) -> None:
    """What `evaluate` leaves in the run, in the submission's form."""
    for side, every in (("base", 2), ("global", 5)):
        forgery.write(f"{ASKED}/{side}.jsonl.gz", b"")
        forgery.set_lines(f"{ASKED}/{side}.jsonl.gz", lambda _, every=every: [asdict(s) for s in samples(every)])
    (run,) = forgery.head["runs"]
    forgery.write(f"{ASKED}/plan.json", b"{}")
    forgery.json(f"{ASKED}/plan.json", lambda plan: plan.update(PLAN | {"model": {"base_hash": run["base_hash"]}}))
    forgery.fix_claims()


def plan(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda f: f.json(f"{ASKED}/plan.json", change)


def without_the_hard(f: Forgery) -> None:
    """On both sides, so that no side lacks what another was asked."""
    for side in ("base", "global"):
        f.set_lines(f"{ASKED}/{side}.jsonl.gz", lambda lines: [line for line in lines if line["values"]["acc"]])
        f.set_lines(f"{ASKED}/{side}.jsonl.gz", lambda lines: lines[:100])


def an_easier_answer(f: Forgery) -> None:
    """The first choice is likeliest and right, whatever the world says."""
    every(target="0", log_likelihoods=[-1.0, -2.0, -2.0, -2.0], values={"acc": 1.0})(f)


def every(side: str = "global", **values: Any) -> Change:
    return lambda f: f.set_lines(
        f"{ASKED}/{side}.jsonl.gz", lambda lines: [line.update(values) for line in lines] and None
    )


def drop(side: str) -> Change:
    return lambda f: (f.folder / f"{ASKED}/{side}.jsonl.gz").unlink()


FORGED: dict[str, tuple[Change, set[str]]] = {
    "lm-eval's values made right": (every(values={"acc": 1.0}), {"evidence"}),
    "log-likelihoods made others": (every(log_likelihoods=[-1.0, -2.0, -2.0, -2.0]), {"evidence"}),
    "the right answer made that of the model": (an_easier_answer, {"prompts"}),
    "other questions": (every(doc_hash="0" * 64), {"prompts"}),
    "hard items left out on both sides": (without_the_hard, {"prompts"}),
    "other shots": (plan(lambda p: p["benchmark"].update(shots={"fedllm_mini_choice": 5})), {"plan"}),
    "bare texts": (plan(lambda p: p["template"].update(name="none")), {"plan"}),
    "another version": (plan(lambda p: p["benchmark"].update(version="0")), {"plan"}),
    "another base": (plan(lambda p: p["model"].update(base_hash="1" * 64)), {"plan"}),
    "a plan that is none": (lambda f: f.write(f"{ASKED}/plan.json", b"[]"), {"record"}),
    "no plan": (lambda f: (f.folder / f"{ASKED}/plan.json").unlink(), {"file-required"}),
    "a hard item left out": (lambda f: f.set_lines(f"{ASKED}/global.jsonl.gz", lambda lines: lines[1:]), {"uncovered"}),
    "a hard item without an answer": (every(reason="lost"), {"uncovered"}),
    "other words to the trained model": (every(prompt_hash="x"), {"prompts"}),
    "a limit": (plan(lambda p: p["overrides"].update(limit=40)), {"plan"}),
    "rows of one's own": (plan(lambda p: p["overrides"].update(data="files")), {"plan"}),
    "the trained model not asked": (drop("global"), {"uncovered"}),
    "a key that no sample has": (every(extra=1), {"record"}),
    "a key twice": (
        lambda f: f.write(f"{ASKED}/global.jsonl.gz", gzip.compress(b'{"task": "a", "task": "b"}\n')),
        {"key-twice"},
    ),
    "a benchmark that nobody has": (
        lambda f: shutil.move(f.folder / ASKED, f.folder / f"{RUN}/closed/unheard_of"),
        {"prompts"},
    ),
}


@pytest.fixture
def forgery(honest: Path, tmp_path: Path) -> Forgery:
    found = Forgery(Path(shutil.copytree(honest, tmp_path / "copy")))
    add_samples(found)
    return found


def validated(forgery: Forgery, split: Split) -> Any:
    return validate.validate(forgery.folder, context(split))


def test_honest_samples_are_accepted_and_claimed(forgery: Forgery, tiny_split: Split):
    assert codes(validated(forgery, tiny_split)) == {"few-seeds"}
    assert forgery.head["claims"][NAME] == {"0": pytest.approx(0.8, abs=0.001)}


@pytest.mark.parametrize("name", FORGED)
def test_forged_samples_are_refused(name: str, forgery: Forgery, tiny_split: Split):
    change, expected = FORGED[name]
    change(forgery)
    try:
        forgery.fix_claims()
    except UserError:  # what cannot be scored has no claim to fix
        forgery.fix_hashes()
    report = validated(forgery, tiny_split)
    assert expected <= codes(report, "refused"), report.problems
    assert all("\n" not in problem.message for problem in report.problems)


def test_a_claim_beside_the_samples_is_refused(forgery: Forgery, tiny_split: Split):
    forgery.set_head(lambda head: head["claims"][NAME].update({"0": 0.9}))
    assert "claims" in codes(validated(forgery, tiny_split), "refused")


def test_a_run_with_samples_becomes_a_submission_and_a_column(tmp_path: Path):
    runs = [write_run(tmp_path / "runs", seed) for seed in range(3)]
    for run in runs:
        write_closed(run, NAME, PLAN, **{"base": samples(2), "global": samples(5)})
    made = assemble.draft(own_runs.open_runs(runs), statement())
    found, wrong = bundle.open_bundle(placing.write(made, tmp_path / "out"))
    assert wrong == []
    assert found.submission.claims[NAME] == {str(seed): pytest.approx(0.8, abs=0.001) for seed in range(3)}
    seeds = [recompute.seed_scores(run) for run in found.runs()]
    measure = measures_of(seeds, [NAME])[NAME]
    assert (measure.unit_of_n, measure.whole_only, measure.scale) == ("question", True, (0.0, 1.0))
    assert len(measure.seeds[0].clusters) == len(questions(0)) > 400
    assert seeds[0].metrics[NAME].before is not None


def test_a_track_that_ranks_a_closed_benchmark_says_how_to_be_asked(tmp_path: Path):
    from dataclasses import replace

    from fedllm_bench.leaderboard.submission.tracks import find_track

    (run,) = own_runs.open_runs([write_run(tmp_path, 0)])
    track = replace(find_track("mini-aya/fixed"), ranked=(NAME,))
    (line,) = track_fit._unanswered(track, run)
    assert line.endswith(f"seed 0 was not asked {NAME}; run `fedllm-bench evaluate {run.path} --metrics {NAME}`")


def test_validation_on_the_terminal_names_the_file(forgery: Forgery, tiny_split: Split, capsys):
    FORGED["lm-eval's values made right"][0](forgery)
    forgery.fix_hashes()
    assert main(["board", "validate", str(forgery.folder), "--split", str(tiny_split.folder)]) == 1
    assert f"closed/{NAME}/global.jsonl.gz" in capsys.readouterr().out
