#!/usr/bin/env python3
"""Hand files to someone over HTTP, from whatever machine is nearest to them.

Run it, or name files and folders; paste the link; press Ctrl-C once the log says delivered.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # What lies beside it, or where it is run, is data: no module shall come from there.
    del sys.path[0]

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until main is there, Ctrl-C shall show no traceback of an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import calendar
import contextlib
import email.utils
import enum
import errno
import functools
import hashlib
import http.server
import mimetypes
import os
import random
import re
import socket
import socketserver
import stat
import struct
import tarfile
import threading
import time
import urllib.parse
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from hmac import compare_digest
from itertools import accumulate, chain, groupby, product
from typing import TYPE_CHECKING, NamedTuple, Tuple, Union

try:
    import fcntl
    import resource
    import termios
except ImportError:  # Windows
    fcntl = resource = termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn, TextIO

    Clock = Callable[[], float]
    # Where text is written, if there is such a stream, and text with where it goes.
    Stream = Union[TextIO, None]
    Text = Tuple[Stream, str]
    # Files that this program writes to.
    Logs = Collection["FileId"]
    # Is told how much of a folder has been read.
    Progress = Callable[[str], None]
    Named = Mapping[str, Union[str, "Archive"]]

__version__ = "2.0.0"


def format_size(count: float) -> str:
    """Write *count* bytes for people: 512 B, 640.0 MiB, 1.4 GiB."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} PiB"


def percentage(arrived: int, size: int) -> str:
    """Write the whole per cent that *arrived* bytes are of *size*; of nothing it is 0%."""
    return f"{arrived * 100 // max(size, 1)}%"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def some(items: Sequence[str], most: int = 8) -> str:
    """List at most so many *items*, and count what is left of them."""
    more = len(items) - most
    return ", ".join([*items[:most], *([f"and {more} more"] if more > 0 else [])])


# --- What is offered --------------------------------------------------------------------
# A share turns the path of a request into a representation: an open file, or a folder as an
# archive.  It is the only door to the disk.  A representation has a version, and hands any span of
# its bytes out as parts: literal bytes, or spans of open files that tell when they have changed.

# The first byte, and one past the last; which file, by device and inode.
Span = Tuple[int, int]
FileId = Tuple[int, int]
Part = Union[bytes, Tuple["File", int, int]]
Representation = Union["OfferedFile", "Archive"]
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
READABLE_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# O_PATH, where there is one, passes through folders that nobody may read (mode 0711).
FOLDER_FLAGS = READABLE_FOLDER | getattr(os, "O_PATH", 0)
# A FIFO may take the place of a file just then: nobody waits for its writer.
FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# What the system lacks, or another program's lease holds up, says nothing about a file.
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}
TAR_TYPES = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}
# Bytes that are copied at a time, and at the end of a file, or a span, that is looked at with care.
CHUNK, TAIL = 1 << 16, 1 << 12
# Of a tar: a block, and what follows the type in the header of a file or folder.
BLOCK = 512
PLAIN_END = tarfile.TarInfo().tobuf(tarfile.GNU_FORMAT)[157:]
# The checksum itself counts as eight blanks.
PLAIN_SUM = sum(PLAIN_END) + 8 * ord(" ")


class ContentChanged(Exception):
    """A file is no longer what was promised; the text says how."""


class Version(NamedTuple):
    """A state of what a link stands for; *file_id* is None where that is not one file; *tail* tells
    the bytes at its end from others, where somebody has asked for them."""

    etag: str
    size: int
    file_id: FileId | None = None
    tail: int = 0


class Entry(NamedTuple):
    """What is in a folder; *path* leads there from the root of the walk, with slashes."""

    path: str
    # One of TAR_TYPES, or else why it is not offered: hidden, unreadable, special, log.
    kind: str
    mode: int = 0
    size: int = 0
    mtime_ns: int = 0
    target: str = ""


def pread(descriptor: int, length: int, start: int) -> bytes:
    """Return at most *length* bytes from *start*.  Raise OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, length)


class Handle:
    """An open file or folder, which whoever forgets it last closes."""

    descriptor: int | None = None

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


class Folder(Handle):
    """An open folder; no symlink leads to it, nor to its files, whoever swaps names meanwhile."""

    def __init__(self, root: str, path: str = "", flags: int = FOLDER_FLAGS) -> None:
        """Open the folder *path* below *root*.  Raise OSError."""
        # What is in the root itself is opened by its path.
        self._path, self._prefix = path, os.path.join(root, "")
        if path and os.open in os.supports_dir_fd:
            self._prefix, self.descriptor = "", os.open(root, flags)
            for component in path.split("/"):
                above = self.descriptor
                self.descriptor = os.open(component, flags | NO_FOLLOW, dir_fd=above)
                os.close(above)
        elif path:
            place = os.path.join(os.path.realpath(root), os.path.normpath(path))
            if os.path.realpath(place) != place:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)
            self._prefix = os.path.join(place, "")

    def stat(self, name: str) -> os.stat_result:
        return os.stat(self._prefix + name, dir_fd=self.descriptor, follow_symlinks=False)

    def open(self, name: str) -> int:
        """Return a descriptor of *name*, which was a regular file before.  Raise OSError."""
        return os.open(self._prefix + name, FILE_FLAGS | NO_FOLLOW, dir_fd=self.descriptor)

    def entries(self, logs: Logs) -> list[Entry]:
        """Return what is in it, the last first, by the bytes of the names.  Raise OSError."""
        names = sorted(self.names(), key=os.fsencode, reverse=True)
        return [self._entry(name, logs) for name in names]

    def names(self) -> list[str]:
        return os.listdir(self._prefix if self.descriptor is None else self.descriptor)

    def _entry(self, name: str, logs: Logs) -> Entry:
        path = f"{self._path}/{name}" if self._path else name
        if name.startswith("."):
            return Entry(path, "hidden")
        place, folder = self._prefix + name, self.descriptor
        try:
            status = self.stat(name)
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "special")
            target = os.readlink(place, dir_fd=folder) if kind == "symlink" else ""
            if file_id(status) in logs:
                kind = "log"
            elif kind == "file" and not os.access(place, os.R_OK, dir_fd=folder):
                kind = "unreadable"
        except OSError:
            return Entry(path, "unreadable")
        size = status.st_size if kind == "file" else 0
        return Entry(path, kind, stat.S_IMODE(status.st_mode), size, status.st_mtime_ns, target)


def walk(root: str, is_deep: bool, logs: Logs) -> Iterator[Entry]:
    """Yield *root*, what is in it and, if *is_deep*, below it, in the order of the names' bytes,
    each folder before what is in it; follow no symlink.  Raise OSError for *root* alone."""
    status = os.stat(root)
    yield Entry("", "folder", stat.S_IMODE(status.st_mode), 0, status.st_mtime_ns)
    left = Folder(root).entries(logs)
    while left:
        entry = left.pop()
        if entry.kind == "folder" and is_deep:
            try:
                left += Folder(root, entry.path, READABLE_FOLDER).entries(logs)
            except OSError:
                entry = Entry(entry.path, "unreadable")
        yield entry


class File(Handle):
    """An open file that is sent only as long as it is what it was when it was offered."""

    descriptor: int
    may_grow = False

    def __init__(self, descriptor: int, label: str, size: int, mtime_ns: int) -> None:
        """Take *descriptor* over, of a file that the log calls *label*, and that is to keep its
        *size*, in bytes, and *mtime_ns*, its time of change."""
        self.descriptor, self._label = descriptor, label
        self._size, self._mtime_ns = size, mtime_ns

    def read(self, start: int, length: int) -> bytes:
        """Return at most *length* bytes from *start*.  Raise OSError and ContentChanged."""
        try:
            data = pread(self.descriptor, length, start)
        except OSError as error:
            # It may be no file any more; and a disk behind a network may fail as a network does.
            self.check()
            raise ContentChanged(f"{self._label}: {error.strerror}") from None
        self.check()
        if not data:
            raise ContentChanged(f"{self._label} ends too early")
        return data

    def check(self) -> None:
        """Raise ContentChanged where it is not what it is to be."""
        # ext4 shows the new time of a file that grows some 0.1 ms before the new size.
        for pause in (0.002, 0.01, 0.05, 0) if self.may_grow else (0,):
            status = os.fstat(self.descriptor)
            growth = status.st_size - self._size
            is_same = not growth and status.st_mtime_ns == self._mtime_ns
            if (is_same and stat.S_ISREG(status.st_mode)) or (self.may_grow and growth > 0):
                return
            if growth < 0:
                raise ContentChanged(f"{self._label} became shorter")
            time.sleep(pause)
        raise ContentChanged(f"{self._label} was changed")


class OfferedFile(File):
    """A file as a representation: as it is when it is opened, though it may grow."""

    may_grow = True

    def __init__(self, name: str, path: str, folder: Folder | None = None) -> None:
        """Open *path*, or what is called so in *folder*.  Raise OSError for no regular file."""
        # Looked at before, since to open some devices is to set them going, and after.
        status = folder.stat(path) if folder else os.stat(path)
        if stat.S_ISREG(status.st_mode):
            self.descriptor = folder.open(path) if folder else os.open(path, FILE_FLAGS)
            status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "neither a regular file nor a folder", path)
        super().__init__(self.descriptor, "the file", status.st_size, status.st_mtime_ns)
        # Strong: another file, another size or another time in ns makes another tag.
        etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
        self.name, self.version = name, Version(etag, status.st_size, file_id(status))
        # Never later than the Date of an answer (RFC 9110, section 8.8.2.1).
        self.modified: int | None = min(status.st_mtime_ns // 10**9, int(time.time()))

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the bytes from *start* to *stop*."""
        yield self, start, stop

    def tail(self, stop: int) -> int:
        """Return what tells the bytes before *stop* from others: a new file may have the number of
        one that is gone, and one that was rewritten keeps its own."""
        # Each call hands the interpreter over, which to a small file is a tenth of its time.
        if stop > CHUNK:
            with contextlib.suppress(OSError):
                return hash(pread(self.descriptor, TAIL, stop - TAIL))
        return 0


def as_utf8(name: str) -> str:
    """Return *name* as it reads where its bytes on the disk are UTF-8, whatever the locale."""
    with contextlib.suppress(UnicodeError):
        return os.fsencode(name).decode()
    return name


def file_id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


