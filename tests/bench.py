#!/usr/bin/env python3
"""Measure this program beside its other versions and other servers.

For Linux, on loopback. In every round the servers take turns, in random order, so that each figure
of a rival has one of this program beside it. The receivers run in a process of their own and let
the system discard what they get, so that the sender is measured. The result is a table in Markdown:
the median of each figure and, in brackets, the median of this program's figures divided by the
rival's figures of the same turn. Other programs that run at the same time make the figures
smaller, but hardly change the ratios.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import multiprocessing
import os
import platform
import pwd
import random
import re
import resource
import selectors
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, DefaultDict, Dict, Iterator, List, NamedTuple, Sequence

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
SMALL_SIZE = 1024  # bytes of the file that is asked for again and again
SLOW_SIZE = 10 * MIB  # bytes of the file of the slow receivers
SLOW_RECEIVERS = 1000
CONNECTIONS = 16  # over which small files are fetched at once
SEGMENTS = 8  # ranges that are fetched at once
TRIES = 20  # receivers that break off, in a round
TURNS = 3  # of each server in a round, where one takes less than a second
COUNTING_TIME = 0.5  # seconds in which the small files are counted
SETTLING_TIME = 3.0  # seconds in which a server may accept the waiting connections
WATCHING_TIME = 2.0  # seconds in which the CPU time is counted while nothing moves
MAX_WAIT = 60.0  # seconds after which a measurement has failed

PROGRAM = "this program"
HTTP_SERVER = "`http.server`"
BARE = "bare loop"
CHOICES = ("nginx", "lighttpd", "apache2", "caddy", HTTP_SERVER.strip("`"), "bare")


class Row(NamedTuple):
    title: str
    form: str
    # Makes one figure of those of all rounds.
    summary: Callable[[list[float]], float] = statistics.median


ROWS = {
    "one": Row("one receiver, GiB/s", ".2f"),
    "eight": Row(f"{SEGMENTS} ranges at once, GiB/s", ".2f"),
    "resumed": Row("second half, resumed, GiB/s", ".2f"),
    "cpu": Row("CPU for one receiver, s/GiB", ".3f"),
    "tls": Row("TLS, one receiver, GiB/s", ".2f"),
    "kept": Row(f"{SMALL_SIZE} bytes on {CONNECTIONS} kept connections, requests/s", ".0f"),
    "new": Row(f"{SMALL_SIZE} bytes on new connections, requests/s", ".0f"),
    "start": Row("start to the first link, ms", ".0f"),
    "module": Row("the same with `python3 -m`, ms", ".0f"),
    "memory": Row("resident memory after small requests, MiB", ".1f"),
    "each": Row(f"and for each of {SLOW_RECEIVERS:,} slow receivers, KiB", ".1f"),
    "idle": Row(f"CPU with {SLOW_RECEIVERS:,} idle connections, %", ".2f"),
    "slow": Row(f"CPU with {SLOW_RECEIVERS:,} slow receivers, %", ".2f"),
    "share": Row("largest error of a share that broke off, KiB", ".1f", max),
}
TRANSFER_ROWS = ("one", "eight", "resumed", "cpu")
SMALL_ROWS = ("kept", "new")
WAITING_ROWS = ("memory", "each", "slow", "idle")
# By row and server, one figure for each turn.
Samples = Dict[str, DefaultDict[str, List[float]]]

# How servers are started that read where they listen from a file, and that file.
CONFIGURED = {
    "nginx": (
        ["nginx", "-p", "{folder}", "-c", "{file}"],
        """user {user}; worker_processes 2; daemon off; pid {folder}/nginx.pid;
        error_log {folder}/nginx.error; events {{ worker_connections 4096; }}
        http {{ sendfile on; tcp_nopush on; keepalive_requests 1000000;
        access_log {folder}/nginx.log; client_body_temp_path {folder}/t1;
        proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
        uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
        server {{ listen 127.0.0.1:{port}; root {folder}/share; }} }}""",
    ),
    "lighttpd": (
        ["lighttpd", "-D", "-f", "{file}"],
        """server.document-root = "{folder}/share"
        server.port = {port}
        server.bind = "127.0.0.1"
        server.max-fds = 8192
        server.max-connections = 4096
        server.max-keep-alive-requests = 10000000
        server.modules = ("mod_accesslog")
        accesslog.filename = "{folder}/lighttpd.log"
        """,
    ),
    "apache2": (
        ["apache2", "-X", "-f", "{file}"],
        """ServerName localhost
        LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
        LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
        Listen 127.0.0.1:{port}
        PidFile {folder}/apache.pid
        ErrorLog {folder}/apache.log
        DocumentRoot {folder}/share
        EnableSendfile On
        MaxKeepAliveRequests 0
        ThreadLimit 1200
        ServerLimit 1
        ThreadsPerChild 1200
        MaxRequestWorkers 1200
        """,
    ),
    "caddy": (
        ["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"],
        """{{
        admin off
        auto_https off
        }}
        http://127.0.0.1:{port} {{
        root * {folder}/share
        file_server
        log {{
        output file {folder}/caddy.log
        }}
        }}
        """,
    ),
}


# --- Receivers ---------------------------------------------------------------------


def request(name: str, *fields: str) -> bytes:
    """Return the head of a request for *name*."""
    return "\r\n".join([f"GET /{name} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def discard_all(connection: socket.socket) -> int:
    """Let the system discard everything until the server closes; return how many bytes it was."""
    # Nothing is written to the buffer, but its length counts.
    buffer = bytearray(MIB)
    received = 0
    while True:
        # Not the method of an SSLSocket: what is encrypted need not be decrypted to be counted.
        discarded = socket.socket.recv_into(connection, buffer, 0, socket.MSG_TRUNC)
        if not discarded:
            return received
        received += discarded


def receive(port: int, length: int, wanted: str = "") -> None:
    """Fetch the large file, or the *wanted* range of it, which must have this *length*."""
    fields = ["Connection: close"]
    if wanted:
        fields.append(f"Range: bytes={wanted}")
    with socket.create_connection(("127.0.0.1", port), MAX_WAIT) as connection:
        connection.settimeout(None)
        connection.sendall(request("large", *fields))
        end = -1
        while end < 0:
            end = connection.recv(1 << 16, socket.MSG_PEEK).find(b"\r\n\r\n")
        connection.recv(end + 4)
        received = discard_all(connection)
    if received != length:
        raise RuntimeError(f"port {port} sent {received} bytes of {wanted}, not {length}")


def whole_rate(port: int, size: int) -> float:
    """Fetch the large file, of *size* bytes; return how many bytes a second arrived."""
    start = time.perf_counter()
    receive(port, size)
    return size / (time.perf_counter() - start)


def half_rate(port: int, size: int) -> float:
    """The same for the second half of the file."""
    half = size // 2
    start = time.perf_counter()
    receive(port, size - half, f"{half}-")
    return (size - half) / (time.perf_counter() - start)


def segments_rate(port: int, size: int) -> float:
    """The same for the file in ranges at once."""
    bounds = [size * index // SEGMENTS for index in range(SEGMENTS + 1)]
    start = time.perf_counter()
    with ThreadPoolExecutor(SEGMENTS) as threads:
        for first, stop in zip(bounds, bounds[1:]):
            threads.submit(receive, port, stop - first, f"{first}-{stop - 1}")
    return size / (time.perf_counter() - start)


def tls_rate(port: int, size: int) -> float:
    """The same for the file by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    start = time.perf_counter()
    plain = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(plain) as connection:
        connection.sendall(request("large", "Connection: close"))
        received = discard_all(connection)
    if received < size:
        raise RuntimeError(f"port {port} sent only {received} bytes")
    return size / (time.perf_counter() - start)


