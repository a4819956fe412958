"""report.html: one static page of a run, safe for whatever a model, a user or a judge wrote.

It asks nothing of any host. A content security policy allows the page's own script by its hash and nothing else;
templates escape what they are given; texts of the answers browser are data, which the script shows as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedllm_bench.common.text import counted
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark
from fedllm_bench.evaluation.scoring.evaluation_json import EvaluationResults
from fedllm_bench.evaluation.scoring.score_all import Scored
from fedllm_bench.report.page import charts, parts
from fedllm_bench.report.page.browser import BrowserData, browser_data
from fedllm_bench.report.page.offsite_table import offsite_table
from fedllm_bench.report.page.parts import environment, own_file
from fedllm_bench.report.page.score_pair_table import score_pair_table
from fedllm_bench.report.page.tables import Table, closed_table, judge_table, open_table, pair_table, training_table
from fedllm_bench.results.schema import Results


@dataclass(frozen=True, kw_only=True)
class PageContents:
    """What a page is made of. `results` is results.json, None where the folder has none."""

    title: str
    facts: str
    notes: tuple[str, ...]
    evaluation: EvaluationResults
    materials: Mapping[str, AnsweredBenchmark]
    scored: Sequence[Scored]
    results: Results | None = None


def html_page(contents: PageContents) -> str:
    evaluation, results = contents.evaluation, contents.results
    data = browser_data(contents.materials, contents.scored)
    trained = training_table(results) if results else None
    tables = [
        closed_table(evaluation),
        open_table(evaluation),
        pair_table(evaluation),
        score_pair_table(evaluation),
        trained,
        offsite_table(results),
        judge_table(evaluation),
    ]
    drawn = charts.charts(evaluation)
    curves = [charts.check_curve(results.early_stop), charts.loss_curve(results.over_rounds)] if results else []
    curves = [curve for curve in curves if curve is not None]
    shown = [table for table in tables if table is not None]
    has_answers = bool(contents.materials)
    template = environment().get_template("report.html.jinja")
    page: str = template.render(
        title=contents.title,
        facts=contents.facts,
        notes=contents.notes,
        policy=policy(),
        style=Markup(own_file("report.css")),
        script=Markup(own_file("report.js")),
        sections=_sections(shown, bool(drawn), bool(curves), has_answers),
        tables=shown,
        charts=drawn,
        sides=charts.coloured(evaluation),
        curves=curves,
        has_answers=has_answers,
        data=Markup(data.text),
        cut=_cut(data),
        footer=_footer(evaluation),
    )
    return page


def policy() -> str:
    """Nothing but the page's own style and its one script; no form, no base address, no HTML made from text."""
    return parts.policy([own_file("report.js")])


def _sections(tables: Sequence[Table], charts: bool, curve: bool, answers: bool) -> list[tuple[str, str]]:
    there = [(table.id, table.title) for table in tables]
    there += [("categories", "By benchmark, category, language and client")] if charts else []
    there += [("rounds", "Over rounds")] if curve else []
    return there + ([("answers", "Answers")] if answers else [])


def _cut(data: BrowserData) -> list[str]:
    return [f"{line} Whole texts are in the folders answers and judgements of the run." for line in data.cut]


def _footer(evaluation: EvaluationResults) -> list[str]:
    lines = [
        f"{name}: {counted(found.num_prompts, 'question')}, {counted(found.num_turns, 'turn')}"
        f"{f', version {found.version}' if found.version else ''}, prompts sha256 {found.prompts_sha256[:16]}"
        for name, found in evaluation.benchmarks.items()
    ]
    settings = evaluation.settings
    made = (
        f"Intervals of {settings.level:.0%} over questions: of shares of 0 or 1 binomial, of other scores Student's t, "
        "widened where scores are skewed; where all are equal, exact from the ends of the scale."
    )
    return [*lines, made] if lines else []
