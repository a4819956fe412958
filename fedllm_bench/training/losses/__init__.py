"""Losses of preferences: of pairs of answers, and of answers by themselves."""
