"""Settings that go around a method, two at a time: refused in one line, or a run whose bytes are known before."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from resumed_rounds import initial

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

SETTINGS: dict[str, tuple[str, ...]] = {
    **{name: (f"communication.lora_aggregation={name}",) for name in ("frozen_a", "share_a", "alternate")},
    **{name: (f"communication.lora_aggregation={name}",) for name in ("flex", "stack", "exact", "fair", "restart")},
    "ranks": ("lora.ranks=2,4",),
    "float16": ("communication.upload_dtype=float16",),
    "int4": ("communication.upload_dtype=int4", "communication.error_feedback=true"),
    "int8 down": ("communication.download_dtype=int8",),
    "top_k": ("communication.top_k=0.3",),
    "secure sum": ("communication.secure_sum=true",),
    "private": ("privacy.clip=0.5", "privacy.noise_multiplier=0.3"),
    "median": ("aggregation.rule=median",),
    "krum": ("aggregation.rule=krum", "aggregation.byzantine=0"),
    "norm bound": ("aggregation.rule=norm_bound", "aggregation.bound=0.1"),
    "sign flip": ("attack.kind=sign_flip", "attack.clients=0,1"),
    "noise": ("attack.kind=noise", "attack.clients=0,1"),
    "examples": ("federation.weighting=examples",),
    "aggregation error": ("communication.aggregation_error=true",),
}
COMMON = ("federation.rounds=2", "local.steps=1", "federation.weighting=uniform")
METHOD_PAIRS = [(name, (setting,)) for name in METHODS for setting in SETTINGS]
PAIRS = [("fedavg", pair) for pair in combinations(SETTINGS, 2)]


def made(name: str, given: list[str], num_clients: int, run_config: Any) -> tuple[Any, str]:
    """The config, or why there is none."""
    try:
        config = run_config(name, *COMMON, *given)
        make_method(config, num_clients)
    except UserError as error:
        return None, str(error)
    return config, ""


@pytest.mark.parametrize(("name", "settings"), [*METHOD_PAIRS, *PAIRS])
def test_two_settings_are_refused_in_one_line_or_run(
    name: str, settings: tuple[str, ...], tiny_model: Any, tiny_clients: Any, tiny_run_config: Any, tmp_path: Any
) -> None:
    given = [value for setting in settings for value in SETTINGS[setting]]
    config, refused = made(name, given, len(tiny_clients), tiny_run_config)
    if refused:
        assert "\n" not in refused
        assert any(value.partition("=")[0] in refused or name in refused for value in given), refused
        return
    method = make_method(config, len(tiny_clients))
    engine = in_process(tiny_model, method, config)
    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path)
    start = initial(tiny_model)
    server = run_rounds(run, start)
    assert server.round == 2
    assert all(bool(tensor.isfinite().all()) for tensor in method.adapter(server).values())
    traffic = Traffic(method, start, config.local.lr)
    for number, record in enumerate(read_jsonl(tmp_path / "rounds.jsonl")):
        assert record["failures"] == [None] * len(record["clients"])
        of_each = [traffic.of_client(number, client) for client in record["clients"]]
        if name != "hetlora" and not {"stack", "exact", "restart"} & set(settings):  # what grows with what is learned
            assert record["bytes_down"] == sum(down for down, _ in of_each)
            assert record["bytes_up"] == sum(up for _, up in of_each)


def test_most_pairs_run() -> None:
    assert len(METHOD_PAIRS) + len(PAIRS) > 500
