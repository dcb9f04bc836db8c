"""Deliveries: the ledger and the wait with a fake queue and clock, then both through real sockets."""

from __future__ import annotations

import itertools
import os
import random
import select
import socket
import threading
import time
import unittest
from typing import Callable, Optional, Sequence, Tuple

from httpd_download import (
    CHUNK,
    RESET_GRACE,
    Connection,
    Deliveries,
    Ledger,
    Representation,
    Transfer,
    Turn,
    format_size,
    overlay,
)
from tests.support import (
    FolderCase,
    Lines,
    Served,
    deadline,
    read_all,
    read_exactly,
    read_reply,
    reset,
    skip_head,
    until,
)

MB = 10**6
NARROW = 4096  # bytes of SO_RCVBUF that make a slow receiver out of a fast one


class OverlayTest(unittest.TestCase):
    def test_table(self) -> None:
        for spans, added, union, overlap in [
            ([], (0, 5), [(0, 5)], []),
            ([(0, 5)], (5, 9), [(0, 9)], []),
            ([(5, 9)], (0, 5), [(0, 9)], []),
            ([(0, 5)], (6, 9), [(0, 5), (6, 9)], []),
            ([(6, 9)], (0, 5), [(0, 5), (6, 9)], []),
            ([(0, 5)], (3, 9), [(0, 9)], [(3, 5)]),
            ([(0, 9)], (3, 5), [(0, 9)], [(3, 5)]),
            ([(3, 5)], (0, 9), [(0, 9)], [(3, 5)]),
            ([(0, 2), (4, 6), (8, 9)], (1, 8), [(0, 9)], [(1, 2), (4, 6)]),
            ([(0, 2), (4, 6), (8, 9)], (2, 4), [(0, 6), (8, 9)], []),
        ]:
            with self.subTest(spans=spans, added=added):
                self.assertEqual(overlay(spans, added), (union, overlap))

    def test_against_sets_of_bytes(self) -> None:
        drawn = random.Random(1)
        for _ in range(300):
            spans: list[tuple[int, int]] = []
            have: set[int] = set()
            for _ in range(8):
                start = drawn.randrange(30)
                added = (start, start + drawn.randrange(1, 9))
                spans, overlap = overlay(spans, added)
                self.assertEqual({n for span in overlap for n in range(*span)}, have & {*range(*added)})
                have |= {*range(*added)}
                self.assertEqual({n for span in spans for n in range(*span)}, have)
                self.assertTrue(all(one[1] < other[0] for one, other in zip(spans, spans[1:])), spans)


Span = Tuple[int, int]
Asked = Tuple[int, Optional[int]]


