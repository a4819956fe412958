"""Closed benchmarks: questions with one right answer, asked by EleutherAI's lm-eval."""
