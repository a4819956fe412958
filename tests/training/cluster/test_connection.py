"""What a user is told where there is no Ray; and settings of engine "ray" that cannot be meant."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_runs import assert_refused, words
from sweeps import HERE

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.cell import settings_hash
from fedllm_bench.training.cluster import connection
from fedllm_bench.training.engines import ENGINES


def test_without_ray_the_command_names_the_extra(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    argv = words("fedavg", tiny_split.folder, tmp_path, "--engine", "ray")
    assert_refused(argv, tmp_path, capsys, "engine=ray", "pip install 'fedllm-bench[ray]'")


def test_a_broken_ray_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MADE", [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in (*connection.ALONE, "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that what is set is taken back
    (tmp_path / "ray.py").write_text('raise ImportError("no module ray._raylet")\n')
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"cannot be loaded \(no module ray\._raylet\); pip install"):
        connection.connect()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("127.0.0.1:{port}", "no Ray answers there"),
        ("ray://127.0.0.1:10001", "give HOST:PORT of the cluster's head"),
        ("head", "give HOST:PORT, such as"),
        ("head:", "give HOST:PORT, such as"),
        ("127.0.0.1:99999", "no Ray answers there"),
        ("a..b:6379", "no Ray answers there"),
    ],
)
def test_an_address_without_ray_is_one_line_at_once(
    address: str,
    text: str,
    tiny_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = address.format(port=free_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    argv = words("fedavg", tiny_split.folder, tmp_path, "--engine", "ray")
    assert_refused(argv, tmp_path, capsys, f"RAY_ADDRESS={address}", text)


@pytest.mark.parametrize(
    ("engine", "word", "text"),
    [
        ("ray", "ray.gpus_per_worker=2", "ray.gpus_per_worker (--set): got 2"),
        ("ray", "ray.gpus_per_worker=-0.5", "it should be greater than or equal to 0"),
        ("ray", "ray.gpus_per_worker=half", "it should be a valid number"),
        ("ray", "ray.workers=-1", "it should be greater than or equal to 0"),
        ("ray", "ray.workers=1.5", "it should be a valid integer"),
        ("ray", "ray.worker=1", "did you mean 'ray.workers'?"),
        ("inprocess", "ray.workers=2", "ray.workers: it is of engine=ray, and the engine is inprocess"),
        ("trl", "ray.gpus_per_worker=0.5", "ray.gpus_per_worker: it is of engine=ray, and the engine is trl"),
    ],
)
def test_settings_of_workers_that_cannot_be_meant(engine: str, word: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        presets.load("aya", "fedavg", "mini", [word], engine=engine)
    assert text in str(error.value)


def test_tests_of_all_engines_leave_out_no_other() -> None:
    assert {*HERE, "ray"} == set(ENGINES)


def test_where_clients_are_trained_is_no_part_of_the_name_of_a_run() -> None:
    def name(engine: str, *settings: str) -> str:
        return settings_hash(presets.load("aya", "fedavg", "mini", settings, engine=engine), "split", "base")

    assert name("ray") == name("ray", "ray.workers=3", "ray.gpus_per_worker=0.25") == name("inprocess")
    assert name("trl") != name("inprocess")
    config: Any = presets.load("aya", "fedavg", "mini").to_dict()
    assert "ray" not in config, "configs of runs before there was a section ray have no such key"
