"""Real clients: each fetches a file whole, then interrupted and resumed, and gets the very bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import unittest
import urllib.request
from pathlib import Path
from typing import IO, Sequence

from tests.support import PATIENCE, ProgramCase, Served

SIZE = 20 << 20  # more than the socket buffers of a receiver that is held up
DATA = (os.urandom(1000003) * 21)[:SIZE]
FIRST = 5_000_001  # bytes that have arrived when a download is interrupted

OPTIONS = {
    "curl": ["--disable", "--silent", "--show-error", "--fail", "--noproxy", "*"],
    "wget": ["--no-config", "--quiet", "--no-proxy", "--tries=1"],
    "aria2c": [
        *("--no-conf", "--quiet", "--file-allocation=none", "--max-tries=1", "--all-proxy=", "--no-proxy=*"),
        *("--split=16", "--max-connection-per-server=16", "--min-split-size=1M", "--dir=.", "--out=got"),
    ],
}
TO_FILE = {"curl": ["--output", "got"], "wget": ["--output-document=got"]}
TO_STDOUT = {"curl": ["--output", "-"], "wget": ["--output-document=-"]}
RESUME = {"curl": ["--continue-at", "-"], "wget": ["--continue"], "aria2c": ["--continue=true"]}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ClientCase(ProgramCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = self.write("offered/file.bin", DATA)
        self.got = self.folder / "got"
        self.folder = self.folder / "offered"

    def client(self, name: str, *arguments: str, **options: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a client in the folder where its file is to be."""
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        command = [name, *OPTIONS[name], *arguments]
        process = subprocess.Popen(command, cwd=str(self.got.parent), env=environment, **options)  # type: ignore[call-overload]
        self.addCleanup(self.end, process)
        return process  # type: ignore[no-any-return]

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()

    def run_client(self, name: str, *arguments: str) -> None:
        self.assertEqual(self.client(name, *arguments).wait(PATIENCE), 0)

    def check_file(self, path: Path | None = None) -> None:
        self.assertEqual(digest((path or self.got).read_bytes()), digest(self.data))

    def check_log(self, served: Served, *patterns: str) -> None:
        """The log has these lines, in this order, and no others."""
        served.log.wait_for(patterns[-1])
        lines = served.log.all()
        self.assertEqual(len(lines), len(patterns), lines)
        for line, pattern in zip(lines, patterns):
            self.assertRegex(line, pattern)


MIB = SIZE >> 20
REST = f"{(SIZE - FIRST) / (1 << 20):.1f}"
SHARE = FIRST * 100 // SIZE


