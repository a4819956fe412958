"""Error feedback and rounded downloads around any method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from block_runs import tasks_of
from method_vectors import run_suite
from papers import CHOSEN, NUM_CLIENTS, SIZE, ZERO, descend, mean, problem
from resumed_rounds import Killed, anew, initial, killed_at, left_behind, outcome_of, same_bits, undisturbed
from senders import SENDING
from sweeps import OWN, UNLIKE, sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, norm, num_bytes, tmap
from fedllm_bench.methods.base import FedAvg, Message, Server
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.communication.compression import UNSENT, SmallDownloads, SmallUploads
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

FEEDBACK = "communication.error_feedback=true"
INT4 = ("communication.upload_dtype=int4", FEEDBACK)
DOWN = "communication.download_dtype=int8"
SETTINGS = {
    "int4": INT4,
    "top": ("communication.top_k=0.05", FEEDBACK),
    "down": (DOWN, "communication.scales=row"),
    "top and down": ("communication.top_k=0.05", FEEDBACK, DOWN),
}
# every method with each side, and one of each kind with what is a part of another setting
SENT = [(name, label) for name in SENDING for label in SETTINGS if label in ("int4", "top and down") or name in UNLIKE]
CODECS = [Codec(dtype="int8"), Codec(dtype="int4", scales="row"), Codec(dtype="float16"), Codec(top_k=0.1),
          Codec(top_k=0.5, dtype="int4")]  # fmt: skip


# --- error feedback


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_what_was_sent_and_what_is_left_is_what_was_meant(codec):
    stream = torch.Generator().manual_seed(3)
    method = SmallUploads(inner=FedAvg(), codec=codec, error_feedback=True)
    start = {"w": torch.zeros(4, 6, dtype=torch.float64), "b": torch.zeros(5, dtype=torch.float64)}
    state: Message = {}
    meant, sent = dict(start), dict(start)
    for _ in range(20):
        y = tmap(lambda t: torch.randn(t.shape, generator=stream, dtype=t.dtype), start)
        state, upload = method.finish({"params": start}, state, y, start, 1, 1.0)
        meant = tmap(torch.add, meant, y)
        sent = tmap(torch.add, sent, method.receive(Server(start), upload)["delta"])
    whole = tmap(torch.add, sent, state[UNSENT + "delta"])
    assert all(torch.allclose(whole[name], meant[name], rtol=0, atol=1e-12) for name in start)
    assert norm(tmap(torch.sub, sent, meant)) > 1e-4


def error_feedback(f, x, levels: int) -> list[torch.Tensor]:
    """Seide et al. with one scale for each tensor of `as_tree`: the first two numbers, and the other three."""
    path, unsent = [], [ZERO] * NUM_CLIENTS
    for chosen in CHOSEN:
        heard = {}
        for k in chosen:
            p = descend(f, k, x) - x + unsent[k]
            parts = []
            for part in (p[:2], p[2:]):
                scale = (part.abs().max() / levels).float().double()
                parts.append(scale * torch.round(part / scale))
            heard[k] = torch.cat(parts)
            unsent[k] = p - heard[k]
        x = x + mean(chosen, heard, by_rows=True)
        path.append(x)
    return path


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 127), ("int4", 7)])
def test_error_feedback_is_its_paper(dtype, levels, monkeypatch):
    f, x = problem()
    method = SmallUploads(inner=FedAvg(), codec=Codec(dtype=dtype), error_feedback=True)
    path, _ = run_suite(method, f, x, monkeypatch)
    for ours, theirs in zip(path, error_feedback(f, x, levels), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    plain, _ = run_suite(FedAvg(), f, x, monkeypatch)
    assert (path[-1] - plain[-1]).norm() > 1e-6


def memory(f, x, num_sent: int) -> list[torch.Tensor]:
    """Stich et al.: the largest of all numbers, and what is left is remembered."""
    path, unsent = [], [ZERO] * NUM_CLIENTS
    for chosen in CHOSEN:
        heard = {}
        for k in chosen:
            p = descend(f, k, x) - x + unsent[k]
            kept = p.abs().argsort(descending=True)[:num_sent]
            heard[k] = ZERO.index_copy(0, kept, p[kept])
            unsent[k] = p - heard[k]
        x = x + mean(chosen, heard, by_rows=True)
        path.append(x)
    return path


def test_the_largest_numbers_with_memory_are_its_paper(monkeypatch):
    f, x = problem()
    method = SmallUploads(inner=FedAvg(), codec=Codec(top_k=2 / SIZE), error_feedback=True)
    path, _ = run_suite(method, f, x, monkeypatch)
    for ours, theirs in zip(path, memory(f, x, 2), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_what_an_upload_lacks_stays_unsent():
    """A rule that sends other tensors from round to round; an upload that a phase does not have."""
    method = SmallUploads(inner=FedAvg(), codec=Codec(dtype="int8"), error_feedback=True)
    state = {UNSENT + "delta": {"a": torch.ones(2)}, UNSENT + "dc": {"a": torch.ones(2)}, "c": {"a": torch.ones(2)}}
    b = {"b": torch.zeros(2)}
    after, _ = method.finish({"params": b}, state, {"b": torch.tensor([0.3, 1.0])}, b, 1, 1.0)
    assert after.keys() == state.keys()
    assert after[UNSENT + "delta"].keys() == {"a", "b"}
    assert torch.equal(after[UNSENT + "delta"]["a"], torch.ones(2))
    assert same_bits(after[UNSENT + "dc"], state[UNSENT + "dc"])


def test_a_failed_client_keeps_what_it_had(dropping, tiny_clients, tiny_run_config, tmp_path):
    """Numbers of float16 run over; the state is that of before the round."""
    config = tiny_run_config("fedavg", "communication.upload_dtype=float16", FEEDBACK, "federation.rounds=1")
    method = make_method(config)
    state = {UNSENT + "delta": tmap(lambda t: torch.full_like(t, 1e6), initial(dropping))}
    engine = in_process(dropping, method, config)
    task = replace(tasks_of(method, initial(dropping), config.local)[0], state=state)
    (((result,),)) = list(engine({"params": initial(dropping)}, [[task]], config.local))
    assert str(result.failure).startswith("its upload is not finite in float16")
    assert same_bits(result.state, state)


# --- downloads


def test_all_clients_of_a_round_start_from_the_same_rounded_adapter_and_the_server_keeps_its_own():
    params = {"w": torch.randn(3, 8, generator=torch.Generator().manual_seed(0))}
    codec = Codec(dtype="int8")
    method = SmallDownloads(inner=FedAvg(), codec=codec)
    server = method.init(params)
    assert server.params is params
    message = method.broadcast(server)
    heard = codec.decoded(codec.encoded({"params": params}))
    assert torch.equal(method.start(message, {})["w"], heard["params"]["w"])
    y = tmap(lambda t: t + 1, message["params"])
    _, upload = method.finish(message, {}, y, params, 1, 1.0)
    after = method.update(server, upload, 1.0)
    assert torch.allclose(after.params["w"], params["w"] + 1, atol=1e-6)


def test_what_a_client_is_told_alone_is_not_rounded():
    class Telling(FedAvg):
        def tell(self, server, client):
            return {"own": {"w": torch.full((2,), 1 / 3)}}

    method = SmallDownloads(inner=Telling(), codec=Codec(dtype="int8"))
    server = method.init({"w": torch.randn(6)})
    told = method.tell(server, 0)
    assert method.travels(method.broadcast(server), told)["own"] is told["own"]
    assert num_bytes(method.travels(method.broadcast(server), told)) == 6 + 4 + 8


def test_what_a_client_has_without_the_network_is_not_rounded():
    class Seeded(FedAvg):
        def travels(self, message, told):
            return {"params": {"sent": message["params"]["sent"]}, **told}

    start = {"drawn": torch.randn(3, 5), "sent": torch.randn(3, 5)}
    method = SmallDownloads(inner=Seeded(), codec=Codec(dtype="int4"))
    message = method.broadcast(method.init(start))
    assert list(message["params"]) == list(start)
    assert torch.equal(message["params"]["drawn"], start["drawn"])
    assert not torch.equal(message["params"]["sent"], start["sent"])
    assert num_bytes(method.travels(message, {})) == 8 + 4


def test_a_tensor_of_another_shape_begins_anew():
    method = SmallUploads(inner=FedAvg(), codec=Codec(dtype="int8"), error_feedback=True)
    state = {UNSENT + "delta": {"a": torch.ones(3, 2)}}
    zero = {"a": torch.zeros(2, 2)}
    after, _ = method.finish({"params": zero}, state, {"a": torch.full((2, 2), 0.3)}, zero, 1, 1.0)
    assert after[UNSENT + "delta"]["a"].shape == (2, 2)
    assert after[UNSENT + "delta"]["a"].abs().max() < 0.01


@pytest.mark.parametrize("name", SENDING)
def test_downloads_in_float16_halve_what_every_method_sends_down(name, tiny_run_config):
    start = {"x.lora_A.weight": torch.ones(2, 4), "x.lora_B.weight": torch.ones(4, 2)}
    down = []
    for more in ((), ("communication.download_dtype=float16",)):
        method = make_method(tiny_run_config(name, *OWN.get(name, ()), *more))
        down.append(Traffic(method, start, 1.0).of_client(0, 0)[0])
    assert down[0] == 2 * down[1] > 0


# --- with everything else


def trained(config, model, clients, folder, engine="inprocess") -> TrainingRun:
    method = make_method(config)
    blocks = ENGINES[engine](model, method, config)
    return TrainingRun(config=config, method=method, clients=clients, map_blocks=blocks, folder=folder)


def test_all_of_an_upload_is_the_plain_run(tiny_model, tiny_clients, tiny_run_config, tmp_path):
    found = []
    for more in ((), ("communication.top_k=1",)):
        run = trained(tiny_run_config("fedavg", *more), tiny_model, tiny_clients, tmp_path / str(len(more)))
        found.append(outcome_of(run, initial(tiny_model)))
    assert same_bits(*found)


@pytest.mark.parametrize(
    ("name", "label"),
    sweep(SENT, ("scaffold", "int4"), ("fedavg", "top and down")),
)
def test_bytes_are_known_before_and_a_killed_run_ends_as_an_undisturbed_one(
    name, label, dropping, tiny_clients, tiny_run_config, tmp_path
):
    settings = SETTINGS[label]
    options = (*OWN.get(name, ()), "local.block_size=1", "local.steps=1", *settings)
    config = tiny_run_config(name, *options)
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    down, up = Traffic(run.method, start, 1.0).of_client(0, 0)
    for record in read_jsonl(run.folder / "rounds.jsonl"):
        num = len(record["clients"])
        assert (record["bytes_down"], record["bytes_up"]) == (down * num, up * num)
    has_unsent = any(key.startswith(UNSENT) for state in whole["states"] for key in state)
    assert has_unsent == (FEEDBACK in settings)
    broken = anew(run, "broken")
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, 1, 1)), start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)


# All methods in blocks, and one of each kind under TRL: that it trains every method is in test_trl.py, and it
# knows nothing of what is sent.
TRAINED = [*((name, "inprocess") for name in SENDING), *((name, "trl") for name in UNLIKE if name in SENDING)]


@pytest.mark.parametrize(("name", "engine"), sweep(TRAINED, ("scaffold", "inprocess")))
def test_engines_and_block_sizes_agree(name, engine, double_model, tiny_clients, tiny_run_config, tmp_path):
    """In float16, whose rounding hardly depends on the last bits that engines differ in."""
    found: list[list[Tree]] = []
    for engine_used, size in (("inprocess", 1), (engine, 8)):
        kinds = ("communication.upload_dtype=float16", "communication.download_dtype=float16", FEEDBACK)
        options = (*OWN.get(name, ()), *kinds, f"local.block_size={size}", "federation.rounds=2")
        config = tiny_run_config(name, *options)
        run = trained(config, double_model, tiny_clients, tmp_path / f"{engine_used}-{size}", engine_used)
        found.append(outcome_of(run, initial(double_model, torch.float64)))
    reference, other = found
    assert norm(tmap(torch.sub, other[0], reference[0])) < 1e-3 * norm(reference[0])
    assert len(other) == len(reference)


@pytest.mark.parametrize("codec", [Codec(dtype="int4"), Codec(top_k=0.5)], ids=str)
def test_small_numbers_beside_a_large_one_arrive_with_error_feedback_alone(codec):
    """Each round means the same change; the small number is below half a step, and never the largest."""
    start = {"w": torch.zeros(2)}
    heard, state = {False: torch.zeros(2), True: torch.zeros(2)}, {False: {}, True: {}}
    for feedback in (False, True):
        method = SmallUploads(inner=FedAvg(), codec=codec, error_feedback=feedback)
        for _ in range(40):
            y = {"w": torch.tensor([1.0, 0.05])}
            state[feedback], upload = method.finish({"params": start}, state[feedback], y, start, 1, 1.0)
            heard[feedback] += method.receive(Server(start), upload)["delta"]["w"]
    assert heard[False][1] == 0
    assert heard[True].tolist() == pytest.approx([40, 2], abs=1.1)
    assert heard[True][1] > 0.9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("communication.scales=row",), "communication.scales=row: only int8 and int4 have scales"),
        ((FEEDBACK,), "communication.error_feedback=true: uploads in float32 lose nothing"),
        ((FEEDBACK, DOWN), "communication.error_feedback=true: uploads in float32 lose nothing"),
        (("communication.top_k=0",), "communication.top_k"),
        (("communication.top_k=1.01",), "communication.top_k"),
        (("communication.upload_dtype=int16",), "communication.upload_dtype"),
    ],
)
def test_what_says_nothing_or_contradicts_itself_is_one_line(settings, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config("fedavg", *settings))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
