"""Load, faults, attacks, a secret link and TLS: small versions of what breaks servers."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import io
import os
import random
import re
import select
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import unittest
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator
from unittest import mock

from httpd_download import (
    PARTING,
    Connection,
    Downloads,
    QuietServer,
    Share,
    send_queue,
    tls_context,
)
from tests.support import (
    PATIENCE,
    Lines,
    Program,
    ProgramCase,
    Served,
    class_folder,
    read_all,
    read_exactly,
    read_reply,
    reset,
    skip_head,
    until,
)

try:
    import resource
    import termios
except ImportError:  # Windows
    resource = termios = None  # type: ignore[assignment]

PROC = Path("/proc/self/stat").exists()
# The time limit that a server has here, and what is surely more.
LIMIT, OVER = 60, 61


def request(target: str = "/a.txt", *fields: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def last_request(target: str = "/a.txt", *fields: str) -> bytes:
    return request(target, *fields, "Connection: close")


def body(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


def overwrite(path: Path, count: int = 10) -> None:
    """Overwrite the first bytes of *path* in place, until its time tells."""
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        with path.open("r+b") as file:
            file.write(os.urandom(count))


@contextlib.contextmanager
def appended_to(path: Path) -> Iterator[None]:
    """Append to *path* every 2 ms."""
    over = threading.Event()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not over.wait(0.002):
                file.write(b"a line\n")

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def count_free(server: QuietServer) -> int:
    """Return for how many connections more there is room."""
    return server._free._value


def has_ended(client: socket.socket) -> bool:
    """Read what is there, and tell whether the other side has closed or reset."""
    with contextlib.suppress(ConnectionError):
        while select.select([client], [], [], 0)[0]:
            if not client.recv(1 << 16):
                return True
        return False
    return True


class Clock:
    """The time, of which a test can let any amount pass at once."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


class Process:
    """What Linux tells about a process."""

    def __init__(self, program: Program) -> None:
        self.id = program.process.pid
        self._folder = Path(f"/proc/{self.id}")

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

    def is_idle(self) -> bool:
        """Tell whether it computes nothing for ten ticks of the clock that counts that."""
        before = self.cpu()
        time.sleep(0.1)
        return self.cpu() == before


class LoadCase(ProgramCase):
    """A folder with a small file, and clients that are closed when the test ends."""

    def setUp(self) -> None:
        super().setUp()
        self.write("a.txt", b"hello\n")
        self.clock = Clock()
        # Nothing here depends on how long they are.
        changed: dict[str, Any] = {"GRACE": 0.05, "REST": 0.05}
        changed["Connection"] = functools.partial(Connection, clock=self.clock)
        patch = mock.patch.multiple("httpd_download", **changed)
        patch.start()
        self.addCleanup(patch.stop)

    def serve(self, *arguments: Any, **options: Any) -> Served:
        served = super().serve(*arguments, **{"timeout": LIMIT, **options})
        served.downloads._clock = self.clock
        self.server = served.server
        self.free = count_free(self.server)
        return served

    def let_pass(self, served: Served, seconds: float) -> None:
        self.clock.forward(seconds)
        served.downloads.watch()

    def wait_until_cut(self, served: Served, what: str, is_cut: Callable[[], bool]) -> None:
        """Let time limits pass until *is_cut*: who only now begins has a limit of its own."""

        def look() -> bool:
            self.let_pass(served, OVER)
            return is_cut()

        until(look, what)

    def is_gone(self) -> bool:
        """Tell whether the server that was started last has no connection left."""
        return count_free(self.server) == self.free

    def wait_until_gone(self) -> None:
        until(self.is_gone, "no connection is left")

    def arrived(self, served: Served) -> int:
        """Return how much has arrived of the download that began last."""
        rows, _ = served.downloads.rows(8)
        return rows[-1].arrived if rows else 0

    def wait_for_arrival(self, served: Served, count: int) -> None:
        until(lambda: self.arrived(served) >= count, f"{count} bytes are acknowledged")

    def client(
        self, address: tuple[str, int], receive_buffer: int = 0, sends: bytes = b""
    ) -> socket.socket:
        client = socket.socket()
        self.addCleanup(client.close)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect(address)
        client.sendall(sends)
        return client

    def assert_serves(self, served: Served) -> None:
        """An honest client is served."""
        reply = served.fetch("/a.txt")
        self.assertEqual((200, b"hello\n"), (reply.status, reply.body))

    def assert_program_serves(self, program: Program) -> None:
        with self.client(("127.0.0.1", program.port()), sends=last_request()) as client:
            self.assertEqual(b"hello\n", body(read_all(client)), program.err.all()[-20:])

    def assert_no_fault(self, log: Iterable[str]) -> None:
        faults = "internal error|Traceback|Exception"
        self.assertEqual([], [line for line in log if re.search(faults, line)])


