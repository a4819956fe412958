"""`fedllm-bench answer` from its command line: runs, adapters, models, an endpoint, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench_runs import code_of, quick, run
from endpoint_models import Model, serving

from fedllm_bench import cli
from fedllm_bench.common import files, hardware
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.answering import subjects
from fedllm_bench.evaluation.answering.subjects import plain_lora
from fedllm_bench.evaluation.records import Answer, Prompt, answers_file, prompts_file, read_records
from fedllm_bench.runs.cell import split_of_run
from fedllm_bench.training.model import lora_model as training_model

MORE = ("--metrics", "heldout", "--set", "lora.rank=4", "--set", "lora.alpha=8", "--set", "evaluation.local_clients=6")
FEW = ("--limit", "4", "--max-new-tokens", "5")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "num_threads", lambda: 1)
        yield


@pytest.fixture(scope="module")
def runs(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, _quick: None) -> Path:
    """FedAvg, and with it the baseline `local`, both on the tiny model."""
    out = tmp_path_factory.mktemp("runs")
    settings = ("--set", "federation.clients_per_round=6", "--set", "local.lr=0.05", "--set", "local.lr_end=0.04")
    run("fedavg", tiny_split.folder, out, "--model", str(tiny_folder), *MORE, *settings)
    return out


@pytest.fixture
def shared(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(next((runs / "mini-aya" / "fedavg").iterdir()), tmp_path / "fedavg"))


@pytest.fixture
def alone(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(next((runs / "mini-aya" / "local").iterdir()), tmp_path / "local"))


def texts(folder: Path, benchmark: str, side: str) -> list[tuple[str, ...]]:
    answers = read_records(answers_file(folder, benchmark, side), Answer)
    prompts = read_records(prompts_file(folder, benchmark), Prompt)
    assert [(a.item_id, a.prompt_hash) for a in answers] == [(p.item_id, p.hash) for p in prompts]
    return [a.turns for a in answers]


def test_a_run_answers_with_base_and_global_adapter_from_one_base(shared: Path, monkeypatch, capsys):
    loads = []
    real = training_model.load_model
    monkeypatch.setattr(subjects, "load_model", lambda *args, **more: loads.append(1) or real(*args, **more))
    words = ["answer", str(shared), "--metrics", "mini,heldout_ref,harmless", *FEW]
    assert cli.main(words) == 0
    assert len(loads) == 1
    shown = capsys.readouterr().out
    for benchmark in ("mini", "heldout_ref", "harmless"):
        assert len(texts(shared, benchmark, "base")) == 4
        assert f"{benchmark:<13} global" in shown
    assert texts(shared, "harmless", "base") != texts(shared, "harmless", "global")
    plan = files.read_json(shared / "answers/mini/plan.json")
    assert plan["overrides"] == {"temperature": None, "max_new_tokens": 5, "limit": 4}
    assert plan["template"]["name"] == "mini"
    assert cli.main(words) == 0
    assert len(loads) == 1  # nothing is loaded where all is there
    assert capsys.readouterr().out.count("(there before)") == 6


def test_under_local_five_named_clients_answer_with_their_own_adapters(alone: Path, capsys):
    words = ["answer", str(alone), "--metrics", "harmless", *FEW, "--temperature", "0"]
    assert cli.main(words) == 0
    found = sorted(path.stem for path in (alone / "answers/harmless").glob("*.jsonl"))
    named = [name for name in found if name.startswith("client-")]
    assert len(named) == 5
    assert found == ["base", *named, "prompts"]
    assert len({tuple(texts(alone, "harmless", name)) for name in named}) > 1
    sizes = {client.id: client.train for client in split_of_run(subjects.open_run(alone)).manifest.clients}
    ordered = sorted(sizes, key=lambda client: sizes[client])
    assert {f"client-{ordered[0]}", f"client-{ordered[-1]}"} <= set(named)
    assert (
        cli.main(["answer", str(alone), "--metrics", "harmless", *FEW, "--temperature", "0", "--sides", named[0]]) == 0
    )


def test_an_adapter_answers_as_in_its_run_and_through_peft_too(shared: Path, tiny_folder: Path, tmp_path: Path):
    """float32 sums in another order: a merged adapter may differ in a rare tie, and here it does not."""
    common = ("--metrics", "harmless", *FEW, "--temperature", "0")
    assert cli.main(["answer", str(shared), *common]) == 0
    source = ["--adapter", str(shared / "adapter"), "--model", str(tiny_folder), "--template", "mini"]
    assert cli.main(["answer", *source, *common, "--out", str(tmp_path / "a")]) == 0
    assert texts(tmp_path / "a", "harmless", "global") == texts(shared, "harmless", "global")
    settings = json.loads((shared / "adapter/adapter_config.json").read_text())
    assert plain_lora(settings) is not None
    settings.update(rank_pattern={"k_proj": 4})  # nothing changes by it, but it is not plain any more
    assert plain_lora(settings) is None
    (shared / "adapter/adapter_config.json").write_text(json.dumps(settings))
    assert cli.main(["answer", *source, *common, "--out", str(tmp_path / "b")]) == 0
    for side in ("base", "global"):
        assert texts(tmp_path / "b", "harmless", side) == texts(tmp_path / "a", "harmless", side)


@pytest.mark.parametrize("more", [{"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"target_modules": "q.*"}])
def test_adapters_with_more_than_a_and_b_are_left_to_peft(more):
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    assert plain_lora(plain) is not None
    assert plain_lora({**plain, **more}) is None


def test_any_model_answers_in_its_own_template(tiny_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    out = tmp_path / "out"
    words = ["answer", "--model", str(folder), "--metrics", "harmless", *FEW, "--out", str(out)]
    assert cli.main(words) == 0
    assert [path.stem for path in (out / "answers/harmless").glob("*.jsonl") if path.stem != "prompts"] == ["base"]
    assert files.read_json(out / "answers/harmless/plan.json")["template"]["name"] == "model"


def test_an_endpoint_answers(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "secret-key")
    with serving(Model()) as model:
        words = ["answer", "--endpoint", model.address, "--model", "m", "--api-key-env", "MY_KEY"]
        assert cli.main([*words, "--metrics", "harmless", "--limit", "3", "--out", str(tmp_path)]) == 0
    assert len(texts(tmp_path, "harmless", "base")) == 3
    assert model.keys == {"Bearer secret-key"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret-key" in path.read_bytes()]


def ask_endpoint(model: Model, out: Path, *words: str) -> int:
    source = ["--endpoint", model.address, "--model", "m", "--concurrency", "1"]
    return cli.main(["answer", *source, "--metrics", "harmless", "--limit", "6", "--out", str(out), *words])


def test_prompts_that_a_provider_refuses_have_failed_and_others_are_answered(tmp_path: Path, capsys):
    words = "Content violates usage guidelines."
    refusal = (403, {}, json.dumps({"error": words}).encode())
    with serving(Model(lambda number, body: refusal if "kill" in body["messages"][0]["content"] else None)) as model:
        assert ask_endpoint(model, tmp_path) == 0
        answers = read_records(answers_file(tmp_path, "harmless", "base"), Answer)
        failed = [answer for answer in answers if not answer.is_whole]
        assert 0 < len(failed) < 6
        assert all(answer.reason == f"withheld by a content filter: 403: {words}" for answer in failed)
        assert words in capsys.readouterr().out
        asked = len(model.asked)
        assert ask_endpoint(model, tmp_path) == 0  # nothing that is recorded is asked again
        assert len(model.asked) == asked
        assert ask_endpoint(model, tmp_path, "--retry-failed") == 0
        assert len(model.asked) in (asked + len(failed), asked + len(failed) + 1)


def test_a_server_that_takes_no_seed_is_answered_with_by_the_option_that_its_refusal_names(tmp_path: Path, capsys):
    detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
    refusal = (422, {}, json.dumps({"detail": detail}).encode())
    with serving(Model(lambda number, body: refusal if "seed" in body else None)) as model:
        assert ask_endpoint(model, tmp_path) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "422: body.seed: Extra inputs are not permitted" in err
        assert "--no-seed" in err
        assert len(model.asked) == 4  # three items and something plain
        assert ask_endpoint(model, tmp_path, "--no-seed") == 0
    assert len(texts(tmp_path, "harmless", "base")) == 6
    assert files.read_json(tmp_path / "answers/harmless/plan.json")["model"]["left_out"] == ["seed"]
    assert ask_endpoint(model, tmp_path) == 2  # answers with and without a seed are not mixed
    assert "left_out is None, was ['seed']" in capsys.readouterr().err


def test_failed_items_are_shown_and_the_exit_code_is_0(shared: Path, monkeypatch, capsys):
    monkeypatch.setattr("fedllm_bench.evaluation.answering.model_answers.context_of", lambda model: 12)
    assert cli.main(["answer", str(shared), "--metrics", "harmless", *FEW, "--sides", "base"]) == 0
    shown = capsys.readouterr().out
    assert "4 failed" in shown
    assert "--retry-failed" in shown
    monkeypatch.undo()
    monkeypatch.setattr(hardware, "num_threads", lambda: 1)
    assert cli.main(["answer", str(shared), "--metrics", "harmless", *FEW, "--sides", "base", "--retry-failed"]) == 0
    assert " failed" not in capsys.readouterr().out


OUT = ["--metrics", "harmless", "--out", "OUT"]
SERVER = ["--endpoint", "http://127.0.0.1:9/v1"]
BAD = {
    "benchmark": (["RUN", "--metrics", "mt_bnch"], "no open-ended benchmark 'mt_bnch'", "did you mean 'mt_bench'"),
    "no metrics": (["RUN"], "--metrics"),
    "no such folder": (["nowhere", "--metrics", "mini"], "RUN=nowhere: no such folder"),
    "no run": (["EMPTY", "--metrics", "mini"], "is no run folder"),
    "a run that has not ended": (["HALF", "--metrics", "mini"], "the run has not ended", "bench aya fedavg"),
    "an unknown side": (["RUN", "--metrics", "mini", "--sides", "globl"], "did you mean 'global'"),
    "a client of a shared adapter": (["RUN", "--metrics", "mini", "--sides", "client-user-000"], "no side of"),
    "two sources": (["RUN", "--adapter", "EMPTY", "--metrics", "mini"], "one at a time"),
    "no source": (["--metrics", "mini", "--out", "OUT"], "nothing to answer"),
    "another model for a run": (["RUN", "--model", "mini", "--metrics", "mini"], "--model: not with RUN"),
    "no place": (["--model", "mini", "--metrics", "harmless"], "--out: not given"),
    "no such model": (["--model", "./none", *OUT], "MODEL=./none: no such folder"),
    "no such adapter": (["--adapter", "none", "--model", "mini", *OUT], "no such folder"),
    "no name at the endpoint": ([*SERVER, *OUT], "give --model"),
    "a served side that is not wanted": (
        [*SERVER, "--model", "m", "--sides", "base", "--served", "global=x", *OUT],
        "--served global: not among --sides base",
    ),
    "a served name twice": (
        [*SERVER, "--model", "m", "--served", "global=x", "--served", "global=y", *OUT],
        "--served global: given twice",
    ),
    "another name of the base": ([*SERVER, "--model", "m", "--served", "base=x", *OUT], "the base is what --model"),
    "no name of a side": ([*SERVER, "--model", "m", "--served", "global=", *OUT], "is not SIDE=NAME"),
    "a side that is a file": ([*SERVER, "--model", "m", "--sides", "prompts", *OUT], "'prompts' cannot name a side"),
    "a served side of a run": (["RUN", "--served", "global=x", "--metrics", "mini"], "--served: only with --endpoint"),
    "a template for an endpoint": ([*SERVER, "--model", "m", "--template", "mini", *OUT], "--template: not with"),
    "no split": (["--model", "mini", "--metrics", "heldout_ref", "--out", "OUT"], "--split DIR"),
    "no data set": (["--model", "mini", "--metrics", "ref_gpt4", "--out", "OUT"], "--dataset"),
    "a template": (
        ["--model", "mini", "--template", "llama", "--metrics", "harmless", "--out", "OUT"],
        "no chat template",
    ),
    "temperature": (["RUN", "--metrics", "mini", "--temperature", "hot"], "'hot' is not a number"),
    "seed": (["RUN", "--metrics", "mini", "--seed", "-1"], "--seed"),
    "threads": (["RUN", "--metrics", "mini", "--threads", "99999999999"], "threads are too many; give 1 to 1,024"),
    "limit": (["RUN", "--metrics", "mini", "--limit", "0"], "'0' is not a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_no_answers(case, runs: Path, shared: Path, tmp_path: Path, capsys):
    words, *expected = BAD[case]
    (tmp_path / "empty").mkdir()
    half = Path(shutil.copytree(shared, tmp_path / "half"))
    (half / "results.json").unlink()
    places = {"RUN": shared, "EMPTY": tmp_path / "empty", "HALF": half, "OUT": tmp_path / "out"}
    assert code_of(["answer", *(str(places.get(word, word)) for word in words)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert all(word in line for word in expected), line
    assert captured.out == ""
    assert not list(tmp_path.rglob("*.jsonl.partial"))
    assert not list(tmp_path.rglob("answers/*/*.jsonl"))
    assert len(BAD) == 28


def test_another_setting_than_before_is_refused(shared: Path, capsys):
    words = ["answer", str(shared), "--metrics", "harmless", "--sides", "base", *FEW]
    assert cli.main(words) == 0
    for more, said in ((["--seed", "1"], "seed is 1, was 0"), (["--threads", "2"], "followed.threads is 2, was 1")):
        capsys.readouterr()
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    torch.set_num_threads(1)


def test_a_changed_base_or_adapter_is_refused(shared: Path, capsys):
    words = ["answer", str(shared), "--metrics", "harmless", *FEW]
    assert cli.main(words) == 0
    tensors = shared / "adapter/adapter_model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert cli.main(words) == 2
    assert "the adapter of side global is another one" in capsys.readouterr().err
    environment = files.read_json(shared / "environment.json")
    environment["data"]["base_hash"] = "0"
    files.write_json(shared / "environment.json", environment)
    assert cli.main(words) == 2
    assert "its files are not those" in capsys.readouterr().err


def test_an_adapter_of_another_model_is_refused(shared: Path, tmp_path: Path, capsys):
    words = ["--adapter", str(shared / "adapter"), "--model", "mini", "--metrics", "harmless", "--template", "mini"]
    assert cli.main(["answer", *words, *FEW, "--out", str(tmp_path / "o"), "--sides", "global"]) == 2
    assert "does not fit this base model" in capsys.readouterr().err
