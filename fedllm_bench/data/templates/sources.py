"""Which chat template a run takes, as Jinja source: training, scoring, answering and merging all ask here.

A model maker's template is taken with its switches set: no thoughts (`enable_thinking` is false where nothing else is
said, so that a template of models with thoughts writes an empty thought), and one date for ever (`DATE`, where it asks
for today's), so that a prompt is the same on every day. The source that comes out says so itself, so that plain
transformers renders a merged model's conversations alike.
"""

from __future__ import annotations

import logging
import re
from datetime import date
from functools import cache
from typing import Any

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.data.chat import NAMES, render, template_text
from fedllm_bench.data.rows import Turn

log = logging.getLogger(__name__)
MODEL = "model"  # the name of the template that a tokenizer brings along
PLAIN = "plain"  # in its place, where it brings none
DATE = date(2024, 7, 26)  # what Llama-3's own template takes where it cannot ask for today's
TODAY = re.compile(r"""strftime_now\(\s*(["'])([^"'{}\\]*)\1\s*\)""")
NO_THOUGHTS = "{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}"
ANY_DATE = "{%- macro strftime_now(format) -%}" + DATE.strftime("%d %b %Y") + "{%- endmacro -%}"
# Marks in a rendered text; fedllm_bench.data.control.MARK is for a whole token.
MARKS = re.compile(r"<[|\uff5c][^<>\s]+[|\uff5c]>|<<\w+>>|</?\w[\w.:-]*>|\[/?[A-Z][A-Z0-9_]*\]")
PROBE: list[Turn] = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]


def source_for(name: str, tokenizer: Any, model: str) -> str:
    """The Jinja source of the template called `name` for the tokenizer of the base `model`.

    Under "model" it is the tokenizer's own, and "plain" where it has none. Raises a :class:`UserError` for a name that
    there is not, and for one of the suite's templates that writes marks which are no tokens of this tokenizer.
    """
    if name == MODEL:
        own = own_source(tokenizer)
        if own is not None:
            return own
        _say_plain(model)
        return template_text(PLAIN)
    check_name(name)
    source = template_text(name)
    check_marks(name, source, tokenizer, model)
    return source


def check_name(name: str) -> None:
    """Raise a :class:`UserError` for a name that no template has."""
    if name not in (*NAMES, MODEL):
        raise unknown("chat template", name, (*NAMES, MODEL))


def own_source(tokenizer: Any) -> str | None:
    """The tokenizer's own template, with its switches set; None where it has none. Of several it is the default."""
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    return pinned(own) if isinstance(own, str) and own.strip() else None


def pinned(source: str) -> str:
    """A template that neither thinks, where nothing else is said, nor asks for today's date; twice is as once."""
    source = TODAY.sub(lambda found: f'"{DATE.strftime(found[2])}"', source)
    if re.search(r"strftime_now\s*\(", source) and ANY_DATE not in source:  # its format is made elsewhere
        source = ANY_DATE + source
    if "enable_thinking" in source and NO_THOUGHTS not in source:
        source = NO_THOUGHTS + source
    return source


def check_marks(name: str, source: str, tokenizer: Any, model: str) -> None:
    """Raise a :class:`UserError` where a mark that one of the suite's templates writes is no token of the tokenizer.

    Then the model would read it as a few letters, and what ends an answer in training would end none in answering.
    """
    ((*segments,),) = render(source, [PROBE], {"eos_token": tokenizer.eos_token or ""})
    for mark in dict.fromkeys(MARKS.findall("".join(segment.text for segment in segments))):
        if not is_token(mark, tokenizer):
            raise UserError(
                f"data.template={name} writes {mark}, which is no token of MODEL={model}; take the model's own "
                "template: --set data.template=model (fedllm-bench answer: --template model)"
            )


def is_token(mark: str, tokenizer: Any) -> bool:
    """Whether the tokenizer makes one token of it, which is not the one for what it does not know."""
    ids = tokenizer([mark], add_special_tokens=False)["input_ids"][0]
    return len(ids) == 1 and (ids[0] != tokenizer.unk_token_id or mark == tokenizer.unk_token)


@cache
def _say_plain(model: str) -> None:
    log.info("data.template=model: MODEL=%s has no chat template of its own, so the template is plain", model)
