"""Licences and terms of bases: consent, which is asked for once, and what goes with every model made on a base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.bases.declared import LONGEST_TEXT, TEXTS, Base, base_of, base_of_hub

NOTICE, TERMS = "NOTICE", "TERMS"
MODIFIED = "These files were made by changing the base model: its weights were trained further (FedLLM-Bench)."
UNPACKED = "The weights in this folder are not the original ones: "


def needs_consent(base: Base) -> bool:
    """Whether the terms must be accepted here first; never asked again once that was done."""
    return base.licence.accept == "here" and not _is_accepted(base)


def accept(base: Base) -> None:
    """Keep in the cache that the terms were accepted."""
    files.make_folder(_consent(base).parent)
    files.write_json(_consent(base), _terms_of(base))


def check_consent(base: Base) -> None:
    """Raise a :class:`UserError` where the terms were not accepted yet; nothing is asked on the terminal."""
    if needs_consent(base):
        raise UserError(
            f"MODEL={base.name}: it is under the {base.licence.name} ({base.licence.link}); to accept them and fetch "
            f"it, type: fedllm-bench model get {base.name} --accept-terms"
        )


def _consent(base: Base) -> Path:
    return files.cache_root() / "bases" / "accepted" / f"{base.name}.json"


def _terms_of(base: Base) -> dict[str, str]:
    return {"licence": base.licence.name, "link": base.licence.link}


def _is_accepted(base: Base) -> bool:
    try:
        return bool(files.read_json(_consent(base)) == _terms_of(base))
    except (OSError, ValueError):
        return False


def texts_to_carry(name: str, folder: Path) -> dict[str, bytes]:
    """File name -> text that goes with a model or an adapter made on the base `name`, which lies in `folder`.

    Its licence and terms as they lie there; and a NOTICE where it has one or its terms want one, with the sentences
    that they want and a notice of modification. {} for a base that has none of these.
    """
    base = _named(name)
    kept = {text: content for text in TEXTS if (content := _read(folder / text)) is not None}
    lines = list(base.licence.notice) if base is not None else []
    if not lines and NOTICE not in kept and not _has_terms(kept):
        return kept
    if base is not None and not _has_terms(kept):
        lines.append(f"The {base.licence.name}: {base.licence.link}")
    return {**kept, NOTICE: _notice(kept.get(NOTICE, b""), [*lines, MODIFIED])}


def texts_of_base(base: Base, texts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The texts that lie beside a converted base: those it came with, and the sentences that its terms want."""
    if not base.licence.notice:
        return dict(texts)
    return {**texts, NOTICE: _notice(texts.get(NOTICE, b""), [*base.licence.notice, f"{UNPACKED}{base.note}."])}


def bound_by(name: str, made: Path | None) -> str | None:
    """The terms with which alone the folder `made`, made on the base `name`, may go to others; None for free ones."""
    base = _named(name)
    if base is not None:
        return base.licence.name if base.licence.notice else None
    has_terms = made is not None and _has_terms([path.name for path in made.iterdir()])
    return "terms that lie beside it" if has_terms else None


def _named(name: str) -> Base | None:
    return base_of(name) or base_of_hub(name)


def _has_terms(texts: Iterable[str]) -> bool:
    return any(text.startswith(TERMS) for text in texts)


def _notice(before: bytes, lines: Sequence[str]) -> bytes:
    """The NOTICE that was there, and each of `lines` that it lacks."""
    text = before.decode("utf-8", "replace").strip()
    missing = [line for line in lines if line not in text]
    return ("\n\n".join([*filter(None, [text]), *missing]) + "\n").encode()


def _read(path: Path) -> bytes | None:
    if not path.is_file() or path.stat().st_size > LONGEST_TEXT:
        return None
    return path.read_bytes()
