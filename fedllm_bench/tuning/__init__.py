"""Choosing settings of a method: a search over a space, on seeds that are never reported (docs/tuning.md)."""
