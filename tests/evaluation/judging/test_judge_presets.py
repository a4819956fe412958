"""Judges as declarations: every preset of the suite, files of one's own, and what is no judge."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_json
from fedllm_bench.evaluation.judges import preset as presets
from fedllm_bench.evaluation.judges.asking import AskingJudge
from fedllm_bench.evaluation.judges.preset import judge_names, load_judge
from fedllm_bench.evaluation.judges.templates import templates_hash
from fedllm_bench.evaluation.records import checked_name

MINE = 'model = "m"\nbase_url = "https://x.org/v1"\n'


def test_every_preset_is_a_judge_with_a_name_for_its_folder() -> None:
    assert judge_names() == ["gpt-4", "gpt-4-1106-preview", "gpt-6-luna", "local", "mini_rule"]
    loaded = {name: load_judge(name, model="m" if name == "local" else None) for name in judge_names()}
    ids = {preset.id for preset in loaded.values()}
    assert len(ids) == len(loaded)
    for name, preset in loaded.items():
        assert preset.name == name
        assert checked_name(preset.id) == preset.id
        if not preset.is_free:
            assert preset.price
            assert preset.price.date
            assert preset.reply_bound
            assert preset.key_env


def test_the_published_judges_are_asked_as_published() -> None:
    """REFERENCE: MT-Bench by gpt-4-1106-preview at T = 0 with 2,048 tokens; the others by gpt-4 at T = 0.2."""
    assert load_judge("gpt-4-1106-preview").options == {"temperature": 0, "max_tokens": 2048}
    assert load_judge("gpt-4").options["temperature"] == 0.2


def test_an_id_follows_model_options_and_prompts_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def id_of(text: str, name: str = "a") -> str:
        (tmp_path / f"{name}.toml").write_text(text)
        return load_judge(str(tmp_path / f"{name}.toml")).id

    base = id_of(MINE)
    same = MINE.replace("x.org", "y.org") + 'note = "n"\n[price]\ninput = 1\noutput = 2\n[limits]\ntries = 2\n'
    assert id_of(same, "b") == base
    assert id_of(MINE.replace('"m"', '"n"')) != base
    assert id_of(MINE + "[options]\ntemperature = 0\n") != base
    assert id_of(MINE.replace('"m"', '"a/b:c d"')).startswith("a-b-c-d-")
    monkeypatch.setattr(presets, "templates_hash", lambda: "other prompts")
    assert id_of(MINE) != base


def test_ids_of_judges_that_have_a_system_role_are_those_of_before(tmp_path: Path) -> None:
    for name in judge_names():
        preset = load_judge(name, model="m" if name == "local" else None)
        asked = {"model": preset.model, "options": preset.options, "templates": templates_hash()}
        assert preset.id.endswith(sha256_json(asked)[:8])
    (tmp_path / "a.toml").write_text(MINE + "system_role = false\n")
    assert load_judge(str(tmp_path / "a.toml")).id != load_judge(None, model="m", base_url="https://x.org/v1").id
    assert load_judge(str(tmp_path / "a.toml")).system_role is False


@pytest.mark.parametrize(
    ("given", "model", "title"),
    [(None, "a/b", "a/b"), ("local", "a/b", "a/b"), ("gpt-4", None, "gpt-4"), ("gpt-4", "gpt-4-0613", "gpt-4-0613")],
)
def test_a_judge_is_called_by_the_model_that_is_asked(given: str | None, model: str | None, title: str) -> None:
    assert load_judge(given, model=model).title == title


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = ", "not TOML"),
        ('base_url = "https://x.org/v1"', "model"),
        (MINE + "temperatur = 0", "temperatur"),
        (MINE + "[price]\ninput = -1\noutput = 1", "price.input"),
        (MINE + "[price]\ninput = nan\noutput = 1", "price.input"),
        (MINE + "[limits]\nconcurrency = 0", "limits.concurrency"),
        (MINE + "[limits]\ntimeout_seconds = 0", "limits.timeout_seconds"),
        (MINE + '[options]\nmodel = "other"', "options.model is set by the suite"),
        (MINE + "[options]\nstream = true", "options.stream is set by the suite"),
        (MINE + "[options]\nwhen = 2026-01-01", "options"),
        (MINE + "[options]\nx = nan", "options"),
        ('model = "m"\nbase_url = "ftp://x.org"', "not of the form"),
        ('model = "m"\nbase_url = "https://user:word@x.org/v1"', "not of the form"),
        ('model = ""\nbase_url = "https://x.org/v1"', "names no model"),
        ('model = "m"\nkind = "other"', "kind"),
    ],
)
def test_what_is_no_judge_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "j.toml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_judge(str(tmp_path / "j.toml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [("gpt4", "did you mean 'gpt-4'"), ("none.toml", "No such file")])
def test_an_unknown_judge_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_judge(name)


def test_a_server_of_ones_own_needs_an_address_and_a_model() -> None:
    assert load_judge(None, model="a/b", base_url="http://localhost:11434/v1").is_free
    assert load_judge(None, model="a/b").base_url == "http://localhost:8000/v1"
    assert not load_judge(None, model="a/b", base_url="https://x.org/v1").is_free
    with pytest.raises(UserError, match="--judge-model"):
        load_judge("local")


@pytest.mark.parametrize("more", ["[options]\nmax_tokens = 5\n", "[price]\ninput = 1\noutput = 1\n"])
def test_a_limit_of_the_cost_needs_a_price_and_a_bound_of_replies(more: str, tmp_path: Path) -> None:
    (tmp_path / "j.toml").write_text(MINE + more)
    with pytest.raises(UserError, match="--max-cost cannot be kept to"):
        AskingJudge(load_judge(str(tmp_path / "j.toml")), max_cost=1.0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[x", "it is not TOML"),
        (b"\xff\xfe", "its text is not UTF-8"),
        (b"x = 1" + b"0" * 5000, "it is not TOML"),
        (b"x = " + b"[" * 5000, "it is not TOML"),
        (b"#" * 1_000_001, "bytes are too many"),
    ],
)
def test_a_file_that_is_no_judge_is_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        load_judge(str(tmp_path / "a.toml"))
    assert "\n" not in str(caught.value)
    assert "give a TOML file of a judge, or one of gpt-4, " in str(caught.value)


def test_a_pipe_is_no_judge_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(UserError, match="it is a folder or a device, and no file"):
        load_judge(str(tmp_path / "a.toml"))
