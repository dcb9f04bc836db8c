#!/usr/bin/env python3
"""Measure this program beside http.server, nginx where installed, and a bare loop of os.sendfile.

Linux, loopback, logs to files; the servers take turns, in random order, round by round.
Receivers discard in the kernel (MSG_TRUNC), in a process of their own, so
that it is the sender that is timed.  Prints a table in Markdown: medians and,
in brackets, the ratio of this program's median to the other's.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import multiprocessing
import os
import platform
import pwd
import py_compile
import random
import re
import resource
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, DefaultDict, Dict, Iterator, List, TypeVar

MIB = 1 << 20
SMALL = 1024
SLOW = 10 * MIB
SLOW_RECEIVERS = 500
CONNECTIONS = 16
SEGMENTS = 8
REPEATS = 3  # of starts and of transfers in a round
WINDOW = 0.5  # seconds in which requests are counted
PATIENCE = 60.0  # seconds after which a measurement has failed

PROGRAM = "this program"
MODULE = "`-m httpd_download`"
HTTP_SERVER = "`http.server`"
HTTP_SERVER_11 = "`-p HTTP/1.1`"
NGINX = "nginx"
BARE = "bare `sendfile`"

ROWS = {  # what is measured, and how it is written
    "one": ("one file of {size} MiB, GiB/s", ".2f"),
    "eight": ("the same in eight ranges at once, GiB/s", ".2f"),
    "resumed": ("its second half, resumed, GiB/s", ".2f"),
    "cpu": ("CPU of the server for one file, s/GiB", ".3f"),
    "kept": (f"{SMALL} bytes on {CONNECTIONS} kept connections, requests/s", ".0f"),
    "new": ("the same on new connections, requests/s", ".0f"),
    "start": ("start to the first line with a link, ms", ".0f"),
    "module": ("the same as `python3 -m httpd_download`, ms", ".0f"),
    "idle": ("resident memory after small requests, MiB", ".1f"),
    "peak": ("at the most, after the large files, MiB", ".1f"),
    "each": (f"and for each of {SLOW_RECEIVERS} slow receivers, KiB", ".1f"),
}
Samples = Dict[str, DefaultDict[str, List[float]]]  # row, server, a list of figures
Starters = Dict[str, Callable[[], "Server"]]
T = TypeVar("T")
Call = Callable[..., float]  # how a receiver is called: function, arguments

NGINX_CONFIG = """
user {user};
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/log;
events {{ worker_connections 4096; }}
http {{
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    access_log {folder}/nginx.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}/share; }}
}}
"""


# --- Receivers ---------------------------------------------------------------------


def request(name: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET /{name} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def receive(port: int, asked: str, length: int) -> None:
    """Fetch a range of the large file, or all of it; fail unless *length* bytes come."""
    fields = ["Connection: close", *([f"Range: bytes={asked}"] if asked else [])]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request("large", *fields))
        end = -1
        while end < 0:
            end = connection.recv(1 << 16, socket.MSG_PEEK).find(b"\r\n\r\n")
        connection.recv(end + 4)
        received, buffer = 0, bytearray(MIB)  # its size counts, nothing is written to it
        while True:
            discarded = connection.recv_into(buffer, 0, socket.MSG_TRUNC)
            if not discarded:
                break
            received += discarded
    if received != length:
        raise RuntimeError(f"port {port} sent {received} bytes of {asked or 'the file'}, not {length}")


def receive_all(port: int, ranges: list[tuple[str, int]]) -> float:
    """Fetch *ranges* at once; return how many bytes a second arrived."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(ranges)) as threads:
        for receiver in [threads.submit(receive, port, *one) for one in ranges]:
            receiver.result()
    return sum(length for _, length in ranges) / (time.perf_counter() - began)


def request_rate(port: int, kept: bool) -> float:
    """Return how many replies a second the connections get, each asking again once it has its reply."""
    question = request("small", f"Connection: {'keep-alive' if kept else 'close'}")
    replies = 0
    with selectors.DefaultSelector() as selector:

        def connect() -> None:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            selector.register(connection, selectors.EVENT_WRITE, b"")

        for _ in range(CONNECTIONS):
            connect()
        began = time.perf_counter()
        while time.perf_counter() < began + WINDOW:
            for key, events in selector.select(WINDOW):
                connection: Any = key.fileobj
                if events & selectors.EVENT_WRITE:  # connected
                    connection.send(question)
                    selector.modify(connection, selectors.EVENT_READ, b"")
                    continue
                data = connection.recv(1 << 16)
                head, _, body = (key.data + data).partition(b"\r\n\r\n")
                if not data or len(body) > SMALL:
                    raise RuntimeError(f"port {port} sent {key.data + data!r}")
                if len(body) < SMALL:
                    selector.modify(connection, selectors.EVENT_READ, key.data + data)
                    continue
                replies += 1
                if kept and head.startswith(b"HTTP/1.1"):
                    connection.send(question)
                    selector.modify(connection, selectors.EVENT_READ, b"")
                else:
                    selector.unregister(connection)
                    connection.close()
                    connect()
        seconds = time.perf_counter() - began
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return replies / seconds


