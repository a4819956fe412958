"""A run as the files of a submission: nothing private, and equal runs give equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison.run_scores import AFTER
from fedllm_bench.config.plugins import SOURCES
from fedllm_bench.config.run import RunConfig
from fedllm_bench.leaderboard.submission.layout import is_covered, packed_name
from fedllm_bench.leaderboard.submission.reading import digest_of
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.redaction import without_places
from fedllm_bench.runs.folder import CONFIG, RESULTS

TENSORS = "adapter_model.safetensors"
FOLDERS = ("scores", "answers", "closed", "judgements")


def contents_of(run: OwnRun, *, with_adapter: bool) -> dict[str, bytes]:
    """Path inside the submission -> bytes. Text lines are packed; JSON is written again without places."""
    found = [path for path in sorted(run.path.iterdir()) if path.is_file()]
    found += [path for name in FOLDERS for path in sorted((run.path / name).rglob("*")) if path.is_file()]
    found = [path for path in found if path.relative_to(run.path).parts[:2] not in _of_own_judges(run)]
    found += [_source_of(run, plugin.name) for plugin in run.config.plugins]
    if with_adapter and run.adapter is not None:
        found += sorted(path for path in run.adapter.iterdir() if path.is_file())
    contents = {}
    for path in found:
        name = f"runs/{run.seed}/{packed_name(path.relative_to(run.path).as_posix())}"
        if is_covered(name) and not path.is_symlink():
            contents[name] = _packed(run, path)
    for path in sorted((run.baseline / "scores").glob(f"*{AFTER}")) if run.baseline else ():
        contents[f"runs/{run.seed}/scores/{path.name.removesuffix(AFTER)}.local.jsonl.gz"] = _packed(run, path)
    return contents


def _source_of(run: OwnRun, name: str) -> Path:
    """The copy of a plugin in the run folder. Raises a :class:`UserError` where it is not there."""
    path = run.path / SOURCES / name
    if not path.is_file():
        raise UserError(f"RUN={run.path}: there is no {SOURCES}/{name}, the plugin that it was made with; run it again")
    return path


def _of_own_judges(run: OwnRun) -> set[tuple[str, ...]]:
    """The folders of judges that are functions of a plugin: nobody can ask them again, so they are left out."""
    found = sorted((run.path / "judgements").glob("*/judge.json"))
    return {path.relative_to(run.path).parts[:2] for path in found if _is_own(_json(path))}


def _is_own(judge: Any) -> bool:
    options = judge.get("options") if isinstance(judge, dict) else None
    return isinstance(options, dict) and judge.get("kind") == "rule" and "plugin" in options


def _packed(run: OwnRun, path: Path) -> bytes:
    if path.suffix == ".py":
        content = path.read_bytes()
        _check_private(run, path, content.decode("utf-8", "replace"))
        return content
    content = path.read_bytes() if path.suffix != ".json" else _public_json(run, path)
    return compressed(content) if packed_name(path.name) != path.name else content


def _public_json(run: OwnRun, path: Path) -> bytes:
    content = encoded(PUBLIC.get(path.name, _public)(run, path))
    _check_private(run, path, content.decode())
    return content


def compressed(content: bytes) -> bytes:
    """Equal bytes give equal bytes: no time and no name is kept."""
    return gzip.compress(content, compresslevel=9, mtime=0)


def encoded(value: Any) -> bytes:
    """JSON that people can read; equal values give equal bytes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _public(run: OwnRun, path: Path) -> Any:
    return without_places(_json(path))


def public_config(config: RunConfig) -> dict[str, Any]:
    """The resolved config as it is published: its split is named by the hash in environment.json, not by a path."""
    model = config.model
    adapter = model.adapter and public_name(model.adapter)
    model = replace(model, name=public_name(model.name), adapter=adapter)
    return replace(config, split=None, model=model).to_dict()


def public_name(name: str) -> str:
    """Of a model or starting adapter: an id of the hub as it is, of a folder its last part."""
    is_folder = name.count("/") > 1 and not name.startswith("hub:")
    public: str = without_places(f"./{name}" if is_folder else name)
    return public or "unnamed"


def _public_results(run: OwnRun, path: Path) -> dict[str, Any]:
    """Without places in the name of the model; ids of clients stay as in the scores, whatever they look like."""
    about, model = dict(run.results["run"]), run.config.model
    for place in filter(None, (model.adapter, model.name)):
        about["model"] = about["model"].replace(place, public_name(place))
    if "base" in about:  # results of before do not say it
        about["base"] = public_name(about["base"])
    return {**run.results, "run": about}


def _public_config(run: OwnRun, path: Path) -> dict[str, Any]:
    return public_config(run.config)


PUBLIC: dict[str, Callable[[OwnRun, Path], Any]] = {CONFIG: _public_config, RESULTS: _public_results}


def _check_private(run: OwnRun, path: Path, text: str) -> None:
    """The last look: whoever runs this has a home, and the records lie somewhere in it."""
    for place in (Path.home(), run.path.resolve().parent, Path.cwd()):
        if len(place.parts) > 1 and re.search(rf"(?<![\w.-]){re.escape(str(place))}(?![\w-])", text):
            raise UserError(f"{path} holds the place {place}, which would become public; take it out there")


def _json(path: Path) -> Any:
    try:
        return files.read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON; make it again, or remove it") from error


def packed_rows(rows: Iterable[Any]) -> bytes:
    """Rows as packed JSON lines."""
    text = "".join(f"{files.canonical_json(row)}\n" for row in rows)
    return compressed(text.encode())


def adapter_digest(run: OwnRun) -> tuple[str, int] | None:
    """sha256 and bytes of the trained adapter's tensors; None where a run has no adapter of all clients."""
    path = None if run.adapter is None else run.adapter / TENSORS
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"RUN={run.path}: there is no {path.relative_to(run.path)}; run it again")
    return digest_of(path, path.stat().st_size)


def listed(contents: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """`files` of submission.json."""
    return {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in sorted(contents.items())
    }
