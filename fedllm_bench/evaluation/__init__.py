"""Open-ended evaluation: prompts, answers, judges' replies, and the scores that follow from them."""
