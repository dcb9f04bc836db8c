"""HTTP as receivers see it, through sockets: the answers, the connection, and the log."""

from __future__ import annotations

import io
import os
import re
import socket
import threading
import unicodedata
import unittest
from email import message_from_bytes
from http.client import HTTPResponse
from typing import Any, Callable, Sequence
from unittest import mock
from urllib.parse import quote

from httpd_download import (
    MAX_RANGES,
    Representation,
    Share,
    Terminal,
    content_type,
    http_date,
    parse_date,
)
from tests.support import (
    FolderCase,
    Lines,
    Reply,
    Served,
    read_exactly,
    read_reply,
    reset,
    skip_head,
    until,
)
from tests.test_ranges import UNUSUAL, refused_heads

DATA = b"0123456789"
LONG_AGO = 784111777
MIB = 1 << 20
# Of MIB bytes that were read, so many are acknowledged for certain before a reset.
HALF = MIB // 2
# SO_RCVBUF that makes a slow receiver out of a fast one.
NARROW = 1 << 16
PLAIN = b"GET /a.txt HTTP/1.1\r\nHost: x\r\n"
# Sent behind another request, it shows whether the connection is kept.
NEXT = PLAIN + b"\r\n"
LOG_LINE = (
    r'^127\.0\.0\.1 - - \[[^\]]+\] "(?:[^"\\]|\\.)*" (\d{3} -|req finished\. .+|delivered\. .+)$'
)
CHANGED = "The file has changed: start over"


