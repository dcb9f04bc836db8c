"""The registry: what the log, the rows and the summary say of downloads; bytes in MiB."""

from __future__ import annotations

import random
import threading
import unittest
from typing import Any, cast
from unittest import mock

from httpd_download import (
    MAX_RESTING,
    PAUSE_AFTER,
    PROBE_LIMIT,
    REPORT_INTERVAL,
    RESET_GRACE,
    STALLED_AFTER,
    ByteRange,
    Channel,
    FileChanged,
    HTTPError,
    RangeForm,
    Receiver,
    Registry,
    Transfer,
    Version,
)
from tests.test_decisions import ARIA2, AWAY, BYTE, CURL, GROWN, NEW, OLD, SIZE
from tests.test_simulation import MIB, Wire

WGET = Receiver("10.0.0.5", "wget/1")
NOBODY = ["stopped. nothing was delivered"]


class WaitingWire(Wire):
    """A wire on which time passes while its thread waits for input."""

    def __init__(self, case: Case) -> None:
        super().__init__(lambda: case.now)
        self.case = case
        # Whether the receiver has asked for more, or closed.
        self.has_input = True
        # When the receiver resets the connection.
        self.reset_at = float("inf")
        # What is checked before a transfer counts as finished.
        self.file_in_queue: Any = None

    def wait_for_input(self, seconds: float) -> bool:
        if not self.has_input:
            self.case.now += seconds
        if self.case.now >= self.reset_at:
            self.is_reset = True
        return self.has_input


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        # "10.0.0.5 200 -": an address and an event.
        self.lines: list[str] = []
        self.make()

    def make(self, **options: Any) -> None:
        self.registry = Registry(self.log, clock=lambda: self.now, **options)

    def log(self, address: str, subject: str, event: str) -> None:
        self.lines.append(f"{address} {event}")

    def check(self, *events: str, address: str = "10.0.0.5") -> None:
        """Expect these lines since the last check."""
        self.assertEqual(self.lines, [f"{address} {event}" for event in events])
        self.lines.clear()

    def ask(
        self,
        start: float = 0,
        stop: float = 100,
        receiver: Receiver = CURL,
        version: Version = OLD,
        form: RangeForm = RangeForm.OPEN,
        name: str = "f",
        digests: dict[int, int] | None = None,
        seconds_to_read_head: float = 0,
    ) -> Transfer:
        wire = WaitingWire(self)
        span = (round(start * MIB), round(stop * MIB))
        ranges = [] if span == (0, version.size) else [ByteRange(*span, form)]
        channel = cast(Channel, wire)
        transfer = Transfer(channel, receiver, f"GET /{name}", name, version, ranges)
        self.registry.add(channel)
        self.now += seconds_to_read_head
        try:
            self.registry.begin(transfer, digests or {})
        except HTTPError:
            self.registry.remove(channel)
            raise
        transfer.begin_body(0, span[1] - span[0])
        return transfer

    def refuse(self, status: int, *arguments: Any, **options: Any) -> HTTPError:
        """Expect that such a request is answered with *status*."""
        with self.assertRaises(HTTPError) as caught:
            self.ask(*arguments, **options)
        self.assertEqual(caught.exception.status, status)
        return caught.exception

    def wire(self, transfer: Transfer) -> WaitingWire:
        return cast(WaitingWire, transfer.channel)

    def get(self, transfer: Transfer, size: float) -> None:
        """Let the receiver acknowledge *size* MiB of the body."""
        wire = self.wire(transfer)
        wire.handed_over = wire.transmitted = wire.acknowledged = round(size * MIB)
        wire.refresh()

    def finish(self, transfer: Transfer) -> None:
        """Let the receiver get everything, and ask for more."""
        self.get(transfer, (transfer.spans[0][1] - transfer.spans[0][0]) / MIB)
        self.registry.wait_until_ended(transfer.channel)
        self.registry.on_input(transfer.channel)

    def break_off(self, transfer: Transfer, size: float, error: Exception) -> None:
        """Let the connection end by *error* after *size* MiB."""
        self.get(transfer, size)
        self.registry.on_error(transfer.channel, error)
        self.registry.remove(transfer.channel)

    def reset(self, transfer: Transfer, size: float) -> None:
        self.break_off(transfer, size, ConnectionResetError())

    def wait(self, seconds: float = PAUSE_AFTER) -> None:
        self.now += seconds
        self.registry.check_all()


