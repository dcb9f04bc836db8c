"""The terminal: how everything looks that is printed, on whatever it is printed."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import unicodedata
import unittest
from typing import Any
from unittest import mock

from httpd_download import (
    BAR_WIDTH,
    MAX_QUEUED,
    Row,
    Terminal,
    View,
    choose_block,
    escape,
    fit,
    format_rows,
    text_width,
)
from tests.support import PATIENCE, Screen, until

LOG_LINE = r"^10\.0\.0\.5 - - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "
MIB = 1 << 20
GIB = 1 << 30
BLOCK = choose_block(mock.Mock(encoding="utf-8"))


def row(
    name: str = "f",
    arrived: int = 450,
    size: int = 1000,
    rate: float = 0.0,
    idle: float = 0.0,
    receiver: str = "10.0.0.5",
) -> Row:
    return Row(name, receiver, arrived, size, rate, idle)


class EscapeTest(unittest.TestCase):
    def test_texts(self) -> None:
        for text, escaped in [
            ("plain name.tgz", "plain name.tgz"),
            ("中文 é €.bin", "中文 é €.bin"),
            ("\n\r\t\0\x1b[2J\x7f", r"\x0a\x0d\x09\x00\x1b[2J\x7f"),
            ("\x80\x85\x9b31m\x9f", r"\x80\x85\x9b31m\x9f"),
            ("\\x0a", r"\\x0a"),
            ("\u202eexe.txt\u202c", r"\u202eexe.txt\u202c"),
            ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
            ("\ufeff\u200b\xad", r"\ufeff\u200b\xad"),
            ("\U000e0041", r"\U000e0041"),
            ("\udcff\udcfe.bin", r"\xff\xfe.bin"),
            ("\ud800", r"\ud800"),
        ]:
            self.assertEqual(escape(text), escaped)

    def test_joiners_inside_emoji(self) -> None:
        for emoji in [
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
            "\U0001f469\U0001f3fd\u200d\U0001f4bb",  # with a tone of skin
            "\u2764\ufe0f\u200d\U0001f525",  # a heart on fire
            "\U0001f642\u200d\u2194\ufe0f",  # a head that is shaken
        ]:
            self.assertEqual(escape(emoji), emoji)

    def test_joiners_elsewhere(self) -> None:
        for text in ["a\u200db", "\u200d", "\u200d\U0001f525", "\U0001f525\u200d", "中\u200d文"]:
            self.assertEqual(escape(text), text.replace("\u200d", "\\u200d"))

    def test_every_control_and_format_character(self) -> None:
        for code in range(sys.maxunicode + 1):
            if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
                escaped = escape(f"<{chr(code)}>")
                self.assertRegex(escaped, r"\A<\\[xuU][0-9a-f]+>\Z")


class WidthTest(unittest.TestCase):
    def test_text_width(self) -> None:
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
            self.assertEqual(text_width(text), columns, text)

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
            ("e\u0301abc", 3, "e\u0301.."),
        ]:
            self.assertEqual(fit(text, columns), fitted)


class FormatRowsTest(unittest.TestCase):
    def test_shares_and_rates_are_aligned_to_the_right(self) -> None:
        rows = [
            row("bigfile", 45, 100, 3.4),
            row("results.tar", 85 * MIB, GIB, 5.0 * MIB, 12.9, "10.0.0.9 (curl)"),
            row("results.tar", 164 * MIB, GIB, 8.1 * MIB, 0, "10.0.0.9 (wget)"),
        ]
        expected = [
            "bigfile     10.0.0.5         ███████████               45%      3 B/s  0:16 left",
            "results.tar 10.0.0.9 (curl)  ██                         8%  stalled 12 s",
            "results.tar 10.0.0.9 (wget)  ████                      16%  8.1 MiB/s  1:46 left",
        ]
        self.assertEqual(format_rows(rows, 100, "\u2588"), expected)

    def test_figures(self) -> None:
        for shown, end in [
            (row(rate=1.0), " 45%  1 B/s  9:10 left"),
            (row(rate=0.0), " 45%  0 B/s"),
            (row(rate=0.001), " 45%  0 B/s"),
            (row(arrived=0, size=10 * GIB, rate=0.01 * MIB), "  0%  10.2 KiB/s"),
            (row(arrived=0, size=10 * GIB, rate=1.0 * MIB), "  0%  1.0 MiB/s  2:50:40 left"),
            (row(rate=5.0, idle=2.9), " 45%  5 B/s  1:50 left"),
            (row(rate=5.0, idle=3.0), " 45%  stalled 3 s"),
            (row(arrived=0, size=0), "  0%  0 B/s"),
        ]:
            (line,) = format_rows([shown], 100, "#")
            self.assertTrue(line.endswith(end), (line, end))

    def test_bar(self) -> None:
        for percentage in range(0, 101, 5):
            (line,) = format_rows([row(arrived=percentage * 10)], 100, "#")
            self.assertEqual(line.count("#"), percentage * BAR_WIDTH // 100)
            self.assertEqual(line.index("%"), len("f 10.0.0.5  ") + BAR_WIDTH + 3)

    def test_narrow_windows_lose_the_bar_then_cut_the_name(self) -> None:
        name = "a-name-of-30-columns-in-all.tgz"
        rows = [row(name, arrived=0, size=10 * GIB, rate=48.7 * MIB)]
        end = "  0%  48.7 MiB/s  3:30 left"
        for columns, expected in [
            (100, f"{name} 10.0.0.5  {' ' * BAR_WIDTH}{end}"),
            (79, f"{name} 10.0.0.5  {end}"),
            (59, f"a-name-of-30-column.. 10.0.0.5  {end}"),
            (40, f"a-name-of-.. {end}"),
            (29, f". {end}"),
            (20, "0%  48.7 MiB/s  .."),
        ]:
            (line,) = format_rows(rows, columns, "#")
            self.assertEqual(line.split(), expected.split(), columns)

    def test_any_width(self) -> None:
        names = ["a" * 90, "中文" * 40, "e\u0301" * 50, "\U0001f4be b", "b"]
        rows = [row(name, rate=2.5e6, receiver="fd00::1234") for name in names]
        for columns in [*range(60), 79, 80, 99, 119, 150, 200, 300]:
            for line in format_rows(rows, columns, "#"):
                self.assertLessEqual(text_width(line), columns, line)

    def test_wide_names_keep_the_columns(self) -> None:
        rows = [row("中文.bin"), row("a-longer-name", receiver="10.0.0.123", rate=1.0)]
        for columns in (60, 80, 120):
            first, second = (line.index("%") for line in format_rows(rows, columns, "#"))
            # Two characters of the first name take two columns each.
            self.assertEqual(first + 2, second)


class Tty(io.StringIO):
    """A terminal: its screen shows what was written to it."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, height: int = 24) -> None:
        super().__init__()
        self.screen = Screen(columns)
        self.height = height

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1

    def size(self, descriptor: int) -> tuple[int, int]:
        return self.screen.columns, self.height

    def write(self, text: str) -> int:
        self.screen.feed(text)
        return super().write(text)