class LedgerTest(unittest.TestCase):
    """Each row: what is entered for a file of 160 bytes, and after how many requests which entry made it whole."""

    def check(self, entries: list[list[tuple[int, int]]], expected: list[int], ledger: Ledger | None = None) -> None:
        ledger = ledger or Ledger()
        self.assertEqual([ledger.add("peer", '"tag"', 160, spans) for spans in entries], expected)

    def test_table(self) -> None:
        table: list[tuple[str, list[list[tuple[int, int]]], list[int]]] = [
            ("whole", [[(0, 160)]], [1]),
            ("whole, twice", [[(0, 160)], [(0, 160)]], [1, 1]),
            ("resumed", [[(0, 70)], [(70, 160)]], [0, 2]),
            ("resumed twice", [[(0, 70)], [(70, 90)], [(90, 160)]], [0, 0, 3]),
            ("resumed below what was acknowledged", [[(0, 70)], [(60, 160)]], [0, 2]),
            ("a byte is missing", [[(0, 70)], [(71, 160)]], [0, 0]),
            ("nothing acknowledged", [[], []], [0, 0]),
            ("several ranges", [[(0, 10), (150, 160)], [(10, 150)]], [0, 2]),
            ("several ranges that touch", [[(0, 10), (10, 150)], [(150, 160)]], [0, 2]),
            ("several ranges in falling order", [[(80, 160), (10, 80)], [(0, 10)]], [0, 2]),
            (
                "two copies in turns, each request counted once",
                [[(0, 70)], [(0, 90)], [(70, 160)], [(90, 160)]],
                [0, 0, 3, 1],
            ),
            ("a broken one, then a whole one by ranges", [[(0, 70)], [(0, 80)], [(80, 160)]], [0, 0, 3]),
        ]
        for name, entries, expected in table:
            with self.subTest(name):
                self.check(entries, expected)

    def test_where_a_receiver_goes_on_tells_what_it_had(self) -> None:
        # Acknowledged spans, what was asked for (start, and the end that was named), how far it was handed over.
        table: list[tuple[str, list[tuple[Span, Asked, int]], list[int]]] = [
            ("a little more", [((0, 70), (0, None), 120), ((75, 160), (75, None), 160)], [0, 2]),
            ("all of it", [((0, 70), (0, None), 120), ((120, 160), (120, None), 160)], [0, 2]),
            ("the old connection ends last", [((75, 160), (75, None), 160), ((0, 70), (0, None), 120)], [0, 2]),
            ("more than was handed over", [((0, 70), (0, None), 120), ((121, 160), (121, None), 160)], [0, 0]),
            ("a segment is no resumption", [((0, 70), (0, None), 120), ((75, 160), (75, 160), 160)], [0, 0]),
            (
                "a segment, resumed",
                [((0, 80), (0, 80), 80), ((80, 90), (80, 160), 130), ((95, 160), (95, 160), 160)],
                [0, 0, 3],
            ),
            (
                "once for each break",
                [((0, 70), (0, None), 120), ((75, 160), (75, None), 160), ((75, 160), (75, None), 160)],
                [0, 2, 0],
            ),
        ]
        for name, entries, expected in table:
            with self.subTest(name):
                ledger = Ledger()
                found = [
                    ledger.add("peer", '"tag"', 160, [span], asked, handed - span[1]) for span, asked, handed in entries
                ]
                self.assertEqual(found, expected)

    def test_16_segments_in_any_order(self) -> None:
        segments = [[(n, n + 10)] for n in range(0, 160, 10)]
        for seed in range(20):
            random.Random(seed).shuffle(segments)
            self.check(segments, [0] * 15 + [16])

    def test_two_times_16_segments_from_one_address_make_two(self) -> None:
        segments = [[(n, n + 10)] for n in range(0, 160, 10)] * 2
        for seed in range(20):
            random.Random(seed).shuffle(segments)
            ledger = Ledger()
            whole = [bool(ledger.add("peer", '"tag"', 160, spans)) for spans in segments]
            self.assertEqual((sum(whole), whole[-1]), (2, True))

    def test_versions_and_receivers_are_kept_apart(self) -> None:
        ledger = Ledger()
        halves = [[(0, 80)], [(80, 160)]]
        accounts = [(peer, tag) for peer in "ab" for tag in ('"old"', '"new"')]
        firsts = [ledger.add(peer, tag, 160, halves[n % 2]) for n, (peer, tag) in enumerate(accounts)]
        self.assertEqual(firsts, [0, 0, 0, 0])
        seconds = [ledger.add(peer, tag, 160, halves[1 - n % 2]) for n, (peer, tag) in enumerate(accounts)]
        self.assertEqual(seconds, [2, 2, 2, 2])

    def test_odd_spans_neither_fill_the_memory_nor_forget_a_plain_receiver(self) -> None:
        ledger = Ledger(capacity=50)
        self.check([[(0, 70)]], [0], ledger)
        for n in range(5000):
            ledger.add("hostile", '"tag"', 10**6, [(2 * n, 2 * n + 1)])
        self.check([[(70, 160)]], [2], ledger)

    def test_many_receivers_fit_in_the_same_memory(self) -> None:
        ledger = Ledger(capacity=50)
        for n in range(1000):
            ledger.add(f"peer {n}", '"tag"', 160, [(0, 80)])
        whole = sum(ledger.add(f"peer {n}", '"tag"', 160, [(80, 160)]) == 2 for n in range(1000))
        self.assertLessEqual(whole, 50)
        self.check([[(0, 70)], [(70, 160)]], [0, 2], ledger)

    def test_one_receiver_with_many_copies_fits_too(self) -> None:
        ledger = Ledger(capacity=50)
        for _ in range(500):
            ledger.add("hostile", '"tag"', 160, [(0, 80)])
        whole = sum(ledger.add("hostile", '"tag"', 160, [(80, 160)]) > 0 for _ in range(500))
        self.assertLessEqual(whole, 50)


class FormatSizeTest(unittest.TestCase):
    def test_table(self) -> None:
        for count, text in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1023.9, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (640 << 20, "640.0 MiB"),
            (int(1.4 * (1 << 30)), "1.4 GiB"),
            (5 << 40, "5.0 TiB"),
            (1 << 50, "1.0 PiB"),
            (1 << 62, "4096.0 PiB"),
        ]:
            self.assertEqual(format_size(count), text)


