"""A folder of records -> evaluation.json and report.html in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.config.run_labels import is_invented
from fedllm_bench.evaluation.closed.closed_folder import read_closed
from fedllm_bench.evaluation.closed.closed_scoring import closed_notes, closed_results, score_closed
from fedllm_bench.evaluation.metrics.own_user import OF_SPLIT, Owners, owners_of_run
from fedllm_bench.evaluation.metrics.references import load_encoder
from fedllm_bench.evaluation.metrics.registry import open_metrics
from fedllm_bench.evaluation.scoring import evaluation_json, own_metrics
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark, read_folder
from fedllm_bench.evaluation.scoring.evaluation_json import EvaluationResults
from fedllm_bench.evaluation.scoring.score_all import ScoringOptions, evaluation_of, score_all
from fedllm_bench.report.labels import what_ran
from fedllm_bench.report.page.page import PageContents, html_page
from fedllm_bench.results.schema import Results, results_of

PAGE, RESULTS = "report.html", "results.json"
NO_ANSWERS = "No answers of benchmarks here: fedllm-bench answer RUN makes them."


@dataclass(frozen=True, kw_only=True)
class Written:
    """`numbers` is None where there was nothing to score."""

    evaluation: EvaluationResults
    page: Path
    numbers: Path | None
    notes: tuple[str, ...]


def write_evaluation_report(folder: Path, *, embedding_model: str = "", min_coverage: float = 1.0) -> Written:
    """Score what lies in `folder` and write both files.

    Raises a :class:`UserError` for a folder with neither answers nor results, and for records that are not ours.
    """
    own_metrics.check_still_there(folder)
    materials = read_folder(folder)
    trained, notes = _results(folder)
    closed = read_closed(folder)
    if not materials and not closed and trained is None:
        raise UserError(f"{folder} has neither answers nor results.json; give a run folder, or answer first: "
                        f"fedllm-bench answer {folder}")  # fmt: skip
    encoder = load_encoder(embedding_model) if embedding_model and materials else None
    owners = owners_of_run(folder) if materials.keys() & set(OF_SPLIT) else None
    materials = {name: _with_clients(name, material, owners) for name, material in materials.items()}
    options = ScoringOptions(
        min_coverage=min_coverage,
        embedding_model=embedding_model,
        metrics=open_metrics(encoder, Path(embedding_model).name, owners),
    )
    scored = score_all(materials, options.metrics)
    evaluation = evaluation_of(materials, [*score_closed(closed), *scored], options, closed_results(closed))
    unchecked = [note for material in materials.values() for note in material.notes]
    notes = (*notes, *unchecked, *closed_notes(closed), *([] if materials or closed else [NO_ANSWERS]))
    contents = PageContents(
        title=_title(folder, trained),
        facts=_facts(trained),
        notes=notes,
        evaluation=evaluation,
        materials=materials,
        scored=scored,
        results=trained,
    )
    numbers = folder / evaluation_json.FILE if materials or closed else None
    if numbers:
        own_metrics.keep(folder, [one.metric for one in evaluation.metrics.values()])
        evaluation_json.write_evaluation(numbers, evaluation)
    files.write_text(folder / PAGE, html_page(contents))
    return Written(evaluation=evaluation, page=folder / PAGE, numbers=numbers, notes=notes)


def _with_clients(benchmark: str, material: AnsweredBenchmark, owners: Owners | None) -> AnsweredBenchmark:
    return material if owners is None or benchmark not in OF_SPLIT else replace(material, clients=owners.client_of)


def _results(folder: Path) -> tuple[Results | None, tuple[str, ...]]:
    """results.json, and a note where there is one that cannot be shown: answers are reported on all the same."""
    path = folder / RESULTS
    if not path.is_file():
        return None, ()
    try:
        return results_of(json.loads(path.read_bytes())), ()
    except (ValueError, RecursionError) as error:
        return None, (f"{RESULTS} is left out: {first_line(error)}",)


def _title(folder: Path, trained: Results | None) -> str:
    if trained is None:
        return folder.resolve().name
    return f"{trained.run.dataset} · {trained.run.method} · seed {trained.run.seed}"


def _facts(trained: Results | None) -> str:
    if trained is None:
        return "No results of training in this folder."
    run = trained.run
    ran = what_ran(vars(run), trained.data.num_clients)
    mini = "; the users are invented, so nothing here is a result on a real data set"
    parts = [f"{ran}{mini if is_invented(run.dataset) else ''}", f"model {run.model}"]
    parts += [f"{trained.data.num_clients} clients"] if is_invented(run.dataset) else []
    parts += [f"config {run.config_hash}", f"commit {run.commit or 'unknown'}"]
    return "; ".join(parts)
