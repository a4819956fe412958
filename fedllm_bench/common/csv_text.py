"""CSV files that people open in a spreadsheet.

A spreadsheet runs a text that begins like a formula, so such texts get an apostrophe in front (OWASP, CSV Injection).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")


def csv_text(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Header and lines; "" for what a line does not have, or has as None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_safe(name) for name in columns])
    writer.writerows([_safe(line.get(name)) for name in columns] for line in lines)
    return text.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    # the writer quotes no lone carriage return, so a reader would begin a new line at it
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text
