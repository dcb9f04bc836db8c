"""The program as a process: how it is started, what it prints, and how it ends."""

from __future__ import annotations

import codecs
import contextlib
import http.client
import io
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import unittest
import urllib.parse
import urllib.request
from typing import Any, Callable, Sequence
from unittest import mock

from httpd_download import (
    Share,
    Terminal,
    __version__,
    announce,
    base_url,
    local_addresses,
    parse_arguments,
)
from tests.support import (
    PATIENCE,
    PROGRAM,
    ROOT,
    Program,
    ProgramCase,
    Screen,
    read_all,
    read_exactly,
    read_reply,
    reset,
    skip_head,
)

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

NARROW = 4096
MIB, GIB = 1 << 20, 1 << 30
TEN = b"0123456789"
FINISHED = "req finished. 10 B, TIME, RATE"
# Seconds that count as at once, and in which it leaves although nobody reads what it says.
AT_ONCE, PARTING = 1.0, 2.0
posix_only = unittest.skipUnless(os.name == "posix", "no signals, or no such names")


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def fetch(
    link: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    """Fetch *link* on a connection of its own; return status and body."""
    url = urllib.parse.urlsplit(link)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, url.path, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()


def entry(subject: str, event: str, address: str = "127.0.0.1") -> str:
    """Return a line of the log."""
    return f'{address} - - [DATE] "{subject}" {event}'


def entries(target: str, name: str, address: str = "127.0.0.1") -> list[str]:
    """Return the lines of ten bytes that are fetched in one request."""
    request = f"GET /{target} HTTP/1.1"
    events = [(request, "200 -"), (request, FINISHED)]
    events.append((f"/{name}", "delivered. 10 B in 1 request"))
    return [entry(subject, event, address) for subject, event in events]


def uniform(lines: Sequence[str]) -> list[str]:
    """Return *lines* with words for what differs from run to run."""
    text = "\n".join(lines)
    text = re.sub(r"- - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] ", "- - [DATE] ", text)
    text = re.sub(r"(?m), \d+\.\d s, (\d+ B|\d+\.\d [KMGT]iB)/s$", ", TIME, RATE", text)
    return text.split("\n")


class Case(ProgramCase):
    def running(self, process: Any) -> Program:
        """See that there is no traceback, and for pipes no bell, and no code for a terminal."""
        program = super().running(process)

        def check() -> None:
            program.stop()
            text = "\n".join(program.out.all() + program.err.all())
            self.assertNotRegex(text, "Traceback|[\a\x1b]")

        self.addCleanup(check)
        return program

    def sparse(self, name: str, size: float) -> None:
        self.write(name, b"")
        os.truncate(self.folder / name, int(size))

    def url(self, program: Program, path: str = "") -> str:
        return f"http://127.0.0.1:{program.port()}/{path}"

    def fetch_and_go_on(self, program: Program, target: str, asked: str) -> bytes:
        """Fetch a range, and tell by a further request that it is there; return the body."""
        with socket.create_connection(("127.0.0.1", program.port()), PATIENCE) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\nRange: {asked}\r\n\r\n".encode())
            body = read_reply(client).body
            client.sendall(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
            self.assertEqual(read_reply(client).status, 404)
        return body

    def stop(self, program: Program, number: int = signal.SIGINT) -> None:
        """Send a signal; see that the program ends at once, with status 0."""
        start = time.monotonic()
        program.process.send_signal(number)
        self.assertEqual(program.wait(), 0)
        self.assertLess(time.monotonic() - start, AT_ONCE)

    def assert_log(self, program: Program, *lines: str) -> None:
        """See that the log, and what comes after it, is these *lines*."""
        self.assertEqual(uniform(program.err.all()), [*lines])

    def begin(self, port: int, target: str, count: int = 0) -> socket.socket:
        """Be a slow receiver that has read *count* bytes of the body of *target*."""
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        skip_head(client)
        read_exactly(client, count)
        return client


class OutputTest(Case):
    @posix_only
    def test_a_folder(self) -> None:
        for name in ["b.tgz", "中文.bin", 'a b#%?"\\', ".hidden", "sub/f"]:
            self.write(name)
        program = self.start_script()
        links = program.links()
        url = self.url(program)
        printed = [
            f"serving on: {url}",
            "===== local files =====",
            f'link: {url}a%20b%23%25%3F%22%5C  (a b#%?"\\\\, 10 B)',
            f"link: {url}b.tgz  (10 B)",
            f"link: {url}%E4%B8%AD%E6%96%87.bin  (中文.bin, 10 B)",
            "===== start logging =====",
        ]
        self.assertEqual(program.out.all(), printed)
        for count, link in enumerate([*links, links[1]], 1):
            self.assertEqual(fetch(link), (200, TEN))
            # At once, so that whoever waits for it in a pipe sees it.
            program.err.wait_for("delivered", count)
        self.assertEqual(fetch(url + "nothing")[0], 404)
        program.err.wait_for("404")
        self.assertEqual(fetch(links[1], method="HEAD"), (200, b""))
        program.err.wait_for("HEAD")
        self.stop(program)
        self.assert_log(
            program,
            *entries("a%20b%23%25%3F%22%5C", r"a b#%?\"\\"),
            *entries("b.tgz", "b.tgz"),
            *entries("%E4%B8%AD%E6%96%87.bin", "中文.bin"),
            *entries("b.tgz", "b.tgz"),
            entry("GET /nothing HTTP/1.1", "404 -"),
            entry("HEAD /b.tgz HTTP/1.1", "200 -"),
            'stopped. delivered: a b#%?"\\\\ to 127.0.0.1, b.tgz to 127.0.0.1 (2 times), '
            "中文.bin to 127.0.0.1",
        )
        self.assertEqual(program.out.all(), printed)

    @posix_only
    def test_what_is_named_on_several_addresses(self) -> None:
        self.sparse("file.tgz", 1.4 * GIB)
        self.sparse("中文.bin", 640 * MIB)
        self.sparse("results/a", 1.2 * GIB)
        for name in ["results/b", "results/sub/c", "results/.hidden"]:
            self.write(name)
        os.mkfifo(self.folder / "results/fifo")
        code = (
            "import httpd_download, sys\n"
            "addresses = ['10.0.2.15', '192.168.7.4']\n"
            "httpd_download.local_addresses = lambda ipv6=True: addresses\n"
            "sys.exit(httpd_download.main())"
        )
        names = ["file.tgz", "中文.bin", "results"]
        program = self.start_command([sys.executable, "-c", code, *names])
        program.links()
        url = f"http://10.0.2.15:{program.port()}"
        printed = [
            f"serving on: {url}/",
            f"also on: http://192.168.7.4:{program.port()}/",
            "===== local files =====",
            f"link: {url}/file.tgz  (1.4 GiB)",
            f"link: {url}/%E4%B8%AD%E6%96%87.bin  (中文.bin, 640.0 MiB)",
            f"link: {url}/results.tar  (results, 3 files, 1.2 GiB)",
            "left out of results.tar: 1 hidden, 1 special",
            "===== start logging =====",
        ]
        self.assertEqual(program.out.all(), printed)
        # Bound for IPv6 too, it writes receivers by IPv4 as such.
        body = self.fetch_and_go_on(program, "/results.tar", "bytes=-512")
        self.assertEqual(body, bytes(512))
        self.stop(program)
        request = "GET /results.tar HTTP/1.1"
        self.assert_log(
            program,
            entry(request, "206 -"),
            entry("GET /nothing HTTP/1.1", "404 -"),
            entry(request, "req finished. 512 B of 1.2 GiB, TIME, RATE"),
            "stopped. nothing was delivered",
            "not whole: results.tar to 127.0.0.1 at 0% (512 B of 1.2 GiB)",
            f"to let them resume: the same command with -p {program.port()}",
        )

    def test_own_addresses_or_another_name_and_resume_only(self) -> None:
        self.write("f")
        own, named = (
            self.start(*arguments, bind=False)
            for arguments in ([], ["--host", "files.example", "--resume-only"])
        )
        addresses = local_addresses(socket.has_dualstack_ipv6())
        for program, hosts in ((own, addresses), (named, ["files.example"])):
            program.links()
            urls = [base_url(host, program.port()) for host in hosts]
            printed = [f"serving on: {urls[0]}/", *(f"also on: {url}/" for url in urls[1:])]
            printed += ["===== local files =====", f"link: {urls[0]}/f  (10 B)"]
            self.assertEqual(program.out.all()[:-1], printed)
        for asked, reply in [("4-", (206, b"456789")), ("4-5", (200, TEN))]:
            self.assertEqual(fetch(self.url(named, "f"), {"Range": f"bytes={asked}"}), reply)

    @posix_only
    def test_nothing_to_offer_and_nothing_delivered(self) -> None:
        for name in ["a/f", "b/f", "c/.f", "d/e/f", ".one", ".two"]:
            self.write(name)
        programs = [self.start(), self.start("-p", "0")]
        self.assertNotEqual(programs[0].port(), programs[1].port())
        for program, number in zip(programs, (signal.SIGINT, signal.SIGTERM)):
            self.assertEqual(program.links(), [])
            self.assertIn(program.port(), range(20000, 50001))
            told = "nothing to offer here (4 folders, 2 hidden files: -r, or name them)"
            self.assertEqual(program.out.all()[2], told)
            self.stop(program, number)
            self.assertEqual(program.err.all(), ["stopped. nothing was delivered"])

    def test_only_the_log_is_named(self) -> None:
        with (self.folder / "log").open("w") as log:
            program = self.start("log", stderr=log)
            self.assertEqual(program.links(), [])
            told = ["not offered, since this program writes to it: log", "nothing to offer here"]
        self.assertEqual(program.out.all()[2:4], told)

    @posix_only
    def test_nothing_to_offer_in_sub_folders(self) -> None:
        for name in ["a/.f", ".hidden/f"]:
            self.write(name)
        program = self.start("-r")
        self.assertEqual(program.links(), [])
        self.assertEqual(program.out.all()[2], "nothing to offer here (2 hidden files: name them)")

    @unittest.skipUnless(has_ipv6_loopback(), "no IPv6 on loopback")
    def test_ipv6(self) -> None:
        self.write("f")
        program = self.start("-b", "::1", bind=False)
        (link,) = program.links()
        self.assertEqual(link, f"http://[::1]:{program.port()}/f")
        self.assertEqual(fetch(link), (200, TEN))
        program.err.wait_for("delivered")
        self.assert_log(program, *entries("f", "f", "::1"))

    @unittest.skipUnless(has_ipv6_loopback() and hasattr(socket, "if_indextoname"), "no IPv6")
    def test_the_zone_of_a_link_local_address(self) -> None:
        self.write("f")
        out = io.StringIO()
        server = mock.Mock(server_address=("fe80::1", 29000, 0, 1), server_port=29000)
        server.share = Share(str(self.folder), {})
        terminal = Terminal(out, None)
        interface = socket.if_indextoname(1)
        announce(server, parse_arguments(["-b", f"fe80::1%{interface}"]), terminal)
        terminal.close([])
        url = f"http://[fe80::1%25{interface}]:29000"
        printed = [f"serving on: {url}/", f"link: {url}/f  (10 B)"]
        self.assertEqual(out.getvalue().splitlines()[:3:2], printed)

    def test_version_and_help(self) -> None:
        code = "import httpd_download, sys; sys.argv[0] = '/bin/httpd-download'; "
        code += "sys.exit(httpd_download.main())"
        commands = {
            "python3 httpd_download.py": [PROGRAM.name, "-h"],
            "python3 -m httpd_download": ["-m", "httpd_download", "--help"],
            "httpd-download": ["-c", code, "-h"],
        }
        started = {
            name: self.start_command([sys.executable, *command], cwd=str(ROOT))
            for name, command in commands.items()
        }
        version = self.run_program("--version")
        self.assertEqual(version, (0, [f"httpd_download {__version__}"], []))
        options = "p b d r c h -port -bind -directory -recursive -count -host -secret -resume-only"
        options += " -timeout -tls-cert -tls-key -help -version"
        for name, program in started.items():
            with self.subTest(name):
                self.assertEqual((program.wait(), program.err.all()), (0, []))
                lines = program.out.all()
                self.assertEqual(lines[0], f"usage: {name} [options] [FILE or FOLDER ...]")
                # With the prompt below it, on the smallest terminal.
                self.assertLess(len(lines), 24)
                self.assertLessEqual(max(map(len, lines)), 80)
                for option in options.split():
                    self.assertRegex("\n".join(lines), rf"(?m)^ +(.*[ ,])?-{option}\b")

    @posix_only
    def test_ascii_locale(self) -> None:
        self.write("中文.bin")
        locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        locale["PYTHONIOENCODING"] = ""
        streams = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"}
        started = {
            r"\xe4\xb8\xad\xe6\x96\x87.bin": self.start_script(env=locale),
            r"\u4e2d\u6587.bin": self.start_script("中文.bin", env=streams),
        }
        for name, program in started.items():
            (link,) = program.links()
            self.assertEqual(link, self.url(program, "%E4%B8%AD%E6%96%87.bin"))
            self.assertEqual(program.out.all()[2], f"link: {link}  ({name}, 10 B)")
            with urllib.request.urlopen(link, timeout=PATIENCE) as reply:
                # What is UTF-8 on the disk is so to its receiver, whatever the locale.
                saved = reply.headers["Content-Disposition"].partition("filename*=")[2]
                self.assertEqual(saved, "UTF-8''%E4%B8%AD%E6%96%87.bin")
                self.assertEqual(reply.read(), TEN)
            program.err.wait_for("delivered")
            self.stop(program)
            self.assertEqual(program.err.all()[-1], f"stopped. delivered: {name} to 127.0.0.1")

    @posix_only
    def test_a_folder_in_any_locale(self) -> None:
        self.write("results/中文.bin")
        os.symlink("中", self.folder / "results/a")
        locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        bodies = []
        for program in (self.start("results"), self.start_script("results", env=locale)):
            (link,) = program.links()
            bodies.append(fetch(link))
        self.assertEqual(*bodies)


class StartTest(Case):
    ARGUMENTS = ("-b", "127.0.0.1", "-c", "1")

    def test_ways(self) -> None:
        self.write("f")
        main = "import sys, httpd_download; sys.exit(httpd_download.main())"
        commands = [
            ["-I", "-W", "error", str(PROGRAM), *self.ARGUMENTS],
            ["-m", "httpd_download", *self.ARGUMENTS],
            ["-c", main, *self.ARGUMENTS],
        ]
        started = [self.start_command([sys.executable, *command]) for command in commands]
        with PROGRAM.open() as source:
            commands.append(["-", *self.ARGUMENTS])
            piped = [sys.executable, *commands[-1]]
            started.append(self.start_command(piped, stdin=source, env={"PYTHONPATH": ""}))
        for program in started:
            (link,) = program.links()
            self.assertEqual(fetch(link), (200, TEN))
        last = "stopped. delivered: f to 127.0.0.1"
        for command, program in zip(commands, started):
            with self.subTest(command):
                self.assertEqual(program.wait(), 0)
                self.assert_log(program, *entries("f", "f"), last)

    def test_what_is_offered_is_not_imported(self) -> None:
        shutil.copy(str(PROGRAM), self.folder)
        self.write("queue.py", b"raise SystemExit('not this one')")
        environment = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
        for command in ([PROGRAM.name], ["-m", PROGRAM.stem, "-r"], ["-"]):
            with self.subTest(command), PROGRAM.open() as source:
                command = [sys.executable, *command, "-b", "127.0.0.1"]
                program = self.start_command(command, stdin=source, env=environment)
                # Nor is the program itself offered, or what Python has made of it.
                *others, link = program.links()
                self.assertEqual(link, self.url(program, "queue.py"))
                self.assertEqual(len(others), command[1] == "-")
                self.assertEqual(fetch(link)[0], 200)
                self.stop(program)
                shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)

    @posix_only
    def test_left_behind(self) -> None:
        """As by nohup, or by a script's &, in a folder that goes."""
        self.write("offered/f")
        (self.folder / "current").mkdir()
        ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, str(PROGRAM)]
        arguments = ["-b", "127.0.0.1", str(self.folder / "offered" / "f")]
        program = self.start_command([*ignoring, *arguments], cwd=str(self.folder / "current"))
        (link,) = program.links()
        (self.folder / "current").rmdir()
        program.process.send_signal(signal.SIGINT)
        self.assertEqual(fetch(link), (200, TEN))
        program.err.wait_for("delivered")
        self.assertIsNone(program.process.poll())
        self.stop(program, signal.SIGTERM)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: f to 127.0.0.1")


