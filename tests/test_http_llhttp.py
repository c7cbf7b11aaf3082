# SPDX-License-Identifier: Apache-2.0
"""Compares the HTTP parser with the published cases of llhttp in the shared corpus.

Each case is an input and the log of what llhttp made of it. The input is fed whole and in pieces.
Compared are, per message: method, target, version, status, reason, header and trailer fields, body,
whether it is complete, and per case whether something is wrong with it. Three things differ by
design:

* llhttp stops at the first violation, an observer goes on where it can. So where llhttp stopped,
  what it had found until then must be there, and an error must have been raised.
* llhttp has lenient modes, this parser has one: it accepts and tells. In lenient cases the messages
  are compared, the errors are not.
* Of a line whose end never comes llhttp tells what is there; here it is only told that something is
  incomplete.

All further differences are listed in ``DIFFERENT`` with their reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("NFMESH_CORPUS", ROOT.parent / "shared" / "corpus"))
CASES = CORPUS / "http/llhttp/test"
FLAGS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-std=gnu11"]
UPGRADE_CODES = ("22", "23")  # llhttp's way of saying that another protocol follows

BARE_CR = "a CR alone ends no line (RFC 9112 section 2.2); it is told and stays in the text"
SPACE = "the space before the colon is told and removed (RFC 9112 section 5.1)"
NOT_HTTP_1 = "RTSP and ICE are not HTTP"
ANY_METHOD = "methods are extensible: any upper-case token is one (RFC 9110 section 16.1)"
TE_REJECTED = "a request whose last coding is not chunked has no known end: no body is guessed"

DIFFERENT: dict[str, str] = {
    "request/connection: Invalid whitespace token with `Connection` header field (lenient)": SPACE,
    "request/content-length: Invalid whitespace token with `Content-Length` header field "
    "(lenient)": SPACE,
    "request/content-length: Content-Length reset when no body is received": (
        "llhttp is told here that the request has no body; only responses can lack one"
    ),
    "request/content-length: Missing CRLF-CRLF before body (lenient)": BARE_CR,
    "request/invalid: HTTP protocol and ANNOUNCE method": ANY_METHOD,
    "request/invalid: Headers separated by dummy characters (lenient)": BARE_CR,
    "request/invalid: Invalid method": ANY_METHOD,
    "request/invalid: Invalid HTTP version": "a start line is judged when its end is there",
    "request/invalid: Only LFs present (lenient)": "an empty line ends the trailer section",
    "request/lenient-headers: Empty headers separated by CR (lenient)": BARE_CR,
    "request/method: SOURCE request with ICE": NOT_HTTP_1,
    "request/method: OPTIONS request with RTSP": NOT_HTTP_1,
    "request/method: ANNOUNCE request with RTSP": NOT_HTTP_1,
    "request/sample: No LF after CR (lenient)": BARE_CR,
    "request/transfer-encoding: POST with `Transfer-Encoding` and `Content-Length` "
    "(lenient)": TE_REJECTED,
    "request/transfer-encoding: POST with `chunked` before other transfer-coding "
    "(lenient)": TE_REJECTED,
    "request/transfer-encoding: POST with `chunked` and duplicate transfer-encoding "
    "(lenient)": TE_REJECTED,
    "request/transfer-encoding: Chunk header not terminated by CRLF (lenient)": BARE_CR,
    "response/invalid: Bare CR after response line (lenient)": BARE_CR,
    "response/sample: RTSP response": NOT_HTTP_1,
    "response/sample: ICE response": NOT_HTTP_1,
}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no shared corpus")


@dataclass
class Message:
    """One message as a parser saw it."""

    start: dict[str, bytes] = field(default_factory=dict)
    headers: list[list[bytes]] = field(default_factory=list)
    body: bytes = b""
    head_done: bool = False
    done: bool = False


@dataclass
class Outcome:
    """What one parser made of an input."""

    messages: list[Message] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    errors_before: list[int] = field(default_factory=list)  # per message: errors when it ended
    upgraded: bool = False


@dataclass(frozen=True)
class Case:
    """An input of llhttp's tests with its log."""

    name: str
    kind: str
    skip_body: bool
    data: bytes
    log: str


def unescape(text: str) -> bytes:
    """Returns the bytes that a case's text stands for, as llhttp's own test runner reads it."""
    text = text.removesuffix("\n")
    text = re.sub(r"\\(\r\n|\r|\n)", "", text)
    text = re.sub(r"\r\n|\r|\n", "\r\n", text)
    for escape, char in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        text = text.replace(escape, char)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda m: chr(int(m[1], 16)), text)
    return text.encode()