class WaitCase(FolderCase):
    """One connection whose queue and whose time are in the test's hands."""

    def setUp(self) -> None:
        super().setUp()
        self.now = 1000.0
        self.queued: int | None = 0
        self.mine, self.theirs = socket.socketpair()
        self.addCleanup(self.mine.close)
        self.addCleanup(self.theirs.close)
        self.theirs.settimeout(5)
        self.log = Lines()
        self.connection = Connection(self.mine, lambda _: self.queued, lambda: self.now)
        self.deliveries = Deliveries(self.log.log, 60.0, 2, lambda: self.now)
        self.deliveries.enter(self.connection)

    def hand_over(self, name: str = "f", *parts: bytes | tuple[int, int], size: int = 1000) -> Transfer:
        """Send *parts*, else the whole, of file *name* after a head of 10 bytes; nothing is acknowledged yet."""
        path = self.folder / name
        if not path.exists():
            path.write_bytes(bytes(size))
        with Representation(os.open(path, os.O_RDONLY), name) as representation:
            transfer = Transfer("peer", f"GET /{name}", representation, parts or [(0, size)])
            self.connection.write(b"h" * 10)
            self.deliveries.begin(self.connection, transfer)
            self.connection.send(transfer.parts, representation)
        self.queued = None if self.queued is None else self.queued + 10 + transfer.length
        return transfer

    def watch(self, seconds: float = 0.0, queued: int | None = -1) -> list[str]:
        """Let *seconds* pass, look, and return all that is in the log."""
        self.now += seconds
        self.queued = self.queued if queued == -1 else queued
        self.deliveries.watch()
        return self.log.all()


FINISHED = 'peer "GET /f" req finished. 1000 B, {:.1f} s, {}/s'.format
DELIVERED = 'peer "/f" delivered. 1000 B in {} request{}'.format


class TurnTest(WaitCase):
    def setUp(self) -> None:
        super().setUp()
        self.turns = threading.Lock()
        self.connection = Connection(self.mine, lambda _: self.queued, lambda: self.now, Turn(self.turns))
        self.connection.turn.take()

    def test_it_is_kept_for_what_finds_room(self) -> None:
        self.connection.send([b"x" * 1000])
        self.assertTrue(self.turns.locked())
        self.connection.turn.pass_on()
        self.assertFalse(self.turns.locked())

    def test_it_is_passed_on_before_what_may_have_to_wait(self) -> None:
        self.connection.write(b"h" * 1000)
        self.connection.send([b"x" * CHUNK])
        self.assertFalse(self.turns.locked())

    def test_what_is_not_acknowledged_takes_room(self) -> None:
        def send() -> None:
            self.connection.send([b"x" * 4000])
            read_exactly(self.theirs, 4000)

        for _ in range(8):
            send()
            self.connection.look()
            self.assertTrue(self.turns.locked())
        for _ in range(8):
            send()
        self.assertFalse(self.turns.locked())

    def test_it_is_passed_on_where_the_system_cannot_tell(self) -> None:
        self.queued = None
        self.connection.look()
        self.connection.send([b"x"])
        self.assertFalse(self.turns.locked())

    def test_nobody_passes_on_what_another_has(self) -> None:
        other = Turn(self.turns)
        other.take()
        other.pass_on()
        self.assertTrue(self.turns.locked())


@unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
class WaitForRoomTest(WaitCase):
    def test_overwritten_while_the_last_piece_waits(self) -> None:
        size = 300_000  # more than a local socket takes at once, less than one STEP
        path = self.folder / "f"
        path.write_bytes(b"A" * size)
        raised: list[BaseException] = []

        def send() -> None:
            try:
                with Representation(os.open(path, os.O_RDONLY), "f") as representation:
                    self.connection.send([(0, size)], representation)
            except EOFError as error:
                raised.append(error)
            self.mine.close()

        sender = threading.Thread(target=send)
        sender.start()
        until(lambda: not select.select([], [self.mine], [], 0)[1], "there is no room left")
        with path.open("r+b") as file:
            file.write(b"B" * size)
        os.utime(path, (1, 1))  # whatever the resolution of its clock
        self.assertLess(len(read_all(self.theirs)), size)
        sender.join()
        self.assertEqual([str(error) for error in raised], ["the file was changed"])


