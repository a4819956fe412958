"""`fedllm-bench tune`: a whole search at tiny size, its runs within this process."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import code_of, quick
from grid_runs import started_here
from tunes import SPACE, tune_words

from fedllm_bench import cli
from fedllm_bench.commands.tune import request_of
from fedllm_bench.common import files
from fedllm_bench.config import presets
from fedllm_bench.config.preset_words import words_in
from fedllm_bench.data.manifest import Split
from fedllm_bench.tuning.confirming import confirmed
from fedllm_bench.tuning.tune_files import preset_toml

SPACE_OF_LR = "local.lr=log:1e-3..1e-1"
KRUM = ("--set", "aggregation.rule=krum")
LEFT = {"tune.json", "trials.jsonl", "trials.csv", "table.txt", "preset.toml", "tuning.txt", "figures", "logs", ".lock"}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture
def started(monkeypatch) -> list[tuple[str, int]]:
    """What was started; trial 2 is broken."""
    return started_here(monkeypatch, lambda task: task.key[0] == "trial-2")


@pytest.fixture
def less(tiny_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice")


def folder_in(out: Path) -> Path:
    (folder,) = (out / "mini-aya").glob("tune-*")
    return folder


def unchanged(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}


def test_a_search_runs_once_leaves_all_its_files_and_is_then_shown_at_once(
    tiny_split: Split, less, tmp_path: Path, capsys, started
):
    argv = tune_words(tiny_split.folder, tmp_path, *less, "--trials", "4", "--confirm", "2", "--search", "random")
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    folder = folder_in(tmp_path)
    assert {path.name for path in folder.iterdir()} == LEFT
    assert started[:4] == [("default", 100), ("trial-1", 100), ("trial-2", 100), ("trial-3", 100)]
    payload = files.read_json(folder / "tune.json")
    check_trials(payload, tmp_path)
    check_files(payload, folder, shown)
    before, count = unchanged(tmp_path), len(started)
    assert cli.main(argv) == 0
    assert started[count:] == [("trial-2", 100)]  # what failed is tried again, and only that
    assert "failed: trial 2: seed 100: RuntimeError: the disk burns" in capsys.readouterr().out
    logs = folder / "logs"
    assert {p: t for p, t in unchanged(tmp_path).items() if logs not in p.parents} == {
        p: t for p, t in before.items() if logs not in p.parents
    }
    made = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and logs not in path.parents}
    (folder / "tune.json").write_text("{")  # changed by somebody: made anew
    (folder / "trials.csv").write_text("")
    (folder / "table.txt").write_text("other")
    for name in ("preset.toml", "tuning.txt", "trials.jsonl", "figures/trials.svg"):
        (folder / name).unlink()
    assert cli.main(argv) == 0
    assert {path: path.read_bytes() for path in made} == made
    (folder / "figures" / "trials.png").unlink()  # though tune.json is as it was
    (folder / "preset.toml").unlink()
    assert cli.main(argv) == 0
    assert {path: path.read_bytes() for path in made} == made


def check_trials(payload: dict[str, Any], out: Path) -> None:
    trials = payload["trials"]
    assert [each["number"] for each in trials] == [0, 1, 2, 3]
    preset = presets.load("aya", "fedprox", "mini")
    assert trials[0]["setting"] == {"method.mu": preset.method.constants["mu"], "local.lr": preset.local.lr}
    assert [bool(each["reason"]) for each in trials] == [False, False, True, False]
    assert trials[2]["value"] is None
    for each in (trials[0], trials[1], trials[3]):
        results = files.read_json(out / each["runs"]["100"] / "results.json")
        config = files.read_json(out / each["runs"]["100"] / "config.json")
        assert each["value"] == results["metrics"]["heldout"]["after"]["mean"]
        assert config["local"]["lr"] == each["setting"]["local.lr"]
        assert config["method"]["constants"]["mu"] == each["setting"]["method.mu"]
        assert config["evaluation"]["local_clients"] == 1
        assert config["seed"] == 100
    best = min((each for each in trials if each["value"] is not None), key=lambda each: each["value"])
    assert payload["chosen"] == {"number": best["number"], "setting": best["setting"]}
    assert payload["correlations"] == [
        {"metric": "mini_choice", "budget": 1, "n": 3} | dict.fromkeys(("rho", "low", "high", "interval", "p_value"))
    ]


def check_files(payload: dict[str, Any], folder: Path, shown: str) -> None:
    assert (folder / "table.txt").read_text() in shown
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["local.lr"]) for row in rows] == [each["setting"]["local.lr"] for each in payload["trials"]]
    assert rows[2]["reason"] == "seed 100: RuntimeError: the disk burns"
    assert files.read_jsonl(folder / "trials.jsonl") == payload["trials"]
    assert {path.name for path in (folder / "figures").iterdir()} == {"trials.png", "trials.svg"}
    setting = payload["chosen"]["setting"]
    written = tomllib.loads((folder / "preset.toml").read_text())
    assert written == {"method": {"mu": setting["method.mu"]}, "local": {"lr": setting["local.lr"]}}
    loaded = presets.load("aya", "fedprox", "mini", words_in(str(folder / "preset.toml")))
    assert loaded.local.lr == setting["local.lr"]
    sentence = (folder / "tuning.txt").read_text().strip()
    assert sentence == payload["tuning"]
    assert f"Tuning    {folder / 'tuning.txt'}  (submit --tuning): {sentence}" in shown
    for part in ("4 settings", "random search", "chosen by heldout", "run seeds 100", "none of which is reported"):
        assert part in sentence


def test_the_chosen_setting_meets_the_default_on_seeds_that_the_search_did_not_see(
    tiny_split: Split, less, tmp_path: Path, capsys, started
):
    """In one step from random weights a larger rate is better than the default's."""
    more = (*less[:2], "--metrics", "heldout", "--seeds", "100,102", "--trials", "2", "--confirm", "2")
    argv = tune_words(tiny_split.folder, tmp_path, *more, space="local.lr=log:3e-2..6e-2")
    assert cli.main(argv) == 0
    payload = files.read_json(folder_in(tmp_path) / "tune.json")
    found = payload["confirmation"]
    assert payload["chosen"]["number"] == 1
    assert found["seeds"] == [103, 104]
    assert {key[1] for key in started if key[0] == "chosen"} == {103, 104}
    (row,) = found["comparison"]["methods"]
    assert (row["metric"], row["n"], row["unit_of_n"]) == ("heldout", 2, "seed")
    assert found["verdict"] == {"A": "better", "B": "worse"}.get(row["verdict"], "not told apart")
    assert row["sentence"] in found["sentence"]
    assert found["sentence"] in payload["tuning"]
    assert found["sentence"].split(".")[0] in " ".join(capsys.readouterr().out.split())
    scores = next((tmp_path / "mini-aya" / "fedprox").glob("s103-*/scores/heldout.after.jsonl"))
    scores.write_text("{")
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{scores}, line 1" in line
    assert "delete the folder of that run, and give the same command" in line


