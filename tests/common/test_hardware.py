"""What the machine is said to have."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedllm_bench.common import hardware
from fedllm_bench.config import presets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("model name\t: a processor of avx512_bf16\nflags\t\t: avx2\n", False),
        ("", False),
    ],
)
def test_bfloat16_arithmetic_is_a_flag_of_the_processor(tmp_path: Path, text: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert hardware.has_bfloat16_on_cpu(cpuinfo) is expected
    assert hardware.has_bfloat16_on_cpu(tmp_path / "missing") is False


@pytest.mark.parametrize(("has", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_the_type_of_profile_small_is_resolved_by_the_hardware(
    monkeypatch: pytest.MonkeyPatch, has: bool, dtype: str
) -> None:
    monkeypatch.setattr(hardware, "computes_bfloat16", lambda: has)
    config = presets.load("aya", "fedavg", "small")
    assert config.model.dtype == dtype
    assert config.to_dict()["model"]["dtype"] == dtype
    assert presets.load("aya", "fedavg", "small", ["model.dtype=float16"]).model.dtype == "float16"
