"""Presets of datasets, methods and profiles, and their exceptions."""
