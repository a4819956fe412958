"""Where base models lie: in the package, in a folder, or in the hub's cache. Nothing here loads torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fedllm_bench import network
from fedllm_bench.config import EMBEDDED_MODEL
from fedllm_bench.errors import UserError
from fedllm_bench.files import sha256_file, sha256_json

ADVICE = "give a folder in Hugging Face format, an id of the hub, or 'mini'"
LOADED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
)  # what from_pretrained reads; weights as pickle are refused


def locate(name: str, revision: str | None = None) -> Path:
    """The folder of a base model; an id of the hub is fetched when it is not in the local cache.

    Raises a :class:`UserError` where there is no such model.
    """
    if name == EMBEDDED_MODEL:
        return Path(str(files("fedllm_bench.data.mini") / "base"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"MODEL={name}: the folder has no config.json, so it is not a model; {ADVICE}")
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UserError(f"MODEL={name}: no such folder; {ADVICE}")
    return _from_hub(name, revision)


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


def not_a_model(name: str, error: Exception) -> UserError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(f"MODEL={name}: no causal language model could be loaded ({reason[:200]}); {ADVICE}")


def fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of the files that a model is loaded from."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in LOADED]
    # A cached snapshot of the hub links to blobs that are named by their hash: nothing needs to be read.
    return sha256_json({p.name: p.resolve().name if p.is_symlink() else sha256_file(p) for p in found})
