"""What a submission is held against: the tracks, splits at hand, and the submissions that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.leaderboard.checks.fingerprints import Fingerprint
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun
from fedllm_bench.leaderboard.submission.tracks import BASELINE, Track, load_tracks, preset_of
from fedllm_bench.runs.cell import resolve_split


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """`tracks` by id. `others`: submissions of the board, without the one at hand.

    `splits`: folders of client splits, by which runs on real data are checked; those of the mini world are rebuilt.
    """

    tracks: Mapping[str, Track] = field(default_factory=load_tracks)
    others: Sequence[Fingerprint] = ()
    splits: Sequence[Path] = ()
    _found: dict[str, Split] = field(default_factory=dict)

    def split_of(self, config: RunConfig, split_hash: str) -> Split | None:
        """The split with this hash, where it is at hand. Raises a :class:`UserError` for a folder that is none."""
        for folder in self.splits:
            split = self._found.get(str(folder)) or open_split(folder)
            self._found[str(folder)] = split
            if split.hash == split_hash:
                return split
        return self._mini(config) if config.profile == "mini" else None

    def _mini(self, config: RunConfig) -> Split | None:
        """That of the embedded world, whatever path a config names: paths in it are a stranger's."""
        key = files.sha256_json([config.dataset, config.data.world_seed])
        if key not in self._found:
            try:
                self._found[key] = resolve_split(replace(config, split=None))
            except UserError:
                return None
        return self._found[key]


def config_of(submitted: Submitted, run: SubmittedRun, context: CheckContext) -> RunConfig | None:
    """The run's config; of work done elsewhere, and of canaries, that of the track's preset; None without a track."""
    if run.files.has("config.json"):
        return run.config
    track = context.tracks.get(submitted.bundle.submission.track)
    return preset_of(track.preset, BASELINE, track.profile) if track else None


def split_of(submitted: Submitted, run: SubmittedRun, context: CheckContext) -> Split | None:
    """The split of a run, where it is at hand; its hash may be another than the run's, which is a problem."""
    config, split_hash = config_of(submitted, run, context), run.files.entry.split_hash
    return context.split_of(config, split_hash) if config and split_hash else None
