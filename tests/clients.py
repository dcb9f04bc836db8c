"""Real clients for the tests: how each is called, a folder in which it keeps what it fetches, and
two hosts in network namespaces.

The program is a process here, known by its links, its log and its exit status.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

from tests.support import PATIENCE, PROGRAM, Program, ProgramCase, until

MIB = 1 << 20
SIZE = 16 * MIB
# Two contents without a common passage; the second one is longer.
OLD = (os.urandom(1_000_003) * 17)[:SIZE]
NEW = (os.urandom(1_000_003) * 21)[: SIZE + 4 * MIB]
# A client with the limit RATE takes four seconds for SIZE, and is killed once it has this much.
BROKEN_OFF_AT = 2 * MIB
RATE = 4 * MIB  # bytes/s

CURL = ["curl", "--disable", "--silent", "--show-error", "--fail", "--noproxy", "*", "-O"]
WGET = ["--no-config", "--quiet", "--no-proxy", "--tries=1"]
ARIA2 = ["aria2c", "--no-conf", "--quiet", "--max-tries=1", "--all-proxy=", "--no-proxy=*"]
# What is received is in the file, and not in memory, when aria2 is killed; its control file is
# written every second.
ARIA2 += ["--dir=.", "--min-split-size=1M", "--file-allocation=none", "--disk-cache=0"]
ARIA2 += ["--auto-save-interval=1"]
LFTP = "set net:max-retries 1; set net:timeout 5; set http:use-propfind no;"
SERVER = "10.213.0.1"  # the addresses of two hosts in network namespaces
CLIENT = "10.213.0.2"
OTHER = "10.213.0.3"  # a second address of the client
RESUME = {"curl": ["-C", "-"], "wget": ["-c"], "wget2": ["-c"], "aria2": ["--continue=true"]}
_host_numbers = itertools.count()


def fetch_command(client: str, link: str, resume: bool = False, rate: int = 0) -> list[str]:
    """Return the command by which *client*, such as "wget" or "aria2 -x8", fetches *link*.

    The output is a file with the name from *link*; *resume* continues one that is there.
    *rate* limits the bytes a second, 0 does not; wget2 has no such option.
    """
    program, _, connections = client.partition(" -x")
    if program == "lftp":
        get = "get -c" if resume else "get"
        return ["lftp", "-c", f"{LFTP} set net:limit-rate {rate}; {get} {link}"]
    commands = {
        "curl": [*CURL, "--limit-rate", str(rate)],
        "wget": ["wget", *WGET, f"--limit-rate={rate}"],
        "wget2": ["wget2", *WGET],
        "aria2": [*ARIA2, f"--max-download-limit={rate}", f"--split={connections}"],
        "axel": ["axel", "-q", "-n", connections, "-s", str(rate)],
    }
    if program == "aria2":
        commands["aria2"].append(f"--max-connection-per-server={connections}")
    resuming = RESUME.get(program, []) if resume else []
    return [*commands[program], *resuming, link]


def installed(clients: Iterable[str]) -> list[str]:
    """Return those of *clients*, such as "aria2 -x8", whose programs are installed."""
    programs = {client: client.partition(" ")[0] for client in clients}
    return [
        client
        for client, program in programs.items()
        if shutil.which("aria2c" if program == "aria2" else program)
    ]


def needs(*clients: str) -> Callable[[Any], Any]:
    """Skip a test where one of *clients* is not installed."""
    missing = [client for client in clients if not installed([client])]
    return unittest.skipIf(missing, f"not installed: {', '.join(missing)}")


def bytes_written(path: Path) -> int:
    """Return how many bytes of *path* are written, holes left out; 0 for a missing file."""
    if not path.exists():
        return 0
    state = path.stat()
    blocks: int = getattr(state, "st_blocks", SIZE)
    return min(state.st_size, blocks * 512)


class Exchange:
    """A file that the program offers, and the folder of somebody who fetches it."""

    def __init__(self, case: ClientCase, name: str = "file.bin") -> None:
        self.case = case
        folder = Path(tempfile.mkdtemp(dir=str(case.folder)))
        self.received = folder / "received"
        self.received.mkdir()
        self.got = self.received / name
        self.offered = folder / "offered" / name
        self.offered.parent.mkdir()
        self.offered.write_bytes(OLD)
        # The commands that run the program and a client: another interpreter, another host.
        self.program_prefix: Sequence[str] = ()
        self.client_prefix: Sequence[str] = ()
        self.address = "127.0.0.1"
        self.program: Program
        self.link = ""

    def start(self, *options: str) -> None:
        """Start the program, which offers the file and nothing else."""
        arguments = ["-b", self.address, *options, str(self.offered)]
        if self.program_prefix:
            command = [*self.program_prefix, "-S", str(PROGRAM), *arguments]
            self.program = self.case.start_command(command)
        else:
            self.program = self.case.start(*arguments, bind=False)
        self.link = self.program.links()[0]

    def client(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a client in the folder of the receiver."""
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment["HOME"] = str(self.received.parent)
        usual: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        usual.update(cwd=str(self.received), env=environment)
        process = subprocess.Popen([*self.client_prefix, *command], **{**usual, **options})
        self.case.addCleanup(process.wait)
        self.case.addCleanup(process.kill)
        return process

    def begin(self, client: str, *options: str, rate: int = RATE) -> subprocess.Popen[bytes]:
        """Start *client* with a limited rate, and wait until it has written BROKEN_OFF_AT bytes."""
        process = self.client([*fetch_command(client, self.link, rate=rate), *options])
        until(
            lambda: bytes_written(self.got) >= BROKEN_OFF_AT or process.poll() is not None,
            f"{client} has written some of the file",
        )
        self.check(process.poll() is None, f"{client} has ended too early")
        return process

    def break_off(self, client: str, *options: str) -> bytes:
        """Let *client* fetch a part, kill it, and return what it has once that is in the log."""
        process = self.begin(client, *options)
        process.kill()
        process.wait()
        self.program.err.wait_for("req terminated")
        return self.got.read_bytes()

    def fetch(self, client: str, *options: str, resume: bool = False) -> int:
        """Let *client* fetch the file, or what is missing of it; return its exit status."""
        command = [*fetch_command(client, self.link, resume), *options]
        return self.client(command).wait(PATIENCE)

    def fetch_whole(self, client: str, *options: str, resume: bool = False) -> None:
        """Fail unless *client* has what is offered in the end."""
        status = self.fetch(client, *options, resume=resume)
        self.check(status == 0, f"{client} failed")
        self.check_received()

    def check_received(self) -> None:
        """Fail unless the receiver has what is offered."""
        self.check(self.got.read_bytes() == self.offered.read_bytes(), "this is not the file")

    def replace(self, content: bytes) -> None:
        """Move a new file over the offered one, as mv does."""
        new = self.offered.parent / ".new"
        new.write_bytes(content)
        new.replace(self.offered)

    def empty_received(self) -> None:
        """Remove everything from the folder of the receiver."""
        for path in self.received.iterdir():
            path.unlink()

    def interrupt(self) -> int:
        """Stop the program by Ctrl-C and return its exit status."""
        self.program.process.send_signal(signal.SIGINT)
        return self.program.wait()

    def check_end(self) -> None:
        """Fail unless the program leaves by itself with status 0."""
        try:
            status = self.program.wait()
        except (AssertionError, subprocess.TimeoutExpired):
            status = -1
        self.check(status == 0, "the program does not leave with 0")

    def check_log(self, *patterns: str) -> None:
        """Fail unless the program leaves with *patterns* as the lines of its log."""
        self.check_end()
        lines = self.program.err.all()
        self.check(len(lines) == len(patterns), f"not the {len(patterns)} lines of {patterns}")
        for line, pattern in zip(lines, patterns):
            self.case.assertRegex(line, pattern)

    def check(self, is_right: bool, wrong: str) -> None:
        """Fail with the words *wrong*, the received file and the log, unless *is_right*."""
        if is_right:
            return
        received = "nothing"
        if self.got.is_file() and self.offered.is_file():
            data = self.got.read_bytes()
            blocks = range(0, len(data), 1 << 12)
            old = sum(data[i : i + 64] == OLD[i : i + 64] for i in blocks)
            received = f"{len(data)} bytes, {old * 4} KiB of them of the old file"
        log = "\n".join(self.program.err.all())
        self.case.fail(f"{wrong}; received: {received}; log:\n{log}")


