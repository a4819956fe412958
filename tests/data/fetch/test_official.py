"""The published zip: fetched once, converted, compared with the paper; hostile ones are refused in one line."""

from __future__ import annotations

import io
import json
import random
import zipfile

import pytest
from loopback import Site, serve
from official_zip import official_zip, one_file, packed, sets

from fedllm_bench.common import archive
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.fetch import download, drive, official
from fedllm_bench.data.manifest import open_split
from fedllm_bench.data.published import AYA_SIZES, ORDER_FILE, PUBLISHED, ROOT, ZIP_NAME
from fedllm_bench.training.batches import schedule


@pytest.fixture(scope="module")
def good() -> bytes:
    return official_zip()


@pytest.fixture(autouse=True)
def _own(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "WAITS_SECONDS", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(drive, "RETRIES", 0)  # gdown waits up to 15 s in four tries
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDLLM_BENCH_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def get(tmp_path, content: bytes, name: str = "aya"):
    (tmp_path / "in.zip").write_bytes(content)
    return official.get_official(name, tmp_path / "out", tmp_path / "in.zip")


@pytest.mark.slow
def test_a_cut_download_resumes_converts_and_is_used_again_without_network(tmp_path, good, monkeypatch):
    with serve(Site({f"/{ZIP_NAME}": good}, cuts=[len(good) // 2])) as site:
        monkeypatch.setenv("FEDLLM_BENCH_MIRROR", site.address)
        first, notes = official.get_official("aya", tmp_path / "a")
    assert [r for _, r in site.asked] == ["", f"bytes={len(good) // 2}-"]
    assert any("as published" in note for note in notes)
    assert "first one is recorded" in notes[0]
    monkeypatch.delenv("FEDLLM_BENCH_MIRROR")
    again, notes = official.get_official("aya", tmp_path / "b")  # the network is closed, the server gone
    assert (again.hash, open_split(tmp_path / "a").hash) == (first.hash, first.hash)
    assert "the same as recorded" in notes[0]
    order = json.loads((tmp_path / "a" / ORDER_FILE).read_text())
    sizes = {client.id: client.train for client in first.manifest.clients}
    assert tuple(sizes[user] for user in order) == AYA_SIZES
    assert {row.language for row in first.rows("train")} == {"arb"}


def test_the_released_schedule_counts_clients_in_the_order_of_the_file(tmp_path, good):
    split, _ = get(tmp_path, good)
    clients = Clients(split, {})
    config = presets.load("aya", "fedavg", "paper", variant="released")
    first = schedule(config, 38, clients.file_order)[0]
    train = {client.id: client.train for client in split.manifest.clients}
    assert sorted(train[clients.ids[k]] for k in first) == sorted(AYA_SIZES[place] for place in (2, 16, 24, 26))
    assert first == sorted(first)
    assert first != schedule(config, 38)[0]  # the ids are not in the order of the file


@pytest.mark.slow
def test_an_order_that_names_a_client_twice_is_refused(tmp_path, good):
    split, _ = get(tmp_path, good)
    path = split.folder / ORDER_FILE
    users = json.loads(path.read_text())
    path.write_text(json.dumps([users[0], *users]))
    with pytest.raises(UserError, match="every client once"):
        _ = Clients(split, {}).file_order


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_five_sets_convert_and_differences_are_named(tmp_path, good, name):
    split, notes = get(tmp_path, good, name)
    assert open_split(tmp_path / "out").hash == split.hash
    assert len(split.manifest.clients) == PUBLISHED[name].clients
    assert split.manifest.funnel[0].rows_left == sum(map(len, sets()[name].values()))
    assert any("samples: " in note and "published" in note for note in notes) == (name != "aya")
    assert split.manifest.notes == tuple(notes[1:])
    assert split.manifest.upstream.files[0].sha256 == official.sha256_file(tmp_path / "in.zip")


@pytest.mark.slow
def test_a_missing_root_folder_is_the_same_and_another_zip_is_reported(tmp_path, good):
    first, _ = get(tmp_path, good)
    second, notes = get(tmp_path, official_zip(root=""))
    assert first.manifest.clients == second.manifest.clients
    assert "DIFFERS" in notes[0]


def test_unusable_samples_are_left_out_and_counted(tmp_path):
    turn = {"instruction": "q", "response": "a"}
    bad = [{**turn, "response": " "}, {**turn, "response": None}, {**turn, "instruction": "\ud800"}]
    split, notes = get(tmp_path, one_file(json.dumps({"../../x": [turn, turn, *bad], "empty": bad}).encode()))
    assert [(c.id, c.train) for c in split.manifest.clients] == [("../../x", 2)]
    assert len({row.row_id for row in split.rows("train")}) == 2
    assert [(s.step, s.rows_removed, s.clients_left) for s in split.manifest.funnel] == [
        *(("raw", 0, 2), ("empty", 4, 2), ("broken", 2, 2), ("turns", 0, 1))
    ]
    assert any("client sizes" in note for note in notes)


def test_unreachable_names_every_way_out(tmp_path):
    with pytest.raises(UserError) as caught:
        official.get_official("aya", tmp_path / "out")
    assert all(w in str(caught.value) for w in ("drive.google", "--zip", "--from", "FEDLLM_BENCH_MIRROR", "build"))
    assert "\n" not in str(caught.value)


def test_gdown_goes_on_after_a_cut_in_the_next_call_and_in_the_same(tmp_path, good, monkeypatch):
    large = with_filler(good, 3_000_000)  # gdown keeps whole chunks of 512 KiB
    uncut = len(large)
    with serve(Site({"/uc": large}, cuts=[1_100_000, uncut, 700_000])) as site:
        monkeypatch.setattr(official, "ADDRESS", f"{site.address}/uc")
        with pytest.raises(UserError, match="--zip"):
            official.get_official("aya", tmp_path / "out")
        monkeypatch.setattr(drive, "RETRIES", 1)
        split, _ = official.get_official("aya", tmp_path / "out")
    assert [wanted for _, wanted in site.asked] == ["", "", "bytes=1048576-", "bytes=1572864-"]
    assert len(split.manifest.clients) == 38
    assert sorted(path.name for path in (tmp_path / "cache" / "official").iterdir()) == [
        *(ZIP_NAME, f"{ZIP_NAME}.lock", "zip_sha256.json")
    ]


def with_filler(content: bytes, num_bytes: int) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("__MACOSX/filler", random.Random(0).randbytes(num_bytes))
    return buffer.getvalue()


def test_a_broken_zip_from_drive_is_not_kept(tmp_path, good, monkeypatch):
    broken = bytearray(good)
    broken[200:300] = bytes(100)
    with serve(Site({"/uc": bytes(broken)})) as site:
        monkeypatch.setattr(official, "ADDRESS", f"{site.address}/uc")
        with pytest.raises(UserError, match="cannot be unpacked"):
            official.get_official("aya", tmp_path / "out")
    assert [p.suffix for p in (tmp_path / "cache" / "official").iterdir()] == [".lock"]


def test_a_web_page_does_not_get_into_the_cache(tmp_path, monkeypatch):
    (tmp_path / ZIP_NAME).write_text("<!DOCTYPE html><html>Quota exceeded")
    monkeypatch.setenv("FEDLLM_BENCH_MIRROR", str(tmp_path))
    with pytest.raises(UserError, match="web page"):
        official.get_official("aya", tmp_path / "out")
    assert not (tmp_path / "cache" / "official" / ZIP_NAME).exists()


def entry(name: str = "x", content: bytes = b"", mode: int = 0) -> bytes:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return packed({info: content})  # type: ignore[dict-item]


def forged(name: str) -> bytes:
    """Zips that zipfile itself would not write."""
    content = bytearray(one_file(b'{"u": []}'))
    central = content.rindex(b"PK\x01\x02")
    if name == "encrypted":
        content[central + 8] |= 1
    else:
        content[central + 24 : central + 28] = (3).to_bytes(4, "little")
    return bytes(content)


def claiming(num_bytes: int) -> bytes:
    """A zip whose directory says that its only entry unpacks to so many bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(ROOT + PUBLISHED["aya"].path, b'{"u": []}')
        archive.infolist()[0].file_size = num_bytes  # the directory is written when the archive is closed
    return buffer.getvalue()


S = b'{"instruction": "q", "response": "a"}'
HOSTILE = {
    "parent": (lambda: entry("../x"), "leave its folder"),
    "absolute": (lambda: entry("/etc/x"), "leave its folder"),
    "backslash": (lambda: entry("..\\x"), "leave its folder"),
    "symlink": (lambda: entry("x", b"/etc/passwd", 0o120777), "link"),
    "bomb": (lambda: one_file(b'{"u": [{"instruction": "' + b" " * 2**24), "zip bomb"),
    "claimed": (lambda: claiming(5 * 2**30), "claims 5368709120"),
    "small claim": (lambda: forged("small"), "cannot be unpacked"),
    "encrypted": (lambda: forged("encrypted"), "encrypted"),
    "many": (lambda: packed({f"{i}": b"" for i in range(1001)}), "at most 1000"),
    "cut": (lambda: official_zip()[:500], "not a readable zip"),
    "empty zip": (lambda: packed({"a": b""}), "holds no"),
    "list": (lambda: one_file(b"[1]"), "JSON object"),
    "no users": (lambda: one_file(b"{}"), "no users"),
    "nesting": (lambda: one_file(b'{"u": {"a": 1}}'), "list of samples"),
    "text sample": (lambda: one_file(b'{"u": ["a"]}'), "a sample"),
    "no field": (lambda: one_file(b'{"u": [{"instruction": "q"}]}'), "no 'response'"),
    "number": (lambda: one_file(b'{"u": [{"instruction": "q", "response": 1}]}'), "is int, not text"),
    "deep": (lambda: one_file(b'{"u": [{"a": ' + b"[" * 100_000), "nested too deeply"),
    "long id": (lambda: one_file(b'{"' + random.Random(0).randbytes(5 * 10**6).hex().encode() + b'": []}'), "user id"),
    "id of 257": (lambda: one_file(b'{"' + b"a" * 257 + b'": []}'), "longer than 256"),
    "surrogate id": (lambda: one_file(b'{"\\ud800": [' + S + b"]}"), "broken text"),
    "twice": (lambda: one_file(b'{"u": [' + S + b'], "u": [' + S + b"]}"), "twice"),
    "not utf-8": (lambda: one_file(b'{"u\xff": [' + S + b"]}"), "not UTF-8"),
    "cut json": (lambda: one_file(b'{"u": [' + S), "expected"),
    "more": (lambda: one_file(b'{"u": [' + S + b"]} 1"), "more after"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_zips_are_refused_in_one_line_and_nothing_is_written(tmp_path, name):
    make, words = HOSTILE[name]
    with pytest.raises(UserError, match=words) as caught:
        get(tmp_path, make())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zip"]


def test_an_entry_of_too_many_bytes_is_stopped_while_it_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRY_BYTES", 10)
    with pytest.raises(UserError, match="claims"):
        get(tmp_path, one_file(b'{"u": [' + S + b"]}"))


def test_conversations_must_have_known_speakers_in_turn(tmp_path):
    def chat(*turns):
        conversation = {"conversations": [{"from": who, "value": "x"} for who in turns]}
        return one_file(json.dumps({"u": [conversation]}).encode(), "wildchat_multi")

    with pytest.raises(UserError, match="not 'human' or 'gpt'"):
        get(tmp_path, chat("human", "tool"), "wildchat_multi")
    with pytest.raises(UserError, match="no sample is left"):
        get(tmp_path, chat("human", "gpt", "human"), "wildchat_multi")


def test_a_value_over_the_edge_of_a_chunk_is_read_whole():
    from fedllm_bench.data.json_stream import users

    whole = json.dumps({"ключ": [{"a": "é" * 50, "n": 12}, {}], "b": []}, ensure_ascii=False).encode()
    for size in (1, 2, 7, 1000):
        chunks = [whole[i : i + size] for i in range(0, len(whole), size)]
        assert [(u, list(s)) for u, s in users(chunks, "f")] == [("ключ", [{"a": "é" * 50, "n": 12}, {}]), ("b", [])]
    assert ROOT.endswith("/")
