"""Ranges, dates, preconditions, heads and names: pure functions, each row with its source."""

from __future__ import annotations

import time
import unittest
from email import message_from_bytes
from typing import Iterator, List, Tuple
from unittest import mock
from urllib.parse import unquote

from httpd_download import (
    MAX_RANGES,
    TARGET,
    Head,
    Refusal,
    content_disposition,
    count_bytes,
    http_date,
    may_be_offered,
    multipart,
    parse_date,
    parse_head,
    parse_range,
    precondition_status,
)

RFC = "RFC 9110 14.1.2"
LIST = "RFC 9110 5.6.1"
COST = "RFC 9110 14.2"
Spans = List[Tuple[int, int]]
# The field is to be ignored: the whole file.
ALL: Spans = []


def many(count: int) -> str:
    """So many ranges of one byte, none of which touches another."""
    return "bytes=" + ",".join(f"{2 * i}-{2 * i}" for i in range(count))


RANGES: list[tuple[str, int, Spans, str]] = [
    # One range
    ("bytes=0-499", 10000, [(0, 500)], RFC),
    ("bytes=500-999", 10000, [(500, 1000)], RFC),
    ("bytes=-500", 10000, [(9500, 10000)], RFC),
    ("bytes=9500-", 10000, [(9500, 10000)], RFC),
    ("bytes=0-0", 10, [(0, 1)], "RangeHTTPServer sends the whole file"),
    ("bytes=9-9", 10, [(9, 10)], RFC),
    ("bytes=0-9", 10, [(0, 10)], "Go net/http"),
    ("bytes=0-", 10, [(0, 10)], "Go net/http"),
    ("bytes=9-", 10, [(9, 10)], "wget -c with one byte to come"),
    ("bytes=-1", 10, [(9, 10)], RFC),
    ("bytes=00-03", 10, [(0, 4)], "RFC 9110 14.1.1: 1*DIGIT"),
    ("BYTES=1-2", 10, [(1, 3)], "RFC 9110 14.1: units have no case"),
    # Ends past the end are clamped, however long
    ("bytes=0-20", 10, [(0, 10)], "Go net/http"),
    ("bytes=0-10", 10, [(0, 10)], "Apache byterange.t"),
    ("bytes=990-1990", 1000, [(990, 1000)], "nginx range.t"),
    ("bytes=-15", 10, [(0, 10)], "Go net/http"),
    ("bytes=-10", 10, [(0, 10)], RFC),
    ("bytes=0-" + "9" * 5000, 10, [(0, 10)], "int() refuses 4300 digits"),
    ("bytes=-" + "9" * 5000, 10, [(0, 10)], "int() refuses 4300 digits"),
    ("bytes=" + "0" * 5000 + "1-2", 10, [(1, 3)], "int() refuses 4300 digits"),
    ("bytes=1-18446744073709551616", 10, [(1, 10)], "2**64, CVE-2017-7529"),
    ("bytes=-18446744073709551615", 10, [(0, 10)], "2**64 - 1, CVE-2017-7529"),
    ("bytes=4294967296-4294967296", 5 << 30, [(1 << 32, (1 << 32) + 1)], "past 32 bits"),
    # None of it is there: where it would begin
    ("bytes=10-", 10, [(10, 10)], "wget -c of a whole file"),
    ("bytes=10-20", 10, [(10, 10)], "Go net/http"),
    ("bytes=0050-", 10, [(50, 50)], RFC),
    ("bytes=100000-", 1000, [(100000, 100000)], "nginx range.t"),
    ("bytes=-0", 10, [(10, 10)], RFC),
    ("bytes=12-,11-12,-0", 10, [(12, 12)], RFC),
    # An empty file
    ("bytes=0-", 0, ALL, "curl -C - of an empty file"),
    ("bytes=-5", 0, ALL, "RFC 9110 14.1.2"),
    ("bytes=1-", 0, ALL, "Go net/http"),
    ("bytes=0-0,5-9", 0, ALL, "RFC 9110 14.1.2"),
    ("bytes=", 0, ALL, "Go net/http"),
    # Units that we do not know, and what is no ranges-specifier
    ("", 1000, ALL, "Go net/http"),
    ("foo", 10, ALL, "Go net/http"),
    ("bytes", 10, ALL, COST),
    ("0-5", 10, ALL, COST),
    ("items=0-5", 10, ALL, "RFC 9110 14.2: an unknown unit is ignored"),
    ("byte=0-5", 10, ALL, "RFC 9110 14.2"),
    ("bytes =0-5", 10, ALL, "RFC 9110 14.1: no blank in a unit"),
    ("x=y,bytes=0-5", 10, ALL, "RFC 9110 14.2"),
    # Several
    ("bytes=0-0,-1", 10000, [(0, 1), (9999, 10000)], RFC),
    ("bytes=500-600,601-999", 10000, [(500, 601), (601, 1000)], RFC),
    ("bytes=1-2,5-", 10, [(1, 3), (5, 10)], "Go net/http"),
    ("bytes=0-0 ,2-2, 7-", 11, [(0, 1), (2, 3), (7, 11)], "Go net/http"),
    (
        "bytes=1000-1100,100-200",
        8000,
        [(1000, 1101), (100, 201)],
        "Apache byterange5.t: the order asked",
    ),
    (
        "bytes=3000-,100-200,2000-2200",
        8000,
        [(3000, 8000), (100, 201), (2000, 2201)],
        "Apache byterange5.t",
    ),
    ("bytes=0-9, -10, 10-19", 1000, [(0, 10), (990, 1000), (10, 20)], "nginx range.t"),
    ("bytes=0-9, -10, 100000-, 10-19", 1000, [(0, 10), (990, 1000), (10, 20)], "nginx range.t"),
    ("bytes=15-,0-5", 10, [(0, 6)], "RFC 9110 15.3.7; Go refuses it"),
    ("bytes=5-10,1-4,99-99", 8000, [(5, 11), (1, 5), (99, 100)], "Apache byterange6.t"),
    # Empty elements of the list
    ("bytes=,0-1", 10, [(0, 2)], LIST),
    ("bytes=0-1,, ,3-4,", 10, [(0, 2), (3, 5)], LIST),
    ("bytes=\t0-1 \t,\t 3-4", 10, [(0, 2), (3, 5)], LIST),
    # What costs more than the file does
    ("bytes=0-10001, 0-0", 1000, ALL, "nginx range.t"),
    ("bytes=500-700,601-999", 10000, ALL, COST),
    ("bytes=-2 , 7-", 11, ALL, "Go net/http serves it"),
    ("bytes=0-5,5-9", 10, ALL, COST),
    ("bytes=0-,0-,0-", 10, ALL, "CVE-2011-3192"),
    ("bytes=5-6,0-9", 10, ALL, "overlap that only sorting shows"),
    ("bytes=0-2,8-9,1-1", 10, ALL, "Apache byterange6.t merges it"),
    ("bytes=0-0,0-0", 1, ALL, COST),
    (many(MAX_RANGES), 1000, [(2 * i, 2 * i + 1) for i in range(MAX_RANGES)], COST),
    (many(MAX_RANGES + 1), 1000, ALL, COST),
]
MALFORMED: list[tuple[str, str]] = [
    ("bytes=", RFC),
    ("bytes=         ", "Go net/http"),
    ("bytes= , , ,   ", "Go net/http"),
    ("bytes=-", RFC),
    ("bytes=7", "Go net/http"),
    ("bytes= 7 ", "Go net/http"),
    ("bytes=5-4", "Go net/http"),
    ("bytes=0-2,5-4", "Go net/http"),
    ("bytes=2-5,4-3", "Go net/http"),
    ("bytes=15-14", "past the end, and backwards"),
    ("bytes=" + "9" * 40 + "-1", RFC),
    ("bytes=--5,4--3", "Go net/http"),
    ("bytes=A-", "Go net/http"),
    ("bytes=A-Z", "Go net/http"),
    ("bytes= -Z", "Go net/http"),
    ("bytes=5-Z", "Go net/http"),
    ("bytes=Ran-dom, garbage", "Go net/http"),
    ("bytes=0x01-0x02", "Go net/http"),
    ("bytes=1 -2", RFC + "; Apache and Go allow it"),
    ("bytes=1- 2", RFC + "; Apache and Go allow it"),
    ("bytes=10-11 12-", "nginx range.t"),
    ("bytes=+1-2", "int() takes a sign"),
    ("bytes=1_0-20", "int() takes an underscore"),
    ("bytes=1-2-3", RFC),
    ("bytes=1.0-2", RFC),
    ("bytes=1-2;3-4", RFC),
    ("bytes==1-2", RFC),
    ("bytes=\u0661-\u0662", "int() takes Arabic digits"),
    ("bytes=\xb2-\xb3", "str.isdigit() takes superscripts"),
    ("bytes=0-1\n", "a regular expression's $"),
    ("bytes=0-0,100-\xa0", RFC),
    ("bytes=0-1, bytes=3-4", "two Range lines"),
    ("bytes=0-" + ",0-" * 100 + ",x", "one bad part spoils the set"),
]


