"""Tracks: what may differ between the rows of a board, as data. tracks.toml declares them; docs/board.md explains."""

from __future__ import annotations

import datetime
import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any

from fedllm_bench.common.errors import UserError, shown, unknown
from fedllm_bench.config import presets
from fedllm_bench.config.added import ADDED
from fedllm_bench.config.run import RunConfig, dotted
from fedllm_bench.leaderboard.submission.problems import Problem

PACKAGE, FILE = "fedllm_bench.board_data", "tracks.toml"
REFERENCE_METHOD = "fedavg"  # whose preset stands in for that of a method which the suite does not have
KINDS = ("fixed", "open_base", "private", "personalised", "unseen", "open")
ROOM = 0.01  # of a track's epsilon: the noise that is found for one spends a little more or less
DEFAULTS = ("fixed", "private", "open_base", "open")  # in this order, a run's track unless another is asked for


@dataclass(frozen=True, kw_only=True)
class TrackRules:
    """Keys are dotted, as in "local.lr"; `free` and `pinned` are patterns of them. What is not free is pinned."""

    free: tuple[str, ...]
    pinned: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    any_of: tuple[tuple[str, ...], ...] = ()
    at_most: Mapping[str, float] = field(default_factory=dict)
    products: tuple[tuple[str, ...], ...] = ()
    plugins: bool = False  # whether a run may need a file of the submitter's own

    def is_free(self, key: str) -> bool:
        return _fits(key, self.free) and not _fits(key, self.pinned)


@dataclass(frozen=True, kw_only=True)
class Track:
    """`ranked` are metrics that need no judge, `judged` those that are ranked on the boards of each judge.

    `dataset` is the name that is shown ("mini-aya"), `preset` and `profile` what its configs are compared with.
    """

    id: str
    dataset: str
    preset: str
    profile: str
    kind: str
    title: str
    description: str
    version: str
    ranked: tuple[str, ...]
    judged: tuple[str, ...]
    rules: TrackRules
    min_seeds: int

    def metrics(self, judge: str) -> list[str]:
        """What is ranked on the board of `judge`; "" for the board without one."""
        return [*self.ranked, *(f"{name}@{judge}" for name in self.judged if judge)]


@functools.cache
def load_tracks() -> dict[str, Track]:
    """Every track by id, in the order of the file."""
    table = _table()
    return {(track := _track(name, kind, table)).id: track for name in table["datasets"] for kind in table["kinds"]}


def find_track(name: str) -> Track:
    """Raises a :class:`UserError` that names those there are."""
    tracks = load_tracks()
    if name not in tracks:
        raise unknown("track", name, tracks)
    return tracks[name]


def winners() -> frozenset[str]:
    """Canaries that may do better than the median method without an alarm."""
    return frozenset(_table()["canaries"]["may_win"])


def pinned_baselines() -> frozenset[str]:
    """Digests of the submissions that are the baseline of the board that they are on."""
    return frozenset(_table()["baselines"].values())


def first_day() -> datetime.date:
    """The day of the suite's first release."""
    day: datetime.date = _table()["dates"]["first"]
    return day


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files(PACKAGE).joinpath(FILE).read_text(encoding="utf-8"))


def _track(name: str, kind: str, table: Mapping[str, Any]) -> Track:
    data, rules, always = table["datasets"][name], table["kinds"][kind], table["always"]
    without = set(rules.get("without", ()))
    return Track(
        id=f"{name}/{kind}",
        dataset=name,
        preset=data["dataset"],
        profile=data["profile"],
        kind=kind,
        title=f"{name}, {rules['title']}",
        description=rules["description"],
        version=data["version"],
        ranked=tuple(metric for metric in data[rules["ranked"]] if metric not in without),
        judged=tuple(data.get("judged", ())) if rules["ranked"] == "metrics" else (),
        rules=TrackRules(
            free=(*always["free"], *rules["free"], *data.get("free", ())),
            pinned=(*always["identity"], *always["pinned"], *rules.get("pinned", ())),
            required=tuple(rules.get("required", ())),
            any_of=tuple(map(tuple, rules.get("any_of", ()))),
            at_most=rules.get("at_most", {}),
            products=tuple(map(tuple, always["products"])),
            plugins=rules.get("plugins") == "allowed",
        ),
        min_seeds=always["min_seeds"],
    )


