"""`fedllm-bench data`: options reach the recipe, and bad input is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from data_runs import run

from fedllm_bench import cli
from fedllm_bench.commands import terminal
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build import decontaminate
from fedllm_bench.data.build.pipelines import PIPELINES, load_pipeline
from fedllm_bench.data.languages import normal_language
from fedllm_bench.data.manifest import open_split
from fedllm_bench.data_prep.aya import AYA

pytestmark = pytest.mark.usefixtures("evaluation_sets")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for user in range(8):
            for i in range(6 + user):
                row = {"inputs": f"u{user} q{i}", "targets": f"a{i}", "language": "x", "user_id": f"u{user}"}
                row |= {"language_code": "ukr" if user else "fra", "annotation_type": "original-annotations"}
                file.write(json.dumps(row) + "\n")
    return path


def test_build_show_and_verify(raw, tmp_path, capsys):
    out = tmp_path / "s"
    options = ["--min-samples", 9, "--max-samples", 12, "--max-clients", 3, "--languages", "ukr,uk"]
    options += ["--heldout", "0.25", "--unseen", 2, "--seed", 5, "--name", "my-split"]
    assert run("build", "aya", "--raw", raw, "--out", out, *options) == 0
    built = capsys.readouterr().out
    manifest = open_split(out).manifest
    expected = {"min_samples": 9, "max_samples": 12, "max_clients": 3, "languages": ["ukr"], "heldout": 0.25}
    expected |= {"unseen_clients": 2, "seed": 5}
    assert {key: manifest.recipe[key] for key in expected} == expected
    assert [client.id for client in manifest.clients] == ["u5", "u6", "u7"]
    assert manifest.name == "my-split"
    assert run("show", out) == 0
    assert capsys.readouterr().out == built
    for words in (
        "my-split",
        manifest.hash,
        "3; rows per client",
        "of 2 unseen users",
        "min_samples",
        "languages",
    ):
        assert words in built
    assert run("verify", out) == 0
    assert manifest.hash in capsys.readouterr().out


def test_what_is_not_given_is_the_default_of_the_dataset(raw, tmp_path):
    with pytest.raises(UserError, match="fewer than 100 rows"):
        run("build", "aya", "--raw", raw, "--out", tmp_path / "s")
    assert run("build", "aya", "--raw", raw, "--out", tmp_path / "s", "--min-samples", 6, "--languages", "all") == 0
    manifest = open_split(tmp_path / "s").manifest
    assert (len(manifest.clients), manifest.name, manifest.recipe["heldout"]) == (8, "aya-custom", 0.1)


def test_the_options_of_all_datasets_reach_the_recipe(raw, tmp_path, capsys):
    options = ["--min-samples", 6, "--languages", "all", "--partition", "iid:4", "--near-duplicates", "drop"]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"turns": ["u1 q0", "U2, q1!"]}) + "\n")
    options += ["--decontaminate", tmp_path / "prompts.jsonl", "--drop-flagged", "none"]
    assert run("build", "aya", "--raw", raw, "--out", tmp_path / "s", *options) == 0
    recipe = open_split(tmp_path / "s").manifest.recipe
    assert (recipe["partition"], recipe["near_duplicates"], recipe["decontaminate"]["prompts"]) == ("iid:4", "drop", 2)
    assert "decontaminate" in capsys.readouterr().out
    with pytest.raises(UserError, match="partition='iid:none'"):
        run("build", "aya", "--raw", raw, "--out", tmp_path / "t", "--partition", "iid:none")
    with pytest.raises(UserError, match="flag of the dataset aya"):
        run("build", "aya", "--raw", raw, "--out", tmp_path / "t", "--drop-flagged", "toxicity")
    with pytest.raises(UserError, match="no evaluation prompts at"):
        run("build", "aya", "--raw", raw, "--out", tmp_path / "t", "--decontaminate", tmp_path / "none")


def test_bad_input_is_one_line(raw, tmp_path):
    out = tmp_path / "s"
    (tmp_path / "column.csv").write_text("inputs,targets\na,b\n")
    (tmp_path / "broken.jsonl").write_text(raw.read_text() + "{broken\n")
    cases = {
        ("build", "ayaa", "--raw", raw, "--out", out): "did you mean 'aya'",
        ("build", "aya", "--raw", tmp_path / "none.csv", "--out", out): "no such file",
        ("build", "aya", "--raw", tmp_path / "column.csv", "--out", out): "no column 'language'",
        ("build", "aya", "--raw", tmp_path / "broken.jsonl", "--out", out): "line 77 is broken JSON",
        ("build", "aya", "--raw", raw, "--out", raw): "is a file",
        ("build", "aya", "--raw", raw, "--out", tmp_path): "no part of a split",
        ("build", "aya", "--raw", raw, "--out", out, "--heldout", "1.5"): "heldout=1.5",
        ("build", "aya", "--raw", raw, "--out", out, "--languages", "xyz"): "languages 76",
        ("show", tmp_path): "no split in",
        ("verify", out): "no split in",
    }
    for words, expected in cases.items():
        with pytest.raises(UserError) as caught:
            run(*words)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not out.exists()


DOUBLED = {
    "rows.csv": "inputs,targets,language,user_id,language_code,annotation_type,inputs\na,b,c,d,ukr,f,g\n",
    "rows.jsonl": '{"inputs": "a", "targets": "b", "inputs": "c"}\n',
}


@pytest.mark.parametrize("name", DOUBLED)
def test_a_doubled_column_is_refused_before_anything_is_fetched(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decontaminate, "fetch", lambda *_: pytest.fail("fetched"))
    (tmp_path / name).write_text(DOUBLED[name])
    words = ["data", "build", "aya", "--raw", str(tmp_path / name), "--out", str(tmp_path / "s")]
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'inputs' twice; rename or remove one" in line
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "wrong", [["--min-samples", "ten"], ["--heldout", "most"], ["--languages", ","], ["--min", "1"]]
)
def test_a_wrong_option_exits_with_2(raw, tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        run("build", "aya", "--raw", raw, "--out", tmp_path / "s", *wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["build"], ["show"], ["stats"], ["verify"]])
def test_help_has_examples(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words, "--help")
    assert caught.value.code == 0
    assert "fedllm-bench data " in capsys.readouterr().out.split("example")[1]


def test_the_help_of_build_keeps_the_lines_of_its_examples(capsys):
    with pytest.raises(SystemExit):
        run("build", "--help")
    assert capsys.readouterr().out.count(" \\\n      --") == 4


def test_help_loads_nothing_heavy():
    code = "import sys, fedllm_bench.commands.data, fedllm_bench.data.build.pipelines;"
    code += "print([m for m in ('pyarrow', 'pandas', 'datasets', 'pydantic', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_terminal_without_unicode_gets_escapes(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        terminal.say("ключ")
    assert (tmp_path / "out").read_text() == "\\u043a\\u043b\\u044e\\u0447\n"


def test_every_registered_pipeline_loads_and_others_are_refused():
    assert [load_pipeline(name).DECLARATION.dataset for name in PIPELINES] == list(PIPELINES)
    with pytest.raises(UserError, match="did you mean 'aya'"):
        load_pipeline("ayaa")


@pytest.mark.parametrize(
    ("code", "normal"),
    [
        ("eng", "eng"),
        (" ENG ", "eng"),
        ("en-GB", "eng"),
        ("zho_Hans", "zho"),
        ("ar", "arb"),
        ("", "und"),
        ("yue", "yue"),
        ("Ukrainian", "ukr"),
    ],
)
def test_language_codes_are_normalised(code, normal):
    assert normal_language(code) == normal


@pytest.mark.parametrize(
    "wrong",
    [
        *({"heldout": 1.0}, {"heldout": "test"}, {"heldout": float("nan")}, {"min_samples": 0}),
        *({"max_samples": 0}, {"max_clients": -1}, {"unseen_clients": -1}),
    ],
)
def test_a_recipe_out_of_bounds_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        replace(AYA.recipe, **wrong)