class ByteRanges(unittest.TestCase):
    def test_resolved(self) -> None:
        for value, size, expected, source in RANGES:
            with self.subTest(value[:60], size=size, source=source):
                self.assertEqual(parse_range(value, size), expected)

    def test_past_any_end(self) -> None:
        # int() refuses more than 4300 digits.
        for value in [
            "9" * 20 + "-1" + "0" * 20,
            "9" * 5000 + "-",
            "9" * 30 + "-" + "9" * 31,
            "1" + "0" * 99 + "-",
        ]:
            with self.subTest(value[:60]):
                ((start, stop),) = parse_range(f"bytes={value}", 1 << 62)
                self.assertEqual(start, stop)
                self.assertGreaterEqual(start, 1 << 62)

    def test_malformed(self) -> None:
        for value, source in MALFORMED:
            with self.subTest(value[:60], source=source):
                with self.assertRaises(Refusal) as caught:
                    parse_range(value, 10)
                self.assertEqual(caught.exception.status, 400)

    def test_hostile_length_takes_no_time(self) -> None:
        # 60 kB of digits, commas, ranges and blanks: quadratic work would be seen.
        start = time.process_time()
        for value in (
            "9" * 60000 + "-",
            "-" + "9" * 60000,
            "0-0," * 15000,
            "," * 60000 + "0-1",
            " " * 60000 + "0-1",
            "0" * 60000 + "-",
        ):
            parse_range("bytes=" + value, 10)
        self.assertLess(time.process_time() - start, 2)

    def test_multipart(self) -> None:
        # It holds what ends a multipart.
        data = bytes(range(256)) + b"\r\n--B--\n\r\n"
        for spans in [[(0, 1), (2, 4)], [(200, 266), (0, 14)], [(9, 11), (13, 14), (256, 258)]]:
            parts = multipart(spans, len(data), "text/x; a=b", "B0undary")
            body = b"".join(
                part if isinstance(part, bytes) else data[part[0] : part[1]] for part in parts
            )
            message = message_from_bytes(
                b"Content-Type: multipart/byteranges; boundary=B0undary\r\n\r\n" + body
            )
            with self.subTest(spans):
                self.assertEqual(count_bytes(parts), len(body))
                self.assertEqual([part for part in parts if not isinstance(part, bytes)], spans)
                self.assertEqual(message.defects, [])
                received = list(message.walk())[1:]
                self.assertEqual(
                    [part.get_payload(decode=True) for part in received],
                    [data[a:b] for a, b in spans],
                )
                self.assertEqual({part["Content-Type"] for part in received}, {"text/x; a=b"})
                ranges = [part["Content-Range"] for part in received]
                self.assertEqual(ranges, [f"bytes {a}-{b - 1}/{len(data)}" for a, b in spans])


