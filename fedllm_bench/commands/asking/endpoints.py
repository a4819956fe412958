"""Who stands behind `fedllm-bench answer --endpoint`: the base, and adapters that the server has, each by its name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:
    from fedllm_bench.evaluation.answering.remote_answers import EndpointAnswerer

LEAVABLE = ("seed", "temperature")


def sides_of(args: argparse.Namespace) -> list[str] | None:
    """Who is to answer; None where --sides is not given."""
    if not args.sides:
        return None
    return list(dict.fromkeys(side.strip() for side in args.sides.split(",") if side.strip()))


def endpoints_of(args: argparse.Namespace) -> dict[str, EndpointAnswerer]:
    """Side -> what the server knows it by; `base` is --model."""
    from fedllm_bench.common.network import checked_address
    from fedllm_bench.evaluation.answering.remote_answers import EndpointAnswerer, served_model
    from fedllm_bench.evaluation.answering.subjects import BASE

    address = checked_address(args.endpoint, "--endpoint")
    return {
        side: EndpointAnswerer(
            served=served_model(address, name, key_env=args.api_key_env, concurrency=args.concurrency),
            benchmark="",
            seed=args.seed,
            limit_name=args.token_limit_name,
            left_out=tuple(name for name in LEAVABLE if getattr(args, f"no_{name}")),
            is_named=side != BASE,
        )
        for side, name in _served_names(args, BASE).items()
    }


def _served_names(args: argparse.Namespace, base: str) -> dict[str, str]:
    from fedllm_bench.evaluation.records import checked_side

    given = dict(args.served)
    if len(given) < len(args.served):
        twice = next(side for side, _ in args.served if [one for one, _ in args.served].count(side) > 1)
        raise UserError(f"--served {twice}: given twice; give one name for each side")
    if base in given:
        raise UserError(f"--served {base}: the base is what --model names; leave it out")
    if same := next((side for side, name in given.items() if name == args.model), ""):
        raise UserError(f"--served {same}={args.model[:80]}: that is the base, which --model names; give the adapter's "
                        "name")  # fmt: skip
    wanted = sides_of(args)
    if wanted is not None and (unused := next((side for side in given if side not in wanted), "")):
        raise UserError(f"--served {unused}: not among --sides {args.sides}; add it there, or leave it out")
    return {base: args.model} | {checked_side(side): given.get(side, side) for side in wanted or given if side != base}
