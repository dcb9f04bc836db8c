"""The program as a process: how it is started, what it prints, and how it ends."""

from __future__ import annotations

import codecs
import contextlib
import errno
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
from typing import Any, Callable
from unittest import mock

import httpd_download
from httpd_download import (
    __version__,
    base_url,
    choose_block,
    connections_for,
    describe_bind_failure,
    describe_start_failure,
    expand_wildcards,
    local_addresses,
    parse_arguments,
    raise_descriptor_limit,
)
from tests.support import (
    PATIENCE,
    PROGRAM,
    ROOT,
    FolderCase,
    Program,
    ProgramCase,
    Screen,
    connect,
    read_all,
    read_exactly,
    read_reply,
    reset,
    skip_head,
    until,
)

try:
    import fcntl
    import resource
    import termios
except ImportError:  # Windows
    fcntl = resource = termios = None  # type: ignore[assignment]

MIB = 1 << 20
GIB = 1 << 30
NARROW = 4096  # bytes of the buffer of a slow receiver
TEN = b"0123456789"
FINISHED = "req finished. 10 B, TIME, RATE"
END_TIME = 2.0  # seconds within which the program ends after a signal
INTERRUPT = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)
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


def uniform(lines: list[str]) -> list[str]:
    """Return *lines* with words for the parts that differ from run to run."""
    text = "\n".join(lines)
    text = re.sub(r"- - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] ", "- - [DATE] ", text)
    text = re.sub(r"(?m), \d+\.\d s, (\d+ B|\d+\.\d [KMGT]iB)/s$", ", TIME, RATE", text)
    return text.split("\n")


class Case(ProgramCase):
    def running(self, process: Any) -> Program:
        """Check at the end that there was no traceback and, in pipes, no bell and no colour."""
        program = super().running(process)

        def check() -> None:
            program.stop()
            text = "\n".join(program.out.all() + program.err.all())
            self.assertNotRegex(text, "Traceback|[\a\x1b]")

        self.addCleanup(check)
        return program

    def start_code(self, code: str, *arguments: str) -> Program:
        """Start the program after *code*, which changes it."""
        code = f"import httpd_download, os, sys, time\n{code}\nhttpd_download.main()"
        return self.start_command([sys.executable, "-c", code, "-b", "127.0.0.1", *arguments])

    def sparse(self, name: str, size: float) -> None:
        self.write(name, b"")
        os.truncate(self.folder / name, int(size))

    def url(self, program: Program, path: str = "") -> str:
        return f"http://127.0.0.1:{program.port()}/{path}"

    def begin(self, port: int, target: str, count: int = 0, agent: str = "") -> socket.socket:
        """Be a slow receiver that has read *count* bytes of the body of *target*."""
        client = connect(("127.0.0.1", port), NARROW)
        self.addCleanup(client.close)
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\nUser-Agent: {agent}\r\n\r\n".encode())
        skip_head(client)
        read_exactly(client, count)
        return client

    def stop(self, program: Program, status: int = 0, number: int = INTERRUPT) -> None:
        """Send a signal; check that the program ends soon, with *status*."""
        start = time.monotonic()
        program.process.send_signal(number)
        self.assertEqual(program.wait(), status)
        self.assertLess(time.monotonic() - start, END_TIME)

    def assert_log(self, program: Program, *lines: str) -> None:
        self.assertEqual(uniform(program.err.all()), [*lines])


