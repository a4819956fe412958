"""Small made data sets in the columns of the upstreams of code benchmarks, and answers to their items.

Each item has a mark; `ANSWERS` has, for each benchmark, the answers by mark, and `PASSES` whether they pass.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from closed_rows import mark, words

from fedllm_bench.common import files
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark, closed_benchmarks

Row = dict[str, Any]
ALL_CODE = {name: benchmark for name, benchmark in closed_benchmarks().items() if benchmark.needs_code}
CODE = {name: benchmark for name, benchmark in ALL_CODE.items() if not name.startswith("ds1000_")}  # parts of ds1000
CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n"
# bodies of `add`; what comes behind a stop string is cut off
BODIES = (
    ("    return a + b\n", True),
    ("    return a - b\n", False),
    ("    import os\n    os._exit(0)\n", False),
    ("    while True:\n        a += 1\n", False),
    ("    return a + b\n\ndef other():\n    raise SystemExit(1)\nother()\n", True),
    ("", False),
)
# behind a head whose last line break is left out, as HumanEvalPack's is
NEXT_LINE = tuple((f"\n{body}", passed) for body, passed in BODIES)
FENCED = (
    ("Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", True),
    ("```\n    return a + b\n```", True),
    ("I cannot.", False),
    ("```python\ndef add(a, b):\n    return a * b\n```", False),
    ("    return a + b\n```\nDone.", True),
    ("```python\nimport os\nos._exit(0)\n```", False),
)


def _head(number: int) -> str:
    text = words(number).replace('"""', "'''")
    return f'from typing import List\n\n\ndef add(a, b):\n    r""" {text} """\n'


def _humaneval(number: int) -> Row:
    names = {"task_id": f"HumanEval/{number}", "entry_point": "add", "canonical_solution": BODIES[0][0]}
    return {**names, "prompt": _head(number), "test": CHECK}


def _pack(number: int) -> Row:
    return {
        "task_id": f"Python/{number}",
        "prompt": _head(number),
        "declaration": "from typing import List\n\n\ndef add(a, b):\n",
        "canonical_solution": BODIES[0][0],
        "buggy_solution": f"    # {mark(number)}\n    return a - b\n",
        "bug_type": "operator misuse",
        "failure_symptoms": "incorrect output",
        "entry_point": "add",
        "import": "",
        "test_setup": "",
        "test": f"{CHECK}\ncheck(add)",
        "example_test": "",
        "signature": "add(a, b)",
        "docstring": words(number),
        "instruction": f"Write a Python function `add(a, b)`: {words(number)}",
    }


def _mbpp(number: int) -> Row:
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(BASE, 1) == 8"]
    return {
        "task_id": number,
        "text": words(number),
        "code": "def add(a, b):\r\n  return a + b",
        "test_list": tests,
        "test_setup_code": "BASE = 7",
        "challenge_test_list": [],
    }


def _multipl_e(language: str) -> Callable[[int], Row]:
    js = "const assert = require('node:assert');\nfunction test() {\n  assert.deepEqual(add(1, 2), 3);\n}\ntest();"
    cpp = "}\nint main() {\n    auto candidate = add;\n    assert(candidate((1), (2)) == (3));\n}\n"
    prompts = {"js": "//{}\nfunction add(a, b){{\n", "cpp": "#include<assert.h>\n// {}\nlong add(long a, long b) {{\n"}
    stops = {"js": ["\nfunction ", "\n/*", "\n//", "\nconsole.log"], "cpp": ["\n}"]}

    def row(number: int) -> Row:
        return {
            "name": f"HumanEval_{number}_add",
            "language": language,
            "prompt": prompts[language].format(mark(number)),
            "doctests": "transform",
            "original": "",
            "prompt_terminology": "reworded",
            "tests": {"js": js, "cpp": cpp}[language],
            "stop_tokens": stops[language],
        }

    return row


