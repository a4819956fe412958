"""Embeddings: of the real encoder as sentence-transformers gives them, each text once, kept; and of LSA."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sentence_model import encoder_folder

from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.embedding import sentences
from fedllm_bench.diversity.embedding.cache import ValueCache
from fedllm_bench.diversity.embedding.encoder import embed, fingerprint
from fedllm_bench.diversity.embedding.lsa import MAX_CHARACTERS
from fedllm_bench.diversity.embedding.sentences import Encoding, batches
from fedllm_bench.diversity.embedding.settings import DEFAULT_MODEL, EncoderSettings

TEXTS = [
    "Where do penguins live?",
    "short",
    "A recipe for bread: " + "flour, water, salt and yeast, " * 12,
    "Where do penguins live?",
    "",
    "日本の首都はどこですか",
    "word " * 900,
]
LSA = EncoderSettings(name="lsa")


@pytest.fixture(scope="module")
def folder() -> Path:
    return encoder_folder()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that went through the model, in order."""
    seen: list[str] = []
    real = Encoding._encode

    def spy(self: Encoding, texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(Encoding, "_encode", spy)
    return seen


def _settings(folder: Path, **options: int) -> EncoderSettings:
    return EncoderSettings(name=str(folder), device="cpu", **options)


@pytest.mark.slow
def test_vectors_are_the_librarys_and_each_text_is_encoded_once(
    folder: Path, tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sentences.load(folder, _settings(folder))
    expected = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    monkeypatch.setattr(sentences, "load", lambda *_: model)
    found = embed(TEXTS, _settings(folder), ValueCache(tmp_path))
    assert found.vectors == pytest.approx(expected, abs=1e-5)
    assert found.vectors.dtype == np.float32
    assert sorted(encoded) == sorted(set(TEXTS))
    assert (found.num_truncated, found.max_tokens) == (1, 256)
    assert found.about == {"id": folder.name, "dimensions": 384, "max_tokens": 256, "truncated_rows": 1}


def test_what_is_kept_needs_no_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed(TEXTS, _settings(folder), ValueCache(tmp_path))

    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(sentences, "load", refuse)
    again = embed(TEXTS[::-1], _settings(folder), ValueCache(tmp_path))
    assert np.array_equal(again.vectors[::-1], first.vectors)
    assert again.num_truncated == first.num_truncated
    for other in (_settings(folder, max_tokens=64), EncoderSettings(name=str(folder), prompt="query: ")):
        with pytest.raises(AssertionError, match="loaded"):
            embed(TEXTS, other, ValueCache(tmp_path))


def test_an_interrupted_call_keeps_what_it_had(
    folder: Path, tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Encoding._encode

    def third_time(self: Encoding, texts: list[str]) -> np.ndarray:
        if len(encoded) >= 2:
            raise KeyboardInterrupt
        return real(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Encoding, "_encode", third_time)
        with pytest.raises(KeyboardInterrupt):
            embed(TEXTS, _settings(folder, batch_tokens=1), ValueCache(tmp_path))
    done = list(encoded)
    embed(TEXTS, _settings(folder, batch_tokens=1), ValueCache(tmp_path))
    assert len(done) == 2
    assert sorted(encoded) == sorted(set(TEXTS))  # the two are not among those of the second call


def test_what_is_computed_is_written_as_it_goes(
    folder: Path, tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill runs no last words: at each batch those before it are on disk."""
    real, kept = ValueCache.put_many, []

    def counted(self: ValueCache, values: Mapping[str, np.ndarray]) -> None:
        real(self, values)
        kept.append((len(encoded), len(values)))

    monkeypatch.setattr(sentences, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(ValueCache, "put_many", counted)
    embed(TEXTS[:3], _settings(folder, batch_tokens=1), ValueCache(tmp_path))
    assert kept == [(1, 1), (2, 1), (3, 1), (3, 0)]


def test_a_text_is_cut_where_it_was_said(folder: Path) -> None:
    found = embed(["one two three four five six"] * 2 + ["one two"], _settings(folder, max_tokens=6))
    assert (found.max_tokens, found.num_truncated) == (6, 2)  # six words, [CLS] and [SEP]
    assert np.array_equal(found.vectors[0], found.vectors[1])
    alike = embed(["one two three four", "one two three four five"], _settings(folder, max_tokens=6))
    assert alike.vectors[0] == pytest.approx(alike.vectors[1], abs=1e-6)
    assert alike.num_truncated == 1


@pytest.mark.parametrize("batch_tokens", [1, 50, 300, 10**6])
def test_batches_are_sorted_bounded_and_hold_each_text_once(batch_tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 120, 200).tolist()
    plan = batches(lengths, batch_tokens)
    along = [place for batch in plan for place in batch]
    assert sorted(along) == list(range(200))
    assert [lengths[place] for place in along] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= batch_tokens for batch in plan)
    assert batches([], batch_tokens) == []


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


def test_a_model_that_cannot_be_loaded_is_one_line(broken: Path, tmp_path: Path) -> None:
    (broken / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    wrong = {
        str(broken): "cannot load the encoder 'broken'",
        str(tmp_path / "empty"): "has no modules.json",
        str(tmp_path / "missing"): "no such folder",
        "someone/no-such-model": "cannot fetch the encoder",
        "no-such-model": "cannot fetch the encoder",
        "too/many/parts": "no such folder",
    }
    for name, message in wrong.items():
        with pytest.raises(UserError, match=message) as error:
            embed(["text"], EncoderSettings(name=name, device="cpu"))
        assert "\n" not in str(error.value)
        assert "--embedder" in str(error.value)


def test_pickled_weights_are_not_read(broken: Path) -> None:
    (broken / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="cannot load the encoder"):
        embed(["text"], EncoderSettings(name=str(broken), device="cpu"))


def test_links_are_named_by_what_they_link_to(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        place = linked / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
    assert fingerprint(linked) == fingerprint(folder)


def test_another_model_has_another_fingerprint(broken: Path, folder: Path) -> None:
    before = fingerprint(broken)
    assert before != fingerprint(folder)
    (broken / "1_Pooling" / "config.json").write_text("{}")
    assert fingerprint(broken) != before


def test_without_the_hub_the_default_is_lsa_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = embed(TEXTS, EncoderSettings())
    assert found.id.startswith("lsa-")
    assert DEFAULT_MODEL in caplog.text


@pytest.mark.parametrize("option", ["max_tokens", "batch_tokens"])
def test_limits_below_one_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"{option}=0"):
        EncoderSettings(**{option: 0})
    with pytest.raises(UserError, match="no texts"):
        embed([], LSA)


def test_lsa_vectors_are_units_the_same_in_any_order_and_zero_without_letters(tmp_path: Path) -> None:
    found = embed(TEXTS, LSA)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx([1, 1, 1, 1, 0, 1, 1], abs=1e-5)
    assert np.array_equal(embed(TEXTS[::-1], LSA).vectors[::-1], found.vectors)
    kept = ValueCache(tmp_path)
    assert np.array_equal(embed(TEXTS, LSA, kept).vectors, embed(TEXTS, LSA, kept).vectors)
    assert (found.num_truncated, found.max_tokens) == (1, None)
    assert len(TEXTS[-1]) > MAX_CHARACTERS
    assert not embed(["", " "], LSA).vectors.any()


def test_lsa_tells_languages_apart() -> None:
    german = [f"Welche {what} gibt es in der großen Stadt?" for what in ("Häuser", "Straßen", "Brücken", "Schulen")]
    russian = [f"Какие {what} есть в большом городе?" for what in ("дома", "улицы", "мосты", "школы")]
    vectors = embed(german + russian, LSA).vectors
    likeness = vectors @ vectors.T
    assert likeness[:4, :4].min() > likeness[:4, 4:].max()
