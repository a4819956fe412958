"""The lines of rounds.jsonl, as a run that goes on reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import first_line
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.text import counted
from fedllm_bench.training.checkpoint import ROUNDS, changed

# Of each client of a round.
SUMMARY_KEYS = ("clients", "client_ids", "losses", "num_examples", "steps", "failures")


def load_records(folder: Path, rounds_done: int) -> list[dict[str, Any]]:
    """The records of the rounds of a checkpoint; a :class:`UserError` where rounds.jsonl has others."""
    if not rounds_done:
        return []
    path = folder / ROUNDS
    try:
        records = read_jsonl(path)[:rounds_done] if path.is_file() else []
    except (ValueError, RecursionError) as error:
        raise changed(path, f"it is no JSON ({first_line(error)[:100]})") from error
    if [number for number, record in enumerate(records, 1) if _is_record(record, number)] != [
        *range(1, rounds_done + 1)
    ]:
        raise changed(path, f"it has not the {counted(rounds_done, 'round')} of the checkpoint")
    return records


def _is_record(record: Any, number: int) -> bool:
    if not isinstance(record, dict) or record.get("round") != number:
        return False
    lists = [record.get(key) for key in SUMMARY_KEYS]
    sizes = {len(found) if isinstance(found, list) else -1 for found in lists}
    counts = (record.get("bytes_up"), record.get("bytes_down"))
    return (
        len(sizes) == 1
        and -1 not in sizes
        and all(type(client) is int for client in record["clients"])
        and all(type(count) is int for count in counts)
        and _is_number(record.get("seconds"))
        and _is_check(record)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_check(record: dict[str, Any]) -> bool:
    """Whether a record has no check of the validation loss, or a whole one; null is a loss that was not finite."""
    if "check" not in record:
        return True
    check = record["check"]
    if not isinstance(check, dict) or "loss" not in check or not _is_number(check.get("seconds")):
        return False
    if check["loss"] is not None and not (type(check["loss"]) is float and math.isfinite(check["loss"])):
        return False
    return all(type(check.get(key)) is int for key in ("clients", "rows", "bytes_down", "bytes_up"))
