"""Programs that `make speed-peers` runs in environments of their own, where this suite is not installed."""
