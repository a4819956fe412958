"""A GGUF file as a plain model of transformers, its weights unpacked into float32, by a process of its own.

The same file and versions of libraries give the same bytes on every machine: each weight is a product, or a product
and a sum, of stored numbers, and neither places nor versions are written.

A process of its own, since unpacking needs several times the memory of the model, which this one would keep.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from fedllm_bench.common import files, process
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import model_files
from fedllm_bench.config.bases.packages import run_to_its_end

log = logging.getLogger(__name__)
MAGIC = b"GGUF"
# what says who wrote a file, or from where, and nothing of the model
OF_WRITER = (
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "is_local",
    "local_files_only",
    "name_or_path",
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def convert(gguf: Path, folder: Path, name: str) -> None:
    """Write the model and tokenizer of the file `gguf` into the existing `folder`.

    Raises a :class:`UserError` for a file that is none, or of which transformers can make no model.
    """
    check_gguf(gguf, name)
    started = time.monotonic()
    log.info("%s: converting %s (about a minute for each 300 million parameters)", name, gguf.name)
    command = [
        sys.executable,
        "-m",
        "fedllm_bench.config.bases.converting",
        str(gguf.absolute()),
        str(folder.absolute()),
    ]
    code, said = run_to_its_end(command, f"{name}: still converting", {**os.environ, **OFFLINE})
    problem = None if code else model_files.problem(folder)
    if code or problem:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        why = problem or (lines or [f"exit code {code}"])[-1]
        raise UserError(
            f"MODEL={name}: no causal language model could be made of {gguf.name} ({why[:200]}); give the model in "
            "Hugging Face format"
        )
    log.info("%s: converted in %.0f s", name, time.monotonic() - started)


def check_gguf(gguf: Path, name: str) -> None:
    """Raise a :class:`UserError` for a file that does not begin as GGUF does."""
    try:
        with gguf.open("rb") as file:
            start = file.read(len(model_files.LFS))
    except OSError as error:
        raise UserError(
            f"MODEL={name}: the file cannot be read ({error.strerror or error}); give another one"
        ) from error
    if start.startswith(model_files.LFS[: len(start)]) and start:
        raise UserError(f"MODEL={name}: it is a Git LFS pointer, not the weights; fetch them: git lfs pull")
    if not start.startswith(MAGIC):
        raise UserError(f"MODEL={name}: the file does not begin as GGUF does; get it again")


def unpack(gguf: Path, folder: Path) -> None:
    """What the process of its own does: model and tokenizer of the file, written into the existing `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    end = model.config.eos_token_id
    if (
        isinstance(end, int) and tokenizer.eos_token_id != end
    ):  # transformers 5.17 takes the first token of a text for it
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in sorted(folder.glob("*config.json")):
        files.write_json(path, _without_writer(files.read_json(path)))


def _without_writer(settings: Any) -> Any:
    return {key: value for key, value in sorted(settings.items()) if key not in OF_WRITER}


if __name__ == "__main__":
    process.prepare()
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