@contextlib.contextmanager
def slow_receivers(port: int) -> Iterator[None]:
    """Keep connections open that have asked for a file, see the answer begin, and read nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(SLOW_RECEIVERS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(PATIENCE)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request("slow"))
            connection.recv(1, socket.MSG_PEEK)
        time.sleep(WINDOW)
        yield


# --- Servers -----------------------------------------------------------------------


class Server:
    """A server as a process, and what it uses."""

    def __init__(self, name: str, command: list[str], ready: bytes, port: int, folder: Path) -> None:
        """Start *command*; wait for a line with *ready* and its URL (nginx prints none: it is told its *port*)."""
        self.name = name
        self.port = port
        with open(folder / "log", "ab") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout
        while not self.port and self._process.poll() is None:
            line = self._process.stdout.readline()
            if ready in line:
                self.port = int(line.split(b"http://127.0.0.1:")[1].split(b"/")[0])
        self.start_seconds = time.perf_counter() - began
        while not self.port or (port and not self._answers()):
            if self._process.poll() is not None or time.perf_counter() > began + PATIENCE:
                self.close()
                raise RuntimeError(f"{name} did not start: {(folder / 'log').read_text()[-1000:]}")
            time.sleep(0.01)

    def close(self) -> None:
        assert self._process.stdout
        self._process.stdout.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> float:
        # The clock of clock_getcpuclockid(3) counts what /proc/PID/stat does, but not in steps of 10 ms.
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self._pids())

    def memory(self, field: str = "VmRSS") -> int:
        """Return *field* of /proc/PID/status in bytes, the sum of all processes."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self._pids()]
        return sum(int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) * 1024 for status in statuses)

    def _pids(self) -> list[int]:
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def serve_bare(path: str) -> None:
    """Send the file, or a range of it, to whoever connects, with as little as Python can do it with."""
    file = os.open(path, os.O_RDONLY)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)

    def send(connection: socket.socket) -> None:
        with connection:
            asked = re.search(rb"bytes=(\d+)-(\d*)", connection.recv(1 << 16))
            start = int(asked[1]) if asked else 0
            stop = int(asked[2]) + 1 if asked and asked[2] else os.path.getsize(path)
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n", socket.MSG_MORE)
            while start < stop:
                start += os.sendfile(connection.fileno(), file, start, stop - start)

    while True:
        threading.Thread(target=send, args=(listener.accept()[0],), daemon=True).start()


def prepare(folder: Path, size: int) -> None:
    """Make the files to serve, and a copy of the program in source and compiled form, in *folder*."""
    (folder / "share").mkdir()
    block = os.urandom(MIB)
    for name, length in (("large", size), ("slow", SLOW), ("small", SMALL)):
        with open(folder / "share" / name, "wb") as file:
            for start in range(0, length, MIB):
                file.write(block[: length - start])
            file.flush()
            os.fsync(file.fileno())
    program = shutil.copy(Path(__file__).resolve().parent.parent / "httpd_download.py", folder)
    py_compile.compile(str(program), doraise=True)


