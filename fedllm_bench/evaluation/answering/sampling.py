"""Sampling that belongs to an item: the same seed, benchmark, item and turn give the same draws in any batch.

A token is drawn by inversion (Devroye, Non-Uniform Random Variate Generation, 1986, chapter III.2): with p the
softmax of logits / T and u uniform in [0, 1), the first token whose cumulative probability exceeds u. This is exact
sampling and needs one number a token, made beforehand on the CPU; the Gumbel-max trick (Maddison et al., 2014,
arXiv:1411.0030) would need one for each token of the vocabulary. Two models that are asked the same item get the same
numbers, so their answers differ by the models and less by chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import LogitsProcessor

# B rows of a batch, V tokens of the vocabulary


def uniforms(seed: int, benchmark: str, item_id: str, turn: int, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1), float64, of one turn of one item; those of a smaller count are their beginning."""
    digest = hashlib.sha256("\0".join([str(seed), benchmark, item_id, str(turn)]).encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, len(digest), 4)]
    return np.random.default_rng(words).random(count)


def draw(logits_BV: Tensor, temperatures_B: Tensor, uniforms_B: Tensor) -> Tensor:
    """One token of each row, shape (B,); `temperatures_B` are above 0, `uniforms_B` is float64.

    A token of probability 0 is never drawn.
    """
    scaled = logits_BV.double() / temperatures_B[:, None]
    cumulative = torch.softmax(scaled, dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1]  # 1 but for rounding
    # below the total, so that there always is a token whose cumulative probability exceeds it
    x = torch.minimum(uniforms_B * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, x[:, None], right=True)[:, 0]


def cut_tail(logits_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor) -> Tensor:
    """The logits with -inf for all but the `top_k_B` likeliest tokens, 0 for all; of these the fewest whose probability
    reaches `top_p_B`, at least one. Fan et al., 2018 (arXiv:1805.04833); Holtzman et al., 2020 (arXiv:1904.09751).
    """
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    ranks_V = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
    sorted_BV = sorted_BV.masked_fill((top_k_B[:, None] > 0) & (ranks_V >= top_k_B[:, None]), -torch.inf)
    probability_BV = torch.softmax(sorted_BV, dim=-1)
    before_BV = probability_BV.cumsum(dim=-1) - probability_BV
    sorted_BV = sorted_BV.masked_fill((before_BV >= top_p_B[:, None]) & (ranks_V > 0), -torch.inf)
    return torch.empty_like(sorted_BV).scatter_(-1, order_BV, sorted_BV)


class Sampler(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Puts the drawn token of each row above all others, so that greedy and sampled rows can share a batch.

    `temperatures` has one value for each row, 0 for greedy ones, whose logits stay as they are. `uniforms` are the
    numbers of the steps to come, one array for each row. `tails` are (top_k, top_p) of each row;
    None cuts nothing off. `bad` tells the rows whose logits are not finite.
    """

    def __init__(
        self,
        temperatures: Sequence[float],
        uniforms: Sequence[npt.NDArray[np.float64]],
        tails: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        self.rows = [row for row, temperature in enumerate(temperatures) if temperature > 0]
        self.temperatures = torch.tensor([temperatures[row] for row in self.rows], dtype=torch.float64)
        longest = max((len(uniforms[row]) for row in self.rows), default=0)
        # a row that ended before others still gets numbers; what is drawn with them is thrown away
        padded = [np.pad(uniforms[row], (0, longest - len(uniforms[row]))) for row in self.rows]
        self.uniforms = torch.from_numpy(np.stack(padded)) if padded else torch.zeros(0, 0)
        self.bad = torch.zeros(len(temperatures), dtype=torch.bool)
        self.index = torch.tensor(self.rows, dtype=torch.long)
        cuts = [(0, 1.0) if tails is None else tails[row] for row in self.rows]
        self.cuts_tails = any(cut != (0, 1.0) for cut in cuts)
        self.top_k = torch.tensor([top_k for top_k, _ in cuts], dtype=torch.long)
        self.top_p = torch.tensor([top_p for _, top_p in cuts], dtype=torch.float64)
        self.step = 0

    def to(self, device: torch.device) -> Sampler:
        self.temperatures, self.uniforms = self.temperatures.to(device), self.uniforms.to(device)
        self.bad, self.index = self.bad.to(device), self.index.to(device)
        self.top_k, self.top_p = self.top_k.to(device), self.top_p.to(device)
        return self

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` are the logits of the next token, shape (B, V); those of sampled rows are overwritten."""
        self.bad |= ~torch.isfinite(scores.amax(dim=-1))  # amax passes NaN on; -inf stands for tokens that cannot come
        if self.rows:
            logits = torch.nan_to_num(scores[self.index], nan=0.0, posinf=0.0) if self.bad.any() else scores[self.index]
            if self.cuts_tails:  # of the tempered distribution, as transformers orders it
                tempered = cut_tail(logits.double() / self.temperatures[:, None], self.top_k, self.top_p)
                logits = tempered * self.temperatures[:, None]
            tokens = draw(logits, self.temperatures, self.uniforms[:, min(self.step, self.uniforms.shape[1] - 1)])
            scores[self.index, :] = -torch.inf
            scores[self.index, tokens] = 0.0
        self.step += 1
        return scores
