"""The channel: what it counts, how it waits, and systems that tell less than Linux."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import subprocess
import threading
import unittest
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest import mock

from httpd_download import (
    MAX_CONFIRMED,
    MAX_PACING_RATE,
    RESET_GRACE,
    SENDFILE_ERRNOS,
    SO_MAX_PACING_RATE,
    Channel,
    FileChanged,
    FileSpan,
    Part,
    PinnedFile,
    count_unacknowledged,
    count_untransmitted,
    describe_local_failure,
    supports_rate_limit,
    tls_context,
    wait_for_socket,
)
from tests.support import (
    PATIENCE,
    FolderCase,
    Served,
    can_reset,
    class_folder,
    read_all,
    read_exactly,
    read_reply,
    reset,
    skip_head,
    until,
)

KIB = 1 << 10
MIB = 1 << 20
SMALL_BUFFER = 16 * KIB  # of a receiver, so that little is on its way
TOLERANCE = 64 * KIB  # bytes to which counts are exact

with socket.socket() as probe:
    TELLS_ACKNOWLEDGED = count_unacknowledged(probe) is not None
    TELLS_TRANSMITTED = count_untransmitted(probe) is not None


def make_certificates(case: type[unittest.TestCase], *names: str) -> Path:
    """Return a folder that has, for each of *names*, a certificate and its key, alone and in one
    file. Skip the tests of *case* if there is no openssl."""
    folder = class_folder(case)
    for name in names:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
        try:
            subprocess.run(command, cwd=str(folder), check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise unittest.SkipTest(f"openssl makes no certificate: {error}") from None
        parts = [folder / f"{name}.crt", folder / f"{name}.key"]
        (folder / f"{name}.pem").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder


class Caller(threading.Thread):
    """Calls something in a thread of its own, as the thread of a connection does."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except (OSError, FileChanged) as error:
            self.error = error

    def wait(self) -> None:
        """Wait for the end; fail if it does not come, raise what the call has raised."""
        self.join(PATIENCE)
        if self.is_alive():
            raise AssertionError("the call does not return")
        if self.error:
            raise self.error


