"""What is offered: every link works, and all that is not offered is refused."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any, Iterable, Iterator
from unittest import mock
from urllib.parse import quote

import httpd_download
from httpd_download import EntryKind, OfferedFile, Share, file_id, may_be_offered, named_offers
from tests.support import PATIENCE, PROGRAM, Program, ProgramCase, Reply, deadline, until
from tests.test_channel import make_certificates
from tests.test_files import SymlinkCase, append, count_descriptors, overwrite


def undecodable(raw: bytes) -> str:
    """Return a name of bytes that are not UTF-8; "" on systems without such names."""
    try:
        return os.fsdecode(raw)
    except UnicodeDecodeError:
        return ""


NAMES = ["plain.txt", "中文.bin", "a b", "a#b", "a%b", "a%20b", "a?b=c", 'a"b', "a'b<&>", "a\nb"]
NAMES += ["a\r\nb", "a\\b", "a+b", "a;b", "a:b", "*", "~", "-x", "a.", " ", "\x85", "\x01\x1b[2J"]
NAMES += ["\u202egnp.exe", "\u2028", "å", "a\u030a", "😀", "%", "%2e%2e", '#%?"\\', "x" * 255]
NAMES += [name for name in (undecodable(b"caf\xe9.bin"), undecodable(b"\xff\xfe")) if name]
# Exchanges names two by two until its parent ends: at once where the system can (renameat2 with
# RENAME_EXCHANGE), else by way of a third name.
SWAPPER = """
import ctypes, os, sys
parent = os.getppid()
names = [os.fsencode(name) for name in sys.argv[1:]]
try:
    renameat2 = ctypes.CDLL(None).renameat2
except (AttributeError, OSError, TypeError):
    renameat2 = lambda *arguments: -1
def swap(one, other):
    if renameat2(-100, one, -100, other, 2):
        third = one + b".third"
        os.rename(one, third)
        os.rename(other, one)
        os.rename(third, other)
swap(*names[:2])
print("began", flush=True)
while os.getppid() == parent:
    for one, other in zip(names[::2], names[1::2]):
        swap(one, other)
"""
# Makes a user who owns nothing of root, who may read everything.
AS_NOBODY = """
import os
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""
needs_swapping = unittest.skipUnless(httpd_download.HAS_DIR_FD, "no dir_fd here")


