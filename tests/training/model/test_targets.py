"""Which layers get LoRA, by name, by PEFT's choice for the architecture, or all linear ones."""

from __future__ import annotations

import pytest
import torch
from architectures import load, make_folder
from tiny import ALL_LINEAR, CPU, random_part, random_tree
from transformers.models.llama.modeling_llama import LlamaMLP

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Lora
from fedllm_bench.training.batches import collate
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.model.adapter import save_adapter
from fedllm_bench.training.model.lora import Masks, attach, detach, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

NEOX = ("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value")
GPT2 = ("c_attn", "c_fc", "c_proj")
OPT = ("fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    return lambda kind: make_folder(tmp_path_factory.mktemp("models") / kind, kind)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [("llama", tuple(sorted(ALL_LINEAR))), ("gpt_neox", NEOX), ("gpt2", GPT2), ("opt", OPT)],
)
def test_all_linear_is_every_linear_layer_of_the_blocks_and_never_the_head(kind, targets, folder_of):
    model = load(folder_of(kind), "all-linear", dtype="float32")
    assert model.targets == targets
    assert len(model.layers) == 2 * len(targets) + 2 * (kind == "gpt2")  # GPT-2 has two c_proj in a block
    head = model.base.get_output_embeddings()
    assert type(head) is torch.nn.Linear
    assert all(layer.base is not head for layer in model.layers.values())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("auto", "q_proj"), r"auto stands alone, but got auto, q_proj; name layers with --set lora.targets=a,b"),
        (("all-linear", "q_proj"), r"all-linear stands alone"),
        (("q_proj", "c_attn"), r"no linear layer is called c_attn; this model has .*gate_proj.*q_proj.*; name layers"),
        (("lm_head",), r"lm_head matches the output head, which stays frozen; this model has down_proj"),
        (("self_attn",), r"PEFT cannot adapt model.layers.0.self_attn"),
        (("embed_tokens",), r"embed_tokens has no LoRA by two matrices"),
    ],
)
def test_wrong_targets_are_refused_in_one_line(targets, message, load_tiny):
    with pytest.raises(UserError, match=message) as caught:
        load_tiny(targets=targets)
    assert "\n" not in str(caught.value)


def test_auto_without_a_choice_of_pefts_says_what_there_is(folder_of):
    with pytest.raises(
        UserError, match=r"no choice for the architecture phi3; this model has .*qkv_proj.*lora.targets=a"
    ):
        load(folder_of("phi3"))


def test_a_model_that_reads_the_weights_of_a_target_is_refused(folder_of):
    """LoRA on such a layer would change nothing: plain PEFT trains it in vain."""
    with pytest.raises(UserError, match=r"cannot run with LoRA on dt_proj .*; name layers with"):
        load(folder_of("mamba"), "dt_proj", dtype="float32")


def test_longer_names_are_pefts(load_tiny):
    model = load_tiny(targets=("layers.1.self_attn.q_proj", "mlp.up_proj"))
    assert set(model.layers) == {
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
    }


@pytest.mark.parametrize(("word", "targets"), [("auto", ["q_proj", "v_proj"]), ("all-linear", sorted(ALL_LINEAR))])
def test_a_saved_adapter_names_its_layers(word, targets, load_tiny, tmp_path):
    model = load_tiny(targets=(word,))
    assert sorted(model.targets) == targets
    tree = initial_adapter(model.layers, rank=4, seed=0)
    save_adapter(tmp_path / "adapter", tree, Lora(rank=4, alpha=8, dropout=0.0, targets=(word,)), "base")
    assert read_json(tmp_path / "adapter" / "adapter_config.json")["target_modules"] == targets


def in_halves(mlp: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
    """As in an expert, the last layer sees some tokens at a time."""
    inner = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    half = x.shape[1] // 2
    return torch.cat([mlp.down_proj(inner[:, :half]), mlp.down_proj(inner[:, half:])], 1)


def loss_of(model: LoraModel, tree: Tree, seed: int | None) -> float:
    """Of one client, with dropout masks of `seed` or without dropout."""
    rows = list(random_part(seed=1, num_rows=2))
    streams = [] if seed is None else [torch.Generator().manual_seed(seed)]
    batch, lengths = collate(rows, CPU), [len(row.ids) for row in rows]
    starts = range(0, batch.ids.numel(), batch.ids.shape[1])
    model.switch.masks = Masks(streams * 2, starts, lengths, batch.ids.numel()) if streams else None
    attach(model.layers, {name: tensor[None] for name, tensor in tree.items()})
    loss = client_losses(model, batch, torch.tensor([0, 0]), torch.tensor([1])).item()
    detach(model.layers)
    return loss


def test_layers_that_see_some_tokens_only_take_one_client(load_tiny, monkeypatch, caplog):
    """Whose tokens these are, the layer cannot know."""
    caplog.set_level("INFO", logger="fedllm_bench")
    model = load_tiny(targets=("down_proj",), dtype="float64", dropout=0.2)
    tree = random_tree(initial_adapter(model.layers, rank=4, seed=0), seed=1, scale=0.3)
    expected = loss_of(model, tree, None)
    assert model.stackable
    monkeypatch.setattr(LlamaMLP, "forward", in_halves)
    model = load_tiny(targets=("down_proj",), dtype="float64", dropout=0.2)
    assert not model.stackable
    assert "llama: down_proj sees only some tokens of a batch: clients are trained one by one" in caplog.messages
    assert loss_of(model, tree, None) == pytest.approx(expected, abs=1e-11)
    assert loss_of(model, tree, 3) == loss_of(model, tree, 3) != loss_of(model, tree, 4)
    with pytest.raises(UserError, match=r"got 2 clients in one pass, but .*down_proj \(Linear\) takes one"):
        attach(model.layers, {name: torch.stack([tensor] * 2) for name, tensor in tree.items()})
