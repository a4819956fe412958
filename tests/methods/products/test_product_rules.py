"""Rules of products against the papers, written down with matrices of full size, and by what each promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import FedAvg, Server, Upload, weighted_mean
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.communication.compression import SmallUploads
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.products.exact import Exact
from fedllm_bench.methods.products.factors import Pair, fitted, of_client, size_of, stacked, truncated
from fedllm_bench.methods.products.fair import Fair
from fedllm_bench.methods.products.flex import Flex
from fedllm_bench.methods.products.restart import Restart
from fedllm_bench.methods.products.rule import ProductRule
from fedllm_bench.methods.products.stack import Stack
from fedllm_bench.methods.scaffold import Scaffold

OUTPUTS, INPUTS, RANK, ALPHA = 7, 5, 2, 6
SCALE = ALPHA / RANK  # not one: a rule that forgets it is found out
A, B = "base_model.model.l.lora_A.weight", "base_model.model.l.lora_B.weight"
WEIGHTS, LR, STEPS = (3.0, 1.0, 4.0), 0.02, 3
RULES: dict[str, Callable[[FedAvg], ProductRule]] = {
    "flex": lambda inner: Flex(inner=inner),
    "fair": lambda inner: Fair(inner=inner, lam=0.3),
    "stack": lambda inner: Stack(inner=inner, seed=5),
    "exact": lambda inner: Exact(inner=inner),
    "restart": lambda inner: Restart(inner=inner),
}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W0, TARGETS = random(0, OUTPUTS, INPUTS), random(1, 3, OUTPUTS, INPUTS)


def first(name: str = "") -> Tree:
    """Where a run begins; FRLoRA's B is not zero."""
    zero = torch.zeros(OUTPUTS, RANK, dtype=torch.float64)
    return {A: random(2, RANK, INPUTS), B: 0.3 * random(3, OUTPUTS, RANK) if name == "restart" else zero}


def steps(base: Tensor, a: Tensor, b: Tensor, client: int, mu: float = 0.0) -> tuple[Tensor, Tensor]:
    """Local SGD on 1/2 ||base + s B A - target||^2 of a client, with FedProx's pull."""
    a0, b0 = a, b
    for _ in range(STEPS):
        error = base + SCALE * b @ a - TARGETS[client]
        a, b = a - LR * (SCALE * b.T @ error + mu * (a - a0)), b - LR * (SCALE * error @ a.T + mu * (b - b0))
    return a, b


def of_suite(rule: ProductRule, mu: float = 0.0, rounds: int = 3, name: str = "") -> tuple[list[Server], list[Tensor]]:
    """The server after each round by the suite's hooks, and the weight with all that it adds."""
    server, found = rule.init(first(name)), []
    for _ in range(rounds):
        message, uploads = rule.broadcast(server), []
        base = W0 + (SCALE * message["residual"][B] @ message["residual"][A] if "residual" in message else 0)
        for client in range(3):
            y = rule.start(message, {})
            a, b = steps(base, y[A], y[B], client, mu)
            _, upload = rule.finish(message, {}, {A: a, B: b}, y, STEPS, LR)
            uploads.append(rule.receive(server, upload))
        server = rule.update(server, rule.combine(server, uploads, WEIGHTS), 1.0)
        found.append(server)
    return found, [W0 + SCALE * product(rule.adapter(server)) for server in found]


def product(tree: Tree) -> Tensor:
    return tree[B] @ tree[A]


