"""Losses of pairs, by the name that `local.dpo_loss` has: DPO, IPO, SimPO and ORPO.

P pairs; the first column is the chosen answer, the second the rejected one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import PairRow
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.batches import Batch
from fedllm_bench.training.loss import counted_nll
from fedllm_bench.training.losses.log_probabilities import log_ratios, pair_log_p
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import Pass, PassRow

NEAR_ZERO = -1e-6  # nats a token: float32 cannot tell the odds of an answer that is surer than this
HALF = -0.6931471805599453


def sigmoid_losses(ratios_P2: Tensor, lengths_P2: Tensor, local: Local) -> Tensor:
    """DPO. Rafailov et al., 2023 (arXiv:2305.18290), Equation 7, shape (P,):

    -log sigmoid(beta (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)))
    """
    return -F.logsigmoid(local.dpo_beta * (ratios_P2[:, 0] - ratios_P2[:, 1]))


def ipo_losses(ratios_P2: Tensor, lengths_P2: Tensor, local: Local) -> Tensor:
    """IPO. Azar et al., 2023 (arXiv:2310.12036), Equation 17 with tau = beta, shape (P,):

    (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l) - 1 / (2 tau))^2

    Log-ratios are means over the tokens of an answer, as in TRL, which has it from the authors; the paper writes sums.
    """
    means_P2 = ratios_P2 / lengths_P2
    return (means_P2[:, 0] - means_P2[:, 1] - 1 / (2 * local.dpo_beta)) ** 2


def simpo_losses(log_p_P2: Tensor, lengths_P2: Tensor, local: Local) -> Tensor:
    """SimPO. Meng et al., 2024 (arXiv:2405.14734), Equation 6, shape (P,):

    -log sigmoid(beta / |y_w| log pi(y_w) - beta / |y_l| log pi(y_l) - gamma)
    """
    means_P2 = log_p_P2 / lengths_P2
    return -F.logsigmoid(local.dpo_beta * (means_P2[:, 0] - means_P2[:, 1]) - local.simpo_gamma)


def odds_losses(log_p_P2: Tensor, lengths_P2: Tensor) -> Tensor:
    """The odds ratio loss of ORPO. Hong et al., 2024 (arXiv:2403.07691), Equation 7, shape (P,):

    -log sigmoid(log (odds(y_w) / odds(y_l))),  odds(y) = p / (1 - p),  log p = log pi(y) / |y|
    """
    means_P2 = log_p_P2 / lengths_P2
    log_odds_P2 = means_P2 - log1mexp(means_P2)
    return -F.logsigmoid(log_odds_P2[:, 0] - log_odds_P2[:, 1])


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x < 0, without cancellation."""
    x = x.clamp(max=NEAR_ZERO)
    return torch.where(x < HALF, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


Losses = Callable[[LoraModel, Batch, Sequence[Any], Local], Tensor]  # of each row of the pass


def as_they_are(
    model: LoraModel, passes: list[Pass], adapters: Callable[[Sequence[int]], Any], local: Local
) -> list[Pass]:
    """The passes of a step need nothing more."""
    return passes


@dataclass(frozen=True)
class PairLoss:
    """`prepared` gives rows what they must know of the whole step of their client, before its passes run."""

    losses: Losses
    needs_reference: bool = True
    prepared: Callable[..., list[Pass]] = as_they_are


def _of_ratios(of: Callable[[Tensor, Tensor, Local], Tensor]) -> Losses:
    def losses(model: LoraModel, batch: Batch, pairs: Sequence[PairRow], local: Local) -> Tensor:
        ratios_P2 = log_ratios(model, batch, pairs)
        return of(ratios_P2, lengths_of(ratios_P2, pairs), local)

    return losses


def _of_log_p(of: Callable[[Tensor, Tensor, Local], Tensor]) -> Losses:
    def losses(model: LoraModel, batch: Batch, pairs: Sequence[PairRow], local: Local) -> Tensor:
        log_p_P2 = pair_log_p(model, batch)
        return of(log_p_P2, lengths_of(log_p_P2, pairs), local)

    return losses


def lengths_of(like: Tensor, pairs: Sequence[PairRow]) -> Tensor:
    """Tokens of both answers of each pair, shape (P, 2)."""
    return like.new_tensor([(pair.chosen.num_counted, pair.rejected.num_counted) for pair in pairs])


# --- ORPO: the odds of the answers, and the likelihood of the prompt with the chosen one


@dataclass(frozen=True)
class OrpoPair(PairRow):
    """A pair whose chosen sequence counts as a whole, prompt and answer: as in the authors' code, and in TRL.

    `num_before`: counted tokens in front of the chosen answer. `share`: pairs of the client's step, over the counted
    tokens of all its chosen sequences, so that a mean over pairs becomes one over tokens.
    """

    num_before: int = 0
    share: float = 0.0


def whole_pairs(
    model: LoraModel, passes: list[Pass], adapters: Callable[[Sequence[int]], Any], local: Local
) -> list[Pass]:
    pairs, tokens = Counter[int](), Counter[int]()
    for each in (each for rows in passes for each in rows):
        pairs[each.owner] += 1
        tokens[each.owner] += len(each.row.sequences[0].ids) - 1
    shares = {owner: pairs[owner] / tokens[owner] for owner in pairs}
    return [tuple(replace(each, row=_whole(each, shares[each.owner])) for each in rows) for rows in passes]


def _whole(each: PassRow, share: float) -> OrpoPair:
    chosen, rejected = each.row.sequences
    before = int(chosen.counted.argmax()) - 1  # nothing predicts the first token
    return OrpoPair(TokenRow(chosen.ids, np.ones_like(chosen.counted)), rejected, None, max(before, 0), share)


def orpo_losses(model: LoraModel, batch: Batch, pairs: Sequence[OrpoPair], local: Local) -> Tensor:
    """ORPO, Equation 6: likelihood of the chosen sequence + lambda times :func:`odds_losses`, lambda = `dpo_beta`.

    The likelihood is a mean over the tokens of all chosen sequences of the step.
    """
    nll_C, sequences_C = counted_nll(model, batch)
    sums_S = nll_C.new_zeros(2 * len(pairs))
    of_answer_C = torch.tensor([is_answer for pair in pairs for is_answer in _of_answers(pair)], device=nll_C.device)
    log_p_P2 = sums_S.index_add(0, sequences_C[of_answer_C], -nll_C[of_answer_C]).view(-1, 2)
    of_chosen_P = sums_S.index_add(0, sequences_C, nll_C).view(-1, 2)[:, 0]
    lengths_P2 = log_p_P2.new_tensor(
        [(_num_chosen(pair) - pair.num_before, pair.rejected.num_counted) for pair in pairs]
    )
    shares_P = of_chosen_P.new_tensor([pair.share for pair in pairs])
    return shares_P * of_chosen_P + local.dpo_beta * odds_losses(log_p_P2, lengths_P2)


def _num_chosen(pair: OrpoPair) -> int:
    return len(pair.chosen.ids) - 1


def _of_answers(pair: OrpoPair) -> list[bool]:
    """Of each counted token of both sequences, whether it is of the answer."""
    answer = _num_chosen(pair) - pair.num_before
    return [False] * pair.num_before + [True] * (answer + pair.rejected.num_counted)


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": PairLoss(_of_ratios(sigmoid_losses)),
    "ipo": PairLoss(_of_ratios(ipo_losses)),
    "simpo": PairLoss(_of_log_p(simpo_losses), needs_reference=False),
    "orpo": PairLoss(orpo_losses, needs_reference=False, prepared=whole_pairs),
}
