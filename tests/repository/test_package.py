"""What is installed and how: packages, data files, pins, lazy imports, size of the code."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools import find_packages

# Folders beside the package -> what they are installed as.
MOVED = {
    "data_prep": "fedllm_bench.data_prep",
    "benchmarks": "fedllm_bench.benchmarks",
    "leaderboard": "fedllm_bench.board_data",
}
MISSION = (
    *("torch", "transformers", "peft", "trl", "datasets"),
    *("pandas", "sentence-transformers", "scikit-learn", "matplotlib", "openai"),
)
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "pandas", "pyarrow", "sklearn", "matplotlib")
LONGEST_FILE, LONGEST_FUNCTION = 300, 40
TOO_LONG: set[str] = set()  # exceptions, as "file" or "file:function"

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def listed(section: str, key: str) -> list[str]:
    return [line for line in SETUP[section][key].splitlines() if line.strip()]


def folder_of(package: str) -> Path:
    """Where a package, or a folder of it, lies in the checkout."""
    for folder, installed in MOVED.items():
        if f"{package}.".startswith(f"{installed}."):
            return ROOT / (folder + package.removeprefix(installed).replace(".", "/"))
    return ROOT / package.replace(".", "/")


def sources() -> list[Path]:
    found = [path for top in ("fedllm_bench", *MOVED) for path in sorted((ROOT / top).rglob("*.py"))]
    assert len(found) > 60
    return found


def modules() -> list[str]:
    names = []
    for path in sources():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        top, dot, rest = name.partition(".")
        names.append(MOVED.get(top, top) + dot + rest)
    return [name for name in names if not name.endswith("__main__")]  # which is the command itself


# --- what is installed


def installed_packages() -> list[str]:
    """What setup.py hands over: those found below fedllm_bench/, and those it lists."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (mapped,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    return [*find_packages(str(ROOT), include=["fedllm_bench", "fedllm_bench.*"]), *mapped]


def test_every_folder_with_code_is_a_package_that_is_installed():
    folders = {path.parent for path in sources()}
    installed = installed_packages()
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert {folder_of(package) for package in installed} == folders
    assert len(installed) == len(folders) >= 40
    moved = dict(line.split(" = ") for line in listed("options", "package_dir"))
    assert moved == {installed: folder for folder, installed in MOVED.items()}


def data_files() -> dict[str, set[Path]]:
    """The files that each pattern of package_data takes along."""
    found = {}
    for package, patterns in SETUP["options.package_data"].items():
        for pattern in patterns.split(","):
            found[f"{package}: {pattern.strip()}"] = set(folder_of(package).glob(pattern.strip()))
    return found


def test_every_pattern_of_data_files_matches_something():
    assert len(data_files()) >= 8
    assert not [pattern for pattern, paths in data_files().items() if not paths]


def test_every_data_file_travels_in_the_wheel():
    """Whatever lies beside the code but pages for people; what was submitted is records, not code."""
    taken = set().union(*data_files().values())
    below = (path for top in ("fedllm_bench", *MOVED) for path in (ROOT / top).rglob("*") if path.is_file())
    there = {path for path in below if path.suffix not in {".py", ".pyc", ".md"}}
    there = {path for path in there if ROOT / "leaderboard/submissions" not in path.parents}
    assert len(there) >= 60
    assert not there - taken


def test_the_ten_packages_of_the_mission_are_core_dependencies():
    core = {canonicalize_name(Requirement(line).name) for line in listed("options", "install_requires")}
    assert len(MISSION) == len(set(MISSION)) == 10
    assert set(MISSION) <= core


def test_constraints_pin_every_dependency_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    assert len(versions) == len(pinned)
    wanted = listed("options", "install_requires") + listed("options.extras_require", "dev")
    assert len(wanted) > 20
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert versions["torch"] == "2.13.0"


def test_the_lowest_constraints_pin_the_lower_bounds_of_what_is_probed():
    """torch stands apart: its lowest version, 2.11, has no CPU build where this is tested."""
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    bounds = {canonicalize_name(r.name): r.specifier for r in map(Requirement, listed("options", "install_requires"))}
    for name in ("transformers", "trl", "peft", "datasets"):
        (bound,) = bounds[name]
        assert (bound.operator, Version(bound.version)) == (">=", Version(pinned[name])), name


def test_constraints_pin_what_the_dependencies_need_too():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    todo = [Requirement(line) for line in listed("options", "install_requires")]
    needed, seen = set[str](), set[tuple[str, str]]()
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        needed.add(name)
        for extra in {"", *asked.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            found = map(Requirement, importlib.metadata.requires(name) or ())
            environment = {**default_environment(), "extra": extra}
            todo += [one for one in found if one.marker is None or one.marker.evaluate(environment)]
    bundled = {"pip", "setuptools"}  # of the environment itself
    missing = {n for n in needed - pinned - bundled if not n.startswith(("nvidia-", "cuda-", "triton"))}
    assert len(needed) > 40
    assert "pysocks" in needed  # what gdown asks for with an extra of requests
    assert not missing  # those of CUDA differ from machine to machine


# --- imports


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["bench", "--help"], ["data", "build", "--help"], ["diversity", "--help"], ["--version"]]
)
def test_import_and_help_load_nothing_heavy(words: list[str]):
    call = f"cli.main({words})" if words else "None"
    code = (
        f"import sys, fedllm_bench, fedllm_bench.cli as cli\ntry: {call}\nexcept SystemExit as e: assert not e.code\n"
        f"print('LOADED', sorted(sys.modules.keys() & set({HEAVY})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_judging_by_a_rule_loads_no_client_of_a_server():
    code = "import sys, fedllm_bench.evaluation.judging.judging; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_module_can_be_imported():
    names = modules()
    assert len(names) == len(set(names)) > 60
    assert all(importlib.import_module(name) for name in names)


@pytest.mark.slow
def test_importing_all_modules_changes_no_global_state():
    code = (
        "import random, sys, warnings, numpy, torch\n"
        "state = lambda: (torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate(),"
        " torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())\n"
        "before = state()\n"
        "for name in sys.argv[1:]: __import__(name)\n"
        "assert state() == before"
    )
    subprocess.run([sys.executable, "-c", code, *modules()], capture_output=True, check=True)


# --- the code itself


def test_the_library_never_prints():
    for path in sources():
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not printed, f"{path}: line {printed}"


def test_files_and_functions_are_small():
    long = set()
    for path in sources():
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if len(text.splitlines()) > LONGEST_FILE:
            long.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION:
                long.add(f"{name}:{node.name}")
    assert long == TOO_LONG


def test_no_committed_file_but_ci_names_the_shared_folder():
    names = [*sources(), *(ROOT / "tests").glob("*.py"), *ROOT.glob("*.md"), ROOT / "Makefile"]
    hidden = "/".join(("", "work", "shared"))
    assert not [path for path in names if hidden in path.read_text(encoding="utf-8")]
