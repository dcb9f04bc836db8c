"""Load, faults and attacks: small versions of what breaks servers; secret links, TLS, bad disks."""

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
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest import mock

from httpd_download import (
    CHECK_INTERVAL,
    QuietServer,
    Registry,
    Share,
    count_unacknowledged,
    pread,
    tls_context,
)
from tests.support import (
    PATIENCE,
    Lines,
    Program,
    ProgramCase,
    Served,
    connect,
    read_all,
    read_exactly,
    read_reply,
    reset,
    skip_head,
    until,
)
from tests.test_channel import KIB, MIB, TELLS_ACKNOWLEDGED, Caller, make_certificates

try:
    import fcntl
    import resource
    import termios
except ImportError:  # Windows
    fcntl = resource = termios = None  # type: ignore[assignment]

HAS_PROC = Path("/proc/self/stat").exists()
HAS_SENDFILE = hasattr(os, "sendfile")
HAS_DEV_FD = os.path.isdir("/dev/fd")
LIMIT = 60  # seconds: the time limit of a server here
OVER_LIMIT = LIMIT + 1


def request(target: str = "/a.txt", *fields: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def last_request(target: str = "/a.txt", *fields: str) -> bytes:
    return request(target, *fields, "Connection: close")


def body(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


def overwrite(path: Path) -> None:
    """Overwrite the first bytes of *path* in place, until its time tells."""
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        with path.open("r+b") as file:
            file.write(os.urandom(10))


@contextlib.contextmanager
def appending_to(path: Path) -> Iterator[None]:
    """Append a line to *path* every 2 ms."""
    over = threading.Event()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not over.wait(0.002):
                file.write(b"a line\n")

    appender = Caller(append)
    try:
        yield
    finally:
        over.set()
        appender.wait()


def has_ended(client: socket.socket) -> bool:
    """Read what is there, and return whether the other side has closed or reset."""
    with contextlib.suppress(ConnectionError):
        while select.select([client], [], [], 0)[0]:
            if not client.recv(64 * KIB):
                return True
        return False
    return True


class Connections:
    """Counts the connections of a server that are open."""

    def __init__(self, server: QuietServer) -> None:
        self._accept = server.get_request
        self._close = server.shutdown_request
        self._lock = threading.Lock()
        self.accepted: list[socket.socket] = []
        self.count = 0
        mock.patch.object(server, "get_request", self._get_request).start()
        mock.patch.object(server, "shutdown_request", self._shutdown_request).start()

    def _get_request(self) -> tuple[Any, Any]:
        connected, address = self._accept()
        with self._lock:
            self.accepted.append(connected)
            self.count += 1
        return connected, address

    def _shutdown_request(self, connected: socket.socket) -> None:
        self._close(connected)
        with self._lock:
            self.count -= 1


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

    def is_idle(self) -> bool:
        """Return whether it computes nothing for ten ticks of the clock that counts that."""
        before = self._ticks()
        time.sleep(0.1)
        return self._ticks() <= before + 1

    def _ticks(self) -> int:
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


class LoadCase(ProgramCase):
    """A folder with a small file, and clients that are closed when the test ends."""

    def setUp(self) -> None:
        super().setUp()
        self.write("a.txt", b"hello\n")
        self.addCleanup(mock.patch.stopall)

    def serve(self, *arguments: Any, **options: Any) -> Served:
        served = super().serve(*arguments, **{"timeout": LIMIT, **options})
        self.connections = Connections(served.server)
        return served

    def client(
        self, address: tuple[str, int], receive_buffer: int = 0, sends: bytes = b""
    ) -> socket.socket:
        client = connect(address, receive_buffer)
        self.addCleanup(client.close)
        client.sendall(sends)
        return client

    def read_rest(self, client: socket.socket) -> bytes:
        """Read all that still comes, no longer through a small window, and close."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        with client:
            return read_all(client)

    def let_pass(self, served: Served, seconds: float) -> None:
        served.clock.ahead += seconds
        served.registry.check_all()

    def wait_until_cut(self, served: Served, what: str, is_cut: Callable[[], bool]) -> None:
        """Let time limits pass until *is_cut*: a connection may have progress in between."""

        def pass_and_look() -> bool:
            self.let_pass(served, OVER_LIMIT)
            return is_cut()

        until(pass_and_look, what)

    def has_no_connection(self) -> bool:
        """Return whether the server that was started last has no connection left."""
        return self.connections.count == 0

    def wait_until_gone(self) -> None:
        until(self.has_no_connection, "no connection is left")

    def arrived(self, served: Served) -> int:
        """Return how much has arrived of the download that began last."""
        rows, _, _ = served.registry.view(8)
        return rows[-1].arrived if rows else 0

    def wait_for_arrival(self, served: Served, count: int) -> None:
        until(lambda: self.arrived(served) >= count, f"{count} bytes are acknowledged")

    def assert_serves(self, served: Served) -> None:
        reply = served.fetch("/a.txt")
        self.assertEqual((200, b"hello\n"), (reply.status, reply.body))

    def assert_program_serves(self, program: Program) -> None:
        with self.client(("127.0.0.1", program.port()), sends=last_request()) as client:
            self.assertEqual(b"hello\n", body(read_all(client)), program.err.all()[-20:])

    def assert_no_fault(self, log: list[str]) -> None:
        faults = "internal error|Traceback|Exception"
        self.assertEqual([], [line for line in log if re.search(faults, line)])


class TimeLimits(LoadCase):
    def test_heads_that_drip(self) -> None:
        served = self.serve(is_watched=False)
        cases = [(b"GET /", b"abc"), (b"GET /a.txt HTTP/1.1\r\nHost: x\r\n", b"A:b")] * 30
        dripping = [(self.client(served.address, sends=first), drops) for first, drops in cases]
        clients = [client for client, _ in dripping]
        for index in range(3):
            self.assert_serves(served)
            self.let_pass(served, LIMIT / 4)
            for client, drops in dripping:
                client.sendall(drops[index : index + 1])
        self.assert_serves(served)
        self.assertEqual([], select.select(clients, [], [], 0)[0], "cut before the limit")
        # Less than a limit after the last drop.
        self.let_pass(served, LIMIT * 0.9)
        for client in clients:
            self.assertEqual(b"", read_all(client))
        self.assert_serves(served)
        self.wait_until_gone()
        self.assert_no_fault(served.log.all())

    def test_clients_that_ask_for_nothing(self) -> None:
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
        self.wait_until_cut(served, "no connection is left", self.has_no_connection)

    def test_clients_that_never_stop_sending(self) -> None:
        # So little at a time that the time limit ends it, not the length of a head.
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        cases = {
            "empty lines": (b"", b"\r\n"),
            "bare line feeds": (b"", b"\n"),
            "a request line": (b"GET /", b"a"),
            "fields": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n"),
            "a body": (post, b"a" * 1000),
        }
        served = self.serve()
        sending = {
            name: (self.client(served.address, sends=first), more)
            for name, (first, more) in cases.items()
        }

        def send() -> bool:
            self.let_pass(served, LIMIT / 6)
            for name, (client, more) in list(sending.items()):
                try:
                    client.send(more)
                except ConnectionError:
                    del sending[name]
            return not sending

        until(send, "all are cut")
        self.wait_until_gone()
        self.assert_no_fault(served.log.all())

    @unittest.skipUnless(TELLS_ACKNOWLEDGED, "the system does not tell what was acknowledged")
    def test_only_a_receiver_without_progress_is_cut(self) -> None:
        content = self.write("big", 2 * MIB)
        served = self.serve()
        self.client(served.address, 4096, request("/big?silent", "User-Agent: silent"))
        self.wait_for_arrival(served, 1)
        # Megabytes were handed over at once: only acknowledgements tell that this one goes on.
        slow = self.client(served.address, 32 * KIB, last_request("/big?slow", "User-Agent: slow"))
        served.log.wait_for("slow.* 200 -")
        data = b""
        for _ in range(6):
            before = self.arrived(served)
            data += read_exactly(slow, 128 * KIB)
            self.wait_for_arrival(served, before + 1)
            self.let_pass(served, LIMIT / 3)
        line = served.log.wait_for("silent.* terminated")
        self.assertRegex(
            line, r"terminated\. at 0% \(.* of 2\.0 MiB\), nothing was acknowledged for 60 s$"
        )
        data += read_all(slow)
        slow.close()
        self.assertEqual(content, body(data))
        served.log.wait_for("slow.* finished")

    @unittest.skipUnless(HAS_SENDFILE and TELLS_ACKNOWLEDGED, "no os.sendfile")
    def test_slow_disk_that_goes_on_is_not_cut(self) -> None:
        content = self.write("slow", MIB)
        served = self.serve()
        sendfile = os.sendfile
        offsets = []

        def slow_sendfile(out: int, file: int, offset: int, count: int) -> int:
            """Give a part half a time limit later, with nothing left to acknowledge."""
            offsets.append(offset)
            self.wait_for_arrival(served, offset)
            self.let_pass(served, LIMIT / 2)
            return sendfile(out, file, offset, min(count, 256 * KIB))

        with mock.patch("os.sendfile", slow_sendfile):
            reply = served.raw(last_request("/slow"))
        self.assertEqual(content, body(reply), served.log.all())
        self.assertGreater(len(offsets), 3)
        served.log.wait_for("finished")


class ManyConnections(LoadCase):
    @unittest.skipUnless(HAS_PROC and resource, "no /proc, or no resource limits")
    def test_slow_receivers_cost_little_and_leave_nothing(self) -> None:
        content = self.write("big", 4 * MIB)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(1000, (hard - 200) // 5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 100), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

        def lower_limit() -> None:
            # Too few, if the program did not raise it: macOS gives 256.
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

        program = self.start_script(preexec_fn=lower_limit)
        address = ("127.0.0.1", program.port())
        process = Process(program)
        self.assert_program_serves(program)
        # These may still be those of the first client as well.
        threads, open_files, memory = process.threads(), process.descriptors(), process.resident()
        requests = [last_request("/big", f"User-Agent: {number}") for number in range(count)]
        slow = [self.client(address, 4096, each) for each in requests]
        for client in slow:
            self.assertTrue(client.recv(1))
        self.assertLessEqual(process.threads() - threads, count)
        self.assertLess((process.resident() - memory) / count, 64, "KiB of memory for each")
        with self.client(address, sends=last_request("/big")) as client:
            self.assertEqual(content, body(read_all(client)))
        for client in slow:
            client.close()
        until(lambda: process.threads() <= threads, "no thread is left")
        until(lambda: process.descriptors() <= open_files, "no descriptor is left")
        self.assert_no_fault(program.err.all())

    def test_requests_without_reading_the_answers(self) -> None:
        served = self.serve()
        count = 20
        requests = b"".join(request(f"/a.txt?{number}") for number in range(count))
        client = self.client(served.address, 4096, requests)
        served.log.wait_for(r"a.txt\?1 HTTP/1.1\" req finished")
        self.assert_serves(served)
        served.log.wait_for('"GET /a.txt HTTP/1.1" req finished')
        # The next one waits until the one before has arrived.
        rows, more, _ = served.registry.view(8)
        self.assertLessEqual(len(rows) + more, 1)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(count, read_all(client).count(b"\r\n\r\nhello\n"))
        served.log.wait_for(r"\?\d+ HTTP/1\.1\" req finished", count)
        self.assert_no_fault(served.log.all())

    @unittest.skipUnless(HAS_PROC and TELLS_ACKNOWLEDGED, "a long body ends the connection")
    def test_connection_has_one_file_open_at_a_time(self) -> None:
        content = self.write("big", 300 * KIB)
        served = self.serve()
        client = self.client(served.address, 64 * KIB, request("/big") * 5 + last_request("/big"))
        client.shutdown(socket.SHUT_WR)
        most = 0
        data = bytearray()
        while True:
            chunk = client.recv(64 * KIB)
            found = 0
            for descriptor in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    found += os.readlink(f"/proc/self/fd/{descriptor}").endswith("/big")
            most = max(most, found)
            if not chunk:
                break
            data += chunk
        self.assertEqual((6, 1), (data.count(content), most))

    def test_burst_of_connections(self) -> None:
        backlog = Path("/proc/sys/net/core/somaxconn")
        count = min(200, int(backlog.read_text()) if backlog.exists() else 100)
        share = Share(str(self.folder), {})
        server = QuietServer(("127.0.0.1", 0), share, Registry(Lines().log))
        self.addCleanup(server.server_close)
        self.connections = Connections(server)
        # Nobody accepts yet: the system must hold them all, or they are lost.
        burst = [self.client(("127.0.0.1", server.server_port)) for _ in range(count)]
        for client in burst:
            client.sendall(last_request())
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        for client in burst:
            self.assertEqual(b"hello\n", body(read_all(client)))
            client.close()
        self.wait_until_gone()


class NothingLeft(LoadCase):
    """Descriptors and threads are short: no fault, no busy loop, and all is well afterwards."""

    def start_with_64_descriptors(self, *arguments: str) -> Program:
        program = self.start_script(
            *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        )
        program.links()
        return program

    @unittest.skipUnless(HAS_PROC and resource, "no /proc, or no resource limits")
    def test_more_clients_than_64_descriptors(self) -> None:
        program = self.start_with_64_descriptors()
        process = Process(program)
        clients = [self.client(("127.0.0.1", program.port())) for _ in range(100)]
        until(lambda: process.threads() >= 12, "it has taken as many as it can")
        until(process.is_idle, "there is no busy loop")
        self.assertLess(process.descriptors(), 64)
        last = clients.pop()
        last.sendall(last_request())
        for client in clients:
            client.close()
        self.assertEqual(b"hello\n", body(read_all(last)), program.err.all())
        self.assert_no_fault(program.err.all())

    @unittest.skipUnless(resource, "no resource limits")
    def test_64_descriptors_are_enough_for_pipelining(self) -> None:
        content = self.write("big", 100 * KIB)
        program = self.start_with_64_descriptors()
        address = ("127.0.0.1", program.port())
        requests = request("/big") * 2 + last_request("/big")
        clients = [self.client(address, 32 * KIB, requests) for _ in range(20)]
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        with ThreadPoolExecutor(len(clients)) as pool:
            replies = list(pool.map(read_all, clients))
        self.assertEqual([3] * 20, [reply.count(content) for reply in replies])
        self.assert_no_fault(program.err.all())

    @unittest.skipUnless(resource, "no resource limits")
    def test_missing_files_use_up_no_descriptors(self) -> None:
        # CPython 3.12 and 3.13 keep what context managers swallow, with its frames.
        self.write("sub/a.txt")
        missing = b"".join(request(f"/sub/none{number}") for number in range(100))
        program = self.start_with_64_descriptors("-r")
        with self.client(("127.0.0.1", program.port()), sends=missing) as client:
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(100, read_all(client).count(b"HTTP/1.1 404 "))
        self.assert_program_serves(program)

    def test_connection_that_was_reset_before_it_was_accepted(self) -> None:
        """macOS tells no address of it."""
        served = self.serve()
        accept = socketserver.TCPServer.get_request

        def accept_too_late(server: socketserver.TCPServer) -> Any:
            accepted, _ = accept(server)
            return accepted, None

        with mock.patch("socketserver.TCPServer.get_request", accept_too_late):
            self.assertEqual(b"", read_all(self.client(served.address)))
        self.assert_serves(served)
        self.assert_no_fault(served.log.all())

    def test_no_descriptor_for_a_connection(self) -> None:
        # With one connection at most, a slot that is lost would be missed.
        served = self.serve(max_connections=1)
        tries: list[float] = []

        def fail(server: socketserver.TCPServer) -> Any:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, "too many open files")

        with mock.patch("socketserver.TCPServer.get_request", fail):
            client = self.client(served.address, sends=last_request())
            until(lambda: len(tries) >= 3, "it tries again and again")
            # However slow a machine is, it cannot be less.
            self.assertGreater(tries[2] - tries[0], CHECK_INTERVAL, "a busy loop")
        self.assertEqual(b"hello\n", body(read_all(client)))
        client.close()
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

    @unittest.skipUnless(hasattr(resource, "prlimit"), "no resource.prlimit")
    def test_threads_that_run_out(self) -> None:
        """As under ``ulimit -u``: clients are answered or dropped, but not left waiting."""
        if os.geteuid() == 0:
            self.skipTest("root may have any number of processes")
        program = self.start_script()
        self.assert_program_serves(program)
        address = ("127.0.0.1", program.port())
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.prlimit(program.process.pid, resource.RLIMIT_NPROC, (1, hard))
        for client in [self.client(address, sends=last_request()) for _ in range(40)]:
            self.assertIn(body(read_all(client)), (b"", b"hello\n"))
        resource.prlimit(program.process.pid, resource.RLIMIT_NPROC, (hard, hard))
        self.assert_program_serves(program)
        self.assertNotRegex("\n".join(program.err.all()), "Traceback|Exception")

    def test_no_thread_for_a_connection(self) -> None:
        served = self.serve(max_connections=1)
        fail = mock.Mock(side_effect=RuntimeError("can't start new thread"))
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            with mock.patch("threading.Thread.start", fail):
                for count in range(1, 4):
                    client = self.client(served.address, sends=last_request())
                    self.assertEqual(b"", read_all(client))
                    self.assertEqual(count, fail.call_count)
            self.assert_serves(served)
        self.assertEqual("", errors.getvalue())
        served.log.wait_for("can't start new thread", 3)

    def test_no_thread_at_all(self) -> None:
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


def mutated(seeded: random.Random) -> bytes:
    """Return a request with at most four faults."""
    data = bytearray(seeded.choice(SEEDS))
    for _ in range(seeded.randrange(5)):
        at = seeded.randrange(len(data) + 1)
        lines = bytes(data).split(b"\r\n")
        line = seeded.randrange(len(lines))
        fault = seeded.choice(("bit", "splice", "repeat", "cut", "noise", "insert", "double"))
        if fault == "bit" and at < len(data):
            data[at] ^= 1 << seeded.randrange(8)
        elif fault == "splice":
            lines.insert(line, seeded.choice(seeded.choice(SEEDS).split(b"\r\n")))
            data[:] = b"\r\n".join(lines)
        elif fault == "repeat":
            lines[line : line + 1] = [lines[line]] * seeded.choice((0, 2, 3, 5000))
            data[:] = b"\r\n".join(lines)
        elif fault == "cut":
            del data[at:]
        elif fault == "noise":
            data[at:at] = bytes(seeded.randrange(256) for _ in range(seeded.randrange(1, 20)))
        elif fault == "insert":
            data[at:at] = seeded.choice(SEEDS)
        else:
            data[at:at] = data[: seeded.randrange(99)]
    return bytes(data)


class Noise(LoadCase):
    def test_mutated_requests(self) -> None:
        self.write("b.bin", 1000)
        seeded = random.Random(4)
        seen = set()
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            served = self.serve()
            for number in range(1000):
                data = mutated(seeded)
                reply = served.raw(data)
                statuses = set(re.findall(rb"^HTTP/1\.[01] (\d\d\d) ", reply, re.MULTILINE))
                wrong = [each for each in statuses if each > b"5" and each not in (b"501", b"505")]
                self.assertEqual([], wrong, f"number {number}: {data[:2000]!r}")
                seen |= statuses
            self.assert_serves(served)
            self.wait_until_gone()
        self.assertEqual("", errors.getvalue())
        self.assert_no_fault(served.log.all())
        # Not everything is noise, and not everything is understood.
        expected = "200 206 400 404 405 412 416 431 501 505"
        self.assertLessEqual(set(expected.encode().split()), seen)

    @unittest.skipUnless(HAS_DEV_FD, "no /dev/fd")
    def test_requests_leave_nothing(self) -> None:
        self.write("b.bin", 100 * KIB)
        self.write("sub/a.txt")
        served = self.serve(is_recursive=True)
        self.assert_serves(served)
        self.wait_until_gone()
        descriptors, threads = len(os.listdir("/dev/fd")), threading.active_count()
        for _ in range(3):
            connection = http.client.HTTPConnection(*served.address, timeout=PATIENCE)
            for index in range(100):
                fields = {} if index % 3 else {"Range": f"bytes={index % 7}-"}
                target = ("/a.txt", "/b.bin", "/sub/none")[index % 5 % 3]
                connection.request("GET", target, headers=fields)
                reply = connection.getresponse()
                reply.read()
                self.assertIn(reply.status, (200, 206, 404, 416))
            connection.close()
        for index in range(100):
            reset(self.client(served.address, sends=request("/b.bin")[: index % 40]))
            self.assert_serves(served)
        self.wait_until_gone()
        until(lambda: threading.active_count() <= threads, "no thread is left")
        self.assertLessEqual(len(os.listdir("/dev/fd")), descriptors)
        self.assertEqual([], served.registry.view(8).rows)
        self.assert_no_fault(served.log.all())


class ChangedFiles(LoadCase):
    """Files that are written to while they are sent."""

    def setUp(self) -> None:
        super().setUp()
        self.content = self.write("big", 8 * MIB)
        self.path = self.folder / "big"

    def begin(self, served: Served) -> socket.socket:
        """Ask for the file, and read its head and nothing of its body."""
        client = self.client(served.address, 4096, last_request("/big"))
        skip_head(client)
        return client

    def test_changed_file_is_cut_before_a_wrong_byte(self) -> None:
        cases: list[tuple[Callable[[], Any], str]] = [
            (lambda: os.truncate(self.path, 7 * MIB), "the file became shorter"),
            (lambda: os.truncate(self.path, 0), "the file became shorter"),
            (lambda: overwrite(self.path), "the file was changed"),
        ]
        for change, reason in cases:
            self.path.write_bytes(self.content)
            served = self.serve()
            client = self.begin(served)
            change()
            self.assertLess(len(self.read_rest(client)), len(self.content))
            served.rest()
            line = served.log.wait_for("req (terminated|finished)|delivered")
            self.assertRegex(line, rf"terminated\. at \d+% \(.*\), {reason}$")
            # What it is now is a version of its own.
            self.assertEqual(self.path.read_bytes(), served.fetch("/big").body)
            self.assert_no_fault(served.log.all())

    def test_replaced_file_is_completed(self) -> None:
        served = self.serve()
        client = self.begin(served)
        try:
            os.replace(self.folder / "a.txt", self.path)
        except PermissionError:
            self.skipTest("the system does not replace open files")
        self.assertEqual(self.content, self.read_rest(client))
        served.log.wait_for("delivered")

    def begin_queued(self, size: int, after: str) -> tuple[Served, socket.socket, bytes]:
        """Ask for a file and another one, and wait until all of the first is in the send queue."""
        content = self.write("queued", size)
        served = self.serve()
        client = self.client(served.address, 4096, request("/queued") + last_request(after))

        def handed_over() -> int:
            if not self.connections.accepted:
                return 0
            unread = int.from_bytes(fcntl.ioctl(client, termios.FIONREAD, bytes(4)), sys.byteorder)
            return unread + (count_unacknowledged(self.connections.accepted[0]) or 0)

        until(lambda: handed_over() > size, "it is handed over")
        return served, client, content

    @unittest.skipUnless(TELLS_ACKNOWLEDGED and HAS_SENDFILE, "no os.sendfile")
    def test_file_overwritten_when_all_of_it_is_handed_over_is_not_delivered(self) -> None:
        for after, half_closes in (("/none", True), ("/big", False)):
            served, client, _ = self.begin_queued(200 * KIB, after)
            overwrite(self.folder / "queued")
            if half_closes:
                client.shutdown(socket.SHUT_WR)
            self.read_rest(client)
            served.rest()
            line = served.log.wait_for("/queued.*(terminated|finished)")
            self.assertRegex(line, r"terminated\. at \d+% \(.*\), the file was changed$")
            self.assertFalse([each for each in served.log.all() if '/queued" delivered' in each])
            self.assert_no_fault(served.log.all())

    @unittest.skipUnless(TELLS_ACKNOWLEDGED, "the system does not tell what was acknowledged")
    def test_small_file_is_copied_and_stays_what_it_was(self) -> None:
        served, client, content = self.begin_queued(20 * KIB, "/none")
        overwrite(self.folder / "queued")
        client.shutdown(socket.SHUT_WR)
        self.assertIn(content, self.read_rest(client))
        served.log.wait_for("delivered")

    def test_file_that_grows_is_delivered_as_it_was(self) -> None:
        content = self.write("log", 300 * KIB)
        served = self.serve()
        with appending_to(self.folder / "log"):
            for _ in range(60):
                data = served.fetch("/log").body
                self.assertEqual(content, data[: len(content)])
                self.assertEqual(0, (len(data) - len(content)) % len(b"a line\n"))
        served.log.wait_for("delivered", 60)
        self.assertFalse([line for line in served.log.all() if "terminated" in line])


class SecretLinks(LoadCase):
    def test_everything_else_is_the_same_404(self) -> None:
        secret = "0123456789abcdef0123456789abcdef"
        self.write("sub/a.txt")
        served = self.serve(prefix=secret)
        self.assertEqual(b"hello\n", served.fetch(f"/{secret}/a.txt").body)

        def answer(method: str, target: str, *fields: str) -> bytes:
            lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
            reply = served.raw("\r\n".join(lines).encode())
            return re.sub(rb"\r\nDate: [^\r]*", b"", reply)

        wrong = [secret[:-1], f"{secret}0", f"{secret[:-1]}0", secret.upper()]
        wrong += [f"%ff{secret}", f"%C3%A9{secret}", "\u00e9"]
        rests = ("", "/", "/none", "/sub", "/sub/", "/../a.txt", "%2fa.txt")
        targets = ["/", "/a.txt", "/none", "/sub", "/sub/", "//a.txt", f"/a.txt?{secret}"]
        targets += ["http://x", *(f"/{secret}{rest}" for rest in rests)]
        targets += [f"/{first}/a.txt" for first in wrong]
        fields = ["If-None-Match: *", 'If-Match: "x"', "Range: bytes=9-", "Range: bytes=x"]
        for method in ("GET", "HEAD"):
            answers = {answer(method, target) for target in targets}
            answers |= {answer(method, "/a.txt", field) for field in fields}
            self.assertEqual(1, len(answers), answers)
            self.assertTrue(answers.pop().startswith(b"HTTP/1.1 404 "))
        advice = b"404 Not Found: ask the sender for the complete link.\n"
        self.assertEqual(advice, body(answer("GET", "/")))
        self.assertEqual(answer("POST", "/a.txt"), answer("POST", f"/{secret}/a.txt"))

    def test_links_of_the_program(self) -> None:
        components = set()
        command_lines = (["--secret"], ["--secret", "a.txt"], ["--prefix", "word"])
        for program in [self.start(*arguments) for arguments in command_lines]:
            (link,) = program.links()
            match = re.fullmatch(r"http://127\.0\.0\.1:\d+(/([0-9a-f]{32}|word)/a\.txt)", link)
            assert match, link
            components.add(match[2])
            address = ("127.0.0.1", program.port())
            for target, status in ((match[1], b" 200 "), ("/a.txt", b" 404 ")):
                with self.client(address, sends=last_request(target)) as client:
                    self.assertIn(status, read_all(client)[:13])
            self.assertIn(' "/a.txt" delivered. ', program.err.wait_for("delivered"))
        self.assertEqual(3, len(components))


class Tls(LoadCase):
    certificates: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.certificates = make_certificates(cls, "a", "b")
        (cls.certificates / "rubbish.pem").write_bytes(b"rubbish\n")

    def path(self, name: str) -> str:
        return str(self.certificates / name)

    def serve_tls(self) -> Served:
        return self.serve(tls=tls_context(self.path("a.pem"), None))

    def secured(
        self,
        address: tuple[str, int],
        sends: bytes,
        version: ssl.TLSVersion | None = None,
        receive_buffer: int = 0,
    ) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.path("a.crt"))
        if version:
            context.minimum_version = context.maximum_version = version
        client = self.client(address, receive_buffer)
        secured = context.wrap_socket(client, server_hostname="127.0.0.1")
        self.addCleanup(secured.close)
        secured.sendall(sends)
        return secured

    def assert_delivered(self, served: Served, count: int) -> None:
        """So many receivers have everything, and no download broke off."""
        served.log.wait_for("delivered|terminated", count)
        ends = [line for line in served.log.all() if re.search("finished|terminated", line)]
        self.assertEqual(count, sum("finished" in line for line in ends), ends)
        self.assertEqual(count, len(ends), ends)
        self.assert_no_fault(served.log.all())

    def test_versions_and_a_mere_fin_is_no_reset(self) -> None:
        """Most clients close without a close_notify. They have their files."""
        self.write("big", 300 * KIB)
        cases = [request(), request("/big"), last_request("/big")] * 3
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            served = self.serve_tls()
            for count, data in enumerate(cases, 1):
                client = self.secured(served.address, data, version)
                self.assertEqual(version.name.replace("_", "."), client.version())
                name = data.split()[1].decode()[1:]
                self.assertEqual((self.folder / name).read_bytes(), read_reply(client).body)
                client.close()
                self.assert_delivered(served, count)

    def test_silent_clients_block_nobody(self) -> None:
        served = self.serve_tls()
        silent = [self.client(served.address, sends=b"\x16\x03\x01"[:index]) for index in (0, 1, 3)]
        honest = self.secured(served.address, request())
        self.assertEqual(b"hello\n", read_reply(honest).body)
        honest.close()
        self.assertEqual([], select.select(silent, [], [], 0)[0], "closed before their time")
        self.wait_until_cut(served, "no connection is left", self.has_no_connection)
        self.assert_no_fault(served.log.all())

    def test_port_scan_makes_no_line(self) -> None:
        served = self.serve_tls()
        self.client(served.address).close()
        until(lambda: len(self.connections.accepted) == 1, "it is accepted")
        self.wait_until_gone()
        self.assertEqual([], served.log.all())

    def test_clients_that_do_not_speak_tls(self) -> None:
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

    @unittest.skipUnless(TELLS_ACKNOWLEDGED, "the system does not tell what was acknowledged")
    def test_slow_receiver_is_counted_resumes_and_gets_everything(self) -> None:
        content = self.write("big", 4 * MIB)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            # A killed receiver has kept all that it read, or a little less.
            for lost in (0, 64 * KIB):
                served = self.serve_tls()
                broken = self.secured(served.address, request("/big"), version, 32 * KIB)
                skip_head(broken)
                data = b""
                for position in range(512 * KIB, 2 * MIB + 1, 512 * KIB):
                    data += read_exactly(broken, 512 * KIB)
                    # A record that is partly in the send queue is not counted.
                    self.wait_for_arrival(served, position - 64 * KIB)
                    self.assertLess(self.arrived(served), position + 256 * KIB)
                data = data[: len(data) - lost]
                reset(broken)
                served.rest()
                line = served.log.wait_for("terminated")
                self.assertRegex(line, r"at (49|5\d)% \((1\.9|2\.\d) MiB of 4\.0 MiB\)$")
                again = last_request("/big", f"Range: bytes={len(data)}-")
                client = self.secured(served.address, again, version)
                reply = read_reply(client)
                self.assertEqual((206, content), (reply.status, data + reply.body))
                client.close()
                served.log.wait_for('"/big" delivered. 4.0 MiB in 2 requests$')

    @unittest.skipUnless(TELLS_ACKNOWLEDGED, "the system does not tell what was acknowledged")
    def test_receiver_that_takes_nothing_more(self) -> None:
        self.write("big", 2 * MIB)
        served = self.serve_tls()
        client = self.secured(served.address, request("/big"), receive_buffer=4096)
        skip_head(client)
        read_exactly(client, 1)
        self.wait_for_arrival(served, 1)
        self.wait_until_cut(served, "no connection is left", self.has_no_connection)
        served.log.wait_for(r"terminated\. at [01]% .*, nothing was acknowledged for 60 s$")

    def test_urllib_and_wget(self) -> None:
        content = self.write("big", 300 * KIB)
        served = self.serve_tls()
        url = f"https://127.0.0.1:{served.address[1]}/big"
        context = ssl.create_default_context(cafile=self.path("a.crt"))
        https = urllib.request.HTTPSHandler(context=context)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
        for count in range(1, 6):
            with opener.open(url, timeout=PATIENCE) as reply:
                self.assertEqual(content, reply.read())
            self.assert_delivered(served, count)
        command = ["wget", "--no-config", "--quiet", "--no-proxy", "--tries=1", "-O-", url]
        command += [f"--ca-certificate={self.path('a.crt')}", "--no-http-keep-alive"]
        if shutil.which("wget"):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
            self.assertEqual(content, done.stdout)
            self.assert_delivered(served, 6)

    def test_program(self) -> None:
        together = [self.path("a.pem")]
        apart = [self.path("a.crt"), "--tls-key", self.path("a.key")]
        for program in [self.start("-c", "1", "--tls-cert", *each) for each in (together, apart)]:
            (link,) = program.links()
            self.assertRegex(link, r"^https://127\.0\.0\.1:\d+/a\.txt$")
            program.out.wait_for(r"^serving on: https://127\.0\.0\.1:\d+/$")
            client = self.secured(("127.0.0.1", program.port()), request())
            self.assertEqual(b"hello\n", read_reply(client).body)
            client.close()
            self.assertEqual(0, program.wait())
            self.assertEqual("stopped. delivered: a.txt to 127.0.0.1", program.err.all()[-1])

    def test_certificates_that_do_not_load(self) -> None:
        cases: list[tuple[str, str | None]] = [
            ("rubbish.pem", None),
            ("none.pem", None),
            ("", None),  # the folder
            ("a.crt", None),  # without its key
            ("a.crt", "b.key"),
            ("a.crt", "none.key"),
        ]
        for certificate, key in cases:
            with self.subTest(certificate, key=key):
                with self.assertRaises(OSError) as caught:
                    tls_context(self.path(certificate), self.path(key) if key else None)
                self.assertIn(self.path(key or certificate), caught.exception.filename)
                self.assertTrue(caught.exception.strerror)
                self.assertNotRegex(str(caught.exception), r"_ssl\.c|\[X509|\[SSL")
        files = [self.path("a.crt"), "--tls-key", self.path("b.key")]
        status, out, (line,) = self.run_program("--tls-cert", *files)
        self.assertEqual((1, []), (status, out))
        self.assertTrue(line.startswith(f"httpd_download: {files[0]} and {files[2]}: not a "), line)


class HangingDisk:
    """A call of the disk that hangs for one file, until it is told to go on."""

    def __init__(self, inode: int, real: Callable[..., Any]) -> None:
        self._inode = inode
        self._real = real
        self._fstat = os.fstat
        self.hangs = threading.Event()
        self.goes_on = threading.Event()

    def __call__(self, descriptor: int, *arguments: Any) -> Any:
        if self._fstat(descriptor).st_ino == self._inode:
            self.hangs.set()
            self.goes_on.wait(PATIENCE)
        return self._real(descriptor, *arguments)


@unittest.skipUnless(HAS_SENDFILE, "no os.sendfile")
class BadDisks(LoadCase):
    """A patched ``os.sendfile`` plays the disk: of the file "bad" it gives 300,000 bytes."""

    GOOD = 300_000

    def setUp(self) -> None:
        super().setUp()
        self.bad = self.write("bad", MIB)
        self.good = self.write("good", MIB)
        self.inode = os.stat(self.folder / "bad").st_ino
        self.fault = mock.Mock()
        real = os.sendfile

        def sendfile(out: int, file: int, offset: int, count: int) -> int:
            left = self.GOOD - offset if os.fstat(file).st_ino == self.inode else count
            return real(out, file, offset, min(count, left)) if left > 0 else self.fault()

        mock.patch("os.sendfile", sendfile).start()

    def test_read_error(self) -> None:
        served = self.serve()
        cases = [
            (errno.EIO, os.strerror(errno.EIO)),
            (errno.ESTALE, os.strerror(errno.ESTALE)),
            # An sshfs that has gone: it is not the network of the receiver.
            (errno.ENOTCONN, f"the file: {os.strerror(errno.ENOTCONN)}"),
        ]
        for count, (number, reason) in enumerate(cases, 1):
            self.fault.side_effect = OSError(number, os.strerror(number))
            # The second one is never answered.
            requests = request("/bad", f"User-Agent: {number}") + request("/good")
            with mock.patch("httpd_download.pread", self.fault):
                self.assertEqual(self.GOOD, len(body(served.raw(requests))))
            served.rest()
            line = served.log.wait_for("terminated", count)
            self.assertRegex(line, r'"GET /bad HTTP/1\.1" req terminated\. at \d+% \(.* of 1')
            self.assertTrue(line.endswith(f"), {reason}"), line)
        self.assertEqual(self.good, served.fetch("/good").body)
        self.wait_until_gone()
        self.assert_no_fault(served.log.all())

    @unittest.skipUnless(TELLS_ACKNOWLEDGED, "the system does not tell what was acknowledged")
    def test_stall_is_cut_and_named(self) -> None:
        awake = threading.Event()
        self.addCleanup(awake.set)

        def stall() -> int:
            awake.wait(PATIENCE)
            raise OSError(errno.EIO, "at last")

        self.fault.side_effect = stall
        served = self.serve()
        client = self.client(served.address, sends=request("/bad"))
        skip_head(client)
        read_exactly(client, self.GOOD)
        self.wait_for_arrival(served, self.GOOD)
        self.let_pass(served, OVER_LIMIT)
        # Cut, although the thread is still held up.
        self.assertEqual(b"", read_all(client))
        served.rest()
        line = served.log.wait_for("terminated")
        self.assertRegex(line, r"at 28% \(.*\), nothing came from the disk for 60 s$")
        self.assertEqual(self.good, served.fetch("/good").body)
        self.assertFalse(self.has_no_connection(), "the stall is over too early")
        awake.set()
        self.wait_until_gone()
        self.assertEqual(1, sum("terminated" in line for line in served.log.all()))
        self.assert_no_fault(served.log.all())

    def test_nothing_else_waits_for_a_disk_that_hangs(self) -> None:
        # More than the send queue holds: something is left to do when the disk begins to hang.
        self.bad = self.write("bad", 8 * MIB)
        self.fault.return_value = 0  # sendfile gives no more, so the rest is read
        for target, real in (("os.fstat", os.fstat), ("httpd_download.pread", pread)):
            disk = HangingDisk(self.inode, real)
            self.addCleanup(disk.goes_on.set)
            served = self.serve()
            client = self.client(served.address, 4096, last_request("/bad"))
            skip_head(client)
            replies: list[bytes] = []
            with self.subTest(target), mock.patch(target, disk):
                reader = Caller(lambda: replies.append(self.read_rest(client)))  # noqa: B023
                self.assertTrue(disk.hangs.wait(PATIENCE))
                self.assertEqual(self.good, served.fetch("/good").body)
                self.assertEqual("bad", served.registry.view(8).rows[0].name)
                served.registry.check_all()
                disk.goes_on.set()
                reader.wait()
                self.assertEqual(self.bad, replies[0])
