"""Folders that were given by a relative path are found again from any other folder, and never looked up on the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bench_runs import assert_refused, folder_of, quick, run, words
from safetensors.torch import load_file, save_file

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.config import presets
from fedllm_bench.data.manifest import Split

MORE = ("--metrics", "heldout", "--set", "lora.rank=4", "--set", "lora.alpha=8")
MODEL = "models/a model"  # with one slash, as an id of the hub


@pytest.fixture(scope="module")
def home(tiny_folder: Path, tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a model, a split and a run below it, whose words were relative paths."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_folder, folder / MODEL)
    shutil.copytree(tiny_split.folder, folder / "splits" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        relative_run("runs")
    return folder


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def made(place: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(folder_of("fedavg", place / "runs"), tmp_path / "run"))


def relative_run(out: str, *more: str) -> Path:
    with quick():
        return run("fedavg", Path("splits/tiny"), Path(out), "--model", MODEL, *MORE, *more).absolute()


def test_a_run_by_relative_paths_is_that_by_absolute_ones_and_is_found_from_anywhere(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("fedavg", place / "runs")
    config = files.read_json(folder / "config.json")
    assert (config["model"]["name"], config["split"]) == (str(place / MODEL), str(place / "splits/tiny"))
    adapter = files.read_json(folder / "adapter" / "adapter_config.json")
    assert adapter["base_model_name_or_path"] == str(place / MODEL)
    monkeypatch.chdir(tmp_path)
    with quick():
        assert run("fedavg", place / "splits/tiny", place / "runs", "--model", str(place / MODEL), *MORE) == folder
        assert "Finished before" in capsys.readouterr().out
        assert cli.main(["merge", str(folder), "--out", "merged"]) == 0
    assert plain_peft(folder / "adapter").allclose(plain_model(tmp_path / "merged"), atol=1e-4)


def test_a_starting_adapter_by_a_relative_path_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder_of("fedavg", place / "runs") / "adapter", place / "first")
    second = relative_run("more", "--set", "model.adapter=first")
    assert files.read_json(second / "config.json")["model"]["adapter"] == str(place / "first")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["merge", str(second), "--out", "merged"]) == 0


def test_what_is_no_folder_stays_as_it_was_given(place: Path) -> None:
    (place / "mini").mkdir(exist_ok=True)
    options = ("model.adapter=none", "model.revision=v1")
    config = presets.load("aya", "fedavg", "mini", options, split="no/split", model="org/name")
    assert (config.model.name, config.model.adapter, config.split) == ("org/name", "none", "no/split")
    assert presets.load("aya", "fedavg", "mini").model.name == "mini"


def test_an_older_run_with_a_relative_path_asks_for_its_folder_and_not_the_hub(
    place: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("config.json", "adapter/adapter_config.json"):
        text = (made / file).read_text()
        assert str(place / MODEL) in text
        (made / file).write_text(text.replace(str(place / MODEL), MODEL))

    def asked(*args: object, **kwargs: object) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    assert cli.main(["merge", str(made), "--out", str(tmp_path / "here")]) == 0  # in its folder it is found
    monkeypatch.chdir(tmp_path)
    argv = ["merge", str(made), "--out", "there"]
    assert_refused(argv, tmp_path / "there", capsys, f"MODEL={MODEL} was a folder below", "go there")


def test_an_adapter_that_cannot_be_merged_leaves_no_model(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(t for name, t in tensors.items() if "lora_B" in name)[0, 0] = torch.nan
    save_file(tensors, path)
    with quick():
        argv = ["merge", str(made), "--out", str(tmp_path / "merged")]
        assert_refused(argv, tmp_path / "merged", capsys, "it cannot be merged (NaNs detected in the merged weights")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob("*.part"))


def test_a_model_that_was_not_written_whole_is_no_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def full(self: object, part: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    for write, expected in ((full, "No space left on device"), (lambda self, part: None, "config.json")):
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", write)
        capsys.readouterr()
        with quick():
            assert cli.main(["merge", str(made), "--out", str(tmp_path / "merged")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
        assert not (tmp_path / "merged").exists()


def test_a_run_in_which_nobody_can_train_is_refused_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    argv = words("fedavg", Path("splits/tiny"), tmp_path, "--model", MODEL, *MORE, "--set", "local.sequence_length=4")
    says = "training rows keep no token of their answer within local.sequence_length=4; raise it"
    with quick():
        assert_refused(argv, tmp_path, capsys, "no client that the schedule chooses can train anything", says)
    assert "keep no token" not in caplog.text  # the refusal says it


def test_where_some_rows_are_too_long_the_run_goes_on(place: Path) -> None:
    folder = relative_run("short", "--set", "local.sequence_length=8")
    cut = files.read_json(folder / "results.json")["data"]["cut"]["train"]
    assert 0 < cut["num_skipped"] < cut["num_rows"]


def plain_model(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def plain_peft(adapter: Path) -> torch.Tensor:
    """By PEFT alone, which finds the base by adapter_config.json."""
    from peft import AutoPeftModelForCausalLM

    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"].startswith("/")
    return logits(AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(4, 28).view(2, 12)).logits
    return found
