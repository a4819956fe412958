"""The looks at each client on preference pairs: over rounds and personalised, by the pairs' own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_runs import assert_refused, quick
from benches import Killed, bench_loader, dying_after, lines_of, run_of, trained
from dpo_commands import run, words
from pairs import plain_logp

from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics.items import PairItem
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs import client_rounds, personalise
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.score_files import read_scores
from fedllm_bench.scores.summaries import means_by_part
from fedllm_bench.training import engines
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.rounds import run_rounds

SMALL = ("federation.rounds=4", "federation.clients_per_round=3", "local.steps=1", "local.micro_batch=4",
         "local.block_size=2", "lora.rank=4", "lora.alpha=8", "local.dpo_beta=0.3")  # fmt: skip


@pytest.fixture(scope="module")
def bench_of(pair_split: Split, tiny_folder: Path, tmp_path_factory) -> Callable[..., Bench]:
    return bench_loader(pair_split, tiny_folder, tmp_path_factory, SMALL)


def by_hand(bench: Bench, adapter: Tree, items: Sequence[PairItem]) -> dict[str, float]:
    """Client -> mean of -log sigmoid(beta (r_w - r_l)), pair by pair from the logits of the whole model."""
    losses: dict[str, list[float]] = {}
    for item in items:
        assert item.tokens is not None
        logps = []
        for tree in (adapter, None):
            with bench.model.using(tree), torch.no_grad():
                logps.append([plain_logp(bench.model.base, row).item() for row in item.tokens.sequences])
        (win, lose), (win_ref, lose_ref) = logps
        margin = 0.3 * ((win - win_ref) - (lose - lose_ref))
        losses.setdefault(item.row.client_id, []).append(float(np.log1p(np.exp(-margin))))
    return {client: sum(values) / len(values) for client, values in losses.items()}


def of_part(bench: Bench, part: str) -> list[Any]:
    return [item for item in bench.items if item.part == part]


@pytest.mark.slow
def test_a_line_has_the_preference_loss_of_each_client_and_unseen_user(bench_of):
    bench = bench_of("fedavg", "evaluation.every=2", "local.lr=2e-2")
    servers = {}

    def watch(server: Any) -> None:
        servers[server.round] = server.params
        client_rounds.watcher(bench)(server)

    run_rounds(replace(run_of(bench), watch=watch), bench.initial)
    (line,) = lines_of(bench)
    assert line["round"] == 2
    sizes = {}
    for part in ("heldout", "unseen"):
        expected = by_hand(bench, servers[2], of_part(bench, part))
        assert line[part] == pytest.approx(expected, abs=1e-4)
        assert max(abs(loss - np.log(2)) for loss in expected.values()) > 1e-2
        sizes[part] = len(expected)
    assert sizes == {"heldout": 6, "unseen": 4}


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_looking_changes_no_bit_and_after_a_kill_the_lines_are_those_of_an_undisturbed_run(name, bench_of, monkeypatch):
    plain, whole, broken = bench_of(name), *(bench_of(name, "evaluation.every=1") for _ in range(2))
    real = client_rounds._line

    def failing(bench: Bench, server: Any, *rest: Any) -> Any:
        if server.round == 2:
            raise Killed
        return real(bench, server, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(client_rounds, "_line", failing)
        with pytest.raises(Killed):
            run_rounds(run_of(broken), broken.initial)
    assert [line["round"] for line in lines_of(broken)] == [1]
    servers = [run_rounds(run_of(bench), bench.initial) for bench in (plain, whole, broken)]
    assert lines_of(broken) == lines_of(whole)
    assert [line["round"] for line in lines_of(whole)] == [1, 2, 3]
    for server in servers[1:]:
        assert all(torch.equal(tensor, servers[0].params[key]) for key, tensor in server.params.items())


@pytest.mark.slow
def test_personalisation_is_plain_steps_of_dpo_from_the_global_adapter(bench_of):
    bench = bench_of("scaffold", "evaluation.personal_steps=3", "evaluation.personal_lr=1e-2", "local.block_size=1")
    server, config = trained(bench), bench.config
    found = personalise.personalise(bench, server)
    assert {score.cluster for score in found} == set(bench.clients.ids)
    local = replace(config.local, lr=1e-2)
    assert local.loss == "dpo"
    for number, client in enumerate(bench.clients.ids):
        rows = bench.clients.train_rows[client]
        plan = plan_steps(config.seed, 2**31 - 1, number, num_rows=len(rows), steps=3, micro_batch=4, accumulation=1)
        task = ClientTask(client=number, client_id=client, seed=config.seed, round_num=2**31 - 1,
                          rows=bench.clients.tokens["train"], row_numbers=rows, steps=plan, state={})  # fmt: skip
        (result,) = train_block(bench.model, FedAvg(), {"params": server.params}, [task], local)
        own = tmap(lambda x, d: x + d, server.params, result.upload["delta"])
        items = [item for item in of_part(bench, "heldout") if item.row.client_id == client]
        expected = by_hand(bench, own, items)
        mine = [score for score in found if score.cluster == client]
        assert means_by_part(mine)["heldout"] == pytest.approx(expected, abs=1e-4)
        assert expected != pytest.approx(by_hand(bench, server.params, items), abs=1e-4)


def test_a_killed_personalisation_goes_on_to_the_same_bits(bench_of, monkeypatch):
    whole, broken = (bench_of("fedavg", "evaluation.personal_steps=2") for _ in range(2))
    server = trained(whole)
    expected = personalise.personalise(whole, server)
    asked: list[list[int]] = []
    real = engines.ENGINES["inprocess"]
    monkeypatch.setitem(engines.ENGINES, "inprocess", dying_after(1, real, asked))
    with pytest.raises(Killed):
        personalise.personalise(broken, server)
    monkeypatch.setitem(engines.ENGINES, "inprocess", dying_after(99, real, asked))
    assert personalise.personalise(broken, server) == expected
    assert sorted(client for block in asked for client in block) == list(range(6))
    assert personalise.file_of(broken).name == "preference_loss.personal.jsonl"
    assert personalise.file_of(broken).read_bytes() == personalise.file_of(whole).read_bytes()


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_a_run_reports_both_looks(kind, pair_split: Split, tiny_folder: Path, tmp_path: Path, capsys):
    views = ("evaluation.every=1", "evaluation.personal_steps=2", f"local.dpo_loss={kind}", "local.lr=1e-2")
    folder = run("chatbot_pa", pair_split, tiny_folder, tmp_path, *views)
    results = files.read_json(folder / "results.json")
    check_results(results)
    over, personal = results["over_rounds"], results["personalisation"]
    assert (over["metric"], over["unit"]) == (personal["metric"], personal["heldout"]["unit"])
    assert over["metric"] == "preference_loss"
    assert over["unit"] == "nats per pair"
    assert [row["round"] for row in over["rounds"]] == [0, 1, 2]
    for side, row in (("before", over["rounds"][0]), ("after", over["rounds"][2])):
        means = means_by_part(read_scores(folder, side, ["preference_loss"])["preference_loss"])
        for part, clients in means.items():
            assert row[part]["mean"] == pytest.approx(np.mean(list(clients.values())))
            assert row[part]["worst_tenth"] == pytest.approx(max(clients.values()))  # of six, and of four: one
    assert over["rounds"][0]["heldout"]["mean"] == pytest.approx(np.log(2))
    assert personal["heldout"]["before"]["mean"] == results["metrics"]["preference_loss"]["after"]["mean"]
    assert len(personal["clients"]) == 6
    shown = capsys.readouterr().out
    for words_shown in ("held-out preference loss, by client", "clients: personalised", "unseen users: after",
                        "personalised: 2 local steps of adamw"):  # fmt: skip
        assert words_shown in shown


@pytest.mark.parametrize("key", ["every", "personal_steps"])
def test_a_look_at_a_loss_that_is_not_scored_is_refused(key, pair_split: Split, tiny_folder, tmp_path, capsys):
    argv = [*words("chatbot_pa", pair_split, tiny_folder, tmp_path, f"evaluation.{key}=1"), "--metrics",
            "preference_margin"]  # fmt: skip
    with quick():
        assert_refused(argv, tmp_path, capsys, f"evaluation.{key}=1", "metric preference_loss")