def request_rate(port: int, keeps: bool) -> float:
    """Return how many small files a second arrive over several connections at once, each of which
    is kept, or closed after one file."""
    option = "keep-alive" if keeps else "close"
    head = request("small", f"Connection: {option}")
    selector = selectors.DefaultSelector()

    def connect() -> None:
        # A server whose backlog is short lets some connections wait, but must not stop the others.
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port))
        selector.register(connection, selectors.EVENT_WRITE, bytearray())

    def close(connection: socket.socket) -> None:
        selector.unregister(connection)
        connection.close()

    for _ in range(CONNECTIONS):
        connect()
    files = 0
    start = time.perf_counter()
    while time.perf_counter() < start + COUNTING_TIME:
        for key, events in selector.select(COUNTING_TIME):
            connection: Any = key.fileobj
            answer: bytearray = key.data
            if events & selectors.EVENT_WRITE:
                connection.send(head)
                selector.modify(connection, selectors.EVENT_READ, answer)
                continue
            try:
                data = connection.recv(1 << 16)
            except ConnectionResetError:
                # A busy server has closed before it read the next request.
                data = b""
            answer += data
            is_whole = len(answer.partition(b"\r\n\r\n")[2]) == SMALL_SIZE
            if is_whole:
                files += 1
            elif answer and not data:
                raise RuntimeError(f"port {port} sent {answer!r}")
            if is_whole and keeps and answer.startswith(b"HTTP/1.1"):
                answer.clear()
                connection.send(head)
            elif is_whole or not data:
                # Some servers close a connection after so many requests.
                close(connection)
                connect()
    seconds = time.perf_counter() - start
    for key in list(selector.get_map().values()):
        close(key.fileobj)  # type: ignore[arg-type]
    selector.close()
    return files / seconds


