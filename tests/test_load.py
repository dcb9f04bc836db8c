"""Load, faults, attacks, a secret link and TLS: small versions of what issue 4 tries in earnest."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import random
import re
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable, Iterable
from unittest import mock

import httpd_download
from httpd_download import MAX_PIPELINED, Deliveries, Ledger, QuietServer, Share
from tests.support import PATIENCE, FolderCase, Lines, Program, ProgramCase, Served, read_all, read_reply, reset, until

PROC = Path("/proc/self/stat").exists()


def request(target: str = "/a.txt", *fields: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def workers(server: QuietServer, threads: Iterable[threading.Thread] | None = None) -> list[threading.Thread]:
    """Return those of *threads*, else of all that live, that serve connections of *server*."""
    candidates = threading.enumerate() if threads is None else threads
    return [thread for thread in candidates if getattr(thread, "_target", None) == server._work]


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


class Process:
    """What Linux tells about a process."""

    def __init__(self, program: Program) -> None:
        self._folder = Path(f"/proc/{program.process.pid}")

    def _status(self, name: str) -> int:
        match = re.search(rf"^{name}:\s*(\d+)", (self._folder / "status").read_text(), re.MULTILINE)
        assert match
        return int(match[1])

    def resident(self) -> int:
        """Return KiB of memory."""
        return self._status("VmRSS")

    def threads(self) -> int:
        return self._status("Threads")

    def descriptors(self) -> int:
        return len(os.listdir(self._folder / "fd"))

    def cpu(self) -> float:
        """Return the seconds that it has computed."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load(self) -> float:
        """Return its share of a core, over half a second."""
        before = self.cpu()
        time.sleep(0.5)
        return (self.cpu() - before) * 2


class LoadCase(ProgramCase):
    """A folder with a small file, and clients that are closed when the test ends."""

    def setUp(self) -> None:
        super().setUp()
        self.write("a.txt", b"hello\n")
        grace = mock.patch("httpd_download.RESET_GRACE", 0.05)  # nothing here depends on its length
        grace.start()
        self.addCleanup(grace.stop)

    def client(self, address: tuple[str, int], receive_buffer: int = 0, sends: bytes = b"") -> socket.socket:
        client = socket.socket()
        self.addCleanup(client.close)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect(address)
        client.sendall(sends)
        return client

    def assert_serves(self, served: Served) -> None:
        """An honest client is served, at once for all that its patience can tell."""
        reply = served.fetch("/a.txt")
        self.assertEqual((200, b"hello\n"), (reply.status, reply.body))

    def assert_no_fault(self, log: Iterable[str]) -> None:
        self.assertEqual([], [line for line in log if re.search("internal error|Traceback", line)])


