"""Files on disk: opened safely, noticed when they change, listed by what they are."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable
from unittest import mock

import httpd_download
from httpd_download import (
    COPIED_END,
    COPY_LIMIT,
    DIGEST_LIMIT,
    EntryKind,
    FileChanged,
    FileSpan,
    Folder,
    PinnedFile,
    as_utf8,
    describe_left_out,
    file_id,
    has_hidden_attribute,
    open_regular_file,
    walk,
)
from tests.support import FolderCase, deadline

NS = 10**9
# A time that has passed, in whole seconds, so that every later change makes another one.
THEN = 1_300_000_000 * NS


def count_descriptors() -> int:
    """Return how many descriptors are open. Skip the test where no folder shows them."""
    with contextlib.suppress(OSError):
        if os.sep == "/":
            return len(os.listdir("/dev/fd"))
    raise unittest.SkipTest("no /dev/fd here")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def append_and_set_time_back(path: Path) -> None:
    append(path)
    os.utime(path, ns=(THEN, THEN))


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def touch(path: Path) -> None:
    os.utime(path, ns=(THEN, THEN + NS))


def cut_last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


class SymlinkCase(FolderCase):
    def symlink(self, name: str, target: str | Path) -> None:
        """Make a symlink. Skip the test where that is impossible."""
        with contextlib.suppress(OSError, NotImplementedError):
            (self.folder / name).symlink_to(target)
        if not (self.folder / name).is_symlink():
            self.skipTest("no symlinks here")


class Pinned(FolderCase):
    def pin(self, size: int = 1000, may_grow: bool = False) -> PinnedFile:
        self.path = self.folder / "a"
        self.data = self.write("a", size)
        os.utime(self.path, ns=(THEN, THEN))
        descriptor, status = open_regular_file(str(self.path))
        file = PinnedFile(descriptor, "the file", size, status.st_mtime_ns, may_grow)
        self.addCleanup(file.close)
        return file

    def test_an_unchanged_file_can_be_read(self) -> None:
        file = self.pin()
        file.ensure_unchanged()
        self.assertEqual(file.read(10, 30), self.data[10:30])
        self.assertEqual(file.read(990, 1000), self.data[990:])

    def test_changes_are_noticed(self) -> None:
        changes: list[tuple[Callable[[Path], object], str]] = [
            (append, "the file was changed"),
            (append_and_set_time_back, "the file was changed"),
            (overwrite, "the file was changed"),
            (touch, "the file was changed"),
            (cut_last_byte, "the file became shorter"),
            (empty, "the file became shorter"),
        ]
        for change, text in changes:
            file = self.pin()
            change(self.path)
            for use in (file.ensure_unchanged, lambda file=file: file.read(0, 9)):
                with self.subTest(change.__name__), self.assertRaises(FileChanged) as caught:
                    use()
                self.assertEqual(str(caught.exception), text)
            file.close()

    def test_a_file_that_may_grow(self) -> None:
        for change in (append, append_and_set_time_back):
            file = self.pin(may_grow=True)
            change(self.path)
            self.assertEqual(file.read(0, 1000), self.data)
            file.close()
        for change in (cut_last_byte, touch):
            file = self.pin(may_grow=True)
            change(self.path)
            with mock.patch("time.sleep"), self.assertRaises(FileChanged):
                file.ensure_unchanged()
            file.close()

    def test_a_file_that_became_another_larger_one_has_not_grown(self) -> None:
        for size in (DIGEST_LIMIT + 1, 200_000):
            file = self.pin(size, may_grow=True)
            append(self.path)
            file.ensure_unchanged()
            self.path.write_bytes(os.urandom(size + 100))
            with mock.patch("time.sleep"), self.assertRaises(FileChanged):
                file.ensure_unchanged()
            file.close()

    def test_the_new_size_of_a_growing_file_may_come_after_its_new_time(self) -> None:
        file = self.pin(may_grow=True)
        touch(self.path)
        with mock.patch("time.sleep", lambda seconds: append(self.path)):
            file.ensure_unchanged()

    def test_disk_errors_are_changes_with_a_reason(self) -> None:
        gone = OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        file = self.pin()
        for function in ("os.fstat", "httpd_download.pread"):
            with mock.patch(function, side_effect=gone), self.assertRaises(FileChanged) as caught:
                file.read(0, 1)
            self.assertEqual(str(caught.exception), "the file: Transport endpoint is not connected")

    def test_a_file_shorter_than_its_size_says_ends_too_early(self) -> None:
        file = self.pin()
        read = mock.patch("httpd_download.pread", return_value=b"")
        with read, self.assertRaisesRegex(FileChanged, "ends too early"):
            file.read(0, 10)

    def test_close(self) -> None:
        before = count_descriptors()
        file = self.pin()
        file.close()
        self.assertEqual(count_descriptors(), before)
        file.close()
        with self.assertRaises(FileChanged):
            file.read(0, 1)

    def test_an_error_of_close_says_nothing(self) -> None:
        # A dead sshfs answers so.
        close = os.close

        def fail(descriptor: int) -> None:
            close(descriptor)
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

        file = self.pin()
        with mock.patch("os.close", fail):
            file.close()

    def test_what_is_sent_as_a_copy(self) -> None:
        file = self.pin(2 * COPY_LIMIT)
        for start, stop in [(0, 0), (5, 6), (100, 100 + COPY_LIMIT)]:
            self.assertEqual(list(file.parts(start, stop)), [self.data[start:stop]])
        stop = 101 + COPY_LIMIT
        span, end = file.parts(100, stop)
        self.assertEqual(span, FileSpan(file, 100, stop - COPIED_END))
        self.assertEqual(end, self.data[stop - COPIED_END : stop])

    def test_the_end_is_read_after_the_rest_was_sent(self) -> None:
        file = self.pin(2 * COPY_LIMIT)
        parts = file.parts(0, 2 * COPY_LIMIT)
        self.assertIsInstance(next(parts), FileSpan)
        overwrite(self.path)
        with self.assertRaises(FileChanged):
            next(parts)


class Opening(SymlinkCase):
    def assert_refused(self, name: str, error: int, **options: Any) -> None:
        before = count_descriptors()
        with self.assertRaises(OSError) as caught, deadline():
            open_regular_file(str(self.folder / name), **options)
        self.assertEqual(caught.exception.errno, error)
        self.assertEqual(count_descriptors(), before)

    def test_only_regular_files(self) -> None:
        (self.folder / "folder").mkdir()
        self.assert_refused("folder", errno.EINVAL)
        self.assert_refused("nothing", errno.ENOENT)
        self.assert_refused(os.devnull, errno.EINVAL)

    def test_symlinks(self) -> None:
        self.write("a")
        self.symlink("link", "a")
        descriptor, status = open_regular_file(str(self.folder / "link"))
        os.close(descriptor)
        self.assertEqual(status.st_size, 10)
        self.assert_refused("link", errno.ELOOP, follow_symlinks=False)

    @unittest.skipUnless(hasattr(os, "mkfifo"), "no FIFO here")
    def test_a_fifo_is_not_waited_for(self) -> None:
        self.write("a")
        regular = os.stat(self.folder / "a")
        os.mkfifo(self.folder / "fifo")
        self.assert_refused("fifo", errno.EINVAL)
        # The name was given to the FIFO after the first look.
        with mock.patch("os.stat", return_value=regular):
            self.assert_refused("fifo", errno.EINVAL)


class Folders(SymlinkCase):
    def test_names_in_sub_folders(self) -> None:
        self.write("a/b/c", b"content")
        self.write("a/b/d")
        with Folder(str(self.folder), "a/b") as folder:
            self.assertEqual(sorted(folder.names()), ["c", "d"])
            self.assertEqual(folder.stat("c").st_size, 7)
            self.assertTrue(folder.can_read("c"))
            descriptor, _status = folder.open_file("c")
            self.assertEqual(os.read(descriptor, 9), b"content")
            os.close(descriptor)

    def test_symlinks_are_not_followed(self) -> None:
        self.write("a/b")
        self.symlink("link", "a")
        self.symlink("a/link", "b")
        with self.assertRaises(OSError):
            Folder(str(self.folder), "link")
        with Folder(str(self.folder), "a") as folder:
            self.assertEqual(folder.read_link("link"), "b")
            self.assertTrue(stat.S_ISLNK(folder.stat("link").st_mode))
            with self.assertRaises(OSError) as caught:
                folder.open_file("link")
            self.assertEqual(caught.exception.errno, errno.ELOOP)

    def test_a_symlink_to_the_root_is_followed(self) -> None:
        self.write("a/b")
        self.symlink("link", "a")
        with Folder(str(self.folder / "link")) as folder:
            self.assertEqual(folder.names(), ["b"])

    def test_all_is_closed(self) -> None:
        self.write("a/b/c")
        before = count_descriptors()
        for path in ["a/b", "a/b/c", "a/nothing", "nothing/b"]:
            with contextlib.suppress(OSError), Folder(str(self.folder), path) as folder:
                folder.names()
                folder.ensure_visible("no-such-name~1")
        self.assertEqual(count_descriptors(), before)

    def test_other_spellings_are_not_visible(self) -> None:
        listed = [".env", "long name.txt", "file", "Straße"]
        spellings = ["ENV~1", "\u200c.env", "LONGNA~1.TXT", "file.", "file ", "FILE", "STRASSE"]
        made = set()
        # "strasse", since a file system that ignores case finds the file by this name as well.
        for name in [*listed, *spellings, "strasse"]:
            with contextlib.suppress(OSError):
                self.write(name)
                made.add(name)
        with Folder(str(self.folder)) as folder, mock.patch("os.listdir", return_value=listed):
            for name in listed:
                folder.ensure_visible(name)
            for name in made.intersection(spellings):
                with self.subTest(name), self.assertRaises(FileNotFoundError):
                    folder.ensure_visible(name)

    def test_plain_names_do_not_ask_for_the_listing(self) -> None:
        for name in ["archive-2.tar.gz", "123", "A_b"]:
            self.write(name)
        with Folder(str(self.folder)) as folder:
            if "ARCHIVE-2.TAR.GZ" in folder.names() or Path(self.folder, "a_B").exists():
                self.skipTest("this file system ignores case")
            with mock.patch("os.listdir", side_effect=AssertionError):
                for name in ["archive-2.tar.gz", "123", "A_b"]:
                    folder.ensure_visible(name)

    def test_without_permission_bits_a_file_is_opened_to_find_out(self) -> None:
        self.write("a")
        no_bits = mock.patch.object(httpd_download, "HAS_PERMISSION_BITS", False)
        with no_bits, Folder(str(self.folder)) as folder:
            self.assertTrue(folder.can_read("a"))
            with mock.patch("os.open", side_effect=PermissionError(errno.EACCES, "locked")):
                self.assertFalse(folder.can_read("a"))


class FoldersByPath(Folders):
    """The same on systems without dir_fd."""

    def setUp(self) -> None:
        super().setUp()
        without = mock.patch.object(httpd_download, "HAS_DIR_FD", False)
        without.start()
        self.addCleanup(without.stop)


class LeftOut(unittest.TestCase):
    def test_description(self) -> None:
        left_out = {
            EntryKind.EXCLUDED: ["log", "key"],
            EntryKind.HIDDEN: [".a"],
            EntryKind.UNREADABLE: [str(number) for number in range(10)],
            EntryKind.FOLDER: ["s"],
        }
        self.assertEqual(
            describe_left_out(left_out),
            "1 folder (name them, or use -r), 1 hidden name, "
            "10 unreadable files (0, 1, 2, 3, 4, 5, 6, 7, and 2 more), 2 server files (log, key)",
        )
        self.assertEqual(describe_left_out({}), "")


class Walks(SymlinkCase):
    def kinds(self, is_recursive: bool = True, excluded: Any = ()) -> dict[str, EntryKind]:
        entries = walk(str(self.folder), is_recursive, excluded)
        return {entry.path: entry.kind for entry in entries}

    def test_order_is_that_of_bytes_with_folders_before_their_contents(self) -> None:
        for name in ["b/a", "b/Z", "b-", "C", "中", "\uff21", "a.d/x/y"]:
            self.write(name)
        paths = [entry.path for entry in walk(str(self.folder), True, ())]
        expected = ["", "C", "a.d", "a.d/x", "a.d/x/y", "b", "b/Z", "b/a", "b-", "中", "\uff21"]
        self.assertEqual(sorted(paths), sorted(expected))
        # "b-" comes before "b/Z" by bytes, but a folder is directly before its contents.
        self.assertEqual(paths, [*expected[:5], "b", "b/Z", "b/a", "b-", *expected[9:]])
        flat = [entry.path for entry in walk(str(self.folder), False, ())]
        self.assertEqual(flat, ["", "C", "a.d", "b", "b-", "中", "\uff21"])

    def test_kinds(self) -> None:
        for name in ["file", ".hidden", ".d/a", "folder/..x", "log"]:
            self.write(name)
        self.symlink("link", "nowhere")
        expected = {
            "": EntryKind.FOLDER,
            "file": EntryKind.FILE,
            ".hidden": EntryKind.HIDDEN,
            ".d": EntryKind.HIDDEN,
        }
        expected.update(
            {"folder": EntryKind.FOLDER, "folder/..x": EntryKind.HIDDEN, "link": EntryKind.SYMLINK}
        )
        expected["log"] = EntryKind.EXCLUDED
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(AttributeError, OSError):
                os.mkfifo(self.folder / "fifo")
                expected["fifo"] = EntryKind.SPECIAL
            with contextlib.suppress(AttributeError, OSError):
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(self.folder / "socket"))
                expected["socket"] = EntryKind.SPECIAL
            # Only root makes devices.
            with contextlib.suppress(AttributeError, OSError):
                os.mknod(self.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
                expected["null"] = EntryKind.SPECIAL
            excluded = [file_id(os.stat(self.folder / name)) for name in ("log", "folder")]
            self.assertEqual(self.kinds(excluded=excluded), expected)

    @unittest.skipUnless(os.sep == "/", "there are no such names here")
    def test_names_that_windows_takes_for_others(self) -> None:
        for name in ["a", "a.", "nul"]:
            self.write(name)
        self.symlink("link", "s\\a")
        with mock.patch("os.sep", "\\"):
            entries = {entry.path: entry for entry in walk(str(self.folder), False, ())}
        kinds = [entries[name].kind for name in ["a", "a.", "nul"]]
        self.assertEqual(kinds, [EntryKind.FILE, EntryKind.UNREADABLE, EntryKind.UNREADABLE])
        self.assertEqual(entries["link"].target, "s/a")

    def test_hidden_attributes(self) -> None:
        for attributes, is_hidden in [
            ({}, False),
            ({"st_file_attributes": stat.FILE_ATTRIBUTE_HIDDEN | 1}, True),
            ({"st_file_attributes": stat.FILE_ATTRIBUTE_ARCHIVE}, False),
            ({"st_flags": stat.UF_HIDDEN | 1}, True),
            ({"st_flags": stat.UF_NODUMP}, False),
        ]:
            with self.subTest(attributes):
                status: Any = SimpleNamespace(**attributes)
                self.assertEqual(has_hidden_attribute(status), is_hidden)
        self.write("a/b")
        with mock.patch.object(httpd_download, "has_hidden_attribute", return_value=True):
            self.assertEqual(self.kinds(), {"": EntryKind.FOLDER, "a": EntryKind.HIDDEN})
            exists = mock.patch.object(httpd_download, "HAS_HIDDEN_ATTRIBUTE", True)
            with exists, Folder(str(self.folder)) as folder, self.assertRaises(OSError):
                folder.ensure_visible("a")

    def test_a_root_that_cannot_be_read(self) -> None:
        self.write("a")
        for name in ["nothing", "a", "a/b"]:
            with self.subTest(name), self.assertRaises(OSError) as caught:
                list(walk(str(self.folder / name), False, ()))
            self.assertEqual(Path(caught.exception.filename), self.folder / name)

    def test_names_whatever_the_locale(self) -> None:
        self.assertEqual(as_utf8("中 a"), "中 a")
        with mock.patch("os.fsencode", lambda name: name.encode("latin-1")):
            self.assertEqual(as_utf8("Ã¤"), "ä")
            self.assertEqual(as_utf8("ä"), "ä")


if __name__ == "__main__":
    unittest.main()
