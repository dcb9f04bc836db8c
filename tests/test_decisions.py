"""Which download a request belongs to, what has arrived, and the words for it; bytes in MiB."""

from __future__ import annotations

import random
import unittest
from typing import Callable, NamedTuple, Sequence, cast

from httpd_download import (
    MAX_SPANS,
    MAX_UNREAD,
    PROBE_LIMIT,
    QUIET_AFTER,
    STALLED_AFTER,
    ByteRange,
    Channel,
    Download,
    Known,
    Match,
    Outcome,
    Placement,
    RangeForm,
    Receiver,
    Transfer,
    Version,
    asked_for_last,
    classify,
    count_bytes,
    describe_arrival,
    describe_delivery,
    describe_pause,
    find_outdated,
    is_continued_by,
    is_whole_together,
    left_off_by_itself,
    left_off_by_predecessor,
    left_off_elsewhere,
    place,
    program_name,
    receiver_label,
    unite,
    waiting_at_address,
)
from tests.test_simulation import MIB, Wire

SIZE = 100 * MIB
BYTE = 1 / MIB
CURL = Receiver("10.0.0.5", "curl/8")
ARIA2 = Receiver("10.0.0.5", "aria2/1")
AWAY = Receiver("10.9.9.9", "curl/8")
OLD = Version('"old"', SIZE, (1, 1), 1, 11)
NEW = Version('"new"', SIZE, (1, 2), 2, 22)
GROWN = Version('"grown"', SIZE + 5 * MIB, (1, 1), 3, 33)
EVERYTHING = (0.0, 100.0)


def make_transfer(
    start: float = 0,
    stop: float = 100,
    receiver: Receiver = CURL,
    version: Version = OLD,
    form: RangeForm = RangeForm.OPEN,
    got: float = 0,
    transmitted: float = 0,
    is_reset: bool = False,
    knows_version: bool = False,
    at: float = 0,
) -> Transfer:
    """Return a transfer that was asked for at the time *at*, of whose body *got* MiB are
    acknowledged, and at least *transmitted* MiB have left."""
    wire = Wire(lambda: at)
    wire.acknowledged = round(got * MIB)
    wire.transmitted = max(wire.acknowledged, round(transmitted * MIB))
    wire.is_reset = is_reset
    span = (round(start * MIB), round(stop * MIB))
    ranges = [] if span == (0, version.size) else [ByteRange(*span, form)]
    channel = cast(Channel, wire)
    transfer = Transfer(channel, receiver, "GET /f", "f", version, ranges, knows_version)
    transfer.begin_body(0, span[1] - span[0])
    return transfer


def make_download(*transfers: Transfer, outcome: Outcome = Outcome.BROKEN) -> Download:
    """Return a download of *transfers*, all of which have ended so, unless they are ACTIVE."""
    download = Download(transfers[0], transfers[0].channel.last_progress)
    for transfer in transfers:
        download.join(transfer, transfer.channel.last_progress)
    if outcome is not Outcome.ACTIVE:
        for transfer in transfers:
            transfer.end(outcome)
            download.note_ended(transfer, transfer.channel.last_progress)
        download.pause()
    return download


def delivered(receiver: Receiver = CURL, version: Version = OLD) -> Download:
    whole = make_transfer(0, version.size / MIB, receiver, version)
    download = make_download(whole, outcome=Outcome.FINISHED)
    download.deliver()
    return download


def probe(receiver: Receiver = ARIA2, version: Version = OLD, got: float = 0.5) -> Download:
    whole = make_transfer(0, version.size / MIB, receiver, version, got=got, is_reset=True)
    return make_download(whole)


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


