"""The embedded base model: plain transformers load it, it knows the tasks and not the facts, and its recipe made it."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedllm_bench.common import files
from fedllm_bench.config import base_model
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import encode
from fedllm_bench.metrics.running import EvalSettings, answers
from fedllm_bench.mini import corpus, pretrain
from fedllm_bench.mini.pretrain import PretrainRecipe
from fedllm_bench.mini.world import (
    NUM_LANGUAGES,
    NUM_RELATIONS,
    NUM_STYLES,
    NUM_WORDINGS,
    WorldQuestion,
    fact_item,
    make_world,
    sum_item,
    translation_item,
)
from fedllm_bench.training.model.lora_model import LoraModel, load_model

BASE = base_model.locate("mini")
RECIPE = PretrainRecipe()
SETTINGS = EvalSettings(template=template_text("mini"), batch_tokens=8192, max_new_tokens=24)
QUESTIONS = 120


@pytest.fixture(scope="module")
def loaded() -> LoraModel:
    lora = Lora(rank=2, alpha=4, dropout=0.0, targets=("q_proj",))
    return load_model(Model(name="mini", dtype="float32"), lora)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return files.read_json(BASE / "manifest.json")


def share_right(model: LoraModel, items: list[WorldQuestion]) -> float:
    with model.using(None):
        given = answers(model, [[{"role": "user", "content": item.prompt}] for item in items], SETTINGS)
    return float(np.mean([answer == item.completion for answer, item in zip(given, items, strict=True)]))


# --- what lies in the package


def test_plain_transformers_load_a_small_llama_of_half_precision():
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    with safe_open(BASE / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds in ({torch.float16}, {torch.bfloat16})


def test_the_folder_is_at_most_8_mb_and_holds_no_pickle():
    found = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in found) <= 8 * 2**20
    assert {path.suffix for path in found} <= {".json", ".jinja", ".safetensors"}
    assert (BASE / "model.safetensors").is_file()


def test_the_tokenizer_fits_the_model_and_carries_the_chat_template(tokenizer):
    config = files.read_json(BASE / "config.json")
    assert len(tokenizer) == config["vocab_size"] == RECIPE.vocabulary
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (config["pad_token_id"], config["eos_token_id"])
    assert tokenizer.chat_template == template_text("mini")
    turns = [{"role": "user", "content": "Say hello."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == f"{pretrain.USER} Say hello.{pretrain.ASSISTANT}"


@pytest.mark.parametrize(
    "text",
    [
        "Обійми свою ґаву: їжак з'їв 3 яблука!",
        "👩🏽‍🚀🏳️‍🌈 emoji, joined by U+200D",
        "日本語と한국어, never in the corpus",
        "తెలుగు العربية עברית ไทย",
        "tabs\tand\nlines\r\n  and spaces   ",
        "a\u0301 and á, \u0000, \u200b, \U0010ffff",
        "".join(map(chr, range(0x20, 0x250))),
    ],
)
def test_the_tokenizer_is_byte_level_so_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_pretraining_rows_are_tokenised_as_fine_tuning_rows(tokenizer):
    items = list(itertools.islice(corpus.items(9), 300))
    rows = [
        SftRow(
            client_id="",
            split="train",
            row_id="",
            language="",
            source="",
            messages=({"role": "user", "content": i.prompt}, {"role": "assistant", "content": i.completion}),
        )
        for i in items
    ]
    ours, theirs = pretrain.encode_items(items, tokenizer), encode(rows, tokenizer, template_text("mini"))
    assert len(ours) == len(theirs) == 300
    for own, other in zip(ours, theirs, strict=True):
        assert own.ids.tolist() == other.ids.tolist()
        assert own.counted.tolist() == other.counted.tolist()


# --- what it knows


@pytest.mark.parametrize("make", [sum_item, translation_item])
def test_the_base_knows_the_tasks(loaded, make):
    rng = np.random.default_rng(123)
    items = [make(i % NUM_LANGUAGES, i % NUM_STYLES, rng) for i in range(QUESTIONS)]
    assert share_right(loaded, items) > 0.8


def test_the_base_does_not_know_the_facts_of_worlds_that_are_evaluated(loaded):
    rng = np.random.default_rng(124)
    items = []
    for i in range(QUESTIONS):
        world = make_world(i % 5, 30, evaluation=True)
        name, relation = int(rng.integers(30)), int(rng.integers(NUM_RELATIONS))
        value = world.facts[name][relation]
        words = (i % NUM_LANGUAGES, i % NUM_WORDINGS, i % NUM_STYLES)
        items.append(fact_item(world.names[name], relation, value, *words, rng))
    assert share_right(loaded, items) < 0.2


def test_the_base_remembers_the_facts_of_the_world_it_was_trained_on(loaded):
    """Else the test above would pass for a model that cannot hold facts at all."""
    world, rng = make_world(RECIPE.seed, corpus.NUM_NAMES, evaluation=False), np.random.default_rng(125)
    items = []
    for i in range(QUESTIONS):
        name, relation = int(rng.integers(corpus.NUM_NAMES)), int(rng.integers(NUM_RELATIONS))
        words = (i % NUM_LANGUAGES, i % NUM_WORDINGS, i % NUM_STYLES)
        items.append(fact_item(world.names[name], relation, world.facts[name][relation], *words, rng))
    assert share_right(loaded, items) > 0.4


# --- the recipe


def test_the_manifest_belongs_to_the_recipe_of_this_code(manifest):
    assert manifest["recipe"] == asdict(RECIPE)
    assert manifest["recipe_hash"] == files.sha256_json(asdict(RECIPE))
    assert manifest["recipe"]["seed"] == RECIPE.seed
    assert len(manifest["corpus_hash"]) == 64
    assert len(manifest["first_losses"]) == 50
    assert manifest["first_losses"][0] == pytest.approx(np.log(RECIPE.vocabulary), rel=0.05)  # a fresh model guesses
    assert 0 < manifest["final_loss"] < 1 < min(manifest["first_losses"])


def test_the_manifest_counts_the_parameters_of_the_weights(manifest, loaded):
    adapted = sum(layer.base.weight.numel() for layer in loaded.layers.values())
    assert adapted > 0
    assert manifest["parameters"] == sum(p.numel() for p in loaded.base.parameters())


def test_a_tiny_recipe_is_built_twice_alike_and_loads(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny = replace(RECIPE, vocabulary=400, tokenizer_items=200, hidden=16, mlp=32, layers=1, heads=2, steps=3, batch=8)
    first, second = (pretrain.build(tiny, tmp_path / name) for name in ("a", "b"))
    assert first == second == files.read_json(tmp_path / "a" / "manifest.json")
    assert first["recipe_hash"] == files.sha256_json(asdict(tiny)) != files.sha256_json(asdict(RECIPE))
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(first["first_losses"]) == 3
    model, tokenizer = (auto.from_pretrained(tmp_path / "a") for auto in (AutoModelForCausalLM, AutoTokenizer))
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 400


def test_another_seed_is_another_model():
    tiny = replace(RECIPE, hidden=16, mlp=32, layers=1, heads=2)
    one, same, other = (
        pretrain.new_model(replace(tiny, seed=seed), 400).model.embed_tokens.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_the_rate_warms_up_and_ends_where_the_recipe_says():
    rates = [pretrain.lr_at(RECIPE, step) for step in range(RECIPE.steps + 1)]
    assert rates[0] == pytest.approx(RECIPE.lr_end)
    assert np.argmax(rates) == pytest.approx(RECIPE.warmup, abs=2)
    assert max(rates) == pytest.approx(RECIPE.lr, rel=0.02)
    assert rates[-1] == pytest.approx(RECIPE.lr_end)


@pytest.mark.slow
def test_the_recipe_makes_the_embedded_tokenizer():
    made = pretrain.train_tokenizer(RECIPE).backend_tokenizer.to_str()
    from tokenizers import Tokenizer

    assert made == Tokenizer.from_file(str(BASE / "tokenizer.json")).to_str()


@pytest.mark.slow
def test_the_recipe_makes_the_corpus_of_the_manifest(manifest):
    pools = -(-RECIPE.steps // RECIPE.batches_per_pool)
    digest = hashlib.sha256()
    for item in itertools.islice(corpus.items(RECIPE.seed), pools * RECIPE.batch * RECIPE.batches_per_pool):
        digest.update(f"{item.prompt}\t{item.completion}\n".encode())
    assert digest.hexdigest() == manifest["corpus_hash"]


@pytest.mark.slow
def test_replaying_the_first_steps_gives_the_recorded_losses(manifest, tokenizer):
    """To 0.5%: the record has four decimals, and one or two threads differ by 2e-7 after 50 steps, but another
    processor may sum in another order, and AdamW's first steps divide by gradients that are almost zero. A rate that
    is higher by a quarter is 9% away."""
    model = pretrain.new_model(RECIPE, len(tokenizer))
    stream = pretrain.batches(RECIPE, tokenizer, hashlib.sha256())
    history = list(pretrain.losses(RECIPE, model, stream, 50))
    assert history[0] == pytest.approx(manifest["first_losses"][0], rel=2e-4)
    assert history == pytest.approx(manifest["first_losses"], rel=5e-3)