class TimeLimits(LoadCase):
    def test_heads_that_drip(self) -> None:
        served = self.serve(timeout=0.6)
        start = time.monotonic()
        cases = [(b"GET /", b"a"), (b"GET /a.txt HTTP/1.1\r\nHost: x\r\n", b"A:b\r\n")]
        dripping = {self.client(served.address, sends=first): drops for first, drops in cases for _ in range(30)}
        count = 0
        while dripping:
            self.assertLess(time.monotonic(), start + PATIENCE, f"{len(dripping)} still drip")
            for client in select.select(list(dripping), [], [], 0.03)[0]:
                self.assertEqual(b"", read_all(client))
                del dripping[client]
            for client, drops in dripping.items():
                with contextlib.suppress(ConnectionError):
                    client.send(drops[count % len(drops) :][:1])
            count += 1
            self.assert_serves(served)
        self.assertGreater(time.monotonic(), start + 0.6, "cut before the limit")

    def test_whoever_asks_for_nothing(self) -> None:
        cases = {
            "says nothing": b"",
            "half a request line": b"GET /a",
            "half a head": b"GET /a.txt HTTP/1.1\r\nHost: x\r\n",
            "keeps the connection": request(),
            "has a body to come": b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        }
        served = self.serve(timeout=0.3)
        clients = {name: self.client(served.address, sends=data) for name, data in cases.items()}
        for name, client in clients.items():
            with self.subTest(name):
                read_all(client)  # which raises where the server does not close
        until(lambda: not served.deliveries._connections, "the server has forgotten them")

    def test_whoever_never_stops_sending(self) -> None:
        cases = {
            "empty lines": (b"", b"\r\n"),
            "a request line": (b"GET /", b"a"),
            "fields": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n"),
            "a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"a" * 99),
        }
        served = self.serve(timeout=0.3)
        with mock.patch.object(served.deliveries, "enter", wraps=served.deliveries.enter) as enter:
            clients = {self.client(served.address, sends=first): rest for first, rest in cases.values()}
            end = time.monotonic() + PATIENCE
            while enter.call_count < len(cases) or served.deliveries._connections:
                self.assertLess(time.monotonic(), end, f"{len(served.deliveries._connections)} are still there")
                for client in select.select([], list(clients), [], 0.01)[1]:
                    with contextlib.suppress(ConnectionError):
                        client.send(clients[client] * 100)

    def test_only_a_receiver_without_progress_is_cut(self) -> None:
        content = self.write("big", 2 << 20)
        served = self.serve(timeout=0.5)
        silent = self.client(served.address, 4096, request("/big?silent"))
        # The server has handed over megabytes at once: only acknowledgements tell that this one goes on.
        slow = self.client(served.address, 32 << 10, request("/big?slow", "Connection: close"))
        data, last = b"", 0
        start = time.monotonic()
        while time.monotonic() < start + 0.9:
            data += slow.recv(32 << 10)
            self.assertGreater(len(data), last, "cut")
            last = len(data)
            time.sleep(0.03)
        self.assertLess(len(data), len(content), "not slow")
        line = served.log.wait_for("silent.* terminated")
        self.assertRegex(line, r"terminated\. at 0% \(.* of 2\.0 MiB\), nothing was acknowledged for 0\.5 s$")
        data += read_all(slow)
        self.assertEqual(content, data.partition(b"\r\n\r\n")[2])
        served.log.wait_for("slow.* finished")
        read_all(silent)

    @unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
    def test_a_slow_disk_that_goes_on_is_not_a_stalled_one(self) -> None:
        content = self.write("slow", 2 << 20)

        def slow_sendfile(out: int, file: int, offset: int, count: int) -> int:
            """Do as Linux: return when all is sent, or when the receiver takes no more; 64 KiB take 25 ms."""
            sent = 0
            while sent < count:
                time.sleep(0.025)
                try:
                    step = sendfile(out, file, offset + sent, min(count - sent, 1 << 16))
                except BlockingIOError:
                    if not sent:
                        raise
                    break
                if not step:
                    break
                sent += step
            return sent

        sendfile = os.sendfile
        with mock.patch("os.sendfile", slow_sendfile):
            served = self.serve(timeout=0.5)
            reply = served.raw(request("/slow", "Connection: close"))
        self.assertEqual(len(content), len(reply.partition(b"\r\n\r\n")[2]), served.log.all())
        served.log.wait_for("finished")


