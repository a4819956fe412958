"""What a run says before it trains: the base model, the users and what is evaluated. Loads no torch."""

from __future__ import annotations

from dataclasses import replace

from fedllm_bench.common import hardware
from fedllm_bench.common.text import counted
from fedllm_bench.config import model_files
from fedllm_bench.config.config_robust import Attack
from fedllm_bench.config.run import Evaluation
from fedllm_bench.config.run_labels import base_label, offsite_label
from fedllm_bench.data.manifest import Manifest
from fedllm_bench.runs.cell import Cell


def start_lines(cell: Cell) -> list[str]:
    """One line each for the base model, the users, and where there is some, offsite tuning, attackers and a sample."""
    manifest, evaluation = cell.split.manifest, cell.config.evaluation
    return [
        _about_model(cell),
        *([f"Offsite tuning, {offsite_label(cell.config)}."] if cell.config.offsite.is_on else []),
        _about_users(manifest, cell.split.name, cell.split.hash),
        *([_about_attack(cell.config.attack)] if cell.config.attack.kind != "none" else []),
        *([_about_sample(evaluation)] if evaluation.heldout_rows or evaluation.clients else []),
    ]


def _about_model(cell: Cell) -> str:
    """ "Model: gemma, 268.1 million parameters, bfloat16 (this processor has arithmetic of this type)."."""
    model = cell.config.model
    if cell.config.offsite.is_on:
        model = replace(model, trainable="adapter")  # whole layers are not all weights
    count = model_files.num_parameters(cell.model_folder)
    size = f"{count / 1e6:.1f} million parameters, " if count else ""
    why = dtype_reason(model.dtype)
    return f"Model: {base_label(model, cell.config.adapter)}, {size}{model.dtype}{f' ({why})' if why else ''}."


def dtype_reason(dtype: str) -> str:
    """What a type of numbers means here; "" where there is nothing to say."""
    device, is_native = "GPU" if hardware.has_cuda() else "processor", hardware.computes_bfloat16()
    if dtype == "bfloat16":
        return f"this {device} has arithmetic of this type" if is_native else f"this {device} emulates it slowly"
    return f"this {device} has no arithmetic of type bfloat16" if dtype == "float32" and not is_native else ""


def _about_users(manifest: Manifest, name: str, split_hash: str) -> str:
    train = sum(client.train for client in manifest.clients)
    heldout = sum(client.heldout for client in manifest.clients)
    rows = f"{counted(train, 'training row')}, {heldout} held out"
    people = f"{counted(len(manifest.clients), 'client')}, {counted(len(manifest.unseen), 'unseen user')}"
    return f"Data {name}: {people}, {rows}, split {split_hash[:10]}."


def _about_attack(attack: Attack) -> str:
    return (
        f"ATTACKED: attack.kind={attack.kind} by attack.clients={attack.clients}; this is no result of the data set, "
        "and no board takes it."
    )


def _about_sample(evaluation: Evaluation) -> str:
    rows = f"{evaluation.heldout_rows} held-out rows of each part" if evaluation.heldout_rows else "all held-out rows"
    clients = f" of {counted(evaluation.clients, 'client')}" if evaluation.clients else ""
    return (
        f"Evaluation on a sample: at most {rows}{clients}, the same for all methods "
        "(evaluation.heldout_rows, evaluation.clients; 0 for all)."
    )