class OutputTest(Case):
    @posix_only
    def test_folder(self) -> None:
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
            "not offered: 1 folder (name them, or use -r)",
            "===== start logging =====",
        ]
        self.assertEqual(program.out.all(), printed)
        for count, link in enumerate([*links, links[1]], 1):
            self.assertEqual(fetch(link), (200, TEN))
            # At once, so that a program behind a pipe sees it.
            program.err.wait_for("delivered", count)
        self.assertEqual(fetch(links[1], method="HEAD"), (200, b""))
        program.err.wait_for("HEAD")
        self.stop(program)
        self.assert_log(
            program,
            *entries("a%20b%23%25%3F%22%5C", r"a b#%?\"\\"),
            *entries("b.tgz", "b.tgz"),
            *entries("%E4%B8%AD%E6%96%87.bin", "中文.bin"),
            *entries("b.tgz", "b.tgz"),
            entry("HEAD /b.tgz HTTP/1.1", "200 -"),
            'stopped. delivered: a b#%?"\\\\ to 127.0.0.1, b.tgz to 127.0.0.1 (2 times), '
            "中文.bin to 127.0.0.1",
        )

    @posix_only
    def test_named_offers_on_several_addresses(self) -> None:
        self.sparse("file.tgz", 1.4 * GIB)
        self.sparse("中文.bin", 640 * MIB)
        self.sparse("results/a", 1.2 * GIB)
        for name in ["results/b", "results/sub/c", "results/.hidden"]:
            self.write(name)
        os.mkfifo(self.folder / "results/fifo")
        code = "addresses = ['10.0.2.15', '192.168.7.4']\n"
        code += "httpd_download.local_addresses = lambda with_ipv6: addresses\n"
        code += "del sys.argv[1:3]"
        program = self.start_code(code, "file.tgz", "中文.bin", "results")
        program.links()
        url = f"http://10.0.2.15:{program.port()}"
        printed = [
            f"serving on: {url}/",
            f"also on: http://192.168.7.4:{program.port()}/",
            "===== local files =====",
            f"link: {url}/file.tgz  (1.4 GiB)",
            f"link: {url}/%E4%B8%AD%E6%96%87.bin  (中文.bin, 640.0 MiB)",
            f"link: {url}/results.tar  (results, 3 files, 1.2 GiB)",
            "left out of results.tar: 1 hidden name, 1 special file (fifo)",
            "===== start logging =====",
        ]
        self.assertEqual(program.out.all(), printed)
        # It is bound for IPv6 too, and writes IPv4 addresses as such.
        self.assertEqual(fetch(self.url(program, "nothing"))[0], 404)
        program.err.wait_for("^127.0.0.1 - - .* 404 -")

    @posix_only
    def test_amounts_agree(self) -> None:
        """The link, the log and the file on the receiver's disk name the same size."""
        self.write("results/a", 3_000_000)
        program = self.start("results")
        (link,) = program.links()
        size = len(fetch(link)[1])
        self.assertIn("(results, 1 file, 2.9 MiB)", program.out.all()[2])
        program.err.wait_for("req finished. 2.9 MiB, ")
        program.err.wait_for("delivered. 2.9 MiB in 1 request")
        self.assertGreater(size, 3_000_000)

    @posix_only
    def test_left_out_of_a_folder(self) -> None:
        for name in ["f", "a/f", "b/f", "log"]:
            self.write(name)
        os.mkfifo(self.folder / "fifo")
        os.symlink("/", self.folder / "outside")
        with (self.folder / "log").open("w") as log:
            program = self.start(stderr=log)
            self.assertEqual(program.links(), [self.url(program, "f")])
        left_out = "2 folders (name them, or use -r), 1 symlink (outside), "
        left_out += "1 special file (fifo), 1 server file (log)"
        self.assertEqual(program.out.all()[-2], f"not offered: {left_out}")

    def test_nothing_to_offer(self) -> None:
        for name in ["a/.f", "b/.f"]:
            self.write(name)
        program = self.start()
        self.assertEqual(program.links(), [])
        self.assertIn(program.port(), range(20000, 50001))
        remarks = ["nothing to offer here", "not offered: 2 folders (name them, or use -r)"]
        self.assertEqual(program.out.all()[2:-1], remarks)
        recursive = self.start("-r")
        self.assertEqual(recursive.links(), [])
        self.assertEqual(recursive.out.all()[2:-1], ["nothing to offer here"])

    def test_only_the_log_is_named(self) -> None:
        with (self.folder / "log").open("w") as log:
            program = self.start("log", stderr=log)
            self.assertEqual(program.links(), [])
        remarks = ["not offered, since this program writes to it: log", "nothing to offer here"]
        self.assertEqual(program.out.all()[2:4], remarks)

    def test_own_addresses_or_another_name(self) -> None:
        self.write("f")
        own = self.start(bind=False)
        own_addresses = local_addresses(socket.has_dualstack_ipv6())
        own.port()
        named = self.start("--host", "files.example", bind=False)
        forwarded = self.start("--host", "files.example:80", bind=False)
        for program, urls in [
            (own, [base_url(host, own.port()) for host in own_addresses]),
            (named, [f"http://files.example:{named.out.wait_for('^serving')[:-1].split(':')[-1]}"]),
            (forwarded, ["http://files.example:80"]),
        ]:
            program.links()
            printed = [f"serving on: {urls[0]}/", *(f"also on: {url}/" for url in urls[1:])]
            printed += ["===== local files =====", f"link: {urls[0]}/f  (10 B)"]
            self.assertEqual(program.out.all()[:-1], printed)

    @unittest.skipUnless(has_ipv6_loopback(), "no IPv6 on loopback")
    def test_ipv6(self) -> None:
        self.write("f")
        program = self.start("-b", "::1", bind=False)
        (link,) = program.links()
        self.assertEqual(link, f"http://[::1]:{program.port()}/f")
        self.assertEqual(fetch(link), (200, TEN))
        program.err.wait_for("delivered")
        self.assert_log(program, *entries("f", "f", "::1"))

    @posix_only
    def test_encodings(self) -> None:
        self.write("中文.bin")
        locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        cases = [
            (r"\xe4\xb8\xad\xe6\x96\x87.bin", {**locale, "PYTHONIOENCODING": ""}),
            (r"\u4e2d\u6587.bin", {"PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"}),
            (r"\u4e2d\u6587.bin", {"PYTHONUTF8": "1", "PYTHONIOENCODING": "cp437"}),
            # GBK, which the tests read as if it were UTF-8.
            (r"\xd6\xd0\xce\xc4.bin", {"PYTHONUTF8": "1", "PYTHONIOENCODING": "gbk"}),
        ]
        programs = [self.start_script(env=environment) for _, environment in cases]
        for program, (name, environment) in zip(programs, cases):
            with self.subTest(environment):
                (link,) = program.links()
                self.assertEqual(link, self.url(program, "%E4%B8%AD%E6%96%87.bin"))
                self.assertEqual(program.out.all()[2], f"link: {link}  ({name}, 10 B)")
                self.assertEqual(fetch(link), (200, TEN))
                program.err.wait_for("delivered")
                self.stop(program)
                self.assertEqual(program.err.all()[-1], f"stopped. delivered: {name} to 127.0.0.1")


