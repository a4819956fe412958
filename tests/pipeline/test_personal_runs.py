"""Runs whose clients answer with adapters of their own and also share one: who trains, who is scored, what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_runs import assert_refused, folder_of, outcome, quick, run, words
from safetensors.torch import load_file
from sweeps import slow, sweep

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.mixtures import parts_of
from fedllm_bench.common.trees import Tree, num_bytes
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.answering.subjects import subject_of_run
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.report.legend import MIXED, legend
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.folder import RunFolder
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.runs.merging import open_trained
from fedllm_bench.training.checkpoint import load_server

PERSONAL = ("ditto", "pfedme", "fedrep", "fedem")
EACH = sweep(PERSONAL, "ditto", "fedrep", "fedem")
MOVING = {"pfedme": ("--set", "method.lam=0.1", "--set", "method.eta=10")}  # the paper's are for SGD


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def less(tiny_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_folder), "--metrics", "heldout")


class Folders(dict[str, Path]):
    """Method -> the folder of its run, which is made when it is first asked for."""

    def __init__(self, split: Path, less: tuple[str, ...], out: Path) -> None:
        super().__init__()
        self.split, self.less, self.out = split, less, out

    def __missing__(self, method: str) -> Path:
        self[method] = run(method, self.split, self.out, *self.less, *MOVING.get(method, ()))
        return self[method]


@pytest.fixture(scope="module")
def folders(tiny_split: Split, less: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tiny_split.folder, less, tmp_path_factory.mktemp("runs"))


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = files.read_json(folder / "results.json")
    check_results(results)
    return results


def tensors(folder: Path) -> Tree:
    tree: Tree = load_file(folder / "adapter_model.safetensors")
    return tree


def own_adapters(folder: Path) -> dict[str, Tree]:
    return {path.name: tensors(path) for path in sorted((folder / "adapters").iterdir())}


def scored(folder: Path, side: str = "after", part: str = "heldout") -> dict[tuple[str, str], float]:
    lines = files.read_jsonl(folder / "scores" / f"heldout.{side}.jsonl")
    return {(line["cluster"], line["item_id"]): line["value"] for line in lines if line["group"]["part"] == part}


@pytest.mark.parametrize("method", EACH)
def test_all_chosen_clients_train_and_those_of_the_sample_are_scored(method, folders):
    ours, fedavg, local = (results_of(folders[name]) for name in (method, "fedavg", "local"))
    chosen = [line["client_ids"] for line in files.read_jsonl(folders[method] / "rounds.jsonl")]
    assert chosen == [line["client_ids"] for line in files.read_jsonl(folders["fedavg"] / "rounds.jsonl")]
    assert (ours["run"]["personal"], fedavg["run"]["personal"]) == (True, False)
    sample = local["data"]["local_clients"]
    assert len(sample) == 2
    assert ours["data"]["local_clients"] == sample
    assert {client for client, _ in scored(folders[method])} == set(sample)
    assert own_adapters(folders[method]).keys() == set(sample)
    assert len({client for client, _ in scored(folders["fedavg"])}) == 6


@pytest.mark.parametrize("method", EACH)
def test_the_baseline_still_compares(method, folders):
    entry, local = (results_of(folders[name])["metrics"]["heldout"] for name in (method, "local"))
    assert entry["local"] == local["after"]
    assert entry["difference_to_local"]["n"] == 2
    assert entry["difference_to_local"]["mean"] == pytest.approx(entry["after"]["mean"] - entry["local"]["mean"])


@pytest.mark.parametrize("method", EACH)
def test_unseen_users_are_scored_with_the_global_adapter(method, folders):
    before, after = (scored(folders[method], side, "unseen") for side in ("before", "after"))
    assert before.keys() == after.keys() == scored(folders["fedavg"], "after", "unseen").keys()
    assert len(after) > 0
    assert results_of(folders[method])["metrics"]["heldout_unseen"]["after"]["n"] > 0
    assert scored(folders["local"], "after", "unseen") == {}


def test_the_global_adapter_of_ditto_is_that_of_fedavg_and_so_are_its_bytes(folders):
    ours, theirs = (tensors(folders[name] / "adapter") for name in ("ditto", "fedavg"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    unseen = [scored(folders[name], "after", "unseen") for name in ("ditto", "fedavg")]
    assert unseen[0] == unseen[1]
    costs = [results_of(folders[name])["cost"] for name in ("ditto", "fedavg")]
    for key in ("bytes_up", "bytes_down"):
        assert costs[0][key] == costs[1][key]
    for own in own_adapters(folders["ditto"]).values():
        assert any(not torch.equal(own[name], ours[name]) for name in ours)


def test_clients_of_fedrep_differ_in_b_alone_and_b_is_in_no_byte(folders):
    shared, own = tensors(folders["fedrep"] / "adapter"), list(own_adapters(folders["fedrep"]).values())
    for name in shared:
        differs = not torch.equal(own[0][name], own[1][name])
        assert differs == (".lora_B." in name)
        assert torch.equal(own[0][name], shared[name]) == (".lora_A." in name)
    a = {name: tensor for name, tensor in shared.items() if ".lora_A." in name}
    for line in files.read_jsonl(folders["fedrep"] / "rounds.jsonl"):
        assert line["bytes_up"] == line["bytes_down"] == 3 * num_bytes({"delta": a})


def test_losses_of_fedem_are_of_the_mixture_and_the_results_say_so(folders, tiny_split):
    """Rows of unseen users have equal shares; their loss is made again here from the M adapters of the server."""
    folder = folders["fedem"]
    results = results_of(folder)
    assert results["run"]["mixture"] == 3
    assert "mixture" not in results_of(folders["ditto"])["run"]
    lines = legend(results, 500)
    assert MIXED in lines
    assert "unseen users have no shares of their own: they are scored with equal shares" in lines
    server = load_server(folder / "checkpoint")
    parts = parts_of(server.params)
    assert len(parts) == 3
    first = tensors(folder / "adapter")
    assert all(torch.equal(parts[0][name], first[name]) for name in first)
    for own in own_adapters(folder).values():
        assert any(all(torch.equal(part[name], own[name]) for name in own) for part in parts)
    costs = [results_of(folders[name])["cost"] for name in ("fedem", "fedavg")]
    for key in ("bytes_up", "bytes_down"):
        assert costs[0][key] == 3 * costs[1][key]
    assert unseen_of(folder, tiny_split, parts) == pytest.approx(scored(folder, "after", "unseen"), abs=1e-5)


def unseen_of(folder: Path, split: Split, parts: list[Tree]) -> dict[tuple[str, str], float]:
    bench = load_bench(Cell(RunFolder(folder).config, split, folder.parents[2], 1))
    items = [item for item in bench.items if item.part == "unseen"]
    alone = []
    for part in parts:
        with bench.model.using(part):
            alone.append(METRICS["heldout"].score(bench.model, items, bench.settings))
    found = {}
    for each in zip(*alone, strict=True):
        sums = [-score.value * score.weight for score in each]
        whole = float(np.logaddexp.reduce(sums)) - np.log(len(sums))
        found[each[0].cluster, each[0].item_id] = -whole / each[0].weight
    return found


@pytest.mark.parametrize(("method", "times"), [("ditto", 2), ("fedrep", 1), slow(("pfedme", 1))])
def test_a_round_has_the_steps_of_fedavg_or_for_two_models_twice_as_many(method, times, folders):
    ours, theirs = (files.read_jsonl(folders[name] / "rounds.jsonl")[0]["steps"] for name in (method, "fedavg"))
    assert ours == [times * count for count in theirs]


@pytest.mark.parametrize("method", EACH)
def test_a_global_adapter_is_asked_for_by_name(method, folders, tmp_path, capsys):
    argv = ["merge", str(folders[method]), "--out", str(tmp_path / "out")]
    assert_refused(argv, tmp_path, capsys, "choose one: --client ID (as ", "or that of unseen users: --client global")
    assert open_trained(folders[method], "global").adapter == folders[method] / "adapter"
    if method == "pfedme":  # a slow case
        assert cli.main([*argv, "--client", "global"]) == 0
        assert files.read_json(tmp_path / "out" / "merged_from.json")["client"] is None
    assert_refused(["merge", str(folders["local"]), "--client", "global"], tmp_path, capsys, "no client", "'global'")


@pytest.mark.parametrize("method", EACH)
def test_base_and_clients_answer_and_the_global_adapter_where_it_is_asked_for(method, folders):
    sample = sorted(own_adapters(folders[method]))
    names = [side.name for side in subject_of_run(folders[method], None).sides]
    assert names == ["base", *(f"client-{name}" for name in sample)]
    (side,) = subject_of_run(folders[method], ["global"]).sides
    assert side.adapter == folders[method] / "adapter"


def test_a_part_of_no_tensor_is_refused_before_anything_is_scored(tiny_split, less, tmp_path, capsys):
    for parts, expected in (("lora_b", "is in the name of no tensor"), ("lora_", "is in the name of every tensor")):
        argv = words("fedrep", tiny_split.folder, tmp_path, *less, "--set", f"method.local_parts={parts}")
        assert_refused(argv, tmp_path, capsys, "method.local_parts", parts, expected)


def test_views_over_rounds_and_more_steps_are_passed_over_in_words(tiny_split, less, tmp_path, caplog):
    more = ("--set", "evaluation.every=1", "--set", "evaluation.personal_steps=2", "--set", "federation.rounds=2")
    folder = run("fedrep", tiny_split.folder, tmp_path, *less, *more)
    for key in ("every=1", "personal_steps=2"):
        assert f"evaluation.{key} is passed over: under fedrep each client has an adapter of its own" in caplog.text
    results = results_of(folder)
    assert results["over_rounds"] is results["personalisation"] is None


@pytest.mark.parametrize("method", sweep(PERSONAL, "ditto"))
def test_a_client_that_was_never_chosen_is_scored_with_the_global_adapter(method, tiny_split, less, tmp_path, capsys):
    more = ("--set", "federation.rounds=1", "--set", "evaluation.local_clients=0", *MOVING.get(method, ()))
    folder = run(method, tiny_split.folder, tmp_path, *less, *more)
    shared = "equal shares" if method == "fedem" else "the global adapter"
    assert f"they answer with {shared} and count in the mean" in " ".join(capsys.readouterr().out.split())
    results = results_of(folder)
    never = set(results["data"]["never_visited"])
    assert len(never) == 3
    assert own_adapters(folder).keys().isdisjoint(never)
    if method == "ditto":
        run("fedavg", tiny_split.folder, tmp_path, *less, *more)
        theirs = scored(folder_of("fedavg", tmp_path))
        for (client, item), value in scored(folder).items():
            assert (abs(value - theirs[client, item]) < 1e-5) == (client in never)


@pytest.mark.parametrize("method", [slow(name) for name in PERSONAL])
def test_a_second_run_leaves_the_same(method, folders, tiny_split, less, tmp_path):
    again = run(method, tiny_split.folder, tmp_path, *less, *MOVING.get(method, ()))
    assert outcome(again) == outcome(folders[method])
