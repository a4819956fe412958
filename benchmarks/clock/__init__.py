"""Measurements of the virtual clock (docs/clock.md), each a command of its own."""
