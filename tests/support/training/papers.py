"""Direct transcriptions of the papers' algorithms, on quadratics whose gradients are known.

Each takes the problem and the first x, and gives the server's x after every round; plain SGD, no clipping.
They use vectors and loops only, nothing of the suite but its random directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from drawn_directions import chosen_seed, drawn_direction, seed_directions
from torch import Tensor

LR, NUM_CLIENTS, SIZE = 0.1, 3, 5
NUM_ROWS, STEPS = (4, 7, 2), (3, 2, 3)  # of each client
ZERO = torch.zeros(SIZE, dtype=torch.float64)
CHOSEN = ([0, 1, 2], [0, 2], [1, 2], [0, 1])  # clients by round


@dataclass(frozen=True)
class Quadratic:
    """f_k(y) = 1/2 (y - target)' diag(curvature) (y - target) of each client k."""

    curvature: Tensor
    target: Tensor

    def grad(self, k: int, y: Tensor) -> Tensor:
        return self.curvature[k] * (y - self.target[k])

    def loss(self, k: int, y: Tensor) -> Tensor:
        return (self.curvature[k] * (y - self.target[k]) ** 2).sum() / 2


def problem() -> tuple[Quadratic, Tensor]:
    stream = torch.Generator().manual_seed(0)
    curvature, target = torch.rand(2, NUM_CLIENTS, SIZE, generator=stream, dtype=torch.float64)
    return Quadratic(curvature + 0.5, 4 * target - 2), torch.ones(SIZE, dtype=torch.float64)


