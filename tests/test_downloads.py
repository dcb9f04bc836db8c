"""Downloads: which one a request belongs to, what has arrived, and when it is delivered."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import tempfile
import threading
import unittest
from typing import Any, Callable, Iterable
from unittest import mock

from httpd_download import (
    GRACE,
    MOST_BROKEN,
    MOST_RESTING,
    MOST_SPANS,
    PROBE,
    REST,
    STALLED,
    TCP_CLOSE,
    TCP_INFO,
    Connection,
    ContentChanged,
    Download,
    Downloads,
    File,
    Receiver,
    Refusal,
    State,
    Transfer,
    Version,
    count_bytes,
    find_download,
    format_size,
    unite,
)
from tests.support import Lines, reset, until

MIB = 1 << 20
SIZE = 100 * MIB
CURL = Receiver("10.0.0.5", "curl")
WGET = Receiver("10.0.0.5", "wget")
AWAY = Receiver("10.9.9.9", "curl")
OLD, NEW = Version('"old"', SIZE, (1, 1)), Version('"new"', SIZE, (1, 2))
GROWN = Version('"grown"', SIZE + 5 * MIB, (1, 1))


class Source:
    """What a link stands for; ``change`` is what its next check finds."""

    def __init__(self, version: Version = OLD, name: str = "f") -> None:
        self.version, self.name = version, name
        self.change = ""

    def check(self) -> None:
        if self.change:
            raise ContentChanged(self.change)


class Wire:
    """A connection whose counts are in the test's hands."""

    def __init__(self, clock: Any = lambda: 0.0) -> None:
        self.sent = self.departed = self.acknowledged = self.seen = 0
        self.is_reset = self.is_cut = False
        self.file: Source | None = None
        self.clock = clock
        self.moved = clock()

    @property
    def waiting(self) -> int:
        return self.sent - self.acknowledged

    def look(self) -> None:
        if self.acknowledged > self.seen:
            self.seen, self.moved = self.acknowledged, self.clock()

    def cut(self) -> None:
        self.is_cut = True


def make_transfer(
    receiver: Receiver, *spans: tuple[int, int], source: Source | None = None, **facts: Any
) -> Transfer:
    source = source or Source()
    transfer = Transfer(receiver, "GET /f", source.name, source.version, spans)
    wire = Wire()
    transfer.connection, transfer.position = wire, 0  # type: ignore[assignment]
    for name, value in facts.items():
        setattr(wire if name in ("acknowledged", "departed") else transfer, name, value)
    return transfer


class UniteTest(unittest.TestCase):
    def test_against_sets_of_bytes(self) -> None:
        drawn = random.Random(1)
        for _ in range(300):
            spans = [(start, start + drawn.randrange(9)) for start in drawn.choices(range(30), k=8)]
            united = unite(spans)
            expected = {byte for span in spans for byte in range(*span)}
            self.assertEqual({byte for span in united for byte in range(*span)}, expected)
            self.assertEqual(count_bytes(united), len(expected))
            pairs = zip(united, united[1:])
            self.assertTrue(all(one[1] < other[0] for one, other in pairs), spans)


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