class ErrorTest(Case):
    def test_the_command_line_is_wrong(self) -> None:
        for complaint, *arguments in [
            ("--port 65536: a port was expected", "-p", "65536"),
            ("--port : a port was expected", "-p", ""),
            ("--port 8_0: a port was expected", "-p", "8_0"),
            ("--port -1: a port was expected", "-p", "-1"),
            (r"--port a\\x0ab: a port was expected", "-p", "a\nb"),
            ("-p.*expected one argument", "-p"),
            ("localhost is not an address in figures", "-b", "localhost"),
            ("1234 is not an address in figures", "-b", "1234"),
            ("1.2.3.4.5 is not an address in figures", "-b", "1.2.3.4.5"),
            (" is not an address in figures", "-b", ""),
            ("--count 0: a number from 1 up was expected", "-c", "0"),
            ("--count x: a number from 1 up was expected", "-c", "x"),
            ("--timeout 0: a number of seconds above 0 was expected", "--timeout", "0"),
            ("--timeout nan: a number of seconds above 0 was expected", "--timeout", "nan"),
            ("--host http://a/: a host without a port was expected", "--host", "http://a/"),
            ("--host h.example:80: a host without a port was expected", "--host", "h.example:80"),
            ("--host dead:80: a host without a port was expected", "--host", "dead:80"),
            ("unrecognized arguments: --vers", "--vers"),
            ("what is named is offered alone", "-d", ".", "f"),
            ("what is named is offered alone", "-r", "f"),
            ("a name is empty", ""),
            ("a name is empty", "-d", ""),
            # As by a variable that is not set: it shall not serve without TLS.
            ("a name is empty", "--tls-cert", ""),
            ("a name is empty", "--tls-cert", "f", "--tls-key", ""),
            ("--tls-key goes with --tls-cert", "--tls-key", "f"),
        ]:
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()) as err:
                with self.assertRaises(SystemExit) as ended:
                    parse_arguments(arguments)
                self.assertEqual(ended.exception.code, 2)
                self.assertRegex(err.getvalue(), rf"\Ahttpd_download: .*{complaint}.*\n\Z")

    def test_what_follows_two_dashes_is_named(self) -> None:
        for arguments, names in [
            (["--", "-x"], ["-x"]),
            (["a", "-p", "8080", "--", "-p", "--", "b"], ["a", "-p", "--", "b"]),
            (["a", "-p", "8080", "b", "--"], ["a", "b"]),
        ]:
            self.assertEqual(parse_arguments(arguments).names, names)

    @posix_only
    def test_one_line_and_a_status(self) -> None:
        for name in ["f", "x/a", "y/a"]:
            self.write(name)
        os.mkfifo(self.folder / "fifo")
        port = self.start().port()
        missing = "No such file or directory"
        # A folder may be told by its whole path.
        above = f"({re.escape(f'{self.folder}{os.sep}')})?"
        named = ["gone", "f", "sub/lost", "f/a", "\x1b\n", "fifo"]
        told = rf"gone, sub/lost, \\x1b\\x0a: {missing}; f/a: Not a directory; "
        told += "fifo: neither a regular file nor a folder"
        rows: list[tuple[int, str, list[str]]] = [
            (2, rf"--port x: a port was expected \(see python3 {PROGRAM} -h\)", ["-p", "x"]),
            (2, "/ has no name that a link could have", ["/"]),
            (2, "two would have one link, a: x/a and y/a", ["x/a", "f", "y/a"]),
            (1, told, named),
            (1, f"{above}nothing: {missing}", ["-d", "nothing"]),
            (1, f"127.0.0.1 port {port}: the port is taken: .*", ["-p", str(port)]),
            (1, r"192.0.2.77: not an address of this machine", ["-b", "192.0.2.77"]),
        ]
        started = [(*row, self.start(*row[2])) for row in rows]
        for status, complaint, arguments, program in started:
            with self.subTest(arguments):
                self.assertEqual(program.wait(), status)
                (line,) = program.err.all()
                self.assertRegex(line, rf"\Ahttpd_download: {complaint}\Z")
                self.assertEqual(program.out.all(), [])

    def test_what_networks_do_is_told_at_the_start(self) -> None:
        code = (
            "import httpd_download, errno, sys\n"
            "def die(*_): raise OSError(errno.ENETDOWN, 'no network')\n"
            "httpd_download.QuietServer.server_bind = die\n"
            "sys.exit(httpd_download.main(['-b', '127.0.0.1']))"
        )
        program = self.start_command([sys.executable, "-c", code])
        self.assertEqual(program.wait(), 1)
        (line,) = program.err.all()
        self.assertRegex(line, r"\Ahttpd_download: 127\.0\.0\.1: .*no network")

    def test_a_thread_dies(self) -> None:
        """One line that says why, and status 1."""
        self.write("f")
        for method, error in (
            ("QuietServer.handle_request", "MemoryError()"),
            ("Downloads.rows", "OSError(5, 'no more')"),
        ):
            code = (
                "import httpd_download, sys\n"
                f"def die(*_): raise {error}\n"
                f"httpd_download.{method} = die\n"
                "sys.exit(httpd_download.main(['-b', '127.0.0.1']))"
            )
            with self.subTest(method):
                program = self.start_command([sys.executable, "-c", code])
                self.assertEqual(program.wait(), 1)
                self.assertEqual(len(program.links()), 1)
                died, last = program.err.all()
                expected = re.escape(error)
                self.assertRegex(died, rf"\Ahttpd_download: the thread .* has died: {expected}\Z")
                self.assertEqual(last, "stopped. nothing was delivered")


