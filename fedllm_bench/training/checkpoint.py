"""Checkpoints: the server's state in one file, the clients' states on disk, both written whole or not at all.

A client's state of round r is a file of its own, kept until the next checkpoint is written. So the states
on disk always hold those of the last checkpoint, whenever the process is killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common.files import make_folder, write_bytes
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, Server, Upload

FILE = "server.safetensors"
PARTIAL_FILE = "round.safetensors"
SEPARATOR = "|"  # PEFT's tensor names hold dots and slashes, never this


def _flat(trees: Mapping[str, Tree]) -> dict[str, torch.Tensor]:
    flat = {}
    for key, tree in trees.items():
        for name, tensor in tree.items():
            # a copy: safetensors refuses tensors that share memory, as a slot and the parameters may
            flat[f"{key}{SEPARATOR}{name}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return flat


def _nested(flat: Mapping[str, torch.Tensor]) -> dict[str, Tree]:
    trees: dict[str, Tree] = {}
    for key in flat:
        tree, _, name = key.partition(SEPARATOR)
        trees.setdefault(tree, {})[name] = flat[key]
    return trees


def save_trees(path: Path, trees: Mapping[str, Tree], metadata: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    order = {key: list(tree) for key, tree in trees.items()}
    # one entry: safetensors writes several in an order that changes from call to call
    notes = {"notes": json.dumps({"metadata": dict(metadata), "order": order})}
    write_bytes(path, save(_flat(trees), metadata=notes))


def load_trees(path: Path) -> tuple[dict[str, Tree], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
        trees = _nested({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    order = notes["order"]
    return {key: {n: trees[key][n] for n in names} for key, names in order.items()}, notes["metadata"]


def save_server(folder: Path, server: Server) -> None:
    """The checkpoint of a whole round; what an interrupted session left of it is not needed any more."""
    trees = {"params": server.params, **{f"slot.{name}": tree for name, tree in server.slots.items()}}
    save_trees(make_folder(folder) / FILE, trees, {"round": server.round})
    (folder / PARTIAL_FILE).unlink(missing_ok=True)


def load_server(folder: Path) -> Server | None:
    """The last checkpoint of `folder`, or None where there is none."""
    if not (folder / FILE).is_file():
        return None
    trees, metadata = load_trees(folder / FILE)
    slots = {key.removeprefix("slot."): tree for key, tree in trees.items() if key != "params"}
    return Server(trees["params"], slots, metadata["round"])


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
    """What an interrupted session left of this round; empty where there is nothing, or only of an earlier round."""
    if not (folder / PARTIAL_FILE).is_file():
        return Partial()
    trees, notes = load_trees(folder / PARTIAL_FILE)
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
        """The state a client had after `rounds_done` rounds; `default` if it was never chosen by then."""
        done = [path for path in self._files(client) if _round_of(path) <= rounds_done]
        return load_trees(done[-1])[0] if done else default

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