class TerminalCase(unittest.TestCase):
    """A test whose terminals write without a pause that somebody would have to wait for."""

    def setUp(self) -> None:
        interval = mock.patch("httpd_download.WRITE_INTERVAL", 0.001)
        interval.start()
        self.addCleanup(interval.stop)


class TtyCase(TerminalCase):
    def open(self, tty: Any, **variables: str) -> Terminal:
        environment = {"TERM": "xterm", "NO_COLOR": "", **variables}
        with mock.patch.dict(os.environ, environment):
            terminal = Terminal(io.StringIO(), tty, tty.size)
        self.addCleanup(terminal.close, [])
        return terminal

    def wait_for_rows(self, tty: Tty, *rows: str) -> None:
        """Wait until the screen ends with *rows*."""
        with contextlib.suppress(AssertionError):
            until(lambda: tty.screen.rows()[-len(rows) :] == [*rows], "the rows")
        self.assertEqual(tty.screen.rows()[-len(rows) :], [*rows])


class RowsTest(TtyCase):
    def test_rows_stand_below_the_log_and_leave_no_trace(self) -> None:
        tty = Tty()
        terminal = self.open(tty)
        terminal.log("10.0.0.5", "GET /f HTTP/1.1", "200 -")
        terminal.show(View([row("f", 440)], 0, ""))
        self.wait_for_rows(tty, f"f 10.0.0.5  {BLOCK * 11}               44%  0 B/s")
        terminal.log("10.0.0.5", "GET /g HTTP/1.1", "404 -")
        terminal.show(View([row("f", 500), row("中文", 0)], 3, ""))
        self.wait_for_rows(
            tty,
            f"f    10.0.0.5  {BLOCK * 12}              50%  0 B/s",
            "中文 10.0.0.5                             0%  0 B/s",
            "and 3 more",
        )
        first, second = tty.screen.rows()[:2]
        self.assertRegex(first, LOG_LINE + '"GET /f HTTP/1.1" 200 -$')
        self.assertRegex(second, LOG_LINE + '"GET /g HTTP/1.1" 404 -$')
        terminal.show(View([], 0, ""))
        self.wait_for_rows(tty, first, second)
        terminal.show(View([row("f", 991)], 0, ""))
        terminal.close(["stopped.", "not whole: f"])
        terminal.show(View([row("f", 992)], 0, ""))
        terminal.log("10.0.0.5", "-", "too late")
        self.assertEqual(tty.screen.rows(), [first, second, "stopped.", "not whole: f"])

    def test_note_is_the_last_row(self) -> None:
        tty = Tty()
        terminal = self.open(tty)
        terminal.show(View([], 0, "waiting for a receiver (Ctrl-C to stop)"))
        self.wait_for_rows(tty, "waiting for a receiver (Ctrl-C to stop)")
        terminal.show(View([row()], 2, "enough delivered: waiting for 3 downloads to end"))
        end = "enough delivered: waiting for 3 downloads to end"
        self.wait_for_rows(tty, "and 2 more", end)
        self.assertEqual(len(tty.screen.rows()), 3)
        terminal.close([])
        self.assertEqual(tty.screen.rows(), [])

    def test_at_most_eight_rows_and_a_third_of_the_window(self) -> None:
        for height, count in [(24, 8), (60, 8), (12, 4), (5, 1), (2, 1)]:
            tty = Tty(80, height)
            terminal = self.open(tty)
            terminal.show(View([row(f"f{index}") for index in range(8)], 12, ""))
            self.wait_for_rows(tty, f"and {20 - count} more")
            self.assertEqual(len(tty.screen.rows()), count + 1)

    def test_idle_terminal_is_left_alone(self) -> None:
        tty = Tty()
        terminal = self.open(tty)
        terminal.show(View([], 0, ""))
        terminal.close([])
        self.assertEqual(tty.getvalue(), "")

    def test_rows_vanish_after_the_window_has_changed(self) -> None:
        for name in ("a" * 99, "中" * 99, "f"):
            for before in (200, 81, 41, 20, 3):
                for after in (200, 80, 40, 21, 19, 7, 2):
                    with self.subTest(name=name[0], before=before, after=after):
                        self.check_resized(name, before, after)

    def check_resized(self, name: str, before: int, after: int) -> None:
        tty = Tty(before)
        terminal = self.open(tty)
        terminal.log("10.0.0.5", "-", "x")
        terminal.show(View([row(name), row(name)], 0, ""))
        until(lambda: len(tty.screen.lines()) == 3, "two rows")
        log = tty.screen.lines()[0]
        written = len(tty.getvalue())
        tty.screen.columns = after
        terminal.show(View([row(name, 900), row(name, 900)], 0, ""))
        until(lambda: len(tty.getvalue()) > written, "two others")
        terminal.close(["end"])
        self.assertEqual(tty.screen.lines(), [log, "end"])

    def test_names_and_requests_forge_nothing(self) -> None:
        tty = Tty(200)
        terminal = self.open(tty)
        request = 'GET /\x1b[2J" 200 -\n10.0.0.6 "\u202e HTTP/1.1'
        terminal.log("10.0.0.5", request, "200 -\r")
        terminal.show(View([row("a\n\x1b[2J\u202eb", receiver="10.0.0.5 (\x1b[2J)")], 0, ""))
        until(lambda: len(tty.screen.rows()) == 2, "two lines")
        log, shown = tty.screen.rows()
        self.assertRegex(log, LOG_LINE)
        escaped = r'"GET /\x1b[2J\" 200 -\x0a10.0.0.6 \"\u202e HTTP/1.1" 200 -\x0d'
        self.assertTrue(log.endswith(escaped), log)
        self.assertTrue(shown.startswith(r"a\x0a\x1b[2J\u202eb 10.0.0.5 (\x1b[2J)"), shown)

    def test_lines_of_several_threads_stay_whole(self) -> None:
        tty = Tty(200)
        terminal = self.open(tty)

        def log(number: int) -> None:
            for _ in range(50):
                terminal.log("10.0.0.5", f"GET /{number}", "200 -")
                terminal.show(View([row("f")], 0, ""))

        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        terminal.close(["end"])
        *lines, end = tty.screen.rows()
        self.assertEqual((len(lines), end), (200, "end"))
        for line in lines:
            self.assertRegex(line, LOG_LINE + r'"GET /\d" 200 -$')