class Paper(io.StringIO):
    """Takes every character, so that only our escaping keeps one away."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.lines = Lines()

    def write(self, text: str) -> int:
        written = super().write(text)
        for line in text.split("\n")[:-1]:
            self.lines.add(line)
        return written


class _Stream(io.BytesIO):
    """Received bytes, read reply by reply."""

    def makefile(self, mode: str) -> _Stream:
        return self

    def close(self) -> None:
        pass


def replies(data: bytes, *methods: str) -> list[Reply]:
    """Take *data* apart: the replies to *methods*, and to GETs after them."""
    stream = _Stream(data)
    found: list[Reply] = []
    while stream.tell() < len(data):
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        response = HTTPResponse(stream, method=method)  # type: ignore[arg-type]
        response.begin()
        found.append(Reply(response))
    return found


class HttpCase(FolderCase):
    """A test with a.txt in its folder.  Nothing that it sends is a bug of ours."""

    def setUp(self) -> None:
        super().setUp()
        self.write("a.txt", DATA)
        os.utime(self.folder / "a.txt", (LONG_AGO, LONG_AGO))
        self.threads = threading.active_count()
        self.logs: list[Lines] = []
        self.addCleanup(self.assert_no_bug)

    def serve(self, *arguments: Any, **options: Any) -> Served:
        served = super().serve(*arguments, **options)
        self.logs.append(served.log)
        return served

    def assert_no_bug(self) -> None:
        # The last thing that the thread of a connection does is to say what went wrong in it.
        until(lambda: threading.active_count() <= self.threads, "no thread is left")
        for log in self.logs:
            self.assertNotIn("internal error", "\n".join(log.all()))

    def statuses(self, served: Served, request: bytes, *methods: str) -> list[int]:
        """Send *request* and another behind it; return the statuses of all answers."""
        return [reply.status for reply in replies(served.raw(request + NEXT), *methods)]

    def assert_refused(self, served: Served, status: int, *requests: bytes) -> None:
        """Each is answered once with *status*, in one line of the log, and ends its connection."""
        for request in requests:
            with self.subTest(request[:99], length=len(request)):
                before = len(served.log.all())
                method = "HEAD" if request.startswith(b"HEAD ") else "GET"
                data = served.raw(request + NEXT)
                if method == "HEAD":
                    self.assertEqual(data.partition(b"\r\n\r\n")[2], b"", "RFC 9110 9.3.2")
                answers = replies(data, method)
                self.assertEqual([answer.status for answer in answers], [status])
                self.assertEqual(answers[0].headers["Connection"], "close")
                self.assertEqual(answers[0].headers["X-Content-Type-Options"], "nosniff")
                if method != "HEAD":
                    length = int(answers[0].headers["Content-Length"])
                    self.assertEqual(len(answers[0].body), length)
                    self.assertEqual(answers[0].body[:4], b"%d " % status)
                (line,) = served.log.all()[before:]
                self.assertTrue(line.endswith(f'" {status} -'), line)


class Get(HttpCase):
    def test_get(self) -> None:
        served = self.serve()
        reply = served.fetch("/a.txt")
        self.assertEqual((reply.status, reply.version, reply.body), (200, 11, DATA))
        expected = {
            "Server": "httpd_download",
            "Accept-Ranges": "bytes",
            "Content-Disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt",
            "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
            "X-Content-Type-Options": "nosniff",
            "Content-Length": "10",
            "Content-Type": "text/plain",
        }
        self.assertEqual({name: reply.headers[name] for name in expected}, expected)
        self.assertRegex(reply.headers["ETag"], r'^"[!#-~]+"$')
        self.assertIsNotNone(parse_date(reply.headers["Date"]))
        self.assertEqual(sorted(reply.headers), sorted([*expected, "ETag", "Date"]))

    def test_head(self) -> None:
        served = self.serve()
        for target in ["/a.txt", "/nothing"]:
            with self.subTest(target):
                got, head = served.fetch(target), served.fetch(target, method="HEAD")
                self.assertEqual((head.status, head.body), (got.status, b""))
                del got.headers["Date"], head.headers["Date"]
                self.assertEqual(got.headers.items(), head.headers.items())
        for asked in ["bytes=2-3", "bytes=50-", "bytes=x", "bytes=0-1,3-4"]:
            with self.subTest(asked):
                head = served.fetch("/a.txt", {"Range": asked}, "HEAD")
                self.assertEqual((head.status, head.headers["Content-Length"]), (200, "10"))
                self.assertNotIn("Content-Range", head.headers)

    def test_an_empty_file(self) -> None:
        self.write("empty", b"")
        served = self.serve()
        for headers in [{}, {"Range": "bytes=0-"}, {"Range": "bytes=-1"}, {"Range": "bytes=5-"}]:
            with self.subTest(headers):
                reply = served.fetch("/empty", headers)
                self.assertEqual(
                    (reply.status, reply.body, reply.headers["Content-Length"]), (200, b"", "0")
                )

    def test_every_answer_has_what_each_must_have(self) -> None:
        served = self.serve()
        for target, method, headers, status in [
            ("/a.txt", "GET", {}, 200),
            ("/a.txt", "HEAD", {}, 200),
            ("/a.txt", "GET", {"Range": "bytes=0-1"}, 206),
            ("/a.txt", "GET", {"Range": "bytes=0-1,3-4"}, 206),
            ("/a.txt", "GET", {"If-None-Match": "*"}, 304),
            ("/a.txt", "GET", {"Range": "bytes=x"}, 400),
            ("/", "GET", {}, 404),
            ("/a.txt", "DELETE", {}, 405),
            ("/a.txt", "GET", {"If-Match": '"x"'}, 412),
            ("/a.txt", "GET", {"Range": "bytes=50-"}, 416),
            ("/a.txt", "PROPFIND", {}, 501),
        ]:
            with self.subTest(method=method, status=status):
                reply = served.fetch(target, headers, method)
                self.assertEqual(reply.status, status)
                self.assertEqual(reply.headers["X-Content-Type-Options"], "nosniff")
                self.assertEqual(reply.headers["Server"], "httpd_download")
                self.assertIsNotNone(parse_date(reply.headers["Date"]))
                self.assertEqual(reply.headers["Location"], None)
                if status >= 400:
                    self.assertEqual(reply.headers["Content-Type"], "text/plain; charset=utf-8")
                    self.assertNotIn("ETag", reply.headers)
                    self.assertNotIn("Content-Disposition", reply.headers)

    def test_names_to_save_under(self) -> None:
        # What goes out is bytes: filename in UTF-8 as it is, filename* encoded.
        for name, plain, extended in [
            ("plain.txt", b"plain.txt", b"plain.txt"),
            ("a b.txt", b"a b.txt", b"a%20b.txt"),
            ('say "hi"', b"say _hi_", b"say%20%22hi%22"),
            ("a\\b", b"a_b", b"a%5Cb"),
            ("中文 a.txt", "中文 a.txt".encode(), b"%E4%B8%AD%E6%96%87%20a.txt"),
            ("100%.txt", b"100%.txt", b"100%25.txt"),
            ("a\r\nX-A: b\x1b\x7f", b"a__X-A: b__", b"a%0D%0AX-A%3A%20b%1B%7F"),
            (os.fsdecode(b"a\xff\x80b"), b"a__b", b"a__b"),
            ("sub/folder/中.txt", "中.txt".encode(), b"%E4%B8%AD.txt"),
        ]:
            try:
                self.write(name)
            # Windows; not UTF-8: macOS
            except OSError:
                continue
            served = self.serve(is_deep=True)
            target = quote(os.fsencode(name)).encode()
            expected = b"attachment; filename=\"%s\"; filename*=UTF-8''%s" % (plain, extended)
            for method, field, status in [
                (b"GET", b"", b"200"),
                (b"GET", b"Range: bytes=1-\r\n", b"206"),
                (b"GET", b"Range: bytes=0-1,4-5\r\n", b"206"),
                (b"HEAD", b"", b"200"),
            ]:
                with self.subTest(name, method=method, field=field):
                    request = method + b" /" + target + b" HTTP/1.1\r\nHost: x\r\n" + field
                    head = served.raw(request + b"\r\n").partition(b"\r\n\r\n")[0]
                    first, *lines = head.split(b"\r\n")
                    self.assertEqual(first.split()[1], status)
                    values = [line for line in lines if line.startswith(b"Content-Disposition:")]
                    self.assertEqual(values, [b"Content-Disposition: " + expected])
                    self.assertFalse([line for line in lines if line.startswith(b"X-A")])

    def test_types(self) -> None:
        served = self.serve()
        for name, expected in [
            ("a.tar.gz", "application/gzip"),
            ("a.tgz", "application/gzip"),
            ("a.txt.gz", "application/gzip"),
            ("a.tar.xz", "application/x-xz"),
            ("a.tar.bz2", "application/x-bzip2"),
            ("a.tbz2", "application/x-bzip2"),
            ("A.TXZ", "application/x-xz"),
            ("a.svgz", "application/gzip"),
            ("a.tar.br", "application/octet-stream"),
            ("a.tar.Z", "application/octet-stream"),
            ("a.html", "text/html"),
            ("A.PDF", "application/pdf"),
            ("no-extension", "application/octet-stream"),
            ("a.unknown-thing", "application/octet-stream"),
            ("data:text,x", "application/octet-stream"),
            ("http:[x", "application/octet-stream"),
            ("a\r\nX-A: b.txt", "text/plain"),
        ]:
            try:
                self.write(name)
            # Windows
            except OSError:
                continue
            with self.subTest(name):
                reply = served.fetch("/" + quote(name, safe=""))
                self.assertEqual((reply.status, reply.headers["Content-Type"]), (200, expected))
                self.assertNotIn("Content-Encoding", reply.headers)
                self.assertNotIn("X-A", reply.headers)

    def test_targets(self) -> None:
        # In Latin-1 and in Unicode, some of it is white space
        blanks = "Å\x85à\xa0\u2028…"
        for name in ["a b.txt", "中文", blanks]:
            self.write(name, name.encode())
        served = self.serve()
        for target, content in [
            (b"/a.txt", DATA),
            (b"/a.txt?x=/y#z", DATA),
            (b"/a.txt#x?y", DATA),
            (b"/a.txt?\xff\xfe", DATA),
            (b"/%61%2etxt", DATA),
            (b"http://x/a.txt", DATA),
            (b"http://other:1/a.txt?x", DATA),
            (b"HTTPS://[::1]:80/a.txt", DATA),
            (b"/a%20b.txt", b"a b.txt"),
            (b"http://x/a%20b.txt", b"a b.txt"),
            # curl sends it so
            ("/中文".encode(), "中文".encode()),
            ("http://x/中文?中".encode(), "中文".encode()),
            (b"/" + blanks.encode(), blanks.encode()),
            (quote("/" + blanks).encode(), blanks.encode()),
        ]:
            with self.subTest(target):
                reply, after = replies(
                    served.raw(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT)
                )
                self.assertEqual((reply.status, reply.body, after.body), (200, content, DATA))
        secret = self.serve(secret="s")
        self.assertEqual(secret.fetch("/s/a.txt").body, DATA)
        for path in ["/", "/a.txt", "http://x", "http://x?a", "/s", "/s/"]:
            with self.subTest(path, secret="s"):
                self.assertEqual(secret.fetch(path).status, 404)
        for status, target in [
            (404, b"/"),
            (404, b"http://x"),
            (404, b"http://x/"),
            (404, b"/%"),
            (404, b"/%zz"),
            (404, b"/\xff\xfe"),
            (404, b"/a.txt%20"),
            (400, b"*"),
            (400, b"a.txt"),
            (400, b"ftp://x/a.txt"),
            (400, b"http:///a.txt"),
            (400, b"?a"),
        ]:
            with self.subTest(target):
                request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
                self.assertEqual(self.statuses(served, request), [status, 200])

    def test_dates_that_no_date_can_hold(self) -> None:
        served = self.serve()
        path = self.folder / "a.txt"
        for seconds in [
            86400 * 365 * 40,
            2**33,
            2**40,
            2**62,
            -1,
            -(2**31) - 1,
            -(2**40),
            -(2**62),
        ]:
            with self.subTest(seconds):
                try:
                    os.utime(path, (0, seconds))
                except (OSError, OverflowError):
                    continue
                self.assert_dated(served.fetch("/a.txt"))

    def test_types_that_nobody_may_read(self) -> None:
        served = self.serve()
        for error in (PermissionError("mime.types"), UnicodeDecodeError("utf-8", b"", 0, 1, "")):
            content_type.cache_clear()
            self.addCleanup(content_type.cache_clear)
            with mock.patch("mimetypes.guess_type", side_effect=error):
                reply = served.fetch("/a.txt")
            self.assertEqual(reply.status, 200)
            self.assertEqual(reply.headers["Content-Type"], "application/octet-stream")

    def test_dates_that_only_some_file_systems_hold(self) -> None:
        served = self.serve()
        fstat = os.fstat
        for seconds in [
            10**30,
            253402300800,
            253402300799,
            0,
            -62135596800,
            -62135596801,
            -(10**30),
        ]:

            def dated(descriptor: int, seconds: int = seconds) -> os.stat_result:
                times = {"st_mtime_ns": seconds * 10**9}
                return os.stat_result(tuple(fstat(descriptor))[:10], times)

            with self.subTest(seconds), mock.patch("os.fstat", dated):
                reply = served.fetch("/a.txt")
                self.assert_dated(reply)
                if seconds <= 0:
                    last = reply.headers["Last-Modified"]
                    self.assertEqual(last, http_date(seconds))
                    self.assertEqual(
                        served.fetch("/a.txt", {"If-Modified-Since": last}).status, 304
                    )

    def assert_dated(self, reply: Reply) -> None:
        self.assertEqual((reply.status, reply.body), (200, DATA))
        modified, date = (
            parse_date(reply.headers["Last-Modified"]),
            parse_date(reply.headers["Date"]),
        )
        assert modified is not None and date is not None
        self.assertLessEqual(modified, date)

    def test_a_date_in_the_future(self) -> None:
        served = self.serve()
        os.utime(self.folder / "a.txt", (0, 2**31))
        self.assert_dated(served.fetch("/a.txt"))


class Ranges(HttpCase):
    def test_one_range(self) -> None:
        served = self.serve()
        for asked, content, field in [
            ("bytes=0-", DATA, "bytes 0-9/10"),
            ("bytes=0-0", b"0", "bytes 0-0/10"),
            ("bytes=4-6", b"456", "bytes 4-6/10"),
            ("bytes=9-", b"9", "bytes 9-9/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
            ("bytes=-99", DATA, "bytes 0-9/10"),
            ("bytes=5-99", b"56789", "bytes 5-9/10"),
            ("bytes=50-60,1-2", b"12", "bytes 1-2/10"),
            ("Bytes=1-" + "9" * 9999, b"123456789", "bytes 1-9/10"),
        ]:
            with self.subTest(asked[:40]):
                reply = served.fetch("/a.txt", {"Range": asked})
                self.assertEqual(
                    (reply.status, reply.body, reply.headers["Content-Range"]),
                    (206, content, field),
                )
                self.assertEqual(reply.headers["Content-Length"], str(len(content)))
                self.assertEqual(reply.headers["Content-Type"], "text/plain")
                self.assertEqual(reply.headers["ETag"], served.fetch("/a.txt").headers["ETag"])

    def test_other_answers(self) -> None:
        served = self.serve()
        for asked, status, field in [
            ("bytes=10-", 416, "bytes */10"),
            ("bytes=-0", 416, "bytes */10"),
            ("bytes=" + "9" * 9999 + "-", 416, "bytes */10"),
            ("bytes=5-4", 400, None),
            ("bytes=", 400, None),
            ("bytes=a-b", 400, None),
            ("bytes=0-1,x", 400, None),
            ("bytes=\xb2-", 400, None),
            ("items=0-1", 200, None),
            ("nonsense", 200, None),
            ("", 200, None),
            ("bytes=0-5,5-9", 200, None),
            ("bytes=8-9,0-1,1-2", 200, None),
            ("bytes=" + "0-," * 20000, 200, None),
            ("bytes=0-0" + ",50-" * MAX_RANGES, 200, None),
        ]:
            with self.subTest(asked[:40]):
                request = PLAIN + b"Range: " + asked.encode("latin-1") + b"\r\n\r\n"
                reply, after = replies(served.raw(request + NEXT))
                self.assertEqual((reply.status, reply.headers["Content-Range"]), (status, field))
                # Old curls add the body of a 416 to what they have.
                self.assertEqual(reply.body == b"", status == 416)
                self.assertEqual(after.body, DATA)
                if status == 200:
                    self.assertEqual(reply.body, DATA)

    def test_several_ranges(self) -> None:
        data = (bytes(range(256)) + b"\r\n--\r\n") * 400
        self.write("data.tar.gz", data)
        served = self.serve()
        for spans in [
            [(0, 1), (3, 4)],
            [(90000, 104800), (0, 4), (5, 50000)],
            [(256, 258), (255, 256), (258, 259), (13, 14), (10, 11)],
            [(i * 3000, i * 3000 + 10) for i in range(MAX_RANGES)],
        ]:
            with self.subTest(spans[:3]):
                asked = "bytes=" + ", ".join(f"{start}-{stop - 1}" for start, stop in spans)
                reply = served.fetch("/data.tar.gz", {"Range": asked})
                self.assertEqual(reply.status, 206)
                self.assertEqual(int(reply.headers["Content-Length"]), len(reply.body))
                self.assertNotIn("Content-Range", reply.headers)
                content_type = reply.headers["Content-Type"]
                self.assertRegex(content_type, "^multipart/byteranges; boundary=[0-9A-Za-z]+$")
                message = message_from_bytes(
                    f"Content-Type: {content_type}\r\n\r\n".encode() + reply.body
                )
                parts = list(message.walk())[1:]
                self.assertEqual(message.defects, [])
                self.assertEqual(
                    [part.get_payload(decode=True) for part in parts], [data[a:b] for a, b in spans]
                )
                self.assertEqual(
                    [(part["Content-Type"], part["Content-Range"]) for part in parts],
                    [("application/gzip", f"bytes {a}-{b - 1}/{len(data)}") for a, b in spans],
                )

    def test_past_four_gigabytes(self) -> None:
        size, end = 5 << 30, b"the very end"
        with open(self.folder / "big", "wb") as file:
            try:
                file.seek(size - len(end))
                file.write(end)
            except OSError as error:
                self.skipTest(f"no file of 5 GiB here: {error}")
        if os.name == "posix" and os.stat(self.folder / "big").st_blocks > 1 << 20:
            self.skipTest("no sparse files here")
        served = self.serve()
        self.assertEqual(served.fetch("/big", method="HEAD").headers["Content-Length"], str(size))
        for asked, content, field in [
            (f"bytes={size - 8}-", end[-8:], f"bytes {size - 8}-{size - 1}/{size}"),
            ("bytes=-3", end[-3:], f"bytes {size - 3}-{size - 1}/{size}"),
            ("bytes=4294967295-4294967297", b"\0\0\0", f"bytes 4294967295-4294967297/{size}"),
        ]:
            with self.subTest(asked):
                reply = served.fetch("/big", {"Range": asked})
                self.assertEqual(
                    (reply.status, reply.body, reply.headers["Content-Range"]),
                    (206, content, field),
                )
        self.assertEqual(served.fetch("/big", {"Range": f"bytes={size}-"}).status, 416)

    def test_resume_only(self) -> None:
        served = self.serve(resume_only=True)
        for asked, status, content in [
            ("bytes=4-", 206, DATA[4:]),
            ("Bytes=0-", 206, DATA),
            ("bytes=10-", 416, None),
            ("bytes=4-9", 200, DATA),
            ("bytes=0-4", 200, DATA),
            ("bytes=-4", 200, DATA),
            ("bytes=4-,0-1", 200, DATA),
            ("bytes=1-2,4-5", 200, DATA),
            ("bytes=x", 200, DATA),
        ]:
            with self.subTest(asked):
                reply = served.fetch("/a.txt", {"Range": asked})
                self.assertEqual(reply.status, status)
                self.assertIn(content, (reply.body, None))


class Conditions(HttpCase):
    BEFORE, SAME, AFTER = (http_date(LONG_AGO + shift) for shift in (-1, 0, 1))

    def test_preconditions_keep_the_connection(self) -> None:
        served = self.serve()
        tag = served.fetch("/a.txt").headers["ETag"]
        with served.connect() as client:
            for fields, status in [
                (f"If-None-Match: {tag}", 304),
                (f'If-None-Match: "x", W/{tag}', 304),
                ("If-None-Match: *", 304),
                (f'If-None-Match: "x"\r\nIf-None-Match: {tag}', 304),
                (f'If-None-Match: "x"\r\nIf-Modified-Since: {self.SAME}', 200),
                (f"If-Modified-Since: {self.SAME}", 304),
                ("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", 304),
                ("If-Modified-Since: Sun Nov  6 08:49:37 1994", 304),
                (f"If-Modified-Since: {self.BEFORE}", 200),
                ("If-Modified-Since: never", 200),
                ('If-Match: "x"', 412),
                (f"If-Match: W/{tag}", 412),
                (f"If-Match: {tag}", 200),
                (f"If-Unmodified-Since: {self.BEFORE}", 412),
                (f"If-Unmodified-Since: {self.SAME}", 200),
                (f'If-Match: "x"\r\nIf-None-Match: {tag}', 412),
                (f"If-None-Match: {tag}\r\nRange: bytes=50-", 304),
                ('If-Match: "x"\r\nRange: bytes=x', 412),
                (f"If-Match: {tag}\r\nRange: bytes=0-1", 206),
                (f"If-Unmodified-Since: {self.SAME}\r\nRange: bytes=0-1", 206),
            ]:
                for method in ["GET", "HEAD"]:
                    with self.subTest(fields, method=method):
                        client.sendall(
                            f"{method} /a.txt HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode()
                        )
                        reply = read_reply(client, method)
                        self.assertEqual(
                            reply.status, 200 if (method, status) == ("HEAD", 206) else status
                        )
                        if status == 304:
                            self.assertEqual(reply.headers["ETag"], tag)
                            self.assertEqual(reply.body, b"")
                            # RFC 9110 8.6: not 0
                            self.assertNotIn("Content-Length", reply.headers)
                        self.assertNotIn("Connection", reply.headers)

    def test_what_does_not_exist_has_no_preconditions(self) -> None:
        # nginx not_modified.t
        served = self.serve()
        for fields in [
            {"If-Match": '"x"'},
            {"If-None-Match": "*"},
            {"If-Unmodified-Since": self.BEFORE},
        ]:
            with self.subTest(fields):
                self.assertEqual(served.fetch("/nothing", fields).status, 404)

    def test_if_range(self) -> None:
        served = self.serve()
        tag = served.fetch("/a.txt").headers["ETag"]
        for value, asked, status in [
            (tag, "bytes=4-", 206),
            (f" {tag}\t", "bytes=4-", 206),
            # A date cannot tell two versions of one second apart
            (self.SAME, "bytes=4-", 200),
            (self.SAME, "bytes=50-", 200),
            ("Sunday, 06-Nov-94 08:49:37 GMT", "bytes=4-", 200),
            ("Sun Nov  6 08:49:37 1994", "bytes=4-", 200),
            (tag, "bytes=50-", 416),
            (tag, "bytes=x", 400),
            (f"W/{tag}", "bytes=4-", 200),
            (f"{tag}, {tag}", "bytes=4-", 200),
            (tag.strip('"'), "bytes=4-", 200),
            ("*", "bytes=4-", 200),
            ('"x"', "bytes=4-", 200),
            ('"x"', "bytes=50-", 200),
            ('"x"', "bytes=x", 200),
            (self.BEFORE, "bytes=4-", 200),
            (self.AFTER, "bytes=4-", 200),
            ("wrong", "bytes=4-", 200),
            ("", "bytes=4-", 200),
        ]:
            with self.subTest(value, asked=asked):
                reply = served.fetch("/a.txt", {"Range": asked, "If-Range": value})
                self.assertEqual(reply.status, status)
                if status < 400:
                    self.assertEqual(reply.body, DATA[4:] if status == 206 else DATA)

    def test_another_version_has_other_validators(self) -> None:
        served = self.serve()
        path = self.folder / "a.txt"
        stamp = LONG_AGO * 10**9

        def replace() -> None:
            self.write("new", DATA[::-1])
            os.utime(self.folder / "new", ns=(stamp, stamp))
            os.replace(self.folder / "new", path)

        def grow() -> None:
            path.write_bytes(DATA + b"x")
            os.utime(path, ns=(stamp, stamp))

        changes: list[tuple[str, Callable[[], None]]] = [
            ("mtime", lambda: os.utime(path, (0, LONG_AGO + 2))),
            ("nanoseconds", lambda: os.utime(path, ns=(0, stamp + 1000))),
            ("size", grow),
            ("another file, the same size and time", replace),
        ]
        for label, change in changes:
            with self.subTest(label):
                path.write_bytes(DATA)
                os.utime(path, ns=(stamp, stamp))
                tag = served.fetch("/a.txt").headers["ETag"]
                change()
                reply = served.fetch("/a.txt", {"Range": "bytes=4-", "If-Range": tag})
                self.assertEqual((reply.status, reply.body), (200, path.read_bytes()))
                self.assertNotEqual(reply.headers["ETag"], tag)


class Connections(HttpCase):
    def test_kept_or_closed(self) -> None:
        served = self.serve()
        get = "GET /a.txt HTTP/1."
        for request, kept in [
            (f"{get}1\r\nHost: x", True),
            (f"{get}1\r\nHost: x\r\nConnection: keep-alive", True),
            (f"{get}1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings", True),
            (f"{get}1\r\nHost: x\r\nConnection:", True),
            (f"{get}1\r\nHost: x\r\nConnection: closed", True),
            (f"{get}1\r\nHost: x\r\nConnection: close", False),
            (f"{get}1\r\nHost: x\r\nConnection: CLOSE", False),
            (f"{get}1\r\nHost: x\r\nConnection: te , close", False),
            (f"{get}1\r\nHost: x\r\nConnection: close,keep-alive", False),
            (f"{get}1\r\nHost: x\r\nConnection: te\r\nConnection: close", False),
            (f"{get}0", False),
            (f"{get}0\r\nHost: x", False),
            (f"{get}0\r\nConnection: close", False),
            (f"{get}0\r\nConnection: te", False),
            (f"{get}0\r\nConnection: keep-alive", True),
            (f"{get}0\r\nConnection: te, Keep-Alive", True),
            (f"{get}0\r\nConnection: keep-alive, close", False),
            (f"{get}9\r\nHost: x", True),
            (f"{get}1\r\nHost: x\r\nContent-Length: 0", True),
        ]:
            with self.subTest(request):
                first, *after = replies(served.raw(request.encode() + b"\r\n\r\n" + NEXT))
                self.assertEqual((first.status, first.body), (200, DATA))
                self.assertEqual([reply.status for reply in after], [200] * kept)
                old = "HTTP/1.0" in request
                self.assertEqual(first.version, 10 if old else 11)
                self.assertEqual(
                    first.headers["Connection"],
                    "close" if not kept else "keep-alive" if old else None,
                )

    def test_pipelining(self) -> None:
        served = self.serve()
        requests = [
            (b"GET /a.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n", "GET", 206, b"01"),
            (b"HEAD /a.txt HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD", 200, b""),
            (b"GET /no HTTP/1.1\r\nHost: x\r\n\r\n", "GET", 404, b"404 Not Found\n"),
            (b"\r\n\n\r\nGET /a.txt HTTP/1.1\nHost: x\n\n", "GET", 200, DATA),
            (b"HEAD /no HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD", 404, b""),
            (b"GET /a.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET", 200, DATA),
            (b"GET /a.txt HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n", "GET", 304, b""),
            (b"GET /a.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=-1\r\n\r\n", "GET", 206, b"9"),
        ] * 20
        data = served.raw(b"".join(request for request, *_ in requests))
        answers = replies(data, *(method for _, method, _, _ in requests))
        self.assertEqual(
            [(a.status, a.body) for a in answers], [(status, body) for *_, status, body in requests]
        )
        self.assertEqual([a.version for a in answers], [11, 11, 11, 11, 11, 10, 11, 11] * 20)

    def test_one_byte_at_a_time(self) -> None:
        served = self.serve()
        with served.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"\r\n" + PLAIN + b"Range: bytes=3-4\r\n\r\n":
                client.sendall(bytes([byte]))
            self.assertEqual(read_reply(client).body, b"34")

    def test_http_1_0(self) -> None:
        served = self.serve()
        for line, fields, status in [
            (b"GET /a.txt", b"", 200),
            (b"HEAD /a.txt", b"", 200),
            (b"GET /a.txt", b"Range: bytes=1-2\r\n", 206),
            (b"GET /a.txt", b"If-None-Match: *\r\n", 304),
            (b"GET a.txt", b"", 400),
            (b"GET /a.txt", b"Range: bytes=x\r\n", 400),
            (b"GET /nothing", b"", 404),
            (b"POST /a.txt", b"", 405),
            (b"GET /a.txt", b"If-Match: x\r\n", 412),
            (b"GET /a.txt", b"Range: bytes=50-\r\n", 416),
            (b"BREW /a.txt", b"", 501),
            (b"GET /a.txt", b"Content-Length: 5\r\n", 400),
            (b"GET /a.txt", b"X : y\r\n", 400),
        ]:
            with self.subTest(line, fields=fields):
                data = served.raw(line + b" HTTP/1.0\r\n" + fields + b"\r\n")
                (reply,) = replies(data, line.split()[0].decode())
                self.assertEqual((reply.status, reply.version), (status, 10))
                self.assertEqual(reply.headers["Connection"], "close")

    def test_ranges_for_http_1_0(self) -> None:
        # axel needs its 206
        served = self.serve()
        (reply,) = replies(served.raw(b"GET /a.txt HTTP/1.0\r\nRange: bytes=4-\r\n\r\n"))
        self.assertEqual((reply.status, reply.version, reply.body), (206, 10, DATA[4:]))

    def test_expect(self) -> None:
        # The final answer at once, no 100 before it: no body is ever wanted.
        served = self.serve()
        for method, length, status in [
            (b"GET", b"0", 200),
            (b"GET", b"5", 400),
            (b"PUT", b"5", 400),
            (b"POST", b"5", 400),
        ]:
            request = method + b" /a.txt HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            with self.subTest(method, length=length), served.connect() as client:
                client.sendall(request + b"Content-Length: " + length + b"\r\n\r\n")
                self.assertTrue(client.recv(99).startswith(b"HTTP/1.1 %d " % status))

    def test_a_big_body_does_not_cost_the_answer(self) -> None:
        # To close with input unread would reset the connection under the answer (RFC 9112 9.6).
        served = self.serve()
        with served.connect() as client:
            client.sendall(b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
            client.sendall(b"GET / HTTP/1.1\r\n" * 250000)
            reply = read_reply(client)
            self.assertEqual((reply.status, reply.headers["Connection"]), (400, "close"))
            self.assertEqual(client.recv(1), b"")
        self.assertEqual(served.log.all(), ['127.0.0.1 "POST /a.txt HTTP/1.1" 400 -'])

    def test_half_a_request_is_no_request(self) -> None:
        served = self.serve()
        for cut in [
            b"",
            b"\r\n",
            b"GET",
            b"GET /a.txt HTTP/1.1",
            PLAIN[:21],
            PLAIN,
            PLAIN[:-2],
            PLAIN + b"X: y",
        ]:
            with self.subTest(cut):
                self.assertEqual(served.raw(cut), b"")
        self.assertEqual(served.log.all(), [])


class Methods(HttpCase):
    def test_known(self) -> None:
        served = self.serve()
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]:
            for target in ["/a.txt", "/nothing", "*", "x:80", "http://x/a.txt"]:
                for field in ["", "Content-Length: 0\r\n", "Range: bytes=x\r\n"]:
                    with self.subTest(method, target=target, field=field):
                        request = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode()
                        reply, after = replies(served.raw(request + NEXT))
                        self.assertEqual((reply.status, reply.headers["Allow"]), (405, "GET, HEAD"))
                        self.assertEqual(after.status, 200)

    def test_unknown(self) -> None:
        methods = [
            b"get",
            b"Get",
            b"GETX",
            b"PROPFIND",
            b"__init__",
            b"!#$%&'*+-.^_`|~09AZaz",
            b"X" * 60000,
        ]
        for method in methods:
            self.assert_refused(self.serve(), 501, method + b" /a.txt HTTP/1.1\r\nHost: x\r\n\r\n")


class Malformed(HttpCase):
    def test_heads(self) -> None:
        served = self.serve()
        for head, status, _ in refused_heads():
            self.assert_refused(served, status, head)

    def test_what_is_unusual_but_right(self) -> None:
        served = self.serve()
        for lines, source in UNUSUAL:
            with self.subTest(lines[:60], source=source):
                request = b"GET /a.txt HTTP/1.1\r\n" + lines + b"\r\n\r\n"
                self.assertEqual(self.statuses(served, request), [200, 200])

    def test_empty_lines_before_a_request(self) -> None:
        # RFC 9112 2.2
        served = self.serve()
        for lines in [b"\r\n", b"\n", b"\r\n\n\r\n" * 20]:
            with self.subTest(lines[:9]):
                self.assertEqual(self.statuses(served, lines + NEXT + lines), [200, 200])
        # Who sends nothing else is not waited for
        self.assert_refused(served, 400, b"\r\n" * 40000)

    def test_too_long(self) -> None:
        served = self.serve()
        line = b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        self.assert_refused(served, 414, line, b"\r\n" + line, b"a" * 70000 + b"\r\n\r\n")
        named = [logged for logged in served.log.all() if '"GET /aaaa' in logged]
        self.assertEqual(len(named), 2, "what was asked is named")
        for fields in [b"X: " + b"y" * 70000, b"X" * 70000, b"X: y\r\n" * 15000 + b"X: y"]:
            self.assert_refused(served, 431, PLAIN + fields + b"\r\n\r\n")
        # A target that is as long as can be is one like others
        target = b"/" + b"a" * 65000
        request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        self.assertEqual(self.statuses(served, request), [404, 200])


class Versions(HttpCase):
    """A receiver that goes on with what it has of another version would put two halves together."""

    def replace(self, name: str, data: bytes) -> None:
        """Put a new file in the place of *name*."""
        self.write("new", data)
        os.replace(self.folder / "new", self.folder / name)

    def ask(self, served: Served, name: str, agent: str, asked: str, tag: str = "") -> Reply:
        headers = {"User-Agent": agent, "Range": asked, **({"If-Range": tag} if tag else {})}
        return served.fetch(f"/{name}", headers)

    def break_off(self, served: Served, agent: str, *names: str) -> list[str]:
        """Fetch *names*, be killed in the middle of each, and return their tags."""
        tags = []
        for name in names:
            with served.connect(NARROW) as client:
                request = f"GET /{name} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n\r\n"
                client.sendall(request.encode())
                response = HTTPResponse(client)
                response.begin()
                response.read(MIB)
                tags.append(response.headers["ETag"])
                response.close()
                reset(client)
        served.rest()
        for name in names:
            served.log.wait_for(f'"GET /{name} .* req terminated')
        return tags

    def assert_changed(self, served: Served, name: str, agent: str, asked: str) -> None:
        """It is answered that the file has changed, in one line; the connection is kept."""
        before = len(served.log.all())
        request = (
            f"GET /{name} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\nRange: {asked}\r\n\r\n"
        )
        data = served.raw(request.encode() + b"HEAD" + NEXT[3:])
        self.assertEqual(data.partition(b"\r\n")[0].decode(), f"HTTP/1.1 409 {CHANGED}")
        reply, after = replies(data, "GET", "HEAD")
        self.assertEqual((reply.status, after.status), (409, 200))
        self.assertEqual(reply.body.decode(), f"409 {CHANGED}\n")
        self.assertNotIn("Content-Range", reply.headers)
        logged = served.log.all()[before:]
        self.assertEqual(logged[0], f'127.0.0.1 "GET /{name} HTTP/1.1" 409 -')
        self.assertEqual(len(logged), 2)

    def test_broken_off(self) -> None:
        sizes = {"same": 4 * MIB, "larger": 5 * MIB, "shorter": MIB // 2}
        for name in sizes:
            self.write(name, 4 * MIB)
        served = self.serve()
        tags = self.break_off(served, "x", *sizes)
        for (name, size), tag in zip(sizes.items(), tags):
            with self.subTest(name):
                content = os.urandom(size)
                self.replace(name, content)
                # Below and beyond what had arrived, past the end of the shorter one too
                for first in [MIB, 1, MIB - 9, 3 * MIB, 4 * MIB]:
                    self.assert_changed(served, name, "x", f"bytes={first}-")
                # With If-Range it is told otherwise
                reply = self.ask(served, name, "x", f"bytes={MIB}-", tag)
                self.assertEqual((reply.status, reply.body), (200, content))
                served.log.wait_for(f'"/{name}" delivered')
                # Another one behind the same address may still go on with what it had.
                self.assert_changed(served, name, "x", "bytes=9-")
                # Where nobody left off, the old one is given up.
                if size > MIB:
                    reply = self.ask(served, name, "x", f"bytes={size - 9}-")
                    self.assertEqual((reply.status, reply.body), (206, content[-9:]))

    def test_the_same_file_number(self) -> None:
        """As that of the next file on ext4; what was appended to goes on."""
        for name, is_grown in [("appended", True), ("rewritten", False)]:
            with self.subTest(name):
                old = self.write(name, 4 * MIB)
                served = self.serve()
                self.break_off(served, "x", name)
                content = (old if is_grown else os.urandom(4 * MIB)) + os.urandom(9)
                # Without a new file: as `cat >>` and `cat >` do.
                with (self.folder / name).open("r+b") as file:
                    file.write(content)
                if is_grown:
                    reply = self.ask(served, name, "x", f"bytes={MIB}-")
                    self.assertEqual((reply.status, reply.body), (206, content[MIB:]))
                else:
                    self.assert_changed(served, name, "x", f"bytes={MIB}-")

    def test_with_the_tag_of_the_new_version(self) -> None:
        for name in ("If-Range", "If-Match"):
            with self.subTest(name):
                self.write(name, 4 * MIB)
                served = self.serve()
                self.break_off(served, "x", name)
                content = os.urandom(4 * MIB)
                self.replace(name, content)
                tag = served.fetch(f"/{name}", method="HEAD").headers["ETag"]
                fields = {"User-Agent": "x", "Range": f"bytes={MIB}-"}
                if name == "If-Match":
                    # Which is said of any version that there is.
                    reply = served.fetch(f"/{name}", {**fields, name: "*"})
                    self.assertEqual(reply.status, 409)
                reply = served.fetch(f"/{name}", {**fields, name: tag})
                self.assertEqual((reply.status, reply.body), (206, content[MIB:]))

    def test_a_probe_gives_nothing_up(self) -> None:
        # aria2 asks for everything, and resets, before it asks for what it lacks.
        self.write("big", 4 * MIB)
        served = self.serve()
        self.break_off(served, "x", "big")
        self.replace("big", os.urandom(4 * MIB))
        with served.connect(NARROW) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n\r\n")
            skip_head(client)
            reset(client)
        until(lambda: not served.downloads.rows(1)[0], "the probe has ended")
        self.assert_changed(served, "big", "x", f"bytes={MIB}-")

    def test_under_way(self) -> None:
        content = self.write("big", 4 * MIB)
        served = self.serve()
        with served.connect(NARROW) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n\r\n")
            skip_head(client)
            self.replace("big", os.urandom(4 * MIB))
            self.assert_changed(served, "big", "x", f"bytes={MIB}-")
            # What is under way is not disturbed
            self.assertEqual(read_exactly(client, len(content)), content)
        served.log.wait_for(r'"/big" delivered\. 4\.0 MiB in 1 request$')

    def test_another_receiver(self) -> None:
        self.write("big", 4 * MIB)
        served = self.serve()
        self.break_off(served, "x", "big")
        content = os.urandom(4 * MIB)
        self.replace("big", content)
        # It may be the same in another network, if it goes on from there
        self.assert_changed(served, "big", "y", f"bytes={HALF}-")
        # Nobody left off here
        reply = self.ask(served, "big", "z", f"bytes={4 * MIB - 9}-")
        self.assertEqual((reply.status, reply.body), (206, content[-9:]))
        reply = self.ask(served, "big", "y", "bytes=0-")
        self.assertEqual((reply.status, reply.body), (206, content))

    def test_resumed_without_a_change(self) -> None:
        content = self.write("big", 4 * MIB)
        served = self.serve()
        self.break_off(served, "x", "big")
        reply = self.ask(served, "big", "x", f"bytes={HALF}-")
        self.assertEqual((reply.status, reply.body), (206, content[HALF:]))
        served.log.wait_for(r'"/big" delivered\. 4\.0 MiB in 2 requests$')

    def test_delivered(self) -> None:
        for size in [5, 10, 15]:
            with self.subTest(size):
                self.write("file", DATA)
                served = self.serve()
                served.fetch("/file", {"User-Agent": "x"})
                served.log.wait_for('"/file" delivered')
                # curl -C - and wget -c of what they have
                self.assertEqual(self.ask(served, "file", "x", "bytes=10-").status, 416)
                content = os.urandom(size)
                self.replace("file", content)
                # Where the old one ends, before any 416
                self.assert_changed(served, "file", "x", "bytes=10-")
                # Who was delivered nothing
                other = self.ask(served, "file", "y", "bytes=10-")
                self.assertEqual(other.status, 206 if size > 10 else 416)
                # Elsewhere it is not what the receiver has
                reply = self.ask(served, "file", "x", "bytes=4-")
                self.assertEqual((reply.status, reply.body), (206, content[4:]))

    def test_delivered_with_some_of_the_new_version(self) -> None:
        self.write("file", DATA)
        served = self.serve()
        served.fetch("/file", {"User-Agent": "x"})
        served.log.wait_for('"/file" delivered')
        self.replace("file", DATA[::-1] * 2)
        self.assertEqual(self.ask(served, "file", "x", "bytes=4-").status, 206)
        served.rest()
        served.log.wait_for("req finished. 16 B of 20 B")
        # What it has of the old one is still whole, and would get the end of the new one
        self.assert_changed(served, "file", "x", "bytes=10-")

    def test_delivered_and_begun_anew(self) -> None:
        self.write("file", DATA)
        served = self.serve()
        served.fetch("/file", {"User-Agent": "x"})
        served.log.wait_for('"/file" delivered')
        self.replace("file", DATA * 2)
        self.assert_changed(served, "file", "x", "bytes=10-")
        served.fetch("/file", {"User-Agent": "x"})
        served.log.wait_for('"/file" delivered', 2)
        self.assertEqual(self.ask(served, "file", "x", "bytes=20-").status, 416)

    def test_one_that_grew(self) -> None:
        content = self.write("big", 4 * MIB)
        self.write("file", DATA)
        served = self.serve()
        self.break_off(served, "x", "big")
        served.fetch("/file", {"User-Agent": "x"})
        served.log.wait_for('"/file" delivered')
        for name, first, rest in [("big", HALF, content[HALF:]), ("file", 10, b"")]:
            with open(self.folder / name, "ab") as file:
                file.write(b"abc")
            reply = self.ask(served, name, "x", f"bytes={first}-")
            self.assertEqual((reply.status, reply.body), (206, rest + b"abc"))
            served.log.wait_for(rf'"/{name}" delivered\. \S+ M?i?B in 2 requests$')


class Enough(HttpCase):
    def test_no_new_download_but_those_under_way(self) -> None:
        content = self.write("big", 4 * MIB)
        served = self.serve(wanted=1)
        with served.connect(NARROW) as slow:
            slow.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nUser-Agent: slow\r\n\r\n")
            skip_head(slow)
            served.fetch("/a.txt", {"User-Agent": "quick"})
            served.log.wait_for('"/a.txt" delivered')
            before = len(served.log.all())
            for target, agent, asked in [
                ("/a.txt", "other", ""),
                ("/a.txt", "quick", ""),
                ("/a.txt", "other", "bytes=4-"),
                ("/big", "other", ""),
                ("/big", "other", "bytes=0-"),
                ("/a.txt", "slow", ""),
            ]:
                with self.subTest(target, agent=agent, asked=asked):
                    headers = {"User-Agent": agent, **({"Range": asked} if asked else {})}
                    reply = served.fetch(target, headers)
                    self.assertEqual(reply.status, 503)
                    self.assertEqual(reply.headers["Connection"], "close")
                    self.assertEqual(reply.body[:4], b"503 ")
            # Its next segment
            headers = {"User-Agent": "slow", "Range": f"bytes={4 * MIB - 9}-"}
            reply = served.fetch("/big", headers)
            self.assertEqual((reply.status, reply.body), (206, content[-9:]))
            # What is no download is answered as ever
            self.assertEqual(served.fetch("/a.txt", method="HEAD").status, 200)
            self.assertEqual(served.fetch("/nothing").status, 404)
            self.assertEqual(read_exactly(slow, len(content)), content)
        served.log.wait_for(r'"/big" delivered\. 4\.0 MiB in 2 requests$')
        self.assertEqual(served.fetch("/big", headers).status, 503)
        statuses = [line.rpartition('" ')[2] for line in served.log.all()[before:]]
        self.assertEqual(statuses[:8], ["503 -"] * 6 + ["200 -", "404 -"])
        self.assertEqual(statuses[-1:], ["503 -"])
        self.assertEqual(len(statuses), 8 + len(["finished", "delivered", "503"]))


class Log(HttpCase):
    FINISHED = r'"GET /{} HTTP/1\.1" req finished\. {}, \d+\.\d s, [0-9.]+ ([KMG]i)?B/s'

    def assert_lines(self, lines: Sequence[str], *patterns: str) -> None:
        self.assertEqual(len(lines), len(patterns), lines)
        for line, pattern in zip(lines, patterns):
            self.assertRegex(line, rf"^127\.0\.0\.1 {pattern}$")

    def test_what_makes_one_line(self) -> None:
        served = self.serve()
        self.write("empty", b"")
        rows: list[tuple[str, str, dict[str, str], int]] = [
            ("GET", "/nothing", {}, 404),
            ("GET", "/", {}, 404),
            ("HEAD", "/a.txt", {}, 200),
            ("HEAD", "/nothing", {}, 404),
            ("HEAD", "/a.txt", {"Range": "bytes=1-2"}, 200),
            ("HEAD", "/empty", {}, 200),
            ("GET", "/a.txt", {"If-None-Match": "*"}, 304),
            ("GET", "/a.txt", {"If-Match": '"x"'}, 412),
            ("GET", "/a.txt", {"Range": "bytes=50-"}, 416),
            ("GET", "/a.txt", {"Range": "bytes=x"}, 400),
            ("GET", "/a.txt", {"Content-Length": "5"}, 400),
            ("POST", "/a.txt", {}, 400),
            ("DELETE", "/a.txt", {}, 405),
            ("BREW", "/a.txt", {}, 501),
        ]
        for method, target, headers, status in rows:
            with self.subTest(method, target=target, headers=headers):
                if method == "POST":
                    headers = {"Transfer-Encoding": "chunked"}
                self.assertEqual(served.fetch(target, headers, method).status, status)
        # Whatever would come later has come when this has
        served.fetch("/a.txt", {"Range": "bytes=1-2"})
        served.rest()
        served.log.wait_for("req finished")
        expected = [f'127.0.0.1 "{m} {t} HTTP/1.1" {status} -' for m, t, _, status in rows]
        self.assertEqual(served.log.all()[:-2], expected)

    def test_a_download(self) -> None:
        served = self.serve()
        modified = http_date(LONG_AGO)
        # The size and what is asked for; the status, what is said at the end, and if it is whole.
        rows: list[tuple[int, dict[str, str], int, str, bool]] = [
            (10, {}, 200, "10 B", True),
            (10, {"Range": "bytes=0-"}, 206, "10 B", True),
            (10, {"Range": "bytes=0-9"}, 206, "10 B", True),
            (10, {"Range": "bytes=-99"}, 206, "10 B", True),
            (10, {"Range": "bytes=0-5,5-9"}, 200, "10 B", True),
            (10, {"Range": "bytes=0-0" + ",50-" * MAX_RANGES}, 200, "10 B", True),
            (10, {"Range": "items=0-1"}, 200, "10 B", True),
            (10, {"Range": "bytes=4-", "If-Range": '"x"'}, 200, "10 B", True),
            (10, {"Range": "bytes=4-", "If-Range": modified}, 200, "10 B", True),
            (0, {}, 200, "0 B", True),
            (0, {"Range": "bytes=0-"}, 200, "0 B", True),
            (100, {"Range": "bytes=0-9"}, 206, "10 B of 100 B", False),
            (100, {"Range": "bytes=-10"}, 206, "10 B of 100 B", False),
            (100, {"Range": "bytes=5-"}, 206, "95 B of 100 B", False),
            (5000, {"Range": "bytes=0-1023"}, 206, r"1\.0 KiB of 4\.9 KiB", False),
        ]
        for number, (size, headers, status, _, _) in enumerate(rows):
            self.write(f"file{number}", size)
            os.utime(self.folder / f"file{number}", (LONG_AGO, LONG_AGO))
            self.assertEqual(served.fetch(f"/file{number}", headers).status, status)
        served.rest()
        for number, (size, headers, status, told, is_whole) in enumerate(rows):
            name = f"file{number}"
            patterns = [rf'"GET /{name} HTTP/1\.1" {status} -', self.FINISHED.format(name, told)]
            patterns += [rf'"/{name}" delivered\. {size} B in 1 request'] * is_whole
            with self.subTest(size, headers=headers):
                served.log.wait_for(patterns[-1])
                logged = [line for line in served.log.all() if re.search(rf"/{name}\b", line)]
                self.assert_lines(logged, *patterns)

    def test_several_requests_of_one_download(self) -> None:
        content = self.write("big", 4 * MIB)
        served = self.serve()
        headers = {"User-Agent": "x"}
        with served.connect(NARROW) as client:
            client.sendall(b"GET /big?first HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n\r\n")
            skip_head(client)
            for asked in ["bytes=0-99", f"bytes={MIB}-{MIB + 99}", "bytes=-100"]:
                reply = served.fetch("/big", {**headers, "Range": asked})
                self.assertEqual((reply.status, len(reply.body)), (206, 100))
            # What has no body is no request of a download, and has its line
            self.assertEqual(served.fetch("/big", headers, "HEAD").status, 200)
            self.assertEqual(read_exactly(client, len(content)), content)
        served.log.wait_for("delivered")
        self.assert_lines(
            served.log.all(),
            r'"GET /big\?first HTTP/1\.1" 200 -',
            r'"HEAD /big HTTP/1\.1" 200 -',
            self.FINISHED.format(r"big\?first", r"4\.0 MiB"),
            r'"/big" delivered\. 4\.0 MiB in 4 requests',
        )

    def test_broken_off_and_resumed(self) -> None:
        self.write("big", 4 * MIB)
        served = self.serve()
        with served.connect(NARROW) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            skip_head(client)
            read_exactly(client, MIB)
            reset(client)
        served.rest()
        served.log.wait_for("req terminated")
        served.fetch("/big", {"Range": f"bytes={HALF}-"})
        served.log.wait_for("delivered")
        self.assert_lines(
            served.log.all(),
            r'"GET /big HTTP/1\.1" 200 -',
            r'"GET /big HTTP/1\.1" req terminated\. at \d\d% \(\S+ [KM]iB of 4\.0 MiB\)',
            r'"GET /big HTTP/1\.1" 206 -',
            self.FINISHED.format("big", r"3\.5 MiB"),
            r'"/big" delivered\. 4\.0 MiB in 2 requests',
        )

    def test_no_request_and_no_name_forges_a_line(self) -> None:
        name = 'n\n127.0.0.1 - - [01 Jan 2026 00:00:00] "GET \x1b]0;x\x07\\ '
        name += "\u202e\u2028\x85\u200f\u2066.txt"
        self.write(name)
        served = self.serve()
        paper = Paper()
        terminal = Terminal(None, paper)
        self.addCleanup(terminal.close, [])
        served.downloads.log = terminal.log
        hostile = [
            b'GET /" 200 -\\" HTTP/1.1',
            b'GET /\\\\"\\n HTTP/1.1',
            b"GET /\xe2\x80\xae\xe2\x80\xa8\xe2\x81\xa6\xc2\x85\xc2\x9b\xd8\x9c\xff HTTP/1.1",
            b'GET /" 200 -\r10.0.0.1 - - [x] "GET / HTTP/1.1" 200 - HTTP/1.1',
            b"GET /\x1b[2J\x07\x08\x00\x7f HTTP/1.1",
            b"\xc2\x9b2J\xe2\x80\xae\xe2\x80\xa8",
            b"\x0c\x0b\x1c\x1d\x1e\xc2\x85",
            b"GET " + b"\xe2\x80\xa8" * 90 + b" HTTP/2.0",
            b"GET /" + b"\x1b\xe2\x80\xa8" * 20000,
            b"BREW\xe2\x80\xa8 / HTTP/1.1",
            b'"""\\',
            b'GET /a.txt?\xe2\x80\xae"\\ HTTP/1.1',
        ]
        for request in hostile:
            served.raw(request + b"\r\nHost: x\r\n\r\n")
        paper.lines.wait_for("delivered")
        served.raw(b"GET /" + quote(name, safe="").encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        paper.lines.wait_for("delivered", 2)
        lines = paper.getvalue().split("\n")
        self.assertEqual(lines.pop(), "")
        # Two files were sent
        self.assertEqual(len(lines), len(hostile) + 2 + 3)
        for line in lines:
            with self.subTest(line[:150]):
                forbidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
                self.assertEqual({c for c in line if unicodedata.category(c) in forbidden}, set())
                self.assertRegex(line, LOG_LINE)

    def test_a_bug_of_ours_is_one_line(self) -> None:
        class Broken(Share):
            def open(self, path: str) -> Representation | None:
                if path == "/bug":
                    raise ZeroDivisionError("oh\nno")
                if path == "/end":
                    # What TLS says of whoever merely goes, and this is not.
                    raise EOFError("EOF when reading a line")
                return super().open(path)

        served = self.serve()
        served.server.share = Broken(str(self.folder), {})
        paper = Paper()
        terminal = Terminal(None, paper)
        self.addCleanup(terminal.close, [])
        served.downloads.log = terminal.log
        self.assertEqual(served.raw(b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT), b"")
        line = paper.lines.wait_for("internal error")
        told = r"internal error\. ZeroDivisionError: oh\\x0ano"
        self.assertRegex(line, rf'^127\.0\.0\.1 - - \[.*\] "-" {told}$')
        self.assertEqual(paper.getvalue(), f"{line}\n")
        self.assertEqual(served.raw(b"GET /end HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT), b"")
        told = r"internal error\. EOFError: EOF when reading a line"
        self.assertRegex(paper.lines.wait_for("EOFError"), rf'"-" {told}$')
        # And the server goes on
        self.assertEqual(served.fetch("/a.txt").body, DATA)


if __name__ == "__main__":
    unittest.main()