@contextlib.contextmanager
def swapping(*names: Path) -> Iterator[None]:
    """Exchange *names*, two by two, in a process of its own."""
    command = [sys.executable, "-c", SWAPPER, *map(str, names)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"began\n"
            yield
        finally:
            process.kill()


def paths_of(program: Program) -> list[str]:
    """Return the links that *program* prints, from their paths on."""
    return [re.sub("^https?://[^/]*", "", link) for link in program.links()]


def fetch_status(port: int, target: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", target)
        return Reply(connection.getresponse()).status


class NobodyCase(ProgramCase):
    """A test of the program as a user who may not read everything."""

    def setUp(self) -> None:
        super().setUp()
        if not httpd_download.HAS_PERMISSION_BITS:
            self.skipTest("no permission bits here")
        self.folder.chmod(0o755)
        code = f"{AS_NOBODY}os.listdir({str(self.folder)!r})"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stderr=subprocess.PIPE)
        if done.returncode:
            self.skipTest(f"cannot become nobody: {done.stderr.decode().splitlines()[-1:]}")

    def start_as_nobody(self, *arguments: str) -> Program:
        # The module is imported before the user is changed, who may not be allowed to read it.
        code = f"import sys, httpd_download{AS_NOBODY}sys.exit(httpd_download.main())"
        command = [sys.executable, "-c", code, "-b", "127.0.0.1", *arguments]
        return self.start_command(command)

    def deny(self, name: str, mode: int = 0) -> None:
        """Take rights away until the test ends."""
        path = self.folder / name
        self.addCleanup(path.chmod, path.stat().st_mode)
        path.chmod(mode)


def read(share: Share, path: str) -> bytes | None:
    """Return the content of the file that *path* names, or None if none is offered."""
    with deadline():
        offer = share.open(path)
    if offer is None:
        return None
    with contextlib.closing(offer):
        return b"".join(part for part in offer.parts(0, offer.version.size) if type(part) is bytes)


def names(share: Share) -> list[str]:
    return [listed.name for listed in share.survey().listed]


class ShareCase(SymlinkCase):
    def share(self, is_recursive: bool = False, **options: Any) -> Share:
        return Share(str(self.folder), {}, is_recursive=is_recursive, **options)

    def named(self, paths: Iterable[Any], excluded: Any = (), prefix: str = "") -> Share:
        offers = named_offers([str(path) for path in paths], excluded, lambda text: None)
        return Share(None, offers, prefix)

    def assert_offered(self, share: Share, contents: dict[str, bytes]) -> None:
        """Check that all links are printed, and lead to these contents."""
        links = {share.link_path(listed.name): listed.size for listed in share.survey().listed}
        self.assertEqual(links, {path: len(data) for path, data in contents.items()})
        for path, data in contents.items():
            with self.subTest(path[:99]):
                self.assertEqual(read(share, path), data)

    def assert_refused(self, share: Share, *paths: str) -> None:
        for path in paths:
            with self.subTest(path[:99]):
                self.assertIsNone(read(share, path))

    def write_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Make files as far as the file system has such names; return them by their links."""
        contents = {}
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                data = self.write(name, os.fsencode(name) + b"!")
                if name in os.listdir(self.folder):
                    contents["/" + quote(os.fsencode(name), safe="")] = data
        return contents


class Folders(ShareCase):
    def test_names(self) -> None:
        contents = self.write_all(NAMES)
        self.assertGreater(len(contents), 10)
        self.assert_offered(self.share(), contents)
        files = [path for path in self.folder.iterdir() if path.is_file()]
        self.assert_offered(self.named(files), contents)

    def test_spellings_of_a_path(self) -> None:
        data = self.write("中 文.bin")
        self.write("sub/a")
        share = self.share(is_recursive=True)
        raw = b"/\xe4\xb8\xad%20\xe6\x96\x87.bin".decode("utf-8", "surrogateescape")
        for path in [raw, "/%e4%b8%ad%20%e6%96%87%2ebin"]:
            self.assertEqual(read(share, path), data)
        self.assert_refused(share, "/中+文.bin", "/中%2520文.bin", "/中%A0文.bin", "/\udcff")
        self.assert_refused(share, "/sub%2Fa", "/sub%2fa", "/sub%5Ca", "/sub%252Fa", "/sub\\a")

    def test_sub_folders(self) -> None:
        contents = {path: self.write(path[1:], 9) for path in ["/b", "/a/z", "/a/b/c"]}
        contents["/c/%E4%B8%AD/d"] = self.write("c/中/d")
        (self.folder / "empty").mkdir()
        self.assert_offered(self.share(is_recursive=True), contents)
        self.assert_offered(self.share(), {"/b": contents["/b"]})
        self.assert_refused(self.share(), "/a/z", "/a/b/c", "/c/%E4%B8%AD/d", "/a%2Fz", "/%61/z")
        for share in (self.share(), self.share(is_recursive=True)):
            self.assert_refused(share, "/", "/a", "/a/", "/a/b", "/a/b/", "/b/", "/b/c", "/empty")
            self.assert_refused(share, "//b", "/a//z", "/a/./z", "/a/b/../z", "/a%2fb/c", "//a/z")
            self.assert_refused(share, "/%00", "/b%00", "/b%00.txt", "/a/z%00", "/a%00/z", "/b\0")

    def test_hidden_names(self) -> None:
        with contextlib.suppress(OSError):
            self.write("...")
        for path in [".a", "..a", ".d/a", "s/.a", "s/.d/a", "s/.d/e/a"]:
            self.write(path)
        share = self.share(is_recursive=True)
        self.assert_offered(share, {"/s/a.b": self.write("s/a.b")})
        self.assert_refused(share, "/.a", "/%2ea", "/..a", "/...", "/.d/a", "/%2Ed/a", "/s/.a")
        self.assert_refused(share, "/s/%2ea", "/s/.d/a", "/s/.d/e/a", "/s/%2Ed/e/a", "/.", "/s/.")

    def test_ways_up(self) -> None:
        for path in ["share/a", "share/s/a", "share-secret/a", "secret"]:
            self.write(path)
        root = self.folder
        self.folder = root / "share"
        ups = ["..", "%2e%2e", "%2E.", ".%2e", "s/../..", "s/..%2F..", "%2e%2e%2f.", "..%2f"]
        ups += ["..%00", "..%5C", "..\\"]
        outside = ["secret", "share-secret/a", "share/a", "etc/passwd"]
        paths = [f"/{up}/{name}" for up in ups for name in outside]
        paths += [f"/..%2f{name}" for name in ["secret", "share-secret%2Fa", "share%2fa"]]
        paths += [f"/{'../' * 20}etc/passwd", f"/{quote(str(root / 'secret'), safe='')}"]
        paths += ["/-secret/a", "//etc/passwd", "///etc/passwd", "/%2Fetc%2Fpasswd", "/..", "/s/.."]
        for is_recursive in (False, True):
            self.assert_refused(self.share(is_recursive), *paths)

    def test_only_regular_files(self) -> None:
        (self.folder / "folder").mkdir()
        made = ["folder"]
        with contextlib.suppress(AttributeError, OSError):
            os.mkfifo(self.folder / "fifo")
            (self.folder / "fifo-link").symlink_to("fifo")
            made += ["fifo", "fifo-link"]
        # Only root makes devices.
        with contextlib.suppress(AttributeError, OSError):
            os.mknod(self.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            made.append("null")
        share = self.share(is_recursive=True)
        self.assert_offered(share, {"/a": self.write("a")})
        self.assert_refused(share, *(f"/{name}" for name in made))

    def test_too_long(self) -> None:
        self.write("a")
        share = self.share(is_recursive=True)
        self.assert_refused(share, "/" + "x" * 256, "/" + "x" * 60000, "/a" * 30000)
        self.assert_refused(share, "/" + "%C3%A5" * 128, "/a/" + "x" * 5000, "/y" * 2000 + "/a")

    @needs_swapping
    def test_a_path_longer_than_the_system_takes(self) -> None:
        name = "d" * 250
        here = os.open(self.folder, os.O_RDONLY)
        try:
            for _ in range(18):
                os.mkdir(name, dir_fd=here)
                below = os.open(name, os.O_RDONLY, dir_fd=here)
                os.close(here)
                here = below
            os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        except OSError:
            self.skipTest("this file system has no such paths")
        finally:
            os.close(here)
        self.assert_offered(self.share(is_recursive=True), {f"/{name}" * 18 + "/deep": b""})

    def test_files_that_come_and_go(self) -> None:
        share = self.share(is_recursive=True)
        self.assert_offered(share, {})
        self.assert_refused(share, "/a", "/new/a")
        self.assert_offered(share, {"/a": self.write("a"), "/new/a": self.write("new/a")})
        (self.folder / "a").unlink()
        self.assert_refused(share, "/a")

    def test_names_that_vanish_while_they_are_listed(self) -> None:
        for name in ["a", "b", "c", "d/e", "i"]:
            self.write(name)
        entries = list(httpd_download.walk(str(self.folder), True, ()))
        for name in ["b", "d/e", "i"]:
            (self.folder / name).unlink()
        (self.folder / "d").rmdir()
        with mock.patch.object(httpd_download, "walk", return_value=entries):
            self.assertEqual(names(self.share(is_recursive=True)), ["a", "c"])

    @unittest.skipUnless(os.sep == "/", "there is no / here")
    def test_the_root_folder(self) -> None:
        if any(part.startswith(".") for part in self.folder.parts):
            self.skipTest("the temporary folder is hidden")
        data = self.write("in/a")
        path = quote(str(self.folder / "in" / "a"))
        self.assertEqual(read(Share("/", {}, is_recursive=True), path), data)
        self.assertIsNone(read(Share("/", {}), path))

    def test_other_spellings_of_a_name_are_refused(self) -> None:
        """FAT and NTFS know .env as ENV~1 too; others ignore invisible characters."""
        contents = self.write_all(["ENV~1", "\u200c.env"])
        contents["/GIT~1/config"] = self.write("GIT~1/config")
        self.assert_offered(self.share(is_recursive=True), contents)
        with mock.patch("os.listdir", return_value=[".env", ".git", "config"]):
            self.assert_refused(self.share(is_recursive=True), *contents)

    def test_a_lease_or_a_lack_of_descriptors_is_no_404(self) -> None:
        for name in "abc":
            self.write(name)
        open_file = os.open

        def leased(path: Any, flags: int, *mode: int, **options: Any) -> int:
            if os.path.basename(str(path)) == "b":
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            return open_file(path, flags, *mode, **options)

        with mock.patch("os.open", leased):
            self.assertEqual(names(self.share()), ["a", "c"])
            with self.assertRaises(BlockingIOError):
                self.share().open("/b")
        # A 404 would be a lie that receivers believe.
        served = self.serve()
        with mock.patch("os.open", side_effect=OSError(errno.EMFILE, "Too many open files")):
            self.assertEqual(served.fetch("/b").status, 503)

    def test_no_descriptor_is_left_open(self) -> None:
        for name in ["a", "s/b", "s/excluded"]:
            self.write(name)
        self.symlink("out", os.devnull)
        self.symlink("in", "s/b")
        excluded = [file_id(os.stat(self.folder / "s/excluded"))]
        share = self.share(is_recursive=True, excluded=excluded)
        before = count_descriptors()
        for path in [
            "/s/nothing",
            "/s/excluded",
            "/s/b/c",
            "/s",
            "/out",
            "/s/b~1",
            "/in",
            "/a",
        ] * 9:
            read(share, path)
        names(share)
        self.assertEqual(count_descriptors(), before)

    def test_windows_names(self) -> None:
        reserved = ["a:b", "a\\b", "a.", "a ", "NUL", "nul.txt", "COM1", "con .x", "a\x1f", "LPT²"]
        self.assertTrue(all(may_be_offered(name) for name in reserved) or os.sep == "\\")
        with mock.patch("os.sep", "\\"):
            self.assertFalse(any(may_be_offered(name) for name in reserved))
            for name in ["a", "a b", "null", "COM", "COM12", "a.nul", "中"]:
                self.assertTrue(may_be_offered(name), name)

    def test_left_out(self) -> None:
        for name in ["a", ".hidden", "s/.h", "s/b", "locked", "log"]:
            self.write(name)
        expected = {EntryKind.UNREADABLE: ["locked"], EntryKind.EXCLUDED: ["log"]}
        with contextlib.suppress(AttributeError, OSError):
            os.mkfifo(self.folder / "fifo")
            expected[EntryKind.SPECIAL] = ["fifo"]
        for name, target in {"out": os.devnull, "broken": "nowhere", "link": "a"}.items():
            with contextlib.suppress(OSError, NotImplementedError):
                (self.folder / name).symlink_to(target)
            if (self.folder / name).is_symlink() and name != "link":
                expected.setdefault(EntryKind.SYMLINK, []).insert(0, name)
        excluded = [file_id(os.stat(self.folder / "log"))]

        def can_read(folder: Any, name: str) -> bool:
            return name != "locked"

        with mock.patch.object(httpd_download.Folder, "can_read", can_read):
            left_out = self.share(is_recursive=True, excluded=excluded).survey().left_out
            self.assertEqual(left_out, expected)
            expected[EntryKind.FOLDER] = ["s"]
            self.assertEqual(self.share(excluded=excluded).survey().left_out, expected)
        self.assertEqual(self.named([self.folder / "a"]).survey().left_out, {})


class Symlinks(ShareCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = self.write("share/s/a")
        for path in ["share/.h", "share/.d/a", "share-2/a", "out"]:
            self.write(path)
        self.root = self.folder
        self.folder = self.root / "share"

    def test_to_another_drive(self) -> None:
        self.symlink("link", "s/a")
        with mock.patch("os.path.relpath", side_effect=ValueError("path is on mount 'C:'")):
            survey = self.share().survey()
        self.assertEqual(survey.listed, [])
        self.assertEqual(survey.left_out[EntryKind.SYMLINK], ["link"])

    def test_to_a_file_inside(self) -> None:
        self.symlink("inside", "s/a")
        self.symlink("absolute", self.folder / "s" / "a")
        self.symlink("chain", "inside")
        self.symlink("s/up", "../s/a")
        flat = dict.fromkeys(["/absolute", "/chain", "/inside"], self.data)
        self.assert_offered(self.share(), flat)
        self.assert_refused(self.share(), "/s/a", "/s/up")
        self.assert_offered(self.share(True), {**flat, "/s/a": self.data, "/s/up": self.data})

    def test_to_anything_else(self) -> None:
        links: dict[str, Any] = {"out-file": "../out", "out-absolute": self.root / "out"}
        links.update({"sibling": "../share-2/a", "out-and-in": "../share/../out"})
        links.update({"chain-out": "out-file", "hidden": ".h", "hidden-folder": ".d"})
        links.update({"in-hidden": ".d/a", "s/hidden": "../.d/a", "s/out": "../../out"})
        links.update({"broken": "nothing", "loop": "loop", "null": os.devnull, "folder": "s"})
        links.update({"itself": ".", "up": "..", "etc": "/etc", "s/again": "../s"})
        for name, target in links.items():
            self.symlink(name, target)
        self.assert_offered(self.share(), {})
        self.assert_offered(self.share(is_recursive=True), {"/s/a": self.data})
        through = [
            "/folder/a",
            "/itself/s/a",
            "/itself/itself/s/a",
            "/folder/again/a",
            "/etc/passwd",
        ]
        through += [
            "/s/again/a",
            "/up/out",
            "/up/share/s/a",
            "/hidden-folder/a",
            "/null/",
            "/folder/",
        ]
        for is_recursive in (False, True):
            self.assert_refused(self.share(is_recursive), *(f"/{name}" for name in links), *through)

    def test_many_in_a_row(self) -> None:
        self.symlink("0", "s/a")
        # More than os.path.realpath could follow.
        for number in range(1100):
            self.symlink(str(number + 1), str(number))
        self.assertEqual(read(self.share(), "/9"), self.data)
        self.assert_refused(self.share(), "/1100")

    def test_to_the_folder_itself(self) -> None:
        self.symlink("inside", "s/a")
        self.folder = self.root
        self.symlink("link", "share")
        self.folder = self.root / "link"
        self.assert_offered(self.share(True), {"/inside": self.data, "/s/a": self.data})

    @needs_swapping
    def test_swapping_names_gains_nothing(self) -> None:
        secret = b"the secret\n"
        public = b"the public\n"
        for name, data in {"share/a": public, "share/sub/a": public}.items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_bytes(data)
        (self.root / "outside").mkdir()
        for name in ["out", "outside/a"]:
            (self.root / name).write_bytes(secret)
        for link, target in {"evil": "../out", "evil-sub": "../outside"}.items():
            self.symlink(link, target)
        self.symlink("link", "a")
        self.symlink("deep", "sub/a")
        share = self.share(is_recursive=True)
        paths = ["/a", "/evil", "/link", "/sub/a", "/evil-sub/a", "/deep"]
        seen: set[tuple[str, bytes | None]] = set()
        rounds = 0
        swapped = [self.folder / name for name in ["a", "evil", "sub", "evil-sub"]]
        with swapping(*swapped), deadline():
            # Until each of them was there, and was not.
            while rounds < 400 or len(seen) < 2 * len(paths):
                rounds += 1
                seen.update((path, read(share, path)) for path in paths)
        self.assertEqual({data for _, data in seen}, {public, None})


class Named(ShareCase):
    def test_nothing_else(self) -> None:
        contents = {f"/{path[-1]}": self.write(path, 10) for path in ["x/a", "y/b", "z/c"]}
        self.write("x/other")
        self.write("other")
        share = self.named(self.folder / name for name in ["x/a", "y/b", "z/c"])
        self.assert_offered(share, contents)
        self.assert_refused(share, "/", "/other", "/x/a", "/x", "/x/other", "/a/", "//x/a")
        self.assert_refused(share, "/../x/a", "/a/b", "/.", "/..", "//a", "/a%2F", "/%2Fa")
        self.assert_refused(share, quote(str(self.folder / "x/a")))

    def test_hidden_names_and_symlinks_can_be_named(self) -> None:
        hidden = self.write(".hidden/.profile")
        target = self.write("away/target")
        (self.folder / "here").mkdir()
        self.symlink("here/link", "../away/target")
        self.symlink("behind", "away")
        share = self.named(
            self.folder / name for name in [".hidden/.profile", "here/link", "behind"]
        )
        self.assertEqual(names(share), [".profile", "link", "behind.tar"])
        self.assertEqual(read(share, "/.profile"), hidden)
        self.assertEqual(read(share, "/link"), target)

    def test_spellings(self) -> None:
        self.write("s/a")
        (self.folder / "s" / "t").mkdir()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder / "s")
        spellings = dict.fromkeys(["a", "./a", "../s/a", ".//a", str(self.folder / "s/a")], "a")
        folders = {".": "s", "..": self.folder.name, "t/": "t", "t/..": "s", "./": "s", "t/.": "t"}
        spellings.update({spelling: f"{name}.tar" for spelling, name in folders.items()})
        for spelling, name in spellings.items():
            with self.subTest(spelling):
                self.assertEqual(names(self.named([spelling])), [name])

    def test_the_same_twice_is_one(self) -> None:
        self.write("a")
        (self.folder / "s").mkdir()
        share = self.named(f"{self.folder}/{name}" for name in ["a", "s/../a", "s", "s/", "a"])
        self.assertEqual(names(share), ["a", "s.tar"])

    def test_the_size_of_a_folder_is_that_of_its_archive(self) -> None:
        self.write("s/a", 1)
        (listed,) = self.named([self.folder / "s"]).survey().listed
        assert listed.archive
        self.assertEqual((listed.archive.folder_name, listed.archive.file_count), ("s", 1))
        self.assertEqual(listed.size, 5 * 512)

    def test_all_that_cannot_be_offered_is_reported_at_once(self) -> None:
        self.write("a")
        bad = ["nothing", "a/b", "a/", "x" * 300, "中"]
        with contextlib.suppress(AttributeError, OSError):
            os.mkfifo(self.folder / "fifo")
            bad.append("fifo")
        paths = [f"{self.folder}/{name}" for name in bad]
        if os.path.exists("/dev/null"):
            paths.append("/dev/null")
        with self.assertRaises(OSError) as caught, deadline():
            self.named([self.folder / "a", *paths])
        for path in paths:
            self.assertIn(path, str(caught.exception.strerror))

    def test_a_file_of_unknown_size(self) -> None:
        if not os.path.exists("/proc/cpuinfo"):
            self.skipTest("no /proc/cpuinfo here")
        with self.assertRaisesRegex(
            OSError, "/proc/cpuinfo: a file without a fixed size cannot be offered"
        ):
            self.named(["/proc/cpuinfo"])

    def test_a_file_that_just_grows(self) -> None:
        self.write("a")
        pread = httpd_download.pread

        def grow_and_read(*arguments: int) -> bytes:
            append(self.folder / "a")
            return pread(*arguments)

        with mock.patch.object(httpd_download, "pread", grow_and_read):
            self.assertEqual(list(named_offers([str(self.folder / "a")], (), print)), ["a"])

    def test_two_with_one_name(self) -> None:
        for name in ["x/a", "y/a", "results/a", "results.tar", "other/results/a"]:
            self.write(name)
        for pair in (["x/a", "y/a"], ["results", "results.tar"], ["results", "other/results"]):
            paths = [str(self.folder / name) for name in pair]
            with self.subTest(pair), self.assertRaises(ValueError) as caught:
                self.named(paths)
            for text in [*paths, "rename one, or name only one of them"]:
                self.assertIn(text, str(caught.exception))

    @unittest.skipUnless(os.sep == "/", "there is no / here")
    def test_the_root_has_no_name(self) -> None:
        for name in ["/", "//", "/..", "/usr/.."]:
            with self.subTest(name), self.assertRaisesRegex(ValueError, f"{name} has no name"):
                self.named([name])

    def test_excluded_files_are_passed_over(self) -> None:
        self.write("a")
        self.write("log")
        os.link(self.folder / "log", self.folder / "hard")
        paths = [self.folder / name for name in ("a", "log", "hard")]
        excluded = [file_id(os.stat(self.folder / "log"))]
        self.assertEqual(names(self.named(paths, excluded)), ["a"])
        share = self.share(excluded=excluded)
        self.assertEqual(names(share), ["a"])
        self.assert_refused(share, "/log", "/hard")

    def test_prefix(self) -> None:
        prefix = "0123456789abcdef"
        self.write("a")
        self.write("s/b")
        contents = {f"/{prefix}/a": self.write("a"), f"/{prefix}/s/b": self.write("s/b")}
        deep = self.share(is_recursive=True, prefix=prefix)
        self.assert_offered(deep, contents)
        named = self.named([self.folder / "a"], prefix=prefix)
        self.assertEqual(read(named, f"/{prefix}/a"), contents[f"/{prefix}/a"])
        for share in (deep, named):
            self.assert_refused(share, "/", "/a", "//a", f"/{prefix}", f"/{prefix}/", "/s/b")
            self.assert_refused(
                share, f"/{prefix}/{prefix}/a", f"/{prefix[:-1]}/a", f"/{prefix}0/a"
            )
            self.assert_refused(share, f"/{prefix.upper()}/a", f"/a/{prefix}", f"/{prefix}%2Fa")
            self.assert_refused(share, f"/x/{prefix}/a", f"/{prefix}/../a", "/\udcff/a", "/%00/a")


class Versions(ShareCase):
    def open(self, name: str) -> OfferedFile:
        offer = self.share().open(f"/{name}")
        assert isinstance(offer, OfferedFile)
        self.addCleanup(offer.close)
        return offer

    def test_facts(self) -> None:
        self.write("a", 1000)
        for seconds in (-7, 0, 1_300_000_000, int(time.time()) + 1000):
            try:
                os.utime(self.folder / "a", (seconds, seconds))
            except OSError:
                continue
            file = self.open("a")
            status = os.stat(self.folder / "a")
            with self.subTest(seconds):
                self.assertEqual(file.version.size, 1000)
                self.assertEqual(file.version.file_id, file_id(status))
                self.assertEqual(file.version.mtime_ns, status.st_mtime_ns)
                assert file.modified is not None
                self.assertEqual(file.modified, min(seconds, int(time.time())))

    def test_etags(self) -> None:
        self.write("a")
        first = self.open("a")
        self.assertRegex(first.version.etag, r'\A"[!#-~]+"\Z')
        self.assertEqual(self.open("a").version, first.version)
        append(self.folder / "a")
        second = self.open("a").version
        os.utime(self.folder / "a", (1_300_000_000, 1_300_000_000))
        third = self.open("a").version
        self.write("b", (self.folder / "a").read_bytes())
        os.utime(self.folder / "b", (1_300_000_000, 1_300_000_000))
        tags = {first.version.etag, second.etag, third.etag, self.open("b").version.etag}
        self.assertEqual(len(tags), 4)

    def test_the_digest_of_the_end_tells_growth_from_other_content(self) -> None:
        self.write("a", 100_000)
        before = self.open("a").version
        self.assertNotEqual(before.end_digest, 0)
        append(self.folder / "a")
        grown = self.open("a")
        self.assertEqual(grown.digest_before(before.size), before.end_digest)
        self.assertNotEqual(grown.version.end_digest, before.end_digest)
        self.write("a", 200_000)
        self.assertNotEqual(self.open("a").digest_before(before.size), before.end_digest)
        self.write("small")
        self.assertEqual(self.open("small").version.end_digest, 0)

    def test_a_file_may_grow_but_not_change_while_it_is_sent(self) -> None:
        data = self.write("a", 1000)
        file = self.open("a")
        append(self.folder / "a")
        self.assertEqual(list(file.parts(10, 1000)), [data[10:]])
        file = self.open("a")
        os.utime(self.folder / "a", (1_300_000_000, 1_300_000_000))
        overwrite(self.folder / "a")
        os.truncate(self.folder / "a", 1000)
        with self.assertRaisesRegex(httpd_download.FileChanged, "^the file "):
            list(file.parts(10, 1000))


class Answers(ShareCase):
    """What Share says, over HTTP."""

    def test_every_404_is_the_same(self) -> None:
        for name in [".h", "s/.h", "s/a"]:
            self.write(name)
        served = self.serve()
        replies = set()
        for target in ["/nothing", "/", "/.h", "/s", "/s/", "/s/a", "/s/.h", "/%00", "/../x"]:
            reply = served.fetch(target)
            del reply.headers["Date"]
            replies.add((reply.status, str(reply.headers), reply.body))
        ((status, _, body),) = replies
        self.assertEqual(status, 404)
        self.assertIn(b"ask the sender for the complete link", body)

    def test_404s_leave_no_descriptor_open(self) -> None:
        self.write("s/a")
        served = self.serve(is_recursive=True)
        before = count_descriptors()
        answers = served.raw(b"GET /s/nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        self.assertEqual(answers.count(b"HTTP/1.1 404 "), 1000)
        until(lambda: count_descriptors() <= before, "all is closed")


class Commands(ProgramCase):
    def test_the_script_itself(self) -> None:
        (self.folder / PROGRAM.name).write_bytes(PROGRAM.read_bytes())
        os.link(self.folder / PROGRAM.name, self.folder / "hard")
        self.write("a")
        command = [sys.executable, PROGRAM.name, "-b", "127.0.0.1"]
        program = self.start_command(command)
        named = self.start_command([*command, PROGRAM.name])
        self.assertEqual(paths_of(program), ["/a"])
        for name in [PROGRAM.name, "hard"]:
            self.assertEqual(fetch_status(program.port(), f"/{name}"), 404)
        self.assertEqual(paths_of(named), [f"/{PROGRAM.name}"])
        self.assertEqual(fetch_status(named.port(), f"/{PROGRAM.name}"), 200)

    def test_certificate_and_key(self) -> None:
        certificates = make_certificates(type(self), "own")
        self.write("s/a")
        for name in ["own.crt", "own.key"]:
            shutil.copy(certificates / name, self.folder / "s")
        tls = ["--tls-cert", "s/own.crt", "--tls-key", "s/own.key"]
        cases = [(self.start(*tls, "-d", "s"), "/a"), (self.start(*tls, "s"), "/s.tar")]
        named = self.start(*tls, "s/own.crt")
        for program, link in cases:
            self.assertEqual(paths_of(program), [link])
            remarks = "\n".join(program.out.all())
            self.assertRegex(remarks, r": 2 server files \(own.crt, own.key\)")
        self.assertEqual(paths_of(named), ["/own.crt"])

    def test_files_that_the_program_writes_to(self) -> None:
        self.write("a")
        self.write("logs/old")
        log = self.folder / "logs" / "log.txt"
        with log.open("wb") as stream:
            deep = self.start("-r", stderr=stream)
            named = self.start("logs", "logs/log.txt", "a", stderr=stream)
        self.assertEqual(paths_of(deep), ["/a", "/logs/old"])
        self.assertEqual(fetch_status(deep.port(), "/logs/log.txt"), 404)
        self.assertEqual(paths_of(named), ["/logs.tar", "/a"])
        self.assertEqual(fetch_status(named.port(), "/log.txt"), 404)
        lines = named.out.all()
        self.assertIn("left out of logs.tar: 1 server file (log.txt)", lines)
        self.assertIn("not offered, since this program writes to it: logs/log.txt", lines)

    def test_a_current_folder_that_is_gone(self) -> None:
        self.write("a")
        self.write("s/b")
        (self.folder / "gone").mkdir()
        code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
        paths = [str(self.folder / name) for name in ["a", "s"]]
        command = [sys.executable, "-c", code, sys.executable, str(PROGRAM), "-b", "127.0.0.1"]
        program = self.start_command([*command, *paths], cwd=str(self.folder / "gone"))
        try:
            self.assertEqual(paths_of(program), ["/a", "/s.tar"])
        except AssertionError:
            if (self.folder / "gone").exists():
                self.skipTest("a folder in use cannot be removed here")
            raise
        self.assertEqual(fetch_status(program.port(), "/s.tar"), 200)


class Permissions(NobodyCase):
    def statuses(self, program: Program, *targets: str) -> list[int]:
        return [fetch_status(program.port(), target) for target in targets]

    def test_unreadable(self) -> None:
        for name in ["a", "closed", "shut/a", ".results/closed/key", ".results/shut/a"]:
            self.write(name)
        for name in ["closed", "shut", ".results/closed/key", ".results/shut"]:
            self.deny(name)
        program = self.start_as_nobody("-r")
        archive = self.start_as_nobody(".results")
        failing = [self.start_as_nobody("closed", "shut"), self.start_as_nobody("-d", "shut")]
        self.assertEqual(paths_of(program), ["/a"])
        self.assertIn("not offered: 2 unreadable files (closed, shut)", program.out.all())
        statuses = self.statuses(program, "/a", "/closed", "/shut/a", "/shut")
        self.assertEqual(statuses, [200, 404, 404, 404])
        self.assertEqual(paths_of(archive), ["/.results.tar"])
        line = "left out of .results.tar: 2 unreadable files (closed/key, shut)"
        self.assertIn(line, archive.out.all())
        self.assertEqual(self.statuses(archive, "/.results.tar"), [200])
        for other in failing:
            self.assertEqual(other.wait(), 1)
            self.assertRegex("\n".join(other.err.all()), r"\Ahttpd_.*shut.*Permission denied.*\Z")

    def test_folders_that_may_be_entered_but_not_read(self) -> None:
        self.write("shut/share/a")
        self.write("shut/share/s/b")
        (self.folder / "link").symlink_to("shut/share/s/b")
        self.deny("shut", 0o711)
        programs = [
            (self.start_as_nobody("-r", "-d", "shut/share"), ["/a", "/s/b"]),
            (self.start_as_nobody("shut/share/s/b", "shut/share"), ["/b", "/share.tar"]),
        ]
        if hasattr(os, "O_PATH"):
            programs.append((self.start_as_nobody(), ["/link"]))
        for program, links in programs:
            self.assertEqual(paths_of(program), links)
            self.assertEqual(self.statuses(program, *links), [200] * len(links))


if __name__ == "__main__":
    unittest.main()
