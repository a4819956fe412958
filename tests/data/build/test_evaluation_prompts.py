"""Files of evaluation prompts: none of them is passed over in silence, since its rows would be trained on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_rows import aya, write_raw

from fedllm_bench.cli import main
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.decontaminate import evaluation_prompts, read_prompts

PROMPTS = ["Describe the old town hall.", "Name a\u2028cat, please"]
RECORDS = [{"prompt": prompt, "id": str(number)} for number, prompt in enumerate(PROMPTS)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FORMS = {
    "x.jsonl": LINES,
    "x.ndjson": "\ufeff" + LINES,
    "x.jsonl.gz": gzip.compress(LINES.encode()),
    "x.json": json.dumps(RECORDS, indent=1),
    "by_language.json": json.dumps({"eng": RECORDS[:1], "spa": RECORDS[1:], "version": 3}),
    "x.csv": f'prompt,id\n{PROMPTS[0]},0\n"{PROMPTS[1]}",1\n',
    "turns.csv": f'turns,id\n"{json.dumps(PROMPTS).replace(chr(34), 2 * chr(34))}",0\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_prompts_are_read_from_every_format_of_raw_rows(tmp_path, name):
    assert read_prompts(written(tmp_path / name, FORMS[name])) == PROMPTS
    assert read_prompts(tmp_path) == PROMPTS


@pytest.mark.parametrize("column", ["turns", "goal"])
def test_prompts_are_read_from_parquet(tmp_path, column):
    pq.write_table(pa.table({column: [PROMPTS] if column == "turns" else PROMPTS}), tmp_path / "x.parquet")
    assert read_prompts(tmp_path) == PROMPTS


TWICE = '{"prompt": "one two three", "prompt": "four five six"}'
REFUSED = {
    "key.jsonl": (TWICE, "line 1 has the key 'prompt' twice"),
    "later.jsonl": (LINES + TWICE, "line 3 has the key 'prompt' twice"),
    "key.json": (f"[{TWICE}]", "has the key 'prompt' twice"),
    "lists.json": ('{"eng": [{"prompt": "a"}], "eng": []}', "has the key 'eng' twice"),
    "column.csv": ("prompt,id,prompt\na,1,b\n", "has the column 'prompt' twice"),
    "name.csv": ("Prompt \na\n", "has the column 'Prompt ', which is read by the name 'prompt' only"),
    "name.json": ('[{"prompt": "a"}, {"Turns": ["b"]}]', "has the column 'Turns'"),
    "comma.csv": ("prompt\nName a cat, please\n", "row 1 has 2 cells; the head has 1"),
    "kind.jsonl": ('{"prompt": [{"role": "user", "content": "a"}]}', "a prompt is list, not text"),
    "turn.jsonl": ('{"turns": ["a", {"content": "b"}]}', "a prompt is dict, not text"),
    "turns.csv": ("turns\nName a cat\n", "call a single text 'prompt'"),
    "list.jsonl": (json.dumps(RECORDS), "is a JSON list, not an object"),
    "lines.json": (LINES, "name JSON lines .jsonl"),
    "broken.jsonl": ("{broken", "is broken JSON"),
    "none.jsonl": ("{}\n", "no evaluation prompts in"),
    "none.csv": ("a,b\n1,2\n", "no evaluation prompts in"),
    "blank.jsonl": ('{"prompt": " "}\n', "no evaluation prompts in"),
    "latin.csv": ("prompt\ncafé\n".encode("latin-1"), "is not UTF-8"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-9], "broken or cut-off gzip"),
    "pointer.json": ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "x.txt": ("Name a cat\n", "its name must end in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_whose_prompts_would_be_lost_is_refused_in_one_line(tmp_path, name):
    content, said = REFUSED[name]
    with pytest.raises(UserError) as caught:
        read_prompts(written(tmp_path / name, content))
    assert said in str(caught.value)
    assert str(caught.value).count(name) == 1
    assert "\n" not in str(caught.value)
    assert "--bad-rows" not in str(caught.value)


def test_records_without_prompts_stand_beside_others(tmp_path):
    written(tmp_path / "votes.jsonl", '{"winner": "model_a", "turn": 1}\n{"turns": 2, "goal": null}\n')
    written(tmp_path / "prompts.json", '[["a list"], 3, {"note": "x"}, {"instruction": "Name a cat"}]')
    assert read_prompts(tmp_path) == ["Name a cat"]


def test_a_file_of_prompts_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        evaluation_prompts(str(tmp_path / "nothing"))


def test_data_build_ends_with_2_at_a_repeated_column_of_prompts(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw.jsonl", [aya("u", "q", "a")])
    prompts = written(tmp_path / "p.csv", REFUSED["column.csv"][0])
    words = ["data", "build", "aya", "--raw", str(raw), "--out", str(tmp_path / "s"), "--decontaminate", str(prompts)]
    assert main(words) == 2
    assert "p.csv has the column 'prompt' twice; rename or remove one" in capsys.readouterr().err
