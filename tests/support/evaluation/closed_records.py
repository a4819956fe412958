"""Samples of closed benchmarks as the suite writes them, and folders of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, samples_file, write_samples


def made(doc_id: int, task: str = "t", **more: Any) -> ClosedSample:
    """A sample with hashes that follow from its task and number."""
    about = {"task": task, "doc_id": doc_id, "values": {}}
    hashes = {f"{kind}_hash": f"{kind[0]}{task}{doc_id}" for kind in ("doc", "prompt", "target")}
    return ClosedSample(**{**about, **hashes, **more})


def choice(doc_id: int, likelihoods: Sequence[float], right: int, task: str = "t", **more: Any) -> ClosedSample:
    """All choices are two bytes long, and lm-eval made of the item what follows."""
    said = float(max(range(len(likelihoods)), key=lambda place: likelihoods[place]) == right)
    about = {"form": "choice", "target": str(right), "log_likelihoods": tuple(likelihoods), "values": {"acc": said}}
    return made(doc_id, task, **{**about, "lengths": (2,) * len(likelihoods), **more})


def right_or_wrong(right: Iterable[bool], task: str = "t", **more: Any) -> list[ClosedSample]:
    """A choice of two for each, the first of which is the right one."""
    return [choice(i, (-1.0, -2.0) if is_right else (-2.0, -1.0), 0, task, **more) for i, is_right in enumerate(right)]


def text(doc_id: int, parsed: str, target: str, **more: Any) -> ClosedSample:
    about = {"form": "text", "target": target, "texts": (f"I say {parsed}",), "parsed": (parsed,)}
    return made(doc_id, **{**about, **more})


def write_closed(folder: Path, name: str, plan: dict[str, Any] | None = None, **sides: list[ClosedSample]) -> Path:
    """With a plan as answers have one, where it is given."""
    for side, samples in sides.items():
        write_samples(samples_file(folder, name, side.replace("client_", "client-")), samples)
    if plan is not None:
        files.write_json(folder / "closed" / name / "plan.json", plan)
    return folder
