"""Runs of the command on an emulator: two scores for each metric, and what is done with what they leave."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import make_folder
from bench_runs import assert_refused, outcome, quick, run, words
from merged_models import logits
from offsite_models import IDS, load_offsite

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.subjects import read_adapter, subject_of_run
from fedllm_bench.mini.dataset import build_mini_aya
from fedllm_bench.mini.users import Population
from fedllm_bench.results.schema import results_of
from fedllm_bench.runs.folder import RunFolder
from fedllm_bench.runs.offsite.public_rows import check_public
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.model.lora_model import load_model
from fedllm_bench.training.offsite.loading import load_for

ENDS = ("offsite.variant=fedot", "offsite.left=1", "offsite.right=1", "offsite.drop=0.5")
ALIGNED = ("offsite.steps=2", "offsite.lr=1e-3", "local.lr=3e-3", "local.lr_end=1e-3")


def given(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "llama", "llama", layers=6)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    population = Population(seed=9, num_users=3, num_below_cut=1, num_names=8)
    return build_mini_aya(population, tmp_path_factory.mktemp("splits") / "public")


@pytest.fixture(scope="module")
def finished(folder, public, tiny_split, tmp_path_factory) -> Path:
    """A run of LoRA on both ends, with questions that are answered in words too."""
    out = tmp_path_factory.mktemp("runs")
    more = ("--model", str(folder), "--metrics", "heldout,mini_exact", *given(*ENDS, *ALIGNED))
    with quick():
        return run("fedavg", tiny_split.folder, out, *more, *given(f"offsite.public={public.folder}"))


@pytest.mark.slow
def test_each_metric_has_two_scores_both_also_before_training(finished, folder, public, tiny_split):
    results = files.read_json(finished / "results.json")
    found = results_of(results).offsite
    assert found is not None
    assert (found.variant, found.num_layers, found.kept) == ("fedot", 6, (0, 1, 4, 5))
    assert found.public is not None
    assert found.public.num_rows + found.public.num_left_out == sum(c.train for c in public.manifest.clients)
    assert [told.round for told in found.alignments] == [1]
    assert found.metrics.keys() == results_of(results).metrics.keys()
    whole, small = results["metrics"]["heldout"], results["offsite"]["metrics"]["heldout"]
    means = [entry[side]["mean"] for entry in (whole, small) for side in ("before", "after")]
    assert len({round(mean, 6) for mean in means}) == 4
    assert whole["before"]["n"] == small["before"]["n"]
    rounds = files.read_jsonl(finished / "rounds.jsonl")
    assert {record["bytes_up"] for record in rounds} == {3 * found.adapter_bytes}
    alone = next((finished.parents[1] / "local").iterdir())
    assert files.read_json(alone / "results.json")["offsite"]["kept"] == [0, 1, 4, 5]


@pytest.mark.slow
def test_what_it_leaves_is_an_adapter_for_the_whole_model(finished, folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config, server = RunFolder(finished).config, load_server(finished / "checkpoint")
    assert server is not None
    subject = subject_of_run(finished, None)
    model = load_for(config.model, config.lora, config.offsite)
    with model.using(server.params):
        plugged = model.base(input_ids=IDS).logits
    plain = load_model(subject.model, subject.lora)
    tree = read_adapter(finished / "adapter", plain, subject.lora.rank)
    with plain.using(tree):
        assert torch.allclose(plain.base(input_ids=IDS).logits, plugged, rtol=0, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(finished / "adapter")).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(input_ids=IDS).logits, plugged, rtol=0, atol=1e-5)
    with quick():
        assert cli.main(["merge", str(finished), "--out", str(tmp_path / "merged")]) == 0
    assert torch.allclose(logits(tmp_path / "merged"), plugged, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_page_and_the_terminal_show_both(finished, capsys):
    assert cli.main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Plug-in and emulator" in page
    config, out = files.read_json(finished / "config.json"), finished.parents[2]
    more = ("--model", config["model"]["name"], "--metrics", "heldout,mini_exact", *given(*ENDS, *ALIGNED))
    capsys.readouterr()
    with quick():
        assert cli.main(words("fedavg", Path(config["split"]), out, *more,
                              *given(f"offsite.public={config['offsite']['public']}"))) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "Finished before; nothing to do" in shown
    assert "on the emulator" in shown
    assert "clients train 2 of 6 layers on an emulator of 2 of the other 4" in " ".join(shown.split())


@pytest.mark.slow
def test_a_board_does_not_take_it(finished, tmp_path, capsys):
    command = ["submit", str(finished), "--team", "T", "--contact", "a@b.org", "--tuning", "none", "--allow-dirty"]
    assert_refused([*command, "--out", str(tmp_path / "x")], tmp_path / "x", capsys, "no track is of offsite tuning")


@pytest.mark.slow
def test_whole_layers_under_fedbiot_leave_a_plain_model(folder, public, tiny_split, tmp_path, capsys):
    settings = ("offsite.variant=fedbiot", "offsite.right=2", "offsite.drop=0.5", "offsite.steps=3")
    settings += ("offsite.round_steps=1", "offsite.lr=1e-3", f"offsite.public={public.folder}")
    more = ("--model", str(folder), "--metrics", "heldout", *given(*settings, "model.trainable=full", "local.lr=1e-3"))
    with quick():
        done = run("fedadam", tiny_split.folder, tmp_path / "runs", *more, *given("local.lr_end=1e-4"))
    server: Any = load_server(done / "checkpoint")
    model = load_offsite(folder, "full", left=0, right=2, variant="fedbiot")
    with model.using(server.params):
        plugged = model.base(input_ids=IDS).logits
    assert torch.allclose(logits(done / "model"), plugged, rtol=0, atol=1e-5)
    assert_refused(
        ["merge", str(done), "--out", str(tmp_path / "m")], tmp_path / "m", capsys, "it trained whole layers"
    )


@pytest.mark.slow
def test_public_rows_are_named_by_their_contents(finished, folder, public, tiny_split, tmp_path):
    """The same rows at another place are the same run."""
    other = tmp_path / "moved"
    shutil.copytree(public.folder, other)
    more = ("--model", str(folder), "--metrics", "heldout,mini_exact", *given(*ENDS, *ALIGNED))
    with quick():
        again = run("fedavg", tiny_split.folder, tmp_path / "runs", *more, *given(f"offsite.public={other}"))
    assert again.name == finished.name
    ours, theirs = outcome(again), outcome(finished)
    assert ours["metrics"] == theirs["metrics"]
    assert ours["offsite"] == theirs["offsite"]


def test_rows_of_the_runs_own_users_are_never_public(folder, tiny_split, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fedllm_bench.training.offsite.loading.load_frozen", None)  # nothing can be loaded
    more = (
        "--model",
        str(folder),
        "--metrics",
        "heldout",
        *given(*ENDS, *ALIGNED, f"offsite.public={tiny_split.folder}"),
    )
    with quick():
        assert cli.main(words("fedavg", tiny_split.folder, tmp_path / "runs", *more)) == 2
    text = capsys.readouterr().err
    assert "no row of it can be used" in text
    assert len(text.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").rglob("results.json"))


def test_too_many_layers_are_refused_before_weights_are_loaded(folder, tiny_split, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fedllm_bench.training.offsite.loading.load_frozen", None)  # nothing can be loaded
    settings = ("offsite.variant=fedot", "offsite.left=3", "offsite.right=3", "offsite.steps=0")
    more = ("--model", str(folder), "--metrics", "heldout", *given(*settings))
    with quick():
        assert cli.main(words("fedavg", tiny_split.folder, tmp_path / "runs", *more)) == 2
    assert "has 6 decoder layers, and one at least must be between the ends" in capsys.readouterr().err


def test_a_real_run_must_name_public_rows(tiny_run_config, pair_split):
    config = tiny_run_config("fedavg", *ENDS)
    check_public(config)  # another mini world
    with pytest.raises(UserError, match=re.escape("offsite.public: profile small has no public rows")):
        check_public(replace(config, profile="small"))
    check_public(replace(config, profile="small", offsite=replace(config.offsite, steps=0)))
    pairs = replace(config.offsite, public=str(pair_split.folder))
    with pytest.raises(UserError, match="its task is preference, and it must be sft"):
        check_public(replace(config, offsite=pairs))
    with pytest.raises(UserError, match=r"^offsite.public=/nowhere: no split in"):
        check_public(replace(config, offsite=replace(config.offsite, public="/nowhere")))
    with pytest.raises(UserError, match=r"^offsite.public=~nobody-here/x: no split in"):
        check_public(replace(config, offsite=replace(config.offsite, public="~nobody-here/x")))
