"""Checkpoints: the server's state in one file, the clients' states on disk, both written whole or not at all.

A client's state of round r is a file of its own, kept until the next checkpoint is written. So the states
on disk always hold those of the last checkpoint, whenever the process is killed.

What is read may have been changed since: it is held against what the run itself would have written, by names and shapes
before a number is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common.errors import AGAIN, UserError, first_line
from fedllm_bench.common.files import make_folder, write_bytes
from fedllm_bench.common.text import counted
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import ClientState, Server, Upload
from fedllm_bench.methods.products.factors import pairs_of
from fedllm_bench.methods.products.residual import RESIDUAL

log = logging.getLogger(__name__)
FILE = "server.safetensors"
PARTIAL_FILE = "round.safetensors"
ROUNDS = "rounds.jsonl"
SEPARATOR = "|"  # PEFT's tensor names hold dots and slashes, never this

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
Problem = Callable[[Shapes], str | None]


def _flat(trees: Mapping[str, Tree]) -> dict[str, torch.Tensor]:
    flat = {}
    for key, tree in trees.items():
        for name, tensor in tree.items():
            # a copy: safetensors refuses tensors that share memory, as a slot and the parameters may
            flat[f"{key}{SEPARATOR}{name}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return flat


def save_trees(path: Path, trees: Mapping[str, Tree], metadata: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    order = {key: list(tree) for key, tree in trees.items()}
    # one entry: safetensors writes several in an order that changes from call to call
    notes = {"notes": json.dumps({"metadata": dict(metadata), "order": order})}
    write_bytes(path, save(_flat(trees), metadata=notes))


def load_trees(path: Path, problem: Problem = lambda shapes: None) -> tuple[dict[str, Tree], dict[str, Any]]:
    """What :func:`save_trees` wrote. `problem` says of its shapes what is wrong, before a number is read.

    Raises a :class:`UserError` where the file is no such file, or has a problem.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["notes"])
            order = {key: {n: f"{key}{SEPARATOR}{n}" for n in names} for key, names in notes["order"].items()}
            metadata = dict(notes["metadata"])
            shapes = {k: {n: tuple(file.get_slice(of).get_shape()) for n, of in t.items()} for k, t in order.items()}
            if (what := problem(shapes)) is not None:
                raise changed(path, what)
            return {key: {n: file.get_tensor(of) for n, of in tree.items()} for key, tree in order.items()}, metadata
    except UserError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise changed(path, f"it is no checkpoint ({first_line(error)[:100]})") from error


def changed(path: Path, what: str) -> UserError:
    """That a file of a run is not as the run left it."""
    folder = next((parent.parent for parent in path.parents if parent.name == "checkpoint"), path.parent)
    return UserError(f"{path}: {what}, so that it was changed after the run wrote it; {AGAIN.format(run=folder)}")


def unlike(found: Shapes, like: Mapping[str, Tree]) -> str | None:
    """Which tree of `like` is not among those found with its names and shapes, and how that is said."""
    for key, tree in like.items():
        if {name: tuple(tensor.shape) for name, tensor in tree.items()} != found.get(key, {}):
            return f"its {key!r} has not the names and shapes of this run"
    return None


def save_server(folder: Path, server: Server) -> None:
    """The checkpoint of a whole round; what an interrupted session left of it is not needed any more."""
    write_server(make_folder(folder) / FILE, server)
    (folder / PARTIAL_FILE).unlink(missing_ok=True)


def write_server(path: Path, server: Server) -> None:
    trees = {"params": server.params, **{f"slot.{name}": tree for name, tree in server.slots.items()}}
    save_trees(path, trees, {"round": server.round})


def load_server(folder: Path, start: Server | None = None, rounds: int | None = None) -> Server | None:
    """The last checkpoint of `folder`, or None where there is none; see :func:`read_server`."""
    path = folder / FILE
    return read_server(path, start, rounds) if path.is_file() else None


def read_server(path: Path, start: Server | None = None, rounds: int | None = None) -> Server:
    """What :func:`write_server` wrote.

    Raises a :class:`UserError` for what a run of `rounds` rounds that began at `start` cannot have written.
    """
    trees, metadata = load_trees(path, lambda shapes: None if start is None else _server_problem(shapes, start))
    done = metadata.get("round")
    if type(done) is not int or done < 0 or (rounds is not None and done > rounds) or "params" not in trees:
        raise changed(path, "it is of a round that this run does not have")
    slots = {key.removeprefix("slot."): tree for key, tree in trees.items() if key != "params"}
    server = Server(trees["params"], slots, done)
    if start is not None and (name := not_finite(server)) is not None:
        raise changed(path, f"{name} is not finite")
    return server


def _server_problem(found: Shapes, start: Server) -> str | None:
    """An emulator, and all under the names of the parameters but the change of the base, have the shapes of `start`."""
    names = start.params.keys()
    kept = {key: tree for key, tree in start.slots.items() if key == EMULATOR or tree.keys() == names}
    slots = {f"slot.{key}": tree for key, tree in kept.items() if key != RESIDUAL}
    residual = found.get(f"slot.{RESIDUAL}")
    if residual is None or not any(".lora_A." in name for name in names):
        return unlike(found, {"params": start.params, **slots})
    fits = residual.keys() == names and all(
        _is_change(residual[name], residual[other], a.shape[1], b.shape[0])
        for name, other, a, b in _named_pairs(start.params)
    )
    return unlike(found, {"params": start.params, **slots}) if fits else "its change of the base fits no layer"


