"""Measurements of speed, each a command of its own; what they found is in benchmarks/LOG.md."""
