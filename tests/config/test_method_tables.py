"""Tables of methods: every row resolves, every method is in the shipped one, and what is no table is refused."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from small_files import place_of

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.method_tables import read_table, table_names
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.registry import make_method
from fedllm_bench.runs.grid import Request

NAMES = table_names()
ROW = '[[row]]\nlabel = "a"\nfamily = "f"\nmethod = "fedavg"\n'


def request_of(table: str, overrides: tuple[str, ...] = ()) -> Request:
    rows = read_table(table)
    labels = tuple(row.label for row in rows)
    return Request(dataset="aya", methods=labels, seeds=(0,), profile="mini", out=Path("runs"), rows=rows,
                   overrides=overrides)  # fmt: skip


def test_there_is_a_table():
    assert "methods" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_a_run_of_its_own_that_can_be_made(name):
    request = request_of(name)
    configs = [request.config(label, 0) for label in request.methods]
    assert len({config.hash for config in configs}) == len(configs) >= 3
    assert all(make_method(config, num_clients=38) for config in configs)
    assert [config.method.name for config in configs] == [request.method_of(label) for label in request.methods]


def test_the_table_of_all_methods_has_all_methods_by_family():
    rows = read_table("methods")
    assert {row.method for row in rows} == set(METHODS)
    assert {row.label for row in rows if row.label == row.method} == set(METHODS)
    families = [family for family, _ in groupby(row.family for row in rows)]
    assert len(set(families)) == len(families) >= 6
    config = request_of("methods").config("frozen_a", 0)
    assert config.communication.lora_aggregation == "frozen_a"


def test_the_command_of_a_row_is_that_of_its_method_with_its_settings():
    words = request_of("methods", ("local.lr=1", "frozen_a:local.steps=3", "fedavg:lora.rank=4")).words("frozen_a", 7)
    assert words[:3] == ("bench", "aya", "fedavg")
    settings = [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    assert settings == ["local.lr=1", "local.steps=3", "lora.rank=4", 'communication.lora_aggregation="frozen_a"']
    assert request_of("methods", ("frozen_a:local.steps=3",)).settings_of("fedprox") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[row", "it is not TOML"),
        (f"#{'x' * 1_000_000}", "bytes are too many"),
        (f"{ROW}settings = {{ {'a.' * 2000}b = 1 }}\n", "row 1: 'a.a."),
        (f'{ROW}settings = {{ "local.lr=1" = 2 }}\n', "row 1: settings: the name"),
        (ROW.replace('"f"', f'"{"f" * 61}"'), "of at most 60 letters"),
        (ROW.replace('"f"', '"f\\u001b[31m"'), "give a text on one line"),
        (ROW.replace('"f"', '"\\u202ef"'), "give a text on one line"),
        (ROW.replace('"a"', '"base"'), "that of the base model"),
        (ROW.replace("fedavg", "f" * 60), "no method 'fff"),
        (ROW.replace('"a"', f'"{"A" * 5000}"'), "of at most 60 letters"),
        ("", "it must be 1 to 500 [[row]]"),
        ("row = 3", "it must be 1 to 500 [[row]]"),
        ("row = []", "it must be 1 to 500 [[row]]"),
        (f'title = "x"\n{ROW}', "it must be 1 to 500 [[row]]"),
        (ROW * 501, "it must be 1 to 500 [[row]]"),
        ("row = [3]", "row 1: got 3"),
        (ROW.replace('family = "f"\n', ""), "row 1: got label, method; each [[row]] has"),
        (f"{ROW}seed = 3\n", "row 1: got label, family, method, seed"),
        (ROW.replace('"f"', "3"), "family is 3; give a text"),
        (ROW.replace('"f"', '"a\\nb"'), "give a text on one line"),
        (ROW.replace('"a"', '"../../x"'), "the label '../../x'"),
        (ROW.replace('"a"', '"a:b"'), "the label 'a:b'"),
        (ROW.replace('"a"', f'"{"x" * 41}"'), "give at most 40"),
        (ROW.replace('"fedavg"', '"fedavgg"'), "no method 'fedavgg'; did you mean 'fedavg'?"),
        (f"{ROW}settings = 3\n", "settings is 3"),
        (f"{ROW}settings = {{ a = 2026-01-01 }}\n", "a: got"),
        (ROW + ROW, "the label a stands twice"),
        (f'{ROW}"x\\ny\\u001b" = 1\n', "got label, family, method, x\\ny\\x1b;"),
        (ROW.replace('"fedavg"', '"ffa-lora"'), "take fedavg --set communication.lora_aggregation=frozen_a"),
        (
            ROW + ROW.replace('"a"', '"b"').replace('"f"', '"g"') + ROW.replace('"a"', '"c"'),
            "rows of the family 'f' do not stand together",
        ),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(text, expected, tmp_path: Path):
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_table(str(path))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "sparse"])
def test_what_is_no_small_file_is_no_table(kind, tmp_path: Path):
    with pytest.raises(UserError, match="table"):
        read_table(str(place_of(kind, tmp_path)))


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    path = tmp_path / "t.toml"
    path.write_bytes(b"\xef\xbb\xbf" + ROW.encode())
    assert read_table(str(path))[0].label == "a"


def test_an_unknown_table_is_named():
    with pytest.raises(UserError, match="no table 'methodz'; did you mean 'methods'"):
        read_table("methodz")


def test_a_wrong_setting_of_a_row_is_named_with_the_row(tmp_path: Path):
    from fedllm_bench.runs.grid import open_cells

    path = tmp_path / "t.toml"
    path.write_text(f'{ROW}settings = {{ "local.lrr" = 1.0 }}\n{ROW.replace(chr(34) + "a", chr(34) + "b")}')
    with pytest.raises(UserError, match=r"method a: no option 'local.lrr'"):
        open_cells(request_of(str(path)), lambda config: pytest.fail("nothing is opened"))


def test_two_rows_that_are_one_run_are_refused(tmp_path: Path):
    from fedllm_bench.runs.grid import open_cells

    path = tmp_path / "t.toml"
    path.write_text(ROW + ROW.replace('"a"', '"b"'))
    with pytest.raises(UserError, match="a and b are one and the same run"):
        open_cells(request_of(str(path)), lambda config: pytest.fail("nothing is opened"))


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [
        ("fedavg", "local.on_divergence", '"go"'),
        ("local", "evaluation.every", "1"),
        ("local", "communication.budget_mb", "1"),
    ],
)
def test_two_rows_that_differ_in_what_changes_no_result_are_refused(method, key, value, tmp_path: Path):
    """Both would lie in one folder, and be trained there at the same time."""
    from fedllm_bench.runs.grid import open_cells

    row, path = ROW.replace('"fedavg"', f'"{method}"'), tmp_path / "t.toml"
    path.write_text(f'{row}{row.replace(chr(34) + "a", chr(34) + "b")}settings = {{ "{key}" = {value} }}\n')
    with pytest.raises(UserError, match="a and b are one and the same run"):
        open_cells(request_of(str(path)), lambda config: pytest.fail("nothing is opened"))


def test_a_table_is_no_data_set():
    assert not set(NAMES) & set(presets.every_dataset())


def test_a_wrong_value_is_named_with_its_table_and_row(tmp_path: Path):
    path = tmp_path / "t.toml"
    path.write_text(ROW + ROW.replace('"a"', '"b"') + 'settings = { "local.lr" = "fast" }\n')
    request = request_of(str(path))
    assert request.config("a", 0).local.lr > 0
    with pytest.raises(UserError) as error:
        request.config("b", 0)
    assert str(error.value).startswith(f"local.lr (--table {path}, row 2): got 'fast'")
