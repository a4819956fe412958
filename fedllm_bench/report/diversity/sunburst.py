"""The sunburst of instructions: topics inside and what they are made of outside, or verbs and their objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Patch, Wedge

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.frame import OTHER, PALETTE, PAPER, Drawing, Frame, Section
from fedllm_bench.report.page.browser import language_label

MOST_INNER, MOST_OUTER = 24, 6  # wedges: more cannot be told apart
SMALL = 8  # clients with a sunburst of their own
RINGS = ((0.32, 0.66), (0.67, 1.0))
DARK, LIGHT = "#101010", "#fcfcfc"  # on a wedge, in both themes of the page
LEAST_WIDTH = 0.031  # of the radius of the whole; a narrower wedge has no room for a word
REST = ""  # the key of what is beyond the largest


@dataclass(frozen=True)
class SunburstPart:
    """A wedge of the inner ring and those around it: (label, rows)."""

    key: str
    label: str
    rows: int
    outer: tuple[tuple[str, int], ...]


def texts_of(section: Section) -> list[str]:
    """Every text of users that figures of this section may show."""
    texts = [term for topic in section["topics"] for term in topic["terms"]]
    texts += [term for topic in section["topics"] for inner in topic.get("inner", ()) for term in inner["terms"]]
    for verb in section.get("verbs") or ():
        texts += [verb["verb"], *(found["object"] for found in verb["objects"])]
    return texts


def topic_label(frame: Frame, topic: Mapping[str, Any], num_terms: int) -> str:
    """The first terms of a topic; its number and main language where they cannot be drawn."""
    main = max(topic["languages"], key=lambda code: (topic["languages"][code], code), default="")
    instead = f"topic {topic['id']}" + (f" ({language_label(main)})" if main else "")
    terms = [frame.letters.shown(term, "") for term in topic["terms"][:num_terms]]
    return ", ".join(terms) if terms and all(terms) else instead


def instruction_sunburst(frame: Frame) -> Drawing | None:
    """What is asked for, over all rows: the size of a wedge is its number of rows."""
    section = frame.section("instruction")
    if section is None or not section["topics"]:
        return None
    parts = _parts(frame, section)
    colours = _colours(parts)
    with frame.sheet(7.4, 7.8) as sheet:
        axes = sheet.axes[0, 0]
        _prepare(axes)
        _draw_rings(axes, parts, colours)
        return frame.finish(
            sheet, ("instruction_sunburst", "Instructions: what is asked for", _title(section)), section
        )


def instruction_clients(frame: Frame) -> Drawing | None:
    """One ring for each of the largest clients, in the colours of the whole split."""
    section = frame.section("instruction")
    key = "verbs" if section is not None and section["method"] == "verbs" else "topics"
    clients = sorted((c for c in frame.clients if c.get(key)), key=lambda client: (-client["rows"], client["id"]))[
        :SMALL
    ]
    if section is None or not clients:
        return None
    parts = _parts(frame, section)
    colours = _colours(parts)
    columns = min(4, len(clients))
    lines = math.ceil(len(clients) / columns)
    with frame.sheet(8.8, 1.3 + 2.35 * lines + 0.16 * math.ceil(len(parts) / 3), shape=(lines, columns)) as sheet:
        for axes in sheet.axes.flat:
            _prepare(axes)
        for axes, client in zip(sheet.axes.flat, clients, strict=False):
            _draw_ring(axes, _by_key(client[key]), parts, colours)
            axes.set_title(f"{frame.names[client['id']]}\n{client['rows']:,} rows", fontsize=8, loc="center")
        legend = [Patch(color=colours[part.key], label=part.label) for part in parts]
        title = f"The {counted(len(clients), 'client')} with most rows, in the {key} of the whole split"
        return frame.finish(
            sheet, ("instruction_clients", "Instructions of the largest clients", title), section, legend
        )


def _title(section: Section) -> str:
    told = f"{section['topic_entropy']:.2f} bits; client and topic share {section['mutual_information']:.2f} bits"
    if section["method"] == "verbs":
        return f"{counted(len(section['verbs']), 'root verb')} and their objects; topics: entropy {told}"
    return f"{counted(len(section['topics']), 'topic')}, entropy {told}"


def _parts(frame: Frame, section: Section) -> list[SunburstPart]:
    """The largest first, the rest as one."""
    parts = _verbs(frame, section) if section["method"] == "verbs" else _topics(frame, section)
    parts.sort(key=lambda part: (-part.rows, part.key))
    rest = sum(part.rows for part in parts[MOST_INNER:])
    tail = [SunburstPart(REST, f"{len(parts) - MOST_INNER} others", rest, ())] if rest else []
    return [part for part in parts[:MOST_INNER] if part.rows] + tail


def _topics(frame: Frame, section: Section) -> list[SunburstPart]:
    return [
        SunburstPart(
            key=topic["id"],
            label=topic_label(frame, topic, 3),
            rows=topic["rows"],
            outer=tuple(
                (frame.letters.shown(", ".join(i["terms"][:2]), ""), i["rows"]) for i in topic.get("inner", ())
            ),
        )
        for topic in section["topics"]
    ]


def _verbs(frame: Frame, section: Section) -> list[SunburstPart]:
    shown = frame.letters.shown
    return [
        SunburstPart(
            key=verb["verb"],
            label=shown(verb["verb"], f"verb {i + 1} ({language_label(verb['language'])})"),
            rows=verb["rows"],
            outer=tuple((shown(found["object"], ""), found["rows"]) for found in verb["objects"]),
        )
        for i, verb in enumerate(section["verbs"])
    ]


def _colours(parts: Sequence[SunburstPart]) -> dict[str, str]:
    """The palette, then twice again, lighter and darker, so that no two of 24 are equal."""
    shades = [PALETTE, [_mixed(c, PAPER, 0.45) for c in PALETTE], [_mixed(c, "#000000", 0.35) for c in PALETTE]]
    flat = [colour for shade in shades for colour in shade]
    return {part.key: flat[i % len(flat)] if part.key != REST else OTHER for i, part in enumerate(parts)}


def _mixed(colour: str, other: str, share: float) -> str:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(to_rgb(colour), to_rgb(other), strict=True))
    return to_hex((red, green, blue))


def _prepare(axes: Axes) -> None:
    axes.set_aspect("equal")
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    axes.axis("off")


def _draw_rings(axes: Axes, parts: Sequence[SunburstPart], colours: Mapping[str, str]) -> None:
    total = sum(part.rows for part in parts) or 1
    begin = 90.0
    for part in parts:
        end = begin - 360 * part.rows / total
        _wedge(axes, RINGS[0], (end, begin), colours[part.key], part.label)
        edge = begin
        for i, (label, rows) in enumerate(_outer(part)):
            next_edge = edge - 360 * rows / total
            colour = _mixed(colours[part.key], PAPER, 0.28 + 0.09 * (i % 5))
            _wedge(axes, RINGS[1], (next_edge, edge), colour, label)
            edge = next_edge
        begin = end


def _outer(part: SunburstPart) -> list[tuple[str, int]]:
    found = sorted(part.outer, key=lambda one: -one[1])
    rest = part.rows - sum(rows for _, rows in found[:MOST_OUTER])
    return [(label, rows) for label, rows in found[:MOST_OUTER] if rows] + ([("", rest)] if rest > 0 else [])


def _by_key(own: Mapping[str, int]) -> dict[str, int]:
    """Rows by topic; of "verb object" by verb."""
    found: dict[str, int] = {}
    for name, rows in own.items():
        found[name.split(" ")[0]] = found.get(name.split(" ")[0], 0) + rows
    return found


def _draw_ring(axes: Axes, own: Mapping[str, int], parts: Sequence[SunburstPart], colours: Mapping[str, str]) -> None:
    total = sum(own.values()) or 1
    known = {part.key: own.get(part.key, 0) for part in parts if part.key != REST}
    known[REST] = total - sum(known.values())
    begin = 90.0
    for key, rows in known.items():
        end = begin - 360 * rows / total
        if rows:
            _wedge(axes, (0.5, 1.0), (end, begin), colours.get(key, OTHER), "")
        begin = end


def _wedge(axes: Axes, ring: tuple[float, float], degrees: tuple[float, float], colour: str, label: str) -> None:
    low, high = ring
    axes.add_patch(Wedge((0, 0), high, *degrees, width=high - low, facecolor=colour, edgecolor=PAPER, linewidth=0.7))
    wide = degrees[1] - degrees[0]
    radius = (low + high) / 2
    if not label or radius * math.radians(wide) < LEAST_WIDTH:
        return
    middle = math.radians(sum(degrees) / 2)
    turn = math.degrees(middle) % 360
    turn = turn - 180 if 90 < turn < 270 else turn  # never upside down
    axes.text(
        radius * math.cos(middle),
        radius * math.sin(middle),
        _cut(label, 19),
        rotation=turn,
        rotation_mode="anchor",
        ha="center",
        va="center",
        fontsize=6 if radius * math.radians(wide) < 2 * LEAST_WIDTH else 7.5,
        color=_ink_on(colour),
    )


def _cut(label: str, most: int) -> str:
    """Whole words as far as they fit."""
    if len(label) <= most:
        return label
    words = label.split(", ")
    while len(words) > 1 and len(", ".join(words)) > most:
        words.pop()
    text = ", ".join(words)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _ink_on(colour: str) -> str:
    red, green, blue = to_rgb(colour)
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else LIGHT