class ResumptionTest(unittest.TestCase):
    """Rank 1 and its bounds, which the other exact evidence shares."""

    def test_bounds(self) -> None:
        lost = make_transfer(got=40, transmitted=45)
        segment = make_transfer(10, 20, got=9)
        rows: list[tuple[str, Transfer, Outcome, float, bool]] = [
            ("where it left off", make_transfer(got=40), Outcome.BROKEN, 40, True),
            ("8 MiB were not read", make_transfer(got=40), Outcome.BROKEN, 32, True),
            ("one more", make_transfer(got=40), Outcome.BROKEN, 32 - BYTE, False),
            ("more than has left", make_transfer(got=40), Outcome.BROKEN, 40 + BYTE, False),
            ("acknowledgements were lost", lost, Outcome.BROKEN, 45, True),
            ("more than has left, again", lost, Outcome.BROKEN, 45 + BYTE, False),
            ("still under way", make_transfer(got=40), Outcome.ACTIVE, 40, True),
            ("its second byte", make_transfer(got=1), Outcome.BROKEN, BYTE, True),
            ("inside the segment", segment, Outcome.BROKEN, 19, True),
            ("at its first byte", segment, Outcome.BROKEN, 10, False),
            ("at its end", make_transfer(10, 20, got=10), Outcome.BROKEN, 20, False),
            ("at the end of a finished one", make_transfer(10, 20), Outcome.FINISHED, 20, True),
            ("before that end", make_transfer(10, 20), Outcome.FINISHED, 20 - BYTE, False),
            ("behind that end", make_transfer(10, 20), Outcome.FINISHED, 20 + BYTE, False),
        ]
        for label, transfer, outcome, first, expected in rows:
            with self.subTest(label):
                download = make_download(transfer, outcome=outcome)
                known = classify([download], CURL, 99)
                found = left_off_by_itself(make_transfer(first), known)
                self.assertEqual(found, Match(download, transfer) if expected else None)

    def test_end_of_finished_range_is_for_its_own_receiver(self) -> None:
        finished = make_transfer(10, 20)
        finished.end(Outcome.FINISHED)
        self.assertTrue(finished.may_be_resumed(CURL, 20 * MIB))
        self.assertFalse(finished.may_be_resumed(AWAY, 20 * MIB))

    def test_resumed_once_by_each_receiver(self) -> None:
        transfer = make_transfer(got=40)
        transfer.note_resumed(CURL, 40 * MIB)
        self.assertFalse(transfer.may_be_resumed(CURL, 40 * MIB))
        self.assertTrue(transfer.may_be_resumed(AWAY, 40 * MIB))

    def test_never_one_of_several_ranges(self) -> None:
        ranges = [ByteRange(0, 50, RangeForm.CLOSED), ByteRange(60, 90, RangeForm.CLOSED)]
        channel = cast(Channel, Wire(lambda: 0))
        several = Transfer(channel, CURL, "GET /f", "f", OLD, ranges)
        several.begin_body(0, 200)
        self.assertFalse(several.may_be_resumed(CURL, 20))
        self.assertEqual(several.arrived(), [])
        several.end(Outcome.BROKEN)
        self.assertTrue(several.is_broken_off([(60, 90)]))
        several.end(Outcome.FINISHED)
        self.assertEqual(several.arrived(), [(0, 50), (60, 90)])

    def test_empty_body_is_acknowledged_with_its_head(self) -> None:
        wire = Wire(lambda: 0)
        empty = Transfer(cast(Channel, wire), CURL, "GET /f", "f", Version('"e"', 0), [])
        empty.begin_body(300, 0)
        self.assertFalse(empty.is_acknowledged())
        wire.acknowledged = 300
        self.assertTrue(empty.is_acknowledged())

    def test_nearest_of_several(self) -> None:
        downloads = [make_download(make_transfer(got=got)) for got in (44, 41, 47)]
        for first, expected in ((40, 1), (44, 0), (46, 2)):
            found = left_off_by_itself(make_transfer(first), classify(downloads, CURL, 99))
            assert found
            self.assertIs(found.download, downloads[expected])

    def test_end_of_delivered_version(self) -> None:
        for first, receiver, expected in [
            (100, CURL, True),
            (100, ARIA2, True),
            (100, AWAY, False),
            (92, ARIA2, True),
            (92 - BYTE, ARIA2, False),
            (100 + BYTE, ARIA2, False),
        ]:
            request = make_transfer(first, 105, receiver, GROWN)
            self.assertEqual(place(request, [delivered()], {}, 99).is_refused, expected, first)


