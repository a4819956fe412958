"""A model behind an address: how it is asked, and by which words the command line calls its settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.preset import Preset, RequestLimits
from fedllm_bench.evaluation.judges.said import ServerWords
from fedllm_bench.evaluation.judges.templates import Messages

SYSTEM_WORDS = re.compile(
    r"\bsystem\b.{0,20}\b(role|prompt|message|instruction)|\brole\b.{0,20}\bsystem\b|\broles must alternate", re.I
)
LIMIT_NAMES = ("max_tokens", "max_completion_tokens", "max_new_tokens")
NOT_KNOWN = re.compile(
    r"support|unknown|unrecogni[sz]ed|extra|permitted|unexpected|allowed|deprecated|\buse .?max_", re.I
)


@dataclass(frozen=True, kw_only=True)
class Served:
    """`who` names it in messages. `key_env` is the variable of its key, which may be missing unless `needs_key`.

    `url_option` and `model_option` are where address and name come from. With `system_role` False what a system prompt
    says goes into the user's turn.
    """

    who: str
    model: str
    base_url: str
    limits: RequestLimits
    key_env: str = ""
    needs_key: bool = True
    system_role: bool = True
    url_option: str
    model_option: str
    noun: str = "model"

    def key(self) -> str:
        """The key in the environment, "" for none. Raises a :class:`UserError` for one that cannot be sent."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        if (self.needs_key and self.key_env and not key) or not (key.isascii() and (not key or key.isprintable())):
            what = "which holds no plain text" if key else "which is not set"
            raise UserError(f"{self.who} needs an API key in the variable {self.key_env}, {what}")
        return key

    def sent(self, messages: Messages) -> list[dict[str, str]]:
        """The messages as they go out."""
        made = [dict(message) for message in messages]
        if not self.system_role and made and made[0]["role"] == "system":
            system, *made = made
            if made and made[0]["role"] == "user":
                made[0]["content"] = f"{system['content']}\n\n{made[0]['content']}"
            else:
                made.insert(0, {"role": "user", "content": system["content"]})
        return made

    @property
    def place(self) -> str:
        return f"{self.who} ({self.model} at {self.base_url})"


def served_judge(preset: Preset) -> Served:
    return Served(
        who=f"the judge {preset.title!r}",
        model=preset.model,
        base_url=preset.base_url,
        limits=preset.limits,
        key_env=preset.key_env,
        system_role=preset.system_role,
        url_option="--judge-url",
        model_option="--judge-model",
        noun="judge",
    )


def option_for(said: ServerWords, options: Mapping[str, Any], *, has_system: bool) -> str:
    """The command's option that leaves out what a server refuses by name; "" where it names nothing that is sent."""
    for name in LIMIT_NAMES:
        if name in options and _names(said, name) and NOT_KNOWN.search(said.line):
            other = "max_tokens" if name != "max_tokens" else "max_completion_tokens"
            return f"--token-limit-name {other} gives the limit of new tokens that name"
    for name in ("seed", "temperature"):
        if name in options and _names(said, name):
            return f"--no-{name} leaves it out"
    if has_system and SYSTEM_WORDS.search(said.text):
        return "--no-system-role puts the system prompt into the user's turn"
    return ""


def _names(said: ServerWords, parameter: str) -> bool:
    is_word = re.search(rf"(?<![A-Za-z0-9_]){parameter}(?![A-Za-z0-9_])", said.text)
    return parameter in said.parameters or (not said.parameters and is_word is not None)
