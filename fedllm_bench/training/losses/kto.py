"""KTO. Ethayarajh et al., 2024 (arXiv:2402.01306), Section 4.1; federated: 2502.14187.

    r     = log pi(y | x) - log pi_ref(y | x)
    z0    = max(0, mean over a micro-batch of log pi(y' | x) - log pi_ref(y' | x)),  y' the answer of another row
    loss  = lambda_D (1 - sigmoid(beta (r - z0)))   of a desirable answer
            lambda_U (1 - sigmoid(beta (z0 - r)))   of an undesirable one

No gradient goes through z0. As in TRL, y' is the answer of the row before in the micro-batch, of the first row that of
the last. A micro-batch is one client's, and its rows are those of the plan of (seed, round, client): z0 does not depend
on who shares a pass. Two more forward passes over the rows of a step are needed for it, the policy's and the base's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnswerRow
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.batches import Batch, collate
from fedllm_bench.training.losses.log_probabilities import log_p
from fedllm_bench.training.model.lora import attach, detach
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import Pass, PassRow, cut_up, segments

Group = tuple[int, int]  # a micro-batch: the place of its client in the block, and its number in the step


def value_losses(ratios_R: Tensor, drifts_R: Tensor, desirable_R: Tensor, local: Local) -> Tensor:
    """The loss of each answer from r, z0 and whether it is desirable, shape (R,)."""
    good_R = desirable_R.to(ratios_R.dtype)
    signs_R = 2 * good_R - 1
    weights_R = local.kto_desirable * good_R + local.kto_undesirable * (1 - good_R)
    return weights_R * (1 - torch.sigmoid(local.dpo_beta * signs_R * (ratios_R - drifts_R)))


def kto_losses(model: LoraModel, batch: Batch, answers: Sequence[AnswerRow], local: Local) -> Tensor:
    """The loss of each answer of a pass. Raises a :class:`ValueError` for one without reference or z0."""
    policy_R = log_p(model, batch)
    known = [(answer.reference, answer.drift) for answer in answers]
    if any(None in pair for pair in known):
        raise ValueError("an answer has no log-probability of the reference, or no z0 of its micro-batch")
    references_R, drifts_R = policy_R.new_tensor(known).unbind(1)
    desirable_R = torch.tensor([answer.is_desirable for answer in answers], device=policy_R.device)
    return value_losses(policy_R - references_R, drifts_R, desirable_R, local)


def with_drifts(
    model: LoraModel, passes: list[Pass], adapters: Callable[[Sequence[int]], Tree], local: Local
) -> list[Pass]:
    """The passes of a step, each row with the z0 of its micro-batch. `adapters` gives those of clients of the block."""
    rows = [each for rows in passes for each in rows]
    others = mismatched(rows, local)
    sizes = [local.micro_batch] * (max(each.owner for each in rows) + 1)
    ratios: dict[Group, list[tuple[int, float]]] = defaultdict(list)
    for part in cut_up(others, sizes, model.plan.tokens, packed=model.plan.packed):
        for each, ratio in zip(part, _ratios(model, part, adapters), strict=True):
            ratios[_group(each, local)].append((each.place, ratio))
    drifts = {group: max(0.0, float(np.mean([ratio for _, ratio in sorted(of)]))) for group, of in ratios.items()}

    def known(each: PassRow) -> PassRow:
        assert isinstance(each.row, AnswerRow)
        return replace(each, row=replace(each.row, drift=drifts[_group(each, local)]))

    return [tuple(known(each) for each in rows) for rows in passes]


def _group(each: PassRow, local: Local) -> Group:
    return each.owner, each.place // local.micro_batch


def mismatched(rows: Sequence[PassRow], local: Local) -> list[PassRow]:
    """Each row's prompt with the answer of the row before it in its micro-batch, cut to the sequence length."""
    groups: dict[Group, list[PassRow]] = defaultdict(list)
    for each in sorted(rows, key=lambda each: (each.owner, each.place)):
        groups[_group(each, local)].append(each)
    found = []
    for group in groups.values():
        for before, each in pairwise([group[-1], *group]):
            prompted, answered = each.row.sequences[0], before.row.sequences[0]
            found.append(replace(each, row=_joined(prompted, answered, local.sequence_length)))
    return found


def _joined(prompted: TokenRow, answered: TokenRow, length: int) -> TokenRow:
    """The prompt of one row and the answer of another."""
    cut, start = int(prompted.counted.argmax()), int(answered.counted.argmax())
    ids = np.concatenate([prompted.ids[:cut], answered.ids[start:]])[:length]
    counted = np.concatenate([np.zeros(cut, np.bool_), answered.counted[start:]])[:length]
    return TokenRow(ids, counted)


def _ratios(model: LoraModel, part: Pass, adapters: Callable[[Sequence[int]], Tree]) -> list[float]:
    """log pi - log pi_ref of each row of a pass: of the client's own adapter, and of the first base alone."""
    owners = sorted({each.owner for each in part})
    batch = collate([each.row.sequences[0] for each in part], model.device, packed=model.plan.packed)
    with torch.no_grad():
        with model.first_base():
            reference = log_p(model, batch)
        try:
            attach(model.layers, adapters(owners))
            model.switch.segments = segments(part, owners, batch.spans)
            policy = log_p(model, batch)
        finally:
            model.switch.segments = ()
            detach(model.layers)
    found: list[float] = (policy - reference).tolist()
    return found
