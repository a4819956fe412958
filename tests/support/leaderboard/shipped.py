"""The submissions that come with the suite, whatever others have been added beside them."""

from __future__ import annotations

from pathlib import Path

from checkout import ROOT

SUBMISSIONS = ROOT / "leaderboard" / "submissions"
OWN = "-fedllm-bench"  # how their names end: the team


def shipped() -> list[Path]:
    return sorted(path for path in SUBMISSIONS.iterdir() if path.is_dir() and path.name.endswith(OWN))


def shipped_as(method: str) -> Path:
    """The one of a method, or of a canary, on mini-aya."""
    (folder,) = (path for path in shipped() if path.name.endswith(f"_mini-aya-fixed-{method}{OWN}"))
    return folder


def is_of_others(path: Path) -> bool:
    """Whether a file or folder is part of what another team has submitted."""
    inside = path.relative_to(SUBMISSIONS).parts if path.is_relative_to(SUBMISSIONS) else ()
    return bool(inside) and not inside[0].endswith(OWN)