class Many(LoadCase):
    @unittest.skipUnless(PROC, "no /proc")
    def test_slow_receivers_cost_little_and_leave_nothing(self) -> None:
        content = self.write("big", 4 << 20)
        # As under a soft limit of 256, which is what macOS gives and what many a login has.
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        program = self.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)))
        address = ("127.0.0.1", program.port())
        process = Process(program)
        with self.client(address, sends=request("/a.txt", "Connection: close")) as client:
            read_all(client)
        until(lambda: process.threads() <= 2, "the first one is gone")
        threads, open_files, memory = process.threads(), process.descriptors(), process.resident()
        slow = [self.client(address, 4096, request("/big", "Connection: close")) for _ in range(200)]
        for client in slow:
            self.assertTrue(client.recv(1))
        self.assertEqual(200, process.threads() - threads)
        self.assertLess((process.resident() - memory) / 200, 64, "KiB of memory for each")
        with self.client(address, sends=request("/big", "Connection: close")) as client:
            self.assertEqual(content, read_all(client).partition(b"\r\n\r\n")[2])
        for client in slow:
            client.close()
        program.err.wait_for(r"terminated\. at \d+% ", 200)
        until(lambda: process.threads() <= threads, "no thread is left")
        until(lambda: process.descriptors() <= open_files, "no descriptor is left")

    def test_connections_one_after_the_other_share_a_thread(self) -> None:
        served = self.serve(most_connections=1)
        for _ in range(20):
            self.assert_serves(served)
        # A second one is started where a connection comes before the last one's thread is idle.
        self.assertLessEqual(len(workers(served.server)), 2)
        until(lambda: not workers(served.server), "idle threads end")
        self.assert_serves(served)

    def test_whoever_asks_for_more_and_more_without_reading(self) -> None:
        served = self.serve()
        count = MAX_PIPELINED + 100
        client = self.client(served.address, 4096)
        client.sendall(request() * count)
        served.log.wait_for("200 -", MAX_PIPELINED)
        until(lambda: len(served.deliveries.under_way()) == MAX_PIPELINED, "so many are under way")
        self.assert_serves(served)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(count, read_all(client).count(b"\r\n\r\nhello\n"))
        served.log.wait_for("finished", count)
        self.assert_no_fault(served.log.all())

    def test_a_burst_of_connections(self) -> None:
        backlog = Path("/proc/sys/net/core/somaxconn")
        count = min(200, int(backlog.read_text()) if backlog.exists() else 100)
        log = Lines()
        server = QuietServer(("127.0.0.1", 0), Share(str(self.folder)), Deliveries(log.log), log.log)
        self.addCleanup(server.server_close)
        # Nobody accepts yet: the system must hold them all, or their SYNs are lost.
        burst = []
        for _ in range(count):
            client = socket.socket()
            self.addCleanup(client.close)
            client.setblocking(False)
            self.assertIn(client.connect_ex(server.server_address[:2]), (0, errno.EINPROGRESS))
            burst.append(client)
        for client in burst:
            self.assertTrue(select.select([], [client], [], 5)[1], "the backlog is too short")
            self.assertEqual(0, client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            client.setblocking(True)
            client.settimeout(PATIENCE)
            client.sendall(request("/a.txt", "Connection: close"))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        for client in burst:
            self.assertTrue(read_all(client).endswith(b"\r\n\r\nhello\n"))
            client.close()

    def test_what_one_receiver_repeats_does_not_forget_what_another_has(self) -> None:
        ledger = Ledger(capacity=100)
        self.assertEqual(0, ledger.add("honest", "version", 1000, [(0, 100)]))
        self.assertEqual(0, ledger.add("honest", "version", 1000, [(200, 1000)]))
        for _ in range(300):
            ledger.add("flood", "other", 1000, [(0, 1)])
        self.assertEqual(3, ledger.add("honest", "version", 1000, [(100, 200)]))


class Turns(LoadCase):
    """Connections answer by turns; no test can see for how long, but each can see that a turn ends."""

    def assert_ends(self, served: Served) -> None:
        self.assert_serves(served)
        self.assertTrue(served.server.turn_lock.acquire(timeout=PATIENCE), "somebody keeps the turn")
        served.server.turn_lock.release()

    def test_whoever_does_not_read(self) -> None:
        self.write("big", 8 << 20)
        served = self.serve()
        slow = [self.client(served.address, 4096, request("/big")) for _ in range(3)]
        for client in slow:
            self.assertTrue(client.recv(1))
        self.assert_ends(served)
        until(lambda: len(served.deliveries.under_way()) == 3, "they still wait")

    def test_heads_that_are_not_whole(self) -> None:
        served = self.serve()
        for head in [b"G", b"\r\n\r\n", b"\n\r\nGET /", request()[:-2], request().replace(b"\r\n", b"\n")[:-1]]:
            self.client(served.address, sends=head)
        until(lambda: len(served.deliveries._connections) == 5, "all are there")
        self.assert_ends(served)

    def test_whoever_is_held_up_in_its_turn_is_passed_by(self) -> None:
        served = self.serve()
        with served.server.turn_lock:
            self.assert_serves(served)
        self.assert_ends(served)


class NothingLeft(LoadCase):
    @unittest.skipUnless(PROC, "no /proc")
    def test_64_descriptors(self) -> None:
        import resource

        program = self.start("--timeout", "60", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
        address = ("127.0.0.1", program.port())
        process = Process(program)
        clients = [self.client(address) for _ in range(200)]
        until(lambda: process.threads() >= 20, "it has taken what it can")
        self.assertLess(process.load(), 0.25, "a busy loop")
        self.assertLess(process.descriptors(), 64)
        last = clients.pop()
        last.sendall(request("/a.txt", "Connection: close"))
        for client in clients:
            client.close()
        self.assertTrue(read_all(last).endswith(b"\r\n\r\nhello\n"), program.err.all())
        self.assert_no_fault(program.err.all())

    def check_that_it_waits(self, served: Served, target: str, fails: Callable[..., Any], tries: list[float]) -> None:
        """A client waits while *target* fails, without a busy loop, and is served afterwards."""
        with mock.patch(target, fails), mock.patch("httpd_download.TICK", 0.05):
            client = self.client(served.address, sends=request("/a.txt", "Connection: close"))
            until(lambda: len(tries) == 3, "it tries again and again")
            self.assertGreater(tries[2] - tries[0], 0.09, "a busy loop")
        self.assertTrue(read_all(client).endswith(b"\r\n\r\nhello\n"))
        client.close()

    def test_no_descriptor_to_accept_with(self) -> None:
        served = self.serve(most_connections=1)  # so that one that is not given back would be missed
        tries: list[float] = []

        def accept(server: socketserver.TCPServer) -> Any:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, "too many open files")

        self.check_that_it_waits(served, "socketserver.TCPServer.get_request", accept, tries)
        self.assert_serves(served)

    def test_no_descriptor_for_the_file(self) -> None:
        served = self.serve()
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            with mock.patch("httpd_download._open_regular", side_effect=OSError(number, "none left")):
                reply = served.fetch("/a.txt")
            self.assertEqual((503, "1"), (reply.status, reply.headers["Retry-After"]))
        self.assert_serves(served)
        self.assert_no_fault(served.log.all())

    def test_no_thread(self) -> None:
        """While no thread can be started connections wait; those that have waited too long are closed."""
        served = self.serve(most_connections=1)
        served.server.idle_timeout = 0.01
        tries: list[float] = []
        start = threading.Thread.start

        def fail(thread: threading.Thread) -> None:
            if not workers(served.server, [thread]):
                start(thread)
                return
            tries.append(time.monotonic())
            raise RuntimeError("can't start new thread")

        self.check_that_it_waits(served, "threading.Thread.start", fail, tries)
        until(lambda: not workers(served.server), "the idle thread ends")
        with mock.patch("threading.Thread.start", fail), mock.patch("httpd_download.TICK", 0.01):
            self.assertEqual(b"", read_all(self.client(served.address, sends=request())))
        self.assert_serves(served)
        self.assert_no_fault(served.log.all())


SEEDS = [
    request(),
    b"HEAD /b.bin HTTP/1.1\r\nHost: 127.0.0.1:80\r\nRange: bytes=0-9\r\n\r\n",
    request("/b.bin", "Range: bytes=0-9,20-29,-5", 'If-Range: "a"'),
    b'GET http://h/b.bin?x HTTP/1.0\r\nConnection: keep-alive\r\nIf-None-Match: "a", W/"b"\r\n\r\n',
    b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT /%e4%b8 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    request("/none").replace(b"1.1", b"2.0", 1),
    request("/none"),
    request("/a.txt", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "Expect: 100-continue"),
    request("/a.txt", "If-Unmodified-Since: Sunday, 06-Nov-94 08:49:37 GMT", "If-Match: *"),
]


def mutated(random: random.Random) -> bytes:
    """Return a request with up to four faults: bits flipped, lines spliced, repeated or gone, bytes cut or added."""
    data = bytearray(random.choice(SEEDS))
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(data) + 1)
        lines = bytes(data).split(b"\r\n")
        line = random.randrange(len(lines))
        kind = random.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            lines.insert(line, random.choice(random.choice(SEEDS).split(b"\r\n")))
            data[:] = b"\r\n".join(lines)
        elif kind == 2:
            lines[line : line + 1] = [lines[line]] * random.choice((0, 2, 3, 120))
            data[:] = b"\r\n".join(lines)
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.randrange(1, 20)))
        elif kind == 5:
            data[at:at] = random.choice(SEEDS)
        else:
            data[at:at] = data[: random.randrange(99)]
    return bytes(data)


