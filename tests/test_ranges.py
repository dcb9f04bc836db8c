"""Ranges, dates, preconditions and framing: pure functions, row by row, each row with its source."""

from __future__ import annotations

import time
import unittest
from email import message_from_bytes
from http.client import HTTPMessage
from typing import List, Optional, Tuple
from unittest import mock

from httpd_download import (
    MAX_RANGES,
    byte_ranges,
    combined,
    content_range,
    framing_error,
    http_date,
    if_range_holds,
    is_refused_on_windows,
    multipart,
    parse_date,
    part_length,
    precondition_status,
    target_path,
)

RFC = "RFC 9110 14.1.2"
LIST = "RFC 9110 5.6.1"
COST = "RFC 9110 14.2"
ALL = None  # the field is to be ignored: the whole file
Spans = Optional[List[Tuple[int, int]]]


def fields(*pairs: tuple[str, str]) -> dict[str, str]:
    message = HTTPMessage()
    for name, value in pairs:
        message[name] = value
    return combined(message)


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
    # None of it is there
    ("bytes=10-", 10, [], "wget -c of a whole file"),
    ("bytes=10-20", 10, [], "Go net/http"),
    ("bytes=100000-", 1000, [], "nginx range.t"),
    ("bytes=-0", 10, [], RFC),
    ("bytes=10-,11-12,-0", 10, [], RFC),
    ("bytes=" + "9" * 5000 + "-", 10, [], "int() refuses 4300 digits"),
    ("bytes=" + "9" * 30 + "-" + "9" * 31, 10, [], RFC),
    # An empty file
    ("bytes=0-", 0, ALL, "curl -C - of an empty file"),
    ("bytes=-5", 0, ALL, "RFC 9110 14.1.2"),
    ("bytes=1-", 0, ALL, "Go net/http"),
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
    ("bytes=1000-1100,100-200", 8000, [(1000, 1101), (100, 201)], "Apache byterange5.t: the order asked"),
    ("bytes=3000-,100-200,2000-2200", 8000, [(3000, 8000), (100, 201), (2000, 2201)], "Apache byterange5.t"),
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
                self.assertEqual(byte_ranges(value, size), expected)

    def test_malformed(self) -> None:
        for value, source in MALFORMED:
            with self.subTest(value[:60], source=source), self.assertRaises(ValueError):
                byte_ranges(value, 10)

    def test_hostile_length_takes_no_time(self) -> None:
        # 60 kB of digits, commas, ranges and blanks: quadratic work would be seen.
        start = time.process_time()
        for value in ("9" * 60000 + "-", "-" + "9" * 60000, "0-0," * 15000, "," * 60000 + "0-1", " " * 60000 + "0-1"):
            byte_ranges("bytes=" + value, 10)
        self.assertLess(time.process_time() - start, 2)

    def test_content_range(self) -> None:
        for span, size, expected in [
            ((0, 500), 1234, "bytes 0-499/1234"),
            ((734, 1234), 1234, "bytes 734-1233/1234"),
            ((0, 1), 1, "bytes 0-0/1"),
            ((1 << 32, 5 << 30), 5 << 30, "bytes 4294967296-5368709119/5368709120"),
        ]:
            with self.subTest(expected):
                self.assertEqual(content_range(span, size), expected)

    def test_multipart(self) -> None:
        data = bytes(range(256)) + b"\r\n--B--\n\r\n"
        for spans in [[(0, 1), (2, 4)], [(200, 266), (0, 14)], [(9, 11), (13, 14), (256, 258)]]:
            parts = multipart(spans, len(data), "text/x; a=b", "B0undary")
            body = b"".join(part if isinstance(part, bytes) else data[part[0] : part[1]] for part in parts)
            message = message_from_bytes(b"Content-Type: multipart/byteranges; boundary=B0undary\r\n\r\n" + body)
            with self.subTest(spans):
                self.assertEqual(sum(map(part_length, parts)), len(body))
                self.assertEqual([part for part in parts if not isinstance(part, bytes)], spans)
                self.assertEqual(message.defects, [])
                received = list(message.walk())[1:]
                self.assertEqual([part.get_payload(decode=True) for part in received], [data[a:b] for a, b in spans])
                self.assertEqual({part["Content-Type"] for part in received}, {"text/x; a=b"})
                ranges = [part["Content-Range"] for part in received]
                self.assertEqual(ranges, [content_range(span, len(data)) for span in spans])


