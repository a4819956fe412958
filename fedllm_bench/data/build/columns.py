"""The columns of raw rows: which must be there, their names and the types of their cells."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.bad_rows import BadRow, bad_cell

Kind = type | UnionType
USER_ID = str | int  # an id that is a whole number is taken as its digits
TEXTS: dict[Kind, str] = {USER_ID: "str", str: "str"}
BLANKS = "\ufeff\u200b"  # a byte order mark and a zero-width space, which str.strip leaves
ADVICE = {bytes: " (binary); save it as text", float: "; save it as text or whole numbers"}


class Columns(NamedTuple):
    """Column -> type; a null is "" where a string is due, absent in another optional column, and else refused.

    `object` is for columns whose cells the pipeline checks itself. `flags` are optional columns by the flag that they
    raise. `split` is the column of the upstream split, which is optional too; None where no column says it.
    """

    required: Mapping[str, Kind]
    optional: Mapping[str, Kind]
    flags: Mapping[str, str] = MappingProxyType({})
    split: str | None = "split"
    advice: Mapping[str, str] = MappingProxyType({})  # column -> what else to say where it is missing

    def with_flags(self, names: Iterable[str]) -> Columns:
        """With the columns of these flags only: what nobody asks for is neither read nor refused."""
        return self._replace(optional={**self.optional, **{self.flags[name]: object for name in names}})

    def with_split(self) -> Columns:
        """With the column of the upstream split among those that are read."""
        if self.split is None or self.split in self.required:
            return self
        return self._replace(optional={**self.optional, self.split: str})

    def with_label(self, name: str) -> Columns:
        """With the column that a partition names, which must be there; "" names none."""
        kind = self.required.get(name) or self.optional.get(name) or USER_ID
        return self._replace(required={**self.required, name: kind}) if name else self


def check_names(where: str, names: Sequence[str], columns: Columns) -> None:
    """Refuse two columns of one name, and names that are those of wanted columns but for case and spaces.

    Of two columns of one name a reader would silently keep the last. Columns without a name are nobody's.
    """
    counts = Counter(names)
    if twice := [name for name in counts if counts[name] > 1 and _plain_name(name)]:
        raise UserError(f"{where} has the column {twice[0]!r} twice; rename or remove one")
    wanted = columns.required.keys() | columns.optional.keys()
    for name in names:
        near = _plain_name(name)
        if name in wanted or near not in wanted:
            continue
        if near in counts:
            raise UserError(
                f"{where} has the columns {near!r} and {name!r}, which differ in case or spaces only; rename one"
            )
        raise UserError(f"{where} has the column {name!r}, which is read by the name {near!r} only; rename it")


def missing(names: Sequence[str], columns: Columns) -> str:
    """What to say of required columns that are not there; "" if all are."""
    absent = [column for column in columns.required if column not in names]
    shown = ", ".join(map(repr, names[:30])) or "none"
    more = "".join(f"; {columns.advice[column]}" for column in absent if column in columns.advice)
    return f"has no column {', '.join(map(repr, absent))}; it has {shown}{more}" if absent else ""


def check_columns(where: str, names: Sequence[str], columns: Columns) -> None:
    """Both, for a file with one head for all rows."""
    check_names(where, names, columns)
    if lacking := missing(names, columns):
        raise UserError(f"{where} {lacking}")


def checked(number: int, column: str, value: Any, kind: Kind) -> Any:
    """The cell of row `number` in the type that is due; a :class:`BadRow` for any other."""
    if value is None and kind in TEXTS:
        return ""
    plain = value if isinstance(value, kind) else plain_value(value)
    if not isinstance(plain, kind) or (kind is USER_ID and isinstance(plain, bool)):
        raise of_type(number, column, plain, TEXTS.get(kind) or str(kind))
    return str(plain) if kind is USER_ID else plain


def of_type(number: int, column: str, value: Any, wanted: str) -> BadRow:
    """The error for a cell of another type than the `wanted` one."""
    return bad_cell(number, f"column {column!r} is {type(value).__name__}, not {wanted}", ADVICE.get(type(value), ""))


def plain_value(value: Any) -> Any:
    """A scalar or an array of numpy, or a scalar of Arrow, as Python's own; any other value as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.as_py() if isinstance(value, pa.Scalar) else value


@functools.lru_cache(maxsize=1024)
def _plain_name(name: str) -> str:
    return name.strip().strip(BLANKS).strip().casefold()
