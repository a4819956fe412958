"""examples/own_method.py and own_metric.py: a run by both, and what the method and the metric compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import folder_of, quick, run
from example_runs import EXAMPLES, example
from safetensors.torch import load_file

from fedllm_bench.common.files import read_json
from fedllm_bench.data.manifest import Split

PLUGINS = ("--plugin", str(EXAMPLES / "own_method.py"), "--plugin", str(EXAMPLES / "own_metric.py"))


def test_a_run_by_the_method_with_the_metric(tiny_split: Split, tmp_path: Path):
    """With beta 0 it is FedAvg, to the last bit; with another it is not."""
    tensors = {}
    with quick():
        for name, words in {"my_momentum": PLUGINS, "fedavg": ()}.items():
            beta = ("--set", "method.beta=0") if words else ()
            metrics = ("--metrics", "heldout,length_gap" if words else "heldout")
            folder = run(name, tiny_split.folder, tmp_path / "runs", *metrics, *words, *beta)
            tensors[name] = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(tensors["fedavg"][name].equal(tensor) for name, tensor in tensors["my_momentum"].items())
    gap = read_json(folder_of("my_momentum", tmp_path / "runs") / "results.json")["metrics"]["length_gap"]
    assert gap["after"]["n_scored"] > 0
    assert gap["after"]["mean"] >= 0


def test_momentum_by_hand():
    import torch

    method = example("own_method")["MyMomentum"](beta=0.5)
    server = method.init({"w": torch.zeros(2)})
    for _ in range(2):
        server = method.update(server, {"delta": {"w": torch.tensor([1.0, -2.0])}}, 1.0)
    assert server.slots["v"]["w"].tolist() == [1.5, -3.0]
    assert server.params["w"].tolist() == [2.5, -5.0]
    assert server.round == 2


@pytest.mark.parametrize(
    ("wanted", "answer", "value"), [("four", "four", 0.0), ("four", "", 1.0), ("four", "12345678", 1.0)]
)
def test_a_gap_is_a_share_of_what_the_user_wrote(wanted: str, answer: str, value: float):
    from types import SimpleNamespace

    row = SimpleNamespace(completion=wanted, row_id="r", client_id="c")
    score = example("own_metric")["score_of"](SimpleNamespace(row=row, group={}), answer)
    assert (score.value, score.cluster) == (value, "c")
