"""From own runs to a submission."""
