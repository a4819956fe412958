"""The rounds of a run for TensorBoard, by `fedllm-bench bench ... --tensorboard`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raise a :class:`UserError` where TensorBoard is missing; asked before a run, not after it."""
    if find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard; type: pip install 'fedllm-bench[tensorboard]'")


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The curves of one row of rounds.jsonl; a round without a loss has no point in that curve."""
    losses = [loss for loss in record["losses"] if loss is not None]
    if losses:
        yield "train/loss", sum(losses) / len(losses)
    if (check := record.get("check")) and check["loss"] is not None:
        yield "validation/loss", check["loss"]
    yield "train/lr", record["lr"]
    yield "round/answers", record["failures"].count(None)
    for key in ("update_norm", "bytes_up", "bytes_down", "seconds"):
        yield f"round/{key}", record[key]


def write_events(folder: Path) -> Path:
    """RUN/tensorboard from RUN/rounds.jsonl; an older one is replaced, so that no point stands there twice.

    The time of a point is the seconds of training up to it.
    """
    records: Sequence[Mapping[str, Any]] = files.read_jsonl(folder / "rounds.jsonl")
    from torch.utils.tensorboard import SummaryWriter

    with files.new_folder(folder / FOLDER) as part, SummaryWriter(str(part)) as writer:
        seconds = 0.0
        for record in records:
            seconds += record["seconds"]
            for name, value in scalars(record):
                writer.add_scalar(name, value, global_step=record["round"], walltime=seconds)
    return folder / FOLDER