class FinishedTest(WaitCase):
    def test_at_queue_0_after_the_grace_and_timed_without_it(self) -> None:
        self.hand_over()
        for queued in (1010, 500, 1):
            self.assertEqual(self.watch(5, queued), [])
        self.assertEqual(self.watch(5, 0), [])
        self.assertEqual(self.watch(RESET_GRACE * 0.9), [])
        self.assertEqual(self.watch(RESET_GRACE * 0.2), [FINISHED(20, "50 B"), DELIVERED(1, "")])
        self.assertEqual(self.deliveries.under_way(), [])

    def test_the_next_request_needs_no_grace_but_an_empty_queue(self) -> None:
        self.hand_over()
        self.queued = 1
        self.deliveries.settle(self.connection, answered=True)
        self.assertEqual(self.log.all(), [])
        self.queued = 0
        self.now += 4
        self.deliveries.settle(self.connection, answered=True)
        self.assertEqual(self.log.all(), [FINISHED(4, "250 B"), DELIVERED(1, "")])

    def test_a_system_that_cannot_tell_counts_what_was_handed_over(self) -> None:
        self.queued = None
        self.hand_over()
        self.assertEqual(self.watch(), [])
        self.assertEqual(len(self.watch(RESET_GRACE)), 2)

    def test_pipelined_transfers_end_one_by_one_in_order(self) -> None:
        for name in ("a", "b", "c"):
            self.hand_over(name)
        expected: list[str] = []
        for name, queued in [("a", 2020), ("b", 1010), ("c", 0)]:
            self.assertEqual(self.watch(1, queued + 1), expected)
            self.watch(1, queued)
            expected = self.watch(RESET_GRACE)
            self.assertIn(f"GET /{name}", expected[-2])
            self.assertIn(f"/{name}", expected[-1])
        self.assertEqual(len(expected), 6)

    def test_several_ranges_are_in_the_ledger_without_what_is_between_them(self) -> None:
        self.hand_over("f", b"--boundary", (900, 1000), b"--boundary", (0, 100), b"--boundary--")
        self.assertEqual(len(self.watch(0, 0) + self.watch(RESET_GRACE)), 1)
        self.hand_over("f", (100, 900))
        self.watch(0, 0)
        self.assertEqual(self.watch(RESET_GRACE)[2:], [DELIVERED(2, "s")])

    def test_enough_is_enough_and_not_before(self) -> None:
        for parts, enough in [([(0, 1000)], False), ([(0, 500)], False), ([(500, 1000)], True)]:
            self.hand_over("f", *parts)
            self.watch(0, 0)
            self.watch(RESET_GRACE)
            self.assertEqual(self.deliveries.enough.is_set(), enough)

    def test_empty_file(self) -> None:
        self.hand_over("f", size=0)
        self.watch(0, 0)
        lines = self.watch(RESET_GRACE)
        self.assertEqual(
            [lines[0][:28], lines[1:]], ['peer "GET /f" req finished. ', ['peer "/f" delivered. 0 B in 1 request']]
        )

    def test_leave_waits_for_the_end(self) -> None:
        self.hand_over()
        left = threading.Thread(target=self.deliveries.leave, args=(self.connection,))
        left.start()
        self.watch(1, 500)
        self.assertTrue(left.is_alive())
        self.watch(1, 0)
        self.watch(RESET_GRACE)
        left.join(5)
        self.assertFalse(left.is_alive())


class TerminatedTest(WaitCase):
    def reset(self) -> None:
        self.theirs.close()  # with input unread: a reset, here as in TCP

    def test_a_reset_at_any_point_leaves_the_acknowledged_share(self) -> None:
        for queued, share in [
            (1010, "0% (0 B of 1000 B)"),
            (1005, "0% (0 B of 1000 B)"),
            (550, "45% (450 B of 1000 B)"),
            (1, "99% (999 B of 1000 B)"),
            (0, "99% (999 B of 1000 B)"),
        ]:
            with self.subTest(queued=queued):
                WaitCase.setUp(self)
                self.hand_over()
                self.assertEqual(self.watch(1, queued), [])
                self.reset()
                self.assertEqual(self.watch(), [f'peer "GET /f" req terminated. at {share}'])
                self.assertEqual(self.watch(1000), self.watch())

    def test_a_reset_where_the_system_cannot_tell(self) -> None:
        self.queued = None
        self.hand_over()
        self.watch()
        self.reset()
        self.assertEqual(self.watch(), ['peer "GET /f" req terminated. at 99% (999 B of 1000 B)'])

    def test_a_reset_of_an_empty_file_is_not_a_delivery(self) -> None:
        self.hand_over("f", size=0)
        self.watch(0, 0)
        self.reset()
        self.assertEqual(self.watch(), ['peer "GET /f" req terminated. at 0% (0 B of 0 B)'])

    def test_a_reset_ends_all_that_is_on_the_connection(self) -> None:
        self.hand_over("a")
        self.hand_over("b")
        self.watch(1, 500)
        self.reset()
        shares = [line.rpartition("terminated. ")[2] for line in self.watch()]
        self.assertEqual(shares, ["at 99% (999 B of 1000 B)", "at 50% (500 B of 1000 B)"])

    def test_what_was_acknowledged_is_in_the_ledger(self) -> None:
        self.hand_over()
        self.watch(1, 550)
        self.reset()
        self.watch()
        self.mine, self.theirs = socket.socketpair()
        self.addCleanup(self.mine.close)
        self.addCleanup(self.theirs.close)
        self.queued = 0
        self.connection = Connection(self.mine, lambda _: self.queued, lambda: self.now)
        self.deliveries.enter(self.connection)
        self.hand_over("f", (450, 1000))
        self.watch(1, 0)
        self.assertEqual(self.watch(RESET_GRACE)[2:], [DELIVERED(2, "s")])

    def test_a_reason_that_is_not_the_network_is_named(self) -> None:
        for error, reason in [
            (EOFError("the file became shorter"), ", the file became shorter"),
            (OSError(5, "Input/output error"), ", Input/output error"),
            (ConnectionResetError(104, "Connection reset by peer"), ""),
            (BrokenPipeError(32, "Broken pipe"), ""),
        ]:
            with self.subTest(error=error):
                WaitCase.setUp(self)
                self.hand_over()
                self.queued = 500
                self.deliveries.terminate(self.connection, error)
                self.assertEqual(self.log.all(), [f'peer "GET /f" req terminated. at 50% (500 B of 1000 B){reason}'])

    def test_time_runs_out_only_without_progress(self) -> None:
        self.hand_over()
        for queued in range(1000, 100, -100):  # a trickle, for ten minutes
            self.assertEqual(self.watch(59, queued), [])
        self.assertEqual(self.watch(59), [])
        self.assertEqual(
            self.watch(2), ['peer "GET /f" req terminated. at 80% (800 B of 1000 B), nothing was acknowledged for 60 s']
        )
        self.assertLessEqual(len(read_all(self.theirs)), 1010)  # the connection is cut: this ends

    def test_what_nothing_came_from_is_named(self) -> None:
        for queued, reason in [
            (0, "nothing came from the disk for 60 s"),
            (None, "nothing went forward for 60 s"),
        ]:
            with self.subTest(reason):
                WaitCase.setUp(self)
                self.queued = queued
                path = self.folder / "f"
                path.write_bytes(bytes(1000))
                with Representation(os.open(path, os.O_RDONLY), "f") as representation:
                    transfer = Transfer("peer", "GET /f", representation, [(0, 1000)])
                    self.deliveries.begin(self.connection, transfer)
                    self.connection.send([(0, 250)], representation)
                self.watch()
                expected = f'peer "GET /f" req terminated. at 25% (250 B of 1000 B), {reason}'
                self.assertEqual(self.watch(61), [expected])

    def test_an_idle_connection_is_cut_without_a_line(self) -> None:
        self.assertEqual(self.watch(61), [])
        self.assertEqual(self.theirs.recv(1), b"")