class FolderExchange(Exchange):
    """A folder with a file of SIZE and 50 small ones, offered as results.tar."""

    def __init__(self, case: ClientCase) -> None:
        super().__init__(case, "results.tar")
        folder = self.offered.parent / "results"
        (folder / "sub").mkdir(parents=True)
        for index in range(50):
            (folder / "sub" / str(index)).write_bytes(OLD[: 1000 + index])
        self.offered.rename(folder / "big")
        self.offered = folder

    def check_received(self) -> None:
        with tarfile.open(str(self.got)) as archive:
            names = [member.name for member in archive.getmembers() if member.isfile()]
            self.check(len(names) == 51, f"the archive has {names}")
            for name in names:
                content: Any = archive.extractfile(name)
                offered = (self.offered.parent / name).read_bytes()
                self.check(content.read() == offered, f"{name} is another file")


class SideBySide(unittest.TestSuite):
    """Runs its tests at the same time, since they mostly wait for clients with a limited rate."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        suites: Any = self
        tests = [test for of_one_class in suites for test in of_one_class]
        with ThreadPoolExecutor(len(tests)) as pool:
            list(pool.map(lambda test: test(result), tests))
        return result


class ClientCase(ProgramCase):
    """A test with real clients."""

    # Runs the cases of all tests.
    pool = ThreadPoolExecutor(8)

    def exchange(self, *options: str) -> Exchange:
        """Offer a file of SIZE by the program with *options*."""
        exchange = Exchange(self)
        exchange.start(*options)
        return exchange

    def side_by_side(self, check: Callable[..., None], cases: Iterable[Sequence[str]]) -> None:
        """Call *check* with each of *cases*, some at a time, each in a subTest of its own."""
        futures = [(case, self.pool.submit(check, *case)) for case in cases]
        wait([future for _, future in futures])
        for case, future in futures:
            with self.subTest(", ".join(case)):
                future.result()


def ip(*arguments: str) -> None:
    """Run the command ip. Raise CalledProcessError, with stderr, if it fails."""
    subprocess.run(["ip", *arguments], check=True, stderr=subprocess.PIPE, timeout=20)


class Hosts:
    """Two network namespaces, "server" and "client", and a link between them."""

    def __init__(self) -> None:
        prefix = f"httpd-download-{os.getpid()}-{next(_host_numbers)}"
        self.server = f"{prefix}-server"
        self.client = f"{prefix}-client"

    def open(self) -> None:
        """Make the namespaces and the link. Raise CalledProcessError where that is forbidden."""
        for name in (self.server, self.client):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        link = ["link", "add", "eth0", "netns", self.server]
        ip(*link, "type", "veth", "peer", "name", "eth0", "netns", self.client)
        for name, address in ((self.server, SERVER), (self.client, CLIENT), (self.client, OTHER)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        ip("netns", "exec", self.server, "true")
        # Else the system of the client would take the whole file before the program reads it.
        limits = "echo 4096 131072 1048576 > /proc/sys/net/ipv4/tcp_rmem"
        ip("netns", "exec", self.client, "sh", "-c", limits)

    def set_link(self, state: str) -> None:
        """Set the link "up" or "down"."""
        ip("-n", self.client, "link", "set", "eth0", state)

    def close(self) -> None:
        """Remove what there is of the namespaces, and with them the link."""
        for name in (self.server, self.client):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                ip("netns", "delete", name)