class EvidenceTest(unittest.TestCase):
    """The other ranks: a request, what is known, and which of that it goes on with."""

    def check(
        self,
        evidence: Callable[[Transfer, Known], Match | None],
        rows: Sequence[tuple[str, Transfer, list[Download], int | None]],
    ) -> None:
        for label, request, downloads, expected in rows:
            with self.subTest(label):
                found = evidence(request, classify(downloads, request.receiver, 99))
                self.assertIs(
                    found and found.download,
                    None if expected is None else downloads[expected],
                )

    def test_left_off_before(self) -> None:
        closed = RangeForm.CLOSED
        moved = make_transfer(40, 60, AWAY, form=closed)
        piece = make_download(make_transfer(60, 80, AWAY, got=5, form=closed))
        neighbour = make_download(make_transfer(20, 40, AWAY), outcome=Outcome.ACTIVE)
        broken = make_download(make_transfer(20, 40, AWAY, got=1))
        quiet = make_download(make_transfer(got=40, at=98.99 - QUIET_AFTER), outcome=Outcome.ACTIVE)
        busy = make_download(make_transfer(got=40, at=99.01 - QUIET_AFTER), outcome=Outcome.ACTIVE)
        own = [make_download(make_transfer(got=40, at=1)), delivered(version=NEW)]
        newer = make_download(make_transfer(got=20, version=NEW, at=2))
        left_here = make_download(make_transfer(got=10))
        left_here.note_superseded(AWAY)
        busy_there = make_download(make_transfer(10, 100, AWAY, got=30, at=99))
        silent = make_download(make_transfer(20, 60, AWAY), outcome=Outcome.ACTIVE)
        silent.join(make_transfer(80, 90, AWAY, at=98), 98)
        rows: list[tuple[str, Transfer, list[Download], int | None]] = [
            ("nothing is known", moved, [], None),
            ("another receiver's that is quiet", moved, [quiet], 0),
            ("that makes progress", moved, [busy], None),
            ("the first segments were others", moved, [quiet, piece], 0),
            ("the byte before is being fetched", moved, [quiet, neighbour], None),
            ("that was broken off before it", moved, [quiet, broken], 0),
            ("an open range is no segment", make_transfer(40, receiver=AWAY), [quiet, piece], None),
            ("open, what it has given up", make_transfer(40), [own[0], newer], 0),
            ("it has all of a version", make_transfer(40, 60, form=closed), own, None),
            ("it comes back", make_transfer(40), [left_here, busy_there], 1),
            ("the byte before was asked for in vain", moved, [quiet, silent], 0),
        ]
        self.check(left_off_by_predecessor, rows)

    def test_asked_for_last(self) -> None:
        first = make_download(make_transfer(got=1, at=1), make_transfer(50, got=9, at=1))
        second = make_download(make_transfer(got=2, at=2))
        rows: list[tuple[str, Transfer, list[Download], int | None]] = [
            ("the last one", make_transfer(75), [first, second], 1),
            ("not one that is delivered", make_transfer(75), [first, delivered()], 0),
            ("but one of another version", make_transfer(75, version=NEW), [delivered()], 0),
            ("no probe", make_transfer(75), [first, probe(CURL)], 0),
            ("not another receiver's", make_transfer(75, receiver=AWAY), [first], None),
        ]
        self.check(asked_for_last, rows)

    def test_left_off_elsewhere(self) -> None:
        there = make_download(make_transfer(got=41, receiver=AWAY))
        nearer = make_download(make_transfer(got=40, receiver=ARIA2))
        lost = make_download(make_transfer(got=45))
        newer = make_download(make_transfer(got=90, version=NEW))
        rows: list[tuple[str, Transfer, list[Download], int | None]] = [
            ("another receiver's", make_transfer(40), [there], 0),
            ("the nearest", make_transfer(40), [there, nearer], 1),
            ("its own before the nearest", make_transfer(40), [lost, newer, nearer], 0),
            ("others' current ones first", make_transfer(40, receiver=AWAY), [lost, newer], 0),
            ("nothing near", make_transfer(60), [there, nearer], None),
        ]
        self.check(left_off_elsewhere, rows)

    def test_probed_before(self) -> None:
        request = make_transfer(50, receiver=ARIA2, form=RangeForm.CLOSED)
        resting = make_download(make_transfer(got=40))
        active = make_download(make_transfer(got=40, at=99), outcome=Outcome.ACTIVE)
        far = make_download(make_transfer(got=40, receiver=AWAY))
        rows: list[tuple[str, Transfer, list[Download], int | None]] = [
            ("another program's at rest", request, [resting, probe()], 0),
            ("without a probe", request, [resting], None),
            ("after more than a probe", request, [resting, probe(got=1)], None),
            ("that is under way", request, [active, probe()], None),
            ("at another address", request, [far, probe()], None),
            ("that is a probe", request, [probe(CURL), probe()], None),
        ]
        self.check(waiting_at_address, rows)


