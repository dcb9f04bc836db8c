"""What is offered: every printed link works, and all that is not offered is one 404, at once."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import re
import socket
import stat
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any, Iterator
from unittest import mock
from urllib.parse import quote

from httpd_download import Share, Terminal, announce, offers_by_name, parse_arguments
from tests.support import (
    PATIENCE,
    PROGRAM,
    FolderCase,
    Program,
    ProgramCase,
    Reply,
    Served,
    deadline,
    until,
)

GOOD = b"HTTP/1.1 200 OK\r\n"
NAMES = ["plain.txt", "中文.bin", "a b", "a#b", "a%b", "a%20b", "a?b=c", 'a"b', "a'b<&>", "a\nb"]
NAMES += ["a\r\nb", "a\\b", "a+b", "a;b", "a:b", "*", "~", "-x", "a.", " ", "\x85", "\x01\x1b[2J"]
NAMES += ["\u202egnp.exe", "\u2028", "å", "a\u030a", "😀", "%", "%2e%2e", '#%?"\\', "x" * 255]
NAMES += [os.fsdecode(b"caf\xe9.bin"), os.fsdecode(b"\xff\xfe")]
# Exchanges names two by two until it is killed: at once where the system can (Linux, renameat2 with
# RENAME_EXCHANGE), else by way of a third name.
SWAPPER = """
import ctypes, os, sys
parent, names = os.getppid(), [os.fsencode(name) for name in sys.argv[1:]]
pairs = [*zip(names[::2], names[1::2])]
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
began = False
while os.getppid() == parent:
    for pair in pairs:
        swap(*pair)
    if not began:
        began = print("began", flush=True) or True
"""
# Makes a user who owns nothing of whoever is root, and may read everything.
AS_NOBODY = """
import os
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


def get(target: bytes, last: bool = True) -> bytes:
    close = b"Connection: close\r\n" if last else b""
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n"


