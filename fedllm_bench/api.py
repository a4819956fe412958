"""FedLLM-Bench from Python: nine functions that do what the commands do, and give back what was made.

Whatever is wrong with what was given is a :class:`UserError`, one line that says what is allowed. Nothing is printed;
progress goes to standard error, and `progress=False` turns it off. Paths may be texts. A call that was interrupted
goes on where it stopped when it is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from fedllm_bench import api_inputs as given
from fedllm_bench import api_results as made
from fedllm_bench.api_options import (
    AnyPath,
    AnyRun,
    AnySplit,
    DiversityOptions,
    Plugins,
    RunOptions,
    Settings,
    StatementOptions,
    TuneOptions,
)
from fedllm_bench.api_results import Diversity, Evaluated, Grid, PackedRuns, Run, RunComparison
from fedllm_bench.api_tuning import Tuned, tune
from fedllm_bench.common import hardware
from fedllm_bench.common import progress as progress_shown
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.client_split import Split
from fedllm_bench.data.frames import ClientRows

__all__ = [
    "ClientRows", "Diversity", "DiversityOptions", "Evaluated", "Grid", "PackedRuns", "Run", "RunComparison",
    "RunOptions", "Split", "StatementOptions", "TuneOptions", "Tuned", "UserError", "bench", "compare", "diversity",
    "evaluate", "grid", "load_split", "open_run", "submit", "tune",
]  # fmt: skip


def load_split(
    name: AnyPath, source: AnyPath | None = None, *, out: AnyPath | None = None, progress: bool = True
) -> Split:
    """The client split of a data set, checked against its hash.

    `name` is a data set, as "aya", of which the embedded miniature is taken, or the folder of a split. `source` says
    where the real one is: its folder, "official" (the published zip), "hub:ORG/NAME@REV", or the folder or https
    address of a mirror. What is fetched lies in `out`, or in the cache, and is opened from there the next time.

    Raises:
        UserError: for a name that is neither, and a source that cannot be had or has another data set.

    Example:
        >>> split = fb.load_split("aya")
        >>> split.client("user-003").train.num_rows
        84
    """
    from fedllm_bench.runs.splits import split_from

    named = given.path("name", name, "give the name of a data set, or the folder of a split")
    with given.working(progress, uses_plugins=False):
        return split_from(named, None if source is None else given.path("source", source), given.folder("out", out))


def bench(
    dataset: str,
    method: str,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    threads: int | None = None,
    progress: bool = True,
    **options: Unpack[RunOptions],
) -> Run:
    """Run one cell: data, base scores, training, scores, the baseline `local`, report. A finished one is read at once.

    `settings` are those of `--set`, as values of Python; `threads` is None for all cores, of which the baseline has
    half where it can train at the same time; `options` are `RunOptions`.

    Raises:
        UserError: for an unknown name or setting, and for what is missing here, before anything is trained.

    Example:
        >>> settings = {**tiny, "local.lr": 1e-4}
        >>> run = fb.bench("aya", "fedavg", seed=1, settings=settings, split=small, metrics=["heldout"])
        >>> run.folder.parent.name, len(run.rounds)
        ('fedavg', 1)
    """
    from fedllm_bench.config import presets
    from fedllm_bench.config.setting_words import setting_words
    from fedllm_bench.pipeline.bench_run import finish
    from fedllm_bench.runs.opening import open_cell

    with given.working(progress, options.get("plugins")):
        named = (given.text("dataset", dataset), given.text("method", method))
        names = (*named, given.profile(options), setting_words(settings))
        config = presets.load(*names, seed=given.whole("seed", seed), **given.run_options(options))
        cell = open_cell(config, given.place(options), hardware.has_cuda(), given.count("threads", threads))
        finish(cell)
    return Run(cell.folder.absolute())


def grid(
    dataset: str,
    methods: Sequence[str] | str = "all",
    seeds: Sequence[int] = (0, 1, 2),
    *,
    table: AnyPath | None = None,
    settings: Settings | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **options: Unpack[RunOptions],
) -> Grid:
    """Run methods under seeds on one data set, each cell as :func:`bench` runs it, and compare them in pairs.

    `methods` is "all", or names, also of controls as "fedavg+shuffled" and "fedavg+swapped" (docs/grid.md). `table` is
    in place of them: "methods" (all methods and rules by family), or a TOML file with rows. A setting of one method is
    `{"fedprox:method.mu": 0.1}`. `jobs` processes run at once; None is one a core, at most 4.

    Raises:
        UserError: as :func:`bench` does, for methods that cannot be compared, and where no cell has results.

    Example:
        >>> table = fb.grid("aya", methods=["fedavg", "local"], seeds=[0], split=small, settings=tiny)
        >>> table.to_pandas().method.unique().tolist()
        ['base', 'local', 'fedavg']
    """
    from fedllm_bench.pipeline.grid_run import finish_grid
    from fedllm_bench.runs.grid import parse_methods, parse_seeds

    with given.working(progress, options.get("plugins")):
        rows, named = given.table(table, methods), given.commas("methods", methods, 'give "all", or a list of names')
        labels = tuple(row.label for row in rows) or parse_methods(named)
        request = given.request(dataset, labels, parse_seeds(given.seeds(seeds)), settings, options)
        request = replace(request, rows=rows)
        shown = progress_shown.told(progress)
        return made.grid_of(finish_grid(request, given.count("jobs", jobs), shown, bar=progress))


def open_run(folder: AnyPath) -> Run:
    """A run that has ended, from the folder that `bench` or the command made.

    Raises:
        UserError: for a folder that is none, or whose run has not ended.

    Example:
        >>> fb.open_run(run.folder) == run
        True
    """
    return made.read_run(given.run_folder(folder))


def evaluate(
    run: AnyRun,
    metrics: Sequence[str] | str | None = None,
    *,
    judge: str | None = None,
    judge_url: str | None = None,
    judge_model: str | None = None,
    max_cost: float | None = None,
    sides: Sequence[str] | None = None,
    limit: int | None = None,
    engine: str | None = None,
    embedding_model: str = "",
    plugins: Plugins = None,
    progress: bool = True,
) -> Evaluated:
    """Answer open-ended benchmarks with a run, have the answers judged, and write report.html into its folder.

    `metrics` are benchmarks, as "mt_bench" or, asked by lm-eval, "mmlu" (None: the usual ones); `judge` is a preset or
    a .toml file (None: rules);
    `sides` are "base", "global", "client-NAME"; `limit`: the first items; `engine`: "inprocess" or "ray" (None: that of
    the run). Paid judges need `max_cost` (US dollars).

    Raises:
        UserError: for unknown names before anything is asked, and where `max_cost` did not suffice (what came is kept).

    Example:
        >>> found = fb.evaluate(run, metrics=["mini"], limit=2)
        >>> found.page.name, list(found.results["judges"])
        ('report.html', ['mini_rule-b0eb5f10'])
    """
    from fedllm_bench.pipeline.evaluating import EvaluationRequest, evaluate_folder

    with given.working(progress, plugins):
        request = EvaluationRequest(
            folder=given.finished(run), metrics=given.joined("metrics", metrics), sides=given.some("sides", sides),
            judge=given.judge(judge, judge_url, judge_model), max_cost=given.paid(max_cost),
            limit=given.count("limit", limit), engine=engine, embedding_model=embedding_model,
        )  # fmt: skip
        return made.evaluated_of(request.folder, evaluate_folder(request))


def compare(
    run: AnyRun | Sequence[AnyRun],
    other: AnyRun | Sequence[AnyRun],
    *,
    metrics: Sequence[str] | None = None,
    plugins: Plugins = None,
) -> RunComparison:
    """The paired differences of two runs, or of two methods where each side has several seeds, with intervals.

    `metrics` is None for all that both sides have; `plugins` are files (docs/plugins.md).

    Raises:
        UserError: for what is no finished run, for seeds of different cells, and for scores that cannot be compared.

    Example:
        >>> found = fb.compare(run, run, metrics=["heldout"])
        >>> found.results["notes"][0]
        'A and B have equal settings.'
    """
    from fedllm_bench.comparison.run_scores import side_of
    from fedllm_bench.report.page.comparison import compared

    with given.in_use(plugins):
        a, b = (side_of(given.run_folders(side)) for side in (run, other))
        return RunComparison(compared(a, b, given.some("metrics", metrics)))


def diversity(
    split: AnySplit,
    *,
    sections: Sequence[str] | str | None = None,
    against: AnySplit | None = None,
    out: AnyPath | None = None,
    progress: bool = True,
    **options: Unpack[DiversityOptions],
) -> Diversity:
    """Measure and draw what makes the clients of a split different, alone or `against` another split.

    `sections` are some of quantity, length, language, instruction, embedding, quality and preference; None for all.
    `out` is diversity/<split>-<hash> where it is None; `options` are `DiversityOptions`.

    Raises:
        UserError: for what is no split or section, a place that cannot be written, and a model that cannot be had.

    Example:
        >>> found = fb.diversity(small, sections=["quantity", "language"])
        >>> found.results["sections"]["quantity"]["gini"] > 0
        True
    """
    from fedllm_bench.report.diversity.measuring import check_settings, measure

    with given.working(progress, uses_plugins=False):
        settings = check_settings(given.diversity_settings(sections, options))
        other = None if against is None else given.split_of("against", against)
        return made.diversity_of(measure(given.split_of("split", split), settings, other, given.folder("out", out)))


def submit(
    runs: AnyRun | Sequence[AnyRun],
    *,
    team: str,
    contact: str = "",
    tuning: str = "",
    out: AnyPath = "leaderboard/submissions",
    dry_run: bool = False,
    **statement: Unpack[StatementOptions],
) -> PackedRuns:
    """Pack runs of one cell under several seeds as a submission to the leaderboard. Nothing is sent anywhere.

    `team`, `contact` (a mail or https address) and `tuning` (how constants were chosen, and on what) must be given,
    each of them, and become public; without one the error says what is missing. `statement` has the rest of
    what can be said, as `StatementOptions`. A `dry_run` writes nothing.

    Raises:
        UserError: for runs that have not ended or are not one cell, and for statements that cannot be shown.

    Example:
        >>> packed = fb.submit(table.runs[1:], team="Lab", contact="lab@example.org", tuning="the preset", **more)
        >>> packed.public[1], packed.folder
        ('Track     mini-aya/open', None)
    """
    from fedllm_bench.leaderboard.submit import placing, preview
    from fedllm_bench.leaderboard.submit.submitting import prepare

    said, is_dirty = given.statement(team, contact, tuning, statement)
    folders = given.run_folders(runs)
    for folder in folders:  # before the statement is looked at
        made.read_run(folder)
    draft, opened = prepare(folders, said, dirty=is_dirty)
    place = Path(given.path("out", out))
    public = (*preview.lines(draft, opened), *preview.flags(draft, place))
    return PackedRuns(folder=None if dry_run else placing.write(draft, place).absolute(), public=public)