class PlaceTest(unittest.TestCase):
    def test_everything_begins_a_download(self) -> None:
        known = [make_download(make_transfer(got=40))]
        self.assertEqual(place(make_transfer(), known, {}, 99), Placement(None))

    def test_rank_1_before_rank_2(self) -> None:
        left = make_transfer(got=40)
        downloads = [make_download(left), make_download(make_transfer(got=90, at=1))]
        found = place(make_transfer(39), downloads, {}, 99)
        self.assertEqual(found.match, Match(downloads[0], left))
        self.assertIs(found.joined, downloads[0])

    def test_moved_segments_join_one_download(self) -> None:
        there = make_download(make_transfer(got=40))
        here = make_download(make_transfer(60, 80, AWAY), outcome=Outcome.ACTIVE)
        request = make_transfer(40, 60, AWAY, form=RangeForm.CLOSED)
        found = place(request, [there, probe(AWAY), here], {}, 99)
        assert found.match
        self.assertIs(found.match.download, there)
        self.assertIs(found.joined, here)

    def test_who_inherits_what_another_receiver_has(self) -> None:
        closed, suffix = RangeForm.CLOSED, RangeForm.SUFFIX
        fetched = make_download(make_transfer(got=99))
        in_chunks = make_download(make_transfer(90, 100, got=9, form=closed))
        rows: list[tuple[str, Transfer, list[Download], bool]] = [
            ("who asks for the rest", make_transfer(99, receiver=AWAY), [fetched], True),
            ("a reader of archives", make_transfer(99, 100, AWAY, form=closed), [fetched], False),
            ("another one", make_transfer(99, 100, AWAY, form=suffix), [fetched], False),
            ("fetches chunks too", make_transfer(99, 100, AWAY, form=closed), [in_chunks], True),
            (
                "aria2, after its probe",
                make_transfer(99, 100, AWAY, form=closed),
                [fetched, probe(AWAY)],
                True,
            ),
            (
                "a reader, after something else",
                make_transfer(99, 100, ARIA2, form=suffix),
                [fetched, probe(got=0.1)],
                False,
            ),
        ]
        for label, request, downloads, expected in rows:
            with self.subTest(label):
                match = place(request, downloads, {}, 99).match
                inherits = match is not None and match.download is downloads[0]
                self.assertEqual(inherits, expected)

    def test_another_version_is_refused(self) -> None:
        closed, suffix = RangeForm.CLOSED, RangeForm.SUFFIX
        here = make_download(make_transfer(20, 30, got=1))
        whole = make_download(make_transfer(got=40), outcome=Outcome.ACTIVE)
        rows: list[tuple[str, Transfer, list[Download], bool]] = [
            ("where it left off", make_transfer(21, version=NEW), [here], True),
            ("anywhere", make_transfer(60, version=NEW), [here], True),
            ("closed, exact", make_transfer(21, 30, version=NEW, form=closed), [here], True),
            ("closed, anywhere", make_transfer(60, 70, version=NEW, form=closed), [here], False),
            ("a suffix", make_transfer(60, version=NEW, form=suffix), [here], False),
            ("from the first byte", make_transfer(0, 10, version=NEW), [here], False),
            ("validated", make_transfer(21, version=NEW, knows_version=True), [here], False),
            (
                "closed, anywhere, after it has asked for everything",
                make_transfer(60, 70, ARIA2, NEW, closed),
                [here, probe(version=NEW)],
                True,
            ),
            (
                "closed, anywhere, while it fetches everything",
                make_transfer(60, 70, version=NEW, form=closed),
                [whole],
                True,
            ),
        ]
        for label, request, downloads, expected in rows:
            with self.subTest(label):
                self.assertEqual(place(request, downloads, {}, 99).is_refused, expected)

    def test_claims(self) -> None:
        closed = RangeForm.CLOSED
        rows: list[tuple[str, Transfer, list[Download], int]] = [
            ("the rest of the file", make_transfer(40), [], 40),
            ("closed", make_transfer(40, form=closed), [], 0),
            ("after a probe", make_transfer(40, receiver=ARIA2, form=closed), [probe()], 40),
            ("not to the end", make_transfer(40, 60, ARIA2, form=closed), [probe()], 0),
            ("a suffix", make_transfer(40, form=RangeForm.SUFFIX), [], 0),
            ("a second request", make_transfer(90), [make_download(make_transfer(got=2))], 0),
        ]
        for label, request, downloads, expected in rows:
            with self.subTest(label):
                self.assertEqual(place(request, downloads, {}, 99).claimed, expected * MIB)

    def test_given_up(self) -> None:
        first, second = make_download(make_transfer(got=9)), delivered(version=NEW)
        other = make_download(make_transfer(got=9, receiver=AWAY))
        self.assertEqual(find_outdated([first, other, second]), {first})
        self.assertEqual(find_outdated([second, first]), {second})
        self.assertEqual(find_outdated([first, probe(CURL, NEW)]), set())
        self.assertEqual(find_outdated([first, probe(CURL, NEW, PROBE_LIMIT / MIB)]), {first})

    def test_is_continued_by(self) -> None:
        moved = OLD._replace(etag='"moved"', file_id=(9, 9))
        rows: list[tuple[str, Version, dict[int, int], bool]] = [
            ("the same", OLD, {}, True),
            ("appended to", GROWN, {SIZE: 11}, True),
            ("its old end is another", GROWN, {SIZE: 12}, False),
            ("its old end is unknown", GROWN, {}, False),
            ("another file", GROWN._replace(file_id=(1, 9)), {SIZE: 11}, False),
            ("an archive", GROWN._replace(file_id=None), {SIZE: 11}, False),
            ("shorter", GROWN._replace(size=9), {SIZE: 11}, False),
            ("another inode", moved, {SIZE: 11}, True),
            ("another time", moved._replace(mtime_ns=9), {SIZE: 11}, False),
        ]
        for label, new, digests, expected in rows:
            self.assertEqual(is_continued_by(OLD, new, digests), expected, label)


