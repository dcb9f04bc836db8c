#!/usr/bin/env python3
"""Hand files to someone over HTTP, from whatever machine is nearest to them.

Run it in a folder, or name files; paste the link that it prints; watch the
log until the file is delivered; press Ctrl-C.  Broken downloads resume.
"""

from __future__ import annotations

import gc
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main is there: no traceback of an import
    # To look for garbage among what is imported, where there is none, is an eighth of the time to start;
    # another eighth is to import what http.client and shutil can do without, and what is not done here.
    gc.disable()
    UNUSED = {"ssl", "bz2", "lzma", "zlib"} - set(sys.modules)
    sys.modules.update(dict.fromkeys(UNUSED))  # type: ignore[arg-type]

import argparse
import calendar
import datetime
import email.utils
import errno
import http.client
import http.server
import io
import mimetypes
import os
import queue
import re
import select
import socket
import socketserver
import stat
import struct
import threading
import time
import urllib.parse
from bisect import bisect_right
from collections import deque
from functools import lru_cache, partial
from http import HTTPStatus
from itertools import accumulate

if __name__ == "__main__":
    for name in UNUSED:
        del sys.modules[name]  # tls_context does need ssl
    gc.freeze()  # what is imported stays
    gc.enable()
try:
    import fcntl
    import resource
    import termios
except ImportError:  # Windows
    fcntl = resource = termios = None  # type: ignore[assignment]

TYPE_CHECKING = False  # to import typing for it would take its time at every start
if TYPE_CHECKING:
    import ssl
    from email.message import Message
    from typing import Any, Callable, Iterator, Mapping, Sequence, TextIO, Union

    Span = tuple[int, int]  # bytes of a file: first, and one past the last
    Part = Union[bytes, Span]  # a piece of a body: literal, or a span of the open file
    Fields = Sequence[tuple[str, str]]
    Event = tuple[str, str]  # what was asked for, and what became of it
    Log = Callable[[str, Sequence[Event]], None]  # a peer, and its events: a line each

__version__ = "1.0.0"


# --- What is offered: names to open files ------------------------------------------


class Representation:
    """An open regular file, as it is offered to receivers (RFC 9110, section 3.2); a ``with`` closes it.

    ``size`` is in bytes, ``mtime`` in seconds.  ``etag`` is strong: another
    file, another size or another time of change in ns makes another tag.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        """Raise OSError where *descriptor* is not of a regular file; closing it then stays with the caller."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        self.descriptor = descriptor
        self.status = status
        self.name = name
        self.size = status.st_size
        self.mtime = status.st_mtime_ns // 10**9
        self.etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'

    def __enter__(self) -> Representation:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def is_overwritten(self) -> bool:
        """Tell whether the file was changed in place since it was opened, as far as its status tells.

        One that grew may have been appended to, which changes nothing of what is sent.
        """
        status = os.fstat(self.descriptor)
        return status.st_size == self.size and status.st_mtime_ns != self.status.st_mtime_ns


class Share:
    """The only door to the disk: what may be fetched, and under which names."""

    def __init__(self, folder: str, files: Sequence[str] = (), secret: str = "") -> None:
        """Offer *files* under their base names or, where there are none, *folder*.

        Raise OSError for what is missing, unreadable or of the wrong kind,
        and ValueError for two files of one name.
        """
        self.secret = secret
        self._folder = os.path.realpath(folder)
        self._files: dict[str, str] = {}
        if not files:
            os.listdir(self._folder)
        for path in files:
            name = os.path.basename(os.path.abspath(path))
            if name in self._files and not os.path.samefile(path, self._files[name]):
                raise ValueError(f"two files would have one link: {self._files[name]} and {path}")
            self._files[name] = path
            with _open_regular(path, name):
                pass

    def open(self, path: str) -> Representation | None:
        """Open what *path*, the percent-encoded path of a request, names; None if nothing may be had.

        Raise OSError only where the system has no descriptor or memory left.
        """
        try:
            components = [os.fsdecode(urllib.parse.unquote_to_bytes(part)) for part in path.split("/")[1:]]
        except UnicodeDecodeError:  # Windows: such a name cannot exist
            return None
        if self.secret:
            from hmac import compare_digest

            if not compare_digest(os.fsencode(components[0]), self.secret.encode()):
                return None
            del components[0]
        return self._open(components)

    def names(self, recursive: bool) -> Iterator[list[str]]:
        """Yield the components of every name that is offered and listed, in order."""
        if self._files:
            yield from ([name] for name in self._files)
            return
        try:
            script = os.stat(__file__)
        except (NameError, OSError):  # piped into an interpreter: there is no file
            script = None
        for parent, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
            above = [name for name in parent[len(self._folder) :].split(os.sep) if name]
            for name in sorted(files):
                representation = self._open([*above, name])
                if representation:
                    with representation:
                        if not (script and os.path.samestat(representation.status, script)):
                            yield [*above, name]

    def link(self, components: Sequence[str]) -> str:
        """Return the path of the link to a name, percent-encoded, the secret before it."""
        parts = [self.secret, *components] if self.secret else components
        return "".join("/" + urllib.parse.quote(os.fsencode(part), safe="") for part in parts)

    def _open(self, components: Sequence[str]) -> Representation | None:
        path = self._files.get(components[0]) if self._files and len(components) == 1 else None
        if not self._files and components and all(map(_is_offered, components)):
            path = self._resolve(components)
        if path is None:
            return None
        try:
            return _open_regular(path, "/".join(components))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            return None

    def _resolve(self, components: Sequence[str]) -> str | None:
        """Follow symlinks, but neither out of the folder nor to a hidden name in it."""
        path = self._folder
        for component in components:
            path = os.path.join(path, component)
            if os.path.islink(path) or os.sep == "\\":  # a junction of Windows is no link
                break
        else:  # as nearly always, and a tenth of the time of a small request is saved
            return path
        path = os.path.realpath(os.path.join(self._folder, *components))
        root = self._folder.rstrip(os.sep).split(os.sep)
        resolved = path.split(os.sep)
        inside = resolved[: len(root)] == root and all(map(_is_offered, resolved[len(root) :]))
        return path if inside else None


def _open_regular(path: str, name: str) -> Representation:
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open some devices is to set them going
        raise OSError(errno.EINVAL, "not a regular file; a folder is given with -d", path)
    # The file may have become a FIFO since: O_NONBLOCK, so that nobody waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        return Representation(descriptor, name)
    except OSError:
        os.close(descriptor)
        raise


def _is_offered(component: str) -> bool:
    if os.sep == "\\" and is_refused_on_windows(component):
        return False
    return component != "" and component[0] != "." and "/" not in component and "\0" not in component


def is_refused_on_windows(component: str) -> bool:
    """Tell whether Windows would read *component* as anything but the name of a plain file.

    That is a separator, a drive or stream, a device, or a name with an end
    that Windows drops (Microsoft: "Naming Files, Paths, and Namespaces").
    """
    device = component.partition(".")[0].rstrip(" ")
    return (
        re.search(r'[\\:<>"|?*\x00-\x1f]|[. ]\Z', component) is not None
        or re.fullmatch(r"CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]", device, re.IGNORECASE) is not None
    )


# --- Ranges and preconditions: pure functions, no I/O ------------------------------

MAX_RANGES = 32


