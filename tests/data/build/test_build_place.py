"""What a build may replace: the same split, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_runs import run
from raw_rows import aya, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build import build
from fedllm_bench.data.manifest import open_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")


def build_aya(raw: Path, out: Path, *more: object) -> int:
    return run("build", "aya", "--raw", raw, "--out", out, "--min-samples", 1, "--languages", "all", *more)


@pytest.mark.parametrize(
    ("more", "differs"),
    [
        (("--name", "other"), "has the name 'other'"),
        (("--seed", 3, "--heldout", 0.5), "has a recipe that differs in heldout, seed;"),
        (("--decontaminate", "off"), "has a recipe that differs in decontaminate;"),
    ],
)
def test_another_split_is_not_replaced_and_the_same_one_is(more, differs, tmp_path, monkeypatch):
    raw = write_raw(tmp_path / "x.jsonl", [aya("u", f"q{i}", "a") for i in range(20)])
    out = tmp_path / "s"
    assert build_aya(raw, out) == 0
    assert build_aya(raw, out) == 0
    before = open_split(out)
    monkeypatch.setattr(build, "count_rows", lambda *_: pytest.fail("rows were read"))
    with pytest.raises(UserError) as caught:
        build_aya(raw, out, *more)
    told = str(caught.value)
    assert f"holds the split 'aya-custom', hash {before.hash[:16]}" in told
    assert differs in told
    assert "give another --out, or remove that folder" in told
    assert open_split(out) == before
