"""The program as a process: what it prints, how it is started, and how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
import urllib.request
from typing import Any, Callable, Sequence
from unittest import mock
from urllib.error import HTTPError

from httpd_download import Share, Terminal, __version__, announce, parse_arguments
from tests.support import (
    PATIENCE,
    PROGRAM,
    ROOT,
    Program,
    ProgramCase,
    Screen,
    read_exactly,
    read_reply,
    reset,
    skip_head,
)

NARROW = 4096
DATE = r"\[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\]"
SENT = "Host: h\r\n\r\n"


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, bytes]:
    """Fetch *url* without a proxy; return status and body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, None, headers or {}, method=method), timeout=PATIENCE) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


class Case(ProgramCase):
    def start(self, *arguments: str, bind: bool = True, **options: Any) -> Program:
        return self.watch_for_tracebacks(super().start(*arguments, bind=bind, **options))

    def start_command(self, command: Sequence[str], **options: Any) -> Program:
        program = Program(command, **{"cwd": str(self.folder), **options})
        self.addCleanup(program.stop)
        return self.watch_for_tracebacks(program)

    def watch_for_tracebacks(self, program: Program) -> Program:
        def check() -> None:
            program.stop()
            self.assertNotIn("Traceback", "\n".join(program.err.all()))

        self.addCleanup(check)
        return program

    def stop(self, program: Program, number: int = signal.SIGINT) -> str:
        """Send a signal; see that it ends at once, with status 0; return its last line."""
        start = time.monotonic()
        program.process.send_signal(number)
        self.assertEqual(program.wait(), 0)
        self.assertLess(time.monotonic() - start, 3)
        return program.err.all()[-1]

    def begin(self, port: int, target: str, count: int = 0, more: str = "") -> socket.socket:
        """Be a slow receiver that has read *count* bytes of the body of *target*."""
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET {target} HTTP/1.1\r\n{more}{SENT}".encode())
        skip_head(client)
        read_exactly(client, count)
        return client


