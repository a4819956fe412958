"""The cases, counts and lines of `make speed`. The command itself is in test_slow_speed.py. No time is asserted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedllm_bench.benchmarks.perf import cases, curve, floor, speed, speed_table, turns, ways
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.passes import PassPlan

CASE = cases.Case(name="micro", hidden=16, vocabulary=60, layers=2, heads=2, tokens=12, longest=24)
ROUND = cases.Round(clients=2, steps=2, micro_batch=2, accumulation=2, rank=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("speed")
    cases.save_random_llama(CASE, folder)
    return str(folder)


@pytest.fixture(scope="module")
def work(base) -> cases.Work:
    return cases.make_work(CASE, ROUND, "sft", base)


def test_rows_are_the_tokens_of_their_texts_and_end_with_the_end(work):
    rows, tokenizer = work.tasks[0].rows, work.model.tokenizer
    assert len(rows) == len(work.texts) == 16
    for number, text in enumerate(work.texts):
        ids = tokenizer(f"{text.prompt}{text.answers[0]}")["input_ids"]
        assert rows[number].ids.tolist() == [*ids, tokenizer.eos_token_id]
        assert rows[number].counted.tolist() == [False] * len(text.prompt.split()) + [True] * (
            len(text.answers[0].split()) + 1
        )
    assert rows.ids.min() == 1


def test_lengths_have_the_spread_that_is_asked_for():
    case = replace(CASE, tokens=100, longest=1000)
    tokenizer = cases.word_tokenizer(500)
    rows = cases.make_rows(cases.make_texts(case, 1000, tokenizer, pairs=False, spread=0.35), tokenizer, 1000)
    lengths = np.diff(rows.starts)
    assert lengths.mean() == pytest.approx(100, rel=0.04)
    assert 0.2 < np.log(lengths).std() < 0.35  # prompt and answer are drawn apart
    assert rows.num_counted / len(rows.ids) == pytest.approx(2 / 3, abs=0.03)
    same = cases.make_rows(cases.make_texts(case, 50, tokenizer, pairs=False, spread=0.0), tokenizer, 1000)
    assert len(set(np.diff(same.starts).tolist())) == 1


def test_the_rows_of_a_pair_share_their_prompt_and_have_the_bases_log_probabilities(base):
    work = cases.make_work(CASE, ROUND, "dpo", base)
    rows = work.tasks[0].rows
    assert isinstance(rows, PairPart)
    pair = rows[3]
    cut = int(pair.chosen.counted.argmax())
    assert pair.chosen.ids[:cut].tolist() == pair.rejected.ids[:cut].tolist()
    assert cut == int(pair.rejected.counted.argmax())
    with work.model.using(None), torch.no_grad():
        logits = work.model.base(input_ids=torch.tensor(pair.chosen.ids[None], dtype=torch.long)).logits[0]
    logs = logits.log_softmax(-1)[torch.arange(cut - 1, len(pair.chosen.ids) - 1), pair.chosen.ids[cut:].tolist()]
    assert pair.reference is not None
    assert float(logs.sum()) == pytest.approx(pair.reference[0], rel=1e-4)


def test_tokens_are_counted_by_hand(work):
    rows = work.tasks[0].rows
    lengths = np.diff(rows.starts)
    assert ways.useful_tokens(work.tasks) == lengths.sum()
    assert ways.counted_tokens(work.tasks) == rows.num_counted
    planned = sum(2 * max(len(rows[task.row_numbers[i]].ids) for i in micro)
                  for task in work.tasks for step in task.steps for micro in step)  # fmt: skip
    assert ways.planned_tokens(work.tasks) == planned
    blocks = ways.blocks_of(work)
    assert ways.processed_tokens(blocks, PassPlan(1)) == lengths.sum()  # a row in each pass
    assert ways.processed_tokens(blocks, PassPlan(10**6)) > lengths.sum()
    assert ways.processed_tokens(blocks, PassPlan(10**6, packed=True)) == lengths.sum()


def test_flop_are_four_for_each_weight_and_token_and_the_head_at_counted_tokens(work):
    layer = 4 * 16 * 16 + 3 * 16 * 48
    expected = 4 * (2 * layer * ways.useful_tokens(work.tasks) + 60 * 16 * ways.counted_tokens(work.tasks))
    assert floor.flop_of(work) == expected


def test_the_limit_is_weighted_by_how_often_a_matrix_is_there(monkeypatch):
    seconds = {(8, 4): 1.0, (4, 8): 3.0}
    monkeypatch.setattr(floor, "_seconds", lambda x, weight: seconds[tuple(weight.shape)])
    found = floor.matmul_limit(floor.Shapes({(8, 4): 2, (4, 8): 1}), rows=10)
    assert found == 3 * (2 * 10 * 8 * 4) / (2 * 1.0 + 3.0)


def test_time_outside_the_work_is_told_and_an_engine_without_it_is_refused(work):
    assert 0 < floor.outside_share(lambda: ways.ours(work)) < 0.9
    with pytest.raises(RuntimeError, match="the engine has no forward"):
        floor.outside_share(lambda: None)


def test_a_second_counts_once_where_timed_functions_call_each_other(monkeypatch):
    times = iter([0.0, 1.0, 7.0])
    clock = floor._Clock()
    monkeypatch.setattr(floor.time, "perf_counter", lambda: next(times))
    inner = clock.timed("backward", lambda: None)
    clock.timed("forward", inner)()
    assert clock.seconds == 7.0
    assert clock.calls == {"forward": 1, "backward": 1}


def test_our_way_and_the_loop_end_at_the_same_adapters(work):
    variants = {name: way for name, way in ways.make_ways(work).items() if name in ("ours", "loop")}
    assert 0 < turns.disagreements(variants, work.start)["loop"] < 1e-3


def test_times_of_unequal_work_are_refused(work):
    variants = {name: way for name, way in ways.make_ways(work).items() if name in ("ours", "loop")}
    ends = variants["loop"]()
    name = next(iter(ends[0]))
    variants["loop"] = lambda: [*ends[:-1], {**ends[-1], name: ends[-1][name] + 1.0}]
    with pytest.raises(RuntimeError, match="loop trained other adapters than ours"):
        turns.disagreements(variants, work.start)


def test_a_client_without_an_answer_is_no_speed(work):
    broken = {name: tensor * float("nan") for name, tensor in work.start.items()}
    with pytest.raises(RuntimeError, match="client 0 has no finite answer"):
        ways.ours(replace(work, start=broken))


def test_the_curve_names_the_largest_drop():
    assert floor.drop_below_a_smaller([1.0, 2.0, 4.0, 3.0, 3.5]) == pytest.approx(0.25)
    assert floor.drop_below_a_smaller([1.0, 2.0]) == 0.0


def test_the_curve_has_all_numbers_of_clients():
    found = curve.over_clients(CASE, turns=1, numbers=(1, 2, 4), of_round=replace(ROUND, clients=4, steps=1))
    assert list(found["useful_tokens_per_second"]) == ["1", "2", "4"]
    assert found["processed_tokens"]["1"] >= found["processed_tokens"]["4"] >= found["useful_tokens"]  # rows are pooled
    assert "most below a smaller number" in speed_table.of_curves([found])


def test_without_the_engine_ray_its_workers_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.delitem(ENGINES, "ray", raising=False)
    found = curve.over_workers([1, 2], CASE, 1)
    assert speed_table.of_workers(found) == "Ray workers: skipped, this version has no engine ray\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--cases=tiny,tinny"], "--cases: got 'tinny'; there are tiny, small, real"),
        (["--losses=ppo"], "--losses: got 'ppo'; there are sft, dpo"),
        (["--ways=loop"], "--ways: got 'loop', of which ours must be one, since all are compared with it"),
        (["--ways=ours,peft"], "--ways: got 'peft'; there are ours, loop, trl, published"),
        (["--turns=0"], "--turns: got 0, give 1 or more"),
        (["--clients=0"], "--clients: got 0, give 1 or more"),
        (["--threads=-1"], "--threads: got -1, give 1 or more"),
        (["--spread=3"], "--spread: got 3.0, give 0 (rows of one length) to 2"),
        (["--plot=x.gif"], "--plot: got 'x.gif'; give a file that ends with .png or .svg"),
        (["--registered=38,x"], "--registered: got '38,x'; give whole numbers from 1 with commas between, such as 1,2"),
        (["--ray=0"], "--ray: got '0'; give whole numbers from 1 with commas between, such as 1,2"),
    ],
)
def test_what_is_wrong_is_one_line(words, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("it measured"))
    assert speed.main([*words, f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"speed: {expected}\n"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("lora.dropout=0.1", "--set lora.dropout: each way draws other masks"),
        ("model.quantization=4bit", "--set: the comparison is of LoRA on a base that is not quantised"),
        ("local.no=1", "local.no"),
    ],
)
def test_settings_that_cannot_be_compared_are_one_line(setting, expected, tmp_path, capsys):
    words = ["--cases=tiny", "--losses=sft", "--no-memory", "--set", setting, f"--out={tmp_path}"]
    assert speed.main(words) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1
    assert expected in shown[0]


def test_a_real_base_that_is_not_there_is_skipped_with_the_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed.base_model, "is_available", lambda name: False)
    assert speed.main(["--cases=real", f"--out={tmp_path}", f"--plot={tmp_path / 'x.png'}"]) == 0
    assert "real: skipped, the weights of smollm2-135m-instruct are not in the cache" in capsys.readouterr().out
    assert not (tmp_path / "x.png").exists()  # nothing to draw


def found_of(case: str, ratio: float) -> dict[str, Any]:
    ratios = {"ours": {"median": 1.0, "least": 1.0, "largest": 1.0, "cpu": 1.0},
              "loop": {"median": ratio, "least": ratio - 0.1, "largest": ratio + 0.2, "cpu": ratio}}  # fmt: skip
    return {
        "case": case, "loss": "dpo", "base": "random Llama", "round": vars(ROUND), "ratios": ratios,
        "relative_l2": {"loop": 1e-5}, "median_seconds": {"ours": 2.0, "loop": 2.0 * ratio}, "useful_tokens": 1000,
        "processed_tokens": {"ours": 1100, "loop": 2000}, "share_of_limit": {"ours": 0.5, "loop": 0.5 / ratio},
        "useful_tokens_per_second": {"ours": 500.0, "loop": 500.0 / ratio}, "matmul_limit": 9e10,
        "outside_share": 0.031, "peak_bytes": {"ours": 4 * 10**8}, "bytes_down": 65536, "bytes_up": 65536,
    }  # fmt: skip


def test_a_line_has_what_was_measured():
    lines = speed_table.of_case(found_of("tiny", 1.5)).splitlines()
    assert lines[0].startswith("tiny, dpo: random Llama; 2 clients x 2 steps x 2 x 2 pairs, 1,000 tokens a round")
    ours, loop = (" ".join(line.split()) for line in lines[2:4])
    assert ours == "ours 2.000 1.00x [1.00, 1.00] 500 0.91 50.0% 3.1% 400.0 MB"
    assert loop == "loop 3.000 1.50x [1.40, 1.70] 333 0.50 33.3% - -"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_plot_is_drawn_and_equal_numbers_give_equal_bytes(kind, tmp_path: Path):
    found = [found_of("tiny", 1.5), found_of("small", 1.8)]
    for name in ("a", "b"):
        speed_table.plot(found, tmp_path / "new" / f"{name}.{kind}")
    first, second = ((tmp_path / "new" / f"{name}.{kind}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert first[:4] == (b"\x89PNG" if kind == "png" else b"<?xm")


def test_the_file_is_named_by_date_and_hardware():
    machine = {"cpu": {"name": "AMD EPYC 9B14 (2.6 GHz)"}, "date": "2026-11-29", "threads": 2}
    assert turns.file_name("speed", machine) == "speed_2026-11-29_amd-epyc-9b14-2-6-ghz_2-threads.json"


def test_help_shows_the_options_with_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        speed.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    words = "cases losses ways model set turns clients steps spread threads no-memory curve registered ray out plot"
    for word in (*(f"--{name}" for name in words.split()), "examples:"):
        assert word in shown
