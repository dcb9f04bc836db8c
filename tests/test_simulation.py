"""Receivers that each know what they really hold, and what the log says of them."""

from __future__ import annotations

import random
import re
import unittest
from collections import Counter
from typing import Callable, Iterator, Sequence

from httpd_download import Downloads, Receiver, Transfer, Version, unite
from tests.test_downloads import MIB, Source, Wire

Steps = Iterator[None]


class World:
    """A server, its clock and its log, and what happens to the connections of receivers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.lines: list[str] = []
        self.receivers: list[Client] = []
        self.downloads = Downloads(self.log, 60.0, clock=lambda: self.now)
        self.source = Source(Version('"v"', self.random.randrange(20, 400) * MIB + 7, (1, 1)))
        self.size = self.source.version.size

    def log(self, address: str, subject: str, event: str) -> None:
        self.lines.append(f"{address} {event}")
        # At no time does it say more than is true.
        for address, count in self.delivered().items():
            whole = [client for client in self.receivers if client.is_whole(address)]
            assert count <= len(whole), (address, self.lines)

    def delivered(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self.lines if " delivered. " in line)

    def run(self, *clients: Client) -> None:
        """Let *clients* do what they do, in turns that are drawn, until all is at rest."""
        self.receivers += clients
        tasks = [client.run() for client in clients]
        while tasks:
            task = self.random.choice(tasks)
            self.wait(self.random.choice([0.01, 0.1, 0.3]))
            if next(task, self) is self:
                tasks.remove(task)
        for _ in range(130):
            self.wait(0.6)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.downloads.watch()


class Stream:
    """A connection on which bytes *start* to *stop* are asked for, as its receiver sees it."""

    def __init__(self, client: Client, start: int, stop: int) -> None:
        self.client, self.world, self.start, self.stop = client, client.world, start, stop
        self.wire = Wire(lambda: self.world.now)
        receiver = Receiver(client.address, client.agent)
        source = self.world.source
        self.transfer = Transfer(receiver, "GET /f", source.name, source.version, [(start, stop)])
        self.world.downloads.went_on(self.wire)  # type: ignore[arg-type]
        self.world.downloads.begin(self.wire, self.transfer, lambda size: 0)  # type: ignore[arg-type]
        self.transfer.position = 0
        # Bytes that its system has, and that it has read.
        self.received = self.read = 0

    def advance(self) -> None:
        """Let some bytes be sent, arrive, be acknowledged, and be read."""
        drawn, length = self.world.random, self.stop - self.start
        sent = self.wire.acknowledged + drawn.randrange(4 * MIB)
        self.wire.sent = max(self.wire.sent, min(length, sent))
        self.wire.departed = drawn.randrange(self.wire.departed, self.wire.sent + 1)
        self.received = self.wire.acknowledged = self.wire.departed
        self.consume(max(self.read, self.received - drawn.choice([0, 0, 1000, 3 * MIB])))

    def consume(self, position: int) -> None:
        self.read = min(position, self.received)
        self.client.get(self.start, self.start + self.read)

    def transport(self) -> Steps:
        """Get all that was asked for, and close."""
        while self.read < self.stop - self.start:
            if self.wire.sent == self.stop - self.start:
                self.received = self.wire.departed = self.wire.acknowledged = self.wire.sent
                self.consume(self.received)
            else:
                self.advance()
            yield
        self.world.downloads.went_on(self.wire)  # type: ignore[arg-type]

    def kill(self) -> None:
        """Let the receiver's system reset the connection, whose program has gone."""
        self.world.downloads.broken(self.wire, ConnectionResetError())  # type: ignore[arg-type]

    def silence(self) -> None:
        """Let the network break: what left may still arrive, and nothing is acknowledged."""
        length, drawn = self.stop - self.start, self.world.random
        self.wire.sent = min(length, self.wire.sent + drawn.randrange(MIB))
        self.wire.departed = drawn.randrange(self.wire.departed, self.wire.sent + 1)
        self.received = drawn.randrange(self.received, self.wire.departed + 1)
        self.consume(self.received)

    def end(self, how: str) -> None:
        self.kill() if how == "killed" else self.silence()


class Client:
    """One who fetches the file; *breaks*: how its download is broken off, one after the other."""

    agent = "curl"

    def __init__(self, world: World, address: str, *breaks: str) -> None:
        self.world, self.breaks = world, breaks
        self.address = address
        self.have: list[tuple[int, int]] = []

    def get(self, start: int, stop: int) -> None:
        self.have = unite([*self.have, (start, stop)])

    def is_whole(self, address: str) -> bool:
        return address == self.address and self.have == [(0, self.world.size)]

    def pause(self) -> Steps:
        for _ in range(self.world.random.randrange(8)):
            yield

    def move(self, how: str) -> None:
        if how == "moved":
            self.address += "9"

    def run(self) -> Steps:
        for how in self.breaks:
            stream = Stream(self, self.position(), self.world.size)
            for _ in range(self.world.random.randrange(1, 30)):
                if stream.read + 5 * MIB < stream.stop - stream.start:
                    stream.advance()
                yield
            stream.end(how)
            yield from self.pause()
            self.move(how)
        if self.position() < self.world.size:
            yield from Stream(self, self.position(), self.world.size).transport()

    def position(self) -> int:
        return self.have[0][1] if self.have else 0


