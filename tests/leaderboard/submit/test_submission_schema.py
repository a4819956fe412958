"""submission.json: what it must say, and texts that do not show what they hold."""

from __future__ import annotations

import datetime
import json

import pytest
from checkout import ROOT
from submitted_runs import encoded, head, listed, small_contents

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json
from fedllm_bench.leaderboard.submission import problems, schema, untrusted

CONTENTS = small_contents()


def good(**more):
    return {**head(), "files": listed(CONTENTS), **more}


def parse(**more):
    return schema.parse(encoded(good(**more)))


def test_the_published_schema_is_the_one_that_is_checked():
    published = read_json(ROOT / "leaderboard" / f"submission-{schema.SCHEMA_VERSION}.schema.json")
    assert published == schema.json_schema()
    assert set(published["required"]) == set(good())
    assert not published["additionalProperties"]


def test_what_is_parsed_is_what_was_written():
    submission = parse(url="https://example.org/a?b=c#d", contact="https://example.org", training_data="two\nlines")
    assert submission.model_dump(mode="json") == good(
        url="https://example.org/a?b=c#d", contact="https://example.org", training_data="two\nlines"
    )
    assert submission.seeds == [0]
    assert datetime.date.fromisoformat(submission.date)


HIDING = {
    "right-to-left override": "Fed\u202egvA",
    "right-to-left mark": "FedAvg\u200f",
    "isolate": "\u2066FedAvg\u2069",
    "zero-width space": "Fed\u200bAvg",
    "zero-width joiner": "Fed\u200dAvg",
    "byte order mark": "\ufeffFedAvg",
    "soft hyphen": "Fed\u00adAvg",
    "tag letters": "FedAvg\U000e0041",
    "variation selector": "FedAvg\ufe0f",
    "grapheme joiner": "Fed\u034fAvg",
    "Hangul filler": "Fed\u3164Avg",
    "Braille blank": "Fed\u2800Avg",
    "no-break space": "Fed\u00a0Avg",
    "em space": "Fed\u2003Avg",
    "line separator": "Fed\u2028Avg",
    "escape": "\x1b[2JFedAvg",
    "new line": "Fed\nAvg",
    "tab": "Fed\tAvg",
    "null": "Fed\0Avg",
    "private use": "Fed\ue000Avg",
    "not assigned": "Fed\u0378Avg",
    "no character": "Fed\uffffAvg",
    "not composed": "Fe\u0301dAvg",
    "compatibility letter of another form": "\u212bvg",
    "piled marks": "F\u0338\u0336\u0335edAvg",
    "a mark alone": "\u0338FedAvg",
    "blank at the end": "FedAvg ",
    "two blanks": "Fed  Avg",
    "nothing to read": "---",
    "only blanks": "   ",
    "empty": "",
    "too long": "F" * 61,
}
SHOWING = (
    "FedAvg",
    "Fed-Avg+ (μ = 0.1)",
    "联邦学习",
    "Müller & Söhne <3",
    "Лаборатория",
    "मशीन लर्निंग",
    "ที่ดี",
    "한국",
    "<b>x</b>",
)


@pytest.mark.parametrize("name", HIDING)
@pytest.mark.parametrize("field", ["method", "team"])
def test_names_that_hide_something_are_refused(field, name):
    with pytest.raises(UserError, match=f"submission.json: {field}: ") as caught:
        parse(**{field: HIDING[name]})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", SHOWING)
def test_names_in_any_script_are_kept(name):
    assert parse(team=name).team == name


def test_a_statement_may_have_lines_and_hides_nothing():
    assert parse(tuning="one\n\ntwo  three").tuning == "one\n\ntwo  three"
    for text in ("a\r\nb", "a\x1b[0m", "a\u202eb", "", "x" * 2001):
        with pytest.raises(UserError, match=r"submission\.json: tuning"):
            parse(tuning=text)


BAD_ADDRESSES = (
    "http://example.org", "javascript:alert(1)", "https://", "https://localhost/x", "https://10.0.0.1/", "https://[::1]/",
    "https://user:key@example.org/", "https://example.org:8443/", "https://exa mple.org", "https://example.org/<script>",
    'https://example.org/"x', "https://еxample.org/", "HTTPS://example.org", "//example.org", "https://example.org/\n",
    "data:text/html,x", "https://example..org", "https://-a.org", "https://example.org/" + "x" * 300,
)  # fmt: skip


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_addresses_are_https_and_public(address):
    for field in ("url", "contact"):
        with pytest.raises(UserError, match=f"submission.json: {field}"):
            parse(**{field: address})
    adapter = {"sha256": "a" * 64, "bytes": 1, "address": address, "inside": False}
    with pytest.raises(UserError, match=r"runs\.0\.adapter\.address"):
        parse(runs=[{**head()["runs"][0], "adapter": adapter}])


