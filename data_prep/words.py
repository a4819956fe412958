"""Words of any script."""

from __future__ import annotations

import re

# A script without spaces gives no words: each of its characters is one.
WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")