class Noise(LoadCase):
    def test_mutated_requests(self) -> None:
        self.write("b.bin", 1000)
        errors = io.StringIO()
        seeded = random.Random(4)
        seen = set()
        with contextlib.redirect_stderr(errors):
            served = self.serve()
            for count in range(600):
                data = mutated(seeded)
                for status in re.findall(rb"^HTTP/1\.[01] (\d\d\d) ", served.raw(data), re.MULTILINE):
                    seen.add(int(status))
                    if status.startswith(b"5") and status not in (b"501", b"505"):
                        self.fail(f"{status!r} for number {count}: {data!r}")
            self.assert_serves(served)
            until(lambda: not served.deliveries._connections, "all are gone")
        self.assertEqual("", errors.getvalue())
        self.assert_no_fault(served.log.all())
        # The noise is neither all noise nor none.
        self.assertLessEqual({200, 206, 400, 404, 405, 412, 431, 501, 505}, seen)


class Soak(LoadCase):
    @unittest.skipUnless(os.path.isdir("/dev/fd"), "no /dev/fd")
    def test_requests_leave_nothing(self) -> None:
        served = self.serve()
        self.assert_serves(served)
        until(lambda: not served.deliveries._connections, "the first one is gone")
        until(lambda: threading.active_count() <= 3, "its thread too")
        before = threading.active_count(), descriptors()
        for _ in range(3):
            connection = http.client.HTTPConnection(*served.address, timeout=PATIENCE)
            for index in range(100):
                fields = {} if index % 3 else {"Range": f"bytes={index % 7}-"}
                connection.request("GET", "/a.txt" if index % 5 else "/none", headers=fields)
                reply = connection.getresponse()
                reply.read()
                self.assertIn(reply.status, (200, 206, 404, 416))
            connection.close()
        for index in range(100):
            reset(self.client(served.address, sends=request()[: index % 40]))
            self.assert_serves(served)
        until(lambda: threading.active_count() <= before[0], "no thread is left")
        until(lambda: descriptors() <= before[1], "no descriptor is left")
        self.assertEqual([], served.deliveries.under_way())
        self.assertEqual(set(), served.deliveries._connections)
        self.assert_no_fault(served.log.all())


