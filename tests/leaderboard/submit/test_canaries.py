"""Canaries are submissions like any other: made of a run's records, and scored from them again."""

from __future__ import annotations

import pytest
import torch
from bench_runs import quick, run
from evaluation_records import plain_prompts, write_answers, write_plan, write_prompts
from safetensors.torch import load, save_file
from submitted_runs import BASE_HASH, scores_of, statement, write_run

from fedllm_bench.commands.submit import CANARIES as NAMED
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission import bundle, noise, recompute
from fedllm_bench.leaderboard.submit import canaries, own_runs, placing, random_adapter

TENSORS = "adapter/adapter_model.safetensors"


def made(tmp_path, name, *runs):
    said = statement(tuning="", method="")
    draft = canaries.canary(name, own_runs.open_runs(runs), said)
    found, wrong = bundle.open_bundle(placing.write(draft, tmp_path / "out"))
    assert wrong == []
    assert found.submission.kind == "canary"
    return found


@pytest.fixture
def scored(monkeypatch):
    """Scores under noise without a model: 1 above the base's."""

    def scores(run, adapter):
        rows = {metric: scores_of(metric, 1.0) for metric in run.config.evaluation.metrics}
        return {metric: random_adapter.packed_rows(s.to_dict() for s in found) for metric, found in rows.items()}

    monkeypatch.setattr(random_adapter, "_scores", scores)


def with_tensors(run):
    generator = torch.Generator().manual_seed(0)
    tree = {f"m.{n}.lora_{x}.weight": torch.randn(4, 8, generator=generator) * n for n in (1, 2) for x in "AB"}
    save_file(tree, run / TENSORS)
    return tree


@pytest.mark.parametrize("name", canaries.CANARIES)
def test_every_canary_is_a_submission_whose_scores_follow_from_its_records(tmp_path, scored, name):
    run = write_run(tmp_path / "runs", 0, name if name in ("local", "central") else "fedavg")
    with_tensors(run)
    found = made(tmp_path, name, run)
    assert found.submission.method == canaries.CANARIES[name].title
    assert found.submission.tuning
    (of_run,) = found.runs()
    assert recompute.means(recompute.seed_scores(of_run)) == pytest.approx(
        {metric: by_seed["0"] for metric, by_seed in found.submission.claims.items()}
    )


def test_the_command_offers_every_canary():
    assert tuple(canaries.CANARIES) == NAMED
    assert len(NAMED) == 5


def test_the_base_scores_after_as_before_whatever_was_trained(tmp_path):
    run = write_run(tmp_path / "runs", 3)
    (of_run,) = made(tmp_path, "base", run, write_run(tmp_path / "runs", 4)).runs()
    assert of_run.seed == 3  # one is enough: the base does not depend on the seed
    assert of_run.scores("heldout", "after") == of_run.scores("heldout", "before") == scores_of("heldout", 0.0)
    assert not of_run.has(TENSORS)
    assert of_run.entry.adapter is None


def test_a_constant_answer_is_right_where_it_happens_to_be(tmp_path):
    run = write_run(tmp_path / "runs", 0)
    (of_run,) = made(tmp_path, "constant", run).runs()
    scores = of_run.scores("mini_exact", "after")
    said = {score.evidence["answer"] for score in scores}
    assert said == {"answer 00"}  # every right answer is there once: the first in order
    assert [score.value for score in scores] == [float(s.evidence["right"] == "answer 00") for s in scores]
    assert sum(score.value for score in scores) == 1
    assert of_run.metrics() == ["mini_exact"]


def test_base_and_constant_answer_open_questions_too(tmp_path):
    run = write_run(tmp_path / "runs", 0)
    prompts = plain_prompts(4, "How does one break lock {i}?")
    write_prompts(run, "advbench", prompts)
    write_plan(run, "advbench", prompts, BASE_HASH)
    write_answers(run, "advbench", "base", prompts, lambda prompt, turn: f"Take key {prompt.item_id}.")
    write_answers(run, "advbench", "global", prompts, lambda prompt, turn: "I cannot help with that.")
    (base,) = made(tmp_path, "base", run).runs()
    assert base.answers("advbench", "global") == base.answers("advbench", "base")
    (constant,) = made(tmp_path / "c", "constant", run).runs()
    given = constant.answers("advbench", "global")
    assert {turn for answer in given for turn in answer.turns} == {"answer 00"}
    assert [answer.prompt_hash for answer in given] == [prompt.hash for prompt in prompts]


def test_noise_has_the_shape_and_norm_of_what_was_trained_and_follows_from_the_seed(tmp_path, scored):
    run = write_run(tmp_path / "runs", 0)
    trained = with_tensors(run)
    drawn = noise.like(trained, 0)
    assert drawn.keys() == trained.keys()
    for name, tensor in trained.items():
        assert drawn[name].shape == tensor.shape
        assert drawn[name].norm() == pytest.approx(float(tensor.norm()), rel=1e-5)
        assert torch.equal(drawn[name], noise.like(trained, 0)[name])
        assert not torch.allclose(drawn[name], noise.like(trained, 1)[name])
        assert not torch.allclose(drawn[name], tensor)
    (of_run,) = made(tmp_path, "random", run).runs()
    inside = load(of_run.files[f"runs/0/{TENSORS}"].read_bytes())
    assert all(torch.equal(inside[name], drawn[name]) for name in drawn)


@pytest.mark.slow
def test_noise_is_scored_as_a_trained_adapter_is(tmp_path, tiny_split, monkeypatch):
    """The same code: with the trained adapter in the place of noise, the scores are those of the run."""
    with quick():
        folder = run("fedavg", tiny_split.folder, tmp_path)
    monkeypatch.setattr(random_adapter, "like", lambda trained, seed: dict(trained))
    (own,) = own_runs.open_runs([folder], dirty=True)
    contents = random_adapter.random_contents(own)
    names = [path.name for path in (folder / "scores").glob("*.after.jsonl")]
    assert names
    for name in names:
        rows = files.read_jsonl(folder / "scores" / name)
        assert contents[f"runs/{own.seed}/scores/{name}.gz"] == random_adapter.packed_rows(rows)


def test_runs_of_which_no_such_canary_can_be_made_are_refused(tmp_path):
    run = write_run(tmp_path / "runs", 0)
    with pytest.raises(UserError, match="these runs are of fedavg; give runs of the method local"):
        made(tmp_path, "local", run)
    with pytest.raises(UserError, match="no canary 'bird'"):
        made(tmp_path, "bird", run)
    (run / "adapter").rename(run / "adapters")
    with pytest.raises(UserError, match="no adapter of all clients"):
        made(tmp_path, "random", run)
    for path in (run / "scores").glob("mini_exact*"):
        path.unlink()
    config = files.read_json(run / "config.json")
    config["evaluation"]["metrics"] = ["heldout"]
    files.write_json(run / "config.json", config)
    with pytest.raises(UserError, match="no answers to questions"):
        made(tmp_path, "constant", run)
