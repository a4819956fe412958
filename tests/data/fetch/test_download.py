"""Downloads: resumed after a cut, started anew when the file changed, refused and not kept when wrong."""

from __future__ import annotations

import hashlib
import os

import pytest
from loopback import Site, serve

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.fetch import download as d

BODY = os.urandom(3 * 2**20 + 17)
RIGHT = d.sha256_is(hashlib.sha256(BODY).hexdigest())


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(d, "WAITS_SECONDS", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock"))


def test_a_cut_connection_goes_on_where_it_stopped(tmp_path):
    with serve(Site({"/f": BODY}, cuts=[1_000_000, 700])) as site:
        d.download(f"{site.address}/f", tmp_path / "f", RIGHT)
    assert (tmp_path / "f").read_bytes() == BODY
    assert [r for _, r in site.asked] == ["", "bytes=1000000-", "bytes=1000700-"]
    assert left(tmp_path) == ["f"]


def test_a_later_call_goes_on_and_a_changed_file_starts_anew(tmp_path):
    with serve(Site({"/f": BODY[::-1]}, cuts=[1000] + [0] * 4)) as site:
        with pytest.raises(d.Unreachable, match="1000 bytes are kept"):
            d.download(f"{site.address}/f", tmp_path / "f", RIGHT)
        assert left(tmp_path) == ["f.part", "f.part.json"]
        site.files["/f"], site.etag = BODY, '"2"'
        d.download(f"{site.address}/f", tmp_path / "f", RIGHT)
    assert site.asked[-1][1] == "bytes=1000-"
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("site", [Site({"/f": BODY}, cuts=[9], ranges=False), Site({"/f": BODY}, cuts=[9], etag="W/1")])
def test_without_ranges_or_a_strong_validator_it_starts_anew(tmp_path, site):
    with serve(site):
        d.download(f"{site.address}/f", tmp_path / "f", RIGHT)
    assert (tmp_path / "f").read_bytes() == BODY


def test_busy_servers_are_asked_again_and_others_are_not(tmp_path):
    with serve(Site({"/f": BODY}, refusals=[(503, {}), (429, {"Retry-After": "0"})])) as site:
        d.download(f"{site.address}/f", tmp_path / "f", RIGHT)
        assert len(site.asked) == 3
        for status, head, tries in ((404, {}, 1), (429, {"Retry-After": "3600"}, 1), (500, {}, 5)):
            site.asked.clear()
            site.refusals[:] = [(status, head)] * 9
            with pytest.raises(d.Unreachable, match=str(status)):
                d.download(f"{site.address}/f", tmp_path / "g", RIGHT)
            assert len(site.asked) == tries


def test_a_wrong_or_too_large_file_is_refused_and_not_kept(tmp_path):
    with serve(Site({"/f": b"other"})) as site:
        with pytest.raises(UserError, match="not kept"):
            d.download(f"{site.address}/f", tmp_path / "f", RIGHT)
        with pytest.raises(UserError, match="at most 4"):
            d.download(f"{site.address}/f", tmp_path / "f", RIGHT, max_bytes=4)
    assert left(tmp_path) == []


def test_files_and_file_urls(tmp_path):
    source = tmp_path / "a b"
    source.write_bytes(BODY)
    for number, address in enumerate((str(source), source.as_uri())):
        d.download(address, tmp_path / str(number), RIGHT)
        assert (tmp_path / str(number)).read_bytes() == BODY
    with pytest.raises(d.Unreachable, match="is no file"):
        d.download(str(tmp_path / "none"), tmp_path / "x", RIGHT)


def test_no_network_is_one_line_at_once(tmp_path):
    with pytest.raises(d.Unreachable, match="cannot reach") as caught:
        d.download("https://example.org/f", tmp_path / "f", RIGHT)
    assert "\n" not in str(caught.value)
