"""Two hosts in network namespaces: the link between them goes down in the middle of a download."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
import unittest

from tests.clients import RATE, ClientCase, Exchange, installed
from tests.support import PATIENCE, until

DOWN_TIME = 5  # seconds; retransmissions are several seconds apart by then
SERVER = "10.213.0.1"
CLIENT = "10.213.0.2"
OTHER = "10.213.0.3"  # a second address of the client
# What happens to the client while the link is down, and the address from which it resumes, if any.
SECOND_ADDRESSES = {"waits": "", "killed": CLIENT, "killed, then another address": OTHER}
_numbers = itertools.count()


def ip(*arguments: str) -> None:
    """Run the command ip. Raise CalledProcessError, with stderr, if it fails."""
    subprocess.run(["ip", *arguments], check=True, stderr=subprocess.PIPE, timeout=20)


class Hosts:
    """Two network namespaces, "server" and "client", and a link between them."""

    def __init__(self) -> None:
        prefix = f"httpd-download-{os.getpid()}-{next(_numbers)}"
        self.server = f"{prefix}-server"
        self.client = f"{prefix}-client"

    def open(self) -> None:
        """Make the namespaces and the link. Raise CalledProcessError where that is forbidden."""
        for name in (self.server, self.client):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        link = ["link", "add", "eth0", "netns", self.server]
        ip(*link, "type", "veth", "peer", "name", "eth0", "netns", self.client)
        for name, address in ((self.server, SERVER), (self.client, CLIENT), (self.client, OTHER)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        ip("netns", "exec", self.server, "true")
        # Else the system of the client would take the whole file before the program reads it.
        limits = "echo 4096 131072 1048576 > /proc/sys/net/ipv4/tcp_rmem"
        ip("netns", "exec", self.client, "sh", "-c", limits)

    def set_link(self, state: str) -> None:
        """Set the link "up" or "down"."""
        ip("-n", self.client, "link", "set", "eth0", state)

    def close(self) -> None:
        """Remove what there is of the namespaces, and with them the link."""
        for name in (self.server, self.client):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                ip("netns", "delete", name)


class BrokenLinkTest(ClientCase):
    """The link goes down for DOWN_TIME while a client is downloading."""

    @classmethod
    def setUpClass(cls) -> None:
        hosts = Hosts()
        try:
            hosts.open()
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise unittest.SkipTest(
                f"no network namespaces (they need Linux, ip, root): {reason}"
            ) from None
        finally:
            hosts.close()

    def test_download_survives_broken_link(self) -> None:
        clients = installed(["curl", "aria2 -x16"])
        if not clients:
            self.skipTest("neither curl nor aria2 is installed")
        cases = list(itertools.product(clients, SECOND_ADDRESSES))
        self.side_by_side(self.check, cases, limit=len(cases))

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
