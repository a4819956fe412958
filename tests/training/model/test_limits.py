"""What a model cannot take is said at load, in one line: positions, token ids, numbers beyond its type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import assert_refused, quick, run, words
from safetensors.torch import load_file, save_file

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.quality.quality_model import QualityModel, open_reader
from fedllm_bench.training.model import limits
from fedllm_bench.training.model.lora_model import LoraModel, load_model

HELDOUT = ("--metrics", "heldout")
# architectures that look positions up in a table, and one LoRA target of each
TABLES = {"gpt2": "c_attn", "opt": "q_proj", "gpt_neo": "q_proj", "gptj": "q_proj", "biogpt": "q_proj"}
OTHERS = {"bloom": "query_key_value", "gpt_neox": "query_key_value", "mamba": "in_proj"}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 96},
    "gptj": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 96, "rotary_dim": 8},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 32},
    "gpt_neo": {"num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
}
COMMON = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 96}


def load(folder: Path, target: str = "q_proj", dtype: str = "float32") -> LoraModel:
    lora = Lora(rank=4, alpha=8, dropout=0.0, targets=(target,))
    return load_model(Model(name=str(folder), dtype=dtype), lora)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model with 96 positions, where its architecture has a number of them."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model.locate("mini"))

    def one(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / kind
        sizes = SIZES.get(kind, {}) if "n_embd" in SIZES.get(kind, {}) else {**COMMON, **SIZES.get(kind, {})}
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer) + 8, **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    made: dict[str, Path] = {}
    return lambda kind: made.setdefault(kind, one(kind)) if kind not in made else made[kind]


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_positions_is_found_and_ends_where_the_model_does(kind: str, make: Any) -> None:
    model = load(make(kind), TABLES[kind])
    assert limits.table_of(model.base) == limits.context_of(model.base) == 96
    with torch.no_grad():
        model.base(input_ids=torch.full((1, 96), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model.base(input_ids=torch.full((1, 97), 5))
    limits.check_length(model.base, kind, 96)
    with pytest.raises(UserError, match=f"local.sequence_length=97 is more than the 96 positions of MODEL={kind}; "
                                        "--set local.sequence_length=96"):  # fmt: skip
        limits.check_length(model.base, kind, 97)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_without_a_table_goes_on(kind: str, make: Any) -> None:
    model = load(make(kind), OTHERS[kind])
    assert limits.table_of(model.base) is None
    with torch.no_grad():
        assert torch.isfinite(model.base(input_ids=torch.full((1, 97), 5)).logits).all()
    limits.check_length(model.base, kind, 97)


def test_bench_refuses_a_longer_sequence_before_it_trains(
    make: Any, tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--model", str(make("gpt2")), "--set", "lora.targets=c_attn", *HELDOUT)
    argv = words("fedavg", tiny_split.folder, tmp_path, *more)
    with quick():
        assert_refused(
            argv, tmp_path, capsys, "is more than the 96 positions of MODEL=", "--set local.sequence_length=96"
        )
    with quick():
        run("fedavg", tiny_split.folder, tmp_path, *more, "--set", "local.sequence_length=96")


def test_pairs_are_held_to_the_same_positions(
    make: Any, pair_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(make("gpt2")), "--set", "lora.targets=c_attn")
    argv = words("fedavg", pair_split.folder, tmp_path, *model)
    argv[1] = "chatbot_pa"
    with quick():
        assert_refused(
            argv, tmp_path, capsys, "is more than the 96 positions of MODEL=", "--set local.sequence_length=96"
        )


def test_the_mini_worlds_questions_are_held_to_them_too(
    make: Any, tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(make("gpt2")), "--set", "lora.targets=c_attn", "--set", "local.sequence_length=96")
    more = ("--metrics", "heldout,mini_exact", "--set", "evaluation.max_new_tokens=90")
    argv = words("fedavg", tiny_split.folder, tmp_path, *model, *more)
    with quick():
        assert_refused(
            argv, tmp_path, capsys, "METRICS=mini_exact: a question and its answer take up to", "96 positions"
        )


def test_beyond_what_a_rotary_model_was_made_for_a_line_says_so_once(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = edited(tiny_folder, tmp_path / "short", "config.json", max_position_embeddings=64)
    with quick():
        run("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(folder), *HELDOUT)
    lines = [record.message for record in caplog.records if "max_position_embeddings" in record.message]
    assert len(lines) == 1
    assert f"is more than the 64 positions of MODEL={folder}" in lines[0]
    assert "--set local.sequence_length=64" in lines[0]


def test_a_reader_of_quality_cuts_texts_at_the_positions(make: Any) -> None:
    assert open_reader(QualityModel(str(make("gpt2")), "alpaca"), "cpu").max_tokens == 96


def edited(source: Path, folder: Path, file: str, **changes: object) -> Path:
    shutil.copytree(source, folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_token_id_without_an_embedding_is_refused_though_there_are_few_tokens(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = json.loads((tiny_folder / "tokenizer.json").read_text())
    word = "Ġ5"
    assert word in tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"][word] = 5000
    folder = edited(tiny_folder, tmp_path / "gap", "tokenizer.json", model=tokenizer["model"])
    argv = words("fedavg", tiny_split.folder, tmp_path, "--model", str(folder), *HELDOUT)
    with quick():
        assert_refused(argv, tmp_path, capsys, f"MODEL={folder}: its tokenizer gives '{word}' the id 5000")


def test_more_tokens_than_embeddings_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "more"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<another>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"more tokens \(\d+\) than the model has embeddings \(\d+\)"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "dtype", "advice"),
    [
        (float("nan"), "float32", "not finite in float32; a weight may be damaged"),
        (1e5, "float16", "not finite in float16; --set model.dtype=bfloat16 or float32"),
    ],
)
def test_logits_that_are_no_numbers_name_the_type(
    change: float, dtype: str, advice: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "wild"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = change
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if dtype == "float16":
        assert load(folder).layers  # its numbers are within the range of a wider type
    with pytest.raises(UserError, match=advice):
        load(folder, dtype=dtype)
