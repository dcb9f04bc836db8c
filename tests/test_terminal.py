"""The terminal, and the addresses: what is printed, on whatever it is printed."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import socket
import threading
import time
import unittest
from typing import Callable, Iterator, Sequence
from unittest import mock

from httpd_download import (
    Representation,
    Terminal,
    Transfer,
    base_url,
    escape,
    fit,
    local_addresses,
    numeric_address,
    status_line,
    width,
)
from tests.support import FolderCase, Screen

LOG_LINE = r"^10\.0\.0\.5 - - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "


class EscapeTest(unittest.TestCase):
    def test_table(self) -> None:
        for text, escaped in [
            ("plain name.tgz", "plain name.tgz"),
            ("中文 é €.bin", "中文 é €.bin"),
            ("\n\r\t\0\x1b[2J\x7f", r"\x0a\x0d\x09\x00\x1b[2J\x7f"),
            ("\x80\x85\x9b31m\x9f", r"\x80\x85\x9b31m\x9f"),
            ("\\x0a", r"\\x0a"),
            ("\u202eexe.txt\u202c", r"\u202eexe.txt\u202c"),
            ("\u2066a\u2069\u200e\u200f\u061c", r"\u2066a\u2069\u200e\u200f\u061c"),
            ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
            (os.fsdecode(b"\xff\xfe.bin") if os.name == "posix" else "\udcff\udcfe.bin", r"\xff\xfe.bin"),
        ]:
            self.assertEqual(escape(text), escaped)

    def test_nothing_that_moves_a_cursor_ends_a_line_or_turns_text_gets_through(self) -> None:
        for code in [
            *range(0x20),
            *range(0x7F, 0xA0),
            0x61C,
            0x200E,
            0x200F,
            *range(0x2028, 0x202F),
            *range(0x2066, 0x206A),
        ]:
            escaped = escape(f"<{chr(code)}>")
            self.assertTrue(escaped.isascii() and escaped.isprintable() and escaped[1] == "\\", escaped)

    def test_two_names_never_look_the_same(self) -> None:
        self.assertNotEqual(escape("\n"), escape("\\x0a"))


class WidthTest(unittest.TestCase):
    def test_width(self) -> None:
        for text, columns in [("", 0), ("abc", 3), ("中文", 4), ("e\u0301", 1), ("ｱ", 1), ("Ａ", 2), ("a\u200db", 2)]:
            self.assertEqual(width(text), columns, text)

    def test_fit(self) -> None:
        for text, columns, fitted in [
            ("abc", 3, "abc"),
            ("abcdef", 4, "ab.."),
            ("abcdef", 2, ".."),
            ("abcdef", 1, "."),
            ("abcdef", 0, ""),
            ("abcdef", -5, ""),
            ("中文字", 6, "中文字"),
            ("中文字", 5, "中.."),
            ("中文字", 3, ".."),
        ]:
            self.assertEqual(fit(text, columns), fitted)

    def test_a_long_path_takes_no_time(self) -> None:
        start = time.monotonic()
        self.assertEqual(fit("a" * 5000, 80), "a" * 78 + "..")
        self.assertLess(time.monotonic() - start, 0.5)

    def test_status_line(self) -> None:
        row = ("f.tgz", "10.0.0.5", 45, 100, 1.0)
        for given, line in [
            (row, "f.tgz to 10.0.0.5 45% 1 B/s 0:55 left"),
            ((*row[:4], 0.0), "f.tgz to 10.0.0.5 45% 0 B/s"),
            (("f", "::1", 0, 10 << 30, 1 << 20), "f to ::1 0% 1.0 MiB/s 2:50:40 left"),
            (("f", "::1", 0, 0, 0.0), "f to ::1 0% 0 B/s"),
        ]:
            self.assertEqual(status_line([given], 80), line)
        both = status_line([row, ("g", "10.0.0.6", 99, 100, 1.0)], 120)
        self.assertEqual(both, "f.tgz to 10.0.0.5 45% 1 B/s 0:55 left | g to 10.0.0.6 99% 1 B/s 0:01 left")

    def test_what_finds_no_room_is_counted(self) -> None:
        rows = [(f"file {number}", "10.0.0.5", 45, 100, 1.0) for number in range(20)]
        for columns, shown in [(79, 1), (119, 2), (400, 8)]:
            line = status_line(rows, columns)
            self.assertEqual((line.count(" left"), line.endswith(f" | {20 - shown} more")), (shown, True), line)

    def test_status_line_fits_any_width(self) -> None:
        rows = [(name, "fd00::1234", 10, 10**9, 2.5e6) for name in ("a" * 90, "中文" * 40, "e\u0301" * 50, "b")]
        for count in range(1, len(rows) + 1):
            for columns in [*range(60), 79, 80, 99, 150, 200, 300]:
                line = status_line(rows[:count], columns)
                self.assertLessEqual(width(line), columns, line)

    def test_a_long_name_leaves_room_for_the_figures(self) -> None:
        for name in ("a" * 300, "中文" * 80):
            line = status_line([(name, "10.0.0.5", 45, 100, 1.0)], 79)
            self.assertIn(".. to 10.0.0.5 45% 1 B/s 0:55 left", line)
            self.assertGreaterEqual(width(line), 78)


class Tty(io.StringIO):
    """A terminal: what is written to it is seen on its screen."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80) -> None:
        super().__init__()
        self.screen = Screen(columns)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.screen.feed(text)
        return super().write(text)