@posix_only
class StopTest(Case):
    def test_a_signal_while_something_is_finalized(self) -> None:
        # Python drops what is raised there, and says so with a traceback.
        self.write("f")
        code = (
            "import httpd_download, os, signal, sys\n"
            "close = httpd_download.File.__del__\n"
            "def __del__(file):\n"
            "    httpd_download.File.__del__ = close\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    close(file)\n"
            "httpd_download.File.__del__ = __del__\n"
            "sys.exit(httpd_download.main(['-b', '127.0.0.1', 'f']))"
        )
        program = self.start_command([sys.executable, "-c", code])
        self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all(), ["stopped. nothing was delivered"])

    def test_while_a_disk_hangs_at_the_start(self) -> None:
        code = (
            "import httpd_download, sys, time\n"
            "def hang(*_): print('reading', flush=True), time.sleep(60)\n"
            "httpd_download.offers_by_name = hang\n"
            "httpd_download.main()"
        )
        program = self.start_command([sys.executable, "-c", code])
        program.out.wait_for("reading")
        self.stop(program)
        self.assertEqual(program.err.all(), ["stopped. nothing was delivered"])

    def test_in_mid_transfer_and_started_again(self) -> None:
        self.sparse("big", 64 * MIB)
        data = self.write("g", 1_000_000)
        self.write("f")
        program = self.start_script()
        _, f, g = program.links()
        for count in (1, 2):
            self.assertEqual(fetch(f), (200, TEN))
            program.err.wait_for("delivered", count)
        body = self.fetch_and_go_on(program, "/g", "bytes=0-219999")
        self.assertEqual(body, data[:220_000])
        client = self.begin(program.port(), "/big", 9 * MIB)
        self.stop(program, signal.SIGTERM)
        self.assertLess(len(read_all(client)), 55 * MIB)
        *log, delivered, lacking, advice = program.err.all()
        # What is cut short by hand has no line in the log.
        self.assertEqual(len([line for line in log if '"GET /big ' in line]), 1)
        self.assertEqual(delivered, "stopped. delivered: f to 127.0.0.1 (2 times)")
        # Both are listed, in whatever order.
        first, second = sorted(lacking.replace("not whole: ", "").split(", "))
        self.assertRegex(first, r"\Abig to 127\.0\.0\.1 at 1[0-9]% \([0-9.]+ MiB of 64\.0 MiB\)\Z")
        self.assertEqual(second, "g to 127.0.0.1 at 22% (214.8 KiB of 976.6 KiB)")
        self.assertEqual(advice, f"to let them resume: the same command with -p {program.port()}")
        again = self.start("-p", advice.split()[-1])
        self.assertEqual(again.links(), program.links())
        self.assertEqual(fetch(g, {"Range": "bytes=220000-"}), (206, data[220_000:]))

    def test_an_impatient_hand_and_secret_links(self) -> None:
        self.sparse("big", 64 * MIB)
        program = self.start_script("--secret")
        (link,) = program.links()
        self.begin(program.port(), urllib.parse.urlsplit(link).path)
        # Also at whatever it does last.
        while program.process.poll() is None:
            program.process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        self.assertEqual(program.wait(), 0)
        _, delivered, lacking = program.err.all()
        self.assertEqual(delivered, "stopped. nothing was delivered")
        # Such links do not come back.
        self.assertRegex(lacking, r"\Anot whole: big to 127\.0\.0\.1 at \d+% \(.* of 64\.0 MiB\)\Z")

    def test_streams_that_are_closed(self) -> None:
        """As by ``| head -1``, of more than a pipe holds."""
        for number in range(600):
            self.write("f" * 200 + str(number))
        names = ["f" * 200 + number for number in "78"]
        readers, programs = [], []
        for stream in ("stdout", "stderr"):
            descriptor, writer = os.pipe()
            options: dict[str, Any] = {stream: writer}
            programs.append(self.start("-c", "2", **options))
            readers.append(os.fdopen(descriptor))
            os.close(writer)
        urls = [readers[0].readline().split()[2], self.url(programs[1])]
        for reader in readers:
            reader.close()
        for count, name in enumerate(names, 1):
            for url in urls:
                self.assertEqual(fetch(url + name), (200, TEN))
            programs[0].err.wait_for("delivered", count)
        self.assertEqual([program.wait() for program in programs], [0, 0])
        log = [line for name in names for line in entries(name, name)]
        last = f"stopped. delivered: {names[0]} to 127.0.0.1, {names[1]} to 127.0.0.1"
        self.assert_log(programs[0], *log, last)
        self.assertEqual(len(programs[1].links()), 600)