class FindTest(unittest.TestCase):
    """One rule after the other; bytes are counted in MiB."""

    def setUp(self) -> None:
        self.known: list[Download] = []

    def download(
        self, receiver: Receiver, *transfers: Transfer, version: Version = OLD, **facts: Any
    ) -> Download:
        """Make a download known, whose *transfers* are under way or, in state BROKEN, broken."""
        download = Download(receiver, "f", version)
        for name, value in facts.items():
            setattr(download, name, value)
        for transfer in transfers:
            transfer.download = download
            place = download.broken if transfer.state is State.BROKEN else download.transfers
            place.append(transfer)
        self.known.append(download)
        return download

    def left_off(
        self,
        at: float,
        start: float = 0,
        stop: float = 100,
        receiver: Receiver = CURL,
        **facts: Any,
    ) -> Transfer:
        """Return a transfer that has acknowledged up to *at* MiB."""
        span = (int(start * MIB), int(stop * MIB))
        acknowledged = int(at * MIB) - span[0]
        facts = {"departed": acknowledged, "state": State.BROKEN, **facts}
        return make_transfer(receiver, span, acknowledged=acknowledged, **facts)

    def find(
        self, first: float, stop: float = 100, receiver: Receiver = CURL, **facts: Any
    ) -> tuple[Download | None, Transfer | None]:
        request = make_transfer(receiver, (int(first * MIB), int(stop * MIB)), **facts)
        return find_download(request, self.known)

    def test_1_everything_is_a_new_download(self) -> None:
        self.download(CURL, self.left_off(40))
        self.assertEqual(self.find(0), (None, None))

    def test_2_it_goes_on_from_the_same_receiver(self) -> None:
        rows: list[tuple[str, dict[str, Any], float, bool]] = [
            ("where it left off", {}, 40.0, True),
            ("8 MiB before: acknowledged, and never read", {}, 32.0, True),
            ("a little more than 8 MiB before", {}, 31.99, False),
            ("a little behind: nothing has left that was not acknowledged", {}, 40.01, False),
            ("behind: acknowledgements were lost", {"departed": 45 * MIB}, 45.0, True),
            ("behind what has left the machine", {"departed": 45 * MIB}, 45.01, False),
            ("behind, after a reset", {"departed": 45 * MIB, "is_reset": True}, 40.01, False),
            ("where it left off, after a reset", {"is_reset": True}, 40.0, True),
            ("gone on from already", {"gone_on": (40 * MIB, 40 * MIB)}, 40.0, False),
            ("still under way", {"state": State.SENDING}, 38.0, True),
        ]
        for label, facts, first, expected in rows:
            with self.subTest(label):
                self.known.clear()
                old = self.left_off(40, **facts)
                download = self.download(CURL, old)
                # So that rule 3 would take another one.
                self.download(CURL, self.left_off(90, 60), ended=[(0, 60 * MIB)], asked=9)
                found = self.find(first)
                self.assertEqual(found == (download, old), expected, found)

    def test_2_only_from_what_was_asked_for_that_byte(self) -> None:
        segment = self.left_off(20, 10, 20)
        download = self.download(CURL, segment)
        self.assertEqual(self.find(19.9), (download, segment))
        self.assertEqual(self.find(20), (download, None))
        self.assertEqual(self.find(9.9), (download, None))

    def test_2_of_several_the_nearest(self) -> None:
        transfers = [self.left_off(at) for at in (44, 41, 47)]
        downloads = [self.download(CURL, transfer) for transfer in transfers]
        self.assertEqual(self.find(40), (downloads[1], transfers[1]))
        self.assertEqual(self.find(44), (downloads[0], transfers[0]))
        self.assertEqual(self.find(46), (downloads[2], transfers[2]))

    def test_2_never_from_several_ranges(self) -> None:
        several = make_transfer(CURL, (0, MIB), (2 * MIB, 3 * MIB), acknowledged=2 * MIB)
        download = self.download(CURL, several)
        self.assertEqual(self.find(2), (download, None))

    def test_3_the_one_under_way_that_was_asked_last(self) -> None:
        under_way: dict[str, Any] = {"state": State.SENDING}
        self.download(CURL, self.left_off(1, **under_way), asked=1, ended=[(0, 90 * MIB)])
        last = self.download(CURL, self.left_off(1, **under_way), asked=2)
        self.download(CURL, self.left_off(60), asked=3, ended=[(0, 60 * MIB)])
        self.assertEqual(self.find(75), (last, None))
        self.assertEqual(self.find(0, 10), (last, None), "the first segment")

    def test_3_what_was_gone_on_from_is_not_under_way(self) -> None:
        lingering = self.left_off(10, state=State.SENDING, is_left=True)
        self.download(CURL, lingering, asked=2)
        most = self.download(CURL, self.left_off(60), ended=[(0, 60 * MIB)], asked=1)
        self.assertEqual(self.find(75), (most, None))

    def test_3_else_the_one_of_which_most_has_arrived(self) -> None:
        self.download(CURL, self.left_off(10), ended=[(0, 10 * MIB)], asked=2)
        most = self.download(CURL, self.left_off(60), ended=[(0, 60 * MIB)], asked=1)
        self.assertEqual(self.find(75), (most, None))

    def test_3_comes_before_4(self) -> None:
        self.download(AWAY, self.left_off(40, receiver=AWAY))
        own = self.download(CURL, self.left_off(10))
        self.assertEqual(self.find(40), (own, None))

    def test_4_another_receiver_that_moved(self) -> None:
        for moved in (AWAY, WGET):
            self.known.clear()
            old = self.left_off(40, receiver=moved)
            download = self.download(moved, old)
            self.assertEqual(self.find(38), (download, old))
            self.assertEqual(self.find(60), (None, None))

    def test_4_of_several_the_nearest(self) -> None:
        transfers = [self.left_off(at, receiver=AWAY) for at in (44, 41, 47)]
        downloads = [self.download(AWAY, transfer) for transfer in transfers]
        self.assertEqual(self.find(40.5), (downloads[1], transfers[1]))

    def test_5_nothing_is_known(self) -> None:
        self.assertEqual(self.find(40), (None, None))
        self.assertEqual(self.find(0, 10), (None, None))

    def test_two_behind_one_address(self) -> None:
        one, other = self.left_off(30), self.left_off(60)
        downloads = [self.download(CURL, one), self.download(CURL, other)]
        self.assertEqual(self.find(60), (downloads[1], other))
        self.assertEqual(self.find(29), (downloads[0], one))

    def test_other_programs_behind_one_address(self) -> None:
        self.download(WGET, self.left_off(60, receiver=WGET), ended=[(0, 60 * MIB)])
        own = self.download(CURL, self.left_off(30))
        self.assertEqual(self.find(50), (own, None))

    def test_versions(self) -> None:
        old = self.left_off(40)
        download = self.download(CURL, old)
        new = Source(NEW)
        # Without a validator it belongs to the old one, which is then refused.
        self.assertEqual(self.find(40, source=new), (download, old))
        self.assertEqual(self.find(75, source=new), (download, None))
        # With one it is protected; and whoever asks for the beginning begins anew.
        self.assertEqual(self.find(40, source=new, is_conditional=True), (None, None))
        self.assertEqual(self.find(0, 10, source=new), (None, None))

    def test_versions_given_up(self) -> None:
        later = self.download(CURL, self.left_off(10), version=NEW)
        self.download(CURL, self.left_off(40), given_up_for=later)
        self.assertEqual(self.find(40, source=Source(NEW)), (later, None))
        # A probe gives nothing up: when it is forgotten, the old one counts again.
        self.known[1].given_up_for = None
        self.known.remove(later)
        self.assertEqual(self.find(40, source=Source(NEW))[0], self.known[0])

    def test_two_behind_one_address_of_whom_one_began_anew(self) -> None:
        later = self.download(CURL, self.left_off(100), version=NEW, state=State.DELIVERED)
        old = self.left_off(40)
        given_up = self.download(CURL, old, given_up_for=later)
        new = Source(NEW)
        self.assertEqual(self.find(40, source=new), (given_up, old))
        self.assertEqual(self.find(60, source=new), (None, None))
        self.assertEqual(self.find(40, receiver=AWAY, source=new), (None, None))
        self.assertEqual(self.find(40, source=new, is_conditional=True), (None, None))
        given_up.state = State.DELIVERED
        self.assertEqual(self.find(100, 105, source=Source(GROWN)), (given_up, None))

    def test_delivered_ones_are_not_gone_on_with(self) -> None:
        self.download(CURL, self.left_off(40), state=State.DELIVERED)
        self.assertEqual(self.find(40), (None, None))
        self.assertEqual(self.find(50), (None, None))

    def test_from_the_end_of_what_was_delivered(self) -> None:
        delivered = self.download(CURL, state=State.DELIVERED, ended=[(0, SIZE)])
        self.assertEqual(self.find(100, 105, source=Source(GROWN)), (delivered, None))
        self.assertEqual(self.find(100, 105, AWAY, source=Source(GROWN)), (None, None))
        self.assertEqual(self.find(99, 105, source=Source(GROWN)), (None, None))


