"""Prompts for judges: MT-Bench's own, fetched and pinned by hash, and the suite's, in templates.toml beside this file;
and text of a model as it is put before a judge: bounded, valid, and without control characters.

MT-Bench: Zheng et al., 2023 (arXiv:2306.05685), appendix A; the eight templates of FastChat's judge_prompts.jsonl.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files as package_files

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.fetch.assets import ASSETS, fetch
from fedllm_bench.evaluation.records import STRICT

ASSET = "mt_bench/judge_prompts.jsonl"
PLACE = re.compile(r"\{((?:question|answer|ref_answer)(?:_[12ab])*)\}")
Messages = tuple[Mapping[str, str], ...]  # {"role", "content"}, as chat endpoints take them


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JudgeTemplate:
    """`low` and `high` bound the rating that is asked for; a pairwise one asks for [[A]], [[B]] or [[C]]."""

    name: str
    system: str
    prompt: str
    low: float = 1.0
    high: float = 10.0

    def filled(self, values: Mapping[str, str]) -> Messages:
        """The request with each place filled once: what stands in braces inside a value stays as it is."""
        user = PLACE.sub(lambda place: values[place[1]], self.prompt)
        system = ({"role": "system", "content": self.system},) if self.system else ()
        return (*system, {"role": "user", "content": user})


@functools.cache
def own_templates() -> dict[str, JudgeTemplate]:
    """The suite's own: name -> template."""
    tables = tomllib.loads(_own_text())
    return {name: JudgeTemplate(name=name, **table) for name, table in tables.items()}


@functools.cache
def scores_template() -> JudgeTemplate:
    """That asks for two scores of a pair, as the Vicuna blog's reviewer does (pair_scores.toml)."""
    text = package_files(__package__).joinpath("pair_scores.toml").read_text(encoding="utf-8")
    ((name, table),) = tomllib.loads(text).items()
    return JudgeTemplate(name=name, **table)


def mt_bench_templates() -> dict[str, JudgeTemplate]:
    """MT-Bench's: name -> template. Raises a :class:`UserError` where the asset cannot be fetched."""
    try:
        rows = [json.loads(line) for line in fetch(ASSET).read_text(encoding="utf-8").split("\n") if line.strip()]
        asked = [
            {"name": row["name"], "system": row["system_prompt"], "prompt": row["prompt_template"]} for row in rows
        ]
        return {template.name: template for template in TypeAdapter(list[JudgeTemplate]).validate_python(asked)}
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{ASSET} has no judge prompts ({error}); remove it from the cache and the mirror") from error


@functools.cache
def templates_hash() -> str:
    """Of all templates; MT-Bench's by the hash they are pinned with, so that they need not be there."""
    return files.sha256_json({"mt_bench": ASSETS[ASSET].sha256, "own": tomllib.loads(_own_text())})


def _own_text() -> str:
    return package_files(__package__).joinpath("templates.toml").read_text(encoding="utf-8")


MOST_CHARACTERS = 20_000  # five times an answer of 1,024 tokens in English

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

CUT = "\n[the rest of this text, {} characters, is not shown]"


def shown(text: str) -> str:
    """`text` without control characters (each becomes U+FFFD), cut after 20,000 characters with a note of how many."""
    kept = text[:MOST_CHARACTERS].replace("\r\n", "\n")
    return CONTROL.sub("\ufffd", kept) + (CUT.format(hidden(text)) if hidden(text) else "")


def hidden(text: str) -> int:
    """How many characters of `text` a judge does not see."""
    return max(0, len(text) - MOST_CHARACTERS)