def descend(f: Quadratic, k: int, x: Tensor, extra: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Local SGD of client k from x, along its gradient plus `extra`."""
    y = x.clone()
    for _ in range(STEPS[k]):
        y = y - LR * (f.grad(k, y) + (extra(y) if extra else 0.0))
    return y


def mean(chosen: Sequence[int], values: dict[int, Tensor], *, by_rows: bool) -> Tensor:
    weights = {k: NUM_ROWS[k] if by_rows else 1 for k in chosen}
    return sum((weights[k] * values[k] for k in chosen), ZERO) / sum(weights.values())


def fedavg(f: Quadratic, x: Tensor, mu: float = 0.0) -> list[Tensor]:
    """McMahan et al., Algorithm 1; with mu > 0 Li et al., Algorithm 2, with the weights of FedAvg."""
    path = []
    for chosen in CHOSEN:
        x0 = x
        x = mean(chosen, {k: descend(f, k, x0, lambda y: mu * (y - x0)) for k in chosen}, by_rows=True)  # noqa: B023
        path.append(x)
    return path


def local(f: Quadratic, x: Tensor) -> list[Tensor]:
    """Each client goes on from where it stopped: the clients' own models at the end."""
    own = [x] * NUM_CLIENTS
    for chosen in CHOSEN:
        for k in chosen:
            own[k] = descend(f, k, own[k])
    return own


def scaffold(f: Quadratic, x: Tensor, eta: float) -> list[Tensor]:
    """Karimireddy et al., Algorithm 1 with option II."""
    path, c, own = [], ZERO, [ZERO] * NUM_CLIENTS
    for chosen in CHOSEN:
        deltas, changes = [], []
        for k in chosen:
            y = descend(f, k, x, lambda y, k=k, c=c: c - own[k])
            new = own[k] - c + (x - y) / (STEPS[k] * LR)
            deltas.append(y - x)
            changes.append(new - own[k])
            own[k] = new
        x = x + eta * sum(deltas) / len(chosen)
        c = c + sum(changes) / NUM_CLIENTS
        path.append(x)
    return path


def fedavgm(f: Quadratic, x: Tensor, beta: float, eta: float) -> list[Tensor]:
    """Hsu et al., 2019, section 4."""
    path, m = [], ZERO
    for chosen in CHOSEN:
        m = beta * m + mean(chosen, {k: descend(f, k, x) - x for k in chosen}, by_rows=True)
        x = x + eta * m
        path.append(x)
    return path


def fedopt(name: str, f: Quadratic, x: Tensor, beta1: float, beta2: float, eta: float, tau: float) -> list[Tensor]:
    """Reddi et al., Algorithm 2."""
    path, m, v = [], ZERO, ZERO + tau**2
    for chosen in CHOSEN:
        d = mean(chosen, {k: descend(f, k, x) - x for k in chosen}, by_rows=True)
        m = beta1 * m + (1 - beta1) * d
        v = _second_moment(name, v, d**2, beta2)
        x = x + eta * m / (v**0.5 + tau)
        path.append(x)
    return path


def dp_fedavg(
    f: Quadratic, x: Tensor, clip: float = math.inf, noise: Sequence[Tensor] | None = None, expected: float = 0.0
) -> list[Tensor]:
    """McMahan et al., 2018, Algorithm 1, all w_k = 1; without `expected`, the estimator is the plain mean."""
    path = []
    for number, chosen in enumerate(CHOSEN):
        updates = [descend(f, k, x) - x for k in chosen]
        total = sum((u * min(1.0, clip / float(u.norm())) for u in updates), ZERO)
        x = x + (total + (noise[number] if noise else 0.0)) / (expected or len(chosen))
        path.append(x)
    return path


def _second_moment(name: str, v: Tensor, square: Tensor, beta2: float) -> Tensor:
    return {
        "adagrad": v + square,
        "yogi": v - (1 - beta2) * square * torch.sign(v - square),
        "adam": beta2 * v + (1 - beta2) * square,
    }[name]


def feddyn(f: Quadratic, x: Tensor, alpha: float) -> list[Tensor]:
    """Acar et al., Algorithm 1; `linear` is their grad L_k(theta_k), the linear term of a client's objective."""
    path, h, linear = [], ZERO, [ZERO] * NUM_CLIENTS
    for chosen in CHOSEN:
        theta = {}
        for k in chosen:
            theta[k] = descend(f, k, x, lambda y, k=k, x=x: alpha * (y - x) - linear[k])
            linear[k] = linear[k] - alpha * (theta[k] - x)
        h = h - alpha / NUM_CLIENTS * sum(theta[k] - x for k in chosen)
        x = mean(chosen, theta, by_rows=False) - h / alpha
        path.append(x)
    return path


def slope(f: Quadratic, k: int, y: Tensor, z: Tensor, mu: float) -> float:
    """Malladi et al., 2023, Algorithm 1."""
    return float(f.loss(k, y + mu * z) - f.loss(k, y - mu * z)) / (2 * mu)


def fedmezo(f: Quadratic, x: Tensor, mu: float, direction: Callable[[int, int], Tensor]) -> list[Tensor]:
    """Ling et al., 2024, Algorithm 1; `direction` is that of a client's step, the same in all rounds here."""
    path = []
    for chosen in CHOSEN:
        ends = {}
        for k in chosen:
            y = x.clone()
            for number in range(STEPS[k]):
                z = direction(k, number)
                y = y - LR * slope(f, k, y, z, mu) * z
            ends[k] = y
        x = mean(chosen, ends, by_rows=True)
        path.append(x)
    return path


def fedkseed(
    f: Quadratic, w0: Tensor, mu: float, directions: Sequence[Tensor], choice: Callable[[int, int], int]
) -> list[Tensor]:
    """Qin et al., 2023, Algorithm 1: the model is w0 and K numbers; `choice` is the seed of a client's step."""
    path, a = [], [0.0] * len(directions)
    for chosen in CHOSEN:
        start = replayed(w0, a, directions)
        rows = sum(NUM_ROWS[k] for k in chosen)
        new = list(a)
        for k in chosen:
            w = start
            for number in range(STEPS[k]):
                s = choice(k, number)
                g = slope(f, k, w, directions[s], mu)
                w = w - LR * g * directions[s]
                new[s] += NUM_ROWS[k] / rows * g
        a = new
        path.append(replayed(w0, a, directions))
    return path


def replayed(w0: Tensor, a: Sequence[float], directions: Sequence[Tensor]) -> Tensor:
    return w0 - LR * sum((a_s * z for a_s, z in zip(a, directions, strict=True)), ZERO)


def released_scaffold(f: Quadratic, x: Tensor) -> list[Tensor]:
    """The correction stands after the optimiser's step, at the learning rate; theta is weighted by rows."""
    path, c, own = [], ZERO, [ZERO] * NUM_CLIENTS
    for chosen in CHOSEN:
        weights, changes = {}, []
        for k in chosen:
            correction, w = c - own[k], x.clone()
            for _ in range(STEPS[k]):
                w = w - LR * f.grad(k, w)
                w = w - LR * correction
            new = (x - w) / (STEPS[k] * LR) - correction
            weights[k] = w
            changes.append(new - own[k])
            own[k] = new
        x = mean(chosen, weights, by_rows=True)
        c = c + sum(changes) / NUM_CLIENTS
        path.append(x)
    return path


def released_fedavgm(f: Quadratic, x: Tensor, beta1: float) -> list[Tensor]:
    path, v = [], ZERO
    for number, chosen in enumerate(CHOSEN):
        d = mean(chosen, {k: descend(f, k, x) - x for k in chosen}, by_rows=True)
        v = beta1 * v + (1 - beta1) * d if number > 0 else d
        x = x + v
        path.append(x)
    return path


def released_fedopt(
    name: str, f: Quadratic, x: Tensor, beta1: float, beta2: float, eta: float, tau: float
) -> list[Tensor]:
    """A uniform mean; v is fed with the square of m."""
    path, m, v = [], ZERO, ZERO + tau**2
    for number, chosen in enumerate(CHOSEN):
        d = mean(chosen, {k: descend(f, k, x) - x for k in chosen}, by_rows=False)
        m = beta1 * m + (1 - beta1) * d if number > 0 else d
        v = _second_moment(name, v, m**2, beta2)
        x = x + eta * m / (v**0.5 + tau)
        path.append(x)
    return path


def ditto(f: Quadratic, x: Tensor, lam: float) -> tuple[list[Tensor], list[Tensor]]:
    """Li et al., 2021, Algorithm 1: the path of x, and the v_k at the end; v_k begins at the first x of client k."""
    path, own = fedavg(f, x), [x] * NUM_CLIENTS
    for number, chosen in enumerate(CHOSEN):
        w = path[number - 1] if number else x
        for k in chosen:
            first = all(k not in earlier for earlier in CHOSEN[:number])
            own[k] = descend(f, k, w if first else own[k], lambda v, w=w: lam * (v - w))
    return path, own


def pfedme(
    f: Quadratic, x: Tensor, lam: float, eta: float, beta: float, inner_steps: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Dinh et al., Algorithm 1: the path of x, and the theta_k at the end."""
    path, own = [], [x] * NUM_CLIENTS
    for chosen in CHOSEN:
        ends = []
        for k in chosen:
            w, theta, left = x, x, STEPS[k]
            while left:
                for _ in range(min(inner_steps, left)):
                    theta = theta - LR * (f.grad(k, theta) + lam * (theta - w))
                w = w - eta * lam * (w - theta)
                left -= min(inner_steps, left)
            ends.append(w)
            own[k] = theta
        x = (1 - beta) * x + beta * sum(ends) / len(chosen)
        path.append(x)
    return path, own


def fedrep(f: Quadratic, x: Tensor, own_steps: Sequence[int], num_own: int) -> tuple[list[Tensor], list[Tensor]]:
    """Collins et al., Algorithm 1: h are the first `num_own` numbers, phi the rest; the path of x, and (phi, h_k)."""
    path, h = [], [x[:num_own]] * NUM_CLIENTS
    for chosen in CHOSEN:
        phis = []
        for k in chosen:
            phi = x[num_own:]
            for step in range(STEPS[k]):
                grad = f.grad(k, torch.cat([h[k], phi]))
                if step < own_steps[k]:
                    h[k] = h[k] - LR * grad[:num_own]
                else:
                    phi = phi - LR * grad[num_own:]
            phis.append(phi)
        x = torch.cat([x[:num_own], sum(phis) / len(chosen)])
        path.append(x)
    return path, [torch.cat([h[k], x[num_own:]]) for k in range(NUM_CLIENTS)]


def fedem(f: Quadratic, first: Sequence[Tensor]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Marfoq et al., Algorithm 1, with one row of each client, whose q is of each step: the paths of all theta_m, and
    the pi_k at the end."""
    theta, paths = list(first), [[] for _ in first]
    pi = [torch.full((len(theta),), 1 / len(theta), dtype=torch.float64)] * NUM_CLIENTS
    for chosen in CHOSEN:
        ends: dict[int, list[Tensor]] = {}
        for k in chosen:
            y, seen = list(theta), []
            for _ in range(STEPS[k]):
                q = pi[k] * torch.stack([torch.exp(-f.loss(k, each)) for each in y])
                q = q / q.sum()
                y = [each - LR * q_m * f.grad(k, each) for each, q_m in zip(y, q, strict=True)]
                seen.append(q)
            ends[k], pi[k] = y, sum(seen) / len(seen)
        theta = [mean(chosen, {k: ends[k][m] for k in chosen}, by_rows=True) for m in range(len(theta))]
        for path, each in zip(paths, theta, strict=True):
            path.append(each)
    return paths, pi


Transcription = Callable[[Quadratic, Tensor], Sequence[Tensor]]
PROXIMAL: dict[str, Any] = {"lam": 1.5, "eta": 0.4, "beta": 0.9, "inner_steps": 2}
PARTS = {"local_parts": "w", "own_share": 0.5}
OWN_STEPS = (2, 1, 2)  # of STEPS, where half of them are of the local part
ADAPTIVE = {"beta1": 0.6, "eta": 0.3, "tau": 0.05}

# Variant -> method -> its constants, and the server's x after each round from f and the first x.
PAPERS: dict[str, dict[str, tuple[dict[str, Any], Transcription]]] = {
    "paper": {
        "local": ({}, lambda f, x: [x] * len(CHOSEN)),
        "fedavg": ({}, fedavg),
        "fedprox": ({"mu": 0.7}, lambda f, x: fedavg(f, x, mu=0.7)),
        "scaffold": ({"eta": 0.8}, lambda f, x: scaffold(f, x, eta=0.8)),
        "fedavgm": ({"beta": 0.6, "eta": 0.9}, lambda f, x: fedavgm(f, x, beta=0.6, eta=0.9)),
        "fedadagrad": (ADAPTIVE, lambda f, x: fedopt("adagrad", f, x, beta2=0.0, **ADAPTIVE)),
        "fedyogi": ({**ADAPTIVE, "beta2": 0.7}, lambda f, x: fedopt("yogi", f, x, beta2=0.7, **ADAPTIVE)),
        "fedadam": ({**ADAPTIVE, "beta2": 0.7}, lambda f, x: fedopt("adam", f, x, beta2=0.7, **ADAPTIVE)),
        "central": ({}, fedavg),  # its rule is FedAvg's; that its rows are pooled is tested with the rounds
        "feddyn": ({"alpha": 0.4}, lambda f, x: feddyn(f, x, alpha=0.4)),
        "dp_fedavg": ({}, lambda f, x: dp_fedavg(f, x)),  # before it is made private, which `privacy` does
        # of numbers that are no A or B, nothing is pruned and all norms are equal
        "hetlora": ({"gamma": 0.9, "lam": 0.1}, lambda f, x: dp_fedavg(f, x)),
        "ditto": ({"lam": 0.8}, lambda f, x: ditto(f, x, lam=0.8)[0]),
        "pfedme": (PROXIMAL, lambda f, x: pfedme(f, x, **PROXIMAL)[0]),
        "fedrep": (PARTS, lambda f, x: fedrep(f, x, OWN_STEPS, num_own=2)[0]),
        # of numbers that are no A, all models begin alike, and stay so: half a gradient each
        "fedem": ({"adapters": 2}, lambda f, x: fedem(f, [x, x])[0][0]),
        "fedmezo": ({"mu": 0.2}, lambda f, x: fedmezo(f, x, mu=0.2, direction=drawn_direction)),
        "fedkseed": (
            {"mu": 0.2, "seeds": 6, "pro": False},
            lambda f, x: fedkseed(
                f, x, mu=0.2, directions=seed_directions(6), choice=lambda k, i: chosen_seed(k, i, 6)
            ),
        ),
    },
    "released": {
        "local": ({}, lambda f, x: [x] * len(CHOSEN)),
        "fedavg": ({}, fedavg),
        "fedprox": ({"mu": 0.7}, lambda f, x: fedavg(f, x, mu=0.7)),
        "scaffold": ({}, released_scaffold),
        "fedavgm": ({"beta1": 0.6}, lambda f, x: released_fedavgm(f, x, beta1=0.6)),
        "fedadagrad": (ADAPTIVE, lambda f, x: released_fedopt("adagrad", f, x, beta2=0.0, **ADAPTIVE)),
        "fedyogi": ({**ADAPTIVE, "beta2": 0.7}, lambda f, x: released_fedopt("yogi", f, x, beta2=0.7, **ADAPTIVE)),
        "fedadam": ({**ADAPTIVE, "beta2": 0.7}, lambda f, x: released_fedopt("adam", f, x, beta2=0.7, **ADAPTIVE)),
    },
}
CASES = [(variant, name) for variant, methods in PAPERS.items() for name in methods]
