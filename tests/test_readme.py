"""README: its commands work, its options are the program's, its lines are those of the log."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

from tests.support import PROGRAM, ROOT, ProgramCase, class_folder, read_exactly, reset

README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = (ROOT / ".github" / "session.svg").read_text(encoding="utf-8")
HAS_CURL = shutil.which("curl") is not None
OPTION = r"(?<!\S)--?[a-z][a-z-]*"
FIGURES = r"[\d.]+ (?:([KMG]i)?B(/s)?|s\b)|\d+%|\d+ requests?"


def commands(*beginnings: str) -> list[str]:
    """Return the lines of the code blocks that begin with one of these, without comments."""
    blocks = "".join(re.findall(r"(?ms)^```\n(.*?)^```$", README)).replace("\\\n", "")
    lines = [re.sub(r" +# .*", "", line) for line in blocks.splitlines()]
    return [line for line in lines if line.startswith(beginnings)]


def first_column(heading: str) -> list[str]:
    """Return all that stands in backticks in the first column of a table."""
    rows = README.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [text for row in rows for text in re.findall("`(.*?)`", row.split(" | ")[0])]


def events(lines: list[str]) -> set[str]:
    """Return what stands behind the request in lines of the log, with # for all figures."""
    return {re.sub(FIGURES, "#", re.sub('.*" ', "", line)) for line in lines}


class ReadmeTest(ProgramCase):
    def run_shell(self, command: str, folder: Path) -> None:
        env = {**os.environ, "HOME": str(folder), "no_proxy": "127.0.0.1"}
        done = subprocess.run(command, shell=True, cwd=str(folder), env=env, capture_output=True)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stderr!r}")

    def test_every_command_is_known(self) -> None:
        tried_here = ("python ", "wget ", "curl ", "aria2c ", "openssl ", "ssh near ")
        self.assertEqual(commands(""), commands(*tried_here, "scp httpd_download.py near: "))

    def test_start(self) -> None:
        shutil.copy(str(PROGRAM), str(self.folder))
        for line in commands("python "):
            words = shlex.split(line.replace("8080", "0"))[1:]
            program = self.start_command([sys.executable, *words, "-b", "127.0.0.1"])
            program.out.wait_for("^nothing to offer here$")

    @unittest.skipUnless(HAS_CURL and shutil.which("timeout"), "no curl, or no timeout")
    def test_piped_into_an_interpreter(self) -> None:
        self.write("a.bin")
        command = commands("ssh near ")[0].split("'")[1]
        command = command.replace("/data", shlex.quote(str(self.folder)))
        command = command.replace("python3", shlex.quote(sys.executable))
        command += f" -b 127.0.0.1 < {shlex.quote(str(PROGRAM))}"
        program = self.start_command(["sh", "-c", command])
        self.run_shell(f"curl {program.links()[0]}", self.folder)
        self.assertEqual(program.wait(), 0)

    def test_receivers(self) -> None:
        content = self.write("中文.bin", 3 << 20)
        self.write("results/中文.bin", content)
        served = self.serve([str(self.folder / "中文.bin"), str(self.folder / "results")])
        for line in commands("wget ", "curl ", "aria2c "):
            if not all(shutil.which(command.split()[0]) for command in line.split("|")):
                continue
            received = class_folder(type(self))
            offer = "results.tar" if "tar" in line else "%E4%B8%AD%E6%96%87.bin"
            command = line.replace("LINK", f"http://127.0.0.1:{served.address[1]}/{offer}")
            for _ in range(2):  # the second time, all is there
                self.run_shell(command, received)
                (saved,) = received.glob("**/*.bin")
                self.assertEqual(saved.name, offer if "-O" in line else "中文.bin")
                self.assertTrue(saved.read_bytes() == content, command)

    @unittest.skipUnless(HAS_CURL and shutil.which("openssl"), "no curl, or no openssl")
    def test_certificate(self) -> None:
        self.write("a.bin")
        command = commands("openssl ")[0].replace("10.0.2.15", "127.0.0.1")
        self.run_shell(command.replace("~/", ""), self.folder)
        program = self.start("--tls-cert", "near.crt", "--tls-key", "near.key", "a.bin")
        self.run_shell(f"curl --cacert near.crt {program.links()[0]}", self.folder)

    def test_options_are_those_of_the_help(self) -> None:
        documented = set(re.findall(OPTION, " ".join(first_column("option"))))
        lines = [line.strip() for line in self.run_program("-h")[1] if line.startswith("  -")]
        options = [set(re.findall(OPTION, line.split("  ")[0])) for line in lines]
        self.assertLessEqual(documented, set().union(*options))
        self.assertEqual([names for names in options if not names & documented], [])

    def test_lines_are_those_of_the_log(self) -> None:
        self.write("a.bin", 8 << 20)
        served = self.serve(timeout=1000, reports_progress=True, max_deliveries=2)
        # As if it had got the first bytes before the program was started.
        served.fetch("/a.bin", {"Range": "bytes=5000-"})
        client = served.connect(receive_buffer=1 << 16)
        client.sendall(b"GET /a.bin HTTP/1.1\r\nHost: x\r\nUser-Agent: broken off\r\n\r\n")
        read_exactly(client, 2 << 20)
        served.clock.ahead += 60
        served.log.wait_for("req under way")
        reset(client)
        served.log.wait_for("req terminated")
        for agent, span in [("only a part", "0-4000000"), ("broken off", "1000000-")]:
            served.fetch("/a.bin", {"User-Agent": agent, "Range": f"bytes={span}"})
            served.rest()
        again = {"User-Agent": "has it", "Range": f"bytes={8 << 20}-"}
        self.assertEqual(served.fetch("/a.bin", again).status, 416)
        self.assertEqual([served.fetch(path).status for path in ("/a.bin", "/")], [503, 404])
        (self.folder / "new").write_bytes(bytes(9 << 20))
        os.replace(str(self.folder / "new"), str(self.folder / "a.bin"))
        served.fetch("/a.bin", {"User-Agent": "broken off", "Range": f"bytes={8 << 20}-"})
        served.log.wait_for("req finished.* of ")
        logged = events(served.log.all())
        self.assertLessEqual(events(first_column("line")), logged)
        picture = re.sub("<.*?>", "", PICTURE).splitlines()
        self.assertLessEqual(events([line for line in picture if " - - [" in line]), logged)
