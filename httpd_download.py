#!/usr/bin/env python3
"""Serve files over HTTP: print a link for each, let downloads resume, say when one has arrived.

The path of a request, from the start of the program to the last acknowledged byte:

    main                            reads the options, starts the threads, waits for the end
    ServerThread.run                makes the server, prints the links, accepts connections
    PartialContentHandler.handle    runs in the thread of a connection, one request after another
    parse_request_head              turns the bytes of a request into a Request
    Share.open                      turns a path into an offer: a file, or a folder as a tar archive
    is_not_modified, parse_ranges   decide what is to be sent of it
    Registry.begin, place           find the download of the transfer; log its start
    Channel.send                    hands the head and the body over to the system
    Registry.wait_until_ended       waits until the receiver has acknowledged everything
    Registry._end, _deliver, _pause end the transfer; log that its download is whole, or paused
    Terminal                        prints the lines

Words. An *offer* is what one link stands for. A *version* is one state of an offer. A *receiver* is
an address and a User-Agent. A *transfer* is one response body on one connection. A *download* is
all transfers by which one receiver fetches one version of one offer. (A version that was only
appended to counts as the same one.)

Threads. The main thread waits for a signal or for the end of the server thread. The server thread
accepts connections and checks all of them every CHECK_INTERVAL. Each connection has a thread of its
own, the only one that reads, sends, waits for acknowledgements and looks at files. The writer
prints lines and draws the rows at the bottom of a terminal.

The one lock is that of the Registry. It protects the downloads, the transfers, the list of channels
and what is known of each channel: all that its methods refresh, look_for_end, note_progress and
note_reset set. Attributes that only the thread of the connection changes need no lock:
Channel.handed_over, Channel.received, and where the body of a Transfer begins. The lock is never
held while a disk, a network or a terminal is waited for. (The Terminal has a small lock for its
queue of lines.)

Read the sections "Downloads: decisions" and "Downloads: registry" last: they use the terms of all
other sections.
"""

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # The folder of the script, or the current one, holds the user's data: import nothing from it.
    del sys.path[0]

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports below must not print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import bisect
import calendar
import datetime
import email.utils
import enum
import errno
import functools
import glob
import hashlib
import hmac
import http.server
import io
import itertools
import math
import mimetypes
import os
import random
import re
import select
import selectors
import socket
import socketserver
import stat
import struct
import threading
import time
import unicodedata
import urllib.parse
from array import array
from collections import Counter, deque
from selectors import EVENT_READ, EVENT_WRITE
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    TextIO,
    Tuple,
    Union,
)

try:
    import fcntl
    import resource
    import termios
except ImportError:  # Windows
    fcntl = resource = termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import ssl

__version__ = "3.0.0"

# The offset of the first byte, and the offset behind the last one.
Span = Tuple[int, int]
# Device and inode.
FileId = Tuple[int, int]
Clock = Callable[[], float]  # seconds, monotonic


# --- Helpers ----------------------------------------------------------------------------
# Numbers and lists as a person reads them. Nothing here knows of files or of HTTP.

MAX_LISTED = 8  # items, or lines, that are named before the others are only counted


def format_size(count: float) -> str:
    """Return *count* bytes as text: "512 B", "640.0 MiB", "1.4 GiB"."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        # From 1023.95 on, one decimal place would show 1024.0.
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} PiB"


def format_percentage(part: int, whole: int) -> str:
    """Return *part* as a percentage of *whole*, rounded down: "45%"; "0%" if *whole* is 0."""
    if whole == 0:
        return "0%"
    return f"{part * 100 // whole}%"


def pluralize(number: int, noun: str) -> str:
    """Return *number* with *noun*, which forms its plural with an s: "1 file", "3,412 files"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}s"


def join_limited(items: Sequence[str], limit: int = MAX_LISTED) -> str:
    """Return at most *limit* of *items*, and how many more there are: "a, b, and 4 more"."""
    shown = list(items[:limit])
    if len(items) > limit:
        shown.append(f"and {len(items) - limit} more")
    return ", ".join(shown)


# --- Files on disk ----------------------------------------------------------------------
# This section opens files and folders without following a symlink by accident, lists folders, and
# notices when an open file is no longer what it was. It knows nothing of links and requests. It
# promises that only regular files are opened, that opening never blocks, and that every descriptor
# has an owner whose close() closes it.

# Whether files can be opened relative to an open folder. Then a local attacker who replaces a
# folder by a symlink between two calls achieves nothing.
HAS_DIR_FD = os.open in os.supports_dir_fd
# Whether permission bits are real. Windows makes them up, and its os.access knows nothing of
# access control lists.
HAS_PERMISSION_BITS = hasattr(os, "getuid")
# Whether there is an attribute that hides files, on Windows and on macOS.
HAS_HIDDEN_ATTRIBUTE = hasattr(os.stat_result, "st_file_attributes") or hasattr(
    os.stat_result, "st_flags"
)

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
# A FIFO may take the place of a file at any time: O_NONBLOCK does not wait for its writer.
FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
READABLE_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# O_PATH passes through folders that may be entered but not read (mode 0711).
FOLDER_FLAGS = READABLE_FOLDER_FLAGS | getattr(os, "O_PATH", 0)

# These errors say nothing about the file: no descriptors or memory are left, or (EAGAIN) another
# program holds a lease on the file.
RESOURCE_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)

# A short span of a file is sent as a copy. A longer one is sent by sendfile, except for its last
# bytes, which are copied after a last check of the file.
COPY_LIMIT = 64 * 1024  # bytes of the longest span that is copied
COPIED_END = 4 * 1024  # bytes at the end of a longer span
# A digest of the last bytes of a file tells later whether the file has only grown.
DIGEST_LENGTH = 4 * 1024  # bytes that are hashed
DIGEST_LIMIT = 64 * 1024  # bytes: a file up to this size gets no digest
GROWTH_PAUSES = (0.002, 0.01, 0.05)  # seconds between looks at a file that may be growing

# Names that have one spelling only, apart from upper and lower case. Other names may have several:
# Unicode writes an accent in two ways, and FAT ignores a dot at the end. See Folder.ensure_visible.
PLAIN_NAME = re.compile("[0-9A-Za-z._-]*[0-9A-Za-z_-]")

# Windows has no names with these characters, ignores dots and blanks at the end of a name, and
# takes these names, with any extension, for devices.
RESERVED_ON_WINDOWS = (
    r'.*[\\:<>"|?*\x00-\x1f].*'
    r"|.*[. ]"
    r"|(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?"
)


class FileChanged(Exception):
    """An open file is no longer what was promised. The text says which file, and how."""


class FileSpan(NamedTuple):
    """Bytes of an open file, from *start* up to *stop*, that may be sent without being read. The
    sender calls ensure_unchanged before each step."""

    file: "PinnedFile"
    start: int
    stop: int


Part = Union[bytes, FileSpan]


class EntryKind(enum.Enum):
    """What a name in a folder is, or why it cannot be offered; the value is what a person reads."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    HIDDEN = "hidden name"
    UNREADABLE = "unreadable file"
    # A device, a FIFO or a socket.
    SPECIAL = "special file"
    # A file that this program writes to, such as its log, or the file of the program itself.
    EXCLUDED = "server file"
    # Half of a surrogate pair, which Windows allows in names and no tar can hold.
    UNENCODABLE = "unencodable name"


KINDS_BY_FORMAT = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.FOLDER,
    stat.S_IFLNK: EntryKind.SYMLINK,
}


class Entry(NamedTuple):
    """One name in a folder."""

    path: str  # below the root of the walk, with slashes; "" for the root itself
    kind: EntryKind
    mode: int = 0  # permission bits
    size: int = 0  # bytes of a file; 0 for everything else
    mtime_ns: int = 0
    target: str = ""  # where a symlink leads


def file_id(status: os.stat_result) -> FileId:
    """Return the device and inode of *status*, which identify a file."""
    return status.st_dev, status.st_ino


def as_utf8(name: str) -> str:
    """Return *name* decoded as UTF-8 in place of the locale's encoding, if it is valid UTF-8."""
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return name


def pread(descriptor: int, length: int, start: int) -> bytes:
    """Return at most *length* bytes from *start*. Raise OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, length)


def close_descriptor(descriptor: int) -> None:
    """Close *descriptor*. It was only read from, so an error (a dead sshfs) loses nothing."""
    try:
        os.close(descriptor)
    except OSError:
        pass


def open_regular_file(
    path: str, dir_fd: Optional[int] = None, follow_symlinks: bool = True
) -> Tuple[int, os.stat_result]:
    """Return a descriptor of the regular file *path*, and its status.

    Raise OSError if there is none; with ELOOP for a symlink, unless *follow_symlinks*.
    """
    flags = FILE_FLAGS
    if not follow_symlinks:
        flags |= NO_FOLLOW
    # Check before opening, since opening a device may start it (tapes rewind), and again after
    # opening, since the name may have been given to another file in between.
    ensure_regular(os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks), path)
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    try:
        status = os.fstat(descriptor)
        ensure_regular(status, path)
    except BaseException:
        close_descriptor(descriptor)
        raise
    return descriptor, status


def ensure_regular(status: os.stat_result, path: str) -> None:
    """Raise OSError unless *status* is that of a regular file; with ELOOP for a symlink."""
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "a symlink", path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def has_hidden_attribute(status: os.stat_result) -> bool:
    """Return whether the file has the attribute by which Windows and macOS hide files."""
    windows_attributes = getattr(status, "st_file_attributes", 0)
    macos_flags = getattr(status, "st_flags", 0)
    if windows_attributes & stat.FILE_ATTRIBUTE_HIDDEN:
        return True
    return bool(macos_flags & stat.UF_HIDDEN)


class PinnedFile:
    """An open file that may be sent only as long as it stays as it was."""

    def __init__(
        self,
        descriptor: int,
        label: str,
        size: int,
        mtime_ns: int,
        may_grow: bool = False,
        advice: str = "",
    ) -> None:
        """Take over *descriptor*, which close() closes. *advice* ends the error messages."""
        # -1 once the file is closed, since another file may get the same number.
        self._descriptor = descriptor
        # What error messages call the file.
        self._label = label
        # The size and the modification time of the file when it was pinned.
        self._size = size
        self._mtime_ns = mtime_ns
        # What error messages advise.
        self._advice = advice
        # Whether appending is allowed. Then a larger file counts as unchanged if the bytes at its
        # old end are the same.
        self._may_grow = may_grow
        # A hash of the bytes at the end (see ``digest_before``); 0 where it is not needed.
        self.end_digest = 0
        if may_grow:
            self.end_digest = self.digest_before(size)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Close the file, unless it is closed."""
        if self._descriptor >= 0:
            close_descriptor(self._descriptor)
            self._descriptor = -1

    def digest_before(self, stop: int) -> int:
        """Return a hash of the 4 KiB before *stop*, valid in this process; 0 where *stop* is small,
        or if these bytes cannot be read.

        It tells whether a file that is larger now has only grown. The inode does not tell that: a
        new file may get the inode of a deleted one, and a file that is rewritten keeps its inode.
        """
        # Not worth a read for a small file, whose receiver simply starts over.
        if stop <= DIGEST_LIMIT:
            return 0
        try:
            return hash(pread(self._descriptor, DIGEST_LENGTH, stop - DIGEST_LENGTH))
        except OSError:
            return 0

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the bytes from *start* to *stop*. Raise FileChanged.

        The bytes at the end are read only after the caller has sent the long span before them, so
        the receiver gets the last byte only if the file had not changed until then.
        """
        if stop - start > COPY_LIMIT:
            yield FileSpan(self, start, stop - COPIED_END)
            start = stop - COPIED_END
        yield self.read(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*. Raise FileChanged."""
        data = b""
        while len(data) < stop - start:
            offset = start + len(data)
            try:
                piece = pread(self._descriptor, stop - offset, offset)
            except OSError as error:
                raise self._changed(f": {error.strerror}") from None
            if not piece:
                break
            data += piece
        # Check after reading: the file may have changed in between.
        self.ensure_unchanged()
        if len(data) < stop - start:
            raise self._changed(" ends too early")
        return data

    def ensure_unchanged(self) -> None:
        """Raise FileChanged unless the file is what it was when it was pinned."""
        if self._is_unchanged():
            return
        if self._may_grow:
            # While a file grows, ext4 shows its new time shortly before its new size.
            for pause in GROWTH_PAUSES:
                time.sleep(pause)
                if self._is_unchanged():
                    return
        raise self._changed(" was changed")

    def _is_unchanged(self) -> bool:
        """Return whether the file is what it was, or has only grown where that is allowed.

        Raise FileChanged where a later look could not be better: the file became shorter, or its
        disk does not answer.
        """
        try:
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise self._changed(f": {error.strerror}") from None
        if status.st_size < self._size:
            raise self._changed(" became shorter")
        if status.st_size > self._size:
            # A small file has no digest. It is read in one step, so it hardly changes meanwhile.
            return self._may_grow and self.digest_before(self._size) == self.end_digest
        return status.st_mtime_ns == self._mtime_ns

    def _changed(self, how: str) -> FileChanged:
        """Return the error that tells *how* the file has changed."""
        return FileChanged(f"{self._label}{how}{self._advice}")