def _named_pairs(params: Tree) -> Iterator[tuple[str, str, torch.Tensor, torch.Tensor]]:
    for name, (a, b) in pairs_of(params).items():
        yield name, name.replace(".lora_A.", ".lora_B."), a, b


def _is_change(a: tuple[int, ...], b: tuple[int, ...], inputs: int, outputs: int) -> bool:
    """Whether these are the shapes of a pair of factors, of a rank that a matrix can have."""
    return len(a) == len(b) == 2 and a == (b[1], inputs) and b[0] == outputs and 1 <= a[0] <= min(inputs, outputs)


def not_finite(server: Server) -> str | None:
    """The first tensor of a server's state with a number that is none; None where all are finite."""
    for key, tree in {"params": server.params, **server.slots}.items():
        for name, tensor in tree.items():
            if not bool(tensor.isfinite().all()):
                return f"{key}, {name}"
    return None


def check_finite(server: Server, round_num: int, num_answers: int) -> None:
    """Raise a :class:`UserError` where the state after a round is not finite: no later round could go on from it."""
    if (name := not_finite(server)) is not None:
        raise UserError(
            f"round {round_num + 1}: what the server makes of {counted(num_answers, 'upload')} is not finite ({name}); "
            "lower local.lr, the rates of the method or attack.scale, or take a robust aggregation.rule; the last "
            "checkpoint stays"
        )


@dataclass(frozen=True)
class Partial:
    """The clients of a round that was interrupted: the weighted sum of their uploads, and their summaries in order."""

    total: Mapping[str, Tree] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    results: tuple[dict[str, Any], ...] = ()
    norms: tuple[float, ...] = ()  # of the uploads, where privacy is on
    seconds: float = 0.0
    uploads: tuple[Upload, ...] = ()  # all of them, where the method needs them
    shares: tuple[float, ...] = ()  # their weights


def save_partial(folder: Path, round_num: int, partial: Partial) -> None:
    """Their states must be on disk already (:meth:`ClientStates.put`)."""
    notes = {"round": round_num, **vars(partial)}
    del notes["total"], notes["uploads"]
    uploads = {
        f"upload.{number}.{key}": tree for number, upload in enumerate(partial.uploads) for key, tree in upload.items()
    }
    save_trees(make_folder(folder) / PARTIAL_FILE, {**partial.total, **uploads}, notes)


def load_partial(folder: Path, round_num: int) -> Partial:
    """What an interrupted session left of this round; empty where there is nothing, or only of an earlier round.

    It can be made anew: where it was changed, the round begins from its first client.
    """
    if not (folder / PARTIAL_FILE).is_file():
        return Partial()
    try:
        return _partial(*load_trees(folder / PARTIAL_FILE), round_num)
    except (KeyError, TypeError, ValueError, AttributeError):  # a UserError is a ValueError
        log.warning("%s was changed; round %d begins anew", folder / PARTIAL_FILE, round_num + 1)
        return Partial()


def _partial(trees: Mapping[str, Tree], notes: Mapping[str, Any], round_num: int) -> Partial:
    if notes["round"] != round_num:
        return Partial()
    shares = tuple(notes.get("shares", ()))
    uploads = tuple(_below(f"upload.{number}.", trees) for number in range(len(shares)))
    return Partial(
        total={key: tree for key, tree in trees.items() if not key.startswith("upload.")},
        weights=notes["weights"],
        results=tuple(notes["results"]),
        norms=tuple(notes["norms"]),
        seconds=notes["seconds"],
        uploads=uploads,
        shares=shares,
    )


def _below(prefix: str, trees: Mapping[str, Tree]) -> dict[str, Tree]:
    return {key.removeprefix(prefix): tree for key, tree in trees.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class ClientStates:
    """States of clients on disk, so that memory does not grow with their number.

    Each client has a folder, so that to look for its state takes as long with ten thousand clients as with ten.
    """

    folder: Path

    def get(self, client: int, default: ClientState, rounds_done: int) -> ClientState:
        """The state a client had after `rounds_done` rounds; `default` if it was never chosen by then.

        Raises a :class:`UserError` where it is not of the names and shapes of `default`.
        """
        done = [path for path in self._files(client) if _round_of(path) <= rounds_done]
        return load_trees(done[-1], lambda shapes: unlike(shapes, default))[0] if done else default

    def put(self, client: int, state: ClientState, rounds_done: int) -> None:
        if state:
            save_trees(make_folder(self._of(client)) / f"r{rounds_done:06d}.safetensors", state, {})

    def forget_before(self, clients: Iterable[int], rounds_done: int, kept: int | None = None) -> None:
        """Remove what a newer state replaces; call it once the checkpoint of that round stands.

        `kept`: a round whose states stay, beside the newest.
        """
        for client in clients:
            files = self._files(client)
            stays = [path for path in files if kept is not None and _round_of(path) <= kept][-1:]
            for path in files[:-1]:
                if _round_of(path) < rounds_done and path not in stays:
                    path.unlink()

    def _files(self, client: int) -> list[Path]:
        return sorted(self._of(client).glob("r*.safetensors"))

    def _of(self, client: int) -> Path:
        return self.folder / f"c{client:06d}"


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("r"))