class Segments(Client):
    """aria2, which fetches pieces at once, and probes before it resumes."""

    agent = "aria2"
    count = 8

    def run(self) -> Steps:
        for how in (*self.breaks, ""):
            drawn = self.world.random
            missing = self.pieces()
            streams = []
            if not missing:
                return
            if missing[0][0] == 0:
                first = missing.pop(0)
                streams.append(Stream(self, 0, self.world.size))
                streams[0].stop = first[1]
            else:
                probe = Stream(self, 0, self.world.size)
                probe.wire.sent = probe.wire.acknowledged = drawn.choice([0, 1000, 300_000])
                yield
                probe.kill()
            drawn.shuffle(missing)
            while missing or streams:
                while missing and len(streams) < self.count:
                    streams.append(Stream(self, *missing.pop()))
                    yield
                stream = drawn.choice(streams)
                stream.advance()
                if stream.wire.sent == stream.stop - stream.start:
                    yield from stream.transport()
                    is_first = stream.transfer.length > stream.stop - stream.start
                    if is_first:
                        stream.kill()
                    streams.remove(stream)
                if how and not drawn.randrange(60):
                    break
                yield
            for stream in streams:
                stream.end(how)
            yield from self.pause()
            self.move(how)

    def pieces(self) -> list[tuple[int, int]]:
        """Return what is lacking, in pieces, each begun up to 1 MiB before."""
        edges = [0, *(edge for span in self.have for edge in span), self.world.size]
        missing = [pair for pair in zip(edges[::2], edges[1::2]) if pair[0] < pair[1]]
        back = self.world.random.randrange(MIB)
        found = []
        for start, stop in missing:
            start = max(0, start - back)
            step = max(MIB, -(-self.world.size // self.count))
            found += [(at, min(at + step, stop)) for at in range(start, stop, step)]
        return found


class Axel(Client):
    """axel, which asks for everything, resets that, and fetches its segments in any order."""

    agent = "Axel"

    def run(self) -> Steps:
        count, size = 4, self.world.size
        for how in (*self.breaks, ""):
            # Killed it forgets what it had.
            self.have = []
            probe = Stream(self, 0, size)
            bounds = [
                (size * index // count, size * (index + 1) // count) for index in range(count)
            ]
            self.world.random.shuffle(bounds)
            streams = [Stream(self, *bound) for bound in bounds]
            probe.wire.sent = probe.wire.acknowledged = 60_000
            yield
            probe.kill()
            while streams:
                stream = self.world.random.choice(streams)
                stream.advance()
                if stream.wire.sent == stream.stop - stream.start:
                    yield from stream.transport()
                    streams.remove(stream)
                if how and not self.world.random.randrange(60):
                    break
                yield
            if not streams:
                return
            for stream in streams:
                stream.end("killed")
            yield from self.pause()


class Player(Client):
    """A video that is looked at here and there, and never fetched as a whole."""

    agent = "Player"

    def run(self) -> Steps:
        size = self.world.size
        for position in [0, *(self.world.random.randrange(size) for _ in range(6))]:
            stream = Stream(self, position, size)
            for _ in range(self.world.random.randrange(1, 6)):
                if stream.read + 5 * MIB < stream.stop - stream.start:
                    stream.advance()
                yield
            stream.kill()


Cast = Callable[[World], Sequence[Client]]
ALONE: dict[str, Cast] = {
    "whole": lambda world: [Client(world, "a")],
    "killed": lambda world: [Client(world, "a", "killed", "killed")],
    "silent": lambda world: [Client(world, "a", "silent", "silent")],
    "moved": lambda world: [Client(world, "a", "moved")],
    "all of it": lambda world: [Client(world, "a", "silent", "killed", "moved")],
    "segments": lambda world: [Segments(world, "a")],
    "segments, killed": lambda world: [Segments(world, "a", "killed")],
    "segments, killed twice": lambda world: [Segments(world, "a", "killed", "killed")],
    "axel": lambda world: [Axel(world, "a")],
    "axel, killed": lambda world: [Axel(world, "a", "killed")],
    "several": lambda world: [
        Client(world, "a", "killed"),
        Client(world, "b", "silent"),
        Segments(world, "c", "killed"),
        Axel(world, "d"),
        Player(world, "e"),
    ],
}
TOGETHER: dict[str, Cast] = {
    "two, killed": lambda world: [Client(world, "a", "killed"), Client(world, "a", "killed")],
    "two, silent": lambda world: [Client(world, "a", "silent"), Client(world, "a", "silent")],
    "one whole, one killed": lambda world: [Client(world, "a"), Client(world, "a", "killed")],
    "curl and aria2": lambda world: [Client(world, "a", "killed"), Segments(world, "a", "killed")],
    "curl and axel": lambda world: [Client(world, "a", "killed"), Axel(world, "a")],
    "three": lambda world: [Client(world, "a", "killed") for _ in range(3)],
}


class SimulationTest(unittest.TestCase):
    RUNS = 20

    def test_receivers_that_share_no_address(self) -> None:
        whole = delivered = 0
        for name, cast in ALONE.items():
            for seed in range(self.RUNS):
                with self.subTest(name, seed=seed):
                    world = World(seed)
                    world.run(*cast(world))
                    counts = world.delivered()
                    for client in world.receivers:
                        whole += client.is_whole(client.address)
                        delivered += counts[client.address]
                        self.assertLessEqual(counts[client.address], 1, world.lines)
        self.assertGreaterEqual(delivered / whole, 0.97)

    def test_receivers_behind_one_address(self) -> None:
        for name, cast in TOGETHER.items():
            for seed in range(self.RUNS):
                with self.subTest(name, seed=seed):
                    world = World(seed)
                    world.run(*cast(world))

    def test_a_player_makes_a_line_for_each_rest(self) -> None:
        for seed in range(self.RUNS):
            world = World(seed)
            world.run(Player(world, "a"))
            self.assertFalse(any("delivered" in line for line in world.lines))
            self.assertLessEqual(sum(bool(re.search(" req ", line)) for line in world.lines), 7)


if __name__ == "__main__":
    unittest.main()
