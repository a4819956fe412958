"""Submissions of runs with a plugin: the source goes along, is read, and is never run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quick
from plugin_docs import FILES
from submissions import OPEN, Forgery, codes, context, run_folders, submitted

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.site.read_cache import kept_of
from fedllm_bench.leaderboard.submission import dates
from fedllm_bench.leaderboard.submission.bundle import open_bundle
from fedllm_bench.leaderboard.submission.submitted import reading
from fedllm_bench.leaderboard.submit import assemble, canaries, own_runs
from fedllm_bench.methods import METHODS

ALL = ("--metrics", "heldout,mini_exact,mini_choice,first_word")
COUNT = "\nfrom pathlib import Path\n\nwith Path({path!r}).open('a') as file:\n    file.write('run\\n')\n"
SOURCE, CONFIG, ROUNDS = "runs/0/plugins/my_method.py", "runs/0/config.json", "runs/0/rounds.jsonl.gz"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plugins that write down whenever they are run, which no plugin should."""
    folder = tmp_path_factory.mktemp("plugins")
    for name in ("my_method.py", "my_metric.py"):
        (folder / name).write_text(FILES[name] + COUNT.format(path=str(folder / "runs.txt")), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run_folder(place: Path, tiny_split: Split) -> Path:
    words = [word for name in ("my_method.py", "my_metric.py") for word in ("--plugin", str(place / name))]
    with quick():
        return run_folders(tiny_split, place / "out", *ALL, *words, method="my_dyn", answers=False, seeds=(0,))[0]


@pytest.fixture(scope="module")
def submission(run_folder: Path, place: Path) -> Path:
    return submitted([run_folder], place / "board", method="My method")


def test_it_carries_the_source_and_is_accepted_and_nothing_of_it_is_run(
    submission: Path, place: Path, tiny_split: Split
):
    before = (place / "runs.txt").read_text()
    for name in ("my_method.py", "my_metric.py"):
        assert (submission / "runs/0/plugins" / name).read_bytes() == (place / name).read_bytes()
    report = validate.validate(submission, context(tiny_split))
    assert (codes(report), report.tier) == ({"few-seeds", "plugin-not-run"}, "recomputed"), report.problems
    (line,) = [problem.message for problem in report.problems if problem.code == "plugin-not-run"]
    assert "my_method.py, my_metric.py: source that nobody runs here" in line
    assert "the metric first_word" in line
    assert (place / "runs.txt").read_text() == before
    assert "my_dyn" not in METHODS


def test_its_own_metric_is_not_on_a_board_and_the_others_are(submission: Path):
    bundle, _ = open_bundle(submission)
    assert bundle is not None
    with reading(bundle) as found:
        kept_of(found.bundle, [run.scores for run in found.runs])
        metrics = found.runs[0].scores.metrics.keys()
    assert {"heldout", "mini_exact", "mini_choice"} <= metrics
    assert not [name for name in metrics if name.startswith("first_word")]
    claims = files.read_json(submission / "submission.json")["claims"]
    assert claims.keys() == metrics


def test_only_an_open_track_takes_it(run_folder: Path, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        submitted([run_folder], tmp_path, track="mini-aya/fixed")
    assert "plugins: got my_method.py, my_metric.py, and only an open track takes runs with one" in str(caught.value)
    assert submitted([run_folder], tmp_path, track="").name.partition("_")[2].startswith("mini-aya-open")


def test_a_run_folder_without_its_source_is_not_submitted(run_folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(run_folder, tmp_path / "runs" / run_folder.name))
    (copy / "plugins" / "my_method.py").unlink()
    with pytest.raises(UserError, match=r"there is no plugins/my_method\.py, the plugin that it was made with"):
        submitted([copy], tmp_path / "board")


def test_a_source_that_was_changed_afterwards_is_not_submitted(run_folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(run_folder, tmp_path / "runs" / run_folder.name))
    (copy / "plugins" / "my_method.py").write_text("METHODS = {}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"seed 0, plugins/my_method\.py: its sha256 is"):
        submitted([copy], tmp_path / "board")


def test_a_canary_is_not_made_of_it(run_folder: Path):
    said = assemble.Statement(team="Example Lab", contact="lab@example.org", tuning="", date=dates.today().isoformat())
    with pytest.raises(UserError, match=r"--canary base: these runs need my_method\.py, my_metric\.py; give runs"):
        canaries.canary("base", own_runs.open_runs([run_folder], dirty=True), said)


def _gives(*names: str) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        config["plugins"][0]["gives"] = list(names)

    return change


FORGED: dict[str, tuple[Callable[[Forgery], Any], str]] = {
    "another source": (lambda it: it.write(SOURCE, b"METHODS = {}\n"), "its sha256 is"),
    "no source": (lambda it: (it.folder / SOURCE).unlink(), "its source is not in the submission"),
    "too much source": (lambda it: it.write(SOURCE, b"#" * (2**18 + 1)), "more than 262144 bytes"),
    "no text": (lambda it: it.write(SOURCE, b"\xff\xfe"), "not UTF-8"),
    "one more": (lambda it: it.write("runs/0/plugins/more.py", b""), "its config names no such plugin"),
    "a metric of the suite": (
        lambda it: it.json(CONFIG, _gives("METHODS:my_dyn", "METRICS:heldout")),
        "'METRICS:heldout' is of the suite",
    ),
    "a method of the suite": (lambda it: it.json(CONFIG, _gives("METHODS:fedavg")), "'METHODS:fedavg' is of the suite"),
    "nothing that is": (lambda it: it.json(CONFIG, _gives("RANKS:first")), "is nothing that a plugin can give"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_plugin_is_refused(name: str, submission: Path, tiny_split: Split, tmp_path: Path):
    change, expected = FORGED[name]
    forgery = Forgery(Path(shutil.copytree(submission, tmp_path / "copy")))
    change(forgery)
    forgery.fix_hashes()
    report = validate.validate(forgery.folder, context(tiny_split))
    assert report.tier == "refused"
    assert expected in " ".join(problem.message for problem in report.problems if problem.code == "plugin")


def test_a_method_of_its_own_may_take_other_steps_for_all_alike(submission: Path, tiny_split: Split, tmp_path: Path):
    """As with two trainings in a round; who takes fewer than others of as many planned steps is found out."""
    forgery = Forgery(Path(shutil.copytree(submission, tmp_path / "copy")))

    def doubled(lines: Any) -> Any:
        return [{**line, "steps": [2 * steps for steps in line["steps"]]} for line in lines]

    forgery.set_lines(ROUNDS, doubled)
    forgery.fix_hashes()
    assert "local-steps" not in codes(validate.validate(forgery.folder, context(tiny_split)))
    forgery.set_lines(ROUNDS, lambda lines: [*lines[:-1], {**lines[-1], "steps": [1, *lines[-1]["steps"][1:]]}])
    forgery.fix_hashes()
    report = validate.validate(forgery.folder, context(tiny_split))
    assert "local-steps" in codes(report, "refused"), report.problems


def test_hidden_text_in_a_source_is_refused(submission: Path, tiny_split: Split, tmp_path: Path):
    forgery = Forgery(Path(shutil.copytree(submission, tmp_path / "copy")))
    text = "METHODS = {}  # \u202e hidden\n"
    forgery.write(SOURCE, text.encode())
    forgery.json(CONFIG, lambda config: config["plugins"][0].update(sha256=files.sha256_file(forgery.folder / SOURCE)))
    forgery.fix_hashes()
    report = validate.validate(forgery.folder, context(tiny_split))
    assert "U+202E" in " ".join(problem.message for problem in report.problems if problem.code == "plugin")


def test_a_run_says_that_it_has_a_plugin_by_its_hash(submission: Path, tiny_split: Split, tmp_path: Path):
    """Who takes the plugin out of the config, to enter another track, has another config hash."""
    forgery = Forgery(Path(shutil.copytree(submission, tmp_path / "copy")))
    forgery.json(CONFIG, lambda config: config.pop("plugins"))
    shutil.rmtree(forgery.folder / "runs/0/plugins")
    forgery.set_head(lambda head: head.update(track=OPEN.replace("open", "fixed")))
    forgery.fix_hashes()
    report = validate.validate(forgery.folder, context(tiny_split))
    assert {"config-hash", "record"} <= codes(report, "refused")