class HelpTest(Case):
    def test_version(self) -> None:
        status, printed, _ = self.run_program("--version")
        self.assertEqual((status, printed), (0, [f"httpd_download {__version__}"]))

    def test_help_fits_on_a_screen(self) -> None:
        code = "import httpd_download, sys; sys.argv[0] = '/bin/httpd-download'; "
        code += "httpd_download.main()"
        python = "py" if os.name == "nt" else "python3"
        commands = {
            f"{python} httpd_download.py": [PROGRAM.name, "-h"],
            f"{python} -m httpd_download": ["-m", "httpd_download", "--help"],
            "httpd-download": ["-c", code, "-h"],
        }
        started = {
            command: self.start_command([sys.executable, *arguments], cwd=str(ROOT))
            for command, arguments in commands.items()
        }
        options = "p b d r c h -port -bind -directory -recursive -count -host -limit-rate -secret"
        options += " -prefix -resume-only -timeout -tls-cert -tls-key -help -version"
        for command, program in started.items():
            with self.subTest(command):
                self.assertEqual((program.wait(), program.err.all()), (0, []))
                lines = program.out.all()
                self.assertEqual(lines[0], f"usage: {command} [options] [FILE or FOLDER ...]")
                self.assertLess(len(lines), 40)
                self.assertLessEqual(max(map(len, lines)), 80)
                self.assertEqual(lines[-4], "examples:")
                for option in options.split():
                    self.assertRegex("\n".join(lines), rf"(?m)^ +(.*[ ,])?-{option}\b")


class PathsOnWindowsTest(FolderCase):
    """What only matters where the shell and the paths are those of Windows."""

    def test_wildcards(self) -> None:
        for name in ["b.iso", "a.iso", "c[1].iso", "c1.iso"]:
            self.write(name)
        folder = str(self.folder)
        names = [f"{folder}/{name}" for name in ["[ab].iso", "c[1].iso", "*.bin"]]
        with mock.patch("os.sep", "\\"):
            found = expand_wildcards(names)
        found = [os.path.basename(path) for path in found]
        self.assertEqual(found, ["a.iso", "b.iso", "c[1].iso", "*.bin"])
        self.assertEqual(expand_wildcards(["*"]), ["*"] if os.sep == "/" else mock.ANY)

    def test_paths_in_messages_can_be_copied(self) -> None:
        with mock.patch("os.sep", "\\"):
            message = describe_start_failure(OSError(errno.ENOENT, "File not found", r"C:\a\b"))
        self.assertEqual(message, "C:/a/b: File not found")


