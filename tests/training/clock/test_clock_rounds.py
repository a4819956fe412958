"""Rounds under a clock: equal to those without one where devices are alike, and what becomes of stale uploads."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clock_runs import ALIKE, MODES, clock_run, without_clock
from resumed_rounds import Killed, anew, initial, killed_at, left_behind, same_bits, undisturbed
from scripted_rounds import START, by_client, scripted_run
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl, write_jsonl
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import Server
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import rounds
from fedllm_bench.training.block import train_block
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.checkpoint import load_partial, load_server
from fedllm_bench.training.clock.cohorts import versions_of
from fedllm_bench.training.clock.simulating import timeline_of
from fedllm_bench.training.clock.timeline import USED
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.tasks import tasks_of_round

NOT_AT_ALL = {"local", "central", "dp_fedavg"}  # nothing is sent, or the bound is of a draw of clients
NOT_STALE = {"scaffold", "feddyn", "hetlora"}
ALLOWED = {"sync": set(METHODS) - NOT_AT_ALL}
ALLOWED |= dict.fromkeys(("semi", "async"), ALLOWED["sync"] - NOT_STALE)
PATIENT = {
    "sync": ("clock.mode=sync",),
    "semi": ("clock.mode=semi", "clock.time_budget=1e6"),
    "async": ("clock.mode=async", "clock.goal=3"),
}
CASES = [(name, mode) for mode in PATIENT for name in METHODS if name in ALLOWED[mode]]
STALE = [name for name in METHODS if name in ALLOWED["async"]]
UNEVEN = ("federation.rounds=5", "local.block_size=1", *MODES["async"], "clock.speed_spread=2")


@pytest.mark.parametrize("mode", PATIENT)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_taken_or_refused_in_one_line(name, mode, tiny_run_config):
    config = tiny_run_config(name, *PATIENT[mode])
    if name in ALLOWED[mode]:
        make_method(config, 6)
        return
    with pytest.raises(UserError, match=f"clock.mode={mode}") as caught:
        make_method(config, 6)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["privacy.clip=1", "privacy.noise_multiplier=1", "federation.weighting=uniform"], "privacy"),
        (["communication.budget_mb=5"], "communication.budget_mb=5"),
        (["communication.secure_sum=true"], "communication.secure_sum=true"),
        (["communication.aggregation_error=true"], "communication.aggregation_error=true"),
        (["aggregation.rule=median"], "aggregation.rule=median"),
        (["communication.lora_aggregation=flex"], "communication.lora_aggregation=flex"),
        (["communication.lora_aggregation=alternate"], "communication.lora_aggregation=alternate"),
        (["lora.ranks=2,4"], "lora.ranks=2,4"),
    ],
)
def test_settings_without_a_meaning_under_staleness_are_refused(settings, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config("fedavg", *MODES["async"], *settings), 6)
    assert words in str(caught.value)
    assert "clock.mode=async" in str(caught.value)


@pytest.mark.parametrize(("name", "mode"), sweep(CASES, ("fedavg", "async"), ("fedadam", "semi"), ("scaffold", "sync"),
                                                 ("ditto", "async")))  # fmt: skip
def test_devices_that_are_alike_train_the_bits_of_rounds_without_a_clock(
    name, mode, dropping, tiny_clients, tiny_run_config, tmp_path
):
    start = initial(dropping)
    _, _, plain = undisturbed(dropping, tiny_clients, tiny_run_config(name), tmp_path)
    config = tiny_run_config(name, *PATIENT[mode], *ALIKE)
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "clock")
    run_rounds(run, start)
    ours = left_behind(run)
    assert all(record["staleness"] == [0, 0, 0] for record in ours["records"])
    assert same_bits({**ours, "records": without_clock(ours["records"])}, plain)


# What changes uploads, or how they are added up, and goes with every mode (docs/clock.md).
OF_UPLOADS = {
    "plain": (),
    "share_a": ("communication.lora_aggregation=share_a",),
    "frozen_a": ("communication.lora_aggregation=frozen_a",),
    "int8": ("communication.upload_dtype=int8",),
    "norm_bound": ("aggregation.rule=norm_bound", "aggregation.bound=0.001"),
}


COMPRESSED = {
    "error_feedback": ("communication.top_k=0.2", "communication.error_feedback=true"),
    "download_int8": ("communication.download_dtype=int8",),
}


@pytest.mark.parametrize("name", sweep([*OF_UPLOADS, *COMPRESSED], "frozen_a", "norm_bound"))
def test_what_changes_uploads_is_lazy_too(name, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *UNEVEN, *{**OF_UPLOADS, **COMPRESSED}[name])
    check_lazy(config, tiny_model, tiny_clients, tmp_path)


@pytest.mark.parametrize("mode", PATIENT)
@pytest.mark.parametrize("name", sweep(OF_UPLOADS, "norm_bound"))
def test_settings_of_uploads_have_the_bits_of_rounds_without_a_clock_too(
    name, mode, dropping, tiny_clients, tiny_run_config, tmp_path
):
    start, settings = initial(dropping), ("local.steps=1", *OF_UPLOADS[name])
    _, _, plain = undisturbed(dropping, tiny_clients, tiny_run_config("fedavg", *settings), tmp_path)
    config = tiny_run_config("fedavg", *settings, *PATIENT[mode], *ALIKE)
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "clock")
    run_rounds(run, start)
    ours = left_behind(run)
    assert same_bits({**ours, "records": without_clock(ours["records"])}, plain)


def test_the_page_names_the_methods_that_are_tested():
    page = (Path(__file__).parents[3] / "docs" / "clock.md").read_text()
    (line,) = [part for part in page.split("\n\n") if "take every mode" in part]
    named = line[: line.index("take every mode")].replace(" and ", ", ").strip()
    assert {name.strip("` \n") for name in named.split(",")} == set(STALE)


@pytest.mark.parametrize("name", sweep(STALE, "ditto", "fedadam"))
def test_training_when_an_upload_is_used_is_training_when_it_is_asked(
    name, tiny_model, tiny_clients, tiny_run_config, tmp_path
):
    check_lazy(tiny_run_config(name, *UNEVEN), tiny_model, tiny_clients, tmp_path)


def check_lazy(config, tiny_model, tiny_clients, tmp_path):
    """FedBuff as it happens: a client trains at once from the model it is sent, and its upload waits."""
    start = initial(tiny_model)
    run = clock_run(config, tiny_model, tiny_clients, start, tmp_path / "lazy")
    lazy = run_rounds(run, start)
    eager = clock_run(config, tiny_model, tiny_clients, start, tmp_path / "eager")
    method, server, waiting = run.method, run.method.init(start), {}
    assert max(tau for record in read_jsonl(run.folder / "rounds.jsonl") for tau in record["staleness"]) >= 1
    for step in run.timeline.steps:
        for task in tasks_of_round(eager, server, [visit.client for visit in step.sent]):
            rate = config.local.lr_at(server.round, config.federation.rounds)
            local = replace(config.local, lr=rate)
            (result,) = train_block(tiny_model, method, method.broadcast(server), [task], local)
            waiting[task.client] = replace(result, upload=method.receive(server, result.upload))
        results = [(step.number - visit.version, waiting[visit.client]) for visit in step.of(USED)]
        total, weight = {}, 0.0
        for tau, result in results:
            own = (result.num_examples if method.weighting == "examples" else 1.0) / (1 + tau) ** 0.5
            weight += own
            for key, value in result.upload["delta"].items():
                total[key] = total.get(key, 0.0) + own * value
            eager.states.put(result.client, result.state, step.number + 1)
        mean = {"delta": {key: value / weight for key, value in total.items()}}
        for key in results[0][1].upload.keys() - {"delta"}:
            uploads = [result.upload[key] for _, result in results]
            mean[key] = {name: sum(tree[name] for tree in uploads) / len(uploads) for name in uploads[0]}
        server = method.update(server, mean, len(results) / len(tiny_clients))
    for name, tensor in lazy.params.items():
        assert torch.allclose(tensor, server.params[name], rtol=1e-5, atol=1e-6), name
    assert not same_bits(lazy.params, start)


def test_a_large_discount_leaves_what_a_float32_can_hold(tiny_clients, tiny_run_config, tmp_path):
    """Where all uploads of a round are stale, their weights are as small as they like, and the mean is not."""
    config = tiny_run_config("fedavg", *UNEVEN, "federation.weighting=uniform", "clock.staleness_discount=100")
    method = make_method(config, 6)
    planned = timeline_of(config, method, tiny_clients.ids, [9] * 6, Traffic(method, START, 1e-3))
    stale = [number for number in range(5) if number not in planned.cohorts(number)]
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path, timeline=planned)
    run_rounds(run, START)
    norms = [record["update_norm"] for record in read_jsonl(tmp_path / "rounds.jsonl")]
    assert stale
    assert all(norms[number] >= 1 for number in stale)  # each upload has a norm of at least that


@pytest.mark.parametrize("published", [False, True])
def test_stale_uploads_weigh_less_by_hand(published, tiny_clients, tiny_run_config, tmp_path):
    settings = (
        *UNEVEN,
        "federation.weighting=examples",
        "clock.staleness_discount=1",
        f"clock.published={str(published).lower()}",
    )
    config = tiny_run_config("fedavg", *settings)
    sizes = [len(tiny_clients.train_rows[client]) for client in tiny_clients.ids]
    method = make_method(config, 6)
    planned = timeline_of(config, method, tiny_clients.ids, sizes, Traffic(method, START, 1e-3))
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path, timeline=planned)
    server, expected = run_rounds(run, START), START["w"].double()
    for step in planned.steps:
        used = [(visit.client, 1 / (1 + step.number - visit.version)) for visit in step.of(USED)]
        divisor = sum(sizes[k] * (1 if published else factor) for k, factor in used)
        moved = sum(sizes[k] * factor * (k + 1) for k, factor in used) / divisor
        expected = expected + torch.tensor([moved, -moved])
    assert server.params["w"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_records_count_every_byte_and_name_who_was_passed_over(tiny_clients, tiny_run_config, tmp_path):
    settings = ("federation.rounds=8", "clock.mode=semi", "clock.time_budget=5", "clock.staleness_limit=0")
    config = tiny_run_config("fedavg", *settings, "faults.dropout=0.4", "clock.speed_spread=2")
    method = make_method(config, 6)
    planned = timeline_of(config, method, tiny_clients.ids, [9] * 6, Traffic(method, START, 1e-3))
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path, timeline=planned)
    run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    sent = [visit for step in planned.steps for visit in step.sent]
    over = [visit for step in planned.steps for visit in step.visits]
    assert sum(record["bytes_down"] for record in records) == 8 * len(sent)
    assert sum(record["bytes_up"] for record in records) == 8 * sum(visit.fate in ("used", "late") for visit in over)
    assert sum(len(record["late"]) for record in records) == sum(visit.fate == "late" for visit in over) > 0
    assert [record["virtual_seconds"] for record in records] == [step.ends for step in planned.steps]
    assert len(engine.tasks) == sum(visit.fate == "used" for visit in over)  # nobody trains for nothing
    lost = [failure for record in records for failure in record["failures"] if failure]
    assert len(lost) == sum(visit.fate == "lost" for visit in over) > 0


@pytest.mark.parametrize("name", sweep(STALE, "fedavg", "ditto"))
def test_a_run_that_was_killed_anywhere_ends_with_the_same_bits(
    name, dropping, tiny_clients, tiny_run_config, tmp_path
):
    start, config = initial(dropping), tiny_run_config(name, *UNEVEN, "local.steps=1")
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "whole")
    run_rounds(run, start)
    whole = left_behind(run)
    calls = sum(len(set(run.timeline.cohorts(number))) for number in range(5))
    assert calls > 5  # more models than rounds
    for call, answers in [(0, 1), (3, 0), (calls - 1, 1)]:
        broken = anew(run, f"{call}-{answers}")
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, call, answers)), start)
        run_rounds(broken, start)
        assert same_bits(left_behind(broken), whole), (call, answers)


@pytest.mark.parametrize("block", [0, 1])
def test_a_round_that_is_interrupted_goes_on_with_who_is_left(block, dropping, tiny_clients, tiny_run_config, tmp_path):
    """Each client is a block, and a round here has clients of several models."""
    settings = ("clock.mode=async", "clock.goal=3", "clock.speed_spread=2", "federation.clients_per_round=4")
    start = initial(dropping)
    config = tiny_run_config("ditto", "federation.rounds=5", "local.block_size=1", "local.steps=1", *settings)
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "whole")
    run_rounds(run, start)
    mixed = [number for number in range(5) if len(run.timeline.cohorts(number)) > 1]
    began = run.timeline.chosen[mixed[0]]
    broken, stop = anew(run, "broken"), Stop()
    asked: list[int] = []

    def map_blocks(message, blocks, local):
        for results in run.map_blocks(message, blocks, local):
            asked.extend(result.client for result in results)
            done = sum(map(len, run.timeline.chosen[: mixed[0]]))
            if len(asked) == done + block + 1:
                stop.signum = signal.SIGINT
            yield results

    with pytest.raises(Interrupted):
        run_rounds(replace(broken, map_blocks=map_blocks, stop=stop), start)
    assert asked[-block - 1 :] == began[: block + 1]
    assert len(load_partial(broken.folder / "checkpoint", mixed[0]).results) == block + 1
    later: list[int] = []

    def rest(message, blocks, local):
        for results in run.map_blocks(message, blocks, local):
            later.extend(result.client for result in results)
            yield results

    run_rounds(replace(broken, map_blocks=rest), start)
    assert later[: len(began) - block - 1] == began[block + 1 :]
    assert same_bits(left_behind(broken), left_behind(run))


@pytest.mark.parametrize("name", sweep(["fedavg", "ditto"], "fedavg"))
@pytest.mark.parametrize("function", ["write_jsonl", "kept_version", "save_server", "without_old"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_kill_between_the_files_of_a_round_changes_nothing(
    name, function, is_done, dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    start, config = initial(dropping), tiny_run_config(name, *UNEVEN, "local.steps=1")
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "whole")
    run_rounds(run, start)
    whole, real, seen = left_behind(run), getattr(rounds, function), []

    def third(*args):
        seen.append(1)
        if is_done:
            real(*args)
        if len(seen) == 3:
            raise Killed
        if not is_done:
            real(*args)

    broken = anew(run, "broken")
    with monkeypatch.context() as patch:
        patch.setattr(rounds, function, third)
        with pytest.raises(Killed):
            run_rounds(broken, start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)
    assert list((broken.folder / "checkpoint" / "versions").glob("*")) == []


def test_only_models_that_somebody_began_from_are_kept(dropping, tiny_clients, tiny_run_config, tmp_path):
    start, config = initial(dropping), tiny_run_config("fedavg", *UNEVEN, "local.steps=1")
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "run")
    seen: list[tuple[int, set[str]]] = []

    def watch(server: Server) -> None:
        seen.append((server.round, {path.name for path in (run.folder / "checkpoint" / "versions").glob("*")}))

    run_rounds(replace(run, watch=watch), start)
    for done, kept in seen[1:]:
        assert kept == {f"v{version:06d}.safetensors" for version in run.timeline.needed_after(done - 1)}
    assert any(kept for _, kept in seen)
    assert seen[-1][1] == set()


def test_a_lost_model_is_said_in_one_line(dropping, tiny_clients, tiny_run_config, tmp_path):
    start, config = initial(dropping), tiny_run_config("fedavg", *UNEVEN, "local.steps=1")
    run = clock_run(config, dropping, tiny_clients, start, tmp_path / "run")
    needed = next(number for number in range(4) if run.timeline.needed_after(number))

    def stop(server: Server) -> None:
        if server.round == needed + 1:
            raise Killed

    with pytest.raises(Killed):
        run_rounds(replace(run, watch=stop), start)
    assert load_server(run.folder / "checkpoint") is not None
    (path,) = list((run.folder / "checkpoint" / "versions").glob("*"))[:1]
    whole = path.read_bytes()
    for content, words in ((b"", "it is no checkpoint"), (whole[:200], "it is no checkpoint")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            run_rounds(run, start)
    path.write_bytes((run.folder / "checkpoint" / "server.safetensors").read_bytes())
    with pytest.raises(UserError, match="it is of another round than its name says"):
        run_rounds(run, start)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="it is no file, so that it was changed"):
        run_rounds(run, start)
    path.unlink()
    versions_of(run.folder).keep_only(())
    with pytest.raises(UserError, match="the model that clients at work began from cannot be read"):
        run_rounds(run, start)


@pytest.mark.parametrize(
    ("key", "value"),
    [("virtual_seconds", 1.0), ("staleness", []), ("late", [[]]), ("surplus", None), ("clients", [[]] * 3)],
)
def test_lines_that_are_not_of_the_timeline_are_refused(key, value, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *PATIENT["sync"])
    method = make_method(config, 6)
    planned = timeline_of(config, method, tiny_clients.ids, [9] * 6, Traffic(method, START, 1e-3))
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path, timeline=planned)
    run_rounds(run, START)
    run_rounds(run, START)  # goes on from its end
    lines = read_jsonl(tmp_path / "rounds.jsonl")
    lines[1][key] = value
    write_jsonl(tmp_path / "rounds.jsonl", lines)
    with pytest.raises(UserError, match=r"rounds\.jsonl: .* so that it was changed"):
        run_rounds(run, START)