def fetch_status(port: int, target: str) -> int:
    """Return the status of a GET of *target*, whose body is read to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", target)
        return Reply(connection.getresponse()).status


def paths_of(program: Program) -> list[str]:
    """Return the links that *program* prints, from their paths on."""
    return [re.sub("^http://[^/]*", "", link) for link in program.links()]


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


class NobodyCase(ProgramCase):
    """A test of the program as a user who may not read what others keep from them."""

    def setUp(self) -> None:
        super().setUp()
        if os.name != "posix":
            self.skipTest("no permissions here")
        self.folder.chmod(0o755)
        code = f"os.listdir({str(self.folder)!r})"
        command = [sys.executable, "-I", "-S", "-c", AS_NOBODY + code]
        done = subprocess.run(command, stderr=subprocess.PIPE, timeout=PATIENCE)
        if done.returncode:
            self.skipTest(f"cannot become nobody: {done.stderr.decode().splitlines()[-1:]}")

    def start_as_nobody(self, *arguments: str) -> Program:
        """Start the program in ``self.folder``, on loopback."""
        # Imported before: nobody may not be allowed to read it.
        code = "import sys, httpd_download" + AS_NOBODY + "sys.exit(httpd_download.main())"
        command = [sys.executable, "-c", code, "-b", "127.0.0.1", *arguments]
        return self.start_command(command)

    def close(self, name: str, mode: int = 0) -> None:
        """Take rights away until the test ends; of what root has, mode bits of others count."""
        before = (self.folder / name).stat().st_mode
        self.addCleanup((self.folder / name).chmod, before)
        (self.folder / name).chmod(mode)


class ShareCase(FolderCase):
    """A test with what a 404 looks like."""

    def answer(self, served: Served, target: str | bytes) -> bytes:
        """Return the whole answer, but for its date."""
        raw = target if isinstance(target, bytes) else target.encode()
        return re.sub(rb"\r\nDate: [^\r]*", b"", served.raw(get(raw)), count=1)

    def assert_refused(self, served: Served, *targets: str | bytes) -> None:
        """Compare the answers with the one for a name that does not exist."""
        nothing = self.answer(served, "/no-such-name-here")
        self.assertTrue(nothing.startswith(b"HTTP/1.1 404 "), nothing)
        for target in targets:
            with self.subTest(target[:99]), deadline():
                self.assertEqual(self.answer(served, target), nothing)

    def assert_offered(self, served: Served, contents: dict[str, bytes]) -> None:
        for target, content in contents.items():
            with self.subTest(target[:99]):
                answer = self.answer(served, target)
                self.assertEqual(answer[: len(GOOD)], GOOD)
                self.assertEqual(answer.partition(b"\r\n\r\n")[2], content)

    def output(self, served: Served) -> list[str]:
        """Return what the program would print for *served*, from the first link on."""
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, "utf-8", newline="")
        terminal = Terminal(out, None)
        announce(served.server, parse_arguments(["-b", "127.0.0.1"]), terminal)
        terminal.close([])
        lines = raw.getvalue().decode().split("\n")
        base = f"http://127.0.0.1:{served.address[1]}"
        self.assertEqual(lines[:2], [f"serving on: {base}/", "===== local files ====="])
        self.assertEqual(lines[-2:], ["===== start logging =====", ""])
        return [line.replace(f"link: {base}/", "link: /") for line in lines[2:-2]]

    def printed(self, served: Served) -> list[str]:
        """Return the links that the program would print for *served*."""
        lines = [line for line in self.output(served) if not line.startswith("nothing to offer")]
        for line in lines:
            self.assertRegex(line, r"\Alink: /[!-~]+  \([^\n]+\)\Z")
        return [line[len("link: ") :].split("  (")[0] for line in lines]

    def write_where_possible(self, name: str) -> bytes | None:
        """Make a file; None where the file system, or Windows, knows no such name."""
        try:
            content = self.write(name, os.fsencode(name) + b"!")
        except (OSError, ValueError):
            return None
        return content if (self.folder / name).is_file() else None

    def symlink(self, name: str, target: str | Path) -> None:
        try:
            (self.folder / name).symlink_to(target)
        except (OSError, NotImplementedError):
            self.skipTest("no symlinks here")


class Folder(ShareCase):
    def test_names(self) -> None:
        refused, contents = [], {}
        for name in NAMES:
            content = self.write_where_possible(name)
            if content is None:
                refused.append(name)
            else:
                contents["/" + quote(os.fsencode(name), safe="")] = content
        served = self.serve()
        self.assertEqual(sorted(self.printed(served)), sorted(contents))
        self.assert_offered(served, contents)
        if refused:
            self.skipTest(f"this file system refuses {refused!a}")

    def test_other_spellings_of_a_link(self) -> None:
        content = self.write("中 文.bin")
        self.write("sub/a")
        served = self.serve(is_deep=True)
        raw = b"/\xe4\xb8\xad%20\xe6\x96\x87.bin"
        for target in [raw, b"/%e4%b8%ad%20%e6%96%87%2ebin?a=/..#b", b"http://x" + raw]:
            with self.subTest(target):
                self.assertTrue(self.answer(served, target).endswith(b"\r\n\r\n" + content))
        self.assert_refused(served, "/中+文.bin", "/中%2520文.bin", "/中%A0文.bin")
        self.assert_refused(served, "/sub%2Fa", "/sub%2fa", "/sub%5Ca", "/sub%252Fa")

    def test_sizes_beside_links(self) -> None:
        self.write("a", 10)
        self.write("empty", b"")
        (self.folder / "large").write_bytes(b"")
        os.truncate(self.folder / "large", 1_503_238_553)
        # A name stands in the brackets only where its link had to escape it.
        names = {"中文": "中文", "a b": "a b", "\u202ex": r"\u202ex", "n\nn": r"n\x0an"}
        names[os.fsdecode(b"\xff")] = r"\xff"
        made = {name: shown for name, shown in names.items() if self.write_where_possible(name)}
        lines = self.output(self.serve())
        self.assertIn("link: /a  (10 B)", lines)
        self.assertIn("link: /empty  (0 B)", lines)
        self.assertIn("link: /large  (1.4 GiB)", lines)
        for name, shown in made.items():
            encoded, size = quote(os.fsencode(name)), len(os.fsencode(name)) + 1
            self.assertIn(f"link: /{encoded}  ({shown}, {size} B)", lines)
        self.assertEqual(len(lines), len(made) + 3)

    def test_without_r_nothing_below_a_sub_folder(self) -> None:
        content = self.write("b")
        for path in ["a/z", "a/b/c", "c/中/d"]:
            self.write(path)
        served = self.serve()
        self.assertEqual(self.printed(served), ["/b"])
        self.assert_offered(served, {"/b": content})
        self.assert_refused(served, "/a/z", "/a/b/c", "/c/%E4%B8%AD/d", "/a%2Fz", "/a%2fb%2Fc")
        self.assert_refused(served, "/a", "/a/", "/b/", "/b/c", "/a//z", "/a/./z", "/b/../a/z")
        self.assert_refused(served, "/a%5Cz", "/./a/z", "//a/z", "http://x/a/z", "/a/z?b", "/%61/z")

    def test_with_r_what_is_printed(self) -> None:
        content = {path: self.write(path[1:], 10) for path in ["/a/z", "/a/b/c", "/b", "/c/中/d"]}
        (self.folder / "empty").mkdir()
        served = self.serve(is_deep=True)
        links = {quote(path): data for path, data in content.items()}
        self.assertEqual(sorted(self.printed(served)), sorted(links))
        self.assert_offered(served, links)
        self.assert_refused(served, "/", "/a", "/a/", "/a/b", "/a/b/", "/b/", "/b/c", "/empty")
        self.assert_refused(served, "/a//z", "/a/./z", "/a/b/../z", "/a%2Fz", "/a%2fb/c", "//a/z")
        self.assert_refused(served, "http://x", "http://x/", "/?b", "/a%00", "/b%00", "/%00")
        self.assert_refused(served, "/b%00.txt", "/a/z%00", "/a%00/z")

    def test_hidden_names_at_any_depth(self) -> None:
        for path in [".a", "..a", "...", ".d/a", "s/.a", "s/.d/a", "s/.d/e/a"]:
            self.write(path)
        self.write("s/a.b")
        served = self.serve(is_deep=True)
        self.assertEqual(self.printed(served), ["/s/a.b"])
        self.assert_refused(served, "/.a", "/%2ea", "/%2Ea", "/..a", "/...", "/.d/a", "/%2Ed/a")
        self.assert_refused(served, "/s/.a", "/s/%2ea", "/s/.d/a", "/s/.d/e/a", "/s/%2Ed/e/a")
        self.assert_refused(served, "/.", "/./s/a.b", "/s/./a.b", "/s/../.a")

    def test_ways_up(self) -> None:
        # A sibling whose name starts with the folder's; the folder is one below what is cleaned up.
        for path in ["share/a", "share/s/a", "share-secret/a", "secret"]:
            self.write(path)
        root = self.folder
        self.folder = root / "share"
        ups = ["..", "%2e%2e", "%2E.", ".%2e", "s/../..", "s/..%2F..", "%2e%2e%2f.", "..%2f"]
        ups += ["..%00", "..%5C", "..\\"]
        names = ["secret", "share-secret/a", "share/a", "etc/passwd"]
        targets = [f"/{up}/{name}" for up in ups for name in names]
        targets += [f"/..%2f{name}" for name in ["secret", "share-secret%2Fa", "share%2fa"]]
        targets += [f"/{'../' * 20}etc/passwd", f"/{quote(str(root / 'secret'), safe='')}"]
        targets += ["/-secret/a", "/../share-secret/a", "//etc/passwd", "///etc/passwd"]
        targets += ["/%2Fetc%2Fpasswd", "/%2e%2e", "/..", "/s/../a", "/c:/a", "/s/.."]
        targets += ["http://x/../secret", "http://x/%2e%2e/secret"]
        for is_deep in (False, True):
            served = self.serve(is_deep=is_deep)
            self.assert_refused(served, *targets)
            self.assert_offered(served, {"/a": (self.folder / "a").read_bytes()})

    def test_what_is_no_regular_file(self) -> None:
        content = self.write("a")
        (self.folder / "folder").mkdir()
        made = ["folder"]
        with contextlib.ExitStack() as stack:
            if hasattr(os, "mkfifo"):
                os.mkfifo(self.folder / "fifo")
                (self.folder / "fifo-link").symlink_to("fifo")
                made += ["fifo", "fifo-link"]
            with contextlib.suppress(AttributeError, OSError):
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(self.folder / "socket"))
                made.append("socket")
            # Only root makes devices.
            with contextlib.suppress(AttributeError, OSError):
                os.mknod(self.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
                made.append("null")
            served = self.serve(is_deep=True)
            with deadline():
                self.assertEqual(self.printed(served), ["/a"])
            self.assert_refused(served, *("/" + name for name in made))
            self.assert_offered(served, {"/a": content})

    @unittest.skipUnless(hasattr(os, "mkfifo"), "no FIFO here")
    def test_a_file_that_became_a_fifo(self) -> None:
        self.write("a")
        for served in (self.serve([str(self.folder / "a")]), self.serve()):
            regular = self.write("b") and os.stat(self.folder / "b")
            (self.folder / "a").unlink()
            os.mkfifo(self.folder / "a")
            self.assert_refused(served, "/a")
            # It becomes one after the first look.
            with mock.patch("os.stat", return_value=regular):
                self.assert_refused(served, "/a")

    def test_too_long(self) -> None:
        content = self.write("a")
        served = self.serve(is_deep=True)
        self.assert_refused(served, "/" + "x" * 256, "/" + "x" * 60000, "/a" * 3000, "/a" * 30000)
        ups = "/" + "y/" * 2000 + "../" * 2000 + "a"
        self.assert_refused(served, "/" + "%C3%A5" * 128, "/a/" + "x" * 5000, ups)
        self.assert_offered(served, {"/a": content})

    @unittest.skipUnless(os.open in os.supports_dir_fd, "no dir_fd here")
    def test_a_path_longer_than_the_system_takes(self) -> None:
        # Where a walk can go deeper than PATH_MAX, what is printed down there is served.
        content = self.write("a")
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
        served = self.serve(is_deep=True)
        contents = {"/a": content, f"/{name}" * 18 + "/deep": b""}
        links = self.printed(served)
        self.assertIn("/a", links)
        self.assert_offered(served, {link: contents[link] for link in links})

    def test_files_that_come_and_go(self) -> None:
        served = self.serve(is_deep=True)
        self.assertEqual(self.printed(served), [])
        self.assert_refused(served, "/a", "/new/a")
        content = self.write("a")
        self.assert_offered(served, {"/a": content, "/new/a": self.write("new/a")})
        (self.folder / "a").unlink()
        self.assert_refused(served, "/a")

    def test_names_that_vanish_while_links_are_listed(self) -> None:
        for name in ["a", "b", "c", "d/e", "f/g/h", "i"]:
            self.write(name)
        self.symlink("j", "i")
        offers = Share(str(self.folder), {}, is_deep=True).offers()
        self.assertEqual(next(offers).name, "a")
        for name in ["b", "d/e", "f/g/h", "i"]:
            (self.folder / name).unlink()
        (self.folder / "f" / "g").rmdir()
        self.write("f/g")
        (self.folder / "d").rmdir()
        names = {offer.name for offer in offers}
        self.assertLessEqual({"c"}, names)
        self.assertLessEqual(names, {"c", "f/g"})

    def test_no_folder(self) -> None:
        self.write("a")
        for name in ["nothing", "a", "a/b"]:
            with self.subTest(name), self.assertRaises(OSError) as caught:
                list(Share(str(self.folder / name), {}).offers())
            self.assertEqual(Path(caught.exception.filename), self.folder / name)

    @unittest.skipUnless(os.name == "posix", "there is no / here")
    def test_the_root_folder(self) -> None:
        if any(part.startswith(".") for part in self.folder.parts):
            self.skipTest("the temporary folder is hidden")
        self.write("in/a")
        path = quote(str(self.folder / "in" / "a"))
        opened = Share("/", {}, is_deep=True).open(path)
        assert opened
        self.assertEqual(opened.version.size, 10)
        self.assertIsNone(Share("/", {}).open(path))


class Symlinks(ShareCase):
    def setUp(self) -> None:
        super().setUp()
        self.content = self.write("share/s/a")
        for path in ["share/.h", "share/.d/a", "share-2/a", "out"]:
            self.write(path)
        self.root = self.folder
        self.folder = self.root / "share"

    def test_many_in_a_row(self) -> None:
        """Which only the system counts: realpath would follow any number of them."""
        self.symlink("0", "s/a")
        for number in range(1500):
            self.symlink(str(number + 1), str(number))
        served = self.serve()
        self.assert_offered(served, {"/9": self.content})
        self.assert_refused(served, "/1500")
        self.assertLess(len(self.printed(served)), 100)

    def test_to_a_file_inside(self) -> None:
        links: dict[str, str | Path] = {
            "inside": "s/a",
            "inside-absolute": self.folder / "s" / "a",
            "chain": "inside",
            "s/up": "../s/a",
        }
        for name, target in links.items():
            self.symlink(name, target)
        offered = ["/chain", "/inside", "/inside-absolute"]
        served = self.serve()
        self.assertEqual(self.printed(served), offered)
        self.assert_offered(served, dict.fromkeys(offered, self.content))
        self.assert_refused(served, "/s/a", "/s/up")
        offered += ["/s/a", "/s/up"]
        served = self.serve(is_deep=True)
        self.assertEqual(self.printed(served), offered)
        self.assert_offered(served, dict.fromkeys(offered, self.content))

    def test_that_lead_nowhere_out_or_to_a_hidden_name(self) -> None:
        links: dict[str, str | Path] = {
            "out-file": "../out",
            "out-absolute": self.root / "out",
            "sibling-file": "../share-2/a",
            "out-and-in": "../share/../out",
            "chain-out": "out-file",
            "hidden": ".h",
            "hidden-folder": ".d",
            "in-hidden-folder": ".d/a",
            "s/hidden": "../.d/a",
            "s/out": "../../out",
            "broken": "nothing",
            "loop": "loop",
            "null": "/dev/null",
            "passwd": "/etc/passwd",
        }
        for name, target in links.items():
            self.symlink(name, target)
        served = self.serve()
        self.assertEqual(self.printed(served), [])
        self.assert_refused(served, *(f"/{name}" for name in links))
        served = self.serve(is_deep=True)
        self.assertEqual(self.printed(served), ["/s/a"])
        self.assert_refused(served, *(f"/{name}" for name in links), "/hidden-folder/a", "/null/")

    def test_nothing_is_reached_through_a_folder(self) -> None:
        links = {"folder": "s", "itself": ".", "out": "..", "sibling": "../share-2", "etc": "/etc"}
        for name, target in links.items():
            self.symlink(name, target)
        self.symlink("s/again", "../s")
        targets = [
            "/folder/a",
            "/itself/s/a",
            "/itself/itself/s/a",
            "/folder/again/a",
            "/s/again/a",
        ]
        targets += ["/out/out", "/out/share/s/a", "/out/share-2/a", "/sibling/a", "/etc/passwd"]
        targets += ["/folder", "/folder/", "/itself", "/out", "/folder/../s/a", "/itself/.h"]
        for is_deep, links_printed in ((False, []), (True, ["/s/a"])):
            served = self.serve(is_deep=is_deep)
            self.assertEqual(self.printed(served), links_printed)
            self.assert_refused(served, *targets)

    def test_to_the_folder_itself(self) -> None:
        self.symlink("inside", "s/a")
        self.folder = self.root
        self.symlink("link", "share")
        self.folder = self.root / "link"
        served = self.serve(is_deep=True)
        self.assertEqual(self.printed(served), ["/inside", "/s/a"])
        self.assert_offered(served, {"/inside": self.content, "/s/a": self.content})

    def test_whoever_swaps_names_gains_nothing(self) -> None:
        secret, public = b"the secret\n", b"the public\n"
        for name in ["share/a", "share/sub/a"]:
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_bytes(public)
        for name in ["out", "outside/a"]:
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_bytes(secret)
        self.symlink("evil", "../out")
        self.symlink("evil-sub", "../outside")
        self.symlink("link", "a")
        self.symlink("deep", "sub/a")
        served = self.serve(is_deep=True)
        targets = [b"/a", b"/evil", b"/link", b"/sub/a", b"/evil-sub/a", b"/deep"]
        some = b"".join(get(target, last=False) for target in targets * 16) + get(b"/last")
        names = ["a", "evil", "sub", "evil-sub"]
        requests = 0
        seen: set[tuple[bytes, bytes]] = set()
        with swapping(*(self.folder / name for name in names)), deadline():
            # Until each was there, and was not.
            while requests < 2400 or len(seen) < 2 * len(targets):
                answers = served.raw(some)
                self.assertNotIn(secret, answers)
                statuses = re.findall(rb"HTTP/1\.1 (\d+) ", answers)
                self.assertEqual(len(statuses), 16 * len(targets) + 1)
                requests += len(statuses)
                seen |= set(zip(targets * 16, statuses))
        self.assertEqual({status for _, status in seen}, {b"200", b"404"})


class Files(ShareCase):
    def test_a_short_name_of_what_is_hidden(self) -> None:
        """As FAT and NTFS know one of each file, which they list only by its own name."""
        content = self.write("ENV~1")
        config = self.write("GIT~1/config")
        self.assert_offered(self.serve(is_deep=True), {"/ENV~1": content, "/GIT~1/config": config})
        listed = [".env", ".git", "config"]
        with mock.patch("os.listdir", return_value=listed):
            self.assert_refused(self.serve(is_deep=True), "/ENV~1", "/GIT~1/config")

    def test_one_that_another_program_has_a_lease_on(self) -> None:
        for name in "abc":
            self.write(name)
        open_one = os.open

        def leased(path: Any, flags: int, *mode: int, **options: Any) -> int:
            if str(path).endswith("b"):
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            return open_one(path, flags, *mode, **options)

        served = self.serve()
        with mock.patch("os.open", leased):
            self.assertEqual(self.printed(served), ["/a", "/c"])
            self.assertEqual(served.fetch("/b").status, 503)
        self.assertEqual(self.printed(served), ["/a", "/b", "/c"])

    def test_the_files_and_nothing_else(self) -> None:
        contents = {
            f"/{name}": self.write(f"{folder}/{name}", 10) for folder, name in zip("xyz", "abc")
        }
        self.write("x/other")
        self.write("other")
        served = self.serve([str(self.folder / name) for name in ["x/a", "y/b", "z/c"]])
        self.assertEqual(self.printed(served), ["/a", "/b", "/c"])
        self.assert_offered(served, contents)
        self.assert_refused(served, "/", "/other", "/x/a", "/x", "/x/other", "/a/", "//x/a")
        self.assert_refused(served, "/../x/a", "/a/b", "/.", "/..", "//a", "/a%2F", "/%2Fa")
        absolute = str(self.folder / "x/a")
        self.assert_refused(served, quote(absolute), "/" + quote(absolute, safe=""))

    def test_names(self) -> None:
        contents = {}
        for name in NAMES:
            content = self.write_where_possible(name)
            if content is not None:
                contents["/" + quote(os.fsencode(name), safe="")] = content
        served = self.serve([str(path) for path in self.folder.iterdir()])
        self.assertEqual(sorted(self.printed(served)), sorted(contents))
        self.assert_offered(served, contents)

    def test_what_is_named_is_meant(self) -> None:
        hidden = self.write(".hidden/.profile")
        target = self.write("away/target")
        (self.folder / "here").mkdir()
        self.symlink("here/link", "../away/target")
        self.symlink("behind", "away")
        names = [".hidden/.profile", "here/link", "behind/target"]
        served = self.serve([str(self.folder / name) for name in names])
        self.assertEqual(self.printed(served), ["/.profile", "/link", "/target"])
        self.assert_offered(served, {"/.profile": hidden, "/link": target, "/target": target})
        self.assert_refused(served, "/away/target", "/.hidden/.profile", "/../away/target")

    def test_odd_spellings(self) -> None:
        content = self.write("s/a")
        (self.folder / "s" / "t").mkdir()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder / "s")
        for spelling in ["a", "./a", "../s/a", ".//a", "././a", str(self.folder / "s" / "a")]:
            with self.subTest(spelling):
                served = self.serve([spelling])
                self.assertEqual(self.printed(served), ["/a"])
                self.assert_offered(served, {"/a": content})
        folders = {".": "s", "..": self.folder.name, "t/": "t", "t/..": "s", "./": "s", "t/.": "t"}
        for spelling, name in folders.items():
            with self.subTest(spelling):
                self.assertEqual(self.printed(self.serve([spelling])), [f"/{name}.tar"])

    def test_what_cannot_be_offered(self) -> None:
        self.write("a")
        names = ["nothing", "a/b", "a/", "x" * 300]
        if hasattr(os, "mkfifo"):
            os.mkfifo(self.folder / "fifo")
            names.append("fifo")
        for path in [*(f"{self.folder}/{name}" for name in names), os.devnull]:
            with self.subTest(path[-40:]), deadline(), self.assertRaises(OSError) as caught:
                offers_by_name([str(self.folder / "a"), path], (), lambda *_: None)
            with self.subTest(path[-40:]):
                self.assertIn(f"{path}: ", str(caught.exception))

    def test_the_same_twice_is_one(self) -> None:
        content = self.write("a")
        (self.folder / "s").mkdir()
        paths = [str(self.folder / name) for name in ["a", "s/../a", "s", "s/", "a"]]
        served = self.serve(paths)
        self.assertEqual(self.printed(served), ["/a", "/s.tar"])
        self.assert_offered(served, {"/a": content})


class Secret(ShareCase):
    SECRET = "0123456789abcdef0123456789abcdef"

    def test_folder(self) -> None:
        contents = {f"/{self.SECRET}/{name}": self.write(name, 10) for name in ["a", "s/b"]}
        self.write(".h")
        served = self.serve(secret=self.SECRET, is_deep=True)
        self.assertEqual(self.printed(served), list(contents))
        self.assert_offered(served, contents)
        self.assert_elsewhere_refused(served)
        self.assert_refused(served, f"/{self.SECRET}/.h", f"/{self.SECRET}/s")
        self.assert_refused(self.serve(secret=self.SECRET), f"/{self.SECRET}/s/b")

    def test_files(self) -> None:
        path = f"/{self.SECRET}/a"
        content = self.write("a")
        served = self.serve([str(self.folder / "a")], secret=self.SECRET)
        self.assertEqual(self.printed(served), [path])
        self.assert_offered(served, {path: content})
        self.assert_elsewhere_refused(served)

    def assert_elsewhere_refused(self, served: Served) -> None:
        secret = self.SECRET
        self.assert_refused(served, "/", "/a", "//a", f"/{secret}", f"/{secret}/", f"/{secret}/no")
        self.assert_refused(served, f"/{secret}/{secret}/a", f"/{secret[:-1]}/a", f"/{secret}0/a")
        self.assert_refused(
            served, f"/{secret.upper()}/a", f"/a/{secret}", "/s/b", f"/{secret}%2Fa"
        )
        self.assert_refused(served, f"/{secret}/../a", b"/\xe4\xb8\xad/a", b"/\xff/a", "/%00/a")
        self.assert_refused(served, "/%FF/a", f"/x/{secret}/a", f"/.{secret}/a", f"/{secret}//a")
        self.assert_refused(served, f"/a?{secret}", f"/{secret}/a/")


class Commands(ProgramCase):
    """What a command line offers."""

    def offers(self, program: Program) -> list[str]:
        """Return what stands between the headings."""
        program.links()
        lines = program.out.all()
        return lines[lines.index("===== local files =====") + 1 : -1]

    def test_an_empty_offer(self) -> None:
        for name in ["a/x", "b/.h", "c/d/x", ".one", ".two"]:
            self.write(name)
        (self.folder / "empty").mkdir()
        program = self.start()
        told = "nothing to offer here (4 folders, 2 hidden files: -r, or name them)"
        self.assertEqual(self.offers(program), [told])
        # What appears later is offered all the same.
        self.write("later")
        self.assertEqual(fetch_status(program.port(), "/later"), 200)

    def test_an_empty_offer_of_few(self) -> None:
        (self.folder / "nothing").mkdir()
        self.write("one/.hidden")
        self.write("two/sub/a")
        programs = {
            "": self.start(cwd=str(self.folder / "nothing")),
            " (1 hidden file: name them)": self.start("-d", "one", "-r"),
            " (1 folder: -r, or name them)": self.start("-d", "two"),
        }
        for there, program in programs.items():
            self.assertEqual(self.offers(program), [f"nothing to offer here{there}"])

    def test_with_and_without_r(self) -> None:
        self.write("a")
        self.write("s/b")
        flat, deep = self.start(), self.start("-r")
        self.assertEqual(paths_of(flat), ["/a"])
        self.assertEqual(fetch_status(flat.port(), "/s/b"), 404)
        self.assertEqual(paths_of(deep), ["/a", "/s/b"])
        self.assertEqual(fetch_status(deep.port(), "/s/b"), 200)

    def test_the_script_itself(self) -> None:
        (self.folder / PROGRAM.name).write_bytes(PROGRAM.read_bytes())
        os.link(self.folder / PROGRAM.name, self.folder / "hard")
        (self.folder / "soft").symlink_to(PROGRAM.name)
        self.write("a")
        command = [sys.executable, PROGRAM.name, "-b", "127.0.0.1"]
        program = self.start_command(command)
        named = self.start_command([*command, PROGRAM.name])
        self.assertEqual(paths_of(program), ["/a"])
        for name in [PROGRAM.name, "hard", "soft"]:
            self.assertEqual(fetch_status(program.port(), f"/{name}"), 404)
        # What is named is meant.
        self.assertEqual(paths_of(named), [f"/{PROGRAM.name}"])
        self.assertEqual(fetch_status(named.port(), f"/{PROGRAM.name}"), 200)

    def start_writing(self, name: str, *arguments: str) -> Program:
        """Start the program in a new folder *name*, where it writes to out.txt and logs/log.txt."""
        self.write(f"{name}/a")
        self.write(f"{name}/logs/old")
        folder = self.folder / name
        with open(folder / "out.txt", "wb") as out, open(folder / "logs" / "log.txt", "wb") as log:
            return self.start(*arguments, cwd=str(folder), stdout=out, stderr=log)

    def links_and_port(self, name: str, program: Program) -> tuple[list[str], int]:
        """Return what *program* has written to out.txt when it has started, or left."""

        def lines() -> list[str]:
            return (self.folder / name / "out.txt").read_text().split("\n")

        until(
            lambda: "===== start logging =====" in lines() or program.process.poll() is not None,
            "started",
        )
        match = re.search(r":(\d+)/", lines()[0])
        links = [line.split("  ")[0] for line in lines() if line.startswith("link:")]
        return links, int(match[1]) if match else 0

    def test_what_the_program_writes_to(self) -> None:
        programs = {
            "flat": (self.start_writing("flat"), ["/a"]),
            "deep": (self.start_writing("deep", "-r"), ["/a", "/logs/old"]),
        }
        for name, (program, expected) in programs.items():
            links, port = self.links_and_port(name, program)
            self.assertEqual(links, [f"link: http://127.0.0.1:{port}{link}" for link in expected])
            for written in ["out.txt", "logs/log.txt"]:
                self.assertEqual(fetch_status(port, f"/{written}"), 404)
            self.assertEqual(fetch_status(port, "/a"), 200)

    def test_what_the_program_writes_to_when_that_is_named(self) -> None:
        named = {"1": ["out.txt"], "2": ["logs/log.txt"], "3": ["out.txt", "logs/log.txt"]}
        programs = {name: self.start_writing(name, *names) for name, names in named.items()}
        for name, program in programs.items():
            with self.subTest(named[name]):
                links, port = self.links_and_port(name, program)
                # Nor is anything else offered in its place.
                self.assertEqual(links, [])
                told = (self.folder / name / "out.txt").read_text()
                for path in named[name]:
                    self.assertIn(f"\nnot offered, since this program writes to it: {path}\n", told)
                for target in ["a", *named[name], "out.txt", "log.txt"] * (port > 0):
                    self.assertEqual(fetch_status(port, f"/{target}"), 404)

    def refused(self, *arguments: str) -> tuple[int, str]:
        """Return the status and the one line with which a command line is refused."""
        status, out, err = self.run_program(*arguments)
        self.assertEqual(out, [])
        self.assertEqual(len(err), 1, err)
        self.assertTrue(err[0].startswith("httpd_download: "), err)
        return status, err[0]

    def test_several_that_cannot_be_had(self) -> None:
        self.write("a")
        status, line = self.refused("gone", "a", "sub/lost", "a/b", "中")
        self.assertEqual(status, 1)
        for name in ["gone", "sub/lost", "a/b", "中"]:
            self.assertIn(name, line)
        self.assertIn("No such file or directory", line)

    def test_two_of_one_name(self) -> None:
        for name in ["x/a", "y/a", "b"]:
            self.write(name)
        status, line = self.refused("x/a", "b", "y/a")
        self.assertEqual(status, 2)
        self.assertIn("x/a", line)
        self.assertIn("y/a", line)

    @unittest.skipUnless(os.name == "posix", "there is no / here")
    def test_the_root_has_no_name(self) -> None:
        status, line = self.refused("/")
        self.assertEqual(status, 2)
        self.assertIn("/ has no name", line)
        for name in ["//", "/..", "/usr/.."]:
            with self.subTest(name), self.assertRaisesRegex(ValueError, f"{name} has no name"):
                offers_by_name([name], (), lambda *_: None)

    @unittest.skipUnless(os.name == "posix", "a folder in use cannot be removed")
    def test_a_current_folder_that_is_gone(self) -> None:
        self.write("a")
        self.write("s/b")
        (self.folder / "gone").mkdir()
        code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
        named = [str(self.folder / name) for name in ["a", "s"]]
        command = [sys.executable, "-c", code, sys.executable, str(PROGRAM), "-b", "127.0.0.1"]
        program = self.start_command([*command, *named], cwd=str(self.folder / "gone"))
        self.assertEqual(paths_of(program), ["/a", "/s.tar"])
        self.assertEqual(fetch_status(program.port(), "/a"), 200)
        self.assertEqual(fetch_status(program.port(), "/s.tar"), 200)


class Permissions(NobodyCase):
    def statuses(self, program: Program, *targets: str) -> list[int]:
        return [fetch_status(program.port(), target) for target in targets]

    def test_unreadable(self) -> None:
        for name in ["a", "closed", "shut/a"]:
            self.write(name)
        self.close("closed")
        self.close("shut")
        program = self.start_as_nobody("-r")
        refused = {
            name: self.start_as_nobody(*options, name)
            for *options, name in (["closed"], ["-d", "shut"], ["shut"])
        }
        self.assertEqual(paths_of(program), ["/a"])
        statuses = self.statuses(program, "/a", "/closed", "/shut/a", "/shut")
        self.assertEqual(statuses, [200, 404, 404, 404])
        for name, program in refused.items():
            with self.subTest(name):
                self.assertEqual(program.wait(), 1)
                lines = program.err.all()
                self.assertEqual(len(lines), 1, lines)
                self.assertIn(name, lines[0])
                self.assertIn("Permission denied", lines[0])

    def test_below_a_folder_that_one_may_pass_but_not_read(self) -> None:
        for name in ["shut/share/a", "shut/share/s/b"]:
            self.write(name)
        (self.folder / "shut/share/link").symlink_to("s/b")
        self.close("shut", 0o711)
        programs = [
            (self.start_as_nobody("-r", "-d", "shut/share"), ["/a", "/link", "/s/b"]),
            (self.start_as_nobody("shut/share/link", "shut/share"), ["/link", "/share.tar"]),
        ]
        for program, links in programs:
            self.assertEqual(paths_of(program), links)
            self.assertEqual(self.statuses(program, *links), [200] * len(links))

    @unittest.skipUnless(hasattr(os, "O_PATH"), "no O_PATH here")
    def test_a_symlink_through_a_folder_that_one_may_pass_but_not_read(self) -> None:
        self.write("shut/sub/a")
        (self.folder / "link").symlink_to("shut/sub/a")
        self.close("shut/sub", 0o711)
        self.close("shut", 0o711)
        program = self.start_as_nobody()
        self.assertEqual(paths_of(program), ["/link"])
        self.assertEqual(self.statuses(program, "/link"), [200])


if __name__ == "__main__":
    unittest.main()
