"""Processes of a grid: which may start beside which, what is said of those that fail, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quiet_environment
from checkout import ROOT

from fedllm_bench.common import files
from fedllm_bench.common.cores import given_cores
from fedllm_bench.pipeline import children
from fedllm_bench.pipeline.children import failure
from fedllm_bench.pipeline.grid_run import Starter
from fedllm_bench.pipeline.workers import Ended, Worker, next_task, run_cells, seconds_left, start_worker, stop

WRITE = "import sys, time; time.sleep({wait}); open(sys.argv[1], 'w').write('{{}}')"
PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Task:
    """A cell as the scheduler sees it."""

    method: str
    seed: int
    root: Path
    words: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return files.make_folder(self.root / f"{self.method}-s{self.seed}")

    @property
    def baseline(self) -> Task:
        return Task("local", self.seed, self.root)

    def is_finished(self) -> bool:
        return (self.folder / "results.json").is_file()

    def has_baseline(self) -> bool:
        return self.baseline.is_finished()

    def has_base_scores(self) -> bool:
        return (self.folder / "base").is_file()


def tasks(root: Path, *names: str) -> list[Any]:
    return [Task(name[:-1], int(name[-1]), root) for name in names]


def names(found: list[Any]) -> list[str]:
    return [f"{task.method}{task.seed}" for task in found]


def finish(task: Any) -> None:
    (task.folder / "results.json").write_text("{}")


def score_base(task: Any) -> None:
    (task.folder / "base").write_text("")


# --- which may start


def test_the_first_works_alone_until_it_has_scored_the_base_model(tmp_path: Path):
    local, fedavg, other = tasks(tmp_path, "local0", "fedavg1", "fedavg2")
    assert next_task([local, fedavg], [], []) is local
    assert next_task([fedavg, other], [local], [local]) is None
    assert next_task([fedavg, other], [], [local]) is fedavg  # the first failed early: the next one is alone too
    assert next_task([other], [fedavg], [local, fedavg]) is None
    score_base(fedavg)
    assert next_task([other], [fedavg], [local, fedavg]) is other


def test_a_cell_waits_for_the_baseline_of_its_seed(tmp_path: Path):
    local0, local1, a0, a1 = tasks(tmp_path, "local0", "local1", "fedavg0", "fedavg1")
    score_base(local0)
    assert next_task([a0, a1], [local0], [local0]) is a1  # nobody makes the baseline of seed 1: it may
    assert next_task([a0], [local0, a1], [local0]) is None
    assert next_task([local1, a0, a1], [local0], [local0]) is local1
    finish(local0)
    assert next_task([a0, a1], [local1], [local0, local1]) is a0


def test_without_a_baseline_one_cell_of_each_seed_is_at_work(tmp_path: Path):
    a0, b0, a1 = tasks(tmp_path, "fedavg0", "fedprox0", "fedavg1")
    score_base(a0)
    assert next_task([b0, a1], [a0], [a0]) is a1
    assert next_task([b0], [a0, a1], [a0]) is None
    assert next_task([b0], [a1], [a0]) is b0


# --- running


def launch(code: str = WRITE.format(wait=0.2)) -> Callable[[Any], Worker]:
    """A start function whose workers run `code` with the path of the results as argument."""

    def start(task: Any) -> Worker:
        score_base(task)
        log = task.root / f"{task.method}-s{task.seed}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(task.folder / "results.json")],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                process_group=0,
            )
        return Worker(task=task, process=process, log=log, started=time.monotonic())

    return start


def test_all_cells_run_with_so_many_at_once(tmp_path: Path):
    todo = tasks(tmp_path, "local0", "local1", "fedavg0", "fedavg1", "fedprox0")
    running: list[int] = []
    reports: list[Ended] = []
    start, alive = launch(), set[int]()

    def counted(task: Any) -> Worker:
        worker = start(task)
        alive.add(worker.process.pid)
        running.append(len(alive))
        return worker

    def report(ended: Ended | None) -> None:
        if ended is not None:
            reports.append(ended)
            alive.pop()

    ended = run_cells(todo, jobs=2, start=counted, report=report)
    assert ended == reports
    assert sorted(names([each.task for each in ended])) == sorted(names(todo))
    assert not [each.reason for each in ended if each.reason]
    assert all(each.seconds > 0.1 for each in ended)
    assert max(running) == 2


def test_a_failed_cell_stops_no_other(tmp_path: Path):
    todo = tasks(tmp_path, "local0", "fedavg0", "fedprox0")
    good, bad = launch(), launch("import sys; sys.stderr.write('fedllm-bench: no room\\n'); sys.exit(2)")
    ended = run_cells(
        todo, jobs=2, start=lambda task: (bad if task.method == "local" else good)(task), report=lambda _: None
    )
    found = {each.task.method: (each.code, each.reason) for each in ended}
    assert found == {"local": (2, "no room"), "fedavg": (0, ""), "fedprox": (0, "")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_the_grid_ends_its_workers(tmp_path: Path, error: type[BaseException]):
    pids: list[int] = []
    start = launch("import time; time.sleep(60)")

    def remembered(task: Any) -> Worker:
        worker = start(task)
        pids.append(worker.process.pid)
        return worker

    def fail(_: object) -> None:
        if len(pids) == 2:
            raise error

    with pytest.raises(error):
        run_cells(tasks(tmp_path, "local0", "local1"), jobs=2, start=remembered, report=fail)
    assert len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_worker_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(children, "SECONDS_TO_STOP", 0.5)
    ready = tmp_path / "ready"
    code = f"import signal, time; signal.signal(2, signal.SIG_IGN); open({str(ready)!r}, 'w').close(); time.sleep(60)"
    worker = launch(code)(tasks(tmp_path, "local0")[0])
    while not ready.is_file():
        time.sleep(0.01)
    stop([worker])
    assert worker.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "log", "expected"),
    [
        (2, "one\nfedllm-bench: no room; make some\n\n", "no room; make some"),
        (1, "Traceback\n  in x\nRuntimeError: broken\n", "RuntimeError: broken"),
        (3, "", "exit code 3"),
        (-9, "at work\n", "ended by SIGKILL (was there enough memory?)"),
        (-11, "at work\n", "ended by SIGSEGV"),
        (0, "all is well\n", "left no results"),
    ],
)
def test_a_failure_says_why_in_one_line(code: int, log: str, expected: str, tmp_path: Path):
    (tmp_path / "log").write_text(log)
    found = failure(code, tmp_path / "log")
    assert expected in found
    assert "\n" not in found


def test_the_time_left_is_told_by_cells_that_are_alike(tmp_path: Path):
    local, fedavg = tasks(tmp_path, "local0", "fedavg0")
    short, long = (Ended(task=task, seconds=s, code=0, reason="") for task, s in ((local, 10.0), (fedavg, 60.0)))
    broken = Ended(task=fedavg, seconds=1.0, code=1, reason="broken")
    assert seconds_left([broken], open_cells=4, jobs=2) is None
    assert seconds_left([short], open_cells=4, jobs=2) == 15.0  # two of four are half done
    assert seconds_left([short, long, broken], open_cells=4, jobs=2) == 90.0
    assert seconds_left([long], open_cells=1, jobs=2) == 15.0


def test_each_cell_has_cores_of_its_own_which_the_next_one_gets(tmp_path: Path):
    todo = tasks(tmp_path, "local0", "local1", "fedavg0", "fedprox0", "fedavg1")
    groups = [given_cores()[:1], given_cores()[-1:]]
    used: list[tuple[int, ...]] = []
    at_once: list[list[tuple[int, ...]]] = []
    begin = launch()

    def start(task: Any, *, cores: list[int]) -> Worker:
        used.append(tuple(cores))
        at_once.append([each.cores for each in starter.started if each.process.poll() is None])
        return replace(begin(task), cores=tuple(cores))

    starter = Starter(start, groups)
    assert not [each for each in run_cells(todo, jobs=2, start=starter, report=lambda _: None) if each.reason]
    assert set(used) <= {tuple(group) for group in groups}
    assert len(used) == len(todo)
    if groups[0] != groups[1]:
        assert not [cores for cores, others in zip(used, at_once, strict=True) if cores in others]


def test_a_worker_is_kept_on_its_cores(sleeper):
    worker = sleeper("local", cores=given_cores()[-1:])
    assert sorted(os.sched_getaffinity(worker.process.pid)) == given_cores()[-1:]


# --- the worker itself


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts a real worker whose command sleeps; none is left after the test."""
    made: list[Worker] = []
    folder = tmp_path / "patched"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import time, pathlib\nfrom fedllm_bench import cli\n"
        "def main(argv=None):\n"
        "    try:\n"
        "        pathlib.Path(argv[0]).write_text('ready')\n"  # inside, for the signal may come right after it
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        return 130\n"
        "    return 0\n"
        "cli.main = main\n"
    )
    environment = quiet_environment(tmp_path / "cache", PYTHONPATH=f"{folder}:{ROOT}")

    def start(name: str, **more: Any) -> Worker:
        task: Any = Task(name, 0, tmp_path, words=(str(tmp_path / "ready"),))
        made.append(start_worker(task, threads=3, logs=tmp_path, environment=environment, **more))
        wait_for(lambda: (tmp_path / "ready").is_file() or made[-1].process.poll() is not None)
        return made[-1]

    yield start
    for worker in made:
        worker.process.kill()
        worker.process.wait()


def wait_for(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_ends_when_the_pipe_to_its_parent_does(sleeper):
    process = sleeper("local").process
    assert process.poll() is None
    process.stdin.close()  # as the kernel does when the parent is killed
    assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGKILL


def test_a_worker_ends_well_at_sigint_and_has_a_group_and_threads_of_its_own(sleeper, tmp_path: Path):
    process = sleeper("local").process
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=3" in environment
    assert Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[-2] == b"--threads=3"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 130
    assert (tmp_path / "local-s0.log").is_file()