class ChannelCase(FolderCase):
    """Channels, and receivers that are connected to them."""

    def connected(self, receive_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
        """Return a socket for a channel, and that of its receiver."""
        receiver = socket.socket()
        self.addCleanup(receiver.close)
        receiver.settimeout(PATIENCE)
        if receive_buffer:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            receiver.connect(listener.getsockname())
            server, _ = listener.accept()
        self.addCleanup(server.close)
        return server, receiver

    def channel(self, receive_buffer: int = 0) -> tuple[Channel, socket.socket]:
        server, receiver = self.connected(receive_buffer)
        return Channel(server), receiver

    def pinned(self, size: int) -> PinnedFile:
        self.write("pinned", size)
        descriptor = os.open(self.folder / "pinned", os.O_RDONLY | getattr(os, "O_BINARY", 0))
        status = os.fstat(descriptor)
        file = PinnedFile(descriptor, "the file", size, status.st_mtime_ns)
        self.addCleanup(file.close)
        return file

    def start_sending(self, channel: Channel, *parts: Part) -> Caller:
        return Caller(lambda: channel.send(parts))

    def refreshed(self, channel: Channel) -> Channel:
        channel.refresh()
        return channel

    def wait_for_acknowledged(self, channel: Channel, count: int) -> None:
        until(lambda: self.refreshed(channel).acknowledged >= count, f"{count} bytes acknowledged")


@unittest.skipUnless(TELLS_TRANSMITTED, "the system does not tell what has left")
class CountsTest(ChannelCase):
    SIZE = MIB

    def check_counts(self, channel: Channel, receiver: socket.socket, sender: Caller) -> None:
        """Read in steps, and compare each time what was read with what is counted."""
        for position in range(TOLERANCE, self.SIZE + 1, TOLERANCE):
            read_exactly(receiver, TOLERANCE)
            self.wait_for_acknowledged(channel, position - TOLERANCE)
            # A record that is handed over in between may count as waiting.
            self.assertLessEqual(channel.acknowledged, channel.transmitted + TOLERANCE)
            self.assertLessEqual(channel.transmitted, position + TOLERANCE)
        sender.wait()
        self.wait_for_acknowledged(channel, self.SIZE)
        self.assertEqual((self.SIZE, self.SIZE), (channel.handed_over, channel.transmitted))
        self.assertEqual(0, channel.unacknowledged)

    def test_file(self) -> None:
        channel, receiver = self.channel(SMALL_BUFFER)
        span = FileSpan(self.pinned(self.SIZE), 0, self.SIZE)
        self.check_counts(channel, receiver, self.start_sending(channel, span))

    def test_bytes(self) -> None:
        channel, receiver = self.channel(SMALL_BUFFER)
        self.check_counts(channel, receiver, self.start_sending(channel, bytes(self.SIZE)))

    def test_file_over_tls(self) -> None:
        folder = make_certificates(type(self), "a")
        server, plain = self.connected(SMALL_BUFFER)
        secured = tls_context(str(folder / "a.pem"), None).wrap_socket(
            server, server_side=True, do_handshake_on_connect=False
        )
        self.addCleanup(secured.close)
        channel = Channel(secured)
        handshake = Caller(channel.handshake)
        context = ssl.create_default_context(cafile=str(folder / "a.crt"))
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as receiver:
            handshake.wait()
            self.assertEqual(0, channel.handed_over)
            span = FileSpan(self.pinned(self.SIZE), 0, self.SIZE)
            self.check_counts(channel, receiver, self.start_sending(channel, span))

    @unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
    def test_slow_disk_is_counted_to_a_mebibyte(self) -> None:
        channel, receiver = self.channel()
        pages = threading.Semaphore(0)
        sendfile = os.sendfile

        def slow_sendfile(out: int, file: int, offset: int, count: int) -> int:
            """Do as Linux does: hand over what the disk gives, piece after piece, until it is
            *count* bytes."""
            sent = 0
            while sent < count:
                pages.acquire()
                sent += sendfile(out, file, offset + sent, min(count - sent, TOLERANCE))
            return sent

        size = 3 * MIB
        with mock.patch("os.sendfile", slow_sendfile):
            sender = self.start_sending(channel, FileSpan(self.pinned(size), 0, size))
            for position in range(TOLERANCE, size + 1, TOLERANCE):
                pages.release()
                read_exactly(receiver, TOLERANCE)
                self.wait_for_acknowledged(channel, position - MIB)
            sender.wait()

    def test_reset_keeps_the_counts(self) -> None:
        channel, receiver = self.channel(SMALL_BUFFER)
        sender = self.start_sending(channel, bytes(16 * MIB))
        read_exactly(receiver, 3 * TOLERANCE)
        self.wait_for_acknowledged(channel, 2 * TOLERANCE)
        self.assertFalse(channel.is_reset)
        reset(receiver)
        with self.assertRaises(ConnectionError):
            sender.wait()
        channel.refresh()
        for count in (channel.acknowledged, channel.transmitted):
            self.assertLessEqual(2 * TOLERANCE, count)
            self.assertLessEqual(count, 4 * TOLERANCE)

    def test_reset_after_both_sides_have_finished(self) -> None:
        # aria2 closes when it has its piece; it answers what comes after that with a reset.
        channel, receiver = self.channel(SMALL_BUFFER)
        channel.send([bytes(100_000)])
        receiver.shutdown(socket.SHUT_WR)
        channel.finish_writing()
        reset(receiver)
        until(lambda: self.refreshed(channel).is_reset, "the reset is seen")
        self.assertLess(channel.acknowledged, 100_000)

    def test_close_of_both_sides_is_no_reset(self) -> None:
        channel, receiver = self.channel()
        channel.send([bytes(1000)])
        channel.finish_writing()
        self.assertEqual(1000, len(read_all(receiver)))
        receiver.close()
        self.assertTrue(channel.wait_for_input(PATIENCE))
        channel.discard_input()
        self.refreshed(channel)
        self.assertEqual((1000, False), (channel.acknowledged, channel.is_reset))

    def test_progress_is_an_acknowledgement(self) -> None:
        now = [0.0]
        server, receiver = self.connected()
        channel = Channel(server, lambda: now[0])
        now[0] = 5
        self.assertEqual(0, self.refreshed(channel).last_progress)
        channel.send([bytes(1000)])
        self.wait_for_acknowledged(channel, 1000)
        self.assertEqual(5, channel.last_progress)
        now[0] = 9
        self.assertEqual(5, self.refreshed(channel).last_progress)
        receiver.sendall(b"x")
        self.assertEqual(5, self.refreshed(channel).last_progress, "input is no progress of a body")


class SendTest(ChannelCase):
    def test_parts_arrive_in_order(self) -> None:
        channel, receiver = self.channel()
        file = self.pinned(200 * KIB)
        content = (self.folder / "pinned").read_bytes()
        parts = (b"head", FileSpan(file, 100, 150_000), b"", b"between", FileSpan(file, 0, 1), b"x")
        sender = self.start_sending(channel, *parts)
        expected = b"head" + content[100:150_000] + b"between" + content[:1] + b"x"
        self.assertEqual(expected, read_exactly(receiver, len(expected)))
        sender.wait()
        self.assertEqual(len(expected), channel.handed_over)

    @unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
    def test_file_system_without_sendfile(self) -> None:
        failures: list[Any] = [OSError(number, os.strerror(number)) for number in SENDFILE_ERRNOS]
        for failure in (*failures, lambda *arguments: 0):
            with self.subTest(str(failure)), mock.patch("os.sendfile", side_effect=failure):
                channel, receiver = self.channel()
                span = FileSpan(self.pinned(200 * KIB), 0, 200 * KIB)
                sender = self.start_sending(channel, span)
                content = (self.folder / "pinned").read_bytes()
                self.assertEqual(content, read_exactly(receiver, len(content)))
                sender.wait()

    def test_bytes_before_a_changed_file_are_sent(self) -> None:
        def parts() -> Iterator[Part]:
            yield b"as it should be"
            raise FileChanged("the file was changed")

        channel, receiver = self.channel()
        with self.assertRaises(FileChanged):
            channel.send(parts())
        channel.finish_writing()
        self.assertEqual(b"as it should be", read_all(receiver))

    @unittest.skipUnless(hasattr(os, "sendfile"), "no os.sendfile")
    def test_file_is_in_the_queue_until_the_next_response(self) -> None:
        channel, receiver = self.channel()
        file = self.pinned(100 * KIB)
        channel.send([FileSpan(file, 0, 100 * KIB)])
        self.assertIs(file, channel.file_in_queue)
        read_exactly(receiver, 100 * KIB)
        channel.send([b"small"])
        self.assertIsNone(channel.file_in_queue)

    def test_failures_of_the_network_have_no_words(self) -> None:
        cases = [
            (ConnectionResetError(errno.ECONNRESET, "reset"), ""),
            (BrokenPipeError(errno.EPIPE, "pipe"), ""),
            (socket.timeout("timed out"), ""),
            (OSError(errno.EHOSTUNREACH, "no route"), ""),
            (OSError(errno.ENOTCONN, "not connected"), ""),
            (ssl.SSLError(1, "[SSL] bad record"), ""),
            (OSError(errno.EIO, "Input/output error"), "Input/output error"),
            (FileChanged("the file was changed"), "the file was changed"),
            (ZeroDivisionError(), "ZeroDivisionError"),
        ]
        for error, words in cases:
            self.assertEqual(words, describe_local_failure(error), repr(error))


class WaitsTest(ChannelCase):
    """A thread that waits for its receiver ends when another thread aborts the connection."""

    def callers(self) -> dict[str, tuple[Channel, Caller]]:
        """Return a channel for each call that waits, and the thread that waits in it."""
        callers = {}
        channel, _ = self.channel(SMALL_BUFFER)
        callers["send"] = (channel, self.start_sending(channel, bytes(16 * MIB)))
        channel, _ = self.channel()
        callers["receive"] = (channel, Caller(lambda: channel.receive_into(bytearray(10))))
        other, _ = self.channel()
        callers["discard"] = (other, Caller(other.discard_input))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server, _ = self.connected()
        secured = context.wrap_socket(server, server_side=True, do_handshake_on_connect=False)
        self.addCleanup(secured.close)
        tls = Channel(secured)
        callers["handshake"] = (tls, Caller(tls.handshake))
        return callers

    def check_abort(self) -> None:
        with mock.patch("httpd_download.wait_for_socket", side_effect=wait_for_socket) as waits:
            callers = self.callers()
            until(lambda: waits.call_count >= len(callers), "all wait")
            for channel, _ in callers.values():
                channel.abort()
            for name, (_, caller) in callers.items():
                with self.subTest(name), contextlib.suppress(OSError):
                    caller.wait()

    def test_abort(self) -> None:
        self.check_abort()

    def test_abort_where_shutdown_wakes_no_thread(self) -> None:
        """Windows: no call of another thread ends a wait."""
        no_wake = mock.patch("socket.socket.shutdown")
        short_waits = mock.patch("httpd_download.MAX_WAIT", 0.05)
        no_poll = mock.patch("httpd_download.Selector", selectors.SelectSelector)
        with no_wake, short_waits, no_poll:
            self.check_abort()

    def test_wait_for_closed_channel(self) -> None:
        """At the end of the program the main thread closes sockets that others still use."""
        calls = {
            "receive": lambda channel: channel.receive_into(bytearray(10)),
            "wait": lambda channel: channel.wait_for_input(0),
            "send": lambda channel: channel.send([b"x"]),
            "discard": Channel.discard_input,
        }
        for name, call in calls.items():
            channel, _ = self.channel()
            channel.close()
            with self.subTest(name), self.assertRaises(OSError):
                call(channel)

    def test_closed_channel_can_be_asked(self) -> None:
        channel, _ = self.channel()
        channel.close()
        channel.refresh()
        channel.limit_rate(1000)
        channel.abort()

    def test_without_poll(self) -> None:
        with mock.patch("httpd_download.Selector", selectors.SelectSelector):
            channel, receiver = self.channel(SMALL_BUFFER)
            sender = self.start_sending(channel, bytes(MIB))
            self.assertEqual(MIB, len(read_exactly(receiver, MIB)))
            sender.wait()
            self.assertFalse(channel.wait_for_input(0))
            receiver.sendall(b"x")
            self.assertTrue(channel.wait_for_input(PATIENCE))
            if not channel.reports_acknowledgements:
                self.skipTest("the next call of the thread tells of a reset")
            reset(receiver)
            until(lambda: self.refreshed(channel).is_reset, "the reset is seen")


class TellsNothingTest(ChannelCase):
    """Windows, FreeBSD and NetBSD do not tell what was acknowledged."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("count_unacknowledged", "count_untransmitted"):
            patch = mock.patch(f"httpd_download.{name}", return_value=None)
            patch.start()
            self.addCleanup(patch.stop)

    def wait_until_handed_over(self, served: Served) -> None:
        """Wait until all of a long body counts, but for its last byte."""

        def arrived() -> int:
            rows, _, _ = served.registry.view(1)
            return sum(row.arrived for row in rows)

        until(lambda: arrived() == MAX_CONFIRMED, "everything is handed over")

    def assert_under_way(self, served: Served) -> None:
        """Let more time pass than a reset can take, and find the download still under way."""
        served.clock.ahead += 2 * RESET_GRACE
        served.registry.check_all()
        self.assertEqual(1, len(served.registry.view(1).rows), served.log.all())

    def test_bytes_count_when_they_are_handed_over(self) -> None:
        channel, receiver = self.channel(SMALL_BUFFER)
        self.assertFalse(channel.reports_acknowledgements)
        sender = self.start_sending(channel, bytes(16 * MIB))
        self.wait_for_acknowledged(channel, 1)
        if channel.acknowledged == 16 * MIB:
            self.skipTest("the send queue takes everything")
        self.assertEqual(16 * MIB, len(read_exactly(receiver, 16 * MIB)))
        sender.wait()
        self.assertEqual(16 * MIB, self.refreshed(channel).acknowledged)

    def test_short_body_keeps_the_connection(self) -> None:
        content = self.write("short", MAX_CONFIRMED)
        served = self.serve()
        with served.connect() as client:
            for count in (1, 2):
                client.sendall(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
                reply = read_reply(client)
                self.assertEqual((content, None), (reply.body, reply.headers["Connection"]))
                served.log.wait_for("delivered", count)

    def test_long_body_is_over_when_its_receiver_closes(self) -> None:
        content = self.write("long", MAX_CONFIRMED + 1)
        served = self.serve()
        with served.connect() as client:
            client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = read_reply(client)
            self.assertEqual((content, "close"), (reply.body, reply.headers["Connection"]))
            self.assert_under_way(served)
        served.log.wait_for("delivered")

    @unittest.skipUnless(can_reset(), "the system sends no reset")
    def test_reset_of_a_long_body_is_no_delivery(self) -> None:
        self.write("long", MAX_CONFIRMED + 1)
        served = self.serve()
        client = served.connect()
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        self.wait_until_handed_over(served)
        self.assert_under_way(served)
        reset(client)
        self.assertIn(" at 99% ", served.log.wait_for("terminated|finished"))

    def test_receiver_that_never_closes_is_not_blamed_on_the_disk(self) -> None:
        self.write("long", MAX_CONFIRMED + 1)
        served = self.serve()
        client = served.connect()
        self.addCleanup(client.close)
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        self.wait_until_handed_over(served)
        self.assert_under_way(served)
        served.clock.ahead += 61
        line = served.log.wait_for("terminated|finished")
        self.assertTrue(line.endswith("nothing was acknowledged for 60 s"), line)


@unittest.skipUnless(supports_rate_limit(), "the system cannot limit the rate of a socket")
class RateTest(ChannelCase):
    RATE = 3_000_000

    def rate_of(self, connected: socket.socket) -> int:
        return connected.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & MAX_PACING_RATE

    def test_limit_of_a_channel(self) -> None:
        server, _ = self.connected()
        channel = Channel(server)
        for rate, expected in ((50_000, 50_000), (1, 1), (10**12, MAX_PACING_RATE)):
            channel.limit_rate(rate)
            self.assertEqual(expected, self.rate_of(server))

    def test_receivers_together_get_no_more(self) -> None:
        self.write("big", 16 * MIB)
        served = self.serve(rate_limit=self.RATE)
        accepted: list[socket.socket] = []
        accept = served.server.get_request

        def accept_and_keep() -> tuple[Any, Any]:
            connected, address = accept()
            accepted.append(connected)
            return connected, address

        receivers = []
        with mock.patch.object(served.server, "get_request", accept_and_keep):
            for count in (1, 2, 3):
                receiver = served.connect(SMALL_BUFFER)
                self.addCleanup(receiver.close)
                receivers.append(receiver)
                receiver.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
                skip_head(receiver)
                rates = [self.rate_of(each) for each in accepted]
                self.assertEqual([self.RATE // count] * count, rates)
        reset(receivers[0])
        half = self.RATE // 2
        until(lambda: [self.rate_of(each) for each in accepted[1:]] == [half, half], "shared anew")


if __name__ == "__main__":
    unittest.main()
