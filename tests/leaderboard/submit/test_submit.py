"""Finished runs become a submission: deterministic, whole, without anything private; what cannot be one is refused."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from evaluation_records import plain_prompts, write_answers, write_judgements, write_plan, write_prompts
from submitted_runs import BASE_HASH, ROUNDS, SPLIT_HASH, environment, scores_of, statement, write_run

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.preset import load_judge
from fedllm_bench.evaluation.records import Judgement, judgements_file
from fedllm_bench.leaderboard.checks import identity
from fedllm_bench.leaderboard.submission import bundle
from fedllm_bench.leaderboard.submit import assemble as submit
from fedllm_bench.leaderboard.submit import own_runs, placing, preview
from fedllm_bench.leaderboard.submit import redaction as private


@pytest.fixture
def three(tmp_path):
    """The folder of a method with runs of three seeds."""
    for seed in range(3):
        run = write_run(tmp_path / "runs", seed)
    return run.parent


def draft(*paths, **more):
    return submit.draft(own_runs.open_runs(paths), statement(**more))


def test_three_seeds_give_a_submission_without_problems(tmp_path, three):
    made = draft(three)
    target = placing.write(made, tmp_path / "out")
    assert target.name == "2026-11-21_mini-aya-fixed-fedavg-example-lab"
    found, wrong = bundle.open_bundle(target)
    assert wrong == []
    assert found.digest == made.digest
    for run in found.runs():
        results = run.json("results.json")["metrics"]
        claimed = {metric: by_seed[str(run.seed)] for metric, by_seed in found.submission.claims.items()}
        assert {name: entry["after"]["mean"] for name, entry in results.items()} == pytest.approx(claimed, abs=1e-9)
        assert run.scores("heldout", "after") == scores_of("heldout", -0.5 + run.seed / 100)
        assert (run.entry.split_hash, run.entry.base_hash) == (SPLIT_HASH, BASE_HASH)
        assert run.config().seed == run.seed
        assert run.has("adapter/adapter_model.safetensors")
    assert found.submission.suite.commit == "c" * 40


def test_the_same_runs_and_words_give_the_same_bytes(three):
    folders = sorted(three.iterdir())
    assert draft(three).contents == draft(*reversed(folders)).contents
    assert draft(three).digest != draft(three, tuning="otherwise").digest


def test_packed_files_hold_no_time_and_no_name(three):
    made = draft(three)
    heads = {content[:9] for name, content in made.contents.items() if name.endswith(".gz")}
    assert heads == {b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02"}


def test_scores_of_the_baseline_go_along_where_they_are(tmp_path):
    run = write_run(tmp_path, 0)
    local = write_run(tmp_path, 0, "local", shift=-0.2)
    results, own = files.read_json(run / "results.json"), files.read_json(local / "results.json")
    for name, entry in results["metrics"].items():
        entry["local"] = own["metrics"][name]["after"]
    files.write_json(run / "results.json", results)
    made = draft(run)
    rows = made.contents["runs/0/scores/heldout.local.jsonl.gz"]
    assert gzip.decompress(rows) == (local / "scores/heldout.after.jsonl").read_bytes()
    shutil.rmtree(local)
    assert "runs/0/scores/heldout.local.jsonl.gz" not in draft(run).contents
    assert any("not beside RUN" in line for line in preview.lines(draft(run), own_runs.open_runs([run])))


# --- nothing private


def test_no_place_of_the_submitters_disk_becomes_public(tmp_path, monkeypatch):
    home = tmp_path / "home" / "someone"
    monkeypatch.setenv("HOME", str(home))
    run = write_run(home / "runs", 0, "fedavg", f"model.adapter={home}/start")
    config = files.read_json(run / "config.json")
    config["split"], config["model"]["name"] = f"{home}/splits/aya", f"{home}/models/llama"
    files.write_json(run / "config.json", config)
    results = files.read_json(run / "results.json")
    results["run"]["model"] = f"{home}/models/llama + {home}/start (4bit)"
    files.write_json(run / "results.json", results)
    made = draft(run, track="mini-aya/open")
    for name, content in made.contents.items():
        text = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"someone" not in text, name
    public = json.loads(made.contents["runs/0/config.json"])
    assert (public["split"], public["model"]["name"], public["model"]["adapter"]) == (None, "llama", "start")
    results = json.loads(gzip.decompress(made.contents["runs/0/results.json.gz"]))
    assert results["run"]["model"] == "llama + start (4bit)"
    assert json.loads(made.contents["runs/0/adapter/adapter_config.json"])["base_model_name_or_path"] == "base"


def test_a_place_inside_a_text_stops_the_submission(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    run = write_run(tmp_path / "runs", 0)
    files.write_json(run / "environment.json", environment(platform=f"Linux, started in {home}/x"))
    with pytest.raises(UserError, match="would become public"):
        draft(run)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("/home/x/models/llama/", "llama"),
        ("~/llama", "llama"),
        ("../llama", "llama"),
        ("C:\\Users\\x\\llama", "llama"),
        ("file:///home/x/key", "key"),
        ("https://api.example.org/v1", "https://api.example.org/v1"),
        ("http://localhost:8000/v1", ""),
        ("http://10.1.2.3:8000/v1", ""),
        ("https://gpu7.corp/v1", ""),
        ("https://user:key@api.example.org", ""),
        ("https://api.example.org/v1?key=secret", ""),
        ("user-000", "user-000"),
    ],
)
def test_places_become_their_last_part(text, public):
    assert private.without_places({"a": [text, 1, None]}) == {"a": [public, 1, None]}


# --- what is refused


def cut_rounds(run):
    rows = files.read_jsonl(run / "rounds.jsonl")
    files.write_jsonl(run / "rounds.jsonl", rows[:-1])


def edit(name, /, **more):
    def change(run):
        files.write_json(run / name, {**files.read_json(run / name), **more})

    return change


def better(run):
    rows = [{**row, "value": row["value"] - 0.1} for row in files.read_jsonl(run / "scores/heldout.after.jsonl")]
    files.write_jsonl(run / "scores/heldout.after.jsonl", rows)


REFUSED = {
    "no results": (lambda run: (run / "results.json").unlink(), "the run has not ended"),
    "a round short": (cut_rounds, f"{ROUNDS - 1} of {ROUNDS} rounds"),
    "no scores": (lambda run: (run / "scores/mini_exact.after.jsonl").unlink(), "there is no scores/mini_exact.after"),
    "no adapter": (lambda run: shutil.rmtree(run / "adapter"), "there is no adapter"),
    "half an adapter": (
        lambda run: (run / "adapter/adapter_model.safetensors").unlink(),
        "there is no adapter/adapter_m",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "is no run folder"),
    "no JSON": (lambda run: (run / "environment.json").write_text("{"), r"environment\.json is not JSON"),
    "results of before": (edit("results.json", schema_version=1), "of another version"),
    "a field nobody knows": (edit("config.json", luck=1), r"config\.json is not of this version .*luck"),
    "changed code": (edit("environment.json", dirty=True), "--allow-dirty"),
    "changed scores": (better, r"results\.json says heldout"),
    "no version": (edit("environment.json", fedllm_bench="local build"), r"suite\.version"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_that_cannot_be_believed_are_refused_in_one_line(tmp_path, name):
    change, match = REFUSED[name]
    run = write_run(tmp_path / "runs", 0)
    change(run)
    with pytest.raises(UserError, match=match) as caught:
        draft(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"track": "aya/fixed"}, "a mini run enters mini boards only: give --track mini-aya/fixed"),
        ({"track": "mini-wildchat/fixed"}, "another data set"),
        ({"track": "mini-aya/best"}, "no track 'mini-aya/best'"),
        ({"team": "Fed\u202eLab"}, "--team: .*202E"),
        ({"contact": "somebody"}, "--contact: .*shown publicly"),
        ({"url": "http://example.org"}, "--url: .*https"),
        ({"date": "tomorrow"}, "--date: "),
        ({"tuning": "x" * 3000}, "--tuning: "),
        ({"adapter_url": "s{seed}.safetensors"}, "--adapter-url: .*https"),
    ],
)
def test_what_is_said_is_checked_and_the_option_named(tmp_path, more, match):
    with pytest.raises(UserError, match=match):
        draft(write_run(tmp_path, 0), **more)


def test_a_real_run_is_refused_for_a_mini_board(tmp_path):
    run = write_run(tmp_path, 0)
    edit("config.json", profile="paper", track="paper", name="aya")(run)
    with pytest.raises(UserError, match="only mini runs enter a mini board"):
        draft(run, track="mini-aya/fixed")


def test_runs_are_one_cell_with_a_seed_each(tmp_path):
    one, other = write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 0)
    with pytest.raises(UserError, match="one seed, 0"):
        own_runs.open_runs([one, other])
    with pytest.raises(UserError, match=r"not one cell: local\.lr differ"):
        own_runs.open_runs([one, write_run(tmp_path / "c", 1, "fedavg", "local.lr=0.001")])
    with pytest.raises(UserError, match="method"):
        own_runs.open_runs([one, write_run(tmp_path / "d", 1, "scaffold")])
    moved = write_run(tmp_path / "e", 1)
    edit("environment.json", data={"split_hash": "6" * 64, "base_hash": BASE_HASH})(moved)
    with pytest.raises(UserError, match="the split differs"):
        own_runs.open_runs([one, moved])
    with pytest.raises(UserError, match="no such folder"):
        own_runs.open_runs([tmp_path / "none"])


def test_seeds_on_which_settings_are_chosen_are_never_reported(tmp_path):
    run, last = write_run(tmp_path, 100), write_run(tmp_path, 99)
    with pytest.raises(UserError, match=r"settings are chosen on seeds from 100 on.*run again with seeds below 100"):
        own_runs.open_runs([last, run])
    assert own_runs.open_runs([last])[0].seed == 99
    config = own_runs.OwnRun(run).config
    runs = [SimpleNamespace(config=config, seed=100, where="runs/100", method=None)]
    (problem,) = identity.configs(SimpleNamespace(is_of_suite=True, runs=runs), None)
    assert (problem.code, problem.level) == ("seed", "refused")


def test_what_a_track_fixes_is_said_before_anything_is_written(tmp_path):
    run = write_run(tmp_path, 0, "fedavg", "lora.rank=4")
    with pytest.raises(UserError, match=r"--track mini-aya/fixed: .*lora\.rank"):
        draft(run, track="mini-aya/fixed")


def answered(run, **overrides):
    """Answers of both sides to a benchmark, each one whole."""
    prompts = plain_prompts(6)
    write_prompts(run, "vicuna_bench", prompts)
    write_plan(run, "vicuna_bench", prompts, BASE_HASH, **overrides)
    for side in ("base", "global"):
        write_answers(
            run, "vicuna_bench", side, prompts, lambda p, turn, side=side: f"{side} on {p.item_id}, not as others"
        )


def without_last_answer(run):
    path = run / "answers/vicuna_bench/global.jsonl"
    files.write_jsonl(path, files.read_jsonl(path)[:-1])


def silent(run):
    path = run / "answers/vicuna_bench/global.jsonl"
    files.write_jsonl(path, [{**row, "turns": [""]} for row in files.read_jsonl(path)])


def one_reply(run):
    """A judge who was asked about one side alone, and did not reply."""
    judge = load_judge("mini_rule")
    question = Judgement(item_id="0", turn=1, repeat=0, order="", request_hash="0", reply=None)
    write_judgements(run, "vicuna_bench", "global", [question], judge.id)
    files.write_json(judgements_file(run, judge.id, "vicuna_bench", "global").parents[1] / "judge.json",
                     {**asdict(judge), "id": judge.id})  # fmt: skip


def unscored(run):
    rows = files.read_jsonl(run / "scores/heldout.after.jsonl")
    rows[0] |= {"value": None, "reason": "the loss is not finite"}
    files.write_jsonl(run / "scores/heldout.after.jsonl", rows)


FORESEEN = {
    "a limit": (
        lambda run: answered(run, limit=6),
        r"seed 0, answers/vicuna_bench/plan.json: settings in place of the published ones: .*'limit': 6.*; remove that "
        "folder from the run and evaluate again, without --limit",
    ),
    "own settings": (lambda run: answered(run, temperature=0.5), "settings in place of the published ones: .*0.5"),
    "other prompts": (lambda run: write_prompts(run, "vicuna_bench", plain_prompts(5)), "are not those of the prompts"),
    "an answer short": (
        without_last_answer,
        "seed 0, answers/vicuna_bench/global.jsonl: 1 of 6 prompts .*--retry-failed",
    ),
    "no trained model": (lambda run: (run / "answers/vicuna_bench/global.jsonl").unlink(), "'global' has no answers"),
    "nothing but silence": (silent, "every answer is empty; only a canary answers so"),
    "half judged": (
        one_reply,
        r"judgements/mini_rule-\w+/vicuna_bench/base.jsonl: its answers are not judged; give `fedllm-bench judge`",
    ),
    "an item without a score": (unscored, r"seed 0, scores/heldout\.after\.jsonl: 1 of 6 items .*not finite"),
}


@pytest.mark.parametrize("what", FORESEEN)
def test_records_that_validation_always_refuses_are_refused_before_anything_is_written(what, tmp_path, capsys):
    change, expected = FORESEEN[what]
    run = write_run(tmp_path / "runs", 0)
    answered(run)
    draft(run)
    if what in ("a limit", "own settings"):
        shutil.rmtree(run / "answers")
    change(run)
    words = ["submit", str(run), "--team", "Example Lab", "--contact", "lab@example.org", "--tuning", "preset"]
    words += ["--track", "mini-aya/open", "--out", str(tmp_path / "out"), "--date", "2026-11-21"]
    assert cli.main(words) == 2
    assert cli.main([*words, "--dry-run"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert re.search(expected, first)
    assert first == second
    assert not (tmp_path / "out").exists()


def test_one_run_under_two_seeds_is_refused_before_anything_is_written(tmp_path):
    one, other = write_run(tmp_path, 0), write_run(tmp_path, 1)
    shutil.copy(one / "adapter/adapter_model.safetensors", other / "adapter/adapter_model.safetensors")
    with pytest.raises(UserError, match="seed 1, adapter: seeds 0 and 1 have one adapter; give runs that were trained"):
        draft(one, other)


def test_the_command_shows_what_becomes_public_and_writes_it(tmp_path, three, capsys):
    words = ["submit", str(three), "--team", "Example Lab", "--contact", "lab@example.org", "--tuning", "preset"]
    words += ["--track", "mini-aya/open", "--out", str(tmp_path / "out"), "--date", "2026-11-21"]
    assert cli.main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    for text in (
        "lab@example.org",
        "Example Lab",
        "A processor with 2 cores",
        "results.json.gz",
        "git add",
        "board validate",
    ):
        assert text in shown
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["2026-11-21_mini-aya-open-fedavg-example-lab"]
    assert cli.main([*words[:6], "--out", str(tmp_path / "no")]) == 2
    assert "--tuning" in capsys.readouterr().err


DAYS = {
    "2001-01-01": "before the suite's first release",
    "2026-11-20": "before the suite's first release",
    "2090-01-01": "in the future",
}


@pytest.mark.parametrize("day", DAYS)
def test_a_day_that_cannot_be_is_refused_before_anything_is_written(day: str, tmp_path, three, capsys):
    words = ["submit", str(three), "--team", "Example Lab", "--contact", "lab@example.org", "--tuning", "preset"]
    assert cli.main([*words, "--track", "mini-aya/open", "--date", day, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fedllm-bench: --date: {day} is {DAYS[day]}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("day", ["11/30", "20261130", "2026-02-30", "2999-01-01", "2026-11-3\uff10", "tomorrow"])
def test_what_is_no_day_is_told_with_the_form_of_one(day: str, tmp_path, capsys):
    words = ["submit", str(tmp_path), "--team", "Example Lab", "--contact", "lab@example.org", "--tuning", "preset"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--date", day])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "argument --date: " in line
    assert "give YYYY-MM-DD" in line


def test_a_look_alike_name_is_told_before_it_becomes_public(tmp_path, three, capsys):
    words = ["submit", str(three), "--contact", "lab@example.org", "--tuning", "preset", "--track", "mini-aya/open"]
    words += ["--date", "2026-11-21", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--team", "F\u0435dLLM-Bench", "--dry-run"]) == 0
    flagged = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Flagged")]
    assert len(flagged) == 2  # two scripts in a word, and the suite's own name
    assert all(line.isascii() for line in flagged)
    assert cli.main([*words, "--team", "Example Lab"]) == 0
    assert "Flagged" not in capsys.readouterr().out
    assert cli.main([*words, "--team", "Example-Lab", "--method", "mine", "--dry-run"]) == 0
    assert "looks like the team 'Example Lab'" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["small", "gpu24"])
@pytest.mark.parametrize("track", ["", "aya/fixed", "aya/open", "mini-aya/open"])
def test_a_run_of_a_profile_without_a_board_is_refused_in_one_line(tmp_path, profile, track):
    run = write_run(tmp_path, 0)
    edit("config.json", profile=profile, track=profile, name="aya")(run)
    with pytest.raises(UserError, match=f"profile {profile} has no board") as caught:
        draft(run, track=track)
    assert "\n" not in str(caught.value)
