"""examples/from_split_to_table.ipynb: stored without outputs, and it runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_runs import EXAMPLES

NOTEBOOK = EXAMPLES / "from_split_to_table.ipynb"
FIGURES = 3


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None]


@pytest.mark.slow
def test_the_notebook_runs_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND")  # conftest's would leave the notebook's figures out
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=420, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) == 2
    assert all(word in tables[-1] for word in ("local", "fedavg", "fedprox", "ci_low"))
    assert len(list(tmp_path.glob("runs/mini-aya/*/s0-*/results.json"))) == 3
