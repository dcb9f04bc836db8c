"""A folder as an archive: unpacked it is the same tree, and any range of it is of one state."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import random
import re
import shutil
import socket
import ssl
import stat
import subprocess
import tarfile
import threading
import tracemalloc
import unittest
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple
from unittest import mock

import httpd_download
from httpd_download import Archive, ContentChanged, Entry, tls_context
from tests.support import (
    PATIENCE,
    FolderCase,
    ProgramCase,
    Reply,
    Served,
    class_folder,
    deadline,
    read_all,
    read_exactly,
    reset,
    skip_head,
    until,
)
from tests.test_share import NobodyCase, fetch_status, paths_of, swapping

BLOCK = 512
NS = 10**9
# Some time in whole seconds, so that a copy of a tree on any file system can have it.
THEN = 1_300_000_000 * NS
LATIN = os.fsdecode(b"caf\xe9")
DEEP = "/".join(["d" * 90] * 3 + ["deep"])
SEED = 11


def lay_out(folder: Path) -> Archive:
    return Archive(str(folder), folder.name, (), lambda *_: None)


def pieces(archive: Archive, start: int, stop: int) -> Iterator[bytes]:
    for part in archive.parts(start, stop):
        if isinstance(part, bytes):
            yield part
        else:
            file, first, last = part
            while first < last:
                data = file.read(first, last - first)
                first += len(data)
                yield data


def content(archive: Archive, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(pieces(archive, start, archive.version.size if stop is None else stop))


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as archive:
        return {member.name: member for member in archive}


def get(target: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


class ArchiveCase(FolderCase):
    """A test with a folder ``results`` in ``self.folder``."""

    def setUp(self) -> None:
        super().setUp()
        self.results = self.folder / "results"
        self.results.mkdir()

    def symlink(self, name: str, target: str) -> None:
        try:
            (self.folder / name).symlink_to(target)
        except (OSError, NotImplementedError):
            self.skipTest("no symlinks here")

    def settle(self, folder: Path) -> None:
        """Give all in *folder* a time that has passed, so that any change is a new one."""
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                os.utime(path, ns=(THEN, THEN))

    def named(self, *names: str) -> Served:
        return self.serve([str(self.folder / name) for name in names or ["results"]])


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
            mode, seconds = status.st_mode & 0o7777, status.st_mtime_ns // NS
            if kind == stat.S_IFLNK:
                node = Node(kind, 0, 0, os.readlink(path))
            elif kind == stat.S_IFREG:
                node = Node(kind, mode, seconds, Path(os.fsdecode(path)).read_bytes())
            else:
                node = Node(kind, mode, seconds, b"")
            found[os.path.normpath(os.path.relpath(path, os.fsencode(root)))] = node
    return found


SEVEN_ZIP = next(filter(shutil.which, ["7z", "7zz", "7za"]), "")


def needs(program: str) -> Callable[[Any], Any]:
    return unittest.skipUnless(program and shutil.which(program), f"no {program or '7z'} here")


class Unpacked(ArchiveCase):
    """The archive is fetched, and unpacked to the same tree by whatever there is."""

    def setUp(self) -> None:
        super().setUp()
        files = ["plain", "a b", "n" * 120, "中文/文 件.txt", "é" * 100, "new\nline", "-x"]
        files += ["back\\slash", "%41", LATIN, f"{LATIN}.d/a", DEEP, "中" * 30 + "/" + "文" * 80]
        # In the order of bytes, not of letters or characters.
        files += ["Z", "plain-", "\uff21", os.fsdecode(b"\xff")]
        for name in files:
            with contextlib.suppress(OSError):
                self.write(f"results/{name}", 97 * len(name))
        self.write("results/zero", b"")
        for name in ["empty", "sticky"]:
            (self.results / name).mkdir()
        for name, mode in {"plain": 0o6755, "a b": 0o400, "zero": 0o751, "sticky": 0o1777}.items():
            (self.results / name).chmod(mode)
        self.settle(self.results)
        for name, seconds in {
            "old": -7,
            "old 中": -7,
            "later": 1 << 33,
            "later 中": 1 << 33,
        }.items():
            self.write(f"results/{name}", b"x")
            # Within the second: whole ones are kept, rounded down.
            time = seconds * NS + 999_999_999
            os.utime(self.results / name, ns=(time, time))
        links = {"link": "a b", "up": "../results/plain", "long": "t" * 150, "to 中": "中" * 50}
        for name, target in {**links, "latin": LATIN, "broken": "nothing", "中": "a b"}.items():
            self.symlink(f"results/{name}", target)
        os.utime(self.results, ns=(THEN, THEN))
        # What set-id bits do elsewhere nobody wants.
        self.expected = {
            name: node._replace(mode=node.mode & 0o1777)
            for name, node in tree(self.results).items()
        }
        self.target = self.folder / "target"
        self.target.mkdir()
        self.served = self.named()
        self.archive = self.served.fetch("/results.tar").body
        (self.folder / "results.tar").write_bytes(self.archive)

    def run_tool(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=str(self.target), capture_output=True, timeout=PATIENCE, check=False
        )
        self.assertEqual(done.returncode, 0, done)

    def compare(self) -> None:
        self.assertEqual([path.name for path in self.target.iterdir()], ["results"])
        unpacked = tree(self.target / "results")
        self.assertEqual(sorted(unpacked), sorted(self.expected))
        for name, node in self.expected.items():
            with self.subTest(name):
                self.assertEqual(unpacked[name], node)

    def test_tarfile(self) -> None:
        with tarfile.open(self.folder / "results.tar", encoding="utf-8") as archive:
            # What newer Pythons do unless told otherwise changes modes.
            options: dict[str, Any] = {}
            if hasattr(tarfile, "fully_trusted_filter"):
                options["filter"] = "fully_trusted"
            archive.extractall(self.target, **options)
        self.compare()

    @needs("tar")
    def test_tar(self) -> None:
        self.run_tool("tar", "-xpf", "../results.tar")
        self.compare()

    @needs("bsdtar")
    def test_bsdtar(self) -> None:
        self.run_tool("bsdtar", "-xpf", "../results.tar")
        self.compare()

    @needs("busybox")
    def test_busybox(self) -> None:
        self.run_tool("busybox", "tar", "-xpf", "../results.tar")
        # It knows of PAX the names alone, so not these times; and sets those of a folder before
        # it fills that.
        unpacked = tree(self.target / "results")
        for name, node in self.expected.items():
            if node.kind == stat.S_IFDIR or name in map(os.fsencode, ["old 中", "later 中"]):
                self.expected[name] = node._replace(seconds=unpacked[name].seconds)
        self.compare()

    @needs(SEVEN_ZIP)
    def test_7z(self) -> None:
        # It makes no symlink that leads up, calls that an error, and sets no sticky bit.
        self.expected[b"sticky"] = self.expected[b"sticky"]._replace(mode=0o755)
        up = self.expected.pop(b"up")
        self.assertEqual(up.content, b"../results/plain")
        self.run_tool(SEVEN_ZIP, "x", "-y", "../results.tar", "-xr!up")
        self.compare()

    @needs("tar")
    @needs("curl")
    def test_while_it_comes(self) -> None:
        link = f"http://127.0.0.1:{self.served.address[1]}/results.tar"
        curl = ["curl", "--disable", "--silent", "--noproxy", "*", link]
        with subprocess.Popen(curl, stdout=subprocess.PIPE) as client:
            self.addCleanup(client.kill)
            subprocess.run(["tar", "xp"], stdin=client.stdout, cwd=str(self.target), check=True)
        self.assertEqual(client.returncode, 0)
        self.compare()
        self.served.log.wait_for(r'"/results\.tar" delivered\. ', 2)

    def test_what_is_said_of_it(self) -> None:
        found = members(self.archive)
        self.assertEqual(len(found), len(self.expected))
        for name, member in found.items():
            with self.subTest(name):
                self.assertEqual((member.uid, member.gid), (0, 0))
                self.assertEqual((member.uname, member.gname), ("", ""))
                self.assertEqual(member.mtime, int(member.mtime))
                self.assertFalse(member.islnk())
                padding = self.archive[member.offset_data + member.size :][: -member.size % BLOCK]
                self.assertEqual(padding, bytes(-member.size % BLOCK))
        self.assertEqual(self.archive[-2 * BLOCK :], bytes(2 * BLOCK))
        self.assertEqual(found["results/plain"].mode, 0o755)
        self.assertEqual(found["results/sticky"].mode, 0o1777)
        self.assertEqual(found["results/old"].mtime, -7)
        self.assertEqual(found["results/later 中"].mtime, 1 << 33)
        self.assertEqual(found["results/up"].linkname, "../results/plain")
        # A folder is there before what is in it, and names are in the order of their bytes.
        names = [os.fsencode(name).replace(b"/", b"\0") for name in found]
        self.assertEqual(names, sorted(names))

    def test_an_empty_folder_is_an_archive_of_one_entry(self) -> None:
        (self.folder / "nothing").mkdir()
        data = self.named("nothing").fetch("/nothing.tar").body
        found = members(data)
        self.assertEqual(list(found), ["nothing"])
        self.assertTrue(found["nothing"].isdir())
        self.assertEqual(len(data), 3 * BLOCK)


class Large(ArchiveCase):
    """A file over 8 GiB, of which there is nothing on the disk."""

    SIZE = 9 << 30

    def setUp(self) -> None:
        super().setUp()
        try:
            self.make("results/large")
        except OSError as error:
            self.skipTest(f"no file of {self.SIZE} bytes: {error}")
        self.write("results/small", b"small")
        self.settle(self.results)

    def make(self, name: str) -> None:
        self.write(name, b"")
        os.truncate(self.folder / name, self.SIZE)
        if os.stat(self.folder / name).st_blocks:
            raise OSError("it is not sparse")

    def materialise(self) -> Path:
        """Return a sparse copy of the archive on the disk."""
        archive = lay_out(self.results)
        path = self.folder / "results.tar"
        with path.open("wb") as file:
            for part in archive.parts(0, archive.version.size):
                if isinstance(part, bytes):
                    file.write(part)
                else:
                    # What they list is not what is in the files.
                    file.seek(part[2] - part[1], os.SEEK_CUR)
        self.assertEqual(path.stat().st_size, archive.version.size)
        return path

    def test_ranges(self) -> None:
        served = self.named()
        size = int(served.fetch("/results.tar", method="HEAD").headers["Content-Length"])
        # The folder, two headers, the padding of the small one, and the end.
        self.assertEqual(size, 3 * BLOCK + self.SIZE + BLOCK + 2 * BLOCK)
        tail = served.fetch("/results.tar", {"Range": f"bytes=-{4 * BLOCK}"})
        self.assertEqual(tail.headers["Content-Range"], f"bytes {size - 2048}-{size - 1}/{size}")
        self.assertEqual(members(tail.body)["results/small"].size, 5)
        self.assertEqual(tail.body[BLOCK : BLOCK + 5], b"small")
        middle = served.fetch("/results.tar", {"Range": f"bytes={5 << 30}-{(5 << 30) + 99}"})
        self.assertEqual((middle.status, middle.body), (206, bytes(100)))

    def listing(self, *command: str) -> str:
        path = self.materialise()
        done = subprocess.run([*command, str(path)], capture_output=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done)
        return done.stdout.decode()

    def check_listing(self, listing: str) -> None:
        sizes = {}
        for line in listing.splitlines():
            match = re.search(rf"\b({self.SIZE}|5)\b.*results[/\\](\w+)$", line)
            if match:
                sizes[match[2]] = int(match[1])
        self.assertEqual(sizes, {"large": self.SIZE, "small": 5}, listing)

    def test_tarfile(self) -> None:
        for name in ["large", "大"]:
            with self.subTest(name):
                (self.results / "large").rename(self.results / "x")
                (self.results / "x").rename(self.results / name)
                with tarfile.open(self.materialise()) as archive:
                    sizes = {member.name: member.size for member in archive if member.isfile()}
                self.assertEqual(sizes, {f"results/{name}": self.SIZE, "results/small": 5})
                (self.results / name).rename(self.results / "large")

    @needs("tar")
    def test_tar(self) -> None:
        self.check_listing(self.listing("tar", "-tvf"))

    @needs("bsdtar")
    def test_bsdtar(self) -> None:
        self.check_listing(self.listing("bsdtar", "-tvf"))

    @needs("busybox")
    def test_busybox(self) -> None:
        self.check_listing(self.listing("busybox", "tar", "-tvf"))

    @needs(SEVEN_ZIP)
    def test_7z(self) -> None:
        self.check_listing(self.listing(SEVEN_ZIP, "l"))


TAR_TYPES = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}


def header(folder: str, entry: Entry) -> bytes:
    """Return what the standard library writes before the content of *entry*."""
    info = tarfile.TarInfo(f"{folder}/{entry.path}" if entry.path else folder)
    info.type, info.linkname = TAR_TYPES[entry.kind], entry.target
    info.size, info.mode, info.mtime = entry.size, entry.mode, entry.mtime_ns // NS
    is_ascii = all(ord(character) < 128 for character in info.name + info.linkname)
    if is_ascii:
        return info.tobuf(tarfile.GNU_FORMAT)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class Headers(unittest.TestCase):
    """Headers are those of the standard library, though few of them are made by it."""

    def check(self, folder: str, entries: Iterable[Entry]) -> None:
        entries = [Entry("", "folder", 0o755, 0, THEN), *entries]
        with mock.patch.object(httpd_download, "walk", lambda *_: iter(entries)):
            archive = Archive("nowhere", folder, (), lambda *_: None)
        offset = 0
        for entry in entries:
            expected = header(folder, entry)
            # That of an empty file is sent only if there is one.
            is_empty = entry.kind == "file" and not entry.size
            got = b"" if is_empty else content(archive, offset, offset + len(expected))
            self.assertEqual(archive._header(entry) if is_empty else got, expected, entry)
            offset += len(expected) + -(-entry.size // BLOCK) * BLOCK
        self.assertEqual(archive.version.size, offset + 2 * BLOCK)

    def test_every_edge(self) -> None:
        names = ["a", "a/b", "-", "a b", "a\nb", "\x7f", "~", "é", "中", LATIN]
        # With "f/" before it, and of folders a slash behind: up to, and over, 100 bytes.
        names += [letter * length for length in (*range(96, 102), 255, 256) for letter in "x中"]
        names += ["/".join("y" * 50 for _ in range(count)) for count in (2, 3, 6)]
        edge = 8**11
        sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 8**7, edge - 1, edge, edge + 1, 1 << 40]
        seconds = [0, 1, -1, -(10**10), edge - 1, edge, 10**12]
        times = [second * NS + ns for second in seconds for ns in (0, 1, NS - 1)] + [-1]
        modes = [0, 1, 0o644, 0o755, 0o777, 0o1777]
        targets = ["", "a", "t" * 100, "t" * 101, "t" * 300, "é", "é" * 99, LATIN, "../.."]
        entries = [
            Entry(name, kind, mode, size if kind == "file" else 0, time, target)
            for kind in ("file", "folder", "symlink")
            for name, size, time, mode in [
                *((name, 1, THEN, 0o644) for name in names),
                *((name, 8**11, -1, 0o644) for name in names),
                *(("a", size, THEN, 0o644) for size in sizes),
                *(("a", 1, time, 0o644) for time in times),
                *(("é", size, THEN, 0o644) for size in sizes),
                *(("é", 8**11, time, 0o644) for time in times),
                *(("a", 1, THEN, mode) for mode in modes),
            ]
            for target in (targets if kind == "symlink" else [""])
        ]
        self.check("f", entries)
        for folder in ["中", "x" * 120, LATIN]:
            with self.subTest(folder):
                self.check(folder, entries[::7])

    def test_seeded(self) -> None:
        draw = random.Random(SEED)

        def seeded() -> Entry:
            kind = draw.choice(["file", "file", "file", "folder", "symlink"])
            path = "".join(draw.choice("abc/. é中\n") for _ in range(draw.randrange(1, 130)))
            size = draw.randrange(8 ** draw.randrange(1, 14)) if kind == "file" else 0
            time = draw.randrange(-(10**19), 10**20) if draw.random() < 0.3 else THEN
            target = "".join(draw.choice("ab/é") for _ in range(draw.randrange(1, 120)))
            if draw.random() < 0.7:
                path = re.sub("[^a-c]", "d", path)
            path = "/".join(filter(None, path.split("/"))) or "x"
            return Entry(path, kind, draw.randrange(0o2000), size, time, target * (kind[0] == "s"))

        self.check("f", [seeded() for _ in range(2000)])


class ManyFiles(FolderCase):
    """A tree of 5,000 small files."""

    COUNT = 1 + 2 * (1 + 25 * 101)
    many: Path

    @classmethod
    def setUpClass(cls) -> None:
        shared = class_folder(cls)
        cls.many = shared / "results"
        draw = random.Random(SEED)
        sizes = [draw.choice([0, 1, 511, 512, 513, 1024, draw.randrange(2000)]) for _ in range(200)]
        for number, size in enumerate(sizes):
            (shared / str(number)).write_bytes(os.urandom(size))
        for folder in range(50):
            album = f"{cls.many}/half {folder % 2}/album {folder:02}"
            os.makedirs(album)
            for name in range(100):
                path = f"{album}/photo-2011-06-27-{name:04}{'中' * (name % 7 == 0)}.jpeg"
                # Hard links, which are made in a tenth of the time.
                os.link(shared / str(draw.randrange(len(sizes))), path)

    def test_memory(self) -> None:
        # What the first one brings along is not for its entries.
        lay_out(self.many / "half 0" / "album 00")
        tracemalloc.start()
        try:
            archive = lay_out(self.many / "half 1")
            files, with_it = archive.files, tracemalloc.get_traced_memory()[0]
            # What it gives back: whatever else the tests have in this process may have grown.
            del archive
            kept = with_it - tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        self.assertEqual(files, 2500)
        self.assertLess(kept / (1 + 25 * 101), 400)
        self.assertGreater(kept / (1 + 25 * 101), 200)

    def test_a_thousand_seeded_ranges(self) -> None:
        draw = random.Random(SEED)
        served = self.serve([str(self.many)])
        reply = served.fetch("/results.tar")
        whole, size, etag = reply.body, len(reply.body), reply.headers["ETag"]
        self.assertEqual(len(members(whole)), self.COUNT)
        spans = []
        for number in range(1000):
            # Some are longer than what is handed over at a time.
            power = draw.randrange(1, 9) if number % 50 else 9
            start, length = draw.randrange(size), draw.randrange(1, 4**power)
            spans.append((start, min(start + length, size)))
        with served.connect() as client, client.makefile("rb") as answers:
            for some in (spans[number : number + 50] for number in range(0, 1000, 50)):
                # Each lot by another receiver, or one has hundreds of spans.
                agent = f"User-Agent: {some[0]}"
                for start, stop in some:
                    client.sendall(get("/results.tar", agent, f"Range: bytes={start}-{stop - 1}"))
                    self.assertEqual(answers.readline(), b"HTTP/1.1 206 Partial Content\r\n")
                    lines = iter(lambda: answers.readline().decode().rstrip(), "")
                    fields = dict(line.split(": ") for line in lines)
                    told = f"bytes {start}-{stop - 1}/{size}"
                    self.assertEqual((fields["Content-Range"], fields["ETag"]), (told, etag))
                    self.assertEqual(fields["Content-Length"], str(stop - start))
                    if answers.read(stop - start) != whole[start:stop]:
                        self.fail(told)


class Ranges(ArchiveCase):
    """Any range is the same bytes as the whole."""

    def test_every_edge(self) -> None:
        for size in [0, 1, 511, 512, 513, 70_000]:
            self.write(f"results/{size}", size)
            self.write(f"results/中{size}", size)
        for name in ["n" * 120, DEEP]:
            self.write(f"results/{name}", 600)
        (self.results / "empty").mkdir()
        self.symlink("results/link", "a")
        self.symlink("results/long", "t" * 150)
        archive = lay_out(self.results)
        whole = content(archive)
        edges = {0, len(whole), len(whole) - BLOCK, len(whole) - 2 * BLOCK}
        for member in members(whole).values():
            # Where its headers begin and end, its content, and its padding.
            padded = member.offset_data + -(-member.size // BLOCK) * BLOCK
            edges |= {member.offset, member.offset_data, member.offset_data + member.size, padded}
        starts = sorted({edge + shift for edge in edges for shift in (-1, 0, 1)} - {-1})
        starts.remove(len(whole) + 1)
        for index, start in enumerate(starts):
            for stop in [*starts[index + 1 : index + 6], len(whole)]:
                if content(archive, start, stop) != whole[start:stop]:
                    self.fail(f"from {start} to {stop}")
            if content(archive, 0, start) != whole[:start]:
                self.fail(f"up to {start}")

    def test_what_a_file_has(self) -> None:
        self.write("results/a", 1000)
        self.write("results/b", 1000)
        served = self.named()
        whole = served.fetch("/results.tar")
        size, etag = len(whole.body), whole.headers["ETag"]
        self.assertEqual(size, 3 * BLOCK + 2 * 1024 + 2 * BLOCK)
        self.assertRegex(etag, r'\A"[!#-~]+"\Z')
        head = served.fetch("/results.tar", method="HEAD")
        for reply in (whole, head):
            self.assertEqual(reply.status, 200)
            self.assertEqual(reply.headers["Content-Length"], str(size))
            self.assertEqual(reply.headers["ETag"], etag)
            self.assertEqual(reply.headers["Accept-Ranges"], "bytes")
            self.assertEqual(reply.headers["Content-Type"], "application/x-tar")
            self.assertIn('filename="results.tar"', reply.headers["Content-Disposition"])
            self.assertNotIn("Last-Modified", reply.headers)
        self.assertEqual(head.body, b"")

        def ask(**fields: str) -> Reply:
            sent = {name.replace("_", "-"): value for name, value in fields.items()}
            return served.fetch("/results.tar", sent)

        self.assertEqual(ask(Range="bytes=-1").body, whole.body[-1:])
        self.assertEqual(ask(Range=f"bytes={size - 1}-").body, whole.body[-1:])
        self.assertEqual(ask(Range=f"bytes=1500-{size * 9}").body, whole.body[1500:])
        self.assertEqual(ask(Range="bytes=100-", If_Range=etag).body, whole.body[100:])
        for validator in ['"other"', f"W/{etag}", "Thu, 01 Jan 2037 00:00:00 GMT"]:
            reply = ask(Range="bytes=100-", If_Range=validator)
            self.assertEqual((reply.status, reply.body), (200, whole.body))
        for beyond in (f"bytes={size}-", "bytes=-0"):
            reply = ask(Range=beyond)
            self.assertEqual(reply.status, 416)
            self.assertEqual(reply.headers["Content-Range"], f"bytes */{size}")
        self.assertEqual(ask(If_None_Match=etag).status, 304)
        self.assertEqual(ask(If_Match='"other"').status, 412)
        # It has no date that a condition could be about.
        self.assertEqual(ask(If_Modified_Since="Thu, 01 Jan 2037 00:00:00 GMT").status, 200)
        self.assertEqual(ask(If_Unmodified_Since="Thu, 01 Jan 1970 00:00:00 GMT").status, 200)

    def test_several_ranges(self) -> None:
        self.write("results/a", 1000)
        self.write("results/b", 100_000)
        served = self.named()
        whole = served.fetch("/results.tar").body
        size = len(whole)
        spans = [(size - 1, size), (0, 1), (500, 3000), (90_000, 90_001), (10_000, 80_000)]
        asked = ",".join(f"{start}-{stop - 1}" for start, stop in spans)
        reply = served.fetch("/results.tar", {"Range": f"bytes={asked}"})
        self.assertEqual(reply.status, 206)
        boundary = reply.headers["Content-Type"].partition("multipart/byteranges; boundary=")[2]
        expected = b""
        for start, stop in spans:
            expected += f"\r\n--{boundary}\r\nContent-Type: application/x-tar\r\n".encode()
            expected += f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n\r\n".encode()
            expected += whole[start:stop]
        self.assertEqual(reply.body, expected + f"\r\n--{boundary}--\r\n".encode())


class Layouts(ArchiveCase):
    """What makes the same archive, and what another."""

    def setUp(self) -> None:
        super().setUp()
        for name in ["a", "b/c", "b/d/e", "中"]:
            self.write(f"results/{name}")
        (self.results / "empty").mkdir()
        self.symlink("results/link", "a")
        self.settle(self.results)

    def test_the_same_tree_elsewhere(self) -> None:
        other = self.folder / "elsewhere" / "results"
        # Made in another order, which some file systems show.
        for name in ["中", "b/d/e", "b/c", "a"]:
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.results / name, other / name)
        (other / "link").symlink_to("a")
        (other / "empty").mkdir()
        for path in self.results.rglob("*"):
            if not path.is_symlink():
                shutil.copymode(path, other / path.relative_to(self.results))
        shutil.copymode(self.results, other)
        self.settle(other)
        # A symlink's own time and mode are of it too.
        status = os.lstat(self.results / "link")
        if os.utime not in os.supports_follow_symlinks:
            self.skipTest("no times of symlinks here")
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(other / "link", ns=times, follow_symlinks=False)
        os.utime(other, ns=(THEN, THEN))
        replies = [self.serve([str(path)]).fetch("/results.tar") for path in (self.results, other)]
        replies.append(self.serve([f"{self.results}/"]).fetch("/results.tar"))
        for reply in replies[1:]:
            self.assertEqual(reply.headers["ETag"], replies[0].headers["ETag"])
            self.assertEqual(reply.body, replies[0].body)

    def test_any_difference_makes_another_tag(self) -> None:
        def rewrite() -> None:
            (self.results / "a").write_bytes(b"longer than before")

        def point_elsewhere() -> None:
            status = os.lstat(self.results / "link")
            (self.results / "link").unlink()
            (self.results / "link").symlink_to("b")
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(self.results / "link", ns=times, follow_symlinks=False)

        def replace_by_symlink() -> None:
            (self.results / "a").unlink()
            (self.results / "a").symlink_to("b/c")

        def one_ns_later(name: str) -> None:
            os.utime(self.results / name, ns=(THEN, THEN + 1))

        changes: dict[str, Callable[[], object]] = {
            "name": lambda: (self.results / "b/c").rename(self.results / "b/C"),
            "name of a folder": lambda: (self.results / "empty").rename(self.results / "Empty"),
            "size": rewrite,
            "mode": lambda: (self.results / "a").chmod(0o600),
            "mode of a folder": lambda: (self.results / "Empty").chmod(0o700),
            "mode of the folder": lambda: self.results.chmod(0o711),
            "target": point_elsewhere,
            "kind": replace_by_symlink,
            "new": lambda: self.write("results/b/d/new", b""),
            "gone": lambda: (self.results / "Empty").rmdir(),
        }
        (self.results / "a").chmod(0o644)
        self.settle(self.results)
        tags = {lay_out(self.results).version.etag}
        for what, change in changes.items():
            change()
            if what != "target":
                self.settle(self.results)
            os.utime(self.results, ns=(THEN, THEN))
            tags.add(lay_out(self.results).version.etag)
            with self.subTest(what):
                self.assertEqual(len(tags), 2)
            tags = {lay_out(self.results).version.etag}
        for name in ["b/C", "b/d", "."]:
            one_ns_later(name)
            tags.add(lay_out(self.results).version.etag)
            with self.subTest(name):
                # As far as the file system can tell.
                same = os.stat(self.results / name).st_mtime_ns == THEN
                self.assertEqual(len(tags), 1 if same else 2)
            tags = {lay_out(self.results).version.etag}
        self.results = self.results.rename(self.folder / "other")
        tags.add(lay_out(self.results).version.etag)
        self.assertEqual(len(tags), 2)

    def test_it_stays_as_it_was_at_the_start(self) -> None:
        served = self.named()
        before = served.fetch("/results.tar")
        self.write("results/b/new")
        (self.results / "empty").rmdir()
        self.results.chmod(0o700)
        after = served.fetch("/results.tar")
        self.assertEqual(after.body, before.body)
        self.assertEqual(after.headers["ETag"], before.headers["ETag"])

    def test_how_far_it_is(self) -> None:
        told: list[str] = []
        Archive(str(self.results), "results", (), told.append)
        self.assertEqual(told, [f"reading results: {count} entries" for count in range(1, 10)])


class Change(NamedTuple):
    """What becomes of ``b`` in a folder after the layout of that was made."""

    change: Callable[[Path], object]
    # What is changed: the content of which entry is cut off.
    where: str = "b"


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def append_secretly(path: Path) -> None:
    append(path)
    os.utime(path, ns=(THEN, THEN))


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)


def replace_by_symlink(path: Path) -> None:
    """Let the same bytes, of the same time, stand behind a symlink."""
    outside = path.parent.with_name(f"{path.parent.name}-outside")
    path.replace(outside)
    path.symlink_to(outside)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)


def replace_parent_by_symlink(path: Path) -> None:
    replace_by_symlink(path.parent)


CHANGES = {
    "grown": Change(append),
    "grown-secretly": Change(append_secretly),
    "shrunk": Change(lambda path: os.truncate(path, path.stat().st_size - 1)),
    "emptied": Change(lambda path: os.truncate(path, 0)),
    "overwritten": Change(overwrite),
    "touched": Change(lambda path: os.utime(path, ns=(THEN, THEN + NS))),
    "replaced": Change(replace),
    "removed": Change(lambda path: path.unlink()),
    "symlink": Change(replace_by_symlink),
    "folder": Change(replace_by_folder),
    "fifo": Change(replace_by_fifo),
    "parent-symlink": Change(replace_parent_by_symlink, "sub/a"),
    "parent-removed": Change(lambda path: shutil.rmtree(path.parent), "sub/a"),
}


def count_descriptors() -> int:
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


class Changed(ArchiveCase):
    """What is not any more what the layout says ends the connection before its first byte."""

    def setUp(self) -> None:
        super().setUp()
        # What is small is sent as a copy, what is large by sendfile.
        self.changes = {
            f"{name}-{size}": change for name, change in CHANGES.items() for size in (1000, 300_000)
        }
        for name, change in self.changes.items():
            size = int(name.rpartition("-")[2])
            for path, length in [("a", 700), (change.where, size), ("z/c", 100)]:
                self.write(f"{name}/{path}", length)
            self.settle(self.folder / name)
        self.served = self.named(*self.changes)

    def check(self, name: str, start: int, expected: bytes, *fields: str) -> None:
        """Ask for all from *start* on, and get what is *expected*."""
        asked = [*fields, *[f"Range: bytes={start}-"] * (start > 0)]
        with self.subTest(name, start=start), deadline():
            answer = self.served.raw(get(f"/{name}.tar", *asked))
            self.assertIn(b" 206 " if start else b" 200 ", answer[:13])
            got = body(answer)
            self.assertTrue(got == expected, f"{len(got)} bytes instead of {len(expected)}")

    def test_all(self) -> None:
        wholes = {}
        for name in self.changes:
            wholes[name] = self.served.fetch(f"/{name}.tar", {"User-Agent": "before"})
        self.served.log.wait_for("delivered", len(self.changes))
        for name, change in self.changes.items():
            change.change(self.folder / name / change.where)
        descriptors = count_descriptors()
        for name, change in self.changes.items():
            whole, etag = wholes[name].body, wholes[name].headers["ETag"]
            member = members(whole)[f"{name}/{change.where}"]
            first, end = member.offset_data, member.offset_data + member.size
            # After a start, and all resumptions: what checks nothing, what checks the version.
            self.check(name, 0, whole[:first])
            self.check(name, first - 600, whole[first - 600 : first])
            self.check(name, first - 1, whole[first - 1 : first], f"If-Range: {etag}")
            for start in [first, first + 1, end - 1]:
                self.check(name, start, b"")
                self.check(name, start, b"", f"If-Range: {etag}")
            # What is behind it is what the layout says.
            self.check(name, end, whole[end:])
            # Nor is it there among several ranges.
            several = f"Range: bytes=0-99,{first}-{end - 1},{end}-{end}"
            answer = body(self.served.raw(get(f"/{name}.tar", several)))
            self.assertIn(whole[:100], answer)
            self.assertTrue(
                answer.endswith(f"bytes {first}-{end - 1}/{len(whole)}\r\n\r\n".encode())
            )
        self.served.rest()
        for name, change in self.changes.items():
            with self.subTest(name):
                ended = self.served.log.wait_for(rf'"GET /{name}\.tar HTTP/1\.1" req terminated')
                self.assertRegex(ended, rf", {name}/{change.where}\b")
        until(lambda: count_descriptors() <= descriptors, "all files are closed")
        delivered = [line for line in self.served.log.all() if "delivered." in line]
        self.assertEqual(len(delivered), len(self.changes))


class Sent(ArchiveCase):
    """What happens to a file while it is being sent."""

    SIZE = 16 << 20

    def start(self, name: str) -> socket.socket:
        """Fetch the archive of *name* up to somewhere in its large file, which then waits."""
        client = self.served.connect(receive_buffer=1 << 16)
        self.addCleanup(client.close)
        client.sendall(get(f"/{name}.tar", "Connection: close"))
        skip_head(client)
        self.first[name] = read_exactly(client, 100_000)
        return client

    def prepare(self, *names: str) -> None:
        self.first: dict[str, bytes] = {}
        self.layouts = {}
        for name in names:
            self.write(f"{name}/a", 1000)
            self.write(f"{name}/large", b"")
            os.truncate(self.folder / name / "large", self.SIZE)
            self.write(f"{name}/z", 1000)
            self.settle(self.folder / name)
            self.layouts[name] = content(lay_out(self.folder / name))
        self.served = self.named(*names)

    def test_changed(self) -> None:
        changes: dict[str, Callable[[Path], object]] = {
            "grown": append,
            "shrunk": lambda path: os.truncate(path, self.SIZE - 1),
            "emptied": lambda path: os.truncate(path, 0),
            "overwritten": overwrite,
        }
        self.prepare(*changes)
        clients = {name: self.start(name) for name in changes}
        for name, client in clients.items():
            changes[name](self.folder / name / "large")
            with self.subTest(name):
                got = self.first[name] + read_all(client)
                layout = self.layouts[name]
                # It is zero all over, but for what is written over its beginning.
                self.assertTrue(got[3000:] == layout[3000 : len(got)])
                last = members(layout)[f"{name}/large"].offset_data + self.SIZE - 1
                self.assertLessEqual(len(got), last)
                again = self.served.raw(get(f"/{name}.tar", f"Range: bytes={len(got)}-"))
                self.assertEqual(body(again), b"")
        self.served.rest()
        for name in changes:
            with self.subTest(name):
                ended = self.served.log.wait_for(rf'"GET /{name}\.tar HTTP/1\.1" req terminated')
                self.assertRegex(ended, rf", {name}/large\b")

    def test_an_empty_file_is_filled(self) -> None:
        for name in ["a", "log", "z"]:
            self.write(f"results/{name}", b"" if name == "log" else b"x")
        self.settle(self.results)
        layout = content(lay_out(self.results))
        self.served = self.named()
        (self.results / "log").write_bytes(b"more")
        start = members(layout)["results/log"].offset
        got = body(self.served.raw(get("/results.tar", "Connection: close")))
        self.assertEqual(got, layout[: len(got)])
        self.assertLessEqual(len(got), start)
        again = self.served.raw(get("/results.tar", f"Range: bytes={len(got)}-"))
        self.assertLessEqual(len(got) + len(body(again)), start)
        self.served.rest()
        self.served.log.wait_for(r"req terminated\. .*, results/log was changed$")

    def test_removed_or_replaced(self) -> None:
        changes: dict[str, Callable[[Path], object]] = {
            "removed": lambda path: path.unlink(),
            "replaced": replace,
        }
        self.prepare(*changes)
        clients = {name: self.start(name) for name in changes}
        for name, client in clients.items():
            changes[name](self.folder / name / "large")
            with self.subTest(name):
                rest = len(self.layouts[name]) - len(self.first[name])
                got = self.first[name] + read_exactly(client, rest)
                self.assertTrue(got == self.layouts[name])
                self.assertEqual(read_all(client), b"")
                client.close()
                self.served.log.wait_for(rf'"/{name}\.tar" delivered\. ')

    @unittest.skipUnless(os.path.exists("/proc/net/tcp"), "no /proc/net/tcp here")
    def test_overwritten_while_the_last_of_it_is_in_the_queue(self) -> None:
        size = 200_000
        for name in ["a", "b"]:
            self.write(f"results/{name}", size if name == "a" else 10)
        self.settle(self.results)
        self.served = self.named()
        whole = content(lay_out(self.results))
        with self.served.connect(receive_buffer=1 << 12) as client:
            client.sendall(get("/results.tar", "Connection: close"))
            port = client.getsockname()[1]

            def queued() -> int:
                """Return what is between the server's send and the client's recv."""
                lines = [
                    line.split() for line in Path("/proc/net/tcp").read_text().split("\n")[1:-1]
                ]
                ports = {f"{port:04X}", f"{self.served.address[1]:04X}"}
                return sum(
                    int(queue, 16)
                    for line in lines
                    if {line[1][-4:], line[2][-4:]} == ports
                    for queue in line[4].split(":")
                )

            until(lambda: queued() > len(whole), "all is handed over")
            with (self.results / "a").open("r+b") as file:
                file.write(bytes(size))
            got = body(read_all(client))
        if got == whole:
            self.skipTest("here what is in the queue is a copy")
        # Newer bytes may have come, but this is not the archive, and not called delivered.
        self.served.rest()
        line = self.served.log.wait_for(r"req terminated\. |delivered\. ")
        self.assertRegex(line, r"req terminated\. .*, results/a\b")


class LeftOut(ArchiveCase):
    """What is neither file, folder nor symlink, or hidden, or not to be read."""

    def test_hidden_and_special(self) -> None:
        for name in ["a", ".h1", ".h2", "s/.h3", "s/..h4", ".d/x", ".d/.y", "s/.d/z", "s/t/..."]:
            self.write(f"results/{name}")
        specials = 0
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(AttributeError, OSError):
                os.mkfifo(self.results / "fifo")
                specials += 1
            with contextlib.suppress(AttributeError, OSError):
                path = str(self.results / "s" / "socket")
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(path)
                specials += 1
            # Only root makes devices.
            with contextlib.suppress(AttributeError, OSError):
                os.mknod(self.results / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
                specials += 1
            with deadline():
                data = self.named().fetch("/results.tar").body
        names = ["results", "results/a", "results/s", "results/s/t"]
        self.assertEqual(list(members(data)), names)
        told = "7 hidden" + f", {specials} special" * (specials > 0)
        self.assertEqual(lay_out(self.results).left_out, told)

    def test_nothing(self) -> None:
        self.write("results/a")
        self.assertEqual(lay_out(self.results).left_out, "")

    def test_symlinks_are_not_followed(self) -> None:
        self.write("outside/a", b"the secret")
        self.write("results/.hidden", b"the secret")
        links = {"file": "../outside/a", "folder": "../outside", "here": ".", "h": ".hidden"}
        links.update({"root": "/", "loop": "loop", "broken": "nothing"})
        for name, target in links.items():
            self.symlink(f"results/{name}", target)
        data = self.named().fetch("/results.tar").body
        found = members(data)
        self.assertEqual(len(found), 1 + len(links))
        for name, target in links.items():
            member = found[f"results/{name}"]
            self.assertTrue(member.issym())
            self.assertEqual((member.linkname, member.size), (target, 0))
        self.assertNotIn(b"the secret", data)

    def test_whoever_swaps_names_gains_nothing(self) -> None:
        # Of the same size and time, so that nothing else keeps them out.
        secret, public = b"the secret\n", b"the public\n"
        for name in ["outside/b", "outside/sub/c"]:
            self.write(name, secret)
        for name in ["results/b", "results/sub/c"]:
            self.write(name, public)
        self.settle(self.folder)
        archive = lay_out(self.results)
        self.symlink("evil", "outside/b")
        self.symlink("evil-sub", "outside/sub")
        swapped = [self.results / "b", self.folder / "evil"]
        swapped += [self.results / "sub", self.folder / "evil-sub"]
        whole = cut = 0
        with swapping(*swapped), deadline():
            while whole + cut < 1000 or not (whole and cut):
                found = bytearray()
                try:
                    for piece in pieces(archive, 0, archive.version.size):
                        found += piece
                    whole += 1
                except ContentChanged:
                    cut += 1
                self.assertNotIn(secret, found)

    def test_a_folder_that_is_swapped_while_the_layout_is_made(self) -> None:
        self.write("results/a")
        self.write("results/b/c")
        self.write("outside/secret")

        def swap(note: str) -> None:
            if note == "reading results: 2 entries":
                shutil.rmtree(self.results / "b")
                self.symlink("results/b", "../outside")

        archive = Archive(str(self.results), "results", (), swap)
        # Not even the names out there are the receiver's business.
        self.assertEqual(archive.files, 1)
        self.assertNotIn(b"secret", content(archive))


class Unreadable(NobodyCase):
    def said(self, *arguments: str) -> list[str]:
        """Return what is printed about what is left out."""
        self.program = self.start_as_nobody(*arguments)
        self.program.links()
        return [line for line in self.program.out.all() if line.startswith("left out")]

    def fetch(self, target: str, *fields: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.program.port()), PATIENCE) as client:
            client.sendall(get(target, "Connection: close", *fields))
            return body(read_all(client))

    def test_left_out_and_said_in_one_line(self) -> None:
        for name in ["a", ".1", ".2", ".3", ".4", ".5", "x/.6", ".7/a", "private/key.pem"]:
            self.write(f"results/{name}")
        os.mkfifo(self.folder / "results" / "fifo")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.folder / "results" / "x" / "socket"))
        self.close("results/private/key.pem")
        told = "left out of results.tar: 7 hidden, 1 unreadable (private/key.pem), 2 special"
        self.assertEqual(self.said("results"), [told])
        names = ["results", "results/a", "results/private", "results/x"]
        self.assertEqual(list(members(self.fetch("/results.tar"))), names)
        # It stands where it is seen: among the links.
        lines = self.program.out.all()
        self.assertEqual(lines[-1], "===== start logging =====")
        self.assertEqual(lines[-2], told)

    def test_folders_and_many(self) -> None:
        for name in ["shut/a", "1", "2/x\ny", "3", "4"]:
            self.write(f"results/{name}")
        for name in ["shut", "1", "2/x\ny", "3", "4"]:
            self.close(f"results/{name}")
        told = r"left out of results.tar: 5 unreadable (1, 2/x\x0ay, 3, and 2 more)"
        self.assertEqual(self.said("results"), [told])
        self.assertEqual(list(members(self.fetch("/results.tar"))), ["results", "results/2"])

    def test_made_unreadable_after_the_start(self) -> None:
        for name in ["file/a", "file/b", "folder/a", "folder/sub/b"]:
            self.write(name, 700)
        self.assertEqual(self.said("file", "folder"), [])
        wholes = {name: self.fetch(f"/{name}.tar") for name in ["file", "folder"]}
        self.close("file/b")
        self.close("folder/sub")
        changed = {"file": "file/b", "folder": "folder/sub/b"}
        for name, path in changed.items():
            with self.subTest(name):
                first = members(wholes[name])[path].offset_data
                self.assertEqual(self.fetch(f"/{name}.tar"), wholes[name][:first])
                again = self.fetch(f"/{name}.tar", f"Range: bytes={first - 9}-")
                self.assertEqual(again, wholes[name][first - 9 : first])
        # At its end it says at once what has come to rest.
        self.program.process.terminate()
        for name, path in changed.items():
            with self.subTest(name):
                ended = self.program.err.wait_for(rf'"GET /{name}\.tar HTTP/1\.1" req terminated')
                self.assertRegex(ended, rf", {path}\b")


class Downloaded(ArchiveCase):
    """An archive is a download like any other."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(30):
            self.write(f"results/{number:02}", 20_000 * (number % 5) + 1)
        self.served = self.named()
        self.size = lay_out(self.results).version.size
        self.whole = content(lay_out(self.results))

    def fetch(self, start: int, stop: int, count: int = 0) -> bytes:
        """Ask for a range, and break off after *count* bytes, if any."""
        with self.served.connect(receive_buffer=1 << 12) as client:
            fields = [f"Range: bytes={start}-{stop - 1}"] if start or stop < self.size else []
            client.sendall(get("/results.tar", "User-Agent: one", *fields))
            skip_head(client)
            data = read_exactly(client, count or stop - start)
            if count:
                reset(client)
            return data

    def delivered(self) -> list[str]:
        self.served.log.wait_for("delivered")
        lines = self.served.log.all()
        return [line.split("delivered. ")[1] for line in lines if "delivered" in line]

    def test_resumed(self) -> None:
        cuts = [0, 1000, 100_001, 100_002, 300_000, self.size]
        data = b""
        for start, stop in zip(cuts, cuts[1:]):
            count = stop - start if stop < self.size else 0
            data += self.fetch(start, self.size, count)
            if stop == 1000:
                # The others come before it rests.
                self.served.rest()
                self.served.log.wait_for(r"req terminated\. at \d+%")
        self.assertTrue(data == self.whole)
        told = f"{self.size / (1 << 20):.1f} MiB in 5 requests"
        self.assertEqual(self.delivered(), [told])

    def test_in_segments(self) -> None:
        cuts = [self.size * part // 16 for part in range(17)]
        found: dict[int, bytes] = {}

        def fetch(start: int, stop: int) -> None:
            found[start] = self.fetch(start, stop)

        threads = [threading.Thread(target=fetch, args=span) for span in zip(cuts, cuts[1:])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertTrue(b"".join(found[start] for start in cuts[:-1]) == self.whole)
        told = f"{self.size / (1 << 20):.1f} MiB in 16 requests"
        self.assertEqual(self.delivered(), [told])

    @needs("openssl")
    def test_over_tls(self) -> None:
        files = ["-keyout", "key", "-out", "certificate", "-nodes", "-days", "2", "-subj", "/CN=x"]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command = ["openssl", "req", "-x509", *kind, *files]
        subprocess.run(command, cwd=str(self.folder), check=True, capture_output=True)
        names = [str(self.folder / name) for name in ["certificate", "key"]]
        served = self.serve([str(self.results)], tls=tls_context(names[0], names[1]))
        context = ssl.create_default_context(cafile=names[0])
        context.check_hostname = False
        for start in [0, 200_000]:
            with context.wrap_socket(served.connect()) as client:
                fields = [f"Range: bytes={start}-"] * (start > 0)
                client.sendall(get("/results.tar", "Connection: close", *fields))
                self.assertTrue(body(read_all(client)) == self.whole[start:])
        served.log.wait_for("delivered")


class Commands(ProgramCase):
    """What a command line with folders offers."""

    def fetch(self, port: int, target: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", target)
            reply = Reply(connection.getresponse())
        self.assertEqual(reply.status, 200)
        return reply.body

    def test_files_and_folders(self) -> None:
        data = self.write("notes.txt", b"notes")
        for name in ["results/a", "results/b/c", "中 文/x"]:
            self.write(name, 512)
        (self.folder / "empty").mkdir()
        program = self.start("results", "notes.txt", "中 文", "empty/")
        links = ["/results.tar", "/notes.txt", "/%E4%B8%AD%20%E6%96%87.tar", "/empty.tar"]
        self.assertEqual(paths_of(program), links)
        base = f"link: http://127.0.0.1:{program.port()}"
        told = ["(results, 2 files, 1.0 KiB)", "(5 B)", "(中 文, 1 file, 512 B)"]
        told.append("(empty, 0 files, 0 B)")
        lines = [line for line in program.out.all() if line.startswith("link: ")]
        self.assertEqual(lines, [f"{base}{link}  {what}" for link, what in zip(links, told)])
        self.assertEqual(self.fetch(program.port(), "/notes.txt"), data)
        names = {"/results.tar": 4, "/%E4%B8%AD%20%E6%96%87.tar": 2, "/empty.tar": 1}
        for link, count in names.items():
            self.assertEqual(len(members(self.fetch(program.port(), link))), count)
        for target in ["/results", "/results/", "/results/a", "/results.tar/", "/results.tar/a"]:
            self.assertEqual(fetch_status(program.port(), target), 404)

    def test_two_of_one_name(self) -> None:
        self.write("results/a")
        self.write("results.tar")
        self.write("other/results/a")
        refused = [["results", "results.tar"], ["results", "other/results"]]
        for names, program in [(names, self.start(*names)) for names in refused]:
            with self.subTest(names):
                self.assertEqual((program.wait(), program.out.all()), (2, []))
                (line,) = program.err.all()
                for name in names:
                    self.assertRegex(line, rf"\b{name}\b(?!\.tar)")

    def test_names_of_the_current_folder(self) -> None:
        self.write("results/sub/a")
        results = str(self.folder / "results")
        for program in [self.start(name, cwd=results) for name in (".", "sub/..")]:
            self.assertEqual(paths_of(program), ["/results.tar"])
            found = members(self.fetch(program.port(), "/results.tar"))
            self.assertEqual(list(found), ["results", "results/sub", "results/sub/a"])

    def test_behind_a_symlink(self) -> None:
        # What is named is meant, and called what it was named; it may be hidden, too.
        self.write("elsewhere/.hidden/a")
        (self.folder / "link").symlink_to("elsewhere/.hidden")
        program = self.start("link", "elsewhere/.hidden")
        self.assertEqual(paths_of(program), ["/link.tar", "/.hidden.tar"])
        found = members(self.fetch(program.port(), "/link.tar"))
        self.assertEqual(list(found), ["link", "link/a"])
        found = members(self.fetch(program.port(), "/.hidden.tar"))
        self.assertEqual(list(found), [".hidden", ".hidden/a"])

    def test_once(self) -> None:
        self.write("results/a", 100_000)
        program = self.start("-c", "1", "results")
        self.assertEqual(len(members(self.fetch(program.port(), "/results.tar"))), 2)
        self.assertEqual(program.wait(), 0)
        lines = program.err.all()
        self.assertEqual(len([line for line in lines if '"/results.tar" delivered. ' in line]), 1)
        self.assertEqual(lines[-1], "stopped. delivered: results.tar to 127.0.0.1")

    def test_once_of_a_file_and_a_folder(self) -> None:
        self.write("results/a")
        self.write("b")
        program = self.start("-c", "1", "results", "b")
        for target in ["/results.tar", "/results.tar"]:
            self.fetch(program.port(), target)
        program.err.wait_for("delivered", 2)
        self.assertIsNone(program.process.poll())
        self.fetch(program.port(), "/b")
        self.assertEqual(program.wait(), 0)

    def test_secret(self) -> None:
        self.write("results/a")
        program = self.start("--secret", "results")
        (link,) = paths_of(program)
        self.assertRegex(link, r"\A/[0-9a-zA-Z_-]{22,}/results\.tar\Z")
        self.assertEqual(len(members(self.fetch(program.port(), link))), 2)
        self.assertEqual(fetch_status(program.port(), "/results.tar"), 404)
        self.assertEqual(
            fetch_status(program.port(), link.replace("/results", "/other/results")), 404
        )

    def test_what_the_program_writes_to(self) -> None:
        self.write("results/a")
        with open(self.folder / "results" / "log.txt", "wb") as log:
            program = self.start("results", stderr=log)
            self.assertEqual(paths_of(program), ["/results.tar"])
        found = members(self.fetch(program.port(), "/results.tar"))
        self.assertEqual(list(found), ["results", "results/a"])
        self.assertTrue(any(line.startswith("left out") for line in program.out.all()))

    def test_the_same_in_another_run(self) -> None:
        for name in ["results/a", "results/中", f"results/{DEEP}"]:
            self.write(name, 1000)
        found = set()
        for program in [self.start("results") for _ in range(2)]:
            connection = http.client.HTTPConnection("127.0.0.1", program.port(), timeout=PATIENCE)
            with contextlib.closing(connection):
                connection.request("GET", "/results.tar")
                reply = Reply(connection.getresponse())
            found.add((reply.headers["ETag"], reply.body))
        self.assertEqual(len(found), 1)


if __name__ == "__main__":
    unittest.main()
