"""Secure sums: exact in integers, whoever drops out; one upload by itself is noise."""

from __future__ import annotations

import logging
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from resumed_rounds import Killed, anew, asked_in, killed_at, left_behind, same_bits, undisturbed
from scipy.stats import chisquare
from scripted_rounds import START, by_client, delta, fails_in_round, scripted_run
from senders import PRIVACY, SENDING
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.common.trees import norm, tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Upload
from fedllm_bench.methods.communication.secure_sum import RANGE, SecureRound, SecureSum, summed
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.checkpoint import load_partial
from fedllm_bench.training.rounds import run_rounds

SECURE = "communication.secure_sum=true"
WEIGHTS = {3: 1.0, 0: 0.25, 7: 0.5, 9: 0.125, 4: 1.0}


def uploads() -> dict[int, Upload]:
    found = {}
    for client in WEIGHTS:
        stream = torch.Generator().manual_seed(client)
        found[client] = {
            "delta": {"w": torch.randn(50, 20, generator=stream), "b": torch.randn(7, generator=stream)},
            "dc": {"w": torch.randn(50, 20, generator=stream), "b": torch.randn((), generator=stream)},
        }
    return found


def test_sums_stay_a_quarter_of_the_integers():
    assert RANGE * len(WEIGHTS) / SecureRound(0, 0, WEIGHTS).step <= 2**30
    assert SecureRound(0, 0, dict.fromkeys(range(8), 1.0)).step == 2.0**-24


@pytest.mark.parametrize("lost", [(), (3,), (0, 9), (3, 0, 9, 4)])
@pytest.mark.parametrize("order", [sorted(WEIGHTS), sorted(WEIGHTS, reverse=True), [4, 9, 0, 7, 3]], ids=str)
def test_the_unmasked_sum_is_the_sum_of_the_integers_to_the_bit(order, lost):
    sums, sent = SecureRound(5, 2, WEIGHTS), uploads()
    answered = [client for client in order if client not in lost]
    masked, plain = {}, {}
    for client in answered:
        masked = summed(masked, sums.sealed(sent[client], client))
        plain = summed(plain, sums.integers(sent[client], client))
    opened = sums.opened(masked, answered)
    assert same_bits(opened, plain)
    if len(lost) > 0:
        assert not same_bits(masked, plain)  # masks of the lost are in it until their seeds are revealed
    exact = sum(sums.integers(sent[client], client)["delta"]["w"].long() for client in answered)
    assert torch.equal(opened["delta"]["w"].long(), exact)
    right = sum(sent[client]["delta"]["w"].double() * WEIGHTS[client] for client in answered)
    assert (sums.numbers(opened)["delta"]["w"] - right).abs().max() <= len(answered) * sums.step


def test_one_upload_by_itself_is_uniform_noise():
    """256 equally likely high bytes, and low ones; no correlation with what was meant; other noise in another round."""
    weights = dict.fromkeys(range(4), 1.0)
    plain = {"delta": {"w": torch.full((40_000,), 0.123)}}
    seen = [SecureRound(1, round_num, weights).sealed(plain, 2)["delta"]["w"].numpy() for round_num in (0, 1)]
    for words in seen:
        for shift in (0, 8, 16, 24):
            counts = np.bincount((words.view(np.uint32) >> shift) & 255, minlength=256)
            assert chisquare(counts).pvalue > 1e-4
    assert np.mean(seen[0] == seen[1]) < 1e-3
    ramp = {"delta": {"w": torch.linspace(-1, 1, 40_000)}}
    words = SecureRound(1, 0, weights).sealed(ramp, 2)["delta"]["w"].numpy()
    assert abs(np.corrcoef(words, ramp["delta"]["w"].numpy())[0, 1]) < 0.02
    # the same number from two clients, and of two clients together while others are missing, says nothing either
    both = summed(*(SecureRound(1, 0, weights).sealed(plain, client) for client in (0, 1)))["delta"]["w"].numpy()
    assert chisquare(np.bincount(both.view(np.uint32) >> 24, minlength=256)).pvalue > 1e-4


def test_two_numbers_and_two_tensors_have_masks_of_their_own():
    zeros = {"delta": {"a": torch.zeros(4), "b": torch.zeros(4)}, "dc": {"a": torch.zeros(4)}}
    words = SecureRound(0, 0, {0: 1.0, 1: 1.0}).sealed(zeros, 0)
    assert len({int(word) for tree in words.values() for tensor in tree.values() for word in tensor}) == 12


