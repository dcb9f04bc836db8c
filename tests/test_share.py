"""What is offered: every printed link works, and whatever is not offered is the same 404, at once."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import stat
import unittest
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from httpd_download import Share, Terminal, announce, parse_arguments
from tests.support import PROGRAM, FolderCase, Served, deadline

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
GOOD = b"HTTP/1.1 200 OK\r\n"
NAMES = [
    "plain.txt",
    "中文.bin",
    "a b",
    "a#b",
    "a%b",
    "a%20b",
    "a?b=c",
    'a"b',
    "a'b<&>",
    "a\nb",
    "a\r\nb",
    "a\\b",
    "a+b",
]
NAMES += ["a;b", "a:b", "*", "~", "-x", "a.", " ", "\x85", "\x01\x1b[2J", "\u202egnp.exe", "\u2028", "å", "a\u030a"]
NAMES += ["😀", "%", "%2e%2e", "x" * 255, os.fsdecode(b"caf\xe9.bin"), os.fsdecode(b"\xff\xfe")]


def get(target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


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

    def printed(self, served: Served, *options: str) -> list[str]:
        """Return the links that the program would print for *served*."""
        out = io.StringIO()
        announce(served.server, parse_arguments(["-b", "127.0.0.1", *options]), Terminal(out, None))
        base = f"http://127.0.0.1:{served.server.server_port}"
        lines = [line for line in out.getvalue().split("\n") if line.startswith("link: ")]
        links = [line[6:].split("  (")[0] for line in lines]
        self.assertTrue(all(re.fullmatch(r"[!-~]+", link) and link.startswith(base + "/") for link in links), links)
        return [link[len(base) :] for link in links]

    def write_where_possible(self, name: str) -> bytes | None:
        """Make a file; None where the file system, or Windows, knows no such name."""
        try:
            return self.write(name, os.fsencode(name) + b"!")
        except (OSError, ValueError):
            return None


class Folder(ShareCase):
    def test_names(self) -> None:
        refused, contents = [], {}
        for name in NAMES:
            content = self.write_where_possible(name)
            if content is None or not (self.folder / name).is_file():
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
        served = self.serve()
        for target in [b"/\xe4\xb8\xad%20\xe6\x96\x87.bin", b"/%e4%b8%ad%20%e6%96%87%2ebin?a=/..#b"]:
            with self.subTest(target):
                self.assertTrue(self.answer(served, target).endswith(b"\r\n\r\n" + content))
        self.assert_refused(served, "/中+文.bin", "/中%2520文.bin", "/中%A0文.bin", "/sub%2Fa", "/sub%2fa", "/sub%5Ca")

    def test_sub_folders(self) -> None:
        content = {path: self.write(path[1:], 10) for path in ["/b", "/a/z", "/a/b/c", "/c/\u4e2d/d"]}
        served = self.serve()
        links = {quote(path): data for path, data in content.items()}
        self.assertEqual(self.printed(served), ["/b"])
        self.assertEqual(self.printed(served, "-r"), ["/b", "/a/z", "/a/b/c", "/c/%E4%B8%AD/d"])
        self.assert_offered(served, links)
        self.assert_refused(served, "/", "/a", "/a/", "/a/b", "/a/b/", "/b/", "/b/c", "/a//z", "/a/./z", "/a/b/../z")
        self.assert_refused(served, "http://x", "http://x/", "/?b", "/a%00", "/b%00", "/%00", "/b%00.txt")

    def test_hidden_names_at_any_depth(self) -> None:
        for path in [".a", "..a", "...", ".d/a", "s/.a", "s/.d/a", "s/.d/e/a"]:
            self.write(path)
        self.write("s/a.b")
        served = self.serve()
        self.assertEqual(self.printed(served, "-r"), ["/s/a.b"])
        self.assert_refused(served, "/.a", "/%2ea", "/%2Ea", "/..a", "/...", "/.d/a", "/%2Ed/a", "/s/.a", "/s/%2ea")
        self.assert_refused(served, "/s/.d/a", "/s/.d/e/a", "/s/%2Ed/e/a", "/.", "/./s/a.b", "/s/./a.b")

    def test_ways_up(self) -> None:
        # A sibling whose name starts with the folder's; the folder is one below what is cleaned up.
        for path in ["share/a", "share/s/a", "share-secret/a", "secret"]:
            self.write(path)
        root = self.folder
        self.folder = root / "share"
        served = self.serve()
        ups = ["..", "%2e%2e", "%2E.", ".%2e", "s/../..", "s/..%2F..", "%2e%2e%2f.", "..%2f", "..%00", "..%5C", "..\\"]
        targets = [f"/{up}/{name}" for up in ups for name in ["secret", "share-secret/a", "share/a", "etc/passwd"]]
        targets += [f"/..%2f{name}" for name in ["secret", "share-secret%2Fa", "share%2fa"]]
        targets += [
            f"/{'../' * 20}etc/passwd",
            f"/{quote(str(root / 'secret'), safe='')}",
            "/-secret/a",
            "/../share-secret/a",
        ]
        targets += ["//etc/passwd", "///etc/passwd", "/%2Fetc%2Fpasswd", "/%2e%2e", "/..", "/s/../a", "/c:/a", "/s/.."]
        self.assert_refused(served, *targets, "http://x/../secret", "http://x/%2e%2e/secret")
        self.assert_offered(served, {"/a": (self.folder / "a").read_bytes()})

    def test_symlinks(self) -> None:
        content = self.write("share/s/a")
        for path in ["share/.h", "share/.d/a", "share-2/a", "out"]:
            self.write(path)
        root = self.folder
        self.folder = root / "share"
        links: dict[str, str | Path] = {
            "inside": "s/a",
            "inside-absolute": self.folder / "s" / "a",
            "chain": "inside",
            "folder": "s",
            "s/up": "../s/a",
            "out-file": "../out",
            "out-absolute": root / "out",
            "out-folder": "..",
            "sibling": "../share-2",
            "sibling-file": "../share-2/a",
            "out-and-in": "../share/../out",
            "hidden": ".h",
            "hidden-folder": ".d",
            "s/hidden": "../.d/a",
            "broken": "nothing",
            "loop": "loop",
            "itself": ".",
            "etc": "/etc",
            "null": "/dev/null",
        }
        for name, target in links.items():
            try:
                (self.folder / name).symlink_to(target)
            except (OSError, NotImplementedError):
                self.skipTest("no symlinks here")
        served = self.serve()
        self.assertEqual(self.printed(served), ["/chain", "/inside", "/inside-absolute"])
        self.assertEqual(self.printed(served, "-r")[3:], ["/s/a", "/s/up"])
        offered = ["/chain", "/inside", "/inside-absolute", "/s/a", "/s/up", "/folder/a", "/itself/s/a", "/folder/up"]
        self.assert_offered(served, dict.fromkeys(offered, content))
        self.assert_refused(
            served, "/out-file", "/out-absolute", "/out-folder/out", "/out-folder/share-2/a", "/sibling/a"
        )
        self.assert_refused(
            served, "/sibling-file", "/out-and-in", "/hidden", "/hidden-folder/a", "/s/hidden", "/broken"
        )
        self.assert_refused(
            served, "/loop", "/itself/.h", "/etc/passwd", "/null", "/folder", "/itself", "/folder/../s/a"
        )

    def test_a_folder_reached_by_symlink(self) -> None:
        content = self.write("real/a")
        with contextlib.suppress(OSError, NotImplementedError):
            (self.folder / "link").symlink_to("real")
        if not (self.folder / "link").exists():
            self.skipTest("no symlinks here")
        self.folder = self.folder / "link"
        served = self.serve()
        self.assertEqual(self.printed(served), ["/a"])
        self.assert_offered(served, {"/a": content})

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
            with contextlib.suppress(AttributeError, OSError):  # root only
                os.mknod(self.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
                made.append("null")
            served = self.serve()
            with deadline():
                self.assertEqual(self.printed(served, "-r"), ["/a"])
            self.assert_refused(served, *("/" + name for name in made))
            self.assert_offered(served, {"/a": content})

    def test_a_file_that_became_a_fifo(self) -> None:
        self.write("a")
        served = self.serve([str(self.folder / "a")])
        if not hasattr(os, "mkfifo"):
            self.skipTest("no FIFO here")
        regular = os.stat(self.folder / "a")
        (self.folder / "a").unlink()
        os.mkfifo(self.folder / "a")
        self.assert_refused(served, "/a")
        with mock.patch("os.stat", return_value=regular):  # it becomes one after the first look
            self.assert_refused(served, "/a")

    @unittest.skipIf(IS_ROOT or os.name == "nt", "nothing is unreadable here")
    def test_unreadable(self) -> None:
        content = self.write("a")
        self.write("closed")
        self.write("shut/a")
        (self.folder / "closed").chmod(0)
        (self.folder / "shut").chmod(0)
        self.addCleanup((self.folder / "shut").chmod, 0o700)
        served = self.serve()
        self.assertEqual(self.printed(served, "-r"), ["/a"])
        self.assert_refused(served, "/closed", "/shut/a", "/shut")
        self.assert_offered(served, {"/a": content})
        with self.assertRaises(PermissionError):
            Share(str(self.folder), [str(self.folder / "closed")])
        with self.assertRaises(PermissionError):
            Share(str(self.folder / "shut"))

    def test_too_long(self) -> None:
        content = self.write("a")
        served = self.serve()
        self.assert_refused(served, "/" + "x" * 256, "/" + "x" * 60000, "/a" * 3000, "/a" * 30000)
        self.assert_refused(served, "/" + "%C3%A5" * 128, "/a/" + "x" * 5000, "/" + "y/" * 2000 + "../" * 2000 + "a")
        self.assert_offered(served, {"/a": content})

    def test_a_path_longer_than_the_system_takes(self) -> None:
        # Where a walk can go deeper than PATH_MAX, what is down there is neither printed nor served.
        content = self.write("a")
        name = "d" * 250
        here = os.open(self.folder, os.O_RDONLY) if os.open in os.supports_dir_fd else self.skipTest("no dir_fd")
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
        served = self.serve()
        self.assertEqual(self.printed(served, "-r"), ["/a"])
        self.assert_refused(served, f"/{name}" * 18 + "/deep")
        self.assert_offered(served, {"/a": content})

    def test_files_that_come_and_go(self) -> None:
        served = self.serve()
        self.assertEqual(self.printed(served), [])
        self.assert_refused(served, "/a")
        content = self.write("a")
        self.assert_offered(served, {"/a": content})
        (self.folder / "a").unlink()
        self.assert_refused(served, "/a")

    def test_the_script_does_not_list_itself(self) -> None:
        names = ["/".join(components) for components in Share(str(PROGRAM.parent)).names(False)]
        self.assertNotIn(PROGRAM.name, names)
        self.assertIn("pyproject.toml", names)

    def test_no_folder(self) -> None:
        self.write("a")
        for name in ["nothing", "a", "a/b"]:
            with self.subTest(name), self.assertRaises(OSError):
                Share(str(self.folder / name))

    @unittest.skipUnless(os.name == "posix", "there is no / here")
    def test_the_root_folder(self) -> None:
        self.write("in/a")
        share = Share("/")
        opened = share.open(quote(str(self.folder / "in" / "a")))
        if any(part.startswith(".") for part in self.folder.parts):
            self.skipTest("the temporary folder is hidden")
        assert opened
        with opened:
            pass


class Files(ShareCase):
    def test_the_files_and_nothing_else(self) -> None:
        contents = {f"/{name}": self.write(f"{folder}/{name}", 10) for folder, name in zip("xyz", "abc")}
        self.write("x/other")
        self.write("other")
        served = self.serve([str(self.folder / "x/a"), str(self.folder / "y/b"), str(self.folder / "z/c")])
        self.assertEqual(self.printed(served), ["/a", "/b", "/c"])
        self.assert_offered(served, contents)
        self.assert_refused(
            served, "/", "/other", "/x/a", "/x", "/x/other", "/a/", "//x/a", "/../x/a", "/a/b", "/.", "/.."
        )
        self.assert_refused(served, quote(str(self.folder / "x/a")), "/" + quote(str(self.folder / "x/a"), safe=""))

    def test_names(self) -> None:
        contents = {}
        for name in NAMES:
            content = self.write_where_possible(name)
            if content is not None and (self.folder / name).is_file():
                contents["/" + quote(os.fsencode(name), safe="")] = content
        names = [str(path) for path in self.folder.iterdir()]
        served = self.serve(names)
        self.assertEqual(sorted(self.printed(served)), sorted(contents))
        self.assert_offered(served, contents)

    def test_what_is_named_is_meant(self) -> None:
        hidden = self.write(".hidden/.profile")
        target = self.write("away/target")
        (self.folder / "here").mkdir()
        with contextlib.suppress(OSError, NotImplementedError):
            (self.folder / "here" / "link").symlink_to("../away/target")
        if not (self.folder / "here" / "link").exists():
            self.skipTest("no symlinks here")
        served = self.serve([str(self.folder / ".hidden/.profile"), str(self.folder / "here/link")])
        self.assertEqual(self.printed(served), ["/.profile", "/link"])
        self.assert_offered(served, {"/.profile": hidden, "/link": target})
        self.assert_refused(served, "/target", "/away/target", "/.hidden/.profile", "/../away/target")

    def test_relative_and_odd_spellings(self) -> None:
        content = self.write("s/a")
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        for spelling in ["s/a", "./s/a", "s/../s/a", "s//a", "s/./a"]:
            with self.subTest(spelling):
                share = Share(os.curdir, [spelling])
                self.assertEqual(list(share.names(False)), [["a"]])
                opened = share.open("/a")
                assert opened
                with opened:
                    self.assertEqual(os.read(opened.descriptor, 100), content)

    def test_what_cannot_be_offered(self) -> None:
        self.write("a")
        (self.folder / "folder").mkdir()
        bad = ["nothing", "folder", "a/b", "x" * 300]
        if hasattr(os, "mkfifo"):
            os.mkfifo(self.folder / "fifo")
            bad.append("fifo")
        paths = [*(str(self.folder / name) for name in bad), os.devnull]
        for path in paths:
            with self.subTest(path[-40:]), deadline(), self.assertRaises(OSError) as caught:
                Share(str(self.folder), [str(self.folder / "a"), path])
            with self.subTest(path[-40:]):
                self.assertEqual(str(caught.exception.filename), path)

    def test_two_of_one_name(self) -> None:
        paths = [str(self.folder / name) for name in ["x/a", "b", "y/a"]]
        for path in paths:
            self.write(os.path.relpath(path, self.folder))
        with self.assertRaises(ValueError) as caught:
            Share(str(self.folder), paths)
        self.assertIn(paths[0], str(caught.exception))
        self.assertIn(paths[2], str(caught.exception))


class Secret(ShareCase):
    SECRET = "0123456789abcdef0123456789abcdef"

    def test_folder(self) -> None:
        contents = {f"/{self.SECRET}/{name}": self.write(name, 10) for name in ["a", "s/b"]}
        self.write(".h")
        served = self.serve(secret=self.SECRET)
        self.assertEqual(self.printed(served, "-r"), list(contents))
        self.assert_offered(served, contents)
        self.assert_elsewhere_refused(served)
        self.assert_refused(served, f"/{self.SECRET}/.h", f"/{self.SECRET}/s")

    def test_files(self) -> None:
        path = f"/{self.SECRET}/a"
        content = self.write("a")
        served = self.serve([str(self.folder / "a")], secret=self.SECRET)
        self.assertEqual(self.printed(served), [path])
        self.assert_offered(served, {path: content})
        self.assert_elsewhere_refused(served)

    def assert_elsewhere_refused(self, served: Served) -> None:
        secret = self.SECRET
        self.assert_refused(
            served, "/", "/a", "//a", f"/{secret}", f"/{secret}/", f"/{secret}/no", f"/{secret}/{secret}/a"
        )
        self.assert_refused(
            served, f"/{secret[:-1]}/a", f"/{secret}0/a", f"/{secret.upper()}/a", f"/a/{secret}", "/s/b"
        )
        self.assert_refused(
            served, f"/{secret}%2Fa", f"/{secret}/../a", b"/\xe4\xb8\xad/a", b"/\xff/a", "/%00/a", "/%FF/a"
        )
        self.assert_refused(served, f"/x/{secret}/a", f"/.{secret}/a", f"/{secret}//a", f"/a?{secret}", f"/{secret}/a/")


if __name__ == "__main__":
    unittest.main()