class ParseTest(unittest.TestCase):
    def test_wrong_command_lines(self) -> None:
        for message, *arguments in [
            ('"65536" is not a port', "-p", "65536"),
            (" is not a port", "-p", ""),
            ('"8_0" is not a port', "-p", "8_0"),
            ("is not a port", "-p", "-1"),
            (r'"a\\x0ab" is not a port', "-p", "a\nb"),
            ("-p.*expected one argument", "-p"),
            ('"files.example" is not an IP address', "-b", "files.example"),
            ('"1234" is not an IP address', "-b", "1234"),
            (" is not an IP address", "-b", ""),
            ('"0" is not a number from 1 up', "-c", "0"),
            ('"x" is not a number from 1 up', "-c", "x"),
            ('"0" is not a number of seconds', "--timeout", "0"),
            ('"nan" is not a number of seconds', "--timeout", "nan"),
            ("is not a host", "--host", "http://a/"),
            ("is not a host", "--host", "h:80:90"),
            ("is not a host", "--host", "h:"),
            ("is not a host", "--host", "dead:beef::80:80:80:80:80:80:80"),
            ("is not a host", "--host", "[h]"),
            ("is not a host", "--host", ""),
            ('"99999" is not a port', "--host", "h:99999"),
            ('"0" is not a rate', "--limit-rate", "0"),
            ('"1t" is not a rate', "--limit-rate", "1t"),
            ("has other characters than letters", "--prefix", "a/b"),
            ("has other characters than letters", "--prefix", ".hidden"),
            ("the word is empty", "--prefix", ""),
            ("--prefix: not allowed with argument --secret", "--secret", "--prefix", "a"),
            ("unrecognized argument: --nothing", "f", "--nothing"),
            ("unrecognized argument: -x", "-x", "f"),
            ("only what is named is served", "-d", ".", "f"),
            ("only what is named is served", "-r", "f"),
            ("a name is empty", ""),
            ("a name is empty", "a", "--", ""),
            ("the name is empty", "-d", ""),
            # As from a variable that is not set: then nothing must be served without TLS.
            ("the name is empty", "--tls-cert", ""),
            ("the name is empty", "--tls-cert", "f", "--tls-key", ""),
            ("--tls-key goes with --tls-cert", "--tls-key", "f"),
        ]:
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()) as err:
                with self.assertRaises(SystemExit) as ended:
                    parse_arguments(arguments)
                self.assertEqual(ended.exception.code, 2)
                self.assertRegex(err.getvalue(), rf"\Ahttpd_download: .*{message}.*\n\Z")

    @mock.patch.object(httpd_download, "supports_rate_limit", lambda: False)
    def test_rates_need_a_system_that_can_limit_them(self) -> None:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), self.assertRaises(SystemExit):
            parse_arguments(["--limit-rate", "1m"])
        self.assertIn("--limit-rate: this system cannot", err.getvalue())

    def test_names_stand_anywhere(self) -> None:
        for arguments, names in [
            (["a", "-p", "8080", "b"], ["a", "b"]),
            (["a", "-p8080", "b", "-c1", "c"], ["a", "b", "c"]),
            (["-"], ["-"]),
            (["--", "-x"], ["-x"]),
            (["a", "-p", "8080", "--", "-p", "--", "b"], ["a", "-p", "--", "b"]),
            (["a", "b", "--"], ["a", "b"]),
        ]:
            self.assertEqual(parse_arguments(arguments).names, names)

    @mock.patch.object(httpd_download, "supports_rate_limit", lambda: True)
    def test_values(self) -> None:
        for line, attribute, value in [
            ("--limit-rate 500", "limit_rate", 500),
            ("--limit-rate 500K", "limit_rate", 500 * 1024),
            ("--limit-rate 2.5m", "limit_rate", 5 * MIB // 2),
            ("--limit-rate 1g", "limit_rate", GIB),
            ("", "limit_rate", 0),
            ("--host files.example", "host", ("files.example", 0)),
            ("--host files.example:80", "host", ("files.example", 80)),
            ("--host ::1", "host", ("::1", 0)),
            ("--host [::1]", "host", ("[::1]", 0)),
            ("--host [::1]:80", "host", ("[::1]", 80)),
            ("--host fe80::1%eth7", "host", ("fe80::1%eth7", 0)),
            ("-b localhost", "bind", "127.0.0.1"),
            ("--prefix a.b-c_d~", "prefix", "a.b-c_d~"),
            ("", "prefix", ""),
            ("--timeout 2.5", "timeout", 2.5),
            ("", "timeout", 60.0),
        ]:
            self.assertEqual(getattr(parse_arguments(line.split()), attribute), value, line)
        self.assertRegex(parse_arguments(["--secret"]).prefix, "^[0-9a-f]{32}$")


class StartTest(Case):
    ARGUMENTS = ("-b", "127.0.0.1", "-c", "1")

    def test_ways(self) -> None:
        self.write("f")
        code = "import sys, httpd_download; sys.exit(httpd_download.main())"
        commands = [
            ["-I", "-W", "error", str(PROGRAM), *self.ARGUMENTS],
            ["-m", "httpd_download", *self.ARGUMENTS],
            ["-c", code, *self.ARGUMENTS],
        ]
        started = [self.start_command([sys.executable, *command]) for command in commands]
        with PROGRAM.open() as source:
            piped = [sys.executable, "-", *self.ARGUMENTS]
            started.append(self.start_command(piped, stdin=source, env={"PYTHONPATH": ""}))
        for program in started:
            (link,) = program.links()
            self.assertEqual(fetch(link), (200, TEN))
        for program in started:
            self.assertEqual(program.wait(), 0)
            last = "stopped. delivered: f to 127.0.0.1"
            self.assert_log(program, *entries("f", "f"), last)

    def test_offers_are_not_imported_and_the_program_is_not_offered(self) -> None:
        shutil.copy(str(PROGRAM), self.folder)
        self.write("random.py", b"raise SystemExit('not this one')")
        environment = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
        for arguments, count in [([PROGRAM.name], 1), (["-m", PROGRAM.stem, "-r"], 1), (["-"], 2)]:
            with self.subTest(arguments), PROGRAM.open() as source:
                command = [sys.executable, *arguments, "-b", "127.0.0.1"]
                program = self.start_command(command, stdin=source, env=environment)
                links = program.links()
                self.assertEqual(links[-1], self.url(program, "random.py"))
                self.assertEqual(len(links), count)
                program.stop()
                shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)

    @posix_only
    @unittest.skipIf(sys.implementation.name == "pypy", "PyPy does not keep SIGINT ignored")
    def test_ignored_signals_stay_ignored(self) -> None:
        """As under nohup, or with a script's &, and in a folder that is removed."""
        self.write("offered/f")
        (self.folder / "current").mkdir()
        ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, str(PROGRAM)]
        arguments = ["-b", "127.0.0.1", str(self.folder / "offered" / "f")]
        program = self.start_command([*ignoring, *arguments], cwd=str(self.folder / "current"))
        (link,) = program.links()
        (self.folder / "current").rmdir()
        program.process.send_signal(signal.SIGINT)
        self.assertEqual(fetch(link), (200, TEN))
        program.err.wait_for('"/f" delivered')
        self.assertIsNone(program.process.poll())
        self.stop(program, number=signal.SIGTERM)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: f to 127.0.0.1")

    @unittest.skipUnless(resource, "no limit of descriptors")
    def test_limit_of_descriptors(self) -> None:
        infinity = resource.RLIM_INFINITY
        for soft, hard, new, connections in [
            (256, 4096, 4096, 1018),
            (256, infinity, 10_240, 2554),  # macOS
            (20_000, infinity, None, 4994),
            (infinity, infinity, None, 8186),
            (64, 64, None, 10),
            (8, 8, None, 1),
        ]:
            with mock.patch.multiple(
                resource, getrlimit=lambda _, both=(soft, hard): both, setrlimit=mock.DEFAULT
            ) as calls:
                self.assertEqual(connections_for(raise_descriptor_limit()), connections)
            asked = [call.args[1][0] for call in calls["setrlimit"].mock_calls]
            self.assertEqual(asked, [new] if new else [])


