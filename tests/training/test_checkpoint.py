"""Checkpoints: what is read is what was written, and a kill between any two writes loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import Server
from fedllm_bench.training.checkpoint import (
    ClientStates,
    Partial,
    load_partial,
    load_server,
    load_trees,
    save_partial,
    save_server,
    save_trees,
)

Z_FIRST = {
    "base_model.model.z.lora_A.weight": torch.tensor([[1e-45, -0.0, float("inf")]]),
    "base_model.model.a.lora_B.weight": torch.tensor([0.1, 1 / 3]),
}


def equal(a: Tree, b: Tree) -> bool:
    """Bit by bit, and in the same order: the packed vector follows it."""
    return list(a) == list(b) and all(
        t.dtype == b[n].dtype and torch.equal(t.view(torch.int32), b[n].view(torch.int32)) for n, t in a.items()
    )


def of(value: float) -> dict[str, Tree]:
    return {"own": {"w": torch.tensor([value])}}


def value_of(state: dict[str, Tree]) -> float:
    return state["own"]["w"].item()


def test_a_server_comes_back_bit_by_bit_with_its_order_and_slots(tmp_path):
    slots = {"v": {name: 2 * tensor for name, tensor in Z_FIRST.items()}, "m": dict(Z_FIRST)}
    server = Server(Z_FIRST, slots, 7)
    save_server(tmp_path / "checkpoint", server)
    found = load_server(tmp_path / "checkpoint")
    assert found is not None
    assert found.round == 7
    assert equal(found.params, server.params)
    assert list(found.slots) == ["v", "m"]
    assert all(equal(found.slots[name], slots[name]) for name in slots)


def test_a_server_without_slots_comes_back_without(tmp_path):
    save_server(tmp_path, Server(Z_FIRST))
    found = load_server(tmp_path)
    assert found is not None
    assert (found.slots, found.round) == ({}, 0)


def test_no_checkpoint_is_none_and_a_later_one_replaces_it(tmp_path):
    assert load_server(tmp_path) is None
    for round_num in (1, 2):
        save_server(tmp_path, Server({"w": torch.tensor([float(round_num)])}, round=round_num))
    found = load_server(tmp_path)
    assert found is not None
    assert (found.round, found.params["w"].item()) == (2, 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["server.safetensors"]


def test_equal_trees_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_trees(tmp_path / name, {"params": Z_FIRST}, {"round": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_views_and_trained_tensors_can_be_saved(tmp_path):
    whole = torch.arange(6.0).view(2, 3).requires_grad_()
    save_trees(tmp_path / "a", {"t": {"x": whole.T, "y": whole[0]}}, {})
    trees, _ = load_trees(tmp_path / "a")
    assert torch.equal(trees["t"]["x"], whole.detach().T)
    assert trees["t"]["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_breaks_leaves_the_last_checkpoint(error, tmp_path, monkeypatch):
    save_server(tmp_path, Server(Z_FIRST, round=1))

    def broken(descriptor: int) -> None:
        raise error

    monkeypatch.setattr("fedllm_bench.common.files.os.fsync", broken)
    with pytest.raises(type(error)):
        save_server(tmp_path, Server(Z_FIRST, round=2))
    found = load_server(tmp_path)
    assert found is not None
    assert found.round == 1


def test_a_client_that_was_never_chosen_has_the_default(tmp_path):
    default = of(0.0)
    assert ClientStates(tmp_path / "none").get(3, default, 5) is default


def test_a_state_is_that_of_the_round_asked_for(tmp_path):
    """After a kill between a client's state and the round's checkpoint, the round runs again from the older one."""
    states = ClientStates(tmp_path)
    states.put(3, of(1.0), 1)
    states.put(3, of(4.0), 4)
    found = [value_of(states.get(3, of(0.0), rounds_done)) for rounds_done in range(6)]
    assert found == [0.0, 1.0, 1.0, 1.0, 4.0, 4.0]
    states.put(3, of(4.5), 4)  # the same round again
    assert value_of(states.get(3, of(0.0), 4)) == 4.5


def test_states_are_kept_until_a_checkpoint_stands_and_then_forgotten(tmp_path):
    states = ClientStates(tmp_path)
    for round_num in (1, 2):
        states.put(3, of(float(round_num)), round_num)
    states.put(30, of(9.0), 1)
    states.forget_before([3], 1)  # the checkpoint of round 1: round 2 is not safe yet
    assert value_of(states.get(3, of(0.0), 1)) == 1.0
    states.forget_before([3], 2)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.glob("*/*"))] == [
        "c000003/r000002.safetensors",
        "c000030/r000001.safetensors",
    ]
    states.forget_before([3, 30, 31], 3)  # the newest of a client is never removed
    assert len(list(tmp_path.glob("*/*"))) == 2


def test_clients_and_rounds_of_many_digits_are_not_confused(tmp_path):
    states = ClientStates(tmp_path)
    for client, round_num in [(1, 9), (1, 10), (11, 11), (1_000_000, 12)]:
        states.put(client, of(float(round_num)), round_num)
    assert value_of(states.get(1, of(0.0), 100)) == 10.0
    assert value_of(states.get(11, of(0.0), 100)) == 11.0
    assert value_of(states.get(1_000_000, of(0.0), 100)) == 12.0


def test_clients_without_a_state_leave_no_files(tmp_path):
    ClientStates(tmp_path / "clients").put(3, {}, 1)
    assert not (tmp_path / "clients").exists()


def test_a_half_written_state_is_not_read(tmp_path: Path):
    states = ClientStates(tmp_path)
    states.put(3, of(1.0), 1)
    files.write_bytes(tmp_path / "c000003" / "r000002.safetensors.part", b"half")
    assert value_of(states.get(3, of(0.0), 5)) == 1.0


def test_a_state_is_looked_for_among_the_clients_own_files_alone(tmp_path, monkeypatch):
    """With all states in one folder, a round of ten thousand clients spent its time listing it."""
    states = ClientStates(tmp_path)
    for client in range(20):
        states.put(client, of(float(client)), 1)
    listed = []
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [listed.append(p) or p for p in real(self, pattern)])
    assert value_of(states.get(7, of(0.0), 1)) == 7.0
    states.forget_before([7], 2)
    assert len(listed) == 2


def test_what_an_interrupted_round_left_is_of_that_round_alone_and_exact(tmp_path):
    third = torch.tensor(1.0) / 3
    partial = Partial({"delta": {"w": third}}, {"delta": 0.1 + 0.2}, ({"clients": 4, "losses": 2 / 3},), (0.7,), 1.25)
    assert load_partial(tmp_path, 3) == Partial()
    save_partial(tmp_path, 3, partial)
    found = load_partial(tmp_path, 3)
    assert torch.equal(found.total["delta"]["w"], third)
    assert (found.weights, found.results) == (partial.weights, partial.results)
    assert (found.norms, found.seconds) == ((0.7,), 1.25)
    assert load_partial(tmp_path, 4) == Partial()
    save_server(tmp_path, Server({"w": third}, round=4))
    assert load_partial(tmp_path, 3) == Partial()
