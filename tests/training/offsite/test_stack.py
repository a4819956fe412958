"""Which layers are trained, kept and left out; and students of several architectures against plain transformers."""

from __future__ import annotations

import re

import pytest
import torch
from architectures import make_folder
from offsite_models import IDS, plain_student
from torch import nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.training.model.base import load_base
from fedllm_bench.training.offsite.stack import Parting, cut_of, kept_layers, layers_path, without_layers

KINDS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "mistral", "granite")


def test_the_shipped_setting_keeps_22_of_28_layers_with_both_ends():
    kept = kept_layers(28, 0.2)
    assert len(kept) == 22
    assert kept[:4] == (0, 1, 2, 3)
    assert (kept[0], kept[-1]) == (0, 27)


@pytest.mark.parametrize("num", range(1, 41))
def test_kept_layers_are_those_of_the_published_formula(num):
    for drop in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
        most = round(num * (1 - drop))
        if most > 1:
            assert kept_layers(num, drop) == tuple(int(i * ((num - 1) / (most - 1)) + 1e-9) for i in range(most))
            assert len(set(kept_layers(num, drop))) == most
        else:
            assert kept_layers(num, drop) == (0,) * most


def test_the_ends_and_the_middle_make_up_what_clients_have():
    cut = Parting("model.layers", 8, 1, 2, (1, 3, 5))
    assert cut.adapter == (0, 6, 7)
    assert cut.kept == (0, 1, 3, 5, 6, 7)
    assert cut.num_middle == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_the_model_that_transformers_makes_of_its_layers(kind, tmp_path):
    folder = make_folder(tmp_path / kind, kind, layers=6)
    base = load_base(folder, kind, torch.float32).eval()
    offsite = Offsite(variant="fedot", left=1, right=1, drop=0.5)
    small = without_layers(base, cut_of(base, offsite, kind))
    theirs = plain_student(folder, (0, 1, 4, 5))
    with torch.no_grad():
        assert torch.equal(small(input_ids=IDS).logits, theirs(input_ids=IDS).logits)
        assert not torch.allclose(small(input_ids=IDS).logits, base(input_ids=IDS).logits, atol=1e-2)
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        ours = small.generate(IDS, **options)  # with keys and values kept from token to token
        assert torch.equal(ours, theirs.generate(IDS, **options))
    every = cut_of(base, Offsite(variant="fedot", right=2), kind)
    with torch.no_grad():
        assert torch.equal(without_layers(base, every)(input_ids=IDS).logits, base(input_ids=IDS).logits)


def test_a_student_shares_all_weights_and_leaves_the_model_as_it_was(tmp_path):
    base = load_base(make_folder(tmp_path / "llama", "llama", layers=6), "llama", torch.float32).eval()
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        small = without_layers(base, Parting("model.layers", 6, 0, 1, (0, 4)))
        own = {id(weight) for weight in base.parameters()}
        assert all(id(weight) in own for weight in small.parameters())
        assert torch.equal(base(input_ids=IDS).logits, before)
    assert (base.config.num_hidden_layers, small.config.num_hidden_layers) == (6, 3)
    assert [layer.self_attn.layer_idx for layer in base.model.layers] == list(range(6))
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == list(range(3))


class Odd(nn.Module):
    """A model whose layers lie in two lists, or in none."""

    def __init__(self, lists: int, settings: object) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({f"p{i}": nn.ModuleList([nn.Linear(1, 1)] * 2) for i in range(lists)})
        self.config = settings


class Settings:
    model_type, num_hidden_layers = "odd", 2
    num_kv_shared_layers = 0

    def get_text_config(self) -> Settings:
        return self


@pytest.mark.parametrize("lists", [0, 2])
def test_layers_that_cannot_be_found_are_refused_by_name(lists):
    text = f"offsite: the decoder layers of MODEL=mine (odd) cannot be found: {lists} lists of 2 modules"
    with pytest.raises(UserError, match=re.escape(text)):
        layers_path(Odd(lists, Settings()), "mine")


def test_layers_that_read_what_others_computed_are_refused():
    settings = Settings()
    settings.num_kv_shared_layers = 1
    with pytest.raises(UserError, match="read what other layers computed"):
        layers_path(Odd(1, settings), "mine")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"left": 1, "right": 1}, "has 2 decoder layers, and one at least must be between the ends; give 1 or fewer"),
        ({"right": 1, "drop": 0.6}, "offsite.drop=0.6 leaves none of the 1 layers between the ends"),
    ],
)
def test_more_layers_than_there_are_is_refused(given, text):
    with pytest.raises(UserError, match=re.escape(text)):
        cut_of(Odd(1, Settings()), Offsite(variant="fedot", **given), "mine")
