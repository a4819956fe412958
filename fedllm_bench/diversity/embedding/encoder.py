"""Texts as unit vectors: by a sentence encoder, each distinct text once, or by LSA where there is none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import at_home, sha256_json
from fedllm_bench.config import base_model, model_files
from fedllm_bench.diversity.embedding.cache import ValueCache
from fedllm_bench.diversity.embedding.lsa import LSA, MAX_CHARACTERS, lsa_vectors
from fedllm_bench.diversity.embedding.settings import ADVICE, DEFAULT_MODEL, EncoderSettings, Floats, prompt_of

log = logging.getLogger(__name__)

ORGANISATION = "sentence-transformers"  # of names without one
READ = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # never pickled weights
LEFT = ("onnx/*", "openvino/*")


@dataclass(frozen=True)
class Embedded:
    """`vectors` of shape (n, d), float32, of length 1 (or 0: a text in which LSA knows nothing)."""

    vectors: Floats
    id: str
    max_tokens: int | None  # None where texts are not cut by tokens
    num_truncated: int

    @property
    def about(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "dimensions": self.vectors.shape[1],
            "max_tokens": self.max_tokens,
            "truncated_rows": self.num_truncated,
        }


def embed(texts: Sequence[str], encoder: EncoderSettings, cache: ValueCache | None = None) -> Embedded:
    """Vectors of `texts`, in their order; with a cache each text is computed once for all calls.

    Raises a :class:`UserError` where the model cannot be loaded or gives no finite vectors, and for no texts.
    """
    if not texts:
        raise UserError("no texts to embed; give at least one row")
    distinct = sorted(set(texts))
    place = {text: number for number, text in enumerate(distinct)}
    rows = np.fromiter((place[text] for text in texts), dtype=np.int64, count=len(texts))
    folder = encoder_folder(encoder.name)
    if folder is None:
        vectors = lsa_vectors(distinct, encoder.seed, cache)
        num_cut = sum(len(text) > MAX_CHARACTERS for text in texts)
        return Embedded(vectors[rows], f"{LSA}-{vectors.shape[1]}", None, num_cut)
    from fedllm_bench.diversity.embedding.sentences import Encoding

    found = Encoding(encoder, folder, _asked(encoder, folder)).vectors(distinct, cache)
    vectors, tokens, limit = found[:, :-2], found[rows, -2], int(found[0, -1])
    return Embedded(vectors[rows], _id_of(encoder.name or DEFAULT_MODEL), limit, int((tokens > limit).sum()))


def _id_of(name: str) -> str:
    """An id of the hub as it is; of a folder its last part: reports go to others, paths do not."""
    return Path(name).name if at_home(name).is_dir() else name


def _asked(encoder: EncoderSettings, folder: Path) -> tuple[str, ...]:
    """What a vector depends on beside its text, as parts of its key in the cache."""
    return ("sentence", "1", fingerprint(folder), str(encoder.max_tokens), repr(prompt_of(encoder)))


def encoder_folder(name: str | None) -> Path | None:
    """Where the encoder lies, fetched if need be; None for LSA.

    Raises a :class:`UserError` where there is no such model. Without a name, LSA stands in for it and a line says so.
    """
    if name == LSA:
        return None
    if name is None:
        try:
            return _checked(_from_hub(DEFAULT_MODEL), DEFAULT_MODEL)
        except UserError as error:
            log.warning("embeddings are of LSA (character n-grams), not of a sentence encoder: %s", error)
            return None
    here = local_encoder(name)
    return here or _checked(_from_hub(name if "/" in name else f"{ORGANISATION}/{name}"), name)


def local_encoder(name: str) -> Path | None:
    """The folder that is called so; None for a name of the hub. Nothing is fetched.

    Raises a :class:`UserError` for a folder that is no encoder, and for what can be no name of the hub.
    """
    folder = at_home(name)
    if folder.is_dir():
        return _checked(folder, name)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"no encoder {name!r}: no such folder; {ADVICE}")
    return None


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with network.blamed():
            return Path(snapshot_download(name, allow_patterns=list(READ), ignore_patterns=list(LEFT)))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # the hub's errors are of these two kinds
        raise UserError(f"cannot fetch the encoder {name!r} ({first_line(error)[:200]}); {ADVICE}") from error


def _checked(folder: Path, name: str) -> Path:
    if not (folder / "modules.json").is_file():
        raise UserError(f"{name!r} is no model of sentence-transformers: it has no modules.json; {ADVICE}")
    problem = model_files.problem_of_encoder(folder)
    if problem is not None:
        raise UserError(f"cannot load the encoder {name!r}: {problem}; {ADVICE}")
    return folder


def fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of the files that an encoder is loaded from."""
    found = sorted({path for pattern in READ for path in folder.rglob(pattern) if path.is_file()})
    named = {path.relative_to(folder).as_posix(): path for path in found}
    kept = {name: path for name, path in named.items() if not name.startswith(("onnx/", "openvino/"))}
    return sha256_json({name: base_model.sha256_of(path) for name, path in kept.items()})
