"""What is measured: scores, their summaries and intervals."""
