"""Any causal LM of transformers: K clients in one pass are plain PEFT, whatever the architecture."""

from __future__ import annotations

import pytest
import torch
from architectures import OF_ITS_OWN, load, make_folder, peft_loss_and_gradients, widen_all_norms
from tiny import CPU, client_task, random_part, random_tree, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config.run import Lora
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training import loss
from fedllm_bench.training.batches import collate
from fedllm_bench.training.block import train_block
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.model.adapter import save_adapter
from fedllm_bench.training.model.lora import attach, detach, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

AUTO = {
    "llama": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
}
NOT_SPLIT = {"gemma2": ("q_proj", "v_proj"), "granite": ("q_proj", "o_proj"), "cohere": ("q_proj", "down_proj")}
PEFT_ONLY = {"gpt2": ("c_attn",)}
TARGETS = {**AUTO, **NOT_SPLIT, **PEFT_ONLY}
PARTS = [random_part(seed=k, num_rows=2, longest=6 + 4 * k) for k in range(3)]  # ragged within and between clients


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = make_folder(tmp_path_factory.mktemp("models") / kind, kind)
        return made[kind]

    return make


def trees_of(model: LoraModel, count: int = 3) -> list[Tree]:
    start = initial_adapter(model.layers, rank=4, seed=0)
    return [random_tree(start, seed=k, scale=0.2) for k in range(count)]


def losses_and_gradients(model: LoraModel, trees: list[Tree], parts: list) -> tuple[list[float], list[Tree]]:
    """Each client's loss and gradients, all clients in one pass."""
    leaves = {name: torch.stack([tree[name] for tree in trees]).requires_grad_() for name in trees[0]}
    rows = [row for part in parts for row in part]
    counted = torch.tensor([sum(row.num_counted for row in part) for part in parts])
    attach(model.layers, leaves)
    try:
        losses = client_losses(
            model, collate(rows, CPU), torch.arange(len(trees)).repeat_interleave(len(parts[0])), counted
        )
        losses.sum().backward()
    finally:
        detach(model.layers)
    return losses.tolist(), [{name: leaf.grad[k] for name, leaf in leaves.items()} for k in range(len(trees))]


def assert_is_peft(folder, targets, trees, parts, found) -> None:
    for tree, part, our_loss, ours in zip(trees, parts, *found, strict=True):
        their_loss, theirs = peft_loss_and_gradients(folder, tree, list(part), targets)
        assert our_loss == pytest.approx(their_loss, abs=1e-11)
        for name, gradient in theirs.items():
            assert gradient.abs().max() > 1e-6
            assert torch.allclose(ours[name], gradient, rtol=0, atol=1e-11), name


@pytest.mark.parametrize("kind", [*AUTO, *NOT_SPLIT])
def test_three_clients_in_one_pass_are_plain_peft_alone(kind, folder_of):
    targets = TARGETS[kind]
    model = load(folder_of(kind), *(["auto"] if kind in AUTO else targets))
    assert model.targets == targets
    assert model.stackable
    assert model.split_head == (kind not in NOT_SPLIT)
    trees = trees_of(model)
    assert len(trees[0]) == 2 * 2 * len(targets)  # layers, A and B, targets
    assert_is_peft(folder_of(kind), targets, trees, PARTS, losses_and_gradients(model, trees, PARTS))


@pytest.mark.parametrize("kind", PEFT_ONLY)
def test_a_client_through_pefts_own_layers_is_plain_peft(kind, folder_of):
    model = load(folder_of(kind))
    assert not model.stackable
    for tree, part in zip(trees_of(model), PARTS, strict=True):
        assert_is_peft(folder_of(kind), TARGETS[kind], [tree], [part], losses_and_gradients(model, [tree], [part]))


@pytest.mark.parametrize("kind", TARGETS)
def test_a_trained_adapter_loads_in_plain_peft(kind, folder_of, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = load(folder_of(kind), *TARGETS[kind])
    trained = train(model, num_clients=2 if model.stackable else 1)
    lora = Lora(rank=4, alpha=8, dropout=0.0, targets=("auto",))
    save_adapter(tmp_path / "adapter", trained, lora, str(folder_of(kind)), transposed=model.transposed)
    assert read_json(tmp_path / "adapter" / "adapter_config.json")["target_modules"] == sorted(TARGETS[kind])
    base = AutoModelForCausalLM.from_pretrained(folder_of(kind), dtype=torch.float64)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter", autocast_adapter_dtype=False).eval()
    widen_all_norms(theirs)
    ids = collate(list(PARTS[2]), CPU).ids
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=ids).logits, expected, atol=1e-3)
    with model.using(trained):
        assert torch.allclose(model.base(input_ids=ids).logits, expected, rtol=0, atol=1e-11)
        assert torch.allclose(model.logits(model.hidden(ids)), expected, rtol=0, atol=1e-11)


