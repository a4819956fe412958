"""Two runs compared on closed benchmarks: paired by item, and refused where they were asked otherwise."""

from __future__ import annotations

from dataclasses import replace

from bench_runs import code_of
from closed_records import right_or_wrong, write_closed

from fedllm_bench import cli
from fedllm_bench.comparison.run_scores import load_run

HALF, MOST = [i % 2 == 0 for i in range(60)], [i % 5 != 0 for i in range(60)]


def write_side(folder, right, **more):
    return write_closed(folder, "medqa", **{"global": right_or_wrong(right)}, **more)


def test_two_models_are_compared_over_items(tmp_path, capsys):
    a, b = write_side(tmp_path / "a", MOST), write_side(tmp_path / "b", HALF)
    assert cli.main(["compare", str(a), str(b)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "medqa ↑: model A is better by" in text
    assert "at n = 60 questions" in text
    measured = load_run(a).measured["medqa"]
    assert (measured.cluster, measured.scale, measured.unit) == ("question", (0.0, 1.0), "share")


def test_other_prompts_another_version_and_other_settings_are_refused(tmp_path, capsys):
    a = write_side(tmp_path / "a", MOST, plan={"benchmark": {"version": "1"}})
    other = [replace(sample, prompt_hash="x") for sample in right_or_wrong(HALF)]
    b = write_closed(tmp_path / "b", "medqa", {"benchmark": {"version": "1"}}, **{"global": other})
    c = write_side(tmp_path / "c", HALF, plan={"benchmark": {"version": "2"}})
    d = write_side(tmp_path / "d", HALF, plan={"benchmark": {"version": "1"}, "overrides": {"template": "train"}})
    for one, what in ((b, "prompts' hash"), (c, "benchmark version"), (d, "settings of answers")):
        assert code_of(["compare", str(a), str(one)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"medqa cannot be compared, for its {what} is" in line


def test_the_base_is_no_side_to_compare(tmp_path):
    write_closed(tmp_path, "medqa", base=right_or_wrong(HALF), client_a=right_or_wrong(MOST))
    assert code_of(["compare", str(tmp_path), str(tmp_path)]) == 2