@pytest.mark.parametrize(
    "contact", ["lab", "lab@", "@example.org", "lab@example", "a b@example.org", "lab@example.org, x"]
)
def test_a_contact_is_an_address(contact):
    with pytest.raises(UserError, match="e-mail or https"):
        parse(contact=contact)


WRONG = {
    "an unknown key": {"score": 1.0},
    "another version": {"version": 2},
    "a version that only equals 1": {"version": True},
    "a seed as text": {"runs": [{**head()["runs"][0], "seed": "0"}]},
    "a seed below 0": {"runs": [{**head()["runs"][0], "seed": -1}]},
    "no runs": {"runs": []},
    "many runs": {"runs": head(tuple(range(21)))["runs"]},
    "a hash in capitals": {"files": {"runs/0/config.json": {"sha256": "A" * 64, "bytes": 1}}},
    "a negative size": {"files": {"runs/0/config.json": {"sha256": "a" * 64, "bytes": -1}}},
    "a path with a blank": {"files": {"runs/0/a b": {"sha256": "a" * 64, "bytes": 1}}},
    "an absolute path": {"files": {"/etc/passwd": {"sha256": "a" * 64, "bytes": 1}}},
    "a claim as text": {"claims": {"heldout": {"0": "1.0"}}},
    "a claim of no metric": {"claims": {"<b>": {"0": 1.0}}},
    "a track with a path": {"track": "../mini-aya"},
    "a day that is none": {"date": "2026-02-30"},
    "a day in words": {"date": "today"},
    "another kind": {"kind": "winner"},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name):
    submission, _, found = schema.examine(encoded(good(**WRONG[name])))
    assert submission is None
    assert {problem.code for problem in found} == {"schema"}
    field = next(iter(WRONG[name]))
    assert found[0].where.startswith(f"submission.json: {field}")


def test_every_field_is_needed():
    for field in good():
        with pytest.raises(UserError, match=f"{field}: Field required"):
            schema.parse(encoded({key: value for key, value in good().items() if key != field}))


def test_all_that_is_wrong_is_in_one_line():
    with pytest.raises(UserError) as caught:
        parse(team="", date="x", url="ftp://x")
    assert all(word in str(caught.value) for word in ("team", "date", "url"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"[" * 100_000, "deep-json"),
        (b'"' + b'\\"' * 400_000, "not-json"),
        (b'{"version": 1, "version": 1}', "key-twice"),
        (b"{" + b" " * 2**20 + b"}", "too-large"),
        (b"\xff\xfe{\x00}\x00", "not-text"),
        (b'\xef\xbb\xbf{"a": 1}', "not-json"),
        (b'{"a": 1} {"b": 2}', "not-json"),
        (b'{"a": -Infinity}', "not-json"),
    ],
)
def test_hostile_json_is_one_problem(content, code):
    submission, _, found = schema.examine(content)
    assert submission is None
    assert [problem.code for problem in found] == [code]


def test_brackets_inside_texts_are_no_depth():
    text = json.dumps({"a": '"[' * 200, "b": "\\" * 33 + "[" * 40}).encode()
    assert untrusted.loads(text, "x") == json.loads(text)
    deep = b"[" * untrusted.DEPTH + b"]" * untrusted.DEPTH
    assert untrusted.loads(deep, "x") == json.loads(deep)
    with pytest.raises(problems.Refused, match="nested"):
        untrusted.loads(b"[" + deep + b"]", "x")


def test_a_problem_has_a_listed_code_and_one_printable_line():
    with pytest.raises(ValueError, match="no problem 'nonsense'"):
        problems.Problem(code="nonsense", message="x")
    assert len(problems.PROBLEMS) >= 25
    line = problems.Problem(code="link", message="a\x1b[2J\u202e\nb", where="c\0").line
    assert line.isprintable()
    assert "\\x1b" in line
    assert "\\u202e" in line
