"""Everything that is drawn and told of a diversity report: figures, diversity.html and diversity.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import write_text
from fedllm_bench.report.diversity.card import card_of
from fedllm_bench.report.diversity.drawing import draw_all
from fedllm_bench.report.diversity.fonts import letters_of
from fedllm_bench.report.diversity.frame import Frame, Pairs
from fedllm_bench.report.diversity.page import page_of
from fedllm_bench.report.diversity.sunburst import texts_of
from fedllm_bench.report.style import METADATA

log = logging.getLogger(__name__)


def write_report(report: Mapping[str, Any], arrays: Pairs | None, out: Path) -> list[Path]:
    """Write out/figures/*.png and *.svg, out/diversity.html and out/diversity.md; what was written, in that order.

    `report` is a diversity.json; `arrays` is None where embeddings were skipped. A section that was skipped has no
    figure, and page and card say why.
    """
    frame = frame_of(report, arrays, out / "figures")
    if frame.letters.warning:
        log.warning(frame.letters.warning)
    drawings = draw_all(frame)
    page, card = out / "diversity.html", out / "diversity.md"
    write_text(page, page_of(frame, drawings))
    write_text(card, card_of(frame, drawings))
    return [*(frame.folder / f"{drawing.name}.{kind}" for drawing in drawings for kind in METADATA), page, card]


def frame_of(report: Mapping[str, Any], arrays: Pairs | None, folder: Path) -> Frame:
    instruction = report["sections"].get("instruction", {"skipped": ""})
    texts = [] if "skipped" in instruction else texts_of(instruction)
    return Frame(report=report, arrays=arrays, folder=folder, letters=letters_of(texts))