class TimeLimits(LoadCase):
    def test_heads_that_drip(self) -> None:
        served = self.serve()
        cases = [(b"GET /", b"abc"), (b"GET /a.txt HTTP/1.1\r\nHost: x\r\n", b"A:b")]
        dripping = {
            self.client(served.address, sends=first): drops
            for first, drops in cases
            for _ in range(30)
        }
        for index in range(3):
            self.assert_serves(served)
            self.let_pass(served, LIMIT / 4)
            for client, drops in dripping.items():
                client.sendall(drops[index : index + 1])
        self.assert_serves(served)
        self.assertEqual([], select.select(list(dripping), [], [], 0)[0], "cut before the limit")
        # Less than a limit after the last drop.
        self.let_pass(served, LIMIT * 0.9)
        for client in dripping:
            self.assertEqual(b"", read_all(client))
        self.assert_serves(served)
        self.wait_until_gone()
        self.assert_no_fault(served.log.all())

    def test_whoever_asks_for_nothing(self) -> None:
        cases = {
            "says nothing": b"",
            "half a request line": b"GET /a",
            "half a head": b"GET /a.txt HTTP/1.1\r\nHost: x\r\n",
            "keeps the connection": request(),
            "has a body to come": b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        }
        served = self.serve()
        clients = {name: self.client(served.address, sends=data) for name, data in cases.items()}
        for name, client in clients.items():
            self.wait_until_cut(served, name, functools.partial(has_ended, client))
        self.wait_until_cut(served, "no connection is left", self.is_gone)

    def test_whoever_never_stops_sending(self) -> None:
        # So little at a time that it is time that ends it, not the length of a head.
        body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        cases = {
            "empty lines": (b"", b"\r\n"),
            "bare line feeds": (b"", b"\n"),
            "a request line": (b"GET /", b"a"),
            "fields": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n"),
            "a body": (body, b"a" * 1000),
        }
        served = self.serve()
        sending = {
            name: (self.client(served.address, sends=first), rest)
            for name, (first, rest) in cases.items()
        }

        def send() -> bool:
            self.let_pass(served, LIMIT / 6)
            for name, (client, rest) in list(sending.items()):
                try:
                    client.send(rest)
                except ConnectionError:
                    del sending[name]
            return not sending

        until(send, "all are cut")
        self.wait_until_gone()
        self.assert_no_fault(served.log.all())

    def test_only_a_receiver_without_progress_is_cut(self) -> None:
        content = self.write("big", 2 << 20)
        served = self.serve()
        silent = self.client(served.address, 4096, request("/big?silent", "User-Agent: silent"))
        self.wait_for_arrival(served, 1)
        # Megabytes were handed over at once: only acknowledgements tell that this one goes on.
        slow = self.client(served.address, 32 << 10, last_request("/big?slow", "User-Agent: slow"))
        served.log.wait_for("slow.* 200 -")
        data = b""
        for _ in range(6):
            before = self.arrived(served)
            data += read_exactly(slow, 128 << 10)
            self.wait_for_arrival(served, before + 1)
            self.let_pass(served, LIMIT / 3)
        line = served.log.wait_for("silent.* terminated")
        self.assertRegex(
            line, r"terminated\. at 0% \(.* of 2\.0 MiB\), nothing was acknowledged for 60 s$"
        )
        data += read_all(slow)
        self.assertEqual(content, body(data))
        served.log.wait_for("slow.* finished")
        read_all(silent)

    @unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
    def test_a_slow_disk_that_goes_on_is_not_a_stalled_one(self) -> None:
        content = self.write("slow", 1 << 20)
        served = self.serve()
        sendfile, calls = os.sendfile, []

        def slow_sendfile(out: int, file: int, offset: int, count: int) -> int:
            """Give what is asked for half a time limit later, with nothing left to acknowledge."""
            calls.append(offset)
            self.wait_for_arrival(served, offset)
            self.let_pass(served, LIMIT / 2)
            return sendfile(out, file, offset, count)

        with mock.patch("os.sendfile", slow_sendfile), mock.patch("httpd_download.STEP", 1 << 18):
            reply = served.raw(last_request("/slow"))
        self.assertEqual(content, body(reply), served.log.all())
        self.assertGreater(len(calls), 3)
        served.log.wait_for("finished")


class Many(LoadCase):
    @unittest.skipUnless(PROC, "no /proc")
    def test_slow_receivers_cost_little_and_leave_nothing(self) -> None:
        content = self.write("big", 4 << 20)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

        def lower() -> None:
            # Too few, were it not for the hard limit: macOS gives 256.
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

        program = self.start_script(preexec_fn=lower)
        address = ("127.0.0.1", program.port())
        process = Process(program)
        self.assert_program_serves(program)
        # With, at most, those of the first one.
        threads, open_files, memory = process.threads(), process.descriptors(), process.resident()
        slow = [self.client(address, 4096, last_request("/big")) for _ in range(100)]
        for client in slow:
            self.assertTrue(client.recv(1))
        self.assertLessEqual(process.threads() - threads, 100)
        self.assertLess((process.resident() - memory) / 100, 64, "KiB of memory for each")
        with self.client(address, sends=last_request("/big")) as client:
            self.assertEqual(content, body(read_all(client)))
        for client in slow:
            client.close()
        until(lambda: process.threads() <= threads, "no thread is left")
        until(lambda: process.descriptors() <= open_files, "no descriptor is left")
        self.assert_no_fault(program.err.all())

    def test_whoever_asks_for_more_and_more_without_reading(self) -> None:
        served = self.serve()
        count = 20
        client = self.client(served.address, 4096)
        client.sendall(b"".join(request(f"/a.txt?{number}") for number in range(count)))

        def count_under_way() -> int:
            rows, more = served.downloads.rows(8)
            return len(rows) + more

        # The first ones its system has taken.
        served.log.wait_for(r"a.txt\?1 HTTP/1.1\" req finished")
        self.assert_serves(served)
        served.log.wait_for('"GET /a.txt HTTP/1.1" req finished')
        # The next one waits until what was asked for before has come.
        self.assertLessEqual(count_under_way(), 1)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(count, read_all(client).count(b"\r\n\r\nhello\n"))
        served.log.wait_for(r"\?\d+ HTTP/1\.1\" req finished", count)
        self.assert_no_fault(served.log.all())

    @unittest.skipUnless(PROC, "no /proc")
    def test_a_connection_has_one_file_open_at_a_time(self) -> None:
        """And the next one, which waits for its turn; else a few could have all descriptors."""
        content = self.write("big", 300 << 10)
        served = self.serve()
        client = self.client(served.address, 65536, request("/big") * 5 + last_request("/big"))

        def count_open() -> int:
            found = 0
            for descriptor in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    found += os.readlink(f"/proc/self/fd/{descriptor}").endswith("/big")
            return found

        most, data = 0, bytearray()
        while True:
            chunk = client.recv(1 << 16)
            most = max(most, count_open())
            if not chunk:
                break
            data += chunk
        self.assertEqual(6, data.count(content))
        self.assertIn(most, (1, 2))

    def test_a_burst_of_connections(self) -> None:
        backlog = Path("/proc/sys/net/core/somaxconn")
        count = min(200, int(backlog.read_text()) if backlog.exists() else 100)
        downloads = Downloads(Lines().log)
        server = QuietServer(("127.0.0.1", 0), Share(str(self.folder), {}), downloads)
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
            client.sendall(last_request())
        free = count_free(server)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        for client in burst:
            self.assertEqual(b"hello\n", body(read_all(client)))
            client.close()
        until(lambda: count_free(server) == free, "no connection is left")