class SecretLink(LoadCase):
    def test_without_it_everything_is_the_same_404(self) -> None:
        secret = "0123456789abcdef0123456789abcdef"
        served = self.serve(secret=secret)
        (self.folder / "sub").mkdir()
        reply = served.fetch(f"/{secret}/a.txt", {"Range": "bytes=1-2"})
        self.assertEqual((206, b"el"), (reply.status, reply.body))

        def answer(method: str, target: str, *fields: str) -> bytes:
            head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""])
            return re.sub(rb"\r\nDate: [^\r]*", b"", served.raw(head.encode()))

        wrong = [
            secret[:-1],
            secret + "0",
            secret[:-1] + "0",
            secret.upper(),
            "%ff" + secret,
            "%C3%A9" + secret,
            "\u00e9",
        ]
        targets = ["/", "/a.txt", "/none", "/sub", "/sub/", "//a.txt", "http://x", f"/a.txt?{secret}"]
        targets += [f"/{secret}{rest}" for rest in ("", "/", "/none", "/sub", "/sub/", "/../a.txt", "%2fa.txt")]
        targets += [f"/{first}/a.txt" for first in wrong]
        tag = re.search(rb'ETag: ("[^"]*")', answer("GET", f"/{secret}/a.txt"))
        assert tag
        every_fields: list[list[str]] = [[], ["Range: bytes=0-1"], ["Range: bytes=9-"], ["Range: bytes=x"]]
        every_fields += [["If-None-Match: *"], ["If-Match: " + tag[1].decode()], ['If-Match: "x"']]
        for method in ("GET", "HEAD"):
            answers = {answer(method, target, *fields) for target in targets for fields in every_fields}
            self.assertEqual(1, len(answers), answers)
            self.assertTrue(answers.pop().startswith(b"HTTP/1.1 404 "))
        self.assertEqual(answer("POST", "/a.txt"), answer("POST", f"/{secret}/a.txt"))

    def test_it_is_compared_in_constant_time(self) -> None:
        served = self.serve(secret="right")
        with mock.patch("hmac.compare_digest", return_value=True) as compare:
            self.assertEqual(200, served.fetch("/wrong/a.txt").status, "compared otherwise")
        self.assertEqual((b"wrong", b"right"), compare.call_args[0])

    def test_links(self) -> None:
        programs = [self.start("--secret"), self.start("--secret")]
        secrets = set()
        for program in programs:
            (link,) = program.links()
            match = re.fullmatch(r"http://127\.0\.0\.1:\d+(/([0-9a-f]{32,})/a\.txt)", link)
            assert match, link
            secrets.add(match[2])
            with self.client(("127.0.0.1", program.port()), sends=request(match[1], "Connection: close")) as client:
                self.assertTrue(read_all(client).endswith(b"\r\n\r\nhello\n"))
        self.assertEqual(2, len(secrets))
        self.assertIn(' "/a.txt" delivered. ', programs[0].err.wait_for("delivered"))