class UnderWayTest(WaitCase):
    def test_progress_rate_and_summary(self) -> None:
        transfer = self.hand_over()
        self.assertEqual(self.deliveries.under_way(), [(transfer, 0)])
        for second in range(1, 9):
            self.watch(1, 1010 - 10 - second * 100)
            self.assertEqual(self.deliveries.under_way(), [(transfer, second * 100)])
            self.assertAlmostEqual(transfer.rate, 100, delta=1)
        summary = "stopped. nothing was delivered; cut short: f to peer at 80% (800 B of 1000 B)"
        self.assertEqual(self.deliveries.summary(), summary)
        self.watch(1, 0)
        self.watch(RESET_GRACE)
        self.assertEqual(self.deliveries.summary(), "stopped. delivered: f")
        self.hand_over()
        self.watch(1, 0)
        self.watch(RESET_GRACE)
        self.hand_over("g")
        self.watch(1, 1010)
        self.assertEqual(
            self.deliveries.summary(), "stopped. delivered: f (2 times); cut short: g to peer at 0% (0 B of 1000 B)"
        )

    def test_what_fills_the_buffers_at_once_is_soon_no_part_of_the_rate(self) -> None:
        transfer = self.hand_over(size=10_000)
        self.watch(1, 10_010 - 10 - 5000)
        for second in range(1, 5):
            self.watch(1, 10_010 - 10 - 5000 - second * 100)
        self.assertAlmostEqual(transfer.rate, 5400 / 5, delta=1)
        for second in range(5, 40):
            self.watch(1, 10_010 - 10 - 5000 - second * 100)
        self.assertLess(transfer.rate, 200)

    def test_nothing_happened(self) -> None:
        self.assertEqual(self.deliveries.summary(), "stopped. nothing was delivered")

    def test_two_threads_settle_at_once(self) -> None:
        """While a line is written for one, the other comes, and finds that all has been done."""
        raised: list[BaseException] = []
        others: list[threading.Thread] = []

        def settle() -> None:
            try:
                self.deliveries.settle(self.connection, answered=True)
            except BaseException as error:
                raised.append(error)

        def log(peer: str, events: Sequence[tuple[str, str]]) -> None:
            self.log.log(peer, events)
            other = threading.Thread(target=settle)
            others.append(other)
            other.start()
            other.join(0.1)  # it waits for a lock, which nothing tells

        self.deliveries = Deliveries(log, 60.0, 0, lambda: self.now)
        self.deliveries.enter(self.connection)
        self.hand_over()
        self.connection.reset = True
        self.deliveries.watch()
        [other] = others
        other.join()
        self.assertEqual(raised, [])
        self.assertEqual(len(self.log.all()), 1)


# --- Through real sockets ---


