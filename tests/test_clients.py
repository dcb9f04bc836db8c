"""Real clients: each fetches a file whole, then broken off and resumed, and gets the very bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Callable, Iterator, TypeVar
from unittest import mock

from httpd_download import OfferedFile, Part
from tests.support import PATIENCE, ProgramCase, Served, class_folder, until

Test = TypeVar("Test", bound=Callable[..., Any])
# More than the socket buffers of a receiver that is held up.
SIZE = 20 << 20
DATA = (os.urandom(1000003) * 21)[:SIZE]
MIB = SIZE >> 20
# Bytes that have arrived when a download is broken off.
FIRST = 5_000_001

CURL = ["--disable", "--silent", "--show-error", "--fail", "--noproxy", "*"]
WGET = ["--no-config", "--quiet", "--no-proxy", "--tries=1"]
ARIA = ["--no-conf", "--quiet", "--file-allocation=none", "--max-tries=1", "--all-proxy="]
ARIA += ["--no-proxy=*", "--split=16", "--max-connection-per-server=16", "--min-split-size=1M"]
ARIA += ["--dir=.", "--out=got", "--auto-save-interval=1"]
LFTP = "set net:max-retries 1; set net:timeout 5; set http:use-propfind no;"
# Fetch the whole; go on with what is there.
WHOLE = {
    "curl": ["curl", *CURL, "-o", "got"],
    "wget": ["wget", *WGET, "-O", "got"],
    "wget2": ["wget2", *WGET, "-O", "got"],
    "aria2c": ["aria2c", *ARIA],
}
RESUME = {
    "curl": ["curl", *CURL, "-C", "-", "-o", "got"],
    "wget": ["wget", *WGET, "-c", "-O", "got"],
    # Its system takes less than a MiB of a probe before it is reset.
    "aria2c": ["aria2c", *ARIA, "--continue=true", "--socket-recv-buffer-size=65536"],
}


def needs(program: str) -> Callable[[Test], Test]:
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed")


class ClientCase(ProgramCase):
    data = DATA
    file: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.file = class_folder(cls) / "file.bin"
        cls.file.write_bytes(DATA)

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "offered").mkdir()
        os.link(self.file, self.folder / "offered" / "file.bin")
        self.folder, self.where = self.folder / "offered", self.folder
        self.got = self.where / "got"

    def client(self, *command: str, **options: IO[bytes] | int | str) -> subprocess.Popen[bytes]:
        """Start a client in the folder where its file is to be."""
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment["HOME"] = str(self.where)
        usual: dict[str, Any] = {"cwd": str(self.where), "env": environment}
        usual["stderr"] = subprocess.DEVNULL
        process = subprocess.Popen(command, **{**usual, **options})
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()

    def run_client(self, *command: str) -> None:
        self.assertEqual(self.client(*command).wait(PATIENCE), 0, command)

    def check_file(self, path: Path | None = None) -> None:
        digests = [
            hashlib.sha256(d).hexdigest() for d in ((path or self.got).read_bytes(), self.data)
        ]
        self.assertEqual(*digests)

    def check_log(self, served: Served, *patterns: str) -> None:
        """The log has these lines, in this order, and no others."""
        served.log.wait_for(patterns[-1])
        lines = served.log.all()
        self.assertEqual(len(lines), len(patterns), lines)
        for line, pattern in zip(lines, patterns):
            self.assertRegex(line, pattern)

    def url(self, served: Served, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{served.address[1]}/{name}"

    def break_off(self, *command: str) -> None:
        """Let a client that writes to its output have FIRST bytes, then kill it."""
        client = self.client(*command, stdout=subprocess.PIPE)
        assert client.stdout
        # The pipe holds it up here.
        self.got.write_bytes(client.stdout.read(FIRST))
        client.kill()
        client.wait()

    def rest(self, served: Served) -> None:
        """Wait until what was broken off is at rest."""
        served.rest()
        served.log.wait_for("req terminated")


class SequentialTest(ClientCase):
    """curl, wget and urllib: one connection at a time."""

    RESUMED = (
        " 200 -$",
        rf"req terminated\. at (2[3-9]|[3-9]\d)% \(.* of {MIB}\.0 MiB\)$",
        " 206 -$",
        rf"req finished\. {(SIZE - FIRST) / (1 << 20):.1f} MiB, ",
        rf"delivered\. {MIB}\.0 MiB in 2 requests$",
    )
    AT_ONCE = (
        " 200 -$",
        rf"req finished\. {MIB}\.0 MiB,",
        rf"delivered\. {MIB}\.0 MiB in 1 request$",
    )

    def whole(self, *command: str) -> None:
        served = self.serve()
        self.run_client(*command, self.url(served))
        self.check_file()
        self.check_log(served, *self.AT_ONCE)

    def resumed(self, name: str, *to_stdout: str) -> None:
        served = self.serve()
        self.break_off(name, *to_stdout, self.url(served))
        self.rest(served)
        self.run_client(*RESUME[name], self.url(served))
        self.check_file()
        self.check_log(served, *self.RESUMED)

    @needs("curl")
    def test_curl_whole(self) -> None:
        self.whole(*WHOLE["curl"])

    @needs("curl")
    def test_curl_resumed(self) -> None:
        self.resumed("curl", *CURL, "-o", "-")

    @needs("wget")
    def test_wget_whole(self) -> None:
        self.whole(*WHOLE["wget"])

    @needs("wget")
    def test_wget_resumed(self) -> None:
        self.resumed("wget", *WGET, "-O", "-")

    @needs("curl")
    def test_curl_goes_on_where_wget_was_killed(self) -> None:
        # Another program: another receiver, which goes on from where that one left off.
        if not shutil.which("wget"):
            self.skipTest("wget is not installed")
        served = self.serve()
        self.break_off("wget", *WGET, "-O", "-", self.url(served))
        self.rest(served)
        self.run_client(*RESUME["curl"], self.url(served))
        self.check_log(served, *self.RESUMED)

    @needs("curl")
    def test_curl_range(self) -> None:
        served = self.serve()
        self.run_client(*WHOLE["curl"], "--range", "1000-1999", self.url(served))
        self.assertEqual(self.got.read_bytes(), self.data[1000:2000])
        served.rest()
        self.check_log(served, " 206 -$", rf"req finished\. 1000 B of {MIB}\.0 MiB, ")

    def test_nothing_is_missing(self) -> None:
        """curl -C - and wget -c of a file that is whole already: 416, and it stays as it is."""
        for name in filter(shutil.which, ("curl", "wget")):
            with self.subTest(name):
                self.got.write_bytes(self.data)
                served = self.serve()
                self.client(*RESUME[name], self.url(served)).wait(PATIENCE)
                self.check_file()
                self.check_log(served, " 416 -$")

    @needs("curl")
    def test_names_of_attachments(self) -> None:
        served = self.serve()
        for name in ("a b.html", "c.txt", "中文 a.txt", 'q"#%?.bin'):
            self.write(name, name.encode())
            target = "".join(f"%{byte:02X}" for byte in name.encode())
            clients = [["curl", *CURL, "-OJ"], ["wget", *WGET, "--content-disposition"]]
            for index, client in enumerate(clients):
                if not shutil.which(client[0]):
                    continue
                folder = self.where / f"{target}{index}"
                folder.mkdir()
                self.client(*client, self.url(served, target), cwd=str(folder)).wait(PATIENCE)
                saved = [path.name for path in folder.iterdir()]
                # curl knows only the plain form, in which a quote has no place.
                self.assertIn(saved, ([name], [name.replace('"', "_")]), client[0])

    def open(self, served: Served, headers: dict[str, str]) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(
            urllib.request.Request(self.url(served), headers=headers), timeout=PATIENCE
        )

    def test_urllib_whole(self) -> None:
        served = self.serve()
        with self.open(served, {}) as reply, self.got.open("wb") as file:
            shutil.copyfileobj(reply, file)
        self.check_file()
        self.check_log(served, *self.AT_ONCE)

    def test_urllib_resumed(self) -> None:
        served = self.serve()
        with self.open(served, {}) as reply, self.got.open("wb") as file:
            file.write(reply.read(FIRST))
            etag = reply.headers["ETag"]
            # Else the reset could overtake the acknowledgement of what has just been read.
            until(lambda: served.downloads.rows(1)[0][0].arrived >= FIRST, "it is acknowledged")
        self.rest(served)
        fields = {"Range": f"bytes={FIRST}-", "If-Range": etag}
        with self.open(served, fields) as reply, self.got.open("ab") as file:
            self.assertEqual(reply.status, 206)
            shutil.copyfileobj(reply, file)
        self.check_file()
        self.check_log(served, *self.RESUMED)


@needs("aria2c")
class SegmentTest(ClientCase):
    """aria2c: 16 connections at a time; the program leaves when the receiver has the file."""

    def test_16_segments(self) -> None:
        program = self.start("-c", "1")
        self.run_client(*WHOLE["aria2c"], "--max-download-limit=20M", *program.links())
        self.check_file()
        self.assertEqual(program.wait(), 0)
        first, finished, delivered, stopped = program.err.all()
        self.assertRegex(first, " 200 -$")
        self.assertRegex(finished, r"req finished\. ")
        self.assertRegex(delivered, rf'"/file.bin" delivered\. {MIB}\.0 MiB in [12]\d requests$')
        self.assertEqual(stopped, "stopped. delivered: file.bin to 127.0.0.1")

    def test_killed_and_resumed(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.kill_and_resume, (signal.SIGKILL, signal.SIGINT)))

    def kill_and_resume(self, number: signal.Signals) -> None:
        where = self.where / number.name
        where.mkdir()
        program = self.start("-c", "1")
        limited = [*WHOLE["aria2c"], "--max-download-limit=3M"]
        client = self.client(*limited, *program.links(), cwd=str(where))
        until(lambda: any(where.glob("*.aria2")), "it knows what it has")
        client.send_signal(number)
        self.assertNotEqual(client.wait(PATIENCE), 0, number)
        program.err.wait_for("req terminated")
        self.assertIsNone(program.process.poll(), number)
        client = self.client(*RESUME["aria2c"], *program.links(), cwd=str(where))
        self.assertEqual(client.wait(PATIENCE), 0, number)
        self.check_file(where / "got")
        self.assertEqual(program.wait(), 0, number)
        lines = program.err.all()
        # At most: a download, its end, a probe, and what goes on with it.
        self.assertLessEqual(len(lines), 7, lines)
        self.assertRegex(lines[-2], r'"/file.bin" delivered\. ')
        self.assertEqual(lines[-1], "stopped. delivered: file.bin to 127.0.0.1")

    def test_resumes_what_another_client_began(self) -> None:
        self.got.write_bytes(self.data[: 15 << 20])
        served = self.serve()
        self.run_client(*RESUME["aria2c"], self.url(served))
        self.check_file()
        served.rest()
        served.log.wait_for("req (finished|terminated)")
        self.assertFalse(any("delivered" in line for line in served.log.all()), served.log.all())

    def test_two_machines_that_have_it(self) -> None:
        urls = [self.url(served) for served in (self.serve(), self.serve())]
        self.run_client(*WHOLE["aria2c"], *urls)
        self.check_file()


class SpliceTest(ClientCase):
    """The file changes while a download is broken off: never is one version put to another."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.data
        self.file = self.folder / "file.bin"
        # Not the one of the other tests.
        self.file.unlink()
        self.file.write_bytes(self.old)

    def replace(self) -> None:
        new = self.folder / ".new"
        new.write_bytes(self.old[::-1])
        new.replace(self.file)

    def rewrite(self) -> None:
        self.file.write_bytes(self.old[::-1])

    def shorten(self) -> None:
        new = self.folder / ".new"
        new.write_bytes(self.old[: FIRST // 2])
        new.replace(self.file)

    def append(self) -> None:
        with self.file.open("ab") as file:
            file.write(b"more" * 1000)

    def sequential(self, client: str, to_stdout: list[str], resume: list[str]) -> None:
        for change in (self.replace, self.rewrite, self.shorten, self.append):
            with self.subTest(client, change=change.__name__):
                self.file.write_bytes(self.old)
                served = self.serve()
                self.break_off(*to_stdout, self.url(served))
                self.rest(served)
                change()
                process = self.client(*resume, self.url(served))
                process.wait(PATIENCE)
                if change == self.append:
                    self.assertEqual(self.got.read_bytes(), self.file.read_bytes())
                    served.log.wait_for("delivered")
                    continue
                # What it has stays as it is: a true beginning of the old one.
                self.assertEqual(self.got.read_bytes(), self.old[:FIRST])
                served.log.wait_for(" 409 -$")
                self.assertFalse(any("delivered" in line for line in served.log.all()))
                # And a new start gets the new one.
                self.got.unlink()
                self.run_client(*resume, self.url(served))
                self.assertEqual(self.got.read_bytes(), self.file.read_bytes())

    @needs("curl")
    def test_curl(self) -> None:
        self.sequential("curl", ["curl", *CURL, "-o", "-"], RESUME["curl"])

    @needs("wget")
    def test_wget(self) -> None:
        self.sequential("wget", ["wget", *WGET, "-O", "-"], RESUME["wget"])

    @needs("wget")
    def test_wget_quotes_the_reason(self) -> None:
        served = self.serve()
        self.break_off("wget", *WGET, "-O", "-", self.url(served))
        self.rest(served)
        self.replace()
        resume = [option for option in RESUME["wget"] if option != "--quiet"]
        client = self.client(*resume, self.url(served), stderr=subprocess.PIPE)
        assert client.stderr
        self.assertIn(b"The file has changed: start over", client.stderr.read())

    @needs("aria2c")
    def test_aria2(self) -> None:
        served = self.serve()
        with self.held_up(3 << 20):
            few = ["--split=2", "--disk-cache=0"]
            client = self.client(*WHOLE["aria2c"], *few, self.url(served))
            until(lambda: self.has_got(1 << 20) and self.has_got(SIZE // 2 + (1 << 20)), "pieces")
            client.send_signal(signal.SIGINT)
            client.wait(PATIENCE)
        self.assertTrue(self.control_file_tells_of(2))
        self.rest(served)
        before = self.got.read_bytes()
        self.replace()
        self.assertNotEqual(self.client(*RESUME["aria2c"], self.url(served)).wait(PATIENCE), 0)
        served.log.wait_for(" 409 -$")
        self.assertEqual(self.got.read_bytes(), before)
        # Begun anew it is not refused.
        for path in self.where.glob("got*"):
            path.unlink()
        self.run_client(*WHOLE["aria2c"], self.url(served))
        self.assertEqual(self.got.read_bytes(), self.file.read_bytes())
        served.log.wait_for("delivered")

    @contextlib.contextmanager
    def held_up(self, count: int) -> Iterator[None]:
        """Let no more than *count* bytes of a body leave until this ends."""
        is_over = threading.Event()
        real = OfferedFile.parts

        def parts(file: OfferedFile, start: int, stop: int) -> Iterator[Part]:
            yield from real(file, start, min(start + count, stop))
            if start + count < stop:
                is_over.wait(PATIENCE)
                yield from real(file, start + count, stop)

        with mock.patch.object(OfferedFile, "parts", parts):
            try:
                yield
            finally:
                is_over.set()

    def has_got(self, offset: int) -> bool:
        """Tell whether the file has what is to be at *offset*."""
        with contextlib.suppress(OSError), self.got.open("rb") as file:
            file.seek(offset)
            return file.read(16) == self.data[offset : offset + 16]
        return False

    def control_file_tells_of(self, pieces: int) -> bool:
        """Tell whether aria2 has noted that it has so many pieces, the first of them included."""
        control = (self.where / "got.aria2").read_bytes()
        # Of its format (aria2c manual, "Control file"): the bitfield begins at byte 34.
        length = int.from_bytes(control[30:34], "big")
        bits = "".join(f"{byte:08b}" for byte in control[34 : 34 + length])
        return bits[:1] == "1" and bits.count("1") >= pieces

    @needs("lftp")
    def test_lftp(self) -> None:
        served = self.serve()
        slow = f"{LFTP} set net:limit-rate 3000000; get -c {self.url(served)} -o got"
        self.got.write_bytes(b"")
        client = self.client("lftp", "-c", slow)
        until(lambda: self.got.stat().st_size > 1 << 20, "it has some")
        client.kill()
        client.wait()
        self.rest(served)
        before = self.got.read_bytes()
        self.replace()
        resume = f"{LFTP} get -c {self.url(served)} -o got"
        self.assertNotEqual(self.client("lftp", "-c", resume).wait(PATIENCE), 0)
        self.assertEqual(self.got.read_bytes(), before)
        served.log.wait_for(" 409 -$")

    @needs("axel")
    def test_axel_begun_anew(self) -> None:
        served = self.serve()
        client = self.client(
            "axel", "-q", "-n", "4", "-s", "3000000", "-o", "got", self.url(served)
        )
        served.log.wait_for(" 20[06] -$")
        until(lambda: self.got.exists() and self.got.stat().st_size > 0, "it has some")
        client.kill()
        client.wait()
        self.rest(served)
        self.replace()
        for path in self.where.glob("got*"):
            path.unlink()
        self.run_client("axel", "-q", "-n", "4", "-o", "got", self.url(served))
        self.assertEqual(self.got.read_bytes(), self.file.read_bytes())
        self.assertFalse(any("409" in line for line in served.log.all()), served.log.all())


class ArchiveTest(ClientCase):
    """A folder is fetched like a file."""

    def setUp(self) -> None:
        super().setUp()
        for index in range(50):
            self.write(f"results/sub/{index}", 1000 + index)
        os.link(self.file, self.folder / "results" / "big")

    def served(self) -> Served:
        return self.serve([str(self.folder / "results")])

    def check_tree(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            files = [member for member in archive.getmembers() if member.isfile()]
            self.assertEqual(len(files), 51)
            for member in files:
                content = archive.extractfile(member)
                assert content
                self.assertEqual(content.read(), (self.folder / member.name).read_bytes())

    @needs("curl")
    def test_curl_broken_off_and_resumed(self) -> None:
        served = self.served()
        self.break_off("curl", *CURL, "-o", "-", self.url(served, "results.tar"))
        self.rest(served)
        self.run_client(*RESUME["curl"], self.url(served, "results.tar"))
        self.check_tree(self.got)
        served.log.wait_for('"/results.tar" delivered. .* in 2 requests$')

    @needs("aria2c")
    def test_aria2_takes_halves_from_two_machines(self) -> None:
        urls = [self.url(served, "results.tar") for served in (self.served(), self.served())]
        self.run_client(*WHOLE["aria2c"], *urls)
        self.check_tree(self.got)

    @needs("tar")
    def test_unpacked_while_it_comes(self) -> None:
        served = self.served()
        with urllib.request.urlopen(self.url(served, "results.tar"), timeout=PATIENCE) as reply:
            tar = self.client("tar", "x", stdin=subprocess.PIPE)
            assert tar.stdin
            with tar.stdin:
                shutil.copyfileobj(reply, tar.stdin)
            self.assertEqual(tar.wait(PATIENCE), 0)
        self.assertEqual((self.where / "results/big").read_bytes(), DATA)
        served.log.wait_for('"/results.tar" delivered. ')


if __name__ == "__main__":
    unittest.main()
