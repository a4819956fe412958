"""The cards of a split, in Markdown and HTML: the same facts, warnings, and no text that is taken for markup."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

from built_splits import make
from forged_manifests import forge
from own_tokenizers import byte_level_bpe
from raw_rows import aya, random_rows, vote

from fedllm_bench.data.card import CardContents, histogram
from fedllm_bench.data.card_html import html_card
from fedllm_bench.data.lengths import spread, token_counter
from fedllm_bench.data.manifest import FunnelStep, SplitInfo, Upstream, open_split
from fedllm_bench.data.split_stats import lines_of, split_stats


def test_the_card_compares_with_the_published_split_and_warns(tmp_path):
    rows = [vote("big", f"q{i}", f"a{i}", f"b{i}") for i in range(30)]
    rows += [vote("little", f"r{i}", f"a{i}", f"b{i}") for i in range(6)]
    card = (make(tmp_path, "chatbot_pa", rows).folder / "README.md").read_text()
    for words in ("## Warnings", "holds 83%", "2 clients; the published split has 747", "| clients | 747 | 2 |"):
        assert words in card
    for words in ("instruction length, tokens | 69 +- 124 |", "Tokens are those of the embedded mini tokenizer; the"):
        assert words in card
    for words in ("| samples | 9508 | 36 |", "16 to 31", "| eng | 36 |", "population std | 21 | 12.0 |"):
        assert words in card
    artificial = (make(tmp_path, "chatbot_pa", rows, "iid", partition="iid:3").folder / "README.md").read_text()
    assert "artificial (partition iid:3)" in artificial
    assert "published" not in artificial.split("## Funnel")[0]


class Page(HTMLParser):
    """The elements of a page, checked to be closed in order."""

    VOID = ("meta", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen[tag] += 1
        assert not [name for name, _ in attrs if name in ("src", "href") or name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen[tag] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_html_card_says_what_the_markdown_card_says(tmp_path):
    rows = [vote("big", f"q{i}", f"a{i}", f"b{i}") for i in range(1100)]
    rows += [vote(f"user {j}", f"r{j} {i}", f"a{i}", f"b{i}") for j in range(40) for i in range(6)]
    split = make(tmp_path, "chatbot_pa", rows)
    page = Page((split.folder / "card.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "img", "link", "iframe", "a"} & page.seen.keys()
    assert page.seen["rect"] == 9  # classes from 4 to 7 up to 1024 to 2047, the empty ones too
    said = " ".join(page.text)
    for words in (
        "holds 82%",
        "747",
        "published",
        "min_samples",
        "eng",
        "4 to 7",
        "CC-BY-NC-4.0",
        "41; rows per client",
    ):
        assert words in said
    assert "card.html" in split.manifest.files


def test_the_html_card_escapes_every_text(tmp_path):
    evil = '<script>alert(1)</script>&"'
    upstream = Upstream(id=evil, revision=evil, files=())
    step = FunnelStep(step=evil, rows_removed=1, rows_left=2, clients_left=1, reason=evil)
    info = SplitInfo(
        name=evil, dataset=evil, task="sft", version=evil, upstream=upstream, licence=evil,
        recipe={evil: evil, "partition": evil}, funnel=(step,), notes=(evil,),
    )  # fmt: skip
    lengths = {evil: spread([1, 2])}
    sizes = {"rows_by_part": {evil: 3, "heldout": 0}, "client_sizes": [2, 1]}
    text = html_card(CardContents(info=info, **sizes, languages={evil: 3}, lengths=lengths, tokenizer=evil))
    page = Page(text)
    assert "script" not in page.seen
    assert "".join(page.text).count("<script>") >= 12
    assert page.open == []


def test_a_split_from_before_the_html_card_stays_readable(tmp_path):
    split = make(tmp_path, "aya", random_rows("aya", 8), min_samples=5, languages=())
    files = {name: sha for name, sha in split.manifest.files.items() if name != "card.html"}
    (split.folder / "card.html").unlink()
    forge(split.folder, files=files)
    assert open_split(split.folder).hash == split.hash


def test_the_histogram_counts_every_client_once():
    lines = histogram([1, 2, 3, 4, 7, 8, 100])
    assert sum(int(line.split()[3]) for line in lines) == 7
    assert len(lines) == 7  # empty classes are shown


def test_cards_and_stats_count_rows_with_control_tokens(tmp_path):
    texts = ["plain", "a </s> b", "<|endoftext|> and </s>", "[INST] x [/INST]", "1 < 2 | 3 > 2 [1] <b>bold</b>"]
    rows = [aya("a", f"q {n}", text) for n, text in enumerate(texts)] + [aya("b", "<start_of_turn>", "fine")]
    split = make(tmp_path, "aya", rows, heldout=0)
    line = (
        "4 rows hold some in their text (train 4; </s> 2, <start_of_turn> 1, <|endoftext|> 1, [/INST] 1, [INST] 1); "
        "they are tokenised as text"
    )
    assert f"Control tokens {line}" in " ".join(Page((split.folder / "card.html").read_text(encoding="utf-8")).text)
    card = (split.folder / "README.md").read_text(encoding="utf-8")
    assert "- Control tokens: 4 rows hold some" in card
    assert "<" not in card.partition("- Control tokens:")[2].partition("\n")[0]  # a page would strike text out
    found = split_stats(split)["control_tokens"]
    assert found["rows"] == {"train": 4, "heldout": 0, "unseen": 0}
    assert found["marks"]["</s>"] == 2
    assert f"control tokens: {line}" in lines_of(split_stats(split))
    clean = make(tmp_path, "aya", [aya("a", "q", "plain")], "clean", heldout=0)
    assert "- Control tokens: no row holds any in its text" in (clean.folder / "README.md").read_text(encoding="utf-8")


def test_a_tokenizers_own_control_tokens_are_counted_and_their_text_has_its_length(tmp_path):
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens(["<mark>"])
    tokenizer.save_pretrained(tmp_path / "model")
    counter = token_counter(str(tmp_path / "model"))
    split = make(tmp_path, "aya", [aya("a", "q <mark>", "x"), aya("a", "r", "y")], heldout=0)
    assert split_stats(split)["control_tokens"]["marks"] == {}
    assert split_stats(split, counter)["control_tokens"]["marks"] == {"<mark>": 1}
    assert counter.count(["<mark>"])[0] > 1
    assert counter.count(["a word"]) == [len(tokenizer("a word", add_special_tokens=False)["input_ids"])]
