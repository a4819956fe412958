"""Directions, slopes and replay of the methods without a backward pass, on vectors and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawn_directions import LIKE, vector_of
from method_vectors import NO_MODEL, SGD, as_tree, as_vector, run_suite
from papers import CHOSEN, LR, NUM_ROWS, SIZE, problem
from tiny import client_task, random_part

from fedllm_bench.common.directions import ProbeStep, direction, mixed, move_
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import num_bytes, tmap
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedkseed import FedKSeed, chances
from fedllm_bench.methods.fedmezo import FedMeZO
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import block
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.steps import zeroth_order

SEEDS = FedKSeed(mu=0.1, seeds=6, pro=False)


def test_a_direction_is_a_function_of_its_seed_alone_and_normal():
    like = {"a": torch.zeros(300, 100), "b": torch.zeros(7)}
    first, again, other = (dict(direction(like, seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in like)
    assert not torch.equal(first["b"], other["b"])
    assert abs(float(first["a"].mean())) < 0.02
    assert abs(float(first["a"].std()) - 1) < 0.02
    assert abs(float((first["a"] * other["a"]).mean())) < 0.02  # neighbouring seeds are not alike
    assert len({mixed(3, number) for number in range(1000)}) == 1000


def test_plus_one_minus_two_plus_one_restores_the_adapter():
    start = {"a": torch.randn(50, 40, generator=torch.Generator().manual_seed(0))}
    moved = tmap(torch.clone, start)
    for times in (1, -2, 1):
        move_(moved, 9, times * 1e-3)
    assert torch.allclose(moved["a"], start["a"], rtol=0, atol=1e-6)
    move_(moved, 9, 1e-3)
    assert not torch.allclose(moved["a"], start["a"], rtol=0, atol=1e-4)


def test_the_mean_of_slope_times_direction_is_the_gradient():
    """On a quadratic, where it is exact for any mu; the mean of 20,000 is within 4 standard errors of it."""
    f, x = problem()
    found = []
    for seed in range(20_000):
        z = vector_of(seed)
        found.append(float(f.loss(0, x + 0.5 * z) - f.loss(0, x - 0.5 * z)) / 1.0 * z)
    every = torch.stack(found)
    error = every.std(dim=0) / len(found) ** 0.5
    assert (((every.mean(dim=0) - f.grad(0, x)).abs() / error) < 4).all()
    assert (error < 0.05 * f.grad(0, x).norm()).all()


def test_the_slope_is_that_of_the_gradient_and_the_probed_adapter_stays(monkeypatch):
    f, x = problem()
    layout = block.Layout.of(as_tree(x))
    y_KP, probes = torch.stack([layout.pack(as_tree(x))] * 2), [ProbeStep(4, 0.3), ProbeStep(5, 0.3)]
    monkeypatch.setattr(
        zeroth_order, "step_losses", lambda step, y_KP: torch.stack([f.loss(k, y) for k, y in enumerate(y_KP)])
    )
    step = zeroth_order.Step(NO_MODEL, layout, [], 0, SGD)
    noted = [zeroth_order.Probed(), zeroth_order.Probed()]
    losses, grad_KP = zeroth_order.probed_gradients(step, y_KP, probes, noted)
    for k, probe in enumerate(probes):
        z = vector_of(probe.seed)
        slope = float(f.grad(k, x) @ z)
        assert noted[k].slopes == pytest.approx([slope], rel=1e-9)
        assert torch.allclose(grad_KP[k], slope * z, rtol=1e-9)
        curve = float(0.5 * 0.3**2 * (f.curvature[k] * z * z).sum())
        assert losses[k] == pytest.approx(float(f.loss(k, x)) + curve)  # the mean of both points
    assert torch.allclose(y_KP, x.expand(2, SIZE), rtol=0, atol=1e-14)


@pytest.mark.parametrize("clip", [1e9, 0.5])
def test_the_numbers_that_a_client_sends_replay_its_steps(clip, monkeypatch):
    """Also where clipping made some steps smaller."""
    f, x = problem()
    path, _ = run_suite(SEEDS, f, x, monkeypatch)  # patches the losses of `f` in
    assert len(path) == len(CHOSEN)
    task = client_task(1, random_part(seed=0, num_rows=20), range(NUM_ROWS[1]), SGD, steps=7)
    server = SEEDS.init(as_tree(x))
    local = replace(SGD, clip=clip)
    (theirs,) = block.train_block(NO_MODEL, FedKSeedThatTells(**vars(SEEDS)), SEEDS.broadcast(server), [task], local)
    after = SEEDS.update(server, {"delta": theirs.upload["delta"]}, 1.0)
    end = as_vector(theirs.upload["end"])
    assert (end - x).norm() > 0.1
    assert torch.allclose(as_vector(after.params), end, rtol=0, atol=1e-9)


class FedKSeedThatTells(FedKSeed):
    def finish(self, message, client, y, mean_grad, steps, lr):
        state, upload = super().finish(message, client, y, mean_grad, steps, lr)
        return state, {**upload, "end": y}


@pytest.mark.parametrize("pro", [False, True])
def test_the_model_is_the_replay_of_the_numbers(pro, monkeypatch):
    f, x = problem()
    servers = []
    update = FedKSeed.update

    def noting(self, server, mean, fraction):
        servers.append(update(self, server, mean, fraction))
        return servers[-1]

    monkeypatch.setattr(FedKSeed, "update", noting)
    path, _ = run_suite(replace(SEEDS, pro=pro), f, x, monkeypatch)
    for server, params in zip(servers, path, strict=True):
        a = server.slots["a"]["a"]
        replay = x - sum(float(a_s) * vector_of(s) for s, a_s in enumerate(a))
        assert torch.allclose(params, replay, rtol=0, atol=1e-12)
    assert (path[-1] - x).norm() > 0.1
    assert int((servers[-1].slots["a"]["a"] != 0).sum()) > 3


def test_the_order_of_clients_changes_nothing_but_rounding():
    one, two = torch.tensor([0.1, 0.0, 0.3, 0.0, 0.0, 0.2]), torch.tensor([0.0, 0.5, -0.1, 0.0, 0.0, 0.7])
    ends = []
    for first, second in ((one, two), (two, one)):
        server = SEEDS.init(tmap(torch.clone, LIKE))
        for d in (first, second):
            server = SEEDS.update(server, {"delta": {"a": d.double()}}, 1.0)
        ends.append(as_vector(server.params))
    assert torch.allclose(*ends, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("pro", "down", "up"), [(False, 4, 4), (True, 8, 12)])
@pytest.mark.parametrize("width", [10, 1000])
def test_fedkseed_sends_k_numbers_whatever_the_model(pro, down, up, width):
    """4,096 numbers of 4 bytes are 16,384 bytes each way: less than the paper's 18 kB."""
    method, params = FedKSeed(mu=0.1, seeds=4096, pro=pro), {"w": torch.zeros(width, width)}
    assert Traffic(method, params, LR).of_client(0, 3) == (4096 * down, 4096 * up)
    message = method.broadcast(method.init(params))
    assert num_bytes(message) > num_bytes(method.travels(message, {}))
    assert Traffic(FedMeZO(mu=0.1), params, LR).of_client(0, 3) == (4 * width**2, 4 * width**2)


