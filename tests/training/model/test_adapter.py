"""The saved adapter is one that plain PEFT loads, and equal adapters are equal files."""

from __future__ import annotations

import pytest
import torch
from tiny import ALL_LINEAR, CPU, plain_loss, random_part, random_tree

from fedllm_bench.common.files import read_json
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Lora
from fedllm_bench.training.batches import collate
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.model.adapter import save_adapter
from fedllm_bench.training.model.lora import initial_adapter

LORA = Lora(rank=4, alpha=8, dropout=0.1, targets=ALL_LINEAR[::-1])


@pytest.fixture
def trained(tiny_model) -> Tree:
    start = initial_adapter(tiny_model.layers, rank=4, seed=0)
    return random_tree(start, seed=5, scale=0.3, dtype=torch.float32)


def test_plain_peft_gives_our_logits_and_loss(trained, tiny_model, tiny_folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    save_adapter(tmp_path / "adapter", trained, LORA, str(tiny_folder))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    rows = list(random_part(seed=1, num_rows=4))
    batch = collate(rows, CPU)
    with tiny_model.using(trained):
        ours = tiny_model.base(input_ids=batch.ids).logits
        loss = client_losses(
            tiny_model,
            batch,
            torch.tensor([0] * len(rows)),
            torch.tensor([sum(row.num_counted for row in rows)]),
        )
    with torch.no_grad():
        assert torch.allclose(theirs(input_ids=batch.ids).logits, ours, atol=1e-4)
        assert plain_loss(theirs, rows).item() == pytest.approx(loss.item(), rel=1e-5)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=batch.ids).logits, ours, atol=0.1)


def test_equal_adapters_are_equal_files(trained, tmp_path):
    names = {"adapter_config.json", "adapter_model.safetensors"}
    for folder in ("a", "b"):
        save_adapter(tmp_path / folder, dict(trained), LORA, "base")
        assert {path.name for path in (tmp_path / folder).iterdir()} >= names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # PEFT keeps the targets as a set: its order changes with the seed of Python's hashes
    assert read_json(tmp_path / "a" / "adapter_config.json")["target_modules"] == sorted(ALL_LINEAR)


def test_the_config_says_what_was_trained(trained, tmp_path):
    save_adapter(tmp_path / "adapter", trained, LORA, "hub/base")
    config = read_json(tmp_path / "adapter" / "adapter_config.json")
    found = {key: config[key] for key in ("r", "lora_alpha", "lora_dropout", "base_model_name_or_path", "task_type")}
    assert found == {
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "base_model_name_or_path": "hub/base",
        "task_type": "CAUSAL_LM",
    }


def test_a_new_adapter_replaces_the_old_one_whole(trained, tmp_path):
    from safetensors.torch import load_file

    save_adapter(tmp_path / "adapter", trained, LORA, "base")
    (tmp_path / "adapter" / "stale").touch()
    save_adapter(tmp_path / "adapter", {name: 2 * tensor for name, tensor in trained.items()}, LORA, "base")
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], 2 * trained[name]) for name in found)
    assert not (tmp_path / "adapter" / "stale").exists()
