"""`fedllm-bench insight`: from run folders to what predicts the clients' gains."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from checkout import ROOT
from scipy import stats
from scored_folders import a_run
from sweeps import sweep

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.diversity.insight import predictors
from fedllm_bench.diversity.insight.association import Resamples
from fedllm_bench.diversity.insight.gains import OUTCOMES, RunGains
from fedllm_bench.diversity.insight.insight import insight
from fedllm_bench.diversity.insight.predictors import NAMES, Client, clients_of
from fedllm_bench.diversity.rows import read_rows
from fedllm_bench.mini.dataset import build_mini_aya
from fedllm_bench.mini.users import Population
from fedllm_bench.report.insight.figures import insight_figures
from fedllm_bench.report.insight.text import insight_text, said
from fedllm_bench.scores.score import Score

METHODS = {"fedavg": (0, 1), "fedprox": (0,), "local": (0, 1)}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """24 clients; a bootstrap over fewer than 20 is not made."""
    return build_mini_aya(Population(seed=3, num_users=24, num_below_cut=4, num_names=8), tmp_path_factory.mktemp("s"))


@pytest.fixture(scope="module")
def gains(split):
    """Client -> (distance, gain over training alone, gain over the base): distance alone makes the first."""
    rng, ids = np.random.default_rng(0), [client.id for client in split.manifest.clients]
    distances = rng.gamma(2, 0.05, len(ids))
    return {
        client: (float(d), float(3 * d + 0.05 * rng.normal() - 0.1), float(0.4 + 0.3 * rng.normal()))
        for client, d in zip(ids, distances, strict=True)
    }


@pytest.fixture(scope="module")
def runs(split, gains, tiny_run_config, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / split.name
    for method, seeds in METHODS.items():
        for seed in seeds:
            config = tiny_run_config(method, seed=seed, split=str(split.folder))
            write_run(root / method / f"s{seed}-0123456789", config, split.hash, sides_of(gains, method, seed))
    return root


def sides_of(gains, method, seed):
    """Losses of two items of each client, before and after; all runs of a seed share the base's."""
    rng = np.random.default_rng([7, seed])
    base = {client: 3 + rng.normal(size=2) for client in gains}
    after = {client: base[client] - found[2] for client, found in gains.items()}
    if method == "local":
        after = {client: values + gains[client][1] for client, values in after.items()}
    return base, after


def write_run(folder, config, split_hash, sides):
    (folder / "scores").mkdir(parents=True)
    files.write_json(folder / "config.json", config.to_dict())
    files.write_json(folder / "environment.json", {"data": {"split_hash": split_hash, "base_hash": "b" * 64}})
    entry = {"version": "1", "unit": "nats per token", "higher_is_better": False}
    files.write_json(folder / "results.json", {"metrics": {"heldout": entry}})
    for name, side in zip(("before", "after"), sides, strict=True):
        scores = [
            Score(f"i{i}", float(v), cluster=client) for client, values in side.items() for i, v in enumerate(values)
        ]
        unseen = Score("i0", 99.0, cluster="nobody", group={"part": "unseen"})
        files.write_jsonl(folder / "scores" / f"heldout.{name}.jsonl", [s.to_dict() for s in (*scores, unseen)])