@pytest.mark.parametrize("value", [8.1, -1e30, float("inf"), float("nan")])
def test_a_number_beyond_the_range_is_a_failure_with_a_name(value, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", SECURE, "federation.rounds=1")

    def script(task):
        return delta(task, value if task.client == chosen[0] else 0.5)

    chosen = schedule(config, 6)[0]
    run, _ = scripted_run(script, config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    (record,) = read_jsonl(tmp_path / "rounds.jsonl")
    assert record["failures"][0] == "its upload has a number beyond 8, the range of a secure sum (delta, w)"
    assert record["failures"][1:] == [None, None]
    assert record["bytes_up"] == 2 * 2 * 4
    assert server.params["w"].tolist() == pytest.approx([1.5, 1.5], abs=1e-6)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("settings", [(), ("faults.dropout=0.4", "federation.failure_limit=0.9")], ids=["all", "some"])
def test_the_mean_is_that_of_plain_sums(weighting, settings, tiny_clients, tiny_run_config, tmp_path):
    """With dropouts, and with a client that failed after the masks were made for it."""
    found = []
    options = (*settings, f"federation.weighting={weighting}", "federation.clients_per_round=5")
    for secure in ((), (SECURE,)):
        folder = tmp_path / str(len(secure))
        folder.mkdir()
        config = tiny_run_config("fedavg", *options, *secure)
        run, _ = scripted_run(fails_in_round(1, 2, 3), config, tiny_clients, folder)
        found.append((run_rounds(run, START).params["w"], read_jsonl(folder / "rounds.jsonl")))
    (plain, plain_records), (secure, secure_records) = found
    assert torch.allclose(secure, plain, rtol=0, atol=1e-5)
    assert [record["bytes_up"] for record in plain_records] == [record["bytes_up"] for record in secure_records]
    assert [record["failures"] for record in plain_records] == [record["failures"] for record in secure_records]


def test_a_single_answer_is_said_to_be_in_clear(tiny_clients, tiny_run_config, tmp_path, caplog):
    config = tiny_run_config("fedavg", SECURE, "federation.clients_per_round=2", "federation.rounds=1")
    first = schedule(config, 6)[0][0]
    run, _ = scripted_run(fails_in_round(0, first), config, tiny_clients, tmp_path)
    with caplog.at_level(logging.WARNING):
        run_rounds(run, START)
    assert "one client answered, so that the sum is its upload" in caplog.text


@pytest.mark.parametrize("name", sweep([n for n in SENDING if n != "dp_fedavg"], "scaffold"))
def test_a_run_under_any_method_is_near_the_plain_one_and_resumes_to_the_bit(
    name, dropping, tiny_clients, tiny_run_config, tmp_path
):
    steps = 2 if name == "fedrep" else 1  # FedRep's first step is of the local part, which is not sent
    options = ("local.block_size=2", f"local.steps={steps}", "federation.clients_per_round=5", "faults.dropout=0.1")
    config = tiny_run_config(name, *options, SECURE)
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    (tmp_path / "plain").mkdir()
    plain = undisturbed(dropping, tiny_clients, tiny_run_config(name, *options), tmp_path / "plain")[2]
    gap = norm(tmap(torch.sub, plain["server"].params, whole["server"].params))
    assert gap < 1e-2 * norm(tmap(torch.sub, plain["server"].params, run.method.init(start).params))
    broken, stop = anew(run, "broken"), Stop()
    with pytest.raises(Interrupted):
        run_rounds(replace(broken, stop=stop, map_blocks=asked_in(stop, run.map_blocks, 1, 0)), start)
    kept = load_partial(broken.folder / "checkpoint", 1)
    assert kept.results
    assert {tensor.dtype for tree in kept.total.values() for tensor in tree.values()} == {torch.int32}
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)
    broken = anew(run, "killed")
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, 2, 1)), start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)


def test_the_file_of_an_interrupted_round_has_no_upload_in_clear(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", SECURE, "federation.rounds=1", "local.block_size=1")
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    stop = Stop()
    with pytest.raises(Interrupted):
        run_rounds(replace(run, stop=stop, map_blocks=asked_in(stop, engine, 0, 0)), START)
    kept = load_partial(tmp_path / "checkpoint", 0)
    client = kept.results[0]["clients"]
    sums = SecureRound(config.seed, 0, dict.fromkeys([client], 1.0))
    assert kept.total["delta"]["w"].tolist() != sums.integers({"delta": {"w": torch.ones(2)}}, client)["delta"]["w"]
    assert kept.total["delta"]["w"].abs().max() > 2**24
    assert stop.signum == signal.SIGINT


class NeedsAll(FedAvg):
    needs_all = True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (PRIVACY, "communication.secure_sum=true: with privacy the server clips each upload"),
        (
            ("communication.upload_dtype=int8",),
            "communication.upload_dtype=int8: communication.secure_sum=true sends integers",
        ),
        (("communication.top_k=0.5",), "communication.top_k=0.5: communication.secure_sum=true sends integers"),
        (("communication.aggregation_error=true",), "communication.secure_sum=true shows the server no upload"),
        (("aggregation.rule=median",), "secure_sum=true: aggregation.rule=median works on each upload by itself"),
        (("lora.ranks=2,4",), "secure_sum=true: the server under lora.ranks=2,4 works on each upload by itself"),
        (("federation.clients_per_round=1",), "the sum of federation.clients_per_round=1 is one upload"),
    ],
)
def test_what_a_secure_sum_does_not_go_with_is_one_line(settings, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config("fedavg", SECURE, *settings), 6)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["local", "central", "dp_fedavg"])
def test_methods_without_sums_are_refused(name, tiny_run_config):
    with pytest.raises(UserError, match=r"communication|privacy"):
        make_method(tiny_run_config(name, SECURE), 6)


def test_a_rule_that_needs_all_uploads_is_refused(tiny_run_config, monkeypatch):
    monkeypatch.setitem(METHODS, "fedavg", NeedsAll)
    with pytest.raises(
        UserError, match="works on each upload by itself, and with a secure sum the server sees no single one"
    ):
        make_method(tiny_run_config("fedavg", SECURE))


def test_it_is_the_outermost(tiny_run_config):
    assert isinstance(make_method(tiny_run_config("scaffold", SECURE, "communication.download_dtype=int4")), SecureSum)