@unittest.skipUnless(hasattr(os, "tcgetpgrp"), "no job control")
class BackgroundTest(TtyCase):
    def test_rows_are_neither_drawn_nor_erased_in_the_background(self) -> None:
        tty = Tty(200)
        with mock.patch("os.tcgetpgrp", return_value=os.getpgrp()) as foreground:
            terminal = self.open(tty)
            terminal.show(View([row("before")], 0, ""))
            until(lambda: "before" in tty.getvalue(), "a row")
            foreground.return_value = os.getpgrp() + 1
            tty.write("\nthe shell\n")
            written = len(tty.getvalue())
            terminal.show(View([row("hidden")], 0, ""))
            for number in range(2):
                terminal.log("10.0.0.5", f"GET /{number}", "200 -")
                until(lambda: tty.getvalue().count("200 -\n") > number, "a line")  # noqa: B023
            self.assertRegex(tty.getvalue()[written:], r"\A[^\x1b]*/0[^\x1b]*/1[^\x1b]*\n\Z")
            foreground.return_value = os.getpgrp()
            terminal.show(View([row("after")], 0, ""))
            until(lambda: "after" in tty.getvalue(), "a row")
            terminal.close([])
        self.assertIn("the shell", tty.screen.rows())

    def test_suspended_terminal_has_no_rows(self) -> None:
        tty = Tty()
        terminal = self.open(tty)
        terminal.show(View([row("f")], 0, ""))
        until(lambda: bool(tty.screen.rows()), "a row")
        terminal.suspend()
        self.assertEqual(tty.screen.rows(), [])
        terminal.resume()
        until(lambda: bool(tty.screen.rows()), "a row")


