"""Data of the board: its tracks, shipped bands and submissions. The engine is fedllm_bench.leaderboard."""
