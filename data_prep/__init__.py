"""One module for each upstream or data set: how its rows are read. The engine is fedllm_bench.data.build."""