def starters(folder: Path) -> Starters:
    """Return, for each name, what starts that server on the files in *folder*."""
    python, where = sys.executable, ["-b", "127.0.0.1", "-d", f"{folder}/share"]
    http_server = [python, "-u", "-m", "http.server", "0", *where]
    commands: dict[str, tuple[list[str], bytes, int]] = {
        PROGRAM: ([python, "httpd_download.py", "-p", "0", *where], b"link: ", 0),
        MODULE: ([python, "-m", "httpd_download", "-p", "0", *where], b"link: ", 0),
        HTTP_SERVER: (http_server, b"Serving", 0),
    }
    if sys.version_info >= (3, 11):
        commands[HTTP_SERVER_11] = ([*http_server, "-p", "HTTP/1.1"], b"Serving", 0)
    if shutil.which("nginx"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        user = pwd.getpwuid(os.geteuid()).pw_name
        (folder / "nginx.conf").write_text(NGINX_CONFIG.format(user=user, folder=folder, port=port))
        commands[NGINX] = (["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], b"", port)
    commands[BARE] = ([python, str(Path(__file__).resolve()), "--bare", f"{folder}/share/large"], b"http:", 0)
    return {name: functools.partial(Server, name, *command, folder) for name, command in commands.items()}


# --- Measurements ------------------------------------------------------------------


def measure_starts(start: Starters, samples: Samples) -> None:
    """Start each server that prints a line, a few times."""
    for name in shuffled([name for name in start if name not in (NGINX, BARE)] * REPEATS):
        with contextlib.closing(start[name]()) as server:
            row, column = ("module", PROGRAM) if name == MODULE else ("start", name)
            samples[row][column].append(server.start_seconds * 1000)


def measure_memory(start: Starters, samples: Samples) -> None:
    """Measure what a fresh server takes, and what each receiver adds that does not read."""
    for name in start:
        if name in (MODULE, BARE):
            continue
        with contextlib.closing(start[name]()) as server:
            request_rate(server.port, kept=False)  # what the first requests load is not a connection's
            idle = server.memory()
            samples["idle"][name].append(idle / MIB)
            with slow_receivers(server.port):
                samples["each"][name].append((server.memory() - idle) / SLOW_RECEIVERS / 1024)


def shuffled(servers: list[T]) -> list[T]:
    """Return *servers* in a random order: who comes first finds the machine in another state than who comes last."""
    return random.sample(servers, len(servers))


def measure_transfers(servers: list[Server], size: int, call: Call, samples: Samples) -> None:
    """Fetch the large file from each server, whole and in ranges."""
    bounds = [size * index // SEGMENTS for index in range(SEGMENTS + 1)]
    eight = [(f"{start}-{stop - 1}", stop - start) for start, stop in zip(bounds, bounds[1:])]
    kinds = {"one": [("", size)], "eight": eight, "resumed": [(f"{size // 2}-", size - size // 2)]}
    for _ in range(REPEATS):
        for kind, ranges in kinds.items():
            for server in shuffled(servers):
                if kind != "one" and server.name in (HTTP_SERVER, HTTP_SERVER_11):
                    continue  # which know no ranges
                before = server.cpu_seconds()
                samples[kind][server.name].append(call(receive_all, server.port, ranges) / 1024**3)
                if kind == "one":
                    samples["cpu"][server.name].append((server.cpu_seconds() - before) / (size / 1024**3))


def measure_round(start: Starters, size: int, call: Call, samples: Samples) -> None:
    """Take samples for every row."""
    measure_starts(start, samples)
    measure_memory(start, samples)
    with contextlib.ExitStack() as stack:
        names = [name for name in start if name != MODULE]
        servers = [stack.enter_context(contextlib.closing(start[name]())) for name in names]
        measure_transfers(servers, size, call, samples)
        for server in shuffled(servers[:-1]):  # the bare loop knows only the large file
            samples["peak"][server.name].append(server.memory("VmHWM") / MIB)
            samples["kept"][server.name].append(call(request_rate, server.port, True))
            samples["new"][server.name].append(call(request_rate, server.port, False))


def report(samples: Samples, names: list[str], size: int, rounds: int) -> None:
    """Print the table."""
    nginx = ""
    if NGINX in names:
        nginx = subprocess.run(["nginx", "-v"], stderr=subprocess.PIPE, check=True).stderr.decode().split()[-1] + ", "
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, Linux {platform.release()}, Python {platform.python_version()}, {nginx}{rounds} rounds\n")
    print("|  | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for row, (title, form) in ROWS.items():
        cells = []
        for name in names:
            values = samples[row][name] or samples["start" if row == "module" else row][name]
            value = statistics.median(values) if values else 0.0
            ratio = statistics.median(samples[row][PROGRAM]) / value if value > 0 and name != PROGRAM else 0.0
            cells.append((format(value, form) if values else "") + (f" ({ratio:.2f})" if ratio else ""))
        print(f"| {title.format(size=size // MIB)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, metavar="MiB", help="of the large file (default: 512)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often to measure (default: 5)")
    parser.add_argument("--bare", help=argparse.SUPPRESS)  # the path that the bare loop, a process too, sends
    options = parser.parse_args()
    if options.bare:
        serve_bare(options.bare)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    samples: Samples = {row: collections.defaultdict(list) for row in ROWS}
    size = options.size * MIB
    with tempfile.TemporaryDirectory() as name, multiprocessing.Pool(1) as receivers:
        prepare(Path(name), size)
        start = starters(Path(name))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            measure_round(start, size, lambda *call: receivers.apply_async(call[0], call[1:]).get(PATIENCE), samples)
    report(samples, [name for name in start if name != MODULE], size, options.rounds)


if __name__ == "__main__":
    main()
