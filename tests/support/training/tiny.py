"""References and small inputs that several test files need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config.run import Local
from fedllm_bench.data.tokens import TokenPart, TokenRow
from fedllm_bench.methods.base import ClientState
from fedllm_bench.training.batches import collate, plan_steps
from fedllm_bench.training.client_round import ClientTask

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VOCABULARY = 3000
CPU = torch.device("cpu")
LOCAL = Local(
    steps=3,
    steps_rule="fixed",
    micro_batch=2,
    accumulation=1,
    sequence_length=64,
    optimizer="adamw",
    lr=1e-2,
    lr_end=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    clip=1.0,
    block_size=1,
    loss="sft",
    dpo_loss="sigmoid",
    dpo_beta=0.1,
    gradient_checkpointing=False,
)


def settings(**changes: Any) -> Local:
    return replace(LOCAL, **changes)


def widen_norms(base: nn.Module) -> None:
    """Llama's norms round to float32 whatever the model's type; these do not."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    for name, module in list(base.named_modules()):
        if isinstance(module, LlamaRMSNorm):
            wide = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon, dtype=torch.float64)
            wide.weight = module.weight
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, wide)


def random_tree(like: Tree, seed: int, scale: float = 0.05, dtype: torch.dtype = torch.float64) -> Tree:
    """A tree of the same names and shapes, normally distributed."""
    stream = torch.Generator().manual_seed(seed)
    return tmap(lambda t: scale * torch.randn(t.shape, generator=stream, dtype=dtype), like)


def random_part(seed: int, num_rows: int, longest: int = 14) -> TokenPart:
    """Rows of random tokens and lengths, of which the loss counts the end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, longest + 1, num_rows)
    counted = [np.arange(n) >= rng.integers(1, n) for n in lengths]
    return TokenPart(
        ids=rng.integers(4, VOCABULARY, lengths.sum()).astype(np.int32),
        counted=np.concatenate(counted),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rows=np.arange(num_rows),
        num_cut=0,
        num_skipped=0,
    )


def client_task(
    client: int, part: TokenPart, rows: Sequence[int], local: Local, *, steps: int, state: ClientState | None = None
) -> ClientTask:
    plan = plan_steps(
        5, 2, client, num_rows=len(rows), steps=steps, micro_batch=local.micro_batch, accumulation=local.accumulation
    )
    return ClientTask(
        client=client,
        client_id=f"client-{client}",
        seed=5,
        round_num=2,
        rows=part,
        row_numbers=tuple(rows),
        steps=plan,
        state=state or {},
    )


def plain_peft(folder: Path, tree: Tree, dtype: torch.dtype, targets: Sequence[str] = ALL_LINEAR) -> Any:
    """The model of `folder` wrapped by plain PEFT with the adapter `tree`, without dropout."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    rank = min(next(iter(tree.values())).shape)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM")
    model = get_peft_model(base, config, autocast_adapter_dtype=False).to(dtype)
    if dtype == torch.float64:
        widen_norms(model)
    outcome = set_peft_model_state_dict(model, {name: tensor.to(dtype) for name, tensor in tree.items()})
    assert not outcome.unexpected_keys
    return model.eval()


def adapter_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The trainable tensors of a PEFT model under the names of its files."""
    return {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}


def plain_steps(
    parameters: Mapping[str, Tensor],
    task: ClientTask,
    local: Local,
    loss_of: Callable[[list[Any]], Tensor],
    change: Callable[[], None] | None = None,
) -> list[float]:
    """Local training of `parameters` by torch.optim.AdamW and clip_grad_norm_: the losses.

    `loss_of` the rows of a step; `change` may change the raw gradients of each.
    """
    betas = (local.beta1, local.beta2)
    optimiser = torch.optim.AdamW(parameters.values(), local.lr, betas, local.eps, local.weight_decay)
    losses = []
    for step in task.steps:
        optimiser.zero_grad()
        loss = loss_of([task.rows[task.row_numbers[i]] for micro in step for i in micro])
        loss.backward()
        losses.append(loss.item())
        if change is not None:
            change()
        torch.nn.utils.clip_grad_norm_(parameters.values(), local.clip)
        optimiser.step()
    return losses


def plain_loss(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """Mean next-token loss over the counted tokens of all `rows`, from the logits of the whole model."""
    batch = collate(rows, CPU)
    lengths = torch.tensor([len(row.ids) for row in rows])
    mask = torch.arange(batch.ids.shape[1])[None] < lengths[:, None]
    logits = model(input_ids=batch.ids, attention_mask=mask.long()).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch.targets[:, 1:].flatten(), ignore_index=-100)