class TerminalCase(FolderCase):
    def row(self, name: str, acknowledged: int = 450) -> tuple[Transfer, int]:
        path = self.folder / "f"
        path.write_bytes(bytes(1000))
        with Representation(os.open(path, os.O_RDONLY), name) as representation:
            return Transfer("10.0.0.5", "GET /f", representation, [(0, 1000)]), acknowledged

    @contextlib.contextmanager
    def environment(self, **variables: str) -> Iterator[None]:
        with mock.patch.dict(os.environ, {"TERM": "xterm", **variables}):
            yield


class TtyTest(TerminalCase):
    def terminal(self, tty: Tty, term: str = "xterm") -> Terminal:
        with self.environment(TERM=term):
            return Terminal(io.StringIO(), tty, lambda: tty.screen.columns)

    def test_the_status_is_below_the_log_and_goes_without_trace(self) -> None:
        tty = Tty()
        terminal = self.terminal(tty)
        terminal.log("10.0.0.5", [("GET /f HTTP/1.1", "200 -")])
        terminal.status([self.row("f", 450)])
        self.assertEqual(tty.screen.rows()[1:], ["f to 10.0.0.5 45% 0 B/s"])
        terminal.log("10.0.0.5", [("GET /g HTTP/1.1", "404 -")])
        terminal.status([self.row("f", 500), self.row("中文", 0)])
        first, second, status = tty.screen.rows()
        self.assertRegex(first, LOG_LINE + '"GET /f HTTP/1.1" 200 -$')
        self.assertRegex(second, LOG_LINE + '"GET /g HTTP/1.1" 404 -$')
        self.assertEqual(status, "f to 10.0.0.5 50% 0 B/s | 中文 to 10.0.0.5 0% 0 B/s")
        terminal.status([self.row("f", 990)])
        self.assertEqual(tty.screen.rows()[2:], ["f to 10.0.0.5 99% 0 B/s"])
        terminal.status([])
        self.assertEqual(tty.screen.rows(), [first, second])
        terminal.status([self.row("f", 991)])
        terminal.close("stopped.")
        terminal.status([self.row("f", 992)])
        terminal.log("10.0.0.5", [("-", "too late")])
        self.assertEqual(tty.screen.rows(), [first, second, "stopped."])

    def test_an_idle_terminal_is_left_alone(self) -> None:
        tty = Tty()
        self.terminal(tty).status([])
        self.assertEqual(tty.getvalue(), "")

    def test_it_is_one_row_at_any_width_also_after_a_change(self) -> None:
        for name in ("a" * 99, "中" * 99, "f"):
            for before in (200, 100, 81, 41, 20, 3, 2):
                for after in (200, 80, 40, 21, 20, 19, 7, 2):
                    with self.subTest(name=name[0], before=before, after=after):
                        tty = Tty(before)
                        terminal = self.terminal(tty)
                        terminal.log("10.0.0.5", [("-", "x")])
                        [log] = tty.screen.lines()
                        terminal.status([self.row(name)])
                        tty.screen.columns = after
                        terminal.status([self.row(name)])
                        self.assertEqual(tty.screen.lines()[:1], [log])
                        self.assertLess(width("".join(tty.screen.lines()[1:])), after)
                        terminal.close("end")
                        self.assertEqual(tty.screen.lines(), [log, "end"])

    def test_names_and_requests_cannot_forge_a_line_or_a_sequence(self) -> None:
        tty = Tty(200)
        terminal = self.terminal(tty)
        terminal.log("10.0.0.5", [('GET /\x1b[2J" 200 -\n10.0.0.6 "\u202e HTTP/1.1', "200 -\r")])
        terminal.status([self.row("a\n\x1b[2J\u202eb")])
        log, status = tty.screen.rows()
        self.assertRegex(log, LOG_LINE)
        self.assertTrue(log.endswith(r'"GET /\x1b[2J\" 200 -\x0a10.0.0.6 \"\u202e HTTP/1.1" 200 -\x0d'), log)
        self.assertTrue(status.startswith(r"a\x0a\x1b[2J\u202eb to "), status)

    def test_several_threads_leave_whole_lines(self) -> None:
        tty = Tty(200)
        terminal = self.terminal(tty)
        row = self.row("f")

        def work(number: int) -> None:
            for _ in range(50):
                terminal.log("10.0.0.5", [(f"GET /{number}", "200 -")])
                terminal.status([row])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        terminal.close("end")
        rows = tty.screen.rows()
        self.assertEqual((len(rows), rows.pop()), (201, "end"))
        for line in rows:
            self.assertRegex(line, LOG_LINE + r'"GET /\d" 200 -$')

    def test_a_dumb_terminal_gets_no_codes(self) -> None:
        tty = Tty()
        terminal = self.terminal(tty, "dumb")
        terminal.status([self.row("f")])
        terminal.close("end")
        self.assertEqual(tty.getvalue(), "end\n")