def test_pro_draws_seeds_of_steep_directions_more_often():
    """Slopes of 1, 3 and none: scaled to 1/3, 1 and 0."""
    seen = {"size": torch.tensor([2.0, 3.0, 0.0]), "count": torch.tensor([2.0, 1.0, 0.0])}
    p = chances(seen)
    assert torch.allclose(p, torch.softmax(torch.tensor([1 / 3, 1.0, 0.0]), 0))
    assert torch.equal(chances(tmap(torch.zeros_like, seen)), torch.full((3,), 1 / 3))
    method = replace(SEEDS, seeds=3, pro=True)
    server = replace(method.init(LIKE), slots={"a": {"a": torch.zeros(3)}, "seen": seen})
    message = method.broadcast(server)
    drawn = torch.tensor([method.probe(message, {}, moment).seed for moment in range(4000)])
    assert torch.allclose(torch.bincount(drawn) / 4000, p, rtol=0, atol=0.03)


def test_with_one_seed_every_step_is_along_it(monkeypatch):
    f, x = problem()
    path, _ = run_suite(replace(SEEDS, seeds=1), f, x, monkeypatch)
    moved, z = path[-1] - x, vector_of(0)
    assert torch.allclose(moved, (moved @ z) / (z @ z) * z, rtol=0, atol=1e-12)
    assert moved.norm() > 0.1


