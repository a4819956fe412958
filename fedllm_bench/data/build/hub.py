"""Raw rows from the Hugging Face hub at one commit, streamed: memory stays bounded, and nothing is kept on disk.

A build reads its rows twice, so they travel twice; whoever builds often downloads the files once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.data.fetch.mirror import HUB_NAME

log = logging.getLogger(__name__)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """A dataset of the hub at a commit."""

    name: str
    revision: str

    def __str__(self) -> str:
        return f"hub:{self.name}@{self.revision}"

    def rows(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Each row as (split of the hub, number within it, column -> value), split after split.

        Raises a :class:`UserError` for a dataset that is gated, missing, unreachable or unreadable.
        """
        import datasets

        # of httpx2, or of httpx before version 2 of the hub's client
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        log.info("reading %s", self)
        try:
            with network.blamed():
                splits = datasets.load_dataset(self.name, revision=self.revision, streaming=True)
                for split in sorted(splits):
                    for number, row in enumerate(splits[split], start=1):
                        yield str(split), number, row
        except UserError:
            raise
        # A dataset that cannot be parsed is a ValueError or a RuntimeError there.
        except (datasets.exceptions.DatasetsError, HTTPError, OSError, ValueError, RuntimeError) as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> UserError:
        if any("gated" in f"{type(cause).__name__} {cause}".lower() for cause in _causes(error)):
            return UserError(
                f"{self} is gated: accept its licence at https://huggingface.co/datasets/{self.name}, run "
                "`hf auth login` with a token that may read it, and build again"
            )
        reason = first_line(error)[:200]
        return UserError(
            f"cannot read {self} ({reason}); check the name and the connection (HF_HUB_OFFLINE unset), give --raw "
            "local files, or fetch a prebuilt split: fedllm-bench data get DATASET --from MIRROR"
        )


def raw_source(text: str) -> Path | HubSource:
    """What `--raw` names: a dataset of the hub, or a local file or folder."""
    if not text.startswith("hub:"):
        return Path(text)
    name, _, revision = text.removeprefix("hub:").partition("@")
    if not HUB_NAME.fullmatch(name):
        raise UserError(f"--raw {text[:200]!a} is not hub:ORG/NAME@COMMIT")
    if not COMMIT.fullmatch(revision):
        got = f"the revision {revision[:60]!a} is" if revision else "no revision is given, which must be"
        must = "not the 40 hex digits of a commit" if revision else "the 40 hex digits of a commit"
        raise UserError(
            f"--raw hub:{name}: {got} {must}; the commits are listed at "
            f"https://huggingface.co/datasets/{name}/commits/main"
        )
    return HubSource(name, revision)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
