"""Real clients: each fetches a file whole, then broken off and resumed, and gets the very bytes;
so it does when the link between two hosts goes down (Linux, as root; skipped otherwise).

``SPLICE_MATRIX=all python3 -m unittest tests.test_clients`` tries every pair of clients with every
change of the file. Otherwise a sample is tried: another one each time, or that of the number in
SPLICE_MATRIX, or one case, such as "curl, wget, replaced".
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

from tests.clients import (
    BROKEN_OFF_AT,
    CLIENT,
    MIB,
    NEW,
    OLD,
    OTHER,
    RATE,
    SERVER,
    SIZE,
    ClientCase,
    Exchange,
    FolderExchange,
    Hosts,
    SideBySide,
    installed,
    needs,
)
from tests.support import PATIENCE, until

SIZE_TEXT = rf"{SIZE / MIB:.1f} MiB"
FINISHED = r"req finished\. ([\d.]+) MiB, "
DELIVERED_AT_ONCE = rf'"/file\.bin" delivered\. {SIZE_TEXT} in 1 request$'
DELIVERED_IN_TWO = rf'"/file\.bin" delivered\. {SIZE_TEXT} in 2 requests$'
DELIVERED_IN_PARTS = rf'"/file\.bin" delivered\. {SIZE_TEXT} in ([2-9]|\d\d) requests$'
TERMINATED = rf"req terminated\. at \d\d% \(([\d.]+) MiB of {SIZE_TEXT}\)$"
DELIVERED = r'"/file\.bin" delivered\. '
STOPPED = r"^stopped\. delivered: file\.bin to 127\.0\.0\.1$"
SEQUENTIAL = ["curl", "wget", "wget2", "lftp"]
# wget2 has no option that limits the rate, so the program does.
PROGRAM_OPTIONS = {"wget2": ["--limit-rate", "24m"]}


def load_tests(_: Any, tests: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    """Return the tests of this file, for unittest."""
    return SideBySide(tests)


class WholeTest(ClientCase):
    """One receiver, nothing goes wrong."""

    def test_sequential_download_is_three_lines(self) -> None:
        def check(client: str) -> None:
            exchange = self.exchange("-c", "1")
            exchange.fetch_whole(client)
            exchange.check_log(" 200 -$", FINISHED, DELIVERED_AT_ONCE, STOPPED)

        self.side_by_side(check, [[each] for each in installed(SEQUENTIAL)])

    def test_segmented_download_is_three_lines(self) -> None:
        # The limits of the clients let no segment end before the others have begun.
        options = {
            "aria2 -x8": ["--max-download-limit=32M"],
            "axel -x4": [f"--max-speed={32 * MIB}"],
            "wget2": ["--chunk-size=2M"],
        }

        def check(client: str) -> None:
            exchange = self.exchange("-c", "1")
            exchange.fetch_whole(client, *options[client])
            head = ['"HEAD .* 200 -$'] if client == "wget2" else []
            exchange.check_log(*head, '"GET .* 20[06] -$', FINISHED, DELIVERED_IN_PARTS, STOPPED)

        self.side_by_side(check, [[each] for each in installed(options)])

    @needs("aria2")
    def test_halves_from_two_machines(self) -> None:
        machines = [self.exchange(), self.exchange()]
        machines[0].fetch_whole("aria2 -x8", machines[1].link)

    def test_names_of_saved_files(self) -> None:
        names = ["a b.html", "c.txt", "中文 a.txt"]
        if os.name == "posix":
            names.append('q"#%?.bin')
        options = {"curl": "-J", "wget": "--content-disposition"}

        def check(client: str, name: str) -> None:
            exchange = Exchange(self, name)
            exchange.start()
            # Without Content-Disposition they would save it by another name.
            escaped = "".join(f"%{byte:02X}" for byte in name.encode())
            exchange.link = f"{exchange.link.rpartition('/')[0]}/{escaped}"
            exchange.fetch(client, options[client])
            saved = [path.name for path in exchange.received.iterdir()]
            # curl knows only the plain form of the field, in which a quote has no place.
            self.assertIn(saved, ([name], [name.replace('"', "_")]))

        self.side_by_side(check, list(itertools.product(installed(options), names)))


def open_link(exchange: Exchange, fields: dict[str, str]) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(exchange.link, headers=fields), timeout=PATIENCE)


class ResumedTest(ClientCase):
    """One receiver breaks off and resumes what it has."""

    def check_resumed_log(self, exchange: Exchange) -> None:
        exchange.check_log(" 200 -$", TERMINATED, " 206 -$", FINISHED, DELIVERED_IN_TWO, STOPPED)
        lines = "\n".join(exchange.program.err.all())
        amounts = re.findall(f"(?m){FINISHED}|{TERMINATED}", lines)
        total = sum(float(amount) for pair in amounts for amount in pair if amount)
        self.assertAlmostEqual(total, SIZE / MIB, delta=0.11, msg=lines)

    def test_killed_client_resumes(self) -> None:
        def check(client: str) -> None:
            exchange = self.exchange("-c", "1", *PROGRAM_OPTIONS.get(client, []))
            exchange.break_off(client)
            exchange.fetch_whole(client, resume=True)
            self.check_resumed_log(exchange)

        self.side_by_side(check, [[each] for each in installed(SEQUENTIAL)])

    def test_segments_resume(self) -> None:
        def check(*case: str) -> None:
            # What a killed client has read, and its system not yet acknowledged, is not known to
            # have arrived. On a loaded machine that can be the end of a piece; but not each time.
            try:
                check_once(*case)
            except AssertionError:
                check_once(*case)

        def check_once(client: str, signal_name: str, *program_options: str) -> None:
            exchange = self.exchange("-c", "1", *program_options)
            process = exchange.begin(client)
            process.send_signal(signal.Signals[signal_name])
            self.assertNotEqual(process.wait(PATIENCE), 0)
            exchange.program.err.wait_for("req terminated")
            exchange.fetch_whole(client, resume=True)
            exchange.check_end()
            lines = exchange.program.err.all()
            # At most: a download, its end, a probe, its end, and the rest with its end.
            exchange.check(len(lines) <= 8, "too many lines")
            self.assertRegex(lines[-2], DELIVERED_IN_PARTS)
            self.assertRegex(lines[-1], STOPPED)

        cases: list[tuple[str, ...]] = [
            ("aria2 -x1", "SIGKILL"),
            ("aria2 -x8", "SIGKILL"),
            ("aria2 -x8", "SIGINT"),
            # It asks for the rest by a closed range.
            ("aria2 -x1", "SIGINT", "--resume-only"),
            # It keeps no state when it is killed.
            ("axel -x4", "SIGINT"),
        ]
        self.side_by_side(check, [case for case in cases if installed(case[:1])])

    def test_segments_become_one_with_resume_only(self) -> None:
        def check(client: str) -> None:
            exchange = self.exchange("-c", "1", "--resume-only")
            exchange.fetch_whole(client)
            exchange.check_end()

        self.side_by_side(check, [[each] for each in installed(["aria2 -x8", "axel -x4"])])

    def test_urllib_resumes_with_entity_tag_or_date(self) -> None:
        def check(validator: str) -> None:
            exchange = self.exchange("-c", "1")
            with open_link(exchange, {}) as reply, exchange.got.open("wb") as file:
                file.write(reply.read(BROKEN_OFF_AT))
                fields = {"Range": f"bytes={BROKEN_OFF_AT}-", "If-Range": reply.headers[validator]}
            exchange.program.err.wait_for("req terminated")
            with open_link(exchange, fields) as reply, exchange.got.open("ab") as file:
                self.assertEqual(reply.status, 206)
                shutil.copyfileobj(reply, file)
            exchange.check_received()
            self.check_resumed_log(exchange)

        self.side_by_side(check, [["ETag"], ["Last-Modified"]])

    @needs("curl", "openssl")
    def test_file_folder_and_tls_on_each_interpreter(self) -> None:
        interpreters = find_interpreters()

        def check(job: str, interpreter: str) -> None:
            exchange = FolderExchange(self) if job == "folder" else Exchange(self)
            exchange.program_prefix = interpreters[interpreter]
            program_options = ["-c", "1"]
            client_options = []
            if job == "TLS":
                key, certificate = make_certificate(exchange.received)
                program_options += ["--tls-cert", certificate, "--tls-key", key]
                client_options = ["--cacert", certificate]
            exchange.start(*program_options)
            exchange.break_off("curl", *client_options)
            exchange.fetch_whole("curl", *client_options, resume=True)
            exchange.check_end()
            delivered = rf'"/{exchange.got.name}" delivered\. .* MiB in 2 requests$'
            self.assertRegex(exchange.program.err.all()[-2], delivered)

        cases = list(itertools.product(("file", "folder", "TLS"), interpreters))
        # The module ssl of Python 3.6 is too old.
        self.side_by_side(check, [case for case in cases if case != ("TLS", "python3.6")])


def make_certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1 in *folder*; return the paths of its key and of itself."""
    key = str(folder / "key.pem")
    certificate = str(folder / "certificate.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return key, certificate


def find_interpreters() -> dict[str, list[str]]:
    """Return this Python, as an empty command, and older ones and PyPy where they are found."""
    folders = [*Path.home().glob(".pyenv/versions/*/bin"), Path("/usr/bin"), Path("/usr/local/bin")]
    found: dict[str, list[str]] = {"this Python": []}
    for name in ("python3.6", "python3.7", "pypy3"):
        paths = [str(folder / name) for folder in folders if (folder / name).is_file()]
        if paths:
            found[name] = paths[:1]
    return found


@unittest.skipUnless(os.name == "posix", "Windows cannot send Ctrl-C to one process")
class RestartTest(ClientCase):
    """The program is stopped in mid-transfer and started again by "the same command with -p"."""

    def restart(self, exchange: Exchange) -> None:
        exchange.check(exchange.interrupt() == 1, "status 1 tells that nothing was delivered")
        advice = exchange.program.err.all()[-1]
        match = re.search(r"^to let them resume: the same command with (-p \d+)$", advice)
        assert match, advice
        link = exchange.link
        exchange.start("-c", "1", *match[1].split())
        self.assertEqual(exchange.link, link)

    def check_delivered(self, exchange: Exchange, first: str) -> None:
        """Fail unless the program left after a delivery of which *first* was before its start."""
        exchange.check_end()
        end = rf" delivered\. [\d.]+ MiB, of which the first {first} before this start$"
        self.assertRegex(exchange.program.err.all()[-2], end)

    def test_resuming_after_restart(self) -> None:
        # aria2 with one connection asks for the rest by one range.
        jobs: dict[str, Callable[[str], None]] = {"browser": self.check_browser}
        jobs.update(dict.fromkeys(installed([*SEQUENTIAL, "aria2 -x1"]), self.check_client))
        if installed(["curl"]):
            jobs["curl, a folder"] = self.check_client
        if installed(["aria2"]):
            jobs["aria2 -x8"] = self.check_segments
        self.side_by_side(lambda job: jobs[job](job), [[job] for job in jobs])

    def check_client(self, job: str) -> None:
        client, _, folder = job.partition(", ")
        exchange = FolderExchange(self) if folder else Exchange(self)
        exchange.start("-c", "1", *PROGRAM_OPTIONS.get(client, []))
        process = exchange.begin(client)
        self.restart(exchange)
        if process.wait(PATIENCE) == 0:
            # All that it lacked was on its way when the program ended.
            os.truncate(str(exchange.got), BROKEN_OFF_AT)
        first = f"{exchange.got.stat().st_size / MIB:.1f} MiB"
        if client == "aria2 -x1":
            # It asks again for what it had not yet noted in its control file.
            first = r"[\d.]+ MiB"
        exchange.fetch_whole(client, resume=True)
        self.check_delivered(exchange, first)

    def check_browser(self, _: str) -> None:
        agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/126.0"}
        exchange = self.exchange("-c", "1")
        with open_link(exchange, agent) as reply:
            received = reply.read(BROKEN_OFF_AT)
            self.restart(exchange)
        fields = {"Range": f"bytes={len(received)}-", "If-Range": reply.headers["ETag"], **agent}
        with open_link(exchange, fields) as reply:
            received += reply.read()
        self.assertTrue(received == OLD)
        self.check_delivered(exchange, f"{BROKEN_OFF_AT / MIB:.1f} MiB")

    def check_segments(self, client: str) -> None:
        """Fail unless it is unknown whether a receiver with segments has the whole."""
        exchange = self.exchange("-c", "1")
        # Killed first: all that it lacks could be on its way when the program ends.
        exchange.break_off(client)
        self.restart(exchange)
        exchange.fetch_whole(client, resume=True)
        exchange.program.err.wait_for("req finished")
        exchange.check(exchange.interrupt() == 1, "status 1 tells that nothing was delivered")
        unknown = rf"^unknown: .* to 127\.0\.0\.1 got [\d.]+ MiB of {SIZE_TEXT} from here; "
        exchange.program.err.wait_for(unknown + "it may have had the rest$")


# What happens to the file between the first client and the second one.
CHANGES: dict[str, Callable[[Exchange], Any]] = {
    "unchanged": lambda exchange: None,
    "replaced": lambda exchange: exchange.replace(NEW[:SIZE]),
    "rewritten": lambda exchange: exchange.offered.write_bytes(NEW[:SIZE]),
    "shorter": lambda exchange: exchange.replace(NEW[: SIZE * 3 // 4]),
    "tiny": lambda exchange: exchange.replace(NEW[: BROKEN_OFF_AT // 2]),
    "longer": lambda exchange: exchange.replace(NEW),
    "appended": lambda exchange: exchange.offered.write_bytes(OLD + NEW[:MIB]),
}
# These resume with a bare "Range: bytes=N-", or aria2 with "bytes=N-LAST", and no validator.
RESUMING = [*SEQUENTIAL, "aria2 -x1", "aria2 -x8"]
FIRST = ["curl", "wget", "lftp", "aria2"]
# Of all these pairs and changes a run of the suite tries some at random, and always these.
SAMPLE_SIZE = 4
ALWAYS = [
    ("curl", "curl", "replaced"),
    ("aria2", "aria2 -x8", "replaced"),
    # Its probe must not hide what the first one left off.
    ("curl", "aria2 -x8", "replaced"),
    ("curl", "aria2 -x8", "unchanged"),
]


class SpliceTest(ClientCase):
    """The file changes while a download is broken off: no client mixes two versions of it."""

    def test_pairs_of_clients(self) -> None:
        pairs = list(itertools.product(installed(FIRST), installed(RESUMING), CHANGES))
        choice = os.environ.get("SPLICE_MATRIX") or str(random.randrange(100_000))
        if "," in choice:
            pairs = [pair for pair in pairs if ", ".join(pair) == choice]
        elif choice != "all":
            print(f"SPLICE_MATRIX={choice}", end=" ", file=sys.stderr, flush=True)
            always = [pair for pair in pairs if pair in ALWAYS]
            pairs = always + random.Random(choice).sample(pairs, min(SAMPLE_SIZE, len(pairs)))
        self.side_by_side(self.check_pair, pairs)

    def check_pair(self, first: str, second: str, change: str) -> None:
        if first == "aria2":
            # Pieces of several connections leave holes, over which any other client would go on
            # from the length of the file, on every server.
            first = second if second.startswith("aria2") else "aria2 -x1"
        exchange = self.exchange()
        left = exchange.break_off(first)
        CHANGES[change](exchange)
        has_control_file = first.startswith("aria2") and second.startswith("aria2")
        if has_control_file and exchange.offered.stat().st_size != SIZE:
            # It tells the size of the file, so that aria2 asks for nothing.
            status = exchange.fetch(second, resume=True)
            exchange.check(status != 0, "aria2 resumed a file of another size")
            exchange.check(exchange.got.read_bytes() == left, "a mix")
            return
        self.check_no_splice(exchange, second, change, left)

    def check_no_splice(
        self, exchange: Exchange, client: str, change: str, left: bytes, *options: str
    ) -> None:
        """Let *client* resume *left* after the *change*. Fail if that mixes two versions."""
        status = exchange.fetch(client, *options, resume=True)
        outcome = f"{client} ended with {status}, and had {len(left)} bytes"
        content = exchange.offered.read_bytes()
        is_whole = exchange.got.read_bytes() == content
        if change in ("unchanged", "appended"):
            exchange.check(is_whole and status == 0, f"not resumed: {outcome}")
            exchange.program.err.wait_for(DELIVERED)
        elif not is_whole:
            exchange.check(exchange.got.read_bytes() == left, f"a mix: {outcome}")
            # Beside a file that is longer than the new one aria2 saves the new one as file.1.bin.
            others = exchange.received.glob("file.*.bin")
            if not any(path.read_bytes() == content for path in others):
                # wget2 ends with 0 whatever the server answers.
                exchange.check(status != 0 or client == "wget2", f"no error: {outcome}")
                exchange.program.err.wait_for(" 409 - the file has changed")
            # Begun anew it is not refused.
            exchange.empty_received()
            exchange.fetch_whole(client, *options)
            exchange.program.err.wait_for(DELIVERED)

    def test_after_delivery(self) -> None:
        def check(client: str, change: str) -> None:
            exchange = self.exchange()
            exchange.fetch_whole(client)
            exchange.program.err.wait_for(DELIVERED)
            CHANGES[change](exchange)
            self.check_no_splice(exchange, client, change, OLD)

        clients = installed(["curl", "wget", "aria2 -x8"])
        self.side_by_side(check, list(itertools.product(clients, ("longer", "appended"))))

    @needs("curl")
    def test_probes_before_resuming(self) -> None:
        # The second is that of yt-dlp, which has another User-Agent in each run.
        one_byte = {"User-Agent": "first/1.0", "Range": "bytes=0-0"}
        probes = {"one byte": one_byte, "as another program": {"User-Agent": "second/1.0"}}

        def check(probe: str, change: str) -> None:
            exchange = self.exchange()
            left = exchange.break_off("curl", "--user-agent", "first/1.0")
            CHANGES[change](exchange)
            fields = probes[probe]
            with open_link(exchange, fields) as reply:
                self.assertEqual(reply.read(1), exchange.offered.read_bytes()[:1])
            self.check_no_splice(
                exchange, "curl", change, left, "--user-agent", fields["User-Agent"]
            )

        self.side_by_side(check, list(itertools.product(probes, ("replaced", "unchanged"))))


DOWN_TIME = 5  # seconds; retransmissions are several seconds apart by then
# What happens to the client while the link is down, and the address from which it resumes, if any.
SECOND_ADDRESSES = {"waits": "", "killed": CLIENT, "killed, then another address": OTHER}


class BrokenLinkTest(ClientCase):
    """Two hosts: the link between them goes down for DOWN_TIME while a client is downloading."""

    # Its cases mostly wait, and take nobody else's place.
    pool = ThreadPoolExecutor(6)

    def setUp(self) -> None:
        super().setUp()
        hosts = Hosts()
        try:
            hosts.open()
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or error
            self.skipTest(f"no network namespaces (they need Linux, ip, root): {reason}")
        finally:
            hosts.close()

    def test_download_survives_broken_link(self) -> None:
        clients = installed(["curl", "aria2 -x16"])
        if not clients:
            self.skipTest("neither curl nor aria2 is installed")
        cases = list(itertools.product(clients, SECOND_ADDRESSES))
        self.side_by_side(self.check, cases)

    def check(self, client: str, behaviour: str) -> None:
        second_address = SECOND_ADDRESSES[behaviour]
        hosts = Hosts()
        self.addCleanup(hosts.close)
        hosts.open()
        exchange = Exchange(self)
        exchange.address = SERVER
        exchange.program_prefix = ["ip", "netns", "exec", hosts.server, sys.executable]
        exchange.client_prefix = ["ip", "netns", "exec", hosts.client]
        exchange.start("-c", "1")
        process = exchange.begin(client, "--interface", CLIENT, rate=RATE // 2)
        if client.startswith("aria2"):
            # Without a note of what it has it would begin again.
            noted_at = self.control_file_time(exchange)
            until(lambda: self.control_file_time(exchange) > noted_at, "aria2 notes what it has")
        hosts.set_link("down")
        end_of_break = time.monotonic() + DOWN_TIME
        if second_address:
            process.kill()
            process.wait()
        until(lambda: time.monotonic() > end_of_break, "the link was down long enough")
        hosts.set_link("up")
        if second_address:
            exchange.fetch_whole(client, "--interface", second_address, resume=True)
        exchange.check(process.wait(PATIENCE) == 0 or bool(second_address), f"{client} failed")
        exchange.check_received()
        exchange.check_end()
        receiver = second_address or CLIENT
        err = exchange.program.err
        err.wait_for(rf"^{receiver} .* 20[06] -$")
        err.wait_for(rf'^{receiver} .*"/file\.bin" delivered\. ')
        closing_line = f"stopped. delivered: file.bin to {receiver}"
        exchange.check(err.all()[-1] == closing_line, f'the last line is not "{closing_line}"')

    @staticmethod
    def control_file_time(exchange: Exchange) -> float:
        """Return when aria2 last noted what it has; 0 if it never did."""
        path = exchange.received / f"{exchange.got.name}.aria2"
        return path.stat().st_mtime if path.exists() else 0