CONTEXT = """\
def generate():
    return {setup}
exec_context = "[insert]"
def test_execution(solution: str):
    space = {{"a": generate()}}
    exec(exec_context.replace("[insert]", solution), space)
    assert list(space["result"]) == [2, 4]
def test_string(solution: str):
    assert "for" not in solution
"""
SETUPS = {"Numpy": "__import__('numpy').array([1, 2])"}
NAMES = ("Matplotlib", "Numpy", "Pandas", "Pytorch", "Scipy", "Sklearn", "Tensorflow")


def _ds1000(library: str) -> Callable[[int], Row]:
    def row(number: int) -> Row:
        about = {"problem_id": number, "library_problem_id": number, "library": library, "test_case_cnt": 1,
                 "perturbation_type": "Origin", "perturbation_origin_id": number}  # fmt: skip
        prompt = f"Problem:\n{words(number)}\nA:\n<code>\na = [1, 2]\n</code>\nBEGIN SOLUTION\n<code>\n"
        context = CONTEXT.format(setup=SETUPS.get(library, "[1, 2]"))
        return {"prompt": prompt, "reference_code": "result = a * 2", "metadata": about, "code_context": context}

    return row


DS_BODIES = (
    ("result = a * 2\n</code>\nEND SOLUTION", True),
    ("result = a\n", False),
    ("```python\nresult = a + a\n```", True),
    ("result = [2 * x for x in a]", False),  # by the test of its text
)
JS_BODIES = (("  return a + b;\n}\n", True), ("  return a - b;\n}\n", False), ("  process.exit(0);\n}\n", False))
CPP_BODIES = (
    ("    return a + b;\n}\nint main() { return 0; }", True),
    ("    return a - b;", False),
    ("    retur", False),
)
Item = tuple[str, bool]
# what the hub is asked for -> (folder in a folder of data, answers, rows)
MADE_CODE: dict[str, tuple[str, tuple[Item, ...], Callable[[int], Row]]] = {
    "humaneval": ("openai__openai_humaneval", BODIES, _humaneval),
    "humaneval_fsllm": ("openai__openai_humaneval", BODIES, _humaneval),
    "humaneval_instruct": ("openai__openai_humaneval", FENCED, _humaneval),
    "humanevalfix": ("bigcode__humanevalpack", NEXT_LINE, _pack),
    "humanevalsynthesize": ("bigcode__humanevalpack", NEXT_LINE, _pack),
    "mbpp": ("google-research-datasets__mbpp/full", (
        ("def add(a, b):\n    return a + b\n", True), ("def add(a, b):\n    return a\n", False),
        ("```python\ndef add(a, b):\n    return b + a\n```\n", True), ("import os\nos._exit(0)\n", False),
    ), _mbpp),
    "multipl_e_js": ("nuprl__MultiPL-E/humaneval-js", JS_BODIES, _multipl_e("js")),
    "multipl_e_cpp": ("nuprl__MultiPL-E/humaneval-cpp", CPP_BODIES, _multipl_e("cpp")),
    "ds1000": ("xlangai__DS-1000", DS_BODIES, _ds1000("Numpy")),
}  # fmt: skip


def write_data(name: str, folder: Path) -> ClosedBenchmark:
    """The made rows of a code benchmark, in files as --data-dir takes them."""
    place, items, row = MADE_CODE[name]
    rows = [row(number) for number in range(len(items))]
    if name == "ds1000":
        rows += [_ds1000(library)(len(items) + n) for n, library in enumerate(NAMES) if library != "Numpy"]
    files.make_folder(folder / place)
    files.write_jsonl(folder / place / "test.jsonl", rows)
    if name == "mbpp":
        files.write_jsonl(folder / place / "prompt.jsonl", [_mbpp(number) for number in range(101, 105)])
    return CODE[name]


def says(name: str) -> dict[str, str]:
    """Answers by the mark of the item; an item without one is answered with nothing."""
    found = {mark(number): answer for number, (answer, _) in enumerate(MADE_CODE[name][1])}
    more = range(len(found), len(found) + len(NAMES))
    return found | {mark(number): "" for number in more}


def passes(name: str) -> list[bool]:
    return [passed for _, passed in MADE_CODE[name][1]]
