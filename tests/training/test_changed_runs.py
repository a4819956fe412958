"""Files of an interrupted run that somebody changed: one line that says what to delete, before anything is trained."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed_rounds import Killed, anew, killed_at, left_behind, same_bits, undisturbed

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.methods.base import Server
from fedllm_bench.training.checkpoint import load_server, load_trees, save_server, save_trees
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

SERVER, PARTIAL, ROUNDS = "checkpoint/server.safetensors", "checkpoint/round.safetensors", "rounds.jsonl"
Change = Callable[[Path], Any]


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"params": [1.0]}))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without_notes(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"params|x": torch.zeros(1)}, path)


def of_server(change: Callable[[Server], Server]) -> Change:
    def changed(path: Path) -> None:
        server = load_server(path.parent)
        assert server is not None
        save_server(path.parent, change(server))

    return changed


def with_residual(change: Callable[[torch.Tensor, int], torch.Tensor]) -> Change:
    """Of the factors of the first layer; `change` gets a factor and the axis of its rank."""

    def changed(server: Server) -> Server:
        residual = dict(server.slots["residual"])
        for axis, name in enumerate(list(residual)[:2]):
            residual[name] = change(residual[name], axis)
        return replace(server, slots={**server.slots, "residual": residual})

    return of_server(changed)


def first_wide(server: Server) -> Server:
    name = next(iter(server.params))
    return replace(server, params={**server.params, name: torch.zeros(3, 3)})


def with_nan(server: Server) -> Server:
    name = next(iter(server.params))
    return replace(server, params={**server.params, name: server.params[name] * torch.nan})


def of_records(change: Callable[[list[Any]], Any]) -> Change:
    return lambda path: path.write_text("".join(f"{json.dumps(one)}\n" for one in change(read_jsonl(path))))


CHANGES: list[tuple[str, str, Change, str]] = [
    ("a pickle", SERVER, pickled, "it is no checkpoint"),
    ("cut off", SERVER, cut_off, "it is no checkpoint"),
    ("no notes", SERVER, without_notes, "it is no checkpoint"),
    ("another shape", SERVER, of_server(first_wide), "its 'params' has not the names and shapes"),
    ("not finite", SERVER, of_server(with_nan), "is not finite"),
    ("a late round", SERVER, of_server(lambda server: replace(server, round=4)), "a round that this run does not have"),
    ("no change of base", SERVER, of_server(lambda server: replace(server, slots={"residual": {}})), "fits no layer"),
    ("other ranks", SERVER, with_residual(lambda t, axis: t if axis else t[:1]), "fits no layer"),
    ("too large", SERVER, with_residual(lambda t, axis: torch.cat([t] * 40, dim=axis)), "fits no layer"),
    ("records lost", ROUNDS, of_records(lambda records: records[1:]), "of the checkpoint"),
    ("a number", ROUNDS, of_records(lambda records: [5]), "of the checkpoint"),
    ("no clients", ROUNDS, of_records(lambda records: [{"round": 1}]), "of the checkpoint"),
    ("no file", ROUNDS, Path.unlink, "of the checkpoint"),
    ("no JSON", ROUNDS, lambda path: path.write_text("{nothing"), "it is no JSON"),
]


@pytest.fixture(scope="module")
def begun(tiny_model: Any, tiny_clients: Any, tiny_run_config: Any, tmp_path_factory: Any) -> Callable[..., Any]:
    """A run of three rounds that was killed after its first, by its settings, and the adapter that it began with."""

    def begin(folder: str, method: str, *settings: str) -> tuple[TrainingRun, Any, dict[str, Any]]:
        config = tiny_run_config(method, *settings)
        whole, start, left = undisturbed(tiny_model, tiny_clients, config, tmp_path_factory.mktemp(folder))
        run = anew(whole, "begun")
        with pytest.raises(Killed):
            run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 2, 0)), start)
        return run, start, left

    return begin


def assert_refused(run: TrainingRun, start: Any, words: str) -> None:
    def trained(*of: Any) -> Any:
        raise AssertionError("it was trained")

    with pytest.raises(UserError) as caught:
        run_rounds(replace(run, map_blocks=trained), start)
    text = str(caught.value)
    assert words in text
    assert f"delete the folder {run.folder}" in text
    assert "\n" not in text


def test_what_the_run_cannot_have_written_is_refused_in_one_line(begun):
    run, start, _ = begun("changed", "fedavg", "communication.lora_aggregation=stack")
    for name, file, change, words in CHANGES:
        path = run.folder / file
        before = path.read_bytes()
        change(path)
        assert_refused(run, start, words)
        path.write_bytes(before)
        assert name
    assert run_rounds(run, start).round == 3


@pytest.mark.parametrize("change", ["pickle", "shape", "key"])
def test_a_clients_state_of_another_kind_is_refused(change, begun):
    run, start, _ = begun(change, "scaffold", "federation.clients_per_round=6")
    path = next((run.folder / "checkpoint" / "clients").glob("*/*.safetensors"))
    state, _ = load_trees(path)
    if change == "pickle":
        pickled(path)
    elif change == "shape":
        save_trees(path, {"c": {name: tensor[:1] for name, tensor in state["c"].items()}}, {})
    else:
        save_trees(path, {"own": state["c"]}, {})
    with pytest.raises(UserError, match="delete the folder") as caught:
        run_rounds(run, start)
    assert str(path) in str(caught.value)


def test_what_is_left_of_a_round_can_be_made_anew(begun, caplog):
    run, start, left = begun("partial", "fedavg")
    pickled(run.folder / PARTIAL)
    run_rounds(run, start)
    assert "was changed; round 2 begins anew" in caplog.text
    assert same_bits(left_behind(run), left)


@pytest.mark.parametrize(
    ("method", "settings"), [("fedadam", ()), ("fedavg", ("communication.lora_aggregation=flex",))]
)
def test_a_server_whose_numbers_overflow_ends_the_run_in_one_line(
    method, settings, tiny_model, tiny_clients, tiny_run_config, tmp_path
):
    """Uploads of 1e36 are finite, their squares and products are not: FedAdam would stand still for ever."""
    attack = ("attack.kind=scaled", "attack.scale=1e38", "attack.clients=0.4", "federation.rounds=1")
    config = tiny_run_config(method, *settings, *attack)
    with pytest.raises(UserError, match="round 1: what the server makes of 3 uploads is not finite"):
        undisturbed(tiny_model, tiny_clients, config, tmp_path)
    assert not (tmp_path / "whole" / "checkpoint" / "server.safetensors").exists()