def _fits(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


# --- a config against the rules


def track_of(config: RunConfig) -> str:
    """The track that a run enters unless another is asked for: the first whose rules it keeps, private where it is.

    Raises a :class:`UserError` for a data set that no track is of.
    """
    tracks = load_tracks()
    check_profile(config)
    names = list(_table()["datasets"])
    kinds = [kind for kind in DEFAULTS if f"{config.name}/{kind}" in tracks]
    if not kinds:
        raise UserError(f"no track is of the data set {shown(config.name)}; there are {', '.join(names)}")
    if config.privacy.clip is not None:
        kinds.sort(key=lambda kind: kind != "private")
    fitting = [kind for kind in kinds if not rule_problems(tracks[f"{config.name}/{kind}"], config)]
    return f"{config.name}/{fitting[0] if fitting else kinds[-1]}"


def check_profile(config: RunConfig) -> None:
    """Raise a :class:`UserError` for a profile that no board is of."""
    if config.profile not in (profiles := {track.profile for track in load_tracks().values()}):
        raise UserError(
            f"profile {config.profile} has no board: its runs have a base, users and a budget of their own, which are "
            f"not comparable with those of {' or '.join(sorted(profiles))}; compare its runs with each other: "
            "`fedllm-bench grid`, or `compare`"
        )


def rule_problems(track: Track, config: RunConfig) -> list[Problem]:
    """One problem for each key that the track's rules do not allow; [] where the config is inside them."""
    parts = {**ADDED, **{key: value for key, value in ADDED[""].items() if isinstance(value, dict)}}
    later = dotted({section: keys for section, keys in parts.items() if section})  # left out at their defaults
    given, preset = (later | flat(one) for one in (config, preset_of(track.preset, config.method.name, track.profile)))
    own = ", ".join(plugin.name for plugin in config.plugins)
    refused = (
        [f"plugins: got {own}, and only an open track takes runs with one"] if own and not track.rules.plugins else []
    )
    if config.offsite.is_on:  # no check knows the bytes of an emulator
        refused.append(f"offsite.variant: got {config.offsite.variant}, and no track is of offsite tuning")
    return [_problem(track, line) for line in (*refused, *_broken(track, given, preset))]


def _problem(track: Track, line: str) -> Problem:
    return Problem(code="track-rule", message=f"{line} (track {track.id})", where="config.json")


def _broken(track: Track, given: Mapping[str, Any], preset: Mapping[str, Any]) -> Iterator[str]:
    rules = track.rules
    joint = {key for keys in rules.products for key in keys}
    for key in sorted(given.keys() | preset.keys()):
        if given.get(key) != preset.get(key) and key not in joint and not rules.is_free(key):
            yield f"{key}: got {shown(given.get(key))}, this track has {shown(preset.get(key))}"
    for keys in rules.products:
        ours, theirs = (_product(values, keys) for values in (given, preset))
        if ours != theirs and not all(map(rules.is_free, keys)):
            yield f"{' * '.join(keys)}: got {ours}, this track has {theirs}"
    yield from _limits(rules, given)


def _limits(rules: TrackRules, given: Mapping[str, Any]) -> Iterator[str]:
    for keys in (*((key,) for key in rules.required), *rules.any_of):
        yield from _missing(keys, given)
    for key, most in rules.at_most.items():
        if given.get(key) is not None and given[key] > most:
            yield f"{key}: got {shown(given[key])}, at most {most:g} is allowed"


def _missing(keys: tuple[str, ...], given: Mapping[str, Any]) -> Iterator[str]:
    if all(given.get(key) is None for key in keys):
        yield f"{' or '.join(keys)}: not given, and this track needs it"


def _product(values: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    product = 1
    for key in keys:
        product *= values[key]
    return product


@functools.lru_cache(maxsize=256)
def preset_of(dataset: str, method: str, profile: str) -> RunConfig:
    """The config that a run of `method` is compared with: the method's preset, or FedAvg's where it has none."""
    known = method if method in presets.method_names() else REFERENCE_METHOD
    return presets.load(dataset, known, profile)


def flat(config: RunConfig) -> dict[str, Any]:
    """The config by dotted keys; a method's constants are one key each. Plugins, which no preset has, are left out."""
    return dotted(replace(config, plugins=()).to_dict())
