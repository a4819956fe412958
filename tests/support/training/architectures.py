"""Tiny random models of several architectures, in float64 throughout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import adapter_parameters, plain_loss, plain_peft
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree
from fedllm_bench.config import base_model
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.model.lora_model import LoraModel, load_model

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,  # the default of 0.02 gives almost equal logits, in which errors would hide
    "tie_word_embeddings": True,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.15}
OF_ITS_OWN: dict[str, dict[str, Any]] = {
    "gpt_neox": {"tie_word_embeddings": False},
    # without capped attention, which is computed in float32
    "gemma2": {"attn_logit_softcapping": None, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 16},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.3},
}


class WideNorm(nn.Module):
    """A norm of transformers without its rounding to float32; `plus_one`: Gemma's weights are stored minus one."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps if "eps" in vars(norm) else norm.variance_epsilon
        self.centred, self.plus_one = "LayerNorm" in type(norm).__name__, "Gemma" in type(norm).__name__

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return scaled * (1 + self.weight if self.plus_one else self.weight)


def widen_all_norms(base: nn.Module) -> None:
    for name, module in list(base.named_modules()):
        if type(module).__name__.endswith(("RMSNorm", "CohereLayerNorm")) and not isinstance(module, nn.RMSNorm):
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, WideNorm(module))


def make_folder(folder: Path, kind: str, layers: int = 2) -> Path:
    """A random model of so many layers and hidden size 32 with the tokenizer of the embedded base."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model.locate("mini"))
    sizes = {**GPT2_SIZES, "n_layer": layers} if kind == "gpt2" else {**SIZES, "num_hidden_layers": layers}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer) + 8,  # AutoTokenizer adds a token or two under some architectures
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **{**sizes, **OF_ITS_OWN.get(kind, {})},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases begin as ones and zeros, in which errors would hide
                weight.data += 0.1 * torch.randn(weight.shape)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, *targets: str, dropout: float = 0.0, dtype: str = "float64") -> LoraModel:
    """LoRA of rank 4 and alpha 8 on `targets`, by default those of "auto"."""
    lora = Lora(rank=4, alpha=8, dropout=dropout, targets=targets or ("auto",))
    model = load_model(Model(name=str(folder), dtype=dtype), lora)  # type: ignore[arg-type]
    if dtype == "float64":
        widen_all_norms(model.base)
    return model


def peft_loss_and_gradients(
    folder: Path, tree: Tree, rows: Sequence[TokenRow], targets: Sequence[str]
) -> tuple[float, Tree]:
    """Mean loss over the counted tokens and the adapter's gradients, by plain PEFT in float64."""
    theirs = plain_peft(folder, tree, torch.float64, targets)
    widen_all_norms(theirs)
    loss = plain_loss(theirs, rows)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in adapter_parameters(theirs).items()}
    assert gradients.keys() == tree.keys()
    return loss.item(), gradients