def read_cases() -> Iterator[Case]:
    """Yields the cases of all files."""
    pattern = re.compile(
        r"^#+ ([^\n]*)$|<!--\s*meta=(.*?)\s*-->|^```(http|log)\n(.*?)```", re.M | re.S
    )
    for path in sorted(CASES.glob("*/*.md")):
        title, meta, data = "", {}, b""
        for found in pattern.finditer(path.read_text(encoding="utf-8")):
            if found[1]:
                title = found[1]
            elif found[2]:
                meta = json.loads(found[2])
            elif found[3] == "http":
                data = unescape(found[4])
            else:
                name = f"{path.parent.name}/{path.stem}: {title}"
                yield Case(name, meta["type"], bool(meta.get("skipBody")), data, found[4])


def read_log(case: Case) -> Outcome:
    """Returns what llhttp's log says; texts are cut out of the input by offset and length."""
    out = Outcome()
    names = {"method": "method", "url": "target", "status": "reason"}
    fresh = True
    for line in case.log.splitlines():
        span = re.match(r"off=(\d+) len=(\d+) span\[(\w+)\]", line)
        if span:
            text = case.data[int(span[1]) : int(span[1]) + int(span[2])]
            message = out.messages[-1]
            if span[3] in names:
                name = names[span[3]]
                message.start[name] = message.start.get(name, b"") + text
            elif span[3] == "header_field":
                if fresh:
                    message.headers.append([b"", b""])
                message.headers[-1][0] += text
                fresh = False
            elif span[3] == "header_value":
                message.headers[-1][1] += text
                fresh = True
            elif span[3] == "body":
                message.body += text
        elif line.endswith("message begin"):
            out.messages.append(Message())
        elif "header_field complete" in line:
            fresh = False
        elif "header_value complete" in line:
            fresh = True
        elif found := re.search(r"headers complete .*?v=(\d)/(\d)", line):
            message = out.messages[-1]
            message.head_done = True
            message.start["version"] = f"{found[1]}.{found[2]}".encode()
            if status := re.search(r"status=(\d+)", line):
                message.start["status"] = status[1].encode()
        elif line.endswith("message complete"):
            out.messages[-1].done = True
        elif found := re.search(r"error code=(\d+)", line):
            out.upgraded = found[1] in UPGRADE_CODES
            if not out.upgraded:
                out.errors.append(line)
    return out


def read_dump(lines: list[str]) -> Outcome:
    """Returns what the tool printed for one case."""
    out = Outcome()
    at_end = False
    for line in lines:
        word, _, rest = line.partition(" ")
        values = dict(item.split("=", 1) for item in rest.split())
        if word == "eof":
            at_end = True
        elif word == "error":
            out.errors.append(values["kind"])
        elif word == "head":
            start = {k: bytes.fromhex(values[k]) for k in ("method", "target", "reason")}
            start["version"] = f"{values['major']}.{values['minor']}".encode()
            start["status"] = values["status"].encode()
            out.messages.append(Message(start))
        elif word == "header":
            name, value = bytes.fromhex(values["name"]), bytes.fromhex(values["value"])
            out.messages[-1].headers.append([name, value])
        elif word == "headers":
            out.messages[-1].head_done = True
        elif word == "body":
            out.messages[-1].body += bytes.fromhex(values["data"])
        elif word == "end":
            out.messages[-1].done = values["complete"] == "1" and not at_end
            out.errors_before.append(len(out.errors))
    return out


