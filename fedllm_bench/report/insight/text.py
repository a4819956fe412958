"""insight.json as a table for the terminal and for Markdown, and as plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import counted, number, signed
from fedllm_bench.diversity.insight.gains import OUTCOMES
from fedllm_bench.diversity.insight.insight import ALL
from fedllm_bench.report.tables import aligned

HEAD = ("predictor", "Spearman's rho [95% CI]", "p", "p (Holm)", "beta, others equal [95% CI]", "p", "VIF")
MORE = {  # what a rho above 0 says of the clients that gained more
    "distance": "are farther from the crowd",
    "size": "have more training rows",
    "language": "write in languages of which the others have more rows",
}
LESS = {
    "distance": "are nearer to the crowd",
    "size": "have fewer training rows",
    "language": "write in languages of which the others have fewer rows",
}
SIGNIFICANT = 0.05
CAVEATS = (
    "Clients were not given their data at random: this says what goes with a gain, not what makes it. Predictors that "
    "go together (VIF above 5) cannot be told apart.",
    "Intervals are over clients like these, on this split and with these trained models; another split, or seeds that "
    "were not run, may differ.",
)


def insight_text(report: Mapping[str, Any], *, markdown: bool = False) -> str:
    """A block for each outcome and method: the table, then what it says in words; what it cannot say at the end."""
    blocks = [block for outcome in OUTCOMES for block in _outcome(report, outcome, markdown)]
    runs = [f"{run['method']} seed {run['seed']}" for run in report["runs"]]
    head = f"{report['split']['name']}: {report['metric']['name']} of {counted(len(runs), 'run')} ({', '.join(runs)}); "
    head += f"distances by {report['settings']['embedder']}"
    return "\n\n".join([f"# {head}" if markdown else head, *blocks, "\n".join(CAVEATS)])


def _outcome(report: Mapping[str, Any], outcome: str, markdown: bool) -> Iterator[str]:
    found = report["outcomes"][outcome]
    name = OUTCOMES[outcome].capitalize()
    if "skipped" in found:
        yield f"{name}: skipped, for there is {found['skipped']}."
        return
    for method, result in found.items():
        title = heading(report, outcome, method)
        table = [HEAD, *_rows(result)]
        lines = _markdown(table) if markdown else aligned(table, to_left=True)
        yield "\n".join([f"## {title}\n" if markdown else title, *lines, *([""] if markdown else []), *said(result)])


def heading(report: Mapping[str, Any], outcome: str, method: str) -> str:
    """ "Gain over training alone, fedavg: 38 clients, 2 runs; mean +0.512 nats per token, 3 worse off"."""
    result = report["outcomes"][outcome][method]
    name = "all methods" if method == ALL else method
    lacking = f" ({result['left_out']} more have none)" if result["left_out"] else ""
    start = f"{OUTCOMES[outcome].capitalize()}, {name}: {counted(result['clients'], 'client')}{lacking}, "
    mean = f"mean {signed(result['mean_gain'])} {report['metric']['unit']}, {result['worse_off']} worse off"
    return start + f"{counted(result['runs'], 'run')}; {mean}"


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    coefficients = result["regression"].get("coefficients", {})
    for name, one in result["correlations"].items():
        alone = ("skipped", "", "") if "skipped" in one else (rho(one), p_text(one["p_value"]), p_text(one["p_holm"]))
        beta = coefficients.get(name)
        together = (
            (_between(beta, "beta"), p_text(beta["p_value"]), number(beta["vif"])) if beta else ("skipped", "", "")
        )
        yield (name, *alone, *together)


def rho(one: Mapping[str, Any]) -> str:
    return _between(one, "rho")


def _between(one: Mapping[str, Any], key: str) -> str:
    limits = "no interval" if one["low"] is None else f"{one['low']:+.2f}, {one['high']:+.2f}"
    return f"{one[key]:+.2f} [{limits}]"


def p_text(value: float) -> str:
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}"


def said(result: Mapping[str, Any]) -> list[str]:
    """A sentence for each predictor that goes with the gain, one for the others, and one for the regression."""
    lines = list(_alone(result))
    model = result["regression"]
    if "skipped" in model:
        return [*lines, f"Regression: skipped; {model['skipped']}."]
    clear = [name for name, one in model["coefficients"].items() if one["p_value"] < SIGNIFICANT]
    named = f"by itself, of the three: {', '.join(clear)}" if clear else "none by itself"
    together = f"Together they go with {round(100 * model['r2'])}% of the variance of the clients' gains (adjusted "
    return [*lines, f"{together}{round(100 * model['r2_adjusted'])}%); {named}."]


def _alone(result: Mapping[str, Any]) -> Iterator[str]:
    hidden = []
    for name, one in result["correlations"].items():
        if "skipped" in one:
            yield f"{name}: skipped, for {one['skipped']}."
        elif one["p_holm"] is not None and one["p_holm"] < SIGNIFICANT:
            yield f"{name}: clients that gained more {(MORE if one['rho'] > 0 else LESS)[name]} (rho {rho(one)})."
        else:
            hidden.append(name)
    if hidden:
        limit = (
            f"a true |rho| below {result['detectable_rho']:.2f} would be missed more often than in one of five tries"
        )
        yield f"Not shown to predict it: {', '.join(hidden)}; {limit}."


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in table]
    return [lines[0], f"|{'---|' * len(table[0])}", *lines[1:]]
