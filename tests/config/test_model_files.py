"""A model's folder is looked at once, before anything of it is loaded: what was not asked for is one line, exit 2."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import assert_refused, words
from safetensors.torch import load_file, save_file

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.embedding.encoder import encoder_folder
from fedllm_bench.evaluation.metrics.references import load_encoder
from fedllm_bench.training.model.lora_model import load_model

LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=("q_proj",))
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Spoil = Callable[[Path], None]


def settings(file: str = "config.json", **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def with_file(name: str, text: str = "{}") -> Spoil:
    return lambda folder: (folder / name).write_text(text) and None


def renamed(to: str) -> Spoil:
    return lambda folder: (folder / WEIGHTS).rename(folder / to) and None


def indexed(shard: str, *, exists: bool = True) -> Spoil:
    """The weights in a file that an index names `shard`."""

    def spoil(folder: Path) -> None:
        (folder / shard).parent.mkdir(exist_ok=True)
        (folder / WEIGHTS).rename(folder / shard)
        (folder / INDEX).write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": shard}}))
        if not exists:
            (folder / shard).unlink()

    return spoil


def typed(dtype: torch.dtype) -> Spoil:
    """The weights in another type, of which config.json says nothing."""

    def spoil(folder: Path) -> None:
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


CODE = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.Y"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BAD: dict[str, tuple[Spoil, str]] = {
    "an adapter": (with_file("adapter_config.json"), r"holds an adapter.*model\.adapter=FOLDER"),
    "4 bits": (settings(quantization_config=BNB), r"quantised already \(bitsandbytes.*model\.quantization=4bit"),
    "GPTQ": (settings(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised already \(gptq"),
    "packed text part": (settings(text_config={"quantization_config": BNB}), r"quantised already \(bitsandbytes"),
    "compressed": (settings(compression_config={"format": "pack"}), r"quantised already .*compression_config"),
    "code": (settings(model_type="mine", auto_map=CODE), r"code of its own \(auto_map in config\.json"),
    "code, no type": (settings(model_type=None, auto_map=CODE), r"code of its own"),
    "code of the hub": (settings(model_type="mine", auto_map={"AutoConfig": "a/b--c.X"}), r"code of its own"),
    "a kernel": (settings(attn_implementation="someone/kernel"), r"someone/kernel in config\.json would fetch and run"),
    "a pickle": (renamed("pytorch_model.bin"), r"pickles \(pytorch_model\.bin\), which are not read"),
    "GGUF": (renamed("model.gguf"), r"in the format of GGUF"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"no file named model"),
    "weights outside": (indexed("../elsewhere.safetensors"), r"names the weights '\.\./elsewhere\.safetensors'"),
    "weights below": (indexed("below/part.safetensors"), r"names the weights 'below/part\.safetensors'"),
    "pickled shards": (indexed("part.bin"), r"names the weights 'part\.bin', which is no safetensors file"),
    "a missing shard": (indexed("part.safetensors", exists=False), r"part\.safetensors, which is missing"),
    "an empty index": (lambda f: (f / WEIGHTS).rename(f / INDEX) and with_file(INDEX)(f), r"has no weight_map"),
    "named elsewhere": (settings(transformers_weights="../w.safetensors"), r"config\.json names the weights"),
    "a named pickle": (settings(transformers_weights="adapter_model.bin"), r"config\.json names the weights"),
    "integers": (typed(torch.int8), r"quantised already \(model\.\S+\.weight is I8 in model\.safetensors\)"),
    "8-bit floats": (typed(torch.float8_e4m3fn), r"quantised already \(\S+ is F8_E4M3"),
    "a pointer": (with_file(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), r"Git LFS pointer.*git lfs pull"),
    "no JSON": (with_file("config.json", "{"), r"config\.json is not a valid JSON"),
    "a type that is a list": (settings(model_type=["llama"]), r"model_type in config\.json is .{11}, not a text; get"),
    "a part of type 7": (settings(text_config={"model_type": 7}), r"model_type in config\.json is '7', not a text"),
    "code of a list": (settings(model_type=["mine"], auto_map=CODE), r"model_type in config\.json is .*, not a text"),
    "a list": (with_file("config.json", "[]"), r"config\.json is not a JSON object"),
}  # fmt: skip


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "models" / "mine"))


@pytest.fixture
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may be asked on the terminal."""

    def asked(*args: object) -> str:
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr(builtins, "input", asked)