class Archive:
    """A folder as a tar that exists nowhere, and of which any span can be had: where each entry
    lies follows from names and sizes alone (POSIX.1-2017, pax, "ustar Interchange Format").  The
    layout is made once; files are read when they are sent."""

    modified: int | None = None

    def __init__(self, path: str, folder: str, logs: Logs, progress: Progress) -> None:
        """Lay out the folder *path*, called *folder*.  Raise OSError where it cannot be read."""
        self.name, self.folder, self._path = f"{folder}.tar", folder, path
        self._entries: list[Entry] = []
        # Where the header of each entry begins, and at last where the archive ends.
        self._offsets = array("Q", [0])
        left_out: dict[str, list[str]] = {"hidden": [], "unreadable": [], "special": [], "log": []}
        # Python 3.8 writes other headers than 3.9.
        layout = hashlib.sha256(repr((folder, sys.version_info[:2])).encode())
        for entry in walk(path, True, logs):
            if entry.kind in left_out:
                left_out[entry.kind].append(entry.path)
                continue
            header = self._header(entry)
            layout.update(header + b"%d" % entry.mtime_ns)
            end = self._offsets[-1] + len(header) + entry.size
            self._offsets.append(-(-end // BLOCK) * BLOCK)
            self._entries.append(entry)
            progress(f"reading {folder}: {len(self._entries):,} entries")
        # After the last one come two blocks of zeros.
        self._offsets[-1] += 2 * BLOCK
        self.version = Version(f'"{layout.hexdigest()[:32]}"', self._offsets[-1])
        self.files = sum(entry.kind == "file" for entry in self._entries)
        self.content = sum(entry.size for entry in self._entries)
        told = {kind: f"{len(paths):,} {kind}" for kind, paths in left_out.items() if paths}
        if "unreadable" in told:
            told["unreadable"] += f" ({some(left_out['unreadable'], 3)})"
        self.left_out = ", ".join(told.values())

    def tail(self, _stop: int) -> int:
        """Return what is the same of any: one that grew is another."""
        return 0

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the bytes from *start* to *stop*.  Raise ContentChanged where a file is lost."""
        # The folder of the last file stays open for the next.
        open_folder = functools.lru_cache(maxsize=1)(functools.partial(Folder, self._path))

        def open_file(entry: Entry) -> File:
            above, _, name = entry.path.rpartition("/")
            label = f"{self.folder}/{entry.path}"
            try:
                return File(open_folder(above).open(name), label, entry.size, entry.mtime_ns)
            except OSError as error:
                raise ContentChanged(f"{label}: {error.strerror}") from None

        begin, end = bisect_right(self._offsets, start) - 1, bisect_left(self._offsets, stop)
        padding, offset = b"", start
        for index in range(begin, end):
            entry, offset = self._entries[index], self._offsets[index] - len(padding)
            if entry.kind == "file" and not entry.size:
                # One that has no bytes is told of only if it is still empty.
                open_file(entry).check()
            head = padding + self._header(entry)
            yield head[max(start - offset, 0) : stop - offset]
            offset += len(head)
            first, last = max(start - offset, 0), min(stop - offset, entry.size)
            if first < last:
                yield open_file(entry), first, last
            offset += entry.size
            padding = bytes(self._offsets[index + 1] - offset)
        yield padding[max(start - offset, 0) : max(stop - offset, 0)]

    def _header(self, entry: Entry) -> bytes:
        """Return the blocks before the content of *entry*: what tobuf makes, only faster."""
        name, kind = as_utf8(f"{self.folder}/{entry.path}"), TAR_TYPES[entry.kind]
        target = as_utf8(entry.target)
        if entry.kind == "folder" and entry.path:
            name += "/"
        # Without set-id bits.
        mode, mtime = entry.mode & 0o1777, entry.mtime_ns // 10**9
        if entry.kind != "symlink" and name.isascii() and mtime >= 0:
            start = name.encode().ljust(100, b"\0")
            start += b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, 0, 0, entry.size, mtime)
            # Longer where anything is too large for its field.
            if len(start) == 148:
                return b"%b%06o\0 %b%b" % (start, sum(start, PLAIN_SUM + kind[0]), kind, PLAIN_END)
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, mode
        info.size, info.mtime = entry.size, mtime
        # GNU's numbers over 8 GiB busybox reads as well; PAX has names in any script.
        if name.isascii() and target.isascii():
            return info.tobuf(tarfile.GNU_FORMAT)
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@contextlib.contextmanager
def none_but_lacking() -> Iterator[None]:
    """Pass over what cannot be opened, but not over what the system lacks."""
    try:
        yield
    except (OSError, ValueError) as error:
        # ValueError: a NUL, or on Windows bytes that are no name.
        if getattr(error, "errno", None) in LACKING:
            raise


class Share:
    """What may be fetched, under which names: what is *named*, or else the files of *folder* and,
    if *is_deep*, of its sub-folders, but not *logs*."""

    def __init__(
        self, folder: str, named: Named, secret: str = "", is_deep: bool = False, logs: Logs = ()
    ) -> None:
        self.named, self._secret, self.is_deep, self.logs = named, secret, is_deep, logs
        self.folder = os.path.abspath(folder) if folder else ""

    def link(self, name: str) -> str:
        """Return the path of the link to *name*, percent-encoded, the secret before it."""
        return urllib.parse.quote(os.fsencode(f"{self._secret and '/'}{self._secret}/{name}"))

    def offers(self) -> Iterator[Representation]:
        """Yield what is offered, in order.  Raise OSError where the folder cannot be read."""
        entries = walk(self.folder, self.is_deep, self.logs) if self.folder else ()
        found = (entry.path for entry in entries if entry.kind in ("file", "symlink"))
        for path in chain(self.named, found):
            # Another program may have a lease on it just now.
            with contextlib.suppress(BlockingIOError), none_but_lacking():
                representation = self._open(path.split("/"))
                # What has gone since, or leads out of the folder, cannot be opened.
                if representation:
                    yield representation

    def open(self, path: str) -> Representation | None:
        """Open what *path*, the percent-encoded path of a request, names; None if nothing is.
        Raise OSError only where the system has no descriptor or memory left."""
        raw = path.encode("utf-8", "surrogateescape").split(b"/")[1:]
        components = [urllib.parse.unquote_to_bytes(component) for component in raw]
        if self._secret and not compare_digest(components.pop(0), self._secret.encode()):
            return None
        with none_but_lacking():
            names = list(map(os.fsdecode, components))
            representation = self._open(names)
            if representation and self._are_listed(names):
                return representation
        return None

    def _are_listed(self, components: list[str]) -> bool:
        """Tell whether none of them, which may be offered, is another name of what may not: FAT and
        NTFS know all by a short one too, .env as ENV~1.  Raise OSError."""
        has_short = self.folder and any("~" in component for component in components)
        for place, component in enumerate(components if has_short else ()):
            parent = Folder(self.folder, "/".join(components[:place]), READABLE_FOLDER)
            if component not in parent.names():
                return False
        return True

    def _open(self, components: list[str]) -> Representation | None:
        path = "/".join(components)
        if not self.folder:
            named = self.named.get(path, "")
            return named if isinstance(named, Archive) else OfferedFile(path, named)
        above, _, name = path.rpartition("/")
        if (above and not self.is_deep) or not all(map(may_be_offered, components)):
            return None
        folder = Folder(self.folder, above)
        try:
            file = OfferedFile(path, name, folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ELOOP):
                raise
            # It may be a symlink: neither out of the folder, nor to a hidden name in it.  The
            # system follows some 40 of them in a row; realpath any number, deeper and deeper.
            os.stat(os.path.join(self.folder, path))
            target = os.path.realpath(os.path.join(self.folder, path))
            *between, name = os.path.relpath(target, os.path.realpath(self.folder)).split(os.sep)
            if not all(map(may_be_offered, (*between, name))):
                return None
            file = OfferedFile(path, name, Folder(self.folder, "/".join(between)))
        return None if file.version.file_id in self.logs else file


def may_be_offered(component: str) -> bool:
    """Tell whether a name of one component may be offered: none that is hidden, or that Windows
    would read as anything but a file's (Microsoft: "Naming Files, Paths, and Namespaces")."""
    if os.sep == "\\":
        devices = r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?"
        odd = r'.*[\\:<>"|?*\x00-\x1f].*|.*[. ]'
        if re.fullmatch(f"{odd}|{devices}", component, re.IGNORECASE | re.DOTALL):
            return False
    return component[:1] not in ("", ".") and "/" not in component and "\0" not in component


def offers_by_name(paths: Iterable[str], logs: Logs, progress: Progress) -> Named:
    """Return the files of *paths*, without *logs*, and archives of the folders, by the names of
    their links.  Raise OSError for all that cannot be had, ValueError for two of one name."""
    found: dict[str, str] = {}
    failures: dict[str, list[str]] = {}
    for path in paths:
        is_relative = os.path.basename(path.rstrip(os.sep)) in (os.curdir, os.pardir)
        name = os.path.basename((os.path.realpath if is_relative else os.path.abspath)(path))
        if not name:
            raise ValueError(f"{path} has no name that a link could have")
        try:
            if os.path.isdir(path):
                os.scandir(path).close()
                name += ".tar"
            else:
                OfferedFile(name, path)
            if not os.path.samefile(path, found.setdefault(name, path)):
                raise ValueError(f"two would have one link, {name}: {found[name]} and {path}")
        except OSError as error:
            failures.setdefault(error.strerror or str(error), []).append(path)
    if failures:
        told = "; ".join(f"{', '.join(which)}: {why}" for why, which in failures.items())
        raise OSError(errno.ENOENT, told)
    return {
        name: Archive(path, name[: -len(".tar")], logs, progress) if os.path.isdir(path) else path
        for name, path in found.items()
        if file_id(os.stat(path)) not in logs
    }


# --- Ranges, preconditions and heads ------------------------------------------------------
# Pure functions: from the bytes of a head to what is asked for, and from there to spans and
# statuses.  What cannot be answered as asked is a Refusal, raised from wherever that is found out.

MAX_RANGES = 32
# RFC 9110, section 5.6.2: token = 1*tchar
TOKEN = r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)"
# RFC 9112, section 3: request-line = method SP request-target SP HTTP-version, but curl sends raw
# UTF-8 in a target; section 2.3: HTTP-version = HTTP-name "/" DIGIT "." DIGIT
REQUEST_LINE = re.compile(TOKEN + r" ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])\r?")
# Section 5: field-line = field-name ":" OWS field-value OWS
FIELD_LINE = re.compile(TOKEN + r":([\t -~\x80-\xff]*)\r?")
# RFC 9110, section 7.2: Host = uri-host [ ":" port ]; RFC 3986, section 3.2.2: IP-literal and
# reg-name; RFC 6874: the zone of a link-local address
REG_CHAR = r"[\w.~!$&'()*+,;=%-]"
IP_LITERAL = rf"\[(?:[0-9a-f:.]+(?:%{REG_CHAR}+)?|v[0-9a-f]+\.(?:{REG_CHAR}|:)+)\]"
AUTHORITY = f"(?:{IP_LITERAL}|{REG_CHAR}+)(?::[0-9]*)?"
HOST = re.compile(f"(?:{AUTHORITY})?", re.ASCII | re.IGNORECASE)
# RFC 9112, section 3.2: origin-form = absolute-path [ "?" query ]; absolute-form = absolute-URI
TARGET = re.compile(
    rf"(?:https?://{AUTHORITY}|(?=/))((?:/[^?#]*)?)(?:[?#].*)?", re.ASCII | re.IGNORECASE
)
# A compressed file is named by its compression, since it is sent without Content-Encoding.
COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
DATE_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


class Refusal(Exception):
    """Why a request is answered with an error; *phrase*: where it is not the usual one."""

    def __init__(
        self, status: int, detail: str = "", fields: Mapping[str, str] = {}, phrase: str = ""
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.fields = status, detail, fields
        self.phrase = phrase or http.HTTPStatus(status).phrase


class Head(NamedTuple):
    """The head of a request; *fields* of one name are combined, names are in lower case."""

    method: str
    target: str
    version: str
    fields: dict[str, str]
    keeps_connection: bool


def parse_head(head: bytes) -> Head:
    """Read the *head* of a request, with the empty line that ends it.  Raise Refusal for what RFC
    9112 calls malformed, and for a request with a body."""
    first, *lines, _, _ = head.decode("latin-1").split("\n")
    request_line = REQUEST_LINE.fullmatch(first)
    if not request_line:
        raise Refusal(400, "malformed request line")
    method, target, major, minor = request_line.groups()
    if major != "1":
        raise Refusal(505)
    target = target.encode("latin-1").decode("utf-8", "surrogateescape")
    version = "HTTP/1.0" if minor == "0" else "HTTP/1.1"
    values: dict[str, list[str]] = {}
    for line in lines:
        match = FIELD_LINE.fullmatch(line)
        if not match:
            raise Refusal(400, "malformed field line")
        values.setdefault(match[1].lower(), []).append(match[2].strip(" \t"))
    # RFC 9110, section 5.3.
    fields = {name: ", ".join(several) for name, several in values.items()}
    # RFC 9112, section 3.2.  Two of them are a list, whose blank no host has.
    if not HOST.fullmatch(fields.get("host", "" if version == "HTTP/1.0" else "?")):
        raise Refusal(400, "there must be one Host, and a valid one")
    # Nothing here needs a body, and where one ends servers are attacked (section 6.3).
    if "transfer-encoding" in fields or not re.fullmatch("0+", fields.get("content-length", "0")):
        raise Refusal(400, "a request with a body")
    options = re.split("[ \t,]+", fields.get("connection", "").lower())
    is_kept = "close" not in options and (version == "HTTP/1.1" or "keep-alive" in options)
    return Head(method, target, version, fields, is_kept)


def parse_range(value: str, size: int) -> list[Span]:
    """Return what the *value* of a Range field asks for of *size* bytes (RFC 9110, section 14) or,
    if none of it is there, where the first range would begin, as a span of nothing.  No spans: the
    field is to be ignored.  Raise Refusal for a malformed set of byte ranges."""
    if value[:6].lower() != "bytes=" or size == 0:
        return []
    spans = []
    for spec in filter(None, (part.strip(" \t") for part in value[6:].split(","))):
        match = re.fullmatch("([0-9]*)-([0-9]*)", spec)
        if not match or spec == "-":
            raise Refusal(400, "malformed byte range")
        # In linear time: from 20 digits on any number is past the end of any file.
        digits = [number.lstrip("0") for number in match.groups()]
        first, last = (int(number or "0") if len(number) < 20 else 10**20 for number in digits)
        if match[1] and match[2] and last < first:
            raise Refusal(400, "byte range ends before it starts")
        start = first if match[1] else max(0, size - last)
        stop = min(last + 1, size) if match[1] and match[2] else size
        spans.append((start, max(start, stop)))
    if not spans:
        raise Refusal(400, "no byte range")
    found = [span for span in spans if span[0] < span[1]]
    ordered = sorted(found)
    has_overlap = any(one[1] > other[0] for one, other in zip(ordered, ordered[1:]))
    # What would cost more than the whole may be ignored (section 14.2).
    return [] if len(spans) > MAX_RANGES or has_overlap else found or spans[:1]


@functools.lru_cache(maxsize=64)
def http_date(seconds: int) -> str:
    """Format Unix time as RFC 9110's IMF-fixdate, held between the years 1 and 9999."""
    return email.utils.formatdate(max(-62135596800, min(seconds, 253402300799)), usegmt=True)


def parse_date(value: str) -> int | None:
    """Return the Unix time of a date in a format of RFC 9110, section 5.6.7, else None."""
    for date_format in DATE_FORMATS:
        with contextlib.suppress(ValueError):
            parsed, now = time.strptime(value.strip(" \t"), date_format), time.gmtime()
            year = parsed.tm_year
            if "%y" in date_format:
                # The last such year that is not more than 50 years ahead.
                latest = now.tm_year + 50 - (parsed[1:6] > now[1:6])
                year = latest - (latest - year) % 100
            return calendar.timegm((year, *parsed[1:6]))
    return None


def precondition_status(fields: Mapping[str, str], etag: str, modified: int | None) -> int | None:
    """Return 304, or raise Refusal for 412, where the preconditions of a GET or HEAD say so (RFC
    9110, section 13.2.2).  *modified*, in seconds: None where dates are to be ignored."""

    def is_named(by_tag: str, prefix: str, by_date: str) -> bool | None:
        # A tag has precedence; a weak one matches in the weak comparison alone (8.8.3.2).
        if by_tag in fields:
            tags = re.findall(f'(?<![^, \t]){prefix}("[!#-~\x80-\xff]*")', fields[by_tag])
            return fields[by_tag] == "*" or etag in tags
        date = parse_date(fields[by_date]) if by_date in fields else None
        return None if date is None or modified is None else modified <= date

    if is_named("if-match", "", "if-unmodified-since") is False:
        raise Refusal(412)
    return 304 if is_named("if-none-match", "(?:W/)?", "if-modified-since") else None


@functools.lru_cache(maxsize=64)
def content_disposition(name: str) -> str:
    """Return what makes a receiver save a file under the last component of *name* (RFC 6266)."""
    name = re.sub("[\ud800-\udfff]", "_", name.rpartition("/")[2])
    # curl knows filename alone, and takes its bytes as they are; browsers and wget prefer the
    # other.  Control characters are not allowed there, quotes and backslashes misunderstood.
    plain = re.sub(r'[\x00-\x1f\x7f"\\]', "_", name).encode().decode("latin-1")
    # RFC 8187: attr-char.
    encoded = urllib.parse.quote(name, safe="!#$&+^`|")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


@functools.lru_cache(maxsize=64)
def content_type(path: str) -> str:
    """Return the media type of *path*; a compressed file's is that of its compression."""
    kind = compression = None
    # A system may have a table that not all may read, or that is no UTF-8.
    with contextlib.suppress(OSError, UnicodeError):
        kind, compression = mimetypes.guess_type(path.lower())
    kind = COMPRESSED.get(compression) if compression else kind
    return kind or "application/octet-stream"


def multipart(spans: Sequence[Span], size: int, kind: str, boundary: str) -> list[bytes | Span]:
    """Return the parts of a multipart/byteranges body (RFC 9110, section 14.6)."""
    parts: list[bytes | Span] = []
    for start, stop in spans:
        fields = f"Content-Type: {kind}\r\nContent-Range: bytes {start}-{stop - 1}/{size}\r\n"
        parts += [f"\r\n--{boundary}\r\n{fields}\r\n".encode(), (start, stop)]
    return [*parts, f"\r\n--{boundary}--\r\n".encode()]


# --- The connection: what was handed over, and what is acknowledged -----------------------
# The one place that counts bytes: ``send`` hands them over to the system, ``look`` asks it how many
# have left the machine and are acknowledged, and whether there was a reset.

# Of Linux's struct tcp_info (others have another, and no TCP_LINGER2; WSL 1 has none): the state;
# the bytes of a segment, and how many segments are on their way; how many bytes were acknowledged,
# wait to be sent, were sent, and were sent again.  The state after a reset.
TCP_INFO = socket.TCP_INFO if hasattr(socket, "TCP_LINGER2") else -1
TCP_FIELDS, TCP_CLOSE = struct.Struct("=B15xI4xI92xQ16xI52xQQ"), 7
# Bytes of one sendfile, where tcp_info tells how it comes on; else a slow receiver would seem to
# acknowledge nothing meanwhile.
STEP = 1 << 23
# macOS: the size of the send queue.
SO_NWRITE = 0x1024
# Of sendfile: some file systems know only read, a sandbox may refuse it, and an sshfs be gone.
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTCONN)
NETWORK_ERRNOS = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN)