def of_paper(name: str, drawn: Sequence[Tensor], mu: float = 0.0) -> list[Tensor]:
    """The same by the papers, with matrices of full size; `drawn` are FLoRA's new A after each round."""
    p = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    base, a, b, path = W0, first(name)[A], first(name)[B], []
    base = base - SCALE * b @ a  # of which nothing is left but in FRLoRA
    for number in range(3):
        clients = [steps(base, a, b, client, mu) for client in range(3)]
        whole = sum(SCALE * share * b_k @ a_k for share, (a_k, b_k) in zip(p, clients, strict=True))
        a_mean = sum(share * a_k for share, (a_k, _) in zip(p, clients, strict=True))
        b_mean = sum(share * b_k for share, (_, b_k) in zip(p, clients, strict=True))
        if name == "flex":
            u, values, v = torch.linalg.svd(whole)
            a, b = v[:RANK], u[:, :RANK] @ torch.diag(values[:RANK]) / SCALE
        elif name == "stack":
            base, a, b = base + whole, drawn[number], torch.zeros_like(b)
        elif name == "exact":
            base, a, b = base + whole - SCALE * b_mean @ a_mean, a_mean, b_mean
        elif name == "restart":
            base = base + SCALE * (b_mean @ a_mean - b @ a)
        else:  # least squares of D: [A'; sqrt(lam) 1] D' ~ [E'; 0]
            error = whole / SCALE - b_mean @ a_mean
            left = torch.cat([a_mean.T, 0.3**0.5 * torch.eye(RANK, dtype=torch.float64)])
            right = torch.cat([error.T, torch.zeros(RANK, OUTPUTS, dtype=torch.float64)])
            a, b = a_mean, b_mean + torch.linalg.lstsq(left, right).solution.T
        path.append(base + SCALE * b @ a)
    return path


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_paper_on_quadratics(name, mu):
    servers, ours = of_suite(RULES[name](FedProx(mu=mu)), mu, name=name)
    theirs = of_paper(name, [server.params[A] for server in servers], mu)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)
    assert (ours[-1] - W0).norm() > 0.5
    assert [server.round for server in servers] == [1, 2, 3]


# --- what each promises


def uploads_of(params: Tree, ranks: Sequence[int] = (RANK,) * 3, seed: int = 10) -> tuple[list[Upload], Tensor]:
    """Uploads of clients with these ranks, and sum_k p_k B_k A_k."""
    p = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    uploads: list[Upload] = []
    whole = torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    for number, (rank, share) in enumerate(zip(ranks, p, strict=True)):
        delta = {A: random(seed + number, rank, INPUTS), B: random(seed + 50 + number, OUTPUTS, rank)}
        uploads.append({"delta": delta})
        whole += share * (params[B][:, :rank] + delta[B]) @ (params[A][:rank] + delta[A])
    return uploads, whole


def after(rule: ProductRule, uploads: Sequence[Upload], server: Server | None = None) -> Server:
    server = server or rule.init(first())
    return rule.update(server, rule.combine(server, uploads, WEIGHTS), 1.0)


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 2, 1)])
@pytest.mark.parametrize("name", ["stack", "exact"])
def test_exact_rules_keep_the_mean_of_products(name, ranks):
    """Round after round, on top of what the base has gained, and beyond the rank that a matrix can have."""
    rule = RULES[name](FedAvg())
    server, total = rule.init(first()), torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    for number in range(4):
        uploads, whole = uploads_of(server.params, ranks, seed=100 * number)
        residual = server.slots.get("residual")
        total = (product(residual) if residual else 0) + whole
        server = after(rule, uploads, server)
        assert torch.allclose(product(rule.adapter(server)), total, rtol=0, atol=1e-11)
        assert len(rule.adapter(server)[A]) % RANK == 0
    assert len(server.slots["residual"][A]) == min(OUTPUTS, INPUTS)


def test_the_stack_has_the_sum_of_ranks_and_zero_padding_would_not_be_exact():
    rule = RULES["stack"](FedAvg())
    uploads, whole = uploads_of(first(), (1, 2, 1))
    server = after(rule, uploads)
    assert server.slots["residual"][A].shape == (4, INPUTS)
    assert not server.params[B].any()
    wide = [{"delta": {A: _rows(u["delta"][A]), B: _rows(u["delta"][B].T).T}} for u in uploads]
    padded = weighted_mean(wide, WEIGHTS)["delta"]
    assert (product({A: first()[A] + padded[A], B: padded[B]}) - whole).norm() > 0.1


def _rows(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.zeros(RANK - len(tensor), tensor.shape[1], dtype=tensor.dtype)])


def test_the_stack_draws_a_new_adapter_each_round_from_seed_and_round():
    servers, _ = of_suite(RULES["stack"](FedAvg()))
    again, _ = of_suite(RULES["stack"](FedAvg()))
    other, _ = of_suite(Stack(inner=FedAvg(), seed=6))
    drawn = [server.params[A] for server in servers]
    assert all(torch.equal(x, y.params[A]) for x, y in zip(drawn, again, strict=True))
    assert not any(torch.equal(x, y.params[A]) for x, y in zip(drawn, other, strict=True))
    assert not torch.equal(drawn[0], drawn[1])
    assert max(float(a.abs().max()) for a in drawn) <= INPUTS**-0.5  # as Kaiming draws it


