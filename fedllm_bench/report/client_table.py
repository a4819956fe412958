"""The lines on the terminal about how held-out loss lies over clients, and about users without training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm_bench.common.text import change, counted, number, signed
from fedllm_bench.report.names import LOSS_NAMES
from fedllm_bench.scores.score import LOSSES

Payload = Mapping[str, Any]
NAMES = {
    "before": "base",
    "after": "after",
    "local": "local",
    "difference": "after - base",
    "difference_to_local": "after - local",
}
HEADERS = {loss: [f"{name}, by client", "n", "mean", "sd", "worst tenth"] for loss, name in LOSS_NAMES.items()}


def client_rows(payload: Payload) -> list[list[str]]:
    """Cells with a header: a line for each side of the clients, after personalisation, and of unseen users."""
    metrics, loss, rows = payload["metrics"], loss_of(payload), list[list[str]]()
    if loss is None:
        return []
    for name, who in ((loss, "clients"), (f"{loss}_unseen", "unseen users")):
        if name in metrics:
            rows += _sides(metrics[name]["per_client"], who, NAMES)
        if name == loss and payload["personalisation"]:
            found = payload["personalisation"]["heldout"]["per_client"]
            rows += _sides(found, "clients", {"after": "personalised", "difference": "personalised - after"})
    return [HEADERS[loss], *rows] if rows else []


def loss_of(payload: Payload) -> str | None:
    """The metric of the run that is the loss of its task; None where it was not scored."""
    return next((name for name in LOSSES.values() if name in payload["metrics"]), None)


def _sides(found: Mapping[str, Any], who: str, names: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for side, name in names.items():
        of = found[side]
        if of is not None and of["n"]:
            shown = signed if "difference" in side else number
            rows.append(
                [
                    f"{who}: {name}",
                    str(of["n"]),
                    shown(of["mean"]),
                    number(of["sd"] if of["n"] > 1 else None),
                    shown(of["worst_tenth"]),
                ]
            )
    return rows


def about_views(payload: Payload) -> list[str]:
    """What the legend says of personalisation, and of a split without unseen users."""
    lines, found = [], payload["personalisation"]
    if found:
        spread = found["heldout"]["distribution"]
        lines.append(
            f"personalised: {counted(found['steps'], 'local step')} of {found['optimizer']} at {found['lr']:.2g} from "
            f"the global adapter; {change(found['heldout']['difference'])}, better for {spread['num_better']} of "
            f"{counted(spread['difference']['n'], 'client')}"
        )
    if loss_of(payload) and not payload["data"]["num_unseen_clients"]:
        lines.append("unseen users: none in this split")
    return lines
