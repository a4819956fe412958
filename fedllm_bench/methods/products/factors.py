"""Changes of frozen weights as pairs of factors, W + s B A, and arithmetic on pairs without a matrix of full size.

O outputs, I inputs, R rank of a pair, r rank of the adapters (`lora.rank`), K clients. The scale s = alpha / r of the
run is that of every pair, whatever its R, so it appears nowhere here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.uploads import is_a

Pair = tuple[Tensor, Tensor]  # A of shape (R, I), and B of (O, R)
Pairs = dict[str, Pair]  # by the PEFT name of A


def pairs_of(tree: Mapping[str, Tensor]) -> Pairs:
    return {name: (tree[name], tree[_name_of_b(name)]) for name in tree if is_a(name)}


def tree_of(pairs: Mapping[str, Pair]) -> Tree:
    return {n: t for name, (a, b) in pairs.items() for n, t in ((name, a), (_name_of_b(name), b))}


def _name_of_b(name: str) -> str:
    return name.replace(".lora_A.", ".lora_B.")


def of_client(params: Tree, delta: Mapping[str, Tensor]) -> Pairs:
    """What a client has trained, in float64: `params` plus its change.

    A client of a smaller rank trained the first rows of A and columns of B; a tensor that is not in `delta` stayed.
    """
    found: Pairs = {}
    for name, (a, b) in pairs_of(params).items():
        a_change, b_change = (delta.get(n) for n in (name, _name_of_b(name)))
        rank = min([a.shape[0], *(t.shape[axis] for t, axis in ((a_change, 0), (b_change, 1)) if t is not None)])
        found[name] = (_moved(a[:rank], a_change), _moved(b[:, :rank], b_change))
    return found


def _moved(start: Tensor, change: Tensor | None) -> Tensor:
    return start.double() if change is None else start.double() + change.double()


def shares(weights: Sequence[float]) -> list[float]:
    """Weights that sum to one; where no client has any, all count alike."""
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / len(weights)] * len(weights)


def stacked(pairs: Sequence[Pair]) -> Pair:
    """The sum of the products B A, as one pair of the sum of ranks."""
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)


def mean_product(pairs: Sequence[Pair], shares: Sequence[float]) -> Pair:
    """sum_k p_k B_k A_k as one pair."""
    return stacked([(a, share * b) for (a, b), share in zip(pairs, shares, strict=True)])


def mean_factors(pairs: Sequence[Pair], shares: Sequence[float]) -> Pair:
    """sum_k p_k A_k and sum_k p_k B_k, of pairs of one rank."""
    weighted = [(share * a, share * b) for (a, b), share in zip(pairs, shares, strict=True)]
    return sum_of(a for a, _ in weighted), sum_of(b for _, b in weighted)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


def padded(pair: Pair, rank: int) -> Pair:
    """The same product with zeros up to `rank`, in tensors of their own."""
    a, b = pair
    wide = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
    wide[0][: len(a)], wide[1][:, : b.shape[1]] = a, b
    return wide


def fitted(pair: Pair) -> Pair:
    """The same product with a rank of at most min(O, I): beyond it a factor is the product, the other the identity."""
    a, b = pair
    outputs, inputs = b.shape[0], a.shape[1]
    if len(a) <= min(outputs, inputs):
        return pair
    product = (b.double() @ a.double()).to(a.dtype)
    one = torch.eye(min(outputs, inputs), dtype=a.dtype, device=a.device)
    return (product, one) if outputs <= inputs else (one, product)


def truncated(pair: Pair, rank: int) -> Pair:
    """U S and V' of the `rank` largest singular values of B A: A has orthonormal rows, B the size of the product.

    Largest first: its first rows and columns are the best pair of a smaller rank. Where the pair has fewer singular
    values, the rows of A beyond are orthonormal too, and B is zero there: zeros in both could never be trained again.
    """
    a, b = padded(pair, max(rank, len(pair[0])))
    left_OR, right_RR = torch.linalg.qr(b)
    left_IR, lower_RR = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(right_RR @ lower_RR.T, full_matrices=False)
    kept = min(rank, len(values))
    return padded((v[:kept] @ left_IR.T, left_OR @ (u[:, :kept] * values[:kept])), rank)


def size_of(pair: Pair) -> float:
    """The Frobenius norm of B A, from B'B and AA'."""
    a, b = (factor.double() for factor in pair)
    return sqrt(max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0))


def difference(plus: Pair, minus: Pair) -> Pair:
    """The pair whose product is the difference of theirs."""
    return stacked([plus, (minus[0], -minus[1])])


def norm_of(pairs: Mapping[str, Pair]) -> float:
    """Over the products of all layers together."""
    return sqrt(sum(size_of(pair) ** 2 for pair in pairs.values()))


def distance(tree: Tree, other: Tree) -> float:
    """The norm of what the products of two adapters differ by, over all layers; their ranks may differ."""
    others = pairs_of(other)
    return norm_of({name: difference(_wide(pair), _wide(others[name])) for name, pair in pairs_of(tree).items()})


def _wide(pair: Pair) -> Pair:
    return pair[0].double(), pair[1].double()