def byte_ranges(value: str, size: int) -> list[Span] | None:
    """Resolve the *value* of a Range field against *size* bytes (RFC 9110, section 14.1.2).

    Return spans in the order asked; an empty list where none can be
    satisfied; None where the field is to be ignored.  Raise ValueError for a
    malformed set of byte ranges.
    """
    unit, equals, range_set = value.partition("=")
    if size == 0 or not equals or unit.lower() != "bytes":
        return None
    specs = [spec for spec in (part.strip(" \t") for part in range_set.split(",")) if spec]
    spans = []
    for spec in specs:
        match = re.fullmatch("([0-9]*)-([0-9]*)", spec)
        if not match or spec == "-":
            raise ValueError("malformed byte range")
        first, last = match.groups()
        if not first:  # the last so many bytes
            start, stop = max(0, size - _number(last)), size
        else:
            start, stop = _number(first), _number(last) + 1 if last else size
            if last and stop <= start:
                raise ValueError("byte range ends before it starts")
        if start < min(stop, size):
            spans.append((start, min(stop, size)))
    if not specs:
        raise ValueError("no byte range")
    ordered = sorted(spans)
    overlap = any(one[1] > other[0] for one, other in zip(ordered, ordered[1:]))
    # RFC 9110, section 14.2, lets a server ignore what would cost it more than the whole file.
    return None if overlap or len(specs) > MAX_RANGES else spans


def _number(digits: str) -> int:
    """Convert in linear time: past 20 digits any number is past the end of any file."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= 20 else 10**20


@lru_cache(maxsize=64)
def http_date(seconds: int) -> str:
    """Format Unix time as RFC 9110's IMF-fixdate, held between the years 1 and 9999."""
    seconds = max(-62135596800, min(seconds, 253402300799))
    date = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return email.utils.format_datetime(date, usegmt=True)


def parse_date(value: str | None) -> int | None:
    """Return the Unix time of a date in one of the three formats of RFC 9110, section 5.6.7, else None."""
    if not value:
        return None
    for date_format in ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"):
        try:
            parsed = time.strptime(value.strip(" \t"), date_format)
        except ValueError:
            continue
        if "%y" not in date_format:
            return calendar.timegm(parsed)
        # A year of two digits means no time more than 50 years ahead.
        now = time.gmtime()
        date = (now.tm_year - now.tm_year % 100 + parsed.tm_year % 100, *parsed[1:6])
        return calendar.timegm(date if date <= (now.tm_year + 50, *now[1:6]) else (date[0] - 100, *date[1:]))
    return None


def precondition_status(fields: Mapping[str, str], etag: str, modified: int) -> HTTPStatus | None:
    """Evaluate the preconditions of a GET or HEAD in the order of RFC 9110, section 13.2.2.

    *fields* are combined, *etag* and *modified*, in seconds, the current validators.  Return
    412 or 304 where that is the answer, None where the request is to be served.
    """
    if_match = fields.get("if-match")
    unmodified_since = parse_date(fields.get("if-unmodified-since"))
    if if_match is not None:
        if if_match != "*" and etag not in _entity_tags(if_match, weak=False):
            return HTTPStatus.PRECONDITION_FAILED
    elif unmodified_since is not None and modified > unmodified_since:
        return HTTPStatus.PRECONDITION_FAILED
    if_none_match = fields.get("if-none-match")
    modified_since = parse_date(fields.get("if-modified-since"))
    if if_none_match is not None:
        if if_none_match == "*" or etag in _entity_tags(if_none_match, weak=True):
            return HTTPStatus.NOT_MODIFIED
    elif modified_since is not None and modified <= modified_since:
        return HTTPStatus.NOT_MODIFIED
    return None


def if_range_holds(value: str | None, etag: str, modified: int) -> bool:
    """Tell whether Range is to be honoured: no If-Range, the very tag, or the very date (RFC 9110, 13.1.5)."""
    return value is None or value == etag or parse_date(value) == modified


def _entity_tags(value: str, weak: bool) -> list[str]:
    """Return the tags of a list; the weak ones only for the weak comparison (RFC 9110, section 8.8.3.2)."""
    return [tag for prefix, tag in re.findall('(?<![^, \t])(W/)?("[!#-~\x80-\xff]*")', value) if weak or not prefix]


def combined(headers: Message) -> dict[str, str]:
    """Return the values of fields by their names in lower case, repeated lines joined by commas (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    for name, value in headers.items():
        name, value = name.lower(), value.strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def part_length(part: Part) -> int:
    """Return how many bytes of a body *part* makes."""
    return len(part) if isinstance(part, bytes) else part[1] - part[0]


def content_range(span: Span, size: int) -> str:
    """Return the value of Content-Range for *span* (RFC 9110, section 14.4)."""
    return f"bytes {span[0]}-{span[1] - 1}/{size}"


def multipart(spans: Sequence[Span], size: int, content_type: str, boundary: str) -> list[Part]:
    """Return the parts of a multipart/byteranges body (RFC 9110, section 14.6)."""
    parts: list[Part] = []
    for span in spans:
        head = f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range(span, size)}\r\n\r\n"
        parts += [head.encode(), span]
    return [*parts, f"\r\n--{boundary}--\r\n".encode()]


# --- Deliveries: what was handed over, what is acknowledged, what has arrived ------

TICK = 0.2  # seconds between two looks at what is under way
RESET_GRACE = 0.5  # seconds in which a receiver that discards what its system took makes that known
CHUNK = 1 << 14  # bytes copied at a time: what one TLS record holds
FOREVER = 86400.0  # seconds; the real limits are about progress: Deliveries.watch keeps them
COURTESY = 0.05  # seconds for which one thread waits for another's turn to end
STEP = 1 << 20  # bytes asked of one sendfile: a disk that takes a time-out for so many counts as stalled
MAX_PIPELINED = 256  # transfers under way on one connection
NETWORK_ERRORS = (ConnectionError, TimeoutError, socket.timeout)
NETWORK_ERRNOS = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENOTCONN)


def is_network_error(error: BaseException) -> bool:
    """Tell whether *error* is a thing that networks do, rather than a disk or a bug."""
    if isinstance(error, NETWORK_ERRORS) or type(error).__module__ == "ssl":
        return True
    return isinstance(error, OSError) and error.errno in NETWORK_ERRNOS


def unacknowledged(connected: socket.socket) -> int | None:
    """Return how many bytes the receiver has not acknowledged yet; None where the system cannot tell."""
    try:
        queued: int = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return queued
    except (AttributeError, OSError):
        pass
    try:  # macOS has SO_NWRITE, for which Python has no name
        return connected.getsockopt(socket.SOL_SOCKET, 0x1024)
    except OSError:
        return None


class Turn:
    """A thread's right to work while no other one does, to be passed on before it waits for the network.

    Threads that work at the same time spend half of it on handing the
    interpreter lock over.  *lock* is what they have in common.  It is a
    courtesy: whom a disk holds up in its turn, the others pass by.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._taken = False

    def take(self) -> None:
        """Wait for the turn, but not for long."""
        self._taken = self._lock.acquire(timeout=COURTESY)

    def pass_on(self) -> None:
        """Let another thread work, if this one has the turn."""
        if self._taken:
            self._taken = False
            self._lock.release()


