"""Scores of items, means over clients and seeds, their intervals and tests."""
