"""The config: strict, frozen, one line for all that is wrong, a hash for all that is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets, run
from fedllm_bench.config.run import RunConfig, check

PARTS = {**run.SECTIONS, "method": run.Method}


@pytest.fixture(scope="module")
def aya() -> RunConfig:
    return presets.load("aya", "fedprox", "mini")


def with_value(aya: RunConfig, key: str, value: Any) -> dict[str, Any]:
    values = aya.to_dict()
    section, _, field = key.partition(".")
    if field:
        values[section][field] = value
    else:
        values[section] = value
    return values


def message(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_config_survives_json_with_all_its_types(aya: RunConfig) -> None:
    again = check(aya.to_dict())
    assert again == aya
    assert again.hash == aya.hash
    assert isinstance(again.lora.targets, tuple)


def test_every_part_is_frozen(aya: RunConfig) -> None:
    parts = [aya, *(getattr(aya, name) for name in PARTS)]
    assert len(parts) == 17
    for part in parts:
        field = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field, None)


WRONG = {
    "local.steps": (True, 1.5, "10", 0, None),
    "local.lr": (True, "1e-4", 0.0, -1.0, float("nan"), float("inf")),
    "local.gradient_checkpointing": (1, "true"),
    "local.optimizer": ("adam", 1),
    "local.beta1": (1.0, -0.1),
    "local.weight_decay": (-1e-3,),
    "local.clip": (0,),
    "lora.dropout": (1.0,),
    "lora.targets": ([], "q_proj", [1], ["q_proj", "q_proj"], [""]),
    "federation.weighting": ("samples",),
    "evaluation.local_clients": (-1,),
    "model.name": ("", 7),
    "privacy.clip": (0.0, -1.0, True),
    "privacy.noise_multiplier": (-0.1,),
    "privacy.epsilon": (0.0, "8"),
    "privacy.delta": (0.0, 1.0, None),
    "lora.ranks": ("", "4,999", "4:0.5", 4, [4, 8]),
    "communication.upload_dtype": ("bfloat16", "int16", 8),
    "communication.download_dtype": ("bfloat16", None),
    "communication.scales": ("column",),
    "communication.top_k": (0, -0.1, 1.5, True, float("nan")),
    "communication.error_feedback": (1,),
    "communication.secure_sum": ("true",),
    "communication.lora_aggregation": ("frozen", "share_b"),
    "communication.aggregation_error": (1,),
    "data.clients": (0, "38"),
    "seed": (-1, "0", False),
    "engine": ("flower",),
    "track": ("real",),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named_with_its_key_and_never_converted(aya: RunConfig, key: str, value: Any) -> None:
    assert key in message(with_value(aya, key, value))


def test_an_int_is_fine_for_a_float_and_gives_the_same_hash(aya: RunConfig) -> None:
    configs = [check(with_value(aya, "local.lr", value)) for value in (1, 1.0)]
    assert configs[0] == configs[1]
    assert configs[0].hash == configs[1].hash


def test_all_problems_stand_in_one_line(aya: RunConfig) -> None:
    values = with_value(aya, "local.lr", "abc")
    values["lora"]["rank"] = 0
    del values["federation"]["rounds"]
    values["model"]["nam"] = "x"
    lines = message(values).split("; ")
    assert "local.lr: got 'abc', it should be a valid number" in lines
    assert "lora.rank: got 0, it should be greater than or equal to 1" in lines
    assert "federation.rounds: not given, and there is no default" in lines
    assert "no option 'model.nam'" in lines
    assert any(line.startswith("did you mean 'model.name'?") for line in lines)
    assert len(lines) == 5


def test_a_long_value_is_cut_and_keeps_to_one_line(aya: RunConfig) -> None:
    assert len(message(with_value(aya, "local.lr", "line\n" * 1000))) < 150


def test_the_loss_must_fit_the_task(aya: RunConfig) -> None:
    text = message(with_value(aya, "local.loss", "dpo"))
    needs = "local.loss: got 'dpo', but data.task 'sft' needs 'sft'"
    assert text == f"{needs}; give that, or take a data set of preferences, as chatbot_pa"


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changed(part: Any, path: list[str], value: Any) -> Any:
    """A copy of `part` with another value at `path`; dicts are the constants of the method."""
    name, *rest = path
    inner = part[name] if isinstance(part, dict) else getattr(part, name)
    new = changed(inner, rest, value) if rest else value
    return {**part, name: new} if isinstance(part, dict) else dataclasses.replace(part, **{name: new})


def test_the_hash_changes_with_every_single_value(aya: RunConfig) -> None:
    keys = [key for key, _ in leaves(aya.to_dict())]
    assert len(keys) >= 45
    pair = {"data.task": "preference", "local.loss": "dpo"}  # only together: one alone is refused
    hashes = {changed(aya, key.split("."), "another").hash for key in keys if key not in pair}
    assert len(hashes) == len(keys) - len(pair)
    assert aya.hash not in hashes
    data, local = (
        dataclasses.replace(aya.data, task="preference"),
        dataclasses.replace(aya.local, loss="dpo"),
    )
    assert dataclasses.replace(aya, data=data, local=local).hash not in {aya.hash, *hashes}


def test_the_hash_does_not_depend_on_the_order_of_keys(aya: RunConfig) -> None:
    values = aya.to_dict()
    assert check(dict(reversed(values.items()))).hash == aya.hash
    assert len(aya.hash) == 10
    assert int(aya.hash, 16) >= 0


def test_more_clients_per_round_than_clients_is_refused_with_the_way_out(aya: RunConfig) -> None:
    federation = dataclasses.replace(aya.federation, clients_per_round=5)
    federation.check(5)
    with pytest.raises(UserError, match=r"clients_per_round=5, but the split has 4 .*clients_per_round=4$"):
        federation.check(4)


def test_dynamic_steps_are_those_of_the_published_dpo_runs() -> None:
    pa = presets.load("chatbot_pa", "fedavg", "paper")
    turns = pa.federation.rounds * pa.federation.clients_per_round / 747
    assert turns == pytest.approx(2.677, abs=1e-3)
    steps = {rows: pa.local.num_steps(rows, turns) for rows in (5, 13, 26, 154)}
    assert steps == {5: 1, 13: 2, 26: 4, 154: 22}
    assert presets.load("aya", "fedavg", "paper").local.num_steps(154, turns) == 10
