"""From answers and verdicts to evaluation.json."""
