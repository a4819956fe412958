"""--preset: a file of settings is as if each stood there as --set, and what is no such file is refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from bench_runs import code_of
from small_files import place_of

from fedllm_bench.cli import build_parser
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.preset_words import words_in

TEXT = '[method]\nmu = 0.013\n\n[local]\nlr = 0.004\noptimizer = "sgd"\n\n[lora]\ntargets = ["q_proj", "v_proj"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a preset.toml"
    path.write_text(TEXT)
    return path


def test_a_preset_gives_the_same_config_as_its_settings(file: Path):
    given = presets.load("aya", "fedprox", "mini", words_in(str(file)))
    words = ["method.mu=0.013", "local.lr=4e-3", "local.optimizer=sgd", "lora.targets=q_proj,v_proj"]
    assert given == presets.load("aya", "fedprox", "mini", words)


def test_what_is_given_later_wins(file: Path):
    parser = build_parser()
    after = parser.parse_args(["bench", "aya", "fedprox", "--preset", str(file), "--set", "local.lr=1"])
    before = parser.parse_args(["bench", "aya", "fedprox", "--set", "local.lr=1", "--preset", str(file)])
    loaded = [presets.load("aya", "fedprox", "mini", args.overrides).local.lr for args in (after, before)]
    assert loaded == [1.0, 0.004]
    assert not parser.parse_args(["bench", "aya", "fedprox"]).overrides  # no list is shared between commands


def test_in_a_grid_a_preset_may_be_of_one_method(file: Path):
    args = build_parser().parse_args(["grid", "aya", "--preset", f"fedprox:{file}"])
    assert args.overrides[0] == "fedprox:method.mu=0.013"
    assert len(args.overrides) == 4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        (b"[local\nlr = 1", "it is not TOML"),
        (b"\xff\xfe", "it is not TOML"),
        (b"", "there is no setting in it"),
        (b"[local]\n", "there is no setting in it"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "it is not TOML"),
        (b"#" * 1_000_001, "bytes are too many"),
        (b"[local]\nlr = 2026-01-01\n", "x.toml: settings: local.lr: got"),
        (b"[local]\nlrr = 1\n", "x.toml: no option 'local.lrr'; did you mean 'local.lr'?"),
        (b"[nowhere]\nlr = 1\n", "x.toml: no option 'nowhere.lr'"),
        (b"a." * 2000 + b"b = 1\n", "x.toml: 'a.a."),
        (b"[local]\n" + b"k" * 5000 + b" = 1\n", "x.toml: no option 'local.kkk"),
    ],
)
def test_what_is_no_preset_is_refused_in_one_line(content, expected, tmp_path: Path, capsys):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        words_in(str(path))
    assert expected in str(error.value)
    assert code_of(["bench", "aya", "fedavg", "--preset", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert len(lines[0]) < 1000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[local]\nlr = 'fast'\n", "local.lr (--preset {path}): got 'fast', it should be a valid number"),
        ("[lora]\ntargets = [1]\n", "lora.targets.0 (--preset {path}): got 1, it should be a valid string"),
        ("[method]\nmu = 'x'\n", "method.mu (--preset {path}): got 'x', it should be a finite number, as 0.01"),
        ("[method]\nmuu = 1\n", "no option 'method.muu' (--preset {path})"),
        ("[method]\nmu = -1.0\n", "method.mu"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "grid", "tune"])
def test_a_wrong_value_is_named_with_its_file_and_key(command, content, expected, tmp_path: Path, capsys):
    path = tmp_path / "a preset.toml"
    path.write_text(content)
    argv, given = {
        "bench": (["bench", "aya", "fedprox"], str(path)),
        "grid": (["grid", "aya", "--methods", "fedavg,fedprox"], f"fedprox:{path}"),
        "tune": (["tune", "aya", "fedprox", "--space", "local.steps=int:1..2"], str(path)),
    }[command]
    assert code_of([*argv, "--profile", "mini", "--out", str(tmp_path / "runs"), "--preset", given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected.format(path=given) in line
    assert "--set local" not in line
    assert "(--set)" not in line


def test_a_file_with_a_line_break_in_its_name_is_named_on_one_line(tmp_path: Path, capsys):
    path = tmp_path / "a\nb.toml"
    path.write_text("[local]\nlr = 'fast'\n")
    assert code_of(["bench", "aya", "fedavg", "--profile", "mini", "--preset", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a\\nb.toml" in line


def test_explain_names_the_file_and_a_later_word_takes_its_place(file: Path):
    words = [*words_in(str(file)), "local.lr=1"]
    sources = presets.explain("aya", "fedprox", "mini", words)
    assert (sources["method.mu"], sources["local.lr"]) == (f"--preset {file}", "--set")
    assert sources == presets.explain("aya", "fedprox", "mini", copy.deepcopy(words))


def test_a_preset_of_a_method_that_is_not_in_the_grid_is_named(file: Path, capsys):
    argv = ["grid", "aya", "--methods", "fedavg", "--profile", "mini", "--preset", f"fedproxx:{file}"]
    assert code_of(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--preset fedproxx:{file}; METHOD: must be one of --methods" in line


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "sparse"])
def test_what_is_no_small_file_is_no_preset(kind, tmp_path: Path):
    with pytest.raises(UserError, match="--preset"):
        words_in(str(place_of(kind, tmp_path)))


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf[local]\nlr = 0.5\n")
    assert words_in(str(path)) == ("local.lr=0.5",)


def test_the_option_is_there_for_all_commands_that_take_settings():
    for words in (["bench", "aya", "fedavg"], ["grid", "aya"], ["tune", "aya", "fedavg", "--space", "local.lr=1..2"]):
        assert build_parser().parse_args(words).overrides == []