class ArrivedTest(unittest.TestCase):
    def test_what_has_arrived(self) -> None:
        last = SIZE - 1
        for label, transfer, outcome, resumed, expected in [
            ("acknowledged", make_transfer(got=40), Outcome.BROKEN, None, 40 * MIB),
            ("under way", make_transfer(got=40), Outcome.ACTIVE, None, 40 * MIB),
            ("all but the last byte", make_transfer(got=100), Outcome.BROKEN, None, last),
            ("finished", make_transfer(got=100), Outcome.FINISHED, None, SIZE),
            ("resumed behind", make_transfer(got=40), Outcome.BROKEN, 45, 45 * MIB),
            ("resumed before", make_transfer(got=40), Outcome.BROKEN, 35, 40 * MIB),
        ]:
            with self.subTest(label):
                transfer.end(outcome)
                if resumed:
                    transfer.note_resumed(CURL, resumed * MIB)
                self.assertEqual(transfer.arrived(), [(0, expected)])

    def test_progress_after_a_resumption_fills_no_hole(self) -> None:
        transfer = make_transfer(got=40)
        transfer.note_resumed(CURL, 45 * MIB)
        self.assertEqual(transfer.arrived(), [(0, 45 * MIB)])
        cast(Wire, transfer.channel).acknowledged += 1
        self.assertEqual(transfer.arrived(), [(0, 40 * MIB + 1)])

    def test_whole_together(self) -> None:
        one = make_download(make_transfer(0, 60, got=60), outcome=Outcome.FINISHED)
        other = make_download(make_transfer(59, 100, got=41), outcome=Outcome.FINISHED)
        self.assertTrue(is_whole_together(one, [other]))
        self.assertFalse(is_whole_together(one, []))
        self.assertFalse(other.is_whole())
        other.claim(59 * MIB)
        self.assertTrue(other.is_whole())

    def test_lingering(self) -> None:
        class Row(NamedTuple):
            label: str
            now: float
            asked_at: float
            resumed_by: Receiver | None
            expected: bool

        for row in [
            Row("silent, asked for nothing more", STALLED_AFTER, 0, None, False),
            Row("silent, asked for more", STALLED_AFTER, 1, None, True),
            Row("not long enough", STALLED_AFTER - 0.01, 1, None, False),
            Row("resumed", 0.1, 0.1, CURL, True),
            Row("resumed by another", STALLED_AFTER, 0, AWAY, True),
            Row("not long enough", STALLED_AFTER - 0.01, 0, AWAY, False),
        ]:
            transfer = make_transfer(got=40)
            if row.resumed_by:
                transfer.note_resumed(row.resumed_by, 40 * MIB)
            self.assertEqual(transfer.is_lingering(row.now, row.asked_at), row.expected, row)

    def test_probe(self) -> None:
        for label, download, expected in [
            ("broken off", probe(), True),
            ("just under 1 MiB", probe(got=1 - BYTE), True),
            ("1 MiB", probe(got=1), False),
            ("one byte", make_download(make_transfer(0, BYTE), outcome=Outcome.FINISHED), True),
            ("two requests", make_download(make_transfer(), make_transfer()), False),
            ("under way", make_download(make_transfer(), outcome=Outcome.ACTIVE), False),
            ("of a small file", delivered(version=Version('"s"', 9)), False),
        ]:
            self.assertEqual(download.is_probe(), expected, label)
        everything = ByteRange(0, SIZE, RangeForm.OPEN)
        channel = cast(Channel, Wire(lambda: 0))
        axel = Transfer(channel, CURL, "GET /f", "f", OLD, [everything])
        self.assertFalse(make_download(axel).is_probe())

    def test_absurdly_many_spans(self) -> None:
        download = make_download(make_transfer(got=1))
        for index in range(MAX_SPANS):
            self.assertFalse(download.has_too_many_spans())
            download.add_arrived([(MAX_UNREAD + index * 2, MAX_UNREAD + index * 2 + 1)])
        self.assertTrue(download.has_too_many_spans())


