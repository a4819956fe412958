"""From answers to verdicts of judges: ratings, pairs, and how far judges agree with people."""
