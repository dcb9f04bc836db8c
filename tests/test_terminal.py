"""The terminal, and the addresses: what is printed, on whatever it is printed."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import socket
import threading
import unittest
from typing import Any, Callable, Sequence
from unittest import mock

from httpd_download import (
    BAR,
    MOST_WAITING,
    Row,
    Terminal,
    base_url,
    escape,
    fit,
    format_rows,
    local_addresses,
    numeric_address,
    width,
)
from tests.support import PATIENCE, Screen, until

LOG_LINE = r"^10\.0\.0\.5 - - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "
GIB = 1 << 30
MIB = 1 << 20


def row(name: str = "f", arrived: float = 0.45, **facts: Any) -> Row:
    """Return a row of a file of 1,000 bytes."""
    usual: dict[str, Any] = {"address": "10.0.0.5", "size": 1000, "rate": 0.0, "idle": 0.0}
    return Row(name=name, arrived=int(arrived * 1000), **{**usual, **facts})


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
            (
                os.fsdecode(b"\xff\xfe.bin") if os.name == "posix" else "\udcff\udcfe.bin",
                r"\xff\xfe.bin",
            ),
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
            self.assertTrue(
                escaped.isascii() and escaped.isprintable() and escaped[1] == "\\", escaped
            )

    def test_two_names_never_look_the_same(self) -> None:
        self.assertNotEqual(escape("\n"), escape("\\x0a"))


class WidthTest(unittest.TestCase):
    def test_width(self) -> None:
        for text, columns in [
            ("", 0),
            ("abc", 3),
            ("中文", 4),
            ("e\u0301", 1),
            ("ｱ", 1),
            ("Ａ", 2),
            ("a\u200db", 2),
            ("\U0001f4be", 2),
        ]:
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


class RowsTest(unittest.TestCase):
    def test_to_the_letter(self) -> None:
        rows = [
            Row("bigfile", "10.0.0.5", int(0.45 * GIB), GIB, 48.7 * MIB, 0),
            Row("results.tar", "10.0.0.9", int(0.085 * GIB), GIB, 5.0 * MIB, 12.9),
        ]
        self.assertEqual(
            format_rows(rows, 100, "\u2588"),
            [
                "bigfile     10.0.0.5  ███████████               44%  48.7 MiB/s  0:11 left",
                "results.tar 10.0.0.9  ██                         8%  stalled 12 s",
            ],
        )

    def test_figures(self) -> None:
        rows: list[tuple[dict[str, Any], str]] = [
            ({"rate": 1.0}, " 45%  1 B/s  9:10 left"),
            ({"rate": 0.0}, " 45%  0 B/s"),
            ({"rate": 0.001}, " 45%  0 B/s"),
            ({"rate": 0.01 * MIB, "size": 10 * GIB, "arrived": 0}, "  0%  10.2 KiB/s"),
            ({"rate": 1.0 * MIB, "size": 10 * GIB, "arrived": 0}, "  0%  1.0 MiB/s  2:50:40 left"),
            ({"rate": 5.0, "idle": 2.9}, " 45%  5 B/s  1:50 left"),
            ({"rate": 5.0, "idle": 3.0}, " 45%  stalled 3 s"),
            ({"size": 0, "arrived": 0}, "  0%  0 B/s"),
        ]
        for facts, end in rows:
            values: dict[str, Any] = {**row()._asdict(), **facts}
            (line,) = format_rows([Row(**values)], 100, "#")
            self.assertTrue(line.endswith(end), (line, end))

    def test_the_bar(self) -> None:
        for share in range(0, 101, 5):
            (line,) = format_rows([row(arrived=share / 100)], 100, "#")
            self.assertEqual(line.count("#"), share * BAR // 100)
            self.assertEqual(line.index("%"), len("f 10.0.0.5  ") + BAR + 3)

    def test_what_finds_no_room_goes(self) -> None:
        rows = [row("a-name-of-30-columns-in-all.tgz", rate=48.7 * MIB, size=10 * GIB, arrived=0.0)]
        name, end = "a-name-of-30-columns-in-all.tgz", "  0%  48.7 MiB/s  3:30 left"
        for columns, expected in [
            (100, f"{name} 10.0.0.5  {' ' * BAR}{end}"),
            (99, f"{name} 10.0.0.5  {' ' * BAR}{end}"),
            (79, f"{name} 10.0.0.5  {end}"),
            (59, f"a-name-of-30-column.. 10.0.0.5  {end}"),
            (40, f"a-name-of-.. {end}"),
            (29, f". {end}"),
            (20, "0%  48.7 MiB/s  .."),
        ]:
            (line,) = format_rows(rows, columns, "#")
            self.assertEqual(line.split(), expected.split(), columns)
            self.assertLessEqual(len(line), columns)

    def test_the_figures_find_room_however_long(self) -> None:
        for rate in (112.5 * MIB, 97.7 * 1024, 1007 * 1024, 1023.9 * 1024, 12 * 1024):
            (line,) = format_rows([row("x" * 60, rate=rate, size=4 * GIB)], 79, "#")
            self.assertRegex(line, r"^x+\.\. 10\.0\.0\.5 .* left$")

    def test_they_fit_any_width(self) -> None:
        names = ("a" * 90, "中文" * 40, "e\u0301" * 50, "\U0001f4be b", "b")
        rows = [row(name, rate=2.5e6, address="fd00::1234") for name in names]
        for count in range(1, len(rows) + 1):
            for columns in [*range(60), 79, 80, 99, 119, 150, 200, 300]:
                for line in format_rows(rows[:count], columns, "\u2588"):
                    self.assertLessEqual(width(line), columns, line)

    def test_they_stand_in_columns(self) -> None:
        rows = [row("中文.bin"), row("a-longer-name", address="10.0.0.123", rate=1.0)]
        for columns in (60, 80, 120):
            ends = [line.index("%") for line in format_rows(rows, columns, "#")]
            # Two characters of the first name take two columns each.
            self.assertEqual(ends[0] + 2, ends[1])


class Tty(io.StringIO):
    """A terminal: what is written to it is seen on its screen."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, height: int = 24) -> None:
        super().__init__()
        self.screen = Screen(columns)
        self.height = height

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1

    def write(self, text: str) -> int:
        self.screen.feed(text)
        return super().write(text)