@pytest.mark.parametrize(
    ("name", "settings", "options", "words"),
    [
        ("fedmezo", ("local.optimizer=adamw",), {}, "local.optimizer=adamw: fedmezo steps by y - lr g z"),
        ("fedkseed", ("local.optimizer=adamw",), {}, "give --set local.optimizer=sgd"),
        ("fedmezo", (), {"engine": "trl"}, "ENGINE=trl: TRL's trainers take every step by a backward pass"),
        ("fedkseed", ("local.weight_decay=0.1",), {}, "local.weight_decay=0.1: fedkseed sends numbers"),
        ("fedkseed", ("communication.lora_aggregation=frozen_a",), {}, "lora_aggregation=frozen_a: fedkseed sends"),
        ("fedkseed", ("communication.upload_dtype=float16",), {}, "upload_dtype=float16: fedkseed sends"),
        ("fedkseed", ("communication.aggregation_error=true",), {}, "aggregation_error=true: fedkseed sends"),
        ("fedkseed", ("aggregation.rule=median", "federation.weighting=uniform"), {}, "give --set method.seeds="),
        ("fedkseed", ("method.seeds=0",), {}, "method.seeds: got 0"),
        ("fedkseed", ("method.mu=0",), {}, "method.mu: got 0.0"),
        ("fedmezo", ("method.mu=-1",), {}, "method.mu: got -1.0"),
        ("fedmezo", ("method.mu=1e-30",), {}, "method.mu: got 1e-30, it should be greater than or equal to 0.000001"),
        ("fedkseed", ("method.mu=9e-7",), {}, "method.mu: got 9e-07, it should be greater than or equal to 0.000001"),
        ("fedmezo", ("method.mu=1e9",), {}, "method.mu: got 1000000000.0, it should be less than or equal to 1"),
        ("fedkseed", ("method.mu=2",), {}, "method.mu: got 2.0, it should be less than or equal to 1"),
    ],
)
def test_what_has_no_meaning_without_a_backward_pass_is_refused_in_one_line(
    name, settings, options, words, tiny_run_config
):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config(name, *settings, **options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_median_of_seeds_that_most_clients_draw_is_taken(tiny_run_config):
    settings = ("aggregation.rule=median", "federation.weighting=uniform", "local.steps=8")
    make_method(tiny_run_config("fedkseed", *settings, "method.seeds=11"))
    with pytest.raises(UserError, match=r"most of its 12 seeds, and so has this rule; give --set method\.seeds=11 or"):
        make_method(tiny_run_config("fedkseed", *settings, "method.seeds=12"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("privacy.clip=0.5", "privacy.noise_multiplier=1"),
            "privacy.clip=0.5: with method.pro=true fedkseed",
        ),
        (("aggregation.rule=krum", "aggregation.byzantine=0"), "aggregation.rule=krum: with method.pro=true"),
        (("aggregation.rule=norm_bound", "aggregation.bound=1"), "aggregation.rule=norm_bound: with method.pro=true"),
    ],
)
def test_counts_of_steps_take_no_part_in_norms_and_distances(settings, words, tiny_run_config):
    """One step counts 1, and adds lr g to what the method is about: 1e-5 or so."""
    given = ("federation.weighting=uniform", *settings)
    make_method(tiny_run_config("fedkseed", *given))
    with pytest.raises(UserError, match=r"give --set method\.pro=false") as caught:
        make_method(tiny_run_config("fedkseed", *given, "method.pro=true"))
    assert words in str(caught.value)


def test_other_methods_have_a_backward_pass():
    assert FedAvg().probe({}, {}, 3) is None
    assert not FedAvg().changes("probe")
    assert FedMeZO(mu=0.1).changes("probe")