class Folder:
    """An open folder, reached from its root without following a symlink.

    Where the system has dir_fd, every step starts from an open folder, so that replacing a folder
    by a symlink in between has no effect. On Windows, paths are checked before they are used.
    Use it in a with statement, or close it.
    """

    def __init__(self, root: str, path: str = "") -> None:
        """Open the folder *path*, of names separated by slashes, below *root*. Raise OSError."""
        # The open folder; None where the system has no dir_fd, and after close().
        self._descriptor: Optional[int] = None
        # The real path of the folder where the system has no dir_fd, else empty. It stands before
        # every name.
        self._path = ""
        # What error messages call the folder.
        self._label = os.path.join(root, path)
        if HAS_DIR_FD:
            self._descriptor = os.open(root, FOLDER_FLAGS)
        else:
            self._path = os.path.realpath(root)
        try:
            for name in path.split("/"):
                if name:
                    self.enter(name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder, unless it is closed."""
        if self._descriptor is not None:
            close_descriptor(self._descriptor)
            self._descriptor = None

    def enter(self, name: str) -> None:
        """Go down into the folder *name*. Raise OSError if it is a symlink, or no folder."""
        if self._descriptor is not None:
            inner = os.open(name, FOLDER_FLAGS | NO_FOLLOW, dir_fd=self._descriptor)
            close_descriptor(self._descriptor)
            self._descriptor = inner
            return
        path = os.path.join(self._path, name)
        # The path before the name is a real one, so a difference means that the name is a symlink.
        if os.path.realpath(path) != path:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        self._path = path

    def stat(self, name: str) -> os.stat_result:
        """Return the status of *name* itself, also if it is a symlink. Raise OSError."""
        path = os.path.join(self._path, name)
        return os.stat(path, dir_fd=self._descriptor, follow_symlinks=False)

    def open_file(self, name: str) -> Tuple[int, os.stat_result]:
        """Return a descriptor of the regular file *name*, and its status. Raise OSError."""
        path = os.path.join(self._path, name)
        return open_regular_file(path, self._descriptor, follow_symlinks=False)

    def can_read(self, name: str) -> bool:
        """Return whether this program may read the regular file *name*."""
        if HAS_PERMISSION_BITS:
            path = os.path.join(self._path, name)
            return os.access(path, os.R_OK, dir_fd=self._descriptor)
        try:
            descriptor, _ = self.open_file(name)
        except OSError:
            return False
        close_descriptor(descriptor)
        return True

    def read_link(self, name: str) -> str:
        """Return where the symlink *name* leads. Raise OSError."""
        return os.readlink(os.path.join(self._path, name), dir_fd=self._descriptor)

    def names(self) -> List[str]:
        """Return the names in this folder. Raise OSError if it may not be read."""
        if self._descriptor is None:
            return os.listdir(self._path)
        # A folder opened with O_PATH cannot be listed.
        try:
            readable = os.open(os.curdir, READABLE_FOLDER_FLAGS, dir_fd=self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._label) from None
        try:
            return os.listdir(readable)
        finally:
            close_descriptor(readable)

    def ensure_visible(self, name: str) -> None:
        """Raise OSError if *name* is hidden, or another spelling of a name that is listed.

        File systems know some files by names that are not listed: FAT and NTFS have .env as
        ENV~1 too, HFS+ ignores invisible characters, many ignore case. So a hidden file could be
        had by a name that does not begin with a dot.
        """
        if HAS_HIDDEN_ATTRIBUTE and has_hidden_attribute(self.stat(name)):
            raise FileNotFoundError(errno.ENOENT, "hidden", name)
        if self._may_have_other_spellings(name) and name not in self.names():
            raise FileNotFoundError(errno.ENOENT, "not listed", name)

    def _may_have_other_spellings(self, name: str) -> bool:
        """Return whether *name* may be another spelling of a listed name. If not, there is no need
        to search the listing, which takes long in a large folder.

        A name of plain characters can differ from the listed one in case alone. That is ruled out
        if the same name with upper and lower case exchanged does not exist.
        """
        if not PLAIN_NAME.fullmatch(name):
            return True
        other_case = name.swapcase()
        if other_case == name:
            return False
        try:
            self.stat(other_case)
        except FileNotFoundError:
            return False
        return True


def may_be_offered(component: str) -> bool:
    """Return whether a name may be offered: it is not hidden and, on Windows, it names a file and
    not a device (see Microsoft: "Naming Files, Paths, and Namespaces")."""
    if component == "" or component.startswith("."):
        return False
    if "/" in component or "\0" in component:
        return False
    if os.sep == "\\":
        return not re.fullmatch(RESERVED_ON_WINDOWS, component, re.IGNORECASE | re.DOTALL)
    return True


def list_folder(root: str, path: str, excluded: Collection[FileId]) -> List[Entry]:
    """Return the entries of the folder *path* below *root*, sorted by the bytes of their names, in
    reverse: ``walk`` takes them from the end. Raise OSError if the folder may not be read.
    """
    entries = []
    with Folder(root, path) as folder:
        for name in sorted(folder.names(), key=os.fsencode, reverse=True):
            entry_path = name
            if path:
                entry_path = f"{path}/{name}"
            entries.append(make_entry(folder, name, entry_path, excluded))
    return entries


def make_entry(folder: Folder, name: str, path: str, excluded: Collection[FileId]) -> Entry:
    """Return the entry of *name* in *folder*; *path*: its path below the root of the walk."""
    if name.startswith("."):
        return Entry(path, EntryKind.HIDDEN)
    if not may_be_offered(name):
        # Windows would open another file, or a device.
        return Entry(path, EntryKind.UNREADABLE)
    size = 0
    target = ""
    try:
        status = folder.stat(name)
        if has_hidden_attribute(status):
            return Entry(path, EntryKind.HIDDEN)
        kind = KINDS_BY_FORMAT.get(stat.S_IFMT(status.st_mode), EntryKind.SPECIAL)
        if kind is EntryKind.FILE:
            size = status.st_size
            # Only regular files are excluded: on Windows (0, 0) is the identity of every pipe.
            if file_id(status) in excluded:
                return Entry(path, EntryKind.EXCLUDED)
            if not folder.can_read(name):
                return Entry(path, EntryKind.UNREADABLE)
        elif kind is EntryKind.SYMLINK:
            # An archive is unpacked on any system.
            target = folder.read_link(name).replace(os.sep, "/")
    except OSError:
        return Entry(path, EntryKind.UNREADABLE)
    mode = stat.S_IMODE(status.st_mode)
    return Entry(path, kind, mode, size, status.st_mtime_ns, target)


def walk(root: str, is_recursive: bool, excluded: Collection[FileId]) -> Iterator[Entry]:
    """Yield *root*, its contents and, if *is_recursive*, those of its sub-folders.

    Names are in the order of their bytes, each folder before its contents. No symlink is followed.
    Raise OSError if *root* cannot be read; a sub-folder that cannot be read is "unreadable".
    """
    status = os.stat(root)
    mode = stat.S_IMODE(status.st_mode)
    yield Entry("", EntryKind.FOLDER, mode, mtime_ns=status.st_mtime_ns)
    # Entries that are still to be yielded, the next one last.
    pending = list_folder(root, "", excluded)
    while pending:
        entry = pending.pop()
        if is_recursive and entry.kind is EntryKind.FOLDER:
            try:
                pending += list_folder(root, entry.path, excluded)
            except OSError:
                entry = Entry(entry.path, EntryKind.UNREADABLE)
        yield entry


def describe_left_out(paths_by_kind: Mapping[EntryKind, Sequence[str]]) -> str:
    """Return how many names in a folder are left out, by kind: "3 folders (name them, or use -r), 2
    unreadable files (a.key, b.key)"; "" if there are none."""
    texts = []
    for kind in EntryKind:
        paths = paths_by_kind.get(kind, ())
        if not paths:
            continue
        details = f" ({join_limited(paths)})"
        if kind is EntryKind.FOLDER:
            details = " (name them, or use -r)"
        elif kind is EntryKind.HIDDEN:
            details = ""
        texts.append(pluralize(len(paths), kind.value) + details)
    return ", ".join(texts)


# --- Offers -----------------------------------------------------------------------------
# An offer is what one link stands for: a file, or a folder as a tar archive. A Share turns the
# path of a request into an offer, and is the only way to one. Promises: nothing is opened that the
# person at the terminal did not offer, and all bytes that are sent belong to the version whose
# entity tag was sent. The caller of Share.open closes the offer.


class Version(NamedTuple):
    """One state of an offer."""

    # The entity tag, with its quotes.
    etag: str
    size: int
    # None for an archive, which cannot grow.
    file_id: Optional[FileId] = None
    mtime_ns: int = 0
    # A hash of the last 4 KiB (see PinnedFile.digest_before); 0 where it is unknown.
    end_digest: int = 0

    def is_same(self, other: "Version") -> bool:
        return self.etag == other.etag


class OfferedFile:
    """A file as it was when it was opened for a request."""

    def __init__(self, name: str, descriptor: int, status: os.stat_result) -> None:
        """Take over *descriptor*, of a regular file that has this *status*."""
        # What the link calls the file: its path below the folder that is offered.
        self.name = name
        # The file itself.
        self._file = PinnedFile(
            descriptor, "the file", status.st_size, status.st_mtime_ns, may_grow=True
        )
        # Unix seconds. A time in the future counts as now (RFC 9110, section 8.8.2.1).
        self.modified: Optional[int] = min(status.st_mtime_ns // 10**9, int(time.time()))
        # A strong tag: it changes with the inode, the size or the time in nanoseconds.
        etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
        # The state of the file.
        self.version = Version(
            etag,
            status.st_size,
            file_id(status),
            status.st_mtime_ns,
            self._file.end_digest,
        )

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the bytes from *start* to *stop*. Raise FileChanged."""
        return self._file.parts(start, stop)

    def digest_before(self, stop: int) -> int:
        """Return the digest of the bytes before *stop*: see PinnedFile.digest_before."""
        return self._file.digest_before(stop)

    def close(self) -> None:
        self._file.close()


# Tar headers: POSIX.1-2017, pax, "ustar Interchange Format", and what GNU tar adds to it.
# These are the bytes that tarfile writes, but the same on every version of Python, and made in a
# fifth of the time.

BLOCK = 512  # bytes
NAME_LENGTH = 100  # bytes of a name, or of a symlink's target, that a header block can hold
OCTAL_LIMIT = 8**11  # sizes and times from here on do not fit into their fields as octal digits
GNU_MAGIC = b"ustar  \0"
PAX_MAGIC = b"ustar\x0000"
TAR_TYPES = {EntryKind.FILE: b"0", EntryKind.SYMLINK: b"2", EntryKind.FOLDER: b"5"}


class TarMember(NamedTuple):
    """The facts that are in the header of one member of an archive."""

    name: str
    # One of TAR_TYPES.
    type: bytes
    mode: int
    size: int
    # Unix seconds.
    mtime: int
    # Where a symlink leads.
    target: str = ""


def tar_header(member: TarMember) -> bytes:
    """Return the blocks before the content of *member*, whose texts must be encodable."""
    if can_encode(member.name + member.target, "ascii"):
        # busybox reads sizes over 8 GiB and times before 1970 only in GNU's format.
        return gnu_header(member)
    return pax_header(member)


def can_encode(text: str, encoding: str, errors: str = "strict") -> bool:
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


def gnu_header(member: TarMember) -> bytes:
    """Return a header in GNU's format: a text that is too long has blocks of its own before it."""
    name = member.name.encode("ascii")
    target = member.target.encode("ascii")
    header = b""
    if len(target) > NAME_LENGTH:
        header += gnu_long_text(b"K", target)
    if len(name) > NAME_LENGTH:
        header += gnu_long_text(b"L", name)
    return header + tar_block(
        GNU_MAGIC, member.type, name, member.mode, member.size, member.mtime, target
    )


def gnu_long_text(block_type: bytes, text: bytes) -> bytes:
    """Return the blocks that hold a name (type L) or a target (type K) of any length."""
    text += b"\0"
    return tar_block(GNU_MAGIC, block_type, b"././@LongLink", size=len(text)) + padded(text)


def pax_header(member: TarMember) -> bytes:
    """Return a header in PAX format: facts that a block cannot hold come before it, as records."""
    name = member.name.encode("utf-8", "surrogateescape")
    target = member.target.encode("utf-8", "surrogateescape")
    size = member.size
    mtime = member.mtime
    records = b""
    if not can_encode(member.name + member.target, "utf-8"):
        records += pax_record(b"hdrcharset", b"BINARY")
    if not can_encode(member.name, "ascii") or len(name) > NAME_LENGTH:
        records += pax_record(b"path", name)
    if not can_encode(member.target, "ascii") or len(target) > NAME_LENGTH:
        records += pax_record(b"linkpath", target)
    # A number that does not fit into its field of the block has a record, and is 0 in the block.
    if size >= OCTAL_LIMIT:
        records += pax_record(b"size", b"%d" % size)
        size = 0
    if mtime < 0 or mtime >= OCTAL_LIMIT:
        records += pax_record(b"mtime", b"%d" % mtime)
        mtime = 0
    header = tar_block(PAX_MAGIC, b"x", b"././@PaxHeader", size=len(records)) + padded(records)
    short_name = member.name.encode("ascii", "replace")
    short_target = member.target.encode("ascii", "replace")
    return header + tar_block(
        PAX_MAGIC, member.type, short_name, member.mode, size, mtime, short_target
    )


def pax_record(keyword: bytes, value: bytes) -> bytes:
    """Return one record: its own length in decimal digits, a blank, and "keyword=value"."""
    text = b" %b=%b\n" % (keyword, value)
    length = len(text)
    # The length counts its own digits: 97 characters need "99", and 98 need "101".
    while length != len(text) + len(str(length)):
        length = len(text) + len(str(length))
    return b"%d%b" % (length, text)


def tar_block(
    magic: bytes,
    member_type: bytes,
    name: bytes,
    mode: int = 0,
    size: int = 0,
    mtime: int = 0,
    target: bytes = b"",
) -> bytes:
    """Return one header block, without an owner. A name or target that is too long is cut."""
    before_checksum = b"%b%07o\0%07o\0%07o\0%b%b" % (
        name[:NAME_LENGTH].ljust(NAME_LENGTH, b"\0"),
        mode,
        0,  # the user
        0,  # the group
        tar_number(size),
        tar_number(mtime),
    )
    after_checksum = member_type + target[:NAME_LENGTH].ljust(NAME_LENGTH, b"\0") + magic
    # The eight bytes of the checksum itself count as blanks.
    checksum = sum(before_checksum) + 8 * ord(" ") + sum(after_checksum)
    return (b"%b%06o\0 %b" % (before_checksum, checksum, after_checksum)).ljust(BLOCK, b"\0")


def tar_number(number: int) -> bytes:
    """Return a field of twelve bytes: octal or, if that is too long, in GNU's binary form."""
    if 0 <= number < OCTAL_LIMIT:
        return b"%011o\0" % number
    sign = b"\x80"
    if number < 0:
        sign = b"\xff"
    return sign + number.to_bytes(11, "big", signed=True)


def padded(data: bytes) -> bytes:
    """Return *data* with zeros up to the end of its last block."""
    return data.ljust(round_up(len(data)), b"\0")


def round_up(size: int) -> int:
    """Return *size*, rounded up to whole blocks."""
    blocks = (size + BLOCK - 1) // BLOCK
    return blocks * BLOCK


# A folder as a tar archive: its layout, and the files that are opened for one request.

# Permission bits and the sticky bit, but no set-id bits. Windows makes the bits up, so there only
# the owner may write.
TAR_PERMISSIONS = 0o1777 if HAS_PERMISSION_BITS else 0o755


class TarArchive:
    """A folder as a tar archive that is stored nowhere.

    Where each byte of it lies follows from names and sizes alone. This layout is made once, is
    shared by all threads, and holds no descriptor; files are read when they are sent.
    """

    def __init__(
        self,
        path: str,
        folder_name: str,
        excluded: Collection[FileId],
        report: Callable[[str], None],
    ) -> None:
        """Lay out the folder *path*. Raise OSError if it cannot be read.

        *report* is called for each entry, with a text that tells the progress.
        """
        # What the link calls the archive.
        self.name = f"{folder_name}.tar"
        # What the folder is called when the archive is unpacked.
        self.folder_name = folder_name
        # Where the folder is.
        self.path = path
        # The members of the archive, in their order: files, folders and symlinks.
        self.entries: List[Entry] = []
        # offsets[i] is where the header of entries[i] begins; the last one is the archive's size.
        self.offsets = array("Q", [0])
        # How many of the members are files.
        self.file_count = 0
        # The paths of what is in the folder and not in the archive, by kind.
        self.left_out: Dict[EntryKind, List[str]] = {}
        layout_hash = hashlib.sha256()
        for entry in walk(path, True, excluded):
            kind = entry.kind
            if not can_encode(entry.path + entry.target, "utf-8", "surrogateescape"):
                kind = EntryKind.UNENCODABLE
            if kind not in TAR_TYPES:
                self.left_out.setdefault(kind, []).append(entry.path)
                continue
            header = self._append(entry)
            # A header has whole seconds only, but any change of time makes another version.
            layout_hash.update(header + b"%d" % entry.mtime_ns)
            report(f"reading {folder_name}: {len(self.entries):,} entries")
        # An archive ends with two blocks of zeros.
        self.offsets[-1] += 2 * BLOCK
        # The state of the folder when it was read.
        self.version = Version(f'"{layout_hash.hexdigest()[:32]}"', self.offsets[-1])

    def _append(self, entry: Entry) -> bytes:
        """Add *entry* to the layout, and return its header."""
        header = self.header(entry)
        self.entries.append(entry)
        self.offsets.append(round_up(self.offsets[-1] + len(header) + entry.size))
        if entry.kind is EntryKind.FILE:
            self.file_count += 1
        return header

    def header(self, entry: Entry) -> bytes:
        """Return the blocks before the content of *entry*."""
        name = f"{self.folder_name}/{entry.path}"
        if entry.kind is EntryKind.FOLDER and entry.path:
            name += "/"
        member = TarMember(
            as_utf8(name),
            TAR_TYPES[entry.kind],
            entry.mode & TAR_PERMISSIONS,
            entry.size,
            entry.mtime_ns // 10**9,
            as_utf8(entry.target),
        )
        return tar_header(member)


class OpenedArchive:
    """A TarArchive for one request, with the files of it that are open."""

    # What the person at the terminal is to do when a file in the folder has changed.
    advice = "; restart this program to offer the new state"

    def __init__(self, archive: TarArchive) -> None:
        # The layout.
        self._archive = archive
        # What the link calls the archive.
        self.name = archive.name
        # The state of the folder when the layout was made.
        self.version = archive.version
        # A folder has no time that would tell whether anything in it has changed.
        self.modified: Optional[int] = None
        # The folder that was opened last, since the next file is usually in it, and its path.
        self._folder: Optional[Folder] = None
        self._folder_path = ""
        # The last file that was sent by sendfile. It stays open: the system still sends from it,
        # and it is checked once more when everything has arrived.
        self._large_file: Optional[PinnedFile] = None

    def close(self) -> None:
        """Close all that is open."""
        if self._folder is not None:
            self._folder.close()
        if self._large_file is not None:
            self._large_file.close()

    def digest_before(self, stop: int) -> int:
        """Return 0 for any *stop*: an archive cannot grow."""
        return 0

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the bytes from *start* to *stop*: of each member the header, the content, and the
        padding of its last block.

        Raise FileChanged before the first byte of a file that is not what the layout says.
        """
        entries = self._archive.entries
        offsets = self._archive.offsets
        # The members that have bytes between *start* and *stop*.
        first = bisect.bisect_right(offsets, start) - 1
        end = bisect.bisect_left(offsets, stop)
        for index in range(first, end):
            entry = entries[index]
            header_offset = offsets[index]
            header = self._archive.header(entry)
            content_offset = header_offset + len(header)
            padding_offset = content_offset + entry.size
            # Behind the last member, this includes the two blocks that end the archive.
            padding = bytes(offsets[index + 1] - padding_offset)

            if entry.kind is EntryKind.FILE and entry.size == 0:
                # This yields b"", but it checks that the file is still empty.
                yield from self._content(entry, 0, 0)
            yield cut(header, start - header_offset, stop - header_offset)
            content_start = max(start - content_offset, 0)
            content_stop = min(stop - content_offset, entry.size)
            if content_start < content_stop:
                yield from self._content(entry, content_start, content_stop)
            yield cut(padding, start - padding_offset, stop - padding_offset)

    def _content(self, entry: Entry, start: int, stop: int) -> Iterator[Part]:
        """Yield the bytes of a file from *start* to *stop*. Raise FileChanged."""
        if stop - start > COPY_LIMIT:
            if self._large_file is not None:
                # The end of it may still be in the send queue.
                self._large_file.ensure_unchanged()
                self._large_file.close()
            self._large_file = self._open_file(entry)
            yield from self._large_file.parts(start, stop)
            return
        file = self._open_file(entry)
        try:
            data = file.read(start, stop)
        finally:
            file.close()
        yield data

    def _open_file(self, entry: Entry) -> PinnedFile:
        """Return the file, which the caller closes. Raise FileChanged if it cannot be opened."""
        folder_path, _, name = entry.path.rpartition("/")
        label = f"{self._archive.folder_name}/{entry.path}"
        try:
            descriptor, _ = self._open_folder(folder_path).open_file(name)
        except OSError as error:
            raise FileChanged(f"{label}: {error.strerror}{self.advice}") from None
        return PinnedFile(descriptor, label, entry.size, entry.mtime_ns, advice=self.advice)

    def _open_folder(self, path: str) -> Folder:
        """Return the folder *path* of the archive, which stays open. Raise OSError."""
        if self._folder is not None and self._folder_path == path:
            return self._folder
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        self._folder = Folder(self._archive.path, path)
        self._folder_path = path
        return self._folder


def cut(data: bytes, start: int, stop: int) -> bytes:
    """Return the bytes of *data* from *start* to *stop*, either of which may lie outside of it."""
    return data[max(start, 0) : max(stop, 0)]


# The share: from paths to offers.

Offer = Union[OfferedFile, OpenedArchive]


class Listed(NamedTuple):
    """One offer, as it is announced."""

    name: str
    size: int
    archive: Optional[TarArchive]  # None for a file


class Survey(NamedTuple):
    """What a share offers, and what else a person can see in its folder."""

    listed: List[Listed]  # in order
    left_out: Dict[EntryKind, List[str]]  # the paths that are not offered, by kind


class Share:
    """All that may be fetched, by the paths of the links."""

    def __init__(
        self,
        folder: Optional[str],
        named: Mapping[str, Union[str, TarArchive]],
        prefix: str = "",
        is_recursive: bool = False,
        excluded: Collection[FileId] = (),
    ) -> None:
        """Offer the files of *folder*; if it is None, offer *named* instead."""
        # The folder whose files are offered; None if the offers were named on the command line.
        self._folder: Optional[str] = None
        if folder is not None:
            self._folder = os.path.abspath(folder)
        # By the names of their links: the path of a file on the disk, or the archive of a folder.
        self._named = named
        # The path component before every name; "" for none.
        self._prefix = prefix
        # Whether the files of sub-folders are offered too.
        self._is_recursive = is_recursive
        # Files that this program writes to, and its own.
        self._excluded = excluded

    def link_path(self, name: str) -> str:
        """Return the percent-encoded path of the link to *name*."""
        path = f"/{name}"
        if self._prefix:
            path = f"/{self._prefix}{path}"
        # Quote the bytes of the name on the disk, which need not be UTF-8.
        return urllib.parse.quote(os.fsencode(path))

    def open(self, path: str) -> Optional[Offer]:
        """Return the offer that *path*, the percent-encoded path of a request, names; None if
        there is none. The caller closes it.

        Raise OSError only if the system is out of resources: a 404 would be a lie.
        """
        raw_path = path.encode("utf-8", "surrogateescape")
        # Nothing stands before the first slash.
        raw_components = raw_path.split(b"/")[1:]
        components = [urllib.parse.unquote_to_bytes(component) for component in raw_components]
        if self._prefix:
            prefix, *components = components
            is_right = hmac.compare_digest(prefix, os.fsencode(self._prefix))
            if not is_right or not components:
                return None
        try:
            return self._open([os.fsdecode(component) for component in components])
        except OSError as error:
            if error.errno in RESOURCE_ERRNOS:
                raise
        except ValueError:
            # Bytes that cannot be a name: a NUL anywhere, on Windows also invalid UTF-8.
            pass
        return None

    def survey(self) -> Survey:
        """Return what is offered and what is not. Raise OSError if the folder cannot be read, or if
        the system is out of resources."""
        survey = Survey([], {})
        for name, source in self._named.items():
            if isinstance(source, TarArchive):
                survey.listed.append(Listed(name, source.version.size, source))
                continue
            size = self._size_of([name])
            if size is not None:
                survey.listed.append(Listed(name, size, None))
        if self._folder is None:
            return survey
        for entry in walk(self._folder, self._is_recursive, self._excluded):
            size = None
            if entry.kind in (EntryKind.FILE, EntryKind.SYMLINK):
                size = self._size_of(entry.path.split("/"))
            is_entered = entry.path == "" or self._is_recursive
            if size is not None:
                survey.listed.append(Listed(entry.path, size, None))
            elif entry.kind is EntryKind.FOLDER and is_entered:
                # The files in it are offered.
                continue
            elif entry.kind is not EntryKind.HIDDEN:
                survey.left_out.setdefault(entry.kind, []).append(entry.path)
        return survey

    def _size_of(self, components: Sequence[str]) -> Optional[int]:
        """Return the size of a file; None if it is not offered, or cannot be opened just now.

        Raise OSError only if the system is out of resources.
        """
        try:
            descriptor, status = self._open_file(components)
        except BlockingIOError:
            # Another program has a lease on this one file.
            return None
        except OSError as error:
            if error.errno in RESOURCE_ERRNOS:
                raise
            return None
        close_descriptor(descriptor)
        return status.st_size

    def _open(self, components: Sequence[str]) -> Offer:
        """Return the offer of this path. Raise OSError, or ValueError, if there is none."""
        name = "/".join(components)
        source = self._named.get(name)
        if isinstance(source, TarArchive):
            return OpenedArchive(source)
        descriptor, status = self._open_file(components)
        return OfferedFile(name, descriptor, status)

    def _open_file(self, components: Sequence[str]) -> Tuple[int, os.stat_result]:
        """Return a descriptor of the file of this path, and its status.

        Raise OSError if it is not offered.
        """
        if self._folder is None:
            path = self._named.get("/".join(components))
            if not isinstance(path, str):
                raise not_offered()
            return open_regular_file(path)
        if len(components) > 1 and not self._is_recursive:
            raise not_offered()
        try:
            descriptor, status = open_visible_file(self._folder, components)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            target = resolve_symlinks(self._folder, components)
            descriptor, status = open_visible_file(self._folder, target)
        if file_id(status) in self._excluded:
            close_descriptor(descriptor)
            raise not_offered()
        return descriptor, status


def not_offered() -> OSError:
    return FileNotFoundError(errno.ENOENT, "not offered")


def open_visible_file(root: str, components: Sequence[str]) -> Tuple[int, os.stat_result]:
    """Return a descriptor of a visible file below *root*, and its status; follow no symlink.

    Raise OSError; with ELOOP if the file, or a folder on the way, is a symlink.
    """
    if not all(may_be_offered(component) for component in components):
        raise not_offered()
    *folders, name = components
    with Folder(root) as folder:
        for component in folders:
            folder.ensure_visible(component)
            folder.enter(component)
        descriptor, status = folder.open_file(name)
        try:
            folder.ensure_visible(name)
        except BaseException:
            close_descriptor(descriptor)
            raise
        return descriptor, status


def resolve_symlinks(root: str, components: Sequence[str]) -> List[str]:
    """Return the path below *root*, free of symlinks, that *components* lead to.

    Its first component is ".." if it is outside of *root*. Raise OSError if nothing is there, or if
    it is on another drive.
    """
    path = os.path.join(root, *components)
    # A loop, or more than some 40 symlinks in a row, is an error here; realpath, which follows
    # any number of them, would take long.
    os.stat(path)
    try:
        relative = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    except ValueError:
        # Windows: no relative path leads to another drive.
        raise not_offered() from None
    return relative.split(os.sep)


# Offers that are named on the command line.


def named_offers(
    paths: Iterable[str], excluded: Collection[FileId], report: Callable[[str], None]
) -> Dict[str, Union[str, TarArchive]]:
    """Return the paths of files, and archives of folders, by the names of their links.

    Files that are *excluded* are passed over. Raise OSError with all paths that cannot be offered,
    and ValueError if two would have one name. *report*: see TarArchive.
    """
    paths_by_name: Dict[str, str] = {}
    paths_by_failure: Dict[str, List[str]] = {}
    for path in paths:
        name = base_name(path)
        if os.path.isdir(path):
            name += ".tar"
        try:
            ensure_offerable(path)
            # The same file may be named twice.
            other = paths_by_name.setdefault(name, path)
            is_another = not os.path.samefile(path, other)
        except OSError as error:
            paths_by_failure.setdefault(error.strerror or str(error), []).append(path)
            continue
        if is_another:
            raise ValueError(
                f"{other} and {path} would have the same link, {name}: "
                "rename one, or name only one of them"
            )
    if paths_by_failure:
        failures = [f"{', '.join(paths)}: {why}" for why, paths in paths_by_failure.items()]
        raise OSError(errno.ENOENT, "; ".join(failures))

    offers: Dict[str, Union[str, TarArchive]] = {}
    for name, path in paths_by_name.items():
        if os.path.isdir(path):
            offers[name] = TarArchive(path, base_name(path), excluded, report)
        elif file_id(os.stat(path)) not in excluded:
            offers[name] = path
    return offers


def base_name(path: str) -> str:
    """Return the last component of *path*. Raise ValueError if *path* has none."""
    if os.path.basename(path.rstrip(os.sep)) in (os.curdir, os.pardir):
        # "." and ".." may lead through a symlink.
        name = os.path.basename(os.path.realpath(path))
    else:
        name = os.path.basename(os.path.abspath(path))
    if not name:
        raise ValueError(f"{path} has no name that a link could have")
    return name


def ensure_offerable(path: str) -> None:
    """Raise OSError unless *path* is a folder or a regular file, and can be read."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "neither a regular file nor a folder", path)
    descriptor, status = open_regular_file(path)
    try:
        # Files such as /proc/cpuinfo have bytes beyond their size. A file that is being appended to
        # looks the same for a moment, until its size has followed.
        has_more = pread(descriptor, 1, status.st_size) != b""
        if has_more and os.fstat(descriptor).st_size == status.st_size:
            raise OSError(errno.EINVAL, "a file without a fixed size cannot be offered", path)
    finally:
        close_descriptor(descriptor)


# --- HTTP syntax ----------------------------------------------------------------------
# Pure functions that know the syntax of HTTP, and nothing about files and sockets. They turn the
# bytes of a request head into a Request, the values of fields into ranges, dates and decisions, and
# the fields of an answer into bytes. They raise HTTPError for a request that cannot be served; the
# server answers every HTTPError at one place. Requests may be hostile, so the time that a function
# takes grows only in proportion to the length of its input.

# More ranges than these in one request are answered with the whole file.
MAX_RANGES = 32
# A number of more digits than MAX_DIGITS is taken for BEYOND_ANY_FILE. int() takes quadratic time
# for long numbers, and refuses those of more than 4,300 digits.
MAX_DIGITS = 19
BEYOND_ANY_FILE = 10**19  # bytes

# A single line feed ends a line too (RFC 9112, section 2.2).
LINE_END = re.compile("\r?\n")
# RFC 9110, section 5.6.2: the characters of methods and field names.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 9112, section 3. The target may hold bytes over 0x7f, because curl sends raw UTF-8.
REQUEST_LINE = re.compile(
    rf"(?P<method>{TOKEN}) (?P<target>[!-~\x80-\xff]+) HTTP/(?P<major>[0-9])\.(?P<minor>[0-9])"
)
# RFC 9112, section 5: no blank before the colon, no folded lines; in the value no control bytes
# but the tab.
FIELD_LINE = re.compile(rf"(?P<name>{TOKEN}):(?P<value>[\t -~\x80-\xff]*)")

# RFC 3986, section 3.2.2: a host is a name, or an address in brackets, which may have a zone
# (RFC 6874: "[fe80::1%25eth0]").
HOST_CHARACTER = r"[\w.~!$&'()*+,;=%-]"
IPV6_ADDRESS = rf"[0-9a-f:.]+(?:%{HOST_CHARACTER}+)?"
FUTURE_ADDRESS = rf"v[0-9a-f]+\.(?:{HOST_CHARACTER}|:)+"
AUTHORITY = rf"(?:\[(?:{IPV6_ADDRESS}|{FUTURE_ADDRESS})\]|{HOST_CHARACTER}+)(?::[0-9]*)?"
# RFC 9112, section 3.2: Host may be empty.
HOST_FIELD = re.compile(rf"(?:{AUTHORITY})?", re.ASCII | re.IGNORECASE)
# RFC 9112, section 3.2.2: how the target begins if it is a complete URI, as a proxy sends it.
SCHEME_AND_AUTHORITY = re.compile(rf"https?://{AUTHORITY}", re.ASCII | re.IGNORECASE)
# The first character behind the path: the query or the fragment begins.
PATH_END = re.compile("[?#]")
# The path segment "." and the slash before it, but not at the end of a path. A path that ends in
# "." or has a segment ".." is left as it is: it names nothing that is offered.
DOT_SEGMENT = re.compile(r"/(?:\.|%2[Ee])(?=/)")

# RFC 9110, section 14.1.1: "0-499", "500-" or "-500".
BYTE_RANGE = re.compile("(?P<first>[0-9]*)-(?P<last>[0-9]*)")
# RFC 9110, section 8.8.3. The tag includes its quotes; "W/" before it marks a weak tag. It must
# stand at the beginning of the list or behind a comma, a blank or a tab.
ENTITY_TAG = re.compile('(?<![^, \t])(?P<weak>W/)?(?P<tag>"[!#-~\x80-\xff]*")')

# RFC 9110, section 5.6.7: the three formats of dates. email.utils.parsedate would also accept 30
# February and any time zone, and time.strptime depends on the locale.
DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
LONG_DAY = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
MONTH = f"(?P<month>{'|'.join(MONTHS)})"
# The second 60 is a leap second.
TIME = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
DATE_FORMATS = [
    re.compile(f"{DAY}, (?P<day>[0-9]{{2}}) {MONTH} (?P<year>[0-9]{{4}}) {TIME} GMT"),
    re.compile(f"{LONG_DAY}, (?P<day>[0-9]{{2}})-{MONTH}-(?P<year>[0-9]{{2}}) {TIME} GMT"),
    # A day of one digit has a second blank before it.
    re.compile(f"{DAY} {MONTH} (?P<day>[ 0-9][0-9]) {TIME} (?P<year>[0-9]{{4}})"),
]
UNIX_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
# The limits of dates in HTTP and in Python, in Unix time.
FIRST_SECOND = -62135596800  # of the year 1
LAST_SECOND = 253402300799  # of the year 9999

# The media types of compressed files. They are sent without Content-Encoding, so that they are
# saved as they are.
COMPRESSED_TYPES = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
}


class HTTPError(Exception):
    """The reason why a request is answered with an error. Raise it from anywhere."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        fields: Optional[Mapping[str, str]] = None,
        phrase: str = "",
        reason: str = "",
        is_logged: bool = True,
    ) -> None:
        super().__init__(status, detail)
        # The status code, such as 404.
        self.status = status
        # A sentence for the receiver, sent in the body of the answer; or empty.
        self.detail = detail
        # Further fields of the answer.
        self.fields = dict(fields or {})
        # The words behind the status code in the answer.
        self.phrase = phrase
        if not phrase:
            self.phrase = http.HTTPStatus(status).phrase
        # An explanation for the sender, written behind the status in the log; or empty.
        self.reason = reason
        # Whether the answer makes a line in the log.
        self.is_logged = is_logged


class Request(NamedTuple):
    """The head of a request."""

    method: str
    # As it was sent, but decoded from UTF-8 with surrogateescape.
    target: str
    # "HTTP/1.0" or "HTTP/1.1".
    version: str
    # Values by names in lower case. The values of several fields of one name are joined with ", ".
    fields: Dict[str, str]
    # Whether another request may follow on the connection.
    keeps_connection: bool
    # Whether a body follows. The server reads none, so it has to close the connection.
    has_body: bool


def parse_request_head(head: bytes) -> Request:
    """Return the request whose *head* this is, up to and including its empty line.

    Raise HTTPError if the head is malformed, or if it is a GET or HEAD with a body.
    """
    lines = LINE_END.split(head.decode("latin-1"))
    request_line = REQUEST_LINE.fullmatch(lines[0])
    if not request_line:
        raise HTTPError(400, "malformed request line")
    if request_line["major"] != "1":
        raise HTTPError(505)
    method = request_line["method"]
    target = request_line["target"].encode("latin-1").decode("utf-8", "surrogateescape")
    # A higher minor version is answered like 1.1 (RFC 9110, section 6.2).
    version = "HTTP/1.1"
    if request_line["minor"] == "0":
        version = "HTTP/1.0"

    # The last two items are "": the empty line, and what split() returns behind the last line feed.
    fields = parse_fields(lines[1:-2])
    check_host(version, fields)
    has_body = announces_body(fields)
    if has_body and method in ("GET", "HEAD"):
        # A request can be smuggled past a proxy as the body of another one if the server behind the
        # proxy does not read bodies (RFC 9112, section 11.2).
        raise HTTPError(400, "a request with a body")
    keeps_connection = wants_to_keep_connection(version, fields) and not has_body
    return Request(method, target, version, fields, keeps_connection, has_body)


def parse_fields(lines: Sequence[str]) -> Dict[str, str]:
    """Return the fields of these lines. Raise HTTPError if a line is malformed."""
    values: Dict[str, List[str]] = {}
    for line in lines:
        match = FIELD_LINE.fullmatch(line)
        if not match:
            raise HTTPError(400, "malformed field line")
        name = match["name"].lower()
        values.setdefault(name, []).append(match["value"].strip(" \t"))
    # RFC 9110, section 5.3: lines of one name are one list.
    return {name: ", ".join(several) for name, several in values.items()}


def check_host(version: str, fields: Mapping[str, str]) -> None:
    """Raise HTTPError unless there is one valid Host field; HTTP/1.0 may leave it out."""
    if "host" not in fields and version == "HTTP/1.0":
        return
    # A second Host field has been joined to the first with ", ", and no host contains a blank.
    if "host" not in fields or not HOST_FIELD.fullmatch(fields["host"]):
        raise HTTPError(400, "there must be one Host, and a valid one")


def announces_body(fields: Mapping[str, str]) -> bool:
    """Return whether a body follows. Raise HTTPError if it is unclear where the body ends."""
    if "transfer-encoding" in fields:
        # RFC 9112, section 6.1: with both fields, it is probably an attack.
        if "content-length" in fields:
            raise HTTPError(400, "both Content-Length and Transfer-Encoding")
        # RFC 9112, section 6.3: only "chunked" tells where the body ends.
        last_coding = fields["transfer-encoding"].rpartition(",")[2]
        if last_coding.strip(" \t").lower() != "chunked":
            raise HTTPError(400, "a Transfer-Encoding that does not end with chunked")
        return True
    length = fields.get("content-length", "0")
    # Two fields have been joined to a list, which is refused too.
    if not re.fullmatch("[0-9]+", length):
        raise HTTPError(400, "malformed Content-Length")
    # Not int(), which refuses numbers of more than 4,300 digits.
    return length.strip("0") != ""


def wants_to_keep_connection(version: str, fields: Mapping[str, str]) -> bool:
    """Return whether the client wants to use the connection again (RFC 9112, section 9.3)."""
    options = re.split("[ \t,]+", fields.get("connection", "").lower())
    if "close" in options:
        return False
    return version == "HTTP/1.1" or "keep-alive" in options


def parse_target(target: str) -> str:
    """Return the path of a request target, percent-encoded, without its segments ".".

    Raise HTTPError if it is neither a path nor a complete URI (RFC 9112, section 3.2).
    """
    uri_start = SCHEME_AND_AUTHORITY.match(target)
    if uri_start:
        target = target[uri_start.end() :]
    path = PATH_END.split(target, maxsplit=1)[0]
    if uri_start and not path:
        path = "/"
    if not path.startswith("/"):
        raise HTTPError(400, "malformed request target")
    return DOT_SEGMENT.sub("", path)


class RangeForm(enum.Enum):
    """How a range was written, which hints at what the client is doing."""

    OPEN = "N-"
    CLOSED = "A-B"
    SUFFIX = "-N"


class ByteRange(NamedTuple):
    """The part of a range that lies inside the file; if there is none, start and stop are the first
    byte that was asked for."""

    start: int  # the first byte
    stop: int  # one past the last byte
    form: RangeForm


def parse_ranges(value: str, size: int) -> List[ByteRange]:
    """Return the ranges of a Range field, for a file of *size* bytes, in the order asked.

    Return no range if the field is to be ignored. Return one range with start == stop if the file
    has no byte of any of them: the answer is 416 or, if the client already has bytes of an older
    version, 409. Raise HTTPError if the field is malformed. See RFC 9110, section 14.
    """
    if size == 0:
        # An empty file has no satisfiable range. curl and wget resume it like any other file, and
        # would report 416 as a failure.
        return []
    unit, equals_sign, elements = value.partition("=")
    if unit.lower() != "bytes" or not equals_sign:
        return []
    texts = [element.strip(" \t") for element in elements.split(",")]
    # RFC 9110, section 5.6.1: empty elements of a list do not count.
    ranges = [parse_byte_range(text, size) for text in texts if text]
    if not ranges:
        raise HTTPError(400, "no byte range")
    satisfiable = [each for each in ranges if each.start < each.stop]
    if len(ranges) > MAX_RANGES or ranges_overlap(satisfiable):
        # More work than the whole file, so probably an attack: ignore the field (RFC 9110,
        # section 14.2).
        return []
    if not satisfiable:
        return ranges[:1]
    return satisfiable


def parse_byte_range(text: str, size: int) -> ByteRange:
    """Return the range "A-B", "A-" or "-B" of a file of *size* bytes. Raise HTTPError if *text* is
    none of these."""
    match = BYTE_RANGE.fullmatch(text)
    if not match or text == "-":
        raise HTTPError(400, "malformed byte range")
    if not match["first"]:
        length = parse_number(match["last"])
        return ByteRange(max(0, size - length), size, RangeForm.SUFFIX)
    start = parse_number(match["first"])
    if not match["last"]:
        return ByteRange(start, max(start, size), RangeForm.OPEN)
    last = parse_number(match["last"])
    if last < start:
        raise HTTPError(400, "byte range ends before it starts")
    stop = min(last + 1, size)
    return ByteRange(start, max(start, stop), RangeForm.CLOSED)


def ranges_that_resume(ranges: Sequence[ByteRange], size: int) -> List[ByteRange]:
    """Return the range to honour with --resume-only, or none.

    "bytes=N-LAST" is answered like "bytes=N-", with the rest of the file. "bytes=0-" resumes
    nothing: a download manager sends it to find out whether it may fetch segments.
    """
    if len(ranges) != 1:
        return []
    start, _, form = ranges[0]
    if form is RangeForm.SUFFIX or start == 0:
        return []
    return [ByteRange(start, max(start, size), RangeForm.OPEN)]


def parse_number(digits: str) -> int:
    """Return the number that *digits* stand for, but BEYOND_ANY_FILE if they are too many."""
    significant = digits.lstrip("0")
    if len(significant) > MAX_DIGITS:
        return BEYOND_ANY_FILE
    # The "0" stands for a number of zeros alone, of which nothing is left.
    return int("0" + significant)


def ranges_overlap(ranges: Sequence[ByteRange]) -> bool:
    """Return whether any byte lies in two of the *ranges*."""
    previous_stop = 0
    for start, stop in sorted((each.start, each.stop) for each in ranges):
        if start < previous_stop:
            return True
        previous_stop = stop
    return False


def http_date(seconds: int) -> str:
    """Return Unix time as a date of HTTP; times before the year 1 or after 9999 as the nearest."""
    # email.utils.formatdate would ask the C library, which knows no dates before 1970 or after 3000
    # on Windows, and none after 2038 where it has 32 bits.
    clamped = min(max(seconds, FIRST_SECOND), LAST_SECOND)
    date = UNIX_EPOCH + datetime.timedelta(seconds=clamped)
    return email.utils.format_datetime(date, usegmt=True)


def parse_http_date(value: str, now: Optional[float] = None) -> Optional[int]:
    """Return the Unix time of a date in one of the three formats of HTTP, or None.

    *now*, in Unix time, decides which century a year of two digits belongs to.
    """
    text = value.strip(" \t")
    for date_format in DATE_FORMATS:
        match = date_format.fullmatch(text)
        if match:
            return unix_time(match, time.gmtime(now))
    return None


def unix_time(match: "re.Match[str]", now: time.struct_time) -> Optional[int]:
    """Return the Unix time of a match of DATE_FORMATS, or None if there is no such day."""
    month = MONTHS.index(match["month"]) + 1
    day = int(match["day"])
    time_of_day = (int(match["hour"]), int(match["minute"]), int(match["second"]))
    year = int(match["year"])
    if len(match["year"]) == 2:
        year = complete_year(year, (month, day, *time_of_day), now)
    try:
        datetime.date(year, month, day)
    except ValueError:
        # Such as 30 February, or a day in the year 0.
        return None
    return calendar.timegm((year, month, day, *time_of_day))


def complete_year(two_digits: int, rest: Tuple[int, ...], now: time.struct_time) -> int:
    """Return the latest year that ends with *two_digits* and is at most 50 years from *now*.

    *rest* is the rest of the date: month, day, hour, minute, second. See RFC 9110, section 5.6.7.
    """
    latest = now.tm_year + 50
    if rest > now[1:6]:
        latest -= 1
    years_back = (latest - two_digits) % 100
    return latest - years_back


def is_not_modified(fields: Mapping[str, str], etag: str, modified: Optional[int]) -> bool:
    """Check the preconditions of a request. Return True if the client has the current version (304
    is the answer), and False if the request is to be served.

    Raise HTTPError (412) if the client asked for another version. *modified* is the Unix time of
    Last-Modified; with None, conditions with a date are ignored.
    """
    unmodified_since = parse_http_date(fields.get("if-unmodified-since", ""))
    modified_since = parse_http_date(fields.get("if-modified-since", ""))
    # RFC 9110, section 13.2.2 has this order, and ignores the date where there is a tag.
    if "if-match" in fields:
        if not lists_entity_tag(fields["if-match"], etag, accepts_weak=False):
            raise HTTPError(412)
    elif modified is not None and unmodified_since is not None and modified > unmodified_since:
        raise HTTPError(412)

    if "if-none-match" in fields:
        return lists_entity_tag(fields["if-none-match"], etag, accepts_weak=True)
    if modified is not None and modified_since is not None:
        return modified <= modified_since
    return False


def lists_entity_tag(value: str, etag: str, accepts_weak: bool) -> bool:
    """Return whether *value*, a list of entity tags or "*", contains *etag*."""
    if value == "*":
        return True
    for match in ENTITY_TAG.finditer(value):
        is_weak = match["weak"] is not None
        if match["tag"] == etag and (accepts_weak or not is_weak):
            return True
    return False


def if_range_fails(fields: Mapping[str, str], etag: str, modified: Optional[int]) -> bool:
    """Return whether the Range field is to be ignored because the If-Range field names neither
    *etag* nor *modified*, the Unix time of Last-Modified (RFC 9110, section 13.1.5)."""
    if "if-range" not in fields:
        return False
    if modified is not None and fields["if-range"] == http_date(modified):
        return False
    return fields["if-range"] != etag


def knows_version(fields: Mapping[str, str], etag: str) -> bool:
    """Return whether the client tells by an entity tag that its bytes are of the current version.

    A date in If-Range does not tell: two versions may be of one second. Firefox, and the parallel
    downloads of Chromium, send If-Match instead of If-Range. This If-Match holds, since the
    preconditions were checked before.
    """
    if fields.get("if-range") == etag:
        return True
    return "if-match" in fields and fields["if-match"] != "*"


def content_disposition(name: str) -> str:
    """Return the field that makes a browser save a file under the last component of *name*.

    See RFC 6266. The result is to be encoded as Latin-1.
    """
    _folder, _slash, base_name = name.rpartition("/")
    # Bytes that are not UTF-8 have no place in either parameter.
    base_name = re.sub("[\ud800-\udfff]", "_", base_name)
    # curl reads only "filename" and takes its bytes as they are, so they are UTF-8. Control
    # characters are not allowed there, and clients disagree about quotes and backslashes.
    plain = re.sub(r'[\x00-\x1f\x7f"\\]', "_", base_name).encode().decode("latin-1")
    # Browsers and wget prefer "filename*". The characters are attr-char of RFC 8187.
    encoded = urllib.parse.quote(base_name, safe="!#$&+^`|")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def content_type(path: str) -> str:
    """Return the media type that the last component of *path* suggests."""
    unknown = "application/octet-stream"
    try:
        # mimetypes knows ".gz", but not ".GZ". The slash keeps it from taking "data:x" for a URL.
        media_type, compression = mimetypes.guess_type("/" + path.lower())
    except (OSError, UnicodeError):
        # The system's table of types cannot be read, or is not UTF-8.
        return unknown
    if compression is not None:
        return COMPRESSED_TYPES.get(compression, unknown)
    if media_type is None:
        return unknown
    return media_type


class Body(NamedTuple):
    """The body of an answer to GET."""

    # Bytes, and spans of the file, in the order in which they are sent.
    pieces: List[Union[bytes, Span]]
    # The fields that describe the body: its type, its length, and its range if it has one.
    fields: Dict[str, str]
    # Bytes of all pieces together.
    length: int


def whole_or_partial_body(
    ranges: Sequence[ByteRange], size: int, media_type: str, boundary: str
) -> Body:
    """Return the body that has *ranges*, or everything if there are none, of a file of *size* bytes
    and this *media_type*. *boundary* separates several ranges (RFC 9110, section 14.6)."""
    fields = {"Content-Type": media_type}
    pieces: List[Union[bytes, Span]] = []
    if not ranges:
        pieces.append((0, size))
    elif len(ranges) == 1:
        fields["Content-Range"] = content_range(ranges[0], size)
        pieces.append((ranges[0].start, ranges[0].stop))
    else:
        fields["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        for each in ranges:
            head = (
                f"\r\n--{boundary}\r\n"
                f"Content-Type: {media_type}\r\n"
                f"Content-Range: {content_range(each, size)}\r\n"
                "\r\n"
            )
            pieces.append(head.encode())
            pieces.append((each.start, each.stop))
        pieces.append(f"\r\n--{boundary}--\r\n".encode())
    length = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            length += len(piece)
        else:
            start, stop = piece
            length += stop - start
    fields["Content-Length"] = str(length)
    return Body(pieces, fields, length)


def content_range(each: ByteRange, size: int) -> str:
    return f"bytes {each.start}-{each.stop - 1}/{size}"


def response_head(version: str, status: int, phrase: str, fields: Mapping[str, str]) -> bytes:
    """Return the head of an answer: status line, the *fields* in their order, an empty line."""
    lines = [f"{version} {status} {phrase}"]
    for name, value in fields.items():
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# --- Channel ----------------------------------------------------------------------------
# One socket, and how many bytes were handed over to it and acknowledged. No other section counts
# bytes. The socket does not block: a call hands over as much as fits into the send queue and
# returns, so the number of bytes handed over is exact at any moment, and
#
#     acknowledged = handed over - still in the send queue
#     transmitted  = handed over - not yet sent
#
# The thread of the connection sends, receives and waits. Other threads only call methods that never
# wait: ``refresh``, ``look_for_end``, ``note_progress``, ``limit_rate``, ``abort`` and ``close``.

# Linux: asks how many bytes in the send queue have not been sent yet (linux/sockios.h).
SIOCOUTQNSD = 0x894B
# macOS: asks how many bytes are in the send queue. On OpenBSD the number means another option.
SO_NWRITE = 0x1024
# macOS empties the send queue when a connection is reset, although nothing was acknowledged.
RESET_EMPTIES_QUEUE = sys.platform == "darwin"
# Linux: the highest rate of a socket, in bytes a second (asm-generic/socket.h).
SO_MAX_PACING_RATE = 47
LINGER_FORMAT = "ii" if fcntl else "HH"  # of struct linger; the fields are shorter on Windows
MAX_PACING_RATE = 0xFFFFFFFF  # bytes a second, which Linux takes for "no limit"
TLS_RECORD = 1 << 14  # bytes of content in the longest record (RFC 8446, section 5.1)
TLS_OVERHEAD = 22  # bytes that TLS 1.3 adds to a record; TLS 1.2 adds a few more
# Bytes per call of sendfile. A call reports progress only when it returns: with a slow disk, a
# larger step would look like a stalled receiver.
SENDFILE_STEP = 1 << 20
COPY_STEP = 1 << 16  # bytes that are read and sent at a time where sendfile is not used
# How to wait for a socket. selectors.DefaultSelector would need a descriptor for each wait.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
# Seconds of one wait. Where there is only select (Windows), abort() in another thread ends no wait.
MAX_WAIT = 60 if hasattr(select, "poll") else 2
# sendfile fails with these where a file system or a sandbox does not support it. ENOTCONN is the
# answer of an sshfs that has gone.
SENDFILE_ERRNOS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTCONN)
# What a socket's last error is after a reset.
RESET_ERRNOS = (errno.ECONNRESET, errno.EPIPE)
# Errors of the network for which Python has no exception class of their own.
NETWORK_ERRNOS = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN)


def is_tls_error(error: Optional[BaseException]) -> bool:
    """Return whether OpenSSL has raised *error*. Without TLS its module is not loaded."""
    module = sys.modules.get("ssl")
    return module is not None and isinstance(error, module.SSLError)


def describe_local_failure(error: BaseException) -> str:
    """Return in a few words how the disk or the program failed; "" for a failure of the network."""
    if isinstance(error, (ConnectionError, TimeoutError, socket.timeout)):
        return ""
    if is_tls_error(error) or getattr(error, "errno", None) in NETWORK_ERRNOS:
        return ""
    words = getattr(error, "strerror", None) or str(error)
    if not words:
        return type(error).__name__
    return str(words)


def wait_for_socket(sock: socket.socket, event: int, seconds: float) -> bool:
    """Wait at most *seconds* until *sock* is ready for EVENT_READ or EVENT_WRITE, or has failed.
    Return whether it is. Raise OSError if another thread has closed it."""
    descriptor = sock.fileno()
    if descriptor < 0:
        raise ConnectionAbortedError
    with Selector() as selector:
        selector.register(descriptor, event)
        return bool(selector.select(seconds))


def is_peer_gone(sock: socket.socket) -> bool:
    """Return whether the receiver has closed its side of the connection, or has reset it; False
    where the system does not tell."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in poller.poll(0))


def count_unacknowledged(sock: socket.socket) -> Optional[int]:
    """Return how many bytes wait in the send queue; None where the system does not tell."""
    if sys.platform == "darwin":
        return sock.getsockopt(socket.SOL_SOCKET, SO_NWRITE)
    if fcntl is None:
        return None
    # Linux' SIOCOUTQ has the same number as TIOCOUTQ, the request for terminals, and only that has
    # a name in Python. The BSDs answer ENOTTY.
    return ask_number(sock, termios.TIOCOUTQ)


def count_untransmitted(sock: socket.socket) -> Optional[int]:
    """Return how many bytes have not left the machine; None where the system does not tell."""
    if fcntl is None:
        return None
    return ask_number(sock, SIOCOUTQNSD)


def ask_number(sock: socket.socket, request: int) -> Optional[int]:
    """Return the number that the kernel answers to an ioctl *request*; None if it knows none."""
    try:
        answer = fcntl.ioctl(sock, request, bytes(4))
    except OSError:
        return None
    return int.from_bytes(answer, sys.byteorder)


def supports_rate_limit() -> bool:
    """Return whether the system can limit the rate of a socket."""
    with socket.socket() as probe:
        rate = 1 << 20
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("I", rate))
            return probe.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) == rate
        except OSError:
            return False


