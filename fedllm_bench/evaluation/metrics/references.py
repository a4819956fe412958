"""How near an answer is to a reference, without a judge: ROUGE-L, chrF and the similarity of embeddings.

ROUGE-L is our own: the package rouge-score keeps Latin letters and digits only, so every Chinese, Arabic, Russian or
Telugu answer scores 0 there, and it has had no release since 2022. For English without stemming the two agree. chrF is
sacrebleu's. Only the first turn has a reference, and only what it says to the user is read (thoughts.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import regex

from fedllm_bench.common.files import at_home
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.evaluation.thoughts import first_said
from fedllm_bench.metrics.edits import UNSPACED
from fedllm_bench.scores.score import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_MODEL = "no embedding model; give --embedding-model"  # why an answer has no score of an encoder
MAX_CHARACTERS = 100_000  # of an answer; chrF would hold all substrings of a longer one at once
# as in sacrebleu's Chinese tokeniser, a letter with its marks is a token where a script has no spaces between words
TOKEN = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+")
# tatweel and vowel marks may be written or left out in Arabic; joiners and marks of direction are no letters
OPTIONAL = regex.compile(r"[\p{Cf}\u0640\u064B-\u0652\u0670]")
Closeness = Callable[[str, str], float]  # (answer, reference) -> how near


class Encoder(Protocol):
    """Texts -> unit vectors, of shape (texts, dimensions)."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


def tokens(text: str) -> list[str]:
    """Words without case and punctuation; single letters where a script has no spaces between words."""
    folded = unicodedata.normalize("NFKC", OPTIONAL.sub("", text)).casefold()
    found: list[str] = TOKEN.findall(folded)
    return found


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin, 2004, section 3.1) with beta = 1: F1 of the longest common subsequence of tokens, 0 to 1."""
    a, b = tokens(answer), tokens(reference)
    common = common_subsequence(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, in len(a) operations on integers of len(b) bits.

    Hyyrö, Bit-parallel LCS-length computation revisited (2004): a zero in `rows` is a step in the table's last row.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(b):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(b)) - 1
    rows = full
    for token in a:
        matched = rows & places.get(token, 0)
        rows = ((rows + matched) | (rows - matched)) & full
    return len(b) - rows.bit_count()


def closeness_scores(prompts: Sequence[Prompt], answers: Mapping[str, Answer], closeness: Closeness) -> list[Score]:
    """The closeness of each first answer to its reference, for prompts that have one.

    An answer without text is as far from a reference as can be: 0. One that failed, or ended within its thought, is
    unscored.
    """
    return [
        Score(p.item_id, None, reason, cluster=p.item_id)
        if (reason := why_not(answers.get(p.item_id)))
        else Score(p.item_id, closeness(first_said(answers[p.item_id]).text, p.references[0]), cluster=p.item_id)
        for p in with_reference(prompts)
    ]


def embedding_scores(prompts: Sequence[Prompt], answers: Mapping[str, Answer], encoder: Encoder | None) -> list[Score]:
    """The cosine of answer and reference under a sentence encoder; without one, every item is unscored."""
    asked = with_reference(prompts)
    reasons = {p.item_id: why_not(answers.get(p.item_id)) for p in asked}
    if encoder is None:
        reasons = dict.fromkeys(reasons, NO_MODEL)
    whole = [p for p in asked if not reasons[p.item_id]]
    cosines: dict[str, float] = {}
    if whole and encoder is not None:
        vectors = encoder([first_said(answers[p.item_id]).text for p in whole] + [p.references[0] for p in whole])
        products = (vectors[: len(whole)] * vectors[len(whole) :]).sum(axis=1)
        cosines = {p.item_id: float(product) for p, product in zip(whole, products, strict=True)}
    return [Score(p.item_id, cosines.get(p.item_id), reasons[p.item_id], cluster=p.item_id) for p in asked]


def with_reference(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.references and prompt.references[0].strip()]


def why_not(answer: Answer | None) -> str:
    """Why an answer cannot be compared; "" where it can."""
    if answer is None:
        return "no answer"
    if answer.finish[0] == "failed":
        return "the answer failed"
    first = first_said(answer)
    if len(first.text) > MAX_CHARACTERS:
        return f"the answer is longer than {MAX_CHARACTERS} characters"
    return first.why_none


def load_encoder(name: str) -> Encoder:
    """A model of sentence-transformers, by folder or name, that encodes each text once.

    Raises a :class:`UserError` where it cannot be loaded.
    """
    from fedllm_bench.common.errors import UserError, first_line
    from fedllm_bench.config.model_files import problem_of_encoder

    folder = at_home(name)
    problem = problem_of_encoder(folder) if folder.is_dir() else None
    if problem is not None:
        raise UserError(f"--embedding-model {name}: {problem}")
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"cannot load the embedding model {name!r} ({first_line(error)}); give --embedding-model the "
                        "folder or the name of a model of sentence-transformers") from error  # fmt: skip

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        shown = model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
        vectors: NDArray[np.float32] = shown
        return vectors

    return remembering(encode)


def remembering(encoder: Encoder) -> Encoder:
    """The encoder with all vectors kept: several metrics look at the same answers."""
    known: dict[str, NDArray[np.float32]] = {}

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encoder(new), strict=True))
        return np.stack([known[text] for text in texts])

    return encode
