"""`fedllm-bench merge`: a plain model with the logits of base and adapter, and one line for what cannot be merged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from bench_runs import assert_refused, quick, run
from merged_models import IDS, cli_merge, logits

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.merging import open_trained
from fedllm_bench.training.checkpoint import load_server

MORE = ("--metrics", "heldout", "--set", "lora.rank=4", "--set", "lora.alpha=8", "--set", "evaluation.local_clients=2")


@pytest.fixture(scope="module")
def runs(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FedAvg, and with it the baseline `local`, both on the tiny model."""
    out = tmp_path_factory.mktemp("runs")
    with quick():
        run("fedavg", tiny_split.folder, out, "--model", str(tiny_folder), *MORE)
    return out


@pytest.fixture
def shared(runs: Path) -> Path:
    return next((runs / "mini-aya" / "fedavg").iterdir())


@pytest.fixture
def alone(runs: Path) -> Path:
    return next((runs / "mini-aya" / "local").iterdir())


def test_the_merged_model_has_the_logits_of_base_and_adapter(shared, tiny_folder, tiny_model, tmp_path, capsys):
    from transformers import AutoTokenizer

    out = tmp_path / "merged"
    assert cli.main(["merge", str(shared), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    ours, expected = logits(out), logits(tiny_folder, shared / "adapter")
    assert torch.allclose(ours, expected, atol=1e-4)
    assert not torch.allclose(expected, logits(tiny_folder), atol=1e-2)  # the adapter does something
    server = load_server(shared / "checkpoint")
    assert server is not None
    with tiny_model.using(server.params):
        assert torch.allclose(ours, tiny_model.base(input_ids=IDS).logits, atol=1e-4)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert AutoTokenizer.from_pretrained(out).chat_template == template_text("mini")
    about = files.read_json(out / "merged_from.json")
    assert (about["method"], about["client"], about["run"]) == ("fedavg", None, shared.name)
    assert not list(tmp_path.glob("*.part"))


def test_a_run_from_a_starting_adapter_is_merged_with_both(shared, tiny_folder, tiny_split, tmp_path):
    start = shared / "adapter"
    with quick():
        words = ("--model", str(tiny_folder), "--set", f"model.adapter={start}", *MORE)
        run("fedavg", tiny_split.folder, tmp_path / "runs", *words)
    second = next((tmp_path / "runs" / "mini-aya" / "fedavg").iterdir())
    cli_merge(shared, tmp_path / "first")
    cli_merge(second, tmp_path / "both")
    ours = logits(tmp_path / "both")
    assert torch.allclose(ours, logits(tmp_path / "first", second / "adapter"), atol=1e-4)
    assert not torch.allclose(ours, logits(tmp_path / "first"), atol=1e-2)
    assert not torch.allclose(ours, logits(tiny_folder, second / "adapter"), atol=1e-2)


def test_under_local_one_client_is_chosen_by_id(alone, tiny_folder, tmp_path):
    known = sorted(path.name for path in (alone / "adapters").iterdir())
    assert len(known) == 2
    for client in known:
        out = tmp_path / client
        assert cli.main(["merge", str(alone), "--client", client, "--out", str(out)]) == 0
        assert torch.allclose(logits(out), logits(tiny_folder, alone / "adapters" / client), atol=1e-4)
        assert files.read_json(out / "merged_from.json")["client"] == client
    assert not torch.allclose(*(logits(tmp_path / client) for client in known), atol=1e-3)


def test_an_id_that_cannot_name_a_folder_is_found_by_its_number(alone, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(alone, copy)
    name = sorted(path.name for path in (copy / "adapters").iterdir())[0]
    records = files.read_jsonl(copy / "rounds.jsonl")
    (number,) = {k for r in records for k, client in zip(r["clients"], r["client_ids"], strict=True) if client == name}
    (copy / "adapters" / name).rename(copy / "adapters" / f"c{number:06d}")
    renamed = [{**r, "client_ids": [c.replace(name, "A/B c") for c in r["client_ids"]]} for r in records]
    files.write_jsonl(copy / "rounds.jsonl", renamed)
    assert open_trained(copy, "A/B c").adapter.name == f"c{number:06d}"


def test_what_cannot_be_merged_is_one_line(shared, alone, tmp_path, capsys):
    def refused(folder: Path, *words: str, expected: str) -> None:
        assert_refused(["merge", str(folder), "--out", str(tmp_path / "out"), *words], tmp_path, capsys, expected)
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "nothing", expected="is no run folder")
    refused(alone, expected="choose one: --client ID")
    refused(alone, "--client", "nobody", expected="no client with an adapter 'nobody'")
    both = tmp_path / "both"
    shutil.copytree(alone, both)
    shutil.copytree(shared / "adapter", both / "adapter")
    refused(both, "--client", "nobody", expected="(or global, the adapter of unseen users)")
    refused(shared, "--client", "user-001", expected="all clients share one adapter")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(shared, unfinished)
    shutil.rmtree(unfinished / "adapter")
    refused(unfinished, expected="has not trained to its end")


def test_an_existing_folder_and_another_base_are_refused(shared, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists; give a new folder"):
        cli_merge(shared, tmp_path / "mine")
    monkeypatch.setattr("fedllm_bench.config.base_model.fingerprint", lambda folder: "another")
    with pytest.raises(UserError, match="its files are not those that"):
        cli_merge(shared, tmp_path / "new")
    assert not (tmp_path / "new").exists()
