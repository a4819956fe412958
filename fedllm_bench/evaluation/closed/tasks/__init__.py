"""Task files for lm-eval, where it has none of its own: a YAML file for each, and the functions that they name.

lm-eval finds them with `TaskManager(include_path=tasks.FOLDER)`. They read data sets of the hub as their authors keep
them; scripts are never run (datasets refuses them): those sets are read from the parquet files that the hub makes.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
