"""A file of settings as the words of --set: `bench --preset FILE`, in the form that `tune` writes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError, escaped, first_line
from fedllm_bench.common.files import at_home
from fedllm_bench.config.assignments import FileWord
from fedllm_bench.config.option_names import unknown_option
from fedllm_bench.config.run import dotted, option_types
from fedllm_bench.config.setting_words import setting_words

MOST_BYTES = 1_000_000  # more is no file of settings
LONGEST_NAME = 300  # letters of a file's name in a message
ADVICE = "give a TOML file with settings, as `fedllm-bench tune` writes one"


def words_in(given: str) -> tuple[str, ...]:
    """The words of "FILE", or of "METHOD:FILE" with "METHOD:" before each.

    Raises a :class:`UserError` for what cannot be read, for a file without settings, and for names that no run has.
    """
    method, colon, name = ("", "", given) if _is_file(given) else given.rpartition(":")
    where = f"--preset {escaped(given[:LONGEST_NAME])}"
    flat = _named(dotted, read_toml(at_home(name or given), where, ADVICE), where)
    _check_names(flat, where)
    words = tuple(FileWord(f"{method}{colon}{word}", where) for word in _named(setting_words, flat, where))
    if not words:
        raise UserError(f"{where}: there is no setting in it; write [local] and lr = 1e-3, for example")
    return words


def _is_file(given: str) -> bool:
    """False also for what can be the name of no file."""
    try:
        return Path(given).is_file()
    except (OSError, ValueError):
        return False


def read_toml(path: Path, where: str, advice: str) -> dict[str, Any]:
    """The values of a small TOML file that a user gave with the option `where`; a byte order mark is passed over.

    Raises a :class:`UserError` with `advice` for what is no file, and for one that is too large or no TOML.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{where}: it is a folder or a device, and no file; {advice}")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"{where}: {size:,} bytes are too many, at most {MOST_BYTES:,} are read; {advice}")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or first_line(error)}; {advice}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: it is not TOML: its text is not UTF-8; {advice}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: it is not TOML: {first_line(error)}; {advice}") from error


def _named(function: Any, values: Any, where: str) -> Any:
    """`function` of the values of a file; what is wrong with them is said with the file's name."""
    try:
        return function(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_names(keys: Iterable[str], where: str) -> None:
    """Refuse a name that is no setting. Those of a method are its own, and checked with it."""
    known = option_types()
    for key in keys:
        if "." in key and not key.startswith("method.") and key not in known:
            raise UserError(f"{where}: {unknown_option(key, known)}")