class NothingLeft(LoadCase):
    """Descriptors and threads are short: no fault, no busy loop, and all is well after."""

    def start_with_64_descriptors(self) -> Program:
        program = self.start_script(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        )
        program.links()
        return program

    @unittest.skipUnless(PROC, "no /proc")
    def test_64_descriptors(self) -> None:
        program = self.start_with_64_descriptors()
        address = ("127.0.0.1", program.port())
        process = Process(program)
        clients = [self.client(address) for _ in range(100)]
        until(lambda: process.threads() >= 12, "it has taken what it can")
        until(process.is_idle, "there is no busy loop")
        self.assertLess(process.descriptors(), 64)
        last = clients.pop()
        last.sendall(last_request())
        for client in clients:
            client.close()
        self.assertEqual(b"hello\n", body(read_all(last)), program.err.all())
        self.assert_no_fault(program.err.all())

    @unittest.skipUnless(resource, "no resource limits")
    def test_64_descriptors_are_enough_for_whoever_pipelines(self) -> None:
        content = self.write("big", 100 << 10)
        program = self.start_with_64_descriptors()
        requests = request("/big") * 5 + last_request("/big")
        clients = [
            self.client(("127.0.0.1", program.port()), 32 << 10, requests) for _ in range(30)
        ]
        data: dict[socket.socket, bytearray] = {client: bytearray() for client in clients}
        while clients:
            ready = select.select(clients, [], [], PATIENCE)[0]
            self.assertTrue(ready, program.err.all()[-20:])
            for client in ready:
                chunk = client.recv(1 << 16)
                data[client] += chunk
                if not chunk:
                    client.close()
                    clients.remove(client)
        for reply in data.values():
            self.assertEqual((6, 6), (reply.count(b"HTTP/1.1 200 OK\r\n"), reply.count(content)))
        self.assert_no_fault(program.err.all())

    def check_that_it_waits(
        self, served: Served, target: str, fails: Callable[..., Any], tries: list[float]
    ) -> None:
        """A client waits while *target* fails, without a busy loop, and is served afterwards."""
        with mock.patch(target, fails):
            client = self.client(served.address, sends=last_request())
            until(lambda: len(tries) >= 3, "it tries again and again")
            # However slow a machine is, it cannot be less.
            self.assertGreaterEqual(tries[2] - tries[0], 0.1, "a busy loop")
        self.assertEqual(b"hello\n", body(read_all(client)))
        client.close()

    def test_one_that_was_reset_before_it_was_accepted(self) -> None:
        """Of which macOS tells no address."""
        served = self.serve()
        accept = socketserver.TCPServer.get_request

        def accept_too_late(server: socketserver.TCPServer) -> Any:
            accepted, _ = accept(server)
            accepted.close()
            return accepted, None

        with mock.patch("socketserver.TCPServer.get_request", accept_too_late):
            self.assertEqual(b"", read_all(self.client(served.address)))
        self.assert_serves(served)
        self.assert_no_fault(served.log.all())

    def test_no_descriptor_to_accept_with(self) -> None:
        # So that one that is not given back would be missed.
        served = self.serve(most=1)
        tries: list[float] = []

        def accept(server: socketserver.TCPServer) -> Any:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, "too many open files")

        with mock.patch("httpd_download.TICK", 0.05):
            self.check_that_it_waits(served, "socketserver.TCPServer.get_request", accept, tries)
        self.assert_serves(served)
        self.assert_no_fault(served.log.all())

    def test_no_descriptor_for_the_file(self) -> None:
        served = self.serve()
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            with mock.patch("os.open", side_effect=OSError(number, "none left")):
                reply = served.fetch("/a.txt")
            self.assertEqual((503, "1"), (reply.status, reply.headers["Retry-After"]))
        self.assert_serves(served)
        self.assert_no_fault(served.log.all())

    def storm(self, program: Program, count: int = 40) -> None:
        """Let many connect at a time, who are answered or dropped, but not left waiting."""
        address = ("127.0.0.1", program.port())
        for client in [self.client(address, sends=last_request()) for _ in range(count)]:
            client.settimeout(PATIENCE / 4)
            self.assertIn(body(read_all(client)), (b"", b"hello\n"))
            client.close()

    @unittest.skipUnless(hasattr(resource, "prlimit"), "no resource.prlimit")
    def test_threads_that_run_out(self) -> None:
        """As under ``ulimit -u``."""
        if os.geteuid() == 0:
            self.skipTest("root may have any number of processes")
        program = self.start_script()
        self.assert_program_serves(program)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.prlimit(program.process.pid, resource.RLIMIT_NPROC, (1, hard))
        self.storm(program)
        resource.prlimit(program.process.pid, resource.RLIMIT_NPROC, (hard, hard))
        self.assert_program_serves(program)
        self.assertNotRegex("\n".join(program.err.all()), "Traceback|Exception")

    def test_no_thread_for_a_connection(self) -> None:
        # So that one that is not given back would be missed.
        served = self.serve(most=1)
        fails = mock.Mock(side_effect=RuntimeError("can't start new thread"))
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            with mock.patch("threading.Thread.start", fails):
                for _ in range(3):
                    client = self.client(served.address, sends=last_request())
                    until(lambda: fails.call_count > 0, "it tries to start a thread")
                    fails.reset_mock()
                    self.assertEqual(b"", read_all(client))
            self.assert_serves(served)
        self.assertEqual("", errors.getvalue())

    def test_no_thread_at_all(self) -> None:
        """One line, status 1, and nothing that looks as if there were a server."""
        fail = (
            "import sys, threading\n"
            'def fail(*_, **__): raise RuntimeError("can\'t start new thread")\n'
            "threading.Thread.start = fail\n"
            "import httpd_download\n"
            "sys.exit(httpd_download.main(['-b', '127.0.0.1']))"
        )
        program = self.start_command([sys.executable, "-S", "-c", fail])
        self.assertEqual((1, []), (program.wait(), program.out.all()))
        self.assertEqual(["httpd_download: can't start new thread"], program.err.all())

    @unittest.skipUnless(resource, "no resource limits")
    def test_ulimit_u_of_nothing(self) -> None:
        if os.geteuid() == 0:
            self.skipTest("root may have any number of processes")
        program = self.start_script(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        )
        self.assertEqual((1, []), (program.wait(), program.out.all()))
        self.assertEqual(["httpd_download: can't start new thread"], program.err.all())