class Connection(io.BufferedIOBase):
    """The one place that counts bytes: what was handed to the system, and what came through.

    It is the ``wfile`` of its handler: ``write`` collects, ``flush`` and
    ``send`` hand over, ``look`` asks what has been acknowledged.
    """

    def __init__(
        self,
        connected: socket.socket,
        unacknowledged: Callable[[socket.socket], int | None] = unacknowledged,
        clock: Callable[[], float] = time.monotonic,
        turn: Turn | None = None,
    ) -> None:
        self._socket = connected
        self.turn = turn or Turn(threading.Lock())
        self._unacknowledged = unacknowledged
        self._clock = clock
        self._buffer = b""
        self._sendfile = hasattr(os, "sendfile") and not hasattr(connected, "do_handshake")
        self.sent = 0  # bytes handed to the system since the connection was made
        self.acknowledged = 0  # of these
        self.queued: int | None = 0  # bytes that wait for an acknowledgement; None: the system cannot tell
        self.reset = False
        self.moved = clock()  # when something last went forward
        self.transfers: list[Transfer] = []  # those not yet ended, in the order of the stream

    def write(self, data: Any) -> int:
        self._buffer += data
        return len(data)

    def tell(self) -> int:
        """Return the position in the stream of what is written next."""
        return self.sent + len(self._buffer)

    def flush(self) -> None:
        self._flush(0)

    def close(self) -> None:
        self._buffer = b""  # or the base class would flush it to a dead socket
        super().close()

    def send(self, parts: Sequence[Part], representation: Representation | None = None) -> None:
        """Hand *parts* over, spans being those of *representation*, and what was written before them.

        Raise OSError where the connection or the disk fails, and EOFError
        where the file is no longer what it was.
        """
        if self.queued is None or self.tell() + sum(map(part_length, parts)) - self.acknowledged > CHUNK:
            # A system may not have room for so much, or cannot tell.  A time-out, however long, makes the socket
            # non-blocking, so that os.sendfile tells what the system has taken.
            self.turn.pass_on()
            self._socket.settimeout(FOREVER)
        for part in parts:
            if isinstance(part, bytes):
                self.write(part)
            elif representation:
                self._send_span(representation, *part)
        self.flush()

    def went_forward(self) -> None:
        """Note that the receiver did something that counts as going forward."""
        self.moved = self._clock()

    def look(self) -> None:
        """Find out what has been acknowledged by now, and whether the receiver reset the connection."""
        sent = self.sent  # read before the queue: what is handed over in between must not count
        self.queued = self._unacknowledged(self._socket)
        acknowledged = sent - (self.queued or 0)  # where the system cannot tell, handed over counts
        if acknowledged > self.acknowledged:
            self.acknowledged = acknowledged
            self.went_forward()
        try:
            self.reset = self.reset or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        except OSError:
            self.reset = True

    def cut(self) -> None:
        """End the connection from another thread; whoever waits for it wakes up."""
        try:
            # An SSLSocket's own shutdown would drop the encryption under a thread that is sending.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            if self.queued:  # nobody takes this: let the system drop it
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass

    def _flush(self, flags: int) -> None:
        while self._buffer:
            sent = self._socket.send(self._buffer, flags)
            self.sent += sent
            self._buffer = self._buffer[sent:]

    def _send_span(self, representation: Representation, start: int, stop: int) -> None:
        # The head leaves in one packet with the first bytes of the file.
        self._flush(getattr(socket, "MSG_MORE", 0) if self._sendfile and start < stop else 0)
        while start < stop:
            if representation.is_overwritten():
                raise EOFError("the file was changed")
            sent = self._send_some(representation.descriptor, start, stop - start)
            if sent == 0:
                raise EOFError("the file became shorter")
            start += sent or 0
            self.sent += sent or 0

    def _send_some(self, descriptor: int, start: int, count: int) -> int | None:
        """Return how many bytes were handed over: 0 at the end of the file, None where there was no room until now."""
        if self._sendfile:
            try:
                return os.sendfile(self._socket.fileno(), descriptor, start, min(count, STEP))
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                poll.poll()
                return None
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                self._sendfile = False  # some file systems know only read
        os.lseek(descriptor, start, os.SEEK_SET)
        data = os.read(descriptor, min(count, CHUNK))
        return self._socket.send(data) if data else 0


class Transfer:
    """One body on its way: which bytes of which version of which file, and where in the stream."""

    def __init__(
        self,
        peer: str,
        request: str,
        representation: Representation,
        parts: Sequence[Part],
        end: int | None = None,
    ) -> None:
        """*end*: where a single range that names its end stops; None for a whole file and for ``bytes=N-``."""
        self.peer = peer
        self.request = request
        self.name = representation.name
        self.etag = representation.etag
        self.size = representation.size
        self.parts = parts
        self.asked = (parts[0][0], end) if len(parts) == 1 and isinstance(parts[0], tuple) else None
        self.length = sum(map(part_length, parts))
        self.start = self.stop = 0  # positions of the body in the stream of its connection
        self.began = 0.0
        self.arrived: float | None = None  # when the last byte was acknowledged
        self.rate = 0.0  # bytes a second, of late
        self._measured = (0.0, 0)  # when, and what had been acknowledged
        self._measurements = 0

    def progress(self, position: int) -> int:
        """Return how many bytes of the body lie before *position* in the stream."""
        return min(max(position - self.start, 0), self.length)

    def spans(self, count: int) -> list[Span]:
        """Return the spans of the file that the first *count* bytes of the body hold."""
        spans = []
        for part in self.parts:
            taken = min(part_length(part), count)
            count -= taken
            if taken and not isinstance(part, bytes):
                spans.append((part[0], part[0] + taken))
        return spans

    def measure(self, now: float, acknowledged: int) -> None:
        """Bring ``rate`` up to date: the mean so far, then smoothed over the last few seconds."""
        then, before = self._measured if self._measurements else (self.began, 0)
        if now - then >= 2 * TICK:
            latest = (acknowledged - before) / (now - then)
            # What fills the receiver's buffers at the start is no measure of its network.
            self._measurements += 1
            self.rate += max(0.1, 1 / self._measurements) * (latest - self.rate)
            self._measured = (now, acknowledged)


def overlay(spans: Sequence[Span], added: Span) -> tuple[list[Span], list[Span]]:
    """Unite disjoint *spans* with *added*; return the union, in order, and what of *added* was there before."""
    start, stop = added
    union, overlap = [], []
    for span in spans:
        if span[1] < added[0] or added[1] < span[0]:
            union.append(span)
            continue
        start, stop = min(start, span[0]), max(stop, span[1])
        common = (max(added[0], span[0]), min(added[1], span[1]))
        if common[0] < common[1]:
            overlap.append(common)
    return sorted([*union, (start, stop)]), overlap


class Account:
    """What one receiver has of one version of a file."""

    def __init__(self) -> None:
        self.requests = 0
        self.copies: list[list[Span]] = []  # the first is nearest to being whole
        self.asked: deque[tuple[int, int | None]] = deque(maxlen=32)  # starts of ranges, and the ends they named
        self.unsure: deque[tuple[int, int, int | None]] = deque(maxlen=32)  # handed over, not acknowledged; the end

    def add(self, spans: Sequence[Span], most_copies: int) -> None:
        """Add *spans*: what one copy has already goes to the next."""
        if len(self.copies) < most_copies:
            self.copies.append([])
        added = list(spans)
        for index, copy in enumerate(self.copies):
            carried = []
            for span in added:
                copy, overlap = overlay(copy, span)
                carried += overlap
            self.copies[index], added = copy, carried
        self.copies = [copy for copy in self.copies if copy]

    def weight(self) -> int:
        """Return how much there is to remember."""
        return 1 + sum(map(len, self.copies))


