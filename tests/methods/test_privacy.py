"""Clipping, noise and Poisson samples: DP-FedAvg against its paper, and what a private round does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from method_vectors import as_tree, as_vector, run_suite
from papers import CHOSEN, SIZE, dp_fedavg, problem
from resumed_rounds import Killed, initial, left_behind, outcome_of, same_bits
from scipy.stats import chi2, kstest
from scripted_rounds import START, by_client, fails_in_round, scripted_run
from senders import SENDING, own_parts

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.text import part_of
from fedllm_bench.methods.accounting import spent_epsilon
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.privacy import DpFedAvg, Private, clipped, joint_norm
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.scaffold import Scaffold
from fedllm_bench.training.batches import poisson_clients, schedule
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun


def private(
    inner: FedAvg | None = None, *, clip: float = 1e9, noise: float = 0.0, expected: float = 3.0, seed: int = 0
):
    return Private(inner=inner or DpFedAvg(), clip=clip, noise_multiplier=noise, expected=expected, seed=seed)


def random_upload(stream: torch.Generator, scale: float):
    shapes = {"delta": {"a": (3, 2), "b": (4,)}, "dc": {"a": (3, 2), "b": (4,)}}
    return {
        key: {name: scale * torch.randn(shape, generator=stream) for name, shape in tree.items()}
        for key, tree in shapes.items()
    }


# --- clipping


def test_clipping_never_lengthens_keeps_the_direction_and_leaves_small_uploads_untouched():
    stream, cut = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        scale, limit = torch.rand(2, generator=stream).mul(4).exp().tolist()
        upload = random_upload(stream, scale)
        before = joint_norm(upload)
        after = clipped(upload, limit)
        assert joint_norm(after) <= min(limit * (1 + 1e-6), before)
        if before <= limit:
            assert after is upload
            continue
        cut += 1
        assert joint_norm(after) == pytest.approx(limit, rel=1e-6)
        ratios = [(after[k][n] / upload[k][n]).flatten() for k in upload for n in upload[k]]
        assert torch.allclose(torch.cat(ratios), torch.tensor(limit / before, dtype=torch.float32), rtol=1e-5)
    assert 50 < cut < 180


def test_the_norm_is_over_all_keys_together():
    upload = {"delta": {"w": torch.tensor([3.0])}, "dc": {"w": torch.tensor([4.0])}}
    assert joint_norm(upload) == 5.0
    assert {key: tree["w"].tolist() for key, tree in clipped(upload, 2.5).items()} == {"delta": [1.5], "dc": [2.0]}
    assert clipped(upload, 5.0) is upload


def test_an_upload_of_zeros_or_of_nothing_is_no_nan():
    zeros = {"delta": {"w": torch.zeros(2)}}
    assert clipped(zeros, 0.5) is zeros
    assert joint_norm({}) == 0.0


# --- the method


def noise_of(seed: int, round_num: int, scale: float) -> torch.Tensor:
    """What the method adds in a round: its own stream, with the sizes of the problem."""
    method = private(noise=1.0, clip=scale, expected=1.0, seed=seed)
    nothing = {"delta": as_tree(torch.zeros(SIZE, dtype=torch.float64))}
    return as_vector(method._noisy(nothing, round_num)["delta"])


def test_it_is_the_algorithm_of_its_paper(monkeypatch):
    """Clip, sum, noise of standard deviation z C, and the fixed denominator q N."""
    f, x = problem()
    clip, z, expected = 0.3, 0.7, 1.5
    noise = [noise_of(5, number, z * clip) for number in range(len(CHOSEN))]
    path, _ = run_suite(private(clip=clip, noise=z, expected=expected, seed=5), f, x, monkeypatch)
    paper = dp_fedavg(f, x, clip=clip, noise=noise, expected=expected)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(path, paper, strict=True))
    unclipped = dp_fedavg(f, x, noise=noise, expected=expected)
    assert (path[0] - unclipped[0]).norm() > 0.1  # the clip mattered


def test_noise_is_normal_with_the_stated_deviation_on_every_key_and_differs_by_round_and_seed():
    size = 200_000
    zeros = {key: {"w": torch.zeros(size)} for key in ("delta", "dc")}
    method = private(Scaffold(eta=1.0), clip=0.5, noise=2.0, expected=8.0, seed=3)
    drawn = method._noisy(zeros, 1)
    draws = [tree["w"].double().numpy() for tree in drawn.values()]
    expected = 2.0 * 0.5 / 8.0
    for draw in draws:
        low, high = (math.sqrt(bound / size) for bound in chi2.interval(0.9999, size))
        assert low < draw.std() / expected < high  # within 0.6%
        assert kstest(draw / expected, "norm").pvalue > 1e-3
    others = [method._noisy(zeros, 2), replace(method, seed=4)._noisy(zeros, 1)]
    draws += [other["delta"]["w"].double().numpy() for other in others]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / math.sqrt(size)
    assert same_bits(method._noisy(zeros, 1), drawn)


@pytest.mark.parametrize("name", SENDING)
def test_without_noise_and_with_a_wide_clip_and_all_clients_it_is_the_inner_method(
    name, double_model, tiny_clients, tiny_run_config, tmp_path
):
    everyone = ("federation.clients_per_round=6", "federation.weighting=uniform", "federation.rounds=2")
    plain_config = tiny_run_config("fedavg" if name == "dp_fedavg" else name, *everyone)
    wide = ("privacy.clip=1e9", "privacy.epsilon=none", "privacy.noise_multiplier=0")
    found = []
    for config in (plain_config, tiny_run_config(name, *everyone, *wide)):
        method, folder = make_method(config), tmp_path / config.hash
        blocks = in_process(double_model, method, config)
        run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        found.append(outcome_of(run, initial(double_model, torch.float64)))
    assert schedule(config, 6) == [[0, 1, 2, 3, 4, 5]] * 2
    gaps = [(a[n] - b[n]).abs().max() for a, b in zip(*found, strict=True) for n in a]
    assert max(gaps) < 1e-12


@pytest.mark.parametrize("name", SENDING)
def test_a_round_of_nobody_is_noise_and_counts(name, tiny_run_config):
    """Every key that a client would send gets its noise; without noise the method sees an update of zero."""
    settings = ("privacy.clip=1.0", "privacy.epsilon=none", "federation.weighting=uniform")
    start = as_tree(torch.ones(SIZE))
    for noise in (0.0, 1.0):
        noisy = f"privacy.noise_multiplier={noise}"
        method = make_method(tiny_run_config(name, *settings, noisy, *own_parts(name, "w")))
        after = method.update(method.init(start), {}, 0.5)
        assert after.round == 1
        assert torch.equal(as_vector(after.params), torch.ones(SIZE)) == (noise == 0.0)
    if name == "scaffold":
        assert as_vector(after.slots["c"]).abs().min() > 0


# --- samples


def test_everyone_is_drawn_alone_with_the_same_probability():
    draws = [poisson_clients(3, round_num, 10, 4) for round_num in range(4000)]
    assert draws == [poisson_clients(3, round_num, 10, 4) for round_num in range(4000)]
    assert all(chosen == sorted(set(chosen)) for chosen in draws)
    hits = np.zeros((4000, 10))
    for round_num, chosen in enumerate(draws):
        hits[round_num, chosen] = 1
    assert np.abs(hits.mean(0) - 0.4).max() < 4.5 * math.sqrt(0.24 / 4000)
    sizes = hits.sum(1)
    assert sizes.var() == pytest.approx(10 * 0.24, rel=0.1)  # binomial: with a fixed size it would be 0
    assert sizes.min() == 0  # 0.6% of rounds have nobody
    assert np.abs(np.corrcoef(hits.T) - np.eye(10)).max() < 5 / math.sqrt(4000)
    assert poisson_clients(3, 0, 10, 10) == list(range(10))


def test_the_schedule_is_poisson_with_privacy_alone(tiny_run_config):
    plain, hidden = (tiny_run_config(name, "federation.rounds=40", seed=2) for name in ("fedavg", "dp_fedavg"))
    assert schedule(hidden, 6) == [poisson_clients(2, number, 6, 3) for number in range(40)]
    assert {len(chosen) for chosen in schedule(plain, 6)} == {3}
    assert len({len(chosen) for chosen in schedule(hidden, 6)}) > 3


# --- rounds


def with_empty_rounds(tiny_run_config, *more: str):
    config = tiny_run_config("dp_fedavg", "federation.clients_per_round=1", "federation.rounds=6", *more, seed=1)
    sizes = [len(chosen) for chosen in schedule(config, 6)]
    assert min(sizes) == 0 < max(sizes)
    return config, sizes


def test_records_tell_what_was_spent_and_clipped(tiny_clients, tiny_run_config, tmp_path):
    config, sizes = with_empty_rounds(tiny_run_config, "privacy.noise_multiplier=2", "privacy.clip=4")
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [len(record["clients"]) for record in records] == sizes
    assert [r["epsilon"] for r in records] == [spent_epsilon(2.0, 1e-4, 1 / 6, t) for t in range(1, 7)]
    for record in records:
        norms = [math.sqrt(2) * (client + 1) for client in record["clients"]]
        assert record["upload_norms"] == pytest.approx(norms)
        share = sum(norm > 4 for norm in norms) / len(norms) if norms else None
        assert record["clipped"] == share
        assert record["update_norm"] > 0  # the noise of an empty round too
        assert record["bytes_up"] == 8 * len(norms)


def test_the_denominator_is_fixed_and_a_failed_client_is_a_zero(tiny_clients, tiny_run_config, tmp_path):
    settings = ("federation.rounds=1", "privacy.noise_multiplier=0", "privacy.clip=100")
    config = tiny_run_config("dp_fedavg", *settings, seed=5)
    chosen = schedule(config, 6)[0]
    assert len(chosen) == 2  # neither they nor who answers are the three expected
    run, _ = scripted_run(fails_in_round(0, chosen[0]), config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    moved = sum(k + 1 for k in chosen[1:]) / 3
    assert server.params["w"].tolist() == pytest.approx([1 + moved, 2 - moved], rel=1e-6)


@pytest.mark.parametrize(("expected", "limit", "stops"), [(6, 0.5, False), (6, 0.1, True), (3, 0.4, False)])
def test_the_limit_of_failures_is_of_the_expected_clients(
    expected, limit, stops, tiny_clients, tiny_run_config, tmp_path
):
    """A sample may be one client, and its failure must not stop the run."""
    size, limits = f"federation.clients_per_round={expected}", f"federation.failure_limit={limit}"
    config = tiny_run_config("dp_fedavg", "federation.rounds=1", size, limits)
    chosen = schedule(config, 6)[0]
    run, _ = scripted_run(fails_in_round(0, chosen[0]), config, tiny_clients, tmp_path)
    if not stops:
        assert run_rounds(run, START).round == 1
        return
    with pytest.raises(UserError, match=f"{part_of(1, len(chosen), 'client', 'have')} no finite answer"):
        run_rounds(run, START)


def test_a_round_whose_only_client_fails_goes_on(tiny_clients, tiny_run_config, tmp_path):
    config, sizes = with_empty_rounds(tiny_run_config, "federation.failure_limit=0.99", "federation.rounds=2")
    assert len(sizes) == 2
    config = replace(config, federation=replace(config.federation, clients_per_round=2))
    first = schedule(config, 6)[0]
    assert len(first) == 1
    run, _ = scripted_run(fails_in_round(0, *first), config, tiny_clients, tmp_path)
    run_rounds(run, START)
    record = read_jsonl(tmp_path / "rounds.jsonl")[0]
    assert record["losses"] == [None]
    assert record["clipped"] is None


def test_fractions_of_the_server_are_those_of_the_sampling(tiny_clients, tiny_run_config, tmp_path):
    seen = []

    class Noting(DpFedAvg):
        def update(self, server: Server, mean, fraction: float) -> Server:
            seen.append(fraction)
            return super().update(server, mean, fraction)

    config = tiny_run_config("dp_fedavg", "federation.rounds=4")
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path, method=private(Noting()))
    run_rounds(run, START)
    assert seen == [3 / 6] * 4


def test_scaffolds_two_uploads_are_clipped_as_one(monkeypatch):
    f, x = problem()
    seen = []

    class Noting(Private):
        def receive(self, server, upload):
            counted = super().receive(server, upload)
            seen.append((joint_norm(upload), joint_norm(counted), set(counted)))
            return counted

    method = Noting(inner=Scaffold(eta=1.0), clip=0.15, noise_multiplier=0.0, expected=2.0, seed=0)
    run_suite(method, f, x, monkeypatch)
    assert len(seen) == sum(map(len, CHOSEN))
    assert sum(before > 0.15 for before, _, _ in seen) > len(seen) / 2
    assert all(after == pytest.approx(min(before, 0.15), rel=1e-12) for before, after, _ in seen)
    assert all(keys == {"delta", "dc"} for _, _, keys in seen)


def test_a_killed_private_run_ends_with_the_same_bits(tiny_clients, tiny_run_config, tmp_path):
    """Noise and samples are functions of (seed, round); empty rounds are in it."""
    config, _ = with_empty_rounds(tiny_run_config, "privacy.noise_multiplier=1")

    def dies(task):
        if task.round_num == 4:
            raise Killed
        return by_client(task)

    assert schedule(config, 6)[4], "choose a seed whose fifth round has a client"
    whole, _ = scripted_run(by_client, config, tiny_clients, tmp_path / "whole")
    broken, _ = scripted_run(dies, config, tiny_clients, tmp_path / "broken")
    for run in (whole, broken):
        run.folder.mkdir()
    run_rounds(whole, START)
    with pytest.raises(Killed):
        run_rounds(broken, START)
    again, _ = scripted_run(by_client, config, tiny_clients, tmp_path / "broken")
    run_rounds(again, START)
    assert same_bits(left_behind(again), left_behind(whole))
