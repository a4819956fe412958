"""The pages of runs, evaluations and comparisons."""
