"""HTTP syntax: tables of pure functions, each row with its source where there is one."""

from __future__ import annotations

import time
import unittest
from email import message_from_bytes
from typing import Any, Callable, Iterator, TypeVar
from unittest import mock
from urllib.parse import unquote

from httpd_download import (
    MAX_RANGES,
    ByteRange,
    HTTPError,
    RangeForm,
    Request,
    content_disposition,
    content_type,
    http_date,
    if_range_fails,
    is_not_modified,
    knows_version,
    parse_http_date,
    parse_ranges,
    parse_request_head,
    parse_target,
    ranges_that_resume,
    response_head,
    whole_or_partial_body,
)

OPEN, CLOSED, SUFFIX = RangeForm.OPEN, RangeForm.CLOSED, RangeForm.SUFFIX
GET = b"GET /a.txt HTTP/1.1\r\n"
OLD_GET = b"GET /a.txt HTTP/1.0\r\n"
HOST = b"Host: x\r\n"
TAG = '"v1"'
MODIFIED = 784111777
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
SAME = "Sun, 06 Nov 1994 08:49:37 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"


def error_status(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the status of the HTTPError that the function raises; 0 if it raises none."""
    try:
        function(*arguments)
    except HTTPError as error:
        return error.status
    return 0


class HTTPErrorTest(unittest.TestCase):
    def test_phrase_is_the_usual_one_unless_given(self) -> None:
        usual = HTTPError(404, "try again", {"A": "b"}, reason="why")
        attributes = (usual.status, usual.detail, usual.fields, usual.phrase, usual.reason)
        self.assertEqual(attributes, (404, "try again", {"A": "b"}, "Not Found", "why"))
        self.assertEqual(HTTPError(409, phrase="Start over").phrase, "Start over")
        self.assertEqual(HTTPError(409).fields, {})


# By the reason for which they are refused with 400.
REFUSED_REQUEST_LINES = {
    "three words": [b"", b"GET", b"GET /a.txt", b"GET HTTP/1.1", b"GET / HTTP/1.1 x"],
    "no blank in a target": [b"GET /a b HTTP/1.1"],
    "one blank": [b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1"],
    "tabs": [b"GET\t/\tHTTP/1.1", b"GET /a\tb HTTP/1.1"],
    "RFC 9112 2.2: a bare CR": [b"GET /a\rb HTTP/1.1", b"GET / HTTP/1.1\r", b"\rGET / HTTP/1.1"],
    "Apache http_strict.t: method": [b"G ET / HTTP/1.0", b"G\0ET / HTTP/1.0", b"G/T / HTTP/1.0"],
    "RFC 9110 5.6.2: method": [b"GET: / HTTP/1.1", b"G\xc3\x89T / HTTP/1.1", b"GE\x7fT / HTTP/1.1"],
    "control bytes": [b"GET /\0 HTTP/1.0", b"GET /\x7f HTTP/1.1", b"GET /\x1b[2J HTTP/1.1"],
    "Apache http_strict.t": [b"GET / HTT/1.0", b"GET / HTTP/1.11", b"GET / HTTP/10.0"],
    "RFC 9112 2.3": [b"GET / http/1.1", b"GET / HTTP/1", b"GET / HTTP/.1", b"GET / HTTP/1.0\0"],
    "digits to Python": [b"GET / HTTP/1.\xb2", b"GET / HTTP/\xd9\xa1.1"],
    "a TLS ClientHello": [b"\x16\x03\x01\x02\0\x01"],
}
REFUSED_FIELD_LINES = {
    "RFC 9112 5.1: a blank before the colon": [b"X : y", b"X\t: y"],
    "RFC 9112 2.2: a blank at the start": [b" X: y", b"\tX: y"],
    "RFC 9112 5.2: folded": [b"X: y\r\n z", b"X: y\r\n\tz", b"X: y\r\n "],
    "RFC 9112 5": [b": y", b"X", b"X y"],
    "RFC 9110 5.1: no token": [b"X\xc3\x85: y", b"X(: y", b"X\0: y", b"\x7f: y"],
    "RFC 9112 2.2: a bare CR": [b"X\r: y", b"X: a\rb", b"X: a\r", b"X: a\rY: b"],
    "RFC 9110 5.5: control bytes": [b"X: \0", b"X: \x1b[2J", b"X: a\x0bb", b"X: \x7f"],
}
VALID_HOSTS = {
    "names": ["localhost", "localhost:80", "www.abcd-ef.g02.xyz.:88", "%E4%B8%AD.example"],
    "containers have such names": ["a_b.example"],
    "RFC 9112 3.2: empty where the target has no authority": [""],
    "RFC 3986 3.2.3: the port may be empty": ["example.org:"],
    "addresses": ["123.40.56.78:987", "[::1]", "[4711::abcd]:8000", "[::ffff:12.30.67.89]:80"],
    "RFC 3986 3.2.2: IPvFuture; nginx http_host.t": ["[v1f.a~b:c]:80"],
    "a zone, as RFC 6874 and as http.client has it": ["[fe80::1%25eth0]:80", "[fe80::1%eth0]:80"],
}
INVALID_HOSTS = {
    "Apache http_strict.t": ["localhost:80 x", "localhost:80x", "abc\xa0", "a\\b"],
    "RFC 3986 3.2.2: IPv6 without brackets": ["4714::abcd:8001"],
    "RFC 9112 3.2: only a host": ["example.com/x", "user@example.com", "http://a", "a?b", "a#b"],
    "RFC 9112 3.2: only one": ["a, b", "a b"],
    "RFC 3986 3.2.2": ['"a"', "[::1", "[]x", "[zz]"],
    "nginx http_host.t": ["[::1]..:98"],
}
BODIES = [
    b"Content-Length: 1",
    b"Content-Length: 05",
    b"Content-Length: " + b"9" * 5000,
    b"Transfer-Encoding: chunked",
    b"TRANSFER-ENCODING: Chunked",
    b"Transfer-Encoding: gzip ,\tchunked",
]
# Values that leave it unclear where the body ends.
REFUSED_LENGTHS = {
    "RFC 9110 8.6": [b"", b"x", b"-1", b"0x0", b"0 0", b"0.0"],
    "int() takes them": [b"+0", b"0_0", b"\xd9\xa0"],
    "str.isdigit() and str.strip() take them": [b"\xb2", b"0\xa0"],
    "RFC 9112 6.3: a list": [b"0,", b"5, 5"],
    "RFC 9112 6.3: twice": [b"0\r\nContent-Length: 0", b"5\r\nX: y\r\ncontent-length: 0"],
    "RFC 9112 6.1: both; Apache teclchunk.t": [b"5\r\nTransfer-Encoding: chunked"],
}
REFUSED_CODINGS = {
    "RFC 9112 6.3: not chunked at last": [b"gzip", b"chunked, gzip", b"identity", b""],
    "smuggling": [b"chunkedx", b"\xa0chunked", b"chunked;a=b", b"chunked\r\nContent-Length: 0"],
}
# Fields of a request that is right although it looks odd.
UNUSUAL_FIELDS = {
    "RFC 9112 5: OWS": [b"Host:x", b"Host: \t x \t ", b"Host: x\r\nContent-Length:\t0 "],
    "RFC 9110 5.1: names have no case, no order": [b"From: x\r\nhOST: x"],
    "RFC 9110 5.5": [b"Host: x\r\nX:", b"Host: x\r\nX: a\tb", b"Host: x\r\nX: \xff\x85\xa0"],
    "RFC 9110 5.6.2: tchar": [b"Host: x\r\n!#$%&'*+-.^_`|~09: \"(),/:;<=>?@[\\]{}"],
    "RFC 9112 2.2: a single LF": [b"Host: x\nX: y"],
    "http.client stops at 100": [b"Host: x" + b"\r\nX: y" * 200],
    "no body": [b"Host: x\r\nContent-Length: 000", b"Host: x\r\nX-Content-Length: 5"],
    # With which http.server reads heads.
    "the email package fails": [
        b"Host: x\r\nContent-Type: multipart/x; boundary*=undefined''%ff",
        b"Host: x\r\nContent-Type: multipart/x" + b';"' * 20000,
    ],
}
Value = TypeVar("Value")


def rows(table: dict[str, list[Value]]) -> Iterator[tuple[Value, str]]:
    """Yield each value of *table* with the source that it is listed under."""
    for source, values in table.items():
        for value in values:
            yield value, source


class RequestHeads(unittest.TestCase):
    def assert_refused(self, head: bytes, status: int, source: str) -> None:
        with self.subTest(head[:90], source=source):
            self.assertEqual(error_status(parse_request_head, head), status)

    def test_malformed_request_lines(self) -> None:
        for line, source in rows(REFUSED_REQUEST_LINES):
            self.assert_refused(line + b"\r\n" + HOST + b"\r\n", 400, source)

    def test_other_major_versions(self) -> None:
        for line in [b"GET / HTTP/0.9", b"GET / HTTP/2.1", b"PRI * HTTP/2.0"]:
            self.assert_refused(line + b"\r\n" + HOST + b"\r\n", 505, "RFC 9110 15.6.6")

    def test_malformed_field_lines(self) -> None:
        for field, source in rows(REFUSED_FIELD_LINES):
            self.assert_refused(GET + HOST + field + b"\r\n\r\n", 400, source)
            self.assert_refused(GET + field + b"\r\n" + HOST + b"\r\n", 400, source)
            self.assert_refused(OLD_GET + field + b"\r\n\r\n", 400, source)

    def test_host(self) -> None:
        for start in (GET, OLD_GET):
            for value, source in rows(VALID_HOSTS):
                with self.subTest(value, source=source):
                    head = start + f"Host: {value}\r\n\r\n".encode()
                    self.assertEqual(parse_request_head(head).fields, {"host": value})
            for value, source in rows(INVALID_HOSTS):
                head = start + f"Host: {value}\r\n\r\n".encode("latin-1")
                self.assert_refused(head, 400, source)

    def test_one_host_is_required(self) -> None:
        for head in [
            GET + b"\r\n",
            b"GET http://x/a.txt HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.2\r\n\r\n",
            GET + HOST + HOST + b"\r\n",
            OLD_GET + HOST + b"hOST: y\r\n\r\n",
        ]:
            self.assert_refused(head, 400, "RFC 9112 3.2")

    def test_get_and_head_with_a_body_are_refused(self) -> None:
        for field in BODIES:
            for method in [b"GET", b"HEAD"]:
                for version in [b"1.1", b"1.0"]:
                    head = method + b" / HTTP/" + version + b"\r\n" + HOST + field + b"\r\n\r\n"
                    self.assert_refused(head, 400, "a request with a body")

    def test_other_methods_may_have_a_body_after_which_the_connection_closes(self) -> None:
        for field in BODIES:
            for method in ["POST", "OPTIONS", "BREW"]:
                with self.subTest(field[:60], method=method):
                    start = f"{method} / HTTP/1.1\r\nConnection: keep-alive\r\n".encode()
                    request = parse_request_head(start + HOST + field + b"\r\n\r\n")
                    self.assertEqual((request.has_body, request.keeps_connection), (True, False))

    def test_bodies_without_a_clear_end_are_refused_with_any_method(self) -> None:
        lengths = [(b"Content-Length: " + value, why) for value, why in rows(REFUSED_LENGTHS)]
        codings = [(b"Transfer-Encoding: " + value, why) for value, why in rows(REFUSED_CODINGS)]
        for field, source in lengths + codings:
            for start in (GET, OLD_GET, b"HEAD / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n"):
                self.assert_refused(start + HOST + field + b"\r\n\r\n", 400, source)

    def test_unusual_fields_are_accepted(self) -> None:
        for lines, source in rows(UNUSUAL_FIELDS):
            with self.subTest(lines[:60], source=source):
                request = parse_request_head(GET + lines + b"\r\n\r\n")
                self.assertEqual((request.fields["host"], request.has_body), ("x", False))

    def test_parsed(self) -> None:
        host = {"host": "x"}
        for head, expected in [
            ("GET / HTTP/1.1\r\nHost: x", ("GET", "/", "HTTP/1.1", host, True, False)),
            ("GET / HTTP/1.0", ("GET", "/", "HTTP/1.0", {}, False, False)),
            # RFC 9110 6.2: a higher minor version is treated like ours.
            ("HEAD /a HTTP/1.9\nHost: x", ("HEAD", "/a", "HTTP/1.1", host, True, False)),
            # RFC 9110 9.1: methods have case, and any token is one.
            ("g!#$ * HTTP/1.1\nHost: x", ("g!#$", "*", "HTTP/1.1", host, True, False)),
            # Raw bytes in a target: curl sends UTF-8.
            ("GET /中?é HTTP/1.1\nHost: x", ("GET", "/中?é", "HTTP/1.1", host, True, False)),
            ("GET /\udcff\udc80 HTTP/1.0", ("GET", "/\udcff\udc80", "HTTP/1.0", {}, False, False)),
            # RFC 9110 5.3: lines of one name are one list.
            (
                "GET / HTTP/1.0\r\nA: 1\r\nb:\t2 \t\r\na:,3\r\nC: \udce9\r\nA:",
                ("GET", "/", "HTTP/1.0", {"a": "1, ,3, ", "b": "2", "c": "é"}, False, False),
            ),
        ]:
            with self.subTest(head):
                request = parse_request_head(head.encode("utf-8", "surrogateescape") + b"\r\n\r\n")
                self.assertEqual(request, Request(*expected))

    def test_keeps_connection(self) -> None:
        # RFC 9112 9.3: what HTTP/1.1 and what HTTP/1.0 makes of it; RFC 9110 7.6.1: no case.
        for line, new, old in [
            ("X: y", True, False),
            ("Connection:", True, False),
            ("Connection: keep-alive", True, True),
            ("Connection: te, Keep-Alive", True, True),
            ("Connection: te\r\nConnection: keep-alive", True, True),
            ("Connection: Upgrade, HTTP2-Settings", True, False),
            ("Connection: closed", True, False),
            ("Connection: not-close", True, False),
            ("Connection: CLOSE", False, False),
            ("Connection: te ,\tclose", False, False),
            ("Connection: ,close,", False, False),
            ("Connection: close,keep-alive", False, False),
            ("Connection: keep-alive\r\nX: y\r\nConnection: close", False, False),
            ("Keep-Alive: timeout=5", True, False),
        ]:
            for version, expected in [("HTTP/1.1", new), ("HTTP/1.0", old)]:
                with self.subTest(line, version=version):
                    head = f"GET / {version}\r\nHost: x\r\n{line}\r\n\r\n".encode()
                    self.assertIs(parse_request_head(head).keeps_connection, expected)


class Targets(unittest.TestCase):
    def test_path(self) -> None:
        # RFC 9112 3.2: origin-form and absolute-form.
        for target, expected in [
            ("/", "/"),
            ("/a/b.txt", "/a/b.txt"),
            ("//a", "//a"),
            ("/a?b#c", "/a"),
            ("/a?/b", "/a"),
            ("/a#b?c", "/a"),
            ("/http://x/y", "/http://x/y"),
            ("/%3Fa%23b", "/%3Fa%23b"),
            ("/中?é", "/中"),
            ("http://x/a", "/a"),
            ("HTTP://X:80/a?b", "/a"),
            ("https://[::1]:80/a/b", "/a/b"),
            ("http://x:/a", "/a"),
            ("http://x", "/"),
            ("http://x?a", "/"),
            ("http://x#a", "/"),
            # RFC 3986 6.2.2.3 and 6.2.2.2
            ("/./name", "/name"),
            ("/a/./b", "/a/b"),
            ("/././a/././b", "/a/b"),
            ("/%2e/a/%2E/b", "/a/b"),
            ("http://x/./a", "/a"),
            ("/a/.", "/a/."),
            ("/.a/b./...", "/.a/b./..."),
            ("/../a", "/../a"),
            ("/a/%2e%2E/b", "/a/%2e%2E/b"),
        ]:
            with self.subTest(target):
                self.assertEqual(parse_target(target), expected)

    def test_malformed(self) -> None:
        for target in [
            *("*", "a.txt", "x:80", "../a", "./a", "?a", "#a", "\\a", "http:/a", "http://"),
            *("ftp://x/a", "file:///etc/passwd", "http:///a", "http://#a", "http://:80/a"),
            *("http://u:p@x/a", "http://x:80x/a", "http://x:80:80/a", "http://[::1/a"),
            *("http://[zz]/a", "http\u017f://x/a"),
        ]:
            with self.subTest(target):
                self.assertEqual(error_status(parse_target, target), 400)


def many(count: int) -> str:
    """Return a field of so many ranges of one byte that do not touch each other."""
    return "bytes=" + ",".join(f"{2 * i}-{2 * i}" for i in range(count))


RFC = "RFC 9110 14.1.2"
COST = "RFC 9110 14.2"
# One range: the value, the size, start, stop and form, the source.
ONE_RANGE: list[tuple[str, int, int, int, RangeForm, str]] = [
    ("bytes=0-499", 10000, 0, 500, CLOSED, RFC),
    ("bytes=-500", 10000, 9500, 10000, SUFFIX, RFC),
    ("bytes=9500-", 10000, 9500, 10000, OPEN, RFC),
    ("bytes=0-0", 10, 0, 1, CLOSED, "RangeHTTPServer sends the whole file"),
    ("bytes=0-", 10, 0, 10, OPEN, "Go net/http"),
    ("bytes=9-", 10, 9, 10, OPEN, "wget -c with one byte to come"),
    ("bytes=00-03", 10, 0, 4, CLOSED, "RFC 9110 14.1.1: 1*DIGIT"),
    ("BYTES=1-2", 10, 1, 3, CLOSED, "RFC 9110 14.1: units have no case"),
    ("bytes=,0-1 ,", 10, 0, 2, CLOSED, "RFC 9110 5.6.1: empty elements"),
    # Ends beyond the end are clamped, however long they are.
    ("bytes=990-1990", 1000, 990, 1000, CLOSED, "nginx range.t"),
    ("bytes=-15", 10, 0, 10, SUFFIX, "Go net/http"),
    ("bytes=0-" + "9" * 5000, 10, 0, 10, CLOSED, "int() refuses 4300 digits"),
    ("bytes=-" + "9" * 5000, 10, 0, 10, SUFFIX, "int() refuses 4300 digits"),
    ("bytes=" + "0" * 5000 + "1-2", 10, 1, 3, CLOSED, "int() refuses 4300 digits"),
    ("bytes=1-18446744073709551616", 10, 1, 10, CLOSED, "2**64, CVE-2017-7529"),
    ("bytes=-18446744073709551615", 10, 0, 10, SUFFIX, "2**64 - 1, CVE-2017-7529"),
    ("bytes=4294967296-4294967296", 5 << 30, 1 << 32, (1 << 32) + 1, CLOSED, "past 32 bits"),
    # Not a byte of it is in the file: start and stop are where it would begin.
    ("bytes=10-", 10, 10, 10, OPEN, "wget -c of a whole file"),
    ("bytes=10-20", 10, 10, 10, CLOSED, "Go net/http"),
    ("bytes=100000-", 1000, 100000, 100000, OPEN, "nginx range.t"),
    ("bytes=-0", 10, 10, 10, SUFFIX, RFC),
    ("bytes=12-,11-12,-0", 10, 12, 12, OPEN, RFC),
    # The one that is in the file.
    ("bytes=15-,0-5", 10, 0, 6, CLOSED, "RFC 9110 15.3.7; Go refuses it"),
]
SEVERAL_RANGES: list[tuple[str, int, list[tuple[int, int]], str]] = [
    ("bytes=0-0,-1", 10000, [(0, 1), (9999, 10000)], RFC),
    ("bytes=0-0 ,2-2,\t7-", 11, [(0, 1), (2, 3), (7, 11)], "Go net/http"),
    ("bytes=30-,1-2,20-22", 80, [(30, 80), (1, 3), (20, 23)], "Apache byterange5.t"),
    ("bytes=0-9, -10, 9999-, 10-19", 1000, [(0, 10), (990, 1000), (10, 20)], "nginx range.t"),
    ("bytes=0-1,, ,3-4,", 10, [(0, 2), (3, 5)], "RFC 9110 5.6.1: empty elements"),
    (many(MAX_RANGES), 1000, [(2 * i, 2 * i + 1) for i in range(MAX_RANGES)], COST),
]
IGNORED_RANGES = {
    "RFC 9110 14.2: an unknown unit": ["", "bytes", "0-5", "items=0-5", "x=y,bytes=0-5"],
    "RFC 9110 14.1: no blank in a unit": ["bytes =0-5"],
    "RFC 9110 14.2: overlap": ["bytes=0-5,5-9", "bytes=0-100, 0-0", "bytes=-2 , 7-"],
    "CVE-2011-3192": ["bytes=0-,0-,0-"],
    "overlap that only sorting shows": ["bytes=5-6,0-9", "bytes=0-2,8-9,1-1"],
    "too many": [many(MAX_RANGES + 1), "bytes=0-0" + ",50-" * MAX_RANGES],
}
MALFORMED_RANGES = {
    "no range": ["bytes=", "bytes= , , ,   ", "bytes=-", "bytes= 7 ", "bytes==1-2"],
    "backwards": ["bytes=5-4", "bytes=0-2,5-4", "bytes=15-14", "bytes=" + "9" * 40 + "-1"],
    "Go net/http": ["bytes=--5,4--3", "bytes=A-Z", "bytes=5-Z", "bytes=Ran-dom, garbage"],
    "numbers": ["bytes=0x01-0x02", "bytes=1.0-2", "bytes=1-2-3", "bytes=1-2;3-4"],
    "blanks, which Apache and Go allow": ["bytes=1 -2", "bytes=1- 2", "bytes=10-11 12-"],
    "int() takes them": ["bytes=+1-2", "bytes=1_0-20", "bytes=\u0661-\u0662"],
    "str.isdigit() takes superscripts": ["bytes=\xb2-\xb3"],
    "a regular expression's $": ["bytes=0-1\n"],
    "two Range lines": ["bytes=0-1, bytes=3-4"],
    "one bad part spoils the set": ["bytes=0-" + ",0-" * 100 + ",x", "bytes=0-0,100-\xa0"],
}


class Ranges(unittest.TestCase):
    def test_one_range(self) -> None:
        for value, size, start, stop, form, source in ONE_RANGE:
            with self.subTest(value[:60], size=size, source=source):
                self.assertEqual(parse_ranges(value, size), [ByteRange(start, stop, form)])

    def test_several_ranges(self) -> None:
        for value, size, expected, source in SEVERAL_RANGES:
            with self.subTest(value[:60], size=size, source=source):
                ranges = parse_ranges(value, size)
                self.assertEqual([(each.start, each.stop) for each in ranges], expected)

    def test_ignored(self) -> None:
        for value, source in rows(IGNORED_RANGES):
            with self.subTest(value[:60], source=source):
                self.assertEqual(parse_ranges(value, 10), [])

    def test_ignored_for_an_empty_file(self) -> None:
        for value in ["bytes=0-", "bytes=1-", "bytes=-5", "bytes=0-0,5-9"]:
            with self.subTest(value):
                self.assertEqual(parse_ranges(value, 0), [])

    def test_malformed(self) -> None:
        for value, source in rows(MALFORMED_RANGES):
            with self.subTest(value[:60], source=source):
                self.assertEqual(error_status(parse_ranges, value, 10), 400)

    def test_start_beyond_the_end_of_any_file(self) -> None:
        for value in ["9" * 20 + "-1" + "0" * 20, "9" * 5000 + "-", "1" + "0" * 99 + "-"]:
            with self.subTest(value[:60]):
                (found,) = parse_ranges(f"bytes={value}", 1 << 62)
                self.assertEqual(found.start, found.stop)
                self.assertGreaterEqual(found.start, 1 << 62)

    def test_ranges_that_resume(self) -> None:
        for value, expected in [
            ("bytes=4-", [(4, 10)]),
            ("Bytes=04-", [(4, 10)]),
            # aria2 resumes so.
            ("bytes=4-8", [(4, 10)]),
            # axel takes a 206 for the promise that it may fetch segments.
            ("bytes=0-", []),
            ("bytes=0-4", []),
            ("bytes=-4", []),
            ("bytes=4-,0-1", []),
            # 416
            ("bytes=12-", [(12, 12)]),
            ("items=4-", []),
            ("", []),
        ]:
            with self.subTest(value):
                found = ranges_that_resume(parse_ranges(value, 10), 10)
                self.assertEqual([(each.start, each.stop) for each in found], expected)


class Dates(unittest.TestCase):
    NOW = 1795348800.0  # 22 November 2026, 12:00:00

    def test_http_date(self) -> None:
        for seconds, expected in [
            # RFC 9110 5.6.7
            (784111777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
            (2**31, "Tue, 19 Jan 2038 03:14:08 GMT"),
            (2**32, "Sun, 07 Feb 2106 06:28:16 GMT"),
            (2**36, "Sun, 20 Aug 4147 07:32:16 GMT"),
            (-62135596800, "Mon, 01 Jan 0001 00:00:00 GMT"),
            (253402300799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ]:
            with self.subTest(expected):
                self.assertEqual(http_date(seconds), expected)
                self.assertEqual(parse_http_date(expected), seconds)

    def test_http_date_is_clamped(self) -> None:
        self.assertEqual(http_date(-(10**30)), "Mon, 01 Jan 0001 00:00:00 GMT")
        self.assertEqual(http_date(10**30), "Fri, 31 Dec 9999 23:59:59 GMT")

    def test_parse_http_date(self) -> None:
        for value, expected in [
            # RFC 9110 5.6.7: the three formats
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
            ("Sun Nov  6 08:49:37 1994", 784111777),
            ("Sun Nov 06 08:49:37 1994", 784111777),
            (" \tSun, 06 Nov 1994 08:49:37 GMT\t ", 784111777),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951782400),
            # nginx not_modified.t
            ("Fri, 25 Feb 2174 09:42:23 GMT", 6442450943),
            # A leap second
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        ]:
            with self.subTest(value):
                self.assertEqual(parse_http_date(value), expected)

    def test_junk_is_no_date(self) -> None:
        for value in [
            *("", "0", "now", "784111777", '"abc"', "\xff" * 100, "1994-11-06T08:49:37Z"),
            *("Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 +0000"),
            *("Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 EST"),
            # Netscape; two lines
            *("Sun, 06 Nov 1994 08:49:37 GMT; length=5", ", ".join([SAME, SAME])),
            *("Sun, 06 Nov 1994 24:00:00 GMT", "Sun, 06 Nov 1994 08:60:00 GMT"),
            *("Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT"),
            *("Sun, 30 Feb 1994 08:49:37 GMT", "Mon, 29 Feb 1900 08:49:37 GMT"),
            *("Sun, 06 Nov 0000 08:49:37 GMT", "Sun, 06 Nov 19940 08:49:37 GMT"),
            *("Sun, 06 Nov 94 08:49:37 GMT", "Sunday, 06-Nov-1994 08:49:37 GMT"),
            *("Sun, 06 Abc 1994 08:49:37 GMT", "Abc, 06 Nov 1994 08:49:37 GMT"),
            *("Sunday, 30-Feb-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994 GMT"),
            "Sun, 06 Nov 1994 08:49:\u0663\u0667 GMT",
        ]:
            with self.subTest(value):
                self.assertIsNone(parse_http_date(value))

    def test_year_of_two_digits_is_at_most_fifty_years_ahead(self) -> None:
        for value, expected in [
            ("Sunday, 22-Nov-26 12:00:00 GMT", "Sun, 22 Nov 2026 12:00:00 GMT"),
            ("Friday, 31-Dec-99 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59 GMT"),
            ("Saturday, 01-Jan-00 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:00 GMT"),
            ("Wednesday, 01-Jan-70 00:00:00 GMT", "Wed, 01 Jan 2070 00:00:00 GMT"),
            ("Sunday, 22-Nov-76 12:00:00 GMT", "Sun, 22 Nov 2076 12:00:00 GMT"),
            ("Monday, 22-Nov-76 12:00:01 GMT", "Mon, 22 Nov 1976 12:00:01 GMT"),
            ("Saturday, 01-Jan-77 00:00:00 GMT", "Sat, 01 Jan 1977 00:00:00 GMT"),
        ]:
            with self.subTest(value):
                self.assertEqual(parse_http_date(value, self.NOW), parse_http_date(expected))


# Conditions of the version with TAG and MODIFIED: the fields, the status (None: go on), the source.
CONDITIONS: list[tuple[str, int | None, str]] = [
    ("", None, ""),
    # If-Match: strong comparison
    ('If-Match: "v1"', None, "nginx not_modified.t"),
    ("If-Match: *", None, "nginx not_modified.t"),
    ('If-Match: "v2"', 412, "Go net/http"),
    ('If-Match: "foo", "bar", \t"v1" , "baz"', None, "nginx not_modified.t"),
    ('If-Match: W/"v1"', 412, "nginx not_modified.t, Go net/http"),
    ('If-Match: W/"v1", "v1"', None, "RFC 9110 8.8.3.2"),
    ('If-Match: w/"v1"', 412, "RFC 9110 8.8.3: W/ has case, this is no tag; Go refuses it"),
    ("If-Match: v1", 412, "RFC 9110 8.8.3: quotes belong to the tag"),
    ("If-Match:", 412, "RFC 9110 13.1.1: none of an empty list matches"),
    ('If-Match: "a,"\nIf-Match: "v1"', None, "RFC 9110 5.3: two lines are one list"),
    ('If-Match: ",v1,"', 412, "RFC 9110 8.8.3: a comma may stand in a tag"),
    # If-Unmodified-Since
    (f"If-Unmodified-Since: {SAME}", None, "Go net/http"),
    (f"If-Unmodified-Since: {BEFORE}", 412, "Go net/http"),
    ("If-Unmodified-Since: Sun Nov  6 08:49:36 1994", 412, "RFC 9110 5.6.7"),
    ("If-Unmodified-Since: yesterday", None, "RFC 9110 13.1.4: invalid is ignored"),
    (f'If-Match: "v1"\nIf-Unmodified-Since: {BEFORE}', None, "RFC 9110 13.2.2: the tag counts"),
    (f'If-Match: "v2"\nIf-Unmodified-Since: {AFTER}', 412, "RFC 9110 13.2.2"),
    # If-None-Match: weak comparison
    ('If-None-Match: "v1"', 304, "nginx not_modified.t"),
    ('If-None-Match: "v2"', None, "nginx not_modified.t"),
    ('If-None-Match: "baz", W/"v1"', 304, "Go net/http"),
    ("If-None-Match: *", 304, "nginx not_modified.t"),
    ("If-None-Match: ,", None, "Go net/http"),
    ('If-None-Match: "a"\nIf-None-Match: "v1"', 304, "RFC 9110 5.3"),
    ('If-None-Match: "*"', None, "RFC 9110 13.1.2: a tag that is a star"),
    # If-Modified-Since
    (f"If-Modified-Since: {SAME}", 304, "Go net/http"),
    (f"If-Modified-Since: {AFTER}", 304, "nginx not_modified.t"),
    (f"If-Modified-Since: {BEFORE}", None, "Go net/http"),
    ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37", None, "RFC 9110 13.1.3: invalid is ignored"),
    (f"If-Modified-Since: {SAME}, {SAME}", None, "RFC 9110 13.1.3: not one date"),
    (f'If-None-Match: "v2"\nIf-Modified-Since: {AFTER}', None, "RFC 9110 13.1.3: the tag counts"),
    # The order
    ('If-Match: "v2"\nIf-None-Match: "v1"', 412, "RFC 9110 13.2.2"),
    ('If-Match: "v1"\nIf-None-Match: "v1"', 304, "RFC 9110 13.2.2"),
    (f"If-Unmodified-Since: {BEFORE}\nIf-Modified-Since: {AFTER}", 412, "RFC 9110 13.2.2"),
    ('if-match: "v2"', 412, "RFC 9110 5.1: names have no case"),
]


def conditions_status(lines: str, modified: int | None) -> int | None:
    """Return 304, 412, or None: what becomes of a request with these fields."""
    head = f"GET / HTTP/1.0\n{lines}".rstrip("\n") + "\n\n"
    fields = parse_request_head(head.encode()).fields
    try:
        return 304 if is_not_modified(fields, TAG, modified) else None
    except HTTPError as error:
        return error.status


class Preconditions(unittest.TestCase):
    def test_status(self) -> None:
        for lines, expected, source in CONDITIONS:
            with self.subTest(lines, source=source):
                self.assertEqual(conditions_status(lines, MODIFIED), expected)

    def test_dates_are_ignored_for_an_offer_without_a_date(self) -> None:
        # RFC 9110 13.1.3 and 13.1.4
        for date in [BEFORE, SAME, AFTER]:
            for name in ["If-Modified-Since", "If-Unmodified-Since"]:
                with self.subTest(name, date=date):
                    self.assertIsNone(conditions_status(f"{name}: {date}", None))
        self.assertEqual(conditions_status("If-None-Match: *", None), 304)
        self.assertEqual(conditions_status('If-Match: "x"', None), 412)

    def test_if_range(self) -> None:
        for value, modified, fails in [
            (TAG, MODIFIED, False),
            (TAG, None, False),
            (SAME, MODIFIED, False),
            (SAME, None, True),
            (BEFORE, MODIFIED, True),
            # RFC 9110 13.1.5: an exact match, unlike If-Unmodified-Since
            (AFTER, MODIFIED, True),
            ("Sun Nov  6 08:49:37 1994", MODIFIED, True),
            # RFC 9110 13.1.5: the strong comparison
            ('W/"v1"', MODIFIED, True),
            ('"v1", "v1"', MODIFIED, True),
            ("v1", MODIFIED, True),
            ("*", MODIFIED, True),
            ("", MODIFIED, True),
        ]:
            with self.subTest(value, modified=modified):
                self.assertIs(if_range_fails({"if-range": value}, TAG, modified), fails)
        self.assertFalse(if_range_fails({}, TAG, MODIFIED))

    def test_knows_version(self) -> None:
        for fields, expected in [
            ({"if-range": TAG}, True),
            # Two versions may be of one second.
            ({"if-range": SAME}, False),
            ({"if-match": TAG}, True),
            ({"if-match": "*"}, False),
            ({}, False),
        ]:
            with self.subTest(fields):
                self.assertIs(knows_version(fields, TAG), expected)


class Answers(unittest.TestCase):
    def test_response_head(self) -> None:
        head = response_head("HTTP/1.0", 409, "Start over", {"B": "\xe9", "A": "2"})
        self.assertEqual(head, b"HTTP/1.0 409 Start over\r\nB: \xe9\r\nA: 2\r\n\r\n")

    def test_several_ranges(self) -> None:
        # The data contain the line that ends a multipart.
        data = bytes(range(256)) + b"\r\n--B--\n\r\n"
        for spans in [[(0, 1), (2, 4)], [(200, 266), (0, 14)], [(9, 11), (13, 14), (256, 258)]]:
            with self.subTest(spans):
                ranges = [ByteRange(start, stop, CLOSED) for start, stop in spans]
                found = whole_or_partial_body(ranges, len(data), "text/x; a=b", "B0undary")
                body = b""
                for part in found.pieces:
                    body += part if isinstance(part, bytes) else data[part[0] : part[1]]
                self.assertEqual(len(body), found.length)
                self.assertEqual(found.fields["Content-Length"], str(len(body)))
                content_type = f"Content-Type: {found.fields['Content-Type']}\r\n\r\n"
                message = message_from_bytes(content_type.encode() + body)
                self.assertEqual(message.defects, [])
                received = [
                    (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))
                    for part in list(message.walk())[1:]
                ]
                expected = [
                    ("text/x; a=b", f"bytes {start}-{stop - 1}/{len(data)}", data[start:stop])
                    for start, stop in spans
                ]
                self.assertEqual(received, expected)

    def test_content_disposition(self) -> None:
        # RFC 6266 and RFC 8187; filename as its bytes go out.
        for name, plain, extended in [
            ("a-b_c.d~e", b"a-b_c.d~e", "a-b_c.d~e"),
            (" a ", b" a ", "%20a%20"),
            ("a;b,c=d.txt", b"a;b,c=d.txt", "a%3Bb%2Cc%3Dd.txt"),
            ("!#$&+-.^_`|~", b"!#$&+-.^_`|~", "!#$&+-.^_`|~"),
            ("(a)'*<@>:?[]{}", b"(a)'*<@>:?[]{}", "%28a%29%27%2A%3C%40%3E%3A%3F%5B%5D%7B%7D"),
            ('say "hi".txt', b"say _hi_.txt", "say%20%22hi%22.txt"),
            ("a\\b.txt", b"a_b.txt", "a%5Cb.txt"),
            ("%41.txt", b"%41.txt", "%2541.txt"),
            ("中文 a.txt", "中文 a.txt".encode(), "%E4%B8%AD%E6%96%87%20a.txt"),
            ("\U0001f600", "\U0001f600".encode(), "%F0%9F%98%80"),
            ("a\r\nX-A: b.txt", b"a__X-A: b.txt", "a%0D%0AX-A%3A%20b.txt"),
            ("\0\x1b\x1f\x7f", b"____", "%00%1B%1F%7F"),
            # Not UTF-8
            ("a\udcff\udc80b.txt", b"a__b.txt", "a__b.txt"),
            ('sub/"/中.txt', "中.txt".encode(), "%E4%B8%AD.txt"),
        ]:
            with self.subTest(name):
                start, middle = b'attachment; filename="', b"\"; filename*=UTF-8''"
                expected = start + plain + middle + extended.encode()
                self.assertEqual(content_disposition(name).encode("latin-1"), expected)

    def test_content_disposition_of_every_character(self) -> None:
        for code in [*range(0x250), 0x2028, 0x202E, 0x4E2D, 0xFEFF, 0xFFFD, 0x10FFFF]:
            name = f"a{chr(code)}b"
            with self.subTest(ascii(name)):
                value = content_disposition(name)
                value.encode("latin-1")
                self.assertNotRegex(value, "[\\x00-\\x1f\\x7f]")
                extended = value.rpartition("''")[2]
                self.assertRegex(extended, r"^([A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+$")
                self.assertEqual(unquote(extended), name.rpartition("/")[2])
                # A quoted-string that nothing in it ends
                self.assertEqual((value.count('"'), value.count("\\")), (2, 0))

    def test_content_type(self) -> None:
        unknown = "application/octet-stream"
        for name, expected in [
            ("a.tar.gz", "application/gzip"),
            ("a.tgz", "application/gzip"),
            ("A.TXT.GZ", "application/gzip"),
            ("a.svgz", "application/gzip"),
            ("a.tar.bz2", "application/x-bzip2"),
            ("A.TXZ", "application/x-xz"),
            ("a.tar.br", unknown),
            ("a.tar.Z", unknown),
            ("sub.html/no-extension", unknown),
            ("a.unknown-thing", unknown),
            ("a.html", "text/html"),
            ("sub/A.PDF", "application/pdf"),
            ("data:text,x", unknown),
            ("http:[x", unknown),
            ("a\r\nX-A: b.txt", "text/plain"),
        ]:
            with self.subTest(name):
                self.assertEqual(content_type(name), expected)

    def test_content_type_without_a_readable_table(self) -> None:
        for error in (PermissionError("mime.types"), UnicodeDecodeError("utf-8", b"", 0, 1, "")):
            with mock.patch("mimetypes.guess_type", side_effect=error):
                self.assertEqual(content_type("a.txt"), "application/octet-stream")


class HostileInput(unittest.TestCase):
    def test_takes_linear_time(self) -> None:
        # 60 kB each, the limit of a head: quadratic work would take minutes.
        hosts = ["a" * 60000, "[" + ":" * 60000, "[v1." + "a:" * 30000, "a:" + "0" * 60000 + "x"]
        lines = [f"Host: {host}\x01" for host in hosts] + [f"Host: {host}/" for host in hosts]
        lines += ["Connection: " + "\t ," * 20000 + "x", "Content-Length: " + "0" * 60000]
        lines += ["A: b\n" * 12000 + "A: b", "Transfer-Encoding: " + " ," * 30000]
        targets = [f"http://{host}" for host in hosts]
        targets += ["/" * 60000, "/." * 30000, "/%2e" * 15000, "http://" * 9000, "?" * 60000]
        ranges = ["9" * 60000 + "-", "-" + "9" * 60000, "0" * 60000 + "-", "0-0," * 15000]
        ranges += ["," * 60000 + "0-1", " " * 60000 + "0-1"]
        values = ['"a ' * 20000, '"' * 60000, "W/" * 30000, ", " * 30000, "Sun," + " " * 60000]
        start = time.process_time()
        for line in lines:
            error_status(parse_request_head, f"GET / HTTP/1.1\nHost: x\n{line}\n\n".encode())
        for target in targets:
            error_status(parse_target, target)
        for value in ranges:
            error_status(parse_ranges, f"bytes={value}", 10)
        for value in values:
            for name in ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]:
                conditions_status(f"{name}: {value}", MODIFIED)
        self.assertLess(time.process_time() - start, 2)


if __name__ == "__main__":
    unittest.main()