class EmphasisTest(TtyCase):
    EVENTS = (
        ("/f", "delivered. 10 B in 1 request"),
        ("GET /f", "req terminated. at 45% (4 B of 10 B)"),
        ("GET /f", "req finished. 10 B, 0.1 s, 100 B/s"),
        ("GET /delivered.", "404 -"),
    )
    PLAIN = tuple(f'"{subject}" {event}' for subject, event in EVENTS)

    def print_events(self, stream: Any, **variables: str) -> list[str]:
        terminal = self.open(stream, **variables)
        for subject, event in self.EVENTS:
            terminal.log("10.0.0.5", subject, event)
        terminal.close([])
        text = stream.getvalue().replace("\r\x1b[J", "")
        return [line.partition("] ")[2] for line in text.splitlines()]

    def test_colours_and_bell(self) -> None:
        expected = [
            '"/f" \x1b[1;32mdelivered.\x1b[0m 10 B in 1 request\a',
            '"GET /f" \x1b[33mreq terminated.\x1b[0m at 45% (4 B of 10 B)',
            *self.PLAIN[2:],
        ]
        self.assertEqual(self.print_events(Tty()), expected)

    def test_no_color(self) -> None:
        expected = [self.PLAIN[0] + "\a", *self.PLAIN[1:]]
        self.assertEqual(self.print_events(Tty(), NO_COLOR="1"), expected)

    def test_dumb_terminal_and_file(self) -> None:
        self.assertEqual(self.print_events(Tty(), TERM="dumb"), [*self.PLAIN])
        file: Any = io.StringIO()
        file.size = None
        self.assertEqual(self.print_events(file), [*self.PLAIN])

    def test_dumb_terminal_gets_no_rows(self) -> None:
        tty = Tty()
        terminal = self.open(tty, TERM="dumb")
        self.assertFalse(terminal.is_interactive)
        terminal.show(View([row("f")], 0, "note"))
        terminal.close(["end"])
        self.assertEqual(tty.getvalue(), "end\n")


