"""The levels of intervals and tests, each defined once."""

from __future__ import annotations

CONFIDENCE = 0.95  # of every interval that is shown
UPPER = (1 + CONFIDENCE) / 2  # of two-sided limits
SIGNIFICANCE = 0.05  # of every test that is shown, two-sided
BAND_CONFIDENCE = 0.99  # one-sided: of how far two trainings of one cell lie apart
REVIEW_SIGNIFICANCE = 0.01  # one-sided: one honest submission in a hundred is looked at once more
