"""Metrics of answers that need no judge, and the registry of all open-ended metrics."""
