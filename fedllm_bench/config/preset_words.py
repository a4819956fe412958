"""A file of settings as the words of --set: `bench --preset FILE`, in the form that `tune` writes."""

from __future__ import annotations

import tomllib
from pathlib import Path

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.config.run import dotted
from fedllm_bench.config.setting_words import setting_words

MOST_BYTES = 1_000_000  # more is no file of settings


def words_in(given: str) -> tuple[str, ...]:
    """The words of "FILE", or of "METHOD:FILE" with "METHOD:" before each.

    Raises a :class:`UserError` for what cannot be read, and for a file without settings.
    """
    method, colon, name = ("", "", given) if Path(given).is_file() else given.rpartition(":")
    path = Path(name or given).expanduser()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"--preset {given}: {path.stat().st_size:,} bytes are no file of settings")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"--preset {given}: {error.strerror or first_line(error)}"
        raise UserError(f"{text}; give a TOML file with settings, as `fedllm-bench tune` writes one") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--preset {given}: it is not TOML: {first_line(error)}") from error
    words = tuple(f"{method}{colon}{word}" for word in setting_words(dotted(values)))
    if not words:
        raise UserError(f"--preset {given}: there is no setting in it; write [local] and lr = 1e-3, for example")
    return words
