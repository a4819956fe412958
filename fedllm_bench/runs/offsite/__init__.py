"""The model and the public rows of a run of offsite tuning."""
