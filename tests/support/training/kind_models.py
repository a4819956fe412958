"""Models with each kind of adapter but LoRA, and the same under plain PEFT, or as plain torch for the bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tiny import CPU, widen_norms
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config.kinds.adapter_kind import VIRTUAL, AdapterKind
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.batches import collate
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

KINDS: dict[str, AdapterKind] = {
    "prefix": AdapterKind(kind="prefix", tokens=3),
    "prompt": AdapterKind(kind="prompt", tokens=4),
    "p_tuning": AdapterKind(kind="p_tuning", tokens=3, encoder_width=10),
    "ia3": AdapterKind(kind="ia3"),
    "bottleneck": AdapterKind(kind="bottleneck", reduction=8, targets=("o_proj", "down_proj")),
}
UNUSED = Lora(rank=4, alpha=8, dropout=0.0, targets=("auto",))


def load_kind(folder: Path, kind: str | AdapterKind, dtype: str = "float32") -> LoraModel:
    adapter = KINDS[kind] if isinstance(kind, str) else kind
    model = load_model(Model(name=str(folder), dtype=dtype), UNUSED, adapter=adapter)  # type: ignore[arg-type]
    if dtype == "float64":
        widen_norms(model.base)
    return model


def random_start(model: LoraModel, seed: int = 3, scale: float = 0.3) -> Tree:
    """Near where the kind begins, in float64; ones of IA3 stay near one."""
    stream = torch.Generator().manual_seed(seed)
    first = initial_adapter(model.layers, rank=4, seed=seed)
    return tmap(lambda t: t.double() + scale * torch.randn(t.shape, generator=stream, dtype=torch.float64), first)


def plain_of(folder: Path, kind: str, tree: Tree, dtype: torch.dtype) -> tuple[Any, dict[str, nn.Parameter]]:
    """The model of `folder` with the adapter `tree` without this suite, and its parameters under the tree's names."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if dtype == torch.float64:
        widen_norms(base)
    if kind == "bottleneck":
        return with_bottlenecks(base, tree, dtype)
    from peft import IA3Config, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

    adapter = KINDS[kind]
    config = {
        "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.tokens),
        "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.tokens),
        "p_tuning": lambda: PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=adapter.tokens, encoder_hidden_size=adapter.encoder_width
        ),
        "ia3": lambda: IA3Config(task_type="CAUSAL_LM"),
    }[kind]()
    model = get_peft_model(base, config, autocast_adapter_dtype=False).to(dtype).eval()
    found = {_name(name, kind): p for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == tree.keys()
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(tree[name])
    return model, found


def _name(name: str, kind: str) -> str:
    """PEFT's name of a parameter as a tree has it."""
    if kind in ("prefix", "prompt"):
        return "prompt_embeddings"
    return name.removeprefix("prompt_encoder.default.").removesuffix(".default")


def with_bottlenecks(base: Any, tree: Tree, dtype: torch.dtype) -> tuple[Any, dict[str, nn.Parameter]]:
    """Houlsby's equation by forward hooks of torch."""
    parameters = {name: nn.Parameter(tensor.to(dtype).clone()) for name, tensor in tree.items()}
    base.requires_grad_(False)
    for name in {name.rpartition(".adapter_")[0] for name in tree}:

        def hook(_: nn.Module, args: Any, h: Tensor, of: str = name) -> Tensor:
            part = {
                end: parameters[f"{of}.adapter_{end}"] for end in ("down.weight", "down.bias", "up.weight", "up.bias")
            }
            inside = torch.relu(h @ part["down.weight"].T + part["down.bias"])
            return h + inside @ part["up.weight"].T + part["up.bias"]

        base.get_submodule(name.removeprefix("base_model.model.")).register_forward_hook(hook)
    return base, parameters


def real_logits(model: Any, kind: str, **inputs: Tensor) -> Tensor:
    """Logits of the real tokens: PEFT's prompts come out as well."""
    logits: Tensor = model(**inputs).logits
    return logits[:, -inputs["input_ids"].shape[1] :] if kind in VIRTUAL else logits


def loss_of(model: Any, kind: str, rows: Sequence[TokenRow]) -> Tensor:
    """Mean next-token loss over the counted tokens of all `rows`, from padded rows and an attention mask."""
    batch = collate(rows, CPU)
    lengths = torch.tensor([len(row.ids) for row in rows])
    mask = (torch.arange(batch.ids.shape[1])[None] < lengths[:, None]).long()
    logits = real_logits(model, kind, input_ids=batch.ids, attention_mask=mask)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch.targets[:, 1:].flatten(), ignore_index=-100)


def weights_of(model: LoraModel) -> Mapping[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.base.state_dict().items()}
