"""Where base models lie: in the package, in a folder, or in the hub's cache. Nothing here loads torch."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_file, sha256_json
from fedllm_bench.config import model_files
from fedllm_bench.config.run import EMBEDDED_MODEL

BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # Git's hash of small files, sha256 of large ones
ADVICE = "give a folder in Hugging Face format, an id of the hub, or 'mini'"
LOADED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
)  # what from_pretrained reads; weights as pickle are refused


def locate(name: str, revision: str | None = None) -> Path:
    """The folder of a base model; an id of the hub is fetched when it is not in the local cache.

    Raises a :class:`UserError` where there is no such model, and for one that holds more than plain weights (an
    adapter, code, pickles, quantised weights): nothing is loaded that was not asked for.
    """
    if name == EMBEDDED_MODEL:
        return Path(str(files("fedllm_bench.mini") / "base"))
    folder = _own_folder(name) or _from_hub(name, revision)
    problem = model_files.problem(folder)
    if problem is not None:
        raise UserError(f"MODEL={name}: {problem}")
    return folder


def locate_settings(name: str, revision: str | None = None) -> Path:
    """As :func:`locate`, where config.json alone is needed: of a model on the hub no other file is fetched."""
    if name == EMBEDDED_MODEL:
        return locate(name)
    folder = _own_folder(name) or _settings_from_hub(name, revision)
    try:
        problem = model_files.problem_of_settings(model_files.read_settings(folder))
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise UserError(f"MODEL={name}: {problem}")
    return folder


def _own_folder(name: str) -> Path | None:
    """The folder of this name; None for what may be an id of the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / model_files.CONFIG).is_file():
            return folder
        if (folder / model_files.ADAPTER_CONFIG).is_file():
            raise UserError(
                f"MODEL={name}: the folder holds an adapter and no model; give its base model as MODEL and the adapter "
                f"with --set model.adapter={name}"
            )
        raise UserError(f"MODEL={name}: the folder has no config.json, so it is not a model; {ADVICE}")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UserError(f"MODEL={name}: no such folder; {ADVICE}")
    return None


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [f"*{ending}" for ending in LOADED]
    try:
        with network.blamed():
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # the hub's errors are of these two kinds
        raise not_a_model(name, error) from error


def _settings_from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, model_files.CONFIG, revision=revision)).parent
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
