"""What some tests need beyond a clone: `@pytest.mark.assets`, `@pytest.mark.rows`; skips are counted by their reasons.

A test without the mark never sees the variable. So it cannot depend on what only some machines have.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

NEEDS = {  # mark -> (variable, what it names)
    "assets": ("FEDLLM_BENCH_MIRROR", "a folder or URL with the evaluation assets"),
    "rows": ("FEDLLM_BENCH_REAL_ROWS", "a folder of real rows in upstream columns"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, (variable, what) in NEEDS.items():
            if item.get_closest_marker(mark) and not os.environ.get(variable):
                item.add_marker(pytest.mark.skip(reason=f"needs {what}: set {variable} (see CONTRIBUTING.md)"))


@pytest.fixture(autouse=True)
def _only_what_it_needs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes the variables of what the test has no mark for."""
    unseen = [variable for mark, (variable, _) in NEEDS.items() if not request.node.get_closest_marker(mark)]
    with pytest.MonkeyPatch.context() as patch:
        for variable in unseen:
            patch.delenv(variable, raising=False)
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count:4d}: {reason}")