class Ledger:
    """What each receiver has of each version of a file, over however many requests.

    Bytes that come a second time begin a second copy, so two receivers behind
    one address, each broken off and resumed, make two; there are at most
    *most_copies* at once.  When there are more than *capacity* spans and
    accounts in all, the largest account is forgotten.
    """

    def __init__(self, capacity: int = 1000, most_copies: int = 16) -> None:
        self._capacity = capacity
        self._most_copies = most_copies
        self._weight = 0
        self._accounts: dict[tuple[str, str], Account] = {}

    def add(
        self,
        peer: str,
        etag: str,
        size: int,
        spans: Sequence[Span],
        asked: tuple[int, int | None] | None = None,
        handed: int = 0,
    ) -> int:
        """Enter acknowledged *spans*; return the number of requests that made a copy of *size* bytes whole, else 0.

        *asked*: where a single range starts, and the end that it named;
        *handed*: how many more of its bytes were handed over.  A receiver can
        have read what it never acknowledged: a reset overtakes the
        acknowledgement, a network that breaks swallows it.  Where it then
        goes on, towards the same end, tells how much that was.
        """
        account = self._accounts.pop((peer, etag), None)
        self._weight -= account.weight() if account else 0
        account = account or Account()
        if spans:
            account.requests += 1
            account.add(spans, self._most_copies)
        if asked:
            account.asked.append(asked)
            if handed:
                acknowledged = spans[-1][1] if spans else asked[0]
                account.unsure.append((acknowledged, acknowledged + handed, asked[1]))
        for acknowledged, stop, end in [*account.unsure]:
            starts = [start for start, named in account.asked if acknowledged < start <= stop and named == end]
            if starts:
                account.unsure.remove((acknowledged, stop, end))
                account.add([(acknowledged, starts[0])], self._most_copies)
        complete = account.requests if account.copies[:1] == [[(0, size)]] else 0
        if complete:
            account.requests = 0
            del account.copies[0]
        if account.copies or account.unsure:
            self._accounts[peer, etag] = account
            self._weight += account.weight()
        while self._weight > self._capacity:
            largest = max(self._accounts, key=lambda key: self._accounts[key].weight())
            self._weight -= self._accounts.pop(largest).weight()
        return complete


class Deliveries:
    """Every connection and transfer, from the head being sent to the file having arrived."""

    def __init__(
        self, log: Log, timeout: float = 60.0, wanted: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*timeout*: seconds without progress that end a connection; *wanted*: deliveries that are enough, or 0."""
        self.enough = threading.Event()
        self._log = log
        self._timeout = timeout
        self._wanted = wanted
        self._clock = clock
        self._ledger = Ledger()
        self._delivered: dict[str, int] = {}
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()

    def enter(self, connection: Connection) -> None:
        """Watch over *connection* from now on."""
        with self._changed:
            self._connections.add(connection)

    def begin(self, connection: Connection, transfer: Transfer) -> None:
        """Take note of *transfer*, whose body is what is written to *connection* next.

        Wait where a receiver has asked for so many, without reading, that
        what is noted of them would use memory and time of others.
        """
        with self._changed:
            while len(connection.transfers) >= MAX_PIPELINED:
                connection.turn.pass_on()
                self._changed.wait(TICK)
                self.settle(connection, answered=True)
            transfer.start = connection.tell()
            transfer.stop = transfer.start + transfer.length
            transfer.began = self._clock()
            connection.transfers.append(transfer)

    def settle(self, connection: Connection, answered: bool = False) -> None:
        """End the transfers of *connection* that have been acknowledged, or that a reset has broken.

        *answered*: the receiver went on, to its next request or to a FIN, so
        no reset is waited for.
        """
        with self._changed:
            if not connection.transfers:
                return
            connection.look()
            if connection.reset and connection.sent >= connection.transfers[-1].stop:
                self._terminate(connection)  # else its thread is about to find out, and knows what it sent
            now = self._clock()
            for transfer in list(connection.transfers):
                if connection.acknowledged < transfer.stop:
                    break
                transfer.arrived = transfer.arrived or now
                if not answered and now - transfer.arrived < RESET_GRACE:
                    break
                self._end(connection, transfer, True)

    def terminate(self, connection: Connection, error: BaseException) -> None:
        """End the transfers of *connection* that *error* has broken."""
        with self._changed:  # a Condition's lock can be taken again by its thread: settle does
            connection.reset = connection.reset or isinstance(error, ConnectionError)
            if not connection.reset:
                self.settle(connection, answered=True)
            connection.look()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._terminate(connection, "" if is_network_error(error) else reason)

    def leave(self, connection: Connection) -> None:
        """Wait until every transfer of *connection* has ended, then forget it."""
        with self._changed:
            while connection.transfers:
                self._changed.wait()
            self._connections.discard(connection)

    def watch(self) -> None:
        """Settle what can be settled, and cut what has not gone forward for too long."""
        with self._changed:
            for connection in list(self._connections):
                self.settle(connection)
                now = self._clock()
                if now - connection.moved > self._timeout:
                    idle = "was acknowledged" if connection.queued else "came from the disk"
                    if connection.queued is None:
                        idle = "went forward"
                    self._terminate(connection, f"nothing {idle} for {self._timeout:g} s")
                    connection.cut()
                for transfer in connection.transfers:
                    transfer.measure(now, transfer.progress(connection.acknowledged))

    def under_way(self) -> list[tuple[Transfer, int]]:
        """Return the transfers that have not ended, oldest first, each with its acknowledged bytes."""
        with self._changed:
            pairs = [
                (transfer, transfer.progress(connection.acknowledged))
                for connection in self._connections
                for transfer in connection.transfers
            ]
        return sorted(pairs, key=lambda pair: pair[0].began)

    def summary(self) -> str:
        """Say in one line what was delivered and what is being cut short."""
        self.watch()
        with self._changed:
            counts = [f"{name} ({times} times)" if times > 1 else name for name, times in self._delivered.items()]
        cut = [
            f"{transfer.name} to {transfer.peer} at {_portion(acknowledged, transfer.length)}"
            for transfer, acknowledged in self.under_way()
        ]
        delivered = f"delivered: {_some(counts)}" if counts else "nothing was delivered"
        return f"stopped. {delivered}" + (f"; cut short: {_some(cut)}" if cut else "")

    def _terminate(self, connection: Connection, reason: str = "") -> None:
        for transfer in list(connection.transfers):
            self._end(connection, transfer, False, reason)

    def _end(self, connection: Connection, transfer: Transfer, finished: bool, reason: str = "") -> None:
        """Log that *transfer* finished or, with the *reason* where it is known, broke; enter it in the ledger."""
        acknowledged = transfer.progress(connection.acknowledged)
        if finished:
            seconds = max((transfer.arrived or 0) - transfer.began, 0.001)
            rate = format_size(transfer.length / seconds)
            event = f"req finished. {format_size(transfer.length)}, {seconds:.1f} s, {rate}/s"
        else:
            # The last byte counts as missing, acknowledged or not: whoever resets has not read it.
            acknowledged = max(0, min(acknowledged, transfer.length - 1))
            event = f"req terminated. at {_portion(acknowledged, transfer.length)}"
            if reason:
                event += f", {reason}"
        events = [(transfer.request, event)]
        spans = transfer.spans(acknowledged)
        # A whole file in one response is a delivery by itself, whatever else its receiver has.
        whole = finished and sum(map(part_length, spans)) == transfer.size
        requests = 1
        if not whole:
            handed = transfer.progress(connection.sent) - acknowledged
            requests = self._ledger.add(transfer.peer, transfer.etag, transfer.size, spans, transfer.asked, handed)
        if requests:
            count = "1 request" if requests == 1 else f"{requests} requests"
            events.append((f"/{transfer.name}", f"delivered. {format_size(transfer.size)} in {count}"))
            self._delivered[transfer.name] = self._delivered.get(transfer.name, 0) + 1
            if self._wanted and sum(self._delivered.values()) >= self._wanted:
                self.enough.set()
        self._log(transfer.peer, events)
        connection.transfers.remove(transfer)
        connection.went_forward()
        self._changed.notify_all()


def format_size(count: float) -> str:
    """Write *count* bytes for people: 512 B, 640.0 MiB, 1.4 GiB."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} PiB"


def percentage(acknowledged: int, length: int) -> str:
    """Write the whole per cent that *acknowledged* bytes are of *length*; of nothing it is 0%."""
    return f"{acknowledged * 100 // length if length else 0}%"


def _portion(acknowledged: int, length: int) -> str:
    return f"{percentage(acknowledged, length)} ({format_size(acknowledged)} of {format_size(length)})"


def _some(items: Sequence[str], most: int = 8) -> str:
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *more])