class StreamTest(TerminalCase):
    def use(self, out: io.TextIOBase | None, err: io.TextIOBase | None) -> None:
        with self.environment():
            terminal = Terminal(out, err)  # type: ignore[arg-type]
        terminal.say("link: http://h/%E4%B8%AD  (中\udcff)")
        terminal.status([self.row("中文")])
        terminal.log("10.0.0.5", [("GET /中 HTTP/1.1", "200 -")])
        terminal.close("stopped. 中")
        terminal.log("10.0.0.5", [("-", "too late")])

    def test_neither_status_nor_codes_where_there_is_no_terminal(self) -> None:
        for encoding, out, log, last in [
            ("utf-8", "(中\\udcff)", '"GET /中 HTTP/1.1" 200 -', "stopped. 中"),
            ("ascii", "(\\u4e2d\\udcff)", '"GET /\\u4e2d HTTP/1.1" 200 -', "stopped. \\u4e2d"),
            ("latin-1", "(\\u4e2d\\udcff)", '"GET /\\u4e2d HTTP/1.1" 200 -', "stopped. \\u4e2d"),
            ("gbk", "(中\\udcff)", '"GET /中 HTTP/1.1" 200 -', "stopped. 中"),
        ]:
            with self.subTest(encoding):
                streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="") for _ in range(2)]
                self.use(*streams)
                texts = [stream.detach().getvalue().decode(encoding) for stream in streams]
                self.assertEqual(texts[0], f"link: http://h/%E4%B8%AD  {out}\n")
                first, second, end = texts[1].split("\n")
                self.assertRegex(first, LOG_LINE)
                self.assertEqual((first.partition("] ")[2], second, end), (log, last, ""))

    def test_an_ascii_terminal_gets_a_status_that_fits(self) -> None:
        tty = Tty(40)
        tty.encoding = "ascii"
        with self.environment():
            terminal = Terminal(None, tty, lambda: 40)
        terminal.status([self.row("中文" * 20)])
        [row] = tty.screen.rows()
        self.assertTrue(row.isascii() and len(row) <= 39, row)

    def test_no_streams(self) -> None:
        self.use(None, None)

    def test_closed_streams(self) -> None:
        streams = [io.TextIOWrapper(io.BytesIO()) for _ in range(2)]
        with self.environment():
            terminal = Terminal(streams[0], streams[1])
        for stream in streams:
            stream.close()
        terminal.say("x")
        terminal.log("10.0.0.5", [("-", "x")])
        terminal.close("x")

    def test_broken_pipe(self) -> None:
        for broken in ("out", "err"):
            with self.subTest(broken):
                reader, writer = os.pipe()
                os.close(reader)
                whole = io.StringIO()
                with os.fdopen(writer, "w") as pipe:
                    self.use(*((pipe, whole) if broken == "out" else (whole, pipe)))
                    pipe.write("no complaint from here on")
                self.assertEqual(whole.getvalue().count("\n"), 2 if broken == "out" else 1)

    def test_full_disk(self) -> None:
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        err = io.StringIO()
        with contextlib.suppress(OSError), open("/dev/full", "w") as full:
            self.use(full, err)
        self.assertEqual(err.getvalue().count("\n"), 2)