class TransferTest(Case):
    def test_finished_half_a_second_after_the_last_acknowledgement(self) -> None:
        transfer = self.ask()
        self.wire(transfer).has_input = False
        self.finish(transfer)
        self.assertGreaterEqual(self.now, 1000 + RESET_GRACE)
        self.assertIn("delivered.", self.lines[-1])

    def test_its_own_request_does_not_give_a_transfer_up(self) -> None:
        self.ask(seconds_to_read_head=0.01)
        self.wait(STALLED_AFTER + 1)
        self.check("200 -")
        (row,) = self.registry.view(1).rows
        self.assertTrue(row.is_stalled)

    def test_finished_at_once_by_the_next_request(self) -> None:
        self.finish(self.ask())
        self.assertEqual(self.now, 1000)
        self.assertIn("delivered.", self.lines[-1])

    def test_reset_takes_the_last_byte_back(self) -> None:
        transfer = self.ask()
        self.wire(transfer).has_input = False
        self.wire(transfer).reset_at = 1000 + RESET_GRACE - 0.3
        with self.assertRaises(ConnectionResetError):
            self.finish(transfer)
        self.reset(transfer, 100)
        self.wait()
        self.check("200 -", "req terminated. at 99% (all but 1 B of 100.0 MiB)")

    def test_failures_are_named_but_those_of_the_network(self) -> None:
        for error, words in [
            (FileChanged("the file was changed"), ", the file was changed"),
            (OSError(5, "Input/output error"), ", Input/output error"),
            (BrokenPipeError(), ""),
            (TimeoutError(), ""),
        ]:
            self.setUp()
            self.break_off(self.ask(), 45, error)
            self.wait()
            self.check("200 -", f"req terminated. at 45% (45.0 MiB of 100.0 MiB){words}")

    def test_changed_while_its_last_bytes_wait(self) -> None:
        transfer = self.ask()
        self.wire(transfer).file_in_queue = mock.Mock()
        self.wire(transfer).file_in_queue.ensure_unchanged.side_effect = FileChanged("changed")
        with self.assertRaises(FileChanged) as caught:
            self.finish(transfer)
        self.break_off(transfer, 100, caught.exception)
        self.wait()
        self.check("200 -", "req terminated. at 99% (all but 1 B of 100.0 MiB), changed")

    def test_no_lock_is_held_while_a_file_is_checked(self) -> None:
        transfer = self.ask()
        begun, may_end = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            may_end.wait(20)

        self.wire(transfer).file_in_queue = mock.Mock(ensure_unchanged=block)
        checking = threading.Thread(target=self.finish, args=[transfer])
        checking.start()
        looking = threading.Thread(target=self.registry.view, args=[8], daemon=True)
        self.assertTrue(begun.wait(20))
        looking.start()
        looking.join(10)
        is_held = looking.is_alive()
        may_end.set()
        checking.join(20)
        self.assertFalse(is_held)
        self.assertIn("delivered.", self.lines[-1])

    def test_time_limit(self) -> None:
        silent = self.ask()
        self.get(silent, 45)
        self.wire(silent).handed_over += 1
        slow_disk = self.ask(receiver=AWAY)
        self.get(slow_disk, 45)
        idle = cast(Channel, WaitingWire(self))
        self.registry.add(idle)
        self.wait(60)
        self.assertFalse(self.wire(silent).is_aborted)
        self.wait(0.1)
        self.assertTrue(self.wire(silent).is_aborted)
        self.assertTrue(cast(Wire, idle).is_aborted)
        self.wait()
        portion = "at 45% (45.0 MiB of 100.0 MiB)"
        self.assertEqual(
            self.lines[2:],
            [
                f"10.0.0.5 req terminated. {portion}, nothing was acknowledged for 60 s",
                f"10.9.9.9 req terminated. {portion}, nothing came from the disk for 60 s",
            ],
        )


