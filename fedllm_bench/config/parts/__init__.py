"""Sections of a config that came later, each with what it cannot be combined with."""