@unittest.skipUnless(shutil.which("openssl"), "no openssl command")
class Tls(LoadCase):
    certificates: Path

    @classmethod
    def setUpClass(cls) -> None:
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.certificates = Path(temporary.name)
        for name in ("a", "b"):
            options = [
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.crt",
            ]
            subject = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
            subprocess.run(
                ["openssl", "req", "-x509", *options, *subject], cwd=temporary.name, check=True, capture_output=True
            )
        both = (cls.certificates / "a.crt").read_bytes() + (cls.certificates / "a.key").read_bytes()
        (cls.certificates / "both.pem").write_bytes(both)
        (cls.certificates / "rubbish.pem").write_bytes(b"rubbish\n")

    def path(self, name: str) -> str:
        return str(self.certificates / name)

    def serve_tls(self, timeout: float = 60.0) -> Served:
        return self.serve(timeout=timeout, tls=httpd_download.tls_context(self.path("both.pem"), None))

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.path("a.crt"))

    def secured(
        self, address: tuple[str, int], sends: bytes, context: ssl.SSLContext | None = None, receive_buffer: int = 0
    ) -> ssl.SSLSocket:
        client = self.client(address, receive_buffer)
        secured = (context or self.context()).wrap_socket(client, server_hostname="127.0.0.1")
        self.addCleanup(secured.close)
        secured.sendall(sends)
        return secured

    def test_versions(self) -> None:
        served = self.serve_tls()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = self.context()
            context.minimum_version = context.maximum_version = version
            client = self.secured(served.address, request(), context)
            self.assertEqual(version.name.replace("_", "."), client.version())
            self.assertEqual(b"hello\n", read_reply(client).body)
        context = httpd_download.tls_context(self.path("both.pem"), None)
        self.assertEqual(ssl.TLSVersion.TLSv1_2, context.minimum_version)

    def test_whoever_connects_and_says_nothing_blocks_nobody(self) -> None:
        served = self.serve_tls(timeout=0.5)
        silent = [self.client(served.address, sends=b"\x16\x03\x01"[:index]) for index in (0, 1, 3)]
        honest = self.secured(served.address, request())
        self.assertEqual(b"hello\n", read_reply(honest).body)
        honest.close()
        self.assertEqual([], select.select(silent, [], [], 0)[0], "closed before their time")
        for client in silent:
            read_all(client)
        until(lambda: not served.deliveries._connections, "they are gone")
        self.assert_no_fault(served.log.all())

    def test_what_is_not_tls(self) -> None:
        served = self.serve_tls()
        seeded = random.Random(4)
        noise = [bytes(seeded.randrange(256) for _ in range(300)) for _ in range(20)]
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            for data in (request(), b"\x16\x03\x01\x02\x00\x01\x00", *noise):
                client = self.client(served.address, sends=data)
                with contextlib.suppress(OSError):  # closed by then
                    client.shutdown(socket.SHUT_WR)
                self.assertNotIn(b"HTTP/", read_all(client))
                client.close()
            reset(self.client(served.address, sends=b"\x16\x03\x01"))
            until(lambda: not served.deliveries._connections, "they are gone")
        self.assertEqual("", errors.getvalue())
        served.log.wait_for(r'^127\.0\.0\.1 "-" TLS handshake failed\. ', 20)
        self.assert_no_fault(served.log.all())
        self.assertEqual(b"hello\n", read_reply(self.secured(served.address, request())).body)

    def test_resumed_and_delivered(self) -> None:
        content = self.write("big", 4 << 20)
        served = self.serve_tls()
        broken = self.secured(served.address, request("/big"), receive_buffer=32 << 10)
        head = b""
        while len(head) < 1 << 20:
            head += broken.recv(1 << 16)
        fields, _, data = head.partition(b"\r\n\r\n")
        reset(broken)
        line = served.log.wait_for("terminated")
        self.assertRegex(line, r"at [1-9]\d?% \([\d.]+ [KM]iB of 4\.0 MiB\)$")
        tag = re.search(rb'ETag: ("[^"]*")', fields)
        assert tag
        again = request("/big", f"Range: bytes={1 << 19}-", "If-Range: " + tag[1].decode(), "Connection: close")
        client = self.secured(served.address, again)
        reply = read_reply(client)
        self.assertEqual((206, content[1 << 19 :]), (reply.status, reply.body))
        client.close()
        self.assertEqual(content[: 1 << 19], data[: 1 << 19])
        served.log.wait_for('"/big" delivered. 4.0 MiB in 2 requests$')

    def test_a_client_that_closes_without_close_notify_has_its_file(self) -> None:
        served = self.serve_tls()
        for count in (1, 2, 3):
            client = self.secured(served.address, request())
            self.assertEqual(b"hello\n", read_reply(client).body)
            client.close()  # a mere FIN
            served.log.wait_for("finished|terminated", count)
        self.assertFalse(any("terminated" in line for line in served.log.all()), served.log.all())

    def test_finished_means_received(self) -> None:
        content = self.write("big", 256 << 10)
        served = self.serve_tls(timeout=PATIENCE)
        client = self.secured(served.address, request("/big", "Connection: close"), receive_buffer=16 << 10)
        self.assertTrue(client.recv(1))
        # It is all handed over: only what the receiver has is counted.
        ((transfer, acknowledged),) = served.deliveries.under_way()
        self.assertLess(acknowledged, transfer.length)
        self.assertFalse(any("finished" in line for line in served.log.all()))
        rest = b""
        with contextlib.suppress(ssl.SSLEOFError):
            while True:
                chunk = client.recv(1 << 16)
                if not chunk:
                    break
                rest += chunk
        self.assertEqual(content, rest.partition(b"\r\n\r\n")[2])
        client.close()
        served.log.wait_for("req finished. 256.0 KiB")
        served.log.wait_for("delivered. 256.0 KiB in 1 request$")

    def test_a_receiver_that_takes_nothing(self) -> None:
        self.write("big", 6 << 20)
        served = self.serve_tls(timeout=0.5)
        client = self.secured(served.address, request("/big"), receive_buffer=4096)
        served.log.wait_for(r"terminated\. at 0% .*, nothing was acknowledged for 0\.5 s$")
        until(lambda: not served.deliveries._connections, "it is gone")
        client.close()

    def test_program(self) -> None:
        cases = [["both.pem"], ["a.crt", "--tls-key", "a.key"]]
        for files in cases:
            with self.subTest(files=files):
                arguments = [self.path(name) if "." in name else name for name in files]
                program = self.start("-c", "1", "--tls-cert", *arguments)
                (link,) = program.links()
                self.assertRegex(link, r"^https://127\.0\.0\.1:\d+/a\.txt$")
                program.out.wait_for(r"^serving on: https://127\.0\.0\.1:\d+/$")
                client = self.secured(("127.0.0.1", program.port()), request())
                self.assertEqual(b"hello\n", read_reply(client).body)
                client.close()
                self.assertEqual(0, program.wait())
                self.assertEqual("stopped. delivered: a.txt", program.err.all()[-1])

    def test_certificates_that_do_not_load(self) -> None:
        cases = {
            "not PEM": ["--tls-cert", self.path("rubbish.pem")],
            "missing": ["--tls-cert", self.path("none.pem")],
            "a folder": ["--tls-cert", str(self.certificates)],
            "without its key": ["--tls-cert", self.path("a.crt")],
            "another key": ["--tls-cert", self.path("a.crt"), "--tls-key", self.path("b.key")],
            "no such key": ["--tls-cert", self.path("a.crt"), "--tls-key", self.path("none.key")],
        }
        programs = {name: self.start(*arguments) for name, arguments in cases.items()}
        for name, arguments in cases.items():
            with self.subTest(name):
                status, out, err = programs[name].wait(), programs[name].out.all(), programs[name].err.all()
                self.assertEqual((1, []), (status, out))
                self.assertEqual(1, len(err), err)
                self.assertIn(arguments[-1], err[0])
                self.assertNotIn("_ssl.c", err[0])

    def test_a_key_alone(self) -> None:
        status, out, err = self.run_program("--tls-key", self.path("a.key"))
        self.assertEqual((2, [], 1), (status, out, len(err)))
        self.assertIn("--tls-cert", err[0])


@unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
class BadDisk(LoadCase):
    """A patched ``os.sendfile`` plays the disk: of the file "bad" it gives 300,000 bytes."""

    GOOD = 300_000

    def setUp(self) -> None:
        super().setUp()
        self.write("bad", 1 << 20)
        self.write("good", 1 << 20)
        bad = os.stat(self.folder / "bad").st_ino
        self.sendfile = os.sendfile

        def sendfile(out: int, file: int, offset: int, count: int) -> int:
            left = self.GOOD - offset if os.fstat(file).st_ino == bad else count
            return self.sendfile(out, file, offset, min(count, left)) if left > 0 else self.fault()

        patch = mock.patch("os.sendfile", sendfile)
        patch.start()
        self.addCleanup(patch.stop)

    def fault(self) -> int:
        raise NotImplementedError

    def test_a_read_error(self) -> None:
        served = self.serve()
        for number in (errno.EIO, errno.ESTALE):
            with mock.patch.object(self, "fault", side_effect=OSError(number, os.strerror(number))):
                reply = served.raw(request("/bad") + request("/good"))  # the second is never answered
            self.assertEqual(self.GOOD, len(reply.partition(b"\r\n\r\n")[2]))
            line = served.log.wait_for("terminated.*" + os.strerror(number))
            self.assertRegex(line, r'"GET /bad HTTP/1\.1" req terminated\. at \d+% \(.* of 1\.0 MiB\), ')
        self.assertEqual(1 << 20, len(served.fetch("/good").body))
        until(lambda: not served.deliveries._connections, "they are gone")
        self.assertEqual(2, sum("/bad" in line and "terminated" in line for line in served.log.all()))
        self.assert_no_fault(served.log.all())

    def test_a_stall(self) -> None:
        awake = threading.Event()
        self.addCleanup(awake.set)

        def stall() -> int:
            awake.wait(PATIENCE)
            raise OSError(errno.EIO, "at last")

        served = self.serve(timeout=0.6)
        with mock.patch.object(self, "fault", stall):
            client = self.client(served.address, sends=request("/bad"))
            reply = read_all(client)  # cut, although the thread is still held up
            self.assertEqual(self.GOOD, len(reply.partition(b"\r\n\r\n")[2]))
            line = served.log.wait_for("terminated")
            self.assertRegex(line, r"at 28% \(293\.0 KiB of 1\.0 MiB\), nothing came from the disk for 0\.6 s$")
            self.assertEqual(1 << 20, len(served.fetch("/good").body))
            self.assertTrue(served.deliveries._connections, "the stall is over too early for a test")
            awake.set()
            until(lambda: not served.deliveries._connections, "its thread ends when the disk wakes up")
        self.assertEqual(1, sum("terminated" in line for line in served.log.all()))
        self.assert_no_fault(served.log.all())


