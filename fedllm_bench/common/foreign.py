"""What a file of text is that is none of what it was taken for: by how it begins."""

from __future__ import annotations

FETCH = "fetch it again"
WEB_PAGE = "a web page (HTML or XML), perhaps of an error or a log-in"
# How a file begins in lower case, what it is, what to do.
TEXTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "run git annex get"),
    *((start, WEB_PAGE, FETCH) for start in (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")),
)
HEAD_BYTES = 512


def told(head: bytes) -> str | None:
    """What a file with these first bytes is, and what to do; None where they do not tell."""
    text = head[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((f"{what}; {advice}" for start, what, advice in TEXTS if text.startswith(start)), None)
