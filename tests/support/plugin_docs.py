"""The examples of docs/plugins.md: their files and their commands, as a reader copies them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from checkout import ROOT

TEXT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = {
    code.partition("\n")[0].removeprefix("# "): code
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    if code.startswith("# ")
}
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fedllm-bench ")
]


def written(folder: Path, *names: str) -> list[Path]:
    """These files of the page in `folder`; all of them without names."""
    for name in names or FILES:
        (folder / name).write_text(FILES[name], encoding="utf-8")
    return [folder / name for name in names or FILES]
