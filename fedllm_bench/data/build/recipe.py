"""What may differ between two splits of the same raw rows, and the filters that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.common.whole_numbers import whole_number
from fedllm_bench.data.build.partition_forms import check_partition, normal_partition
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.funnel_words import ANY
from fedllm_bench.data.json_stream import MAX_ID_CHARACTERS, is_unicode
from fedllm_bench.data.languages import normal_language
from fedllm_bench.data.rows import Task


class Flag(NamedTuple):
    """Something that a pipeline says of a row, and the reason for which such rows go."""

    name: str
    reason: str


OTHER_SPLIT = "other_split"  # the flag of a row of an upstream split that the declaration does not name


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a pipeline says of its upstream.

    Of an upstream on the hub: `commit`, at which its rows are read unless the user names another place (the first
    digits will do; without any it is the newest, and the manifest names it); `subset`, which the hub calls a
    configuration; `splits`, those that are read; `files` of the repository that hold the rows, where its own loader is
    a script, which nobody runs.
    """

    dataset: str
    upstream: str
    licence: str
    version: str  # of the pipeline: another one may give another split from the same rows and recipe
    recipe: Recipe
    task: Task = "sft"
    checks: tuple[Flag, ...] = ()  # rows that are none; always removed
    flags: tuple[Flag, ...] = ()  # removed where the recipe's `drop_flagged` names them
    columns: Mapping[str, str] = field(default_factory=dict)  # part of a row -> its column, where the user named them
    has_users: bool = True  # False: nobody wrote the rows, so that a partition makes the clients
    commit: str = ""
    subset: str = ""
    splits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a split is made of raw rows. `min_samples` counts all usable rows of a user, repeated ones too.

    `per`, such as "language:20", keeps for each language (or source) the 20 users with most rows, each user under the
    one of most of their rows. `max_clients` keeps of these those with most rows, ties by id. `heldout` is a fraction of
    each client's rows, or "upstream": the rows of the upstream test and validation splits. `unseen_clients` users who
    were not kept become the unseen part, those with most rows first. Without languages, all are kept. `near_duplicates`
    are counted or dropped. `partition` says who the clients are: users, or parts made of the same rows.
    `prompt_disjoint` holds out whole prompts, the same for all clients. `bad_rows` says whether a row that cannot be
    read stops the build, or is skipped and counted. `leakage` says how held-out rows are compared with training rows:
    in the normal form of decontamination, or exactly. `max_rows` is the most rows of all clients together, chosen by
    hash.
    """

    min_samples: int = 1
    max_samples: int | None = None
    max_clients: int | None = None
    languages: tuple[str, ...] = ()
    heldout: float | Literal["upstream"] = 0.1
    unseen_clients: int = 0
    min_prompt_characters: int = 1
    max_prompt_characters: int | None = None
    min_completion_characters: int = 1
    max_completion_characters: int | None = None
    deduplicate: bool = True
    seed: int = 0
    drop_flagged: tuple[str, ...] = ()
    near_duplicates: Literal["report", "drop", "off"] = "report"
    partition: str = "user"
    prompt_disjoint: bool = False
    bad_rows: Literal["stop", "skip"] = "stop"
    leakage: Literal["normal", "exact"] = "normal"
    per: str = ""
    max_rows: int | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least = {"min_samples": 1, "max_samples": 1, "max_clients": 1, "unseen_clients": 0, "max_rows": 1}
        at_least |= {"max_prompt_characters": 1, "max_completion_characters": 1}
        for name, least in at_least.items():
            value = vars(self)[name]
            if value is not None and value < least:
                raise UserError(f"{name}={value} in the recipe; it must be at least {least}")
        if self.heldout != "upstream" and not (isinstance(self.heldout, int | float) and 0 <= self.heldout < 1):
            raise UserError(f"heldout={self.heldout!r} in the recipe; it must be in [0, 1) or 'upstream'")
        if self.near_duplicates not in ("report", "drop", "off"):
            raise UserError(f"near_duplicates={self.near_duplicates!r} in the recipe; it is report, drop or off")
        if self.bad_rows not in ("stop", "skip"):
            raise UserError(f"bad_rows={self.bad_rows!r} in the recipe; it is stop or skip")
        if self.leakage not in ("normal", "exact"):
            raise UserError(f"leakage={self.leakage!r} in the recipe; it is normal or exact")
        if self.prompt_disjoint and self.heldout == "upstream":
            raise UserError("prompt_disjoint chooses what is held out; heldout='upstream' has chosen already: give one")
        self._check_released()
        self._check_parts()
        if self.per:
            check_per(self.per)

    def _check_released(self) -> None:
        if not self.is_released:
            return
        rows = check_partition(self.partition).rows
        if self.bad_rows == "skip" or self.max_rows not in (None, rows):
            raise UserError(
                f"partition={self.partition!r} takes its rows by their places, so leave out --bad-rows skip, and give "
                f"the number of rows as its second number ({rows} here), as in released:20:20000, not as --max-rows"
            )

    def _check_parts(self) -> None:
        kind = check_partition(self.partition)
        if self.parts and (kind.kind in ("user", "released") or kind.column):
            raise UserError(
                f"partition={self.partition!r} is of one data set; of a mixed one each part is a client (or "
                "--clients-per-part N), or --partition language, iid:N or dirichlet:ALPHA:source:N makes the clients"
            )
        if kind.kind == "parts" and not self.parts:
            raise UserError("partition parts:N is of data build mixed alone")

    def most_of(self, part: str) -> int | None:
        """The most rows of a part of a mixed split; None for all."""
        named = dict(text.partition(":")[::2] for text in self.parts)
        return int(named[part]) if named.get(part) else None

    @property
    def is_released(self) -> bool:
        """Whether clients get their rows as in OpenFedLLM's code, by the order of the upstream's rows."""
        return check_partition(self.partition).kind == "released"

    @property
    def column(self) -> str:
        """The column of the raw rows that the partition names; "" where it names none."""
        return check_partition(self.partition).column

    def normal(self) -> Recipe:
        """The recipe in the one form that is written; heldout=0 trains on everything and has no unseen.

        Nor have artificial partitions: their clients are no users, so nobody is a stranger to them.
        """
        heldout = self.heldout if self.heldout == "upstream" else float(self.heldout)
        unseen = 0 if heldout == 0 or self.partition != "user" else self.unseen_clients
        languages = tuple(sorted({normal_language(word) for word in self.languages}))
        flags = tuple(sorted(set(self.drop_flagged)))
        partition = normal_partition(self.partition)
        most = None if self.is_released else self.max_rows
        changed: dict[str, Any] = {
            "max_rows": most,
            "heldout": heldout,
            "unseen_clients": unseen,
            "partition": partition,
        }
        return replace(self, languages=languages, drop_flagged=flags, **changed)

    def record(self) -> dict[str, Any]:
        """The recipe as the manifest has it. Options of later versions stand there only where they change rows,

        so that a split that was built before them keeps its hash.
        """
        later: dict[str, Any] = {"drop_flagged": (), "partition": "user", "prompt_disjoint": False}
        later |= {"bad_rows": "stop", "leakage": "exact", "per": "", "max_rows": None, "parts": ()}
        if self.near_duplicates != "drop":
            later["near_duplicates"] = self.near_duplicates
        values = {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


class Filter(NamedTuple):
    """A step that looks at one row alone."""

    step: str
    reason: str
    passes: Callable[[Sample], bool]


def filters(recipe: Recipe, declared: Declaration) -> tuple[Filter, ...]:
    """The row filters in order. The first one guards the user id: only what passes it has a user at all."""
    languages = frozenset(recipe.languages)
    known = {flag.name: flag for flag in declared.flags}
    subset = f" of the subset {declared.subset}" if declared.subset else ""
    if unknown_flags := sorted(set(recipe.drop_flagged) - known.keys()):
        raise unknown(f"flag of the dataset {declared.dataset}", unknown_flags[0], known or ["none"])
    _check_users(recipe, declared)
    return (
        Filter("user_id", f"user id blank, longer than {MAX_ID_CHARACTERS} characters or broken text", _has_user),
        *map(_unflagged, declared.checks),
        *(
            [_unflagged(Flag(OTHER_SPLIT, f"of another split than {', '.join(declared.splits)}{subset}"))]
            if declared.splits
            else []
        ),
        Filter("empty", "prompt or completion empty or broken text", _has_text),
        Filter(
            "languages",
            f"language not in {', '.join(recipe.languages) or 'all'}",
            lambda sample: not languages or sample.language in languages,
        ),
        Filter("length", _bounds_in_words(recipe), lambda sample: _has_length(sample, recipe)),
        *(_unflagged(known[name]) for name in recipe.drop_flagged),
        *_by_partition(recipe),
    )


def _check_users(recipe: Recipe, declared: Declaration) -> None:
    partition = check_partition(recipe.partition)
    by_users = partition.kind == "user" or (partition.kind == "dirichlet" and not partition.clients)
    if by_users and not declared.has_users:
        raise UserError(
            f"the rows of {declared.dataset} have no users, so a partition says how many clients there are: "
            "--partition iid:20, column:NAME, or dirichlet:0.5:COLUMN:3"
        )
    if recipe.per and not declared.has_users:
        raise UserError(f"per={recipe.per!r} (--per, --per-language) chooses users, and {declared.dataset} has none")


def _by_partition(recipe: Recipe) -> Iterator[Filter]:
    """Rows of which the partition can make nothing."""
    if recipe.column:
        reason = f"column {recipe.column!r} blank, longer than {MAX_ID_CHARACTERS} characters or broken text"
        yield Filter("column", reason, lambda sample: _is_id(sample.label))
    if recipe.is_released:
        reason = "of another upstream split than train, which the released code does not read"
        yield Filter("released", reason, lambda sample: sample.place is not None)


def _unflagged(flag: Flag) -> Filter:
    return Filter(flag.name, flag.reason, lambda sample: flag.name not in sample.flags)


def _has_user(sample: Sample) -> bool:
    return _is_id(sample.client)


def _is_id(text: str) -> bool:
    return len(text) <= MAX_ID_CHARACTERS and bool(text.strip()) and is_unicode(text)


def _has_text(sample: Sample) -> bool:
    texts = (*(content for _, content in sample.turns), *sample.answers)
    words = (sample.language, sample.source)
    return bool(texts) and all(text.strip() for text in texts) and all(map(is_unicode, (*texts, *words)))


def _has_length(sample: Sample, recipe: Recipe) -> bool:
    prompt_ok = _within(sample.prompt, recipe.min_prompt_characters, recipe.max_prompt_characters)
    least, most = recipe.min_completion_characters, recipe.max_completion_characters
    return prompt_ok and all(_within(answer, least, most) for answer in sample.answers)


def _within(text: str, least: int, most: int | None) -> bool:
    return least <= len(text) and (most is None or len(text) <= most)


def _bounds_in_words(recipe: Recipe) -> str:
    prompt = f"{recipe.min_prompt_characters} to {recipe.max_prompt_characters or ANY}"
    completion = f"{recipe.min_completion_characters} to {recipe.max_completion_characters or ANY}"
    return f"characters not within {prompt} (prompt) and {completion} (completion)"


PerColumn = Literal["language", "source"]


class Per(NamedTuple):
    """The column of the split whose values share out the clients, and the most users of each value."""

    column: str
    most: int


def check_per(text: str) -> Per:
    """What a recipe's `per` states; a :class:`UserError` for any other text."""
    column, _, most = text.partition(":")
    if column not in get_args(PerColumn):
        known = " or ".join(get_args(PerColumn))
        raise UserError(f"per={text[:100]!r} (--per): clients are chosen by {known}, not by {column[:60]!r}")
    number = whole_number(most)
    if not number:
        raise UserError(f"per={text[:100]!r} (--per, --per-language): give 1 user or more of each {column}, such as 20")
    return Per(column, number)