class FailureTest(Case):
    @posix_only
    def test_one_line_and_a_status(self) -> None:
        for name in ["f", "x/a", "y/a", "data.tar", "data/f"]:
            self.write(name)
        os.mkfifo(self.folder / "fifo")
        port = str(self.start().port())
        missing = "No such file or directory"
        above = f"({re.escape(f'{self.folder}{os.sep}')})?"
        rename = "rename one, or name only one of them"
        all_missing = rf"gone, sub/lost, \\x1b\\x0a: {missing}; f/a: Not a directory; "
        all_missing += "fifo: neither a regular file nor a folder"
        rows: list[tuple[int, str, list[str]]] = [
            (2, rf".*x. is not a port .*\(see python3 {PROGRAM} -h\)", ["-p", "x"]),
            (2, "/ has no name that a link could have", ["/"]),
            (2, f"x/a and y/a would have the same link, a: {rename}", ["x/a", "f", "y/a"]),
            (2, f"data and data.tar would .*, data.tar: {rename}", ["data", "data.tar"]),
            (1, all_missing, ["gone", "f", "sub/lost", "f/a", "\x1b\n", "fifo"]),
            (1, rf"8000: {missing} \(to listen on port 8000: -p 8000\)", ["8000"]),
            (1, f"{above}nothing: {missing}", ["-d", "nothing"]),
            (1, f"127.0.0.1 port {port}: the port is taken: .*", ["-p", port]),
            (1, r"192.0.2.77: this machine does not have the address", ["-b", "192.0.2.77"]),
        ]
        programs = [self.start(*arguments) for _, _, arguments in rows]
        for program, (status, message, arguments) in zip(programs, rows):
            with self.subTest(arguments):
                self.assertEqual(program.wait(), status)
                (line,) = program.err.all()
                self.assertRegex(line, rf"\Ahttpd_download: {message}\Z")
                self.assertEqual(program.out.all(), [])

    def test_advice_about_ports(self) -> None:
        reserved = OSError(errno.EACCES, "access denied")
        reserved.winerror = 10013  # type: ignore[attr-defined]
        for error, advice in [
            (reserved, "the port is reserved or taken"),
            (PermissionError(errno.EACCES, "access denied"), "name one from 1024 up"),
            (OSError(errno.EADDRINUSE, "in use"), "the port is taken"),
            (OSError(errno.ENOBUFS, "no buffers"), "no buffers"),
        ]:
            self.assertIn(advice, describe_bind_failure(error))

    def test_system_fails(self) -> None:
        died = "the thread that accepts connections has died: OSError.5, 'no more'."
        messages = {
            "QuietServer.server_bind": "127.0.0.1: no more",
            "QuietServer.handle_request": died,
            "Registry.view": died,
        }
        code = "def die(*_): raise OSError(5, 'no more')\nhttpd_download."
        programs = [self.start_code(f"{code}{method} = die") for method in messages]
        for program, (method, message) in zip(programs, messages.items()):
            with self.subTest(method):
                self.assertEqual(program.wait(), 1)
                line, *others = program.err.all()
                self.assertRegex(line, rf"\Ahttpd_download: {message}\Z")
                self.assertEqual(others, ["stopped. nothing was delivered"] * (message == died))