def failure_reason(error: BaseException) -> str:
    """Say in a few words what a disk or a bug did; "" for a thing that networks do."""
    is_known = isinstance(error, (ConnectionError, TimeoutError, socket.timeout))
    if is_known or type(error).__module__ == "ssl" or getattr(error, "errno", 0) in NETWORK_ERRNOS:
        return ""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def send_queue(connected: socket.socket) -> int:
    """Return how many bytes are not acknowledged, 0 where the system does not tell."""
    with contextlib.suppress(AttributeError, OSError):
        told = fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(told, sys.byteorder)
    with contextlib.suppress(OSError):
        return connected.getsockopt(socket.SOL_SOCKET, SO_NWRITE)
    return 0


class Connection:
    """What one socket is given; positions count from the first byte that was handed over."""

    def __init__(self, connected: socket.socket, clock: Clock = time.monotonic) -> None:
        self._socket, self._clock = connected, clock
        self._is_tls = hasattr(connected, "do_handshake")
        self._has_sendfile = hasattr(os, "sendfile") and not self._is_tls
        self._has_info = False
        with contextlib.suppress(OSError):
            # Linux before 4.19 tells less.
            self._has_info = len(self._info()) == TCP_FIELDS.size
        if self._is_tls:
            # One that blocks waits amid a record, of which a part counts as waiting, none as sent.
            connected.settimeout(86400)
        self._is_shut = self.is_reset = False
        # What was last sent by sendfile: what lies of it in the send queue is the file itself.
        self.file: File | None = None
        # Bytes handed over; what has left the machine, is acknowledged, and is not.
        self.sent = self.departed = self.acknowledged = self.waiting = 0
        # When something last went forward.
        self.moved = clock()

    def send(self, parts: Iterable[Part]) -> None:
        """Hand *parts* over.  Raise OSError of the connection or the disk, and ContentChanged."""
        waiting = bytearray()
        try:
            for part in parts:
                if isinstance(part, bytes):
                    waiting += part
                else:
                    self._send_span(*part, waiting)
                if len(waiting) >= CHUNK:
                    self._flush(waiting)
        except ContentChanged:
            # What comes before is as good as ever.
            self._flush(waiting)
            raise
        self._flush(waiting)
        self._cork(False)

    def _info(self) -> bytes:
        return self._socket.getsockopt(socket.IPPROTO_TCP, TCP_INFO, TCP_FIELDS.size)

    def look(self) -> None:
        """Find out what has been acknowledged by now, and whether there was a reset."""
        # ValueError: its own thread has just closed it.
        with contextlib.suppress(OSError, ValueError):
            # Read before the queue: what is handed over in between must not count.
            sent, info = self.sent, self._info() if self._has_info else bytes(TCP_FIELDS.size)
            told = TCP_FIELDS.unpack(info)
            state, segment, segments, acknowledged, unsent, departures, repeated = told
            # What this machine itself has dropped is sent twice, and not repeated.
            departed = min(departures - repeated, acknowledged + segments * segment)
            waiting = departed + unsent - acknowledged
            if self._is_tls or not acknowledged:
                waiting = send_queue(self._socket)
                unsent = unsent if self._has_info else waiting
                if self._is_tls:
                    # RFC 8446, section 5.2: a record adds 22 bytes to 16 KiB; TLS 1.2 a few more.
                    waiting, unsent = (-(-n * 16384 // 16406) for n in (waiting, unsent))
                acknowledged, departed = sent - waiting, sent - unsent
            if self._has_info:
                # An end that both sides have closed is the same state, but comes only after all.
                self.is_reset |= state == TCP_CLOSE and not (self._is_shut and acknowledged >= sent)
            else:
                self.is_reset |= self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            self.waiting, self.departed = waiting, max(departed, self.departed)
            if acknowledged > self.acknowledged:
                self.acknowledged, self.moved = acknowledged, self._clock()

    def shut(self) -> None:
        """Say that nothing more comes.  Raise OSError."""
        self._is_shut = True
        # An SSLSocket's own shutdown would drop the encryption, here and in ``cut``.
        socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def cut(self) -> None:
        """End the connection from another thread; whoever waits for it wakes up."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            if self.waiting > 0:
                # Nobody takes this: let the system drop it.
                linger = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _cork(self, is_in: bool) -> None:
        """Let only full packets leave while it is in, all once it is out: 1.15 times as fast."""
        # Some systems have no such thing.
        with contextlib.suppress(AttributeError, OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, is_in)

    def _flush(self, waiting: bytearray) -> None:
        while waiting:
            # A record of TLS at a time: OpenSSL tells only at the end how much it has taken.
            sent = self._socket.send(waiting[: 1 << 14] if self._is_tls else waiting)
            self.sent += sent
            del waiting[:sent]

    def _send_span(self, file: File, start: int, stop: int, waiting: bytearray) -> None:
        # What is small goes as a copy, and so does the end of what is not: the last byte leaves
        # only if the file had not changed until it was read.
        tail = stop - TAIL if stop - start > CHUNK else start
        while self._has_sendfile and start < tail:
            self._cork(True)
            self.file = file
            self._flush(waiting)
            file.check()
            length = min(tail - start, STEP if self._has_info else CHUNK)
            try:
                sent = os.sendfile(self._socket.fileno(), file.descriptor, start, length)
            except OSError as error:
                if error.errno not in NO_SENDFILE:
                    raise
                sent = 0
            # Some refuse, others give nothing though it is there.
            self._has_sendfile = sent > 0
            self.sent += sent
            start += sent
        while start < stop:
            data = file.read(start, min(stop - start, CHUNK))
            start += len(data)
            waiting += data
            if len(waiting) >= CHUNK:
                self._flush(waiting)


# --- Downloads: who has which file by now -------------------------------------------------
# A download is one receiver and one version of a representation, from its first byte to its last; a
# transfer is one body on its way on one connection.  ``begin`` gives a transfer to its download, as
# find_download says.  Then its receiver goes on (``went_on``), something breaks (``broken``), or
# time passes (``watch``): each notes facts and calls _settle, where transfers end, which calls
# _conclude, where downloads do.  What a later transfer has gone on from is not under way: the
# connection of a network that broke lingers for a minute.  But where the later one is another's, it
# is while it goes forward: that one may have had its first part from elsewhere.
#
#   a transfer is   when                                             it becomes
#   SENDING         all is acknowledged, and its receiver goes on,
#                   or half a second passes without a reset          FINISHED
#                   it is reset, cut, or fails, or its file changed  BROKEN
#
#   a download is   when                                             it becomes
#   UNDER_WAY       all has arrived, and nothing is under way, or
#                   a transfer of everything has FINISHED            DELIVERED, in two lines
#                   nothing is under way, and it was a probe         FORGOTTEN
#                   nothing has been under way for half a second     RESTING, in a line
#   RESTING         a request belongs to it                          UNDER_WAY, in a line
#                   what lingered of it brings the rest              DELIVERED, in a line
#   DELIVERED       its file has grown, and its receiver goes on     UNDER_WAY, in a line
#   at rest         it was joined to one that is DELIVERED, or its
#                   version was delivered anew to its receiver, or
#                   a thousand others are at rest                    FORGOTTEN

# Seconds between two looks at what is under way; in which a receiver that discards what its system
# has acknowledged makes that known; with nothing under way until a download rests; and without an
# acknowledgement until a receiver is called stalled.
TICK, GRACE, REST, STALLED = 0.2, 0.5, 0.5, 3
# Bytes that a system may have acknowledged, and a receiver that was killed not have read; and less
# than which a probe has got.
MOST_UNREAD, PROBE = 8 << 20, 1 << 20
# Downloads at rest, spans of one, and transfers of it that broke.
MOST_RESTING, MOST_SPANS, MOST_BROKEN = 1000, 1000, 32
# Connections, and other downloads of a receiver, that are looked at for one request: the latest.
MOST_LOOKED_AT = 64


class State(enum.Enum):
    """Of a transfer, and of a download: see the tables above."""

    SENDING, FINISHED, BROKEN = range(3)
    UNDER_WAY, RESTING, DELIVERED, FORGOTTEN = range(3, 7)


class Receiver(NamedTuple):
    address: str
    agent: str


class Row(NamedTuple):
    """What is shown of a download; in bytes, bytes a second, and seconds without any."""

    name: str
    address: str
    arrived: int
    size: int
    rate: float
    idle: float


def unite(spans: Iterable[Span]) -> list[Span]:
    """Return the same bytes in order, as spans that neither overlap nor touch."""
    united: list[Span] = []
    for start, stop in sorted(spans):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(stop, united[-1][1]))
        elif start < stop:
            united.append((start, stop))
    return united


def count_bytes(parts: Iterable[bytes | Span]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)


class Transfer:
    """The body of one answer, on its way: what it is of, and how far it has come."""

    # Given by Downloads.begin.
    connection: Connection
    download: Download

    def __init__(
        self,
        receiver: Receiver,
        line: str,
        name: str,
        version: Version,
        parts: Sequence[bytes | Span],
        status: int = 200,
        is_conditional: bool = False,
    ) -> None:
        """*line*: the request; *parts*: what the body is made of, spans being of *version*;
        *is_conditional*: whether only that was asked for (If-Range, If-Match)."""
        self.receiver, self.line, self.name, self.version = receiver, line, name, version
        self.status, self.is_conditional = status, is_conditional
        self.spans = [part for part in parts if not isinstance(part, bytes)]
        self.first, self.length = self.spans[0][0], count_bytes(parts)
        self.is_everything = count_bytes(self.spans) == version.size
        # Where its body begins in the stream, once its head is written.
        self.position = sys.maxsize
        # Whether a reset broke it, or else what; "" for the network.
        self.state, self.is_reset, self.failure = State.SENDING, False, ""
        # What was acknowledged when a later one went on from it, and where that one began.
        self.gone_on: tuple[int, int] | None = None
        # Whether it is under way no more, since a later one has gone on from it.
        self.is_left = False

    def acknowledged(self) -> int:
        return min(max(self.connection.acknowledged - self.position, 0), self.length)

    def left_off(self) -> int:
        """Return the first byte that is not acknowledged."""
        return self.first + self.acknowledged()

    def arrived(self) -> list[Span]:
        """Return what its download has by it; of several ranges only the end tells."""
        if self.gone_on and self.receiver != self.download.receiver:
            # What this one got since another has gone on from there, that one has not.
            return [(self.first, self.gone_on[1])]
        if self.state is State.FINISHED or len(self.spans) > 1:
            return self.spans if self.state is State.FINISHED else []
        stop = self.left_off()
        if self.gone_on and self.gone_on[0] == self.acknowledged() and not self.is_reset:
            # A network that breaks takes acknowledgements with it: where its receiver went on
            # tells what it had.
            stop = max(stop, self.gone_on[1])
        # Whoever resets had not read the last byte, acknowledged or not.
        return [(self.first, min(stop, self.spans[0][1] - 1))]

    def goes_on_from(self, earlier: Transfer) -> bool:
        """Tell whether it goes on where *earlier* left off: was that asked for its first byte too,
        and did its receiver have all before it, as far as acknowledgements tell?"""
        (start, stop), *further = earlier.spans
        if further or earlier.gone_on or not max(start, 1) <= self.first < stop:
            return False
        left_off = furthest = earlier.left_off()
        if not earlier.is_reset:
            furthest = max(left_off, start + earlier.connection.departed - earlier.position)
        return left_off - MOST_UNREAD <= self.first <= furthest


class Download:
    """What one receiver has of one version of a representation."""

    def __init__(self, receiver: Receiver, name: str, version: Version) -> None:
        self.receiver, self.name, self.version = receiver, name, version
        self.state = State.RESTING
        # Transfers that have not ended, and those that broke last, to be gone on from; what arrived
        # by all that have ended, and how many bytes they had acknowledged; how many requests came.
        self.transfers: list[Transfer] = []
        self.broken: deque[Transfer] = deque(maxlen=MOST_BROKEN)
        self.ended: list[Span] = []
        self.past = self.requests = 0
        # One of another version that its receiver has begun since, and not as a mere probe.
        self.given_up_for: Download | None = None

    def rouse(self, line: str, now: float) -> None:
        """Begin a stretch that ends when it rests again; *line* is its first request."""
        self.line, self.began, self.moved, self.ended_at = line, now, now, now
        # What broke of it last; what came before; what came until the last few seconds.
        self.failure: str | None = None
        self.before = self.came()
        self.samples = deque([(now, self.before)], maxlen=5)

    def came(self) -> int:
        """Return how many bytes were ever acknowledged."""
        return self.past + sum(map(Transfer.acknowledged, self.transfers))

    def is_live(self) -> bool:
        return self.state in (State.UNDER_WAY, State.RESTING)

    def is_under_way(self) -> bool:
        return any(not transfer.is_left for transfer in self.transfers)

    def count_arrived(self, *others: Download) -> int:
        """Return how many bytes of the version have arrived by it, or by one of *others*."""
        arrived: list[Span] = []
        for download in (self, *others):
            arrived += chain(download.ended, *map(Transfer.arrived, download.transfers))
        return count_bytes(unite(arrived))

    def was_probe(self, others: Iterable[Download]) -> bool:
        """Tell whether it, nothing of which is under way, was one request for everything that its
        receiver, which has more of one of *others*, soon broke off."""
        probe = next(iter(self.broken), None)
        if not probe or probe.failure or not probe.is_everything or self.requests > 1:
            return False
        # Of another version only aria2's can be one, which has no Range: axel, which asks for
        # bytes=0-, may as well begin anew.  So may whoever had been delivered before.
        is_any, arrived = probe.status == 200, self.count_arrived()
        others = [d for d in others if d.is_live() or d.ended_at >= self.began]
        rivals = [d for d in others if d.version == self.version or (is_any and d.is_live())]
        rivals = rivals[-MOST_LOOKED_AT:]
        return arrived < PROBE and any(rival.count_arrived() > arrived for rival in rivals)

    def row(self, now: float) -> Row:
        (then, came), address = self.samples[0], self.receiver.address
        rate = (self.came() - came) / max(now - then, TICK)
        idle = now - max([self.moved, *(t.connection.moved for t in self.transfers)])
        return Row(self.name, address, self.count_arrived(), self.version.size, rate, idle)

    def who(self) -> str:
        return f"{self.name} to {self.receiver.address}"

    def portion(self) -> str:
        arrived, size = self.count_arrived(), self.version.size
        return f"{percentage(arrived, size)} ({format_size(arrived)} of {format_size(size)})"

    def event_at_rest(self, is_whole: bool) -> str:
        """Say what became of the stretch; *is_whole*: whether the receiver has all now."""
        if self.failure is not None and not is_whole:
            return f"req terminated. at {self.portion()}{self.failure and ', '}{self.failure}"
        size = "" if is_whole else f" of {format_size(self.version.size)}"
        seconds = max(self.moved - self.began, 0.001)
        came = self.came() - self.before
        rate = format_size(came / seconds)
        return f"req finished. {format_size(came)}{size}, {seconds:.1f} s, {rate}/s"


def find_download(
    transfer: Transfer, known: Iterable[Download]
) -> tuple[Download | None, Transfer | None]:
    """Return which of the downloads of its name, the last asked for last, *transfer* belongs to,
    and what it goes on from; None if that is a new one, or nothing."""
    # 1. Whoever is answered with everything begins anew.
    if transfer.is_everything:
        return None, None
    # Whoever says which version it has was answered accordingly.
    is_bare = transfer.first > 0 and not transfer.is_conditional
    known = [d for d in known if is_bare or d.version == transfer.version]
    mine = [d for d in known if d.receiver == transfer.receiver]
    # It begins at the end of what its receiver was delivered: to get what was appended.
    ended = [d for d in mine if d.state is State.DELIVERED and d.version.size == transfer.first]
    if ended and not ended[-1].given_up_for:
        return ended[-1], None
    own = [d for d in mine if d.is_live() and not d.given_up_for]
    live = [d for d in known if d.is_live() and (d in mine or not d.given_up_for)]
    left = [old for d in live for old in (*d.transfers, *d.broken) if transfer.goes_on_from(old)]
    # The nearest, and one of the same receiver before others, even of what it has given up.
    left.sort(
        key=lambda old: (
            old.download not in own,
            old.download not in mine,
            abs(old.left_off() - transfer.first),
        )
    )
    # 2. It goes on from what the same receiver left off.
    if left and left[0].download in own:
        return left[0].download, left[0]
    # 3. It is a further segment, or a piece whose beginning nobody knows.
    under_way = [download for download in own if download.is_under_way()]
    if under_way:
        return under_way[-1], None
    if own:
        return max(own, key=Download.count_arrived), None
    # 4. It goes on from what another left off: people move to another network, and resume; or two
    # share an address, and one of them has what the other has given up.
    if left:
        return left[0].download, left[0]
    # 5. Nothing is known of it.
    return ended[-1] if ended else None, None


class Downloads:
    """All downloads, and the connections that they come by."""

    def __init__(
        self,
        log: Callable[[str, str, str], None],
        timeout: float = 60,
        wanted: int = 0,
        named: Iterable[str] = (),
        clock: Clock = time.monotonic,
    ) -> None:
        """*timeout*: seconds without progress that end a connection; *wanted*: deliveries, of each
        of *named* if there are any, that are enough, or 0."""
        self.log, self._timeout, self._wanted, self._clock = log, timeout, wanted, clock
        # Of each connection the transfer that has not ended; downloads, the last asked for, or
        # changed, last.
        self._transfers: dict[Connection, Transfer | None] = {}
        self._downloads: dict[Download, None] = {}
        # How often what was delivered, each that was named or "" for all; and what to whom.
        self._counts = Counter(dict.fromkeys(named or [""], 0))
        self._delivered: Counter[str] = Counter()
        # Guards all this, and tells when a transfer has ended.
        self._changed = threading.Condition(threading.RLock())

    def begin(self, connection: Connection, transfer: Transfer, tail: Callable[[int], int]) -> None:
        """Let *transfer* begin, or raise Refusal where another answer is due; *tail*: what an older
        version's was, by its size, if this is the same file, appended to."""
        with self._changed:
            # Whoever asks for more waits until a body has come: one file is open at a time.
            while self._transfers[connection]:
                self._changed.wait(0.005)
                self._settle(connection, 0)
            if not transfer.is_everything:
                carriers = [c for c, t in self._transfers.items() if t and t.name == transfer.name]
                for other in carriers[-MOST_LOOKED_AT:]:
                    self._settle(other, GRACE)
            known = [d for d in self._downloads if d.name == transfer.name]
            download, predecessor = find_download(transfer, known)
            if download and transfer.version != download.version:
                # The same file, appended to, is the same to go on with.
                old, new = download.version, transfer.version
                is_file = new.file_id is not None and new.file_id == old.file_id
                if not is_file or new.size <= old.size or tail(old.size) != old.tail:
                    raise Refusal(409, phrase="The file has changed: start over")
            if transfer.length == 0 < transfer.version.size:
                raise Refusal(416, fields={"Content-Range": f"bytes */{transfer.version.size}"})
            is_active = download is not None and download.state is State.UNDER_WAY
            if not is_active and self.is_enough():
                raise Refusal(503, "no more downloads are wanted")
            if not download:
                download = Download(transfer.receiver, transfer.name, transfer.version)
                # Whoever begins a version anew, or names it, has given up the older ones.
                if transfer.first == 0 or transfer.is_conditional:
                    for older in self._own(download):
                        if older.version != download.version and not older.given_up_for:
                            older.given_up_for = download
            download.receiver, download.version = transfer.receiver, transfer.version
            download.given_up_for = None
            if predecessor:
                predecessor.gone_on = (predecessor.acknowledged(), transfer.first)
                # Of another receiver, which may be there still, only time tells: see watch.
                predecessor.is_left = predecessor.receiver == transfer.receiver
                if predecessor.state is State.BROKEN:
                    download.ended += predecessor.arrived()
            if not is_active:
                download.rouse(transfer.line, self._clock())
                self.log(transfer.receiver.address, transfer.line, f"{transfer.status} -")
            self._move(download, State.UNDER_WAY)
            download.requests += 1
            download.transfers.append(transfer)
            transfer.connection, transfer.download = connection, download
            self._transfers[connection] = transfer

    def went_on(self, connection: Connection) -> None:
        """Note that *connection* is new, or that its receiver goes on: with a request, or a FIN."""
        with self._changed:
            self._transfers.setdefault(connection, None)
            self._settle(connection, 0)
            connection.moved = self._clock()

    def broken(self, connection: Connection, error: BaseException) -> None:
        """Note that *error* ends the connection, or the body that is being sent on it."""
        with self._changed:
            # ENOTCONN is what Linux says of a connection after its reset.
            if isinstance(error, ConnectionError) or getattr(error, "errno", 0) == errno.ENOTCONN:
                connection.is_reset = True
            # What has arrived has arrived, unless it was a reset.
            self._settle(connection, 0)
            self._settle(connection, 0, failure_reason(error))

    def leave(self, connection: Connection) -> None:
        """Wait until the transfer on *connection* has ended, then forget it."""
        with self._changed:
            while self._transfers[connection]:
                self._changed.wait()
            del self._transfers[connection]
        # Its thread may have set it once more after the last transfer was ended.
        connection.file = None

    def watch(self, patience: float = 1) -> None:
        """Settle what time settles, and cut what has not gone forward for too long; *patience*:
        the part of GRACE and REST that there is time for."""
        with self._changed:
            for connection in self._transfers:
                self._settle(connection, GRACE * patience)
                if self._clock() - connection.moved > self._timeout:
                    missing = "was acknowledged" if connection.waiting else "came from the disk"
                    self._settle(connection, 0, f"nothing {missing} for {self._timeout:g} s")
                    connection.cut()
            now, rest = self._clock(), REST * patience
            for transfer in filter(None, self._transfers.values()):
                silent = now - transfer.connection.moved
                if transfer.gone_on and silent >= STALLED * patience:
                    transfer.is_left = True
            for download in self._under_way():
                if now - download.samples[-1][0] >= 1:
                    download.samples.append((now, download.came()))
                if not download.is_under_way() and now - download.ended_at >= rest:
                    self._conclude(download, State.RESTING)
            resting = [d for d in self._downloads if d.state is not State.UNDER_WAY]
            for download in resting[:-MOST_RESTING]:
                self._move(download, State.FORGOTTEN)

    def stop(self) -> list[str]:
        """End what is acknowledged, let rest what has ended; return the summary, in lines."""
        with self._changed:
            self.watch(0)
            known, active = [d for d in self._downloads if not d.given_up_for], self._under_way()
            have = {(d.who(), d.version) for d in self._downloads if d.state is State.DELIVERED}
            # Whoever was delivered it does not lack it, unless one of that address is at it again.
            lacking = [d for d in known if d in active or (d.who(), d.version) not in have]
            portions = [f"{download.who()} at {download.portion()}" for download in lacking]
            told = [f"{who} ({n} times)" if n > 1 else who for who, n in self._delivered.items()]
            line = f"delivered: {some(told)}" if told else "nothing was delivered"
            return [f"stopped. {line}"] + [f"not whole: {some(portions)}"] * bool(portions)

    def is_enough(self) -> bool:
        """Tell whether what was wanted is delivered."""
        return 0 < self._wanted <= min(self._counts.values())

    def is_over(self) -> bool:
        """Tell whether what was wanted is delivered, and nothing is under way any more."""
        with self._changed:
            active = [t for t in self._transfers.values() if t and not t.is_left]
            return self.is_enough() and not active and not self._under_way()

    def rows(self, most: int) -> tuple[list[Row], int]:
        """Return what is under way, oldest first: at most so many, and how many there are more."""
        with self._changed:
            shown = [d for d in self._under_way() if d.is_under_way() and not d.given_up_for]
            shown.sort(key=lambda download: download.began)
            return [d.row(self._clock()) for d in shown[:most]], max(0, len(shown) - most)

    def _under_way(self) -> list[Download]:
        return [d for d in self._downloads if d.state is State.UNDER_WAY]

    def _own(self, download: Download) -> list[Download]:
        """Return the other ones of its receiver and name."""
        known = [d for d in self._downloads if d.name == download.name and d is not download]
        return [d for d in known if d.receiver == download.receiver]

    def _settle(self, connection: Connection, patience: float, failure: str | None = None) -> None:
        """End the transfer on *connection* if it is over, as the first table says; *patience*:
        seconds in which a reset could still come, 0 once its receiver goes on; *failure*: what
        else breaks it, "" for the network."""
        transfer = self._transfers.get(connection)
        if not transfer:
            return
        connection.look()
        now = self._clock()
        is_there = connection.acknowledged >= transfer.position + transfer.length
        is_broken = connection.is_reset or failure is not None
        if not is_broken and (now - connection.moved < patience or not is_there):
            return
        file, connection.file = connection.file, None
        try:
            # What lay in the queue was the file itself.
            if file and not is_broken:
                file.check()
        except (ContentChanged, OSError) as error:
            is_broken, failure = True, failure_reason(error)
        transfer.state = State.BROKEN if is_broken else State.FINISHED
        transfer.is_reset, transfer.failure = connection.is_reset, failure or ""
        download = transfer.download
        download.past += transfer.acknowledged()
        download.moved = max(download.moved, connection.moved)
        self._transfers[connection] = None
        download.transfers.remove(transfer)
        connection.moved = download.ended_at = now
        # Of absurdly many spans the last are forgotten, so that they are never called whole.
        download.ended = unite([*download.ended, *transfer.arrived()])[:MOST_SPANS]
        if is_broken and not transfer.gone_on:
            download.failure = transfer.failure
            download.broken.append(transfer)
        is_whole = transfer.is_everything and transfer.version == download.version
        if is_whole and not is_broken and transfer.receiver != download.receiver:
            # It was there all the time, whoever has gone on from where it was.
            its_own = Download(transfer.receiver, transfer.name, transfer.version)
            its_own.rouse(transfer.line, now)
            its_own.requests = 1
            self._deliver(its_own, [])
        elif is_whole and not is_broken and download.is_live():
            self._deliver(download, [])
        self._conclude(download, download.state)
        self._changed.notify_all()

    def _conclude(self, download: Download, otherwise: State) -> None:
        """Move *download*, as the second table says: if it is neither whole nor a probe, to the
        state *otherwise*."""
        if not download.is_live() or download.is_under_way():
            return
        for lingering in download.transfers:
            lingering.connection.look()
        others = self._own(download)
        same = [d for d in others if d.is_live() and d.version == download.version]
        quiet = [other for other in same if not other.is_under_way()]
        for joined in ([], quiet):
            if 0 < download.count_arrived(*joined) == download.version.size:
                self._deliver(download, joined)
                return
        if download.was_probe(others):
            for other in others:
                if other.given_up_for is download:
                    other.given_up_for = None
            self._move(download, State.FORGOTTEN)
        elif otherwise is not download.state:
            self._move(download, otherwise)
            if not download.given_up_for:
                self.log(download.receiver.address, download.line, download.event_at_rest(False))

    def _deliver(self, download: Download, joined: Sequence[Download]) -> None:
        """Let *download*, whole together with *joined* of the same receiver, be delivered once."""
        address, size = download.receiver.address, download.version.size
        if download.state is State.UNDER_WAY:
            self.log(address, download.line, download.event_at_rest(True))
        requests = plural(sum(each.requests for each in (download, *joined)), "request")
        self.log(address, f"/{download.name}", f"delivered. {format_size(size)} in {requests}")
        for other in self._own(download):
            if other in joined or (not other.is_live() and other.version == download.version):
                self._move(other, State.FORGOTTEN)
        download.ended = [(0, size)]
        download.broken.clear()
        self._move(download, State.DELIVERED)
        self._delivered[download.who()] += 1
        self._counts.update({"", download.name} & self._counts.keys())

    def _move(self, download: Download, state: State) -> None:
        """Let *download* be in *state*, as the one that changed last."""
        download.state = state
        self._downloads.pop(download, None)
        if state is not State.FORGOTTEN:
            self._downloads[download] = None


# --- HTTP: the handler and the quiet server -----------------------------------------------
# A thread serves each connection, one request after the other: http.server reads the request line
# and dispatches, parse_request reads the rest of the head, do_GET goes from the share over
# preconditions and ranges to a transfer, and sends head and body.  Every Refusal is answered by
# refuse.  The server accepts as many connections as there are descriptors for.

# Bytes of a request line, and of the fields after it; empty lines before; characters of a
# User-Agent.
MAX_HEAD, MAX_EMPTY, MAX_AGENT = 1 << 16, 1000, 200


class PartialContentHandler(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD for what a Share offers: whole, in one range or in several."""

    server: QuietServer
    headers: Mapping[str, str]  # type: ignore[assignment]
    raw_requestline: bytes

    protocol_version = "HTTP/1.1"
    # Else the end of a body waits for a delayed acknowledgement.
    disable_nagle_algorithm = True
    # A head needs no more, and every connection holds one.
    rbufsize = 1 << 10

    def handle(self) -> None:
        """Answer one request after the other; return once the last answer has come, or broken."""
        self.transport, downloads = Connection(self.connection), self.server.downloads
        downloads.went_on(self.transport)
        try:
            getattr(self.connection, "do_handshake", int)()
            self.close_connection = False
            while not self.close_connection:
                # Whatever comes next, be it the end, tells that what is acknowledged has been read.
                self.rfile.peek(1)  # type: ignore[attr-defined]
                downloads.went_on(self.transport)
                self.close_connection = True
                try:
                    self.handle_one_request()
                except Refusal as refusal:
                    self.refuse(refusal)
            self.transport.shut()
            # To close with input unread would reset the connection under the receiver (RFC 9112,
            # section 9.6).  Not through OpenSSL, which answers a mere FIN with an alert.
            while socket.socket.recv(self.connection, CHUNK):
                pass
            downloads.went_on(self.transport)
        except BaseException as error:
            downloads.broken(self.transport, error)
            raise
        finally:
            downloads.leave(self.transport)

    def parse_request(self) -> bool:
        """Read the rest of the head, and tell whether it came.  Raise Refusal."""
        line, skipped = self.raw_requestline, 0
        # RFC 9112, section 2.2: empty lines before a request.
        while line in (b"\r\n", b"\n") and skipped < MAX_EMPTY:
            line, skipped = self.rfile.readline(MAX_HEAD + 1), skipped + 1
        self.requestline = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if len(line) > MAX_HEAD:
            raise Refusal(414)
        head, most = bytearray(line), len(line) + MAX_HEAD
        for line in iter(functools.partial(self.rfile.readline, MAX_HEAD + 1), b""):
            head += line
            if len(head) > most:
                raise Refusal(431)
            if line in (b"\r\n", b"\n"):
                break
        else:
            return False
        self.command, self.path, _, self.headers, is_kept = parse_head(bytes(head))
        self.close_connection = not is_kept
        return True

    def do_GET(self) -> None:
        match = TARGET.fullmatch(self.path)
        if not match:
            raise Refusal(400, "malformed request target")
        try:
            representation = self.server.share.open(match[1] or "/")
        except OSError:
            # No descriptor left: a 404 would be a lie that clients believe.
            raise Refusal(503, fields={"Retry-After": "1"}) from None
        if representation is None:
            raise Refusal(404)
        name, version = representation.name, representation.version
        fields = {"Accept-Ranges": "bytes", "ETag": version.etag}
        if representation.modified is not None:
            fields["Last-Modified"] = http_date(representation.modified)
        status = precondition_status(self.headers, version.etag, representation.modified) or 200
        if status == 200:
            fields["Content-Disposition"] = content_disposition(as_utf8(name))
            fields["Content-Type"] = self.guess_type("/" + name)
        if status == 304 or self.command == "HEAD":
            self.log_request(status)
            self.transport.send([self.head(status, fields, version.size)])
            return
        asked = self.headers.get("range", "")
        # RFC 9110, section 13.1.5: a date cannot tell two versions of one second apart.
        is_other = self.headers.get("if-range", version.etag) != version.etag
        if is_other or (self.server.resume_only and not re.fullmatch("(?i)bytes=[0-9]+-", asked)):
            asked = ""
        spans = parse_range(asked, version.size)
        parts: list[bytes | Span] = [*(spans or [(0, version.size)])]
        if len(spans) == 1:
            fields["Content-Range"] = f"bytes {spans[0][0]}-{spans[0][1] - 1}/{version.size}"
        elif spans:
            boundary = os.urandom(12).hex()
            parts = multipart(spans, version.size, fields["Content-Type"], boundary)
            fields["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        receiver = Receiver(self.client_address[0], self.headers.get("user-agent", "")[:MAX_AGENT])
        status = 206 if spans else 200
        version = version._replace(tail=representation.tail(version.size))
        # Firefox, and the parallel downloads of Chromium, name with If-Match the version they have.
        names_tag = "if-range" in self.headers or self.headers.get("if-match", "*") != "*"
        transfer = Transfer(receiver, self.requestline, name, version, parts, status, names_tag)
        self.server.downloads.begin(self.transport, transfer, representation.tail)
        head = self.head(status, fields, transfer.length)
        transfer.position = self.transport.sent + len(head)
        pieces = ([p] if isinstance(p, bytes) else representation.parts(*p) for p in parts)
        self.transport.send(chain([head], *pieces))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        raise Refusal(405, fields={"Allow": "GET, HEAD"})

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_POST

    def guess_type(self, path: Any) -> str:
        return content_type(path)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error; every one of a kind is the same bytes."""
        told = f"{refusal.status} {refusal.phrase}{refusal.detail and ': '}{refusal.detail}\n"
        # To what it has whole, curl 7.60 adds the body of a 416, and says nothing.
        body = b"" if refusal.status == 416 else told.encode()
        fields = {"Content-Type": "text/plain; charset=utf-8", **refusal.fields}
        self.log_request(refusal.status)
        head = self.head(refusal.status, fields, len(body), refusal.phrase)
        # From its line, since what comes after a HEAD may be malformed.
        self.transport.send([head, b"" if self.requestline.startswith("HEAD ") else body])

    def head(self, status: int, fields: Mapping[str, str], length: int, phrase: str = "") -> bytes:
        """Return the head of an answer; *length*: of the body, in bytes."""
        self.close_connection |= self.server.downloads.is_enough()
        version = "HTTP/1.0" if self.requestline.endswith("HTTP/1.0") else self.protocol_version
        lines = [f"{version} {status} {phrase or http.HTTPStatus(status).phrase}"]
        lines += ["Server: httpd_download", f"Date: {http_date(int(time.time()))}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines.append("X-Content-Type-Options: nosniff")
        if status != 304:
            lines.append(f"Content-Length: {length}")
        if self.close_connection or version == "HTTP/1.0":
            lines.append(f"Connection: {'close' if self.close_connection else 'keep-alive'}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what http.server finds too long, or has no method for, and read no further."""
        self.requestline = self.requestline or self.raw_requestline.decode("latin-1")
        self.close_connection = True
        raise Refusal(code)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.server.downloads.log(self.client_address[0], self.requestline, f"{code} {size}")

    def log_error(self, format: str, *args: Any) -> None:
        """Say nothing: a refused request has its line, and http.server adds only time-outs."""


class QuietServer(socketserver.ThreadingTCPServer):
    """A thread for each connection; one line, never a traceback, for what goes wrong in it."""

    # A connection that is still open keeps neither the process nor server_close waiting.
    daemon_threads = True
    request_queue_size = 1024
    # Windows, which alone has SO_EXCLUSIVEADDRUSE, lets two servers share a port with SO_REUSEADDR.
    allow_reuse_address = not hasattr(socket, "SO_EXCLUSIVEADDRUSE")
    # Knobs: whether no range but ``bytes=N-`` is honoured, and how https is spoken.
    resume_only = False
    tls: ssl.SSLContext | None = None

    def __init__(self, address: Any, share: Share, downloads: Downloads, most: int = 1000) -> None:
        """Bind *address*, of IPv4 or IPv6, for *most* connections at a time.  Raise OSError."""
        self.share, self.downloads = share, downloads
        self._free = threading.Semaphore(most)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        # Without a directory http.server asks for the current one, which may be gone.
        super().__init__(address, functools.partial(PartialContentHandler, directory=os.curdir))

    def server_bind(self) -> None:
        """Bind, for IPv4 too where the address is ::; look no name up, as HTTPServer does."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
        self.server_port: int = self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection while there are descriptors for it and for what it fetches."""
        if not self._free.acquire(timeout=TICK):
            raise OSError(errno.EMFILE, "no connection is free")
        try:
            accepted, address = super().get_request()
            if not address:
                # macOS, of one that was reset before it was accepted.
                raise ConnectionAbortedError
            if self.tls:
                # The handshake is left to the connection's own thread.
                accepted = self.tls.wrap_socket(accepted, True, do_handshake_on_connect=False)
            # IPv4 as such (RFC 4291, section 2.5.5.2).
            return accepted, (re.sub("^::ffff:", "", address[0]), *address[1:])
        except OSError as error:
            self._free.release()
            if error.errno in LACKING:
                # The listening socket stays readable: without this a busy loop.
                time.sleep(TICK)
            raise

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, which PartialContentHandler.handle has shut down, if it began."""
        self._free.release()
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about networks; name a bug, or what TLS found wrong."""
        error, told = sys.exc_info()[1], ""
        if isinstance(error, OSError) and type(error).__module__ == "ssl":
            reason = tls_reason(error)
            # Whoever merely goes, as one that looks whether the port is open, makes no line.
            told = "" if "EOF" in reason else f"TLS failed. {reason}"
        elif not isinstance(error, (OSError, ContentChanged)):
            told = f"internal error. {type(error).__name__}: {error}"
        if told:
            self.downloads.log(client_address[0], "-", told)


def tls_reason(error: OSError) -> str:
    """Say what OpenSSL found wrong, without its own tag, and its place in _ssl.c."""
    told = re.sub(r"^\[[A-Z].*?\] |\s*\(_ssl\.c:\d+\)", "", error.strerror or str(error))
    return "the client spoke plain http" if "http request" in told.lower() else told


def tls_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return a context for servers, TLS 1.2 or newer.  Raise OSError where the files make none."""
    import ssl

    class Socket(ssl.SSLSocket):
        def recv_into(self, *arguments: Any) -> int:
            """See a FIN before OpenSSL does, which answers it with an alert, and so a reset."""
            is_over = not self.pending() and not socket.socket.recv(self, 1, socket.MSG_PEEK)
            return 0 if is_over else super().recv_into(*arguments)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class, context.minimum_version = Socket, ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    for path in filter(None, (certificate, key)):
        # OpenSSL does not say which of the two is missing.
        open(path, "rb").close()
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        files = f"{certificate} and {key}" if key else f"{certificate}, without --tls-key"
        reason = f"not a certificate with its key: {tls_reason(error)}"
        raise OSError(errno.EINVAL, reason, files) from None
    return context


# --- Addresses and links ------------------------------------------------------------------
# Where this machine can be reached, as far as its kernel knows.  No name is looked up, and nothing
# is sent: a connected UDP socket knows its source address.

# Linux: requests for the flags and for the address of an interface, and the flag of one that runs.
SIOCGIFFLAGS, SIOCGIFADDR, IFF_RUNNING = 0x8913, 0x8915, 0x40


def local_addresses(ipv6: bool = True) -> list[str]:
    """Return this machine's addresses, the default route's first; 127.0.0.1 without a network."""
    targets = ["8.8.8.8", "2001:4860:4860::8888"]
    targets += ["10.254.254.254", "172.31.254.254", "192.168.254.254", "fd00::1"]
    found = [_source_address(target) for target in targets if ipv6 or ":" not in target]
    found += _interface_addresses()
    # Nobody else gets to loopback's; an fe80: needs the receiver's own zone.
    told = [address for address in found if not re.match("127[.]|0[.]|fe80:|::1?$|$", address)]
    return [*dict.fromkeys(told)] or ["127.0.0.1"]


def _source_address(target: str) -> str:
    """Return the address that packets to *target* would come from, "" without a route."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return ""


def _interface_addresses() -> Iterator[str]:
    """Yield the IPv4 address of each interface that runs: no route leads beyond some nets."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in getattr(socket, "if_nameindex", list)():
            request = struct.pack("40s", os.fsencode(name))
            # Elsewhere there is no ioctl, or no such request.
            with contextlib.suppress(AttributeError, OSError):
                (flags,) = struct.unpack_from("H", fcntl.ioctl(probe, SIOCGIFFLAGS, request), 16)
                if flags & IFF_RUNNING:
                    yield socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24])


def numeric_address(text: str) -> tuple[Any, ...]:
    """Return the socket address, port 0, of an IP address in figures, else raise ValueError."""
    with contextlib.suppress(OSError, ValueError):
        # To getaddrinfo a mere number is an address; for a str it would import the tables of idna.
        if re.search("[.:]", text):
            return socket.getaddrinfo(text.encode("ascii"), 0, flags=socket.AI_NUMERICHOST)[0][4]
    raise ValueError(f"{text} is not an address in figures, such as 127.0.0.1 or ::1")


def base_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL of *host*, a name or an address, without a slash at its end."""
    if ":" in host:
        # RFC 3986, and RFC 6874 for the zone of a link-local address.
        host = f"[{host.strip('[]').replace('%', '%25')}]"
    return f"{scheme}://{host}:{port}"


# --- The terminal: all that is printed ----------------------------------------------------
# Whoever has something to say leaves it here and goes on; a thread of its own writes it, so that a
# terminal or a pipe that takes nothing holds nobody up.  On a terminal the last rows show what is
# under way: they are erased before lines are written, and written anew below them.

# C0, DEL, C1, and bytes that are no UTF-8; what changes the direction of text, or ends a line.
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\udc80-\udcff]")
DIRECTIONS = re.compile("[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Characters of a request that are logged, and lines that wait for the terminal.
LONGEST, MOST_WAITING = 1000, 10_000
# Seconds between two writes, and that are too many to be told.
PAUSE, LONGEST_LEFT = 0.05, 360_000
# Rows; columns of a bar, and that a name gets before its address.
MOST_ROWS, BAR, SHORT_NAME = 8, 25, 8
COLOURS = {"delivered.": "\x1b[1;32m", "req terminated.": "\x1b[33m"}


def escape(text: str) -> str:
    """Make *text*, from a disk or a network, safe to print on one line of a terminal."""
    text = CONTROLS.sub(lambda c: f"\\x{ord(c[0]) & 0xFF:02x}", text.replace("\\", "\\\\"))
    return DIRECTIONS.sub(lambda c: f"\\u{ord(c[0]):04x}", text)


def encodable(text: str, stream: Stream) -> str:
    """Escape what the encoding of *stream* has no character for."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    from unicodedata import category, east_asian_width

    zero = ("Mn", "Me", "Cf")
    return sum(0 if category(c) in zero else 1 + (east_asian_width(c) in "WF") for c in text)


def fit(text: str, columns: int) -> str:
    """Cut *text* to at most *columns*, with two dots where something is missing."""
    if width(text) <= columns:
        return text
    ends = [*accumulate(map(width, text))]
    return text[: bisect_right(ends, columns - 2)] + ".."[: max(columns, 0)]


def format_rows(rows: Sequence[Row], columns: int, block: str) -> list[str]:
    """Return a line for each of *rows*, at most *columns* wide.  What finds no room goes: the bar
    of *block*, then the end of names, then the addresses."""
    figures = []
    for row in rows:
        left = int((row.size - row.arrived) / row.rate) if row.rate >= 1 else LONGEST_LEFT
        minutes = f"{left // 3600}:{left // 60 % 60:02d}" if left >= 3600 else str(left // 60)
        figure = f"{format_size(row.rate)}/s"
        if row.idle >= STALLED:
            figure = f"stalled {int(row.idle)} s"
        elif left < LONGEST_LEFT:
            figure += f"  {minutes}:{left % 60:02d} left"
        figures.append(f"{percentage(row.arrived, row.size):>4}  {figure}")
    names = max((width(row.name) for row in rows), default=0)
    addresses = max((len(row.address) + 2 for row in rows), default=0)
    room = columns - 1 - addresses - max(map(len, figures), default=0)
    bar = BAR if names + BAR <= room else 0
    if room < min(names, SHORT_NAME):
        room, addresses = room + addresses, 0
    lines = []
    for row, figure in zip(rows, figures):
        name = fit(row.name, room)
        name += " " * (min(names, room) - width(name) + 1)
        address = row.address.ljust(addresses)[:addresses]
        blocks = block * (row.arrived * bar // max(row.size, 1))
        lines.append(fit(f"{name}{address}{blocks.ljust(bar)}{figure}", columns))
    return lines


class Terminal:
    """The one place that writes: links to *out*, the log and the rows to *err*."""

    def __init__(self, out: Stream, err: Stream, size: Any = os.get_terminal_size) -> None:
        """*size*: returns columns and lines.  Raise RuntimeError where there is no thread left."""
        self._out, self._err, self._size = out, err, size
        self._is_live = err is not None and err.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = COLOURS if self._is_live and not os.environ.get("NO_COLOR") else {}
        # Lines that wait, each with its stream, and how many were lost; at the end the last ones.
        self._waiting: deque[Text] = deque()
        self._lost = 0
        self._last: Sequence[str] | None = None
        # What is to be shown below them: rows, and how many more, or a note; and what is shown.
        self._below: tuple[list[Row], int, str] = ([], 0, "")
        self._shown, self._lines = self._below, [""]
        for stream in (out, err):
            # As another program may have left a terminal, it could take nothing for a moment.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                os.set_blocking(stream.fileno(), True)  # type: ignore[union-attr]
        if self._is_live and hasattr(sys, "getwindowsversion"):
            # Switches a Windows console to understanding escape sequences.
            os.system("")
        self._writer = threading.Thread(target=self._write_on, daemon=True)
        self._writer.start()

    def say(self, *lines: str) -> None:
        """Print lines of ours, in which names are escaped already, on stdout."""
        self._waiting.extend((self._out, f"{line}\n") for line in lines)

    def log(self, address: str, subject: str, event: str) -> None:
        """Print what became of *subject*, of *address*, in the format of http.server's log."""
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        cut = subject[:LONGEST] + ".." * (len(subject) > LONGEST)
        told, quoted = escape(event), escape(cut).replace('"', '\\"')
        for start, colour in self._colours.items():
            told = re.sub(f"^{start}", f"{colour}{start}\x1b[0m", told)
        bell = "\a" if self._is_live and event.startswith("delivered.") else ""
        date = time.strftime("%d/%b/%Y %H:%M:%S")
        line = f'{address} - - [{date}] "{quoted}" {told}{bell}\n'
        self._waiting.append((self._err, line))

    def show(self, rows: list[Row], more: int, note: str = "") -> None:
        """Show in the last rows of a terminal *rows*, and how many *more*, or else a *note*."""
        self._below = rows, more, note

    def close(self, lines: Sequence[str]) -> None:
        """Print the last *lines* on stderr, and nothing from then on; return when it is done."""
        self._last = lines
        self._writer.join()

    def _write_on(self) -> None:
        """Write what waits, a few times a second, until the terminal is closed."""
        last = None
        while last is None:
            time.sleep(PAUSE)
            last = self._last
            texts = [self._waiting.popleft() for _ in range(len(self._waiting))]
            lost, self._lost = self._lost, 0
            if lost:
                texts.append((self._err, f"{lost} lines are missing here: nobody took them\n"))
            texts += [(self._err, f"{escape(line)}\n") for line in last or ()]
            if self._is_live:
                texts = self._with_rows(texts, last is not None)
            for stream, several in groupby(texts, key=lambda item: item[0]):
                # There may be no such stream, or nobody who takes anything.
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    stream.write(encodable("".join(text for _, text in several), stream))
                    stream.flush()

    def _with_rows(self, texts: list[Text], is_last: bool) -> list[Text]:
        """Return *texts* with what erases the rows before them, and shows them again behind."""
        below = self._below if not is_last else ([], 0, "")
        if not texts and below == self._shown:
            return []
        columns = height = 0
        with contextlib.suppress(OSError, ValueError):
            columns, height = self._size(self._err.fileno())  # type: ignore[union-attr]
        columns, height = columns or 80, height or 24
        self._shown = rows, more, note = below
        most = max(1, min(MOST_ROWS, height // 3))
        named = [row._replace(name=encodable(escape(row.name), self._err)) for row in rows[:most]]
        more += len(rows) - len(named)
        note = f"and {more} more" if more else encodable(escape(note), self._err)
        block = "\u2588" if encodable("\u2588", self._err) == "\u2588" else "#"
        # The last column is left free: some terminals begin a new line once it is written to.
        lines = [*format_rows(named, columns - 1, block), fit(note, columns - 1)]
        # A window that became narrower has folded rows.
        folded = sum(max(1, -(-width(line) // columns)) for line in self._lines)
        erase = "\x1b[1A" * (folded - 1) + "\r\x1b[J"
        self._lines = lines
        return [(self._err, erase), *texts, (self._err, "\n".join(lines))]


# --- The command line ---------------------------------------------------------------------
# From the arguments to a server that runs, and to its end.  A thread starts it, accepts, watches;
# the main thread waits for the end.  A signal leaves a note for it, and interrupts nothing.

# Seconds after which it leaves even if nobody takes the last lines, or a disk hangs.
PARTING = 1.5
HELP = """\
usage: {prog} [options] [FILE or FOLDER ...]

Hand files to someone over HTTP: print a link for each, let broken downloads
resume, say when one has arrived.  A folder goes as a tar.  Ctrl-C ends it.

  -p, --port PORT        listen on PORT (default: a random one from 20000 up)
  -b, --bind ADDRESS     listen on this address only, and print it
  -d, --directory DIR    offer the files of DIR, not of the current folder
  -r, --recursive        offer the files in sub-folders too
  -c, --count N          leave after N deliveries, of each that is named
      --host NAME        print NAME in the links, not this machine's address
      --secret           put an unguessable component before every name
      --resume-only      honour no range but 'bytes=N-': nobody fetches segments
      --timeout SECONDS  cut whoever makes no progress for so long (default: 60)
      --tls-cert FILE    serve https with this certificate chain
      --tls-key FILE     its private key, where that is in a file of its own
  -h, --help             show this;  --version: say which version it is

examples:
  {prog}                        all files here
  {prog} -c 1 big.iso results/  these, then leave
  {prog} -p 8080 -d /data       on this port
"""
# What other values must be, and how that is said.
VALUES = {
    "count": (r"0*[1-9][0-9]{0,8}", "a number from 1 up"),
    "timeout": (r"(?=.*[1-9])[0-9]{1,7}(\.[0-9]+)?", "a number of seconds above 0"),
    "host": (r"\[?\w*:[\w:.]*:[\w:.%]*\]?|[^\s\x00-\x20/:?#@\\\[\]]+", "a host without a port"),
}


def is_port(text: str) -> bool:
    """Return whether *text* is the number of a TCP port, in ASCII digits; 0 is any free port."""
    return re.fullmatch("[0-9]{1,5}", text) is not None and int(text) <= 65535


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help fits on a screen, and whose complaints fit on a line."""

    def format_help(self) -> str:
        return HELP.format(prog=self.prog)

    def error(self, message: str) -> Any:
        self.exit(2, f"httpd_download: {escape(message)} (see {self.prog} -h)\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; leave with status 2 and one line where they are wrong."""
    typed = sys.argv[0] if sys.argv[0] not in ("", "-", "-c") else "httpd_download"
    prog = f"python3 {typed}" if typed.endswith(".py") else os.path.basename(typed)
    if getattr(sys.modules.get("__main__"), "__spec__", None):
        prog = "python3 -m httpd_download"
    parser = Parser(prog=prog, allow_abbrev=False)
    parser.add_argument("names", nargs="*")
    valued = ("-p --port", "-b --bind", "-d --directory", "-c --count", "--host", "--timeout")
    for flags in (*valued, "--tls-cert", "--tls-key"):
        parser.add_argument(*flags.split())
    for flags in ("-r --recursive", "--secret", "--resume-only"):
        parser.add_argument(*flags.split(), action="store_true")
    parser.add_argument("--version", action="version", version=f"httpd_download {__version__}")
    parser.set_defaults(port="0", timeout="60")
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What follows "--" is named, which parse_intermixed_args forgets (Python 3.8 to 3.15).
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_intermixed_args(words[:end])
    options.names += words[end + 1 :]
    if not is_port(options.port):
        parser.error(f"--port {options.port}: a port was expected")
    for name, (pattern, wanted) in VALUES.items():
        value = getattr(options, name)
        if value is not None and not re.fullmatch(pattern, value):
            parser.error(f"--{name} {value}: {wanted} was expected")
    try:
        numeric_address("::" if options.bind is None else options.bind)
    except ValueError as error:
        parser.error(f"--bind {error}")
    if options.names and (options.directory is not None or options.recursive):
        parser.error("what is named is offered alone: -d and -r go without FILE and FOLDER")
    if "" in (options.directory, options.tls_cert, options.tls_key, *options.names):
        parser.error("a name is empty: a file or folder was expected")
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key goes with --tls-cert")
    return options


def make_server(
    options: argparse.Namespace, terminal: Terminal, tls: ssl.SSLContext | None
) -> QuietServer:
    """Bind where *options* say, for what they name.  Raise OSError, and ValueError."""
    # Nor is this script offered, or what Python has made of it, unless it is named; piped into an
    # interpreter it is no file.
    own = [globals().get("__file__"), getattr(globals().get("__spec__"), "cached", None)]
    logs = set()
    for written in (1, 2, *filter(None, [] if options.names else own)):
        with contextlib.suppress(OSError):
            logs.add(file_id(os.stat(written)))
    named = offers_by_name(options.names, logs, functools.partial(terminal.show, [], 0))
    secret = os.urandom(16).hex() if options.secret else ""
    # What is named is all, also where nothing of it is left.
    folder = "" if options.names else options.directory or os.curdir
    share = Share(folder, named, secret, options.recursive, logs)
    downloads = Downloads(terminal.log, float(options.timeout), int(options.count or 0), named)
    most = 1000
    if resource:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # macOS: the hard limit is infinite, and cannot be had.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = 1 << 15 if soft == resource.RLIM_INFINITY else min(soft, 1 << 15)
        # A connection has a socket, a file with its folder, and the last one that it sent by
        # sendfile; others are for streams, modules being loaded, and to spare.
        most = max(1, (limit - 24) // 4)
    # Where there is no IPv6, or not IPv4 with it, the first cannot be bound.
    addresses = [numeric_address(options.bind)] if options.bind else [("::",), ("0.0.0.0",)]
    ports = [int(options.port)] if int(options.port) else random.sample(range(20000, 50001), 64)
    for address, port in product(addresses, ports):
        try:
            server = QuietServer((address[0], port, *address[2:]), share, downloads, most)
            server.resume_only, server.tls = options.resume_only, tls
            return server
        except OSError as caught:
            error = caught
    advice = {
        errno.EADDRINUSE: "the port is taken: name another, or none for a free one",
        errno.EADDRNOTAVAIL: "not an address of this machine",
        errno.EACCES: "the port needs more rights: name one from 1024 up",
    }.get(error.errno or 0, error.strerror)
    raise OSError(error.errno, advice, address[0] + f" port {port}" * (options.port != "0"))


def announce(server: QuietServer, options: argparse.Namespace, terminal: Terminal) -> None:
    """Print where the server can be reached, and a link for each offer; or raise OSError."""
    bound = server.server_address[0]
    is_any = bound in ("::", "0.0.0.0") and not options.host
    # As it was typed: server_address leaves out the zone of a link-local address.
    hosts = local_addresses(bound == "::") if is_any else [options.host or options.bind]
    scheme = "https" if options.tls_cert else "http"
    url, *others = [base_url(host, server.server_port, scheme) for host in hosts]
    share, links, remarks = server.share, [], []
    for path in options.names:
        with contextlib.suppress(OSError):
            if file_id(os.stat(path)) in share.logs:
                remarks.append(f"not offered, since this program writes to it: {path}")
    for offer in share.offers():
        link, told = share.link(offer.name), [format_size(offer.version.size)]
        if isinstance(offer, Archive):
            told = [escape(offer.folder), plural(offer.files, "file"), format_size(offer.content)]
            remarks += [f"left out of {offer.name}: {offer.left_out}"] * bool(offer.left_out)
        elif not link.endswith("/" + offer.name):
            told.insert(0, escape(offer.name))
        links.append(f"link: {url}{link}  ({', '.join(told)})")
    if not links:
        entries = walk(share.folder, share.is_deep, share.logs) if share.folder else ()
        # Without the folder itself, and those that have been looked into.
        kinds: Counter[str] = Counter(entry.kind for entry in entries if entry.path)
        if share.is_deep:
            del kinds["folder"]
        nouns = ("folder", "hidden file", "unreadable file", "symlink", "special file")
        there = [plural(n, noun) for noun in nouns if (n := kinds[noun.split()[0]])]
        advice = "-r, or name them" if kinds["folder"] else "name them"
        remarks.append("nothing to offer here" + f" ({', '.join(there)}: {advice})" * bool(there))
    terminal.say(f"serving on: {url}/", *(f"also on: {other}/" for other in others))
    terminal.say("===== local files =====", *links, *map(escape, remarks))
    terminal.say("===== start logging =====")


def serve(server: QuietServer, terminal: Terminal) -> None:
    """Serve until enough is delivered."""
    pause = TICK
    while True:
        end = time.monotonic() + pause
        while time.monotonic() < end:
            server.timeout = end - time.monotonic()
            server.handle_request()
        began = time.thread_time()
        server.downloads.watch()
        terminal.show(*server.downloads.rows(MOST_ROWS))
        # However many there are, looking at them takes little of a processor.
        pause = max(TICK, 100 * (time.thread_time() - began))
        if server.downloads.is_over():
            return


def complaint(error: BaseException) -> str:
    """Say what could not be done, and of which file."""
    reason = failure_reason(error) or repr(error)
    return ": ".join(filter(None, [getattr(error, "filename", None), reason]))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program, and leave with 0, with 1 for a failure, or 2 for a wrong command line."""
    options = parse_arguments(arguments)
    servers: list[QuietServer] = []
    # The exit status, and the last lines.
    ends: deque[tuple[int, list[str]]] = deque()

    def run() -> None:
        try:
            server = make_server(options, terminal, tls)
            announce(server, options, terminal)
            servers.append(server)
            serve(server, terminal)
            ends.append((0, []))
        except Exception as error:
            status, told = 2 if isinstance(error, ValueError) else 1, complaint(error)
            if servers:
                status, told = 1, f"the thread that accepts connections has died: {error!r}"
            ends.append((status, [f"httpd_download: {told}"]))

    for number in (signal.SIGINT, signal.SIGTERM):
        # What nohup, or a script's &, has made deaf stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: ends.append((0, [])))
    # For each thread, which never touches more than 12 KiB of it.
    threading.stack_size(1 << 18)
    try:
        # Here, where Ctrl-C reaches OpenSSL, which may ask for a passphrase.
        tls = tls_context(options.tls_cert, options.tls_key) if options.tls_cert else None
        terminal = Terminal(sys.stdout, sys.stderr)
        threading.Thread(target=run, daemon=True).start()
    except (ImportError, OSError, RuntimeError) as error:
        sys.exit(f"httpd_download: {escape(complaint(error))}")
    # Not Event.wait, which on Windows no signal ends.
    while not ends:
        time.sleep(TICK / 4)
    status, lines = ends[0]
    with contextlib.suppress(RuntimeError):
        threading.Timer(PARTING, os._exit, (status,)).start()
    for server in servers:
        lines += server.downloads.stop()
        if lines[-1].startswith("not whole") and not options.secret:
            lines.append(f"to let them resume: the same command with -p {server.server_port}")
    terminal.close(lines or ["stopped. nothing was delivered"])
    # Threads still serve: nothing is torn down under them.
    os._exit(status)


if __name__ == "__main__":
    main()
