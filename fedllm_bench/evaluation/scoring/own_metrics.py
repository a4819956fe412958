"""Metrics of plugins in evaluation.json: their source is kept beside it, and none goes missing in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.plugins import GIVEN, SOURCES, keep_sources
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.scoring.evaluation_json import FILE

STAMP = re.compile(r"\+(?P<file>[A-Za-z0-9._-]+\.py)-[0-9a-f]{10}", re.ASCII)  # at the end of a metric's version


def check_still_there(folder: Path) -> None:
    """Raise a :class:`UserError` where the last report has a metric of a plugin that is not in use now."""
    for metric in _metrics_before(folder):
        name, found = str(metric.get("metric")), STAMP.search(str(metric.get("version")))
        if found and name not in OPEN_METRICS:
            raise UserError(
                f"{folder / FILE} has the metric {name} of the plugin {found['file']}; give "
                f"--plugin {folder / SOURCES / found['file']}, or remove {FILE} to report without it"
            )


def _metrics_before(folder: Path) -> list[dict[str, Any]]:
    """What the last report had; [] where there is none, or another file of that name."""
    path = folder / FILE
    try:
        found = files.read_json(path)["metrics"].values() if path.is_file() else []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [metric for metric in found if isinstance(metric, dict)]


def keep(folder: Path, metrics: Iterable[str]) -> None:
    """Write the source of those of `metrics` that are of plugins into folder/plugins."""
    sources = [GIVEN[key].name for name in metrics if (key := ("METRICS", name)) in GIVEN]
    keep_sources(folder, dict.fromkeys(sources))
