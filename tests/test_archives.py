"""A folder as a tar archive: unpacked it is the same tree, and any range of it is of one state."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import socket
import stat
import subprocess
import tarfile
import unittest
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence
from unittest import mock

import httpd_download
from httpd_download import (
    TAR_PERMISSIONS,
    TAR_TYPES,
    EntryKind,
    FileChanged,
    FileSpan,
    OpenedArchive,
    Part,
    TarArchive,
    TarMember,
    file_id,
    tar_header,
)
from tests.support import (
    PATIENCE,
    FolderCase,
    class_folder,
    deadline,
    read_all,
    read_exactly,
    skip_head,
    until,
)
from tests.test_files import (
    NS,
    THEN,
    SymlinkCase,
    append,
    append_and_set_time_back,
    count_descriptors,
    cut_last_byte,
    empty,
    overwrite,
    touch,
)
from tests.test_offers import needs_swapping, swapping, undecodable

BLOCK = 512
LATIN = undecodable(b"caf\xe9")
DEEP = "/".join(["d" * 90] * 3 + ["deep"])
SEVEN_ZIP = next(filter(shutil.which, ["7z", "7zz", "7za"]), "7z")
SEED = 11
try:
    import tracemalloc
except ImportError:  # PyPy
    tracemalloc = None  # type: ignore[assignment]


def lay_out(folder: Path, excluded: Any = ()) -> TarArchive:
    return TarArchive(str(folder), folder.name, excluded, lambda text: None)


def read_parts(parts: Iterator[Part]) -> Iterator[bytes]:
    """Yield the bytes of *parts*, as a channel without sendfile reads them."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        start = part.start
        while start < part.stop:
            data = part.file.read(start, min(part.stop, start + (1 << 16)))
            start += len(data)
            yield data


def read_until_change(archive: TarArchive, start: int, stop: int) -> tuple[bytes, str]:
    """Return the bytes from *start* to *stop* up to a change, and how that is described."""
    opened = OpenedArchive(archive)
    found = bytearray()
    try:
        for data in read_parts(opened.parts(start, stop)):
            found += data
    except FileChanged as change:
        return bytes(found), str(change)
    finally:
        opened.close()
    return bytes(found), ""


def content(archive: TarArchive, start: int = 0, stop: int | None = None) -> bytes:
    if stop is None:
        stop = archive.version.size
    data, change = read_until_change(archive, start, stop)
    assert not change, change
    return data


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as archive:
        return {member.name: member for member in archive}


def needs(program: str) -> Callable[[Any], Any]:
    return unittest.skipUnless(shutil.which(program), f"no {program} here")


class ArchiveCase(SymlinkCase):
    """A test with a folder ``results`` in ``self.folder``."""

    def setUp(self) -> None:
        super().setUp()
        self.results = self.folder / "results"
        self.results.mkdir()

    def set_times(self, folder: Path) -> None:
        """Give everything in *folder* a time that has passed, so that any change makes another."""
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                os.utime(path, ns=(THEN, THEN))


class Node(NamedTuple):
    """What a name in a tree is, with its permissions, its time, and its content or target."""

    kind: int
    mode: int
    seconds: int
    content: bytes