class Case(unittest.TestCase):
    """Downloads whose time, and whose connections, are in the test's hands; bytes in MiB."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.log = Lines()
        self.make(0, ())

    def make(self, wanted: int, named: Iterable[str]) -> None:
        self.downloads = Downloads(self.log.log, 60.0, wanted, named, lambda: self.now)

    def ask(
        self,
        start: float = 0,
        stop: float = 100,
        receiver: Receiver = CURL,
        source: Source | None = None,
        wire: Wire | None = None,
        **facts: Any,
    ) -> Transfer:
        """Let *receiver* ask for bytes; the whole body is handed over, nothing is acknowledged."""
        source = source or Source()
        stop = min(stop, source.version.size / MIB)
        span = (int(start * MIB), int(max(start, stop) * MIB))
        transfer = make_transfer(receiver, span, source=source, **facts)
        wire = wire or Wire(lambda: self.now)
        self.downloads.went_on(wire)  # type: ignore[arg-type]
        if "status" not in facts:
            transfer.status = 200 if transfer.is_everything else 206
        self.downloads.begin(wire, transfer, lambda size: 0)  # type: ignore[arg-type]
        transfer.position = wire.sent
        wire.sent += transfer.length
        wire.file = source
        return transfer

    def acknowledge(self, transfer: Transfer, count: float, departed: float = 0) -> None:
        """Let *count* MiB of the body be acknowledged, and *departed* have left the machine."""
        wire = transfer.connection
        wire.acknowledged = transfer.position + int(count * MIB)
        wire.departed = max(wire.acknowledged, transfer.position + int(departed * MIB))

    def finish(self, transfer: Transfer) -> None:
        """Let all be acknowledged, and the receiver go on."""
        self.acknowledge(transfer, transfer.length / MIB)
        self.downloads.went_on(transfer.connection)

    def reset(self, transfer: Transfer, count: float | None = None) -> None:
        """Let the receiver be killed after *count* MiB."""
        if count is not None:
            self.acknowledge(transfer, count)
        self.downloads.broken(transfer.connection, ConnectionResetError())

    def wait(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.downloads.watch()

    def check(self, *expected: str) -> None:
        """The log has these lines, of which the address and the request are left out."""
        lines = [line.split(" ", 1)[1].replace('"GET /f" ', "") for line in self.log.all()]
        self.assertEqual(lines, list(expected))

    def summary(self) -> list[str]:
        return self.downloads.stop()


DELIVERED = '"/f" delivered. 100.0 MiB in {}'.format


class ConnectionTest(unittest.TestCase):
    """What other threads find out of a socket, while its own uses or closes it."""

    def setUp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            self.server, _ = listening.accept()
        self.addCleanup(self.client.close)
        self.addCleanup(self.server.close)

    @unittest.skipIf(TCP_INFO < 0, "the system does not tell")
    def test_a_reset_while_bytes_are_handed_over(self) -> None:
        # What has arrived is known also of what a sendfile has not told yet.
        connection = Connection(self.server)

        def look() -> Connection:
            connection.look()
            return connection

        self.server.send(bytes(30_000))
        self.assertEqual(len(self.client.recv(30_000, socket.MSG_WAITALL)), 30_000)
        until(lambda: look().acknowledged == 30_000, "that is counted")
        self.assertEqual((connection.departed, connection.is_reset), (30_000, False))
        reset(self.client)
        until(lambda: look().is_reset, "the reset is seen")
        self.assertEqual(connection.acknowledged, 30_000)

    def end(self, connection: Connection) -> None:
        """Wait until the system has closed what both sides have said to be over."""

        def is_closed() -> bool:
            connection.look()
            return self.server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE

        until(is_closed, "the connection has ended")

    @unittest.skipIf(TCP_INFO < 0, "the system does not tell")
    def test_a_reset_after_both_have_said_that_nothing_more_comes(self) -> None:
        # aria2 closes once it has its piece; what comes after that is answered with a reset.
        connection = Connection(self.server)
        self.server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.send(iter(lambda: bytes(1 << 16), b""))
        self.client.shutdown(socket.SHUT_WR)
        connection.shut()
        reset(self.client)
        self.end(connection)
        self.assertTrue(connection.is_reset)

    @unittest.skipIf(TCP_INFO < 0, "the system does not tell")
    def test_no_reset_where_both_have_all(self) -> None:
        connection = Connection(self.server)
        connection.send([bytes(1000)])
        connection.shut()
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(len(self.client.recv(2000, socket.MSG_WAITALL)), 1000)
        self.end(connection)
        self.assertFalse(connection.is_reset)

    @unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
    def test_a_system_that_tells_less(self) -> None:
        """Linux before 4.19, or WSL 1, which tells nothing: bytes count as they are handed over."""

        class Silent(socket.socket):
            told: bytes | None = None

            def getsockopt(self, level: int, option: int, *length: int) -> Any:
                if (level, option) != (socket.IPPROTO_TCP, TCP_INFO):
                    return super().getsockopt(level, option, *length)
                if self.told is None:
                    raise OSError(errno.ENOPROTOOPT, "Protocol not available")
                return self.told

        size = 4 * MIB
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            status = os.fstat(file.fileno())
            for Silent.told in (None, bytes(104)):
                self.setUp()
                with self.subTest(bool(Silent.told)), Silent(fileno=self.server.detach()) as server:
                    connection = Connection(server)
                    part = File(os.dup(file.fileno()), "f", size, status.st_mtime_ns)
                    arguments = ([(part, 0, size)],)
                    sender = threading.Thread(target=connection.send, args=arguments)
                    sender.start()

                    def has(count: int, connection: Connection = connection) -> bool:
                        connection.look()
                        return connection.acknowledged >= count

                    received = len(self.client.recv(MIB, socket.MSG_WAITALL))
                    until(lambda: has(1), "some of it is counted")
                    self.assertLess(connection.acknowledged, size)
                    while received < size:
                        received += len(self.client.recv(MIB))
                    until(lambda: has(size), "all of it is counted")
                    sender.join()

    def test_closed_by_its_own_thread(self) -> None:
        connection = Connection(self.server)
        self.server.close()
        connection.look()


class TransferTest(Case):
    """How one ends: the rows of the first table."""

    def test_acknowledged_and_half_a_second(self) -> None:
        transfer = self.ask()
        self.acknowledge(transfer, 100)
        self.wait()
        self.wait(GRACE * 0.9)
        self.check("200 -")
        self.wait(GRACE * 0.2)
        self.check("200 -", "req finished. 100.0 MiB, 0.0 s, 97.7 GiB/s", DELIVERED("1 request"))

    def test_the_next_request_or_fin_needs_no_wait(self) -> None:
        transfer = self.ask()
        self.acknowledge(transfer, 99.99)
        self.downloads.went_on(transfer.connection)
        self.check("200 -")
        self.now += 4
        self.finish(transfer)
        self.check("200 -", "req finished. 100.0 MiB, 4.0 s, 25.0 MiB/s", DELIVERED("1 request"))

    def test_the_last_byte_alone_is_lacking(self) -> None:
        transfer = self.ask()
        transfer.connection.acknowledged = SIZE - 1
        self.wait(10)
        self.wait(10)
        self.check("200 -")

    def test_a_reset_takes_the_last_byte_back(self) -> None:
        transfer = self.ask()
        self.acknowledge(transfer, 100)
        self.wait()
        self.reset(transfer)
        self.wait(REST)
        self.check("200 -", "req terminated. at 99% (100.0 MiB of 100.0 MiB)")

    def test_a_reset_at_any_point(self) -> None:
        for count, share in [(0, "0% (0 B"), (0.5, "0% (512.0 KiB"), (45, "45% (45.0 MiB")]:
            with self.subTest(count):
                self.setUp()
                self.reset(self.ask(), count)
                self.wait(REST)
                self.check("200 -", f"req terminated. at {share} of 100.0 MiB)")

    def test_what_else_breaks_is_named(self) -> None:
        for error, reason in [
            (OSError(5, "Input/output error"), ", Input/output error"),
            (ContentChanged("the file was changed"), ", the file was changed"),
            (TimeoutError(), ""),
            (OSError(113, "No route to host"), ""),
            (BrokenPipeError(), ""),
        ]:
            with self.subTest(error):
                self.setUp()
                transfer = self.ask()
                self.acknowledge(transfer, 45)
                self.downloads.broken(transfer.connection, error)
                self.wait(REST)
                told = f"req terminated. at 45% (45.0 MiB of 100.0 MiB){reason}"
                self.check("200 -", told)

    def test_what_is_broken_is_not_looked_at_once_more(self) -> None:
        # Where a file has changed that takes a while, in which nobody else is served.
        source = Source()
        transfer = self.ask(source=source)
        with mock.patch.object(source, "check") as check:
            self.downloads.broken(transfer.connection, ContentChanged("the file was changed"))
        check.assert_not_called()

    def test_a_probe_that_ends_after_its_receiver_has_all(self) -> None:
        # aria2 on a fast network: its pieces are there before the probe's reset is.
        self.reset(self.ask(), 2)
        self.wait(REST)
        probe = self.ask()
        self.finish(self.ask(1))
        self.reset(probe, 0.1)
        self.wait(REST)
        # And it may have ended when the other had no more yet.
        self.reset(self.ask(0, 100, AWAY), 0.1)
        self.wait(REST)
        self.reset(self.ask(0, 100, AWAY), 0.1)
        self.finish(self.ask(0.1, 100, AWAY))
        self.wait(REST)
        ends = [line for line in self.log.all() if "req terminated" in line]
        self.assertEqual(len(ends), 2, self.log.all())
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 2)

    def test_changed_while_its_last_bytes_wait(self) -> None:
        source = Source()
        transfer = self.ask(source=source)
        self.acknowledge(transfer, 100)
        self.wait()
        source.change = "the file was changed"
        self.downloads.went_on(transfer.connection)
        self.wait(REST)
        told = "req terminated. at 99% (100.0 MiB of 100.0 MiB), the file was changed"
        self.check("200 -", told)

    def test_whoever_acknowledges_nothing_is_cut(self) -> None:
        transfer = self.ask()
        self.acknowledge(transfer, 45)
        self.wait()
        self.wait(60)
        self.check("200 -")
        self.assertFalse(transfer.connection.is_cut)  # type: ignore[attr-defined]
        self.wait(0.1)
        self.assertTrue(transfer.connection.is_cut)  # type: ignore[attr-defined]
        self.wait(REST)
        told = "req terminated. at 45% (45.0 MiB of 100.0 MiB), nothing was acknowledged for 60 s"
        self.check("200 -", told)

    def test_a_disk_that_gives_nothing_is_named(self) -> None:
        transfer = self.ask()
        transfer.connection.sent = transfer.connection.acknowledged = 45 * MIB
        self.wait()
        self.wait(60.1)
        self.wait(REST)
        told = "req terminated. at 45% (45.0 MiB of 100.0 MiB), nothing came from the disk for 60 s"
        self.check("200 -", told)

    def test_leave_waits_for_the_end(self) -> None:
        transfer = self.ask()
        self.acknowledge(transfer, 100)
        self.downloads.went_on(transfer.connection)
        self.downloads.leave(transfer.connection)
        self.assertFalse(self.downloads._transfers)


class DownloadTest(Case):
    """What becomes of downloads: the rows of the second table, and what is seen of them."""

    def test_broken_off_and_resumed(self) -> None:
        self.reset(self.ask(), 45)
        self.wait(REST)
        self.now += 60
        rest = self.ask(40)
        self.now += 6
        self.finish(rest)
        self.check(
            "200 -",
            "req terminated. at 45% (45.0 MiB of 100.0 MiB)",
            "206 -",
            "req finished. 60.0 MiB, 6.0 s, 10.0 MiB/s",
            DELIVERED("2 requests"),
        )

    def test_resumed_before_it_rests_makes_no_line(self) -> None:
        self.reset(self.ask(), 45)
        self.wait(REST * 0.9)
        self.finish(self.ask(45))
        told = "req finished. 100.0 MiB, 0.5 s, 222.2 MiB/s"
        self.check("200 -", told, DELIVERED("2 requests"))

    def test_segments_make_three_lines_in_any_order(self) -> None:
        bounds = [(index * 6.25, (index + 1) * 6.25) for index in range(16)]
        for seed in range(10):
            self.setUp()
            random.Random(seed).shuffle(bounds)
            transfers = [self.ask(*bound) for bound in bounds]
            random.Random(seed).shuffle(transfers)
            for transfer in transfers:
                self.finish(transfer)
            lines = self.log.all()
            self.assertEqual(len(lines), 3, lines)
            self.assertIn('"/f" delivered. 100.0 MiB in 16 requests', lines[2])

    def test_16_segments_killed_and_resumed(self) -> None:
        drawn = random.Random(3)
        bounds = [(index * 6.25, (index + 1) * 6.25) for index in range(16)]
        transfers = [self.ask(*bound) for bound in bounds]
        have = []
        for transfer, (start, _) in zip(transfers, bounds):
            count = drawn.choice([0, 0.1, 3, 6])
            have.append(start + max(0, count - drawn.choice([0, 0.5])))
            self.reset(transfer, count)
        self.wait(REST)
        self.assertIn("req terminated. at ", self.log.all()[-1])
        pieces = [(start, stop) for start, (_, stop) in zip(have, bounds)]
        drawn.shuffle(pieces)
        for transfer in [self.ask(*piece) for piece in pieces]:
            self.assertNotIn("delivered", "".join(self.log.all()))
            self.finish(transfer)
        self.assertIn('"/f" delivered. 100.0 MiB in 32 requests', self.log.all()[-1])

    def test_a_range_is_no_delivery(self) -> None:
        self.finish(self.ask(10, 20))
        self.wait(REST)
        self.check("206 -", "req finished. 10.0 MiB of 100.0 MiB, 0.0 s, 9.8 GiB/s")

    def test_a_whole_file_in_one_response_is_a_delivery_by_itself(self) -> None:
        whole = self.ask()
        self.ask(50)
        self.finish(whole)
        self.assertIn(DELIVERED("2 requests"), self.log.all()[-1])

    def test_an_empty_file(self) -> None:
        empty = Source(Version('"e"', 0))
        self.finish(self.ask(0, 0, source=empty))
        self.assertIn('"/f" delivered. 0 B in 1 request', self.log.all()[-1])
        self.reset(self.ask(0, 0, source=empty))
        self.wait(REST)
        self.assertIn("req terminated. at 0% (0 B of 0 B)", self.log.all()[-1])

    def test_several_ranges_of_which_all_have_arrived(self) -> None:
        wire = Wire(lambda: self.now)
        parts: list[Any] = [b"--x", (90 * MIB, SIZE), b"--x", (0, 10 * MIB), b"--x--"]
        transfer = Transfer(CURL, "GET /f", "f", OLD, parts)
        self.downloads.went_on(wire)  # type: ignore[arg-type]
        self.downloads.begin(wire, transfer, lambda size: 0)  # type: ignore[arg-type]
        transfer.position, wire.sent = 0, transfer.length
        wire.acknowledged = 20 * MIB + 5
        self.wait()
        self.assertEqual(self.downloads.rows(8)[0][0].arrived, 0)
        wire.acknowledged = transfer.length
        self.downloads.went_on(wire)  # type: ignore[arg-type]
        self.finish(self.ask(10, 90))
        self.assertIn(DELIVERED("2 requests"), self.log.all()[-1])

    def test_two_behind_one_address_both_broken_off_and_resumed(self) -> None:
        one, other = self.ask(), self.ask()
        self.reset(one, 30)
        self.reset(other, 60)
        self.wait(REST)
        rest_of_one, rest_of_other = self.ask(29), self.ask(60)
        self.finish(rest_of_other)
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 1)
        self.finish(rest_of_one)
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 2)

    def test_one_is_whole_while_the_other_is_half(self) -> None:
        one, other = self.ask(), self.ask()
        self.reset(one, 50)
        self.finish(other)
        self.wait(REST)
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 1)
        self.assertIn("req terminated. at 50%", self.log.all()[-1])

    def test_begun_anew_by_another_client(self) -> None:
        # curl is broken off at 60 %; axel fetches from zero: nothing is whole until axel has it.
        self.reset(self.ask(), 60)
        self.wait(REST)
        axel = Receiver("10.0.0.5", "Axel")
        bounds = [(0, 25), (75, 100), (50, 75), (25, 50)]
        probe = self.ask(0, 100, axel)
        segments = [self.ask(*bound, receiver=axel) for bound in bounds]
        self.reset(probe, 0.1)
        for segment in segments[1:]:
            self.finish(segment)
        self.assertNotIn("delivered", "".join(self.log.all()))
        self.finish(segments[0])
        self.assertIn(DELIVERED("5 requests"), self.log.all()[-1])

    def test_a_probe_makes_no_line_at_its_end(self) -> None:
        self.reset(self.ask(), 45)
        self.wait(REST)
        self.reset(self.ask(), PROBE / MIB - 0.01)
        pieces = [self.ask(60, 100), self.ask(44, 60)]
        for piece in pieces:
            self.finish(piece)
        self.wait(REST)
        events = [line.split(" ", 3)[3][:14] for line in self.log.all()]
        expected = ["200 -", "req terminated", "200 -", "206 -", "req finished. ", "delivered. 100"]
        self.assertEqual([event.strip() for event in events[:5]], [e.strip() for e in expected[:5]])
        self.assertIn(DELIVERED("3 requests"), self.log.all()[-1])

    def test_no_probe_where_it_was_not_the_receiver_who_broke_off(self) -> None:
        self.reset(self.ask(), 45)
        self.wait(REST)
        cut = self.ask()
        self.acknowledge(cut, 0.5)
        self.downloads.broken(cut.connection, ContentChanged("the file was changed"))
        self.wait(REST)
        told = "req terminated. at 0% (512.0 KiB of 100.0 MiB), the file was changed"
        self.assertIn(told, self.log.all()[-1])

    def test_no_probe_where_the_receiver_has_nothing_more(self) -> None:
        self.reset(self.ask(), 0.5)
        self.wait(REST)
        self.reset(self.ask(), 0.6)
        self.wait(REST)
        self.assertEqual(sum("terminated" in line for line in self.log.all()), 2)

    def test_whole_together(self) -> None:
        # aria2 whose first piece is lacking: its probe goes on as that piece.
        self.finish(self.ask(50, 100))
        self.wait(REST)
        first = self.ask()
        self.reset(first, 50.1)
        self.wait(REST)
        self.assertIn(DELIVERED("2 requests"), self.log.all()[-1])
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 1)
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5"])

    def test_a_connection_that_lingers_does_not_hold_delivery_up(self) -> None:
        lingering = self.ask()
        self.acknowledge(lingering, 45, departed=50)
        self.wait(10)
        rest = self.ask(48)
        self.finish(rest)
        self.check("200 -", "req finished. 97.0 MiB, 10.0 s, 9.7 MiB/s", DELIVERED("2 requests"))
        # What becomes of it later is of no interest any more.
        self.wait(60)
        self.wait(REST)
        self.assertEqual(len(self.log.all()), 3)

    def test_a_hole_is_filled_where_the_receiver_went_on(self) -> None:
        rows: list[tuple[str, Callable[[Transfer], None], bool]] = [
            ("it says nothing more", lambda transfer: None, True),
            ("it acknowledges more", lambda transfer: self.acknowledge(transfer, 46), False),
            ("it is reset", self.reset, False),
        ]
        for label, later, delivered in rows:
            with self.subTest(label):
                self.setUp()
                lingering = self.ask()
                self.acknowledge(lingering, 45, departed=50)
                rest = self.ask(48)
                later(lingering)
                self.finish(rest)
                found = any("delivered" in line for line in self.log.all())
                self.assertEqual(found, delivered, self.log.all())

    def test_a_hole_behind_what_was_cut(self) -> None:
        lingering = self.ask()
        self.acknowledge(lingering, 45, departed=50)
        self.wait()
        self.wait(61)
        self.wait(REST)
        self.assertIn("terminated. at 45%", self.log.all()[-1])
        self.finish(self.ask(48))
        self.assertIn(DELIVERED("2 requests"), self.log.all()[-1])

    def test_a_parallel_request_of_another_is_no_resumption(self) -> None:
        # A has acknowledged 200 kB of all; B, same address, fetches from 2 MiB on; A is killed.
        one = self.ask()
        self.acknowledge(one, 0.2, departed=0.3)
        other = self.ask(2)
        self.finish(other)
        self.reset(one)
        self.wait(REST)
        self.assertFalse(any("delivered" in line for line in self.log.all()), self.log.all())

    def test_parallel_open_ended_ranges(self) -> None:
        # Chromium's: each is closed where the next one began.
        transfers = [self.ask(), self.ask(30), self.ask(60)]
        self.finish(transfers[2])
        for transfer in transfers[:2]:
            self.assertFalse(any("delivered" in line for line in self.log.all()))
            self.reset(transfer, 31)
        self.assertIn(DELIVERED("3 requests"), self.log.all()[-1])

    def test_a_receiver_that_moves_keeps_its_download(self) -> None:
        lingering = self.ask()
        self.acknowledge(lingering, 45)
        rest = self.ask(45, receiver=AWAY)
        self.finish(rest)
        self.wait(STALLED)
        self.assertTrue(self.log.all()[-1].startswith("10.9.9.9 "), self.log.all())
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.9.9.9"])

    def test_whom_another_seems_to_go_on_from_is_under_way_while_it_goes_forward(self) -> None:
        # Who comes may have its first part from before this program was started.
        self.make(1, ())
        there = self.ask()
        self.acknowledge(there, 45)
        self.finish(self.ask(40, receiver=AWAY))
        for arrived in range(50, 100, 10):
            self.wait(STALLED / 2)
            self.acknowledge(there, arrived)
            self.assertEqual(len(self.log.all()), 1, self.log.all())
            self.assertFalse(self.downloads.is_over())
        self.finish(there)
        self.assertTrue(self.downloads.is_over())
        self.assertEqual(
            self.summary(), ["stopped. delivered: f to 10.0.0.5, f to 10.9.9.9"], self.log.all()
        )

    def test_what_it_gets_from_then_on_it_gets_for_itself(self) -> None:
        there = self.ask()
        self.acknowledge(there, 45)
        self.reset(self.ask(40, receiver=AWAY), 20)
        self.finish(there)
        self.wait(REST)
        told = "not whole: f to 10.9.9.9 at 60% (60.0 MiB of 100.0 MiB)"
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5", told])
        self.wait(1)
        self.reset(self.ask(), 0.5)
        self.wait(REST)
        self.assertIn("req terminated. at 0% (512.0 KiB of 100.0 MiB)", self.log.all()[-1])

    def test_a_player_that_seeks(self) -> None:
        last = self.ask()
        for first in (90, 20, 70, 40):
            self.reset(last, 3)
            last = self.ask(first)
        self.finish(last)
        self.wait(REST)
        lines = self.log.all()
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("req terminated. at ", lines[1])

    def test_what_lingers_counts_only_for_the_stretch_that_it_was_in(self) -> None:
        lingering = self.ask()
        self.acknowledge(lingering, 45)
        self.reset(self.ask(45), 5)
        self.wait(REST)
        self.finish(self.ask(50))
        self.assertIn("req finished. 50.0 MiB, ", self.log.all()[-2])

    def test_what_lingered_brings_the_rest(self) -> None:
        # Two were taken for one; the one that was gone on from goes on nevertheless.
        slow = self.ask()
        self.acknowledge(slow, 45)
        self.reset(self.ask(45), 10)
        self.wait(REST)
        self.assertIn("terminated. at 5", self.log.all()[-1])
        self.finish(slow)
        self.wait(REST)
        self.assertIn("delivered", self.log.all()[-1])

    def test_so_many_spans_that_it_is_forgotten(self) -> None:
        for index in range(MOST_SPANS + 5):
            self.finish(self.ask(index / 50, index / 50 + 0.01))
        self.wait(REST)
        self.finish(self.ask(0, 99))
        self.finish(self.ask(99, 100))
        self.wait(REST)
        self.assertTrue(any("delivered" in line for line in self.log.all()[-1:]))
        for download in self.downloads._downloads:
            self.assertLess(len(download.ended), MOST_SPANS + 2)
            self.assertLessEqual(len(download.broken), MOST_BROKEN)

    def test_the_longest_resting_is_forgotten_first(self) -> None:
        for index in range(MOST_RESTING + 10):
            receiver = Receiver(f"10.1.{index // 250}.{index % 250}", "curl")
            self.reset(self.ask(0, 100, receiver), 45 if index < 20 else 60)
            self.wait(REST)
        self.assertEqual(len(self.downloads._downloads), MOST_RESTING)
        for index in range(10, 20):
            self.finish(self.ask(45, 100, Receiver(f"10.1.0.{index}", "curl")))
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 10)
        self.finish(self.ask(45, 100, Receiver("10.1.0.0", "curl")))
        self.assertEqual(sum("delivered" in line for line in self.log.all()), 10)

    def test_what_one_receiver_repeats_does_not_forget_what_another_has(self) -> None:
        self.reset(self.ask(0, 100, AWAY), 45)
        self.wait(REST)
        for _ in range(MOST_RESTING + 10):
            self.finish(self.ask())
        self.finish(self.ask(45, 100, AWAY))
        self.assertIn("10.9.9.9", self.log.all()[-1])
        self.assertIn("delivered", self.log.all()[-1])


class VersionTest(Case):
    """No splice, ever."""

    def assert_refused(self, *arguments: Any, **facts: Any) -> None:
        with self.assertRaises(Refusal) as caught:
            self.ask(*arguments, **facts)
        refusal = caught.exception
        self.assertEqual(
            (refusal.status, refusal.phrase), (409, "The file has changed: start over")
        )

    def test_a_piece_that_overtakes_the_end_of_a_probe(self) -> None:
        # The thread that hands bytes over has yet to be told of the reset.
        self.reset(self.ask(), 30)
        self.wait(REST)
        probe = self.ask(source=Source(NEW))
        wire: Any = probe.connection

        def look() -> None:
            wire.is_reset = True

        wire.look = look
        self.assert_refused(30, source=Source(NEW))

    def test_resumed_after_the_file_was_replaced(self) -> None:
        self.reset(self.ask(), 30)
        self.wait(REST)
        self.assert_refused(30, source=Source(NEW))
        self.assert_refused(75, source=Source(NEW))
        # Before the 416, which would tell the receiver that it has all.
        self.assert_refused(30, source=Source(Version('"n"', 10 * MIB, (1, 2))))
        # From another address.
        self.assert_refused(30, 100, AWAY, source=Source(NEW))
        self.check("200 -", "req terminated. at 30% (30.0 MiB of 100.0 MiB)")

    def test_with_if_range_it_is_protected(self) -> None:
        self.reset(self.ask(), 30)
        self.finish(self.ask(30, source=Source(NEW), is_conditional=True))

    def test_resumed_at_the_end_of_a_version_that_was_delivered(self) -> None:
        self.finish(self.ask())
        bigger = Source(Version('"n"', 2 * SIZE, (1, 2)))
        self.assert_refused(100, 200, source=bigger)
        with self.assertRaises(Refusal) as caught:
            self.ask(100, 100)
        self.assertEqual(caught.exception.status, 416)

    def test_begun_anew(self) -> None:
        self.reset(self.ask(), 30)
        self.wait(REST)
        anew = self.ask(source=Source(NEW))
        segments = [self.ask(*bound, source=Source(NEW)) for bound in ((50, 75), (75, 100))]
        self.reset(anew, 50.2)
        for segment in segments:
            self.finish(segment)
        self.assertIn(DELIVERED("3 requests"), self.log.all()[-1])
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5"])

    def test_begun_anew_by_its_first_segment(self) -> None:
        self.reset(self.ask(), 30)
        self.wait(REST)
        for bound in ((0, 50), (50, 100)):
            self.finish(self.ask(*bound, source=Source(NEW)))
        self.assertIn(DELIVERED("2 requests"), self.log.all()[-1])

    def test_a_probe_gives_nothing_up(self) -> None:
        self.reset(self.ask(), 30)
        self.wait(REST)
        self.reset(self.ask(source=Source(NEW)), 0.1)
        self.assert_refused(29, source=Source(NEW))
        told = [
            "stopped. nothing was delivered",
            "not whole: f to 10.0.0.5 at 30% (30.0 MiB of 100.0 MiB)",
        ]
        self.assertEqual(self.summary(), told)

    def test_axel_begun_anew(self) -> None:
        # It asks for bytes=0- first, resets that, and fetches its segments in any order.
        self.reset(self.ask(), 30)
        self.wait(REST)
        self.reset(self.ask(source=Source(NEW), status=206), 0.1)
        for bound in ((50, 75), (75, 100), (0, 25), (25, 50)):
            self.finish(self.ask(*bound, source=Source(NEW)))
        self.assertIn(DELIVERED("5 requests"), self.log.all()[-1])

    def test_fetched_again_and_broken_off_at_once(self) -> None:
        self.finish(self.ask())
        self.wait(1)
        self.reset(self.ask(), 0.4)
        self.wait(REST)
        self.assertIn("req terminated. at 0% (409.6 KiB of 100.0 MiB)", self.log.all()[-1])
        self.assert_refused(0.4, source=Source(NEW))
        self.finish(self.ask(0.4))
        self.assertIn(DELIVERED("2 requests"), self.log.all()[-1])

    def test_axel_begun_anew_of_the_same_version(self) -> None:
        self.reset(self.ask(), 30)
        self.wait(REST)
        self.reset(self.ask(status=206), 0.1)
        self.wait(REST)
        # A probe: it makes no line.
        self.assertEqual(len(self.log.all()), 3)

    def test_one_that_only_grew_goes_on(self) -> None:
        self.reset(self.ask(), 30)
        self.wait(REST)
        self.finish(self.ask(30, 105, source=Source(GROWN)))
        self.assertIn('"/f" delivered. 105.0 MiB in 2 requests', self.log.all()[-1])

    def test_one_that_grew_after_it_was_delivered_goes_on(self) -> None:
        self.finish(self.ask())
        self.finish(self.ask(100, 105, source=Source(GROWN)))
        self.assertIn('"/f" delivered. 105.0 MiB in 2 requests', self.log.all()[-1])
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5 (2 times)"])

    def test_one_that_grows_is_not_delivered_by_what_it_was(self) -> None:
        whole = self.ask()
        piece = self.ask(1, 2, source=Source(GROWN))
        self.finish(whole)
        self.finish(piece)
        self.wait(REST)
        self.check("200 -", "req finished. 101.0 MiB of 105.0 MiB, 0.0 s, 98.6 GiB/s")

    def test_one_that_shrank_is_another(self) -> None:
        self.reset(self.ask(), 30)
        self.assert_refused(30, source=Source(Version('"less"', 60 * MIB, (1, 1))))

    def test_given_up_for_one_that_was_delivered_twice(self) -> None:
        self.reset(self.ask(), 41)
        for _ in range(2):
            self.finish(self.ask(source=Source(NEW)))
        # A part of the new one, got elsewhere: the old one is not mentioned any more.
        self.finish(self.ask(60, source=Source(NEW)))
        self.assertEqual(self.summary()[0], "stopped. delivered: f to 10.0.0.5 (2 times)")
        self.assertNotIn(" at 41%", " ".join(self.summary()))

    def test_two_behind_one_address_of_whom_one_has_begun_anew(self) -> None:
        self.reset(self.ask(), 41)
        self.finish(self.ask(source=Source(NEW)))
        self.assert_refused(41, source=Source(NEW))
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5"])
        # Nor is anybody else's nearer by.
        self.acknowledge(self.ask(receiver=AWAY, source=Source(NEW)), 40)
        self.assert_refused(40, source=Source(NEW))
        # What was given up has grown: it counts again.
        self.finish(self.ask(41, 105, source=Source(GROWN)))
        self.assertIn('"/f" delivered. 105.0 MiB in 2 requests', self.log.all()[-1])

    def test_two_behind_one_address_who_have_each_a_version(self) -> None:
        bigger = Source(Version('"n"', 2 * SIZE, (1, 2)))
        self.finish(self.ask())
        self.finish(self.ask(0, 200, source=bigger))
        self.assert_refused(100, 200, source=bigger)

    def test_other_names_do_not_matter(self) -> None:
        self.reset(self.ask(), 30)
        self.finish(self.ask(30, source=Source(NEW, "g")))


class EnoughTest(Case):
    def test_after_so_many_no_new_download_begins(self) -> None:
        self.make(2, ())
        self.finish(self.ask())
        self.assertFalse(self.downloads.is_enough())
        broken = self.ask(receiver=AWAY)
        self.reset(broken, 45)
        self.wait(REST)
        segment = self.ask(0, 50, WGET)
        self.finish(self.ask())
        self.assertTrue(self.downloads.is_enough())
        self.assertFalse(self.downloads.is_over())
        for arguments in [(0, 100, CURL), (45, 100, AWAY), (10, 20, Receiver("10.7.7.7", ""))]:
            with self.assertRaises(Refusal) as caught:
                self.ask(*arguments)
            self.assertEqual(caught.exception.status, 503)
        # Requests of those under way are answered.
        rest = self.ask(50, 100, WGET)
        for transfer in (segment, rest):
            self.finish(transfer)
        self.assertTrue(self.downloads.is_over())

    def test_each_that_was_named(self) -> None:
        self.make(2, ["f", "g"])
        for name, is_enough in [
            ("f", False),
            ("f", False),
            ("f", False),
            ("g", False),
            ("g", True),
        ]:
            self.assertFalse(self.downloads.is_enough())
            self.finish(self.ask(source=Source(name=name)))
            self.assertEqual(self.downloads.is_over(), is_enough)

    def test_what_has_broken_off_may_come_back_for_a_moment(self) -> None:
        self.make(1, ())
        other = self.ask(receiver=AWAY)
        self.finish(self.ask())
        self.reset(other, 45)
        self.assertFalse(self.downloads.is_over())
        self.wait(REST)
        self.assertTrue(self.downloads.is_over())

    def test_a_connection_that_lingers_is_not_waited_for(self) -> None:
        self.make(1, ())
        self.acknowledge(self.ask(), 45)
        self.finish(self.ask(45))
        self.assertTrue(self.downloads.is_over())

    def test_a_transfer_of_what_is_delivered_is_waited_for(self) -> None:
        self.make(1, ())
        whole = self.ask()
        other = self.ask(70)
        self.finish(whole)
        self.assertTrue(self.downloads.is_enough())
        self.assertFalse(self.downloads.is_over())
        self.finish(other)
        self.assertTrue(self.downloads.is_over())


class ViewTest(Case):
    def test_rows(self) -> None:
        one, other = self.ask(), self.ask(0, 100, AWAY, Source(name="g"))
        for second in range(1, 11):
            self.acknowledge(one, second * 2)
            self.acknowledge(other, min(second, 4))
            self.wait(1)
        rows, more = self.downloads.rows(8)
        self.assertEqual(
            [(row.name, row.address) for row in rows], [("f", "10.0.0.5"), ("g", "10.9.9.9")]
        )
        self.assertEqual([row.arrived // MIB for row in rows], [20, 4])
        self.assertEqual([round(row.idle) for row in rows], [0, 6])
        self.assertEqual((round(rows[0].rate / MIB, 1), rows[1].rate, more), (2.0, 0.0, 0))

    def test_the_share_is_that_of_the_file_over_all_requests(self) -> None:
        self.reset(self.ask(), 45)
        self.wait(REST)
        self.acknowledge(self.ask(45), 10)
        self.wait()
        self.assertEqual(self.downloads.rows(8)[0][0].arrived, 55 * MIB)

    def test_a_file_in_segments_is_one_row(self) -> None:
        for index in range(8):
            self.acknowledge(self.ask(index * 10, index * 10 + 10), 5)
        self.wait()
        rows, _ = self.downloads.rows(8)
        self.assertEqual([row.arrived for row in rows], [40 * MIB])

    def test_what_finds_no_row_is_counted(self) -> None:
        for index in range(20):
            self.ask(0, 100, Receiver(f"10.0.1.{index}", "curl"))
        rows, more = self.downloads.rows(8)
        self.assertEqual([row.address for row in rows], [f"10.0.1.{index}" for index in range(8)])
        self.assertEqual(more, 12)

    def test_summary(self) -> None:
        self.assertEqual(self.summary(), ["stopped. nothing was delivered"])
        self.finish(self.ask())
        for _ in range(2):
            self.finish(self.ask(0, 100, AWAY, Source(name="g")))
        self.reset(self.ask(0, 100, Receiver("10.0.0.7", "wget")), 22)
        self.acknowledge(self.ask(0, 100, Receiver("10.0.0.8", "wget")), 33)
        # It has all of it meanwhile.
        self.reset(self.ask(0, 100, WGET), 50)
        lines = [
            "stopped. delivered: f to 10.0.0.5, g to 10.9.9.9 (2 times)",
            "not whole: f to 10.0.0.8 at 33% (33.0 MiB of 100.0 MiB), "
            "f to 10.0.0.7 at 22% (22.0 MiB of 100.0 MiB)",
        ]
        found = self.summary()
        self.assertEqual(found[0], lines[0])
        self.assertEqual(sorted(found[1][11:].split(", ")), sorted(lines[1][11:].split(", ")))

    def test_summary_of_one_who_fetches_again(self) -> None:
        # Or of another one behind the same address.
        self.finish(self.ask())
        self.acknowledge(self.ask(0, 100, WGET), 33)
        lacking = "not whole: f to 10.0.0.5 at 33% (33.0 MiB of 100.0 MiB)"
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5", lacking])

    def test_only_eight_of_a_kind(self) -> None:
        for index in range(12):
            self.finish(self.ask(0, 100, Receiver(f"10.0.1.{index}", "curl")))
        (line,) = self.summary()
        self.assertTrue(line.endswith("f to 10.0.1.7, and 4 more"), line)

    def test_what_is_acknowledged_when_it_is_stopped_counts_as_finished(self) -> None:
        self.acknowledge(self.ask(), 100)
        self.assertEqual(self.summary(), ["stopped. delivered: f to 10.0.0.5"])
        self.assertIn(DELIVERED("1 request"), self.log.all()[-1])


if __name__ == "__main__":
    unittest.main()