def ask(target: str, span: str = "", method: str = "GET", more: str = "") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: h\r\n" + (span and f"Range: bytes={span}\r\n") + more
    return head.encode() + b"\r\n"


class SocketCase(FolderCase):
    def read_some(self, client: socket.socket, target: str, count: int, span: str = "", more: str = "") -> bytes:
        """Ask for *target* and read *count* bytes of its body, not more: the rest stays in the system."""
        client.sendall(ask(target, span, more=more))
        skip_head(client)
        return read_exactly(client, count)

    def until_a_later_one_has_finished(self, served: Served) -> None:
        """Await what takes as long as a wrong `req finished.` would, without a look at the clock."""
        self.write("later")
        with served.connect() as client:
            client.sendall(ask("/later"))
            served.log.wait_for("GET /later .* req finished")

    def interrupt(self, served: Served, target: str, count: int, span: str = "") -> bytes:
        """Be a receiver that resets after *count* bytes; return these."""
        events = len([line for line in served.log.all() if "req terminated" in line])
        client = served.connect(NARROW)
        data = self.read_some(client, target, count, span)
        reset(client)
        served.log.wait_for("req terminated", events + 1)
        return data


class FinishedMeansReceivedTest(SocketCase):
    def test_slow_receiver(self) -> None:
        data = self.write("f", MB)
        served = self.serve()
        with served.connect(NARROW) as client:
            read = self.read_some(client, "/f", MB - 100_000)
            self.until_a_later_one_has_finished(served)
            [(_, acknowledged)] = served.deliveries.under_way()
            self.assertTrue(MB - 100_000 <= acknowledged < MB, acknowledged)
            self.assertFalse([line for line in served.log.all() if "GET /f" in line and "req" in line])
            read += read_exactly(client, 100_000)
            served.log.wait_for(r'GET /f HTTP/1.1" req finished\. 976\.6 KiB, \d+\.\d s, [\d.]+ .?i?B/s$')
            served.log.wait_for(r'"/f" delivered\. 976\.6 KiB in 1 request$')
        self.assertEqual(read, data)

    def test_a_receiver_that_resets(self) -> None:
        for name, count, least, most in [
            ("never reads", 0, 0, 30),
            ("half", 500_000, 50, 80),
            ("nearly", 900_000, 90, 99),
        ]:
            with self.subTest(name):
                self.write("f", MB)
                served = self.serve()
                self.interrupt(served, "/f", count)
                line = served.log.wait_for(r"req terminated\. at \d+% \([\d.]+ .?i?B of 976\.6 KiB\)$")
                percent = int(line.rpartition("at ")[2].partition("%")[0])
                self.assertTrue(least <= percent <= most, line)
                self.assertFalse([line for line in served.log.all() if "finished" in line or "delivered" in line])

    def test_a_receiver_that_resets_without_reading_the_head(self) -> None:
        self.write("f", MB)
        served = self.serve()
        client = served.connect(NARROW)
        client.sendall(ask("/f"))
        served.log.wait_for('GET /f HTTP/1.1" 200 -')
        reset(client)
        served.log.wait_for(r"req terminated\. at \d+% .* of 976\.6 KiB\)$")
        self.assertEqual(len(served.log.all()), 2)

    def test_the_next_request_settles_the_last(self) -> None:
        data = self.write("f")
        served = self.serve(watched=False)
        with served.connect() as client:
            for count in range(3):
                client.sendall(ask("/f"))
                self.assertEqual(read_reply(client).body, data)
                self.assertEqual(len([line for line in served.log.all() if "req finished" in line]), count)

    def test_pipelined_requests_do_not_wait_for_acknowledgements(self) -> None:
        data = self.write("f", 200_000)
        served = self.serve()
        with served.connect(NARROW) as client:
            client.sendall(ask("/f") * 3)
            served.log.wait_for("200 -", 3)
            self.assertEqual(len(served.deliveries.under_way()), 3)
            stream = client.makefile("rb")
            with stream:
                for _ in range(3):
                    self.assertTrue(stream.readline().startswith(b"HTTP/1.1 200 "))
                    while stream.readline() != b"\r\n":
                        pass
                    self.assertEqual(stream.read(len(data)), data)
        served.log.wait_for("delivered", 3)

    def test_keep_alive_is_fast(self) -> None:
        data = self.write("f", 5000)
        served = self.serve()
        start = time.monotonic()
        with served.connect() as client:
            for _ in range(200):
                client.sendall(ask("/f"))
                self.assertEqual(read_reply(client).body, data)
        served.log.wait_for("req finished", 200)
        served.log.wait_for("delivered", 200)
        self.assertLess(time.monotonic() - start, 4)  # 12 s where each waits for a delayed acknowledgement

    def test_a_half_closed_receiver_gets_all(self) -> None:
        data = self.write("f", 3 * MB)
        served = self.serve()
        with served.connect(NARROW) as client:
            client.sendall(ask("/f"))
            client.shutdown(socket.SHUT_WR)
            served.log.wait_for("200 -")
            reply = read_all(client)
        self.assertEqual(reply.partition(b"\r\n\r\n")[2], data)
        served.log.wait_for("req finished")
        served.log.wait_for("delivered. .* in 1 request$")

    def test_a_half_closed_receiver_that_resets_then(self) -> None:
        self.write("f", MB)
        served = self.serve()
        client = served.connect(NARROW)
        client.sendall(ask("/f"))
        client.shutdown(socket.SHUT_WR)
        read_exactly(client, 100_000)
        reset(client)
        served.log.wait_for("req terminated")
        self.assertFalse([line for line in served.log.all() if "finished" in line or "delivered" in line])

    def test_silent_receiver_is_given_up(self) -> None:
        self.write("f", MB)
        served = self.serve(timeout=1)
        with served.connect(NARROW) as client:
            self.read_some(client, "/f", 0)
            served.log.wait_for(r"req terminated\. at \d+% .*, nothing was acknowledged for 1 s$")
            self.assertLess(len(read_all(client)), MB)


