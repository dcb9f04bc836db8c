"""Addresses: which ones this machine has, and how links are written."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import unittest
from typing import Any
from unittest import mock

import httpd_download
from httpd_download import base_url, local_addresses, numeric_address

LOOK_UPS = (
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostname",
    "getnameinfo",
)


class NumericAddressTest(unittest.TestCase):
    def test_addresses(self) -> None:
        for text, address in [
            ("127.0.0.1", ("127.0.0.1", 0)),
            ("localhost", ("127.0.0.1", 0)),
            ("0.0.0.0", ("0.0.0.0", 0)),
            ("::1", ("::1", 0, 0, 0)),
            ("::", ("::", 0, 0, 0)),
            ("fd00::1", ("fd00::1", 0, 0, 0)),
        ]:
            self.assertEqual(numeric_address(text), address)

    def test_other_texts(self) -> None:
        for text in [
            "",
            "files.example",
            "1234",
            "256.1.1.1",
            "1.2.3.4:80",
            "[::1]",
            "http://1.2.3.4",
            ":::",
            "1.2.3.4\n",
            "a." * 200,
            "é.",
            "\0.",
        ]:
            with self.subTest(text), self.assertRaises(ValueError):
                numeric_address(text)


class BaseUrlTest(unittest.TestCase):
    def test_hosts(self) -> None:
        for host, url in [
            ("10.0.0.5", "http://10.0.0.5:34451"),
            ("files.example", "http://files.example:34451"),
            ("::1", "http://[::1]:34451"),
            ("[::1]", "http://[::1]:34451"),
            ("fe80::1%eth0", "http://[fe80::1%25eth0]:34451"),
        ]:
            self.assertEqual(base_url(host, 34451), url)

    def test_scheme(self) -> None:
        self.assertEqual(base_url("h", 1, "https"), "https://h:1")


class LocalAddressesTest(unittest.TestCase):
    def choose(self, sources: dict[str, str], with_ipv6: bool = True) -> list[str]:
        """Return the addresses of a machine whose kernel chooses *sources* by target."""
        with mock.patch.object(
            httpd_download, "source_address", lambda target: sources.get(target, "")
        ), mock.patch.object(httpd_download, "interface_addresses", list):
            return local_addresses(with_ipv6)

    def test_no_name_is_looked_up(self) -> None:
        with contextlib.ExitStack() as stack:
            for name in LOOK_UPS:
                failure = AssertionError(name)
                stack.enter_context(mock.patch.object(socket, name, side_effect=failure))
            both = local_addresses()
            only_ipv4 = local_addresses(with_ipv6=False)
        self.assertEqual([address for address in both if "." in address], only_ipv4)
        for address in both:
            parsed = ipaddress.ip_address(address)
            self.assertTrue(both == ["127.0.0.1"] or not parsed.is_loopback, both)
            self.assertFalse(parsed.is_unspecified, both)

    def test_default_route_is_first_and_no_address_comes_twice(self) -> None:
        sources = {
            "8.8.8.8": "10.0.2.15",
            "2001:4860:4860::8888": "2001:db8::5",
            "10.254.254.254": "10.0.2.15",
            "172.31.254.254": "10.0.2.15",
            "192.168.254.254": "192.168.7.4",
            "fd00::1": "fd00::5",
        }
        expected = ["10.0.2.15", "2001:db8::5", "192.168.7.4", "fd00::5"]
        self.assertEqual(self.choose(sources), expected)
        self.assertEqual(self.choose(sources, with_ipv6=False), ["10.0.2.15", "192.168.7.4"])

    def test_without_a_network(self) -> None:
        for sources in [
            {},
            {"8.8.8.8": "127.0.0.1", "fd00::1": "::1"},
            {"8.8.8.8": "0.0.0.0", "fd00::1": "fe80::1"},
        ]:
            self.assertEqual(self.choose(sources), ["127.0.0.1"])

    @unittest.skipUnless(
        sys.platform.startswith("linux") and hasattr(socket, "if_nameindex"),
        "no list of interfaces",
    )
    def test_interfaces(self) -> None:
        answers: dict[tuple[int, str], bytes] = {
            (httpd_download.SIOCGIFFLAGS, "eth1"): b"eth1".ljust(16, b"\0") + b"\x43\0" + bytes(22),
            (httpd_download.SIOCGIFADDR, "eth1"): bytes(20) + bytes([10, 1, 2, 3]) + bytes(16),
            (httpd_download.SIOCGIFFLAGS, "down"): bytes(40),
        }

        def ioctl(probe: Any, request: int, data: bytes) -> bytes:
            name = data.rstrip(b"\0").decode()
            if (request, name) not in answers:
                raise OSError(19, "No such device")
            return answers[request, name]

        interfaces = [(1, "eth1"), (2, "down"), (3, "gone")]
        with mock.patch("fcntl.ioctl", ioctl), mock.patch.object(
            socket, "if_nameindex", lambda: interfaces
        ):
            found = httpd_download.interface_addresses()
        self.assertEqual([address for address in found if address], ["10.1.2.3"])
