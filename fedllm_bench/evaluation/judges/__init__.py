"""Judges: presets, prompts, the client that asks them, the store of their replies, cost."""
