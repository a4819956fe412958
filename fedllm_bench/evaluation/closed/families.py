"""Which rows are computed behind a common beginning: as few tokens as possible, in passes that are not too small.

Rows in the order of their tokens form a tree by what neighbours have in common. From the leaves upwards each node is
either one family, whose beginning is computed once, or left to its children, whichever costs less. So the examples
before a thousand questions are computed once, and a question before its choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

PASS = 128  # tokens that a further pass costs as much as, on a CPU
GPU_PASS = 2048


@dataclass(frozen=True)
class Family:
    """Numbers of rows that have their first `shared` tokens in common, 0 for rows that stand alone."""

    rows: list[int]
    shared: int


@dataclass
class _Node:
    """Rows `first` to `last` of the order, which have `shared` tokens in common; `tokens` are all that they have."""

    shared: int
    first: int
    last: int
    tokens: int
    cost: float = 0.0
    children: list[_Node] = field(default_factory=list)
    is_family: bool = False


def families(rows: Sequence[tuple[int, ...]], limits: Sequence[int], pass_tokens: int) -> list[Family]:
    """All rows in families; those that stand alone are one family without a beginning, if any.

    `limits`: how many tokens of a row may belong to a beginning. `pass_tokens` is what a pass costs.
    """
    order = sorted(range(len(rows)), key=lambda row: rows[row])
    roots = _tree([rows[row] for row in order], [limits[row] for row in order], pass_tokens)
    found, alone = [], []
    waiting = roots[::-1]
    while waiting:
        node = waiting.pop()
        members = order[node.first : node.last + 1]
        if node.is_family:
            found.append(Family(members, node.shared))
        elif node.children:
            waiting += node.children[::-1]
        else:
            alone += members
    return [*found, Family(alone, 0)] if alone else found


def _tree(rows: Sequence[tuple[int, ...]], limits: Sequence[int], pass_tokens: int) -> list[_Node]:
    """The largest nodes, which have nothing in common. A stack holds the nodes to which the next row may belong."""
    stack = [_Node(0, 0, -1, 0)]
    for place, row in enumerate(rows):
        shared = _common(rows[place - 1], row, min(limits[place - 1], limits[place])) if place else 0
        below: _Node | None = None
        while stack[-1].shared > shared:
            below = _closed(stack.pop(), pass_tokens)
            if stack[-1].shared >= shared:
                stack[-1].children.append(below)
                below = None
        if stack[-1].shared < shared:
            assert below is not None
            stack.append(_Node(shared, below.first, below.last, 0, children=[below]))
        # the row is a leaf; its node ends at its own limit, so that the next comparison closes it
        stack.append(_Node(limits[place] + 1, place, place, len(row)))
    while len(stack) > 1:
        below = _closed(stack.pop(), pass_tokens)
        stack[-1].children.append(below)
    return stack[0].children


def _closed(node: _Node, pass_tokens: int) -> _Node:
    """The node with what it costs, once all its rows are known."""
    if not node.children:
        node.cost = node.tokens
        return node
    node.first, node.last = node.children[0].first, node.children[-1].last
    node.tokens = sum(child.tokens for child in node.children)
    apart = sum(child.cost for child in node.children)
    count = node.last - node.first + 1
    together = node.tokens - (count - 1) * node.shared + 2 * pass_tokens
    node.is_family, node.cost = together < apart, min(together, apart)
    return node


def _common(first: Sequence[int], second: Sequence[int], most: int) -> int:
    """How many tokens both begin with, `most` at most."""
    if first[:most] == second[:most]:
        return most
    return next(place for place in range(most) if first[place] != second[place])
