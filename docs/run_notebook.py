"""Runs the notebook of the first tutorial in a kernel, in a folder that is thrown away: part of `make test-docs`.

    python docs/run_notebook.py PYTHON    # the Python that has est installed, with its commands beside it

The cell that installs is left out, and the cells are made smaller as in the tutorial.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parent / "tutorials" / "first_run.ipynb"
PACKAGES = "import os, sys; print(os.pathsep.join(filter(None, sys.path[1:])))"


def main(python: str) -> None:
    """nbclient's CellExecutionError, with what the cell said, of a cell that fails."""
    programs = Path(python).absolute().parent
    packages = subprocess.run([python, "-c", PACKAGES], check=True, capture_output=True, text=True).stdout.strip()
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = packages  # of the kernel, which is another Python of the same version
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        for old, new in notebook.metadata["smaller"].items():
            cell.source = cell.source.replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()


if __name__ == "__main__":
    main(sys.argv[1])
