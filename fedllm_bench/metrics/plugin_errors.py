"""Errors of a plugin's metric while it scores, in one line that names the metric, the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedllm_bench.config.plugin_files import in_words, line_in
from fedllm_bench.scores.checked import wrong
from fedllm_bench.scores.score import MetricInfo
from fedllm_bench.training.memory_errors import no_memory


@contextmanager
def errors_of_metric(info: MetricInfo, path: str) -> Iterator[None]:
    """Inside, what the plugin's own code raises becomes a :class:`UserError`; `path` is the plugin's file.

    A plugin can raise anything, also `SystemExit`. Ctrl-C and a lack of memory are for whoever runs the metric.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if no_memory(error):
            raise
        line = line_in(error, path)
        where = f" at {path} line {line}" if line else ""
        raise wrong(info, f"failed{where}: {in_words(error)}; correct the plugin") from error