# --- HTTP: the handler and the quiet server ----------------------------------------

MAX_HEAD = 1 << 16  # bytes of field lines
# Patterns: re compiles them when the first request comes, so that nobody waits for it at the start.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = TOKEN + rb" [!-~\x80-\xff]+ HTTP/[0-9]\.[0-9]\r?\n"
FIELD_LINES = rb"(?:" + TOKEN + rb":[\t -~\x80-\xff]*\r?\n)*\r?\n"
HOST = r"(\[[\w.~!$&'()*+,;=%:-]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?"


def tls_reason(error: OSError) -> str:
    """Say what OpenSSL found wrong, without its place in _ssl.c."""
    if getattr(error, "reason", None) == "HTTP_REQUEST":
        return "the client spoke plain http"
    return re.sub(r"\s*\(_ssl\.c:\d+\)", "", error.strerror or str(error))


def framing_error(fields: Mapping[str, str], version: str) -> str:
    """Say what makes the end of a request, or the host it is for, uncertain; "" if nothing does.

    RFC 9112, sections 3.2 (Host) and 6.3 (length of the body): each is a 400.
    """
    host = fields.get("host")
    if host is None and version >= "HTTP/1.1":
        return "there must be a Host"
    if host and not re.fullmatch(HOST, host, re.ASCII):  # two of them are one with a blank in it
        return "malformed Host, or more than one"
    lengths = {item.strip(" \t") for item in fields.get("content-length", "0").split(",")}
    if len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths.pop()):
        return "malformed or conflicting Content-Length"
    coding = fields.get("transfer-encoding")
    if coding is not None and ("content-length" in fields or version < "HTTP/1.1"):
        return "Transfer-Encoding beside Content-Length, or in HTTP/1.0"
    if coding is not None and coding.lower().rpartition(",")[2].strip(" \t") != "chunked":
        return "the last Transfer-Encoding must be chunked"
    return ""


def target_path(target: str) -> str | None:
    """Return the path of a request target in origin form or absolute form (RFC 9112, section 3.2), else None."""
    match = re.match("(?:https?://[^/?#]+)?(/[^?#]*|(?=[?#]|$))", target, re.IGNORECASE)
    return (match[1] or "/") if match and target[0] not in "?#" else None


class RequestFields(http.client.HTTPMessage):
    """The fields of a request, whose Content-Type is nobody's business: email would parse, and choke on, a boundary."""

    def get_content_type(self) -> str:
        return "text/plain"