class Dates(unittest.TestCase):
    NOW = 1795348800  # 22 Nov 2026 12:00:00

    def test_http_date(self) -> None:
        for seconds, expected in [
            (784111777, "Sun, 06 Nov 1994 08:49:37 GMT"),  # RFC 9110 5.6.7
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
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),  # RFC 9110 5.6.7: the three formats
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
            ("Sun Nov  6 08:49:37 1994", 784111777),
            ("Sun Nov 06 08:49:37 1994", 784111777),
            (" \tSun, 06 Nov 1994 08:49:37 GMT\t ", 784111777),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951782400),
            ("Tue, 19 Jan 2038 03:14:08 GMT", 2**31),  # nginx not_modified.t
            ("Fri, 25 Feb 2174 09:42:23 GMT", 6442450943),  # nginx not_modified.t
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),  # a leap second
            ("", None),
            ("0", None),
            ("now", None),
            ("784111777", None),
            ("1994-11-06T08:49:37Z", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 EST", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT; length=5", None),  # Netscape
            ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),  # two lines
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


class Preconditions(unittest.TestCase):
    TAG = '"v1"'
    MODIFIED = 784111777
    BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
    SAME = "Sun, 06 Nov 1994 08:49:37 GMT"
    AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"

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
                self.assertEqual(precondition_status(fields(*pairs), self.TAG, self.MODIFIED), expected)

    def test_if_range_holds(self) -> None:
        rows: list[tuple[str | None, bool, str]] = [
            (None, True, "RFC 9110 13.2.2"),
            ('"v1"', True, "Go net/http"),
            ('"v2"', False, "Go net/http"),
            ('"V1"', False, "RFC 9110 8.8.3.2"),
            ('W/"v1"', False, "Go net/http: strong comparison"),
            ("v1", False, "RFC 9110 13.1.5"),
            ('"v1", "v2"', False, "RFC 9110 13.1.5: one tag, no list"),
            ("*", False, "RFC 9110 13.1.5"),
            ("", False, "RFC 9110 13.1.5"),
            ("wrong", False, "nginx range_if_range.t"),
            (self.SAME, True, "nginx range_if_range.t"),
            (self.BEFORE, False, "RFC 9110 13.1.5: the exact date"),
            (self.AFTER, False, "Go net/http"),
            ("Sunday, 06-Nov-94 08:49:37 GMT", True, "RFC 9110 5.6.7"),
            (self.SAME + " x", False, "RFC 9110 13.1.5"),
        ]
        for value, expected, source in rows:
            with self.subTest(value, source=source):
                self.assertIs(if_range_holds(value, self.TAG, self.MODIFIED), expected)


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
    ("[fe80::1%25eth0]:80", True, "our own link of a link-local address, from a client that keeps the zone"),
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
    ("[::1]..:98", False, "nginx http_host.t"),
    ("http://a", False, "RFC 9112 3.2"),
]


