"""What pages, help texts, comments and docstrings name is there: files, folders, modules, and what stands in them."""

from __future__ import annotations

import argparse
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT

from fedllm_bench import cli

TOPS = ("fedllm_bench", "tests", "docs", "benchmarks", "data_prep", "examples", "leaderboard", r"\.ci")
FROM_THE_TOP = re.compile(rf"(?<![\w./-])(?:{'|'.join(TOPS)})/[\w./-]*\w")
WITHIN = re.compile(r"(?<![\w./<-])(?:[a-z_]+/)+[a-z_0-9]+\.(?:py|toml)\b")  # `training/block.py`
DOTTED = re.compile(r"(?<![\w./@-])fedllm_bench(?:\.\w+)+")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
MADE = ("x", "NAME", "my_method", "my_metric", "my_data")  # names that stand for any
OF_OTHERS = {  # files of the published code, and a submission in an example
    *("evaluation/open_ended/gen_judge_advbench.py", "federated_learning/fed_global.py", "utils/template.py"),
    "leaderboard/submissions/2026-11-30_mine",
}
# of plugins
ENTRY_POINTS = {
    f"fedllm_bench.{group}" for group in ("methods", "metrics", "pipelines", "judges", "presets")
}  # of plugins
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    path
    for top in ("fedllm_bench", "data_prep", "benchmarks", "tests")
    for path in sorted((ROOT / top).rglob("*.py"))
    if path != Path(__file__)
]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from parsers(below)


def helps() -> dict[str, str]:
    return {parser.prog: parser.format_help() for parser in parsers(cli.build_parser())}


def texts() -> dict[str, str]:
    files = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [*PAGES, *SOURCES]}
    return {**files, **helps()}


def is_there(name: str) -> bool:
    """Pages name it from the top, modules from their package or, where they speak of presets, from benchmarks/."""
    return any((ROOT / start / name).exists() for start in ("", "fedllm_bench", "benchmarks"))


def test_every_path_that_is_named_exists():
    seen, missing = 0, []
    for where, text in texts().items():
        for name in {*FROM_THE_TOP.findall(text), *WITHIN.findall(text)}:
            if Path(name).stem in MADE or name in OF_OTHERS:
                continue
            seen += 1
            if not is_there(name):
                missing.append(f"{where}: {name}")
    assert seen > 150
    assert not missing, "\n" + "\n".join(missing)


def test_every_dotted_name_is_a_module_or_stands_in_one():
    seen, missing = set(), []
    for where, text in texts().items():
        for name in set(DOTTED.findall(text)) - ENTRY_POINTS:
            seen.add(name)
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                missing.append(f"{where}: {name}")
    assert len(seen) > 150
    assert not missing, "\n" + "\n".join(missing)


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path):
    found = LINK.findall(page.read_text(encoding="utf-8"))
    assert [name for name in found if not (page.parent / name).exists()] == []