class DownloadTest(Case):
    def test_amounts_add_up(self) -> None:
        self.reset(self.ask(), 45)
        self.wait()
        self.now += 60
        rest = self.ask(40)
        self.now += 6
        self.finish(rest)
        self.check(
            "200 -",
            "req terminated. at 45% (45.0 MiB of 100.0 MiB)",
            "206 -",
            "req finished. 55.0 MiB, 6.0 s, 9.2 MiB/s",
            "delivered. 100.0 MiB in 2 requests",
        )

    def test_pauses_after_half_a_second(self) -> None:
        self.reset(self.ask(), 45)
        self.wait(PAUSE_AFTER - 0.1)
        self.check("200 -")
        self.finish(self.ask(45))
        arrival = "req finished. 100.0 MiB, 0.4 s, 250.0 MiB/s"
        self.check(arrival, "delivered. 100.0 MiB in 2 requests")

    def test_segments_make_three_lines_in_any_order(self) -> None:
        bounds = [(index * 6.25, (index + 1) * 6.25) for index in range(16)]
        for seed in range(10):
            self.setUp()
            random.Random(seed).shuffle(bounds)
            segments = [self.ask(*bound, form=RangeForm.CLOSED) for bound in bounds]
            random.Random(seed).shuffle(segments)
            for segment in segments:
                self.finish(segment)
            self.assertEqual(len(self.lines), 3, self.lines)
            self.assertIn("delivered. 100.0 MiB in 16 requests", self.lines[2])

    def test_part_is_no_delivery(self) -> None:
        self.finish(self.ask(10, 20))
        self.wait()
        self.check("206 -", "req finished. 10.0 MiB of 100.0 MiB, 0.0 s, 9.8 GiB/s")

    def test_everything_in_one_response_is_a_delivery_at_once(self) -> None:
        whole = self.ask()
        self.ask(50)
        self.finish(whole)
        self.assertIn("delivered. 100.0 MiB in 2 requests", self.lines[-1])

    def test_empty_file(self) -> None:
        self.finish(self.ask(0, 0, version=Version('"empty"', 0)))
        self.assertIn("delivered. 0 B in 1 request", self.lines[-1])

    def test_whole_together(self) -> None:
        self.reset(self.ask(), 60)
        self.reset(self.ask(), 1)
        self.finish(self.ask(75))
        self.wait()
        self.lines.clear()
        rest = self.ask(60, 75)
        self.finish(rest)
        self.check(
            "206 -",
            "req finished. 15.0 MiB, 0.0 s, 14.6 GiB/s",
            "delivered. 100.0 MiB in 4 requests",
        )

    def test_two_behind_one_address(self) -> None:
        one, other = self.ask(), self.ask()
        self.reset(one, 30)
        self.reset(other, 60)
        self.wait()
        self.lines.clear()
        rest_of_one, rest_of_other = self.ask(29), self.ask(60)
        for rest in (rest_of_other, rest_of_one):
            self.finish(rest)
            self.assertIn("delivered. 100.0 MiB in 2 requests", self.lines[-1])

    def test_taken_over_at_another_address(self) -> None:
        here = self.ask()
        self.get(here, 45)
        self.now += 1
        there = self.ask(45, receiver=AWAY)
        self.finish(there)
        self.assertEqual(
            self.lines,
            [
                "10.0.0.5 200 -",
                "10.9.9.9 206 -",
                "10.9.9.9 req finished. 55.0 MiB, 0.0 s, 53.7 GiB/s",
                "10.9.9.9 delivered. 100.0 MiB in 1 request",
            ],
        )
        self.lines.clear()
        self.wait(61)
        self.assertEqual(self.lines, [], "the one that was superseded is silent")
        self.assertEqual(self.registry.stop(), ["stopped. delivered: f to 10.9.9.9"])

    def test_superseded_one_that_goes_on_is_delivered_too(self) -> None:
        here = self.ask()
        self.get(here, 45)
        self.ask(45, receiver=AWAY)
        self.finish(here)
        self.assertEqual(self.lines[-1], "10.0.0.5 delivered. 100.0 MiB in 1 request")

    def test_lingering_connection_holds_nothing_up(self) -> None:
        self.get(self.ask(), 45)
        self.finish(self.ask(45))
        self.assertIn("delivered.", self.lines[-1])

    def test_probe_is_silent(self) -> None:
        self.reset(self.ask(receiver=ARIA2), 45)
        self.wait()
        self.lines.clear()
        self.reset(self.ask(receiver=ARIA2), PROBE_LIMIT / MIB - BYTE)
        self.wait()
        self.check("200 -")
        self.finish(self.ask(44, receiver=ARIA2, form=RangeForm.CLOSED))
        self.assertIn("delivered.", self.lines[-1])

    def test_probe_of_somebody_with_nothing_more_is_not_silent(self) -> None:
        self.reset(self.ask(receiver=ARIA2), 0.5)
        self.wait()
        self.check("200 -", "req terminated. at 0% (512.0 KiB of 100.0 MiB)")

    def test_failure_of_the_disk_is_no_probe(self) -> None:
        self.reset(self.ask(), 45)
        self.wait()
        self.break_off(self.ask(), 0.5, FileChanged("the file was changed"))
        self.wait()
        expected = "req terminated. at 0% (512.0 KiB of 100.0 MiB), the file was changed"
        self.assertIn(expected, self.lines[-1])

    def test_from_before_this_start(self) -> None:
        rest = self.ask(64)
        self.get(rest, 6)
        self.assertEqual(self.registry.view(8).rows[0].arrived, 70 * MIB)
        self.finish(rest)
        self.assertIn("req finished. 36.0 MiB", self.lines[-2])
        expected = "10.0.0.5 delivered. 100.0 MiB, of which the first 64.0 MiB before this start"
        self.assertEqual(self.lines[-1], expected)

    def test_claim_is_dropped_with_the_next_segment(self) -> None:
        self.finish(self.ask(10, 20, form=RangeForm.CLOSED))
        rest = self.ask(64, receiver=AWAY)
        self.ask(50, 60, receiver=AWAY, form=RangeForm.CLOSED)
        self.finish(rest)
        self.assertNotIn("delivered.", self.lines[-1])

    def test_the_longest_at_rest_are_forgotten(self) -> None:
        for index in range(MAX_RESTING + 5):
            self.reset(self.ask(name=str(index)), 45)
        self.wait()
        self.assertIn(f"and {MAX_RESTING - 8} more", self.registry.stop()[-1])
        self.finish(self.ask(45, name="4"))
        self.assertIn("before this start", self.lines[-1])
        self.finish(self.ask(45, name="5"))
        self.assertIn("delivered. 100.0 MiB in 2 requests", self.lines[-1])

    def test_absurdly_fragmented_one_is_forgotten(self) -> None:
        with mock.patch("httpd_download.MAX_SPANS", 40):
            for start in range(1, 80, 2):
                self.finish(self.ask(start, start + 1, form=RangeForm.CLOSED))
            self.assertIn("unknown: f to 10.0.0.5 got 40.0 MiB", self.registry.stop()[1])
            self.finish(self.ask(81, 82, form=RangeForm.CLOSED))
            self.assertEqual(self.registry.stop(), NOBODY)

    def test_small_reads_are_one_download(self) -> None:
        # Readers of archives: remotezip, pip, fsspec.
        for start in (99, 5, 50, 20):
            self.finish(self.ask(start, start + BYTE, form=RangeForm.CLOSED))
            self.wait(0.1)
        self.wait()
        self.check("206 -", "req finished. 4 B of 100.0 MiB, 0.3 s, 13 B/s")