class OutputTest(Case):
    def test_to_the_letter_and_at_once(self) -> None:
        for name in ["b.tgz", "中文.bin", 'a b#%?"\\', ".hidden", "sub/f"]:
            self.write(name)
        program = self.start("-p", "0")
        program.links()
        url = f"http://127.0.0.1:{program.port()}"
        printed = [
            f"serving on: {url}/",
            "===== local files =====",
            f'link: {url}/a%20b%23%25%3F%22%5C  (a b#%?"\\\\)',
            f"link: {url}/b.tgz",
            f"link: {url}/%E4%B8%AD%E6%96%87.bin  (中文.bin)",
            "===== start logging =====",
        ]
        self.assertEqual(program.out.all(), printed)
        for count, link in enumerate(program.links(), 1):
            self.assertEqual(fetch(link), (200, b"0123456789"))
            program.err.wait_for("delivered", count)
        self.assertEqual(fetch(url + "/nothing")[0], 404)
        program.err.wait_for('"GET /nothing')
        self.assertEqual(self.stop(program), 'stopped. delivered: a b#%?"\\\\, b.tgz, 中文.bin')
        log = [
            r'"GET /b.tgz HTTP/1.1" 200 -',
            r'"GET /b.tgz HTTP/1.1" req finished\. 10 B, \d+\.\d s, [\d.]+ .?i?B/s',
            r'"/b.tgz" delivered\. 10 B in 1 request',
            r'"GET /nothing HTTP/1.1" 404 -',
        ]
        for line in log:
            program.err.wait_for(rf"^127\.0\.0\.1 - - {DATE} {line}$")
        self.assertEqual(len(program.err.all()), 3 * 3 + 1 + 1)
        self.assertEqual(program.out.all(), printed)

    def test_empty_folder(self) -> None:
        program = self.start()
        self.assertEqual(program.links(), [])
        self.assertIn(program.port(), range(20000, 50001))

    def test_ports(self) -> None:
        wanted = free_port()
        programs = [self.start("-p", str(port)) for port in (0, 0, wanted)]
        ports = [program.port() for program in programs]
        self.assertEqual(ports[2], wanted)
        self.assertEqual(len({*ports}), 3)
        for port in ports[:2]:
            self.assertIn(port, range(20000, 50001))

    @unittest.skipUnless(has_ipv6_loopback(), "no IPv6 on loopback")
    def test_ipv6(self) -> None:
        self.write("f")
        program = self.start("-b", "::1", bind=False)
        [link] = program.links()
        self.assertEqual(link, f"http://[::1]:{program.port()}/f")
        self.assertEqual(fetch(link), (200, b"0123456789"))
        program.err.wait_for(r'^::1 - - \[.*"GET /f HTTP/1.1" 200 -$')

    @unittest.skipUnless(socket.has_dualstack_ipv6(), "no dual-stack sockets")
    def test_ipv4_on_an_ipv6_socket(self) -> None:
        self.write("f")
        program = self.start("-b", "::ffff:127.0.0.1", bind=False)
        program.links()
        self.assertEqual(fetch(f"http://127.0.0.1:{program.port()}/f"), (200, b"0123456789"))
        program.err.wait_for(r'^127\.0\.0\.1 - - \[.*"GET /f HTTP/1.1" 200 -$')

    @unittest.skipIf(
        not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"], stderr=subprocess.DEVNULL).returncode,
        "cannot make a network namespace",
    )
    def test_no_network(self) -> None:
        self.write("f")
        program = self.start_command(["unshare", "-rn", sys.executable, str(PROGRAM)])
        program.links()
        url = f"http://127.0.0.1:{program.port()}/"
        self.assertEqual(program.out.all()[:3:2], [f"serving on: {url}", f"link: {url}f"])
        self.assertEqual(self.stop(program), "stopped. nothing was delivered")

    def names(self, program: Program) -> list[str]:
        return [link.split("/", 3)[3] for link in program.links()]

    def test_what_is_offered(self) -> None:
        for name in ["a", "sub/b", "sub/deep/c", "sub/.d", ".e/f"]:
            self.write(name, name.encode())
        os.symlink("sub/b", self.folder / "named")
        os.symlink("/etc/passwd", self.folder / "outside")
        sub, elsewhere = str(self.folder / "sub"), str(ROOT)
        rows: list[tuple[list[str], object, list[str], list[str]]] = [
            ([], self.folder, ["a", "named"], ["a", "named", "sub/b", "sub/deep/c"]),
            (["-r"], self.folder, ["a", "named", "sub/b", "sub/deep/c"], []),
            (["-d", sub], elsewhere, ["b"], ["b", "deep/c"]),
            (["-r", "--directory", sub], elsewhere, ["b", "deep/c"], []),
            (["--", "sub/deep/c", "named"], self.folder, ["c", "named"], ["c", "named"]),
            ([".e/f", "sub/.d"], self.folder, ["f", ".d"], ["f", ".d"]),
        ]
        started = [(self.start(*row[0], cwd=str(row[1])), *row) for row in rows]
        for program, arguments, _, links, fetched in started:
            with self.subTest(arguments):
                self.assertEqual(self.names(program), links)
                for name in [*links, *fetched]:
                    self.assertEqual(fetch(f"http://127.0.0.1:{program.port()}/{name}")[0], 200, name)
                for name in {"a", "sub/b", "b", "sub/.d", ".e/f", "outside", ""} - {*links, *fetched}:
                    self.assertEqual(fetch(f"http://127.0.0.1:{program.port()}/{name}")[0], 404, name)

    def test_host(self) -> None:
        self.write("f")
        for host, shown in [
            ("files.example", "files.example"),
            ("203.0.113.9", "203.0.113.9"),
            ("2001:db8::1", "[2001:db8::1]"),
        ]:
            program = self.start("--host", host)
            self.assertEqual(program.links(), [f"http://{shown}:{program.port()}/f"])
            self.assertEqual(program.out.all()[0], f"serving on: http://{shown}:{program.port()}/")
            self.assertEqual(fetch(f"http://127.0.0.1:{program.port()}/f")[0], 200)

    def test_resume_only(self) -> None:
        self.write("f")
        program = self.start("--resume-only")
        [link] = program.links()
        for span, reply in [
            ("4-", (206, b"456789")),
            ("4-5", (200, b"0123456789")),
            ("-5", (200, b"0123456789")),
            ("0-1,4-", (200, b"0123456789")),
            ("10-", (416, None)),
        ]:
            status, body = fetch(link, {"Range": f"bytes={span}"})
            self.assertEqual((status, body if reply[1] else None), reply, span)

    def test_version_and_help(self) -> None:
        self.assertEqual(self.run_program("--version"), (0, [f"httpd_download {__version__}"], []))
        for option in ("-h", "--help"):
            status, out, err = self.run_program(option)
            self.assertEqual((status, err), (0, []))
            for name in ["-p", "-b", "-d", "-r", "-c", "--host", "--resume-only", "--secret", "--timeout", "--version"]:
                self.assertRegex("\n".join(out), rf"(?m)^ +.*{name}\b")

    @unittest.skipUnless(os.name == "posix", "a folder in use cannot be removed")
    def test_the_current_folder_is_removed(self) -> None:
        content = self.write("offered/a")
        (self.folder / "current").mkdir()
        program = self.start("-d", str(self.folder / "offered"), cwd=str(self.folder / "current"))
        [link] = program.links()
        (self.folder / "current").rmdir()
        self.assertEqual(fetch(link), (200, content))

    @unittest.skipUnless(has_ipv6_loopback() and hasattr(socket, "if_indextoname"), "no IPv6")
    def test_the_zone_of_a_link_local_address(self) -> None:
        self.write("f")
        out = io.StringIO()
        server = mock.Mock(server_address=("fe80::1", 29000, 0, 1), server_port=29000, share=Share(str(self.folder)))
        announce(server, parse_arguments([]), Terminal(out, None))
        url = f"http://[fe80::1%25{socket.if_indextoname(1)}]:29000"
        self.assertEqual(out.getvalue().splitlines()[:3:2], [f"serving on: {url}/", f"link: {url}/f"])

    def test_it_does_not_list_itself(self) -> None:
        shutil.copy(str(PROGRAM), str(self.folder))
        self.write("f")
        for command in (["httpd_download.py"], ["-m", "httpd_download"]):
            environment = {"PYTHONPATH": ""}
            program = self.start_command([sys.executable, *command, "-b", "127.0.0.1"], env=environment)
            self.assertEqual(self.names(program), ["f"])

    def test_ascii_locale(self) -> None:
        self.write("中文.bin")
        with contextlib.suppress(OSError):
            self.write(os.fsdecode(b"\xff.bin"))
        environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
        for options in ([], ["中文.bin"]):
            program = self.start(*options, env=environment)
            first = program.links()[0]
            self.assertTrue(first.endswith("/%E4%B8%AD%E6%96%87.bin"))
            for link in program.links():
                self.assertEqual(fetch(link), (200, b"0123456789"), link)
            program.err.wait_for("delivered", len(program.links()))
            last = self.stop(program)
            self.assertTrue(last.isascii() and last.startswith("stopped. delivered: "), last)
            self.assertTrue("".join(program.out.all()).isascii())


