"""Tokenizers of all kinds, made of a few sentences, with control tokens of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Name a colour, please. The token closes a turn, and the user goes on.",
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "A chat between a curious user and an artificial intelligence assistant gives helpful answers.",
    "### Instruction: ### Response: USER: ASSISTANT: <|end|> </s> [SEP] hi there 0123456789",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]


def fast(backend: Tokenizer, **names: str) -> Any:
    """With the token that begins a text, which it puts there by itself."""
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **names}
    bos = given["bos_token"]
    backend.post_processor = processors.TemplateProcessing(
        f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **given)


def byte_level_bpe() -> Any:
    """As GPT-2's and Llama-3's; the marks of the template `mini` are special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet),
    )
    return fast(bpe)


def byte_fallback_bpe() -> Any:
    """As Llama-2's: pieces of SentencePiece, a space in front by a normaliser, and bytes for what is unknown."""
    letters = sorted(set("".join(CORPUS) + "\u2581"))
    vocabulary = [*SPECIAL[:3], *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "er", "\u2581t", "\u2581th"]
    ids = {token: number for number, token in enumerate(vocabulary)}
    merges = [("e", "r"), ("\u2581", "t"), ("\u2581t", "h")]
    bpe = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    found = fast(bpe)
    found.add_tokens([AddedToken(mark, normalized=False) for mark in SPECIAL[3:]])  # not special, as many fine-tunes do
    return found


def unigram(prepend: str = "first") -> Any:
    """As T5's and Gemma's: the vocabulary itself has </s>, and a normaliser makes it of full-width letters too."""
    model = Tokenizer(models.Unigram())
    model.normalizer = normalizers.NFKC()
    model.pre_tokenizer, model.decoder = pre_tokenizers.Metaspace(prepend_scheme=prepend), decoders.Metaspace()
    model.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL[:3], show_progress=False, unk_token="<unk>"),
    )
    found = fast(model)
    found.add_tokens(SPECIAL[3:])  # neither special nor free of the normaliser
    return found


def always_unigram() -> Any:
    return unigram("always")


def word_piece() -> Any:
    """As BERT's: upper case and accents go, and unknown words are [UNK]; a mark takes the spaces around it."""
    names = ["[UNK]", "[CLS]", "[SEP]"]
    model = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    model.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=names, show_progress=False)
    )
    found = fast(model, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]")
    found.add_tokens([AddedToken(mark, lstrip=True, rstrip=True, special=True) for mark in SPECIAL[3:]])
    return found


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte-level BPE": byte_level_bpe,
    "BPE with bytes": byte_fallback_bpe,
    "Unigram, first": unigram,
    "Unigram, always": always_unigram,
    "WordPiece": word_piece,
}
