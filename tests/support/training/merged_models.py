"""Merged models of runs, and the logits of a plain model with an adapter by plain PEFT."""

from __future__ import annotations

from pathlib import Path

import torch

IDS = torch.arange(4, 40).view(2, 18)


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    """Of a plain model of transformers, with an adapter by plain PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def cli_merge(folder: Path, out: Path) -> None:
    from fedllm_bench.runs.merging import merge, open_trained

    merge(open_trained(folder), out)