@posix_only
class EndTest(Case):
    def test_signals(self) -> None:
        numbers = (signal.SIGINT, signal.SIGTERM)
        for program, number in [(self.start(), number) for number in numbers]:
            program.links()
            self.stop(program, number=number)
            self.assertEqual(program.err.all(), ["stopped. nothing was delivered"])

    def test_exit_status_with_count(self) -> None:
        """So that "-c 1 FILE && rm FILE" never removes what no receiver has."""
        self.sparse("big", 64 * MIB)
        self.write("f")
        programs = [self.start("-c", "1", *names) for names in (["big"], [])]
        for program in programs:
            program.links()
            self.begin(program.port(), "/big", MIB)
        self.stop(programs[0], status=1)
        self.assertEqual(fetch(self.url(programs[1], "f")), (200, TEN))
        programs[1].err.wait_for("delivered")
        self.stop(programs[1], status=0)

    def test_disk_hangs_at_the_start(self) -> None:
        code = "def hang(*_): print('reading', flush=True), time.sleep(60)\n"
        code += "httpd_download.named_offers = hang"
        programs = [(self.start_code(code), 0), (self.start_code(code, "-c", "1"), 1)]
        for program, status in programs:
            program.out.wait_for("reading")
            self.stop(program, status)
            self.assertEqual(program.err.all(), ["stopped. nothing was delivered"])

    def test_resume_after_a_restart(self) -> None:
        data = self.write("big", 40 * MIB)
        program = self.start_script("--secret")
        (link,) = program.links()
        client = self.begin(program.port(), urllib.parse.urlsplit(link).path, 9 * MIB)
        self.stop(program, number=signal.SIGTERM)
        self.assertLess(len(read_all(client)), 31 * MIB)
        *_, delivered, unfinished, advice = program.err.all()
        self.assertEqual(delivered, "stopped. nothing was delivered")
        share = r"at 2\d% \(\d+\.\d MiB of 40\.0 MiB\)"
        self.assertRegex(unfinished, rf"\Anot whole: big to 127\.0\.0\.1 {share}\Z")
        port, prefix = program.port(), link.split("/")[3]
        resumed = f"to let them resume: the same command with -p {port} --prefix {prefix}"
        self.assertEqual(advice, f"{resumed} instead of --secret")
        again = self.start("-c", "1", "-p", str(port), "--prefix", prefix)
        self.assertEqual(again.links(), [link])
        whole = {"Range": f"bytes={9 * MIB}-"}
        self.assertEqual(fetch(link, whole), (206, data[9 * MIB :]))
        self.assertEqual(again.wait(), 0)
        again.err.wait_for("delivered. 40.0 MiB, of which the first 9.0 MiB before this start")

    def test_impatient_hand(self) -> None:
        self.sparse("big", 64 * MIB)
        program = self.start_script()
        program.links()
        self.begin(program.port(), "/big")

        def ends() -> bool:
            program.process.send_signal(signal.SIGINT)
            return program.process.poll() is not None

        until(ends, "the program ends")
        self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all()[1], "stopped. nothing was delivered")

    def test_streams_that_are_closed(self) -> None:
        """As by ``| head -1``, of more than a pipe holds."""
        for number in range(600):
            self.write("f" * 200 + str(number))
        names = ["f" * 200 + number for number in "78"]
        for stream in ("stdout", "stderr"):
            with self.subTest(stream):
                descriptor, writer = os.pipe()
                reader = os.fdopen(descriptor)
                streams: dict[str, Any] = {stream: writer}
                program = self.start("-c", "2", **streams)
                os.close(writer)
                url = reader.readline().split()[2] if stream == "stdout" else self.url(program)
                reader.close()
                for name in names:
                    self.assertEqual(fetch(url + name), (200, TEN))
                self.assertEqual(program.wait(), 0)
        self.assertEqual(len(program.links()), 600)