@contextlib.contextmanager
def waiting_receivers(port: int, head: bytes) -> Iterator[None]:
    """Keep connections open that have sent *head*, if any, and read nothing of the answer."""
    with contextlib.ExitStack() as stack:
        for _ in range(SLOW_RECEIVERS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(MAX_WAIT)
            connection.connect(("127.0.0.1", port))
            if head:
                connection.sendall(head)
                connection.recv(1, socket.MSG_PEEK)
        time.sleep(SETTLING_TIME)
        yield


def break_off(port: int, address: str) -> int:
    """Read a part of a file slowly, from an address of its own, and reset the connection; return
    how many bytes of the file had reached the receiver's system."""
    with socket.socket() as connection:
        connection.settimeout(MAX_WAIT)
        connection.bind((address, 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request("slow"))
        data = bytearray()
        # From 1 MiB on, the log would show too few digits.
        wanted = random.randrange(100 * KIB, 600 * KIB)
        while len(data) < wanted:
            data += connection.recv(16 * KIB)
            time.sleep(0.001)
        unread = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
        # Closing resets the connection.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    body = data.partition(b"\r\n\r\n")[2]
    return len(body) + int.from_bytes(unread, sys.byteorder)


# --- Servers -----------------------------------------------------------------------


class Rival(NamedTuple):
    """How a server is started, and what can be measured of it."""

    name: str
    command: Sequence[str]
    folder: Path  # the current one of the server
    rows: set[str]
    port: int = 0  # or 0, if the server prints it


class Server:
    """The process of a server, and what it uses."""

    def __init__(self, rival: Rival, *options: str) -> None:
        """Start *rival*; wait until it prints its URL, or answers."""
        self.name = rival.name
        self.port = rival.port
        self._log_path = rival.folder / "log"
        start = time.perf_counter()
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*rival.command, *options], cwd=rival.folder, stdout=subprocess.PIPE, stderr=log
            )
        if rival.port:
            self._wait_for_answer()
        else:
            self._read_port()
        self.starting_time = time.perf_counter() - start

    def _read_port(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            url = re.search(rb"https?://127\.0\.0\.1:(\d+)/", line)
            # A person waits for the first link, not for the URL of the server.
            if url and not line.startswith(b"serving on"):
                self.port = int(url[1])
                return
        self._fail()

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + MAX_WAIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        self._fail()

    def _fail(self) -> None:
        self.close()
        raise RuntimeError(f"{self.name} did not start: {self.log()[-1000:]}")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def log(self) -> str:
        return self._log_path.read_text()

    def cpu_time(self) -> float:
        """Return how many seconds of CPU all processes of the server have used."""
        # This number stands for the clock of a process, as in clock_getcpuclockid(3).
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self._pids())

    def memory(self) -> int:
        """Return how many bytes of all processes of the server are resident."""
        total = 0
        for pid in self._pids():
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * KIB
        return total

    def _pids(self) -> list[int]:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]


