"""The line on a run that scored a sample of the held-out rows: on the terminal, in report.html and under grids."""

from __future__ import annotations

from collections.abc import Mapping


def about_sample(sample: Mapping[str, int] | None) -> list[str]:
    """ "scored on 160 of 369 held-out rows, of 40 of 361 clients, ...": `data.sample` in words; [] without one."""
    if sample is None:
        return []
    texts = [f"{_rows(sample, 'heldout', 'held-out rows')}, of {_users(sample, 'heldout')} clients"]
    if sample["of_unseen_rows"]:
        texts.append(f"{_rows(sample, 'unseen', 'rows')} of {_users(sample, 'unseen')} unseen users")
    return [f"scored on {' and on '.join(texts)}, the same for all sides; the other rows are left out by plan"]


def _rows(sample: Mapping[str, int], part: str, what: str) -> str:
    return f"{sample[f'num_{part}_rows']:,} of {sample[f'of_{part}_rows']:,} {what}"


def _users(sample: Mapping[str, int], part: str) -> str:
    return f"{sample[f'num_{part}_clients']:,} of {sample[f'of_{part}_clients']:,}"