def test_of_one_seed_is_spoken_as_of_one():
    row = {"verdict": "A", "metric": "heldout", "mean_a": 1.0, "mean_b": 2.0, "sentence": "A is better"}
    assert "seed 101, which was not used" in confirmed({"methods": [], "models": [row]}, [101]).sentence
    assert "seeds 101, 102, which were not" in confirmed({"methods": [row], "models": [row]}, [101, 102]).sentence


def test_halving_runs_small_budgets_first_and_keeps_the_default(
    tiny_split: Split, less, tmp_path: Path, capsys, monkeypatch
):
    started = started_here(monkeypatch, lambda task: False)
    settings = tune_words(tiny_split.folder, tmp_path, *less[:2], "--metrics", "heldout")
    argv = [*settings, "--set", "federation.rounds=3", "--search", "halving", "--trials", "4", "--confirm", "0"]
    assert cli.main(argv) == 0
    payload = files.read_json(folder_in(tmp_path) / "tune.json")
    assert payload["tune"]["budgets"] == [1, 3]
    assert [(each["number"], each["budget"]) for each in payload["trials"]][:4] == [(n, 1) for n in range(4)]
    kept = [each["number"] for each in payload["trials"] if each["budget"] == 3]
    assert kept[0] == 0
    assert len(kept) in (2, 3)
    assert ("trial-1-1", 100) in started
    for each in payload["trials"]:
        config = files.read_json(tmp_path / each["runs"]["100"] / "config.json")
        assert config["federation"]["rounds"] == each["budget"]
    assert "federation.rounds=1, 3" in payload["tuning"]
    assert payload["chosen"]["number"] in kept