class Refusal(Exception):
    """Why a request is answered with an error, raised from wherever that is found out."""

    def __init__(self, status: int, reason: str = "", fields: Fields = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.fields = fields


class PartialContentHandler(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD for what a Share offers: whole, in one range or in several."""

    server: QuietServer
    wfile: Connection
    raw_requestline: bytes

    MessageClass = RequestFields
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # so that even a malformed request line gets a head
    disable_nagle_algorithm = True  # else the end of a body waits for a delayed acknowledgement
    rbufsize = 1 << 10  # a head needs no more, and every connection holds one

    def setup(self) -> None:
        super().setup()
        self.wfile = Connection(self.connection, turn=Turn(self.server.turn_lock))
        self.server.deliveries.enter(self.wfile)

    def handle(self) -> None:
        handshake = getattr(self.connection, "do_handshake", None)
        if handshake:  # this is an SSLSocket
            try:
                handshake()
            except OSError as error:
                self.server.log(self.client_address[0], [("-", f"TLS handshake failed. {tls_reason(error)}")])
                return
            self.wfile.went_forward()
        super().handle()

    def finish(self) -> None:
        try:
            socket.socket.shutdown(self.connection, socket.SHUT_WR)
            # To close with input unread would reset the connection under the receiver (RFC 9112, section 9.6).
            while self.connection.recv(CHUNK):
                pass
            self.server.deliveries.settle(self.wfile, answered=True)
        except OSError as error:
            if isinstance(error, ConnectionError):
                self.server.deliveries.terminate(self.wfile, error)
        finally:
            self.server.deliveries.leave(self.wfile)
            super().finish()

    def handle_one_request(self) -> None:
        """Wait for the next request, which settles the last, and answer it."""
        try:
            arrived = self.rfile.peek(1)  # type: ignore[attr-defined]
            # Where a whole head is here, which empty lines before it can feign, there is nothing to wait for.
            if arrived[:1] > b"\r" and b"\n\r\n" in arrived:
                self.wfile.turn.take()
            self.server.deliveries.settle(self.wfile, answered=True)
            self.wfile.went_forward()
            self.close_connection = True
            try:
                if arrived and not self.server.deliveries.enough.is_set():
                    super().handle_one_request()
            except Refusal as refusal:
                self.refuse(refusal)
        except OSError as error:
            self.close_connection = True
            self.server.deliveries.terminate(self.wfile, error)
            if not is_network_error(error):
                raise
        finally:
            self.wfile.turn.pass_on()

    def parse_request(self) -> bool:
        """Read the head and refuse what RFC 9112 calls malformed; http.server parses the rest."""
        skipped = 0
        while self.raw_requestline in (b"\r\n", b"\n") and skipped < MAX_HEAD:  # RFC 9112, section 2.2
            skipped += len(self.raw_requestline)
            self.raw_requestline = self.rfile.readline(MAX_HEAD + 1)
        self.requestline = self.raw_requestline.decode("utf-8", "surrogateescape").rstrip("\r\n")
        self.request_version = self.protocol_version = type(self).protocol_version
        self.command = ""
        if len(self.raw_requestline) > MAX_HEAD:
            raise Refusal(HTTPStatus.REQUEST_URI_TOO_LONG)
        if not self.raw_requestline.endswith(b"\n"):
            return False  # the client has gone
        if not re.fullmatch(REQUEST_LINE, self.raw_requestline):
            raise Refusal(HTTPStatus.BAD_REQUEST, "malformed request line")
        if b" HTTP/1." not in self.raw_requestline[-12:]:
            raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        field_lines, line = bytearray(), b" "
        while line not in (b"\r\n", b"\n", b""):
            line = self.rfile.readline(MAX_HEAD)
            field_lines += line
            if len(field_lines) > MAX_HEAD:
                raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not line:
            return False
        if not re.fullmatch(FIELD_LINES, field_lines):
            raise Refusal(HTTPStatus.BAD_REQUEST, "malformed field line")
        # http.server would take some bytes of raw UTF-8 in a target, which curl sends, for blanks.
        self.raw_requestline = re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % ord(byte[0]), self.raw_requestline)
        stream, self.rfile = self.rfile, io.BytesIO(field_lines)
        try:
            if not super().parse_request():
                return False
        finally:
            self.rfile = stream
        fields = combined(self.headers)
        error = framing_error(fields, self.request_version)
        if error:
            self.close_connection = True
            raise Refusal(HTTPStatus.BAD_REQUEST, error)
        self.protocol_version = min(self.request_version, self.protocol_version)
        options = re.split("[ \t,]+", fields.get("connection", "").lower())
        kept = "keep-alive" in options or self.request_version >= "HTTP/1.1"
        body = "transfer-encoding" in fields or fields.get("content-length", "").strip("0, \t")
        # A body is never read, so that none is ever taken for the next request.
        self.close_connection = bool(body) or "close" in options or not kept
        self.wfile.went_forward()
        return True

    def handle_expect_100(self) -> bool:
        """Ask for no body: the final answer comes at once."""
        return True

    def do_GET(self) -> None:
        path = target_path(self.path)
        if path is None:
            raise Refusal(HTTPStatus.BAD_REQUEST, "malformed request target")
        try:
            representation = self.server.share.open(path)
        except OSError:  # no descriptor left: a 404 would be a lie that clients believe
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, fields=[("Retry-After", "1")]) from None
        if representation is None:
            raise Refusal(HTTPStatus.NOT_FOUND)
        with representation:
            transfer = self.answer(representation)
            try:
                self.wfile.send(transfer.parts if transfer else (), representation)
            except BaseException as error:
                self.close_connection = True
                self.server.deliveries.terminate(self.wfile, error)
                if not isinstance(error, (OSError, EOFError)):
                    raise

    do_HEAD = do_GET

    def do_POST(self) -> None:
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, fields=[("Allow", "GET, HEAD")])

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_POST

    def answer(self, representation: Representation) -> Transfer | None:
        """Write the head for the file, or a part of it; return the body that follows, None where there is none.

        Raise Refusal where that is the answer.  The order is RFC 9110's, section 13.2.2.
        """
        size = representation.size
        modified = min(representation.mtime, int(time.time()))  # never later than Date (section 8.8.2.1)
        request_fields = combined(self.headers)
        fields = [("Accept-Ranges", "bytes"), ("ETag", representation.etag), ("Last-Modified", http_date(modified))]
        status = precondition_status(request_fields, representation.etag, modified)
        if status == HTTPStatus.NOT_MODIFIED:
            self.write_head(status, fields)
            return None
        if status:
            raise Refusal(status)
        parts: list[Part]
        spans = end = None
        range_field = request_fields.get("range", "")
        if self.server.resume_only and not re.fullmatch("bytes=[0-9]+-", range_field, re.IGNORECASE):
            range_field = ""
        holds = if_range_holds(request_fields.get("if-range"), representation.etag, modified)
        if range_field and self.command == "GET" and holds:
            try:
                spans = byte_ranges(range_field, size)
            except ValueError as error:
                raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        if spans == []:
            raise Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, fields=[("Content-Range", f"bytes */{size}")])
        content_type = self.guess_type(representation.name)
        status, parts = HTTPStatus.OK, [(0, size)]
        if spans:
            status, parts = HTTPStatus.PARTIAL_CONTENT, [*spans]
        if spans and len(spans) == 1:
            fields.append(("Content-Range", content_range(spans[0], size)))
            end = None if range_field.endswith("-") else spans[0][1]  # as Transfer wants it
        elif spans:
            boundary = os.urandom(12).hex()
            parts = multipart(spans, size, content_type, boundary)
            content_type = f"multipart/byteranges; boundary={boundary}"
        transfer = Transfer(self.client_address[0], self.requestline, representation, parts, end)
        self.write_head(status, [*fields, ("Content-Type", content_type)], transfer.length)
        if self.command == "HEAD":
            return None
        self.server.deliveries.begin(self.wfile, transfer)
        return transfer

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error; every one of a kind is the same bytes."""
        text = ": ".join(filter(None, [f"{int(refusal.status)} {HTTPStatus(refusal.status).phrase}", str(refusal)]))
        body = f"{text}\n".encode()
        self.write_head(refusal.status, [("Content-Type", "text/plain; charset=utf-8"), *refusal.fields], len(body))
        self.wfile.send([] if self.command == "HEAD" else [body])

    def write_head(self, status: int, fields: Fields, length: int = 0) -> None:
        """Write the head of every answer there is; *length*: of the body, in bytes."""
        self.close_connection = self.close_connection or self.server.deliveries.enough.is_set()
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        elif self.request_version < "HTTP/1.1":
            self.send_header("Connection", "keep-alive")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what http.server cannot parse, or has no method for, without its *message*, and read no further."""
        self.requestline = self.requestline or self.raw_requestline.decode("utf-8", "surrogateescape")  # of a 414
        self.close_connection = True
        raise Refusal(code)

    def guess_type(self, path: Any) -> str:
        """Name a compressed file by its compression, since it is sent without Content-Encoding."""
        kind, coding = mimetypes.guess_type("/" + os.fspath(path))
        if coding:
            known = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
            kind = known.get(coding)
        return kind or "application/octet-stream"

    def date_time_string(self, timestamp: float | None = None) -> str:
        return http_date(int(time.time() if timestamp is None else timestamp))

    def version_string(self) -> str:
        return f"httpd_download/{__version__}"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.server.log(self.client_address[0], [(self.requestline, f"{int(code)} {size}")])

    def log_error(self, format: str, *args: Any) -> None:
        """Say nothing: a refused request has its line, and http.server adds only time-outs of the network."""


class QuietServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A thread for each connection; one line, never a traceback, for what goes wrong in it."""

    request_queue_size = 1024
    # Windows, which alone has SO_EXCLUSIVEADDRUSE, lets two servers share a port with SO_REUSEADDR.
    allow_reuse_address = not hasattr(socket, "SO_EXCLUSIVEADDRUSE")
    allow_reuse_port = False
    idle_timeout = 1.0  # seconds after which a thread without a connection ends

    def __init__(
        self,
        address: tuple[Any, ...],
        share: Share,
        deliveries: Deliveries,
        log: Log,
        resume_only: bool = False,
        tls: ssl.SSLContext | None = None,
        most_connections: int = 1000,
    ) -> None:
        """Bind *address*, a socket address of IPv4 or IPv6.  Raise OSError where that cannot be."""
        self.share = share
        self.deliveries = deliveries
        self.log = log
        self.resume_only = resume_only
        self._tls = tls
        self.turn_lock = threading.Lock()
        self._turn = Turn(self.turn_lock)
        self._free = threading.Semaphore(most_connections)
        self._idle = threading.Semaphore(0)
        self._accepted: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        # Without a directory http.server asks for the current one, which may be gone.
        super().__init__(address, partial(PartialContentHandler, directory=os.curdir))

    def server_bind(self) -> None:
        """Bind for IPv4 too where the address is ::, and look no name up, as HTTPServer does."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection while there are descriptors for it and for its file."""
        if not self._free.acquire(timeout=TICK):
            raise OSError(errno.EMFILE, "no connection is free")
        try:
            self._turn.take()  # or this thread and the one that answers slow each other down
            try:
                accepted, address = super().get_request()
            finally:
                self._turn.pass_on()
            if self._tls:  # the handshake is left to the connection's own thread
                accepted = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            self._free.release()
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(TICK)  # the listening socket stays readable: without this a busy loop
            raise
        host = address[0]
        return accepted, (host[7:] if host.startswith("::ffff:") else host, *address[1:])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection to an idle thread or to a new one, as soon as the system has one to give."""
        for _ in range(25):
            try:
                if not self._idle.acquire(blocking=False):
                    threading.Thread(target=self._work, daemon=True).start()
                self._accepted.put((request, client_address))
                return
            except RuntimeError:  # can't start new thread
                time.sleep(TICK)
        self.shutdown_request(request)

    def _work(self) -> None:
        """Serve one connection after the other: to start a thread for each costs as much as a small file."""
        while True:
            try:
                accepted = self._accepted.get(timeout=self.idle_timeout)
            except queue.Empty:
                if self._idle.acquire(blocking=False):
                    return
                continue  # a connection is just being given to this thread
            self.process_request_thread(*accepted)
            self._idle.release()

    def shutdown_request(self, request: Any) -> None:
        """Close the connection; PartialContentHandler.finish has shut it down."""
        self.close_request(request)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about networks; name a bug, and its place, in one line."""
        error = sys.exc_info()[1]
        if error is None or is_network_error(error):
            return
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"
        self.log(client_address[0], [("-", f"internal error. {type(error).__name__}: {error} ({where})")])


def tls_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return a context for servers, TLS 1.2 or newer.  Raise OSError where the files do not make one."""
    try:
        import ssl
    except ImportError:
        raise OSError(errno.ENOTSUP, "this Python was built without ssl", certificate) from None

    class Socket(ssl.SSLSocket):
        def recv_into(self, *arguments: Any) -> int:
            """See a FIN before OpenSSL does, which answers it with an alert, and so provokes a reset."""
            if not self.pending() and not socket.socket.recv(self, 1, socket.MSG_PEEK):
                return 0
            return super().recv_into(*arguments)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    for path in filter(None, (certificate, key)):
        open(path, "rb").close()  # OpenSSL does not say which of the two is missing
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        files = f"{certificate} and {key}" if key else f"{certificate}, without --tls-key"
        raise OSError(errno.EINVAL, f"not a certificate with its key: {tls_reason(error)}", files) from None
    return context


# --- Addresses and links -----------------------------------------------------------

IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40


def local_addresses(ipv6: bool = True) -> list[str]:
    """Return this machine's addresses, the default route's first; 127.0.0.1 where there is no network.

    No name is looked up and nothing is sent: a connected UDP socket knows
    its source address.
    """
    found = [_source_address("8.8.8.8"), *_interface_addresses()]
    for target in ("10.254.254.254", "172.31.254.254", "192.168.254.254", "2001:4860:4860::8888", "fd00::1"):
        if ipv6 or ":" not in target:
            found.append(_source_address(target))
    return [*dict.fromkeys(filter(None, found))] or ["127.0.0.1"]


def _source_address(target: str) -> str:
    """Return the address that packets to *target* would come from, or "" for loopback, link-local and none."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            address: str = probe.getsockname()[0]
    except OSError:
        return ""
    return "" if address.startswith(("127.", "0.", "fe80:")) or address in ("::1", "::") else address


def _interface_addresses() -> list[str]:
    """Return the IPv4 address of each interface that runs: of a net that no route leads beyond, nothing else tells."""
    addresses = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in getattr(socket, "if_nameindex", list)():
            request = struct.pack("40s", os.fsencode(name)[:15])
            try:  # Linux: SIOCGIFFLAGS, and SIOCGIFADDR
                flags = struct.unpack_from("H", fcntl.ioctl(probe.fileno(), 0x8913, request), 16)[0]
                address = socket.inet_ntoa(fcntl.ioctl(probe.fileno(), 0x8915, request)[20:24])
            except (AttributeError, OSError):
                continue
            if flags & (IFF_UP | IFF_LOOPBACK | IFF_RUNNING) == IFF_UP | IFF_RUNNING:
                addresses.append(address)
    return addresses


def numeric_address(text: str) -> tuple[Any, ...]:
    """Return the socket address, port 0, of an IPv4 or IPv6 address in figures.  Raise ValueError for all else."""
    try:
        if not re.search("[.:]", text):
            raise ValueError("getaddrinfo would read a mere number as an address")
        # As bytes: for a str getaddrinfo would import the tables of idna.
        info = socket.getaddrinfo(text.encode("ascii"), 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return info[0][4]
    except (OSError, ValueError):
        raise ValueError(f"{text} is not an address in figures, such as 127.0.0.1 or ::1") from None


def base_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL of *host*, a name or an address, without a slash at its end."""
    if ":" in host:  # RFC 3986, and RFC 6874 for the zone of a link-local address
        host = f"[{host.replace('%', '%25')}]"
    return f"{scheme}://{host}:{port}"


# --- The terminal: all that is printed ----------------------------------------------

# C0, DEL and C1; the backslash that marks an escape; what changes the direction of text, or ends a line.
UNPRINTABLE = [*range(0x20), *range(0x7F, 0xA0), 0x5C, 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F)]
UNPRINTABLE += [*range(0x2066, 0x206A)]
ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in UNPRINTABLE}
ESCAPES[0x5C] = "\\\\"
ESCAPES.update((code, f"\\x{code - 0xDC00:02x}") for code in range(0xDC80, 0xDD00))  # bytes that are no UTF-8
LONGEST = 1000  # characters of a request that are logged: nobody is to scroll a terminal away


def escape(text: str) -> str:
    """Make *text*, from a disk or a network, safe to print on one line of a terminal."""
    return text.translate(ESCAPES)


def encodable(text: str, stream: TextIO | None) -> str:
    """Escape what the encoding of *stream* has no character for."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def column_widths(text: str) -> list[int]:
    """Return how many columns each character of *text* takes on a terminal."""
    from unicodedata import category, east_asian_width

    return [0 if category(c) in ("Mn", "Me", "Cf") else 2 if east_asian_width(c) in "WF" else 1 for c in text]


def width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    return sum(column_widths(text))


def fit(text: str, columns: int) -> str:
    """Cut *text* to at most *columns*, with two dots where something is missing."""
    ends = list(accumulate(column_widths(text)))
    if not ends or ends[-1] <= columns:
        return text
    return text[: bisect_right(ends, columns - 2)] + ".."[: max(columns, 0)]


def status_line(rows: Sequence[tuple[str, str, int, int, float]], columns: int) -> str:
    """Return one line, at most *columns* wide, on what is under way: as many of *rows* as find room.

    A row: name, peer, acknowledged bytes, all bytes, bytes a second.
    """
    figures = []
    for _, peer, acknowledged, length, rate in rows[:8]:
        left = int((length - acknowledged) / rate) if rate >= 1 else -1
        hours = f"{left // 3600}:{left // 60 % 60:02d}" if left >= 3600 else str(left // 60)
        clock = f" {hours}:{left % 60:02d} left" if 0 <= left < 360000 else ""
        figures.append(f" to {peer} {percentage(acknowledged, length)} {format_size(rate)}/s{clock}")
    while True:
        more = f" | {len(rows) - len(figures)} more" if len(rows) > len(figures) else ""
        room = (columns - len(more) - len("".join(figures)) - 3 * (len(figures) - 1)) // len(figures)
        if room >= 8 or len(figures) == 1:
            break
        figures.pop()
    return fit(" | ".join(fit(row[0], max(room, 8)) + figure for row, figure in zip(rows, figures)) + more, columns)


class Terminal:
    """The one place that writes: links to *out*, the log and, on a terminal, a status line to *err*."""

    def __init__(self, out: TextIO | None, err: TextIO | None, columns: Callable[[], int] | None = None) -> None:
        self._out = out
        self._err = err
        self._columns = columns or self._ask_columns
        self._live = err is not None and err.isatty() and os.environ.get("TERM") != "dumb"
        self._status = ""
        self._closed = False
        self._lock = threading.Lock()
        if self._live and hasattr(sys, "getwindowsversion"):
            os.system("")  # switches a Windows console to understanding escape sequences

    def say(self, line: str) -> None:
        """Print a line of ours, in which names are escaped already, on stdout."""
        self._write(self._out, line + "\n")

    def log(self, peer: str, events: Sequence[Event]) -> None:
        """Print *events* of *peer*, a line each, in the format of http.server's log."""
        date = time.strftime("%d/%b/%Y %H:%M:%S")
        lines = []
        for subject, event in events:
            if len(subject) > LONGEST:
                subject = subject[:LONGEST] + ".."
            quoted = escape(subject).replace('"', '\\"')
            lines.append(f'{escape(peer)} - - [{date}] "{quoted}" {escape(event)}\n')
        self._print("".join(lines))

    def status(self, under_way: Sequence[tuple[Transfer, int]]) -> None:
        """Show what is under way on the last line of a terminal."""
        if self._live and (under_way or self._status):
            rows = [(encodable(escape(t.name), self._err), t.peer, done, t.length, t.rate) for t, done in under_way]
            self._print("", status_line(rows, self._columns() - 1) if rows else "")

    def close(self, line: str) -> None:
        """Print the last *line*, and nothing from then on."""
        self._print(escape(line) + "\n", "", last=True)

    def _print(self, text: str, status: str | None = None, last: bool = False) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = last
            if self._live:
                # A narrower window has folded the status line into several.
                above = (width(self._status) - 1) // max(self._columns(), 1) if self._status else 0
                erase = f"\x1b[{above}A\r\x1b[J" if above else "\r\x1b[J" if self._status or last else ""
                self._status = self._status if status is None else status
                text = erase + text + self._status
            self._write(self._err, text)

    def _write(self, stream: TextIO | None, text: str) -> None:
        if stream is None:
            return
        try:
            stream.write(encodable(text, stream))
            stream.flush()
        except BrokenPipeError:  # | head -1: from here on to nowhere, or Python complains when it ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass

    def _ask_columns(self) -> int:
        try:
            return os.get_terminal_size(self._err.fileno()).columns or 80  # type: ignore[union-attr]
        except (OSError, ValueError):
            return 80


# --- The command line ----------------------------------------------------------------

PORTS = range(20000, 50001)
OWN_DESCRIPTORS = 24  # standard streams, listening socket, modules being loaded, and some to spare


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints fit on one line."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {escape(message)} (see {self.prog} -h)\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; leave with status 2 and one line where they are wrong."""
    parser = OneLineParser(
        prog="httpd_download",
        allow_abbrev=False,
        description="Hand files to someone over HTTP: prints a link for each, resumes broken downloads, "
        "and says when a file has arrived.",
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="offer these files and nothing else (default: the current folder)")
    add("-p", "--port", type=_port, default=0, help="port to listen on (default: a random free one, 20000 to 50000)")
    add("-b", "--bind", type=_address, metavar="ADDRESS", help="listen on this address only, and print it")
    add("-d", "--directory", metavar="DIR", help="offer this folder instead of the current one")
    add("-r", "--recursive", action="store_true", help="print the links of sub-folders too")
    add(
        "-c",
        "--count",
        type=_positive_int,
        default=0,
        metavar="N",
        help="leave after N deliveries, when what is under way has ended",
    )
    add("--host", type=_host, metavar="NAME", help="print NAME in the links instead of this machine's address")
    add("--resume-only", action="store_true", help="honour only 'bytes=N-', so that nobody fetches in segments")
    add("--secret", action="store_true", help="put an unguessable component before every name")
    add("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="cut what makes no progress (default: 60)")
    add("--tls-cert", metavar="FILE", help="serve https with this certificate chain")
    add("--tls-key", metavar="FILE", help="private key of the certificate, where it is in a file of its own")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if options.files and (options.directory is not None or options.recursive):
        parser.error("files are offered by name: -d and -r go without FILE")
    if options.directory == "" or "" in options.files:
        parser.error("a name is empty: a folder or file was expected")
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key goes with --tls-cert")
    return options


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return int(text)


def _positive_int(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return float(text)


def _address(text: str) -> tuple[Any, ...]:
    try:
        return numeric_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        numeric_address(host)
    except ValueError:
        if not re.fullmatch(r"[^\s\x00-\x20/:?#@\\\[\]]+", host):
            raise argparse.ArgumentTypeError(f"{text} is not a host name or address (without port)") from None
    return host


def make_server(options: argparse.Namespace, share: Share, deliveries: Deliveries, log: Log) -> QuietServer:
    """Bind where *options* say.  Raise OSError, with the place as its file name, where that cannot be."""
    addresses = [options.bind] if options.bind else [("::",), ("0.0.0.0",)]
    if not options.bind and not socket.has_dualstack_ipv6():
        del addresses[0]
    drawn = struct.unpack("64H", os.urandom(128))
    ports = [options.port] if options.port else [PORTS[number % len(PORTS)] for number in drawn]
    tls = tls_context(options.tls_cert, options.tls_key) if options.tls_cert else None
    most = _most_connections()
    for address in addresses:
        for port in ports:
            try:
                where = (address[0], port, *address[2:])
                return QuietServer(where, share, deliveries, log, options.resume_only, tls, most)
            except OSError as caught:
                error = caught
                if error.errno != errno.EADDRINUSE:
                    break  # no other port would help; but IPv4 does where IPv6 is switched off
    advice = {
        errno.EADDRINUSE: "the port is taken: name another, or none for a free one",
        errno.EADDRNOTAVAIL: "not an address of this machine",
        errno.EACCES: "the port needs more rights: name one from 1024 up",
    }.get(error.errno or 0, error.strerror)
    raise OSError(error.errno, advice, f"{where[0]} port {where[1]}")


def _most_connections() -> int:
    """Raise the limit on descriptors, and return how many connections it is good for: two each, the rest ours."""
    if resource is None:
        return 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS, where the hard limit is infinite and cannot be had
        pass
    return 10_000 if soft == resource.RLIM_INFINITY else max(1, (soft - OWN_DESCRIPTORS) // 2)


def announce(server: QuietServer, options: argparse.Namespace, terminal: Terminal) -> None:
    """Print where the server can be reached, and a link for each file."""
    # With the zone of a link-local address, which server_address[0] leaves out.
    bound = socket.getnameinfo(server.server_address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]  # type: ignore[arg-type]
    hosts = [options.host or bound]
    if not options.host and bound in ("::", "0.0.0.0"):
        hosts = local_addresses(ipv6=bound == "::")
    urls = [base_url(host, server.server_port, "https" if options.tls_cert else "http") for host in hosts]
    for label, url in zip(["serving on", *["also on"] * len(urls)], urls):
        terminal.say(f"{label}: {url}/")
    terminal.say("===== local files =====")
    for components in server.share.names(options.recursive):
        link, name = server.share.link(components), "/".join(components)
        plain = link.endswith("/" + name)
        terminal.say(f"link: {urls[0]}{link}" + ("" if plain else f"  ({escape(name)})"))
    terminal.say("===== start logging =====")


def serve(server: QuietServer, deliveries: Deliveries, terminal: Terminal) -> None:
    """Serve until there are enough deliveries, or a signal raises KeyboardInterrupt."""
    threading.stack_size(1 << 18)  # bytes for each connection; 12 KiB of them are ever touched
    threading.Thread(target=server.serve_forever, args=(TICK,), daemon=True).start()
    while not deliveries.enough.wait(TICK):
        deliveries.watch()
        terminal.status(deliveries.under_way())
    server.shutdown()
    server.server_close()
    while deliveries.under_way():
        time.sleep(TICK)
        deliveries.watch()
        terminal.status(deliveries.under_way())


def _interrupt(number: int, frame: object) -> None:
    for known in (signal.SIGINT, signal.SIGTERM):  # the second Ctrl-C of an impatient hand changes nothing
        signal.signal(known, signal.SIG_IGN)
    # A terminal that does not scroll, or a full pipe, would hold this thread up too: then leave without a word.
    deadline = threading.Timer(2.0, os._exit, (0,))
    deadline.daemon = True
    try:
        deadline.start()
    except RuntimeError:  # can't start new thread
        pass
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status: 0, or 1 for what could not be done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    terminal = Terminal(sys.stdout, sys.stderr)
    deliveries = None
    try:
        options = parse_arguments(arguments)
        deliveries = Deliveries(terminal.log, options.timeout, options.count)
        try:
            secret = os.urandom(16).hex() if options.secret else ""
            share = Share(options.directory or os.curdir, options.files, secret)
            server = make_server(options, share, deliveries, terminal.log)
        except ValueError as error:
            terminal.close(f"httpd_download: {error}")
            return 2
        except OSError as error:
            advice = f" (a port is given as -p {error.filename})" if str(error.filename).isdigit() else ""
            terminal.close(f"httpd_download: {error.filename}: {error.strerror}{advice}")
            return 1
        announce(server, options, terminal)
        serve(server, deliveries, terminal)
    except KeyboardInterrupt:
        pass
    terminal.close(deliveries.summary() if deliveries else "stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