def plain(headers: list[list[bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns fields without line ends and surrounding space in values."""
    unfolded = [(name, re.sub(rb"[\r\n]", b"", value)) for name, value in headers]
    return [(name, value.strip(b" \t")) for name, value in unfolded]


def compare_message(mine: Message, theirs: Message, partial: bool) -> Iterator[str]:
    """Yields how a message differs; |partial|: theirs ends somewhere inside."""
    for name, text in theirs.start.items():
        if mine.start[name] != text and not (partial and mine.start[name].startswith(text)):
            yield f"{name}: {mine.start[name]!r}, llhttp {text!r}"
    ours, whole = plain(mine.headers), plain(theirs.headers)
    if partial:
        whole = whole[:-1]
        ours = ours[: len(whole)]
    if ours != whole:
        yield f"headers: {ours}, llhttp {whole}"
    if mine.body != theirs.body and not (partial and mine.body.startswith(theirs.body)):
        yield f"body: {mine.body!r}, llhttp {theirs.body!r}"
    if not partial and (mine.head_done, mine.done) != (theirs.head_done, theirs.done):
        yield f"done: {mine.head_done, mine.done}, llhttp {theirs.head_done, theirs.done}"


def compare(case: Case, mine: Outcome, theirs: Outcome) -> Iterator[str]:
    """Yields how two outcomes of a case differ."""
    messages = [m for m in theirs.messages if m.start]
    if len(messages) == len(mine.messages) + 1 and not (messages[-1].headers or messages[-1].done):
        messages.pop()  # a start line without end
    if len(mine.messages) < len(messages) and not theirs.errors:
        yield f"{len(mine.messages)} messages, llhttp {len(messages)}"
    if len(mine.messages) > len(messages) and not (theirs.errors or theirs.upgraded):
        yield f"{len(mine.messages)} messages, llhttp {len(messages)}"
    for i, (ours, other) in enumerate(zip(mine.messages, messages, strict=False)):
        stopped = bool(theirs.errors) or not other.head_done
        stopped = stopped and i == len(messages) - 1 and not other.done
        for text in compare_message(ours, other, stopped):
            yield f"message {i}: {text}"
    if "lenient" in case.kind:
        return
    errors = mine.errors
    if theirs.upgraded and len(mine.errors_before) >= len(messages):
        errors = errors[: mine.errors_before[len(messages) - 1]]
    if theirs.errors and not errors:
        yield f"no error, llhttp {theirs.errors}"
    cut = errors == ["incomplete"] and not theirs.messages[-1].done
    if errors and not theirs.errors and not cut:
        yield f"errors {errors}, llhttp none"


def run(tool: Path, cases: list[Case], step: int) -> list[Outcome]:
    """Feeds all cases |step| bytes at a time (0: whole)."""
    stdin = b""
    for case in cases:
        role = 1 if case.kind.startswith("request") else 2
        stdin += f"{role} {int(case.skip_body)} {step} {len(case.data)}\n".encode() + case.data
    done = subprocess.run([str(tool)], input=stdin, capture_output=True, check=True)
    parts = done.stdout.decode().split("done\n")
    assert len(parts) == len(cases) + 1
    return [read_dump(part.splitlines()) for part in parts[:-1]]


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tool that prints what the parser makes of inputs, built with sanitizers."""
    out = tmp_path_factory.mktemp("http") / "http_dump"
    module = ROOT / "stack_modules/http"
    names = ("http_head.c", "http_parse.c", "http_side.c", "http_chunk.c")
    sources = [ROOT / "tests/native/http_dump.c", *(module / name for name in names)]
    include = f"-I{ROOT / 'native/include'}"
    subprocess.run(["cc", *FLAGS, include, *map(str, sources), "-o", str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(read_cases())


def test_the_corpus_is_read_as_llhttp_reads_it(cases: list[Case]) -> None:
    """Offsets in the logs must fit the inputs, else the texts that are compared are wrong."""
    assert len(cases) == 251
    for case in cases:
        for off, length, text in re.findall(r'off=(\d+) len=(\d+) span\[\w+\]="(.*)"', case.log):
            cut = case.data[int(off) : int(off) + int(length)]
            assert cut == unescape(text) or b"\\" in cut, case.name


def test_messages_and_errors_agree_with_llhttp(tool: Path, cases: list[Case]) -> None:
    differing = {}
    for case, outcome in zip(cases, run(tool, cases, 0), strict=True):
        found = list(compare(case, outcome, read_log(case)))
        if found:
            differing[case.name] = found
    unknown = {name: found for name, found in differing.items() if name not in DIFFERENT}
    print(f"{len(cases) - len(differing)} of {len(cases)} cases agree")
    assert not unknown, "\n".join(f"{name}: {found}" for name, found in unknown.items())
    assert set(DIFFERENT) == set(differing), "listed differences that are none"


@pytest.mark.parametrize("step", [1, 2, 7])
def test_segmentation_makes_no_difference(tool: Path, cases: list[Case], step: int) -> None:
    for case, whole, cut in zip(cases, run(tool, cases, 0), run(tool, cases, step), strict=True):
        assert cut == whole, case.name
