"""What a model's folder holds beside plain weights, looked at once, before anything of it is loaded. Loads no torch.

transformers loads more than a model: an adapter that lies beside the weights, weights that are packed, code of the
folder or of the hub, pickles, and weights that lie elsewhere. None of these was asked for, and none is in the hash
that names a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import first_line

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHER_FORMATS = {".gguf": "GGUF", ".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX"}
FLOATS = ("F64", "F32", "F16", "BF16")  # of a safetensors header; others are what quantisation leaves
LONGEST_HEADER = 100_000_000  # as safetensors itself allows
LFS = b"version https://git-lfs"
PACKED = ("quantization_config", "compression_config")
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
NO_CODE = "only code that is part of transformers is run; give a model that needs no other"


def problem(folder: Path) -> str | None:
    """Why the causal language model in `folder` is not loaded, and what to do; None where nothing is in the way."""
    if (folder / ADAPTER_CONFIG).is_file():
        return (
            f"the folder also holds an adapter ({ADAPTER_CONFIG}), which transformers would load into the model; take "
            "that file out of the folder, or copy the adapter's files elsewhere and give --set model.adapter=FOLDER"
        )
    try:
        settings = read_settings(folder)
        return (
            problem_of_settings(settings)
            or _problem_of_weights(folder, settings)
            or _problem_of_types(folder, settings)
        )
    except ValueError as error:  # of a file that is no JSON object, with its name
        return f"no causal language model could be loaded ({error})"


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json; a :class:`ValueError` where it is none, or no JSON object."""
    return _read_object(folder / CONFIG)


def problem_of_settings(settings: dict[str, Any]) -> str | None:
    """As :func:`problem`, of what config.json says alone."""
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        kind = part.get("model_type", "")
        if kind is not None and not isinstance(kind, str):
            return f"model_type in {CONFIG} is {str(kind)[:60]!a}, not a text; get the model again"
        for key in PACKED:
            if part.get(key) is not None:
                return (
                    f"its weights are quantised already ({_kind(part[key])}, {key} in {CONFIG}); give the model as it "
                    "was before quantisation, with --set model.quantization=4bit or 8bit where it is to be packed"
                )
        for key in KERNELS:
            if "/" in str(part.get(key)):
                return f"{key}={part[key]} in {CONFIG} would fetch and run code; take that setting out of it"
    if "auto_map" in settings and not _is_known(settings.get("model_type")):
        kind = settings.get("model_type")
        return f"it brings code of its own (auto_map in {CONFIG}, model_type {kind}); {NO_CODE}"
    return None


def problem_of_encoder(folder: Path) -> str | None:
    """As :func:`problem`, of a model of sentence-transformers, whose parts lie in folders of their own."""
    for path in _of_parts(folder, ADAPTER_CONFIG):
        return f"it holds an adapter ({path.relative_to(folder)}); merge it into the model, or take the file out"
    for path in _of_parts(folder, "pytorch_model.bin"):
        if not (path.parent / WEIGHTS).is_file() and not (path.parent / INDEX).is_file():
            return f"{path.relative_to(folder)} is a pickle, which is not read, since that can run code"
    try:
        found = (problem_of_settings(_read_object(path)) for path in _of_parts(folder, CONFIG))
        return next(filter(None, found), None)
    except ValueError as error:
        return str(error)


def _of_parts(folder: Path, name: str) -> Iterator[Path]:
    """Files of this name in the folder and one level below, where sentence-transformers looks."""
    yield from (path for path in sorted([*folder.glob(name), *folder.glob(f"*/{name}")]) if path.is_file())


def _problem_of_weights(folder: Path, settings: dict[str, Any]) -> str | None:
    """Weights must be safetensors in the folder itself: others are pickles, or not among what is hashed."""
    named = settings.get("transformers_weights")
    if named is not None:
        problem = _not_here(folder, [named], CONFIG)
        return problem or (_problem_of_index(folder / named) if str(named).endswith(".index.json") else None)
    if (folder / WEIGHTS).is_file():
        return None
    if (folder / INDEX).is_file():
        return _problem_of_index(folder / INDEX)
    return _other_weights(folder)


def _problem_of_types(folder: Path, settings: dict[str, Any]) -> str | None:
    """Packed weights whose config.json does not say so would be loaded as if their integers were the weights."""
    name = settings.get("transformers_weights") or (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    names = _read_object(folder / name)["weight_map"].values() if name.endswith(".json") else [name]
    problems = (problem_of_tensors(folder / shard) for shard in sorted(set(names)))
    return next(filter(None, problems), None)


def problem_of_tensors(path: Path) -> str | None:
    """Why a safetensors file is not read: a Git LFS pointer, or tensors packed by quantisation. Reads its header."""
    start, header = _start_of(path)
    if LFS.startswith(start):
        return f"{path.name} is a Git LFS pointer, not the weights; fetch them: git lfs pull"
    packed = _packed_tensor(header)
    if packed is None:
        return None
    return f"its weights are quantised already ({packed} in {path.name}); give them as they were before quantisation"


def _start_of(path: Path) -> tuple[bytes, bytes]:
    """The first 8 bytes of a safetensors file, which say how long its header is, and the header."""
    with path.open("rb") as file:
        start = file.read(8)
        return start, file.read(min(int.from_bytes(start, "little"), LONGEST_HEADER))


def num_parameters(folder: Path) -> int | None:
    """The numbers in a model's safetensors files, tied ones once; None where a file has no header to read."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors = json.loads(_start_of(path)[1])
            shapes = [tensor["shape"] for name, tensor in tensors.items() if name != "__metadata__"]
            total += sum(math.prod(shape) for shape in shapes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
    return total or None


def _packed_tensor(header: bytes) -> str | None:
    """The first weight of integers or 8-bit floats, with its type; None where there is none, or no header to read."""
    try:
        tensors = json.loads(header)
    except ValueError:  # a broken file, of which safetensors says what is wrong
        return None
    for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
        if name.endswith(".weight") and isinstance(tensor, dict) and tensor.get("dtype") not in FLOATS:
            return f"{name} is {tensor.get('dtype')}"
    return None


def _problem_of_index(index: Path) -> str | None:
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        return f"{index.name} has no weight_map; get the model again"
    return _not_here(index.parent, sorted({str(name) for name in names.values()}), index.name)


def _not_here(folder: Path, names: Iterable[Any], source: str) -> str | None:
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", ".index.json")):
            return f"{source} names the weights {name!r}, which is no safetensors file in the folder itself"
        if not (folder / name).is_file():
            return f"{source} names {name}, which is missing in the folder; get the model again"
    return None


def _other_weights(folder: Path) -> str:
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            return (
                f"its weights are pickles ({path.name}), which are not read, since that can run code; save the model "
                "with safetensors: model.save_pretrained(FOLDER)"
            )
        if path.suffix in OTHER_FORMATS:
            kind = OTHER_FORMATS[path.suffix]
            return f"its weights are in the format of {kind} ({path.name}), which is not read; give them as safetensors"
    return f"the folder has no file named {WEIGHTS}, nor {INDEX} and what it names"


def _kind(packed: Any) -> str:
    method = packed.get("quant_method") if isinstance(packed, dict) else None
    return str(method or "of an unnamed kind")


def _is_known(model_type: Any) -> bool:
    """Whether transformers has a class of its own, which it then takes instead of the folder's code."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a valid JSON file ({first_line(error)[:200]})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return found
