"""From raw upstream rows to client splits: the engine of the pipelines in data_prep/."""
