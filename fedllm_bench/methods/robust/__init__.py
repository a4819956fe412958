"""Clients that attack, and rules of aggregation that withstand them (docs/robust.md)."""