def serve_bare(share: str) -> None:
    """Serve each connection with as little as Python can do it with."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    while True:
        connection = listener.accept()[0]
        threading.Thread(target=answer_bare, args=(share, connection), daemon=True).start()


def answer_bare(share: str, connection: socket.socket) -> None:
    """Send a file, or a range of it, by sendfile."""
    with connection:
        head = connection.recv(1 << 16).decode()
        path = share + head.split()[1]
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n", socket.MSG_MORE)
        wanted = re.search(r"bytes=(\d+)-(\d*)", head)
        start = int(wanted[1]) if wanted else 0
        stop = os.path.getsize(path)
        if wanted and wanted[2]:
            stop = int(wanted[2]) + 1
        with open(path, "rb") as file:
            while start < stop:
                start += os.sendfile(connection.fileno(), file.fileno(), start, stop - start)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def version_rival(name: str, program: Path, folder: Path) -> Rival:
    """Return a version of this program, copied to a new folder below *folder*."""
    own_folder = Path(tempfile.mkdtemp(dir=folder))
    shutil.copy(program, own_folder / "httpd_download.py")
    command = [sys.executable, "httpd_download.py", "-b", "127.0.0.1"]
    return Rival(name, command, own_folder, set(ROWS))


def configured_rival(name: str, folder: Path) -> Rival:
    command, configuration = CONFIGURED[name]
    port = free_port()
    user = pwd.getpwuid(os.geteuid()).pw_name
    file = folder / f"{name}.conf"
    file.write_text(configuration.format(user=user, folder=folder, port=port))
    command = [part.format(folder=folder, file=file) for part in command]
    return Rival(name, command, folder, {*TRANSFER_ROWS, *SMALL_ROWS, *WAITING_ROWS}, port)


def make_rivals(folder: Path, beside: Sequence[str], others: Sequence[str]) -> list[Rival]:
    """Return this program, its versions *beside*, and those of *others* that are installed."""
    program = Path(__file__).resolve().parent.parent / "httpd_download.py"
    rivals = [version_rival(PROGRAM, program, folder)]
    for path in beside:
        rivals.append(version_rival(path, Path(path), folder))
    for name in others:
        if name == "bare":
            command = [sys.executable, str(Path(__file__).resolve()), "--bare", f"{folder}/share"]
            rivals.append(Rival(BARE, command, folder, set(TRANSFER_ROWS)))
        elif name == "http.server":
            options = ["0", "-b", "127.0.0.1", "-d", f"{folder}/share"]
            command = [sys.executable, "-u", "-m", "http.server", *options]
            rows = {"one", "cpu", "start", *SMALL_ROWS, *WAITING_ROWS}
            rivals.append(Rival(HTTP_SERVER, command, folder, rows))
        elif shutil.which(name):
            rivals.append(configured_rival(name, folder))
    return rivals


# --- Measurements ------------------------------------------------------------------


class Bench:
    """What is measured, how, and the figures so far."""

    def __init__(
        self, folder: Path, size: int, rivals: list[Rival], rows: Sequence[str], pool: Any
    ) -> None:
        self._folder = folder
        self._size = size  # of the large file, in bytes
        self._rivals = rivals
        self._rows = rows
        self._pool = pool  # the process of the receivers
        self.samples: Samples = {row: collections.defaultdict(list) for row in ROWS}

    def measure_round(self) -> None:
        """Take samples for every row."""
        for _ in range(TURNS):
            self._measure_starts("start")
            self._measure_starts("module", "-m", "httpd_download")
        for rival in self._shuffled(*WAITING_ROWS):
            self._measure_waiting(rival)
        self._measure_files()
        self._measure_tls()
        self._measure_shares()

    def _shuffled(self, *rows: str) -> list[Rival]:
        """Return the rivals that have one of *rows*, if it is wanted, in random order."""
        wanted = set(rows).intersection(self._rows)
        rivals = [rival for rival in self._rivals if wanted & rival.rows]
        return random.sample(rivals, len(rivals))

    def _start(self, rival: Rival, *options: str) -> contextlib.closing[Server]:
        if "module" in rival.rows:
            options = ("-d", f"{self._folder}/share", *options)
        return contextlib.closing(Server(rival, *options))

    def _add(self, row: str, name: str, figure: float) -> None:
        self.samples[row][name].append(figure)

    def _measure_starts(self, row: str, *module: str) -> None:
        for rival in self._shuffled(row):
            if module:
                rival = rival._replace(command=[sys.executable, *module, *rival.command[2:]])
            with self._start(rival) as server:
                self._add(row, server.name, server.starting_time * 1000)

    def _measure_waiting(self, rival: Rival) -> None:
        """Measure a new server with connections on which nothing moves."""
        with self._start(rival) as server:
            # The first requests load modules.
            request_rate(server.port, keeps=False)
            memory = server.memory()
            self._add("memory", server.name, memory / MIB)
            with waiting_receivers(server.port, request("slow")):
                growth = server.memory() - memory
                self._add("each", server.name, growth / SLOW_RECEIVERS / KIB)
                self._add("slow", server.name, cpu_share(server))
        # Another new server: the one before has connections to clear away.
        with self._start(rival) as server, waiting_receivers(server.port, b""):
            self._add("idle", server.name, cpu_share(server))

    def _measure_files(self) -> None:
        """Measure all servers with the large and the small file."""
        with contextlib.ExitStack() as stack:
            servers = {}
            for rival in self._shuffled(*TRANSFER_ROWS, *SMALL_ROWS):
                server = stack.enter_context(self._start(rival))
                servers[rival.name] = server
                self._pool.apply(receive, (server.port, self._size))
            for _ in range(TURNS):
                for rival in self._shuffled("one", "cpu"):
                    self._measure_one(servers[rival.name])
                for row, measure in (("eight", segments_rate), ("resumed", half_rate)):
                    for rival in self._shuffled(row):
                        port = servers[rival.name].port
                        rate = self._pool.apply(measure, (port, self._size))
                        self._add(row, rival.name, rate / GIB)
                for row, keeps in (("kept", True), ("new", False)):
                    for rival in self._shuffled(row):
                        port = servers[rival.name].port
                        rate = self._pool.apply(request_rate, (port, keeps))
                        self._add(row, rival.name, rate)

    def _measure_one(self, server: Server) -> None:
        before = server.cpu_time()
        rate = self._pool.apply(whole_rate, (server.port, self._size))
        self._add("one", server.name, rate / GIB)
        self._add("cpu", server.name, (server.cpu_time() - before) / (self._size / GIB))

    def _measure_tls(self) -> None:
        options = ("--tls-cert", f"{self._folder}/tls.pem")
        with contextlib.ExitStack() as stack:
            rivals = self._shuffled("tls")
            servers = [stack.enter_context(self._start(rival, *options)) for rival in rivals]
            for _ in range(TURNS):
                for server in random.sample(servers, len(servers)):
                    rate = self._pool.apply(tls_rate, (server.port, self._size))
                    self._add("tls", server.name, rate / GIB)

    def _measure_shares(self) -> None:
        """Compare what the log says about receivers that broke off with what they had."""
        for rival in self._shuffled("share"):
            with self._start(rival) as server:
                addresses = [f"127.0.1.{number}" for number in range(1, TRIES + 1)]
                arrived = {address: break_off(server.port, address) for address in addresses}
                claimed: dict[str, float] = {}
                deadline = time.monotonic() + MAX_WAIT
                while len(claimed) < TRIES and time.monotonic() < deadline:
                    time.sleep(0.1)
                    claimed = claimed_shares(server.log())
                for address in addresses:
                    difference = abs(claimed[address] - arrived[address])
                    self._add("share", server.name, difference / KIB)


def cpu_share(server: Server) -> float:
    """Return how much of a core *server* uses while nothing moves, in percent."""
    before = server.cpu_time()
    time.sleep(WATCHING_TIME)
    return (server.cpu_time() - before) / WATCHING_TIME * 100


def claimed_shares(log: str) -> dict[str, float]:
    """Return, by address, how many bytes the receivers that broke off have, as the log says."""
    found = re.findall(r"(?m)^(\S+) .* req terminated\. at \d+% \(([\d.]+) KiB of", log)
    return {address: float(size) * KIB for address, size in found}


def table(samples: Samples, rows: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "|  | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for row in rows:
        cells = [ROWS[row].title]
        own = samples[row][PROGRAM]
        for name in names:
            figures = samples[row][name]
            if not figures:
                cells.append("")
                continue
            cell = format(ROWS[row].summary(figures), ROWS[row].form)
            if name != PROGRAM and min(figures) > 0:
                ratio = statistics.median([ours / other for ours, other in zip(own, figures)])
                cell += f" ({ratio:.2f})"
            cells.append(cell)
        yield "| " + " | ".join(cells) + " |"


def prepare(folder: Path, size: int, rows: Sequence[str]) -> None:
    """Make the files to serve, and a certificate."""
    block = os.urandom(MIB)
    share = folder / "share"
    share.mkdir()
    for name, length in (("large", size), ("slow", SLOW_SIZE), ("small", SMALL_SIZE)):
        with open(share / name, "wb") as file:
            for start in range(0, length, len(block)):
                file.write(block[: length - start])
    if "tls" in rows:
        # The key and the certificate, in one file.
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench"]
        made = subprocess.run([*command, "-keyout", "-"], check=True, capture_output=True)
        (folder / "tls.pem").write_bytes(made.stdout)
    os.sync()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--beside", metavar="FILE", action="append", default=[], help="another version to measure"
    )
    parser.add_argument(
        "--servers", nargs="*", choices=CHOICES, default=CHOICES, help="other servers to measure"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to measure"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure (default: 5)")
    parser.add_argument("--size", type=int, default=512, help="MiB of the large file")
    # The bare loop is started as a process, too.
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        serve_bare(options.bare)
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    with tempfile.TemporaryDirectory() as temporary, multiprocessing.Pool(1) as pool:
        folder = Path(temporary)
        prepare(folder, options.size * MIB, options.rows)
        rivals = make_rivals(folder, options.beside, options.servers)
        bench = Bench(folder, options.size * MIB, rivals, options.rows, pool)
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", file=sys.stderr)
            bench.measure_round()
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {platform.release()}, Python {platform.python_version()},")
    print(f"{options.rounds} rounds, one file of {options.size} MiB\n")
    print(*table(bench.samples, options.rows, [rival.name for rival in rivals]), sep="\n")


if __name__ == "__main__":
    main()
