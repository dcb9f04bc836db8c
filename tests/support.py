"""What the tests share: a folder, a server in this process or as a program, and raw HTTP."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import unittest
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from httpd_download import (
    LINGER_FORMAT,
    PAUSE_AFTER,
    QuietServer,
    Registry,
    Share,
    main,
    named_offers,
)

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "httpd_download.py"
PATIENCE = 20.0  # seconds after which an event that has not come is taken to be missing


class Lines:
    """Lines that another thread adds, and that a test can wait for."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._added = threading.Condition()

    def add(self, line: str) -> None:
        with self._added:
            self._lines.append(line)
            self._added.notify_all()

    def log(self, peer: str, subject: str, event: str) -> None:
        """Serve as the log of a server; dates are left out."""
        self.add(f'{peer} "{subject}" {event}')

    def all(self) -> list[str]:
        with self._added:
            return list(self._lines)

    def wait_for(self, pattern: str, count: int = 1) -> str:
        """Return the *count*-th line in which *pattern* is found; fail when it does not come."""
        with self._added:
            if not self._added.wait_for(lambda: len(self._found(pattern)) >= count, PATIENCE):
                raise AssertionError(f"{count} x {pattern!r} not in:\n" + "\n".join(self._lines))
            return self._found(pattern)[count - 1]

    def _found(self, pattern: str) -> list[str]:
        return [line for line in self._lines if re.search(pattern, line)]


class Reply:
    """An answer: status, version (10 or 11), headers and body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.body = response.read()
        self.status = response.status
        self.version = response.version
        self.headers = response.headers


class Clock:
    """Tells the time, or one that is ahead of it by as much as a test has let pass."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class RememberingServer(QuietServer):
    """A server that remembers the sockets of its connections."""

    def __init__(self, *arguments: Any) -> None:
        self.accepted: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> tuple[Any, Any]:
        accepted, address = super().get_request()
        self.accepted.append(accepted)
        return accepted, address


