"""Numbers and lists as a person reads them."""

from __future__ import annotations

import unittest

from httpd_download import (
    MAX_LISTED,
    format_percentage,
    format_size,
    join_limited,
    pluralize,
)


class Formats(unittest.TestCase):
    def test_sizes(self) -> None:
        for count, text in {
            0: "0 B",
            1023: "1023 B",
            0.9: "0 B",
            1024: "1.0 KiB",
            1024 * 1023.9: "1023.9 KiB",
            1024 * 1023.95: "1.0 MiB",
            640 << 20: "640.0 MiB",
            1_503_238_553: "1.4 GiB",
            1 << 40: "1.0 TiB",
            1 << 50: "1.0 PiB",
            5000 << 50: "5000.0 PiB",
        }.items():
            with self.subTest(count):
                self.assertEqual(format_size(count), text)

    def test_percentages_are_rounded_down(self) -> None:
        for part, whole, text in [
            (0, 0, "0%"),
            (0, 5, "0%"),
            (999, 1000, "99%"),
            (1000, 1000, "100%"),
            (45, 100, "45%"),
        ]:
            with self.subTest(part=part, whole=whole):
                self.assertEqual(format_percentage(part, whole), text)

    def test_plurals(self) -> None:
        for number, text in {0: "0 files", 1: "1 file", 2: "2 files", 3412: "3,412 files"}.items():
            self.assertEqual(pluralize(number, "file"), text)

    def test_long_lists_end_with_a_count(self) -> None:
        for items, limit, text in [
            ("", 2, ""),
            ("a", 2, "a"),
            ("ab", 2, "a, b"),
            ("abcdef", 2, "a, b, and 4 more"),
            ("x" * MAX_LISTED, MAX_LISTED, ", ".join("x" * MAX_LISTED)),
        ]:
            with self.subTest(items):
                self.assertEqual(join_limited(list(items), limit), text)
        self.assertTrue(join_limited(["x"] * (MAX_LISTED + 1)).endswith("x, and 1 more"))


if __name__ == "__main__":
    unittest.main()
