"""An adapter of any kind but LoRA as a folder: as plain PEFT loads it, and a bottleneck as this suite does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.starting import CONFIG, TENSORS
from fedllm_bench.training.model.kinds.settings import settings_of
from fedllm_bench.training.model.kinds.virtual import PROMPT, VirtualTokens
from fedllm_bench.training.model.lora import AdaptedLayer, tensor_names

README = "README.md"


def written_tree(tree: Tree, layers: Mapping[str, AdaptedLayer]) -> Tree:
    """What of a trained adapter is written: PEFT leaves the encoder of P-tuning out, and keeps what it makes."""
    virtual = next((layer for layer in layers.values() if isinstance(layer, VirtualTokens)), None)
    if virtual is None:
        return tree
    tensors = [tree[name] for name in tensor_names("", virtual)]
    return {PROMPT: virtual.written(*tensors)}


def save_kind(
    folder: Path,
    tree: Tree,
    adapter: AdapterKind,
    model: Any,
    base: str,
    *,
    texts: Mapping[str, bytes] | None = None,
) -> None:
    """adapter_model.safetensors, adapter_config.json and a README.md that says what it is and how it is loaded.

    `model` is the run's LoraModel, `base` the id or folder of its base; `texts` as in :func:`save_adapter`.
    """
    from safetensors.torch import save

    own = settings_of(adapter, model.base, model.layers, model.targets, base, transposed=model.transposed)
    written = {n: t.detach().cpu().contiguous() for n, t in written_tree(tree, model.layers).items()}
    with files.new_folder(folder) as part:
        files.write_json(part / CONFIG, own)
        files.write_bytes(part / TENSORS, save(written, metadata={"format": "pt"}))
        files.write_text(part / README, _readme(adapter, base))
        files.write_all(part, texts or {})


LOADED = {
    True: "from fedllm_bench.training.model.kinds.loading import attach_bottleneck\n\n"
    "model = attach_bottleneck(base, FOLDER)",
    False: "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, FOLDER)",
}
OF_ENCODER = """
Trained were embeddings of virtual tokens and an encoder behind them. As PEFT does, this folder keeps what the encoder
makes of them; the encoder itself is in the checkpoint of the run.
"""


def _readme(adapter: AdapterKind, base: str) -> str:
    return (
        f"# An adapter: {adapter.in_words}\n\n"
        f"Made by FedLLM-Bench on the base model `{base}`, whose weights are as they were.\n"
        f"{OF_ENCODER if adapter.kind == 'p_tuning' else ''}\n"
        "To load it on the base, a model of transformers:\n\n"
        f"```python\n{LOADED[adapter.kind == 'bottleneck']}\n```\n"
    )
