"""make: every target and variable is named, passed on to the command, and refused where it means nothing."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from checkout import ROOT

from fedllm_bench.methods import METHODS


def make(*words: str) -> str:
    done = subprocess.run(["make", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_make_help_names_every_target_and_variable():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    targets = set(phony.split()) - {"help"}
    rules = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert targets | {"help"} == rules
    assert len(targets) >= 9
    shown = make("help")
    assert not [target for target in targets if f"make {target} " not in shown]
    variables = re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE)
    assert set(variables) == {
        *("PYTHON", "VENV", "DATASET", "METHOD", "PROFILE", "SEED"),
        *("ENGINE", "SPLIT", "MODEL", "METRICS", "SET", "OUT"),
        *("VARIANT", "METHODS", "SEEDS", "JOBS", "SHARD", "FROM", "ZIP"),
        *("RUN", "CLIENT", "JUDGE", "MAX_COST"),
        *("TEAM", "CONTACT", "TUNING", "TITLE", "URL", "TRACK", "SUBMISSIONS"),
        *("AGAINST", "EMBEDDER", "TOKENIZER", "ONLY"),
        *("SPACE", "TRIALS", "SEARCH", "TABLE"),
    }
    assert not [name for name in [*variables, *METHODS] if not re.search(rf"\b{name}\b", shown)]


def test_make_help_fits_a_screen():
    lines = make("--no-print-directory", "help").splitlines()
    assert 20 < len(lines) <= 30
    assert max(map(len, lines)) <= 100


GIVEN = {
    "DATASET": "aya",
    "PROFILE": "mini",
    "ENGINE": "inprocess",
    "VARIANT": "released",
    "SPLIT": "my split",
    "MODEL": "mini",
    "METRICS": "heldout",
    "OUT": "there",
    "SET": "local.lr=1 lora.rank=2",
}


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("bench", {"METHOD": "fedprox", "SEED": "3"}, "bench 'aya' 'fedprox' --seed '3'"),
        (
            "grid",
            {"METHODS": "fedprox,local", "SEEDS": "0,1", "JOBS": "2", "SHARD": "1/2"},
            "grid 'aya' --methods 'fedprox,local' --seeds '0,1' --jobs '2' --shard '1/2'",
        ),
        ("grid", {"TABLE": "methods"}, "grid 'aya' --table 'methods'"),
        (
            "tune",
            {"METHOD": "fedprox", "SPACE": "local.lr=1..2 lora.rank=int:1..2", "TRIALS": "4", "SEARCH": "random"},
            "tune 'aya' 'fedprox' --space 'local.lr=1..2 lora.rank=int:1..2' --trials '4' --search 'random'",
        ),
    ],
)
def test_every_variable_of_make_is_an_option_of_the_command(target, more, words):
    shown = make("--dry-run", target, *(f"{name}={value}" for name, value in {**GIVEN, **more}.items()))
    (command,) = (line for line in shown.splitlines() if f"fedllm-bench {target}" in line)
    options = (
        "--profile 'mini' --engine 'inprocess' --variant 'released' --split 'my split' --model 'mini' "
        "--metrics 'heldout' --set 'local.lr=1' --set 'lora.rank=2' --out 'there'"
    )
    assert f"fedllm-bench {words} {options}" in re.sub(r"\s+", " ", command)


def test_make_merge_names_the_run_and_the_client():
    shown = make("--dry-run", "merge", "RUN=runs/a b", "CLIENT=x", "OUT=there")
    assert "fedllm-bench merge 'runs/a b' --client 'x' --out 'there'" in re.sub(r"\s+", " ", shown)


def test_make_speed_takes_a_real_base_with_settings():
    assert "benchmarks/perf/speed.py" in make("--dry-run", "speed")
    assert "benchmarks/perf/peers.py" in make("--dry-run", "speed-peers")
    assert "benchmarks/perf/gpu.py --out 'x y'" in " ".join(make("--dry-run", "speed-gpu", "OUT=x y").split())
    shown = make("--dry-run", "speed", "MODEL=my base", "SET=local.steps=2 model.dtype=float32")
    words = "benchmarks/perf/speed.py --model 'my base' --set 'local.steps=2' --set 'model.dtype=float32'"
    assert words in re.sub(r"\s+", " ", shown)


def test_make_board_names_the_submissions_and_the_folder():
    shown = make("--dry-run", "board", "SUBMISSIONS=my subs", "OUT=site")
    assert "fedllm-bench board build --submissions 'my subs' --out 'site'" in re.sub(r"\s+", " ", shown)


def test_make_evaluate_names_the_run_the_judge_and_the_limit():
    shown = make("--dry-run", "evaluate", "RUN=runs/a b", "METRICS=mini", "JUDGE=x.toml", "MAX_COST=5")
    words = "fedllm-bench evaluate 'runs/a b' --metrics 'mini' --judge 'x.toml' --max-cost '5'"
    assert words in re.sub(r"\s+", " ", shown)


def test_make_diversity_names_the_splits_and_the_models():
    given = {
        "AGAINST": "b",
        "EMBEDDER": "lsa",
        "TOKENIZER": "t",
        "MODEL": "m",
        "ONLY": "length",
        "SEED": "1",
        "OUT": "o",
    }
    words = "--against 'b' --embedder 'lsa' --tokenizer 't' --quality-model 'm' --only 'length' --seed '1' --out 'o'"
    for split, named in (({"DATASET": "aya"}, "aya"), ({"SPLIT": "my split"}, "my split")):
        shown = make("--dry-run", "diversity", *(f"{name}={value}" for name, value in {**split, **given}.items()))
        assert f"fedllm-bench diversity '{named}' {words}" in re.sub(r"\s*\\?\s+", " ", shown)


def test_make_submit_names_the_runs_and_what_is_said_of_them():
    said = {"TEAM": "A Lab", "CONTACT": "a@b.org", "TUNING": "as published", "TITLE": "Mine", "TRACK": "aya/open"}
    shown = make("--dry-run", "submit", "RUN=runs/a runs/b", *(f"{name}={value}" for name, value in said.items()))
    words = "fedllm-bench submit 'runs/a' 'runs/b' --team 'A Lab' --contact 'a@b.org' --tuning 'as published' "
    assert f"{words}--method 'Mine' --track 'aya/open'" in re.sub(r"\s*\\?\s+", " ", shown)


def test_what_is_said_may_hold_any_sign():
    said = {"TEAM": "L'Ecole; exit 1", "CONTACT": "a@b.org", "TUNING": 'the preset\'s, "as is" & `it`'}
    shown = make("--dry-run", "submit", "RUN=runs/a", *(f"{name}={value}" for name, value in said.items()))
    (line,) = (line for line in shown.replace("\\\n", " ").splitlines() if "fedllm-bench submit" in line)
    words = shlex.split(line)
    assert [words[words.index(option) + 1] for option in ("--team", "--contact", "--tuning")] == list(said.values())


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        ("bench", "METHODS"),
        ("grid", "METHOD"),
        ("tune", "METHODS"),
        ("bench", "TABLE"),
        ("bench", "SEEDZ"),
        ("grid", "FROM"),
        ("merge", "SEED"),
        ("evaluate", "SEED"),
        ("board", "METHOD"),
        ("submit", "SEED"),
        ("diversity", "METHOD"),
    ],
)
def test_a_variable_that_a_target_does_not_know_is_refused(target, variable):
    assert f"no variable {variable}" in make("--dry-run", target, f"{variable}=1")


@pytest.mark.parametrize("target", ["bench", "grid", "tune"])
def test_a_quote_in_a_variable_is_a_letter_and_no_command(target):
    """make tune METHOD="fed'; date; '" asks for a method of that name."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(rf"^{target}: .*\n\t(.*)$", text, re.MULTILINE)
    options = text[text.index("OPTIONS =") : text.index(".PHONY")]
    names = {*re.findall(r"\$\(([A-Z]+)\)", recipe + options)} - {"CLI", "OPTIONS", "SET"}
    assert {"DATASET", "PROFILE", "OUT"} <= names
    shown = make("--dry-run", target, *(f"{name}={name}'; date; '" for name in names), "SET=a='b'")
    (command,) = (line for line in shown.splitlines() if f"fedllm-bench {target}" in line)
    words = shlex.split(command)
    assert {f"{name}'; date; '" for name in names} <= set(words)
    assert "a='b'" in words
