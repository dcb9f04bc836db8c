#!/usr/bin/env python3
"""Measure this program beside http.server, other servers where installed, and bare loops.

Linux, loopback, logs to files; every server is warmed up, then they take turns, in random order.
Receivers discard in the kernel (MSG_TRUNC), in a process of their own, so that it is the sender
that is timed.  Prints tables in Markdown: medians and, in brackets, how many times the other's
figure this program's is.
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
from typing import Any, Callable, DefaultDict, Dict, Iterator, List, Sequence, TypeVar

MIB = 1 << 20
SMALL = 1024
SLOW = 10 * MIB
SLOW_RECEIVERS = 500
CONNECTIONS = 16
SEGMENTS = 8
# Of starts, and of transfers, in a round.
REPEATS = 3
# Seconds in which requests are counted, and after which a measurement has failed.
WINDOW, PATIENCE = 0.5, 60.0
# How many files of how many bytes the two folders have.
FOLDERS = {"many": (20_000, 4096), "few": (200, 5 * MIB)}

PROGRAM, MODULE = "this program", "`-m httpd_download`"
HTTP_SERVER, HTTP_SERVER_11 = "`http.server`", "`-p HTTP/1.1`"
BARE, TAR = "bare `sendfile`", "`tar c`"

# What is measured, and how it is written.
ROWS = {
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
FOLDER_ROWS = {
    "many": ("20,000 files of 4 KiB, MiB/s", ".0f"),
    "few": ("200 files of 5 MiB, MiB/s", ".0f"),
    "file": ("one file of the same size, MiB/s", ".0f"),
}
# Row, server, a list of figures.
Samples = Dict[str, DefaultDict[str, List[float]]]
Starters = Dict[str, Callable[[], "Server"]]
T = TypeVar("T")
# How a receiver is called: function, arguments.
Call = Callable[..., float]

# Of servers that know where they listen from a file.
CONFIGURED = {
    "nginx": (
        ["nginx", "-p", "{folder}", "-c", "{file}"],
        """user {user}; worker_processes 2; daemon off; pid {folder}/nginx.pid;
        error_log {folder}/log; events {{ worker_connections 4096; }}
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
        ErrorLog {folder}/log
        DocumentRoot {folder}/share
        EnableSendfile On
        MaxKeepAliveRequests 0
        ThreadLimit 600
        ServerLimit 1
        ThreadsPerChild 600
        MaxRequestWorkers 600
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
# Servers of others that stream a folder as a tar: how they are started, and the path of the tar.
STREAMING = {
    "copyparty": (
        ["copyparty", "-q", "-i", "127.0.0.1", "-p", "{port}", "-v", "{folder}/share::r"],
        "?tar",
    ),
    "miniserve": (
        ["miniserve", "-r", "-i", "127.0.0.1", "-p", "{port}", "{folder}/share"],
        "?download=tar",
    ),
}


# --- Receivers ---------------------------------------------------------------------


def request(name: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET /{name} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def receive(port: int, name: str, asked: str = "", length: int = 0) -> int:
    """Fetch *name*, or a range of it; return how many bytes came, which must be *length* if any."""
    fields = ["Connection: close", *([f"Range: bytes={asked}"] if asked else [])]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request(name, *fields))
        end = -1
        while end < 0:
            end = connection.recv(1 << 16, socket.MSG_PEEK).find(b"\r\n\r\n")
        connection.recv(end + 4)
        # The size of the buffer counts, nothing is written to it.
        received, buffer = 0, bytearray(MIB)
        while True:
            discarded = connection.recv_into(buffer, 0, socket.MSG_TRUNC)
            if not discarded:
                break
            received += discarded
    if length and received != length:
        raise RuntimeError(f"port {port} sent {received} bytes of {name} {asked}, not {length}")
    return received