class CountTest(Case):
    def test_broken_off_and_resumed_among_other_requests(self) -> None:
        data = self.write("f", 2_000_000)
        self.write("empty", b"")
        program = self.start("-c", "1")
        link = program.links()[1]
        reset(self.begin(program.port(), "/f", 500_000))
        program.err.wait_for("req terminated")
        self.assertEqual(fetch(self.url(program, "favicon.ico"))[0], 404)
        self.assertEqual(fetch(link, method="HEAD"), (200, b""))
        self.assertEqual(fetch(link, {"Range": "bytes=2000000-"})[0], 416)
        self.assertIsNone(program.process.poll())
        self.assertEqual(fetch(link, {"Range": "bytes=500000-"}), (206, data[500_000:]))
        self.assertEqual(program.wait(), 0)
        request = "GET /f HTTP/1.1"
        log = uniform(program.err.all())
        broken = r"req terminated\. at [2-9]\d% \([0-9.]+ [KM]iB of 1\.9 MiB\)"
        self.assertRegex(log.pop(1), rf'\A127\.0\.0\.1 - - \[DATE\] "{request}" {broken}\Z')
        expected = [
            entry(request, "200 -"),
            entry("GET /favicon.ico HTTP/1.1", "404 -"),
            entry("HEAD /f HTTP/1.1", "200 -"),
            entry(request, "416 -"),
            entry(request, "206 -"),
            entry(request, "req finished. 1.4 MiB, TIME, RATE"),
            entry("/f", "delivered. 1.9 MiB in 2 requests"),
            "stopped. delivered: f to 127.0.0.1",
        ]
        self.assertEqual(log, expected)

    def test_what_is_under_way_is_finished(self) -> None:
        data = self.write("big", 8_000_000)
        self.write("f")
        self.write("g")
        program = self.start("-c", "1")
        big, f, g = program.links()
        slow = self.begin(program.port(), "/big", 100_000)
        self.assertEqual(fetch(g, {"Range": "bytes=0-4"}), (206, TEN[:5]))
        self.assertEqual(fetch(f), (200, TEN))
        program.err.wait_for('"/f" delivered')
        # No new one begins, and none at rest goes on, but what is under way does.
        program.err.wait_for("req finished. 5 B of 10 B")
        refused = (503, b"503 Service Unavailable: no more downloads are wanted\n")
        self.assertEqual(fetch(f), refused)
        self.assertEqual(fetch(g, {"Range": "bytes=5-"}), refused)
        self.assertEqual(fetch(big, {"Range": "bytes=7999990-"}), (206, data[-10:]))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        self.assertTrue(read_exactly(slow, 7_900_000) == data[100_000:])
        slow.close()
        self.assertEqual(program.wait(), 0)
        self.assert_log(
            program,
            entry("GET /big HTTP/1.1", "200 -"),
            entry("GET /g HTTP/1.1", "206 -"),
            *entries("f", "f"),
            entry("GET /g HTTP/1.1", "req finished. 5 B of 10 B, TIME, RATE"),
            entry("GET /f HTTP/1.1", "503 -"),
            entry("GET /g HTTP/1.1", "503 -"),
            entry("GET /big HTTP/1.1", "req finished. 7.6 MiB, TIME, RATE"),
            entry("/big", "delivered. 7.6 MiB in 2 requests"),
            "stopped. delivered: f to 127.0.0.1, big to 127.0.0.1",
            "not whole: g to 127.0.0.1 at 50% (5 B of 10 B)",
            f"to let them resume: the same command with -p {program.port()}",
        )

    def test_each_that_is_named(self) -> None:
        """And connections that are kept do not hold it."""
        self.write("f")
        self.write("g")
        program = self.start("--count", "1", "f", "g")
        address = ("127.0.0.1", program.port())
        program.links()
        idle, client = (socket.create_connection(address, PATIENCE) for _ in range(2))
        with idle, client:
            for name, status in [("f", 200), ("f", 200), ("h", 404), ("g", 200)]:
                client.sendall(f"GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                self.assertEqual(read_reply(client).status, status)
            self.assertEqual(program.wait(), 0)
        last = "stopped. delivered: f to 127.0.0.1 (2 times), g to 127.0.0.1"
        self.assertEqual(program.err.all()[-1], last)


@unittest.skipUnless(hasattr(os, "openpty"), "no pseudo-terminals")
class PtyTest(Case):
    """The program on a terminal of its own, and what is to be seen there."""

    def open(self, columns: int) -> Program:
        self.master, self.slave = os.openpty()
        self.addCleanup(os.close, self.master)
        self.screen, self.written, self.seen = Screen(columns), "", threading.Condition()
        self.resize(columns)
        # As its controlling terminal, so that a Ctrl-C that is typed arrives.
        code = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        code += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        command = [sys.executable, "-IS", "-c", code, str(PROGRAM), "-b", "127.0.0.1"]
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), self.slave)
        environment = {"TERM": "xterm", "NO_COLOR": ""}
        program = self.start_command(command, env=environment, start_new_session=True, **streams)
        self.reader = threading.Thread(target=self.read_terminal)
        self.reader.start()
        self.addCleanup(self.end, program)
        self.wait_for(lambda: "===== start logging =====" in self.screen.lines())
        self.port = int(self.screen.lines()[0].split(":")[-1].strip("/"))
        return program

    def end(self, program: Program) -> None:
        """End the program if it has not ended, and wait until all is read that it wrote."""
        program.stop()
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
        self.reader.join(PATIENCE)

    def resize(self, columns: int) -> None:
        with self.seen:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            self.screen.columns = columns

    def read_terminal(self) -> None:
        decoder, left = codecs.getincrementaldecoder("utf-8")(), ""
        # EIO: the program has ended.
        with contextlib.suppress(OSError):
            while True:
                left += decoder.decode(os.read(self.master, 1 << 16))
                # A sequence may have come in part.
                text = re.sub("\x1b[^A-Za-z]*\\Z", "", left)
                left = left[len(text) :]
                with self.seen:
                    self.written += text
                    self.screen.feed(text)
                    self.seen.notify_all()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        with self.seen:
            self.assertTrue(self.seen.wait_for(condition, PATIENCE), self.screen.rows())

    def sees(self, pattern: str) -> None:
        """Wait until the last rows are those of *pattern*."""
        self.wait_for(lambda: re.search(rf"{pattern}\Z", "\n".join(self.screen.rows())))

    def test_rows(self) -> None:
        self.sparse("中文.iso", 64 * MIB)
        self.write("f")
        program = self.open(100)
        begun = len(self.screen.lines())
        target = "/%E4%B8%AD%E6%96%87.iso"
        self.begin(self.port, target, 7 * MIB)
        start = r"中文\.iso 127\.0\.0\.1 "
        self.sees(rf"200 -\n{start} █{{2,}} +\d\d%  \d+\.\d [KM]iB/s(  \d+:\d\d left)?")
        self.assertEqual(fetch(f"http://127.0.0.1:{self.port}/f"), (200, TEN))
        self.sees(rf"in 1 request\n{start} █+ +\d\d%  .*")
        # More than a probe, of which nothing would be said.
        second = self.begin(self.port, target, 2 * MIB)
        self.sees(rf"200 -\n{start} █+ +\d\d%  .*\n{start} █* +\d+%  .*")
        self.resize(50)
        self.sees(rf"200 -\n{start} +\d\d%  .*\n{start} +\d+%  .*")
        reset(second)
        self.sees(rf"MiB\)\n{start} +\d\d%  .*")
        os.write(self.master, b"\x03")
        self.assertEqual(program.process.wait(PATIENCE), 0)
        self.end(program)
        # Neither a row remains, nor the ^C that the terminal has echoed.
        lines = uniform(self.screen.lines()[begun:])
        terminated, lacking = lines.pop(5), lines.pop(6)
        got = r"at \d+% \(\d+\.\d MiB of 64\.0 MiB\)"
        request, whom = f"GET {target} HTTP/1.1", r"中文\.iso to 127\.0\.0\.1"
        self.assertRegex(terminated, rf"\A{re.escape(entry(request, 'req terminated.'))} {got}\Z")
        self.assertRegex(lacking, rf"\Anot whole: {whom} {got}, {whom} {got}\Z")
        expected = [entry(request, "200 -"), *entries("f", "f"), entry(request, "200 -")]
        expected.append("stopped. delivered: f to 127.0.0.1")
        expected.append(f"to let them resume: the same command with -p {self.port}")
        self.assertEqual(lines, expected)
        self.assertIn("\x1b[1;32mdelivered.\x1b[0m 10 B in 1 request\a\r\n", self.written)
        self.assertIn("\x1b[33mreq terminated.\x1b[0m at", self.written)
        self.assertEqual(self.written.count("\a"), 1)

    def test_ctrl_c_without_rows(self) -> None:
        program = self.open(80)
        os.write(self.master, b"\x03")
        self.assertEqual(program.process.wait(PATIENCE), 0)
        self.end(program)
        last = ["===== start logging =====", "stopped. nothing was delivered"]
        self.assertEqual(self.screen.lines()[-2:], last)

    def test_whoever_reads_nothing_holds_nothing_up(self) -> None:
        """A terminal under Ctrl-S, and a pipe that is full from the beginning."""
        self.write("f")
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * NARROW)
        os.set_blocking(writer, True)
        piped = self.start(stderr=writer)
        os.close(writer)
        held = self.open(80)
        termios.tcflow(self.slave, termios.TCOOFF)
        for port in (piped.port(), self.port):
            for _ in range(3):
                self.assertEqual(fetch(f"http://127.0.0.1:{port}/f"), (200, TEN))
        start = time.monotonic()
        piped.process.send_signal(signal.SIGTERM)
        os.write(self.master, b"\x03")
        self.assertEqual([program.process.wait(PATIENCE) for program in (piped, held)], [0, 0])
        self.assertLess(time.monotonic() - start, PARTING)
        self.end(held)
        self.assertNotIn("200 -", self.written, "it was not under Ctrl-S")
