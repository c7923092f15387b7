"""Hosts of our own on this machine: network namespaces, each with an address, and the switch that joins them.

The switch is ours too, so that it can lose and delay frames on any kernel. What it does not pass on vanishes: nobody is
told, as behind a pulled cable or a router that died.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

NETWORK: Final = "192.0.2.0/24"
_TUN: Final = "/dev/net/tun"
_SET_INTERFACE: Final = 0x400454CA
_ETHERNET, _NO_HEADER = 0x0002, 0x1000
_NEW_NETWORK: Final = 0x40000000
_LARGEST_FRAME: Final = 2048
_C: Final = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Return what this machine lacks for hosts of our own, if it does."""
    if os.geteuid() != 0:
        return "network namespaces are root's to make"
    if shutil.which("ip") is None:
        return "there is no command `ip` (iproute2)"
    if not Path(_TUN).exists():
        return f"there is no {_TUN}"
    done = subprocess.run(["ip", "netns", "add", _named("probe")], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", _named("probe")], capture_output=True, check=False)
    return f"no network namespace may be made: {done.stderr.strip()}" if done.returncode else ""


def _named(host: str) -> str:
    return f"agentsys-{os.getpid()}-{host}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Switch:
    """Passes frames between hosts, by the last number of their addresses, on a thread of its own."""

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}
        self._cut: frozenset[int] = frozenset()
        self._seconds, self._loss = 0.0, 0.0
        self._chance = random.Random(7)
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._ready = selectors.DefaultSelector()
        self._over = False
        self.passed = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)

    def plug(self, number: int, port: int) -> None:
        """Join the host ``number``, whose frames come and go at the file ``port``, before :meth:`start`."""
        self._ports[number] = port
        self._ready.register(port, selectors.EVENT_READ, number)

    def start(self) -> None:
        self._thread.start()

    def cut(self, numbers: Sequence[int]) -> None:
        """Lose all that these hosts send, and all that is sent to them; with none, nothing any more."""
        self._cut = frozenset(numbers)

    def slow(self, seconds: float, loss: float) -> None:
        """Let each frame take ``seconds``, and the part ``loss`` of them vanish."""
        self._seconds, self._loss = seconds, loss

    def close(self) -> None:
        self._over = True
        if self._thread.is_alive():
            self._thread.join()
        self._ready.close()
        for port in self._ports.values():
            os.close(port)

    def _run(self) -> None:
        while not self._over:
            wait = self._under_way[0][0] - time.monotonic() if self._under_way else 0.1
            for key, _ in self._ready.select(min(max(wait, 0.0), 0.1)):
                self._take(key.data, os.read(key.fd, _LARGEST_FRAME))
            now = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now:
                _, _, to, frame = heapq.heappop(self._under_way)
                os.write(self._ports[to], frame)

    def _take(self, sender: int, frame: bytes) -> None:
        # What is for all (IPv6 asks who its neighbours are) is for none of our hosts: they know one another.
        to = frame[5] if frame[:5] == b"\x02\0\0\0\0" else 0
        if to not in self._ports:
            return
        if sender in self._cut or to in self._cut or self._chance.random() < self._loss:
            self.lost += 1
            return
        self.passed += 1
        heapq.heappush(self._under_way, (time.monotonic() + self._seconds, next(self._numbers), to, frame))


class Host:
    """A network namespace with an address of its own. What is started within :meth:`entered` runs on this host."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.address = f"192.0.2.{number}"
        self._namespace = _named(name)
        _ip("netns", "add", self._namespace)

    @contextmanager
    def entered(self) -> Iterator[Host]:
        """Let this thread be on the host, and the threads, sockets and processes that it begins."""
        with Path("/proc/thread-self/ns/net").open() as before, Path(f"/run/netns/{self._namespace}").open() as here:
            _enter(here.fileno())
            try:
                yield self
            finally:
                _enter(before.fileno())

    def connect(self, switch: Switch, numbers: Sequence[int]) -> None:
        """Give the host its interface, and let it know the hosts ``numbers`` as neighbours for good."""
        with self.entered():
            port = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(port, _SET_INTERFACE, struct.pack("16sH22x", b"eth0", _ETHERNET | _NO_HEADER))
            switch.plug(self.number, port)
            _ip("link", "set", "lo", "up")
            _ip("link", "set", "eth0", "address", _hardware(self.number), "up")
            _ip("address", "add", f"{self.address}/24", "dev", "eth0")
            for number in numbers:
                # Asked for anew, a host that was cut off would be told to be gone, which a router never tells.
                known = ("lladdr", _hardware(number), "nud", "permanent", "dev", "eth0")
                _ip("neighbour", "replace", f"192.0.2.{number}", *known)

    def remove(self) -> None:
        _ip("netns", "del", self._namespace)


def _hardware(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _enter(namespace: int) -> None:
    if _C.setns(namespace, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


class Network:
    """Hosts by name, and what lies between them."""

    def __init__(self, hosts: dict[str, Host], switch: Switch) -> None:
        self.hosts, self.switch = hosts, switch

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["hosts"][name]
        except KeyError:
            raise AttributeError(name) from None

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """Cut these hosts off, without a word to anybody, while this lasts."""
        self.switch.cut([self.hosts[name].number for name in names])
        try:
            yield
        finally:
            self.switch.cut([])

    @contextmanager
    def slowed(self, seconds: float, loss: float) -> Iterator[None]:
        """Let every frame take ``seconds`` and lose the part ``loss`` of them while this lasts."""
        self.switch.slow(seconds, loss)
        try:
            yield
        finally:
            self.switch.slow(0.0, 0.0)


def _remove_forgotten() -> None:
    """Remove what tests that were killed left behind."""
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines():
        name = line.split()[0]
        maker = name.removeprefix("agentsys-").partition("-")[0]
        if name.startswith("agentsys-") and not Path(f"/proc/{maker}").exists():
            _ip("netns", "del", name)


@contextmanager
def network_of(*names: str) -> Iterator[Network]:
    """Give hosts of these names that reach one another and nothing else; they are gone in the end, however it ends."""
    _remove_forgotten()
    with ExitStack() as stack:
        switch = Switch()
        hosts: dict[str, Host] = {}
        for number, name in enumerate(names, start=1):
            hosts[name] = Host(name, number)
            stack.callback(hosts[name].remove)
        stack.callback(switch.close)
        for host in hosts.values():
            host.connect(switch, [other.number for other in hosts.values() if other is not host])
        switch.start()
        yield Network(hosts, switch)
