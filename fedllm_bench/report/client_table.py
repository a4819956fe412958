"""The lines on the terminal about how held-out loss lies over clients, and about users without training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm_bench.report.formats import change, counted, number, signed

Payload = Mapping[str, Any]
LOSS = "heldout"
NAMES = {
    "before": "base",
    "after": "after",
    "local": "local",
    "difference": "after - base",
    "difference_to_local": "after - local",
}
HEADER = ["held-out loss, by client", "n", "mean", "sd", "worst tenth"]


def client_rows(payload: Payload) -> list[list[str]]:
    """Cells with a header: a line for each side of the clients, after personalisation, and of unseen users."""
    metrics, rows = payload["metrics"], list[list[str]]()
    for name, who in ((LOSS, "clients"), (f"{LOSS}_unseen", "unseen users")):
        if name in metrics:
            rows += _sides(metrics[name]["per_client"], who, NAMES)
        if name == LOSS and payload["personalisation"]:
            found = payload["personalisation"]["heldout"]["per_client"]
            rows += _sides(found, "clients", {"after": "personalised", "difference": "personalised - after"})
    return [HEADER, *rows] if rows else []


def _sides(found: Mapping[str, Any], who: str, names: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for side, name in names.items():
        of = found[side]
        if of is not None and of["n"]:
            shown = signed if "difference" in side else number
            rows.append([f"{who}: {name}", str(of["n"]), shown(of["mean"]), number(of["sd"]), shown(of["worst_tenth"])])
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
    if LOSS in payload["metrics"] and not payload["data"]["num_unseen_clients"]:
        lines.append("unseen users: none in this split")
    return lines
