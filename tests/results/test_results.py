"""results.json: entries, views and the check of its structure."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import asdict, fields, is_dataclass

import numpy as np
import pytest
from checkout import ROOT

from fedllm_bench.common.errors import UserError
from fedllm_bench.results import cost_entries, entries, schema
from fedllm_bench.results.run_results import (
    ScoreSet,
    client_rows,
    metric_entry,
    metrics_of,
    results_payload,
    write_results,
)
from fedllm_bench.results.schema import check_results, read_results, results_of
from fedllm_bench.scores.score import MetricInfo, Score

SAMPLED = {f"{how}_{part}_{what}": 78 for how in ("num", "of") for part in ("heldout", "unseen")
           for what in ("rows", "clients")}  # fmt: skip
CUTS = {"num_rows": 9, "num_cut": 2, "num_skipped": 1, "num_counted_tokens": 90, "num_lost_tokens": 10}
LOSS = MetricInfo(
    name="heldout", version="1", unit="nats per token", higher_is_better=False, description="held-out loss"
)
EXACT = MetricInfo(name="mini_exact", version="1", unit="share", higher_is_better=True, description="exact match")
CLIENTS = [f"c{i:02d}" for i in range(24)]
SAMPLE = CLIENTS[:12]


def losses(clients, mean, part="heldout") -> list[Score]:
    rng = np.random.default_rng(0)
    return [
        Score(f"r{j}", float(mean + 0.1 * rng.normal()), cluster=c, group={"part": part}, weight=1.0 + 9 * j)
        for c in clients
        for j in range(3)
    ]


def answers(clients, right) -> list[Score]:
    kinds = [("facts", "self"), ("facts", "others"), ("arithmetic", "")]
    return [
        Score(
            f"{task}{holder}",
            float(i < right),
            cluster=c,
            group={"task": task, "part": "heldout", "holder": holder},
        )
        for i, c in enumerate(clients)
        for task, holder in kinds
    ]


def score_sets() -> dict[str, ScoreSet]:
    unseen = ["u0", "u1"]
    return {
        "heldout": ScoreSet(
            before=losses(CLIENTS, 1.1) + losses(unseen, 9.0, "unseen"),
            after=losses(CLIENTS, 0.6) + losses(unseen, 8.0, "unseen"),
            local=losses(SAMPLE, 1.4),
        ),
        "mini_exact": ScoreSet(before=answers(CLIENTS, 2), after=answers(CLIENTS, 20), local=answers(SAMPLE, 3)),
    }


@pytest.fixture(scope="module")
def metrics() -> dict:
    return metrics_of(score_sets(), {"heldout": LOSS, "mini_exact": EXACT})


@pytest.fixture
def payload(metrics) -> dict:
    return copy.deepcopy(
        results_payload(
            run={
                "dataset": "mini-aya", "method": "fedprox", "profile": "mini", "track": "mini", "seed": 0,
                "model": "mini", "config_hash": "abc", "commit": None, "personal": False, "mixture": 1,
                "base": "embedded model", "base_hash": "0" * 64,
            },
            data={
                "num_clients": 24, "num_unseen_clients": 2, "num_train_rows": 100, "num_heldout_rows": 78,
                "local_clients": SAMPLE, "never_visited": [CLIENTS[-1]],
                "sequence_length": 256, "cut": {part: dict(CUTS) for part in ("train", "heldout", "unseen")},
                "sample": dict(SAMPLED),
            },
            cost={
                "bytes_up": 5, "bytes_down": 5, "seconds": {"train": 1.5}, "peak_memory_bytes": 9,
                "peak_gpu_bytes": None, "num_answers": 8, "num_dropouts": 0,
                "failures": [{"round": 2, "client": CLIENTS[0], "reason": "loss nan"}],
                "train_flops": 10**15, "evaluation_flops": 10**12, "flops_method": "formula",
                "cpu_seconds": 2.5, "energy_joules": 25.0, "energy_method": "estimate",
            },
            metrics=metrics,
            clients={name: client_rows(scores) for name, scores in score_sets().items()},
        )
    )  # fmt: skip


def test_every_view_is_there(metrics):
    assert list(metrics) == [
        "heldout", "heldout_tokens", "heldout_worst_tenth", "heldout_unseen", "perplexity",
        "perplexity_unseen", "mini_exact", "mini_exact_arithmetic", "mini_exact_facts",
        "mini_exact_facts_others", "mini_exact_facts_self",
    ]  # fmt: skip


def test_unseen_users_are_in_no_main_entry(metrics):
    for name in ("heldout", "heldout_tokens", "heldout_worst_tenth"):
        assert metrics[name]["before"]["mean"] < 2
        assert metrics[name]["before"]["n"] == 24
    assert metrics["heldout_unseen"]["before"]["mean"] == pytest.approx(9, abs=0.3)
    assert metrics["heldout_unseen"]["local"] is None
    assert metrics["perplexity"]["before"]["mean"] < 4 < metrics["perplexity_unseen"]["before"]["mean"]


def test_local_is_compared_over_its_own_clients(metrics):
    entry = metrics["mini_exact"]
    assert (entry["before"]["n"], entry["after"]["n"], entry["local"]["n"]) == (24, 24, 12)
    assert entry["after"]["mean"] == pytest.approx(20 / 24)
    assert entry["local"]["mean"] == pytest.approx(3 / 12)
    assert entry["difference"]["mean"] == pytest.approx(18 / 24)
    assert entry["difference_to_local"]["mean"] == pytest.approx(9 / 12)  # not 20/24 - 3/12
    assert entry["difference_to_local"]["n"] == 12


def test_significance_is_whether_the_interval_excludes_zero(metrics):
    for entry in metrics.values():
        for key in ("difference", "difference_to_local"):
            if entry[key] is not None:
                low, high = entry[key]["ci_low"], entry[key]["ci_high"]
                expected = None if low is None else bool(low > 0 or high < 0)
                assert entry[key]["significant"] is expected
    assert metrics["mini_exact"]["difference"]["significant"] is True
    assert metrics["heldout"]["difference"]["significant"] is None  # all clients gain 0.5: no spread, no interval
    assert metrics["heldout_worst_tenth"]["difference_to_local"]["significant"] is None  # 12 clients: no interval


def test_an_unscored_answer_is_counted_and_in_no_mean():
    after = [
        Score("a", 1.0, cluster="x"),
        Score("b", None, "no answer", cluster="x"),
        Score("a", 0.0, cluster="y"),
    ]
    before = [Score("a", 0.0, cluster="x"), Score("b", 0.0, cluster="x"), Score("a", 0.0, cluster="y")]
    entry = metric_entry(EXACT, ScoreSet(before=before, after=after))
    assert (entry["after"]["mean"], entry["after"]["n_scored"], entry["after"]["n_unscored"]) == (0.5, 2, 1)
    assert (entry["difference"]["n_scored"], entry["difference"]["n_unscored"]) == (2, 1)
    assert entry["local"] is entry["difference_to_local"] is None


def test_order_of_scores_and_metrics_does_not_change_a_number(metrics):
    turned = {
        name: ScoreSet(before=s.before[::-1], after=s.after[::-1], local=s.local[::-1])
        for name, s in reversed(score_sets().items())
    }
    assert metrics_of(turned, {"heldout": LOSS, "mini_exact": EXACT}) == metrics


def test_two_entries_of_one_name_are_refused():
    bad = [Score("a", 1.0, cluster="x", group={"task": "facts_self"})]
    bad += [Score("b", 1.0, cluster="x", group={"task": "facts", "holder": "self"})]
    with pytest.raises(ValueError, match="mini_exact_facts_self"):
        metrics_of({"mini_exact": ScoreSet(before=bad, after=bad)}, {"mini_exact": EXACT})


def test_client_rows_are_the_seen_clients():
    rows = client_rows(score_sets()["heldout"])
    assert [row.client for row in rows] == CLIENTS
    assert sum(row.local is not None for row in rows) == 12
    assert {row.n_rows for row in rows} == {3}
    assert rows[0].after < rows[0].before


def test_every_client_has_a_row_under_each_metric_and_none_under_a_view(payload):
    assert list(payload["clients"]) == ["heldout", "mini_exact"]
    for name, rows in payload["clients"].items():
        assert [row["client"] for row in rows] == CLIENTS
        assert [row["client"] for row in rows if row["local"] is not None] == SAMPLE
        mean = np.mean([row["after"] for row in rows])
        assert mean == pytest.approx(payload["metrics"][name]["after"]["mean"])


def test_results_are_written_and_read_back(payload, tmp_path):
    write_results(tmp_path / "results.json", payload)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == payload


def test_the_type_holds_all_that_the_file_says(payload, tmp_path):
    write_results(tmp_path / "results.json", payload)
    found = read_results(tmp_path / "results.json")
    assert json.dumps(asdict(found), sort_keys=True) == json.dumps(payload, sort_keys=True)
    assert found.metrics["mini_exact"].difference.significant is True
    assert found.clients["heldout"][0] == client_rows(score_sets()["heldout"])[0]
    assert found.data.cut.train.num_cut == 2


LATER = {"no_interval", "sd", "detectable"}


def of_version_4(value):
    if isinstance(value, list):
        return [of_version_4(each) for each in value]
    if not isinstance(value, dict):
        return value
    gone = LATER if "unit_of_resampling" in value else ()
    return {key: of_version_4(each) for key, each in value.items() if key not in gone}


def test_a_file_from_before_there_were_samples_is_of_all_rows(payload):
    old = copy.deepcopy(payload)
    del old["data"]["sample"]
    assert results_of(old).data.sample is None
    assert results_of(payload).data.sample.num_heldout_rows == 78


def test_a_file_of_version_4_is_read_and_its_later_keys_say_that_nothing_is_known(payload):
    payload["personalisation"] = personalisation(payload)
    old = of_version_4(payload) | {"schema_version": 4}
    before = copy.deepcopy(old)
    found = results_of(old)
    assert old == before
    assert found.schema_version == 4
    entry = found.personalisation.heldout
    for one in (found.metrics["heldout"], entry):
        assert (one.after.no_interval, one.after.sd, one.difference.detectable) == ("", None, None)
        assert one.after.mean == payload["metrics"]["heldout"]["after"]["mean"]


@pytest.mark.parametrize(
    "path", ["metrics.heldout.after.sd", "metrics.heldout.difference.detectable", "personalisation.heldout.after.sd"]
)
def test_a_key_that_version_4_did_not_have_is_refused_in_it_and_needed_in_version_5(payload, path):
    payload["personalisation"] = personalisation(payload)
    *parents, last = path.split(".")
    for version, words in ((4, "is unknown; version 4 does not have it"), (5, "is missing")):
        broken = copy.deepcopy(payload) if version == 5 else of_version_4(payload)
        broken["schema_version"] = version
        parent = broken
        for key in parents:
            parent = parent[key]
        if version == 5:
            del parent[last]
        else:
            parent[last] = None
        with pytest.raises(ValueError, match=re.escape(f"{path} {words}")):
            check_results(broken)


def personalisation(payload) -> dict:
    about = {"metric": "heldout", "steps": 3, "optimizer": "sgd", "lr": 0.1}
    return {**about, "heldout": copy.deepcopy(payload["metrics"]["heldout"]), "clients": []}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Expecting property name"),
        ("[1]", "the payload is"),
        ('{"schema_version": 3}', "the key clients is missing"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_is_no_results_is_refused_in_one_line(content, words, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(words)) as found:
        read_results(tmp_path / "results.json")
    assert str(tmp_path / "results.json") in str(found.value)
    assert "\n" not in str(found.value)


def paths_of(value, prefix=()):
    """The path of every key that has a fixed name."""
    free = prefix in {("metrics",), ("clients",), ("cost", "seconds")}
    for key, inner in value.items() if isinstance(value, dict) else ():
        if not free:
            yield (*prefix, key)
        yield from paths_of(inner, (*prefix, key))


# Keys that files of before do not have.
OF_COST = ("train_flops", "evaluation_flops", "flops_method", "cpu_seconds", "energy_joules", "energy_method")
NOT_BEFORE = {
    *(("run", key) for key in ("base", "base_hash", "mixture")),
    *((key,) for key in ("aggregation", "attack", "clock", "early_stop", "offsite")),
    *(("cost", key) for key in OF_COST),
}


def test_a_file_without_the_later_keys_is_read(payload):
    for *parents, key in NOT_BEFORE:
        parent = payload
        for name in parents:
            parent = parent[name]
        del parent[key]
    found = results_of(payload)
    run = found.run
    assert (run.base, run.base_hash, run.mixture, found.aggregation, found.attack) == ("", "", 1, None, None)
    assert (found.early_stop, found.cost.train_flops, found.cost.energy_method) == (None, None, "")


def test_every_missing_key_is_refused_by_its_name(payload):
    paths = [path for path in paths_of(payload) if path not in NOT_BEFORE]
    assert len(paths) > 300
    paths.remove(("data", "sample"))  # what older files lack
    for path in paths:
        broken = copy.deepcopy(payload)
        parent = broken
        for key in path[:-1]:
            parent = parent[key]
        del parent[path[-1]]
        with pytest.raises(ValueError, match=re.escape(f"{'.'.join(path)} is missing")):
            check_results(broken)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metrics.heldout.extra", 1, "metrics.heldout.extra is unknown"),
        ("extra", 1, "the key extra is unknown"),
        ("data.cut.train.extra", 1, r"extra is unknown; known here: \['num_counted_tokens', 'num_cut'"),
        ("cost.failures", [{"round": 2, "client": "a", "reason": "b", "x": 1}], r"failures\[0\].x is unknown; known"),
        ("cost.failures", {}, "cost.failures is {}; it must be of type list"),
        ("cost.peak_gpu_bytes", 1.5, "cost.peak_gpu_bytes is 1.5; it must be of type int"),
        ("metrics", [], r"metrics is \[\]; it must be of type dict"),
        ("run.personal", 1, "run.personal is 1; it must be of type bool"),
        ("intervals.level", True, "intervals.level is True; it must be of type float"),
        ("schema_version", 1, "schema_version is 1"),
        ("schema_version", True, r"schema_version is True; it must be one of \[4, 5\]"),
        ("metrics.heldout.after.n", 1.5, "metrics.heldout.after.n is 1.5; it must be of type int"),
        ("metrics.heldout.after.n", True, "metrics.heldout.after.n is True"),
        ("metrics.heldout.after.mean", float("nan"), "metrics.heldout.after.mean is nan; .* finite"),
        ("metrics.heldout.after.mean", "0.5", "metrics.heldout.after.mean is '0.5'"),
        ("metrics.heldout.after.interval", "guess", r"is 'guess'; it must be one of \['t_skew', "),
        ("metrics.heldout.local.interval", 1, r"local.interval is 1; it must be one of \['t_skew', "),
        ("metrics.heldout.after", None, "metrics.heldout.after is None"),
        ("cost.seconds.train", "1", "cost.seconds.train is '1'"),
        ("data.local_clients", ["a", 3], r"data.local_clients\[1\] is 3"),
        ("cost.failures", [{"round": 2, "client": "a"}], r"cost.failures\[0\].reason is missing"),
        ("clients.heldout", [{"client": "a"}], r"clients.heldout\[0\].after is missing"),
        ("metrics.heldout.distribution.share_better", True, "share_better is True"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_their_name(payload, tmp_path, path, value, message):
    *parents, last = path.split(".")
    parent = payload
    for key in parents:
        parent = parent[key]
    parent[last] = value
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path / "results.json", payload)
    assert not list(tmp_path.iterdir())


def test_every_key_is_documented():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    modules = {module.__name__: module for module in (schema, entries, cost_entries)}
    found = [part for module in modules.values() for part in vars(module).values() if is_dataclass(part)]
    parts = {part.__name__: part for part in found if part.__module__ in modules}.values()
    keys = {field.name for part in parts for field in fields(part)}
    assert len(parts) == 31
    assert len(keys) > 70
    assert {key for key in keys if f"`{key}`" not in text} == set()
