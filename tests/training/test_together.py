"""Settings that go around a method, two at a time: refused in one line, or a run whose bytes are known before.

`make test` takes a few dozen pairs of different kinds, `make test-slow` all others.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from resumed_rounds import initial
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree
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
# Each method with two settings of other kinds, and for FedAvg each setting with one that it goes with. So every method
# and every setting is among them.
QUICK = [
    *(
        (name, (setting,))
        for name, settings in {
            "local": ("float16",),
            "central": ("median",),
            "fedavg": ("examples", "secure sum"),
            "fedprox": ("stack", "krum"),
            "scaffold": ("exact", "share_a"),
            "fedavgm": ("alternate", "ranks"),
            "fedadam": ("share_a", "private"),
            "fedyogi": ("norm bound",),
            "fedadagrad": ("frozen_a",),
            "feddyn": ("int4", "share_a"),
            "dp_fedavg": ("aggregation error",),
            "hetlora": ("int4", "flex"),
            "ditto": ("int4", "krum"),
            "pfedme": ("int4", "sign flip"),
            "fedrep": ("frozen_a", "ranks", "int4", "secure sum"),
            "fedmezo": ("exact", "share_a", "alternate"),
            "fedkseed": ("median",),
            "fedem": ("int4", "krum"),
        }.items()
        for setting in settings
    ),
    *(
        ("fedavg", pair)
        for pair in (
            ("share_a", "ranks"),
            ("share_a", "int4"),
            ("share_a", "secure sum"),
            ("share_a", "median"),
            ("alternate", "top_k"),
            ("alternate", "aggregation error"),
            ("flex", "ranks"),
            ("flex", "sign flip"),
            ("stack", "ranks"),
            ("stack", "int8 down"),
            ("stack", "noise"),
            ("exact", "int4"),
            ("exact", "int8 down"),
            ("fair", "float16"),
            ("restart", "int8 down"),
            ("ranks", "top_k"),
            ("ranks", "median"),
            ("secure sum", "sign flip"),
            ("norm bound", "noise"),
            ("exact", "secure sum"),
        )
    ),
]


def made(name: str, given: list[str], params: Tree, num_clients: int, run_config: Any) -> tuple[Any, str]:
    """The config, or why there is none. A method also looks at what there is to train."""
    try:
        config = run_config(name, *COMMON, *given)
        make_method(config, num_clients).init(params)
    except UserError as error:
        return None, str(error)
    return config, ""


@pytest.mark.parametrize(("name", "settings"), sweep([*METHOD_PAIRS, *PAIRS], *QUICK))
def test_two_settings_are_refused_in_one_line_or_run(
    name: str, settings: tuple[str, ...], tiny_model: Any, tiny_clients: Any, tiny_run_config: Any, tmp_path: Any
) -> None:
    start = initial(tiny_model)
    given = [value for setting in settings for value in SETTINGS[setting]]
    config, refused = made(name, given, start, len(tiny_clients), tiny_run_config)
    if refused:
        assert "\n" not in refused
        assert any(value.partition("=")[0] in refused or name in refused for value in given), refused
        return
    method = make_method(config, len(tiny_clients))
    engine = in_process(tiny_model, method, config)
    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path)
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


def test_every_method_and_every_setting_is_in_a_quick_pair() -> None:
    assert {name for name, _ in QUICK} == set(METHODS)
    assert {setting for _, pair in QUICK for setting in pair} == set(SETTINGS)
    assert len(METHOD_PAIRS) + len(PAIRS) > 500
