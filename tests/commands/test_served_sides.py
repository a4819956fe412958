"""Base and adapters behind one address: each side is asked under its own name, and answers as that side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from endpoint_models import Model, reply, serving

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.records import Answer, answers_file, read_records


def texts(folder: Path, benchmark: str, side: str) -> list[tuple[str, ...]]:
    return [answer.turns for answer in read_records(answers_file(folder, benchmark, side), Answer)]


def ask_endpoint(model: Model, out: Path, *words: str) -> int:
    source = ["--endpoint", model.address, "--model", "m", "--concurrency", "1"]
    return cli.main(["answer", *source, "--metrics", "harmless", "--limit", "6", "--out", str(out), *words])


def echoing(number: int, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """As a server with adapters: who answers is who was asked."""
    name = body["model"]
    return (
        200,
        {},
        reply(f"{name}:{body['messages'][-1]['content']}").replace(b'"model": "m"', b'"model": "%s"' % name.encode()),
    )


def test_each_served_adapter_answers_as_its_side(tmp_path: Path, capsys):
    with serving(Model(echoing)) as model:
        words = ["--sides", "base,global,client-1", "--served", "global=my-adapter", "--seed", "3"]
        assert ask_endpoint(model, tmp_path, *words) == 0
        named = {"base": "m", "global": "my-adapter", "client-1": "client-1"}
        for side, name in named.items():
            assert {turns[0].split(":")[0] for turns in texts(tmp_path, "harmless", side)} == {name}
        seeds = {name: [body["seed"] for body in model.asked if body["model"] == name] for name in named.values()}
        assert len({tuple(sorted(of)) for of in seeds.values()}) == 1  # sides differ by their models alone
        plan = files.read_json(tmp_path / "answers/harmless/plan.json")
        assert plan["sides"] == {"base": "", "global": "served:my-adapter", "client-1": "served:client-1"}
        asked = len(model.asked)
        assert ask_endpoint(model, tmp_path, "--sides", "global", "--served", "global=my-adapter", "--seed", "3") == 0
        assert len(model.asked) == asked == 18
        assert ask_endpoint(model, tmp_path, "--sides", "global", "--seed", "3") == 2
        assert "the adapter of side global is another one" in capsys.readouterr().err


def test_a_side_may_come_before_the_base(tmp_path: Path):
    with serving(Model(echoing)) as model:
        assert ask_endpoint(model, tmp_path, "--sides", "global") == 0
        assert {body["model"] for body in model.asked} == {"global"}
        assert ask_endpoint(model, tmp_path) == 0
    assert cli.main(["report", str(tmp_path)]) == 0


def test_a_server_that_answers_for_an_adapter_with_another_model_ends_the_command(tmp_path: Path, capsys):
    with serving(Model()) as model:
        assert ask_endpoint(model, tmp_path, "--sides", "base,global") == 2
    err = capsys.readouterr().err
    assert "--served: the server answered for 'global' with 'm'" in err
    assert err.count("\n") == 1
    assert len(texts(tmp_path, "harmless", "base")) == 6  # what was answered is kept
    assert not answers_file(tmp_path, "harmless", "global").exists()


def test_an_older_server_that_calls_an_adapter_by_another_name_is_known_by_its_list(tmp_path: Path, capsys):
    with serving(Model(listed=[{"id": "m"}, {"id": "global"}])) as model:
        assert ask_endpoint(model, tmp_path / "a", "--sides", "global") == 0
    for listed in ([{"id": "m"}], [], "global", {"id": "global"}, [["global"]], 7):
        with serving(Model(listed=listed)) as model:
            assert ask_endpoint(model, tmp_path / "b", "--sides", "global") == 2
        assert "--served: the server answered for 'global' with 'm'" in capsys.readouterr().err


def test_the_base_is_no_adapter_and_a_side_is_not_told_by_its_case(tmp_path: Path, capsys):
    with serving(Model(echoing)) as model:
        assert ask_endpoint(model, tmp_path, "--served", "global=m") == 2
        assert "--served global=m: that is the base" in capsys.readouterr().err
        for side in ("Global", "BASE"):
            assert ask_endpoint(model, tmp_path, "--sides", f"base,{side}") == 2
            assert f"{side!r} cannot name a side; did you mean {side.lower()!r}?" in capsys.readouterr().err
        assert not model.asked