class StuckTest(TerminalCase):
    """A terminal or pipe that takes nothing for a while."""

    def setUp(self) -> None:
        super().setUp()
        self.goes_on = threading.Event()
        self.is_stuck = threading.Event()
        self.texts: list[str] = []
        self.addCleanup(self.goes_on.set)
        stream = mock.Mock(encoding="utf-8", write=self.write, isatty=lambda: False)
        stream.fileno.side_effect = OSError
        self.terminal = Terminal(None, stream)

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
        *lines, end = "".join(self.texts).splitlines()
        subjects = [line.split('"')[1] for line in lines]
        self.assertEqual(subjects, [f"GET /{number}" for number in range(1000)])
        self.assertEqual(end, "end")

    def test_close_does_not_wait_for_ever(self) -> None:
        self.terminal.log("10.0.0.5", "GET /", "200 -")
        self.assertTrue(self.is_stuck.wait(PATIENCE))
        with mock.patch("httpd_download.CLOSE_TIMEOUT", 0.01):
            self.terminal.close(["end"])
        self.assertEqual(self.texts, [])

    def test_lost_lines_are_counted(self) -> None:
        self.terminal.log("10.0.0.5", "GET /first", "200 -")
        self.assertTrue(self.is_stuck.wait(PATIENCE))
        for number in range(MAX_QUEUED + 1234):
            self.terminal.log("10.0.0.5", f"GET /{number}", "200 -")
        self.goes_on.set()
        until(lambda: "lost" in "".join(self.texts), "the loss is reported")
        self.terminal.log("10.0.0.5", "GET /later", "200 -")
        self.terminal.close([])
        lines = "".join(self.texts).splitlines()
        self.assertEqual(len(lines), 1 + MAX_QUEUED + 1 + 1)
        self.assertIn(f'"GET /{MAX_QUEUED - 1}"', lines[-3])
        self.assertEqual(lines[-2], "1,234 lines of the log lost: the output was blocked")
        self.assertIn('"GET /later"', lines[-1])

    @unittest.skipUnless(os.name == "posix", "no pipes that do not block")
    def test_pipe_that_another_program_has_made_non_blocking(self) -> None:
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


class StreamTest(TtyCase):
    def print_all(self, out: Any, err: Any) -> None:
        with mock.patch.dict(os.environ, {"TERM": "xterm"}):
            terminal = Terminal(out, err)
        terminal.say("link: http://h/%E4%B8%AD  (中\udcff)")
        terminal.show(View([row("中文")], 0, ""))
        terminal.log("10.0.0.5", "GET /中é HTTP/1.1", "200 -")
        terminal.close(["stopped. 中"])
        terminal.log("10.0.0.5", "-", "too late")

    def test_encodings(self) -> None:
        for encoding, name, request in [
            ("utf-8", "中", "中é"),
            ("ascii", r"\u4e2d", r"\u4e2d\xe9"),
            ("latin-1", r"\u4e2d", r"\u4e2dé"),
            ("cp437", r"\u4e2d", r"\u4e2dé"),
            ("gbk", "中", "中é"),
        ]:
            with self.subTest(encoding):
                out, err = (io.TextIOWrapper(io.BytesIO(), encoding, newline="") for _ in range(2))
                self.print_all(out, err)
                raw: list[Any] = [out.detach(), err.detach()]
                printed, log = (stream.getvalue().decode(encoding) for stream in raw)
                self.assertEqual(printed, f"link: http://h/%E4%B8%AD  ({name}\\udcff)\n")
                first, second, end = log.split("\n")
                self.assertRegex(first, LOG_LINE)
                self.assertEqual(first.partition("] ")[2], f'"GET /{request} HTTP/1.1" 200 -')
                self.assertEqual((second, end), (f"stopped. {name}", ""))

    def test_block_of_bars(self) -> None:
        for encoding in ("ascii", "latin-1", "cp437", "gbk", None):
            self.assertEqual(choose_block(mock.Mock(encoding=encoding)), "#")
        for system, block in [("posix", "\u2588"), ("nt", "#")]:
            with mock.patch("os.name", system):
                self.assertEqual(choose_block(mock.Mock(encoding="UTF-8")), block)

    def test_ascii_terminal_gets_rows_that_fit(self) -> None:
        tty = Tty(60)
        tty.encoding = "ascii"
        terminal = self.open(tty)
        terminal.show(View([row("中文" * 20), row("f", 960)], 0, ""))
        until(lambda: len(tty.screen.rows()) == 2, "rows")
        rows = tty.screen.rows()
        self.assertTrue(all(line.isascii() and len(line) <= 59 for line in rows), rows)

    def test_no_streams(self) -> None:
        self.print_all(None, None)

    def test_closed_streams(self) -> None:
        out, err = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
        terminal = Terminal(out, err)
        out.close()
        err.close()
        terminal.say("x")
        terminal.log("10.0.0.5", "-", "x")
        terminal.close(["x"])

    def test_broken_pipe(self) -> None:
        for is_out in (True, False):
            reader, writer = os.pipe()
            os.close(reader)
            whole = io.StringIO()
            with contextlib.suppress(OSError), os.fdopen(writer, "w") as pipe:
                if is_out:
                    self.print_all(pipe, whole)
                else:
                    self.print_all(whole, pipe)
            self.assertEqual(whole.getvalue().count("\n"), 2 if is_out else 1)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full")
    def test_full_disk(self) -> None:
        err = io.StringIO()
        with contextlib.suppress(OSError), open("/dev/full", "w") as full:
            self.print_all(full, err)
        self.assertEqual(err.getvalue().count("\n"), 2)
