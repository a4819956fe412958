"""The base model of a run: loaded once, frozen, with LoRA layers that any adapter can be put into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench import models
from fedllm_bench.config import Lora, Model
from fedllm_bench.errors import UserError
from fedllm_bench.training import lora as lora_layers
from fedllm_bench.trees import Tree


@dataclass(frozen=True)
class LoraModel:
    """One resident base; adapters are arguments. `base` maps (B, T) token ids to logits over V tokens."""

    base: Any
    tokenizer: Any
    layers: dict[str, lora_layers.LoraLinear]
    switch: lora_layers.Switch

    @property
    def device(self) -> torch.device:
        return torch.device(self.base.device)

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states, shape (B, T, H), of right-padded ids of shape (B, T).

        No mask is needed: attention is causal, so no real token sees the padding behind it.
        """
        states: Tensor = self.base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states of shape (..., H)."""
        head: nn.Module = self.base.get_output_embeddings()
        out: Tensor = head(hidden)
        return out

    @contextmanager
    def using(self, adapter: Tree | None) -> Iterator[None]:
        """Evaluate with one adapter (or the base alone) inside the block; no gradient is kept."""
        if adapter is not None:
            moved = {name: tensor[None].to(self.device) for name, tensor in adapter.items()}
            lora_layers.attach(self.layers, moved)
        try:
            with torch.no_grad():
                yield
        finally:
            lora_layers.detach(self.layers)


def load_model(config: Model, lora: Lora, device: str = "cpu") -> LoraModel:
    """Load base and tokenizer from a folder, the hub cache or the package (name "mini").

    Raises a :class:`UserError` where there is no model, or one whose output is not its head on its decoder.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.locate(config.name, config.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        base, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, config.dtype), output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # a broken config or tokenizer raises anything, a plain Exception too
        raise models.not_a_model(config.name, error) from error
    _check_weights(found, config.name)
    base = base.to(device).eval()
    layers, switch = lora_layers.insert(base, lora)
    model = LoraModel(base, tokenizer, layers, switch)
    _check_tokenizer(model, config.name)
    _check_head(model, config.name)
    return model


def _check_weights(found: dict[str, Any], name: str) -> None:
    """`found` is the loading info of transformers, which leaves weights that it does not find random."""
    wrong = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if wrong:
        raise UserError(
            f"MODEL={name}: {len(wrong)} weights are missing, or of another size than its config.json says, "
            f"as {wrong[0]}; {models.ADVICE}"
        )


def _check_tokenizer(model: LoraModel, name: str) -> None:
    tokenizer = model.tokenizer
    if not tokenizer.is_fast:
        raise UserError(f"MODEL={name}: its tokenizer is not a fast one; save it with tokenizer.json")
    if tokenizer.eos_token is None:
        raise UserError(f"MODEL={name}: its tokenizer has no end-of-sequence token; set one and save it")
    if len(tokenizer) > model.base.get_input_embeddings().weight.shape[0]:
        raise UserError(f"MODEL={name}: its tokenizer has more tokens than the model has embeddings")


def _check_head(model: LoraModel, name: str) -> None:
    """Training applies the head at counted tokens only; that must give what the whole model gives."""
    ids = torch.arange(8, device=model.device)[None]
    with torch.no_grad():
        whole = model.base(input_ids=ids).logits.float()
        ours = model.logits(model.hidden(ids)).float()
    if not torch.allclose(whole, ours, rtol=1e-3, atol=1e-3):
        raise UserError(f"MODEL={name}: its logits are not its head on its decoder; this is not supported yet")
