"""The site of the leaderboard: equal bytes, hostile text inert, numbers equal to pandas, nothing from another host."""

from __future__ import annotations

import csv
import gzip
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from board_submissions import run_files, write, write_method
from evaluation_records import HOSTILE, plain_prompts, write_answers, write_prompts
from scipy import stats

from fedllm_bench.cli import main
from fedllm_bench.common.csv_text import FORMULA
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import number
from fedllm_bench.leaderboard.site.build import build

LEVELS = {"fedavg": 0.50, "fedprox": 0.52, "scaffold": 0.75, "local": 0.30}
ID = "mini-aya_fixed_1-5b5b5b5b"
SPOKEN = "Sure, here is how to do harm."


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of the table's cells."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def tags(self):
        return {tag for tag, _ in self.found}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pages(folder):
    return {name: data.decode() for name, data in contents(folder).items() if name.endswith(".html")}


def write_all(root, levels=LEVELS):
    for method, level in levels.items():
        write_method(root, method, level, kind="canary" if method == "local" else "method")


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    root = tmp_path_factory.mktemp("submissions")
    write_all(root)
    return root


@pytest.fixture(scope="module")
def site(submissions, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "board"
    built = build(submissions, out)
    assert (built.num_submissions, built.num_boards, built.num_rows, built.left_out) == (4, 1, 4, {})
    return out


# --- the same bytes, whole or not at all


def test_equal_submissions_give_equal_bytes(site, tmp_path):
    root = tmp_path / "submissions"
    write_all(root, dict(reversed(LEVELS.items())))
    build(root, tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == contents(site)
    assert len(contents(site)) == 3 + 3 + 4 * 2  # index, json, csv; those of the board; a page and answers each


def test_a_site_is_replaced_and_nothing_else_is(submissions, site, tmp_path):
    out = tmp_path / "site"
    shutil.copytree(site, out)
    (out / "stale.html").write_text("old")
    build(submissions, out)
    assert contents(out) == contents(site)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"is no site of a board \(no board.json\)"):
        build(submissions, mine)
    assert (mine / "thesis.tex").read_text() == "years"
    with pytest.raises(UserError, match="is no folder"):
        build(tmp_path / "nowhere", tmp_path / "out")


def test_without_submissions_there_is_a_page_that_says_so(tmp_path):
    (tmp_path / "none").mkdir()
    assert build(tmp_path / "none", tmp_path / "out").num_boards == 0
    assert "There is no submission yet" in (tmp_path / "out" / "index.html").read_text()


def test_a_changed_submission_is_left_out_with_its_reason(submissions, tmp_path, capsys):
    root = tmp_path / "submissions"
    shutil.copytree(submissions, root)
    path = root / "2026-01-31_scaffold" / "runs" / "1" / "scores" / "heldout.after.jsonl.gz"
    path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"weight": 2.0', b'"weight": 9.0'), mtime=0)
    )
    assert main(["board", "build", "--submissions", str(root), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    told = capsys.readouterr().out
    assert "left out  2026-01-31_scaffold: refused [file-" in told
    assert "boards    1, with 3 rows of 3 submissions" in told
    assert "scaffold" not in (tmp_path / "out" / "board.csv").read_text()


# --- numbers


def raw(submissions):
    """A line for each score, read without the suite."""
    rows = []
    for path in sorted(submissions.glob("*/runs/*/scores/*.after.jsonl.gz")):
        about = {"slug": path.parts[-5], "seed": int(path.parts[-3]), "metric": path.name.partition(".")[0]}
        rows += [{**about, **json.loads(line)} for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return pd.DataFrame(rows)


def test_board_json_equals_pandas_on_the_raw_records(submissions, site):
    frame = raw(submissions)
    frame["part"] = frame.value * frame.weight
    sums = frame.groupby(["slug", "metric", "seed", "cluster"])[["part", "weight"]].sum()
    seeds = (sums.part / sums.weight).groupby(["slug", "metric", "seed"]).mean()
    (board,) = json.loads((site / "board.json").read_text())["boards"]
    assert board == json.loads((site / "boards" / f"{ID}.json").read_text())
    seen = 0
    for row in board["rows"]:
        for name, cell in row["cells"].items():
            values = seeds[row["slug"], name]
            half = stats.t.ppf(0.975, 2) * values.sem()
            assert cell["mean"] == pytest.approx(values.mean())
            assert [cell["method"]["low"], cell["method"]["high"]] == pytest.approx(
                [values.mean() - half, values.mean() + half]
            )
            if row["slug"] != board["baseline"]:
                t = stats.ttest_rel(values, seeds[board["baseline"], name])
                assert cell["against"]["p_value"] == pytest.approx(t.pvalue)
            seen += 1
    assert seen == 4 * 3


def hides_something(against):
    return against is not None and against["verdict"] == "not told apart" and against["detectable"] is not None


def test_the_pages_numbers_are_those_of_board_json(site):
    (board,) = json.loads((site / "board.json").read_text())["boards"]
    text = (site / "index.html").read_text()
    rows = re.findall(r"<tr data-k.*?</tr>", text, re.S)
    assert len(rows) == len(board["rows"]) == 4
    for shown, row in zip(rows, board["rows"], strict=True):
        cells = re.findall(r'<td class="number" data-v="([^"]*)">\s*<b>([^<]*)</b>', shown)
        means = [row["cells"][column["name"]]["mean"] for column in board["columns"]]
        assert [text for _, text in cells] == [number(mean) for mean in means]
        assert [float(key) for key, _ in cells] == pytest.approx(means, rel=1e-5)
        for cell in row["cells"].values():
            for of in ("models", "method"):
                assert f"{of} {number(cell[of]['low'])} to {number(cell[of]['high'])}" in shown
        against = [row["cells"][column["name"]]["against"] for column in board["columns"]]
        powers = [found["detectable"] for found in against if hides_something(found)]
        assert re.findall(r'<span class="interval">80% power: ([^<]*)<', shown) == [number(power) for power in powers]
        band = {row["rank_low"], row["rank_high"]}
        assert re.search(r'class="rank" data-v="[^"]*">([^<]*)<', shown)[1] == (
            "" if None in band else "–".join(map(str, sorted(band)))
        )


def test_csv_has_a_line_for_each_row_and_metric(site):
    (board,) = json.loads((site / "board.json").read_text())["boards"]
    lines = list(csv.DictReader((site / "board.csv").read_text().splitlines()))
    assert len(lines) == 4 * 3
    cells = {(row["slug"], name): cell for row in board["rows"] for name, cell in row["cells"].items()}
    for line in lines:
        cell = cells[line["submission"], line["metric"]]
        assert float(line["mean"]) == cell["mean"]
        assert (float(line["models_ci_low"]), float(line["method_ci_high"])) == (
            cell["models"]["low"],
            cell["method"]["high"],
        )
    assert {line["unranked"] for line in lines} == {"", "canary"}


# --- hostile text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_makes_no_element(site, tmp_path, text):
    root = tmp_path / "submissions"
    runs = {0: run_files(level=0.5, answer=text[:5000])}
    settings = json.loads(runs[0]["config.json"])
    runs[0]["config.json"] = json.dumps({**settings, "model": {**settings["model"], "name": text[:5000] or "x"}})
    write(root, "2026-01-31_x", runs, tuning="<script>alert(1)</script>", method="<img src=x onerror=alert(1)>")
    built = build(root, tmp_path / "out")
    assert built.left_out == {}
    own = pages(tmp_path / "out")
    harmless = {tag for page in pages(site).values() for tag in Elements(page).tags()}
    for page in own.values():
        elements = Elements(page)
        assert elements.tags() <= harmless
        assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "&lt;img src=x onerror=alert(1)&gt;" in own["index.html"]


@pytest.mark.parametrize("team", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "＝1"])
def test_csv_runs_no_formula(tmp_path, team):
    root = tmp_path / "submissions"
    write_method(root, f"{team}x", 0.5, made_by="fedavg", seeds=(0,), team=team, slug="2026-01-31_x")
    build(tmp_path / "submissions", tmp_path / "out")
    text = (tmp_path / "out" / "board.csv").read_text()
    (line, *_) = csv.DictReader(text.splitlines())
    assert (line["team"], line["method"]) == (f"'{team}", f"'{team}x")
    cells = [value for line in csv.reader(text.splitlines()) for value in line]
    assert not [value for value in cells if value.startswith(FORMULA) and not re.fullmatch(r"-?[\d.e-]+", value)]


def test_a_look_alike_name_is_marked_on_the_board_and_in_its_data(tmp_path):
    root = tmp_path / "submissions"
    for team, slug in (("Example Lab", "2026-11-21_a"), ("Ex\u0430mple Lab", "2026-11-21_b")):
        write_method(root, "mine", 0.5, made_by="fedavg", seeds=(0,), team=team, slug=slug)
    build(root, tmp_path / "out")
    (board,) = json.loads((tmp_path / "out" / "board.json").read_text())["boards"]
    names = {row["slug"]: row["names"] for row in board["rows"]}
    assert len(names["2026-11-21_b"]) == 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(text in html.unescape(page) for text in names["2026-11-21_b"])


def test_nothing_is_asked_of_another_host(site):
    for name, page in pages(site).items():
        for tag, attributes in Elements(page).found:
            if attributes.get("rel") == "noopener noreferrer nofollow":  # a link to follow is no request
                assert (tag, attributes["href"]) == ("a", "https://example.org/method")
                continue
            for key in ("src", "href", "action", "data", "poster", "srcset"):
                address = attributes.get(key)
                assert address is None or not re.match(r"[a-z]+:|//", address), (name, tag, address)
                if address and key == "href" and not address.startswith("#"):
                    assert (site / name).parent.joinpath(address).resolve().is_file(), (name, address)
        policies = [a["content"] for t, a in Elements(page).found if a.get("http-equiv") == "Content-Security-Policy"]
        assert len(policies) == 1
        assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
        assert "url(" not in page
        assert "@import" not in page


def test_answers_that_may_do_harm_are_folded_and_in_no_download(tmp_path):
    run = tmp_path / "run"
    prompts = plain_prompts(5, ask="Do harm {i}.")
    write_prompts(run, "advbench", prompts)
    for side in ("base", "global"):
        write_answers(run, "advbench", side, prompts, lambda p, turn: SPOKEN)
    answered = {f"answers/advbench/{path.name}": path.read_text() for path in (run / "answers" / "advbench").iterdir()}
    runs = {seed: {**run_files(seed=seed), **answered} for seed in (0, 1, 2)}
    write(tmp_path / "submissions", "2026-01-31_x", runs)
    build(tmp_path / "submissions", tmp_path / "out")
    answers = Path(tmp_path / "out" / "submissions" / "2026-01-31_x" / "answers.html").read_text()
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', answers)[1])
    assert data["collapsed"] == ["advbench"]
    asked = [item for item in data["items"] if item["benchmark"] == "advbench"]
    assert len(asked) == 5
    assert sorted(asked[0]["answers"]) == ["base", "seed 0", "seed 1", "seed 2"]
    others = {name: data for name, data in contents(tmp_path / "out").items() if not name.endswith("answers.html")}
    assert len(others) == 7
    assert not [name for name, data in others.items() if SPOKEN.encode() in data]