def train(model: LoraModel, num_clients: int) -> Tree:
    """The adapter of the last of `num_clients` clients after 3 steps."""
    start = trees_of(model, 1)[0]
    local = settings(lr=0.05)
    tasks = [client_task(k, PARTS[k], range(2), local, steps=3) for k in range(num_clients)]
    result = train_block(model, FedAvg(), {"params": start}, tasks, local)[-1]
    assert result.losses[-1] < result.losses[0]
    delta = result.upload["delta"]
    return tmap(torch.add, start, {name: delta[name] for name in start})


def test_two_clients_cannot_share_a_pass_through_pefts_layers(folder_of):
    model = load(folder_of("gpt2"))
    tasks = [client_task(k, PARTS[k], range(2), settings(), steps=1) for k in range(2)]
    with pytest.raises(UserError, match=r"got 2 clients.*c_attn \(Conv1D\) takes one; --set local.block_size=1"):
        train_block(model, FedAvg(), {"params": trees_of(model, 1)[0]}, tasks, settings())
    assert torch.equal(model.base(input_ids=torch.arange(4, 9)[None]).logits, base_logits(folder_of("gpt2")))


def base_logits(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return model.eval()(input_ids=torch.arange(4, 9)[None]).logits


def test_the_log_says_why_clients_are_trained_one_by_one(folder_of, caplog):
    caplog.set_level("INFO", logger="fedllm_bench")
    load(folder_of("llama"))
    assert "one by one" not in caplog.text
    load(folder_of("gpt2"))
    assert [record.message for record in caplog.records if "one by one" in record.message] == [
        "gpt2: c_attn is a Conv1D, not nn.Linear: clients are trained one by one through PEFT's own layers"
    ]


def test_dropout_in_pefts_layers_is_a_function_of_the_client(folder_of):
    model = load(folder_of("gpt2"), dropout=0.3)
    start = trees_of(model, 1)[0]
    local = settings()

    def first_loss(client: int) -> float:
        task = client_task(client, PARTS[2], range(2), local, steps=1)
        return train_block(model, FedAvg(), {"params": start}, [task], local)[0].losses[0]

    torch.manual_seed(1)
    losses = [first_loss(client) for client in (0, 1, 0)]
    state = torch.get_rng_state()
    assert losses[0] == losses[2] != losses[1]
    assert first_loss(1) == losses[1]
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator


def test_loading_draws_nothing_from_the_global_generator(folder_of):
    state = torch.get_rng_state()
    model = load(folder_of("gpt2"))
    assert torch.equal(torch.get_rng_state(), state)
    assert not [name for name, p in model.base.named_parameters() if p.requires_grad or p.is_meta]


@pytest.mark.parametrize("kind", NOT_SPLIT)
def test_capped_or_scaled_logits_are_those_of_the_model_in_chunks_too(kind, folder_of, monkeypatch):
    """Their loss is not that of the head alone, which is what the test of equality with PEFT would not see."""
    model = load(folder_of(kind), "q_proj")
    part = PARTS[2]
    whole = losses_and_gradients(model, trees_of(model, 1), [part])
    monkeypatch.setattr(loss, "LEAST_TOKENS", 1)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 2 * model.vocabulary)
    chunked = losses_and_gradients(model, trees_of(model, 1), [part])
    assert chunked[0] == pytest.approx(whole[0], abs=1e-12)
    assert all(torch.allclose(chunked[1][0][name], g, rtol=0, atol=1e-12) for name, g in whole[1][0].items())
    hidden = 100 * torch.randn(1, 3, 32, dtype=torch.float64)
    assert not torch.allclose(model.logits(hidden), model.base.get_output_embeddings()(hidden), atol=0.1)
    assert "forward" not in vars(model.base.get_decoder())
    assert kind in OF_ITS_OWN


def test_answers_of_a_model_without_split_head_and_through_peft(folder_of):
    for kind in ("granite", "gpt2"):
        model = load(folder_of(kind), *TARGETS[kind])
        with model.using(trees_of(model, 1)[0]):
            out = model.base.generate(torch.arange(4, 9)[None], max_new_tokens=3, do_sample=False)
        assert out.shape[1] > 5
