"""The server: its answers as receivers see them through sockets, its connections, its log lines."""

from __future__ import annotations

import io
import os
import socket
import threading
from email import message_from_bytes
from http.client import HTTPResponse
from typing import Any, Callable
from unittest import mock
from urllib.parse import quote

from httpd_download import MAX_RANGES, Registry, Transfer, http_date, parse_http_date
from tests.support import (
    PATIENCE,
    Clock,
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

DATA = b"0123456789"
LONG_AGO = 784111777
BEFORE, SAME, AFTER = (http_date(LONG_AGO + shift) for shift in (-1, 0, 1))
MIB = 1 << 20
NARROW = 1 << 16  # a receive buffer that makes a slow receiver
HEAD = b"GET /a.txt HTTP/1.1\r\nHost: x\r\n"
# Sent after another request, it shows whether the connection is kept.
NEXT = HEAD + b"\r\n"
NOT_FOUND = b"404 Not Found: ask the sender for the complete link.\n"


class ReceivedBytes(io.BytesIO):
    """In the place of a socket, for HTTPResponse."""

    def makefile(self, mode: str) -> ReceivedBytes:
        return self

    def close(self) -> None:
        """Stay open for the next reply."""


def split_replies(data: bytes, *methods: str) -> list[Reply]:
    """Return the replies in *data* to requests with these methods, and with GET after them."""
    stream = ReceivedBytes(data)
    found: list[Reply] = []
    while stream.tell() < len(data):
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        response = HTTPResponse(stream, method=method)  # type: ignore[arg-type]
        response.begin()
        found.append(Reply(response))
    return found


class ServerCase(FolderCase):
    """A test with a.txt in its folder. No test may make the server log an internal error."""

    allowed_bugs = 0

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
        # A thread logs a bug as its last action.
        until(lambda: threading.active_count() <= self.threads, "no thread is left")
        lines = [line for log in self.logs for line in log.all()]
        bugs = [line for line in lines if "internal error" in line]
        self.assertEqual(len(bugs), self.allowed_bugs, bugs)

    def statuses(self, served: Served, request: bytes, *methods: str) -> list[int]:
        """Send *request* and another behind it; return the statuses of all replies."""
        return [reply.status for reply in split_replies(served.raw(request + NEXT), *methods)]

    def assert_refused(self, served: Served, status: int, request: bytes) -> None:
        """The request gets *status* and a line in the log, and ends its connection."""
        with self.subTest(request[:90], length=len(request)):
            logged = len(served.log.all())
            method = "HEAD" if request.startswith(b"HEAD ") else "GET"
            (reply,) = split_replies(served.raw(request + NEXT), method)
            self.assertEqual((reply.status, reply.headers["Connection"]), (status, "close"))
            expected = b"" if method == "HEAD" else b"%d " % status
            self.assertEqual(reply.body[:4], expected)
            (line,) = served.log.all()[logged:]
            self.assertTrue(line.endswith(f'" {status} -'), line)

    def break_off(self, served: Served, name: str, agent: str) -> str:
        """Fetch *name*, be killed after two megabytes, and return its entity tag."""
        with served.connect(NARROW) as client:
            client.sendall(
                f"GET /{name} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n\r\n".encode()
            )
            response = HTTPResponse(client)
            response.begin()
            response.read(2 * MIB)
            response.close()
            reset(client)
        served.rest()
        served.log.wait_for(f'"GET /{name} .* req terminated')
        return response.headers["ETag"]

    def replace(self, name: str, data: bytes) -> None:
        """Put another file, with the same time, in the place of *name*."""
        self.write("new", data)
        os.utime(self.folder / "new", (LONG_AGO, LONG_AGO))
        os.replace(self.folder / "new", self.folder / name)


class Answers(ServerCase):
    def test_get(self) -> None:
        reply = self.serve().fetch("/a.txt")
        self.assertEqual((reply.status, reply.version, reply.body), (200, 11, DATA))
        expected = {
            "Server": "httpd_download",
            "Accept-Ranges": "bytes",
            "Content-Disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt",
            "Last-Modified": SAME,
            "X-Content-Type-Options": "nosniff",
            "Content-Length": "10",
            "Content-Type": "text/plain",
        }
        self.assertEqual({name: reply.headers[name] for name in expected}, expected)
        self.assertRegex(reply.headers["ETag"], r'^"[!#-~]+"$')
        self.assertEqual(sorted(reply.headers), sorted([*expected, "ETag", "Date"]))

    def test_head_has_the_fields_of_get_and_ignores_ranges(self) -> None:
        served = self.serve()
        for target in ["/a.txt", "/nothing"]:
            expected = served.fetch(target)
            for asked in ["", "bytes=2-3", "bytes=50-", "bytes=x", "bytes=0-1,3-4"]:
                with self.subTest(target, asked=asked):
                    reply = served.fetch(target, {"Range": asked}, "HEAD")
                    self.assertEqual((reply.status, reply.body), (expected.status, b""))
                    del reply.headers["Date"], expected.headers["Date"]
                    self.assertEqual(reply.headers.items(), expected.headers.items())

    def test_an_empty_file_ignores_ranges(self) -> None:
        self.write("empty", b"")
        served = self.serve()
        for asked in ["", "bytes=0-", "bytes=-1", "bytes=5-"]:
            with self.subTest(asked):
                reply = served.fetch("/empty", {"Range": asked})
                length = reply.headers["Content-Length"]
                self.assertEqual((reply.status, reply.body, length), (200, b"", "0"))

    def test_fields_and_the_log_line_of_answers_without_an_offer(self) -> None:
        served = self.serve()
        text = "text/plain; charset=utf-8"
        rows: list[tuple[str, str, dict[str, str], int, str | None]] = [
            ("HEAD", "/a.txt", {}, 200, "text/plain"),
            ("GET", "/a.txt", {"If-None-Match": "*"}, 304, None),
            ("GET", "/a.txt", {"Range": "bytes=x"}, 400, text),
            ("GET", "/a.txt", {"Content-Length": "5"}, 400, text),
            ("GET", "/", {}, 404, text),
            ("HEAD", "/nothing", {}, 404, text),
            ("DELETE", "/a.txt", {}, 405, text),
            ("GET", "/a.txt", {"If-Match": '"x"'}, 412, text),
            ("GET", "/a.txt", {"Range": "bytes=50-"}, 416, text),
            ("BREW", "/a.txt", {}, 501, text),
        ]
        for method, target, fields, status, content_type in rows:
            with self.subTest(method, target=target, status=status):
                reply = served.fetch(target, fields, method)
                self.assertEqual(reply.status, status)
                self.assertEqual(reply.headers["Content-Type"], content_type)
                self.assertEqual(reply.headers["X-Content-Type-Options"], "nosniff")
                self.assertEqual(reply.headers["Server"], "httpd_download")
                self.assertIsNotNone(parse_http_date(reply.headers["Date"]))
                self.assertIsNone(reply.headers["Location"])
                self.assertEqual("ETag" in reply.headers, status < 400)
                self.assertEqual("Content-Disposition" in reply.headers, status == 200)
        expected = [f'127.0.0.1 "{m} {t} HTTP/1.1" {status} -' for m, t, _, status, _ in rows]
        self.assertEqual(served.log.all(), expected)

    def test_name_and_type_as_bytes(self) -> None:
        # One that holds everything at once; the syntax tests have the table.
        name = 'sub/中 "é"\r\nX-A: b.PDF'
        try:
            self.write(name)
        except OSError:
            self.skipTest("the file system does not take such names")
        served = self.serve(is_recursive=True)
        line = (
            'Content-Disposition: attachment; filename="中 _é___X-A: b.PDF"; '
            "filename*=UTF-8''%E4%B8%AD%20%22%C3%A9%22%0D%0AX-A%3A%20b.PDF"
        ).encode()
        pdf = b"Content-Type: application/pdf"
        for method, asked, status in [
            (b"GET", b"", b"200"),
            (b"GET", b"Range: bytes=1-\r\n", b"206"),
            (b"GET", b"Range: bytes=0-1,4-5\r\n", b"206"),
            (b"HEAD", b"", b"200"),
        ]:
            with self.subTest(method, asked=asked):
                request = method + b" /" + quote(name).encode() + b" HTTP/1.1\r\nHost: x\r\n"
                data = served.raw(request + asked + b"\r\n")
                first, *lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
                self.assertEqual(first.split()[1], status)
                self.assertIn(line, lines)
                self.assertEqual([each for each in lines if each.startswith(b"X-A")], [])
                self.assertIn(pdf, data)

    def test_targets(self) -> None:
        # In Latin-1 and in Unicode some of these characters are white space.
        blanks = "Å\x85à\xa0\u2028…"
        for name in ["a b.txt", "中文", blanks, "sub/b"]:
            self.write(name, name.encode())
        served = self.serve(is_recursive=True)
        for target, status, content in [
            (b"/a.txt", 200, DATA),
            (b"/a.txt?x=/y#z", 200, DATA),
            (b"/a.txt?\xff\xfe", 200, DATA),
            (b"/%61%2etxt", 200, DATA),
            (b"http://other:1/a.txt?x", 200, DATA),
            (b"HTTPS://[::1]:80/a%20b.txt", 200, b"a b.txt"),
            # curl sends UTF-8.
            ("http://x/中文?中".encode(), 200, "中文".encode()),
            (b"/" + blanks.encode(), 200, blanks.encode()),
            (quote("/" + blanks).encode(), 200, blanks.encode()),
            (b"/./a.txt", 200, DATA),
            (b"/sub/./%2e/b", 200, b"sub/b"),
            (b"/sub/../a.txt", 404, NOT_FOUND),
            (b"/sub/%2e%2E/a.txt", 404, NOT_FOUND),
            (b"/a.txt/.", 404, NOT_FOUND),
            (b"/.", 404, NOT_FOUND),
            (b"/sub/.", 404, NOT_FOUND),
            (b"/sub", 404, NOT_FOUND),
            (b"/%zz", 404, NOT_FOUND),
            (b"/%00", 404, NOT_FOUND),
            (b"/\xff\xfe", 404, NOT_FOUND),
            (b"/a.txt%20", 404, NOT_FOUND),
            (b"*", 400, b"400 Bad Request: malformed request target\n"),
            (b"ftp://x/a.txt", 400, b"400 Bad Request: malformed request target\n"),
        ]:
            with self.subTest(target):
                request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
                reply, after = split_replies(served.raw(request + NEXT))
                self.assertEqual((reply.status, reply.body, after.body), (status, content, DATA))

    def test_files_of_any_date_are_served(self) -> None:
        served = self.serve()
        fstat = os.fstat
        year_0001 = -62135596800
        year_9999 = 253402300799
        for seconds in [
            *(0, -1, -(2**31) - 1, 2**31, 2**33, 2**62, -(2**62), 10**30, -(10**30)),
            *(year_9999, year_9999 + 1, year_0001, year_0001 - 1),
        ]:

            def with_date(descriptor: int, seconds: int = seconds) -> os.stat_result:
                times = {"st_mtime_ns": seconds * 10**9}
                return os.stat_result(tuple(fstat(descriptor))[:10], times)

            with open(os.devnull) as file:
                try:
                    with_date(file.fileno()).st_mtime_ns  # noqa: B018
                except TypeError:
                    self.skipTest("no status can be made up (PyPy)")
            with self.subTest(seconds), mock.patch("os.fstat", with_date):
                reply = served.fetch("/a.txt")
                self.assertEqual((reply.status, reply.body), (200, DATA))
                modified = parse_http_date(reply.headers["Last-Modified"])
                date = parse_http_date(reply.headers["Date"])
                assert modified is not None and date is not None
                # RFC 9110 8.8.2.1
                self.assertLessEqual(modified, date)
                if seconds <= 0:
                    self.assertEqual(reply.headers["Last-Modified"], http_date(seconds))


class Ranges(ServerCase):
    def test_one_range(self) -> None:
        served = self.serve()
        tag = served.fetch("/a.txt").headers["ETag"]
        for asked, content, field in [
            ("bytes=0-", DATA, "bytes 0-9/10"),
            ("bytes=4-6", b"456", "bytes 4-6/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
            ("bytes=5-99", b"56789", "bytes 5-9/10"),
            ("bytes=50-60,1-2", b"12", "bytes 1-2/10"),
            ("Bytes=1-" + "9" * 9999, b"123456789", "bytes 1-9/10"),
        ]:
            with self.subTest(asked[:40]):
                reply = served.fetch("/a.txt", {"Range": asked})
                self.assertEqual((reply.status, reply.body), (206, content))
                self.assertEqual(reply.headers["Content-Range"], field)
                self.assertEqual(reply.headers["Content-Length"], str(len(content)))
                self.assertEqual(reply.headers["Content-Type"], "text/plain")
                self.assertEqual(reply.headers["ETag"], tag)

    def test_other_answers(self) -> None:
        served = self.serve()
        for asked, status, field in [
            # curl 7.60 appends the body of a 416 to the file that it has, so there is none.
            ("bytes=10-", 416, "bytes */10"),
            ("bytes=-0", 416, "bytes */10"),
            ("bytes=" + "9" * 9999 + "-", 416, "bytes */10"),
            ("bytes=5-4", 400, None),
            ("bytes=\xb2-", 400, None),
            ("items=0-1", 200, None),
            ("", 200, None),
            ("bytes=8-9,0-1,1-2", 200, None),
            ("bytes=0-0" + ",50-" * MAX_RANGES, 200, None),
        ]:
            with self.subTest(asked[:40]):
                request = HEAD + b"Range: " + asked.encode("latin-1") + b"\r\n\r\n"
                reply, after = split_replies(served.raw(request + NEXT))
                self.assertEqual((reply.status, reply.headers["Content-Range"]), (status, field))
                self.assertEqual(reply.body == b"", status == 416)
                self.assertEqual(reply.body == DATA, status == 200)
                self.assertEqual(after.body, DATA)

    def test_several_ranges(self) -> None:
        data = (bytes(range(256)) + b"\r\n--\r\n") * 400
        self.write("data.tar.gz", data)
        served = self.serve()
        for spans in [
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
                multipart_type = reply.headers["Content-Type"]
                self.assertRegex(multipart_type, "^multipart/byteranges; boundary=[0-9A-Za-z]+$")
                head = f"Content-Type: {multipart_type}\r\n\r\n".encode()
                message = message_from_bytes(head + reply.body)
                self.assertEqual(message.defects, [])
                received = [
                    (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))
                    for part in list(message.walk())[1:]
                ]
                expected = [
                    ("application/gzip", f"bytes {a}-{b - 1}/{len(data)}", data[a:b])
                    for a, b in spans
                ]
                self.assertEqual(received, expected)

    def test_beyond_four_gigabytes(self) -> None:
        size, end = 5 << 30, b"the very end"
        with open(self.folder / "big", "wb") as file:
            try:
                file.seek(size - len(end))
                file.write(end)
            except OSError as error:
                self.skipTest(f"no file of 5 GiB here: {error}")
        if getattr(os.stat(self.folder / "big"), "st_blocks", size) > 1 << 20:
            self.skipTest("no sparse files here")
        served = self.serve()
        self.assertEqual(served.fetch("/big", method="HEAD").headers["Content-Length"], str(size))
        for asked, status, content, field in [
            (f"bytes={size - 8}-", 206, end[-8:], f"bytes {size - 8}-{size - 1}/{size}"),
            ("bytes=-3", 206, end[-3:], f"bytes {size - 3}-{size - 1}/{size}"),
            ("bytes=4294967295-4294967297", 206, bytes(3), f"bytes 4294967295-4294967297/{size}"),
            (f"bytes={size}-", 416, b"", f"bytes */{size}"),
        ]:
            with self.subTest(asked):
                reply = served.fetch("/big", {"Range": asked})
                self.assertEqual((reply.status, reply.body), (status, content))
                self.assertEqual(reply.headers["Content-Range"], field)

    def test_resume_only(self) -> None:
        served = self.serve(resume_only=True)
        for asked, status, content in [
            ("bytes=4-", 206, DATA[4:]),
            ("bytes=10-", 416, b""),
            # aria2 resumes so, and it may get more than it asked for.
            ("bytes=4-9", 206, DATA[4:]),
            ("bytes=4-5", 206, DATA[4:]),
            # axel takes 206 for the promise of more ranges.
            ("bytes=0-", 200, DATA),
            ("bytes=0-4", 200, DATA),
            ("bytes=-4", 200, DATA),
            ("bytes=4-,0-1", 200, DATA),
            ("bytes=1-2,4-5", 200, DATA),
        ]:
            with self.subTest(asked):
                reply = served.fetch("/a.txt", {"Range": asked})
                self.assertEqual((reply.status, reply.body), (status, content))


class Conditions(ServerCase):
    def test_preconditions_keep_the_connection(self) -> None:
        served = self.serve()
        tag = served.fetch("/a.txt").headers["ETag"]
        with served.connect() as client:
            for fields, status in [
                (f'If-None-Match: "x", W/{tag}', 304),
                (f'If-None-Match: "x"\r\nIf-Modified-Since: {SAME}', 200),
                (f"If-Modified-Since: {SAME}", 304),
                (f"If-Modified-Since: {BEFORE}", 200),
                (f"If-Match: W/{tag}", 412),
                (f"If-Match: {tag}", 200),
                (f"If-Unmodified-Since: {BEFORE}", 412),
                # Before Range is looked at: RFC 9110 13.2.2
                (f"If-None-Match: {tag}\r\nRange: bytes=50-", 304),
                ('If-Match: "x"\r\nRange: bytes=x', 412),
                (f"If-Match: {tag}\r\nRange: bytes=0-1", 206),
                (f"If-Unmodified-Since: {SAME}\r\nRange: bytes=0-1", 206),
            ]:
                for method in ["GET", "HEAD"]:
                    with self.subTest(fields, method=method):
                        head = f"{method} /a.txt HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n"
                        client.sendall(head.encode())
                        reply = read_reply(client, method)
                        expected = 200 if (method, status) == ("HEAD", 206) else status
                        self.assertEqual(reply.status, expected)
                        self.assertNotIn("Connection", reply.headers)
                        if status == 304:
                            self.assertEqual((reply.headers["ETag"], reply.body), (tag, b""))
                            # RFC 9110 8.6: not 0
                            self.assertNotIn("Content-Length", reply.headers)

    def test_what_does_not_exist_has_no_preconditions(self) -> None:
        # nginx not_modified.t
        served = self.serve()
        for fields in [{"If-Match": '"x"'}, {"If-None-Match": "*"}]:
            with self.subTest(fields):
                self.assertEqual(served.fetch("/nothing", fields).status, 404)

    def test_if_range(self) -> None:
        served = self.serve()
        tag = served.fetch("/a.txt").headers["ETag"]
        for value, asked, status in [
            (tag, "bytes=4-", 206),
            (f" {tag}\t", "bytes=4-", 206),
            (tag, "bytes=50-", 416),
            (tag, "bytes=x", 400),
            # apt
            (SAME, "bytes=4-", 206),
            (SAME, "bytes=50-", 416),
            (BEFORE, "bytes=4-", 200),
            (AFTER, "bytes=4-", 200),
            ("Sun Nov  6 08:49:37 1994", "bytes=4-", 200),
            (f"W/{tag}", "bytes=4-", 200),
            ("*", "bytes=4-", 200),
            ('"x"', "bytes=50-", 200),
            ('"x"', "bytes=x", 200),
            ("", "bytes=4-", 200),
        ]:
            with self.subTest(value, asked=asked):
                reply = served.fetch("/a.txt", {"Range": asked, "If-Range": value})
                self.assertEqual(reply.status, status)
                if status < 400:
                    self.assertEqual(reply.body, DATA[4:] if status == 206 else DATA)

    def test_if_range_with_a_date_resumes_the_same_version_only(self) -> None:
        # A date cannot tell two versions of one second apart.
        old = self.write("big", 4 * MIB)
        os.utime(self.folder / "big", (LONG_AGO, LONG_AGO))
        served = self.serve()
        fields = {"User-Agent": "apt", "If-Range": SAME, "Range": f"bytes={MIB // 2}-"}
        self.break_off(served, "big", "apt")
        self.assertEqual(served.fetch("/big", fields).body, old[MIB // 2 :])
        served.log.wait_for("delivered")
        self.break_off(served, "big", "other")
        self.replace("big", os.urandom(4 * MIB))
        fields["User-Agent"] = "other"
        self.assertEqual(served.fetch("/big", fields).status, 409)

    def test_another_version_has_another_tag(self) -> None:
        served = self.serve()
        path = self.folder / "a.txt"
        stamp = LONG_AGO * 10**9

        def grow() -> None:
            path.write_bytes(DATA + b"x")
            os.utime(path, ns=(stamp, stamp))

        changes: list[tuple[str, Callable[[], None]]] = [
            ("time", lambda: os.utime(path, (0, LONG_AGO + 2))),
            ("nanoseconds", lambda: os.utime(path, ns=(0, stamp + 1000))),
            ("size", grow),
            ("content, with the same size and time", lambda: self.replace("a.txt", DATA[::-1])),
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


class Refusals(ServerCase):
    """Two refusals tell the sender why; which requests get them is tested with the registry."""

    def test_piece_that_comes_before_the_end_of_a_probe(self) -> None:
        """aria2 -x8 under load, which goes on with what it has itself, or what curl has left."""
        for agent in ("x", "curl/8"):
            with self.subTest(agent):
                self.check_piece_before_the_end_of_a_probe(agent)

    def check_piece_before_the_end_of_a_probe(self, agent: str) -> None:
        self.write("big", 4 * MIB)
        served = self.serve()
        self.break_off(served, "big", agent)
        self.replace("big", os.urandom(4 * MIB))
        head = b"GET /big HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n"
        has_come = threading.Event()
        wait_for_probe = Registry.wait_for_probe

        def wait(registry: Registry, transfer: Transfer) -> None:
            if transfer.first > 0:
                has_come.set()
            wait_for_probe(registry, transfer)

        with served.connect() as piece, mock.patch.object(Registry, "wait_for_probe", wait):
            probe = served.connect(receive_buffer=1 << 14)
            probe.sendall(head + b"\r\n")
            read_exactly(probe, 100)
            piece.sendall(head + b"Range: bytes=3000000-3000999\r\n\r\n")
            self.assertTrue(has_come.wait(PATIENCE))
            reset(probe)
            self.assertEqual(read_reply(piece).status, 409)

    def test_409_says_why_and_keeps_the_connection(self) -> None:
        self.write("big", 4 * MIB)
        served = self.serve()
        tag = self.break_off(served, "big", "x")
        # Shorter than what the receiver has: 409 comes before any 416.
        content = os.urandom(MIB // 4)
        self.replace("big", content)
        logged = len(served.log.all())
        head = f"GET /big HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\nRange: bytes={MIB // 2}-\r\n\r\n"
        data = served.raw(head.encode() + b"HEAD" + NEXT[3:])
        line = b"HTTP/1.1 409 The file has changed: start over"
        self.assertEqual(data.partition(b"\r\n")[0], line)
        reply, after = split_replies(data, "GET", "HEAD")
        self.assertEqual((reply.status, after.status), (409, 200))
        self.assertEqual(reply.body, b"409 The file has changed: start over\n")
        self.assertNotIn("Content-Range", reply.headers)
        self.assertEqual(
            served.log.all()[logged:],
            [
                '127.0.0.1 "GET /big HTTP/1.1" '
                "409 - the file has changed, the receiver must start over",
                '127.0.0.1 "HEAD /a.txt HTTP/1.1" 200 -',
            ],
        )
        # With the tag of the old version, the receiver gets the whole new one.
        fields = {"User-Agent": "x", "Range": f"bytes={MIB // 2}-", "If-Range": tag}
        reply = served.fetch("/big", fields)
        self.assertEqual((reply.status, reply.body), (200, content))

    def test_503_says_why_and_closes_the_connection(self) -> None:
        content = self.write("big", 4 * MIB)
        served = self.serve(max_deliveries=1)
        with served.connect(NARROW) as slow:
            slow.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nUser-Agent: slow\r\n\r\n")
            skip_head(slow)
            served.fetch("/a.txt")
            served.log.wait_for('"/a.txt" delivered')
            for target, asked in [("/a.txt", ""), ("/a.txt", "bytes=4-"), ("/big", "bytes=0-")]:
                with self.subTest(target, asked=asked):
                    logged = len(served.log.all())
                    fields = {"User-Agent": "other", "Range": asked}
                    reply = served.fetch(target, fields)
                    self.assertEqual((reply.status, reply.headers["Connection"]), (503, "close"))
                    self.assertEqual(reply.body[:24], b"503 Service Unavailable:")
                    expected = f'"GET {target} HTTP/1.1" 503 - enough was delivered'
                    self.assertEqual(served.log.all()[logged:], [f"127.0.0.1 {expected}"])
            # A download that is under way may fetch another segment, and goes on to its end.
            fields = {"User-Agent": "slow", "Range": "bytes=-9"}
            self.assertEqual(served.fetch("/big", fields).body, content[-9:])
            # Answers that begin no download stay the same.
            self.assertEqual(served.fetch("/a.txt", method="HEAD").status, 200)
            self.assertEqual(served.fetch("/nothing").status, 404)
            self.assertEqual(read_exactly(slow, len(content)), content)
        served.log.wait_for('"/big" delivered')


class Connections(ServerCase):
    def test_kept_or_closed(self) -> None:
        served = self.serve()
        for request, is_kept, field in [
            ("1\r\nHost: x", True, None),
            ("1\r\nHost: x\r\nConnection: keep-alive", True, None),
            ("1\r\nHost: x\r\nConnection: te , CLOSE", False, "close"),
            ("9\r\nHost: x", True, None),
            ("0", False, "close"),
            ("0\r\nConnection: te, Keep-Alive", True, "keep-alive"),
            ("0\r\nConnection: keep-alive, close", False, "close"),
            ("1\r\nHost: x\r\nContent-Length: 0", True, None),
        ]:
            with self.subTest(request):
                head = f"GET /a.txt HTTP/1.{request}\r\n\r\n".encode()
                first, *after = split_replies(served.raw(head + NEXT))
                self.assertEqual((first.status, first.body), (200, DATA))
                self.assertEqual(len(after), int(is_kept))
                self.assertEqual(first.version, 10 if request.startswith("0") else 11)
                self.assertEqual(first.headers["Connection"], field)

    def test_requests_in_one_packet_wait_for_no_clock(self) -> None:
        """Each response ends by the next request, not by the half second after the last one."""
        with mock.patch.object(Clock, "__call__", lambda clock: clock.ahead):
            served = self.serve()
            with served.connect() as client:
                client.sendall(b"GET /a.txt HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
                replies = b""
                while replies.count(DATA) < 4:
                    replies += client.recv(1 << 16)

    def test_pipelining(self) -> None:
        served = self.serve()
        get, host = b"GET /a.txt HTTP/1.1\r\n", b"Host: x\r\n\r\n"
        old = b"GET /a.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        rows = [
            (get + b"Range: bytes=0-1\r\n" + host, "GET", 206, 11, b"01"),
            (b"HEAD /a.txt HTTP/1.1\r\n" + host, "HEAD", 200, 11, b""),
            (b"GET /no HTTP/1.1\r\n" + host, "GET", 404, 11, NOT_FOUND),
            (b"\r\n\n\r\nGET /a.txt HTTP/1.1\nHost: x\n\n", "GET", 200, 11, DATA),
            (b"DELETE /a.txt HTTP/1.1\r\n" + host, "GET", 405, 11, b"405 Method Not Allowed\n"),
            (b"HEAD /no HTTP/1.1\r\n" + host, "HEAD", 404, 11, b""),
            (old, "GET", 200, 10, DATA),
            (get + b"If-None-Match: *\r\n" + host, "GET", 304, 11, b""),
            (get + b"Range: bytes=-1\r\n" + host, "GET", 206, 11, b"9"),
        ] * 20
        data = served.raw(b"".join(request for request, *_ in rows))
        answers = split_replies(data, *(method for _, method, *_ in rows))
        self.assertEqual(
            [(answer.status, answer.version, answer.body) for answer in answers],
            [(status, version, body) for _, _, status, version, body in rows],
        )

    def test_one_byte_at_a_time(self) -> None:
        with self.serve().connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"\r\n" + HEAD + b"Range: bytes=3-4\r\n\r\n":
                client.sendall(bytes([byte]))
            self.assertEqual(read_reply(client).body, b"34")

    def test_http_1_0(self) -> None:
        served = self.serve()
        for line, fields, status in [
            (b"GET /a.txt", b"", 200),
            (b"HEAD /a.txt", b"", 200),
            # axel needs its 206.
            (b"GET /a.txt", b"Range: bytes=1-2\r\n", 206),
            (b"GET /a.txt", b"If-None-Match: *\r\n", 304),
            (b"GET a.txt", b"", 400),
            (b"GET /a.txt", b"X : y\r\n", 400),
            (b"GET /a.txt", b"Content-Length: 5\r\n", 400),
            (b"GET /nothing", b"", 404),
            (b"POST /a.txt", b"", 405),
            (b"GET /a.txt", b"If-Match: x\r\n", 412),
            (b"GET /a.txt", b"Range: bytes=50-\r\n", 416),
            (b"BREW /a.txt", b"", 501),
        ]:
            with self.subTest(line, fields=fields):
                data = served.raw(line + b" HTTP/1.0\r\n" + fields + b"\r\n")
                (reply,) = split_replies(data, line.split()[0].decode())
                self.assertEqual((reply.status, reply.version), (status, 10))
                self.assertEqual(reply.headers["Connection"], "close")

    def test_expect_is_answered_at_once(self) -> None:
        # With the final answer: no body is ever wanted.
        served = self.serve()
        for line, length, status in [(HEAD, 0, 200), (HEAD, 5, 400), (b"PUT" + HEAD[3:], 5, 405)]:
            with self.subTest(line, length=length), served.connect() as client:
                fields = f"Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
                client.sendall(line + fields.encode())
                self.assertTrue(client.recv(99).startswith(b"HTTP/1.1 %d " % status))

    def test_an_interrupted_request_is_no_request(self) -> None:
        served = self.serve()
        for start in [b"", b"\r\n", b"GET", HEAD[:21], HEAD, HEAD[:-2], HEAD + b"X: y"]:
            with self.subTest(start):
                self.assertEqual(served.raw(start), b"")
        self.assertEqual(served.log.all(), [])


class Methods(ServerCase):
    def test_405_whatever_else_is_asked(self) -> None:
        served = self.serve()
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]:
            for target in ["/a.txt", "/nothing", "*", "x:80"]:
                for field in ["", "Content-Length: 0\r\n", "Range: bytes=x\r\n"]:
                    with self.subTest(method, target=target, field=field):
                        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode()
                        reply, after = split_replies(served.raw(head + NEXT))
                        self.assertEqual((reply.status, reply.headers["Allow"]), (405, "GET, HEAD"))
                        self.assertEqual(after.status, 200)

    def test_405_with_a_body_closes_the_connection(self) -> None:
        served = self.serve()
        post = b"POST /a.txt HTTP/1.1\r\nHost: x\r\n"
        for field in [b"Content-Length: 1", b"Transfer-Encoding: chunked"]:
            # The request after it is taken for the body, as a proxy would.
            self.assert_refused(served, 405, post + field + b"\r\n\r\n")
        self.assertEqual(served.fetch("/a.txt", {}, "POST").headers["Allow"], "GET, HEAD")
        for fields in [
            b"Content-Length: +5",
            b"Content-Length: 5, 5",
            b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        ]:
            self.assert_refused(served, 400, post + fields + b"\r\n\r\n")

    def test_a_body_is_discarded_until_the_client_closes(self) -> None:
        # A connection that is closed with unread input is reset: the client would lose the answer
        # (RFC 9112 9.6).
        served = self.serve()
        with served.connect() as client:
            client.sendall(b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
            reply = read_reply(client)
            self.assertEqual((reply.status, reply.headers["Connection"]), (405, "close"))
            self.assertEqual(client.recv(1), b"")
            # More than the buffers of both systems hold.
            client.sendall(b"GET / HTTP/1.1\r\n" * MIB)
        self.assertEqual(served.log.all(), ['127.0.0.1 "POST /a.txt HTTP/1.1" 405 -'])

    def test_unknown_methods(self) -> None:
        served = self.serve()
        for method in [b"get", b"GETX", b"__init__", b"!#$%&'*+-.^_`|~09AZaz", b"X" * 60000]:
            self.assert_refused(served, 501, method + b" /a.txt HTTP/1.1\r\nHost: x\r\n\r\n")


class Malformed(ServerCase):
    """One request of each kind; the syntax tests have the tables."""

    def test_heads(self) -> None:
        served = self.serve()
        for status, request in [
            (400, b"GET /a.txt\r\n"),
            (400, b"GET  /a.txt HTTP/1.1\r\nHost: x\r\n"),
            (400, b" GET /a.txt HTTP/1.1\r\nHost: x\r\n"),
            (400, b"\x16\x03\x01\x02\0\x01\r\n"),
            (400, b"GET /a.txt HTTP/1.11\r\nHost: x\r\n"),
            (400, b"GET /a.txt HTTP/1.1\r\n"),
            (400, b"GET /a.txt HTTP/1.1\r\nHost: x y\r\n"),
            (400, HEAD + b"Host: x\r\n"),
            (400, HEAD + b"X : y\r\n"),
            (400, HEAD + b"X: y\r\n z\r\n"),
            (400, b"HEAD" + HEAD[3:] + b"X: \0\r\n"),
            (400, HEAD + b"Content-Length: 5\r\n"),
            (400, b"HEAD" + HEAD[3:] + b"Transfer-Encoding: chunked\r\n"),
            (505, b"GET /a.txt HTTP/0.9\r\n"),
            (505, b"PRI * HTTP/2.0\r\n"),
        ]:
            self.assert_refused(served, status, request + b"\r\n")

    def test_unusual_fields_are_accepted(self) -> None:
        served = self.serve()
        for fields in [
            b"X: \xff\x85\xa0\r\n",
            b"X: " + b"y" * 60000 + b"\r\n",
            # http.client stops at 100 fields.
            b"X: y\r\n" * 200,
            # http.server reads heads with the email package, which fails on these.
            b"Content-Type: multipart/x; boundary*=undefined''%ff\r\n",
            b"Content-Type: multipart/x; boundary*" + b"1" * 5000 + b"=x\r\n",
            b"Content-Type: message/external-body\r\n",
            b"Content-Transfer-Encoding: \xff\r\n",
        ]:
            with self.subTest(fields[:60]):
                self.assertEqual(self.statuses(served, HEAD + fields + b"\r\n"), [200, 200])

    def test_empty_lines_before_a_request_are_skipped(self) -> None:
        # RFC 9112 2.2
        served = self.serve()
        for lines in [b"\r\n", b"\n", b"\r\n\n\r\n" * 20]:
            with self.subTest(lines[:9]):
                self.assertEqual(self.statuses(served, lines + NEXT + lines), [200, 200])
        self.assert_refused(served, 400, b"\r\n" * 40000)

    def test_too_long(self) -> None:
        served = self.serve()
        target = b"/" + b"a" * 65000
        request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        self.assertEqual(self.statuses(served, request), [404, 200])
        line = b"GET " + target + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        for request in [line, b"\r\n" + line, b"a" * 70000 + b"\r\n\r\n"]:
            self.assert_refused(served, 414, request)
        # The log names the target.
        self.assertEqual(len([each for each in served.log.all() if '"GET /aaaa' in each]), 3)
        for fields in [b"X: " + b"y" * 70000, b"X" * 70000, b"X: y\r\n" * 15000 + b"X: y"]:
            self.assert_refused(served, 431, HEAD + fields + b"\r\n\r\n")


class LogLines(ServerCase):
    def test_each_request_is_one_line_whatever_it_contains(self) -> None:
        # The terminal escapes them: see its tests.
        served = self.serve()
        lines = [
            b'GET /" 200 -\\" HTTP/1.1',
            b"GET /\xe2\x80\xae\xe2\x80\xa8\xc2\x85\xc2\x9b\xff HTTP/1.1",
            b'GET /" 200 -\r10.0.0.1 - - [x] "GET / HTTP/1.1" 200 - HTTP/1.1',
            b"GET /\x1b[2J\x07\x08\x00\x7f HTTP/1.1",
            b"\x0c\x0b\x1c\x1d\x1e\xc2\x85",
            b"BREW\xe2\x80\xa8 / HTTP/1.1",
            b'"""\\',
        ]
        for line in lines:
            served.raw(line + b"\r\nHost: x\r\n\r\n")
        logged = [line.rpartition('" ')[0] for line in served.log.all()]
        texts = [line.decode("utf-8", "surrogateescape") for line in lines]
        self.assertEqual(logged, [f'127.0.0.1 "{text}' for text in texts])

    def test_a_bug_is_one_line_and_the_server_goes_on(self) -> None:
        self.allowed_bugs = 2
        served = self.serve()
        for error, event in [
            (ZeroDivisionError("oh no"), "ZeroDivisionError: oh no"),
            # The words of TLS for a client that merely closes, but not from TLS.
            (EOFError("EOF when reading a line"), "EOFError: EOF when reading a line"),
        ]:
            with mock.patch.object(served.server.share, "open", side_effect=error):
                self.assertEqual(served.raw(NEXT + NEXT), b"")
            line = served.log.wait_for(type(error).__name__)
            self.assertEqual(line, f'127.0.0.1 "-" internal error. {event}')
        self.assertEqual(len(served.log.all()), 2)
        self.assertEqual(served.fetch("/a.txt").body, DATA)