def receive_all(port: int, name: str, ranges: list[tuple[str, int]]) -> float:
    """Fetch *ranges* at once; return how many bytes a second arrived."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(ranges)) as threads:
        found = [threads.submit(receive, port, name, *each) for each in ranges]
        received = sum(each.result() for each in found)
    return received / (time.perf_counter() - began)


def request_rate(port: int, kept: bool) -> float:
    """Return how many replies a second the connections get, each asking again once it has one."""
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
                if events & selectors.EVENT_WRITE:
                    connection.send(question)
                    selector.modify(connection, selectors.EVENT_READ, b"")
                    continue
                data = connection.recv(1 << 16)
                head, _, body = (key.data + data).partition(b"\r\n\r\n")
                if not data and not key.data:
                    # Some servers keep a connection only for so many requests.
                    selector.unregister(connection)
                    connection.close()
                    connect()
                    continue
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

    def __init__(self, name: str, command: Sequence[str], port: int, folder: Path) -> None:
        """Start *command*; wait until it prints its URL or, if its *port* is known, answers."""
        self.name, self.port = name, port
        with open(folder / "log", "ab") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(
                command, cwd=folder, stdout=log if port else subprocess.PIPE, stderr=log
            )
        output = self._process.stdout
        while not self.port and output and self._process.poll() is None:
            line = output.readline()
            # The first one with a link is what a person waits for.
            if (line.startswith(b"link: ") or b"Serving" in line or name in (BARE, TAR)) and line:
                self.port = int(line.split(b"http://127.0.0.1:")[1].split(b"/")[0])
        self.start_seconds = time.perf_counter() - began
        while not self.port or (port and not self._answers()):
            if self._process.poll() is not None or time.perf_counter() > began + PATIENCE:
                self.close()
                raise RuntimeError(f"{name} did not start: {(folder / 'log').read_text()[-1000:]}")
            time.sleep(0.01)

    def close(self) -> None:
        if self._process.stdout:
            self._process.stdout.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> float:
        # The clock of clock_getcpuclockid(3) counts what /proc/PID/stat does, but finely.
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self._pids())

    def memory(self, field: str = "VmRSS") -> int:
        """Return *field* of /proc/PID/status in bytes, the sum of all processes."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self._pids()]
        return sum(int(re.findall(rf"{field}:\s+(\d+) kB", each)[0]) * 1024 for each in statuses)

    def _pids(self) -> list[int]:
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def serve_bare(send: Callable[[socket.socket], object]) -> None:
    """Let *send* answer whoever connects."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)

    def answer(connection: socket.socket) -> None:
        with connection:
            send(connection)

    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def send_bare(path: str, connection: socket.socket) -> None:
    """Send the file, or a range of it, with as little as Python can do it with."""
    asked = re.search(rb"bytes=(\d+)-(\d*)", connection.recv(1 << 16))
    start = int(asked[1]) if asked else 0
    stop = int(asked[2]) + 1 if asked and asked[2] else os.path.getsize(path)
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n", socket.MSG_MORE)
    with open(path, "rb") as file:
        while start < stop:
            start += os.sendfile(connection.fileno(), file.fileno(), start, stop - start)


def send_tar(folder: str, connection: socket.socket) -> None:
    """Let tar write the folder that is asked for to the connection."""
    name = connection.recv(1 << 16).split()[1].decode()[1:]
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    subprocess.run(["tar", "c", "-C", folder, name], stdout=connection.fileno(), check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def prepare(folder: Path, size: int) -> None:
    """Make the files to serve, and a copy of the program in source and compiled form."""
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


def prepare_folders(folder: Path) -> None:
    """Make the two folders, and a file of as many bytes as the second one has."""
    block = os.urandom(5 * MIB)
    for name, (count, length) in FOLDERS.items():
        for index in range(count):
            path = folder / "share" / name / str(index % 100) / str(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(block[:length])
    with open(folder / "share" / "file", "wb") as file:
        for _ in range(FOLDERS["few"][0]):
            file.write(block)
    os.sync()


def starters(folder: Path) -> Starters:
    """Return, for each name, what starts that server on the files in *folder*."""
    python, where = sys.executable, ["-b", "127.0.0.1", "-d", f"{folder}/share"]
    http_server = [python, "-u", "-m", "http.server", "0", *where]
    commands: dict[str, tuple[list[str], int]] = {
        PROGRAM: ([python, "httpd_download.py", "-p", "0", *where], 0),
        MODULE: ([python, "-m", "httpd_download", "-p", "0", *where], 0),
        HTTP_SERVER: (http_server, 0),
    }
    if sys.version_info >= (3, 11):
        commands[HTTP_SERVER_11] = ([*http_server, "-p", "HTTP/1.1"], 0)
    user = pwd.getpwuid(os.geteuid()).pw_name
    for name, (command, configuration) in CONFIGURED.items():
        if shutil.which(name):
            file, port = folder / f"{name}.conf", free_port()
            file.write_text(configuration.format(user=user, folder=folder, port=port))
            commands[name] = ([part.format(folder=folder, file=file) for part in command], port)
    bare = [python, str(Path(__file__).resolve()), "--bare", f"{folder}/share/large"]
    commands[BARE] = (bare, 0)
    return {
        name: functools.partial(Server, name, *command, folder)
        for name, command in commands.items()
    }


def folder_starters(folder: Path) -> Starters:
    """Return what starts each server that hands out folders."""
    python, share = sys.executable, folder / "share"
    names = [str(share / name) for name in (*FOLDERS, "file")]
    commands: dict[str, tuple[list[str], int]] = {
        PROGRAM: ([python, "httpd_download.py", "-b", "127.0.0.1", *names], 0),
        TAR: ([python, str(Path(__file__).resolve()), "--tar", str(share)], 0),
    }
    for name, (command, _) in STREAMING.items():
        if shutil.which(name):
            port = free_port()
            commands[name] = ([part.format(folder=folder, port=port) for part in command], port)
    return {
        name: functools.partial(Server, name, *command, folder)
        for name, command in commands.items()
    }


# --- Measurements ------------------------------------------------------------------


def measure_starts(start: Starters, samples: Samples) -> None:
    """Start each server that prints a line, a few times."""
    measured = [PROGRAM, MODULE, HTTP_SERVER, HTTP_SERVER_11] * REPEATS
    for name in shuffled([name for name in measured if name in start]):
        with contextlib.closing(start[name]()) as server:
            row, column = ("module", PROGRAM) if name == MODULE else ("start", name)
            samples[row][column].append(server.start_seconds * 1000)


def measure_memory(start: Starters, samples: Samples) -> None:
    """Measure what a fresh server takes, and what each receiver adds that does not read."""
    for name in start:
        if name in (MODULE, BARE):
            continue
        with contextlib.closing(start[name]()) as server:
            # What the first requests load is not a connection's.
            request_rate(server.port, kept=False)
            idle = server.memory()
            samples["idle"][name].append(idle / MIB)
            with slow_receivers(server.port):
                samples["each"][name].append((server.memory() - idle) / SLOW_RECEIVERS / 1024)


def shuffled(servers: Sequence[T]) -> list[T]:
    """Return *servers* in a random order: the first one finds another machine than the last."""
    return random.sample(servers, len(servers))


def measure_transfers(servers: list[Server], size: int, call: Call, samples: Samples) -> None:
    """Fetch the large file from each server, whole and in ranges."""
    bounds = [size * index // SEGMENTS for index in range(SEGMENTS + 1)]
    eight = [(f"{start}-{stop - 1}", stop - start) for start, stop in zip(bounds, bounds[1:])]
    half = (f"{size // 2}-", size - size // 2)
    kinds = {"one": [("", size)], "eight": eight, "resumed": [half]}
    for _ in range(REPEATS):
        for kind, ranges in kinds.items():
            for server in shuffled(servers):
                # These two know no ranges.
                if kind != "one" and server.name in (HTTP_SERVER, HTTP_SERVER_11):
                    continue
                before = server.cpu_seconds()
                rate = call(receive_all, server.port, "large", ranges)
                samples[kind][server.name].append(rate / 1024**3)
                if kind == "one":
                    spent = (server.cpu_seconds() - before) / (size / 1024**3)
                    samples["cpu"][server.name].append(spent)


def measure_round(start: Starters, size: int, call: Call, samples: Samples) -> None:
    """Take samples for every row."""
    measure_starts(start, samples)
    measure_memory(start, samples)
    with contextlib.ExitStack() as stack:
        names = [name for name in start if name != MODULE]
        servers = [stack.enter_context(contextlib.closing(start[name]())) for name in names]
        for server in servers:
            if server.name != BARE:
                call(receive_all, server.port, "small", [("", SMALL)])
            call(receive_all, server.port, "large", [("", size)])
        measure_transfers(servers, size, call, samples)
        # The bare loop knows only the large file.
        for server in shuffled(servers[:-1]):
            samples["peak"][server.name].append(server.memory("VmHWM") / MIB)
            samples["kept"][server.name].append(call(request_rate, server.port, True))
            samples["new"][server.name].append(call(request_rate, server.port, False))


def measure_folders(start: Starters, call: Call, samples: Samples) -> None:
    """Fetch each folder as a tar, and a file of the size of one of them."""
    paths = {PROGRAM: ".tar", TAR: ""}
    paths.update((name, path) for name, (_, path) in STREAMING.items())
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(starter())) for starter in start.values()]
        for repeat in range(REPEATS + 1):
            for server in shuffled(servers):
                for row in FOLDER_ROWS:
                    name = row if row == "file" else f"{row}{paths[server.name]}"
                    if row == "file" and server.name == TAR:
                        continue
                    rate = call(receive_all, server.port, name, [("", 0)])
                    # The first one warms it up.
                    if repeat:
                        samples[row][server.name].append(rate / MIB)


def report(
    samples: Samples, rows: dict[str, tuple[str, str]], names: Sequence[str], size: int
) -> None:
    """Print a table."""
    print("|  | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for row, (title, form) in rows.items():
        cells = []
        ours = samples[row][PROGRAM]
        for name in names:
            values = samples[row][name] or samples["start" if row == "module" else row][name]
            cell = format(statistics.median(values), form) if values else ""
            if values and name != PROGRAM and statistics.median(values) > 0:
                cell += f" ({statistics.median(ours) / statistics.median(values):.2f})"
            cells.append(cell)
        print(f"| {title.format(size=size // MIB)} | " + " | ".join(cells) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, metavar="MiB", help="of the large file")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often to measure")
    parser.add_argument("--only", choices=["files", "folders"], help="measure only these")
    # What the bare loops, processes too, send.
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--tar", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        serve_bare(functools.partial(send_bare, options.bare))
    if options.tar:
        serve_bare(functools.partial(send_tar, options.tar))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    samples: Samples = {row: collections.defaultdict(list) for row in (*ROWS, *FOLDER_ROWS)}
    size = options.size * MIB
    python, cores = platform.python_version(), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary, multiprocessing.Pool(1) as pool:
        folder = Path(temporary)
        prepare(folder, size)
        if options.only != "files":
            prepare_folders(folder)
        start, start_folders = starters(folder), folder_starters(folder)

        def call(function: Callable[..., float], *arguments: Any) -> float:
            return pool.apply(function, arguments)

        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            if options.only != "folders":
                measure_round(start, size, call, samples)
            if options.only != "files":
                measure_folders(start_folders, call, samples)
        print(f"{cores} cores, {platform.release()}, Python {python}, {options.rounds} rounds\n")
        if options.only != "folders":
            report(samples, ROWS, [name for name in start if name != MODULE], size)
        if options.only != "files":
            report(samples, FOLDER_ROWS, list(start_folders), size)


if __name__ == "__main__":
    main()