class DeliveredTest(SocketCase):
    def delivered(self, served: Served) -> list[str]:
        return [line.partition("delivered. ")[2] for line in served.log.all() if "delivered. " in line]

    def test_what_is_no_delivery(self) -> None:
        self.write("f", 1000)
        served = self.serve()
        etag = served.fetch("/f", method="HEAD").headers["ETag"]
        for status, method, headers in [
            (200, "HEAD", {}),
            (304, "GET", {"If-None-Match": etag}),
            (304, "HEAD", {"If-None-Match": etag}),
            (416, "GET", {"Range": "bytes=1000-"}),
            (412, "GET", {"If-Match": '"other"'}),
            (404, "GET", {}),
        ]:
            target = "/nothing" if status == 404 else "/f"
            self.assertEqual(served.fetch(target, headers, method).status, status)
        served.fetch("/f")
        served.log.wait_for("delivered")
        events = [line for line in served.log.all() if "req " in line or "delivered" in line]
        self.assertEqual(len(events), 2, events)

    def test_each_whole_download_is_one(self) -> None:
        self.write("f", 1000)
        served = self.serve()
        served.fetch("/f", {"Range": "bytes=0-"})
        served.fetch("/f")
        served.log.wait_for("delivered. 1000 B in 1 request$", 2)

    def test_a_reset_that_overtook_the_acknowledgement(self) -> None:
        """A receiver can have read, and go on after, what it never acknowledged."""
        self.write("f", 200_000)
        self.break_and_go_on("")
        self.break_and_go_on("199999")

    def break_and_go_on(self, end: str) -> None:
        served = self.serve()
        client = served.connect(NARROW)
        client.sendall(b"GET /f HTTP/1.1\r\nHost: x\r\nRange: bytes=0-" + end.encode() + b"\r\n\r\n")
        served.log.wait_for("206")
        (connection,) = served.deliveries._connections
        # Its window is a few KiB: what lies further ahead has been handed over, and is not acknowledged.
        until(lambda: connection.sent - connection.acknowledged > 10 * NARROW, "it is handed over")
        start = connection.sent - connection.transfers[0].start - 1
        reset(client)
        served.log.wait_for("req terminated")
        self.assertEqual(served.fetch("/f", {"Range": f"bytes={start}-{end}"}).status, 206)
        served.log.wait_for(r'"/f" delivered\. 195\.3 KiB in 2 requests$')

    def test_interrupted_and_resumed(self) -> None:
        data = self.write("f", MB)
        served = self.serve()
        for times in (1, 2):
            first = self.interrupt(served, "/f", 300_000)
            second = self.interrupt(served, "/f", 300_000, "300000-")
            self.assertEqual(self.delivered(served), ["976.6 KiB in 3 requests"] * (times - 1))
            third = served.fetch("/f", {"Range": "bytes=600000-"})
            self.assertEqual((third.status, first + second + third.body), (206, data))
            served.log.wait_for(r'"/f" delivered\. ', times)

    def test_interrupted_and_resumed_once(self) -> None:
        data = self.write("f", MB)
        served = self.serve()
        first = self.interrupt(served, "/f", 300_000)
        self.assertEqual(first + served.fetch("/f", {"Range": "bytes=300000-"}).body, data)
        served.log.wait_for("delivered. 976.6 KiB in 2 requests$")

    def test_16_segments_at_once(self) -> None:
        data = self.write("f", MB)
        served = self.serve()
        size = MB // 16
        bodies: dict[int, bytes] = {}

        def fetch(number: int) -> None:
            bodies[number] = served.fetch("/f", {"Range": f"bytes={number * size}-{number * size + size - 1}"}).body

        threads = [threading.Thread(target=fetch, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(b"".join(bodies[number] for number in range(16)), data)
        served.log.wait_for("delivered. 976.6 KiB in 16 requests$")
        self.assertEqual(len(self.delivered(served)), 1)

    def test_several_ranges_that_touch_then_the_rest(self) -> None:
        self.write("f", 1000)
        served = self.serve()
        self.assertEqual(served.fetch("/f", {"Range": "bytes=0-99,100-499"}).status, 206)
        served.fetch("/f", {"Range": "bytes=500-"})
        served.log.wait_for("req finished", 2)
        served.log.wait_for("delivered. 1000 B in 2 requests$")

    def test_another_version_restarts_and_is_not_united_with_the_last(self) -> None:
        self.write("f", 1000)
        served = self.serve()
        old = served.fetch("/f", {"Range": "bytes=0-499"})
        served.log.wait_for("req finished", 1)
        new = self.write("f", 1001)
        rest = served.fetch("/f", {"Range": "bytes=500-"})
        self.assertEqual((rest.status, rest.body), (206, new[500:]))
        served.log.wait_for("req finished", 2)
        self.assertEqual(self.delivered(served), [])
        for validator in ("ETag", "Last-Modified"):
            if old.headers[validator] != rest.headers[validator]:
                again = served.fetch("/f", {"Range": "bytes=500-", "If-Range": old.headers[validator]})
                self.assertEqual((again.status, again.body), (200, new))
        served.log.wait_for("delivered. 1001 B in 1 request$")
        same = served.fetch("/f", {"Range": "bytes=500-", "If-Range": rest.headers["ETag"]})
        self.assertEqual((same.status, same.body), (206, new[500:]))


class ChangingFileTest(SocketCase):
    SIZE = 8 * MB  # more than the system takes at once

    def change(self, change: Callable[[], object]) -> tuple[bytes, bytes, Served]:
        """Change the file while it is being sent; return what it was, what came, and the server."""
        data = self.write("f", self.SIZE)
        served = self.serve()
        with served.connect(NARROW) as client:
            read = self.read_some(client, "/f", 10_000, more="Connection: close\r\n")
            change()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MB)
            return data, read + read_all(client), served

    def append(self) -> None:
        with open(self.folder / "f", "ab") as file:
            file.write(bytes(MB))

    def replace(self) -> None:
        self.write("g", self.SIZE)
        os.replace(self.folder / "g", self.folder / "f")

    def test_appended_to_replaced_or_deleted(self) -> None:
        for change in (self.append, self.replace, lambda: os.unlink(self.folder / "f")):
            data, read, served = self.change(change)
            self.assertTrue(read == data, len(read))
            served.log.wait_for("req finished. 7.6 MiB")

    def test_shrunk(self) -> None:
        data, read, served = self.change(lambda: os.truncate(self.folder / "f", self.SIZE // 2))
        self.assertTrue(10_000 <= len(read) < self.SIZE, len(read))
        self.assertTrue(data.startswith(read[: self.SIZE // 2]))
        served.log.wait_for(r"req terminated\. at \d+% .* of 7\.6 MiB\), the file became shorter$")
        self.assertFalse([line for line in served.log.all() if "finished" in line or "delivered" in line])

    def test_overwritten_in_place(self) -> None:
        """What came is neither the old version nor the new one: it must not pass for a whole file."""

        def overwrite() -> None:
            with open(self.folder / "f", "r+b") as file:
                file.write(bytes(self.SIZE))
            os.utime(self.folder / "f", (1, 1))  # whatever the resolution of its clock

        _, read, served = self.change(overwrite)
        self.assertTrue(10_000 <= len(read) < self.SIZE, len(read))
        served.log.wait_for(r"req terminated\. at \d+% .* of 7\.6 MiB\), the file was changed$")
        self.assertFalse([line for line in served.log.all() if "finished" in line or "delivered" in line])

    def test_shrunk_and_the_connection_is_kept(self) -> None:
        """The cut must come by itself: a receiver that would go on waits for the rest of Content-Length."""
        self.write("f", self.SIZE)
        served = self.serve()
        with served.connect(NARROW) as client, deadline():
            self.read_some(client, "/f", 10_000)
            os.truncate(self.folder / "f", self.SIZE // 2)
            self.assertLess(len(read_all(client)), self.SIZE)


class SystemThatCannotTellTest(WaitCase):
    def test_positions_are_counted_all_the_same(self) -> None:
        self.queued = None
        starts = itertools.accumulate([10, 1010, 1010])
        transfers = [self.hand_over(name) for name in ("a", "b", "c")]
        self.assertEqual([transfer.start for transfer in transfers], list(starts))
        self.watch()
        self.assertEqual([done for _, done in self.deliveries.under_way()], [1000] * 3)