def tree(root: Path) -> dict[bytes, Node]:
    """Return what is in *root*; of symlinks the target alone, since not all tools set more."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [*folders, *files, b"."]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            data = b""
            mode = status.st_mode & TAR_PERMISSIONS
            seconds = status.st_mtime_ns // NS
            if kind == stat.S_IFLNK:
                data = os.readlink(path)
                mode = seconds = 0
            elif kind == stat.S_IFREG:
                data = Path(os.fsdecode(path)).read_bytes()
            relative = os.path.normpath(os.path.relpath(path, os.fsencode(root)))
            found[relative] = Node(kind, mode, seconds, data)
    return found


class Unpacked(ArchiveCase):
    """Every tool unpacks an archive to the same tree."""

    def setUp(self) -> None:
        super().setUp()
        files = ["plain", "a b", "n" * 120, "中文/文 件.txt", "é" * 100, "new\nline", "-x"]
        files += ["back\\slash", "%41", "中" * 30 + "/" + "文" * 80, "Z", "plain-", "\uff21"]
        if httpd_download.HAS_DIR_FD:
            # Paths end at 260 characters elsewhere.
            files.append(DEEP)
        files += [LATIN, f"{LATIN}.d/a", undecodable(b"\xff")] if LATIN else []
        for name in files:
            with contextlib.suppress(OSError):
                self.write(f"results/{name}", 97 * len(name))
        self.write("results/zero", b"")
        for name in ["empty", "sticky"]:
            (self.results / name).mkdir()
        for name, mode in {"plain": 0o6755, "a b": 0o400, "zero": 0o751, "sticky": 0o1777}.items():
            (self.results / name).chmod(mode)
        self.set_times(self.results)
        for name, seconds in {"old": -7, "old 中": -7, "late": 1 << 33, "late 中": 1 << 33}.items():
            self.write(f"results/{name}", b"x")
            # Whole seconds are kept, rounded down.
            time = seconds * NS + 999_999_999
            os.utime(self.results / name, ns=(time, time))
        links = {"link": "a b", "up": "../results/plain", "long": "t" * 150, "to 中": "中" * 50}
        for name, target in {
            **links,
            "latin": LATIN or "a",
            "broken": "nothing",
            "中": "a b",
        }.items():
            with contextlib.suppress(OSError, NotImplementedError):
                (self.results / name).symlink_to(target)
        os.utime(self.results, ns=(THEN, THEN))
        self.expected = tree(self.results)
        self.target = self.folder / "target"
        self.target.mkdir()
        self.data = content(lay_out(self.results))
        (self.folder / "results.tar").write_bytes(self.data)

    def run_tool(self, *command: str) -> None:
        done = subprocess.run(command, cwd=str(self.target), capture_output=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done)

    def assert_unpacked(self) -> None:
        self.assertEqual([path.name for path in self.target.iterdir()], ["results"])
        unpacked = tree(self.target / "results")
        self.assertEqual(sorted(unpacked), sorted(self.expected))
        for name, node in self.expected.items():
            with self.subTest(name):
                self.assertEqual(unpacked[name], node)

    def test_tarfile(self) -> None:
        # The default of newer Pythons changes modes.
        options: dict[str, Any] = {}
        if hasattr(tarfile, "fully_trusted_filter"):
            options["filter"] = "fully_trusted"
        with tarfile.open(self.folder / "results.tar", encoding="utf-8") as archive:
            archive.extractall(self.target, **options)
        self.assert_unpacked()

    @needs("tar")
    def test_tar(self) -> None:
        self.run_tool("tar", "-xpf", "../results.tar")
        self.assert_unpacked()

    @needs("bsdtar")
    def test_bsdtar(self) -> None:
        self.run_tool("bsdtar", "-xpf", "../results.tar")
        self.assert_unpacked()

    @needs("busybox")
    def test_busybox(self) -> None:
        self.run_tool("busybox", "tar", "-xpf", "../results.tar")
        # Of PAX it knows the names alone, and it sets the time of a folder before it fills that.
        unpacked = tree(self.target / "results")
        for name, node in self.expected.items():
            if node.kind == stat.S_IFDIR or name in map(os.fsencode, ["old 中", "late 中"]):
                self.expected[name] = node._replace(seconds=unpacked[name].seconds)
        self.assert_unpacked()

    @needs(SEVEN_ZIP)
    def test_7z(self) -> None:
        # It makes no symlink that leads up, and sets no sticky bit.
        self.expected[b"sticky"] = self.expected[b"sticky"]._replace(mode=0o755)
        del self.expected[b"up"]
        self.run_tool(SEVEN_ZIP, "x", "-y", "../results.tar", "-xr!up")
        self.assert_unpacked()

    def test_facts(self) -> None:
        found = members(self.data)
        self.assertEqual(len(found), len(self.expected))
        for member in found.values():
            self.assertEqual((member.uid, member.gid, member.uname), (0, 0, ""))
            # Hard links are files of their own.
            self.assertFalse(member.islnk())
        self.assertEqual(found["results/plain"].mode, self.expected[b"plain"].mode)
        self.assertEqual(found["results/old"].mtime, -7)
        self.assertEqual(self.data[-2 * BLOCK :], bytes(2 * BLOCK))
        names = [os.fsencode(name).replace(b"/", b"\0") for name in found]
        self.assertEqual(names, sorted(names))

    def test_an_empty_folder(self) -> None:
        (self.folder / "nothing").mkdir()
        data = content(lay_out(self.folder / "nothing"))
        self.assertTrue(members(data)["nothing"].isdir())
        self.assertEqual(len(data), 3 * BLOCK)


class Large(ArchiveCase):
    """A sparse file over 8 GiB."""

    SIZE = 9 << 30

    def make(self, name: str) -> Path:
        """Return a sparse copy of the archive with a large file *name*."""
        self.write(f"results/{name}", b"")
        self.write("results/small", b"small")
        try:
            os.truncate(self.results / name, self.SIZE)
        except OSError as error:
            self.skipTest(f"no file of {self.SIZE} bytes: {error}")
        if getattr(os.stat(self.results / name), "st_blocks", 1):
            self.skipTest("no sparse files here")
        self.archive = lay_out(self.results)
        opened = OpenedArchive(self.archive)
        path = self.folder / "results.tar"
        with path.open("wb") as file, contextlib.closing(opened):
            for part in opened.parts(0, self.archive.version.size):
                if isinstance(part, bytes):
                    file.write(part)
                else:
                    file.seek(part.stop - part.start, os.SEEK_CUR)
        self.assertEqual(path.stat().st_size, self.archive.version.size)
        return path

    def test_ranges(self) -> None:
        self.make("large")
        size = self.archive.version.size
        self.assertEqual(size, 3 * BLOCK + self.SIZE + BLOCK + 2 * BLOCK)
        end = content(self.archive, size - 4 * BLOCK)
        self.assertEqual(members(end)["results/small"].size, 5)
        self.assertEqual(end[BLOCK : BLOCK + 5], b"small")
        self.assertEqual(content(self.archive, 5 << 30, (5 << 30) + 99), bytes(99))

    def test_tools(self) -> None:
        path = self.make("large")
        commands = [
            ["tar", "-tvf"],
            ["bsdtar", "-tvf"],
            ["busybox", "tar", "-tvf"],
            [SEVEN_ZIP, "l"],
        ]
        for command in commands:
            if shutil.which(command[0]):
                with self.subTest(command):
                    done = subprocess.run([*command, str(path)], capture_output=True)
                    self.assertRegex(done.stdout, rf"(?m)\b{self.SIZE}\b.*large$".encode())
                    self.assertRegex(done.stdout, rb"(?m)\b5\b.*small$")
        with tarfile.open(path) as archive:
            self.assertEqual(archive.getmember("results/large").size, self.SIZE)


# Older Pythons write device numbers into all headers.
NEWER_TARFILE = tarfile.TarInfo().tobuf(tarfile.GNU_FORMAT)[329:345] == bytes(16)


class Headers(unittest.TestCase):
    """Headers are those that the standard library writes."""

    def setUp(self) -> None:
        if not NEWER_TARFILE:
            self.skipTest("tarfile wrote other headers before Python 3.9")

    def library_header(self, member: TarMember) -> bytes:
        info = tarfile.TarInfo(member.name)
        info.type = member.type
        info.linkname = member.target
        info.size = member.size
        info.mode = member.mode
        info.mtime = member.mtime
        if (member.name + member.target).isascii():
            return info.tobuf(tarfile.GNU_FORMAT)
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    def assert_same(self, members: Sequence[TarMember]) -> None:
        for member in members:
            name = member.name
            if member.type == TAR_TYPES[EntryKind.FOLDER]:
                name += "/"
            self.assertEqual(
                tar_header(member._replace(name=name)), self.library_header(member), member
            )

    def test_edges(self) -> None:
        names = ["a", "a/b", "a b", "a\nb", "\x7f", "é", "中", "\udce9", "x" * 256, "中" * 330]
        names += [letter * length for length in range(96, 102) for letter in "x中"]
        # The length of a record counts its own digits.
        names += ["中" * length for length in (27, 28, 29, 30, 327, 328, 329, 330, 331)]
        edge = 8**11
        sizes = [0, 1, 8**7, edge - 1, edge, 1 << 40]
        times = [0, 1, -1, -(10**10), edge - 1, edge, 10**12]
        targets = ["", "a", "t" * 100, "t" * 101, "é", "é" * 99, "\udce9", "../.."]
        for kind in TAR_TYPES.values():
            for name in names:
                self.assert_same([TarMember(name, kind, 0o644, 1, 1_300_000_000)])
                self.assert_same([TarMember(name, kind, 0o1777, edge, -1, "中")])
            for name, size, time, target in itertools.product("aé", sizes, times, targets):
                self.assert_same([TarMember(name, kind, 0o644, size, time, target)])

    def test_seeded(self) -> None:
        draw = random.Random(SEED)

        def text(letters: str) -> str:
            return "".join(draw.choice(letters) for _ in range(draw.randrange(1, 130)))

        for _ in range(2000):
            kind = draw.choice(list(TAR_TYPES.values()))
            size = draw.randrange(8 ** draw.randrange(1, 14))
            time = draw.randrange(-(10**10), 10**11)
            name = text(draw.choice(["abc", "a/é中\n"])).strip("/") or "x"
            self.assert_same(
                [TarMember(name, kind, draw.randrange(0o2000), size, time, text("aé"))]
            )


class Layouts(ArchiveCase):
    """Which changes make another version."""

    def setUp(self) -> None:
        super().setUp()
        for name in ["a", "b/c", "b/d/e", "中"]:
            self.write(f"results/{name}")
        (self.results / "empty").mkdir()
        self.set_times(self.results)

    def etag(self, folder: Path | None = None) -> str:
        return lay_out(folder or self.results).version.etag

    def test_the_same_on_any_machine(self) -> None:
        entries = [
            httpd_download.Entry("", EntryKind.FOLDER, 0o755, 0, THEN),
            httpd_download.Entry("a", EntryKind.FILE, 0o644, 100, THEN + 7),
            httpd_download.Entry("n" * 120, EntryKind.SYMLINK, 0o777, 0, -1, "t" * 120),
            httpd_download.Entry("中", EntryKind.FILE, 0o755, 1 << 40, THEN),
        ]
        all_bits = mock.patch.object(httpd_download, "TAR_PERMISSIONS", 0o1777)
        with mock.patch.object(httpd_download, "walk", return_value=entries), all_bits:
            archive = lay_out(Path("results"))
        self.assertEqual(archive.version.etag, '"f019d13aecdcbe31697189bb3a0ea827"')
        self.assertEqual(archive.version.size, 1_099_511_634_432)

    def test_any_difference_makes_another_version(self) -> None:
        changes: dict[str, Callable[[Path], object]] = {
            "name": lambda root: (root / "b/c").rename(root / "b/x"),
            "name of a folder": lambda root: (root / "empty").rename(root / "void"),
            "mode": lambda root: (root / "a").chmod(0o444),
            "size": lambda root: append_and_set_time_back(root / "a"),
            "time of a file": lambda root: touch(root / "b/d/e"),
            "time of a folder": lambda root: touch(root / "b/d"),
            "time of the folder": touch,
            "new": lambda root: (root / "b/d/new").write_bytes(b""),
            "gone": lambda root: (root / "empty").rmdir(),
            "name of the folder": lambda root: None,
        }
        before = self.etag()
        for name, change in changes.items():
            copy = self.folder / "copy" / name / "results"
            shutil.copytree(self.results, copy)
            self.set_times(copy)
            self.assertEqual(self.etag(copy), before)
            change(copy)
            if not name.startswith("time"):
                self.set_times(copy)
            if name == "name of the folder":
                copy = copy.rename(copy.with_name("other"))
            modes = {os.stat(folder / "a").st_mode for folder in (copy, self.results)}
            if name == "mode" and len(modes) == 1:
                continue
            with self.subTest(name):
                self.assertNotEqual(self.etag(copy), before)

    def test_targets_of_symlinks_make_other_versions(self) -> None:
        etags = set()
        for target in ("a", "b"):
            self.symlink("results/link", target)
            if os.utime in os.supports_follow_symlinks:
                os.utime(self.results / "link", ns=(THEN, THEN), follow_symlinks=False)
            os.utime(self.results, ns=(THEN, THEN))
            etags.add(self.etag())
            (self.results / "link").unlink()
        self.assertEqual(len(etags), 2)

    def test_without_permission_bits_modes_are_moderate(self) -> None:
        (self.results / "a").chmod(0o666)
        self.results.chmod(0o777)
        with mock.patch.object(httpd_download, "TAR_PERMISSIONS", 0o755):
            found = members(content(lay_out(self.results)))
        self.assertEqual(found["results/a"].mode, 0o644)
        self.assertEqual(found["results"].mode, 0o755)

    def test_the_layout_stays_as_it_was_at_the_start(self) -> None:
        archive = lay_out(self.results)
        before = content(archive)
        self.write("results/b/new")
        (self.results / "empty").rmdir()
        self.assertEqual(content(archive), before)

    def test_progress(self) -> None:
        texts: list[str] = []
        TarArchive(str(self.results), "results", (), texts.append)
        self.assertEqual(texts, [f"reading results: {count} entries" for count in range(1, 9)])


class Ranges(ArchiveCase):
    """Any range is the same bytes as the whole."""

    def test_edges(self) -> None:
        for size in [0, 1, 511, 512, 513, 70_000]:
            self.write(f"results/{size}", size)
            self.write(f"results/中{size}", size)
        for name in ["n" * 120, DEEP]:
            self.write(f"results/{name}", 600)
        (self.results / "empty").mkdir()
        archive = lay_out(self.results)
        whole = content(archive)
        edges = {0, len(whole), len(whole) - BLOCK, len(whole) - 2 * BLOCK}
        for member in members(whole).values():
            # Where its headers begin and end, its content, and its padding.
            padded = member.offset_data + -(-member.size // BLOCK) * BLOCK
            edges |= {member.offset, member.offset_data, member.offset_data + member.size, padded}
        edges = {edge + shift for edge in edges for shift in (-1, 0, 1)}
        starts = sorted(edge for edge in edges if 0 <= edge <= len(whole))
        for index, start in enumerate(starts):
            for stop in [*starts[index + 1 : index + 6], len(whole)]:
                if content(archive, start, stop) != whole[start:stop]:
                    self.fail(f"from {start} to {stop}")
            if content(archive, 0, start) != whole[:start]:
                self.fail(f"up to {start}")

    def test_seeded_ranges_of_many_files(self) -> None:
        draw = random.Random(SEED)
        for number in range(300):
            name = f"results/album {number % 7}/photo-{number:04}{'中' * (number % 5 == 0)}.jpeg"
            self.write(name, draw.choice([0, 1, 511, 512, 513, draw.randrange(2000)]))
        archive = lay_out(self.results)
        whole = content(archive)
        self.assertEqual(len(members(whole)), 308)
        self.assertEqual(archive.file_count, 300)
        for _ in range(300):
            start = draw.randrange(len(whole))
            stop = min(start + draw.randrange(1, 4 ** draw.randrange(1, 9)), len(whole))
            if content(archive, start, stop) != whole[start:stop]:
                self.fail(f"from {start} to {stop}")

    def test_over_http(self) -> None:
        for name, size in {"a": 1000, "b": 1000, "c": 300_000}.items():
            self.write(f"results/{name}", size)
        served = self.serve([str(self.results)])
        whole = served.fetch("/results.tar")
        size = len(whole.body)
        self.assertEqual(whole.body, content(lay_out(self.results)))
        self.assertEqual(whole.headers["ETag"], lay_out(self.results).version.etag)
        self.assertEqual(whole.headers["Content-Type"], "application/x-tar")
        self.assertNotIn("Last-Modified", whole.headers)
        spans = [(size - 1, size), (0, 1), (500, 3000), (90_000, 90_001), (100_000, 290_000)]
        for start, stop in spans:
            reply = served.fetch("/results.tar", {"Range": f"bytes={start}-{stop - 1}"})
            self.assertEqual((reply.status, reply.body), (206, whole.body[start:stop]))
        asked = ",".join(f"{start}-{stop - 1}" for start, stop in spans)
        reply = served.fetch("/results.tar", {"Range": f"bytes={asked}"})
        found = [part.partition(b"\r\n\r\n")[2] for part in reply.body.split(b"\r\n--")]
        self.assertEqual(found[1:-1], [whole.body[start:stop] for start, stop in spans])
        served.log.wait_for(r'"/results\.tar" delivered\. ')


class ManyFiles(FolderCase):
    @unittest.skipUnless(tracemalloc, "no tracemalloc here")
    def test_memory(self) -> None:
        folder = class_folder(type(self)) / "results"
        file = self.folder / "file"
        file.write_bytes(b"x")
        for album in range(25):
            (folder / f"half 1/album {album:02}").mkdir(parents=True)
            for number in range(100):
                name = f"photo-2011-06-27-{number:04}{'中' * (number % 7 == 0)}.jpeg"
                # Hard links are made in a tenth of the time.
                os.link(file, folder / f"half 1/album {album:02}" / name)
        # The first archive brings along more than its entries.
        lay_out(folder / "half 1/album 00")
        tracemalloc.start()
        try:
            archive = lay_out(folder)
            entries = len(archive.entries)
            with_archive = tracemalloc.get_traced_memory()[0]
            del archive
            kept = with_archive - tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        self.assertEqual(entries, 2527)
        self.assertLess(kept / entries, 400)
        self.assertGreater(kept / entries, 200)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)


def replace_by_symlink(path: Path) -> None:
    """Put the same bytes, of the same time, behind a symlink."""
    outside = path.parent.with_name(f"{path.parent.name}-outside")
    path.replace(outside)
    path.symlink_to(outside)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def remove(path: Path) -> None:
    path.unlink()


def replace_parent_by_symlink(path: Path) -> None:
    replace_by_symlink(path.parent)


def remove_parent(path: Path) -> None:
    shutil.rmtree(path.parent)


CHANGES = [append, append_and_set_time_back, cut_last_byte, empty, overwrite, touch, replace]
CHANGES += [replace_by_symlink, replace_by_folder, replace_by_fifo, remove]
CHANGES += [replace_parent_by_symlink, remove_parent]


class Changed(ArchiveCase):
    """A file that is not what the layout says ends the archive before its first byte."""

    def assert_cut(self, change: Callable[[Path], None], size: int) -> None:
        root = self.folder / change.__name__ / str(size) / "results"
        for name, length in [("a", 700), ("sub/b", size), ("z/c", 100)]:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(length))
        self.set_times(root)
        archive = lay_out(root)
        whole = content(archive)
        try:
            change(root / "sub/b")
        except (AttributeError, OSError, NotImplementedError):
            return
        member = members(whole)["results/sub/b"]
        first = member.offset_data
        end = first + member.size
        for start in (0, first - 600, first - 1, first, first + 1, end - 1):
            with self.subTest(change.__name__, size=size, start=start), deadline():
                data, text = read_until_change(archive, start, len(whole))
                self.assertTrue(data == whole[start : max(start, first)])
                self.assertRegex(text, r"^results/sub/b\b")
        # Behind the file the archive is as the layout says.
        self.assertTrue(content(archive, end) == whole[end:])

    def test_before_its_turn(self) -> None:
        descriptors = count_descriptors()
        for change in CHANGES:
            # Small files are read at once, larger ones may be sent by sendfile.
            for size in (1000, 300_000):
                self.assert_cut(change, size)
        self.assertEqual(count_descriptors(), descriptors)

    def test_an_empty_file_that_is_filled(self) -> None:
        for name in ["a", "log", "z"]:
            self.write(f"results/{name}", b"" if name == "log" else b"x")
        self.set_times(self.results)
        archive = lay_out(self.results)
        whole = content(archive)
        append(self.results / "log")
        data, text = read_until_change(archive, 0, len(whole))
        self.assertEqual(data, whole[: members(whole)["results/log"].offset])
        self.assertEqual(text, f"results/log was changed{OpenedArchive.advice}")

    def test_a_change_between_two_large_files_leaves_no_descriptor_open(self) -> None:
        for name in ["a", "b"]:
            self.write(f"results/{name}", 200_000)
        archive = lay_out(self.results)
        before = count_descriptors()
        opened = OpenedArchive(archive)
        parts = opened.parts(0, archive.version.size)
        while not isinstance(next(parts), FileSpan):
            pass
        append(self.results / "a")
        with self.assertRaises(FileChanged):
            list(parts)
        opened.close()
        self.assertEqual(count_descriptors(), before)

    def test_a_large_file_stays_open_until_the_next_one(self) -> None:
        for name, size in {"a": 200_000, "b": 10, "c": 200_000}.items():
            self.write(f"results/{name}", size)
        opened = OpenedArchive(lay_out(self.results))
        spans = [p for p in opened.parts(0, opened.version.size) if not isinstance(p, bytes)]
        with self.assertRaises(FileChanged):
            spans[0].file.ensure_unchanged()
        spans[1].file.ensure_unchanged()
        opened.close()
        with self.assertRaises(FileChanged):
            spans[1].file.ensure_unchanged()
        opened.close()


class Sent(ArchiveCase):
    """What happens to a file while it is being sent."""

    SIZE = 16 << 20

    def start(self, folder: str) -> socket.socket:
        """Fetch the archive of *folder* up to somewhere in its large file."""
        self.write(f"{folder}/a", 1000)
        self.write(f"{folder}/large", b"")
        os.truncate(self.folder / folder / "large", self.SIZE)
        self.write(f"{folder}/z", 1000)
        self.set_times(self.folder / folder)
        self.whole = content(lay_out(self.folder / folder))
        self.served = self.serve([str(self.folder / folder)])
        client = self.served.connect(receive_buffer=1 << 16)
        self.addCleanup(client.close)
        request = f"GET /{folder}.tar HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client.sendall(request.encode())
        skip_head(client)
        self.first = read_exactly(client, 100_000)
        return client

    def test_changed(self) -> None:
        for change in (append, cut_last_byte, overwrite):
            name = change.__name__
            with self.subTest(name):
                client = self.start(name)
                change(self.folder / name / "large")
                data = self.first + read_all(client)
                # Zeros all over, but for the bytes that are written over its beginning.
                self.assertTrue(data[3000:] == self.whole[3000 : len(data)])
                last = members(self.whole)[f"{name}/large"].offset_data + self.SIZE - 1
                self.assertLessEqual(len(data), last)
                self.served.rest()
                ended = self.served.log.wait_for("req terminated")
                self.assertRegex(
                    ended, rf", {name}/large (was changed|became shorter){OpenedArchive.advice}$"
                )

    def test_removed_or_replaced(self) -> None:
        for change in (remove, replace):
            with self.subTest(change.__name__):
                client = self.start(change.__name__)
                try:
                    change(self.folder / change.__name__ / "large")
                except PermissionError:
                    self.skipTest("an open file cannot be removed here")
                self.assertTrue(self.first + read_all(client) == self.whole)
                client.close()
                self.served.log.wait_for(r"delivered\. ")

    @unittest.skipUnless(os.path.exists("/proc/net/tcp"), "no /proc/net/tcp here")
    def test_overwritten_while_the_last_of_it_is_in_the_queue(self) -> None:
        self.write("results/a", 200_000)
        self.write("results/b", 10)
        self.set_times(self.results)
        served = self.serve([str(self.results)])
        whole = content(lay_out(self.results))
        with served.connect(receive_buffer=1 << 12) as client:
            client.sendall(b"GET /results.tar HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            ports = {f"{port:04X}" for port in (client.getsockname()[1], served.address[1])}

            def queued() -> int:
                """Return how many bytes are between the server's send and the client's recv."""
                count = 0
                for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
                    fields = line.split()
                    if {fields[1][-4:], fields[2][-4:]} == ports:
                        count += sum(int(queue, 16) for queue in fields[4].split(":"))
                return count

            until(lambda: queued() > len(whole), "all is handed over")
            with (self.results / "a").open("r+b") as file:
                file.write(bytes(200_000))
            data = read_all(client).partition(b"\r\n\r\n")[2]
        if data == whole:
            self.skipTest("here the queue holds a copy")
        served.rest()
        line = served.log.wait_for(r"req terminated\. |delivered\. ")
        self.assertRegex(line, r"req terminated\. .*, results/a\b")


class LeftOut(ArchiveCase):
    def test_all_kinds(self) -> None:
        for name in ["a", ".h1", "s/.h2", ".d/x", "log", "1", "2", "s/3", "4"]:
            self.write(f"results/{name}")
        expected = {
            EntryKind.HIDDEN: [".d", ".h1", "s/.h2"],
            EntryKind.UNREADABLE: ["1", "2", "4", "s/3"],
            EntryKind.EXCLUDED: ["log"],
        }
        with contextlib.suppress(AttributeError, OSError):
            os.mkfifo(self.results / "fifo")
            expected[EntryKind.SPECIAL] = ["fifo"]

        def can_read(folder: Any, name: str) -> bool:
            return not name.isdigit()

        excluded = [file_id(os.stat(self.results / "log"))]
        with mock.patch.object(httpd_download.Folder, "can_read", can_read):
            archive = lay_out(self.results, excluded)
        self.assertEqual(archive.left_out, expected)
        self.assertEqual(list(members(content(archive))), ["results", "results/a", "results/s"])
        self.assertEqual(archive.file_count, 1)

    def test_a_name_that_no_tar_can_hold(self) -> None:
        entries = [httpd_download.Entry("", EntryKind.FOLDER, 0o755, 0, THEN)]
        for path, target in [("a", ""), ("\ud800", ""), ("b", "\udbff"), ("中", "")]:
            kind = EntryKind.SYMLINK if target else EntryKind.FOLDER
            entries.append(httpd_download.Entry(path, kind, 0o777, 0, THEN, target))
        with mock.patch.object(httpd_download, "walk", return_value=entries):
            archive = lay_out(self.results)
        self.assertEqual(archive.left_out, {EntryKind.UNENCODABLE: ["\ud800", "b"]})
        self.assertEqual([entry.path for entry in archive.entries], ["", "a", "中"])

    def test_nothing(self) -> None:
        self.write("results/a")
        self.assertEqual(lay_out(self.results).left_out, {})

    def test_symlinks_are_not_followed(self) -> None:
        self.write("outside/a", b"the secret")
        self.write("results/.hidden", b"the secret")
        links = {"file": "../outside/a", "folder": "../outside", "here": ".", "h": ".hidden"}
        links.update({"root": "/", "loop": "loop", "broken": "nothing"})
        for name, target in links.items():
            self.symlink(f"results/{name}", target)
        data = content(lay_out(self.results))
        found = members(data)
        self.assertEqual(len(found), 1 + len(links))
        for name, target in links.items():
            member = found[f"results/{name}"]
            self.assertTrue(member.issym())
            self.assertEqual((member.linkname, member.size), (target.replace("/", os.sep), 0))
        self.assertNotIn(b"the secret", data)

    @needs_swapping
    def test_swapping_names_gains_nothing(self) -> None:
        # Of the same size and time, so that nothing else keeps the secret out.
        secret = b"the secret\n"
        public = b"the public\n"
        for name, data in {"outside": secret, "results": public}.items():
            self.write(f"{name}/b", data)
            self.write(f"{name}/sub/c", data)
        self.set_times(self.folder)
        archive = lay_out(self.results)
        self.symlink("evil", "outside/b")
        self.symlink("evil-sub", "outside/sub")
        swapped = [self.results / "b", self.folder / "evil"]
        swapped += [self.results / "sub", self.folder / "evil-sub"]
        whole = 0
        ended_early = 0
        with swapping(*swapped), deadline():
            while whole + ended_early < 1000 or not (whole and ended_early):
                data, change = read_until_change(archive, 0, archive.version.size)
                self.assertNotIn(secret, data)
                if change:
                    ended_early += 1
                else:
                    whole += 1

    def test_a_folder_that_is_swapped_while_the_layout_is_made(self) -> None:
        self.write("results/a")
        self.write("results/b/c")
        self.write("outside/secret")

        def swap(text: str) -> None:
            if text == "reading results: 2 entries":
                shutil.rmtree(self.results / "b")
                self.symlink("results/b", "../outside")

        archive = TarArchive(str(self.results), "results", (), swap)
        self.assertEqual(archive.file_count, 1)
        self.assertNotIn(b"secret", content(archive))


if __name__ == "__main__":
    unittest.main()
