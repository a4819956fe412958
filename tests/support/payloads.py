"""results.json of a run by hand, for the tests of tables and their legend."""

from __future__ import annotations


def summary(mean, low=None, high=None, *, n=38, unscored=0, interval="t_skew", **more) -> dict:
    return {
        "mean": mean, "ci_low": low, "ci_high": high, "n": n, "n_scored": 100, "n_unscored": unscored,
        "interval": interval, "unit_of_resampling": "client",
        "no_interval": "", "sd": None, **more,
    }  # fmt: skip


def distribution(better, worse, n=38) -> dict:
    after = {"min": 0.1, "p10": 0.2, "p25": 0.3, "median": 0.5, "p75": 0.6, "p90": 0.8, "max": 123.45, "n": n}
    if not n:
        after = {**dict.fromkeys(after), "n": 0}
    difference = {key: value if value is None or key == "n" else -value for key, value in after.items()}
    share = better / n if n else None
    return {
        "after": after, "difference": difference, "num_better": better, "num_worse": worse, "share_better": share,
    }  # fmt: skip


def moments(mean, n=38) -> dict:
    return {"mean": mean, "sd": 0.25, "worst_tenth": 2 * mean, "n": n}


def per_client(local=None) -> dict:
    return {
        "before": moments(1.11), "after": moments(0.61), "difference": moments(-0.5),
        "local": local, "difference_to_local": local and moments(-0.72, n=12),
    }  # fmt: skip


def entry(unit, higher, before, after, difference, local=None, to_local=None, spread=None) -> dict:
    return {
        "version": "1", "unit": unit, "higher_is_better": higher, "description": "",
        "estimator": "mean over clients", "before": before, "after": after, "difference": difference,
        "local": local, "difference_to_local": to_local, "distribution": spread or distribution(36, 2),
        "per_client": per_client(local and moments(1.4, n=12)),
    }  # fmt: skip


PAYLOAD = {
    "schema_version": 5,
    "run": {
        "dataset": "mini-aya", "method": "fedprox", "personal": False, "profile": "mini", "track": "mini", "seed": 3,
        "model": "mini", "base": "embedded model",
    },
    "data": {
        "num_clients": 38, "num_unseen_clients": 4, "local_clients": ["user-004", "user-017"], "never_visited": [],
        "sequence_length": 256, "cut": {part: {"num_rows": 9, "num_cut": 0, "num_skipped": 0, "num_counted_tokens": 90,
                                               "num_lost_tokens": 0} for part in ("train", "heldout", "unseen")},
    },
    "over_rounds": None, "personalisation": None,
    "cost": {
        "bytes_up": 5_200_000, "bytes_down": 10_400_000, "seconds": {"data": 1.25, "train": 65.0},
        "peak_memory_bytes": 1_300_000_000, "peak_gpu_bytes": None,
        "num_answers": 240, "num_dropouts": 0, "failures": [],
    },
    "clients": {"heldout": [], "mini_exact": []},
    "privacy": None,
    "communication": None,
    "metrics": {
        "heldout": entry(
            "nats per token", False, summary(1.11), summary(0.61), summary(-0.5, -0.55, -0.45),
            summary(1.4, n=12), summary(-0.72, -0.95, -0.49, n=12),
        ),
        "heldout_tokens": entry(
            "nats per token", False, summary(1.2), summary(0.7), summary(-0.5, -0.6, -0.4)
        ),
        "mini_exact": entry(
            "share", True, summary(0.067), summary(0.575, unscored=3), summary(0.508, 0.444, 0.567),
            summary(None, n=0), summary(None, n=0, interval="none"), distribution(30, 3),
        ),
    },
}  # fmt: skip