class CountTest(Case):
    def test_downloads_under_way_are_finished(self) -> None:
        data = self.write("big", 8_000_000)
        self.write("f")
        program = self.start("-c", "1")
        _, f = program.links()
        slow = self.begin(program.port(), "/big", 100_000)
        self.assertEqual(fetch(f), (200, TEN))
        program.err.wait_for('"/f" delivered')
        self.assertEqual(fetch(f)[0], 503)
        program.err.wait_for('"GET /f HTTP/1.1" 503 - enough was delivered$')
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        self.assertTrue(read_exactly(slow, 7_900_000) == data[100_000:])
        slow.close()
        self.assertEqual(program.wait(), 0)
        last = "stopped. delivered: f to 127.0.0.1, big to 127.0.0.1"
        self.assertEqual(program.err.all()[-1], last)

    def test_each_that_is_named(self) -> None:
        """Connections that are kept do not hold the program up."""
        self.write("f")
        self.write("g")
        program = self.start("--count", "1", "f", "g")
        address = ("127.0.0.1", program.port())
        program.links()
        with socket.create_connection(address, PATIENCE), socket.create_connection(
            address, PATIENCE
        ) as client:
            for name, status in [("f", 200), ("f", 200), ("h", 404), ("g", 200)]:
                client.sendall(f"GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                self.assertEqual(read_reply(client).status, status)
            self.assertEqual(program.wait(), 0)
        last = "stopped. delivered: f to 127.0.0.1 (2 times), g to 127.0.0.1"
        self.assertEqual(program.err.all()[-1], last)


# A shell with job control: it starts its arguments in a process group of their own, in the
# foreground, waits until the group is stopped, and understands bg and fg.
SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit(os.WEXITSTATUS(status))
    os.tcsetpgrp(0, os.getpgrp())
    print("stopped", flush=True)
    for line in sys.stdin:
        if line == "fg\\n":
            os.tcsetpgrp(0, child)
        os.kill(child, signal.SIGCONT)
        if line == "fg\\n":
            break
"""


@unittest.skipUnless(hasattr(os, "openpty"), "no pseudo-terminals")
class TerminalTest(Case):
    """The program on a terminal of its own, and what is to be seen there."""

    BLOCK = choose_block(mock.Mock(encoding="utf-8"))

    def open(self, columns: int) -> Program:
        self.master, self.slave = os.openpty()
        self.addCleanup(os.close, self.master)
        self.screen = Screen(columns)
        self.written = ""
        self.seen = threading.Condition()
        self.resize(columns)
        command = [sys.executable, "-IS", "-c", SHELL, str(PROGRAM), "-b", "127.0.0.1"]
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), self.slave)
        environment = {"TERM": "xterm", "NO_COLOR": "", "PYTHONIOENCODING": "utf-8"}
        program = self.start_command(command, env=environment, start_new_session=True, **streams)
        self.reader = threading.Thread(target=self.read_terminal)
        self.reader.start()
        self.addCleanup(self.end, program)
        self.wait_for(lambda: "===== start logging =====" in self.screen.lines())
        self.port = int(self.screen.lines()[0].split(":")[-1].strip("/"))
        return program

    def end(self, program: Program) -> None:
        """Wait until the program has ended and everything is read that it wrote."""
        if program.process.poll() is None:
            # The shell's end hangs up the terminal, which ends the program.
            program.stop()
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
        self.reader.join(PATIENCE)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, columns: int) -> None:
        with self.seen:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            self.screen.columns = columns

    def read_terminal(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        pending = ""
        # OSError: the program has ended.
        with contextlib.suppress(OSError):
            while True:
                pending += decoder.decode(os.read(self.master, 1 << 16))
                # The end of an escape sequence may not have come yet.
                text = re.sub("\x1b[^A-Za-z]*\\Z", "", pending)
                pending = pending[len(text) :]
                with self.seen:
                    self.written += text
                    self.screen.feed(text)
                    self.seen.notify_all()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        with self.seen:
            self.assertTrue(self.seen.wait_for(condition, PATIENCE), self.screen.rows())

    def sees(self, pattern: str) -> None:
        """Wait until the screen ends with *pattern*."""
        self.wait_for(lambda: re.search(rf"{pattern}\Z", "\n".join(self.screen.rows())))

    def test_rows(self) -> None:
        self.sparse("中文.iso", 64 * MIB)
        self.write("f")
        program = self.open(100)
        self.sees(r"===== start logging =====\nwaiting for a receiver \(Ctrl-C to stop\)")
        begun = self.screen.lines().index("===== start logging =====") + 1
        target = "/%E4%B8%AD%E6%96%87.iso"
        self.begin(self.port, target, 4 * MIB, "curl/8.1")
        start = rf"中文\.iso 127\.0\.0\.1 (\(\w+\) )? {self.BLOCK}*"
        end = r" +\d+%  +\d+\.\d [KM]iB/s(  \d+:\d\d left)?"
        self.sees(rf"200 -\n{start}{end}")
        self.assertEqual(fetch(f"http://127.0.0.1:{self.port}/f"), (200, TEN))
        self.sees(rf"in 1 request\n{start}{end}")
        # More than a probe, whose end is not worth a line.
        second = self.begin(self.port, target, 2 * MIB, "Wget/1.21")
        self.sees(rf"200 -\n{start} +\d+%  .*\n{start} +\d+%  .*")
        self.assertRegex("\n".join(self.screen.rows()), r"\(curl\)(.|\n)*\(wget\)")
        # The bars have no room there.
        self.resize(60)
        self.sees(r"200 -\n.*\(curl\) +\d+%  .*\n.*\(wget\) +\d+%  .*")
        reset(second)
        self.sees(r"MiB\)\n.* +\d+%  .*")
        self.type("\x03")
        self.assertEqual(program.process.wait(PATIENCE), 0)
        self.end(program)
        # Neither a row remains, nor the ^C that the terminal has echoed.
        lines = uniform(self.screen.lines()[begun:])
        curl, wget = lines.pop(-3), lines.pop(-2)
        terminated = lines.pop(5)
        share = r"at \d+% \(\d+\.\d MiB of 64\.0 MiB\)"
        self.assertRegex(terminated, rf"req terminated\. {share}\Z")
        self.assertRegex(curl, rf"\Anot whole: 中文\.iso to 127\.0\.0\.1 \(curl\) {share}\Z")
        self.assertRegex(wget, rf"\Anot whole: 中文\.iso to 127\.0\.0\.1 \(wget\) {share}\Z")
        expected = [entry(f"GET {target} HTTP/1.1", "200 -"), *entries("f", "f")]
        expected.append(entry(f"GET {target} HTTP/1.1", "200 -"))
        expected.append("stopped. delivered: f to 127.0.0.1")
        expected.append(f"to let them resume: the same command with -p {self.port}")
        self.assertEqual(lines, expected)
        self.assertIn("\x1b[1;32mdelivered.\x1b[0m 10 B in 1 request\a\r\n", self.written)
        self.assertIn("\x1b[33mreq terminated.\x1b[0m at", self.written)
        self.assertEqual(self.written.count("\a"), 1)

    def test_background(self) -> None:
        self.sparse("big", 64 * MIB)
        self.write("f")
        program = self.open(100)
        link = f"http://127.0.0.1:{self.port}/f"
        self.begin(self.port, "/big", 4 * MIB)
        row = r"big 127\.0\.0\.1 .*%  .*"
        self.sees(rf"200 -\n{row}")
        self.type("\x1a")
        self.sees(r"200 -\n(\^Z)?stopped")
        self.type("bg\n")
        for count in (1, 2):
            self.assertEqual(fetch(link), (200, TEN))
            log = rf'(.*\[.*\] "(GET )?/f.*\n){{{3 * count}}}'
            self.wait_for(lambda: re.search(rf"stopped\nbg\n{log}\Z", self.text()))  # noqa: B023
        self.type("fg\n")
        self.sees(rf"\nfg\n{row}")
        self.type("\x1a")
        self.sees(r"\nfg\n(\^Z)?stopped")
        self.type("fg\n")
        self.sees(rf"stopped\nfg\n{row}")
        self.type("\x03")
        self.assertEqual(program.process.wait(PATIENCE), 0)
        self.end(program)
        self.assertNotRegex(self.text(), row.replace(".*", r"\D.*", 1))

    def text(self) -> str:
        return "\n".join([*self.screen.rows(), ""])

    def test_terminal_and_pipe_that_take_nothing(self) -> None:
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
        # As Ctrl-S does.
        termios.tcflow(self.slave, termios.TCOOFF)
        for port in (piped.port(), self.port):
            for _ in range(3):
                self.assertEqual(fetch(f"http://127.0.0.1:{port}/f"), (200, TEN))
        start = time.monotonic()
        self.type("\x03")
        self.stop(piped)
        self.assertEqual(held.process.wait(PATIENCE), 0)
        self.assertLess(time.monotonic() - start, END_TIME)
        self.end(held)
        self.assertNotIn("200 -", self.written, "the terminal was not blocked")


@unittest.skipUnless(os.name == "nt", "Windows only")
class WindowsTest(Case):
    def test_ctrl_break(self) -> None:
        group = 0x200  # CREATE_NEW_PROCESS_GROUP
        program = self.start_script(creationflags=group)
        program.links()
        try:
            self.stop(program)
        except OSError as error:
            self.skipTest(f"no process group can be sent Ctrl-Break: {error}")
        self.assertEqual(program.err.all(), ["stopped. nothing was delivered"])