class Channel:
    """One connected socket and its counts; positions count from the first byte handed over."""

    def __init__(self, sock: socket.socket, clock: Clock = time.monotonic) -> None:
        """*sock*: a connected socket, which may be one of TLS."""
        sock.setblocking(False)
        self._socket = sock
        # Tells the time in seconds.
        self._clock = clock
        # Whether the channel speaks TLS.
        self._is_tls = hasattr(sock, "do_handshake")
        # What OpenSSL raises when it must wait for input or output. A write may have to wait for
        # input, and a read for output.
        self._tls_wants_input: Tuple[Any, ...] = ()
        self._tls_wants_output: Tuple[Any, ...] = ()
        if self._is_tls:
            import ssl

            self._tls_wants_input = (ssl.SSLWantReadError,)
            self._tls_wants_output = (ssl.SSLWantWriteError,)
        # Whether to try sendfile; False once it has failed.
        self._can_sendfile = hasattr(os, "sendfile") and not self._is_tls
        # Whether the system tells what was acknowledged. Where it does not, a byte counts once it
        # was handed over.
        self.reports_acknowledgements = count_unacknowledged(sock) is not None
        # The file that sendfile sent last. The send queue refers to its pages, not to a copy: if
        # the file changes now, the receiver gets the changed bytes.
        self.file_in_queue: Optional[PinnedFile] = None
        # Bytes that the receiver has sent, and the thread of the connection has read.
        self.received = 0
        # Bytes that were handed over to the system.
        self.handed_over = 0
        # Bytes that the receiver's system has acknowledged, when ``refresh`` was last called.
        self.acknowledged = 0
        # Bytes that have left the machine at least once, likewise, as far as the system tells.
        self.transmitted = 0
        # Whether the receiver, or the network, has ended the connection by an error.
        self.is_reset = False
        # Whether the receiver has closed its side, or reset, when ``look_for_end`` was last called.
        self.has_peer_left = False
        # Whether this program has said that it sends nothing more.
        self._has_finished = False
        # Whether this program has given the connection up.
        self._is_aborted = False
        # When the receiver last made progress: an acknowledgement, a request, or the end of a
        # transfer. A connection that makes none for too long is ended (--timeout).
        self.last_progress = clock()

    @property
    def unacknowledged(self) -> int:
        return self.handed_over - self.acknowledged

    def note_progress(self) -> None:
        """Let the time limit begin anew."""
        self.last_progress = self._clock()

    def note_reset(self) -> None:
        """Remember that a call has failed with an error that only a reset explains."""
        self.is_reset = True

    def refresh(self) -> None:
        """Ask the system what was acknowledged, what has left, and whether there was a reset."""
        # Copied before the queue is asked for: bytes that the thread of the connection hands over
        # in between must not count as acknowledged.
        handed_over = self.handed_over
        try:
            # SO_ERROR reports an error only once, so remember a reset. While a network is down,
            # Linux reports unreachable hosts here, from which a connection recovers.
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in RESET_ERRNOS:
                self.note_reset()
            if RESET_EMPTIES_QUEUE and (self.is_reset or self._is_aborted):
                # Keep the counts that were true before the reset.
                return
            # Where the system does not tell, nothing counts as waiting.
            unacknowledged = self._content_of(count_unacknowledged(self._socket) or 0)
            untransmitted: Optional[int] = 0
            if unacknowledged:
                untransmitted = count_untransmitted(self._socket)
        except (OSError, ValueError):
            # Closed.
            return
        if untransmitted is not None:
            transmitted = handed_over - self._content_of(untransmitted)
            if self._is_tls:
                # OpenSSL counts a record as handed over when all of it is in the queue, so up to
                # one record more may have left already.
                transmitted = min(transmitted + TLS_RECORD, handed_over)
            self.transmitted = max(self.transmitted, transmitted)
        if handed_over - unacknowledged > self.acknowledged:
            self.acknowledged = handed_over - unacknowledged
            self.note_progress()
        # Bytes that were handed over between the two questions count as not transmitted.
        self.transmitted = max(self.transmitted, self.acknowledged)

    def look_for_end(self) -> None:
        """Find out whether the receiver has closed its side.

        A program that is killed may close before the reset comes. And the operating system reports
        a reset only once, perhaps to another thread, which has not called ``note_reset`` yet.
        """
        try:
            self.has_peer_left = self.has_peer_left or is_peer_gone(self._socket)
        except (OSError, ValueError):
            # Closed.
            self.has_peer_left = True

    def _content_of(self, queued: int) -> int:
        """Return how many bytes of content are in *queued* bytes of the send queue."""
        if not self._is_tls:
            return queued
        # Rounded up, so that nothing counts as acknowledged too early.
        return math.ceil(queued * TLS_RECORD / (TLS_RECORD + TLS_OVERHEAD))

    def wait_for_input(self, seconds: float) -> bool:
        """Return whether the receiver has sent something, closed or reset within *seconds*. Raise
        OSError for a reset on systems where ``refresh`` may not notice it."""
        has_input = wait_for_socket(self._socket, EVENT_READ, seconds)
        if has_input and not self.reports_acknowledgements:
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        return has_input

    def _wait(self, event: int) -> None:
        """Wait until the socket is ready for EVENT_READ or EVENT_WRITE. Raise
        ConnectionAbortedError after ``abort``."""
        is_ready = False
        while not is_ready:
            if self._is_aborted:
                raise ConnectionAbortedError
            is_ready = wait_for_socket(self._socket, event, MAX_WAIT)

    def _repeat(self, call: Callable[[], Any], event: int) -> Any:
        """Call *call* again after each *event* it has to wait for; return its result. Raise
        OSError."""
        while True:
            try:
                return call()
            except BlockingIOError:
                self._wait(event)
            except self._tls_wants_input:
                self._wait(EVENT_READ)
            except self._tls_wants_output:
                self._wait(EVENT_WRITE)

    def handshake(self) -> None:
        """Begin TLS where the channel is to speak it. Raise OSError."""
        if self._is_tls:
            self._repeat(self._socket.do_handshake, EVENT_READ)  # type: ignore[attr-defined]

    def receive_into(self, buffer: Any) -> int:
        """Fill *buffer* with what the receiver sends next; return how many bytes, 0 at the end.
        Raise OSError."""

        def receive() -> int:
            if self._is_tls and self._is_at_end():
                return 0
            return self._socket.recv_into(buffer)

        count = int(self._repeat(receive, EVENT_READ))
        self.received += count
        return count

    def _is_at_end(self) -> bool:
        """Return whether the receiver has closed; False if there is input. Raise BlockingIOError if
        there is neither yet, and other OSErrors.

        OpenSSL answers a mere FIN with an alert, and the receiver answers that with a reset. So the
        end is looked for before OpenSSL sees it.
        """
        if self._socket.pending():  # type: ignore[attr-defined]
            return False
        return not socket.socket.recv(self._socket, 1, socket.MSG_PEEK)

    def discard_input(self) -> None:
        """Read until the receiver closes. Raise OSError.

        To close a socket with unread input would reset the connection, and the receiver would lose
        what it has not read yet (RFC 9112, section 9.6).
        """

        def discard() -> bytes:
            # Past OpenSSL, for the reason that ``_is_at_end`` gives.
            return socket.socket.recv(self._socket, COPY_STEP)

        while self._repeat(discard, EVENT_READ):
            pass

    def send(self, parts: Iterable[Part]) -> None:
        """Hand *parts* over. Raise OSError and FileChanged."""
        # The previous response has been acknowledged, so its file need not be checked any more.
        self.file_in_queue = None
        buffer = bytearray()
        try:
            for part in parts:
                if isinstance(part, bytes):
                    buffer += part
                else:
                    self._send_copy(buffer)
                    self._send_file(part)
                if len(buffer) >= COPY_STEP:
                    self._send_copy(buffer)
        except FileChanged:
            # The bytes before the changed file are as they should be.
            self._send_copy(buffer)
            raise
        self._send_copy(buffer)

    def _send_copy(self, buffer: bytearray) -> None:
        """Hand *buffer* over, and empty it."""
        step = len(buffer)
        if self._is_tls:
            # OpenSSL counts whole records only, so hand over one record at a time.
            step = TLS_RECORD
        start = 0
        with memoryview(buffer) as view:
            while start < len(view):
                with view[start : start + step] as data:
                    send = functools.partial(self._socket.send, data)
                    sent = self._repeat(send, EVENT_WRITE)
                self.handed_over += sent
                start += sent
        buffer.clear()

    def _send_file(self, span: FileSpan) -> None:
        """Hand over a span of a file, in steps before each of which the file must be unchanged."""
        start = span.start
        while start < span.stop:
            length = span.stop - start
            if self._can_sendfile:
                span.file.ensure_unchanged()
                start += self._send_pages(span.file, start, min(length, SENDFILE_STEP))
            else:
                # This checks the file as well.
                data = span.file.read(start, start + min(length, COPY_STEP))
                self._send_copy(bytearray(data))
                start += len(data)

    def _send_pages(self, file: PinnedFile, start: int, length: int) -> int:
        """Hand over at most *length* bytes of *file* by sendfile; return how many.

        Return 0 if nothing was sent. The caller tries again, with copies if sendfile has failed.
        """
        self.file_in_queue = file
        try:
            sent = os.sendfile(self._socket.fileno(), file.fileno(), start, length)
        except BlockingIOError:
            self._wait(EVENT_WRITE)
            return 0
        except OSError as error:
            if error.errno not in SENDFILE_ERRNOS:
                raise
            sent = 0
        if sent == 0:
            # Some file systems refuse; others return no bytes although there are some.
            self._can_sendfile = False
        self.handed_over += sent
        if sent < length and self._can_sendfile:
            # The queue is full.
            self._wait(EVENT_WRITE)
        return sent

    def limit_rate(self, rate: int) -> None:
        """Let the system send at most *rate* bytes a second."""
        value = struct.pack("I", min(rate, MAX_PACING_RATE))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, value)
        except OSError:
            # Closed.
            pass

    def finish_writing(self) -> None:
        """Say that nothing more comes. Raise OSError."""
        if not self._has_finished:
            self._has_finished = True
            # SSLSocket.shutdown would discard the TLS layer, here and in ``abort``.
            socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def abort(self) -> None:
        """End the connection; its own thread, if it waits for the socket, wakes up."""
        self._is_aborted = True
        try:
            if self.unacknowledged or not self.reports_acknowledgements:
                # Let the system drop what the receiver does not take.
                linger = struct.pack(LINGER_FORMAT, 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            # Reset, or closed.
            pass

    def close(self) -> None:
        """Close the socket. The system still sends what was handed over; Windows would not if the
        process ended with the socket open."""
        self._socket.close()


class ChannelReader(io.RawIOBase):
    """The input of a channel as a file, for http.server to read lines from."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._channel.receive_into(buffer)

    def tell(self) -> int:
        """Return how many bytes were read. A BufferedReader subtracts those that it holds."""
        return self._channel.received


# --- Downloads: decisions -----------------------------------------------------------------
# Which download a request belongs to, how a transfer has ended, and what has become of a download.
# Everything here computes from what it is given: no lock, no log, no disk.
#
# A transfer is the body of one response. A download is all transfers by which one receiver fetches
# one version of one offer. A transfer *left off* at its first byte that is not acknowledged; a
# request that begins there resumes it. A download always has the same receiver: one that resumes at
# another address, or with another program, gets a download of its own, which inherits what the
# earlier one has received.
#
#   outcome of a transfer   when
#   ACTIVE                  it has begun
#   FINISHED                everything is acknowledged, its file was unchanged, and its receiver
#                           has asked for more, has closed, or sends no reset for half a second
#                           (where the system reports no acknowledgements, a body of more than
#                           64 KiB: only when the receiver asks for more, or closes)
#   BROKEN                  the connection was reset or gave no progress, or the file changed
#
#   status of a download    when                                                       log line
#   UNDER_WAY               a request joins it                        at the first: 200 or 206
#   DELIVERED               it was UNDER_WAY or PAUSED, every byte has arrived, and
#                           all of its active transfers linger;
#                           or one response with everything has FINISHED             delivered.
#   PAUSED                  it was UNDER_WAY, it is not whole, and nothing was
#                           active for half a second      req finished. or req terminated.
#
# A transfer lingers when its receiver seems to have given it up: see ``Transfer.is_lingering``.

CHECK_INTERVAL = 0.2  # seconds between two checks of all connections
RESET_GRACE = 0.5  # seconds in which a reset may still follow the last acknowledgement
PAUSE_AFTER = 0.5  # seconds after which a download with nothing active is paused
QUIET_AFTER = 0.3  # seconds without an acknowledgement after which another receiver may resume
STALLED_AFTER = 3  # seconds without an acknowledgement after which a receiver is stalled
MAX_UNREAD = 8 << 20  # bytes that a receiver's system may acknowledge before a program reads them
PROBE_LIMIT = 1 << 20  # bytes; a download of one request that got fewer may be a probe
MAX_ENDED_TRANSFERS = 64  # transfers of a download that have ended and may still be resumed
MAX_SPANS = 1000  # spans of a download; one with more is forgotten
MAX_PROGRAM = 16  # characters of a program's name in rows and in the summary


class Receiver(NamedTuple):
    """One program on one machine, as far as a server can tell."""

    address: str
    agent: str  # the User-Agent field; "" if there is none


class Row(NamedTuple):
    """A download under way, as the terminal shows it."""

    name: str
    receiver: str  # the address, and the program where two receivers have the same address
    arrived: int  # bytes
    size: int  # bytes
    rate: float  # bytes a second, over the last few seconds
    idle: float  # seconds since the last acknowledgement

    @property
    def is_stalled(self) -> bool:
        return self.idle >= STALLED_AFTER


class View(NamedTuple):
    """What the last lines of a terminal show."""

    rows: Sequence[Row]  # downloads under way
    more: int  # how many others there are
    note: str  # the last line, "" if there is nothing to say


class Outcome(enum.Enum):
    """How a transfer has ended: see the table above."""

    ACTIVE = enum.auto()
    FINISHED = enum.auto()
    BROKEN = enum.auto()


class Status(enum.Enum):
    """What has become of a download: see the table above."""

    UNDER_WAY = enum.auto()
    PAUSED = enum.auto()
    DELIVERED = enum.auto()


class Resumption(NamedTuple):
    """Where a receiver has resumed a transfer, and how far the transfer had come by then."""

    offset: int  # in the file
    # Bytes of the body that had left by then. Only bytes beyond these are progress: the FIN of a
    # killed client acknowledges bytes before, of which a broken network had lost the
    # acknowledgement.
    transmitted: int


def unite(spans: Iterable[Span]) -> List[Span]:
    """Return the bytes of *spans* in order, as spans that neither overlap nor touch."""
    united: List[Span] = []
    for start, stop in sorted(spans):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(stop, united[-1][1]))
        elif start < stop:
            united.append((start, stop))
    return united


def count_bytes(spans: Iterable[Span]) -> int:
    """Return how many bytes *spans* have together."""
    return sum(stop - start for start, stop in spans)


class Transfer:
    """One response body: what of which version it sends to which receiver, and how far it is."""

    def __init__(
        self,
        channel: Channel,
        receiver: Receiver,
        request_line: str,
        name: str,
        version: Version,
        ranges: Sequence[ByteRange],
        knows_version: bool = False,
    ) -> None:
        """*ranges*: of the Range field, or none for the whole file; *knows_version*: whether the
        receiver has told by If-Range or If-Match that its bytes are of this version."""
        self.channel = channel
        self.receiver = receiver
        self.request_line = request_line
        self.name = name
        self.version = version
        self.knows_version = knows_version
        # How the range was written; None for a request without one, or with several.
        self.form: Optional[RangeForm] = None
        if len(ranges) == 1:
            self.form = ranges[0].form
        # Whether the request had a Range field that was honoured.
        self.has_range = bool(ranges)
        # What the body has of the file, in the order in which it is sent.
        self.spans: List[Span] = [(0, version.size)]
        if ranges:
            self.spans = [(each.start, each.stop) for each in ranges]
        # Where the body begins in the channel, and its length in bytes, which for several ranges is
        # more than that of the spans. Both are known once the head is written.
        self._position: Optional[int] = None
        self._length = count_bytes(self.spans)
        # The receivers that have resumed this transfer, each at most once, and where they did.
        self._resumptions: Dict[Receiver, Resumption] = {}
        self.outcome = Outcome.ACTIVE
        # What broke it, in words; "" for the network.
        self.failure = ""

    @property
    def first(self) -> int:
        """The first byte of the file that the request asked for."""
        return self.spans[0][0]

    @property
    def asks_for_everything(self) -> bool:
        return count_bytes(self.spans) == self.version.size

    @property
    def reaches_end(self) -> bool:
        """Whether the request was for one range that ends with the file."""
        return len(self.spans) == 1 and self.spans[0][1] == self.version.size

    @property
    def resumes_unknown_version(self) -> bool:
        """Whether the request begins behind the first byte, and does not tell of which version the
        bytes before are, if the receiver has them."""
        return self.first > 0 and not self.knows_version and self.form is not RangeForm.SUFFIX

    def begin_body(self, position: int, length: int) -> None:
        """Note that *length* bytes of body follow at *position* of the channel."""
        # Another thread may look at the transfer in between: it has no body without a position.
        self._length = length
        self._position = position

    def end(self, outcome: Outcome, failure: str = "") -> None:
        """Note how it has ended; *failure*: what broke it, "" for the network."""
        self.outcome = outcome
        self.failure = failure

    def note_resumed(self, receiver: Receiver, offset: int) -> None:
        """Note that *receiver* has asked for the bytes from *offset* on."""
        self._resumptions[receiver] = Resumption(offset, self.transmitted())

    def is_longer_than(self, count: int) -> bool:
        """Return whether the body has more than *count* bytes."""
        return self._length > count

    def is_broken_off(self, arrived: Sequence[Span]) -> bool:
        """Return whether it broke, its receiver has not resumed it, and the rest of it is not among
        the spans that have *arrived*: aria2 ends a segment early if another one has the rest."""
        if self.outcome is not Outcome.BROKEN or self.receiver in self._resumptions:
            return False
        if len(self.spans) > 1:
            # How much of which range has arrived is not known.
            return True
        # The last byte of a broken transfer counts as missing even if it is acknowledged (see
        # ``arrived``).
        rest_stop = self.spans[0][1]
        rest_start = min(self.resume_offset(), rest_stop - 1)
        return not any(start <= rest_start and rest_stop <= stop for start, stop in arrived)

    def _body_bytes_before(self, position: int) -> int:
        """Return how many bytes of the body lie before *position* of the channel."""
        if self._position is None:
            return 0
        return min(max(position - self._position, 0), self._length)

    def acknowledged(self) -> int:
        """Return how many bytes of the body are acknowledged."""
        return self._body_bytes_before(self.channel.acknowledged)

    def transmitted(self) -> int:
        """Return how many bytes of the body have left, as far as the system tells."""
        return max(self._body_bytes_before(self.channel.transmitted), self.acknowledged())

    def is_acknowledged(self) -> bool:
        """Return whether the whole body is acknowledged."""
        # Not by the count of body bytes: an empty body has arrived only with the head before it.
        if self._position is None:
            return False
        return self.channel.acknowledged >= self._position + self._length

    def resume_offset(self) -> int:
        """Return the first byte of the file that is not acknowledged; only for a single range."""
        return self.first + self.acknowledged()

    def may_be_resumed(self, receiver: Receiver, offset: int) -> bool:
        """Return whether *receiver*, if it has what this transfer sent, would ask for *offset*."""
        if len(self.spans) > 1 or receiver in self._resumptions:
            return False
        start, stop = self.spans[0]
        if self.outcome is Outcome.FINISHED:
            # yt-dlp and wget2 --chunk-size ask for one closed range after the other. The next one
            # counts as resuming.
            return receiver == self.receiver and offset == stop
        if not start < offset < stop:
            # A receiver that begins at the first byte again has nothing of it.
            return False
        left_off = self.resume_offset()
        # Lower bound: a killed program has not read everything that its system acknowledged. Upper
        # bound: acknowledgements may be lost with the network, or late.
        return left_off - MAX_UNREAD <= offset <= start + self.transmitted()

    def arrived(self) -> List[Span]:
        """Return the bytes of the file that the receiver has got by this transfer."""
        if self.outcome is Outcome.FINISHED:
            return self.spans
        if len(self.spans) > 1:
            # Where the ranges are in the body is not known here.
            return []
        start, stop = self.spans[0]
        arrived_stop = self.resume_offset()
        if self._is_abandoned():
            # The receiver has asked for what follows, so it has the bytes before.
            arrived_stop = max(arrived_stop, self._resumptions[self.receiver].offset)
        # The last byte counts only when the transfer has finished: a receiver that resets a
        # connection has not read it.
        return [(start, min(arrived_stop, stop - 1))]

    def _is_abandoned(self) -> bool:
        """Return whether its receiver has resumed it, and it made no progress since."""
        resumption = self._resumptions.get(self.receiver)
        return resumption is not None and self.acknowledged() <= resumption.transmitted

    def is_lingering(self, now: float, asked_at: float) -> bool:
        """Return whether its receiver, whose download was asked for last at *asked_at*, seems to
        have given it up.

        The connection of a broken network stays open for a minute. So a transfer lingers if it
        makes no progress after its receiver has resumed it; or if it is stalled, and another
        receiver has resumed it, or its own receiver has sent a request since its last progress.
        """
        if self._is_abandoned():
            return True
        last_progress = self.channel.last_progress
        if now - last_progress < STALLED_AFTER:
            return False
        has_been_resumed = bool(self._resumptions)
        return has_been_resumed or asked_at > last_progress


class Session:
    """A stretch of time in which a download is under way, from a request to the next pause."""

    def __init__(self, request_line: str, now: float, arrived: int, acknowledged: int) -> None:
        """*arrived*: bytes that the receiver has by now; *acknowledged*: bytes that were sent and
        acknowledged, counted twice if they were sent twice."""
        # The request that began it, which its log lines quote.
        self.request_line = request_line
        self.began_at = now
        self.arrived_at_start = arrived
        # When bytes of ended transfers were last acknowledged, and when the last of them ended.
        self.last_progress = now
        self.last_ended = now
        # The last transfers of this session that broke.
        self._broken: Deque[Transfer] = deque(maxlen=MAX_ENDED_TRANSFERS)
        # Times, and bytes that had been acknowledged by then, for the rate of the last seconds.
        self._samples: Deque[Tuple[float, int]] = deque([(now, acknowledged)], maxlen=5)
        # When the last line about progress was logged, and at how many tenths of the file.
        self.reported_at = now
        self.reported_tenths = 0

    def note_ended(self, transfer: Transfer, now: float) -> None:
        """Note that *transfer* has ended."""
        self.last_progress = max(self.last_progress, transfer.channel.last_progress)
        self.last_ended = now
        if transfer.outcome is Outcome.BROKEN:
            self._broken.append(transfer)

    def broken_off(self, arrived: Sequence[Span]) -> Optional[Transfer]:
        """Return the transfer that broke off last; *arrived*: what the receiver has by now."""
        for transfer in reversed(self._broken):
            if transfer.is_broken_off(arrived):
                return transfer
        return None

    def note_report(self, now: float, tenths: int) -> None:
        """Note that progress was logged."""
        self.reported_at = now
        self.reported_tenths = tenths

    def add_sample(self, now: float, acknowledged: int) -> None:
        """Remember how far the download is, once a second."""
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, acknowledged))

    def rate(self, now: float, acknowledged: int) -> float:
        """Return how many bytes a second were acknowledged in the last seconds."""
        then, before = self._samples[0]
        return (acknowledged - before) / max(now - then, CHECK_INTERVAL)


class Download:
    """All transfers by which one receiver fetches one version of one offer."""

    def __init__(self, first: Transfer, now: float) -> None:
        """Make the download that *first* is to join."""
        self.receiver = first.receiver
        self.name = first.name
        # The version that was asked for last; if the file has grown, an older one is a part of it.
        self.version = first.version
        # PAUSED until the first transfer joins.
        self.status = Status.PAUSED
        # How many requests have joined it, and when the last one did.
        self.requests = 0
        self.asked_at = now
        # The present stretch of time in which it is under way, or the last one.
        self.session = Session(first.request_line, now, 0, 0)
        # Transfers that have not ended.
        self.active: List[Transfer] = []
        # Transfers that have ended, the last ones of them.
        self.ended: Deque[Transfer] = deque(maxlen=MAX_ENDED_TRANSFERS)
        # What arrived by transfers that have ended, or was inherited.
        self._ended_spans: List[Span] = []
        # Bytes that were acknowledged of transfers that have ended.
        self._ended_bytes = 0
        # How many bytes, from the first one on, the receiver had before this program was started.
        self.claimed = 0
        # Another receiver that has gone on with it, and how many bytes of it had been transmitted
        # by then. Such a download is superseded. It is outdated if its own receiver asks for
        # another version.
        self.superseded_by: Optional[Receiver] = None
        self._transmitted_before = 0
        # When the log last told of a refused request: one that would have continued this download
        # with bytes of another version.
        self._refused_at = -math.inf

    # What happens to it. The registry calls these.

    def join(self, transfer: Transfer, now: float) -> None:
        """Add *transfer*, whose request is answered now."""
        self.version = transfer.version
        self.requests += 1
        self.asked_at = now
        self.superseded_by = None
        self._refused_at = -math.inf
        self.active.append(transfer)
        if self.status is not Status.UNDER_WAY:
            arrived = count_bytes(self.arrived())
            self.session = Session(transfer.request_line, now, arrived, self.acknowledged())
            self.status = Status.UNDER_WAY

    def claim(self, count: int) -> None:
        """Assume that the receiver had the first *count* bytes before this program was started."""
        self.claimed = count

    def add_arrived(self, spans: Iterable[Span]) -> None:
        """Count *spans* as arrived, by transfers that have ended or by another receiver."""
        self._ended_spans = unite([*self._ended_spans, *spans])

    def note_superseded(self, receiver: Receiver) -> None:
        """Note that *receiver*, another one than its own, goes on with it."""
        self.superseded_by = receiver
        transmitted = sum(transfer.transmitted() for transfer in self.active)
        self._transmitted_before = self._ended_bytes + transmitted

    def note_ended(self, transfer: Transfer, now: float) -> None:
        """Move *transfer* from the active to the ended transfers, and count its bytes."""
        self.active.remove(transfer)
        self.ended.append(transfer)
        self.add_arrived(transfer.arrived())
        self._ended_bytes += transfer.acknowledged()
        self.session.note_ended(transfer, now)

    def note_resumed(self, transfer: Transfer, receiver: Receiver, offset: int) -> None:
        """Note that *receiver* resumes *transfer*, one of this download, at *offset*."""
        transfer.note_resumed(receiver, offset)
        if transfer.outcome is not Outcome.ACTIVE and receiver == self.receiver:
            # It counts as abandoned now, so more of it may have arrived.
            self.add_arrived(transfer.arrived())

    def note_refused(self, now: float) -> None:
        """Note that the log tells of a refused request, which would have gone on with it."""
        self._refused_at = now

    def pause(self) -> None:
        self.status = Status.PAUSED

    def deliver(self) -> None:
        """Note that the receiver has the whole version."""
        self.status = Status.DELIVERED
        self._ended_spans = [(0, self.version.size)]
        self.ended.clear()

    # What is known of it.

    def acknowledged(self) -> int:
        """Return how many bytes were acknowledged, those that were sent twice counted twice."""
        return self._ended_bytes + sum(transfer.acknowledged() for transfer in self.active)

    def arrived(self) -> List[Span]:
        """Return the bytes that the receiver has got from this program."""
        spans = list(self._ended_spans)
        for transfer in self.active:
            spans += transfer.arrived()
        return unite(spans)

    def held(self) -> List[Span]:
        """Return what the receiver has, with what it had before this start."""
        return unite([*self.arrived(), (0, self.claimed)])

    def is_whole(self) -> bool:
        """Return whether every byte has arrived. (An empty file is delivered by one response.)"""
        return self.held() == [(0, self.version.size)]

    def is_active(self, now: float) -> bool:
        """Return whether something of it is under way."""
        return any(not transfer.is_lingering(now, self.asked_at) for transfer in self.active)

    def is_quiet(self, now: float) -> bool:
        """Return whether nothing of it was acknowledged for a moment."""
        return all(now - each.channel.last_progress >= QUIET_AFTER for each in self.active)

    def has_or_expects(self, offset: int, now: float) -> bool:
        """Return whether the receiver has the byte at *offset* by it, or waits for it."""
        if self.status is Status.DELIVERED:
            return True
        spans = self.held()
        for transfer in (*self.active, *self.ended):
            # A transfer that was reset or given up will not bring its bytes any more.
            is_over = transfer.outcome is Outcome.BROKEN or transfer.channel.is_reset
            if not is_over and not transfer.is_lingering(now, self.asked_at):
                spans += transfer.spans
        return any(start <= offset < stop for start, stop in spans)

    def is_refused_since(self, then: float) -> bool:
        """Return whether the log has told of a refused request since *then*."""
        return self._refused_at > then

    def must_start_over(self) -> bool:
        """Return whether the file has changed, so that its receiver cannot go on."""
        return self.is_refused_since(-math.inf)

    def is_superseded(self) -> bool:
        """Return whether another receiver has gone on with it, and it made no progress since."""
        has_successor = self.superseded_by is not None
        return has_successor and self.acknowledged() <= self._transmitted_before

    def is_brief(self) -> bool:
        """Return whether it is a single request, without claimed bytes, that brought less than
        PROBE_LIMIT, and is over: it has ended, or ``look_for_end`` found that its receiver left."""
        if self.requests != 1 or self.status is Status.DELIVERED or self.claimed:
            return False
        for transfer in self.active:
            if not transfer.channel.is_reset and not transfer.channel.has_peer_left:
                return False
        return count_bytes(self.arrived()) < PROBE_LIMIT

    def is_probe(self) -> bool:
        """Return whether its receiver probably only probed the server, so that the request says
        nothing about the bytes that it has.

        A brief download is a probe, unless it asked for ``bytes=0-``. axel probes in this way, but
        other clients fetch a whole file in this way, which matters more.
        """
        if not self.is_brief():
            return False
        transfers = (*self.active, *self.ended)
        return not any(each.has_range and each.asks_for_everything for each in transfers)

    def broken_off(self) -> Optional[Transfer]:
        """Return the transfer of the present session that broke off last, if one did."""
        return self.session.broken_off(self.arrived())

    def has_failed(self) -> bool:
        """Return whether it broke off by a failure of this machine, not by the network."""
        broken = self.broken_off()
        return broken is not None and broken.failure != ""

    def is_aria2_probe(self) -> bool:
        """Return whether it is a probe as aria2 makes it: aria2 asks for everything, and resets
        that before it asks for the pieces that it lacks."""
        return self.is_probe() and self.has_asked_for_everything()

    def has_only_begun_everything(self) -> bool:
        """Return whether it is a single request for everything whose receiver has not left."""
        is_under_way = any(not each.channel.has_peer_left for each in self.active)
        return self.requests == 1 and is_under_way and self.has_asked_for_everything()

    def has_asked_for_everything(self) -> bool:
        """Return whether one of its requests was for everything."""
        return any(each.asks_for_everything for each in (*self.active, *self.ended))

    def has_got_all_it_asked_for(self) -> bool:
        """Return whether no transfer is active or broken off. Then, even if the file is not whole
        here, the receiver may have had the rest already."""
        arrived = self.arrived()
        is_broken = any(transfer.is_broken_off(arrived) for transfer in self.ended)
        return not self.active and not is_broken

    def has_too_many_spans(self) -> bool:
        """Return whether it is absurdly fragmented."""
        return len(self._ended_spans) > MAX_SPANS

    def row(self, label: str, now: float) -> Row:
        """Return how the terminal shows it; *label* names its receiver."""
        last_progress = self.session.last_progress
        for transfer in self.active:
            last_progress = max(last_progress, transfer.channel.last_progress)
        return Row(
            self.name,
            label,
            arrived=count_bytes(self.held()),
            size=self.version.size,
            rate=self.session.rate(now, self.acknowledged()),
            idle=now - last_progress,
        )

    def portion(self) -> str:
        """Return how much of the file the receiver has: "45% (640.0 MiB of 1.4 GiB)"."""
        count = count_bytes(self.held())
        size = self.version.size
        part = format_size(count)
        if count < size and part == format_size(size):
            part = f"all but {format_size(size - count)}"
        return f"{format_percentage(count, size)} ({part} of {format_size(size)})"


def is_whole_together(download: Download, partners: Sequence[Download]) -> bool:
    """Return whether the receiver of *download* has the whole by it and its *partners*."""
    spans = download.held()
    for partner in partners:
        spans += partner.held()
    return unite(spans) == [(0, download.version.size)]


# --- Which download a request belongs to.


class Match(NamedTuple):
    """What a request continues."""

    download: Download
    transfer: Optional[Transfer]  # the transfer that it resumes, if it is known
    # Whether the evidence tells only that the receiver has something, not where it stands.
    is_vague: bool = False


class Placement(NamedTuple):
    """Where a request belongs."""

    match: Optional[Match]  # what it goes on with; None if it begins something new
    joined: Optional[Download] = None  # the download that it becomes a part of; None: a new one
    is_refused: bool = False  # whether it would mix two versions: the answer is 409
    claimed: int = 0  # bytes that the receiver has from before this start


def is_continued_by(old: Version, new: Version, digests: Mapping[int, int]) -> bool:
    """Return whether a receiver may go on with *new* after a part of *old*.

    It may if the two are the same, or if *new* is the same file, appended to. *digests* maps the
    size of each older version to the digest of *new* before that offset.
    """
    if new.is_same(old):
        return True
    if old.end_digest == 0 or digests.get(old.size) != old.end_digest:
        # Another file, an archive, or one that is too small to be worth a digest.
        return False
    if new.size == old.size:
        # FUSE gives an unchanged file another inode when memory is short.
        return new.mtime_ns == old.mtime_ns
    return new.size > old.size and new.file_id == old.file_id


def find_outdated(downloads: Sequence[Download]) -> Set[Download]:
    """Return those of *downloads* whose receiver has asked for another version of the offer later.
    *downloads* are in the order in which they were asked for. A probe does not count as asking."""
    outdated: Set[Download] = set()
    later_tags: Dict[Tuple[str, Receiver], Set[str]] = {}
    for download in reversed(downloads):
        tags = later_tags.setdefault((download.name, download.receiver), set())
        if any(tag != download.version.etag for tag in tags):
            outdated.add(download)
        if not download.is_probe():
            tags.add(download.version.etag)
    return outdated


def nearest_left_off(request: Transfer, downloads: Iterable[Download]) -> Optional[Match]:
    """Return which of *downloads* left off nearest to where *request* begins."""
    nearest: Optional[Match] = None
    shortest_distance = math.inf
    for download in downloads:
        for offset, match in resumable_matches(request, download):
            distance = abs(offset - request.first)
            if distance < shortest_distance:
                nearest = match
                shortest_distance = distance
    return nearest


def resumable_matches(request: Transfer, download: Download) -> Iterator[Tuple[int, Match]]:
    """Yield what *request* may go on with in *download*, and the offset where that left off."""
    for transfer in (*download.active, *download.ended):
        if transfer.may_be_resumed(request.receiver, request.first):
            yield transfer.resume_offset(), Match(download, transfer)
    # A receiver that has all of an older version may ask for the bytes behind its end, or from a
    # little before it, where its program had read to.
    end = download.version.size
    is_near_end = end - MAX_UNREAD <= request.first <= end
    is_at_address = download.receiver.address == request.receiver.address
    is_older = not download.version.is_same(request.version)
    if download.status is Status.DELIVERED and is_older and is_near_end and is_at_address:
        yield end, Match(download, None)


class Known(NamedTuple):
    """The downloads of an offer as a request finds them, the one asked for last at the end."""

    current: List[Download]  # of the receiver itself, of the version that it asked for last
    outdated: List[Download]  # of the receiver itself, of older versions
    probes: List[Download]  # of the receiver itself; they are not in the other lists
    others: List[Download]  # of other receivers, of their last versions; probes among them
    outdated_of_others: List[Download]
    now: float

    @property
    def has_aria2_probe(self) -> bool:
        """Whether the receiver has asked for everything and broken that off, as aria2 does before
        it asks for the pieces that it lacks."""
        return any(download.is_aria2_probe() for download in self.probes)


def classify(downloads: Sequence[Download], receiver: Receiver, now: float) -> Known:
    """Divide *downloads* of an offer into those that matter for a request of *receiver*."""
    outdated = find_outdated(downloads)
    own = [each for each in downloads if each.receiver == receiver]
    probes = [each for each in own if each.is_probe()]
    others = [each for each in downloads if each.receiver != receiver]
    return Known(
        current=[each for each in own if each not in outdated and each not in probes],
        outdated=[each for each in own if each in outdated and each not in probes],
        probes=probes,
        others=[each for each in others if each not in outdated],
        outdated_of_others=[each for each in others if each in outdated],
        now=now,
    )


def left_off_by_itself(request: Transfer, known: Known) -> Optional[Match]:
    """Find the transfer of the same receiver that left off where *request* begins."""
    return nearest_left_off(request, known.current)


def left_off_by_predecessor(request: Transfer, known: Known) -> Optional[Match]:
    """Find the transfer that left off where *request* begins, in a probe or an older version of the
    receiver, or in a quiet download of another receiver. (Not if a current download of the receiver
    has the byte before, or expects it.) aria2 resumes every segment in this way, also in another
    network; and so does a receiver that comes back to its first network."""
    # A download that another receiver has gone on with says no longer what its own receiver has.
    in_use = [each for each in known.current if not each.is_superseded()]
    if request.form is RangeForm.OPEN and in_use:
        # Not a segment. curl and wget resume their own transfer, which was looked for before;
        # players jump about. Only a probe or an older version is left.
        return nearest_left_off(request, [*known.probes, *known.outdated])
    if any(download.has_or_expects(request.first - 1, known.now) for download in in_use):
        return None
    receiver = request.receiver
    successors = {download.superseded_by for download in known.current}
    quiet_others = []
    for download in known.others:
        is_related = download.superseded_by == receiver or download.receiver in successors
        if is_related or download.is_quiet(known.now):
            quiet_others.append(download)
    if known.has_aria2_probe:
        # aria2 may resume an older version. Its probe of the new version left off near the
        # beginning, which must not win because it is nearer to *request*.
        older = [
            each
            for each in (*known.outdated, *quiet_others)
            if each.receiver.address == receiver.address
            and not each.version.is_same(request.version)
        ]
        match = nearest_left_off(request, older)
        if match:
            return match
    return nearest_left_off(request, [*known.probes, *known.outdated, *quiet_others])


def asked_for_last(request: Transfer, known: Known) -> Optional[Match]:
    """Find what the receiver asked for last: *request* is a further segment of it, or begins where
    no transfer has been."""
    for download in reversed(known.current):
        is_same_version = download.version.is_same(request.version)
        if download.status is Status.DELIVERED and is_same_version:
            # The receiver has all of this version, so it asks for something new.
            continue
        return Match(download, None, is_vague=True)
    return None


def left_off_elsewhere(request: Transfer, known: Known) -> Optional[Match]:
    """Find the transfer of an older version, or of another receiver, that left off where *request*
    begins, though it may not be quiet yet: people resume in another network, or with another
    program."""
    for downloads in (known.outdated, known.others, known.outdated_of_others):
        match = nearest_left_off(request, downloads)
        if match:
            return match
    return None


def waiting_at_address(request: Transfer, known: Known) -> Optional[Match]:
    """Find a quiet download of another program at the same address if the receiver has only probed:
    aria2, which probes when it has a part of the file, goes on with what curl left off."""
    if not known.probes or known.current:
        return None
    for download in reversed(known.others):
        is_at_address = download.receiver.address == request.receiver.address
        is_left_alone = download.is_quiet(known.now) and not download.is_probe()
        if is_at_address and is_left_alone:
            return Match(download, None, is_vague=True)
    return None


# The evidence in the order of its rank. The first match decides, unless the request reads at
# random.
EVIDENCE = (
    left_off_by_itself,
    left_off_by_predecessor,
    asked_for_last,
    left_off_elsewhere,
    waiting_at_address,
)


def place(
    request: Transfer, downloads: Sequence[Download], digests: Mapping[int, int], now: float
) -> Placement:
    """Return where *request* belongs among *downloads* of its offer, the one asked for last at the
    end; *digests*: see ``is_continued_by``."""
    if request.asks_for_everything:
        return Placement(None)
    if not request.resumes_unknown_version:
        # It begins at the start, or has told its version: only downloads of this version matter.
        downloads = [each for each in downloads if each.version.is_same(request.version)]
    known = classify(downloads, request.receiver, now)
    for evidence in EVIDENCE:
        match = evidence(request, known)
        if match is None:
            continue
        if is_continued_by(match.download.version, request.version, digests):
            if may_inherit(request, match, known):
                return Placement(match, joined=joined_download(request, match, known))
        elif not reads_at_random(request, match, known):
            return Placement(match, is_refused=True)
    claimed = claimed_bytes(request, known)
    if claimed:
        return Placement(None, claimed=claimed)
    for probe in reversed(known.probes):
        is_same_version = probe.version.is_same(request.version)
        if is_same_version and not probe.is_aria2_probe():
            # Another small piece, as readers of archives ask for.
            return Placement(Match(probe, None), joined=probe)
    return Placement(None)


def reads_at_random(request: Transfer, match: Match, known: Known) -> bool:
    """Return whether *request*, although there is a *match* of another version, seems to go on with
    nothing: readers of archives ask for closed ranges here and there (remotezip, pip, fsspec).

    aria2 does so too, but it has asked for everything first, and goes on with what it has.
    """
    if not match.is_vague or request.form is RangeForm.OPEN:
        return False
    older = match.download
    is_fetching = older.is_active(known.now) and older.has_asked_for_everything()
    return not is_fetching and not known.has_aria2_probe


def may_inherit(request: Transfer, match: Match, known: Known) -> bool:
    """Return whether *request* tells that its receiver has what the download of *match* brought,
    which may have been another receiver's.

    A reader of archives begins with a range near the end of the file, where a download of somebody
    else may happen to have left off. So such a range tells something only if aria2 sends it, or a
    program that fetches the file in ranges (wget2 --chunk-size), as the other receiver did.
    """
    if match.download.receiver == request.receiver or request.form is RangeForm.OPEN:
        return True
    if request.form is not RangeForm.CLOSED:
        return False
    resumes_closed_range = match.transfer is not None and match.transfer.form is RangeForm.CLOSED
    return resumes_closed_range or known.has_aria2_probe


def joined_download(request: Transfer, match: Match, known: Known) -> Optional[Download]:
    """Return the download of its receiver that *request* becomes a part of; None for a new one.
    *match*: what it continues, which may belong to another receiver."""
    if match.download.receiver == request.receiver:
        return match.download
    for download in reversed(known.current):
        is_same_version = download.version.is_same(request.version)
        if is_same_version and download.status is not Status.DELIVERED:
            return download
    return None


def claimed_bytes(request: Transfer, known: Known) -> int:
    """Return how many bytes the receiver had before this program was started, if *request*
    continues nothing that is known.

    The first request of a receiver that resumes at a byte, and asks for the rest of the file, tells
    that it has the bytes before. A closed range tells so only after a probe as aria2 makes it:
    readers of archives begin with such a range as well.
    """
    if not request.reaches_end or known.current or known.outdated:
        return 0
    if request.form is RangeForm.OPEN:
        return request.first
    if request.form is RangeForm.CLOSED and known.has_aria2_probe:
        return request.first
    return 0


# --- What the log, the rows and the summary say of downloads.


def describe_pause(download: Download) -> str:
    """Return the log's words for a download that pauses before it is whole."""
    broken = download.broken_off()
    if broken is None:
        return describe_arrival(download, f" of {format_size(download.version.size)}")
    event = f"req terminated. at {download.portion()}"
    if broken.failure:
        event += f", {broken.failure}"
    return event


def describe_arrival(download: Download, of_size: str = "") -> str:
    """Return what arrived in this session: "req finished. 793.6 MiB, 6.1 s, 130.1 MiB/s"."""
    session = download.session
    arrived = count_bytes(download.arrived()) - session.arrived_at_start
    seconds = max(session.last_progress - session.began_at, 0.001)
    rate = format_size(arrived / seconds)
    return f"req finished. {format_size(arrived)}{of_size}, {seconds:.1f} s, {rate}/s"


def describe_delivery(download: Download, requests: int) -> str:
    """Return the log's words for a download that is whole after so many *requests*."""
    size = format_size(download.version.size)
    if download.claimed:
        before = format_size(download.claimed)
        return f"delivered. {size}, of which the first {before} before this start"
    return f"delivered. {size} in {pluralize(requests, 'request')}"


def program_name(agent: str) -> str:
    """Return what to call a program: "curl" for the User-Agent "curl/7.88.1"."""
    for browser in ("Edg", "Firefox", "Chrome", "Safari"):
        if f"{browser}/" in agent:
            return browser.lower()
    name = re.split("[/ (]", agent.strip(), maxsplit=1)[0]
    if not name:
        return "no User-Agent"
    return name[:MAX_PROGRAM].lower()


def receiver_label(receiver: Receiver, rivals: Iterable[Receiver]) -> str:
    """Return the address of *receiver*, and its program where another one of *rivals*, which fetch
    the same offer, has the same address."""
    for rival in rivals:
        if rival.address == receiver.address and rival != receiver:
            return f"{receiver.address} ({program_name(receiver.agent)})"
    return receiver.address


# --- Downloads: registry ------------------------------------------------------------------
# All channels and all downloads, behind the one lock of this program. Four events change them: a
# transfer begins (``begin``), a receiver says something (``on_input``), a connection fails
# (``on_error``), and time passes (``check_all``). Each notes facts, lets the decisions above judge
# them, and logs what has changed. The lock is never held while the disk, the network or the
# terminal is waited for: the log only queues lines, and the thread of a connection checks its file
# before it takes the lock.

FIRST_WAIT = 0.001  # seconds until a first look whether a response has arrived; then doubled
PROBE_GRACE = 1.0  # seconds in which a request for everything may still turn out to be a probe
MAX_RESTING = 1000  # downloads that are remembered although nothing of them is under way
MAX_EXAMINED = 64  # transfers or downloads that are looked at, at most, for one request
# Where the system reports no acknowledgements: bytes of the longest body that has finished without
# a sign of the receiver. A longer one has finished when the receiver closes.
MAX_CONFIRMED = 1 << 16
REPORT_INTERVAL = 60  # seconds between two lines about the progress of a download
STOP_TIME = 0.4  # seconds that transfers get to end when the program is stopped

# A function that logs an event. It takes the address of a receiver, a subject (a request line or
# the path of an offer), and the event.
Log = Callable[[str, str, str], None]


class Registry:
    """All connections and downloads: what is being sent, and what has arrived."""

    def __init__(
        self,
        log: Log,
        timeout: float = 60,
        max_deliveries: int = 0,
        named: Iterable[str] = (),
        rate_limit: int = 0,
        reports_progress: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        """*timeout*: seconds without progress that end a connection; *max_deliveries*: after how
        many deliveries, of each of *named* if there are any, to stop, or 0 for never;
        *rate_limit*: bytes a second for all receivers together, or 0; *reports_progress*: whether a
        long download makes a line now and then."""
        self.log = log
        self._timeout = timeout
        self._max_deliveries = max_deliveries
        self._rate_limit = rate_limit
        self._reports_progress = reports_progress
        # Tells the time in seconds, to the channels as well.
        self.clock = clock
        # Whether the program ends. Then no transfer waits for a reset that may still come.
        self._is_stopping = False
        # All channels, and the active transfer of each; None while nothing is sent on it.
        self._transfers: Dict[Channel, Optional[Transfer]] = {}
        # The download of each active transfer.
        self._download_of: Dict[Transfer, Download] = {}
        # All downloads that are remembered, the one asked for last at the end.
        self._downloads: List[Download] = []
        # How many deliveries each named offer has had, or all offers together under "".
        self._deliveries_by_name: Dict[str, int] = dict.fromkeys(named or [""], 0)
        # What was delivered to whom, how often.
        self._deliveries: Counter[Tuple[str, Receiver]] = Counter()
        # Protects all attributes above, and what Channel.refresh sets. Notified when a transfer has
        # ended.
        self._lock = threading.Condition()

    # A transfer begins.

    def sizes_to_digest(self, transfer: Transfer) -> Set[int]:
        """Return the sizes of older versions that *transfer* might go on with.

        The caller reads the bytes before each of these ends, and hands ``begin`` the digests, so
        that no disk is waited for here.
        """
        if not transfer.resumes_unknown_version:
            return set()
        with self._lock:
            versions = [each.version for each in self._of_offer(transfer.name)]
        return {each.size for each in versions if not each.is_same(transfer.version)}

    def wait_for_probe(self, transfer: Transfer) -> None:
        """Wait a moment if the receiver of *transfer* may be about to end a probe.

        aria2 asks for everything, and resets that when it asks for the pieces that it lacks. Under
        load a piece can come before the reset, which alone shows that aria2 goes on with bytes that
        it has. They may be of an older version.
        """
        while self._may_end_probe(transfer):
            time.sleep(FIRST_WAIT)

    def _may_end_probe(self, transfer: Transfer) -> bool:
        """Return whether the receiver has just begun to fetch everything and now asks for a piece,
        although bytes of an older version have gone to its address."""
        if transfer.form is not RangeForm.CLOSED or transfer.knows_version:
            return False
        with self._lock:
            self._refresh_channels(transfer)
            then = self.clock() - PROBE_GRACE
            has_older = False
            may_end = False
            for download in self._of_offer(transfer.name):
                if not download.version.is_same(transfer.version):
                    is_at_address = download.receiver.address == transfer.receiver.address
                    has_older = has_older or is_at_address
                elif download.receiver == transfer.receiver and download.asked_at > then:
                    may_end = download.has_only_begun_everything()
            return has_older and may_end

    def begin(self, transfer: Transfer, digests: Mapping[int, int]) -> None:
        """Let *transfer* begin as a part of the download that it belongs to. Raise HTTPError where
        another answer is due."""
        with self._lock:
            now = self.clock()
            self._refresh_channels(transfer)
            placement = place(transfer, self._of_offer(transfer.name), digests, now)
            self._ensure_may_begin(placement, transfer)
            download = placement.joined
            if download is None:
                download = Download(transfer, now)
                download.claim(placement.claimed)
            if placement.match:
                self._note_continued(placement.match, transfer, download)
            if download.status is not Status.UNDER_WAY:
                status = 206 if transfer.has_range else 200
                self.log(transfer.receiver.address, transfer.request_line, f"{status} -")
            download.join(transfer, now)
            # Time without progress counts from now on, not from the first byte of the request: this
            # request does not mean that its own transfer was given up (see is_lingering).
            transfer.channel.note_progress()
            # The download that was asked for last stands at the end.
            self._forget(download)
            self._downloads.append(download)
            self._transfers[transfer.channel] = transfer
            self._download_of[transfer] = download
            self._share_rate()

    def _ensure_may_begin(self, placement: Placement, transfer: Transfer) -> None:
        """Raise HTTPError if *transfer*, which belongs where *placement* says, must not begin."""
        if placement.match and placement.is_refused:
            older = placement.match.download
            now = self.clock()
            # axel repeats its request all the time.
            is_repeated = older.is_refused_since(now - REPORT_INTERVAL)
            if not is_repeated:
                older.note_refused(now)
            raise HTTPError(
                409,
                phrase="The file has changed: start over",
                reason="the file has changed, the receiver must start over",
                is_logged=not is_repeated,
            )
        # Not before the 409: a receiver of a longer, older version would take 416 for "you have
        # everything".
        size = transfer.version.size
        if transfer.first >= size > 0:
            raise HTTPError(416, fields={"Content-Range": f"bytes */{size}"})
        if self.has_enough() and not self._goes_on(placement):
            raise HTTPError(503, "no more downloads are wanted", reason="enough was delivered")

    def _refresh_channels(self, transfer: Transfer) -> None:
        """Bring the other transfers of the same offer up to date; end those that were reset."""
        if transfer.asks_for_everything:
            return
        rivals = [each for each in self._active_transfers() if each.name == transfer.name]
        for rival in rivals[-MAX_EXAMINED:]:
            rival.channel.refresh()
            rival.channel.look_for_end()
            if rival.channel.is_reset:
                self._end(rival, Outcome.BROKEN)

    def _goes_on(self, placement: Placement) -> bool:
        """Return whether a request goes on with a download that is under way."""
        match = placement.match
        return match is not None and match.download.status is Status.UNDER_WAY

    def _note_continued(self, match: Match, transfer: Transfer, download: Download) -> None:
        """Note that *transfer*, which *download* gets, goes on with *match*."""
        older = match.download
        if match.transfer:
            older.note_resumed(match.transfer, transfer.receiver, transfer.first)
        if older is not download:
            # Another receiver had it before.
            download.add_arrived(older.arrived())
            download.claim(max(download.claimed, older.claimed))
            if match.transfer:
                download.add_arrived([(match.transfer.first, transfer.first)])
            older.note_superseded(transfer.receiver)
        elif match.transfer is None:
            # The request is a further segment (see asked_for_last). A receiver that fetches
            # segments may lack bytes before its first one.
            download.claim(0)

    def _share_rate(self) -> None:
        """Divide the rate limit among the transfers that are under way."""
        if self._rate_limit == 0:
            return
        busy = self._busy_transfers()
        for transfer in busy:
            transfer.channel.limit_rate(max(1, self._rate_limit // len(busy)))

    # A receiver says something, or its connection ends.

    def add(self, channel: Channel) -> None:
        """Watch *channel*, whose receiver has connected."""
        with self._lock:
            self._transfers[channel] = None

    def on_input(self, channel: Channel) -> None:
        """Note that the receiver of *channel* begins a request, or has closed."""
        with self._lock:
            channel.note_progress()

    def on_error(self, channel: Channel, error: BaseException) -> None:
        """Note that *error* has ended the connection, or the body that was sent on it."""
        with self._lock:
            channel.refresh()
            # ENOTCONN is what Linux answers on a connection after its reset.
            is_reset = isinstance(error, (ConnectionResetError, BrokenPipeError))
            if is_reset or getattr(error, "errno", None) == errno.ENOTCONN:
                channel.note_reset()
            transfer = self._transfers.get(channel)
            if transfer:
                self._end(transfer, Outcome.BROKEN, describe_local_failure(error))

    def remove(self, channel: Channel) -> None:
        """Forget *channel*, whose thread closes it next."""
        with self._lock:
            transfer = self._transfers[channel]
            if transfer:
                self._end(transfer, Outcome.BROKEN)
            del self._transfers[channel]

    def wait_until_ended(self, channel: Channel, has_input: bool = False) -> None:
        """Wait in the thread of *channel* until its transfer, if it has one, has ended. Raise
        OSError where the connection fails, and FileChanged where the file has changed.

        *has_input*: whether the next request has come already.
        """
        transfer = self._wait_until_finished(channel, has_input)
        if transfer is None:
            return
        if channel.file_in_queue:
            channel.file_in_queue.ensure_unchanged()
        with self._lock:
            self._end(transfer, Outcome.FINISHED)

    def _wait_until_finished(self, channel: Channel, has_input: bool) -> Optional[Transfer]:
        """Return the transfer of *channel* once its receiver has got everything; None if it has
        ended otherwise. Raise OSError where the connection fails."""
        if not has_input:
            has_input = channel.wait_for_input(FIRST_WAIT)
        pause = FIRST_WAIT
        while True:
            with self._lock:
                transfer = self._transfers[channel]
                if transfer is None:
                    return None
                channel.refresh()
                if channel.is_reset:
                    raise ConnectionResetError
                seconds = self._seconds_to_end(transfer, has_input)
                # A thousand receivers are looked at less often, so that this costs little.
                longest_pause = max(CHECK_INTERVAL, len(self._download_of) / 1000)
            if seconds == 0:
                return transfer
            if has_input:
                # The next request is there already, so to wait for input would return at once.
                time.sleep(pause)
            else:
                has_input = channel.wait_for_input(min(seconds, pause))
            pause = min(2 * pause, longest_pause)

    def _seconds_to_end(self, transfer: Transfer, has_input: bool) -> float:
        """Return after how many seconds *transfer* has finished if nothing happens; 0 for now."""
        if not transfer.is_acknowledged():
            return math.inf
        if has_input:
            # The receiver asks for more, or has closed: it has read the response.
            return 0
        channel = transfer.channel
        if not channel.reports_acknowledgements and transfer.is_longer_than(MAX_CONFIRMED):
            # Only the receiver can tell, by closing.
            return math.inf
        if self._is_stopping:
            return 0
        return max(0, channel.last_progress + RESET_GRACE - self.clock())

    def _end(self, transfer: Transfer, outcome: Outcome, failure: str = "") -> None:
        """Let *transfer* end, unless it has ended before; see what becomes of its download."""
        if transfer.outcome is not Outcome.ACTIVE:
            return
        transfer.end(outcome, failure)
        channel = transfer.channel
        self._transfers[channel] = None
        now = self.clock()
        download = self._download_of.pop(transfer)
        download.note_ended(transfer, now)
        self._update_after_end(download, transfer)
        channel.note_progress()
        self._share_rate()
        self._lock.notify_all()

    def _update_after_end(self, download: Download, ended: Transfer) -> None:
        """See what becomes of *download*, of which the transfer *ended* is over."""
        is_complete = ended.outcome is Outcome.FINISHED and ended.asks_for_everything
        if is_complete and ended.version.is_same(download.version):
            self._deliver(download, [])
        elif download.has_too_many_spans():
            self._forget(download)
        else:
            self._update(download)

    # Time passes.

    def check_all(self) -> None:
        """Bring everything up to date, and end connections without progress."""
        with self._lock:
            now = self.clock()
            for channel, transfer in list(self._transfers.items()):
                if transfer or channel.unacknowledged:
                    channel.refresh()
                if now - channel.last_progress > self._timeout:
                    self._time_out(channel, transfer)
            # A copy, since a download that is delivered may replace others.
            for download in list(self._downloads):
                download.session.add_sample(now, download.acknowledged())
                if download.status is Status.UNDER_WAY or download.active:
                    self._update(download)
                self._report(download)
            self._share_rate()
            self._forget_old()

    def _time_out(self, channel: Channel, transfer: Optional[Transfer]) -> None:
        """End a connection that makes no progress."""
        if transfer:
            failure = "nothing was acknowledged"
            is_waiting = not transfer.is_acknowledged() and channel.unacknowledged == 0
            if is_waiting and channel.reports_acknowledgements:
                failure = "nothing came from the disk"
            self._end(transfer, Outcome.BROKEN, f"{failure} for {self._timeout:g} s")
        channel.abort()

    def _forget(self, download: Download) -> None:
        """Remove *download*, so that no later request joins it."""
        if download in self._downloads:
            self._downloads.remove(download)

    def _forget_old(self) -> None:
        """Forget the downloads at rest that were asked for longest ago."""
        resting = [each for each in self._downloads if each.status is not Status.UNDER_WAY]
        for download in resting[: max(0, len(resting) - MAX_RESTING)]:
            self._forget(download)

    # What becomes of a download.

    def _update(self, download: Download) -> None:
        """Move *download* to its next status, as the table of the decisions says, and log it."""
        now = self.clock()
        if download.status is Status.DELIVERED or download.is_active(now):
            return
        for transfer in download.active:
            if transfer.channel.unacknowledged:
                transfer.channel.refresh()
        same = self._siblings(download)[-MAX_EXAMINED:]
        unfinished = [each for each in same if each.status is not Status.DELIVERED]
        partners = [each for each in unfinished if not each.is_active(now)]
        if download.is_whole():
            self._deliver(download, [])
        elif is_whole_together(download, partners):
            self._deliver(download, partners)
        else:
            is_at_rest = now - download.session.last_ended >= PAUSE_AFTER
            if is_at_rest and download.status is Status.UNDER_WAY:
                self._pause(download)

    def _siblings(self, download: Download) -> List[Download]:
        """Return the other downloads of the same version by the same receiver."""
        return [
            each
            for each in self._downloads
            if each is not download
            and each.name == download.name
            and each.receiver == download.receiver
            and each.version.is_same(download.version)
        ]

    def _pause(self, download: Download) -> None:
        """Let *download* rest, and log it unless that would mislead."""
        event = describe_pause(download)
        download.pause()
        outdated = find_outdated(self._of_offer(download.name))
        if not self._needs_no_mention(download, outdated):
            self.log(download.receiver.address, download.session.request_line, event)

    def _needs_no_mention(self, download: Download, outdated: Set[Download]) -> bool:
        """Return whether no receiver waits for the rest of *download*, so that neither the log nor
        the summary mentions it: another receiver goes on with it; its receiver has begun another
        version; or it was brief and another download at its address replaces it."""
        if download.is_superseded() or download in outdated:
            return True
        if not download.is_brief() or download.has_failed():
            return False
        address = download.receiver.address
        downloads = self._of_offer(download.name)
        nearby = [each for each in downloads if each.receiver.address == address]
        arrived = count_bytes(download.held())
        for other in nearby[-MAX_EXAMINED:]:
            is_own = other.receiver == download.receiver
            is_later = other.asked_at > download.asked_at
            if is_own and is_later and other.status is Status.UNDER_WAY:
                # *download* was the probe of aria2 or axel, *other* fetches the pieces.
                return True
            is_own_version = is_own and other.version.is_same(download.version)
            has_more = count_bytes(other.held()) > arrived
            if has_more and (is_own_version or download.is_probe()):
                return True
        return False

    def _of_offer(self, name: str) -> List[Download]:
        """Return the downloads of the offer *name*."""
        return [each for each in self._downloads if each.name == name]

    def _deliver(self, download: Download, partners: Sequence[Download]) -> None:
        """Let *download*, whole together with *partners* of the same receiver, be delivered."""
        address = download.receiver.address
        session = download.session
        requests = download.requests + sum(each.requests for each in partners)
        if download.status is Status.UNDER_WAY:
            self.log(address, session.request_line, describe_arrival(download))
        self.log(address, f"/{download.name}", describe_delivery(download, requests))
        for other in self._siblings(download):
            # A later delivery of a version stands for an earlier one.
            if other in partners or other.status is Status.DELIVERED:
                self._forget(other)
        download.deliver()
        self._deliveries[download.name, download.receiver] += 1
        # Named offers are counted one by one, others together.
        for name in ("", download.name):
            if name in self._deliveries_by_name:
                self._deliveries_by_name[name] += 1

    def _report(self, download: Download) -> None:
        """Log the progress of a long download now and then, where there is no terminal."""
        now = self.clock()
        session = download.session
        if not self._reports_progress:
            return
        if download.status is not Status.UNDER_WAY or not download.is_active(now):
            return
        tenths = count_bytes(download.held()) * 10 // max(download.version.size, 1)
        is_due = now - session.reported_at >= REPORT_INTERVAL
        if is_due and tenths > session.reported_tenths:
            rate = format_size(session.rate(now, download.acknowledged()))
            event = f"req under way. at {download.portion()}, {rate}/s"
            self.log(download.receiver.address, session.request_line, event)
            session.note_report(now, tenths)

    # What others ask.

    def has_enough(self) -> bool:
        """Return whether all deliveries that are wanted have been made. This needs no lock: the
        names never change, and the numbers only grow."""
        if self._max_deliveries == 0:
            return False
        return min(self._deliveries_by_name.values()) >= self._max_deliveries

    def is_done(self) -> bool:
        """Return whether enough was delivered, and nothing is under way any more."""
        with self._lock:
            return self.has_enough() and not self._under_way() and not self._busy_transfers()

    def view(self, limit: int) -> View:
        """Return a row for each download under way, oldest first and at most *limit*, and the words
        for the line below them."""
        with self._lock:
            now = self.clock()
            under_way = self._under_way()
            outdated = find_outdated(self._downloads)
            shown = [each for each in under_way if each.is_active(now) and each not in outdated]
            shown.sort(key=lambda each: each.session.began_at)
            rows = [each.row(self._label(each), now) for each in shown[:limit]]
            more = max(0, len(shown) - limit)
            note = ""
            if self.has_enough():
                # A receiver may fetch again what it has: such a download is delivered, and active.
                going_on = [each for each in self._downloads if each.is_active(now)]
                count = pluralize(len({*under_way, *going_on}), "download")
                note = f"enough delivered: waiting for {count} to end"
            elif not under_way:
                note = "waiting for a receiver (Ctrl-C to stop)"
            return View(rows, more, note)

    def stop(self) -> List[str]:
        """Wait a moment for acknowledged transfers to end; return the closing lines."""
        with self._lock:
            self._is_stopping = True
            # The threads of the connections end the transfers, since they check the files.
            self._lock.wait_for(self._no_end_is_near, STOP_TIME)
            for download in self._under_way():
                self._update(download)
            return self._closing_lines()

    def has_unfinished(self) -> bool:
        """Return whether a receiver may want to resume after a restart."""
        with self._lock:
            return any(not download.must_start_over() for download in self._unfinished())

    def close_connections(self) -> None:
        """Close all sockets, so that the system still sends what was handed over."""
        with self._lock:
            for channel in self._transfers:
                channel.close()

    def _no_end_is_near(self) -> bool:
        """Refresh all channels. Return whether no transfer is acknowledged and has yet to end."""
        active = self._active_transfers()
        for transfer in active:
            transfer.channel.refresh()
        return not any(transfer.is_acknowledged() for transfer in active)

    def _closing_lines(self) -> List[str]:
        """Return the summary: what was delivered, and who has not got everything."""
        delivered = []
        for (name, receiver), count in self._deliveries.items():
            delivery = f"{name} to {receiver_label(receiver, self._rivals(name))}"
            if count > 1:
                delivery += f" ({count} times)"
            delivered.append(delivery)
        lines = ["stopped. nothing was delivered"]
        if delivered:
            lines = [f"stopped. delivered: {join_limited(delivered)}"]
        unfinished = self._unfinished()
        lines += [self._describe_unfinished(each) for each in unfinished[:MAX_LISTED]]
        if len(unfinished) > MAX_LISTED:
            lines.append(f"and {len(unfinished) - MAX_LISTED} more")
        return lines

    def _unfinished(self) -> List[Download]:
        """Return the downloads whose receivers lack, or may lack, a part of the file."""
        outdated = find_outdated(self._downloads)
        # One for each receiver and offer: the last one.
        latest: Dict[Tuple[str, Receiver], Download] = {}
        for download in self._downloads:
            if self._is_unfinished(download, outdated):
                latest[download.name, download.receiver] = download
        return list(latest.values())

    def _is_unfinished(self, download: Download, outdated: Set[Download]) -> bool:
        if download.status is Status.DELIVERED or self._needs_no_mention(download, outdated):
            return False
        # A receiver that has this version lacks nothing, unless it is fetching it again.
        has_it = any(each.status is Status.DELIVERED for each in self._siblings(download))
        return download.status is Status.UNDER_WAY or not has_it

    def _describe_unfinished(self, download: Download) -> str:
        """Return the summary's line for a download that is not delivered."""
        who = f"{download.name} to {self._label(download)}"
        if download.has_got_all_it_asked_for():
            arrived = format_size(count_bytes(download.arrived()))
            size = format_size(download.version.size)
            return f"unknown: {who} got {arrived} of {size} from here; it may have had the rest"
        line = f"not whole: {who} at {download.portion()}"
        if download.must_start_over():
            line += ": the file has changed, the receiver must start over"
        return line

    def _label(self, download: Download) -> str:
        """Return what to call the receiver of *download*."""
        return receiver_label(download.receiver, self._rivals(download.name))

    def _rivals(self, name: str) -> Set[Receiver]:
        """Return the receivers that fetch, or have fetched, the offer *name*."""
        rivals = {receiver for delivered, receiver in self._deliveries if delivered == name}
        rivals |= {each.receiver for each in self._of_offer(name)}
        return rivals

    def _under_way(self) -> List[Download]:
        return [each for each in self._downloads if each.status is Status.UNDER_WAY]

    def _active_transfers(self) -> List[Transfer]:
        return [transfer for transfer in self._transfers.values() if transfer]

    def _busy_transfers(self) -> List[Transfer]:
        """Return the active transfers that do not linger."""
        now = self.clock()
        return [
            transfer
            for transfer, download in self._download_of.items()
            if not transfer.is_lingering(now, download.asked_at)
        ]


# --- Server: the handler, the quiet server, TLS -------------------------------------------
# Each connection has a thread of its own, which answers one request after the other: http.server
# reads the request line and calls ``parse_request`` and ``do_GET``. A request that cannot be
# answered as asked raises HTTPError, from wherever that is found out; ``handle`` answers it.

MAX_HEAD = 1 << 16  # bytes of a request line, and of all field lines together
MAX_EMPTY_LINES = 1000  # before a request
MAX_AGENT = 200  # characters of a User-Agent that are remembered
INPUT_BUFFER = 1 << 10  # bytes; every connection holds one, and most heads are shorter
NOT_FOUND_ADVICE = "ask the sender for the complete link."


class PartialContentHandler(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD for what a Share offers: whole, in one range or in several."""

    # What socketserver has set: the server, and the socket and the address of the receiver.
    server: "QuietServer"
    connection: socket.socket
    client_address: Tuple[Any, ...]
    # What http.server reads of a request, and parse_request sets: the first line as bytes, the same
    # line as text, the method, the target, and the fields.
    raw_requestline: bytes
    requestline: str
    command: str
    path: str
    headers: Mapping[str, str]  # type: ignore[assignment]
    # Whether the connection ends after this request.
    close_connection: bool

    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm the end of a body would wait for a delayed acknowledgement.
    disable_nagle_algorithm = True

    def __init__(self, request: Any, client_address: Any, server: "QuietServer") -> None:
        # Past SimpleHTTPRequestHandler, which asks for the current folder: it may be gone.
        http.server.BaseHTTPRequestHandler.__init__(self, request, client_address, server)

    def setup(self) -> None:
        super().setup()
        # The connection, and all that is known of it.
        self.channel = Channel(self.connection, self.server.registry.clock)
        # The file that http.server has made would need a socket that blocks.
        self.rfile.close()
        self.rfile = io.BufferedReader(ChannelReader(self.channel), INPUT_BUFFER)
        # The program at the other end. libtorrent names it only in its first request.
        self._agent = ""

    def handle(self) -> None:
        """Answer one request after the other, until the connection ends. Raise OSError and
        FileChanged where it ends by an error."""
        registry = self.server.registry
        registry.add(self.channel)
        try:
            self.channel.handshake()
            self._answer_requests()
            self.channel.finish_writing()
            self.channel.discard_input()
        except BaseException as error:
            registry.on_error(self.channel, error)
            raise
        finally:
            registry.remove(self.channel)

    def _answer_requests(self) -> None:
        self.close_connection = False
        while not self.close_connection:
            # Wait for the next request, or for the end.
            self.rfile.peek(1)  # type: ignore[attr-defined]
            self.server.registry.on_input(self.channel)
            # True unless parse_request finds that the request keeps the connection.
            self.close_connection = True
            try:
                self.handle_one_request()
            except HTTPError as error:
                self._send_http_error(error)

    def parse_request(self) -> bool:
        """Read the rest of the head; return whether it came. Raise HTTPError."""
        head = self._read_head()
        if head is None:
            return False
        request = parse_request_head(head)
        self.command = request.method
        self.path = request.target
        self.headers = request.fields
        self.close_connection = not request.keeps_connection
        self._agent = request.fields.get("user-agent", self._agent)[:MAX_AGENT]
        return True

    def _read_head(self) -> Optional[bytes]:
        """Return the head of the request, whose first line was read; None if it breaks off."""
        line = self.raw_requestline
        skipped = 0
        # RFC 9112, section 2.2: ignore empty lines before a request.
        while line in (b"\r\n", b"\n") and skipped < MAX_EMPTY_LINES:
            line = self.rfile.readline(MAX_HEAD + 1)
            skipped += 1
        self.requestline = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if len(line) > MAX_HEAD:
            raise HTTPError(414)
        head = bytearray(line)
        # The field lines have a limit of their own.
        limit = len(line) + MAX_HEAD
        while line:
            line = self.rfile.readline(MAX_HEAD + 1)
            head += line
            if len(head) > limit:
                raise HTTPError(431)
            if line in (b"\r\n", b"\n"):
                return bytes(head)
        return None

    def do_GET(self) -> None:
        offer = self._open_offer()
        try:
            self._answer_for(offer)
        finally:
            offer.close()

    do_HEAD = do_GET

    def _open_offer(self) -> Offer:
        """Return what the request asks for; the caller closes it. Raise HTTPError."""
        path = parse_target(self.path)
        try:
            offer = self.server.share.open(path)
        except OSError:
            # Out of descriptors: 404 would be a lie that clients believe.
            raise HTTPError(503, fields={"Retry-After": "1"}) from None
        if offer is None:
            raise HTTPError(404, NOT_FOUND_ADVICE)
        return offer

    def _answer_for(self, offer: Offer) -> None:
        """Answer a request for *offer*. Raise HTTPError before anything was sent."""
        fields = {"Accept-Ranges": "bytes", "ETag": offer.version.etag}
        if offer.modified is not None:
            fields["Last-Modified"] = http_date(offer.modified)
        if is_not_modified(self.headers, offer.version.etag, offer.modified):
            self._send_head_alone(304, fields)
            return
        fields["Content-Disposition"] = content_disposition(as_utf8(offer.name))
        size = offer.version.size
        boundary = os.urandom(12).hex()
        if self.command == "HEAD":
            body = whole_or_partial_body([], size, content_type(offer.name), boundary)
            self._send_head_alone(200, {**fields, **body.fields})
            return
        ranges = self._requested_ranges(offer)
        transfer = self._begin_transfer(offer, ranges)
        body = whole_or_partial_body(ranges, size, content_type(offer.name), boundary)
        self._send_body(206 if ranges else 200, {**fields, **body.fields}, body, offer, transfer)
        if self.close_connection:
            # A client that reads until the end need not wait for the acknowledgement.
            self.channel.finish_writing()
        # A receiver may send several requests at once (pipelining). Then more bytes have come from
        # the socket than the requests until now consist of.
        has_next_request = self.channel.received > self.rfile.tell()
        self.server.registry.wait_until_ended(self.channel, has_next_request)

    def _requested_ranges(self, offer: Offer) -> List[ByteRange]:
        """Return the ranges that are to be sent, none for the whole file. Raise HTTPError."""
        if if_range_fails(self.headers, offer.version.etag, offer.modified):
            return []
        size = offer.version.size
        ranges = parse_ranges(self.headers.get("range", ""), size)
        if self.server.resume_only:
            return ranges_that_resume(ranges, size)
        return ranges

    def _begin_transfer(self, offer: Offer, ranges: Sequence[ByteRange]) -> Transfer:
        """Announce the response to the registry. Raise HTTPError where another one is due."""
        transfer = Transfer(
            self.channel,
            Receiver(self.client_address[0], self._agent),
            self.requestline,
            offer.name,
            offer.version,
            ranges,
            knows_version(self.headers, offer.version.etag),
        )
        registry = self.server.registry
        registry.wait_for_probe(transfer)
        digests = {}
        for size in registry.sizes_to_digest(transfer):
            digests[size] = offer.digest_before(size)
        registry.begin(transfer, digests)
        return transfer

    def _send_body(
        self, status: int, fields: Mapping[str, str], body: Body, offer: Offer, transfer: Transfer
    ) -> None:
        """Send the head and the body of a response to GET."""
        if not self.channel.reports_acknowledgements and body.length > MAX_CONFIRMED:
            # Only by closing can the receiver tell that it has everything.
            self.close_connection = True
        head = self._head(status, fields)
        transfer.begin_body(self.channel.handed_over + len(head), body.length)
        self.channel.send(response_parts(head, body, offer))

    def _send_head_alone(self, status: int, fields: Mapping[str, str]) -> None:
        self.log_request(status)
        self.channel.send([self._head(status, fields)])

    def _send_http_error(self, error: HTTPError) -> None:
        """Answer with an error. A 404 must not tell whether there is a file that is not offered, so
        all answers of one kind are the same bytes."""
        text = f"{error.status} {error.phrase}"
        if error.detail:
            text += f": {error.detail}"
        body = f"{text}\n".encode()
        if error.status == 416:
            # curl 7.60 would append the body to the file, which it already has completely.
            body = b""
        fields = {"Content-Type": "text/plain; charset=utf-8", **error.fields}
        fields["Content-Length"] = str(len(body))
        if error.is_logged:
            # In the log, "-" stands for the size. The reason follows.
            self.log_request(error.status, f"- {error.reason}".rstrip())
        response = self._head(error.status, fields, error.phrase)
        # A HEAD gets no body. Its fields may be malformed, and then ``command`` is not set.
        if not self.requestline.startswith("HEAD "):
            response += body
        self.channel.send([response])

    def _head(self, status: int, fields: Mapping[str, str], phrase: str = "") -> bytes:
        """Return the head of a response with *fields*. If enough was delivered, also set
        ``close_connection``: no further request is wanted."""
        if self.server.registry.has_enough():
            self.close_connection = True
        all_fields = {"Server": "httpd_download", "Date": http_date(int(time.time()))}
        all_fields.update(fields)
        all_fields["X-Content-Type-Options"] = "nosniff"
        version = self.protocol_version
        # Not from the parsed request, since the head may be malformed.
        if self.requestline.endswith("HTTP/1.0"):
            version = "HTTP/1.0"
        if self.close_connection:
            all_fields["Connection"] = "close"
        elif version == "HTTP/1.0":
            all_fields["Connection"] = "keep-alive"
        if not phrase:
            phrase = http.HTTPStatus(status).phrase
        return response_head(version, status, phrase, all_fields)

    def _refuse_method(self) -> None:
        raise HTTPError(405, fields={"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def send_error(
        self, code: int, message: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """Turn an error that http.server finds itself (414, 501) into an HTTPError, and close."""
        self.requestline = self.requestline or self.raw_requestline.decode("latin-1")
        self.close_connection = True
        raise HTTPError(code)

    def log_request(self, code: Union[int, str] = "-", size: Union[int, str] = "-") -> None:
        self.server.registry.log(self.client_address[0], self.requestline, f"{code} {size}")

    def log_error(self, format: str, *args: Any) -> None:
        """Log nothing: http.server would add a second line to that of the request."""


def response_parts(head: bytes, body: Body, offer: Offer) -> Iterator[Part]:
    """Yield *head* and *body*, its spans as the bytes of *offer*."""
    yield head
    for piece in body.pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            start, stop = piece
            yield from offer.parts(start, stop)


class QuietServer(socketserver.ThreadingTCPServer):
    """Starts a thread for each connection. An error makes a line in the log, never a traceback."""

    request_queue_size = 1024
    # The longest time for which ``handle_request`` waits for a connection.
    timeout = CHECK_INTERVAL
    daemon_threads = True
    # Windows lets two servers share a port with SO_REUSEADDR. It alone has SO_EXCLUSIVEADDRUSE.
    allow_reuse_address = not hasattr(socket, "SO_EXCLUSIVEADDRUSE")

    def __init__(
        self,
        address: Tuple[Any, ...],
        share: Share,
        registry: Registry,
        max_connections: int = 1000,
        resume_only: bool = False,
        tls: "Optional[ssl.SSLContext]" = None,
    ) -> None:
        """Bind *address*, of IPv4 or IPv6. Raise OSError."""
        self.share = share
        self.registry = registry
        # Whether only requests for the rest of a file, from some byte on, get a part of it.
        self.resume_only = resume_only
        # How https is spoken; None for http.
        self._tls = tls
        # Counts how many more connections may be accepted. The server thread acquires it for each
        # connection, and the thread of the connection releases it at the end.
        self._free_connections = threading.Semaphore(max_connections)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, PartialContentHandler)
        self.server_port: int = self.server_address[1]

    def server_bind(self) -> None:
        """Bind for IPv4 too where the address is ``::``. HTTPServer would look its name up."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> Tuple[Any, Any]:
        """Accept a connection, unless there are as many as the limit of descriptors allows."""
        if not self._free_connections.acquire(timeout=CHECK_INTERVAL):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            return self._accept()
        except OSError as error:
            self._free_connections.release()
            if error.errno in RESOURCE_ERRNOS:
                # The listening socket stays readable: without a pause this would be a busy loop.
                time.sleep(CHECK_INTERVAL)
            raise

    def _accept(self) -> Tuple[Any, Any]:
        accepted, address = super().get_request()
        if not address:
            # macOS answers so for a connection that was reset before it was accepted.
            accepted.close()
            raise ConnectionAbortedError
        if self._tls:
            # The handshake is left to the thread of the connection.
            accepted = self._tls.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            )
        # Write IPv4 addresses as such (RFC 4291, section 2.5.5.2).
        host = re.sub("^::ffff:", "", address[0])
        return accepted, (host, *address[1:])

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, which the handler has shut down."""
        self._free_connections.release()
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a bug, or what TLS found wrong. Say nothing of networks and changed files, of which
        the registry has logged what there is to say."""
        error = sys.exc_info()[1]
        event = ""
        if isinstance(error, OSError) and is_tls_error(error):
            reason = describe_tls_failure(error)
            # A client that only looks whether the port is open closes without a word.
            if "EOF" not in reason:
                event = f"TLS failed. {reason}"
        elif not isinstance(error, (OSError, FileChanged)):
            event = f"internal error. {type(error).__name__}: {error}"
        if event:
            self.registry.log(client_address[0], "-", event)


def describe_tls_failure(error: OSError) -> str:
    """Return what OpenSSL found wrong, without its own tag and its place in _ssl.c."""
    text = re.sub(r"^\[[A-Z].*?\] |\s*\(_ssl\.c:\d+\)", "", error.strerror or str(error))
    if "http request" in text.lower():
        return "the client spoke plain http"
    return text


def tls_context(certificate: str, key: Optional[str]) -> "ssl.SSLContext":
    """Return a context for servers with TLS 1.2 or newer. Raise OSError where the files do not
    make one."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if hasattr(ssl, "TLSVersion"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    # PyPy, LibreSSL and OpenSSL 1.0.2 have no such option.
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    for path in (certificate, key):
        if path is not None:
            # OpenSSL does not tell which of the two files is missing.
            open(path, "rb").close()
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        files = f"{certificate}, without --tls-key"
        if key:
            files = f"{certificate} and {key}"
        reason = f"not a certificate with its key: {describe_tls_failure(error)}"
        raise OSError(errno.EINVAL, reason, files) from None
    return context


# --- Addresses --------------------------------------------------------------------------
# Knows under which addresses this machine can be reached, as far as its kernel can tell, and how
# links are written. Nothing is sent and no name is looked up, since a look-up can hang.

# Targets that are never contacted. The kernel tells which address it would send from: first towards
# the internet (the default route), then towards each kind of private network.
ROUTE_PROBES = (
    "8.8.8.8",
    "2001:4860:4860::8888",
    "10.254.254.254",
    "172.31.254.254",
    "192.168.254.254",
    "fd00::1",
)
# Addresses that no other machine can use: loopback, "unspecified", and link-local IPv6, which
# works only together with the receiver's own name of its interface.
UNUSABLE_ADDRESS = re.compile("127[.]|0[.]|fe80:|::1?$")

# Requests to the Linux kernel about one network interface, and the bits of their answers.
SIOCGIFFLAGS = 0x8913  # asks for the flags
SIOCGIFADDR = 0x8915  # asks for the IPv4 address
IFF_RUNNING = 0x40  # the flag of an interface that is up and connected
IFREQ_SIZE = 40  # bytes of a request: the name of the interface comes first
IFREQ_FLAGS_OFFSET = 16  # bytes before the flags in an answer
IFREQ_ADDRESS = slice(20, 24)  # the bytes of the IPv4 address in an answer


def local_addresses(with_ipv6: bool = True) -> List[str]:
    """Return this machine's addresses, that of the default route first; without a network return
    127.0.0.1 alone."""
    found = []
    for target in ROUTE_PROBES:
        if with_ipv6 or ":" not in target:
            found.append(source_address(target))
    # No route leads to some networks, such as one that only connects virtual machines.
    found += interface_addresses()
    usable = [address for address in found if address and not UNUSABLE_ADDRESS.match(address)]
    without_duplicates = list(dict.fromkeys(usable))
    return without_duplicates or ["127.0.0.1"]


def source_address(target: str) -> str:
    """Return the address that packets to *target* would be sent from; "" without a route."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # To connect a UDP socket sends nothing, but makes the kernel choose the route.
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def interface_addresses() -> List[str]:
    """Return the IPv4 address of each interface that is connected, on Linux, else nothing."""
    # The requests above are Linux'. PyPy 3.9 cannot list the interfaces.
    if not sys.platform.startswith("linux") or not hasattr(socket, "if_nameindex"):
        return []
    addresses = []
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                addresses.append(interface_address(probe, name))
    except OSError:
        # A sandbox may forbid to list the interfaces. The routes are known anyway.
        pass
    return addresses


def interface_address(probe: socket.socket, name: str) -> str:
    """Return the IPv4 address of the interface *name*; "" if it has none or is not connected."""
    request = os.fsencode(name).ljust(IFREQ_SIZE, b"\0")
    try:
        answer = fcntl.ioctl(probe, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", answer, IFREQ_FLAGS_OFFSET)
        if not flags & IFF_RUNNING:
            return ""
        answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
    except OSError:
        return ""
    return socket.inet_ntoa(answer[IFREQ_ADDRESS])


def numeric_address(text: str) -> Tuple[Any, ...]:
    """Return the socket address, with port 0, of *text*: an IP address or "localhost". Raise
    ValueError for any other name."""
    if text == "localhost":
        text = "127.0.0.1"
    # getaddrinfo takes other things for addresses too: a mere number, such as 1234 for 0.0.4.210,
    # and on Windows an address in brackets.
    if re.search("[.:]", text) and "[" not in text:
        try:
            # As bytes: a str would first be encoded by the slow tables of internationalized names.
            host = text.encode("ascii")
            return socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)[0][4]
        except (OSError, ValueError):
            pass
    raise ValueError(f'"{text}" is not an IP address, such as 127.0.0.1 or ::1')


def base_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL of *host*, a name or an IP address, without a slash at the end."""
    if ":" in host:
        # IPv6: brackets as in RFC 3986, and the zone of a link-local address as in RFC 6874.
        address = host.strip("[]").replace("%", "%25")
        host = f"[{address}]"
    return f"{scheme}://{host}:{port}"


# --- Terminal ---------------------------------------------------------------------------
# Knows how everything that the program prints looks: escaped names, log lines, and the rows that
# show on a terminal which downloads are under way. Promises that no other thread ever waits for a
# terminal or a pipe: they leave their lines in a queue, and one thread, the writer, prints them.
#
# The rows stand below the log. The writer erases them, prints new lines, and draws them again.

MAX_SUBJECT = 1000  # characters of a request that are logged
MAX_QUEUED = 10_000  # lines that may wait for the writer; further lines of the log are dropped
WRITE_INTERVAL = 0.05  # seconds between two turns of the writer
CLOSE_TIMEOUT = 1.0  # seconds that the last lines may take: the program must leave within two
ERASE_TIMEOUT = 0.5  # seconds that Ctrl-Z waits until the rows are erased

MAX_ROWS = 8  # downloads that are shown
BAR_WIDTH = 25  # columns of the bar
MIN_NAME_WIDTH = 8  # columns of a name; in a narrower window the receivers are left out
MAX_TIME_LEFT = 100 * 3600  # seconds; a longer time left would be a mere guess, and is not shown

FULL_BLOCK = "\u2588"
ZERO_WIDTH_JOINER = "\u200d"
# Parts of emoji that Unicode does not count among the symbols: the selector of the coloured form,
# the arrow of the emoji "head shaking", and the five skin tones.
OTHER_EMOJI_PARTS = "\ufe0f\u2194\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
# Control characters, invisible format characters, lone surrogates, and separators of lines and
# paragraphs. They can move the cursor, reverse the direction of text, or forge a line of the log.
ESCAPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Combining marks and format characters: the cursor does not move.
ZERO_WIDTH_CATEGORIES = ("Mn", "Me", "Cf")

GREEN = "\x1b[1;32m"
YELLOW = "\x1b[33m"
RESET_COLOUR = "\x1b[0m"
# By the beginnings of the events that describe_delivery and describe_pause return.
EVENT_COLOURS = {"delivered.": GREEN, "req terminated.": YELLOW}
BELL = "\a"
CURSOR_UP = "\x1b[1A"
ERASE_FROM_LINE_START = "\r\x1b[J"


def escape(text: str) -> str:
    """Return *text*, which comes from a disk or a network, safe to print on one line."""
    # Printable ASCII except the backslash is safe. Examine all other characters.
    return re.sub(r"[^ -\[\]-~]", escape_match, text)


def escape_match(match: "re.Match[str]") -> str:
    """Return the one character that was found, escaped if it has to be."""
    character = match.group()
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) not in ESCAPED_CATEGORIES:
        return character
    if character == ZERO_WIDTH_JOINER and joins_emoji(match.string, match.start()):
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte of a file name that is not valid UTF-8, as os.fsdecode writes it.
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def joins_emoji(text: str, position: int) -> bool:
    """Return whether the character at *position* stands between two parts of an emoji."""
    before = text[position - 1 : position]
    after = text[position + 1 : position + 2]
    return is_emoji_part(before) and is_emoji_part(after)


def is_emoji_part(character: str) -> bool:
    """Return whether *character*, "" at either end of a text, occurs in emoji."""
    if character == "":
        return False
    return character in OTHER_EMOJI_PARTS or unicodedata.category(character) == "So"


def stream_encoding(stream: Optional[TextIO]) -> str:
    """Return the encoding of *stream*, "ascii" where it has none."""
    return getattr(stream, "encoding", None) or "ascii"


def encodable(text: str, stream: Optional[TextIO]) -> str:
    """Return *text* with those characters escaped that the encoding of *stream* lacks."""
    encoding = stream_encoding(stream)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def choose_block(stream: Optional[TextIO]) -> str:
    """Return the character that bars are made of on *stream*."""
    # Terminals with another encoding than UTF-8 lack the full block or draw it two columns wide,
    # as Chinese ones do. So do the older consoles of Windows.
    is_utf8 = stream_encoding(stream).lower() in ("utf-8", "utf8")
    if is_utf8 and os.name != "nt":
        return FULL_BLOCK
    return "#"


def character_width(character: str) -> int:
    """Return how many columns *character* takes on a terminal."""
    if unicodedata.category(character) in ZERO_WIDTH_CATEGORIES:
        return 0
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return 2
    return 1


def text_width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    return sum(map(character_width, text))


def fit(text: str, columns: int) -> str:
    """Return *text*, cut to *columns* if necessary, with two dots where something is missing."""
    if text_width(text) <= columns:
        return text
    dots = ".."[: max(columns, 0)]
    room = columns - len(dots)
    kept = ""
    for character in text:
        room -= character_width(character)
        if room < 0:
            break
        kept += character
    return kept + dots


def pad(text: str, columns: int) -> str:
    """Return *text* with blanks behind it that fill *columns*."""
    return text + " " * (columns - text_width(text))


def format_duration(seconds: int) -> str:
    """Return *seconds* like "0:16" or "2:50:40"."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"


def format_rate(row: Row) -> str:
    """Return the rate of a download that makes progress, "" of one that is stalled."""
    if row.is_stalled:
        return ""
    return f"{format_size(row.rate)}/s"


def format_figures(row: Row, rate_width: int) -> str:
    """Return the end of a row: the share, the rate in *rate_width* columns, and the time left."""
    share = format_percentage(row.arrived, row.size)
    if row.is_stalled:
        return f"{share:>4}  stalled {int(row.idle)} s"
    figures = f"{share:>4}  {format_rate(row):>{rate_width}}"
    if row.rate >= 1:
        seconds_left = int((row.size - row.arrived) / row.rate)
        if seconds_left < MAX_TIME_LEFT:
            figures += f"  {format_duration(seconds_left)} left"
    return figures


class Widths(NamedTuple):
    """The columns of the parts of a row."""

    name: int
    receiver: int
    bar: int
    # The share, the rate and the time left take the rest.


def choose_widths(rows: Sequence[Row], figures: Sequence[str], columns: int) -> Widths:
    """Return how wide the parts of *rows*, which end with *figures*, are in a window of *columns*.

    In a narrow window the bars go first, then the ends of the names, then the receivers.
    """
    figures_width = max((len(text) for text in figures), default=0)
    name_width = max((text_width(row.name) for row in rows), default=0)
    receiver_width = max((text_width(row.receiver) + 2 for row in rows), default=0)
    # The columns for the name and the bar. One blank follows the name.
    room = columns - 1 - receiver_width - figures_width
    bar_width = 0
    if room >= name_width + BAR_WIDTH:
        bar_width = BAR_WIDTH
    if room < min(name_width, MIN_NAME_WIDTH):
        room += receiver_width
        receiver_width = 0
    return Widths(min(name_width, room), receiver_width, bar_width)


def format_rows(rows: Sequence[Row], columns: int, block: str) -> List[str]:
    """Return one line for each of *rows*, at most *columns* wide and aligned with the others, with
    bars made of *block*."""
    rate_width = max((len(format_rate(row)) for row in rows), default=0)
    figures = [format_figures(row, rate_width) for row in rows]
    widths = choose_widths(rows, figures, columns)
    lines = []
    for row, text in zip(rows, figures):
        name = pad(fit(row.name, widths.name), widths.name)
        receiver = ""
        if widths.receiver:
            receiver = pad(row.receiver, widths.receiver)
        filled = row.arrived * widths.bar // max(row.size, 1)
        bar = pad(block * filled, widths.bar)
        lines.append(fit(f"{name} {receiver}{bar}{text}", columns))
    return lines


EMPTY_VIEW = View((), 0, "")


class QueuedText(NamedTuple):
    """Text that waits for the writer."""

    stream: Optional[TextIO]  # None where the program was started without this stream
    text: str


class Terminal:
    """Prints links on *out*, and the log and the rows on *err*; no method but close() and suspend()
    waits, and these two only for a moment."""

    def __init__(
        self,
        out: Optional[TextIO],
        err: Optional[TextIO],
        get_size: Callable[[int], Tuple[int, int]] = os.get_terminal_size,
    ) -> None:
        """Start the writer. *get_size* returns columns and lines of the terminal with a certain
        descriptor. Raise RuntimeError if no thread can be started."""
        self._out = out
        self._err = err
        self._get_size = get_size
        # Whether there are rows: the log goes to a terminal that can move its cursor.
        self.is_interactive = is_interactive_terminal(err)
        # By the beginning of an event, its colour.
        self._colours: Dict[str, str] = {}
        if self.is_interactive and not os.environ.get("NO_COLOR"):
            self._colours = EVENT_COLOURS
        # Protects the next two attributes. Never held while something is printed. The attributes
        # after them are only replaced as a whole, so they need no lock.
        self._queue_lock = threading.Lock()
        # Texts that the writer has not taken yet.
        self._queue: List[QueuedText] = []
        # How many lines of the log found the queue full, and have not been reported yet.
        self._lost_lines = 0
        # The very last lines, once close() was called.
        self._closing_lines: Optional[Sequence[str]] = None
        # The view that show() wants below the log.
        self._wanted = EMPTY_VIEW
        # The view that the writer has drawn there, and its lines. The cursor waits at the end of
        # the last line, which is empty if there is nothing to say.
        self._drawn = EMPTY_VIEW
        self._drawn_lines = [""]
        # Whether nothing is to be drawn, since the process is about to be stopped by Ctrl-Z.
        self._is_suspended = False
        # Set by the writer when it has erased the rows for suspend().
        self._rows_erased = threading.Event()

        for stream in (out, err):
            make_blocking(stream)
        if self.is_interactive and os.name == "nt":
            # This makes the console of Windows understand escape sequences.
            os.system("")
        self._writer = threading.Thread(target=self._write_until_closed, name="writer", daemon=True)
        self._writer.start()

    def say(self, *lines: str) -> None:
        """Print *lines*, in which names are already escaped, on stdout."""
        with self._queue_lock:
            for line in lines:
                self._queue.append(QueuedText(self._out, f"{line}\n"))

    def log(self, address: str, subject: str, event: str) -> None:
        """Print an *event* in the format of http.server's log. Its *subject* is a request or the
        path of an offer."""
        line = self._format_log_line(address, subject, event)
        with self._queue_lock:
            if len(self._queue) < MAX_QUEUED:
                self._queue.append(QueuedText(self._err, line))
            else:
                self._lost_lines += 1

    def show(self, view: View) -> None:
        """Show *view* below the log of a terminal."""
        self._wanted = view

    def suspend(self) -> None:
        """Erase the rows and draw none until resume() is called; return when they are erased, or if
        the terminal takes nothing."""
        self._rows_erased.clear()
        self._is_suspended = True
        self._rows_erased.wait(ERASE_TIMEOUT)

    def resume(self) -> None:
        """Draw the rows again, after suspend()."""
        self._is_suspended = False

    def close(self, lines: Sequence[str]) -> None:
        """Erase the rows and print the last *lines* on stderr; return when that is done, or if the
        terminal takes nothing. Nothing is printed later."""
        self._closing_lines = lines
        self._writer.join(CLOSE_TIMEOUT)

    def _format_log_line(self, address: str, subject: str, event: str) -> str:
        """Return the line of the log that tells an *event*, with its end."""
        if len(subject) > MAX_SUBJECT:
            subject = subject[:MAX_SUBJECT] + ".."
        quoted = escape(subject).replace('"', '\\"')
        details = escape(event)
        for beginning, colour in self._colours.items():
            if details.startswith(beginning):
                details = colour + beginning + RESET_COLOUR + details[len(beginning) :]
        if self.is_interactive and event.startswith("delivered."):
            details += BELL
        date = time.strftime("%d/%b/%Y %H:%M:%S")
        return f'{address} - - [{date}] "{quoted}" {details}\n'

    # The methods below are the writer's own.

    def _write_until_closed(self) -> None:
        """Print what is queued and what has changed, many times a second."""
        while True:
            time.sleep(WRITE_INTERVAL)
            # Read these two once in each turn: other threads may change them at any moment.
            closing_lines = self._closing_lines
            is_suspended = self._is_suspended
            texts = self._take_queue()
            for line in closing_lines or ():
                texts.append(QueuedText(self._err, f"{escape(line)}\n"))
            if self.is_interactive:
                wanted = self._wanted
                if is_suspended or closing_lines is not None:
                    wanted = EMPTY_VIEW
                texts = self._add_rows(texts, wanted)
            write_texts(texts)
            if is_suspended:
                self._rows_erased.set()
            if closing_lines is not None:
                return

    def _take_queue(self) -> List[QueuedText]:
        """Empty the queue. Return its texts, and one that says how many lines found it full."""
        with self._queue_lock:
            texts = self._queue
            lost_lines = self._lost_lines
            self._queue = []
            self._lost_lines = 0
        if lost_lines:
            reason = f"{pluralize(lost_lines, 'line')} of the log lost: the output was blocked"
            texts.append(QueuedText(self._err, f"{reason}\n"))
        return texts

    def _add_rows(self, texts: List[QueuedText], wanted: View) -> List[QueuedText]:
        """Return *texts* between two others: the first erases the rows that are drawn, the last one
        draws the *wanted* rows."""
        if not self._is_in_foreground():
            # The cursor is where the shell has put it. Erase nothing and draw nothing there.
            self._drawn = EMPTY_VIEW
            self._drawn_lines = [""]
            return texts
        if not texts and wanted == self._drawn:
            return texts
        columns, height = self._size()
        erase = erasing_sequence(self._drawn_lines, columns)
        self._drawn = wanted
        self._drawn_lines = self._format_view(wanted, columns, height)
        draw = "\n".join(self._drawn_lines)
        return [QueuedText(self._err, erase), *texts, QueuedText(self._err, draw)]

    def _is_in_foreground(self) -> bool:
        """Return whether the terminal is this program's. It is the shell's after Ctrl-Z and bg, or
        if the command was started with &."""
        if self._err is None or not hasattr(os, "tcgetpgrp"):
            return True
        try:
            return os.tcgetpgrp(self._err.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            # It is not the terminal that controls this process, so no shell shares it with us.
            return True

    def _size(self) -> Tuple[int, int]:
        """Return the columns and lines of the terminal; 80 and 24 if it does not know them."""
        columns = 0
        height = 0
        if self._err is not None:
            try:
                columns, height = self._get_size(self._err.fileno())
            except (OSError, ValueError):
                pass
        return columns or 80, height or 24

    def _format_view(self, view: View, columns: int, height: int) -> List[str]:
        """Return the lines that show *view*; the last one may be empty."""
        # Some terminals begin a new line as soon as the last column is written to: leave it free.
        columns -= 1
        max_rows = max(1, min(MAX_ROWS, height // 3))
        rows = []
        for row in view.rows[:max_rows]:
            name = encodable(escape(row.name), self._err)
            receiver = encodable(escape(row.receiver), self._err)
            rows.append(row._replace(name=name, receiver=receiver))
        lines = format_rows(rows, columns, choose_block(self._err))
        more = view.more + len(view.rows) - len(rows)
        if more:
            lines.append(fit(f"and {more} more", columns))
        # The cursor waits at the end of the last line: the note or, without one, "and N more" or an
        # empty line.
        if view.note or not more:
            lines.append(fit(encodable(escape(view.note), self._err), columns))
        return lines


def is_interactive_terminal(stream: Optional[TextIO]) -> bool:
    """Return whether *stream* is a terminal on which the cursor can be moved."""
    if stream is None or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def make_blocking(stream: Optional[TextIO]) -> None:
    """Let a write to *stream* wait until there is room."""
    # Another program that uses the same terminal or pipe, such as ssh, may have left it in
    # non-blocking mode, in which lines would be lost.
    try:
        if stream is not None and hasattr(os, "set_blocking"):
            os.set_blocking(stream.fileno(), True)
    except (OSError, ValueError):
        # It has no descriptor, or a closed one.
        pass


def write_texts(texts: Iterable[QueuedText]) -> None:
    """Write *texts* to their streams, with one write for several in a row to the same one."""
    for stream, group in itertools.groupby(texts, key=lambda queued: queued.stream):
        text = "".join(queued.text for queued in group)
        try:
            if stream is not None:
                stream.write(encodable(text, stream))
                stream.flush()
        except (OSError, ValueError):
            # The reader of a pipe has gone, a disk is full, or the stream is closed.
            pass


def erasing_sequence(lines: Sequence[str], columns: int) -> str:
    """Return the escape sequence that erases *lines*, with the cursor at the end of the last."""
    # A window that was made narrower since they were drawn has folded long lines.
    height = 0
    for line in lines:
        height += max(1, math.ceil(text_width(line) / columns))
    return CURSOR_UP * (height - 1) + ERASE_FROM_LINE_START


# --- Command line -----------------------------------------------------------------------
# Knows the options, and leads from there to a server that runs, and to the end of the program.
#
# The main thread waits for the end. The server thread makes the server, prints the links, accepts
# connections, and checks the downloads every CHECK_INTERVAL. A signal interrupts neither thread:
# its handler only leaves a note for the main thread.

# Lower ports belong to well-known services, higher ones to outgoing connections.
RANDOM_PORTS = range(20_000, 50_001)
PORT_ATTEMPTS = 64  # random ports that are tried
END_CHECK_INTERVAL = 0.05  # seconds between two checks of the main thread for a signal
STACK_SIZE = 256 * 1024  # bytes for each thread, of which it touches only a few
MAX_DESCRIPTORS = 32_768  # descriptors that are used at most, even if the limit is higher
MACOS_MAX_DESCRIPTORS = 10_240  # macOS calls its limit infinite, but grants no more (OPEN_MAX)
WINDOWS_DESCRIPTORS = 4_096  # Windows has no limit to ask for
RESERVED_DESCRIPTORS = 24  # standard streams, the listening socket, modules that are being loaded
DESCRIPTORS_PER_CONNECTION = 4  # its socket, a file, the folder of that file, the file sent before
WSAEACCES = 10013  # Windows: the port is reserved, or another program has it for itself

DESCRIPTION = """\
Serve files over HTTP: print a link for each, let broken downloads resume, and
say when one has arrived. Without FILE and FOLDER, serve the files of the
current folder. A FOLDER is served as a tar archive. Ctrl-C ends the program.
"""
EXAMPLES = """\
examples:
  %(prog)s                        all files of this folder
  %(prog)s -c 1 big.iso results/  these two, then exit
  %(prog)s -p 8080 -d /data       on port 8080
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print *message* and exit with status 2."""
        self.exit(2, f"httpd_download: {escape(message)} (see {self.prog} -h)\n")


def typed_command() -> str:
    """Return the command that has started this program, for the help and for error messages."""
    python = "py" if os.name == "nt" else "python3"
    specification = getattr(sys.modules.get("__main__"), "__spec__", None)
    if specification is not None and specification.name == "httpd_download":
        return f"{python} -m httpd_download"
    typed = sys.argv[0]
    if typed in ("", "-", "-c"):
        # The program was piped into an interpreter.
        return "httpd_download"
    if typed.endswith(".py"):
        return f"{python} {typed}"
    return os.path.basename(typed)


def port_number(text: str) -> int:
    """Return *text* as a TCP port. Raise ArgumentTypeError if it is none."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'"{text}" is not a port (a number up to 65535)')
    return int(text)


def delivery_count(text: str) -> int:
    """Return *text* as a number of deliveries. Raise ArgumentTypeError if it is none."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number from 1 up')
    return int(text)


def duration(text: str) -> float:
    """Return *text* as a number of seconds. Raise ArgumentTypeError if it is none."""
    if not re.fullmatch(r"[0-9]{1,7}([.][0-9]+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of seconds above 0')
    return float(text)


def transfer_rate(text: str) -> int:
    """Return *text*, such as 500k or 2.5m, as bytes a second. Raise ArgumentTypeError if it is no
    rate."""
    factors = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    match = re.fullmatch(r"([0-9]{1,12}(?:[.][0-9]+)?)([kmg]?)", text.lower())
    rate = 0
    if match:
        number, suffix = match.groups()
        rate = int(float(number) * factors[suffix])
    if rate == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a rate, such as 500k or 2m')
    return rate


def bind_address(text: str) -> str:
    """Return the IP address *text*, which may be "localhost". Raise ArgumentTypeError if it is
    none."""
    try:
        address = numeric_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if text == "localhost":
        return str(address[0])
    # As it was typed: a socket address names the zone of a link-local address only by a number.
    return text


def host_and_port(text: str) -> Tuple[str, int]:
    """Return the host and the port of *text*, 0 if it names no port. Raise ArgumentTypeError if it
    is neither NAME nor NAME:PORT."""
    if is_host(text):
        return text, 0
    host, _, port = text.rpartition(":")
    # An IPv6 address needs brackets if a port follows, as in a URL.
    is_bare_ipv6 = ":" in host and not host.startswith("[")
    if not is_host(host) or is_bare_ipv6 or not re.fullmatch("[0-9]+", port):
        raise argparse.ArgumentTypeError(f'"{text}" is not a host (NAME or NAME:PORT)')
    return host, port_number(port)


def is_host(text: str) -> bool:
    """Return whether *text* can stand for a host in a URL: a name, or an IP address."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if ":" not in text:
            return False
    if ":" not in text:
        return re.fullmatch(r"[^\s\x00-\x20/?#@\\\[\]]+", text) is not None
    # The zone of a link-local address belongs to the receiver's machine, so it is not looked at.
    address, _, _ = text.partition("%")
    try:
        numeric_address(address)
    except ValueError:
        return False
    return True


def prefix_word(text: str) -> str:
    """Return *text* if it can stand in a link as it is; else raise ArgumentTypeError."""
    if text == "":
        raise argparse.ArgumentTypeError("the word is empty")
    # RFC 3986 calls these characters unreserved. A dot would begin a hidden name.
    if not re.fullmatch("[A-Za-z0-9_~-][A-Za-z0-9._~-]*", text):
        allowed = "letters, digits, '-', '_', '~' and, not as the first one, '.'"
        raise argparse.ArgumentTypeError(f'"{text}" has other characters than {allowed}')
    return text


def path_name(text: str) -> str:
    """Return *text* unless it is empty, as from a variable that is not set; then raise
    ArgumentTypeError."""
    if text == "":
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def make_parser() -> Parser:
    """Return the parser of all options. It leaves the names of files and folders alone."""
    parser = Parser(
        prog=typed_command(),
        usage="%(prog)s [options] [FILE or FOLDER ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=30, width=80
        ),
        # An abbreviation would stop working with the next option that begins like it. But Python
        # 3.6 and 3.7 understand -p8080 only where abbreviations are allowed.
        allow_abbrev=sys.version_info < (3, 8),
    )
    add = parser.add_argument
    add(
        "-p",
        "--port",
        type=port_number,
        default=0,
        help="listen on PORT (default: a random free one)",
    )
    add("-b", "--bind", metavar="ADDRESS", type=bind_address, help="listen on this address only")
    add("-d", "--directory", metavar="DIR", type=path_name, help="serve the files of DIR")
    add("-r", "--recursive", action="store_true", help="serve the files of sub-folders too")
    add(
        "-c",
        "--count",
        metavar="N",
        type=delivery_count,
        default=0,
        help="exit after N deliveries, N of each if names are given",
    )
    add(
        "--host",
        metavar="NAME[:PORT]",
        type=host_and_port,
        help="print NAME in links, for a NAT or a proxy",
    )
    add(
        "--limit-rate",
        metavar="RATE",
        type=transfer_rate,
        default=0,
        help="send at most RATE bytes a second (500k, 2m)",
    )
    prefixes = parser.add_mutually_exclusive_group()
    prefixes.add_argument(
        "--secret", action="store_true", help="put an unguessable word before each name"
    )
    prefixes.add_argument(
        "--prefix", metavar="WORD", type=prefix_word, help="put WORD before each name"
    )
    add("--resume-only", action="store_true", help="make download managers use a single connection")
    add(
        "--timeout",
        metavar="SECONDS",
        type=duration,
        default=60.0,
        help="drop a connection that makes no progress for this long (default: 60)",
    )
    add(
        "--tls-cert", metavar="FILE", type=path_name, help="serve https with this certificate chain"
    )
    add(
        "--tls-key",
        metavar="FILE",
        type=path_name,
        help="the private key, if it has its own file",
    )
    add(
        "--version",
        action="version",
        version=f"httpd_download {__version__}",
        help="print the version and exit",
    )
    return parser


def parse_arguments(arguments: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Return the options, and the files and folders as *names*. Print one line and exit with status
    2 if they are wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    # Names may stand between options. The parser has no rule for names, so it returns them as
    # "unknown", in order, together with options that do not exist. (argparse's own way to mix both,
    # parse_intermixed_args, does not exist in Python 3.6, and loses what stands behind "--".)
    end_of_options = len(words)
    if "--" in words:
        end_of_options = words.index("--")
    options, unknown = parser.parse_known_args(words[:end_of_options])
    for word in unknown:
        if word.startswith("-") and word != "-":
            parser.error(f"unrecognized argument: {word}")
    options.names = expand_wildcards(unknown + words[end_of_options + 1 :])
    check_combinations(options, parser)
    if options.secret:
        options.prefix = os.urandom(16).hex()
    elif options.prefix is None:
        options.prefix = ""
    return options


def expand_wildcards(names: Sequence[str]) -> List[str]:
    """Return *names* with patterns such as *.iso replaced by the names that match, if any do: the
    shells of Windows leave this to the program."""
    if os.sep == "/":
        return list(names)
    expanded = []
    for name in names:
        matches = []
        if not os.path.lexists(name):
            matches = sorted(glob.glob(name))
        expanded += matches or [name]
    return expanded


def check_combinations(options: argparse.Namespace, parser: Parser) -> None:
    """Let *parser* report an error if the options do not go together, or not with this system."""
    if "" in options.names:
        parser.error("a name is empty: a file or folder was expected")
    if options.names and (options.directory is not None or options.recursive):
        parser.error("only what is named is served: -d and -r go without FILE and FOLDER")
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key goes with --tls-cert")
    if options.limit_rate and not supports_rate_limit():
        parser.error("--limit-rate: this system cannot limit the rate of a connection")


def make_server(
    options: argparse.Namespace, terminal: Terminal, tls: "Optional[ssl.SSLContext]"
) -> QuietServer:
    """Return a server for what *options* name, bound to a port. Raise OSError, or ValueError if two
    names cannot be served together."""
    excluded = excluded_files(own_files(options))

    def report(progress: str) -> None:
        terminal.show(View((), 0, progress))

    try:
        named = named_offers(options.names, excluded, report)
    except OSError as error:
        reason = str(error.strerror) + port_advice(options.names)
        raise OSError(error.errno, reason, error.filename) from None
    folder = None
    if not options.names:
        folder = options.directory or os.curdir
    share = Share(folder, named, options.prefix, options.recursive, excluded)
    registry = Registry(
        terminal.log,
        options.timeout,
        options.count,
        named,
        options.limit_rate,
        reports_progress=not terminal.is_interactive,
    )
    max_connections = connections_for(raise_descriptor_limit())
    failure = OSError()
    for address in candidate_addresses(options.bind, options.port):
        try:
            return QuietServer(address, share, registry, max_connections, options.resume_only, tls)
        except OSError as error:
            failure = error
    raise bind_failure(failure, options.bind, options.port)


def own_files(options: argparse.Namespace) -> List[str]:
    """Return the files of this program, its certificate and its private key, except those that are
    named on the command line: to name such a file is to offer it."""
    # Piped into an interpreter, the program is no file. Imported, it may have been compiled.
    specification = globals().get("__spec__")
    paths = [globals().get("__file__"), getattr(specification, "cached", None)]
    paths += [options.tls_cert, options.tls_key]
    return [path for path in paths if path and not is_among(path, options.names)]


def is_among(path: str, names: Sequence[str]) -> bool:
    """Return whether one of *names* is the file *path*."""
    for name in names:
        try:
            if os.path.samefile(name, path):
                return True
        except OSError:
            # One of the two does not exist.
            continue
    return False


def excluded_files(paths: Sequence[str]) -> Set[FileId]:
    """Return the files that are not served: those that stdout and stderr are written to, and
    *paths*."""
    excluded = set()
    candidates: List[Union[int, str]] = [1, 2, *paths]
    for candidate in candidates:
        try:
            status = os.stat(candidate)
        except OSError:
            continue
        # On Windows the numbers of all pipes are 0 and 0.
        if stat.S_ISREG(status.st_mode):
            excluded.add(file_id(status))
    return excluded


def port_advice(names: Sequence[str]) -> str:
    """Return advice, if a file that does not exist seems to be meant as a port, as it would be by
    http.server; else ""."""
    for name in names:
        if re.fullmatch("[0-9]{2,5}", name) and not os.path.lexists(name):
            return f" (to listen on port {name}: -p {name})"
    return ""


def raise_descriptor_limit() -> int:
    """Raise the number of files that may be open as far as possible, and return it."""
    if resource is None:
        return WINDOWS_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard
    if hard == resource.RLIM_INFINITY:
        wanted = MACOS_MAX_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass
    if soft == resource.RLIM_INFINITY or soft > MAX_DESCRIPTORS:
        return MAX_DESCRIPTORS
    return soft


def connections_for(descriptors: int) -> int:
    """Return how many connections so many descriptors are enough for."""
    return max(1, (descriptors - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)


def candidate_addresses(bind: Optional[str], port: int) -> Iterator[Tuple[Any, ...]]:
    """Yield the socket addresses to try, the best one first: of the host *bind* or, if it is None,
    of all addresses of this machine, IPv6 together with IPv4, then IPv4 alone; with *port* or, if
    it is 0, with random ports."""
    ports = [port]
    if port == 0:
        ports = random.sample(RANDOM_PORTS, PORT_ATTEMPTS)
    hosts = ["::", "0.0.0.0"]
    if bind is not None:
        hosts = [bind]
    for host in hosts:
        address, _, *rest = numeric_address(host)
        for candidate in ports:
            yield (address, candidate, *rest)


def bind_failure(error: OSError, bind: Optional[str], port: int) -> OSError:
    """Return the error to report after *error* at the last candidate."""
    where = bind or "0.0.0.0"
    if port != 0:
        where += f" port {port}"
    return OSError(error.errno, describe_bind_failure(error), where)


def describe_bind_failure(error: OSError) -> str:
    """Return why a port could not be bound, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "the port is taken: name another, or none for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have the address"
    if getattr(error, "winerror", None) == WSAEACCES:
        return "the port is reserved or taken: name another, or none for a free one"
    if error.errno == errno.EACCES:
        return "the port needs more rights: name one from 1024 up"
    return error.strerror or str(error)


def announce(server: QuietServer, options: argparse.Namespace, terminal: Terminal) -> None:
    """Print where the server can be reached, a link for each offer, and what is not offered. Raise
    OSError if the folder cannot be read."""
    urls = server_urls(server, options)
    survey = server.share.survey()
    links = []
    remarks = []
    for name in excluded_names(options.names):
        remarks.append(f"not offered, since this program writes to it: {escape(name)}")
    for offer in survey.listed:
        links.append(format_link(urls[0] + server.share.link_path(offer.name), offer))
        if offer.archive is not None and offer.archive.left_out:
            left_out = describe_left_out(offer.archive.left_out)
            remarks.append(f"left out of {escape(offer.name)}: {escape(left_out)}")
    if not links:
        remarks.append("nothing to offer here")
    if survey.left_out:
        remarks.append(f"not offered: {escape(describe_left_out(survey.left_out))}")
    terminal.say(f"serving on: {urls[0]}/")
    for url in urls[1:]:
        terminal.say(f"also on: {url}/")
    terminal.say("===== local files =====", *links, *remarks, "===== start logging =====")


def server_urls(server: QuietServer, options: argparse.Namespace) -> List[str]:
    """Return the URLs at which receivers reach the server, the one for links first."""
    scheme = "https" if options.tls_cert else "http"
    port = server.server_port
    if options.host is not None:
        host, other_port = options.host
        return [base_url(host, other_port or port, scheme)]
    bound = str(server.server_address[0])
    hosts = [options.bind]
    if bound in ("::", "0.0.0.0"):
        hosts = local_addresses(with_ipv6=bound == "::")
    return [base_url(host, port, scheme) for host in hosts]


def excluded_names(names: Sequence[str]) -> List[str]:
    """Return those of *names* that are not offered because this program writes to them."""
    excluded = excluded_files([])
    found = []
    for name in names:
        try:
            status = os.stat(name)
        except OSError:
            continue
        if file_id(status) in excluded:
            found.append(name)
    return found


def format_link(url: str, offer: Listed) -> str:
    """Return the line that tells the *url* of an offer, and its size."""
    details = [format_size(offer.size)]
    if offer.archive is not None:
        file_count = pluralize(offer.archive.file_count, "file")
        details = [escape(offer.archive.folder_name), file_count, format_size(offer.size)]
    elif not url.endswith(f"/{offer.name}"):
        # The link had to escape the name, so a person may not recognize it.
        details.insert(0, escape(offer.name))
    return f"link: {url}  ({', '.join(details)})"


def serve(server: QuietServer, terminal: Terminal) -> None:
    """Accept connections, check the downloads and show them, until enough is delivered."""
    registry = server.registry
    next_check = time.monotonic()
    while not registry.is_done():
        server.handle_request()
        if time.monotonic() >= next_check:
            next_check = time.monotonic() + CHECK_INTERVAL
            registry.check_all()
            terminal.show(registry.view(MAX_ROWS))


class ServerThread(threading.Thread):
    """Makes the server, announces its links, and serves until enough is delivered."""

    def __init__(
        self, options: argparse.Namespace, terminal: Terminal, tls: "Optional[ssl.SSLContext]"
    ) -> None:
        super().__init__(name="server", daemon=True)
        self._options = options
        self._terminal = terminal
        self._tls = tls
        # The server, from the moment when its links are printed.
        self.server: Optional[QuietServer] = None
        # Why the thread has ended, "" while it runs or if enough is delivered, and the exit status
        # that goes with it.
        self.failure = ""
        self.failure_status = 1

    def run(self) -> None:
        """Make the server, announce it, and serve. Note in ``failure`` why it ended."""
        try:
            server = make_server(self._options, self._terminal, self._tls)
            announce(server, self._options, self._terminal)
            self.server = server
            serve(server, self._terminal)
        except Exception as error:
            if self.server is not None:
                self.failure = f"the thread that accepts connections has died: {error!r}"
                return
            self.failure = describe_start_failure(error)
            if isinstance(error, ValueError):
                # Two names that cannot be served together.
                self.failure_status = 2


def describe_start_failure(error: BaseException) -> str:
    """Return what could not be done at the start, and with which file or address."""
    reason = describe_local_failure(error) or str(error) or repr(error)
    where = getattr(error, "filename", None)
    if where:
        reason = f"{where}: {reason}"
    if os.sep == "\\":
        # Windows takes slashes in paths too. Backslashes would be escaped.
        reason = reason.replace("\\", "/")
    return reason


def note_signals(names: Sequence[str], notes: List[int]) -> None:
    """From now on, append the number of each signal in *names* to *notes* when it arrives."""
    for name in names:
        number = getattr(signal, name, None)
        # Not every system has each of them. Do not catch a signal that is ignored (nohup).
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: notes.append(received))


def wait_for_end(thread: threading.Thread, end_signals: List[int], terminal: Terminal) -> None:
    """Return when *thread* has ended or a signal asks for the end. Meanwhile let Ctrl-Z work."""
    stop_signals: List[int] = []
    if terminal.is_interactive:
        note_signals(["SIGTSTP"], stop_signals)
    # Not an Event: a signal handler that sets it could interrupt the main thread inside of it.
    while thread.is_alive() and not end_signals:
        time.sleep(END_CHECK_INTERVAL)
        if stop_signals:
            stop_signals.clear()
            stop_this_process(terminal)


def stop_this_process(terminal: Terminal) -> None:
    """Erase the rows, stop as Ctrl-Z would, and draw the rows again after fg or bg."""
    terminal.suspend()
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)
    terminal.resume()


def finish(thread: ServerThread, options: argparse.Namespace) -> Tuple[int, List[str]]:
    """End everything that is under way; return the exit status and the last lines."""
    lines = []
    server = thread.server
    has_enough = False
    if thread.failure:
        lines.append(f"httpd_download: {thread.failure}")
    if server is not None:
        lines += server.registry.stop()
        has_enough = server.registry.has_enough()
        if server.registry.has_unfinished():
            lines.append(resume_advice(server.server_port, options))
        # Windows resets the connections of a process that ends, unless they are closed before.
        server.registry.close_connections()
    elif not thread.failure:
        lines.append("stopped. nothing was delivered")
    status = 0
    if thread.failure:
        status = thread.failure_status
    elif options.count and not has_enough:
        # "httpd_download.py -c 1 FILE && rm FILE" must not remove a file before it is delivered.
        status = 1
    return status, lines


def resume_advice(port: int, options: argparse.Namespace) -> str:
    """Return with which options the links stay the same after a restart."""
    advice = f"to let them resume: the same command with -p {port}"
    if options.secret:
        advice += f" --prefix {options.prefix} instead of --secret"
    return advice


def main(arguments: Optional[Sequence[str]] = None) -> NoReturn:
    """Run the program and exit: with 0 if it was stopped or, with -c, if enough was delivered; with
    1 if something could not be done, or not enough was delivered; with 2 if the command line is
    wrong."""
    end_signals: List[int] = []
    note_signals(["SIGINT", "SIGTERM", "SIGBREAK"], end_signals)
    options = parse_arguments(arguments)
    threading.stack_size(STACK_SIZE)
    tls = None
    try:
        if options.tls_cert:
            # In the main thread: OpenSSL lets Ctrl-C end its question for the passphrase there.
            tls = tls_context(options.tls_cert, options.tls_key)
        terminal = Terminal(sys.stdout, sys.stderr)
        thread = ServerThread(options, terminal, tls)
        thread.start()
    except (ImportError, OSError, RuntimeError) as error:
        # TLS is not available or not set up right, or the system lets no more threads start.
        sys.exit(f"httpd_download: {escape(describe_start_failure(error))}")
    wait_for_end(thread, end_signals, terminal)
    status, lines = finish(thread, options)
    terminal.close(lines)
    # Not sys.exit: it would wait for a blocked stdout, and for threads that are still busy.
    os._exit(status)


if __name__ == "__main__":
    main()