class Framing(unittest.TestCase):
    def test_host(self) -> None:
        for value, right, source in HOSTS:
            with self.subTest(value, source=source):
                self.assertEqual(framing_error(fields(("Host", value)), "HTTP/1.1") == "", right)
                self.assertEqual(framing_error(fields(("Host", value)), "HTTP/1.0") == "", right)

    def test_number_of_hosts(self) -> None:
        for count, version, right in [
            (0, "HTTP/1.0", True),
            (0, "HTTP/1.1", False),
            (0, "HTTP/1.2", False),
            (1, "HTTP/1.1", True),
            (2, "HTTP/1.1", False),
            (2, "HTTP/1.0", False),
        ]:
            with self.subTest(count=count, version=version):
                self.assertEqual(framing_error(fields(*[("Host", "x")] * count), version) == "", right)

    def test_length(self) -> None:
        length, coding = "Content-Length", "Transfer-Encoding"
        rows: list[tuple[list[tuple[str, str]], bool, str]] = [
            ([(length, "0")], True, ""),
            ([(length, "5")], True, ""),
            ([(length, "9" * 5000)], True, "any number of digits"),
            ([(length, "5, 5")], True, "RFC 9112 6.3: one valid value, repeated"),
            ([(length, "5"), (length, "5")], True, "RFC 9112 6.3"),
            ([(length, "5"), (length, "6")], False, "RFC 9112 6.3"),
            ([(length, "5, 6")], False, "RFC 9112 6.3"),
            ([(length, "")], False, "RFC 9110 8.6"),
            ([(length, "5,")], False, "RFC 9112 6.3"),
            ([(length, "+5")], False, "RFC 9110 8.6"),
            ([(length, "-5")], False, "RFC 9110 8.6"),
            ([(length, "0x5")], False, "RFC 9110 8.6"),
            ([(length, "1_0")], False, "int() takes it"),
            ([(length, "5 5")], False, "RFC 9110 8.6"),
            ([(length, "5.0")], False, "RFC 9110 8.6"),
            ([(length, "\xb2")], False, "str.isdigit() takes it"),
            ([(length, "\u0665")], False, "int() takes it"),
            ([(length, "5\xa0")], False, "str.strip() takes it"),
            ([(coding, "chunked")], True, ""),
            ([(coding, "Chunked")], True, "RFC 9112 7: codings have no case"),
            ([(coding, "gzip, chunked")], True, "RFC 9112 6.1"),
            ([(coding, "gzip"), (coding, "chunked")], True, "RFC 9110 5.3"),
            ([(coding, "chunked, gzip")], False, "RFC 9112 6.3"),
            ([(coding, "gzip")], False, "RFC 9112 6.3"),
            ([(coding, "")], False, "RFC 9112 6.3"),
            ([(coding, "identity")], False, "RFC 9112 6.3: is no more"),
            ([(coding, "xchunked")], False, "smuggling"),
            ([(coding, "chunked\x0b")], False, "smuggling"),
            ([(coding, "\xa0chunked")], False, "smuggling"),
            ([(coding, "chunked;a=b")], False, "smuggling"),
            ([(coding, "chunked"), (length, "5")], False, "RFC 9112 6.1; Apache teclchunk.t"),
            ([(coding, "chunked"), (length, "0")], False, "RFC 9112 6.1"),
        ]
        for pairs, right, source in rows:
            with self.subTest(pairs[0][:60], source=source):
                self.assertEqual(framing_error(fields(("Host", "x"), *pairs), "HTTP/1.1") == "", right)
        with self.subTest("RFC 9112 6.1: HTTP/1.0 knows no codings"):
            self.assertNotEqual(framing_error(fields((coding, "chunked")), "HTTP/1.0"), "")

    def test_target_path(self) -> None:
        rows: list[tuple[str, str | None]] = [
            ("/", "/"),
            ("/a/b.txt", "/a/b.txt"),
            ("/a?b#c", "/a"),
            ("/a?/b", "/a"),
            ("/a#b?c", "/a"),
            ("/a?", "/a"),
            ("/http://x/y", "/http://x/y"),
            ("/%3Fa%23b", "/%3Fa%23b"),
            ("http://x/a", "/a"),
            ("HTTP://X:80/a?b", "/a"),
            ("https://[::1]:80/a/b", "/a/b"),
            ("http://u:p@x/a", "/a"),
            ("http://x", "/"),
            ("http://x?a", "/"),
            ("http://x/", "/"),
            ("http:///a", None),
            ("http:/a", None),
            ("http://", None),
            ("ftp://x/a", None),
            ("file:///etc/passwd", None),
            ("*", None),
            ("a.txt", None),
            ("?a", None),
            ("#a", None),
            ("x:80", None),
            ("../a", None),
            ("\\a", None),
        ]
        for target, expected in rows:
            with self.subTest(target):
                self.assertEqual(target_path(target), expected)


class WindowsNames(unittest.TestCase):
    def test_is_refused_on_windows(self) -> None:
        # Microsoft, "Naming Files, Paths, and Namespaces"; superscripts and CONIN$: CPython and Go.
        refused = "CON con Con PRN aux NUL nul COM1 com9 LPT1 lpt9 COM0 COM\xb9 COM\xb2 LPT\xb3 CONIN$ conout$"
        endings = ["con.txt", "aux.tar.gz", "nul .txt", "COM1.", "CON ", "a.", "a ", "...", " ", "a. ", "a .", "a.txt."]
        signs = ["a:b", "C:", "a:", "a::$DATA", "a\\b", "..\\a", "\\", "a*", "a?", 'a"', "a<", "a>", "a|b"]
        controls = ["a\0", "\x01a", "a\nb", "a\x1f", "a.\n"]
        for name in [*refused.split(), *endings, *signs, *controls]:
            with self.subTest(name):
                self.assertTrue(is_refused_on_windows(name))
        kept = ["a", "a.txt", ".a", "a b", "console", "COM", "COM10", "LPT", "auxiliary", "xcon", "a.con", "a.nul.b"]
        for name in [*kept, "NULL", "中文.bin", "COM\u0661", "a%b", "a#b", "CONIN", "~a$", "a'b", " a"]:
            with self.subTest(name):
                self.assertFalse(is_refused_on_windows(name))


if __name__ == "__main__":
    unittest.main()