class Dates(unittest.TestCase):
    # 22 Nov 2026 12:00:00
    NOW = 1795348800

    def test_http_date(self) -> None:
        for seconds, expected in [
            # RFC 9110 5.6.7
            (784111777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
            (2**31, "Tue, 19 Jan 2038 03:14:08 GMT"),
            (2**32, "Sun, 07 Feb 2106 06:28:16 GMT"),
            (-62135596800, "Mon, 01 Jan 0001 00:00:00 GMT"),
            (-(10**30), "Mon, 01 Jan 0001 00:00:00 GMT"),
            (253402300799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (10**30, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ]:
            with self.subTest(expected):
                self.assertEqual(http_date(seconds), expected)
                if -62135596800 <= seconds <= 253402300799:
                    self.assertEqual(parse_date(expected), seconds)

    def test_parse_date(self) -> None:
        rows: list[tuple[str, int | None]] = [
            # RFC 9110 5.6.7: the three formats
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
            ("Sun Nov  6 08:49:37 1994", 784111777),
            ("Sun Nov 06 08:49:37 1994", 784111777),
            (" \tSun, 06 Nov 1994 08:49:37 GMT\t ", 784111777),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951782400),
            # nginx not_modified.t
            ("Tue, 19 Jan 2038 03:14:08 GMT", 2**31),
            # nginx not_modified.t
            ("Fri, 25 Feb 2174 09:42:23 GMT", 6442450943),
            # A leap second
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
            ("", None),
            ("0", None),
            ("now", None),
            ("784111777", None),
            ("1994-11-06T08:49:37Z", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 EST", None),
            # Netscape
            ("Sun, 06 Nov 1994 08:49:37 GMT; length=5", None),
            # Two lines
            ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 32 Nov 1994 08:49:37 GMT", None),
            ("Sun, 30 Feb 1994 08:49:37 GMT", None),
            ("Mon, 29 Feb 1900 08:49:37 GMT", None),
            ("Sun, 06 Nov 0000 08:49:37 GMT", None),
            ("Sun, 06 Nov 19940 08:49:37 GMT", None),
            ("Sun, 06 Nov 94 08:49:37 GMT", None),
            ("Sun, 06 Abc 1994 08:49:37 GMT", None),
            ("Abc, 06 Nov 1994 08:49:37 GMT", None),
            ("Sunday, 06-Nov-1994 08:49:37 GMT", None),
            ("Sun Nov  6 08:49:37 1994 GMT", None),
            ('"abc"', None),
            ("\xff" * 100, None),
        ]
        for value, expected in rows:
            with self.subTest(value):
                self.assertEqual(parse_date(value), expected)

    def test_year_of_two_digits(self) -> None:
        # More than 50 years in the future is the most recent past (RFC 9110 5.6.7).
        for value, expected in [
            ("Sunday, 22-Nov-26 12:00:00 GMT", self.NOW),
            ("Friday, 31-Dec-99 23:59:59 GMT", 946684799),
            ("Saturday, 01-Jan-00 00:00:00 GMT", 946684800),
            ("Thursday, 01-Jan-70 00:00:00 GMT", 3155760000),
            ("Saturday, 21-Nov-76 00:00:00 GMT", 3373142400),
            ("Thursday, 24-Nov-76 00:00:00 GMT", 217641600),
            ("Saturday, 01-Jan-77 00:00:00 GMT", 220924800),
        ]:
            with self.subTest(value), mock.patch("time.time", return_value=float(self.NOW)):
                now = time.gmtime(self.NOW)
                with mock.patch("time.gmtime", side_effect=lambda *_, now=now: now):
                    self.assertEqual(parse_date(value), expected)


def fields(*pairs: tuple[str, str]) -> dict[str, str]:
    """Return what a head of these lines has, as the parser hands it on."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return parse_head(f"GET / HTTP/1.0\r\n{lines}\r\n".encode("latin-1")).fields


class Preconditions(unittest.TestCase):
    TAG = '"v1"'
    MODIFIED = 784111777
    BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
    SAME = "Sun, 06 Nov 1994 08:49:37 GMT"
    AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"

    def status(self, pairs: list[tuple[str, str]], modified: int | None) -> int | None:
        try:
            return precondition_status(fields(*pairs), self.TAG, modified)
        except Refusal as refusal:
            return refusal.status

    def test_precondition_status(self) -> None:
        im, inm, ims, ius = "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"
        rows: list[tuple[list[tuple[str, str]], int | None, str]] = [
            ([], None, ""),
            # If-Match: strong comparison
            ([(im, '"v1"')], None, "nginx not_modified.t"),
            ([(im, "*")], None, "nginx not_modified.t"),
            ([(im, '"v2"')], 412, "Go net/http"),
            ([(im, '"z", "v1"')], None, "Go net/http"),
            ([(im, '"foo", "bar", \t"v1" , "baz"')], None, "nginx not_modified.t"),
            ([(im, 'W/"v1"')], 412, "nginx not_modified.t, Go net/http"),
            ([(im, 'W/"v1", "v1"')], None, "RFC 9110 8.8.3.2"),
            ([(im, 'w/"v1"')], 412, "RFC 9110 8.8.3: W/ has case, this is no tag; Go refuses it"),
            ([(im, "v1")], 412, "RFC 9110 8.8.3: quotes belong to the tag"),
            ([(im, '"V1"')], 412, "RFC 9110 8.8.3.2"),
            ([(im, "")], 412, "RFC 9110 13.1.1: none of an empty list matches"),
            ([(im, ",")], 412, "RFC 9110 13.1.1"),
            ([(im, '"a,"'), (im, '"v1"')], None, "RFC 9110 5.3: two lines are one list"),
            ([(im, '",v1,"')], 412, "RFC 9110 8.8.3: a comma may stand in a tag"),
            # If-Unmodified-Since
            ([(ius, self.SAME)], None, "Go net/http"),
            ([(ius, self.AFTER)], None, "RFC 9110 13.1.4"),
            ([(ius, self.BEFORE)], 412, "Go net/http"),
            ([(ius, "Sunday, 06-Nov-94 08:49:36 GMT")], 412, "RFC 9110 5.6.7"),
            ([(ius, "Sun Nov  6 08:49:36 1994")], 412, "RFC 9110 5.6.7"),
            ([(ius, "yesterday")], None, "RFC 9110 13.1.4: invalid is ignored"),
            ([(im, '"v1"'), (ius, self.BEFORE)], None, "RFC 9110 13.2.2: the tag has precedence"),
            ([(im, '"v2"'), (ius, self.AFTER)], 412, "RFC 9110 13.2.2"),
            # If-None-Match: weak comparison
            ([(inm, '"v1"')], 304, "nginx not_modified.t"),
            ([(inm, '"v2"')], None, "nginx not_modified.t"),
            ([(inm, '"foo", "bar", "v1" , "baz"')], 304, "nginx not_modified.t"),
            ([(inm, 'W/"v1"')], 304, "nginx not_modified.t"),
            ([(inm, '"baz", W/"v1"')], 304, "Go net/http"),
            ([(inm, "*")], 304, "nginx not_modified.t"),
            ([(inm, '"V1"')], None, "Go net/http"),
            ([(inm, ",")], None, "Go net/http"),
            ([(inm, "")], None, "RFC 9110 13.1.2"),
            ([(inm, '"a"'), (inm, '"v1"')], 304, "RFC 9110 5.3"),
            ([(inm, '"*"')], None, "RFC 9110 13.1.2: a tag that is a star"),
            # If-Modified-Since
            ([(ims, self.SAME)], 304, "Go net/http"),
            ([(ims, self.AFTER)], 304, "nginx not_modified.t: 2037"),
            ([(ims, self.BEFORE)], None, "Go net/http"),
            ([(ims, "Sunday, 06-Nov-94 08:49:37 GMT")], 304, "RFC 9110 5.6.7"),
            ([(ims, "Sun Nov  6 08:49:37 1994")], 304, "RFC 9110 5.6.7"),
            ([(ims, "Sun, 06 Nov 1994 08:49:37")], None, "RFC 9110 13.1.3: invalid is ignored"),
            ([(ims, f"{self.SAME}, {self.SAME}")], None, "RFC 9110 13.1.3: not one date"),
            ([(inm, '"v2"'), (ims, self.AFTER)], None, "RFC 9110 13.1.3: the tag has precedence"),
            ([(inm, '"v1"'), (ims, self.BEFORE)], 304, "RFC 9110 13.2.2"),
            # The order
            ([(im, '"v2"'), (inm, '"v1"')], 412, "RFC 9110 13.2.2"),
            ([(im, '"v1"'), (inm, '"v1"')], 304, "RFC 9110 13.2.2"),
            ([(ius, self.BEFORE), (ims, self.AFTER)], 412, "RFC 9110 13.2.2"),
            ([(ius, self.SAME), (ims, self.SAME)], 304, "RFC 9110 13.2.2"),
            ([("if-match", '"v2"')], 412, "RFC 9110 5.1: names have no case"),
        ]
        for pairs, expected, source in rows:
            with self.subTest(pairs, source=source):
                self.assertEqual(self.status(pairs, self.MODIFIED), expected)

    def test_without_a_date(self) -> None:
        # RFC 9110 13.1.3 and 13.1.4: what has no modification date ignores dates.
        for date in [self.BEFORE, self.SAME, self.AFTER]:
            for name in ["If-Modified-Since", "If-Unmodified-Since"]:
                with self.subTest(name, date=date):
                    self.assertIsNone(self.status([(name, date)], None))
        self.assertEqual(self.status([("If-None-Match", "*")], None), 304)
        self.assertEqual(self.status([("If-Match", '"x"')], None), 412)

    def test_hostile_length_takes_no_time(self) -> None:
        start = time.process_time()
        for value in ('"a ' * 20000, '"' * 60000, "W/" * 30000, ", " * 30000, "Sun," + " " * 60000):
            for name in ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]:
                self.status([(name, value)], self.MODIFIED)
        self.assertLess(time.process_time() - start, 2)


HOSTS: list[tuple[str, bool, str]] = [
    ("localhost", True, ""),
    ("localhost:80", True, "Apache http_strict.t"),
    ("", True, "RFC 9112 3.2: empty where the target has no authority"),
    ("example.org:", True, "RFC 3986 3.2.3: the port may be empty"),
    ("www.abcd-ef.g02.xyz.:88", True, "nginx http_host.t"),
    ("a_b.example", True, "names of containers"),
    ("%E4%B8%AD.example", True, "RFC 3986 3.2.2"),
    ("123.40.56.78:987", True, "nginx http_host.t"),
    ("[::1]", True, "Apache http_strict.t"),
    ("[4711::abcd]:8000", True, "Apache http_strict.t"),
    ("[::ffff:12.30.67.89]:80", True, "nginx http_host.t"),
    ("[v1f.a~b:c]:80", True, "RFC 3986 3.2.2: IPvFuture; nginx http_host.t"),
    (
        "[fe80::1%25eth0]:80",
        True,
        "our own link of a link-local address, from a client that keeps the zone",
    ),
    ("[fe80::1%eth0]:80", True, "the same, as Python's http.client sends it"),
    ("localhost:80 x", False, "Apache http_strict.t"),
    ("localhost:80x", False, "Apache http_strict.t"),
    ("4714::abcd:8001", False, "Apache http_strict.t"),
    ("abc\xa0", False, "Apache http_strict.t"),
    ("abc\\foo", False, "Apache http_strict.t"),
    ("example.com/x", False, "nginx http_host.t"),
    ("user@example.com", False, "RFC 9112 3.2: no userinfo"),
    ("a, b", False, "RFC 9112 3.2"),
    ("a b", False, "RFC 9112 3.2"),
    ("a?b", False, "RFC 3986 3.2.2"),
    ("a#b", False, "RFC 3986 3.2.2"),
    ('"a"', False, "RFC 3986 3.2.2"),
    ("[::1", False, "RFC 3986 3.2.2"),
    ("[]x", False, "RFC 3986 3.2.2"),
    ("[zz]", False, "RFC 3986 3.2.2"),
    ("[::1:zz]", False, "RFC 3986 3.2.2"),
    ("[::1]..:98", False, "nginx http_host.t"),
    ("http://a", False, "RFC 9112 3.2"),
]


# What stands in the place of "GET / HTTP/1.1", and its status.
REQUEST_LINES: list[tuple[bytes, int, str]] = [
    (b"GET", 400, "RFC 9112 3"),
    (b"GET /a.txt", 400, "HTTP/0.9"),
    (b"GET HTTP/1.1", 400, "RFC 9112 3"),
    (b"GET  /a.txt HTTP/1.1", 400, "RFC 9112 3: one blank"),
    (b"GET /a.txt  HTTP/1.1", 400, "RFC 9112 3: one blank"),
    (b"GET /a.txt HTTP/1.1 ", 400, "RFC 9112 3"),
    (b" GET /a.txt HTTP/1.1", 400, "RFC 9112 3"),
    (b"GET\t/a.txt\tHTTP/1.1", 400, "RFC 9112 3: a blank is no tab"),
    (b"GET /a.txt HTTP/1.1 x", 400, "RFC 9112 3"),
    (b"GET /a b HTTP/1.1", 400, "RFC 9112 3.2: no blank in a target"),
    (b"GET /a\tb HTTP/1.1", 400, "RFC 9112 3.2"),
    (b"GET /a\rb HTTP/1.1", 400, "RFC 9112 2.2: a bare CR"),
    (b"GET / HTTP/1.1\r", 400, "RFC 9112 2.2: a bare CR"),
    (b"\rGET / HTTP/1.1", 400, "RFC 9112 2.2: a bare CR"),
    (b"G ET / HTTP/1.0", 400, "Apache http_strict.t"),
    (b"G\0ET / HTTP/1.0", 400, "Apache http_strict.t"),
    (b"G/T / HTTP/1.0", 400, "Apache http_strict.t"),
    (b"GET /\0 HTTP/1.0", 400, "Apache http_strict.t"),
    (b"GET / HTTP/1.0\0", 400, "Apache http_strict.t"),
    (b"GET /\x01 HTTP/1.0", 400, "Apache http_strict.t"),
    (b"GET / HTT/1.0", 400, "Apache http_strict.t"),
    (b"GET / HTTP/1.11", 400, "Apache http_strict.t"),
    (b"GET / HTTP/10.0", 400, "Apache http_strict.t"),
    (b"GET / HTTP/", 400, "Apache http_strict.t"),
    (b"GET / http/1.1", 400, "RFC 9112 2.3: the name has case"),
    (b"GET / HTTPS/1.1", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/1", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/1.", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/.1", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/1_0", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/1.x", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/1 .1", 400, "RFC 9112 2.3"),
    (b"GET / HTTP/1.\xb2", 400, "str.isdigit() takes superscripts"),
    (b"GET / HTTP/\xd9\xa1.1", 400, "int() takes Arabic digits"),
    (b"GET: /a HTTP/1.1", 400, "RFC 9110 5.6.2: no token"),
    (b"G\xc3\x89T / HTTP/1.1", 400, "RFC 9110 5.6.2"),
    (b"GE\x7fT / HTTP/1.1", 400, "RFC 9110 5.6.2"),
    (b"GET /\x7f HTTP/1.1", 400, "RFC 9112 3.2"),
    (b"GET /\x0b HTTP/1.1", 400, "RFC 9112 3.2"),
    (b"GET /\x1b[2J HTTP/1.1", 400, "RFC 9112 3.2"),
    (b"()", 400, "RFC 9112 3"),
    (b"\0", 400, "RFC 9112 3"),
    (b"\x16\x03\x01\x02\0\x01", 400, "a TLS ClientHello"),
    (b"GET / HTTP/0.9", 505, "RFC 9110 15.6.6"),
    (b"GET / HTTP/0.8", 505, "RFC 9110 15.6.6"),
    (b"GET / HTTP/2.1", 505, "RFC 9110 15.6.6"),
    (b"GET / HTTP/3.0", 505, "RFC 9110 15.6.6"),
    (b"GET / HTTP/9.9", 505, "RFC 9110 15.6.6"),
    (b"PRI * HTTP/2.0", 505, "RFC 9113 3.4: the preface of HTTP/2"),
]
# Malformed field lines.
FIELD_LINES: list[tuple[bytes, str]] = [
    (b"X : y", "RFC 9112 5.1: a blank before the colon"),
    (b"X\t: y", "RFC 9112 5.1"),
    (b" X: y", "RFC 9112 2.2: a blank at the start"),
    (b"\tX: y", "RFC 9112 2.2"),
    (b"X: y\r\n z", "RFC 9112 5.2: folded"),
    (b"X: y\r\n\tz", "RFC 9112 5.2"),
    (b"X: y\r\n ", "RFC 9112 5.2"),
    (b": y", "RFC 9112 5"),
    (b"X", "RFC 9112 5"),
    (b"X y", "RFC 9112 5"),
    (b"X\xc3\x85: y", "RFC 9110 5.1: a name is a token"),
    (b"X(: y", "RFC 9110 5.1"),
    (b"X\0: y", "RFC 9110 5.1"),
    (b"\x01: y", "RFC 9110 5.1"),
    (b"\x7f: y", "RFC 9110 5.1"),
    (b"X\r: y", "RFC 9112 2.2: a bare CR"),
    (b"X: a\rb", "RFC 9112 2.2"),
    (b"X: a\r", "RFC 9112 2.2"),
    (b"X: a\rY: b", "RFC 9112 2.2"),
    (b"X: \0", "RFC 9110 5.5: control bytes"),
    (b"X: a\x01b", "RFC 9110 5.5"),
    (b"X: \x1b[2J", "RFC 9110 5.5"),
    (b"X: a\x0bb", "RFC 9110 5.5"),
    (b"X: \x7f", "RFC 9110 5.5"),
]
# What announces a body, or cannot be told from that.
BODIES: list[tuple[bytes, str]] = [
    (b"Content-Length: 1", "a body"),
    (b"Content-Length: 5", "a body"),
    (b"Content-Length: " + b"9" * 5000, "int() refuses 4300 digits"),
    (b"Content-Length: ", "RFC 9110 8.6"),
    (b"Content-Length: x", "RFC 9110 8.6"),
    (b"Content-Length: +0", "int() takes a sign"),
    (b"Content-Length: -0", "int() takes a sign"),
    (b"Content-Length: -1", "RFC 9110 8.6"),
    (b"Content-Length: +1", "RFC 9110 8.6"),
    (b"Content-Length: 0_0", "int() takes an underscore"),
    (b"Content-Length: 0x0", "RFC 9110 8.6"),
    (b"Content-Length: 0 0", "RFC 9110 8.6"),
    (b"Content-Length: 0.0", "RFC 9110 8.6"),
    (b"Content-Length: 0;", "RFC 9110 8.6"),
    (b"Content-Length: \xb2", "str.isdigit() takes superscripts"),
    (b"Content-Length: 0\xa0", "str.strip() takes it"),
    (b"Content-Length: \xd9\xa0", "int() takes Arabic digits"),
    (b"Content-Length: 0,", "RFC 9112 6.3"),
    (b"Content-Length: 0, 0", "RFC 9112 6.3: twice"),
    (b"Content-Length: 5, 5", "RFC 9112 6.3: twice"),
    (b"Content-Length: 0\r\nContent-Length: 0", "RFC 9112 6.3: twice"),
    (b"Content-Length: 0\r\ncontent-length: 1", "RFC 9112 6.3: twice"),
    (b"Content-Length: 5\r\nX: y\r\nContent-Length: 0", "RFC 9112 6.3: twice"),
    (b"Transfer-Encoding: chunked", "a body"),
    (b"TRANSFER-ENCODING: Chunked", "a body"),
    (b"Transfer-Encoding: gzip, chunked", "a body"),
    (b"Transfer-Encoding: gzip", "RFC 9112 6.3"),
    (b"Transfer-Encoding: chunked, gzip", "RFC 9112 6.3"),
    (b"Transfer-Encoding: identity", "RFC 9112 6.3: is no more"),
    (b"Transfer-Encoding: ", "smuggling"),
    (b"Transfer-Encoding: chunkedx", "smuggling"),
    (b"Transfer-Encoding: \xa0chunked", "smuggling"),
    (b"Transfer-Encoding: chunked;a=b", "smuggling"),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 0", "RFC 9112 6.1"),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", "RFC 9112 6.1; Apache teclchunk.t"),
]
# Heads of GET /a.txt that are right, whatever they look like.
UNUSUAL: list[tuple[bytes, str]] = [
    (b"Host:x", "RFC 9112 5: OWS"),
    (b"Host: \t x \t ", "RFC 9112 5: OWS"),
    (b"hOST: x", "RFC 9110 5.1: names have no case"),
    (b"Host:", "RFC 9112 3.2: empty where the target has no authority"),
    (b"From: x\r\nHost: x", "any order"),
    (b"Host: x\r\nX:", "RFC 9110 5.5: empty"),
    (b"Host: x\r\nX: a\tb", "RFC 9110 5.5"),
    (b"Host: x\r\nX: \xff\x85\xa0", "RFC 9110 5.5: obs-text"),
    (b"Host: x\r\n!#$%&'*+-.^_`|~09: \"(),/:;<=>?@[\\]{}", "RFC 9110 5.6.2: tchar"),
    (b"Host: x\r\nX: a\r\nX: b", "RFC 9110 5.3"),
    (b"Host: x" + b"\r\nX: y" * 200, "http.client stops at 100"),
    (b"Host: x\r\nX: " + b"y" * 60000, "long, not too long"),
    (b"Host: x\nX: y", "RFC 9112 2.2: a single LF"),
    (b"Host: x\r\nContent-Length: 0", "no body"),
    (b"Host: x\r\nContent-Length: 000", "RFC 9110 8.6: 1*DIGIT"),
    (b"Host: x\r\nContent-Length:\t0 ", "RFC 9112 5: OWS"),
    (b"Host: x\r\nX-Content-Length: 5\r\nContent-Length-X: 5", "other names"),
    # The email package, with which http.server reads heads, looks for the boundary of a multipart.
    (b"Host: x\r\nContent-Type: multipart/x; boundary*" + b"1" * 5000 + b"=x", "email"),
    (b"Host: x\r\nContent-Type: multipart/x; boundary*=idna''%ff", "email"),
    (b"Host: x\r\nContent-Type: multipart/x; boundary*=undefined''%ff", "email"),
    (b"Host: x\r\nContent-Type: multipart/x; boundary*=a%00b''%ff", "email"),
    (b"Host: x\r\nContent-Type: multipart/x; boundary=\xff", "email"),
    (b"Host: x\r\nContent-Type: multipart/x" + b';"' * 20000, "email"),
    (b"Host: x\r\nContent-Type: message/rfc822", "email"),
    (b"Host: x\r\nContent-Type: message/external-body", "email"),
    (b"Host: x\r\nContent-Type: text/plain; charset*0*=\xff''", "email"),
    (b"Host: x\r\nContent-Transfer-Encoding: \xff", "email"),
]


def refused_heads() -> Iterator[tuple[bytes, int, str]]:
    """Yield every head that is malformed, or announces a body; its status, and why."""
    get, old, host, end = (
        b"GET /a.txt HTTP/1.1\r\n",
        b"GET /a.txt HTTP/1.0\r\n",
        b"Host: x\r\n",
        b"\r\n",
    )
    for line, status, source in REQUEST_LINES:
        yield line + end + host + end, status, source
    for value, is_right, source in HOSTS:
        if not is_right:
            for line in (get, old):
                yield line + b"Host: " + value.encode("latin-1") + end + end, 400, source
    hosts = "RFC 9112 3.2: one Host"
    yield get + end, 400, hosts
    yield b"GET /a.txt HTTP/1.2\r\n" + end, 400, hosts
    yield b"GET http://x/a.txt HTTP/1.1\r\n" + end, 400, hosts
    for line in (get, old):
        yield line + host + host + end, 400, hosts
        yield line + host + b"hOST: y\r\n" + end, 400, hosts
    for field, source in FIELD_LINES:
        yield get + host + field + end + end, 400, source
        yield get + field + end + host + end, 400, source
        yield old + field + end + end, 400, source
    for field, source in BODIES:
        yield get + field + end + host + end, 400, source
        yield old + field + end + end, 400, source
        for method in (b"HEAD", b"POST", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"BREW"):
            yield method + b" /a.txt HTTP/1.1\r\n" + host + field + end + end, 400, source


class Heads(unittest.TestCase):
    def test_refused(self) -> None:
        for head, status, source in refused_heads():
            with self.subTest(head[:90], source=source):
                with self.assertRaises(Refusal) as caught:
                    parse_head(head)
                self.assertEqual(caught.exception.status, status)

    def test_host(self) -> None:
        for value, is_right, source in HOSTS:
            for version in ["HTTP/1.0", "HTTP/1.1"]:
                head = f"GET / {version}\r\nHost: {value}\r\n\r\n".encode("latin-1")
                with self.subTest(value, version=version, source=source):
                    if is_right:
                        self.assertEqual(parse_head(head).fields, {"host": value})
                    else:
                        self.assertRaises(Refusal, parse_head, head)

    def test_unusual(self) -> None:
        for lines, source in UNUSUAL:
            with self.subTest(lines[:60], source=source):
                parsed = parse_head(b"GET /a.txt HTTP/1.1\r\n" + lines + b"\r\n\r\n")
                self.assertEqual(parsed[:3], ("GET", "/a.txt", "HTTP/1.1"))
                self.assertIn("host", parsed.fields)

    def test_parsed(self) -> None:
        host = {"host": "x"}
        rows: list[tuple[bytes, Head]] = [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Head("GET", "/", "HTTP/1.1", host, True)),
            (b"GET / HTTP/1.1\nHost: x\n\n", Head("GET", "/", "HTTP/1.1", host, True)),
            (b"GET / HTTP/1.0\r\n\r\n", Head("GET", "/", "HTTP/1.0", {}, False)),
            (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", Head("GET", "/", "HTTP/1.0", host, False)),
            # RFC 9110 6.2: a higher minor version is treated as ours
            (b"HEAD /a HTTP/1.9\r\nHost: x\r\n\r\n", Head("HEAD", "/a", "HTTP/1.1", host, True)),
            # RFC 9110 9.1: methods have case; any token is one
            (b"get * HTTP/1.1\r\nHost: x\r\n\r\n", Head("get", "*", "HTTP/1.1", host, True)),
            (
                b"!#$%&'*+-.^_`|~09AZaz / HTTP/1.1\r\nHost: x\r\n\r\n",
                Head("!#$%&'*+-.^_`|~09AZaz", "/", "HTTP/1.1", host, True),
            ),
            # Raw bytes in a target: curl sends UTF-8, and others what they like
            (
                "GET /中?é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
                Head("GET", "/中?é", "HTTP/1.1", host, True),
            ),
            (
                b"GET /\xff\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
                Head("GET", "/\udcff\udc80", "HTTP/1.1", host, True),
            ),
            # RFC 9110 5.3: lines of one name are one list; 5.5: blanks around a value are not its
            (
                b"GET / HTTP/1.0\r\nA: 1\r\nb:\t2 \t\r\na:,3\r\nC: \xe9\r\nA:\r\n\r\n",
                Head("GET", "/", "HTTP/1.0", {"a": "1, ,3, ", "b": "2", "c": "é"}, False),
            ),
        ]
        for head, expected in rows:
            with self.subTest(head):
                self.assertEqual(parse_head(head), expected)

    def test_keeps_connection(self) -> None:
        # RFC 9112 9.3; options have no case (RFC 9110 7.6.1)
        for lines, new, old in [
            ("", True, False),
            ("Connection:", True, False),
            ("Connection: te", True, False),
            ("Connection: keep-alive", True, True),
            ("Connection: Keep-Alive", True, True),
            ("Connection: te, Keep-Alive", True, True),
            ("Connection: te\r\nConnection: keep-alive", True, True),
            ("Connection: Upgrade, HTTP2-Settings", True, False),
            ("Connection: closed", True, False),
            ("Connection: not-close", True, False),
            ("Connection: close", False, False),
            ("Connection: CLOSE", False, False),
            ("Connection: te ,\tclose", False, False),
            ("Connection: ,close,", False, False),
            ("Connection: close,keep-alive", False, False),
            ("Connection: keep-alive, close", False, False),
            ("Connection: keep-alive\r\nX: y\r\nConnection: close", False, False),
            ("Keep-Alive: timeout=5", True, False),
        ]:
            for version, expected in [("HTTP/1.1", new), ("HTTP/1.0", old)]:
                head = f"GET / {version}\r\nHost: x{lines and chr(13) + chr(10)}{lines}\r\n\r\n"
                with self.subTest(lines, version=version):
                    self.assertIs(parse_head(head.encode()).keeps_connection, expected)

    def test_target(self) -> None:
        # RFC 9112 3.2: origin-form and absolute-form; "" stands for /
        rows: list[tuple[str, str | None]] = [
            ("/", "/"),
            ("/a/b.txt", "/a/b.txt"),
            ("//a", "//a"),
            ("/a?b#c", "/a"),
            ("/a?/b", "/a"),
            ("/a#b?c", "/a"),
            ("/a?", "/a"),
            ("/http://x/y", "/http://x/y"),
            ("/%3Fa%23b", "/%3Fa%23b"),
            ("http://x/a", "/a"),
            ("HTTP://X:80/a?b", "/a"),
            ("https://[::1]:80/a/b", "/a/b"),
            ("http://u:p@x/a", None),
            ("http://x:/a", "/a"),
            ("http://:80/a", None),
            ("http://x:80x/a", None),
            ("http://x:80:80/a", None),
            ("http://[::1/a", None),
            ("http://[zz]/a", None),
            ("http://#a", None),
            ("http://x", ""),
            ("http://x?a", ""),
            ("http://x#a", ""),
            ("http://x/", "/"),
            ("http:///a", None),
            ("http:/a", None),
            ("http://", None),
            ("ftp://x/a", None),
            ("file:///etc/passwd", None),
            ("*", None),
            ("a.txt", None),
            ("x:80", None),
            ("../a", None),
            ("\\a", None),
        ]
        for target, expected in rows:
            with self.subTest(target):
                match = TARGET.fullmatch(target)
                self.assertEqual(match and match[1], expected)

    def test_hostile_length_takes_no_time(self) -> None:
        start = time.process_time()
        for value in ["a" * 60000, "%" * 60000, "[" + ":" * 60000, "a:" + "0" * 60000 + "x"]:
            with self.assertRaises(Refusal):
                parse_head(f"GET / HTTP/1.1\r\nHost: {value}\x01\r\n\r\n".encode())
            with self.assertRaises(Refusal):
                parse_head(f"GET / HTTP/1.1\r\nHost: {value}/\r\n\r\n".encode())
        for line in [
            "Connection: " + "\t ," * 20000,
            "Content-Length: " + "0" * 60000,
            "A: b\n" * 12000,
        ]:
            parse_head(f"GET / HTTP/1.1\r\nHost: x\r\n{line.rstrip()}\r\n\r\n".encode())
        hosts = ["a" * 60000, "[" + ":" * 60000, "[v1." + "a:" * 30000, "a:" + "0" * 60000 + "x"]
        for target in [*map("http://".__add__, hosts), "/" * 60000, "http://" * 9000, "?" * 60000]:
            TARGET.fullmatch(target)
        self.assertLess(time.process_time() - start, 2)


class ContentDisposition(unittest.TestCase):
    def test_table(self) -> None:
        # RFC 6266 and RFC 8187; the first as its bytes go out.
        for name, plain, extended in [
            ("a.txt", b"a.txt", "a.txt"),
            ("a-b_c.d~e", b"a-b_c.d~e", "a-b_c.d~e"),
            ("a b.txt", b"a b.txt", "a%20b.txt"),
            (" a ", b" a ", "%20a%20"),
            ("a;b,c=d.txt", b"a;b,c=d.txt", "a%3Bb%2Cc%3Dd.txt"),
            ("!#$&+-.^_`|~", b"!#$&+-.^_`|~", "!#$&+-.^_`|~"),
            ("(a)'*<@>:?[]{}", b"(a)'*<@>:?[]{}", "%28a%29%27%2A%3C%40%3E%3A%3F%5B%5D%7B%7D"),
            ('say "hi".txt', b"say _hi_.txt", "say%20%22hi%22.txt"),
            ("a\\b.txt", b"a_b.txt", "a%5Cb.txt"),
            ('"\\"', b"___", "%22%5C%22"),
            ("100%.txt", b"100%.txt", "100%25.txt"),
            ("%41.txt", b"%41.txt", "%2541.txt"),
            ("中文 a.txt", "中文 a.txt".encode(), "%E4%B8%AD%E6%96%87%20a.txt"),
            ("é.txt", "é.txt".encode(), "%C3%A9.txt"),
            ("\U0001f600", "\U0001f600".encode(), "%F0%9F%98%80"),
            ("a\r\nX-A: b.txt", b"a__X-A: b.txt", "a%0D%0AX-A%3A%20b.txt"),
            ("\0\x1b\x1f\x7f", b"____", "%00%1B%1F%7F"),
            # Not UTF-8: each byte is one character of the name
            ("a\udcff\udc80b.txt", b"a__b.txt", "a__b.txt"),
            ("sub/folder/中.txt", "中.txt".encode(), "%E4%B8%AD.txt"),
            ('"/a.txt', b"a.txt", "a.txt"),
            ("results.tar", b"results.tar", "results.tar"),
        ]:
            with self.subTest(name):
                value = content_disposition(name)
                start, middle = b'attachment; filename="', b"\"; filename*=UTF-8''"
                self.assertEqual(
                    value.encode("latin-1"), start + plain + middle + extended.encode()
                )

    def test_every_character(self) -> None:
        for code in [*range(0x250), 0x2028, 0x202E, 0x4E2D, 0xFEFF, 0xFFFD, 0x10FFFF]:
            name = f"a{chr(code)}b"
            with self.subTest(ascii(name)):
                value = content_disposition(name)
                value.encode("latin-1")
                self.assertNotRegex(value, "[\\x00-\\x1f\\x7f]")
                # attr-char and pct-encoded, which give the name back
                extended = value.rpartition("''")[2]
                self.assertRegex(extended, r"^([A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+$")
                self.assertEqual(unquote(extended), name.rpartition("/")[2])
                # A quoted-string that nothing in it ends
                self.assertEqual((value.count('"'), value.count("\\")), (2, 0))


class Names(unittest.TestCase):
    def test_hidden_and_impossible(self) -> None:
        for name in ["", ".", "..", ".a", "...", ". ", "a/b", "/", "a\0", "\0"]:
            for separator in ["/", "\\"]:
                with self.subTest(name, separator=separator), mock.patch("os.sep", separator):
                    self.assertFalse(may_be_offered(name))

    def test_on_windows(self) -> None:
        # Microsoft, "Naming Files, Paths, and Namespaces"; superscripts and CONIN$: CPython and Go.
        devices = "CON con Con PRN aux NUL nul COM1 com9 LPT1 lpt9 COM0 COM\xb9 COM\xb2 LPT\xb3"
        devices += " CONIN$ conout$ con.txt aux.tar.gz COM1.x nul.tar"
        refused = [*devices.split(), "nul .txt", "CON "]
        refused += ["a.", "a ", " ", "a. ", "a .", "a.txt.", "COM1.", "a.\n"]
        refused += [
            "a:b",
            "C:",
            "a:",
            "a::$DATA",
            "a\\b",
            "..\\a",
            "\\",
            "a*",
            "a?",
            'a"',
            "a<",
            "a>",
        ]
        refused += ["a|b", "\x01a", "a\nb", "a\x1f"]
        kept = "a a.txt console COM COM10 LPT auxiliary xcon a.con a.nul.b NULL 中文.bin COM\u0661"
        kept += " a%b a#b CONIN ~a$ a'b"
        for name in [*refused, *kept.split(), "a b", " a"]:
            with self.subTest(name):
                with mock.patch("os.sep", "\\"):
                    self.assertIs(may_be_offered(name), name not in refused)
                # Elsewhere they are names like others.
                with mock.patch("os.sep", "/"):
                    self.assertIs(may_be_offered(name), name[0] != ".")


if __name__ == "__main__":
    unittest.main()
