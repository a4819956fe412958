"""A base model and its tokenizer as transformers loads them, and as a plain model is written: one way for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.process import loading
from fedllm_bench.common.text import counted
from fedllm_bench.config import base_model, model_files
from fedllm_bench.data.encoder import ChatEncoder

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
NO_TOKENIZER = "the folder has no tokenizer.json; save the model's tokenizer there: tokenizer.save_pretrained(FOLDER)"


@loading()
def load_base(folder: Path, name: str, dtype: Any, **options: Any) -> Any:
    """The causal language model in `folder`, as :func:`fedllm_bench.config.base_model.locate` gave it for `name`.

    Its code is that of transformers and its weights are safetensors. Raises a :class:`UserError` where it cannot be
    loaded, or not with all its weights.
    """
    from transformers import AutoModelForCausalLM

    try:
        base, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    except Exception as error:  # a broken config raises anything, a plain Exception too
        raise base_model.not_a_model(name, error) from error
    _check_weights(found, name)
    return base


@loading()
def load_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer in `folder`; a :class:`UserError` where it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as above
        if not any((folder / file).is_file() for file in TOKENIZERS):
            raise UserError(f"MODEL={name}: {NO_TOKENIZER}") from error
        load_settings(folder, name)  # reads config.json as well: where that is broken, the tokenizer is not to blame
        raise base_model.not_a_model(name, error, "tokenizer") from error


def load_settings(folder: Path, name: str) -> Any:
    """The model's config of transformers; a :class:`UserError` where it cannot be loaded."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as above
        raise base_model.not_a_model(name, error) from error


def named_ends(model: Any) -> list[int]:
    """The ids that a model of transformers names for the end of what it generates: none, one or several."""
    named = model.generation_config.eos_token_id
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def prepare_to_chat(model: Any, tokenizer: Any, template: str) -> None:
    """Give a plain model the template it was trained with, and its settings of generation what ends an answer.

    So `apply_chat_template` and `generate` of transformers ask it as it was asked here, and stop where it ends.
    """
    chat = ChatEncoder(tokenizer, template)
    settings = model.generation_config
    ends = sorted({*named_ends(model), *chat.ends})
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends
    tokenizer.chat_template = chat.written_out


def save_plain(
    folder: Path,
    model: Any,
    tokenizer: Any,
    notes: Mapping[str, Any] | None = None,
    texts: Mapping[str, bytes] | None = None,
) -> None:
    """Write a plain model of transformers into `folder`, whole or not at all; `notes` are more JSON files by name.

    `texts` are files by name too: licence and notices of the base.

    Raises a :class:`UserError` where what was written is no whole model, or could not be written.
    """
    from safetensors import SafetensorError

    with files.new_folder(folder) as part:
        try:
            model.save_pretrained(part)
        except SafetensorError as error:  # as where the disk is full, which is no OSError here
            raise UserError(
                f"{folder}: the model could not be written ({first_line(error)[:200]}); what is done is kept: make "
                "room, then give the same command"
            ) from error
        tokenizer.save_pretrained(part)
        for name, note in (notes or {}).items():
            files.write_json(part / name, note)
        files.write_all(part, texts or {})
        problem = model_files.problem(part)
        if problem is not None:
            raise UserError(f"{folder}: what was written is no whole model: {problem}")


def _check_weights(found: dict[str, Any], name: str) -> None:
    """`found` is the loading info of transformers, which leaves weights that it does not find random."""
    wrong = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if wrong:
        raise UserError(
            f"MODEL={name}: {counted(len(wrong), 'weight', 'are')} missing, or of another size than its config.json "
            f"says, as {wrong[0]}; {base_model.ADVICE}"
        )
