"""Submissions to the leaderboard: raw records from which every number is computed again (docs/submitting.md)."""