@pytest.fixture
def report(tmp_path, split, gains):
    """A diversity.json with the distances."""
    clients = [{"id": client, "distance_to_rest": found[0]} for client, found in gains.items()]
    files.write_json(tmp_path / "diversity.json", {"split": {"hash": split.hash}, "clients": clients})
    return tmp_path


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing is most of the time that the command takes."""
    monkeypatch.setattr("fedllm_bench.report.insight.figures.insight_figures", lambda *_: [])


def told(*words):
    return cli.main(["insight", *map(str, words), "--permutations", "999"])


@pytest.mark.slow
def test_seeds_and_methods_together_find_what_was_planted(runs, report, gains, monkeypatch, tmp_path, capsys):
    given = [runs / "fedavg" / "s0-0123456789", runs / "fedavg" / "s1-0123456789", runs / "fedprox" / "s0-0123456789"]
    assert told(*given, "--diversity", report, "--out", tmp_path / "out") == 0
    found = files.read_json(tmp_path / "out" / "insight.json")
    assert [run["baseline"] for run in found["runs"]] == [
        str(runs.resolve() / "local" / f"s{seed}-0123456789") for seed in (0, 1, 0)
    ]
    assert {outcome: list(of) for outcome, of in found["outcomes"].items()} == {
        outcome: ["fedavg", "fedprox", "all"] for outcome in ("local", "base")
    }
    for method, count in (("fedavg", 2), ("fedprox", 1), ("all", 3)):
        result = found["outcomes"]["local"][method]
        assert (result["runs"], result["clients"], result["left_out"]) == (count, 24, 0)
        right = stats.spearmanr([g[0] for g in gains.values()], [g[1] for g in gains.values()]).statistic
        assert result["correlations"]["distance"]["rho"] == pytest.approx(right)
        assert result["correlations"]["distance"]["p_holm"] == 0.003
        assert result["mean_gain"] == pytest.approx(np.mean([g[1] for g in gains.values()]))
        assert result["regression"]["coefficients"]["distance"]["low"] > 0.5
    for entry in found["clients"]:
        _, alone, base = gains[entry["id"]]
        assert entry["gains"]["local"] == pytest.approx(dict.fromkeys(("fedavg", "fedprox", "all"), alone))
        assert entry["gains"]["base"] == pytest.approx(dict.fromkeys(("fedavg", "fedprox", "all"), base))
    names = {f"insight_{method}.{suffix}" for method in ("fedavg", "fedprox", "all") for suffix in ("png", "svg")}
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == names
    text = (tmp_path / "out" / "insight.md").read_text()
    assert "distance: clients that gained more are farther from the crowd" in text
    assert "not what makes it" in text
    assert "clients that gained more are farther from the crowd" in capsys.readouterr().out
    again = tmp_path / "again"
    monkeypatch.setattr("fedllm_bench.report.insight.figures.insight_figures", lambda *_: [])
    assert told(*given, "--diversity", report, "--out", again) == 0
    assert (again / "insight.json").read_bytes() == (tmp_path / "out" / "insight.json").read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_without_a_run_of_clients_alone_the_gain_over_the_base_is_left(runs, report, tmp_path, capsys):
    alone = tmp_path / "elsewhere" / "fedavg" / "s1-0123456789"
    shutil.copytree(runs / "fedavg" / "s1-0123456789", alone)
    assert told(alone, "--diversity", report) == 0
    found = files.read_json(alone / "insight" / "insight.json")
    assert "fedllm-bench bench DATASET local" in found["outcomes"]["local"]["skipped"]
    assert found["runs"][0]["baseline"] is None
    assert found["outcomes"]["base"]["fedavg"]["clients"] == 24
    assert "skipped" in capsys.readouterr().out
    local = tmp_path / "mine"  # of another seed: no baseline; then of the right one, named
    shutil.copytree(runs / "local" / "s0-0123456789", local)
    assert told(alone, local, "--diversity", report) == 0
    assert "skipped" in files.read_json(alone / "insight" / "insight.json")["outcomes"]["local"]
    assert told(alone, runs / "local" / "s1-0123456789", "--diversity", report) == 0
    assert files.read_json(alone / "insight" / "insight.json")["outcomes"]["local"]["fedavg"]["clients"] == 24


@pytest.mark.usefixtures("no_figures")
def test_clients_without_a_distance_or_a_gain_are_counted_and_left_out(runs, report, tmp_path):
    changed = files.read_json(report / "diversity.json")
    for entry in changed["clients"][:3]:
        entry["distance_to_rest"] = None
    files.write_json(report / "diversity.json", changed)
    few = tmp_path / "few" / "fedavg" / "s0-0123456789"
    shutil.copytree(runs / "fedavg" / "s0-0123456789", few)
    path = few / "scores" / "heldout.after.jsonl"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "user-010" not in line) + "\n")
    assert told(few, "--diversity", report) == 0
    result = files.read_json(few / "insight" / "insight.json")["outcomes"]["base"]["fedavg"]
    assert (result["clients"], result["left_out"]) == (23, 1)
    assert [one["n"] for one in result["correlations"].values()] == [20, 23, 23]
    assert result["regression"]["n"] == 20


@pytest.mark.usefixtures("no_figures")
def test_distances_are_measured_where_no_report_has_them(runs, monkeypatch, split, gains, tmp_path):
    asked = []
    answer = ("stub", {client: found[0] for client, found in gains.items()})
    monkeypatch.setattr(
        predictors, "distances", lambda rows, embedder, device: asked.append((len(rows), embedder)) or answer
    )
    assert told(runs / "fedavg" / "s0-0123456789", "--out", tmp_path) == 0
    assert asked == [(len(read_rows(split)), "lsa")]  # profile mini embeds offline
    assert files.read_json(tmp_path / "insight.json")["settings"]["embedder"] == "stub"


def test_predictors_by_hand(split):
    rows = read_rows(split)
    found = {client.id: client for client in clients_of(split, rows, {})}
    some = split.manifest.clients[0]
    own = [row.language for row in rows if row.client == some.id]
    others = [row.language for row in rows if row.client != some.id]
    logs = [np.log2(1 + others.count(language)) for language in own]
    assert found[some.id].train_rows == some.train
    assert np.log2(found[some.id].language_rows) == pytest.approx(np.mean(logs))
    assert found[some.id].main_language == max(sorted(set(own)), key=own.count)
    client = Client(id="c", train_rows=8, main_language="eng", language_rows=4.0, distance=None)
    assert [client.predictor(name) for name in ("distance", "size", "language")] == [None, 3, 2]


BAD = {
    "no run": (["/nowhere"], "there is no config.json"),
    "only clients alone": (["LOCAL"], "only runs of local"),
    "no such metric": (["RUN", "--metric", "heldot"], "did you mean 'heldout'"),
    "a config that is cut": (["CUT"], "config.json: not readable as JSON"),
    "an environment that is a list": (["LISTED"], "environment.json: a JSON list, not an object"),
    "two splits": (["RUN", "OTHER"], "are not of one split"),
    "no report": (["RUN", "--diversity", "/nowhere"], "is no diversity.json"),
    "report of another split": (["RUN", "--diversity", "FOREIGN"], "is of another split"),
    "report with a text for a number": (["RUN", "--diversity", "WRONG"], "is no diversity.json"),
    "too few permutations": (["RUN", "--permutations", "3"], "not a number from 99"),
    "a seed below 0": (["RUN", "--seed", "-1"], "is below 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, runs, report, tmp_path, capsys):
    words, text = BAD[name]
    other = tmp_path / "other"
    shutil.copytree(runs / "fedavg" / "s0-0123456789", other)
    files.write_json(other / "environment.json", {"data": {"split_hash": "f" * 64, "base_hash": "b" * 64}})
    cut, listed = (shutil.copytree(other, tmp_path / name) for name in ("cut", "listed"))
    (cut / "config.json").write_text("{")
    (listed / "environment.json").write_text("[]")
    content = files.read_json(report / "diversity.json")
    wrong, foreign = tmp_path / "wrong.json", tmp_path / "foreign.json"
    files.write_json(wrong, {**content, "clients": [{"id": "a", "distance_to_rest": "1e9"}]})
    files.write_json(foreign, {**content, "split": {"hash": "0" * 64}})
    places = {"RUN": runs / "fedavg" / "s0-0123456789", "LOCAL": runs / "local" / "s0-0123456789"}
    places |= {"CUT": cut, "LISTED": listed, "OTHER": other, "FOREIGN": foreign, "WRONG": wrong}
    try:
        code = cli.main(["insight", *(str(places.get(word, word)) for word in words)])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err
    assert code == 2
    assert text in said
    assert said.count("\n") == 1
    assert not json.dumps(said).count("Traceback")


@pytest.mark.usefixtures("no_figures")
def test_the_page_of_the_docs_names_every_key(runs, report):
    run = runs / "fedavg" / "s0-0123456789"
    assert told(run, "--diversity", report) == 0
    found = files.read_json(run / "insight" / "insight.json")
    result = found["outcomes"]["local"]["fedavg"]
    parts = [found, found["split"], found["metric"], found["settings"], found["runs"][0], found["clients"][0], result]
    parts += [result["correlations"]["size"], result["regression"], result["regression"]["coefficients"]["size"]]
    names = {key for part in [*parts, *result["languages"]] for key in part} | NAMES.keys() | OUTCOMES.keys()
    text = (ROOT / "docs" / "insight.md").read_text(encoding="utf-8")
    assert len(names) > 50
    assert {name for name in names if f"`{name}`" not in text} == set()
    shutil.rmtree(run / "insight")


def test_the_regression_is_told_with_both_shares_of_the_variance_and_what_counts_by_itself():
    coefficients = {"distance": {"p_value": 0.01}, "size": {"p_value": 0.04}, "language": {"p_value": 0.5}}
    model = {"coefficients": coefficients, "r2": 0.424, "r2_adjusted": 0.376}
    assert said({"correlations": {}, "regression": model}) == [
        "Together they go with 42% of the variance of the clients' gains (adjusted 38%); "
        "by itself, of the three: distance, size."
    ]


@pytest.mark.parametrize("count", sweep([4, 30, 747], 30))
@pytest.mark.filterwarnings("error")
def test_few_clients_many_and_those_of_one_language_without_distances_have_their_figure(count, tmp_path):
    rng = np.random.default_rng(0)
    many = count == 747
    clients = []
    for i in range(count):
        known = {"language_rows": 7.0, "main_language": "eng"}
        if many:
            known = {"language_rows": float(2 ** (i % 12)), "main_language": f"l{i % 11}"}
        clients.append(Client(id=f"user {i} $", train_rows=i + 1, distance=float(i) if many else None, **known))
    gain = {client.id: float(rng.normal()) for client in clients}
    measured = a_run([Score("i", 1.0, cluster=client.id) for client in clients]).measured["m"]
    trained = SimpleNamespace(path=tmp_path, method="fedavg", config=SimpleNamespace(seed=0))
    run = RunGains(run=trained, metric="m", measured=measured, baseline=None, gains={"base": gain})
    split = SimpleNamespace(name="s", hash="h", task="sft", manifest=SimpleNamespace(clients=[]))
    found = insight(split, [run], clients, "lsa", Resamples(permutations=99, samples=99))
    assert {path.name for path in insight_figures(found, tmp_path)} == {"insight_fedavg.png", "insight_fedavg.svg"}
    text = insight_text(found)
    assert ("distance: skipped, for known of 0 clients" in text) == (not many)
    assert ("Regression: skipped" in text) == (count == 4)
