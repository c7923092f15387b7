"""How much each tenant, and all of them together, may have under way, and who waits for a place."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agentsys.serving.server.errors import LimitReachedError

_MINUTE = 60.0
_SWEEP = 1024
_EXPECTED_SECONDS = 1.0  # of a call, before any has ended
_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Bounds for one tenant; ``None`` is none.

    ``calls`` run at once, ``queued`` more wait for their turn, and ``tokens_per_minute`` of prompts and answers may be
    used. A request of several choices or prompts is that many calls.
    """

    calls: int | None = None
    queued: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of a server. ``calls`` is how many it holds, running or waiting, of all tenants.

    ``tenant`` bounds each tenant that ``tenants`` does not name. A client that reads nothing for ``read_seconds`` is
    dropped. A server that drains gives what runs ``drain_seconds``.
    """

    calls: int = 4096
    tenant: TenantLimits = field(default_factory=TenantLimits)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    read_seconds: float = 30.0
    drain_seconds: float = 30.0

    def of(self, tenant: str) -> TenantLimits:
        return self.tenants.get(tenant, self.tenant)


@dataclass(slots=True)
class _Account:
    """What a tenant has under way. ``tokens`` is what it may still use; less than 0 is a debt."""

    limits: TenantLimits
    tokens: float
    refilled: float
    held: int = 0
    running: int = 0
    waiting: list[tuple[float, int, asyncio.Future[None]]] = field(default_factory=list)
    given_up: int = 0

    def refill(self, now: float) -> None:
        rate = self.limits.tokens_per_minute
        if rate is not None:
            self.tokens = min(float(rate), self.tokens + (now - self.refilled) * rate / _MINUTE)
        self.refilled = now

    def give_up(self) -> None:
        """Note that one of those who wait does not any more; now and then drop them all."""
        self.given_up += 1
        if 2 * self.given_up > len(self.waiting):
            self.waiting = [entry for entry in self.waiting if not entry[2].done()]
            heapq.heapify(self.waiting)
            self.given_up = 0

    @property
    def idle(self) -> bool:
        return not self.held and self.tokens >= (self.limits.tokens_per_minute or 0)


class Ticket:
    """The right of one request to make its calls, until it is returned."""

    def __init__(self, admission: Admission, account: _Account, calls: int) -> None:
        self._admission, self._account, self.calls = admission, account, calls

    @asynccontextmanager
    async def turn(self, urgency: float) -> AsyncIterator[None]:
        """Wait until the tenant may run one more call; its own calls wait in the order of κ."""
        began = await self._admission._begin(self._account, urgency)
        try:
            yield
        finally:
            self._admission._end(self._account, began)

    def use(self, tokens: int) -> None:
        """Count tokens against the tenant's minute."""
        self._account.tokens -= tokens


class Admission:
    """Decides which requests are taken. Belongs to one event loop. Tenants with nothing under way are forgotten."""

    def __init__(self, limits: ServerLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._arrivals = itertools.count()
        self._seconds = _EXPECTED_SECONDS
        self.held = 0

    def admit(self, tenant: str, calls: int) -> Ticket:
        """Take a request of so many calls, to be returned by :meth:`leave`; raises :class:`LimitReachedError`."""
        account = self._account(tenant)
        self._check(tenant, account, calls)
        self.held += calls
        account.held += calls
        return Ticket(self, account, calls)

    def leave(self, ticket: Ticket) -> None:
        """Give a request's places back."""
        self.held -= ticket.calls
        ticket._account.held -= ticket.calls

    @property
    def waiting(self) -> int:
        """Calls that wait for their tenant's turn."""
        return sum(len(account.waiting) - account.given_up for account in self._accounts.values())

    def _check(self, tenant: str, account: _Account, calls: int) -> None:
        limits, whose = account.limits, f"tenant {tenant!r}" if tenant else "the caller"
        if self.held + calls > self.limits.calls:
            raise LimitReachedError(
                f"the server holds {self.held} calls of at most {self.limits.calls}; {calls} more were asked for.",
                retry_after=self._seconds,
            )
        if (
            limits.calls is not None
            and limits.queued is not None
            and account.held + calls > limits.calls + limits.queued
        ):
            raise LimitReachedError(
                f"{whose} has {account.held} calls under way, may run {limits.calls} and let {limits.queued} wait; "
                f"{calls} more were asked for.",
                retry_after=self._seconds * max(1, len(account.waiting)) / limits.calls,
            )
        if limits.tokens_per_minute is not None and account.tokens <= 0:
            raise LimitReachedError(
                f"{whose} has used its {limits.tokens_per_minute} tokens a minute.",
                retry_after=(1 - account.tokens) * _MINUTE / limits.tokens_per_minute,
            )

    def _account(self, tenant: str) -> _Account:
        now = self._clock()
        if len(self._accounts) > _SWEEP and tenant not in self._accounts:
            self._forget(now)
        account = self._accounts.get(tenant)
        if account is None:
            limits = self.limits.of(tenant)
            account = self._accounts[tenant] = _Account(limits, float(limits.tokens_per_minute or 0), now)
        account.refill(now)
        return account

    def _forget(self, now: float) -> None:
        for account in self._accounts.values():
            account.refill(now)
        self._accounts = {name: account for name, account in self._accounts.items() if not account.idle}

    async def _begin(self, account: _Account, urgency: float) -> float:
        if account.limits.calls is not None and account.running >= account.limits.calls:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(account.waiting, (urgency, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    account.give_up()
                else:  # the turn came together with the cancellation
                    self._pass_on(account)
                raise
        else:
            account.running += 1
        return self._clock()

    def _end(self, account: _Account, began: float) -> None:
        self._seconds += _SMOOTHING * (self._clock() - began - self._seconds)
        self._pass_on(account)

    def _pass_on(self, account: _Account) -> None:
        """Give a place that one call leaves to the most urgent one that waits, or to nobody."""
        while account.waiting:
            turn = heapq.heappop(account.waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
            account.given_up -= 1
        account.running -= 1