def test_exact_trains_on_the_means_of_a_and_b():
    uploads, _ = uploads_of(first())
    server, plain = after(Exact(inner=FedAvg()), uploads), weighted_mean(uploads, WEIGHTS)["delta"]
    for name, start in first().items():
        assert torch.allclose(server.params[name], start + plain[name], atol=1e-12)
    assert len(server.slots["residual"][A]) == 2 * RANK  # (K - 1) r


def test_rows_by_which_an_adapter_was_padded_are_no_part_of_the_stack():
    uploads, _ = uploads_of(first())
    held = {"rows": torch.tensor([1.0, 0.0])}
    padded = [{**upload, "held": held} for upload in uploads]
    server = after(RULES["stack"](FedAvg()), padded)
    assert len(server.slots["residual"][A]) == 3


@pytest.mark.parametrize("rule", [Exact(inner=FedAvg()), Fair(inner=FedAvg(), lam=0.0)])
def test_with_one_a_for_all_nothing_is_missed(rule):
    uploads = [{"delta": {B: upload["delta"][B]}} for upload in uploads_of(first())[0]]
    server = after(rule, uploads)
    residual = server.slots.get("residual")
    assert residual is None or float(product(residual).norm()) < 1e-14
    mean = sum(w / sum(WEIGHTS) * upload["delta"][B] for w, upload in zip(WEIGHTS, uploads, strict=True))
    assert torch.allclose(server.params[B], mean, atol=1e-12)


def test_one_client_changes_no_base():
    uploads, _ = uploads_of(first())
    rule = Exact(inner=FedAvg())
    server = rule.update(rule.init(first()), rule.combine(rule.init(first()), uploads[:1], [2.0]), 1.0)
    assert server.slots == {}


@pytest.mark.parametrize("ranks", [(2, 2, 2), (2, 1, 1)])
def test_flex_loses_the_tail_of_the_singular_values(ranks):
    uploads, whole = uploads_of(first(), ranks)
    server = after(Flex(inner=FedAvg()), uploads)
    values = torch.linalg.svdvals(whole)
    missed = float((product(server.params) - whole).norm())
    assert missed == pytest.approx(float(values[RANK:].norm()), rel=1e-9)
    assert missed > 0.1
    cut = server.params[B][:, :1] @ server.params[A][:1]  # what a client of rank 1 takes is the best of rank 1
    assert float((cut - whole).norm()) == pytest.approx(float(values[1:].norm()), rel=1e-9)


def test_flex_keeps_what_has_the_rank_of_the_adapter():
    one = uploads_of(first())[0][0]
    server = after(Flex(inner=FedAvg()), [one, one, one])
    theirs = one["delta"][B] @ (first()[A] + one["delta"][A])
    assert torch.allclose(product(server.params), theirs, atol=1e-12)
    zero = [{"delta": {name: torch.zeros_like(t) for name, t in first().items()}}] * 3
    again = after(Flex(inner=FedAvg()), zero, server)
    assert torch.allclose(product(again.params), product(server.params), atol=1e-12)


def test_fair_goes_from_the_best_b_to_fedavg():
    uploads, whole = uploads_of(first())
    mean = after(Exact(inner=FedAvg()), uploads).params
    missed = {}
    for lam in (0.0, 0.1, 1.0, 1e9):
        server = after(Fair(inner=FedAvg(), lam=lam), uploads)
        assert torch.allclose(server.params[A], mean[A], atol=1e-12)
        missed[lam] = float((product(server.params) - whole).norm())
    assert torch.allclose(server.params[B], mean[B], atol=1e-6)
    assert missed[0.0] < missed[0.1] < missed[1.0] < missed[1e9]
    best = whole @ torch.linalg.pinv(mean[A]) @ mean[A]
    assert missed[0.0] == pytest.approx(float((best - whole).norm()), rel=1e-9)