SEEDS = [
    request(),
    b"HEAD /b.bin HTTP/1.1\r\nHost: 127.0.0.1:80\r\nRange: bytes=0-9\r\n\r\n",
    request("/b.bin", "Range: bytes=0-9,20-29,-5", 'If-Range: "a"'),
    b'GET http://h/b.bin?x HTTP/1.0\r\nConnection: keep-alive\r\nIf-None-Match: "a", W/"b"\r\n\r\n',
    b"POST /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT /%e4%b8 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"DELETE /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    request("/none").replace(b"1.1", b"2.0", 1),
    request("/none"),
    request("/b.bin", "Range: bytes=1000-"),
    request("/b.bin", "Range: bytes=10-", "Range: bytes=20-29"),
    request("/b.bin", "Range: bytes=-5"),
    request("/b.bin", 'If-Match: "a"'),
    request("/a.txt", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "Expect: 100-continue"),
    request("/a.txt", "If-Unmodified-Since: Sunday, 06-Nov-94 08:49:37 GMT", "If-Match: *"),
]


def mutated(random: random.Random) -> bytes:
    """Return a request with at most four faults: bits flipped, lines spliced, repeated or gone,
    bytes cut or added."""
    data = bytearray(random.choice(SEEDS))
    for _ in range(random.randrange(5)):
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
            lines[line : line + 1] = [lines[line]] * random.choice((0, 2, 3, 5000))
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
        seeded = random.Random(4)
        seen = set()
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            served = self.serve()
            for count in range(1000):
                data = mutated(seeded)
                reply = served.raw(data)
                for status in re.findall(rb"^HTTP/1\.[01] (\d\d\d) ", reply, re.MULTILINE):
                    seen.add(int(status))
                    if status.startswith(b"5") and status not in (b"501", b"505"):
                        self.fail(f"{status!r} for number {count}: {data[:2000]!r}")
            self.assert_serves(served)
            self.wait_until_gone()
        self.assertEqual("", errors.getvalue())
        self.assert_no_fault(served.log.all())
        # The noise is neither all noise nor none.
        self.assertLessEqual({200, 206, 400, 404, 405, 412, 416, 431, 501, 505}, seen)


class Soak(LoadCase):
    @unittest.skipUnless(os.path.isdir("/dev/fd"), "no /dev/fd")
    def test_requests_leave_nothing(self) -> None:
        self.write("b.bin", 100 << 10)
        served = self.serve()
        self.assert_serves(served)
        self.wait_until_gone()
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            connection = http.client.HTTPConnection(*served.address, timeout=PATIENCE)
            for index in range(100):
                fields = {} if index % 3 else {"Range": f"bytes={index % 7}-"}
                target = ("/a.txt", "/b.bin", "/none")[index % 5 % 3]
                connection.request("GET", target, headers=fields)
                reply = connection.getresponse()
                reply.read()
                self.assertIn(reply.status, (200, 206, 404, 416))
            connection.close()
        for index in range(100):
            reset(self.client(served.address, sends=request("/b.bin")[: index % 40]))
            self.assert_serves(served)
        self.wait_until_gone()
        until(lambda: len(os.listdir("/dev/fd")) <= before, "no descriptor is left")
        self.assertEqual(([], 0), served.downloads.rows(8))
        self.assert_no_fault(served.log.all())


