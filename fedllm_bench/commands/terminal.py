"""What commands take and say: the parser and options that they share, lines for the user, JSON on request."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, escaped

if TYPE_CHECKING:
    from fedllm_bench.data.manifest import Split

BAD_INPUT = 2


def say(line: str) -> None:
    """A line for the user; what a terminal cannot spell is escaped rather than fatal."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def say_json(path: Path | None, payload: dict[str, Any]) -> None:
    """Write what was said as JSON too, where a path was given."""
    if path is None:
        return
    try:
        files.make_folder(path.parent)
        files.write_json(path, payload)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give --json elsewhere") from error
    say(f"JSON      {path}")


class Parser(argparse.ArgumentParser):
    """Errors in one line, with the nearest option there is."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Each sub-command refuses for itself what it does not know, so that only its own options are suggested."""
        known, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return known, extra

    def error(self, message: str) -> NoReturn:
        kind, _, rest = message.partition(": ")
        if kind == "unrecognized arguments":
            message = _unrecognized(rest.split()[0], set(_options(self)))
        self.exit(BAD_INPUT, f"{self.prog}: {escaped(message)} (see {self.prog} --help)\n")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of all its sub-commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _options(child)


def _unrecognized(word: str, options: set[str]) -> str:
    if not word.startswith("-"):
        return f"one word too many: {word}" + ("; write --set before each setting" if "=" in word else "")
    given = word.partition("=")[0]
    return f"no option {given}{_nearest(given, options)}"


def _nearest(given: str, options: set[str]) -> str:
    """A hint at the option, or the setting of `--set`, that is spelt most alike; "" where none is."""
    own = {option.lstrip("-"): option for option in options}
    words = own
    if "--set" in options:
        from fedllm_bench.config.run import option_types

        settings = {key.rpartition(".")[2]: f"--set {key}=VALUE" for key in option_types()}
        words = settings | own
    word = given.lstrip("-").replace("-", "_")
    near = difflib.get_close_matches(word, words, cutoff=0.6)
    # of two that are as much alike, the option before the setting
    best = max(near, key=lambda name: (difflib.SequenceMatcher(a=name, b=word).ratio(), name in own), default="")
    return f"; did you mean {words[best]}?" if best else ""


def parser_of(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a shortened option would change its meaning when another one is added
    )


def say_split(split: Split) -> None:
    from fedllm_bench.data.card import client_sizes_line, warnings_of
    from fedllm_bench.data.funnel_words import in_words

    manifest = split.manifest
    sizes = [client.train + client.heldout for client in manifest.clients]
    train, heldout = (sum(vars(client)[part] for client in manifest.clients) for part in ("train", "heldout"))
    unseen = sum(client.heldout for client in manifest.unseen)
    say(f"{manifest.name} (dataset {manifest.dataset}, task {manifest.task}) in {split.folder}")
    say(f"  hash     {manifest.hash}")
    say(f"  upstream {manifest.upstream.id}, revision {manifest.upstream.revision or 'not stated'}")
    for part in manifest.parts:
        say(f"  part     {part.dataset}: {part.upstream.id}, revision {part.upstream.revision or 'not stated'}")
    say(f"  licence  {manifest.licence}")
    say(f"  clients  {client_sizes_line(sizes)}")
    say(f"  rows     {train} train, {heldout} held out, {unseen} of {len(manifest.unseen)} unseen users")
    say(f"  {'step':<16}{'removed':>10}{'rows left':>11}{'clients':>9}  reason")
    for step in manifest.funnel:
        counts = f"{step.rows_removed:>10}{step.rows_left:>11}{step.clients_left:>9}"
        say(f"  {step.step:<16}{counts}  {in_words(step.reason)}")
    for line in (*manifest.notes, *warnings_of(manifest, {"heldout": heldout}, sizes)):
        say(f"  note     {line}")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """The option of commands that use plugins; what it names is in use while the command runs (:func:`plugins_of`)."""
    parser.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="FILE",
        help="a method, metric, pipeline or judge in a file of your own; may be repeated (docs/plugins.md)",
    )


def plugins_of(args: argparse.Namespace) -> AbstractContextManager[None]:
    """The plugins of a command that takes some, and nothing for another one: there no file of a user is run."""
    if "plugins" not in args:
        return nullcontext()
    from fedllm_bench.plugins import in_use

    return in_use(args.plugins)