class AddressTest(unittest.TestCase):
    def test_numeric_address(self) -> None:
        for text, address in [
            ("127.0.0.1", ("127.0.0.1", 0)),
            ("0.0.0.0", ("0.0.0.0", 0)),
            ("::1", ("::1", 0, 0, 0)),
            ("::", ("::", 0, 0, 0)),
            ("fd00::1", ("fd00::1", 0, 0, 0)),
        ]:
            self.assertEqual(numeric_address(text), address)
        for text in [
            "",
            "localhost",
            "256.1.1.1",
            "1.2.3.4:80",
            "[::1]",
            "http://1.2.3.4",
            ":::",
            "1.2.3.4\n",
            "a" * 300,
            "\0",
        ]:
            with self.subTest(text), self.assertRaises(ValueError):
                numeric_address(text)

    def test_base_url(self) -> None:
        for arguments, url in [
            (("10.0.0.5", 34451), "http://10.0.0.5:34451"),
            (("files.example", 80), "http://files.example:80"),
            (("::1", 34451), "http://[::1]:34451"),
            (("fe80::1%eth0", 34451), "http://[fe80::1%25eth0]:34451"),
        ]:
            self.assertEqual(base_url(*arguments), url)
        self.assertEqual(base_url("h", 1, "https"), "https://h:1")

    def test_local_addresses_are_figures_and_no_name_is_looked_up(self) -> None:
        looked_up = ["getfqdn", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "gethostname", "getnameinfo"]
        with contextlib.ExitStack() as stack:
            for name in [*looked_up, "getaddrinfo"]:
                stack.enter_context(mock.patch.object(socket, name, side_effect=AssertionError(name)))
            both, only_ipv4 = local_addresses(), local_addresses(ipv6=False)
        for addresses in (both, only_ipv4):
            versions = [ipaddress.ip_address(address).version for address in addresses]
            self.assertTrue(addresses)
            self.assertEqual(len(set(addresses)), len(addresses))
            self.assertEqual(versions, sorted(versions))
        self.assertEqual([address for address in both if "." in address], only_ipv4)
        for address in both:
            usable = not ipaddress.ip_address(address).is_loopback or both == ["127.0.0.1"]
            self.assertTrue(usable and not ipaddress.ip_address(address).is_unspecified, both)

    def check(self, sources: Sequence[str], expected: list[str], ipv6: bool = True) -> None:
        """Let the kernel answer with *sources*: to 8.8.8.8, 10.x, 172.x, 192.168.x, and IPv6; "" is no route."""
        targets = ["8.", "10.", "172.", "192.", ":"]

        def connect(probe: Callable[[], str], address: tuple[str, int]) -> None:
            source = next(
                s for t, s in zip(targets, sources) if address[0].startswith(t) or (t == ":" and ":" in address[0])
            )
            if not source:
                raise OSError(101, "Network is unreachable")
            probes[id(probe)] = source

        def name(probe: Callable[[], str]) -> tuple[str, int]:
            return probes[id(probe)], 4

        probes: dict[int, str] = {}
        with mock.patch.object(socket.socket, "connect", connect), mock.patch.object(
            socket.socket, "getsockname", name
        ), mock.patch.object(socket, "if_nameindex", list):
            self.assertEqual(local_addresses(ipv6), expected)

    def test_the_default_route_is_first_and_each_address_once(self) -> None:
        self.check(["10.0.2.15"] * 3 + ["192.168.7.4", "fd00::5"], ["10.0.2.15", "192.168.7.4", "fd00::5"])
        self.check(["10.0.2.15"] * 3 + ["192.168.7.4", "fd00::5"], ["10.0.2.15", "192.168.7.4"], ipv6=False)
        self.check(["", "", "", "192.168.7.4", ""], ["192.168.7.4"])
        self.check(["", "", "", "", "fd00::5"], ["fd00::5"])

    def test_no_network(self) -> None:
        self.check([""] * 5, ["127.0.0.1"])
        self.check(["127.0.0.1"] * 4 + ["::1"], ["127.0.0.1"])
        self.check([""] * 4 + ["fe80::1"], ["127.0.0.1"])
