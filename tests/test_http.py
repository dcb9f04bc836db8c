"""HTTP as receivers see it, through sockets: each answer, what becomes of the connection, and what is logged."""

from __future__ import annotations

import io
import os
import socket
import unicodedata
import unittest
from email import message_from_bytes
from http.client import HTTPResponse
from typing import Any, Callable
from urllib.parse import quote

import httpd_download
from httpd_download import MAX_RANGES, Deliveries, Representation, Share, Terminal, http_date, parse_date
from tests.support import FolderCase, Lines, Reply, Served, read_reply

DATA = b"0123456789"
LONG_AGO = 784111777
PLAIN = b"GET /a.txt HTTP/1.1\r\nHost: x\r\n"
LOG_LINE = r'^127\.0\.0\.1 - - \[[^\]]+\] "(?:[^"\\]|\\.)*" (\d{3} -|req finished\. .+|delivered\. .+)$'
NEXT = PLAIN + b"\r\n"  # sent behind another request, it shows whether the connection is kept


class Paper(io.StringIO):
    """Takes every character, so that only our escaping keeps one away."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.lines = Lines()

    def write(self, text: str) -> int:
        written = super().write(text)
        self.lines.add(text)
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

    def serve(self, *arguments: Any, **options: Any) -> Served:
        served = super().serve(*arguments, **options)
        self.addCleanup(lambda: self.assertNotIn("internal error", "\n".join(served.log.all())))
        return served

    def statuses(self, served: Served, request: bytes, *methods: str) -> list[int]:
        """Send *request* and another behind it; return the statuses of all answers."""
        return [reply.status for reply in replies(served.raw(request + NEXT), *methods)]

    def assert_refused(self, served: Served, status: int, *requests: bytes) -> None:
        """Each is answered once with *status*, in one line of the log, and ends its connection."""
        for request in requests:
            with self.subTest(request[:99], length=len(request)):
                before = len(served.log.all())
                answers = replies(served.raw(request + NEXT))
                self.assertEqual([answer.status for answer in answers], [status])
                self.assertEqual(answers[0].headers["Connection"], "close")
                self.assertEqual(len(answers[0].body), int(answers[0].headers["Content-Length"]))
                self.assertEqual(answers[0].body[:4], b"%d " % status)
                (line,) = served.log.all()[before:]
                self.assertTrue(line.endswith(f'" {status} -'), line)


class Get(HttpCase):
    def test_get(self) -> None:
        served = self.serve()
        reply = served.fetch("/a.txt")
        self.assertEqual((reply.status, reply.version, reply.body), (200, 11, DATA))
        expected = {
            "Server": f"httpd_download/{httpd_download.__version__}",
            "Accept-Ranges": "bytes",
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
        head = served.fetch("/a.txt", {"Range": "bytes=50-"}, "HEAD")
        self.assertEqual((head.status, head.headers["Content-Length"]), (200, "10"))

    def test_an_empty_file(self) -> None:
        self.write("empty", b"")
        served = self.serve()
        for headers in [{}, {"Range": "bytes=0-"}, {"Range": "bytes=-1"}, {"Range": "bytes=5-"}]:
            with self.subTest(headers):
                reply = served.fetch("/empty", headers)
                self.assertEqual((reply.status, reply.body, reply.headers["Content-Length"]), (200, b"", "0"))

    def test_every_answer_has_what_each_must_have(self) -> None:
        served = self.serve()
        for target, method, headers, status in [
            ("/a.txt", "GET", {}, 200),
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
                self.assertEqual(reply.headers["Server"], f"httpd_download/{httpd_download.__version__}")
                self.assertIsNotNone(parse_date(reply.headers["Date"]))
                self.assertEqual(reply.headers["Location"], None)
                if status >= 400:
                    self.assertEqual(reply.headers["Content-Type"], "text/plain; charset=utf-8")
                    self.assertNotIn("ETag", reply.headers)

    def test_types(self) -> None:
        served = self.serve()
        for name, expected in [
            ("a.tar.gz", "application/gzip"),
            ("a.tgz", "application/gzip"),
            ("a.txt.gz", "application/gzip"),
            ("a.tar.xz", "application/x-xz"),
            ("a.tar.bz2", "application/x-bzip2"),
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
            except OSError:  # Windows
                continue
            with self.subTest(name):
                reply = served.fetch("/" + quote(name, safe=""))
                self.assertEqual((reply.status, reply.headers["Content-Type"]), (200, expected))
                self.assertNotIn("Content-Encoding", reply.headers)
                self.assertNotIn("X-A", reply.headers)

    def test_targets(self) -> None:
        blanks = "Å\x85à\xa0\u2028…"  # in Latin-1 and in Unicode, some of it is white space
        for name in ["a b.txt", "中文", blanks]:
            self.write(name, name.encode())
        served = self.serve()
        for target, content in [
            (b"/a.txt", DATA),
            (b"/a.txt?x=/y#z", DATA),
            (b"/%61%2etxt", DATA),
            (b"http://x/a.txt", DATA),
            (b"http://other:1/a.txt?x", DATA),
            (b"HTTPS://[::1]:80/a.txt", DATA),
            (b"/a%20b.txt", b"a b.txt"),
            (b"http://x/a%20b.txt", b"a b.txt"),
            ("/中文".encode(), "中文".encode()),  # curl sends it so
            ("http://x/中文?中".encode(), "中文".encode()),
            (b"/" + blanks.encode(), blanks.encode()),
            (quote("/" + blanks).encode(), blanks.encode()),
        ]:
            with self.subTest(target):
                reply, after = replies(served.raw(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT))
                self.assertEqual((reply.status, reply.body, after.body), (200, content, DATA))
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
        for seconds in [86400 * 365 * 40, 2**33, 2**40, 2**62, -1, -(2**31) - 1, -(2**40), -(2**62)]:
            with self.subTest(seconds):
                try:
                    os.utime(path, (0, seconds))
                except (OSError, OverflowError):
                    continue
                self.assert_dated(served.fetch("/a.txt"))

    def test_dates_that_only_some_file_systems_hold(self) -> None:
        class Dated(Share):
            mtime = 0

            def open(self, path: str) -> Representation | None:
                representation = super().open(path)
                if representation:
                    representation.mtime = self.mtime
                return representation

        served = self.serve()
        served.server.share = share = Dated(str(self.folder))
        for share.mtime in [10**30, 253402300800, 253402300799, 0, -62135596800, -62135596801, -(10**30)]:
            with self.subTest(share.mtime):
                reply = served.fetch("/a.txt")
                self.assert_dated(reply)
                if share.mtime <= 0:
                    last = reply.headers["Last-Modified"]
                    self.assertEqual(last, http_date(share.mtime))
                    self.assertEqual(served.fetch("/a.txt", {"If-Modified-Since": last}).status, 304)

    def assert_dated(self, reply: Reply) -> None:
        self.assertEqual((reply.status, reply.body), (200, DATA))
        modified, date = parse_date(reply.headers["Last-Modified"]), parse_date(reply.headers["Date"])
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
                self.assertEqual((reply.status, reply.body, reply.headers["Content-Range"]), (206, content, field))
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
            ("bytes=" + "0-," * 20000, 200, None),
            ("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), 200, None),
        ]:
            with self.subTest(asked[:40]):
                request = PLAIN + b"Range: " + asked.encode("latin-1") + b"\r\n\r\n"
                reply, after = replies(served.raw(request + NEXT))
                self.assertEqual((reply.status, reply.headers["Content-Range"]), (status, field))
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
                message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + reply.body)
                parts = list(message.walk())[1:]
                self.assertEqual(message.defects, [])
                self.assertEqual([part.get_payload(decode=True) for part in parts], [data[a:b] for a, b in spans])
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
                self.assertEqual((reply.status, reply.body, reply.headers["Content-Range"]), (206, content, field))
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
                        client.sendall(f"{method} /a.txt HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode())
                        reply = read_reply(client, method)
                        self.assertEqual(reply.status, 200 if (method, status) == ("HEAD", 206) else status)
                        if status == 304:
                            self.assertEqual(reply.headers["ETag"], tag)
                            self.assertEqual(reply.body, b"")
                            self.assertNotIn("Content-Length", reply.headers)  # RFC 9110 8.6: not 0
                        self.assertNotIn("Connection", reply.headers)

    def test_what_does_not_exist_has_no_preconditions(self) -> None:
        served = self.serve()  # nginx not_modified.t
        for fields in [{"If-Match": '"x"'}, {"If-None-Match": "*"}, {"If-Unmodified-Since": self.BEFORE}]:
            with self.subTest(fields):
                self.assertEqual(served.fetch("/nothing", fields).status, 404)

    def test_if_range(self) -> None:
        served = self.serve()
        tag = served.fetch("/a.txt").headers["ETag"]
        for value, asked, status in [
            (tag, "bytes=4-", 206),
            (self.SAME, "bytes=4-", 206),
            ("Sunday, 06-Nov-94 08:49:37 GMT", "bytes=4-", 206),
            (tag, "bytes=50-", 416),
            (tag, "bytes=x", 400),
            (f"W/{tag}", "bytes=4-", 200),
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
        get, body = "GET /a.txt HTTP/1.", "\r\n\r\nGET /a.txt HTTP/1.1\r\nHost: x\r\n\r\n"
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
            (f"{get}1\r\nHost: x\r\nContent-Length: 00, 00", True),
            # A body is never read as a request
            (f"{get}1\r\nHost: x\r\nContent-Length: {len(body) - 4}", False),
            (f"{get}1\r\nHost: x\r\nContent-Length: 5, 5", False),
            (f"{get}1\r\nHost: x\r\nTransfer-Encoding: chunked", False),
            (f"{get}1\r\nHost: x\r\nTransfer-Encoding: gzip, Chunked", False),
        ]:
            with self.subTest(request):
                first, *after = replies(served.raw(request.encode() + body.encode()))
                self.assertEqual((first.status, first.body), (200, DATA))
                self.assertEqual([reply.status for reply in after], [200] * kept)
                old = "HTTP/1.0" in request
                self.assertEqual(first.version, 10 if old else 11)
                self.assertEqual(first.headers["Connection"], "close" if not kept else "keep-alive" if old else None)

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
        self.assertEqual([(a.status, a.body) for a in answers], [(status, body) for *_, status, body in requests])
        self.assertEqual([a.version for a in answers], [11, 11, 11, 11, 11, 10, 11, 11] * 20)

    def test_one_byte_at_a_time(self) -> None:
        served = self.serve()
        with served.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"\r\n" + PLAIN + b"Range: bytes=3-4\r\n\r\n":
                client.sendall(bytes([byte]))
            self.assertEqual(read_reply(client).body, b"34")

    def test_ranges_for_http_1_0(self) -> None:
        served = self.serve()  # axel needs its 206
        (reply,) = replies(served.raw(b"GET /a.txt HTTP/1.0\r\nRange: bytes=4-\r\n\r\n"))
        self.assertEqual((reply.status, reply.version, reply.body), (206, 10, DATA[4:]))

    def test_expect(self) -> None:
        served = self.serve()  # the final answer at once, no 100 before it
        for method, status in [(b"GET", 200), (b"PUT", 405), (b"POST", 405)]:
            request = method + b" /a.txt HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            with self.subTest(method), served.connect() as client:
                client.sendall(request)
                self.assertTrue(client.recv(99).startswith(b"HTTP/1.1 %d " % status))

    def test_a_big_body_does_not_cost_the_answer(self) -> None:
        served = self.serve()
        with served.connect() as client:
            client.sendall(b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
            client.sendall(b"GET / HTTP/1.1\r\n" * 250000)
            reply = read_reply(client)
            self.assertEqual((reply.status, reply.headers["Connection"]), (405, "close"))
            self.assertEqual(client.recv(1), b"")
        self.assertEqual(len(served.log.all()), 1)

    def test_half_a_request_is_no_request(self) -> None:
        served = self.serve()
        for cut in [b"", b"\r\n", b"GET", b"GET /a.txt HTTP/1.1", PLAIN[:21], PLAIN, PLAIN[:-2], PLAIN + b"X: y"]:
            with self.subTest(cut):
                self.assertEqual(served.raw(cut), b"")
        self.assertEqual(served.log.all(), [])


class Methods(HttpCase):
    def test_known(self) -> None:
        served = self.serve()
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]:
            for target in ["/a.txt", "/nothing", "*", "x:80"]:
                with self.subTest(method, target=target):
                    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                    reply, after = replies(served.raw(request + NEXT))
                    self.assertEqual((reply.status, reply.headers["Allow"]), (405, "GET, HEAD"))
                    self.assertEqual(after.status, 200)

    def test_unknown(self) -> None:
        methods = [b"get", b"Get", b"GETX", b"PROPFIND", b"__init__", b"!#$%&'*+-.^_`|~09AZaz", b"X" * 60000]
        for method in methods:
            self.assert_refused(self.serve(), 501, method + b" /a.txt HTTP/1.1\r\nHost: x\r\n\r\n")


class Malformed(HttpCase):
    def test_request_lines(self) -> None:
        rest = b"\r\nHost: x\r\n\r\n"
        lines = [b"GET", b"GET /a.txt", b"GET  /a.txt HTTP/1.1", b"GET /a.txt  HTTP/1.1", b"GET /a.txt HTTP/1.1 "]
        lines += [b" GET /a.txt HTTP/1.1", b"GET\t/a.txt\tHTTP/1.1", b"GET /a.txt HTTP/1.1 x", b"GET /a b HTTP/1.1"]
        # Apache http_strict.t
        lines += [b"G ET / HTTP/1.0", b"G\0ET / HTTP/1.0", b"G/T / HTTP/1.0", b"GET /\0 HTTP/1.0", b"GET / HTTP/1.0\0"]
        lines += [b"GET / HTT/1.0", b"GET / HTTP/1.11", b"GET / HTTP/10.0", b"GET / HTTP/", b"GET /\x01 HTTP/1.0"]
        lines += [b"GET / HTTP/1.1\r", b"GET / http/1.1", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET HTTP/1.1"]
        lines += [b"GET / HTTP/.1", b"GET / HTTP/1_0", b"GET / HTTP/1.x", b"GET / HTTP/1 .1", b"GET / HTTPS/1.1"]
        lines += [b"G\xc3\x89T / HTTP/1.1", b"GE\x7fT / HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\x0b HTTP/1.1", b"\0"]
        lines += [b"GET / HTTP/1.\xb2", b"GET /a\rb HTTP/1.1", b"\x16\x03\x01\x02\0\x01", b"GET: /a HTTP/1.1", b"()"]
        self.assert_refused(self.serve(), 400, *(line + rest for line in lines))

    def test_versions(self) -> None:
        versions = [b"0.9", b"0.8", b"2.0", b"2.1", b"3.0", b"9.9"]
        self.assert_refused(self.serve(), 505, *(b"GET /a.txt HTTP/" + v + b"\r\nHost: x\r\n\r\n" for v in versions))

    def test_heads(self) -> None:
        get = b"GET /a.txt HTTP/1.1\r\n"
        requests = [get + b"\r\n", get + b"Host: x\r\nHost: x\r\n\r\n", get + b"Host: x\r\nhost: y\r\n\r\n"]
        hosts = [b"a b", b"a/b", b"a@b", b"a:b", b"a, b", b"a\xa0"]
        requests += [get + b"Host: " + host + b"\r\n\r\n" for host in hosts]
        requests += [b"GET /a.txt HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", b"GET http://x/a.txt HTTP/1.1\r\n\r\n"]
        requests += [b"GET /a.txt HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"]
        # Blanks before a colon, folding, control bytes
        fields = [b" X: y", b"\tX: y", b"X : y", b"X\t: y", b"X: y\r\n z", b"X: y\r\n\tz", b"X: y\r\n "]
        fields += [b": y", b"X", b"X y", b"X\xc3\x85: y", b"X(: y", b"X\0: y", b"\x01: y", b"\x7f: y", b"X\r: y"]
        fields += [
            b"X: \0",
            b"X: a\x01b",
            b"X: \x1b[2J",
            b"X: a\x0bb",
            b"X: \x7f",
            b"X: a\rb",
            b"X: a\r",
            b"X: a\rY: b",
        ]
        lengths = [b"", b"x", b"-1", b"+1", b"1_0", b"0x1", b"1 1", b"1,2", b"0\r\nContent-Length: 1", b"1,", b"\xb2"]
        fields += [b"Content-Length: " + length for length in lengths]
        codings = [b"", b"gzip", b"chunked, gzip", b"chunkedx", b"\xa0chunked", b"chunked\r\nContent-Length: 0"]
        fields += [b"Transfer-Encoding: " + coding for coding in codings]
        fields += [b"Content-Length: 5\r\nTransfer-Encoding: chunked"]
        for field in fields:
            requests += [PLAIN + field + b"\r\n\r\n", get + field + b"\r\nHost: x\r\n\r\n"]
        self.assert_refused(self.serve(), 400, *requests)

    def test_what_is_unusual_but_right(self) -> None:
        served = self.serve()
        for head in [
            b"Host:x",
            b"Host: \t x \t ",
            b"hOST: x",
            b"Host:",
            b"Host: x\r\nX:",
            b"Host: x\r\nX: a\tb",
            b"Host: x\r\nX: \xff\x85\xa0",
            b"Host: x\r\n!#$%&'*+-.^_`|~09: \"(),/:;<=>?@[\\]{}",
            b"From: x\r\nHost: x",
            b"Host: x\r\n" + b"X: y\r\n" * 90 + b"X: y",
            b"Host: x\r\nX: " + b"y" * 60000,
            b"Host: x\nX: y",
        ]:
            with self.subTest(head[:60]):
                self.assertEqual(self.statuses(served, b"GET /a.txt HTTP/1.1\r\n" + head + b"\r\n\r\n"), [200, 200])

    def test_a_content_type_that_the_email_package_cannot_take(self) -> None:
        # http.server hands the head to the email package, which looks for the boundary of a multipart.
        served = self.serve()
        for value in [
            b"multipart/x; boundary*" + b"1" * 5000 + b"=x",
            b"multipart/x; boundary*=idna''%ff",
            b"multipart/x; boundary*=undefined''%ff",
            b"multipart/x; boundary*=a%00b''%ff",
            b"multipart/x; boundary=\xff",
            b"multipart/x",
            b"message/rfc822",
            b"message/delivery-status",
            b"message/external-body",
            b"text/plain; charset*0*=\xff''",
            b"multipart/x" + b';"' * 20000,
            b"/",
        ]:
            with self.subTest(value[:40]):
                request = PLAIN + b"Content-Type: " + value + b"\r\nContent-Transfer-Encoding: \xff\r\n\r\n"
                self.assertEqual(self.statuses(served, request), [200, 200])

    def test_too_long(self) -> None:
        served = self.serve()
        get = b"GET /a.txt HTTP/1.1\r\nHost: x\r\n"
        line = b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        self.assert_refused(served, 414, line, b"\r\n" + line, b"a" * 70000 + b"\r\n\r\n")
        self.assertEqual(2, sum('"GET /aaaa' in logged for logged in served.log.all()), "what was asked is named")
        self.assert_refused(served, 431, get + b"X: " + b"y" * 70000 + b"\r\n\r\n", get + b"X" * 70000 + b"\r\n\r\n")
        self.assert_refused(served, 431, get + b"X: y\r\n" * 15000 + b"\r\n", get + b"X: y\r\n" * 200 + b"\r\n")


class Log(HttpCase):
    def test_a_line_for_each_event(self) -> None:
        served = self.serve()
        finished = r'"GET /a.txt HTTP/1.1" req finished. {} B, \d+\.\d s, [0-9.]+ ([KM]i)?B/s'
        delivered = '"/a.txt" delivered. 10 B in 1 request'
        rows: list[tuple[str, str, dict[str, str], list[str]]] = [
            ("/nothing", "GET", {}, ['"GET /nothing HTTP/1.1" 404 -']),
            ("/a.txt", "HEAD", {}, ['"HEAD /a.txt HTTP/1.1" 200 -']),
            ("/a.txt", "GET", {"If-None-Match": "*"}, ['"GET /a.txt HTTP/1.1" 304 -']),
            ("/a.txt", "GET", {"Range": "bytes=50-"}, ['"GET /a.txt HTTP/1.1" 416 -']),
            ("/a.txt", "POST", {}, ['"POST /a.txt HTTP/1.1" 405 -']),
            ("/a.txt", "BREW", {}, ['"BREW /a.txt HTTP/1.1" 501 -']),
            ("/a.txt", "GET", {"Range": "bytes=4-"}, ['"GET /a.txt HTTP/1.1" 206 -', finished.format(6)]),
            ("/a.txt", "GET", {}, ['"GET /a.txt HTTP/1.1" 200 -', finished.format(10), delivered]),
        ]
        for target, method, headers, lines in rows:
            with self.subTest(target, method=method, headers=headers):
                before = len(served.log.all())
                served.fetch(target, headers, method)
                served.log.wait_for(lines[-1])
                logged = served.log.all()[before:]
                self.assertEqual(len(logged), len(lines), logged)
                for line, pattern in zip(logged, lines):
                    self.assertRegex(line, f"^127.0.0.1 {pattern}$")

    def test_no_request_and_no_name_forges_a_line(self) -> None:
        name = 'n\n127.0.0.1 - - [01 Jan 2026 00:00:00] "GET \x1b]0;x\x07\\ \u202e\u2028\x85\u200f\u2066.txt'
        self.write(name)
        served = self.serve()
        paper = Paper()
        terminal = Terminal(None, paper)
        served.server.log = terminal.log
        served.server.deliveries = Deliveries(terminal.log)
        hostile = [
            b'GET /" 200 -\\" HTTP/1.1',
            b'GET /\\\\"\\n HTTP/1.1',
            b"GET /\xe2\x80\xae\xe2\x80\xa8\xe2\x80\xa9\xe2\x81\xa6\xc2\x85\xc2\x9b\xd8\x9c\xff HTTP/1.1",
            b'GET /" 200 -\r10.0.0.1 - - [x] "GET / HTTP/1.1" 200 - HTTP/1.1',
            b"GET /\x1b[2J\x07\x08\x00\x7f HTTP/1.1",
            b"\xc2\x9b2J\xe2\x80\xae\xe2\x80\xa8",
            b"\x0c\x0b\x1c\x1d\x1e\xc2\x85",
            b"GET " + b"\xe2\x80\xa8" * 90 + b" HTTP/2.0",
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
        self.assertEqual(len(lines), len(hostile) + 2 + 3)  # two files were sent
        for line in lines:
            with self.subTest(line[:150]):
                self.assertEqual({c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}, set())
                self.assertRegex(line, LOG_LINE)

    def test_a_bug_of_ours_is_one_line(self) -> None:
        class Broken(Share):
            def open(self, path: str) -> Representation | None:
                if path == "/bug":
                    raise ZeroDivisionError("oh\nno")
                return super().open(path)

        served = self.serve()
        served.server.share = Broken(str(self.folder))
        paper = Paper()
        served.server.log = Terminal(None, paper).log
        self.assertEqual(served.raw(b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT), b"")
        line = paper.lines.wait_for("internal error")
        place = rf"test_http\.py:{Broken.open.__code__.co_firstlineno + 2}"
        self.assertRegex(
            line, rf'^127\.0\.0\.1 - - .* "-" internal error\. ZeroDivisionError: oh\\x0ano \({place}\)\n$'
        )
        self.assertEqual(paper.getvalue(), line)
        self.assertEqual(served.fetch("/a.txt").body, DATA)  # and the server goes on


if __name__ == "__main__":
    unittest.main()
