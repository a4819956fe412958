"""`fedllm-bench bench` end to end at tiny size, in this process but for what needs another one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import TINY, quick, quiet_environment, run, words
from sweeps import UNLIKE, sweep

import fedllm_bench
from fedllm_bench import cli
from fedllm_bench.common import files, provenance
from fedllm_bench.config import base_model, presets
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import trains_alone
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.folder import folder_name

OF_ROWS = ("heldout", "mini_exact", "mini_choice")  # the metrics of the preset


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(tiny_split: Split, out: Path) -> Path:
    """The folder of a finished run of FedAvg with all metrics and figures."""
    with quick(figures=True):
        return run("fedavg", tiny_split.folder, out)


@pytest.fixture(scope="module")
def less(tiny_folder: Path) -> tuple[str, ...]:
    """Options for runs that take half a second: a smaller model, two of the metrics."""
    return ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice")


# --- what a run leaves


def test_results_have_the_documented_shape_and_every_number(done: Path):
    results = files.read_json(done / "results.json")
    check_results(results)
    heldout = results["metrics"]["heldout"]
    for side in ("before", "after"):
        assert heldout[side]["ci_low"] < heldout[side]["mean"] < heldout[side]["ci_high"]
        assert heldout[side]["n"] == results["data"]["num_clients"] == 6
        assert heldout[side]["n_unscored"] == 0
    assert heldout["after"]["n_scored"] == results["data"]["num_heldout_rows"]
    assert heldout["before"]["mean"] != heldout["after"]["mean"]
    assert heldout["local"]["n"] == len(results["data"]["local_clients"]) == 2
    wanted = {"perplexity", "heldout_unseen", "heldout_worst_tenth", "heldout_tokens", *OF_ROWS}
    assert len(OF_ROWS) == 3
    assert wanted <= results["metrics"].keys()
    assert {f"mini_exact_facts_{holder}" for holder in ("self", "others")} <= results["metrics"].keys()


def test_a_run_says_which_it_is_and_what_it_took(done: Path):
    results = files.read_json(done / "results.json")
    about = {key: results["run"][key] for key in ("dataset", "method", "profile", "track", "seed", "model")}
    assert about == {
        "dataset": "mini-aya",
        "method": "fedavg",
        "profile": "mini",
        "track": "mini",
        "seed": 0,
        "model": "mini",
    }
    assert done.name == f"s0-{results['run']['config_hash']}"
    stages = ["score the base", "train", "score", "local baseline"]
    assert list(results["cost"]["seconds"]) == stages
    assert all(seconds > 0 for seconds in results["cost"]["seconds"].values())
    assert results["cost"]["peak_memory_bytes"] > 50e6
    adapter = (done / "adapter" / "adapter_model.safetensors").stat().st_size
    sent = results["cost"]["bytes_up"] / 6  # two rounds of three clients
    assert sent == results["cost"]["bytes_down"] / 6
    assert 0 <= adapter - sent < 10_000  # the file has a header


def test_the_run_folder_holds_its_config_origin_plan_rounds_scores_and_figures(done: Path, tiny_split: Split):
    config = files.read_json(done / "config.json")
    federation = {"rounds": 2, "clients_per_round": 3, "weighting": "uniform", "failure_limit": 0.5}
    assert config["federation"] == federation
    environment = files.read_json(done / "environment.json")
    assert environment["commit"] == provenance.git_state(Path(fedllm_bench.__file__).resolve().parents[1])[0]
    assert isinstance(environment["dirty"], bool) or environment["commit"] is None
    assert environment["packages"]["torch"].startswith("2.")
    assert len([version for version in environment["packages"].values() if version]) == 10
    assert environment["data"]["split_hash"] == tiny_split.hash
    assert environment["data"]["base_hash"] == base_model.fingerprint(base_model.locate("mini"))
    assert files.read_json(done / "plan.json")["threads"] == 1
    rounds = files.read_jsonl(done / "rounds.jsonl")
    assert [(record["round"], len(record["client_ids"])) for record in rounds] == [(1, 3), (2, 3)]
    assert {path.name for path in (done / "scores").iterdir()} == {
        f"{metric}.{side}.jsonl" for metric in OF_ROWS for side in ("before", "after")
    }
    figures = {path.name: path.read_bytes()[:5] for path in (done / "figures").iterdir()}
    names = {"loss_over_rounds", "mini_exact", "mini_choice", *(f"clients_{metric}" for metric in OF_ROWS)}
    assert figures.keys() == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for name, head in figures.items():
        assert head == (b"\x89PNG\r" if name.endswith("png") else b"<?xml")
    assert not list(done.rglob("*.part"))


def test_plain_peft_loads_the_adapter_with_the_same_heldout_loss(done: Path, tiny_split: Split):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(base_model.locate("mini"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base_model.locate("mini"))
    rows = {(row.client_id, row.row_id): row for row in tiny_split.rows("heldout")[::5]}

    def losses(model: Any) -> dict[tuple[str, str], float]:
        found = {}
        for key, row in rows.items():
            prompt = tokenizer(f"<|user|> {row.prompt}<|assistant|>")["input_ids"]
            completion = tokenizer(f" {row.completion}<|end|>")["input_ids"]
            labels = torch.tensor([[-100] * len(prompt) + completion])
            with torch.no_grad():
                found[key] = float(model(input_ids=torch.tensor([prompt + completion]), labels=labels).loss)
        return found

    for side, model in (("before", base), ("after", None)):
        model = model or PeftModel.from_pretrained(base, done / "adapter").eval()
        scores = files.read_jsonl(done / "scores" / f"heldout.{side}.jsonl")
        ours = {(s["cluster"], s["item_id"]): s["value"] for s in scores if (s["cluster"], s["item_id"]) in rows}
        theirs = losses(model)
        assert ours.keys() == theirs.keys()
        assert len(ours) > 8
        assert [ours[key] for key in rows] == pytest.approx([theirs[key] for key in rows], rel=1e-4)


# --- the second call


def test_a_second_identical_call_shows_the_finished_results_at_once(
    done: Path, out: Path, tiny_split: Split, capsys, monkeypatch
):
    def refuse(*args: object) -> None:
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr("fedllm_bench.pipeline.stages.load_bench", refuse)
    monkeypatch.setattr("fedllm_bench.pipeline.stages.run_cell", refuse)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert cli.main(words("fedavg", tiny_split.folder, out)) == 0
    shown = capsys.readouterr().out
    assert "Finished before" in shown
    assert "heldout" in shown
    assert str(done / "results.json") in shown
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_finished_run_is_shown_without_loading_torch(done: Path, out: Path, tiny_split: Split):
    code = (
        "import sys; from fedllm_bench import cli; from fedllm_bench.common import hardware;"
        "hardware.has_cuda = lambda: False;"  # which asks torch where there is a driver
        "assert cli.main(sys.argv[1:]) == 0; assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, *words("fedavg", tiny_split.folder, out)]
    shown = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(out / "none"), check=True)
    assert "Finished before" in shown.stdout
    assert not shown.stderr


# --- the same run again


def cell_of(split: Split, *more: str, method: str = "fedavg", threads: int = 1, **options: Any) -> Cell:
    config = presets.load("aya", method, "mini", [*TINY, *more], split=str(split.folder), **options)
    return Cell(config, split, Path("runs"), threads)


def test_every_setting_that_changes_results_names_another_folder(
    tiny_split: Split, tiny_folder: Path, tmp_path_factory
):
    same = cell_of(tiny_split)
    other_split = Split(tiny_split.folder, tiny_split.manifest)
    others = [
        cell_of(tiny_split, seed=1),
        cell_of(tiny_split, "local.lr=1e-4"),
        cell_of(tiny_split, "federation.rounds=3"),
        cell_of(tiny_split, "evaluation.bootstrap_samples=201"),
        cell_of(tiny_split, metrics="heldout"),
        cell_of(tiny_split, model=str(tiny_folder)),
        cell_of(tiny_split, method="fedprox"),
        cell_of(tiny_split, "method.mu=0.5", method="fedprox"),
        cell_of(tiny_split, method="local"),
    ]
    folders = [cell.folder for cell in (same, *others)]
    assert len(set(folders)) == len(folders) == 10
    assert cell_of(other_split, threads=2).folder == same.folder  # where and how it is computed is no setting


def test_a_model_is_named_by_its_content_not_by_its_place(tiny_split: Split, tiny_folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    first = cell_of(tiny_split, model=str(tiny_folder)).folder
    assert cell_of(tiny_split, model=str(copy)).folder == first
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert cell_of(tiny_split, model=str(copy)).folder != first


# --- methods and the baseline


@pytest.mark.parametrize("method", sweep(METHODS, *(name for name in UNLIKE if name != "dp_fedavg")))
def test_every_method_runs(method: str, tiny_split: Split, less: tuple[str, ...], tmp_path: Path, capsys):
    folder = run(method, tiny_split.folder, tmp_path, *less)
    results = files.read_json(folder / "results.json")
    check_results(results)
    assert len(METHODS) >= 10
    assert results["metrics"]["heldout"]["difference"]["mean"] != 0  # something was trained
    kind = METHODS[method]
    assert (results["metrics"]["heldout"]["local"] is None) == trains_alone(kind)
    assert (results["cost"]["bytes_up"] == 0) == (not kind.sends)
    assert (folder / "adapter").is_dir() != trains_alone(kind)
    assert (folder / "adapters").is_dir() == kind.personal
    assert method in capsys.readouterr().out


def test_local_trains_each_sampled_client_alone(tiny_split: Split, less: tuple[str, ...], tmp_path: Path):
    folder = run("local", tiny_split.folder, tmp_path, *less)
    results = files.read_json(folder / "results.json")
    sampled = results["data"]["local_clients"]
    assert len(sampled) == 2
    adapters = {path.name: path / "adapter_model.safetensors" for path in (folder / "adapters").iterdir()}
    assert adapters.keys() == set(sampled)
    assert len({path.read_bytes() for path in adapters.values()}) == 2
    trained = {client for record in files.read_jsonl(folder / "rounds.jsonl") for client in record["client_ids"]}
    assert trained == set(sampled)
    scored = {score["cluster"] for score in files.read_jsonl(folder / "scores" / "heldout.after.jsonl")}
    assert scored == set(sampled)


def test_the_baseline_is_run_once_for_all_methods_of_a_seed(
    tiny_split: Split, less: tuple[str, ...], tmp_path: Path, monkeypatch
):
    trained: list[str] = []
    from fedllm_bench.pipeline import stages

    real = stages.run_rounds

    def counted(run_: Any, params: Any) -> Any:
        trained.append(run_.config.method.name)
        return real(run_, params)

    monkeypatch.setattr(stages, "run_rounds", counted)
    folders = [run(m, tiny_split.folder, tmp_path, *less) for m in ("fedavg", "fedprox", "local")]
    assert sorted(trained) == ["fedavg", "fedprox", "local"]
    fedavg, fedprox, local = (files.read_json(folder / "results.json") for folder in folders)
    heldout = [results["metrics"]["heldout"] for results in (fedavg, fedprox, local)]
    assert heldout[0]["local"] == heldout[1]["local"] == heldout[2]["after"]
    assert heldout[0]["after"] != heldout[1]["after"]
    assert fedavg["data"]["local_clients"] == local["data"]["local_clients"]


@pytest.mark.parametrize(
    ("client_id", "folder"),
    [
        ("user-001", "user-001"),
        ("0a1b" * 16, "0a1b" * 16),
        ("0a1b" * 16 + "c", "c000007"),
        ("../up", "c000007"),
        ("Anna", "c000007"),  # two that differ by case alone would be one folder on some systems
        (".hidden", "c000007"),
        ("dot.", "c000007"),
        ("a b", "c000007"),
        ("", "c000007"),
    ],
)
def test_an_adapters_folder_is_named_by_its_client_where_that_is_safe(client_id: str, folder: str):
    assert folder_name(client_id, 7) == folder
