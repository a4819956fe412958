"""Diversity of instructions: verbs, terms and topics."""
