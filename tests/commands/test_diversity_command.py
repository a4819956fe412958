"""The command diversity: files, skipped sections, bad input, and what is kept after an interruption."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from fedllm_bench import cli
from fedllm_bench.common import hardware
from fedllm_bench.diversity import report as reports
from fedllm_bench.diversity.inputs import DiversityInputs
from fedllm_bench.diversity.section import Section
from fedllm_bench.diversity.settings import SECTIONS, DiversitySettings
from fedllm_bench.runs.splits import find_split

CHEAP = ("quantity", "length", "language")


def run(*words: str, capsys) -> tuple[int, str, str]:
    code = cli.main(["diversity", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    monkeypatch.setattr("fedllm_bench.report.diversity.writing.write_report", lambda report, arrays, out: [])


@pytest.fixture
def embedded(monkeypatch):
    """Sections of embeddings that cost nothing."""

    def embedding_section(work):
        clients = len(work.split.manifest.clients)
        matrix = np.full((clients, clients), 0.5)
        arrays = SimpleNamespace(similarity=matrix, mmd2=matrix * np.nan)
        index = {"value": 0.1, "se": np.float64(0.01), "p_value": 0.002, "permutations": 9}
        index |= {"rejected_at_0.05": True, "stratified_by": []}
        return {"computed_on": {}, "index": index, "index_unstratified": index | {"value": np.nan}}, arrays

    monkeypatch.setattr(DiversityInputs, "embedded", property(embedding_section))
    measured = {name: Section(section=section) for name, section in {
        "instruction": {"method": "topics", "topics": [], "topic_entropy": 0.0, "mutual_information": 0.0},
    }.items()}  # fmt: skip
    monkeypatch.setitem(reports.MEASURES, "instruction", lambda work: measured["instruction"])
    monkeypatch.setitem(reports.MEASURES, "embedding", lambda work: Section(section=work.embedded[0]))
    monkeypatch.setattr("fedllm_bench.diversity.inputs.about_encoder", lambda work: {"id": "stub"})


def test_every_section_of_a_split_of_preferences(pair_split, tmp_path, capsys, embedded):
    code, out, _ = run(str(pair_split.folder), "--out", str(tmp_path / "o"), "--max-rows", "60", capsys=capsys)
    report = json.loads((tmp_path / "o" / "diversity.json").read_text())
    assert code == 0
    assert list(report["sections"]) == list(SECTIONS) == list(reports.MEASURES)
    assert not [name for name, section in report["sections"].items() if "skipped" in section]
    assert [client["id"] for client in report["clients"]] == [c.id for c in pair_split.manifest.clients]
    assert all({"rows", "languages", "prompt_tokens", "ifd", "duplicate_share", "preference"} <= c.keys()
               for c in report["clients"])  # fmt: skip
    assert report["sections"]["quality"]["computed_on"]["rows"] < report["split"]["rows"]
    assert report["sections"]["embedding"]["index_unstratified"]["value"] is None  # NaN is no JSON
    assert report["settings"] == {
        "embedder": {"id": "stub"},
        "tokenizer": "the embedded mini tokenizer",
        "quality_model": "mini",
        "seed": 0,
        "permutations": 499,
        "max_rows": 60,
    }
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"diversity.json", "clients.csv", "pairs.parquet"}
    with (tmp_path / "o" / "clients.csv").open() as file:
        assert [line["id"] for line in csv.DictReader(file)] == [client["id"] for client in report["clients"]]
    assert all(f"  {name:<12} " in out for name in SECTIONS)


def test_a_section_that_cannot_be_computed_says_why_and_the_rest_goes_on(tiny_split, tmp_path, capsys, embedded):
    only = "preference,quantity"
    code, out, _ = run(str(tiny_split.folder), "--only", only, "--out", str(tmp_path), capsys=capsys)
    sections = json.loads((tmp_path / "diversity.json").read_text())["sections"]
    assert code == 0
    assert "only a split of preferences" in sections["preference"]["skipped"]
    assert sections["quantity"]["gini"] > 0
    assert "left out" in sections["length"]["skipped"]
    assert "skipped: the rows have one answer each" in out
    assert not (tmp_path / "pairs.parquet").exists()


def test_two_splits_are_compared(tiny_split, pair_split, tmp_path, capsys):
    words = [str(tiny_split.folder), "--against", str(pair_split.folder), "--only", ",".join(CHEAP)]
    code, out, _ = run(*words, "--out", str(tmp_path), capsys=capsys)
    report, other = (json.loads((tmp_path / name).read_text()) for name in ("diversity.json", "against.json"))
    assert code == 0
    assert report["against"]["split"] == other["split"]
    assert len(report["against"]["measures"]) == 11
    sizes = next(own for own in report["against"]["clients"] if own["name"] == "rows")
    assert sizes["here"] == sorted(client["rows"] for client in report["clients"])
    assert sizes["there"] == sorted(client["rows"] for client in other["clients"])
    assert f"  {'against':<12} {pair_split.name}, " in out


def test_what_an_older_report_left_goes_and_other_files_stay(tiny_split, tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    for name in ("against.json", "pairs.parquet", "figures/quality.png", "figures/mine.png", "notes.txt"):
        (tmp_path / name).write_text("older")
    run(str(tiny_split.folder), "--only", "quantity", "--out", str(tmp_path), capsys=capsys)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"diversity.json", "clients.csv", "figures/mine.png", "notes.txt"}


def test_no_quality_model_leaves_duplicates(tiny_split):
    settings = DiversitySettings(quality_model="none", sections=("quality",))
    report, _, _ = reports.build(tiny_split, settings)
    quality = report["sections"]["quality"]
    assert (quality["ifd"], quality["model"], report["settings"]["quality_model"]) == (None, None, None)
    assert 0 <= quality["exact_duplicates"] <= quality["near_duplicates"] <= 1
    assert quality["computed_on"]["what"] == "duplicates"


BAD = {
    "split": (["ayaa"], "no split folder or data set 'ayaa'", "did you mean 'aya'"),
    "folder": (["."], "no split in ."),
    "other": (["aya", "--against", "nowhere/at/all"], "no split in nowhere/at/all"),
    "section": (["aya", "--only", "lenght"], "no section 'lenght'", "did you mean 'length'"),
    "nothing left": (["aya", "--skip", ",".join(SECTIONS)], "leaves no section"),
    "tokenizer": (["aya", "--tokenizer", "nowhere"], "no tokenizer in nowhere", "'mini'"),
    "quality model": (["aya", "--quality-model", "/nowhere"], "MODEL=/nowhere: no such folder"),
    "rows": (["aya", "--max-rows", "0"], "--max-rows", "'0'"),
    "permutations": (["aya", "--permutations", "many"], "--permutations", "'many'"),
    "seed": (["aya", "--seed", "-1"], "--seed -1"),
    "device": (["aya", "--device", "gpu"], "--device", "'gpu'"),
    "no GPU": (["aya", "--device", "cuda"], "no CUDA GPU was found"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)
    monkeypatch.chdir(tmp_path)
    words, *expected = BAD[case]
    try:
        code = cli.main(["diversity", *words])
    except SystemExit as error:  # argparse
        code = error.code
    err = capsys.readouterr().err
    assert code == 2
    assert all(part in err for part in expected), err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_a_file_is_refused(tiny_split, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    code, _, err = run(str(tiny_split.folder), "--out", str(tmp_path / "file"), capsys=capsys)
    assert (code, (tmp_path / "file").read_text()) == (2, "mine")
    assert "cannot create the folder" in err


def test_with_a_gpu_a_name_is_the_published_data_set(monkeypatch):
    monkeypatch.setattr(hardware, "has_cuda", lambda: True)
    with pytest.raises(ValueError, match=r"get or build it.*mini-aya"):
        find_split("aya", "SPLIT")
    assert find_split("mini-aya", "SPLIT").name == "mini-aya"


def test_an_interruption_says_how_to_go_on(tiny_split, tmp_path, monkeypatch, capsys):
    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setitem(reports.MEASURES, "quality", interrupted)
    code, _, err = run(str(tiny_split.folder), "--only", "quality", "--out", str(tmp_path / "o"), capsys=capsys)
    assert code == 130
    assert "the same command goes on" in err
    assert not (tmp_path / "o").exists()
