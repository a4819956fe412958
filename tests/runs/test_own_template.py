"""A run with the own chat template of its base: trained, scored, answered and merged with one; or refused in a line."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_runs import assert_refused, quick, run, words
from makers import MAKERS, tokenizer_by

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import Turn
from fedllm_bench.data.templates.sources import source_for
from fedllm_bench.data.tokens import encode_prompts
from fedllm_bench.metrics.running import EvalSettings, answers, end_tokens

MORE = ("--metrics", "heldout", "--set", "lora.rank=4", "--set", "evaluation.local_clients=2")
OWN = ("--set", "data.template=model")
QUESTION: list[Turn] = [{"role": "user", "content": "Name a colour."}]


def base_by(maker: str, tiny_folder: Path, folder: Path, template: str | None = None) -> Path:
    """The tiny model with the tokenizer of a maker, whose end token alone it names for generation."""
    shutil.copytree(tiny_folder, folder)
    tokenizer = MAKERS[maker].make()
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    settings = files.read_json(folder / "generation_config.json")
    files.write_json(folder / "generation_config.json", {**settings, "eos_token_id": tokenizer.eos_token_id})
    return folder


@pytest.fixture(scope="module")
def trained(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a base in the style of Gemma: its answers end with another mark than the tokenizer's end token."""
    out = tmp_path_factory.mktemp("own")
    base = base_by("Gemma", tiny_folder, out / "base")
    with quick():
        return run("fedavg", tiny_split.folder, out / "runs", "--model", str(base), *MORE, *OWN)


def test_a_merged_model_asks_as_it_was_trained_and_stops(trained, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    assert cli.main(["merge", str(trained), "--out", str(tmp_path / "merged")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    source = source_for("model", tokenizer_by("Gemma"), "gemma")
    assert tokenizer.chat_template == source
    asked = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert [asked] == encode_prompts([QUESTION], tokenizer_by("Gemma"), source)
    ends = GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id
    assert tokenizer.convert_ids_to_tokens(ends) == ["<eos>", "<end_of_turn>"]


def test_a_run_and_its_merged_model_answer_alike(trained, tmp_path):
    out = tmp_path / "answers"
    more = ["--metrics", "harmless", "--limit", "2", "--max-new-tokens", "4"]
    with quick():
        assert cli.main(["merge", str(trained), "--out", str(tmp_path / "merged")]) == 0
        assert cli.main(["answer", str(trained), "--out", str(out), *more]) == 0
        assert cli.main(["answer", "--model", str(tmp_path / "merged"), "--out", str(tmp_path / "b"), *more]) == 0
    ours = files.read_jsonl(out / "answers" / "harmless" / "global.jsonl")
    theirs = files.read_jsonl(tmp_path / "b" / "answers" / "harmless" / "base.jsonl")
    assert [record["turns"] for record in ours] == [record["turns"] for record in theirs]
    plans = [files.read_json(place / "answers" / "harmless" / "plan.json") for place in (out, tmp_path / "b")]
    assert plans[0]["template"] == plans[1]["template"]
    assert plans[0]["template"]["name"] == "model"


def test_an_answer_is_what_stands_before_the_mark_that_ends_it():
    """Though the mark is neither the tokenizer's end token nor named for generation."""
    tokenizer = tokenizer_by("Gemma")
    said = tokenizer("Blue.<end_of_turn>\nRed.", add_special_tokens=False)["input_ids"]
    asked: dict[str, Any] = {}

    def generate(**options: Any) -> torch.Tensor:
        asked.update(options)
        return torch.cat([options["input_ids"], torch.tensor([said])], dim=1)

    base = SimpleNamespace(
        generate=generate,
        generation_config=SimpleNamespace(eos_token_id=None),
        get_output_embeddings=torch.nn.Identity,
    )
    model: Any = SimpleNamespace(base=base, tokenizer=tokenizer, device="cpu")
    source = source_for("model", tokenizer, "gemma")
    settings = EvalSettings(template=source, batch_tokens=64, max_new_tokens=20)
    assert answers(model, [QUESTION], settings) == ["Blue."]
    assert tokenizer.convert_ids_to_tokens(asked["eos_token_id"]) == ["<eos>", "<end_of_turn>"]
    base.generation_config.eos_token_id = [4, 1]
    assert end_tokens(model, source) == {1, 4, 5}
    assert end_tokens(model) == {1, 4}


@pytest.mark.parametrize("engine", ["inprocess", "trl"])
def test_both_engines_train_on_the_same_tokens(engine, trained, tiny_split, tmp_path):
    base = trained.parents[3] / "base"
    with quick():
        folder = run(
            "fedavg", tiny_split.folder, tmp_path, "--model", str(base), "--engine", engine, *MORE, *OWN,
            "--set", "federation.rounds=1",
        )  # fmt: skip
    losses = [record["losses"] for record in files.read_jsonl(folder / "rounds.jsonl")]
    expected = [record["losses"] for record in files.read_jsonl(trained / "rounds.jsonl")][:1]
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(expected[0]), atol=1e-4)


MARKS = "{% for m in messages %}<start_of_turn>{{ m.content }}<end_of_turn>{% endfor %}"
BAD = {
    "marks of another model": (None, "data.template=mini", "writes <|user|>, which is no token of MODEL="),
    "no end": (MARKS.replace("<end_of_turn>", ""), "data.template=model", "--set data.template=plain"),
    "it raises": ("{{ raise_exception('never') }}", "data.template=model", "(never)", "--set data.template=plain"),
    "it is no template": ("{% if %}", "data.template=model", "--set data.template=plain"),
    "no such template": (None, "data.template=modle", "data.template", "'modle'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_template_that_does_not_do_is_one_line_before_anything_is_computed(
    case, tiny_folder, tiny_split, tmp_path, capsys, monkeypatch
):
    template, setting, *expected = BAD[case]
    base = base_by("Gemma", tiny_folder, tmp_path / "base", template)
    monkeypatch.setattr("fedllm_bench.runs.offsite.parting.load_model", None)  # not even the weights are read
    with quick():
        argv = words("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(base), *MORE, "--set", setting)
        assert_refused(argv, tmp_path / "runs", capsys, *expected)


def test_answers_are_not_asked_with_marks_of_another_model(tiny_folder, tmp_path, capsys):
    base = base_by("Gemma", tiny_folder, tmp_path / "base")
    argv = ["answer", "--model", str(base), "--template", "mini", "--metrics", "harmless", "--out", str(tmp_path / "a")]
    assert_refused(argv, tmp_path, capsys, "writes <|user|>, which is no token of MODEL=", "--template model")
    assert not list(tmp_path.glob("a/**/*.jsonl"))