class Served:
    """A server in this process on a port of loopback, with its log."""

    def __init__(self, server: QuietServer, registry: Registry, log: Lines, clock: Clock) -> None:
        self.server = server
        self.registry = registry
        self.log = log
        self.clock = clock
        self.address: tuple[str, int] = ("127.0.0.1", server.server_port)

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        return connect(self.address, receive_buffer)

    def fetch(
        self, target: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> Reply:
        """Make one request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, target, headers=headers or {})
            return Reply(connection.getresponse())

    def rest(self) -> None:
        """Wait until nothing is under way, and let the time pass after which downloads pause."""
        until(lambda: not self.registry.view(1).rows, "nothing is under way")
        self.clock.ahead += PAUSE_AFTER

    def raw(self, request: bytes) -> bytes:
        """Send *request* as it is, half-close, and return all that comes until the end."""
        with self.connect() as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            return read_all(client)


def connect(address: tuple[str, int], receive_buffer: int = 0) -> socket.socket:
    """Return a connected socket; *receive_buffer* bytes hold a receiver to a small window."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


def read_all(client: socket.socket) -> bytes:
    """Read until the other side closes or resets."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while True:
            chunk = client.recv(1 << 16)
            if not chunk:
                break
            data += chunk
    return data


def skip_head(client: socket.socket) -> None:
    """Read a head and not a byte of the body: the rest stays in the system."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            raise AssertionError(f"the connection ended after {head!r}")
        head += byte


def read_exactly(client: socket.socket, count: int) -> bytes:
    """Read *count* bytes, not more; fail when the connection ends before."""
    data = bytearray()
    while len(data) < count:
        chunk = client.recv(min(count - len(data), 1 << 16))
        if not chunk:
            raise AssertionError(f"the connection ended after {len(data)} of {count} bytes")
        data += chunk
    return bytes(data)


def read_reply(client: socket.socket, method: str = "GET") -> Reply:
    """Read one reply from a connection that stays open."""
    response = http.client.HTTPResponse(client, method=method)
    response.begin()
    return Reply(response)


def class_folder(case: type[unittest.TestCase]) -> Path:
    """Return an empty folder that lasts as long as the tests of *case* run."""
    temporary = tempfile.TemporaryDirectory()
    case.addClassCleanup(temporary.cleanup)
    return Path(temporary.name)


class FolderCase(unittest.TestCase):
    """A test with an empty folder, ``self.folder``, of which nothing remains."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name).resolve()

    def write(self, name: str, data: bytes | int = b"0123456789") -> bytes:
        """Make a file of *data*, or of so many random bytes; return its content."""
        content = os.urandom(data) if isinstance(data, int) else data
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return content

    def serve(
        self,
        paths: Sequence[str] = (),
        prefix: str = "",
        timeout: float = 60.0,
        max_deliveries: int = 0,
        is_watched: bool = True,
        is_recursive: bool = False,
        max_connections: int = 1000,
        resume_only: bool = False,
        rate_limit: int = 0,
        reports_progress: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Served:
        """Serve ``self.folder``, or the files and folders *paths*, until the test ends."""
        log = Lines()
        clock = Clock()
        named = named_offers(paths, (), lambda text: None)
        registry = Registry(
            log.log, timeout, max_deliveries, named, rate_limit, reports_progress, clock
        )
        folder = None if paths else str(self.folder)
        share = Share(folder, named, prefix, is_recursive)
        server = RememberingServer(
            ("127.0.0.1", 0), share, registry, max_connections, resume_only, tls
        )
        stopped = threading.Event()

        def check() -> None:
            while not stopped.wait(0.02):
                registry.check_all()

        threads = [threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)]
        if is_watched:
            threads.append(threading.Thread(target=check, daemon=True))
        for thread in threads:
            thread.start()

        def all_time_out() -> bool:
            clock.ahead += timeout + 1
            registry.check_all()
            return all(sock.fileno() < 0 for sock in server.accepted)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            # No thread of a connection outlives its test.
            until(all_time_out, "all connections have ended")
            stopped.set()
            for thread in threads:
                thread.join()

        self.addCleanup(stop)
        return Served(server, registry, log, clock)


def run_main(arguments: Sequence[str], folder: str, *streams: Connection) -> None:
    """Run the program in this process, with *streams* for stdout and stderr."""
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.chdir(folder)
    sys.argv = [str(PROGRAM), *arguments]
    # What -W says is of the tests; a user's start has none.
    warnings.simplefilter("ignore")
    main()


class Forked:
    """The program in a process that is forked from one that has loaded it, which takes a tenth of
    the time of a start.  It has of Popen what is used here."""

    # multiprocessing asks for the status of every process when one starts, and a status can be read
    # only once: two threads must not do so at a time.
    _lock = threading.Lock()

    def __init__(self, arguments: Sequence[str], cwd: str, **streams: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        readers: list[Any] = []
        ends = []
        for stream in (streams.get("stdout"), streams.get("stderr")):
            if stream is None:
                reader, writer = os.pipe()
                readers.append(os.fdopen(reader, "rb"))
            else:
                writer = os.dup(stream if isinstance(stream, int) else stream.fileno())
                readers.append(None)
            # One that can be handed to another process.
            ends.append(Connection(writer, readable=False))
        self.stdout, self.stderr = readers
        self._process = context.Process(target=run_main, args=(arguments, cwd, *ends))
        with self._lock:
            self._process.start()
        self.pid = self._process.pid or 0
        self.kill, self.terminate = self._process.kill, self._process.terminate
        for end in ends:
            end.close()

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float) -> int:
        multiprocessing.connection.wait([self._process.sentinel], timeout)
        status = self.poll()
        assert status is not None, f"it still runs after {timeout} s"
        return status

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Program:
    """The program as a process, on loopback; ``out`` and ``err`` are its lines."""

    def __init__(self, process: subprocess.Popen[bytes] | Forked) -> None:
        self.process = process
        self.out = Lines()
        self.err = Lines()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if stream
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: Lines) -> None:
        for line in stream:
            lines.add(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    def links(self) -> list[str]:
        """Wait until the links are printed, and return them."""
        self.out.wait_for("^===== start logging =====$")
        return [line.split()[1] for line in self.out.all() if line.startswith("link: ")]

    def port(self) -> int:
        """Return the port that the first line of output names."""
        match = re.search(r":(\d+)/$", self.out.wait_for("^serving on: "))
        assert match
        return int(match[1])

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class ProgramCase(FolderCase):
    """A test of the program as a process."""

    def start(
        self, *arguments: str, bind: bool = True, cwd: str | Path = "", **streams: Any
    ) -> Program:
        """Start the program in ``self.folder``, bound to loopback unless told otherwise."""
        arguments = (*(("-b", "127.0.0.1") if bind else ()), *arguments)
        if "forkserver" not in multiprocessing.get_all_start_methods():
            return self.start_script(*arguments, bind=False, cwd=str(cwd or self.folder), **streams)
        return self.running(Forked(arguments, str(cwd or self.folder), **streams))

    def start_script(self, *arguments: str, bind: bool = True, **options: Any) -> Program:
        """Start it as a user does, by a Python of its own."""
        # -S: without whatever else is installed, which can take as long to start.
        command = [sys.executable, "-S", str(PROGRAM)]
        command += [*(("-b", "127.0.0.1") if bind else ()), *arguments]
        return self.start_command(command, **options)

    def start_command(self, command: Sequence[str], **options: Any) -> Program:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe}
        options = {"cwd": str(self.folder), **streams, **options}
        return self.running(subprocess.Popen(command, env=environment, **options))

    def running(self, process: subprocess.Popen[bytes] | Forked) -> Program:
        program = Program(process)
        self.addCleanup(program.stop)
        return program

    def run_program(self, *arguments: str, **options: Any) -> tuple[int, list[str], list[str]]:
        """Run a command line that ends by itself; return status, stdout and stderr."""
        program = self.start(*arguments, bind=False, **options)
        status = program.wait()
        return status, program.out.all(), program.err.all()


@contextlib.contextmanager
def deadline(seconds: float = PATIENCE) -> Iterator[None]:
    """Fail what takes absurdly long: a hang, not a timing."""
    start = time.monotonic()
    yield
    if time.monotonic() - start > seconds:
        raise AssertionError(f"took more than {seconds} s")


def reset(client: socket.socket) -> None:
    """Close *client* with a reset, as a receiver does whose program was killed."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(LINGER_FORMAT, 1, 0))
    client.close()


def can_reset() -> bool:
    """Return whether ``reset`` reaches the other side as one; under Wine it is a mere end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = socket.create_connection(listener.getsockname(), PATIENCE)
        accepted, _ = listener.accept()
    with accepted:
        accepted.settimeout(PATIENCE)
        reset(client)
        try:
            accepted.recv(1)
        except ConnectionError:
            return True
    return False


class Screen:
    """What a terminal shows of what was written to it: lines that fold at its width, and fold anew
    with it."""

    def __init__(self, columns: int = 80) -> None:
        self.columns = columns
        self._lines: list[list[str]] = [[]]  # cells; the second one of a wide character is empty
        self._line = self._cell = 0

    def lines(self) -> list[str]:
        """Return the lines as they were written, unfolded, without the empty ones at the end."""
        lines = ["".join(line) for line in self._lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def rows(self) -> list[str]:
        """Return the rows as they are seen, without the empty ones at the end."""
        rows = []
        for line in self._lines:
            starts = range(0, max(len(line), 1), self.columns)
            rows += ["".join(line[start : start + self.columns]).rstrip() for start in starts]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def feed(self, text: str) -> None:
        # Colours and the bell change nothing of what stands where.
        text = re.sub(r"\x1b\[[\d;]*m|\a", "", text)
        for sequence, lines, character in re.findall(r"(\x1b\[(?:(\d+)A|J))|([^\x1b]|\x1b)", text):
            if character == "\n":
                self._line += 1
                self._lines[self._line :] = self._lines[self._line :] or [[]]
                self._cell = 0
            elif character == "\r":
                self._cell -= self._cell - self._row() * self.columns
            elif character:
                assert character >= " ", f"{character!r} on a terminal"
                cells = [character, *[""] * (unicodedata.east_asian_width(character) in "WF")]
                self._lines[self._line][self._cell : self._cell + len(cells)] = cells
                self._cell += len(cells)
            elif lines:
                for _ in range(int(lines)):
                    self._up()
            elif sequence:
                del self._lines[self._line][self._cell :], self._lines[self._line + 1 :]

    def _row(self) -> int:
        """Return which row of its line the cursor is on; past the last cell it waits there."""
        return min(self._cell, max(len(self._lines[self._line]) - 1, 0)) // self.columns

    def _up(self) -> None:
        if self._row():
            self._cell -= self.columns
        else:
            assert self._line, "above the top of the screen"
            self._line -= 1
            last = max(len(self._lines[self._line]) - 1, 0) // self.columns
            self._cell = last * self.columns + self._cell


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what nothing announces; fail when it does not come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not so after {PATIENCE:g} s")
        time.sleep(0.002)