def test_clients_without_rows_change_nothing():
    zero = [{"delta": {name: torch.zeros_like(t) for name, t in first().items()}}] * 2
    for name, make in RULES.items():
        rule = make(FedAvg())
        start = after(rule, uploads_of(first())[0])
        server = rule.update(start, rule.combine(start, zero, [0.0, 0.0]), 0.5)
        assert torch.allclose(product(rule.adapter(server)), product(rule.adapter(start)), atol=1e-12), name


def test_uploads_in_float16_are_widened_first():
    half = SmallUploads(inner=Stack(inner=FedAvg(), seed=0), codec=Codec(dtype="float16"))
    server = half.init({name: t.float() for name, t in first().items()})
    uploads = [{"delta": {n: t.half() for n, t in u["delta"].items()}} for u in uploads_of(first())[0]]
    received = [half.receive(server, upload) for upload in uploads]
    mean = half.combine(server, received, WEIGHTS)["residual"]
    assert half.needs_all
    assert mean[A].dtype == torch.float32
    expected = sum(
        w / sum(WEIGHTS) * u["delta"][B].double() @ (server.params[A].double() + u["delta"][A].double())
        for w, u in zip(WEIGHTS, uploads, strict=True)
    )
    assert torch.allclose(product(mean).double(), expected, atol=1e-5)


def test_a_restart_changes_nothing_and_begins_from_the_same_adapter():
    rule, start = RULES["restart"](FedAvg()), first("restart")
    server = rule.init(start)
    assert float(product(rule.adapter(server)).norm()) < 1e-14
    uploads, _ = uploads_of(start)
    mean = weighted_mean(uploads, WEIGHTS)["delta"]
    gained = (start[B] + mean[B]) @ (start[A] + mean[A]) - start[B] @ start[A]
    server = after(rule, uploads, server)
    assert torch.allclose(product(rule.adapter(server)), gained, atol=1e-12)
    assert all(torch.equal(server.params[name], start[name]) for name in start)


# --- SCAFFOLD under the exact rule


def test_scaffold_keeps_its_variates_under_the_exact_rule():
    inner = Scaffold(eta=1.0)
    rule = Exact(inner=inner)
    assert rule.problem(inner) is None
    assert rule.problem(Scaffold(eta=0.5)) is not None
    start = rule.init(first())
    uploads = [{**upload, "dc": upload["delta"]} for upload in uploads_of(first())[0]]
    plain = inner.update(inner.init(first()), weighted_mean(uploads, WEIGHTS), 0.5)
    server = rule.update(start, rule.combine(start, uploads, WEIGHTS), 0.5)
    for name in first():
        assert torch.allclose(server.params[name], plain.params[name], atol=1e-12)
        assert torch.allclose(server.slots["c"][name], plain.slots["c"][name], atol=1e-12)
    assert set(rule.broadcast(server)) == {"params", "c", "residual"}


# --- the factors


def test_a_pair_fits_its_matrix():
    for outputs, inputs in ((3, 9), (9, 3), (4, 4)):
        pair = random(0, 8, inputs), random(1, outputs, 8)
        small = fitted(pair)
        assert len(small[0]) == min(outputs, inputs)
        assert torch.allclose(small[1] @ small[0], pair[1] @ pair[0], atol=1e-12)
        low = random(0, 2, inputs), random(1, outputs, 2)
        assert fitted(low) is low


def test_sizes_need_no_matrix_of_full_size():
    pair: Pair = random(0, 2, 6), random(1, 4, 2)
    assert size_of(pair) == pytest.approx(float((pair[1] @ pair[0]).norm()), rel=1e-12)
    assert size_of(stacked([pair, (pair[0], -pair[1])])) < 1e-6


def test_a_rank_above_the_layer_is_filled_with_zeros():
    pair = truncated((random(0, 6, 3), random(1, 4, 6)), 5)
    assert (pair[0].shape, pair[1].shape) == ((5, 3), (4, 5))
    assert torch.allclose(pair[1] @ pair[0], random(1, 4, 6) @ random(0, 6, 3), atol=1e-12)


def test_the_parts_of_a_client_of_smaller_rank():
    params = {A: random(0, 3, INPUTS), B: random(1, OUTPUTS, 3)}
    a, b = of_client(params, {A: random(2, 2, INPUTS)})[A]
    assert torch.equal(a, params[A][:2] + random(2, 2, INPUTS))
    assert torch.equal(b, params[B][:, :2])