class VersionTest(Case):
    def test_another_version_is_refused(self) -> None:
        self.reset(self.ask(), 45)
        error = self.refuse(409, 45, version=NEW)
        self.assertEqual(error.phrase, "The file has changed: start over")
        self.assertEqual(error.reason, "the file has changed, the receiver must start over")
        self.refuse(409, 200, 200, version=NEW)
        self.refuse(416, 200, 200)

    def test_refused_receiver_is_not_told_to_resume(self) -> None:
        """After a restart the program could not know that its part is of an older version."""
        self.reset(self.ask(), 45)
        self.refuse(409, 45, version=NEW)
        self.wait()
        self.assertFalse(self.registry.has_unfinished())
        self.assertEqual(
            self.registry.stop()[1:],
            [
                "not whole: f to 10.0.0.5 at 45% (45.0 MiB of 100.0 MiB): "
                "the file has changed, the receiver must start over"
            ],
        )

    def test_repeated_refusals_make_a_line_a_minute(self) -> None:
        """axel repeats its request many times a second."""
        self.reset(self.ask(), 45)
        for seconds, is_logged in [(0, True), (0.1, False), (30, False), (REPORT_INTERVAL, True)]:
            self.now += seconds
            error = self.refuse(409, 45, version=NEW)
            self.assertIs(error.is_logged, is_logged, seconds)
        # What the receiver does next is new, and so is another refusal.
        self.reset(self.ask(45), 50)
        self.assertTrue(self.refuse(409, 50, version=NEW).is_logged)

    def test_begun_anew_it_says_nothing_more_of_the_old_one(self) -> None:
        self.reset(self.ask(), 45)
        self.finish(self.ask(version=NEW))
        self.wait()
        self.assertFalse(any("terminated" in line for line in self.lines), self.lines)
        self.assertEqual(self.registry.stop(), ["stopped. delivered: f to 10.0.0.5"])

    def test_one_that_grew_goes_on(self) -> None:
        self.reset(self.ask(), 45)
        digests = {SIZE: OLD.end_digest}
        self.finish(self.ask(45, 105, version=GROWN, digests=digests))
        self.assertIn("delivered. 105.0 MiB in 2 requests", self.lines[-1])

    def test_one_that_grew_after_it_was_delivered_goes_on(self) -> None:
        self.finish(self.ask())
        transfer = Transfer(
            cast(Channel, WaitingWire(self)),
            CURL,
            "GET /f",
            "f",
            GROWN,
            [ByteRange(SIZE, GROWN.size, RangeForm.OPEN)],
        )
        self.assertEqual(self.registry.sizes_to_digest(transfer), {SIZE})
        self.refuse(409, 100, 105, version=GROWN)
        self.finish(self.ask(100, 105, version=GROWN, digests={SIZE: OLD.end_digest}))
        self.assertIn("delivered. 105.0 MiB in 2 requests", self.lines[-1])

    def test_same_file_with_another_inode(self) -> None:
        self.reset(self.ask(), 45)
        moved = OLD._replace(etag='"moved"', file_id=(9, 9))
        self.finish(self.ask(45, version=moved, digests={SIZE: OLD.end_digest}))
        self.assertIn("delivered. 100.0 MiB in 2 requests", self.lines[-1])

    def test_other_names_do_not_matter(self) -> None:
        self.reset(self.ask(), 45)
        self.finish(self.ask(45, name="g", version=NEW))
        self.assertIn("before this start", self.lines[-1])


