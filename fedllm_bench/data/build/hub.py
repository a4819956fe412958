"""Raw rows from the Hugging Face hub at one commit, streamed: memory stays bounded, and nothing is kept on disk.

A build reads its rows twice, so they travel twice; whoever builds often downloads the files once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.data.build.raw_files import ending
from fedllm_bench.data.build.recipe import Declaration
from fedllm_bench.data.fetch.mirror import HUB_NAME

log = logging.getLogger(__name__)
COMMIT = re.compile(r"[0-9a-f]{40}")
SUBSET = re.compile(r"[\w.-]{1,96}", re.ASCII)
SEVERAL = re.compile(r"Config name is missing\.\s+Please pick one among the available configs: \[([^\n]*)\]")
SECONDS = 20.0  # to hear of the hub at all
LOADERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json", ".ndjson": "json"}  # of `datasets`


@dataclass(frozen=True)
class HubSource:
    """A dataset of the hub at a commit; without one, at the commit that the hub names when it is asked.

    `subset`: one of the parts that some datasets have, which the hub calls configurations. `splits`: those that are
    read; all without any. `files`: those of the repository that hold the rows, where its own loader is a script.
    """

    name: str
    revision: str = ""
    subset: str = ""
    splits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"hub:{self.id}{'@' if self.revision else ''}{self.revision}"

    @property
    def id(self) -> str:
        """Its name, with that of its subset."""
        return f"{self.name}{':' if self.subset else ''}{self.subset}"

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
                splits = self._loaded()
                for split in self._wanted(splits):
                    for number, row in enumerate(splits[split], start=1):
                        yield str(split), number, row
        except UserError:
            raise
        # A dataset that cannot be parsed is a ValueError or a RuntimeError there.
        except (datasets.exceptions.DatasetsError, HTTPError, OSError, ValueError, RuntimeError) as error:
            raise self._trouble(error) from error

    def _loaded(self) -> Any:
        """Split -> its rows, streamed."""
        import datasets

        if self.files:
            places = [f"hf://datasets/{self.name}@{self.revision}/{file}" for file in self.files]
            return datasets.load_dataset(LOADERS[ending(Path(self.files[0]))], data_files=places, streaming=True)
        subset = {"name": self.subset} if self.subset else {}
        return datasets.load_dataset(self.name, revision=self.revision, streaming=True, **subset)

    def _wanted(self, found: Any) -> list[str]:
        """The names of the splits to read, in order."""
        if lacking := [split for split in self.splits if split not in found]:
            raise UserError(f"{self} has no split {lacking[0]!r}; it has {', '.join(sorted(map(str, found)))}")
        return sorted(self.splits or found)

    def _trouble(self, error: Exception) -> UserError:
        if any("gated" in f"{type(cause).__name__} {cause}".lower() for cause in _causes(error)):
            return UserError(
                f"{self} is gated: accept its licence at https://huggingface.co/datasets/{self.name}, run "
                "`hf auth login` with a token that may read it, and build again"
            )
        if subsets := SEVERAL.search(str(error)):
            return UserError(
                f"{self} has several subsets; name one by --raw hub:{self.name}:SUBSET@{self.revision}: "
                f"{subsets[1][:300]}"
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
    place, at, revision = text.removeprefix("hub:").partition("@")
    name, colon, subset = place.partition(":")
    if not HUB_NAME.fullmatch(name) or (colon and not SUBSET.fullmatch(subset)):
        raise UserError(f"--raw {text[:200]!a} is not hub:ORG/NAME, hub:ORG/NAME@COMMIT or hub:ORG/NAME:SUBSET@COMMIT")
    if at and not COMMIT.fullmatch(revision):
        got = f"the revision {revision[:60]!a} is" if revision else "no revision is given, which must be"
        must = "not the 40 hex digits of a commit" if revision else "the 40 hex digits of a commit"
        raise UserError(
            f"--raw hub:{place}: {got} {must}; the commits are listed at https://huggingface.co/datasets/{name}/commits/"
            "main, and without @ it is the newest"
        )
    return HubSource(name, revision, subset)


def declared_source(declared: Declaration) -> HubSource:
    """Where the rows of a declaration are found; a :class:`UserError` for one whose upstream is no dataset of the hub.

    Its commit may be the first digits of one.
    """
    if not HUB_NAME.fullmatch(declared.upstream):
        raise UserError(
            f"data build {declared.dataset}: its upstream ({declared.upstream}) is no dataset of the hub; give --raw "
            "FILE, FOLDER or hub:ORG/NAME"
        )
    return HubSource(declared.upstream, declared.commit, declared.subset, declared.splits, declared.files)


def as_declared(source: HubSource, declared: Declaration) -> HubSource:
    """The source; where it is the upstream itself, with what the declaration says of the upstream's parts."""
    if source.name != declared.upstream:
        return source
    stated = declared_source(declared)
    is_other = source.subset not in ("", stated.subset)
    return replace(source, subset=source.subset or stated.subset, splits=() if is_other else stated.splits,
                   files=() if is_other else stated.files)  # fmt: skip


def at_commit(source: HubSource) -> HubSource:
    """The source with the 40 digits of its commit: its own, else those that the hub says.

    Raises a :class:`UserError` where the hub cannot be asked.
    """
    if COMMIT.fullmatch(source.revision):
        return source
    try:
        revision = asked_commit(source.name, source.revision or None)
    except UserError as error:
        raise UserError(
            f"{source}: {error}; check the name and the connection (HF_HUB_OFFLINE unset), name a commit (--raw "
            f"hub:{source.id}@COMMIT), or give --raw local files"
        ) from error
    log.info("%s is at commit %s", source, revision)
    return replace(source, revision=revision)


def asked_commit(name: str, revision: str | None) -> str:
    """The commit that the hub has under this revision, or its newest; a :class:`UserError` for no good answer."""
    import huggingface_hub
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        with network.blamed():
            found = huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
    except UserError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        is_unknown = getattr(getattr(error, "response", None), "status_code", None) == 404
        what = "the hub has no such dataset or commit that you may read" if is_unknown else "the hub cannot be reached"
        raise UserError(f"{what}: {first_line(error)[:150]}") from error
    commit = str(found.sha)
    if not COMMIT.fullmatch(commit) or not commit.startswith(revision or ""):
        raise UserError(f"the hub names no commit for {revision or 'main'}, but {commit[:60]!a}")
    return commit


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