class WordsTest(unittest.TestCase):
    def test_pause(self) -> None:
        broken = make_download(make_transfer(got=45))
        self.assertEqual(describe_pause(broken), "req terminated. at 45% (45.0 MiB of 100.0 MiB)")
        failed = make_transfer(got=45)
        download = make_download(failed, outcome=Outcome.ACTIVE)
        failed.end(Outcome.BROKEN, "the file was changed")
        download.note_ended(failed, 0)
        expected = "req terminated. at 45% (45.0 MiB of 100.0 MiB), the file was changed"
        self.assertEqual(describe_pause(download), expected)
        part = make_download(make_transfer(10, 20), outcome=Outcome.FINISHED)
        expected = "req finished. 10.0 MiB of 100.0 MiB, 0.0 s, 9.8 GiB/s"
        self.assertEqual(describe_pause(part), expected)

    def test_arrival_and_delivery(self) -> None:
        download = delivered()
        self.assertEqual(describe_arrival(download), "req finished. 100.0 MiB, 0.0 s, 97.7 GiB/s")
        self.assertEqual(describe_delivery(download, 1), "delivered. 100.0 MiB in 1 request")
        self.assertEqual(describe_delivery(download, 2), "delivered. 100.0 MiB in 2 requests")
        download.claim(64 * MIB)
        expected = "delivered. 100.0 MiB, of which the first 64.0 MiB before this start"
        self.assertEqual(describe_delivery(download, 2), expected)

    def test_programs(self) -> None:
        chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36"
        for agent, name in [
            ("curl/8.5.0", "curl"),
            ("Wget/1.21", "wget"),
            ("aria2/1.37.0", "aria2"),
            (chrome, "chrome"),
            (f"{chrome} Edg/126.0", "edg"),
            ("Mozilla/5.0 (X11; rv:127.0) Gecko/20100101 Firefox/127.0", "firefox"),
            ("", "no User-Agent"),
            (" /1", "no User-Agent"),
            ("x" * 99, "x" * 16),
        ]:
            self.assertEqual(program_name(agent), name)

    def test_label_names_the_program_where_two_share_an_address(self) -> None:
        self.assertEqual(receiver_label(CURL, [CURL, AWAY]), "10.0.0.5")
        self.assertEqual(receiver_label(CURL, [CURL, ARIA2]), "10.0.0.5 (curl)")


if __name__ == "__main__":
    unittest.main()