class SequentialTest(ClientCase):
    """curl, wget and urllib: one connection at a time."""

    def whole(self, name: str) -> None:
        served = self.serve()
        self.run_client(name, *TO_FILE[name], self.url(served))
        self.check_file()
        self.check_log(served, " 200 -$", rf"req finished\. {MIB}\.0 MiB,", rf"delivered\. {MIB}\.0 MiB in 1 request$")

    def resumed(self, name: str) -> None:
        served = self.serve()
        client = self.client(name, *TO_STDOUT[name], self.url(served), stdout=subprocess.PIPE)
        assert client.stdout
        self.got.write_bytes(client.stdout.read(FIRST))  # the pipe holds it up here
        client.kill()
        client.wait()
        line = served.log.wait_for(r"req terminated\. at \d+% \(")
        percent = int(line.rpartition("at ")[2].partition("%")[0])
        self.assertTrue(SHARE <= percent < 100, line)
        self.run_client(name, *RESUME[name], *TO_FILE[name], self.url(served))
        self.check_file()
        self.check_rest(served)

    def check_rest(self, served: Served) -> None:
        self.check_log(
            served,
            " 200 -$",
            "req terminated",
            " 206 -$",
            rf"req finished\. {REST} MiB,",
            rf"delivered\. {MIB}\.0 MiB in 2 requests$",
        )

    def url(self, served: Served) -> str:
        return f"http://127.0.0.1:{served.address[1]}/file.bin"

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl_whole(self) -> None:
        self.whole("curl")

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl_resumed(self) -> None:
        self.resumed("curl")

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl_range(self) -> None:
        served = self.serve()
        self.run_client("curl", "--range", "1000-1999", *TO_FILE["curl"], self.url(served))
        self.assertEqual(self.got.read_bytes(), self.data[1000:2000])

    @unittest.skipUnless(shutil.which("wget"), "wget is not installed")
    def test_wget_whole(self) -> None:
        self.whole("wget")

    @unittest.skipUnless(shutil.which("wget"), "wget is not installed")
    def test_wget_resumed(self) -> None:
        self.resumed("wget")

    def test_nothing_is_missing(self) -> None:
        """curl -C - and wget -c of a file that is whole already: 416, and the file stays as it is."""
        for name in filter(shutil.which, ("curl", "wget")):
            with self.subTest(name):
                self.got.write_bytes(self.data)
                served = self.serve()
                client = self.client(name, *RESUME[name], *TO_FILE[name], self.url(served), stderr=subprocess.DEVNULL)
                client.wait(PATIENCE)
                self.check_file()
                self.check_log(served, " 416 -$")

    def open(self, served: Served, headers: dict[str, str]) -> urllib.request._UrlopenRet:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(urllib.request.Request(self.url(served), headers=headers), timeout=PATIENCE)

    def test_urllib_whole(self) -> None:
        served = self.serve()
        with self.open(served, {}) as reply, self.got.open("wb") as file:
            shutil.copyfileobj(reply, file)
        self.check_file()
        self.check_log(served, " 200 -$", "req finished", rf"delivered\. {MIB}\.0 MiB in 1 request$")

    def test_urllib_resumed(self) -> None:
        served = self.serve()
        with self.open(served, {}) as reply, self.got.open("wb") as file:
            file.write(reply.read(FIRST))
            etag = reply.headers["ETag"]
        served.log.wait_for("req terminated")
        with self.open(served, {"Range": f"bytes={FIRST}-", "If-Range": etag}) as reply, self.got.open("ab") as file:
            self.assertEqual(reply.status, 206)
            shutil.copyfileobj(reply, file)
        self.check_file()
        self.check_rest(served)


@unittest.skipUnless(shutil.which("aria2c"), "aria2c is not installed")
class SegmentTest(ClientCase):
    """aria2c: 16 connections at a time; the program leaves when all of the file has arrived."""

    def ranges(self, lines: Sequence[str]) -> int:
        return len([line for line in lines if line.endswith(" 206 -")])

    def test_16_segments(self) -> None:
        program = self.start("-c", "1")
        self.run_client("aria2c", "--max-download-limit=20M", *program.links())
        self.check_file()
        self.assertEqual(program.wait(), 0)
        lines = program.err.all()
        self.assertEqual(lines[-1], "stopped. delivered: file.bin")
        self.assertEqual(len([line for line in lines if "delivered. 20.0 MiB in" in line]), 1)
        self.assertGreaterEqual(self.ranges(lines), 15)

    def test_interrupted_and_resumed(self) -> None:
        program = self.start("-c", "1")
        client = self.client("aria2c", "--max-download-limit=1M", *program.links())
        program.err.wait_for(" 206 -$", 15)
        client.send_signal(signal.SIGINT)
        self.assertNotEqual(client.wait(PATIENCE), 0)
        program.err.wait_for("req terminated", 15)
        self.assertIsNone(program.process.poll())
        self.run_client("aria2c", *RESUME["aria2c"], *program.links())
        self.check_file()
        self.assertEqual(program.wait(), 0)
        self.assertEqual(program.err.all()[-1], "stopped. delivered: file.bin")

    def test_resumes_what_another_client_began(self) -> None:
        self.got.write_bytes(self.data[: 15 << 20])
        served = self.serve()
        self.run_client("aria2c", *RESUME["aria2c"], f"http://127.0.0.1:{served.address[1]}/file.bin")
        self.check_file()
        requests = len([line for line in served.log.all() if line.endswith((" 200 -", " 206 -"))])
        served.log.wait_for("req (finished|terminated)", requests)
        units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}
        found = re.findall(r"(?:finished\. |terminated\. at \d+% \()([\d.]+) (\w+)", "\n".join(served.log.all()))
        arrived = sum(float(count) * units[unit] for count, unit in found)
        # The first request is for the whole file, and given up when its head is there.
        self.assertTrue(4.9 * (1 << 20) < arrived < 12 << 20, served.log.all())