class Limits(FolderCase):
    """What a request may cost at the most, in time that a person would notice."""

    def test_heads_made_to_be_slow(self) -> None:
        self.write("a", 1000)
        served = self.serve()
        cases = {
            "digits": request("/a", "Range: bytes=0-" + "9" * 60000),
            "ranges": request("/a", "Range: bytes=" + ",".join(f"{index}-{index}" for index in range(6000))),
            "commas": request("/a", "Range: bytes=" + "," * 60000),
            "blanks": request("/a", "Range: bytes=0-1" + " " * 60000 + "x"),
            "tags": request("/a", "If-None-Match: " + 'W/"' * 20000),
            "a tag": request("/a", 'If-Match: "' + "a" * 60000),
            "a date": request("/a", "If-Modified-Since: " + "Sun, " * 12000),
            "a host": b"GET /a HTTP/1.1\r\nHost: " + b"a" * 60000 + b'"\r\n\r\n',
            "options": request("/a", "Connection: " + ", " * 30000),
            "folders": request("/a" * 30000),
            "escapes": request("/" + "%2e%2f" * 10000),
        }
        for name, head in cases.items():
            with self.subTest(name):
                before = time.process_time()
                self.assertRegex(served.raw(head), rb"^HTTP/1\.1 (200|206|400|404|412) ")
                self.assertLess(time.process_time() - before, 2)


if __name__ == "__main__":
    unittest.main()
