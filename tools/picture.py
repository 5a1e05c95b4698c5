"""Take one figure out of an executed chapter, as for the README.

    python tools/picture.py runs/full/03_sequential.ipynb 2 book/_static/forgotten.png
"""

import base64
import json
import sys
from pathlib import Path


def figures(notebook: Path) -> list[bytes]:
    """The chapter's figures in their order, each a PNG file."""
    outputs = [output for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
               for output in cell.get("outputs", [])]
    return [base64.b64decode(output["data"]["image/png"]) for output in outputs
            if output.get("metadata", {}).get("sa_lib", {}).get("role") == "figure"]


if __name__ == "__main__":
    source, number, target = sys.argv[1:]
    Path(target).write_bytes(figures(Path(source))[int(number) - 1])
