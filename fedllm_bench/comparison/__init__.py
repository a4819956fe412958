"""Two runs or two methods, compared by the scores that both have."""
