"""Arguments are looked at before anything is fetched: all commands, without a network and without an asset at hand."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quick
from judged import write_answers
from submitted_runs import write_run, write_submission

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split

NO_NUMBER = "a-word"
NEVER_THERE = "some-lab/some-model"  # an id of the hub, which would have to be fetched
# command -> one bad word each among good ones. FOLDER: a folder without anything; RUN: with answers; ALL the words that
# stand for places are replaced, and "more" is what each of a command's lines gets too.
JUDGED = "--judge-url http://127.0.0.1:9/v1 --judge-model m"
BAD: dict[str, tuple[str, ...]] = {
    "bench": (
        f"ayaa fedavg --model {NEVER_THERE}",
        f"aya fedproxx --model {NEVER_THERE}",
        f"aya fedavg --model {NEVER_THERE} --set local.lrr=1",
        f"aya fedavg --model {NEVER_THERE} --metrics helout",
        f"aya fedavg --model {NEVER_THERE} --profile minni",
        f"aya fedavg --profile mini --model {NEVER_THERE} --split nowhere",
        f"aya fedavg --profile mini --model {NEVER_THERE} --split SPLIT --set federation.clients_per_round=7",
        f"aya fedavg --profile mini --model {NEVER_THERE} --set model.adapter=nowhere",
        "aya fedavg --profile mini --model nowhere/at/all",
        "aya fedavg --profile mini --model smollm2-135m-instuct",
        "aya fedavg --profile mini --model gemma3-270m",
    ),
    "grid": (
        f"ayaa --model {NEVER_THERE}",
        f"aya --methods fedproxx --model {NEVER_THERE}",
        f"aya --seeds one --model {NEVER_THERE}",
        f"aya --profile mini --split nowhere --model {NEVER_THERE}",
        f"aya --set local.lrr=1 --model {NEVER_THERE}",
        f"aya --table nothing --model {NEVER_THERE}",
        f"aya --table methods --methods fedavg --model {NEVER_THERE}",
        f"aya --preset nowhere.toml --model {NEVER_THERE}",
    ),
    "tune": (
        f"ayaa fedavg --space local.lr=1..2 --model {NEVER_THERE}",
        f"aya fedproxx --space local.lr=1..2 --model {NEVER_THERE}",
        f"aya fedavg --space local.lrr=1..2 --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=2..1 --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --seeds 0 --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --search sideways --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --fidelity epochs --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --metric helout --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --trials 1 --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --profile mini --set data.world_seed=1 --model {NEVER_THERE}",
        f"aya fedavg --space local.lr=1..2 --profile mini --split nowhere --model {NEVER_THERE}",
    ),
    "data build": (
        "ayaa --raw RAW --out NEW",
        "aya --raw nowhere --out NEW",
        "aya --raw hub:nobody --out NEW",
        "aya --raw RAW --out RAW",
        "aya --raw RAW --out NEW --min-samples 0",
        "aya --raw RAW --out NEW --heldout 2",
        "aya --raw RAW --out NEW --per colour 2",
        "aya --raw RAW --out NEW --per-language 0",
        "aya --raw RAW --out NEW --partition sideways",
        "aya --raw RAW --out NEW --drop-flagged nothing",
        "aya --raw RAW --out NEW --tokenizer nowhere",
        "aya --raw RAW --out NEW --decontaminate nowhere",
        "aya --raw RAW --out NEW --name a/b",
    ),
    "data show": ("nowhere",),
    "data verify": ("nowhere",),
    "data stats": ("nowhere", "SPLIT --tokenizer nowhere"),
    "data get": (
        "ayaa",
        "aya --out RAW",
        "aya --from official --zip nowhere.zip --out NEW",
        "aya --from hub:a/b@c/d --out NEW",
        "aya --from https://example.org --zip nowhere.zip --out NEW",
        "aya --from https://example.org --out RAW",
    ),
    "data publish": ("nowhere --to NEW", "SPLIT --to https://example.org", "SPLIT --to RAW", "SPLIT --to hub:nobody"),
    "data list": (),
    "model list": (),
    "model show": ("nobody", "mini"),
    "model get": ("nobody", "gemma3-270", "gemma3-270m"),
    "diversity": (
        f"nowhere --embedder {NEVER_THERE}",
        f"SPLIT --against nowhere --embedder {NEVER_THERE}",
        f"SPLIT --only nothing --embedder {NEVER_THERE}",
        f"SPLIT --seed -1 --embedder {NEVER_THERE}",
        f"SPLIT --tokenizer nowhere --embedder {NEVER_THERE}",
        "SPLIT --quality-model nowhere/at/all",
        "SPLIT --embedder nowhere/at/all",
        f"SPLIT --device cuda --embedder {NEVER_THERE}",
        f"SPLIT --out RAW/file --embedder {NEVER_THERE}",
    ),
    "merge": ("nowhere", "FOLDER", "RUN --client nobody"),
    "evaluate": (
        "nowhere",
        "RUN --metrics nothing",
        "RUN --metrics mt_bench --sides nobody",
        "RUN --metrics mt_bench --judge nobody",
        "RUN --metrics mt_bench --max-cost -1",
        "RUN --metrics mt_bench --judge gpt-4",
        "RUN --metrics mt_bench --embedding-model nowhere/at/all",
        "RUN --metrics mt_bench --limit 0",
        "RUN --metrics mt_bench,mmul",
        "RUN --metrics mt_bench,humaneval",
        "RUN --metrics mt_bench,mmlu --data-dir nowhere",
        "RUN --metrics mt_bench,mmlu --closed-template sometimes",
    ),
    "answer": (
        "nowhere --metrics mt_bench",
        "FOLDER --metrics mt_bench",
        "RUN --metrics nothing",
        "RUN --metrics mt_bench,nothing",
        "RUN --metrics mt_bench --sides nobody",
        "RUN --metrics mt_bench --model mini",
        "--metrics mt_bench",
        "--metrics mt_bench --model mini",
        "--metrics mt_bench,ref_gpt4 --model mini --out NEW",
        "--metrics mt_bench,mini --model mini --out NEW",
        "--metrics mt_bench,ref_gpt4 --dataset ayaa --model mini --out NEW",
        "--metrics mt_bench,heldout_ref --split nowhere --model mini --out NEW",
        "--metrics mt_bench --model nowhere/at/all --out NEW",
        "--metrics mt_bench --adapter nowhere --out NEW",
        "--metrics mt_bench --model mini --sides nobody --out NEW",
        "--metrics mt_bench --model mini --template nothing --out NEW",
        "--metrics mt_bench --model mini --out RAW/file/x",
        "--metrics mt_bench --endpoint http://127.0.0.1:9/v1 --out NEW",
        "--metrics mt_bench --endpoint nonsense --model m --out NEW",
        f"--metrics nothing --model {NEVER_THERE} --out NEW",
        f"--metrics mt_bench,mmul --model {NEVER_THERE} --out NEW",
        f"--metrics mt_bench,mmlu --model {NEVER_THERE} --out NEW --temperature 1",
        f"--metrics mt_bench,mbpp --model {NEVER_THERE} --out NEW --sandbox process",
        f"--metrics mt_bench,mmlu --model {NEVER_THERE} --out NEW --data-dir nowhere",
        "--metrics mmlu --endpoint http://127.0.0.1:9/v1 --model m --out NEW",
    ),
    "import answers": (
        "nowhere --benchmark mt_bench --out NEW",
        "RAW/file --benchmark mt_bench --out NEW",
        "RAW/rows.jsonl --benchmark nothing --out NEW",
        "RAW/rows.jsonl --benchmark ref_gpt4 --out NEW",
        "RAW/rows.jsonl --benchmark mt_bench --side a/b --out NEW",
        "RAW/rows.jsonl --benchmark mt_bench --model m --out NEW",
    ),
    "import judgements": (
        "RAW/file --out FOLDER",
        "nowhere --out RUN --benchmark mt_bench --side base --model m",
        "RAW/file --out RUN --benchmark mt_bench --side base --model m",
        "RAW/rows.jsonl --out RUN --benchmark nothing --model m",
        "RAW/rows.jsonl --out RUN --benchmark mt_bench --model m",
        "RAW/rows.jsonl --out RUN --benchmark mt_bench --side nobody --model m",
        "RAW/rows.jsonl --out RUN --benchmark mt_bench --side base",
    ),
    "export prompts": (
        "--benchmark nothing --out NEW",
        "--benchmark ref_gpt4 --out NEW",
        "--benchmark mt_bench --format openai --out NEW",
        "--benchmark mt_bench --model m --out NEW",
        "--benchmark mt_bench --after nowhere --out NEW",
        "--benchmark mt_bench --out RAW",
    ),
    "judge": (
        f"nowhere {JUDGED}",
        f"FOLDER {JUDGED}",
        f"RUN {JUDGED} --metrics nothing",
        f"RUN {JUDGED} --sides nobody",
        f"RUN {JUDGED} --pairwise nowhere",
        f"RUN {JUDGED} --pairwise FOLDER",
        f"RUN {JUDGED} --against base",
        f"RUN {JUDGED} --pairwise RUN --against nobody",
        "RUN --judge nobody",
        "RUN --judge nowhere.toml",
    ),
    "judge-check": ("--judge nobody", "--judge nowhere.toml", "--judge mini_rule", "--offline"),
    "report": ("nowhere", f"nowhere --embedding-model {NEVER_THERE}", "RUN --embedding-model nowhere/at/all"),
    "compare": ("nowhere RUN", "RUN nowhere", "RUN RUN --metrics nothing"),
    "insight": (
        f"nowhere --embedder {NEVER_THERE}",
        f"RUN --embedder {NEVER_THERE} --seed -1",
        f"RUN --embedder {NEVER_THERE} --metric nothing",
        f"FOLDER --embedder {NEVER_THERE}",
    ),
    "submit": (
        "nowhere --team T --contact a@example.org --tuning t",
        "FOLDER --team T --contact a@example.org --tuning t",
        "RUN --team T --contact a@example.org",
        "RUN --team T --contact nobody --tuning t",
        "RUN --team T --contact a@example.org --tuning t --track nothing",
        "RUN --team T --contact a@example.org --tuning t --date 2026-02-30",
    ),
    "board build": ("--submissions nowhere --out NEW", "--jobs 0 --out NEW"),
    "board validate": ("FOLDER --jobs 0", "FOLDER --board nowhere", "FOLDER --split nowhere"),
    "board rejudge": (
        "nowhere --name N",
        "SUBMISSION --name ''",
        "SUBMISSION --name N --seed -1",
        "SUBMISSION --name N --judge nowhere.toml",
        "SUBMISSION --name N --max-cost -1",
        "SUBMISSION --name N --max-cost nan",
        "SUBMISSION --name N --split nowhere",
    ),
    "board regenerate": (
        "nowhere --name N",
        "SUBMISSION --name N --seed -1",
        "SUBMISSION --name N --adapter 0=nowhere",
        "SUBMISSION --name N --split nowhere",
    ),
    "board retrain": (
        "nowhere --name N",
        "SUBMISSION --name N --seed -1",
        "SUBMISSION --name N --band nowhere",
        "SUBMISSION --name N --split nowhere",
    ),
    "board band": ("nowhere", "FOLDER"),
}
CASES = [(command, line) for command, lines in BAD.items() for line in lines]


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command of a parser with its words, sub-commands for themselves."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))
    if not below:
        yield " ".join(words), parser


COMMANDS = dict(leaves(cli.build_parser()))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_split: Split) -> dict[str, Path]:
    """What the words in capitals stand for."""
    top = tmp_path_factory.mktemp("places")
    run = write_run(top / "runs")
    for side in ("base", "global"):
        for benchmark in ("mt_bench", "ref_gpt4"):
            write_answers(run, benchmark, side)
    (top / "folder").mkdir()
    (top / "raw").mkdir()
    (top / "raw" / "file").write_text("text")
    shutil.copy(Path(__file__), top / "raw" / "rows.jsonl")
    submission = write_submission(top / "submission")
    names = {"RUN": run, "FOLDER": top / "folder", "RAW": top / "raw", "SPLIT": tiny_split.folder}
    return {**names, "NEW": top / "new", "SUBMISSION": submission}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """All that was asked of the network, or of what stands for it, in a place with nothing at hand."""
    asked: list[str] = []

    def note(name: str) -> Any:
        def refuse(*args: Any, **options: Any) -> Any:
            asked.append(f"{name} {args[:1]}")
            raise OSError("no network here")

        return refuse

    for name in ("FEDLLM_BENCH_MIRROR", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with quick():  # it loads libraries, which need what is replaced here
        for target in (
            *("fedllm_bench.data.fetch.download._fetch", "fedllm_bench.data.fetch.official.from_drive"),
            *("huggingface_hub.snapshot_download", "huggingface_hub.HfApi", "datasets.load_dataset"),
        ):
            monkeypatch.setattr(target, note(target))
        yield asked


def code_of(words: list[str]) -> int:
    try:
        return cli.main(words)
    except SystemExit as ended:  # argparse
        return int(str(ended.code))


def assert_refused_unasked(words: list[str], fetched: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(words) == 2
    err = capsys.readouterr().err
    assert (err.count("\n"), fetched) == (1, []), err


def test_every_command_has_its_bad_words():
    assert BAD.keys() == COMMANDS.keys()
    assert len(COMMANDS) == 32
    assert [command for command, lines in BAD.items() if not lines] == ["data list", "model list"]  # they take none


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_and_values_of_a_wrong_type_are_refused_first(command, fetched, capsys):
    """Whatever a command's parser knows to refuse: of every option that has choices or a type."""
    parser, cases = COMMANDS[command], [["--no-such-option"]]
    if any(action.required for action in parser._actions):
        cases.append([])
    for action in parser._actions:
        if action.option_strings and (action.choices or action.type not in (None, Path)):
            cases.append([action.option_strings[0], NO_NUMBER])
    for words in cases:
        assert_refused_unasked([*command.split(), *words], fetched, capsys)


@pytest.mark.parametrize(("command", "line"), CASES, ids=[" ".join(case) for case in CASES])
def test_a_bad_word_is_refused_before_anything_is_fetched(command, line, places, fetched, capsys):
    words = ["" if word == "''" else word for word in line.split()]
    for name, place in places.items():
        words = [str(place) + word.removeprefix(name) if word.split("/")[0] == name else word for word in words]
    assert_refused_unasked([*command.split(), *words], fetched, capsys)