@pytest.mark.parametrize(("spoil", "expected"), BAD.values(), ids=BAD)
def test_what_was_not_asked_for_is_one_line_before_anything_is_loaded(
    spoil: Spoil, expected: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def loaded(*args: object, **kwargs: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loaded)
    spoil(folder)
    with pytest.raises(UserError, match=expected) as caught:
        load_model(Model(name=str(folder), dtype="float32"), LORA)
    assert f"MODEL={folder}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_alone_is_told_from_a_model(folder: Path) -> None:
    with_file("adapter_config.json")(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds an adapter and no model; .*model\.adapter="):
        base_model.locate(str(folder))


@pytest.mark.usefixtures("_silent")
def test_code_of_a_tokenizer_is_not_run_and_nobody_is_asked(folder: Path) -> None:
    settings("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "mine.T"]}, tokenizer_class="T")(folder)
    (folder / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match=r"code of its own; only code that is part of transformers is run") as caught:
        load_model(Model(name=str(folder), dtype="float32"), LORA)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_silent")
def test_of_an_architecture_that_transformers_has_its_own_class_is_taken(folder: Path, tiny_model: Any) -> None:
    settings(auto_map={**CODE, "AutoTokenizer": [None, "mine.T"]}, quantization_config=None)(folder)
    for name in ("configuration_x", "modeling_x", "mine"):
        (folder / f"{name}.py").write_text("raise SystemExit('run')")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit('run')")
    model = load_model(Model(name=str(folder), dtype="float32"), LORA)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.equal(model.base(input_ids=ids).logits, tiny_model.base(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_plain_weights_of_every_width_are_read(dtype: torch.dtype, folder: Path) -> None:
    typed(dtype)(folder)
    assert base_model.locate(str(folder)) == folder


def test_a_folder_of_links_is_named_by_what_they_link_to(folder: Path, tmp_path: Path) -> None:
    """And not by the names of those files, which every other model has too."""
    before = base_model.fingerprint(folder)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    for name in (WEIGHTS, "tokenizer.json"):
        (folder / name).rename(elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)
    assert base_model.fingerprint(folder) == before
    typed(torch.float64)(elsewhere)
    assert base_model.fingerprint(folder) != before


def test_a_snapshot_of_the_hub_is_named_by_its_blobs_which_are_not_read(folder: Path, tmp_path: Path) -> None:
    (blobs := tmp_path / "blobs").mkdir()
    (folder / WEIGHTS).rename(blobs / ("a" * 64))
    (folder / WEIGHTS).symlink_to(blobs / ("a" * 64))
    before = base_model.fingerprint(folder)
    (blobs / ("a" * 64)).write_bytes(b"")
    assert base_model.fingerprint(folder) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, "the folder has no tokenizer.json; save the model's tokenizer"), ("{}", "no tokenizer could be loaded")],
)
def test_what_is_wrong_with_a_tokenizer_is_not_said_of_the_model(text: str | None, expected: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink() if text is None else (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=expected):
        load_model(Model(name=str(folder), dtype="float32"), LORA)


def test_weights_in_shards_of_the_folder_are_the_model(tiny_folder: Path, tmp_path: Path, tiny_model: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tiny_folder).save_pretrained(tmp_path, max_shard_size="200KB")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model = load_model(Model(name=str(tmp_path), dtype="float32"), LORA)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.equal(model.base(input_ids=ids).logits, tiny_model.base(input_ids=ids).logits)


@pytest.mark.parametrize("more", [(), ("--set", "model.trainable=full"), ("--engine", "trl"), ("--dry-run",)])
@pytest.mark.usefixtures("_silent")
def test_bench_leaves_no_run_folder(
    more: tuple[str, ...], folder: Path, tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(model_type="mine", auto_map=CODE, quantization_config=None)(folder)
    argv = words("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(folder), "--metrics", "heldout", *more)
    assert_refused(argv, tmp_path, capsys, f"MODEL={folder}", "code of its own")


@pytest.mark.usefixtures("_silent")
@pytest.mark.parametrize("more", [{}, {"auto_map": {"AutoModelForCausalLM": "modeling_x.Y"}}])
def test_memory_of_what_is_no_causal_model_is_one_line(
    more: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", **more}))
    argv = ["bench", "aya", "fedavg", "--profile", "mini", "--model", str(folder), "--dry-run"]
    capsys.readouterr()
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"MODEL={folder}" in line


def test_other_commands_refuse_it_alike(
    folder: Path, tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_file("adapter_config.json")(folder)
    out = str(tmp_path / "out")
    for argv in (
        ["answer", "--model", str(folder), "--template", "mini", "--metrics", "harmless", "--out", out],
        ["diversity", str(tiny_split.folder), "--quality-model", str(folder), "--out", out],
    ):
        capsys.readouterr()
        assert cli.main(argv) == 2
        assert "the folder also holds an adapter" in capsys.readouterr().err


ENCODER: dict[str, tuple[Spoil, str]] = {
    "an adapter": (with_file("adapter_config.json"), "it holds an adapter"),
    "a pickle": (with_file("2_Dense/pytorch_model.bin"), "2_Dense/pytorch_model.bin is a pickle"),
    "code": (with_file("config.json", json.dumps({"model_type": "mine", "auto_map": CODE})), "code of its own"),
    "4 bits": (with_file("config.json", json.dumps({"quantization_config": BNB})), "quantised already"),
}


@pytest.mark.parametrize(("spoil", "expected"), ENCODER.values(), ids=ENCODER)
def test_an_encoder_is_looked_at_likewise(spoil: Spoil, expected: str, tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "modules.json").write_text("[]")
    spoil(tmp_path)
    with pytest.raises(UserError, match=expected):
        encoder_folder(str(tmp_path))
    with pytest.raises(UserError, match=expected):
        load_encoder(str(tmp_path))