class ChangedFiles(LoadCase):
    """Files that are written to while they are sent."""

    def setUp(self) -> None:
        super().setUp()
        self.content = self.write("big", 8 << 20)
        self.path = self.folder / "big"

    def begin(self, served: Served) -> tuple[socket.socket, bytes]:
        """Ask for the file, and read a little of it."""
        client = self.client(served.address, 4096, last_request("/big"))
        skip_head(client)
        return client, read_exactly(client, 1000)

    def read_rest(self, client: socket.socket) -> bytes:
        """Read all that still comes, no longer through a small window."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return read_all(client)

    def assert_cut(self, served: Served, reason: str) -> None:
        line = served.log.wait_for("req (terminated|finished)|delivered")
        self.assertRegex(line, rf"terminated\. at \d+% \(.*\), {reason}$")
        self.assertFalse([line for line in served.log.all() if "delivered" in line])
        self.assert_no_fault(served.log.all())

    def test_what_is_cut(self) -> None:
        cases: dict[str, tuple[Callable[[], Any], str]] = {
            "a little shorter": (
                lambda: os.truncate(self.path, 7 << 20),
                "the file became shorter",
            ),
            "empty": (lambda: os.truncate(self.path, 0), "the file became shorter"),
            "overwritten in place": (lambda: overwrite(self.path), "the file was changed"),
        }
        for name, (change, reason) in cases.items():
            with self.subTest(name):
                self.path.write_bytes(self.content)
                served = self.serve()
                client, data = self.begin(served)
                change()
                data += self.read_rest(client)
                self.assertLess(len(data), len(self.content))
                self.assert_cut(served, reason)
                # What it is now is a version of its own.
                self.assertEqual(self.path.read_bytes(), served.fetch("/big").body)
                served.log.wait_for("delivered")

    def test_one_that_is_replaced_is_completed(self) -> None:
        served = self.serve()
        client, data = self.begin(served)
        (self.folder / "new").write_bytes(b"new")
        os.replace(self.folder / "new", self.path)
        data += self.read_rest(client)
        self.assertEqual(self.content, data)
        client.close()
        served.log.wait_for("delivered")

    def begin_queued(
        self, served: Served, size: int, after: str = "/none"
    ) -> tuple[socket.socket, bytes]:
        """Ask for a file, and wait until all of it waits in the send queue."""
        content = self.write("queued", size)
        client = self.client(served.address, 4096)
        client.sendall(request("/queued") + last_request(after))
        connections = served.downloads._transfers
        until(lambda: any(each.sent > size for each in connections), "it is handed over")
        return client, content

    def test_one_that_is_overwritten_when_all_of_it_is_handed_over(self) -> None:
        # Also while another one waits to be sent after it.
        for after in ("/none", "/big"):
            with self.subTest(after=after):
                served = self.serve()
                client, _ = self.begin_queued(served, 200 << 10, after)
                overwrite(self.folder / "queued")
                self.read_rest(client)
                client.close()
                line = served.log.wait_for("/queued.*(terminated|finished)")
                self.assertRegex(line, r"terminated\. at \d+% \(.*\), the file was changed$")
                lines = served.log.all()
                self.assertFalse([line for line in lines if '"/queued" delivered' in line])
                self.assert_no_fault(lines)

    def test_a_small_one_is_copied_and_stays_what_it_was(self) -> None:
        served = self.serve()
        client, content = self.begin_queued(served, 20 << 10)
        overwrite(self.folder / "queued")
        self.assertIn(content, read_all(client))
        client.close()
        served.log.wait_for("delivered")

    def test_one_that_grows(self) -> None:
        content = self.write("log", 300 << 10)
        served = self.serve()
        with appended_to(self.folder / "log"):
            for _ in range(60):
                data = served.fetch("/log").body
                self.assertEqual(content, data[: len(content)])
                self.assertEqual(0, len(data[len(content) :]) % len(b"a line\n"))
        served.log.wait_for("delivered", 60)
        self.assertFalse([line for line in served.log.all() if "terminated" in line])


class SecretLink(LoadCase):
    def test_without_it_everything_is_the_same_404(self) -> None:
        secret = "0123456789abcdef0123456789abcdef"
        served = self.serve(secret=secret)
        (self.folder / "sub").mkdir()
        reply = served.fetch(f"/{secret}/a.txt", {"Range": "bytes=1-2"})
        self.assertEqual((206, b"el"), (reply.status, reply.body))

        def answer(method: str, target: str, *fields: str) -> bytes:
            lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
            reply = served.raw("\r\n".join(lines).encode())
            return re.sub(rb"\r\nDate: [^\r]*", b"", reply)

        wrong = [secret[:-1], f"{secret}0", f"{secret[:-1]}0", secret.upper()]
        wrong += [f"%ff{secret}", f"%C3%A9{secret}", "\u00e9"]
        targets = ["/", "/a.txt", "/none", "/sub", "/sub/", "//a.txt", "http://x"]
        targets += [f"/a.txt?{secret}", *(f"/{first}/a.txt" for first in wrong)]
        rests = ("", "/", "/none", "/sub", "/sub/", "/../a.txt", "%2fa.txt")
        targets += [f"/{secret}{rest}" for rest in rests]
        tag = re.search(rb'ETag: ("[^"]*")', answer("GET", f"/{secret}/a.txt"))
        assert tag
        conditions = ["If-None-Match: *", "If-Match: " + tag[1].decode(), 'If-Match: "x"']
        ranges = ["Range: bytes=0-1", "Range: bytes=9-", "Range: bytes=x"]
        every_fields: list[list[str]] = [[], *([field] for field in conditions + ranges)]
        for method in ("GET", "HEAD"):
            answers = {answer(method, t, *fields) for t in targets for fields in every_fields}
            self.assertEqual(1, len(answers), answers)
            self.assertTrue(answers.pop().startswith(b"HTTP/1.1 404 "))
        self.assertEqual(answer("POST", "/a.txt"), answer("POST", f"/{secret}/a.txt"))

    def test_it_is_compared_in_constant_time(self) -> None:
        served = self.serve(secret="right")
        with mock.patch("httpd_download.compare_digest", return_value=True) as compare:
            self.assertEqual(200, served.fetch("/wrong/a.txt").status, "compared otherwise")
        self.assertEqual((b"wrong", b"right"), compare.call_args[0])

    def test_links(self) -> None:
        programs = [self.start("--secret"), self.start("--secret", "a.txt")]
        secrets = set()
        for program in programs:
            (link,) = program.links()
            match = re.fullmatch(r"http://127\.0\.0\.1:\d+(/([0-9a-f]{32,})/a\.txt)", link)
            assert match, link
            secrets.add(match[2])
            address = ("127.0.0.1", program.port())
            for target, answer in ((match[1], b"hello\n"), ("/a.txt", b"404 Not Found\n")):
                with self.client(address, sends=last_request(target)) as client:
                    self.assertEqual(answer, body(read_all(client)))
            # Neither is anyone who looks at the terminal told more than the link tells.
            self.assertIn(' "/a.txt" delivered. ', program.err.wait_for("delivered"))
        self.assertEqual(2, len(secrets))


@unittest.skipUnless(shutil.which("openssl"), "no openssl command")
class Tls(LoadCase):
    certificates: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.certificates = class_folder(cls)
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subject = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        for name in ("a", "b"):
            files = ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
            subprocess.run(
                ["openssl", "req", "-x509", *kind, *files, *subject],
                cwd=str(cls.certificates),
                check=True,
                capture_output=True,
            )
        both = (cls.certificates / "a.crt").read_bytes() + (cls.certificates / "a.key").read_bytes()
        (cls.certificates / "both.pem").write_bytes(both)
        (cls.certificates / "rubbish.pem").write_bytes(b"rubbish\n")

    def path(self, name: str) -> str:
        return str(self.certificates / name)

    def serve_tls(self) -> Served:
        return self.serve(tls=tls_context(self.path("both.pem"), None))

    @unittest.skipUnless(termios, "here nobody can tell what waits")
    def test_what_waits_is_counted_without_what_tls_adds(self) -> None:
        # Else a receiver that is killed may resume beyond what is counted as acknowledged.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        with client, server:
            server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.send(bytes(1 << 16))
            encrypted = send_queue(server)
            with mock.patch.object(socket.socket, "do_handshake", create=True):
                connection = Connection(server)
            connection.look()
        plain = connection.waiting
        records, rest = divmod(encrypted, (16 << 10) + 22)
        self.assertGreater(records, 0)
        self.assertLess(abs(plain - records * (16 << 10) - rest), 23)

    def context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.path("a.crt"))
        if version:
            context.minimum_version = context.maximum_version = version
        return context

    def secured(
        self,
        address: tuple[str, int],
        sends: bytes,
        version: ssl.TLSVersion | None = None,
        receive_buffer: int = 0,
    ) -> ssl.SSLSocket:
        client = self.client(address, receive_buffer)
        secured = self.context(version).wrap_socket(client, server_hostname="127.0.0.1")
        self.addCleanup(secured.close)
        secured.sendall(sends)
        return secured

    def assert_delivered(self, served: Served, count: int) -> None:
        """So many have it all, and of nobody it is said that a download broke."""
        served.log.wait_for("delivered|terminated", count)
        ends = [line for line in served.log.all() if re.search("finished|terminated", line)]
        self.assertEqual([], [line for line in ends if "finished" not in line])
        self.assertEqual(count, len(ends))
        self.assert_no_fault(served.log.all())

    def test_versions(self) -> None:
        served = self.serve_tls()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = self.secured(served.address, request(), version)
            self.assertEqual(version.name.replace("_", "."), client.version())
            self.assertEqual(b"hello\n", read_reply(client).body)
        context = tls_context(self.path("both.pem"), None)
        self.assertEqual(ssl.TLSVersion.TLSv1_2, context.minimum_version)

    def test_whoever_connects_and_says_nothing_blocks_nobody(self) -> None:
        served = self.serve_tls()
        silent = [self.client(served.address, sends=b"\x16\x03\x01"[:index]) for index in (0, 1, 3)]
        honest = self.secured(served.address, request())
        self.assertEqual(b"hello\n", read_reply(honest).body)
        honest.close()
        self.assertEqual([], select.select(silent, [], [], 0)[0], "closed before their time")
        self.wait_until_cut(served, "no connection is left", self.is_gone)
        for client in silent:
            read_all(client)
        self.assert_no_fault(served.log.all())

    def test_who_only_looks_whether_the_port_is_open(self) -> None:
        served = self.serve_tls()
        self.client(served.address).close()
        self.wait_until_gone()
        self.assertEqual([], served.log.all())

    def test_what_is_not_tls(self) -> None:
        served = self.serve_tls()
        seeded = random.Random(4)
        noise = [bytes(seeded.randrange(256) for _ in range(300)) for _ in range(20)]
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            for data in (request(), b"\x16\x03\x01\x02\x00\x01\x00", *noise):
                client = self.client(served.address, sends=data)
                # It may be closed by then.
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                self.assertNotIn(b"HTTP/", read_all(client))
                client.close()
            reset(self.client(served.address, sends=b"\x16\x03\x01"))
            self.wait_until_gone()
        self.assertEqual("", errors.getvalue())
        served.log.wait_for(r'^127\.0\.0\.1 "-" TLS failed\. ', 20)
        served.log.wait_for("the client spoke plain http$")
        self.assertFalse([line for line in served.log.all() if "_ssl.c" in line])
        self.assert_no_fault(served.log.all())
        self.assertEqual(b"hello\n", read_reply(self.secured(served.address, request())).body)

    @unittest.skipUnless(os.path.exists("/proc/net/tcp"), "no /proc/net/tcp here")
    def test_a_slow_receiver_is_counted_as_it_reads(self) -> None:
        """What is not sent by sendfile too: a record of TLS, or what the system has taken."""
        for number in range(300):
            self.write(f"results/{number}", 3000)
        self.write("big", 1 << 20)
        served = self.serve([str(self.folder / "results")])
        https = self.serve_tls()
        # Accepted ones have it from it: little fits in, as on a slow way.
        for each in (served, https):
            each.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 10)
        client = self.client(served.address, 4 << 10, request("/results.tar"))
        secured = self.secured(https.address, request("/big"), None, 4 << 10)
        for receiver, server in ((client, served), (secured, https)):
            with self.subTest(type(receiver)):
                skip_head(receiver)
                for position in range(1, 15):
                    read_exactly(receiver, 10_000)
                    self.wait_for_arrival(server, 10_000 * position - (20 << 10))

    def test_resumed_and_delivered(self) -> None:
        content = self.write("big", 4 << 20)
        # Whoever is killed has kept all that was read, or a little less.
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for lost in (0, 64 << 10):
                with self.subTest(version=version, lost=lost):
                    served = self.serve_tls()
                    broken = self.secured(served.address, request("/big"), version, 32 << 10)
                    skip_head(broken)
                    data = read_exactly(broken, 2 << 20)
                    # A reset takes an acknowledgement that is delayed with it.
                    self.wait_for_arrival(served, len(data))
                    data = data[: len(data) - lost]
                    reset(broken)
                    line = served.log.wait_for("terminated")
                    self.assertRegex(line, r"at [5-9]\d% \(2\.\d MiB of 4\.0 MiB\)$")
                    again = last_request("/big", f"Range: bytes={len(data)}-")
                    client = self.secured(served.address, again, version)
                    reply = read_reply(client)
                    self.assertEqual((206, content), (reply.status, data + reply.body))
                    client.close()
                    served.log.wait_for('"/big" delivered. 4.0 MiB in 2 requests$')

    def test_a_mere_fin_is_no_reset(self) -> None:
        """Whoever closes without a close_notify, as most do, has its file."""
        self.write("big", 300 << 10)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for count, (target, fields) in enumerate(
                [("/a.txt", []), ("/big", []), ("/big", ["Connection: close"])] * 3, 1
            ):
                if count == 1:
                    served = self.serve_tls()
                with self.subTest(version=version, target=target, fields=fields):
                    client = self.secured(served.address, request(target, *fields), version)
                    self.assertEqual(
                        (self.folder / target[1:]).read_bytes(), read_reply(client).body
                    )
                    client.close()
                    self.assert_delivered(served, count)

    def test_urllib(self) -> None:
        content = self.write("big", 300 << 10)
        served = self.serve_tls()
        https = urllib.request.HTTPSHandler(context=self.context())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
        for count in range(1, 6):
            url = f"https://127.0.0.1:{served.address[1]}/big"
            with opener.open(url, timeout=PATIENCE) as reply:
                self.assertEqual(content, reply.read())
            self.assert_delivered(served, count)

    @unittest.skipUnless(shutil.which("wget"), "no wget")
    def test_wget(self) -> None:
        content = self.write("big", 300 << 10)
        served = self.serve_tls()
        options = ["--no-config", "--quiet", "--no-proxy", "--tries=1", "--no-http-keep-alive"]
        options += [f"--ca-certificate={self.path('a.crt')}", "--output-document=-"]
        for count in range(1, 3):
            url = f"https://127.0.0.1:{served.address[1]}/big"
            done = subprocess.run(
                ["wget", *options, url], check=True, stdout=subprocess.PIPE, timeout=PATIENCE
            )
            self.assertEqual(content, done.stdout)
            self.assert_delivered(served, count)

    def test_one_that_grows(self) -> None:
        content = self.write("log", 300 << 10)
        served = self.serve_tls()
        with appended_to(self.folder / "log"):
            for _ in range(20):
                client = self.secured(served.address, request("/log"))
                self.assertEqual(content, read_reply(client).body[: len(content)])
                client.close()
        self.assert_delivered(served, 20)

    def test_finished_means_received(self) -> None:
        content = self.write("big", 256 << 10)
        served = self.serve_tls()
        client = self.secured(served.address, last_request("/big"), receive_buffer=16 << 10)
        skip_head(client)
        data = read_exactly(client, 1)
        # It is all handed over: only what the receiver has is counted.
        ((row,), _) = served.downloads.rows(8)
        self.assertLess(row.arrived, row.size)
        self.assertFalse(any("finished" in line for line in served.log.all()))
        # Where the other side does not say goodbye, some versions raise.
        with contextlib.suppress(ssl.SSLEOFError):
            data += read_all(client)
        self.assertEqual(content, data)
        client.close()
        served.log.wait_for("req finished. 256.0 KiB")
        served.log.wait_for("delivered. 256.0 KiB in 1 request$")

    def test_a_receiver_that_takes_nothing(self) -> None:
        self.write("big", 2 << 20)
        served = self.serve_tls()
        self.secured(served.address, request("/big"), receive_buffer=4096)
        self.wait_for_arrival(served, 1)
        self.wait_until_cut(served, "no connection is left", self.is_gone)
        served.log.wait_for(r"terminated\. at 0% .*, nothing was acknowledged for 60 s$")

    def test_program(self) -> None:
        cases = [[self.path("both.pem")], [self.path("a.crt"), "--tls-key", self.path("a.key")]]
        programs = [self.start("-c", "1", "--tls-cert", *files) for files in cases]
        for program in programs:
            (link,) = program.links()
            self.assertRegex(link, r"^https://127\.0\.0\.1:\d+/a\.txt$")
            program.out.wait_for(r"^serving on: https://127\.0\.0\.1:\d+/$")
            client = self.secured(("127.0.0.1", program.port()), request())
            self.assertEqual(b"hello\n", read_reply(client).body)
            client.close()
        for program in programs:
            self.assertEqual(0, program.wait())
            self.assertEqual("stopped. delivered: a.txt to 127.0.0.1", program.err.all()[-1])

    def test_certificates_that_do_not_load(self) -> None:
        cases: dict[str, tuple[str, str | None]] = {
            "not PEM": (self.path("rubbish.pem"), None),
            "missing": (self.path("none.pem"), None),
            "a folder": (str(self.certificates), None),
            "without its key": (self.path("a.crt"), None),
            "another key": (self.path("a.crt"), self.path("b.key")),
            "no such key": (self.path("a.crt"), self.path("none.key")),
        }
        for name, (certificate, key) in cases.items():
            with self.subTest(name):
                with self.assertRaises(OSError) as caught:
                    tls_context(certificate, key)
                self.assertIn(key or certificate, caught.exception.filename)
                self.assertTrue(caught.exception.strerror)
                self.assertNotRegex(str(caught.exception), r"_ssl\.c|\[X509|\[SSL")
        files = [self.path("a.crt"), "--tls-key", self.path("b.key")]
        status, out, (line,) = self.run_program("--tls-cert", *files)
        self.assertEqual((1, []), (status, out))
        self.assertTrue(line.startswith(f"httpd_download: {files[0]} and {files[2]}: not a "), line)
        self.assertNotIn("_ssl.c", line)


@unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
class BadDisk(LoadCase):
    """A patched ``os.sendfile`` plays the disk: of the file "bad" it gives 300,000 bytes."""

    GOOD = 300_000

    def setUp(self) -> None:
        super().setUp()
        self.write("bad", 1 << 20)
        self.good = self.write("good", 1 << 20)
        bad = os.stat(self.folder / "bad").st_ino
        real = os.sendfile

        def sendfile(out: int, file: int, offset: int, count: int) -> int:
            left = self.GOOD - offset if os.fstat(file).st_ino == bad else count
            return real(out, file, offset, min(count, left)) if left > 0 else self.fault()

        patch = mock.patch("os.sendfile", sendfile)
        patch.start()
        self.addCleanup(patch.stop)

    def fault(self) -> int:
        raise NotImplementedError

    def test_a_read_error(self) -> None:
        served = self.serve()
        for count, number in enumerate((errno.EIO, errno.ESTALE), 1):
            error = OSError(number, os.strerror(number))
            with mock.patch.object(self, "fault", side_effect=error):
                # The second is never answered.
                reply = served.raw(request("/bad", f"User-Agent: {number}") + request("/good"))
            self.assertEqual(self.GOOD, len(body(reply)))
            line = served.log.wait_for("terminated", count)
            self.assertRegex(
                line,
                r'"GET /bad HTTP/1\.1" req terminated\. at \d+% \(.* of 1\.0 MiB\), '
                + re.escape(os.strerror(number)),
            )
        self.assertEqual(self.good, served.fetch("/good").body)
        self.wait_until_gone()
        ends = [line for line in served.log.all() if "/bad" in line and "200 -" not in line]
        self.assertEqual(2, len(ends), ends)
        self.assert_no_fault(served.log.all())

    def test_a_disk_behind_a_network(self) -> None:
        """Of an sshfs that has gone: what networks do to a receiver is no reason to tell."""
        error = OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        served = self.serve()
        read = mock.patch("httpd_download.pread", side_effect=error)
        with read, mock.patch.object(self, "fault", side_effect=error):
            self.assertEqual(self.GOOD, len(body(served.raw(request("/bad")))))
            line = served.log.wait_for("terminated")
        self.assertRegex(line, r"MiB\), the file: Transport endpoint is not connected$")

    def test_a_stall(self) -> None:
        awake = threading.Event()
        self.addCleanup(awake.set)

        def stall() -> int:
            awake.wait(PATIENCE)
            raise OSError(errno.EIO, "at last")

        served = self.serve()
        with mock.patch.object(self, "fault", stall):
            client = self.client(served.address, sends=request("/bad"))
            skip_head(client)
            read_exactly(client, self.GOOD)
            self.wait_for_arrival(served, self.GOOD)
            self.let_pass(served, OVER)
            # Cut, although the thread is still held up.
            self.assertEqual(b"", read_all(client))
            line = served.log.wait_for("terminated")
            self.assertRegex(
                line, r"at 28% \(293\.0 KiB of 1\.0 MiB\), nothing came from the disk for 60 s$"
            )
            self.assertEqual(self.good, served.fetch("/good").body)
            self.assertFalse(self.is_gone(), "the stall is over too early")
            awake.set()
            self.wait_until_gone()
        self.assertEqual(1, sum("terminated" in line for line in served.log.all()))
        self.assert_no_fault(served.log.all())

    def test_a_file_system_without_sendfile(self) -> None:
        served = self.serve()
        for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            error = OSError(number, os.strerror(number))
            with mock.patch.object(self, "fault", side_effect=error):
                reply = served.raw(last_request("/bad"))
            self.assertEqual((self.folder / "bad").read_bytes(), body(reply))
        served.log.wait_for("delivered", 3)
        self.assert_no_fault(served.log.all())


class Reader:
    """Reads what was left unread, once it is told to go on."""

    def __init__(self, descriptor: int) -> None:
        self.lines = Lines()
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._read)

    def go_on(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        left = b""
        # EIO: the other side of a pseudo-terminal is closed.
        with contextlib.suppress(OSError):
            while True:
                data = os.read(self._descriptor, 1 << 16)
                if not data:
                    break
                *lines, left = (left + data).split(b"\n")
                for line in lines:
                    # Without the row that stood there, and was erased.
                    text = line.rpartition(b"\x1b[J")[2].decode("utf-8", "backslashreplace")
                    text = re.sub("\x1b\\[[0-9;]*[A-Za-z]|[\a\r]", "", text)
                    # A row has a line of its own, until it is erased.
                    if not text.startswith("a.txt "):
                        self.lines.add(text)

    def all(self) -> list[str]:
        """Wait for the end, and return the lines."""
        self._thread.join(PATIENCE)
        return self.lines.all()


@unittest.skipUnless(hasattr(os, "openpty"), "no pseudo-terminals")
class NobodyReads(LoadCase):
    """A terminal under Ctrl-S, or a pipe that is full, holds up nothing but itself."""

    # Two long lines each, and a short one: more than a pipe holds, let alone a terminal.
    COUNT, LONG = 50, "x" * 900
    # The last request tells that the answer before it has arrived.
    TARGETS = (*map(("/a.txt?{}" + LONG).format, range(COUNT)), "/none")
    KINDS = (os.pipe, getattr(os, "openpty", os.pipe))

    def start_unread(self, kind: Callable[[], tuple[int, int]], *arguments: str) -> Any:
        reader, writer = kind()
        self.addCleanup(os.close, reader)
        # A pseudo-terminal is both ways: what is read is what was written.
        program = self.start_script(*arguments, stderr=writer, env={"TERM": "xterm"})
        os.close(writer)
        return program, Reader(reader)

    def fetch_many(self, program: Program, targets: Iterable[str] = TARGETS) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", program.port(), timeout=PATIENCE)
        with contextlib.closing(connection):
            for target in targets:
                connection.request("GET", target)
                answer = b"404 Not Found\n" if target == "/none" else b"hello\n"
                self.assertEqual(answer, connection.getresponse().read())

    def assert_all_told(self, lines: list[str]) -> None:
        for number in range(self.COUNT):
            start = rf'^127\.0\.0\.1 - - \[[^]]*\] "GET /a\.txt\?{number}{self.LONG} HTTP/1\.1" '
            told = [re.sub(start, "", line) for line in lines if re.search(start, line)]
            self.assertEqual(2, len(told), (number, told))
            self.assertEqual("200 -", told[0])
            self.assertRegex(told[1], r"^req finished\. 6 B, ")
        whole = r'^127\.0\.0\.1 - - \[[^]]*\] "/a\.txt" delivered\. 6 B in 1 request$'
        self.assertEqual(self.COUNT, sum(bool(re.search(whole, line)) for line in lines))
        last = f"stopped. delivered: a.txt to 127.0.0.1 ({self.COUNT} times)"
        others = [line for line in lines if "/a.txt" not in line]
        self.assertEqual((3 * self.COUNT + 2, last), (len(lines), lines[-1]), others)

    def test_nobody_waits_and_nothing_is_lost(self) -> None:
        started = [self.start_unread(kind, "--timeout", "0.5") for kind in self.KINDS]
        for program, _ in started:
            self.fetch_many(program)
        # The time limit holds as well; read_all raises where it does not.
        silent = [
            self.client(("127.0.0.1", program.port()), sends=b"GET /") for program, _ in started
        ]
        for client in silent:
            self.assertEqual(b"", read_all(client))
        for _, reader in started:
            reader.go_on()
        for program, reader in started:
            reader.lines.wait_for("delivered", self.COUNT)
            program.process.send_signal(signal.SIGINT)
            self.assertEqual(0, program.wait())
            self.assert_all_told(reader.all())

    def test_ctrl_c_and_then_somebody_reads(self) -> None:
        started = [self.start_unread(kind) for kind in self.KINDS]
        for program, reader in started:
            self.fetch_many(program)
            program.process.send_signal(signal.SIGINT)
            reader.go_on()
        for program, reader in started:
            self.assertEqual(0, program.wait())
            self.assert_all_told(reader.all())

    def start_with_unread_links(self) -> Program:
        """Start it with more links than a pipe holds, of which nobody reads all."""
        for number in range(300):
            self.write("f" * 200 + str(number))
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        program = self.start("-p", "0", stdout=writer)
        os.close(writer)
        match = re.match(rb"serving on: http://127\.0\.0\.1:(\d+)/\n", os.read(reader, 4096))
        assert match
        with self.client(("127.0.0.1", int(match[1])), sends=last_request()) as client:
            self.assertEqual(b"hello\n", body(read_all(client)))
        return program

    def test_it_leaves_although_nobody_reads(self) -> None:
        """At Ctrl-C, and with -c by itself."""
        started = [self.start_unread(kind)[0] for kind in self.KINDS]
        for program in started:
            self.fetch_many(program)
        started.append(self.start_with_unread_links())
        leaving = self.start_unread(os.openpty, "-c", str(self.COUNT))[0]
        self.fetch_many(leaving, self.TARGETS[1 : self.COUNT])
        for program in started:
            program.process.send_signal(signal.SIGINT)
        self.fetch_many(leaving, self.TARGETS[:1])
        for program in [*started, leaving]:
            self.assertEqual(0, program.process.wait(PATIENCE))
        self.assertLessEqual(PARTING, 2)


if __name__ == "__main__":
    unittest.main()
