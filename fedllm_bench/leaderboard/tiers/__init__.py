"""Parts of a submission made again: judging, answering, training."""