class TtyCase(unittest.TestCase):
    def terminal(self, tty: Tty, **variables: str) -> Terminal:
        environment = {"TERM": "xterm", **variables}
        with mock.patch.dict(os.environ, environment):
            if "NO_COLOR" not in variables:
                os.environ.pop("NO_COLOR", None)
            terminal = Terminal(io.StringIO(), tty, lambda _: (tty.screen.columns, tty.height))
        self.addCleanup(terminal.close, [])
        return terminal

    def shows(self, tty: Tty, *rows: str) -> None:
        """Wait until the last rows of the screen are these."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = tty.screen.rows()[-len(rows) :] if rows else tty.screen.rows()
            return found == list(rows)

        try:
            until(is_there, "the rows")
        except AssertionError:
            self.assertEqual(found, list(rows))


class TtyTest(TtyCase):
    def test_rows_are_below_the_log_and_go_without_trace(self) -> None:
        tty = Tty()
        terminal = self.terminal(tty)
        terminal.log("10.0.0.5", "GET /f HTTP/1.1", "200 -")
        terminal.show([row("f", 0.44)], 0)
        self.shows(tty, "f 10.0.0.5  ███████████               44%  0 B/s")
        terminal.log("10.0.0.5", "GET /g HTTP/1.1", "404 -")
        terminal.show([row("f", 0.5), row("中文", 0.0)], 3)
        self.shows(
            tty,
            "f    10.0.0.5  ████████████              50%  0 B/s",
            "中文 10.0.0.5                             0%  0 B/s",
            "and 3 more",
        )
        first, second = tty.screen.rows()[:2]
        self.assertRegex(first, LOG_LINE + '"GET /f HTTP/1.1" 200 -$')
        self.assertRegex(second, LOG_LINE + '"GET /g HTTP/1.1" 404 -$')
        terminal.show([row("f", 0.99)], 0)
        self.shows(tty, first, second, "f 10.0.0.5  ████████████████████████  99%  0 B/s")
        terminal.show([], 0)
        self.shows(tty, first, second)
        self.assertEqual(tty.screen.rows(), [first, second])
        terminal.show([row("f", 0.991)], 0)
        terminal.close(["stopped.", "not whole: f"])
        terminal.show([row("f", 0.992)], 0)
        terminal.log("10.0.0.5", "-", "too late")
        self.assertEqual(tty.screen.rows(), [first, second, "stopped.", "not whole: f"])

    def test_the_last_lines_are_the_last(self) -> None:
        tty = Tty()
        with mock.patch("httpd_download.PAUSE", 0.1):
            terminal = self.terminal(tty)
            terminal.log("10.0.0.5", "-", "x")
            self.shows(tty, mock.ANY)
            closing = threading.Thread(target=terminal.close, args=(["end"],))
            closing.start()
            until(lambda: terminal._last is not None, "it is being closed")
            terminal.log("10.0.0.5", "-", "meanwhile")
            terminal.show([row("f")], 0)
            closing.join()
        self.assertEqual(tty.screen.rows()[-1], "end")

    def test_a_third_of_the_height_and_at_most_eight(self) -> None:
        for height, count in [(24, 8), (60, 8), (12, 4), (5, 1), (2, 1)]:
            tty = Tty(80, height)
            terminal = self.terminal(tty)
            terminal.show([row(f"f{index}") for index in range(8)], 12)
            last = f"and {20 - count} more"
            until(lambda: tty.screen.rows()[-1:] == [last], last)  # noqa: B023
            self.assertEqual(len(tty.screen.rows()), count + 1)

    def test_an_idle_terminal_is_left_alone(self) -> None:
        tty = Tty()
        terminal = self.terminal(tty)
        terminal.show([], 0)
        terminal.close([])
        self.assertEqual(tty.getvalue(), "")

    def test_they_vanish_also_after_the_window_changed(self) -> None:
        for name in ("a" * 99, "中" * 99, "f"):
            for before in (200, 81, 41, 20, 3):
                for after in (200, 80, 40, 21, 19, 7, 2):
                    with self.subTest(name=name[0], before=before, after=after):
                        self.resize(name, before, after)

    def resize(self, name: str, before: int, after: int) -> None:
        tty = Tty(before)
        with mock.patch("httpd_download.PAUSE", 0):
            terminal = self.terminal(tty)
            terminal.log("10.0.0.5", "-", "x")
            terminal.show([row(name), row(name)], 0)
            until(lambda: len(tty.screen.lines()) == 3, "two rows")
            log = tty.screen.lines()[0]
            tty.screen.columns = after
            terminal.show([row(name, 0.9), row(name, 0.9)], 0)
            until(lambda: "90%" in tty.getvalue() or after < 30, "two others")
            terminal.close(["end"])
        self.assertEqual(tty.screen.lines(), [log, "end"])

    def test_names_and_requests_cannot_forge_a_line_or_a_sequence(self) -> None:
        tty = Tty(200)
        terminal = self.terminal(tty)
        request = 'GET /\x1b[2J" 200 -\n10.0.0.6 "\u202e HTTP/1.1'
        terminal.log("10.0.0.5", request, "200 -\r")
        terminal.show([row("a\n\x1b[2J\u202eb")], 0)
        until(lambda: len(tty.screen.rows()) == 2, "two lines")
        log, status = tty.screen.rows()
        self.assertRegex(log, LOG_LINE)
        told = r'"GET /\x1b[2J\" 200 -\x0a10.0.0.6 \"\u202e HTTP/1.1" 200 -\x0d'
        self.assertTrue(log.endswith(told), log)
        self.assertTrue(status.startswith(r"a\x0a\x1b[2J\u202eb 10.0.0.5"), status)

    def test_several_threads_leave_whole_lines(self) -> None:
        tty = Tty(200)
        terminal = self.terminal(tty)

        def work(number: int) -> None:
            for _ in range(50):
                terminal.log("10.0.0.5", f"GET /{number}", "200 -")
                terminal.show([row("f")], 0)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        terminal.close(["end"])
        rows = tty.screen.rows()
        self.assertEqual((len(rows), rows.pop()), (201, "end"))
        for line in rows:
            self.assertRegex(line, LOG_LINE + r'"GET /\d" 200 -$')

    def test_how_far_a_folder_has_been_read(self) -> None:
        tty = Tty(60)
        terminal = self.terminal(tty)
        terminal.show([], 0, "reading results: 34,112 entries")
        self.shows(tty, "reading results: 34,112 entries")
        terminal.show([], 0)
        terminal.close([])
        self.assertEqual(tty.screen.rows(), [])


class EmphasisTest(TtyCase):
    EVENTS = (
        ("/f", "delivered. 10 B in 1 request"),
        ("GET /f", "req terminated. at 45% (4 B of 10 B)"),
        ("GET /f", "req finished. 10 B, 0.1 s, 100 B/s"),
        ("GET /delivered.", "404 -"),
    )

    def told(self, stream: Any, **variables: str) -> list[str]:
        terminal = self.terminal(stream, **variables)
        for subject, event in self.EVENTS:
            terminal.log("10.0.0.5", subject, event)
        terminal.close([])
        text = stream.getvalue().replace("\r\x1b[J", "")
        return [line.partition("] ")[2] for line in text.splitlines()]

    def test_delivered_stands_out_and_rings(self) -> None:
        self.assertEqual(
            self.told(Tty()),
            [
                '"/f" \x1b[1;32mdelivered.\x1b[0m 10 B in 1 request\a',
                '"GET /f" \x1b[33mreq terminated.\x1b[0m at 45% (4 B of 10 B)',
                '"GET /f" req finished. 10 B, 0.1 s, 100 B/s',
                '"GET /delivered." 404 -',
            ],
        )

    def test_no_colour_where_none_is_wanted(self) -> None:
        plain = [f'"{subject}" {event}' for subject, event in self.EVENTS]
        self.assertEqual(self.told(Tty(), NO_COLOR="1"), [plain[0] + "\a", *plain[1:]])
        self.assertEqual(self.told(Tty(), TERM="dumb"), plain)
        paper: Any = io.StringIO()
        paper.screen, paper.height = Screen(), 24
        self.assertEqual(self.told(paper), plain)

    def test_a_dumb_terminal_gets_no_rows(self) -> None:
        tty = Tty()
        terminal = self.terminal(tty, TERM="dumb")
        terminal.show([row("f")], 0)
        terminal.close(["end"])
        self.assertEqual(tty.getvalue(), "end\n")


class StuckTest(unittest.TestCase):
    """A terminal or pipe that takes nothing for a while."""

    def setUp(self) -> None:
        self.goes_on = threading.Event()
        self.is_stuck = threading.Event()
        self.texts: list[str] = []
        self.addCleanup(self.goes_on.set)
        self.stream = mock.Mock(encoding="utf-8", write=self.write, isatty=lambda: False)
        self.stream.fileno.side_effect = OSError
        self.terminal = Terminal(None, self.stream)

    def write(self, text: str) -> None:
        self.is_stuck.set()
        self.goes_on.wait(PATIENCE)
        self.texts.append(text)

    def test_nobody_waits_and_nothing_is_lost(self) -> None:
        for number in range(1000):
            self.terminal.log("10.0.0.5", f"GET /{number}", "200 -")
        self.assertTrue(self.is_stuck.wait(PATIENCE))
        self.goes_on.set()
        self.terminal.close(["end"])
        lines = "".join(self.texts).splitlines()
        subjects = [line.split('"')[1] for line in lines[:-1]]
        self.assertEqual(subjects, [f"GET /{number}" for number in range(1000)])
        self.assertEqual(lines[-1], "end")

    @unittest.skipUnless(hasattr(os, "set_blocking"), "no such streams here")
    def test_one_that_another_program_has_left_so_that_it_takes_nothing_for_a_moment(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with os.fdopen(reader) as read, os.fdopen(writer, "w") as stream:
            lines: list[str] = []
            terminal = Terminal(stream, None)
            # More than a pipe holds.
            terminal.say(*("x" * 1000 for _ in range(300)))
            taker = threading.Thread(target=lambda: lines.extend(read))
            taker.start()
            terminal.close([])
            stream.close()
            taker.join()
        self.assertEqual(lines, ["x" * 1000 + "\n"] * 300)

    def test_what_is_too_much_is_counted(self) -> None:
        self.terminal.log("10.0.0.5", "GET /first", "200 -")
        self.assertTrue(self.is_stuck.wait(PATIENCE))
        for number in range(MOST_WAITING + 1234):
            self.terminal.log("10.0.0.5", f"GET /{number}", "200 -")
        self.goes_on.set()
        until(lambda: "missing" in "".join(self.texts), "it is said")
        self.terminal.log("10.0.0.5", "GET /later", "200 -")
        self.terminal.close([])
        lines = "".join(self.texts).splitlines()
        self.assertEqual(len(lines), 1 + MOST_WAITING + 1 + 1)
        self.assertIn(f'"GET /{MOST_WAITING - 1}"', lines[-3])
        self.assertTrue(lines[-2].startswith("1234 lines are missing here"), lines[-2])
        self.assertIn('"GET /later"', lines[-1])


class StreamTest(unittest.TestCase):
    def use(self, out: Any, err: Any) -> None:
        with mock.patch.dict(os.environ, {"TERM": "xterm"}):
            terminal = Terminal(out, err)
        terminal.say("link: http://h/%E4%B8%AD  (中\udcff)")
        terminal.show([row("中文")], 0)
        terminal.log("10.0.0.5", "GET /中 HTTP/1.1", "200 -")
        terminal.close(["stopped. 中"])
        terminal.log("10.0.0.5", "-", "too late")

    def test_neither_rows_nor_codes_where_there_is_no_terminal(self) -> None:
        for encoding, out, log, last in [
            ("utf-8", "(中\\udcff)", '"GET /中 HTTP/1.1" 200 -', "stopped. 中"),
            ("ascii", "(\\u4e2d\\udcff)", '"GET /\\u4e2d HTTP/1.1" 200 -', "stopped. \\u4e2d"),
            ("latin-1", "(\\u4e2d\\udcff)", '"GET /\\u4e2d HTTP/1.1" 200 -', "stopped. \\u4e2d"),
            ("gbk", "(中\\udcff)", '"GET /中 HTTP/1.1" 200 -', "stopped. 中"),
        ]:
            with self.subTest(encoding):
                streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="") for _ in range(2)]
                self.use(*streams)
                raw: list[Any] = [stream.detach() for stream in streams]
                texts = [stream.getvalue().decode(encoding) for stream in raw]
                self.assertEqual(texts[0], f"link: http://h/%E4%B8%AD  {out}\n")
                first, second, end = texts[1].split("\n")
                self.assertRegex(first, LOG_LINE)
                self.assertEqual((first.partition("] ")[2], second, end), (log, last, ""))

    def test_an_ascii_terminal_gets_rows_that_fit(self) -> None:
        tty = Tty(60)
        tty.encoding = "ascii"
        with mock.patch.dict(os.environ, {"TERM": "xterm"}):
            terminal = Terminal(None, tty, lambda _: (60, 24))
        terminal.show([row("中文" * 20), row("f", 0.96)], 0)
        until(lambda: len(tty.screen.rows()) == 2, "rows")
        rows = tty.screen.rows()
        self.assertTrue(all(line.isascii() and len(line) <= 59 for line in rows), rows)
        terminal.show([row("f", 0.96)], 0)
        until(lambda: "#" * 24 in tty.getvalue(), "a bar")
        terminal.close([])

    def test_no_streams(self) -> None:
        self.use(None, None)

    def test_closed_streams(self) -> None:
        streams = [io.TextIOWrapper(io.BytesIO()) for _ in range(2)]
        terminal = Terminal(streams[0], streams[1])
        for stream in streams:
            stream.close()
        terminal.say("x")
        terminal.log("10.0.0.5", "-", "x")
        terminal.close(["x"])

    def test_broken_pipe(self) -> None:
        for broken in ("out", "err"):
            with self.subTest(broken):
                reader, writer = os.pipe()
                os.close(reader)
                whole = io.StringIO()
                with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as pipe:
                    self.use(*((pipe, whole) if broken == "out" else (whole, pipe)))
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
            (("[::1]", 34451), "http://[::1]:34451"),
            (("fe80::1%eth0", 34451), "http://[fe80::1%25eth0]:34451"),
        ]:
            self.assertEqual(base_url(*arguments), url)
        self.assertEqual(base_url("h", 1, "https"), "https://h:1")

    def test_local_addresses_are_figures_and_no_name_is_looked_up(self) -> None:
        looked_up = [
            "getfqdn",
            "gethostbyaddr",
            "gethostbyname",
            "gethostbyname_ex",
            "gethostname",
            "getnameinfo",
        ]
        with contextlib.ExitStack() as stack:
            for name in [*looked_up, "getaddrinfo"]:
                stack.enter_context(
                    mock.patch.object(socket, name, side_effect=AssertionError(name))
                )
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
        """Let the kernel answer with *sources*: to 8.8.8.8, 10.x, 172.x, 192.168.x, and IPv6; "" is
        no route."""
        targets = ["8.", "10.", "172.", "192.", ":"]

        def connect(probe: Callable[[], str], address: tuple[str, int]) -> None:
            source = next(
                s
                for t, s in zip(targets, sources)
                if address[0].startswith(t) or (t == ":" and ":" in address[0])
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
        self.check(
            ["10.0.2.15"] * 3 + ["192.168.7.4", "fd00::5"], ["10.0.2.15", "fd00::5", "192.168.7.4"]
        )
        # That of IPv6, before what only leads to containers.
        self.check(["", *["172.17.0.1"] * 3, "fd00::5"], ["fd00::5", "172.17.0.1"])
        self.check(
            ["10.0.2.15"] * 3 + ["192.168.7.4", "fd00::5"], ["10.0.2.15", "192.168.7.4"], ipv6=False
        )
        self.check(["", "", "", "192.168.7.4", ""], ["192.168.7.4"])
        self.check(["", "", "", "", "fd00::5"], ["fd00::5"])

    def test_no_network(self) -> None:
        self.check([""] * 5, ["127.0.0.1"])
        self.check(["127.0.0.1"] * 4 + ["::1"], ["127.0.0.1"])
        self.check([""] * 4 + ["fe80::1"], ["127.0.0.1"])
