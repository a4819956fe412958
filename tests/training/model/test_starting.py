"""The starting adapter: merged it is the adapter, it names the run by content, and bad ones are one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import ALL_LINEAR, random_part, random_tree, widen_norms

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.config.starting import adapter_fingerprint
from fedllm_bench.runs.cell import Cell
from fedllm_bench.training import trl
from fedllm_bench.training.batches import collate
from fedllm_bench.training.model.adapter import save_adapter
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=ALL_LINEAR)
IDS = collate(list(random_part(seed=1, num_rows=4)), torch.device("cpu")).ids


def load(folder: Path, adapter: Path | None, dtype: str = "float64") -> LoraModel:
    model = load_model(Model(name=str(folder), dtype=dtype, adapter=adapter and str(adapter)), LORA)
    if dtype == "float64":
        widen_norms(model.base)
    return model


@pytest.fixture(scope="module")
def trained(tiny_model):
    return random_tree(initial_adapter(tiny_model.layers, rank=4, seed=0), seed=5, scale=0.3, dtype=torch.float32)


@pytest.fixture
def saved(trained, tiny_folder, tmp_path) -> Path:
    save_adapter(tmp_path / "adapter", trained, LORA, str(tiny_folder))
    return tmp_path / "adapter"


def test_a_merged_adapter_is_the_adapter(saved, trained, tiny_folder):
    plain, merged = load(tiny_folder, None), load(tiny_folder, saved)
    with plain.using({name: tensor.double() for name, tensor in trained.items()}):
        expected = plain.base(input_ids=IDS).logits
    with merged.using(None):
        found = merged.base(input_ids=IDS).logits
    with plain.using(None):
        assert (plain.base(input_ids=IDS).logits - expected).abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()  # PEFT multiplies B and A in float32
    assert list(merged.layers) == list(plain.layers)
    assert not any("lora" in name for name, _ in merged.base.named_parameters())


def test_merging_draws_nothing_from_the_global_generator(saved, tiny_folder):
    before = torch.get_rng_state()
    load(tiny_folder, saved, "float32")
    assert torch.equal(torch.get_rng_state(), before)


def test_both_engines_start_from_it(saved, tiny_folder, tiny_run_config):
    config = tiny_run_config("fedavg", f"model.adapter={saved}")
    ours = load(tiny_folder, saved, "float32")
    theirs = trl.load_peft(ours, config)
    with torch.no_grad(), theirs.disable_adapter():
        expected = ours.base(input_ids=IDS).logits
        assert (theirs(input_ids=IDS).logits - expected).norm() < 1e-5 * expected.norm()  # whose norms round otherwise


def test_a_run_is_named_by_the_adapters_content_not_its_place(saved, trained, tiny_split, tiny_run_config, tmp_path):
    def name(*overrides: str) -> tuple[str, str]:
        cell = Cell(tiny_run_config("fedavg", *overrides), tiny_split, tmp_path, 1)
        return cell.hash, cell.base_hash

    moved = shutil.copytree(saved, tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere"}))
    save_adapter(tmp_path / "other", {key: 2 * tensor for key, tensor in trained.items()}, LORA, "base")
    save_adapter(tmp_path / "scaled", trained, replace(LORA, alpha=16), "base")
    own = name(f"model.adapter={saved}")
    assert own == name(f"model.adapter={moved}")
    others = [name(), *(name(f"model.adapter={tmp_path / other}") for other in ("other", "scaled"))]
    assert len({hash_ for hash_, _ in [own, *others]}) == len({base for _, base in [own, *others]}) == 4
    first = Cell(tiny_run_config("fedavg", f"model.adapter={saved}"), tiny_split, tmp_path, 1)
    assert first.like(tiny_run_config("fedprox")).base_hash == others[0][1]
    assert adapter_fingerprint(saved) != adapter_fingerprint(tmp_path / "scaled")


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def without(file: str):
    return lambda folder: (folder / file).unlink()


def with_config(**changes: object):
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def with_tensors(change):
    from safetensors.torch import load_file, save_file

    def write(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(change(load_file(path)), path)

    return write


BAD = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no config": (without("adapter_config.json"), "no adapter_config.json"),
    "no tensors": (without("adapter_model.safetensors"), "no adapter_model.safetensors"),
    "a pickle": (pickled, "pickle, which is not read"),
    "not JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not a JSON object"),
    "another kind": (with_config(peft_type="PREFIX_TUNING"), "PEFT type PREFIX_TUNING"),
    "tensors of another kind": (with_config(peft_type="IA3"), "of its tensors"),
    "other layers": (with_config(target_modules=["c_attn"]), "does not fit this base model"),
    "another rank": (with_config(r=2), "does not fit this base model"),
    "other widths": (
        with_tensors(lambda found: {key: t.repeat(1, 2) if "lora_A" in key else t for key, t in found.items()}),
        "does not fit this base model",
    ),
    "a tensor less": (with_tensors(lambda found: dict(list(found.items())[1:])), "1 of its tensors"),
    "a tensor more": (
        with_tensors(lambda found: {**found, next(iter(found)).replace("layers.0", "layers.7"): torch.ones(4, 32)}),
        "1 of its tensors",
    ),
    "half a file": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"12345"), "does not fit"),
}


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_a_bad_adapter_is_one_line(spoil, words, saved, tiny_folder):
    spoil(saved)
    with pytest.raises(UserError, match=words) as caught:
        load(tiny_folder, saved, "float32")
    assert "\n" not in str(caught.value)
    assert f"model.adapter={saved}" in str(caught.value)
