"""docs/closed_table.md has every metric of the systems before this one, as closed.toml declares them."""

from __future__ import annotations

from checkout import ROOT

from fedllm_bench.evaluation.benchmarks import BENCHMARKS
from fedllm_bench.evaluation.closed.declared import closed_benchmarks, closed_groups
from fedllm_bench.evaluation.closed.metric_table import metric_rows, tables

GROUPS = (
    *("openfedllm_general", "openfedllm_finance", "openfedllm_medical", "openfedllm_code", "openfedllm_math", "fsllm"),
    *("flowertune_general", "flowertune_finance", "flowertune_medical", "flowertune_code"),
)


def known() -> set[str]:
    further = {name for benchmark in closed_benchmarks().values() for name in benchmark.also}
    return {*closed_benchmarks(), *further, *BENCHMARKS}


def test_the_page_has_the_tables() -> None:
    page = (ROOT / "docs" / "closed_table.md").read_text(encoding="utf-8")
    assert tables() in page, "python -m fedllm_bench.evaluation.closed.metric_table"


def test_each_of_the_35_rows_is_there_once_and_has_a_name_that_can_be_asked() -> None:
    rows = metric_rows()["openfedllm"]
    numbers = []
    for row in rows:
        first, _, last = row.row.partition("-")
        numbers += range(int(first), int(last or first) + 1)
        assert row.names
        assert set(row.names) <= known()
    assert numbers == list(range(1, 36))


def test_flowertune_s_fourteen_rows_have_their_groups() -> None:
    rows = metric_rows()["flowertune"]
    assert len(rows) == 14
    for challenge in ("general", "finance", "medical", "code"):
        names = [name for row in rows if row.row == challenge for name in row.names]
        assert set(names) == set(closed_groups()[f"flowertune_{challenge}"])


def test_what_was_left_out_says_why() -> None:
    for row in (row for rows in metric_rows().values() for row in rows):
        assert set(row.names) <= known()
        assert row.names or row.note.startswith("left out: ")


def test_every_group_of_the_three_systems_exists_and_does_not_mix_openfedllm_with_flowertune() -> None:
    groups = closed_groups()
    assert set(GROUPS) <= set(groups)
    for name in ("general", "finance", "medical"):
        assert not set(groups[f"openfedllm_{name}"]) & set(groups[f"flowertune_{name}"])
    assert len(groups["fsllm"]) == 15
