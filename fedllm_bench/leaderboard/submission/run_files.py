"""The records of one run of a submission, read as what the suite's own functions take."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig, check
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.leaderboard.submission.layout import packed_name
from fedllm_bench.leaderboard.submission.problems import Refused
from fedllm_bench.leaderboard.submission.reading import json_lines, json_value, pieces
from fedllm_bench.leaderboard.submission.schema import RunEntry
from fedllm_bench.scores.score import Score

R = TypeVar("R", Prompt, Answer, Judgement, Score, ClosedSample)
PROMPTS = "prompts"


@dataclass(frozen=True)
class RunFiles:
    """Names are those of a run folder: "rounds.jsonl", though it is packed here."""

    entry: RunEntry
    files: Mapping[str, Path]  # of the whole submission: name -> place

    @property
    def seed(self) -> int:
        return self.entry.seed

    def names(self) -> list[str]:
        """Of all files of the run, as in a run folder, in order."""
        return [name.removeprefix(self._where).removesuffix(".gz") for name in self._own()]

    def has(self, name: str) -> bool:
        return self._inside(name) in self.files

    def json(self, name: str) -> Any:
        """Refused where it is not there or no JSON."""
        return json_value(self._path(name), self._inside(name))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON objects of a .jsonl; [] where there is no such file."""
        return list(json_lines(self._path(name), self._inside(name))) if self.has(name) else []

    def config(self) -> RunConfig:
        """The resolved config; Refused for one that this version of the suite would not run."""
        value = self.json("config.json")
        if not isinstance(value, dict):
            raise Refused("record", "no config: not a JSON object", self._inside("config.json"))
        try:
            return check(value)
        except UserError as error:
            raise Refused("record", f"no config of this version: {error}", self._inside("config.json")) from None

    def metrics(self) -> list[str]:
        """Names of metrics with scores after training."""
        found = (re.fullmatch(r"scores/(.+)\.after\.jsonl", name) for name in self.names())
        return sorted(match[1] for match in found if match)

    def own_metrics(self) -> set[str]:
        """Those of its metrics that its config says to be of plugins."""
        plugins = self.config().plugins if self.has("config.json") else ()
        given = [name.partition(":") for plugin in plugins for name in plugin.gives]
        return {name for kind, _, name in given if kind == "METRICS"}

    def scores(self, metric: str, side: str) -> list[Score]:
        """One score an item, of side before, after or local; [] where there are none. Refused for an item twice."""
        name = f"scores/{metric}.{side}.jsonl"
        scores = self._records(name, Score)
        seen: set[tuple[str, str]] = set()
        for score in scores:
            if (key := (score.cluster, score.item_id)) in seen:
                text = f"two scores of item {score.item_id[:40]!a} of {score.cluster[:40]!a}"
                raise Refused("record", text, self._inside(name))
            seen.add(key)
        return scores

    def benchmarks(self) -> list[str]:
        """Open-ended benchmarks with prompts."""
        found = (re.fullmatch(rf"answers/([^/]+)/{PROMPTS}\.jsonl", name) for name in self.names())
        return [match[1] for match in found if match]

    def sides(self, benchmark: str) -> list[str]:
        """Who answered."""
        found = (re.fullmatch(rf"answers/{re.escape(benchmark)}/([^/]+)\.jsonl", name) for name in self.names())
        return [match[1] for match in found if match and match[1] != PROMPTS]

    def prompts(self, benchmark: str) -> list[Prompt]:
        return self._records(f"answers/{benchmark}/{PROMPTS}.jsonl", Prompt)

    def answers(self, benchmark: str, side: str) -> list[Answer]:
        return self._records(f"answers/{benchmark}/{side}.jsonl", Answer)

    def closed_sides(self) -> list[tuple[str, str]]:
        """Closed benchmarks with the sides that were asked."""
        found = (re.fullmatch(r"closed/([^/]+)/([^/]+)\.jsonl", name) for name in self.names())
        return [(match[1], match[2]) for match in found if match]

    def samples(self, benchmark: str, side: str) -> list[ClosedSample]:
        return self._records(f"closed/{benchmark}/{side}.jsonl", ClosedSample)

    def judges(self) -> list[str]:
        found = (re.fullmatch(r"judgements/([^/]+)/.+", name) for name in self.names())
        return sorted({match[1] for match in found if match})

    def judgements(self, judge: str, benchmark: str, side: str) -> list[Judgement]:
        return self._records(f"judgements/{judge}/{benchmark}/{side}.jsonl", Judgement)

    def unpacked(self, target: Path) -> Path:
        """The run as a run folder at the new folder `target`, gzip undone, for functions that read those."""
        for inside in self._own():
            path = target / inside.removeprefix(self._where).removesuffix(".gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.writelines(pieces(self.files[inside], inside))
        return target

    @property
    def _where(self) -> str:
        return f"runs/{self.seed}/"

    def _own(self) -> list[str]:
        return sorted(name for name in self.files if name.startswith(self._where))

    def _inside(self, name: str) -> str:
        return self._where + packed_name(name)

    def _path(self, name: str) -> Path:
        inside = self._inside(name)
        if inside not in self.files:
            raise Refused("file-required", "it is not there, or not readable", inside)
        return self.files[inside]

    def _records(self, name: str, kind: type[R]) -> list[R]:
        return list(self._checked(name, kind)) if self.has(name) else []

    def _checked(self, name: str, kind: type[R]) -> Iterator[R]:
        inside, adapter, known = self._inside(name), _adapters()[kind], {field.name for field in fields(kind)}
        for number, value in enumerate(json_lines(self._path(name), inside), start=1):
            if unknown := value.keys() - known:  # a dataclass that pydantic did not make passes over them
                text = f"no {kind.__name__.lower()}: unknown key {min(unknown)[:40]!a}"
                raise Refused("record", text, f"{inside}, line {number}")
            try:
                yield adapter.validate_python(value)
            except (ValidationError, ValueError) as error:
                text = f"no {kind.__name__.lower()} ({_first(error)})"
                raise Refused("record", text, f"{inside}, line {number}") from None


@functools.cache
def _adapters() -> dict[Any, TypeAdapter[Any]]:
    return {kind: TypeAdapter(kind) for kind in (Prompt, Answer, Judgement, Score, ClosedSample)}


def _first(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        item = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, item['loc']))[:60]!a}: {item['msg']}"
    return str(error)[:80]
