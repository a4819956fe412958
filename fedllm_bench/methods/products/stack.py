"""FLoRA. Wang et al., 2024 (arXiv:2409.05976), section 3: adapters are stacked, and the base takes them in.

    server:  A = [A_1; ..; A_K],  B = [p_1 B_1, .., p_K B_K]:   B A = sum_k p_k B_k A_k exactly, whatever the ranks r_k
    client:  W = W + s B A;   a new LoRA (A drawn, B = 0);   local training

The paper has p_k in A and a scale s_k of each client; here s is that of all. Each client of the paper draws its own A;
here all begin a round with the same, a function of (seed, round) that need not be sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import Message, Server, Upload
from fedllm_bench.methods.products.factors import mean_product, pairs_of, shares, tree_of
from fedllm_bench.methods.products.residual import ChangesBase, gain_of
from fedllm_bench.methods.products.rule import clients_of

DRAWN = 11  # the purpose of a random stream, beside those of training, of privacy and of faults


@dataclass(frozen=True, kw_only=True)
class Stack(ChangesBase):
    takes_ranks: ClassVar[bool] = True
    seed: int

    def travels(self, message: Message, told: Message) -> Message:
        return {key: tree for key, tree in super().travels(message, told).items() if key != "params"}

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        pairs = clients_of(server.params, uploads)
        stacks = {name: mean_product(of_layer, shares(weights)) for name, of_layer in pairs.items()}
        return {"residual": gain_of(stacks, server.params)}

    def gained_rank(self, ranks: Sequence[int], rank: int) -> int:
        return sum(ranks)

    def next(self, server: Server, mean: Upload, fraction: float) -> Server:
        return replace(server, params=self._anew(server.params, server.round + 1), round=server.round + 1)

    def _anew(self, params: Tree, round_num: int) -> Tree:
        """A as PEFT draws it, and B zero."""
        words = np.random.default_rng([DRAWN, self.seed, round_num])
        stream = torch.Generator().manual_seed(int(words.integers(2**63)))

        def drawn(a: Tensor) -> Tensor:
            return nn.init.kaiming_uniform_(torch.empty_like(a), a=math.sqrt(5), generator=stream)

        return tree_of({name: (drawn(a), torch.zeros_like(b)) for name, (a, b) in pairs_of(params).items()})