class EnoughTest(Case):
    def test_enough_without_names(self) -> None:
        self.make(max_deliveries=2)
        self.assertEqual(self.registry.view(1).note, "waiting for a receiver (Ctrl-C to stop)")
        other = self.ask(receiver=AWAY)
        self.assertEqual(self.registry.view(1).note, "")
        self.finish(self.ask())
        self.assertFalse(self.registry.has_enough())
        self.finish(self.ask(name="g"))
        self.assertTrue(self.registry.has_enough())
        self.assertEqual(self.refuse(503).reason, "enough was delivered")
        self.refuse(503, 10, 20)
        expected = "enough delivered: waiting for 1 download to end"
        self.assertEqual(self.registry.view(1).note, expected)
        self.ask(50, 60, receiver=AWAY)
        self.assertFalse(self.registry.is_done())
        self.finish(other)
        self.assertFalse(self.registry.is_done(), "a transfer of what is delivered")
        self.assertEqual(self.registry.view(1).note, expected)
        self.wait(STALLED_AFTER)
        self.assertFalse(self.registry.is_done())

    def test_enough_of_each_that_was_named(self) -> None:
        self.make(max_deliveries=1, named=["f", "g"])
        self.finish(self.ask())
        self.finish(self.ask())
        self.assertFalse(self.registry.has_enough())
        self.finish(self.ask(name="g"))
        self.assertTrue(self.registry.is_done())

    def test_what_broke_off_may_come_back_until_it_pauses(self) -> None:
        self.make(max_deliveries=1)
        broken = self.ask(receiver=AWAY)
        self.finish(self.ask())
        self.reset(broken, 45)
        self.assertFalse(self.registry.is_done())
        again = self.ask(45, receiver=AWAY)
        self.reset(again, 10)
        self.wait()
        self.assertTrue(self.registry.is_done())
        self.refuse(503, 55, receiver=AWAY)


