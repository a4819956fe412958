"""Tokenizers of a few sentences, each with a chat template, in the styles of five makers of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from own_tokenizers import CORPUS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# A beginning that the tokenizer puts; [INST] is text; the answer has a space before it and one behind.
LLAMA2 = """{%- if messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}{%- set talk = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set talk = messages -%}{%- endif -%}
{%- for turn in talk -%}
{%- if turn.role == 'user' -%}
{{- bos_token + '[INST] ' + (system if loop.first else '') + turn.content.strip() + ' [/INST]' -}}
{%- else -%}{{- ' ' + turn.content.strip() + ' ' + eos_token -}}{%- endif -%}
{%- endfor -%}"""

# The day in a system turn that is always there; texts are trimmed; the mark that ends a turn ends an answer.
LLAMA3 = """{{- bos_token -}}
{%- if not date_string is defined -%}
{%- if strftime_now is defined -%}{%- set date_string = strftime_now("%d %b %Y") -%}
{%- else -%}{%- set date_string = "26 Jul 2024" -%}{%- endif -%}
{%- endif -%}
{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content | trim -%}{%- set talk = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set talk = messages -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n\\n' + system + '<|eot_id|>' -}}
{%- for turn in talk -%}
{{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

# Thoughts: the last answer begins with one, which may be empty; earlier ones lose theirs; a switch for the prompt.
QWEN3 = """{%- set last = namespace(user=0) -%}
{%- for turn in messages -%}{%- if turn.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for turn in messages -%}
{%- if turn.role != 'assistant' -%}{{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' -}}
{%- else -%}
{%- set said = turn.content -%}{%- set thought = '' -%}
{%- if '</think>' in turn.content -%}
{%- set said = turn.content.split('</think>')[-1].lstrip('\\n') -%}
{%- set thought = turn.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > last.user -%}
{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') -}}
{%- else -%}{{- '<|im_start|>assistant\\n' + said -}}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""

# No place for a system turn, another name for the assistant, and an end that is not the tokenizer's.
GEMMA = """{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{%- for turn in messages -%}
{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles must alternate') -}}{%- endif -%}
{%- set name = 'model' if turn.role == 'assistant' else turn.role -%}
{{- '<start_of_turn>' + name + '\\n' + turn.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

# A system turn of its own where none is given.
SMOLLM2 = """{%- for turn in messages -%}
{%- if loop.first and turn.role != 'system' -%}{{- '<|im_start|>system\\nYou help people.<|im_end|>\\n' -}}{%- endif -%}
{{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


@dataclass(frozen=True)
class Maker:
    """`end` ends an answer under the own template; `puts_bos`: the tokenizer begins a text with such a token."""

    make: Callable[[], Any]
    template: str
    end: str
    puts_bos: bool


def _begin(backend: Tokenizer, token: str) -> None:
    backend.post_processor = processors.TemplateProcessing(
        f"{token} $A", special_tokens=[(token, backend.token_to_id(token))]
    )


def _byte_level(*special: str) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [*CORPUS, "a\n\nb\n\nc"],
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=list(special), show_progress=False, initial_alphabet=alphabet
        ),
    )
    return bpe


def _pieces(special: list[str], normalizer: Any) -> Tokenizer:
    """Pieces of SentencePiece, and bytes for what is unknown."""
    letters = sorted(set("".join(CORPUS) + "\u2581"))
    vocabulary = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "er", "\u2581t", "\u2581th"]
    ids = {token: number for number, token in enumerate(vocabulary)}
    merges = [("e", "r"), ("\u2581", "t"), ("\u2581t", "h")]
    bpe = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizer
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    bpe.decoder = decoders.Sequence(steps)
    return bpe


def _llama2() -> Any:
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    backend = _pieces(["<unk>", "<s>", "</s>"], normalizers.Sequence(steps))
    _begin(backend, "<s>")
    return _fast(backend, LLAMA2, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _llama3() -> Any:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = _byte_level(*names)
    _begin(backend, names[0])
    return _fast(backend, LLAMA3, bos_token=names[0], eos_token=names[1])


def _qwen3() -> Any:
    tokenizer = _fast(_byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"), QWEN3, eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def _gemma() -> Any:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    backend = _pieces(names, normalizers.Replace(" ", "\u2581"))
    _begin(backend, "<bos>")
    return _fast(backend, GEMMA, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def _smollm2() -> Any:
    backend = _byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return _fast(backend, SMOLLM2, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>")


def _fast(backend: Tokenizer, template: str, **names: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)


MAKERS = {
    "Llama-2": Maker(_llama2, LLAMA2, "</s>", puts_bos=True),
    "Llama-3": Maker(_llama3, LLAMA3, "<|eot_id|>", puts_bos=True),
    "Qwen3": Maker(_qwen3, QWEN3, "<|im_end|>", puts_bos=False),
    "Gemma": Maker(_gemma, GEMMA, "<end_of_turn>", puts_bos=True),
    "SmolLM2": Maker(_smollm2, SMOLLM2, "<|im_end|>", puts_bos=False),
}


@cache
def tokenizer_by(maker: str) -> Any:
    """Shared by tests: one that changes it takes `MAKERS[maker].make()`."""
    return MAKERS[maker].make()