class StartTest(Case):
    """Every way to start it serves the file and ends by itself."""

    ARGUMENTS = ("-p", "0", "-b", "127.0.0.1", "-c", "1")

    def check(self, program: Program) -> None:
        [link] = program.links()
        self.assertEqual(fetch(link), (200, b"0123456789"))
        self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: f")

    def test_ways(self) -> None:
        self.write("f")
        call = "import sys, httpd_download; sys.exit(httpd_download.main({}))".format
        commands = [
            [str(PROGRAM), *self.ARGUMENTS],
            ["-m", "httpd_download", *self.ARGUMENTS],
            ["-c", call(""), *self.ARGUMENTS],
            ["-c", call([*self.ARGUMENTS])],
            ["-I", "-W", "error", str(PROGRAM), *self.ARGUMENTS],
        ]
        for command, program in [(command, self.start_command([sys.executable, *command])) for command in commands]:
            with self.subTest(command):
                self.check(program)

    def test_piped_into_an_interpreter(self) -> None:
        self.write("f")
        with PROGRAM.open() as source:
            command = [sys.executable, "-", *self.ARGUMENTS]
            self.check(self.start_command(command, stdin=source, env={"PYTHONPATH": ""}))


class ErrorTest(Case):
    def check(self, status: int, rows: Sequence[tuple[str, ...]]) -> None:
        """Each row: a pattern, and a command line that is to end with *status* and one line that has it."""
        started = [(pattern, arguments, self.start(*arguments, bind=False)) for pattern, *arguments in rows]
        for pattern, arguments, program in started:
            with self.subTest(arguments):
                self.assertEqual((program.wait(), program.out.all()), (status, []))
                [line] = program.err.all()
                self.assertRegex(line, "^httpd_download: .*" + pattern)

    def test_the_command_line_is_wrong(self) -> None:
        self.write("f")
        self.write("sub/f")
        for pattern, *arguments in [
            ("65536.*not a port", "-p", "65536"),
            ("abc.*not a port", "-p", "abc"),
            ("-1", "-p", "-1"),
            ("not a port", "-p", ""),
            ("not a port", "-p", "8_0"),
            ("localhost.*not an address", "-b", "localhost"),
            ("0.*not a number", "-c", "0"),
            ("x.*not a number", "-c", "x"),
            ("not a number", "--timeout", "0"),
            ("not a number", "--timeout", "nan"),
            ("not a number", "--timeout", "-5"),
            ("not a host name", "--host", "a b"),
            ("not a host name", "--host", "http://a/"),
            ("--nonsense", "--nonsense"),
            ("--vers", "--vers"),
            ("", "-p"),
            ("-d", "-d", ".", "f"),
            ("-r", "-r", "f"),
            ("--tls-cert", "--tls-key", "f"),
        ]:
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()) as err:
                with self.assertRaises(SystemExit) as ended:
                    parse_arguments(arguments)
                self.assertEqual(ended.exception.code, 2)
                self.assertRegex(err.getvalue(), f"^httpd_download: .*{pattern}.*\n$")
                self.assertEqual(err.getvalue().count("\n"), 1)
        self.check(2, [("not a port", "-p", "x"), ("one link", "f", "sub/f"), (r"a\\x0ab is not a port", "-p", "a\nb")])

    def test_what_cannot_be_done(self) -> None:
        self.write("f")
        os.mkdir(self.folder / "sub")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            port = str(taken.getsockname()[1])
            rows = [
                (f"port {port}: .*taken", "-p", port, "-b", "127.0.0.1"),
                (r"192\.0\.2\.77", "-b", "192.0.2.77"),
                (r"198\.51\.100\.7", "-b", "198.51.100.7", "-p", "0"),
                ("nothing.*No such file", "-d", "nothing"),
                ("nothing.*No such file", "nothing"),
                ("nothing.*No such file", "f", "nothing"),
                ("Not a directory", "-d", "f"),
                ("sub.*not a regular file", "sub"),
                (r"a\\x0ab", "a\nb"),
                (r"a\\x1bb", "-d", "a\x1bb"),
                ("nothing", "-b", "127.0.0.1", "--tls-cert", "nothing"),
                ("PEM", "-b", "127.0.0.1", "--tls-cert", "f"),
            ]
            self.check(1, rows)