class ViewTest(Case):
    def test_rows(self) -> None:
        first, second = self.ask(), self.ask(0, 50, AWAY, name="g")
        for seconds in range(1, 4):
            self.get(first, 10 * seconds)
            self.wait(1)
        rows, more, _ = self.registry.view(8)
        self.assertEqual([row.name for row in rows], ["f", "g"])
        self.assertEqual([row.receiver for row in rows], ["10.0.0.5", "10.9.9.9"])
        self.assertEqual((rows[0].arrived, rows[0].size, rows[0].rate), (30 * MIB, SIZE, 10 * MIB))
        self.assertEqual((rows[0].idle, rows[1].idle, more), (1, 3, 0))
        self.assertEqual([row.name for row in self.registry.view(1).rows], ["f"])
        self.assertEqual(self.registry.view(1).more, 1)
        self.finish(first)
        self.finish(second)
        self.assertEqual(self.registry.view(8).rows, [])

    def test_program_where_two_share_an_address(self) -> None:
        self.ask()
        self.ask(receiver=WGET)
        self.ask(receiver=AWAY)
        labels = [row.receiver for row in self.registry.view(8).rows]
        self.assertEqual(labels, ["10.0.0.5 (curl)", "10.0.0.5 (wget)", "10.9.9.9"])

    def test_summary(self) -> None:
        self.assertEqual(self.registry.stop(), NOBODY)
        for _ in range(2):
            self.finish(self.ask())
        self.reset(self.ask(receiver=WGET), 22)
        self.finish(self.ask(50, 60, receiver=AWAY))
        self.assertTrue(self.registry.has_unfinished())
        self.assertEqual(
            self.registry.stop(),
            [
                "stopped. delivered: f to 10.0.0.5 (curl) (2 times)",
                "not whole: f to 10.0.0.5 (wget) at 22% (22.0 MiB of 100.0 MiB)",
                "unknown: f to 10.9.9.9 got 10.0 MiB of 100.0 MiB from here; "
                "it may have had the rest",
            ],
        )

    def test_summary_has_at_most_eight(self) -> None:
        for index in range(10):
            self.reset(self.ask(receiver=Receiver(f"10.1.1.{index}", "")), 22)
        lines = self.registry.stop()
        self.assertEqual((len(lines), lines[-1]), (10, "and 2 more"))

    def test_stop_ends_what_is_acknowledged(self) -> None:
        transfer = self.ask()
        self.get(transfer, 100)
        thread = threading.Thread(target=self.finish, args=[transfer])
        thread.start()
        self.assertEqual(self.registry.stop(), ["stopped. delivered: f to 10.0.0.5"])
        thread.join()

    def test_progress_lines(self) -> None:
        self.make(reports_progress=True)
        transfer = self.ask()
        for second in range(300):
            self.get(transfer, second / 20)
            self.wait(1)
        line = "req under way. at {0}% ({0}.0 MiB of 100.0 MiB), 51.2 KiB/s"
        self.assertEqual(len(self.lines), 2, self.lines)
        self.assertEqual(self.lines[1], f"10.0.0.5 {line.format(10)}")
        self.get(transfer, 35)
        self.wait(0)
        self.lines.clear()
        for minute in range(3):
            self.get(transfer, 45 + 10 * minute)
            self.wait(REPORT_INTERVAL - 1)
            self.assertEqual(len(self.lines), minute)
            self.wait(1)
            self.assertEqual(len(self.lines), minute + 1)

    def test_no_progress_lines_on_a_terminal(self) -> None:
        self.get(self.ask(), 50)
        self.wait(REPORT_INTERVAL)
        self.check("200 -")


if __name__ == "__main__":
    unittest.main()
