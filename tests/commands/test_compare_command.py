"""`fedllm-bench compare` on run folders: what it reads, shows, refuses; nothing of torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_runs import code_of
from scored_folders import edited, of_units, scores_of, write_run

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison import run_scores
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.comparison.run_scores import load_run, load_scores, open_side
from fedllm_bench.scores.score import Score

RNG = np.random.default_rng(0)
BASE = RNG.normal(size=24)


def three_seeds(root: Path, method: str, shift: float) -> Path:
    for seed in range(3):
        scores = {
            "heldout": of_units(BASE + seed),
            "mini_exact": of_units(BASE + shift + 0.01 * RNG.normal(size=24)),
        }
        write_run(root / method / f"s{seed}-{seed}abcdef012", scores, method=method, seed=seed)
    (root / method / "notes").mkdir()
    return root / method


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return three_seeds(root, "fedavg", 0.5), three_seeds(root, "fedprox", 0.0)


def shown(capsys, *words: object) -> str:
    assert cli.main(["compare", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_two_runs_are_two_models_and_nothing_is_said_of_methods(sides, capsys, tmp_path):
    a, b = (side / "s0-0abcdef012" for side in sides)
    text = shown(capsys, a, b, "--json", tmp_path / "new" / "c.json")
    assert "These two models (items clustered by client" in text
    assert "These two methods" not in text
    assert "method A" not in text
    assert "One seed on each side: of the methods nothing is said." in text
    assert "model A is better by 0.5" in " ".join(text.split())
    assert "heldout ↓ (seed 0): equal: no difference on any of 24 clients" in text
    assert "A and B differ in method.name." in text
    payload = json.loads((tmp_path / "new" / "c.json").read_text())
    assert payload["methods"] == []
    assert [row["metric"] for row in payload["models"]] == ["heldout", "mini_exact"]
    assert [row["verdict"] for row in payload["models"]] == ["equal", "A"]
    assert all(row["estimand"] == "models" and row["sentence"] for row in payload["models"])


@pytest.mark.parametrize("as_list", [False, True])
def test_several_seeds_are_two_methods_by_folder_or_by_list(sides, capsys, tmp_path, as_list):
    words = [",".join(str(p) for p in side.glob("s*")) if as_list else str(side) for side in sides]
    text = shown(capsys, *words, "--json", tmp_path / "c.json")
    assert "These two methods (t on 3 paired seed differences; p by Holm over 1 metric)" in text
    assert "These two models" in text
    payload = json.loads((tmp_path / "c.json").read_text())
    assert [(row["metric"], row["verdict"], row["n"], row["unit_of_n"]) for row in payload["methods"]] == [
        ("heldout", "equal", 3, "seed"),
        ("mini_exact", "A", 3, "seed"),
    ]
    assert "method A is better by" in payload["methods"][1]["sentence"]
    assert [row["seed"] for row in payload["models"]] == [0, 0, 1, 1, 2, 2]


def test_a_single_seed_that_shows_nothing_has_the_difference_that_would_have_shown(sides, capsys, tmp_path):
    noise = {s: {"mini_exact": of_units(BASE + 0.3 + np.roll(BASE, s + 1))} for s in range(3)}
    for seed, scores in noise.items():
        write_run(tmp_path / "fedadam" / f"s{seed}-{seed}abcdef012", scores, method="fedadam", seed=seed)
    text = shown(capsys, sides[0], tmp_path / "fedadam", "--metrics", "mini_exact", "--json", tmp_path / "c.json")
    rows = json.loads((tmp_path / "c.json").read_text())["models"]
    assert {row["verdict"] for row in rows} == {"not distinguishable"}
    for row in rows:
        assert f"not distinguishable ({row['detectable']:.3f} would show)" in text
    assert "would show: the smallest true difference that is found in four of five repeats" in " ".join(text.split())
    assert "80% power: the number of clients, questions or seeds" in " ".join(text.split())


def test_methods_without_a_difference_to_test_have_no_count_of_corrections(sides, capsys, tmp_path):
    equal = " ".join(shown(capsys, *sides, "--metrics", "heldout").split())
    assert "These two methods (t on 3 paired seed differences; no metric has differences to test)" in equal
    for name, value in (("a", None), ("b", 1.0)):
        for seed in (0, 1):
            write_run(
                tmp_path / name / f"s{seed}-{seed}abcdef012", {"mini_exact": scores_of({"c": [value]})}, seed=seed
            )
    nothing = " ".join(shown(capsys, tmp_path / "a", tmp_path / "b").split())
    assert "These two methods (nothing to compare: no seed has a difference)" in nothing
    assert "over 0 metrics" not in equal + nothing


def test_seeds_that_one_side_lacks_are_left_out_and_named(sides, capsys):
    two = ",".join(str(sides[1] / f"s{seed}-{seed}abcdef012") for seed in (0, 2))
    text = shown(capsys, sides[0], two, "--metrics", "mini_exact")
    assert "t on 2 paired seed differences" in text
    assert "Left out, for the other side lacks the seed: seed 1 of A." in text
    one = shown(capsys, sides[0], sides[1] / "s2-2abcdef012")
    assert "These two methods" not in one
    assert "of the methods nothing is said" in one


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split_hash": "0" * 64}, ("split hash is ffffffffffffffff in", "0000000000000000 in")),
        ({"version": "2"}, ("mini_exact cannot be compared, for its version is 1 in", "and 2 in")),
        ({"name": "mini-wildchat"}, ("data set is mini-aya in", "mini-wildchat in")),
        ({"evaluation": {"max_new_tokens": 64}}, ("evaluation.max_new_tokens is 32 in", "64 in")),
        ({"evaluation": {"max_new_tokens": 32, "heldout_rows": 9}}, ("evaluation.heldout_rows is all in", "9 in")),
        ({"evaluation": {"max_new_tokens": 32, "clients": 3}}, ("evaluation.clients is all in", "3 in")),
    ],
)
def test_unlike_runs_are_refused_by_what_differs(tmp_path, capsys, change, words):
    scores = {"mini_exact": of_units([1.0, 0.0])}
    a, b = write_run(tmp_path / "a", scores), write_run(tmp_path / "b", scores, **change)
    refused(capsys, [a, b], "unlike runs", *words)


def refused(capsys, paths, *words: str) -> None:
    assert code_of(["compare", *map(str, paths)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path, capsys):
    good = write_run(tmp_path / "good", {"m": of_units([1.0])})
    refused(capsys, [tmp_path / "none", good], "there is no config.json", "give a run folder")
    refused(capsys, [good, ","], "there is no config.json")
    refused(capsys, [good], "RUN_B")
    refused(capsys, [good, good, "--metrics", " ,"], "--metrics names none")
    (good / "scores" / "m.after.jsonl").unlink()
    refused(capsys, [good, good], "no scores in it")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.json", "{", "not readable as JSON"),
        ("config.json", "[" * 100_000, "not readable as JSON"),
        ("config.json", "[]", "a JSON list, not an object"),
        ("config.json", '{"name": "x", "method": {"name": "m"}, "seed": "x"}', "config.json"),
        ("config.json", '{"name": "x", "method": {"name": "m"}, "seed": 0, "evaluation": 3}', "config.json"),
        ("config.json", '{"name": "\\u001b[2J", "method": {"name": "m"}, "seed": 0}', "control characters"),
        ("config.json", '{"a": ' * 30 + "1" + "}" * 30, "nested more than 20 deep"),
        (
            "results.json",
            '{"metrics": {"m": {"version": "\\u009b", "unit": "", "higher_is_better": true}}}',
            "what m is",
        ),
        ("environment.json", "{}", "environment.json has no 'data'"),
        ("results.json", '{"metrics": {"other": {}}}', "does not say what m is"),
        ("results.json", '{"metrics": null}', "does not say what m is"),
        ("scores/m.after.jsonl", '{"item_id": "a", "value": 1.0}\n{"item_id"', "line 2: not a score"),
        ("scores/m.after.jsonl", '{"item_id": "a", "value": null}', "line 1: not a score"),
        ("scores/m.after.jsonl", '{"item_id": "a", "value": 1.0, "weight": -1}', "line 1: not a score"),
        ("scores/m.after.jsonl", '{"item_id": "a", "value": "x"}', "line 1: not a score"),
        ("scores/m.after.jsonl", '{"item_id": "a", "value": 1}\n' * 2, "two scores of item 'a'"),
    ],
)
def test_a_changed_folder_is_one_line(tmp_path, file, text, words):
    folder = write_run(tmp_path / "run", {"m": of_units([1.0])})
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", {"m": of_units([1.0])})
    (folder / "scores" / "m.after.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        load_run(folder)


def test_runs_of_one_side_are_one_cell_under_several_seeds(tmp_path):
    scores = {"m": of_units([1.0])}
    first = write_run(tmp_path / "x" / "s0-aa", scores, seed=0)
    write_run(tmp_path / "x" / "s0-bb", scores, seed=0, more=1)
    with pytest.raises(UserError, match="have one seed, 0"):
        open_side(str(tmp_path / "x"))
    other = write_run(tmp_path / "y", scores, seed=1, federation={"rounds": 9})
    with pytest.raises(UserError, match=r"no seeds of one cell: they differ in federation\.rounds"):
        open_side(f"{first},{other}")


def test_only_users_with_training_rows_are_compared(tmp_path):
    unseen = [Score("u", 9.0, cluster="new", group={"part": "unseen"})]
    folder = write_run(tmp_path / "run", {"m": [*of_units([1.0, 2.0]), *unseen]})
    assert [score.value for score in load_scores(folder)["m"]] == [1.0, 2.0]


def test_other_sources_of_scores_plug_in(tmp_path, monkeypatch, capsys):
    """Scores of open-ended answers: clusters are questions, and the judge is named."""

    def opened(folder: Path) -> dict[str, MetricScores]:
        values = files.read_json(folder / "open.json")
        scores = tuple(scores_of({f"q{i}": [value] for i, value in enumerate(values)}))
        measured = MetricScores(
            scores=scores, version="1", unit="1-10", higher_is_better=True, cluster="question", judge="rule"
        )
        return {"mt_bench": measured}

    folders = [write_run(tmp_path / name, {"m": of_units([1.0])}) for name in "ab"]
    for folder, shift in zip(folders, (0, 1), strict=True):
        files.write_json(folder / "open.json", (BASE + shift * (BASE > 0)).tolist())
    monkeypatch.setattr(run_scores, "SOURCES", (*run_scores.SOURCES, opened))
    text = shown(capsys, *folders)
    assert "items clustered by client or question" in text
    assert "mt_bench ↑ (judge rule, seed 0): model B is better by" in text
    assert "at n = 24 questions" in " ".join(text.split())
    monkeypatch.setattr(run_scores, "SOURCES", (opened, opened))
    with pytest.raises(UserError, match="mt_bench is there twice"):
        load_run(folders[0])


def test_json_that_cannot_be_written_is_one_line(sides, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    a, b = (side / "s0-0abcdef012" for side in sides)
    refused(capsys, [a, b, "--json", tmp_path / "file" / "c.json"], "cannot create the folder")


def test_help_and_a_comparison_load_no_torch(sides):
    a, b = (str(side / "s0-0abcdef012") for side in sides)
    code = (
        "import sys; from fedllm_bench import cli\n"
        f"assert cli.main(['compare', {a!r}, {b!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'openai', 'matplotlib'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_has_examples(capsys):
    assert code_of(["compare", "--help"]) == 0
    assert "examples:" in capsys.readouterr().out


def test_an_older_result_of_a_metric_is_enough(tmp_path):
    folder = write_run(tmp_path / "run", {"heldout": of_units([1.0])})
    edited(folder / "results.json", schema_version=1)
    assert load_run(folder).measured["heldout"].higher_is_better is False


def test_runs_of_two_profiles_are_not_compared(tmp_path, capsys):
    """Each profile has its own budget: one line, even on the same split."""
    scores = {"heldout": of_units(BASE)}
    one = write_run(tmp_path / "one", scores, profile="small")
    other = write_run(tmp_path / "other", scores, profile="paper")
    refused(capsys, [one, other], "unlike runs", "its profile is small in", "and paper in")


@pytest.mark.parametrize(
    "communication", [{"budget": {"ended": "2 of 6 rounds"}}, {"budget": {"ended": "\x1b[2J"}}, [], 1]
)
def test_a_side_that_its_budget_ended_says_so(tmp_path, capsys, communication):
    sides = [write_run(tmp_path / name, {"m": of_units([0.1, 0.4, 0.3])}) for name in "ab"]
    edited(sides[1] / "results.json", communication=communication)
    assert cli.main(["compare", *map(str, sides)]) == 0
    shown = capsys.readouterr().out
    is_told = communication == {"budget": {"ended": "2 of 6 rounds"}}
    assert ("B, seed 0: 2 of 6 rounds." in shown) == is_told
    assert "\x1b" not in shown
