"""What the base model and the users of a run are called in results and tables."""

from __future__ import annotations

from fedllm_bench.common.files import at_home
from fedllm_bench.config.bases.labels import label
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.run import EMBEDDED_MODEL, Model, RunConfig

EMBEDDED_LABEL = "embedded model"
INVENTED = "mini-"  # begins the names of splits of the invented world, and no others


def is_invented(split: str) -> bool:
    """Whether the users of a split of this name are the mini world's."""
    return split.startswith(INVENTED)


def base_label(model: Model, adapter: AdapterKind) -> str:
    """ "SmolLM2-135M-Instruct (4-bit weights unpacked)", with what was done to it: "my-model + my-adapter, 4bit".

    What is trained of it is there too, where that is no LoRA.

    A folder is called by its last part; an id of the hub stays as it is.
    """
    name = EMBEDDED_LABEL if model.name == EMBEDDED_MODEL else _plain(label(model.name))
    name += f" + {_plain(model.adapter)}" if model.adapter else ""
    name += f", {model.quantization}" if model.quantization != "none" else ""
    name += "" if adapter.is_lora else f", {adapter.in_words}"
    return name + (", all weights" if model.trainable == "full" else "")


def offsite_label(config: RunConfig) -> str:
    """ "fedot: LoRA on 1 + 2 layers, drop 0.5", of a run of offsite tuning."""
    offsite, what = config.offsite, "LoRA on " if config.model.trainable == "adapter" else ""
    return f"{offsite.variant}: {what}{offsite.left} + {offsite.right} layers, drop {offsite.drop:g}"


def _plain(name: str) -> str:
    folder = at_home(name)
    return folder.name if folder.is_absolute() or folder.is_dir() else name
