"""Licences and terms of bases: consent, which is asked for once, and what goes with every model made on a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.bases.declared import TEXTS, Base, base_of, base_of_hub

NOTICE, TERMS = "NOTICE", "TERMS"
MODIFIED = "These files were made by changing the base model: its weights were trained further (FedLLM-Bench)."
UNPACKED = "The weights in this folder are not the original ones: "
LONGEST_TEXT = 2**20  # bytes of a licence; the longest that is known has 170,000


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

    Its licence and terms as they lie there; and a NOTICE where it has one or its terms want one, with the sentence
    that they want and a notice of modification. {} for a base that has none of these.
    """
    base = base_of(name) or base_of_hub(name)
    kept = {text: content for text in TEXTS if (content := _read(folder / text)) is not None}
    lines = [] if base is None or base.licence.notice is None else [base.licence.notice]
    if not lines and NOTICE not in kept and not is_under_terms(kept):
        return kept
    if base is not None and not is_under_terms(kept):
        lines.append(f"The {base.licence.name}: {base.licence.link}")
    kept[NOTICE] = _notice(kept.get(NOTICE, b"").decode("utf-8", "replace"), [*lines, MODIFIED])
    return kept


def texts_of_base(base: Base, texts: dict[str, bytes]) -> dict[str, bytes]:
    """The texts that lie beside a converted base: those it came with, and the sentences that its terms want."""
    if base.licence.notice is None:
        return texts
    before = texts.get(NOTICE, b"").decode("utf-8", "replace")
    return {**texts, NOTICE: _notice(before, [base.licence.notice, f"{UNPACKED}{base.note}."])}


def is_under_terms(texts: Sequence[str] | dict[str, bytes]) -> bool:
    """Whether a text of terms is among these file names."""
    return any(text.startswith(TERMS) for text in texts)


def write_texts(texts: dict[str, bytes], folder: Path) -> None:
    for name, content in texts.items():
        files.write_bytes(folder / name, content)


def _notice(before: str, lines: Sequence[str]) -> bytes:
    """The NOTICE that was there, and each of `lines` that it lacks."""
    missing = [line for line in lines if line not in before]
    return ("\n\n".join([*filter(None, [before.strip()]), *missing]) + "\n").encode()


def _read(path: Path) -> bytes | None:
    if not path.is_file() or path.stat().st_size > LONGEST_TEXT:
        return None
    return path.read_bytes()