class StopTest(Case):
    SIZE = 64 << 20

    def big(self) -> None:
        with (self.folder / "big").open("wb") as file:
            file.truncate(self.SIZE)

    def test_idle(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            program = self.start()
            program.links()
            self.assertEqual(self.stop(program, number), "stopped. nothing was delivered")
            self.assertEqual(len(program.err.all()), 1)

    def test_in_mid_transfer(self) -> None:
        self.big()
        self.write("f")
        for number in (signal.SIGINT, signal.SIGTERM):
            program = self.start()
            for _ in range(2):
                fetch(program.links()[1])
            program.err.wait_for("delivered", 2)
            client = self.begin(program.port(), "/big", 7 << 20)
            self.assertRegex(
                self.stop(program, number),
                r"^stopped\. delivered: f \(2 times\); cut short: big to [\d.]+ at \d+% \(\d\.\d MiB of 64\.0 MiB\)$",
            )
            self.assertFalse([line for line in program.err.all() if "/big" in line and "200 -" not in line])
            with contextlib.suppress(ConnectionError):
                while client.recv(1 << 20):
                    pass

    def test_impatient_hands(self) -> None:
        self.big()
        program = self.start()
        program.links()
        self.begin(program.port(), "/big")
        for _ in range(5):
            program.process.send_signal(signal.SIGINT)
        self.assertRegex(self.stop(program), "^stopped. nothing was delivered; cut short: big")

    def test_nobody_reads_the_log(self) -> None:
        """A full pipe, like a terminal that does not scroll, holds up whoever writes; not who wants to stop."""
        self.write("f")
        for room in (0, 4096):  # for no line at all; for some, so that another lock is held
            with self.subTest(room=room):
                reader, writer = os.pipe()
                self.addCleanup(os.close, reader)
                os.set_blocking(writer, False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(writer, b"x" * 4096)
                os.read(reader, room)
                os.set_blocking(writer, True)
                program = self.start(stderr=writer)
                os.close(writer)
                port = program.port()
                with contextlib.suppress(socket.timeout):  # the program is held up: there is no answer
                    for _ in range(200):
                        with socket.create_connection(("127.0.0.1", port), 1) as client:
                            client.sendall(b"GET /f HTTP/1.0\r\n\r\n")
                            read_exactly(client, 100)
                program.process.send_signal(signal.SIGTERM)
                self.assertEqual(program.process.wait(PATIENCE), 0)

    def test_stdout_closed_early(self) -> None:
        for number in range(600):
            self.write("f" * 200 + str(number))
        reader, writer = os.pipe()

        def use_pipe() -> None:
            os.dup2(writer, 1)

        program = self.start(preexec_fn=use_pipe)
        os.close(writer)
        with os.fdopen(reader) as pipe:  # | head -1, of more than a pipe holds
            url = pipe.readline().split()[2]
        self.assertEqual(fetch(url + "f" * 200 + "7"), (200, b"0123456789"))
        program.err.wait_for("delivered")
        self.assertEqual(self.stop(program)[:22], "stopped. delivered: ff")
        self.assertEqual(len(program.err.all()), 4)

    def test_stderr_closed_early(self) -> None:
        self.write("f")
        reader, writer = os.pipe()
        os.close(reader)

        def use_pipe() -> None:
            os.dup2(writer, 2)

        program = self.start("-c", "2", preexec_fn=use_pipe)
        os.close(writer)
        [link] = program.links()
        for _ in range(2):
            self.assertEqual(fetch(link), (200, b"0123456789"))
        self.assertEqual(program.wait(), 0)


class CountTest(Case):
    def test_interrupted_and_resumed_among_other_requests(self) -> None:
        data = self.write("f", 2_000_000)
        self.write("empty", b"")
        program = self.start("-c", "1")
        link = program.links()[1]
        first = self.begin(program.port(), "/f", 500_000)
        reset(first)
        program.err.wait_for(r'"GET /f HTTP/1.1" req terminated\. at \d+%')
        self.assertEqual(fetch(link + "avicon.ico")[0], 404)
        self.assertEqual(fetch(link, method="HEAD"), (200, b""))
        self.assertEqual(fetch(link, {"Range": "bytes=2000000-"})[0], 416)
        self.assertEqual(fetch(link, {"Range": "bytes=-1"}), (206, data[-1:]))
        program.err.wait_for("req finished")
        self.assertIsNone(program.process.poll())
        self.assertEqual(fetch(link, {"Range": "bytes=500000-"}), (206, data[500_000:]))
        self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: f")
        program.err.wait_for(r'"/f" delivered\. 1\.9 MiB in 3 requests$')

    def test_a_kept_connection_does_not_hold_it(self) -> None:
        self.write("f")
        program = self.start("--count", "2")
        program.links()
        idle, client = (socket.create_connection(("127.0.0.1", program.port()), PATIENCE) for _ in range(2))
        with idle, client:
            for _ in range(2):
                client.sendall(f"GET /f HTTP/1.1\r\n{SENT}".encode())
                self.assertEqual(read_reply(client).body, b"0123456789")
            self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: f (2 times)")

    def test_what_is_under_way_is_finished(self) -> None:
        data = self.write("big", 8_000_000)
        self.write("f")
        program = self.start("-c", "1")
        program.links()
        slow = self.begin(program.port(), "/big", 100_000)
        self.assertEqual(fetch(program.links()[1]), (200, b"0123456789"))
        program.err.wait_for('"/f" delivered')
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.assertEqual(read_exactly(slow, 4_000_000), data[100_000:4_100_000])
        self.assertIsNone(program.process.poll())
        with self.assertRaises(ConnectionError):
            self.until_refused(program.port())
        self.assertEqual(read_exactly(slow, 3_900_000), data[4_100_000:])
        self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: f, big")

    def until_refused(self, port: int) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            socket.create_connection(("127.0.0.1", port), 1).close()

    def test_stopped_by_hand_before(self) -> None:
        self.write("f")
        program = self.start("-c", "2")
        fetch(program.links()[0])
        program.err.wait_for("delivered")
        self.assertEqual(self.stop(program), "stopped. delivered: f")


@unittest.skipUnless(hasattr(os, "openpty"), "no pseudo-terminals")
class PtyTest(Case):
    """The program on a pseudo-terminal, and what is to be seen there."""

    def open(self, columns: int, *arguments: str, term: str = "xterm") -> Program:
        self.master, slave = os.openpty()
        self.addCleanup(os.close, self.master)
        self.screen = Screen(columns)
        self.written = ""
        self.seen = threading.Condition()
        self.resize(columns)

        def use_terminal() -> None:
            os.dup2(slave, 2)

        program = self.start(*arguments, preexec_fn=use_terminal, env={"TERM": term})
        os.close(slave)
        self.reader = threading.Thread(target=self.read_terminal)
        self.reader.start()
        self.addCleanup(self.reader.join)
        self.addCleanup(program.stop)
        program.links()
        return program

    def resize(self, columns: int) -> None:
        import fcntl
        import termios

        with self.seen:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            self.screen.columns = columns

    def read_terminal(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the program has ended
            while True:
                text = os.read(self.master, 1 << 16).decode()
                with self.seen:
                    self.written += text
                    self.screen.feed(text)
                    self.seen.notify_all()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        with self.seen:
            self.assertTrue(self.seen.wait_for(condition, PATIENCE), self.screen.rows())

    def last_row(self) -> str:
        return (self.screen.rows() or [""])[-1]

    def test_status_line(self) -> None:
        (self.folder / "中文.iso").write_bytes(b"")
        os.truncate(self.folder / "中文.iso", 64 << 20)
        self.write("f")
        program = self.open(100)
        port = program.port()
        client = self.begin(port, "/%E4%B8%AD%E6%96%87.iso", 7 << 20)
        status = r"^中文\.iso to 127\.0\.0\.1 \d+% \d+\.\d MiB/s( \d+:\d\d left)?$"
        self.wait_for(lambda: re.search(status, self.last_row()))
        fetch(f"http://127.0.0.1:{port}/f")
        self.wait_for(lambda: "delivered" in "".join(self.screen.rows()) and re.search("^中文.iso to", self.last_row()))
        self.assertEqual(sum(" to 127.0.0.1" in line for line in self.screen.lines()), 1)
        second = self.begin(port, "/%E4%B8%AD%E6%96%87.iso")
        self.wait_for(lambda: self.last_row().count("127.0.0.1") == 2 or "1 more" in self.last_row())
        self.resize(30)
        with self.seen:
            before = len(self.written)
        self.wait_for(lambda: self.written.count("\r\x1b[J", before) > 2)
        self.assertLess(len(self.screen.rows()[-1]), 30)
        self.assertEqual(sum(line.startswith("中") for line in self.screen.lines()), 1)
        reset(second)
        self.wait_for(lambda: "req terminated" in "".join(self.screen.lines()))
        self.begin(port, "/nothing")
        client.close()
        self.wait_for(lambda: "".join(self.screen.lines()).count("req terminated") == 2)
        program.process.send_signal(signal.SIGINT)
        self.assertEqual(program.wait(), 0)
        self.reader.join(PATIENCE)
        *log, last = self.screen.lines()
        self.assertEqual((len(log), last), (8, "stopped. delivered: f"))
        for line in log:
            self.assertRegex(line, rf'^127\.0\.0\.1 - - {DATE} "(GET )?/\S+( HTTP/1\.1)?" (\d+ -|req [ft]|delivered)')

    def test_interrupted_with_a_status_line(self) -> None:
        (self.folder / "big").write_bytes(b"")
        os.truncate(self.folder / "big", 64 << 20)
        program = self.open(80)
        self.begin(program.port(), "/big", 1 << 20)
        self.wait_for(lambda: self.last_row().startswith("big to 127.0.0.1 "))
        program.process.send_signal(signal.SIGTERM)
        self.assertEqual(program.wait(), 0)
        self.reader.join(PATIENCE)
        log, last = self.screen.lines()
        self.assertTrue(log.endswith('"GET /big HTTP/1.1" 200 -'), log)
        self.assertRegex(last, r"^stopped\. nothing was delivered; cut short: big to 127\.0\.0\.1 at \d% ")

    def test_dumb_terminal(self) -> None:
        self.write("f")
        program = self.open(80, "-c", "1", term="dumb")
        fetch(program.links()[0])
        self.assertEqual(program.wait(), 0)
        self.reader.join(PATIENCE)
        self.assertNotIn("\x1b", self.written)
        self.assertEqual(len(self.screen.lines()), 4)