def test_a_search_of_which_all_fails_leaves_no_preset(tiny_split: Split, less, tmp_path: Path, capsys, monkeypatch):
    started_here(monkeypatch, lambda task: True)
    argv = tune_words(tiny_split.folder, tmp_path, *less, "--trials", "2")
    assert code_of(argv) == 1
    shown = capsys.readouterr().out
    assert "nothing was chosen" in shown
    assert not (folder_in(tmp_path) / "preset.toml").exists()


def test_two_searches_in_one_folder_do_not_mix(tiny_split: Split, less, tmp_path: Path, capsys, started):
    from filelock import FileLock

    argv = tune_words(tiny_split.folder, tmp_path, *less, "--trials", "2", "--confirm", "0")
    assert cli.main(argv) == 0
    with FileLock(folder_in(tmp_path) / ".lock"):
        capsys.readouterr()
        assert code_of(argv) == 2
        assert "another process is running this search" in capsys.readouterr().err


# --- what is refused before anything is run


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--seeds", "0"), "seeds below 100 are reported"),
        (("--seeds", "100,2"), "seeds below 100 are reported, 2 among them"),
        (("--seeds", "x"), "is no seed"),
        (("--trials", "1"), "the first trial is the default; give 2 or more"),
        (("--trials", "99999999"), "that is too many"),
        (("--search", "grid"), "no search 'grid'"),
        (("--fidelity", "epochs"), "no fidelity 'epochs'"),
        (("--fidelity", "clients"), "--fidelity clients: it is for --search halving, and the search is tpe"),
        (("--metric", "mini_exakt"), "did you mean 'mini_exact'?"),
        (("--set", "local.lr=1"), "local.lr is in --space and in --set"),
        (("--set", "data.world_seed=7"), "worlds below 100 are reported"),
        (("--set", "local.lrr=1"), "no option 'local.lrr'"),
        (("--space", "method.muu=1..2"), "no option 'method.muu'"),
        (("--space", "fedprox:local.steps=int:1..2"), "leave out what stands before the colon"),
        (("--set", "fedavg:local.steps=1"), "no method 'fedavg'"),
        (("--space", "local.steps=1..2"), "write int: before a range of whole numbers"),
        (("--space", "local.beta1=0.5..1"), "local.beta1"),
        (("--space", "local.optimizer=choice:adamw,adam"), "local.optimizer"),
        (("--space", "local.weight_decay=-1..1"), "local.weight_decay"),
        (("--search", "halving", "--space", "federation.rounds=int:1..2"), "--search halving sets it"),
        (("--confirm", "x"), "is not a whole number, 0 or more"),
        (("--confirm", "-1"), "is not a whole number, 0 or more"),
        (("--confirm", "99999"), "and at most 1000 of them"),
        (("--seeds", "2147483647", "--confirm", "1"), "must be below 2**31"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_run(more, expected, tmp_path: Path, capsys, started):
    argv = ["tune", "aya", "fedprox", "--profile", "mini", "--out", str(tmp_path), "--space", SPACE, *more]
    assert code_of(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert not started
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("method.mu=-1..1", "--space method.mu: method.mu: got -1.0"),
        ("aggregation.rule=choice:mean,krum", "--space aggregation.rule: aggregation.rule=krum needs"),
        ("aggregation.trim=0.1..0.3", "--space aggregation.trim: aggregation.trim=0.1 belongs to"),
        ("communication.scales=choice:tensor,row", "--space communication.scales: "),
    ],
)
def test_ends_that_no_run_takes_are_refused_before_anything_is_run(
    space, expected, tiny_split: Split, less, tmp_path: Path, capsys, started
):
    assert code_of(tune_words(tiny_split.folder, tmp_path, *less, space=space)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not started
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "more", "expected"),
    [
        ("local", ("--space", "communication.budget_mb=1..5"), "--space communication.budget_mb: it changes no result"),
        ("fedavg", ("--space", SPACE_OF_LR, "--model", "/nowhere"), "fedllm-bench: MODEL=/nowhere: no such folder"),
        ("ffa-lora", ("--space", SPACE_OF_LR), "take fedavg --set communication.lora_aggregation=frozen_a"),
        (
            "fedavg",
            ("--space", SPACE_OF_LR, *KRUM, "--search", "halving", "--fidelity", "clients", "--trials", "9"),
            "--search halving begins with federation.clients_per_round=1: ",
        ),
    ],
)
def test_what_no_trial_could_do_is_said_of_what_asks_for_it(
    method, more, expected, tiny_split: Split, less, tmp_path: Path, capsys, started
):
    argv = tune_words(tiny_split.folder, tmp_path, *less, *more)
    del argv[3:5]  # its own --space
    assert code_of([*argv[:2], method, *argv[3:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not started
    assert not list(tmp_path.iterdir())


def test_the_command_in_a_preset_is_one_line_that_a_shell_takes(tmp_path: Path):
    """A folder may have any name; what stands in it is no setting."""
    folder = tmp_path / "my runs\nlora.rank = 1"
    payload = {"tune": {"method": "fedavg", "dataset": "mini-aya", "asked": "aya"}}
    text = preset_toml({**payload, "chosen": {"setting": {"local.lr": 1e-3}}}, folder)
    assert tomllib.loads(text) == {"local": {"lr": 1e-3}}
    assert "--preset '" in text


def test_a_value_that_is_allowed_beside_others_of_the_space_is_searched(tiny_split: Split, less, tmp_path: Path):
    from fedllm_bench.cli import build_parser
    from fedllm_bench.commands.tune import request_of
    from fedllm_bench.tuning.tune import open_tune

    space = "communication.scales=choice:tensor,row communication.upload_dtype=choice:float32,int8"
    args = build_parser().parse_args(tune_words(tiny_split.folder, tmp_path, *less, space=space))
    assert [each.key for each in open_tune(request_of(args, "mini"), cuda=False).asked.space] == [
        "communication.scales",
        "communication.upload_dtype",
    ]


def test_the_mini_world_of_a_search_is_no_reported_one():
    from fedllm_bench.runs.grid import Request
    from fedllm_bench.tuning.request import own_words

    run = Request(dataset="aya", methods=("fedavg",), seeds=(100,), profile="mini", out=Path("runs"))
    assert "data.world_seed=100" in own_words(run, personal=False)
    assert own_words(run, personal=True) == ("data.world_seed=100",)  # it is scored on the baseline's clients
    other = Request(dataset="aya", methods=("fedavg",), seeds=(100,), profile="mini", out=Path("runs"), split="x")
    assert own_words(other, personal=False) == ("evaluation.local_clients=1",)


@pytest.mark.parametrize(
    ("more", "sample"),
    [
        ((), 1),
        (("--set", "evaluation.local_clients=2"), 2),
        (("--set", "communication.lora_aggregation=share_a"), 0),
        (("--space", "communication.lora_aggregation=choice:mean,share_a"), 0),
    ],
)
def test_clients_with_adapters_of_their_own_are_all_scored_whatever_gives_them_these(
    more, sample, tiny_split: Split, less, tmp_path: Path
):
    """Trials have one client in the baseline `local`; of these runs only the clients of the baseline are scored."""
    from fedllm_bench.tuning.tune import open_tune

    args = cli.build_parser().parse_args(tune_words(tiny_split.folder, tmp_path, *less, *more))
    assert open_tune(request_of(args, "mini"), cuda=False).first.config.evaluation.local_clients == sample
