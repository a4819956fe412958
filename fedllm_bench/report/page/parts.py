"""What every page of the suite shares: its own files, templates that escape, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

PACKAGE, FOLDER = "fedllm_bench.report", "html"


def policy(scripts: Sequence[str], *, images: str = "") -> str:
    """Nothing but the page's own style and its scripts, by their hashes; no form, no base address, no HTML of text.

    `images`: where images may be from, as "data:"; "" is nowhere.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    shown = f"img-src {images}; " if images else ""
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; {shown}script-src {allowed}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )


@functools.cache
def own_file(name: str, package: str = PACKAGE, folder: str = FOLDER) -> str:
    return resources.files(package).joinpath(folder, name).read_text(encoding="utf-8")


@functools.cache
def environment(*before: tuple[str, str]) -> Environment:
    """The templates of the reports, and before them those of each (package, folder)."""
    loaders = [PackageLoader(package, folder) for package, folder in (*before, (PACKAGE, FOLDER))]
    return Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
