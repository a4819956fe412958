"""The split that somebody named: a folder, a data set's name, or a place to fetch it from. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench.common import files, hardware
from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config import presets
from fedllm_bench.config.run_labels import INVENTED
from fedllm_bench.data.manifest import MANIFEST, Split, open_split
from fedllm_bench.runs.cell import resolve_split


def find_split(name: str, option: str) -> Split:
    """The split of a folder, else of a data set's name. Raises a :class:`UserError` where there is neither."""
    folder = files.at_home(name)
    plain = name.removeprefix(INVENTED)
    if plain not in _names() or (folder / MANIFEST).is_file():
        return _in_folder(name, option)
    if name == plain and hardware.has_cuda():
        raise UserError(
            f"{option}={name}: with a GPU this is the published data set, which is not in the package; get or build it "
            f"(fedllm-bench data get {name} --help) and give its folder, or mini-{name} for the embedded one"
        )
    return embedded_split(plain)


def embedded_split(dataset: str) -> Split:
    """The split of the embedded world in the form of `dataset`. Raises a :class:`UserError` for an unknown name."""
    return resolve_split(presets.load(dataset, "fedavg", "mini"))


def fetched_split(dataset: str, source: str, out: Path | None = None) -> Split:
    """A published split in `out`, else in a folder of the cache: fetched once, and opened there from then on.

    `source` is "official" (the published zip), "hub:ORG/NAME@REV", an https address or the folder of a mirror.
    Raises a :class:`UserError` where it cannot be fetched, or is another data set.
    """
    from fedllm_bench.data.fetch.mirror import get_mirror
    from fedllm_bench.data.fetch.official import get_official
    from fedllm_bench.data.published import ALIASES

    name = ALIASES.get(dataset, dataset)
    folder = out or files.cache_root() / "splits" / f"{Path(name).name}-{files.sha256_json([name, source])[:10]}"
    if (folder / MANIFEST).is_file():
        return open_split(folder)
    files.make_folder(folder.parent)
    return get_official(name, folder)[0] if source == "official" else get_mirror(name, source, folder)


def split_from(name: str, source: str | None = None, out: Path | None = None) -> Split:
    """The embedded split of a data set's name, a folder's own, or the one of `source`, which may be fetched into `out`.

    Raises a :class:`UserError` for a name that is neither, and where the split of `source` is another data set's.
    """
    if source is None or source == "mini":
        is_folder = (files.at_home(name) / MANIFEST).is_file()
        plain = name.removeprefix(INVENTED)
        return _in_folder(name, "split") if is_folder or plain not in _names() else embedded_split(plain)
    folder = files.at_home(source)
    if out is not None or not (folder / MANIFEST).is_file():
        return fetched_split(name, source, out)
    found = open_split(folder)
    if presets.dataset_aliases().get(name, name) != found.manifest.dataset:
        raise UserError(f"{source} holds the data set {found.manifest.dataset!r}, not {name!r}; give another folder")
    return found


def _names() -> set[str]:
    return {*presets.every_dataset(), *presets.dataset_aliases()}


def _in_folder(name: str, option: str) -> Split:
    folder = files.at_home(name)
    if not folder.is_dir() and "/" not in name:
        raise unknown("split folder or data set", name, _names(), f"{option}: a folder, or one of these names")
    return open_split(folder)
