"""Where base models lie: in the package, in the cache, in a folder, or in the hub's cache. Nothing here loads torch."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, nearest
from fedllm_bench.common.files import at_home, sha256_file, sha256_json
from fedllm_bench.config import model_files
from fedllm_bench.config.bases import declared, store
from fedllm_bench.config.bases.labels import is_gguf
from fedllm_bench.config.run import EMBEDDED_MODEL

BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # Git's hash of small files, sha256 of large ones
ADVICE = "give a folder in Hugging Face format, an id of the hub, a base of `fedllm-bench model list`, or 'mini'"
LOADED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
)  # what from_pretrained reads; weights as pickle are refused


def locate(name: str, revision: str | None = None) -> Path:
    """The folder of a base model; what is not in a cache is fetched: a named base, or an id of the hub.

    Raises a :class:`UserError` where there is no such model, and for one that holds more than plain weights (an
    adapter, code, pickles, quantised weights): nothing is loaded that was not asked for.
    """
    if name == EMBEDDED_MODEL:
        return Path(str(files("fedllm_bench.mini") / "base"))
    folder = _own_folder(name, revision) or _from_hub(*on_hub(name, revision), name)
    problem = model_files.problem(folder)
    if problem is not None:
        raise UserError(f"MODEL={name}: {problem}")
    return folder


def locate_settings(name: str, revision: str | None = None) -> Path:
    """As :func:`locate`, where config.json alone is needed: of a model on the hub no other file is fetched.

    Of a named base on the hub that is not there none is: the shape that is declared of it does.
    """
    if name == EMBEDDED_MODEL:
        return locate(name)
    base = declared.base_of(name)
    if base is not None and base.config and revision is None and not is_available(name):
        return store.shape_of(base)
    folder = _own_folder(name, revision) or _settings_from_hub(*on_hub(name, revision), name)
    try:
        problem = model_files.problem_of_settings(model_files.read_settings(folder))
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise UserError(f"MODEL={name}: {problem}")
    return folder


def on_hub(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Id and revision on the hub of what a config calls `name`: those declared of a named base, else as they are."""
    base = declared.base_of(name)
    return (base.hub, revision or base.revision) if base is not None else (name, revision)


def is_available(name: str, revision: str | None = None) -> bool:
    """Whether nothing must be fetched for `name`: a cached config.json is taken as a sign of the hub's whole model."""
    if name == EMBEDDED_MODEL:
        return True
    base = declared.base_of(name)
    if base is not None and base.gguf is not None:
        return store.found(base) is not None
    if base is None and ((Path(name) / model_files.CONFIG).is_file() or (is_gguf(name) and Path(name).is_file())):
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, revision = on_hub(name, revision)
    try:
        return isinstance(try_to_load_from_cache(repository, model_files.CONFIG, revision=revision), str)
    except HFValidationError:  # a path or a sentinel, which is no id of the hub
        return False


def _own_folder(name: str, revision: str | None) -> Path | None:
    """The folder of this name; None for what may be an id of the hub, and for a named base that is there."""
    if (base := declared.base_of(name)) is not None:
        return None if base.gguf is None else _converted(base, revision)
    folder = at_home(name)
    if folder.is_dir():
        return _checked_folder(folder, name)
    if is_gguf(name) and folder.is_file():
        return store.get_file(folder)
    if is_gguf(name) or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        kind = "file" if is_gguf(name) else "folder"
        what = f"a file, and no folder; {ADVICE}" if folder.is_file() else f"no such {kind}; {ADVICE}"
        near = nearest(name, declared.names())
        raise UserError(f"MODEL={name}: {f'no such base or folder; did you mean {near!r}? {ADVICE}' if near else what}")
    return None


def _converted(base: declared.Base, revision: str | None) -> Path:
    if revision is not None:
        raise UserError(
            f"model.revision={revision}: {base.name} comes from packages of fixed versions and not from the hub; leave "
            f"model.revision out, or give MODEL={base.hub}"
        )
    return store.get(base)


def _checked_folder(folder: Path, name: str) -> Path:
    if (folder / model_files.CONFIG).is_file():
        return folder
    if (folder / model_files.ADAPTER_CONFIG).is_file():
        raise UserError(
            f"MODEL={name}: the folder holds an adapter and no model; give its base model as MODEL and the adapter "
            f"with --set model.adapter={name}"
        )
    packed = sorted(path for path in folder.iterdir() if is_gguf(path.name))
    if packed:
        raise UserError(
            f"MODEL={name}: the folder has no config.json, and weights as GGUF; give the file itself: MODEL={packed[0]}"
        )
    raise UserError(f"MODEL={name}: the folder has no config.json, so it is not a model; {ADVICE}")


def _from_hub(repository: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [f"*{ending}" for ending in LOADED]
    try:
        with network.blamed():
            return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # the hub's errors are of these two kinds
        raise not_a_model(name, error) from error


def _settings_from_hub(repository: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, model_files.CONFIG, revision=revision)).parent
    except (OSError, ValueError) as error:
        raise not_a_model(name, error) from error


def not_a_model(name: str, error: Exception, kind: str = "causal language model") -> UserError:
    if "trust_remote_code" in str(error):  # of a tokenizer, or of a class that config.json alone does not show
        return UserError(f"MODEL={name}: it brings code of its own; {model_files.NO_CODE}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return UserError(f"MODEL={name}: no {kind} could be loaded ({reason[:200]}); {ADVICE}")


def fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of the files that a model is loaded from."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in LOADED]
    return sha256_json({path.name: sha256_of(path) for path in found})


def sha256_of(path: Path) -> str:
    """Of a file's content. A cached snapshot of the hub links to blobs that are named by it: nothing is read."""
    target = path.resolve()
    is_blob = path.is_symlink() and target.parent.name == "blobs" and BLOB.fullmatch(target.name)
    return target.name if is_blob else sha256_file(path)
