"""What a new user does: clone, make, and `pip install .` into an environment of their own. Needs the package index."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY
from board_in_browser import COUNT, METHODS, SORT, choose, column_of, head
from browser import Browser, chromium, wait_until
from checkout import ROOT
from raw_rows import random_rows, write_raw
from shipped import SUBMISSIONS, is_of_others, shipped_as

from fedllm_bench.data.build.pipelines import OF_USERS

pytestmark = pytest.mark.slow
SETTINGS = " ".join(TINY)
PATIENCE_SECONDS = 460
INSTALLED = {"benchmarks": "benchmarks", "data_prep": "data_prep", "leaderboard": "board_data"}  # within fedllm_bench/


def run(*command: object, cwd: Path, env: dict[str, str]) -> str:
    """Standard output and error of a command that must end well."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def seconds_of_children() -> float:
    """Processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def git(folder: Path, *words: str) -> str:
    me = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *me, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a new user: an empty home, no settings of ours, the interpreter below any environment."""
    home = tmp_path_factory.mktemp("home")
    kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "LANG", "http", "HTTP"))}
    interpreter = Path(sys._base_executable).resolve().parent
    return {**kept, "HOME": str(home), "PATH": f"{interpreter}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as it is now, without what git ignores and what others submitted, as a repository of its own."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("clone") / "fedllm-bench"
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file() and not is_of_others(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is")
    return folder


def results_below(out: Path, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    (folder,) = (path.parent for path in (out / "mini-aya" / method).glob("s0-*/results.json"))
    return (json.loads((folder / name).read_text()) for name in ("results.json", "environment.json"))


def test_make_bench_on_a_fresh_clone_sets_up_once_and_runs(clone: Path, fresh: dict[str, str]):
    command = ("make", "bench", "DATASET=aya", "METHOD=fedprox", "METRICS=heldout", f"SET={SETTINGS}")
    shown = run(*command, cwd=clone, env=fresh)
    assert "Setting up .venv" in shown
    results, environment = results_below(clone / "runs", "fedprox")
    assert results["metrics"]["heldout"]["after"]["n"] == 38
    assert results["run"]["commit"] == git(clone, "rev-parse", "HEAD").strip()
    assert environment["dirty"] is False  # neither set-up nor run leaves anything that git sees
    assert environment["packages"]["torch"].startswith("2.13.0")
    stamp = (clone / ".venv" / ".installed").stat().st_mtime_ns

    before = seconds_of_children()
    again = run(*command, cwd=clone, env=fresh)
    assert "Finished before" in again
    assert "Setting up" not in again
    assert seconds_of_children() - before < 20
    assert (clone / ".venv" / ".installed").stat().st_mtime_ns == stamp
    assert "make bench" in run("make", "help", cwd=clone, env=fresh)
    assert not (clone / ".git" / "index.lock").exists()

    (clone / "setup.cfg").touch()
    plan = run("make", "--dry-run", "setup", cwd=clone, env=fresh)
    assert ".ci/setup.sh" in plan  # what is to be installed may have changed
    (clone / ".venv" / ".installed").touch()  # it has not, for the tests that follow


def test_five_commands_lead_from_a_clone_to_a_board_that_is_looked_at(clone: Path, fresh: dict[str, str]):
    """Three seeds, submit, validate, build, look."""
    cell = ("DATASET=chatbot_pa", "METHODS=fedavg", "SEEDS=0,1,2", "PROFILE=mini", f"SET={SETTINGS}")
    run("make", "grid", *cell, cwd=clone, env=fresh)
    said = ("TEAM=Example Lab", "CONTACT=lab@example.org", "TUNING=none: the constants are the preset's")
    run("make", "submit", "RUN=runs/mini-chatbot_pa/fedavg", *said, cwd=clone, env=fresh)
    (made,) = (clone / "leaderboard" / "submissions").glob("*_mini-chatbot-pa-open-fedavg-example-lab")
    shown = run(clone / ".venv/bin/fedllm-bench", "board", "validate", made, cwd=clone, env=fresh)
    assert "tier: recomputed" in shown
    assert "flagged" not in shown
    run("make", "board", "OUT=build/board", cwd=clone, env=fresh)
    seen = git(clone, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert seen
    assert all(line.startswith(f"?? {made.relative_to(clone).as_posix()}/") for line in seen)
    with chromium() as browser:
        look(browser, clone / "build" / "board", made.name)


def look(browser: Browser, site: Path, slug: str) -> None:
    """Sort, filter, open; no console error, no request to another host."""
    (page,) = (site / "boards").glob("mini-chatbot_pa_open_*.html")
    browser.requests()
    browser.open(page)
    accuracy = column_of(browser, "preference_accuracy")
    browser.click(head(accuracy))
    assert browser.run(SORT)[accuracy - 1] == "descending"
    choose(browser, "kind", "ranked")
    assert browser.run(METHODS) == ["fedavg"]
    assert browser.run("return document.querySelector('#board .rank').textContent") == "1"
    choose(browser, "kind", "canary")
    assert browser.run(COUNT).startswith("No row fits")
    choose(browser, "kind", "")
    browser.click("#board tbody a")
    wait_until(lambda: slug in browser.run("return location.href"))
    wait_until(lambda: browser.run("return document.querySelectorAll('svg.curve polyline').length") == 3)
    command = browser.run("return document.getElementById('reproduce').textContent")
    assert "fedllm-bench bench chatbot_pa fedavg" in command
    assert {address.partition(":")[0] for address in browser.requests()} == {"file"}
    assert browser.console() == []


@pytest.fixture(scope="module")
def wheel(clone: Path, fresh: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, clone, cwd=out, env=fresh)
    (built,) = out.glob("*.whl")
    return built


def test_every_file_that_the_library_reads_travels_in_the_wheel(wheel: Path):
    """Whatever git has below the folders that are installed, but pages for people and what was submitted."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    tops = {"fedllm_bench": "fedllm_bench", **{f: f"fedllm_bench/{i}" for f, i in INSTALLED.items()}}
    there = {}
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard", *tops).splitlines():
        path, (top, _, rest) = ROOT / name, name.partition("/")
        if path.is_file() and path.suffix != ".md" and SUBMISSIONS not in path.parents:
            there[f"{tops[top]}/{rest}"] = path.read_bytes()
    kinds = {Path(name).suffix for name in there}
    assert len(there) > 500
    assert {".py", ".toml", ".jinja", ".json", ".safetensors", ".typed", ".css", ".js"} <= kinds
    assert {name for name, text in there.items() if inside.get(name) != text} == set()
    assert {name.split("/")[0] for name in inside if "dist-info" not in name} == {"fedllm_bench"}
    assert {name for name in inside if "dist-info" not in name} == set(there)  # nor anything that is no longer there
    assert len(wheel.read_bytes()) < 8 * 2**20


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, which finds the dependencies where the tests do."""

    folder: Path
    packages: Path
    environment: dict[str, str]

    def python(self, *words: object, cwd: Path) -> str:
        return run(self.folder / "bin" / "python", *words, cwd=cwd, env=self.environment)

    def command(self, *words: object, cwd: Path) -> str:
        return run(self.folder / "bin" / "fedllm-bench", *words, cwd=cwd, env=self.environment)


@pytest.fixture(scope="module")
def installed(wheel: Path, fresh: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    run(sys._base_executable, "-m", "venv", folder / "venv", cwd=folder, env=fresh)
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = folder / "venv" / "bin" / "python"
    packages = Path(run(python, "-c", find, cwd=folder, env=fresh).strip())
    options = ("--quiet", "--no-deps", "--constraint", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", *options, wheel, cwd=folder, env=fresh)
    # Plain folders of packages: a .pth file there that names the checkout is not followed.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path) + "\n")
    return Installed(folder / "venv", packages, fresh)


def test_the_installed_wheel_gives_the_command_in_any_folder(
    installed: Installed, fresh: dict[str, str], tmp_path: Path
):
    where = installed.python("-c", "import fedllm_bench; print(fedllm_bench.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.packages)
    assert "local.lr" in installed.command("bench", "aya", "scaffold", "--explain", cwd=tmp_path)
    shown = installed.command("bench", "aya", "fedavg", "--dry-run", cwd=tmp_path)
    assert "Memory on the device in training: about" in shown
    assert not list(tmp_path.iterdir())
    settings = [word for setting in TINY for word in ("--set", setting)]
    shown = installed.command("bench", "aya", "fedavg", "--metrics", "heldout", *settings, cwd=tmp_path)
    assert "heldout" in shown
    results, environment = results_below(tmp_path / "runs", "fedavg")
    assert results["metrics"]["heldout"]["after"]["n"] == 38
    assert (environment["commit"], environment["dirty"]) == (None, None)  # of an installed copy
    shown = installed.python("-m", "fedllm_bench", "data", "verify", next(_splits(fresh)), cwd=tmp_path)
    assert "is as written" in shown


@pytest.mark.parametrize("dataset", OF_USERS)
def test_the_installed_wheel_builds_splits(dataset: str, installed: Installed, tmp_path: Path):
    raw = write_raw(tmp_path / "rows.jsonl", random_rows(dataset, seed=0))
    options = ("--min-samples", "4", "--languages", "all", "--decontaminate", "off")
    shown = installed.command("data", "build", dataset, "--raw", raw, "--out", "split", *options, cwd=tmp_path)
    manifest = json.loads((tmp_path / "split" / "manifest.json").read_text())
    assert manifest["hash"] in shown
    assert len(manifest["clients"]) > 10


def test_the_installed_wheel_builds_the_shipped_board(installed: Installed, tmp_path: Path):
    """Of some submissions; that all are accepted is in tests/leaderboard/site/test_slow_shipped.py."""
    submissions, few = tmp_path / "submissions", [shipped_as(name) for name in ("fedavg", "fedprox", "local")]
    for folder in few:
        shutil.copytree(folder, submissions / folder.name)
    shown = installed.command("board", "validate", submissions / shipped_as("fedavg").name, cwd=tmp_path)
    assert "tier: recomputed" in shown
    shown = installed.command("board", "build", "--submissions", submissions, "--out", "site", cwd=tmp_path)
    assert f"of {len(few)} submissions" in shown
    pages = "".join(page.read_text() for page in (tmp_path / "site" / "boards").glob("mini-aya_fixed_*.html"))
    assert not [folder.name for folder in few if folder.name not in pages]


def _splits(fresh: dict[str, str]):
    return (Path(fresh["HOME"]) / ".cache" / "fedllm-bench" / "splits").iterdir()
