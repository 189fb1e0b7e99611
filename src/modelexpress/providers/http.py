# SPDX-License-Identifier: Apache-2.0
"""The one door for requests that leave the machine: proxies, private CAs, redirects, retries."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import certifi
from yarl import URL

from modelexpress.domain.clock import SYSTEM_CLOCK, SYSTEM_RANDOM, Clock, Random
from modelexpress.domain.errors import Corrupt, Forbidden, Invalid, Limited, MxError, Unreachable
from modelexpress.domain.refs import shown
from modelexpress.domain.resting import rest
from modelexpress.providers.addresses import GuardedResolver, Places
from modelexpress.providers.causes import cause_of, without_secrets
from modelexpress.providers.proxies import find_proxy, find_proxy_places
from modelexpress.providers.quiet import Client, QuietTimes
from modelexpress.providers.retry import (
    RETRIED_STATUSES,
    RetryPolicy,
    find_limit_wait,
    find_limits,
    find_named_wait,
)

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_JSON_BYTES = 64 * 1024 * 1024
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_LOOP_DETECTED = 508

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutgoingOptions:
    """How requests leave. `instance` names this process in Via, so that a loop is noticed."""

    places: Places
    user_agent: str
    instance: str
    timeout_seconds: float = 30.0
    connections: int = 64
    retry: RetryPolicy = RetryPolicy()
    env: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = SYSTEM_CLOCK
    chance: Random = SYSTEM_RANDOM


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `token` goes to the origin alone; `retry` None: as patient as the options say.

    A HEAD is not redirected to another host: what the origin says of a file stands in its own answer.
    `via`: the proxies through which the one came for whom this is asked. `seconds`: how long the answer may
    take, if not as long as the options say.
    """

    url: URL
    token: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry: RetryPolicy | None = None
    method: str = "GET"
    body: bytes | None = None
    via: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The final response to a request, and the heads of the redirects that led to it."""

    response: aiohttp.ClientResponse
    redirects: tuple[aiohttp.ClientResponse, ...] = ()


class Outgoing:
    """Requests to one origin and where it redirects to. The session is made by the first request."""

    def __init__(self, options: OutgoingOptions) -> None:
        self.options = options
        self._session: aiohttp.ClientSession | None = None
        self._quiet = QuietTimes()
        self._was_reached = False

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get_json(self, ask: Ask) -> tuple[Any, aiohttp.ClientResponse]:
        """The JSON that is answered (any status is the caller's to judge), retried as needed."""
        response, body = await self.get_document(ask)
        return None if response.status >= 400 else _parse(ask.url, body), response

    async def get_document(self, ask: Ask) -> tuple[aiohttp.ClientResponse, bytes]:
        """How a request is answered, with the body, whatever the status is; retried as needed."""
        attempt = 1
        while True:
            try:
                async with self.request(ask) as answer:
                    return answer.response, await self._read_bounded(answer.response)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # An answer that began and broke off.
                if not await self.pause(attempt, ask.retry):
                    raise self._unreachable(ask.url, error) from error
                attempt += 1

    async def get_status(self, ask: Ask) -> int:
        """The status of the answer, whatever the body is. Raises Corrupt for a page in place of a yes."""
        async with self.request(ask) as answer:
            status, kind = answer.response.status, answer.response.content_type
        if status < 400 and (status != 200 or kind == "text/html"):
            what = f"{_named(ask.url)} answers with {status} and {kind}, which is neither yes nor no"
            raise Corrupt(what, is_nonsense=True)
        return status

    @asynccontextmanager
    async def request(self, ask: Ask) -> AsyncIterator[Answer]:
        """The final answer to a request, after redirects and retries; its body is for the caller.

        Raises Limited, Unreachable or Forbidden when there is no answer worth having.
        """
        url, attempt = ask.url, 1
        while True:
            wait: float | None
            try:
                answer = await self._follow(ask)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error, aiohttp.ClientError) and isinstance(error.__cause__, MxError):
                    raise error.__cause__ from None
                if isinstance(error, aiohttp.ClientConnectorCertificateError):
                    raise self._untrusted(url, error) from error
                self._was_reached |= not isinstance(error, aiohttp.ClientConnectorError)
                wait = self._wait(ask.retry, attempt, None)
                if wait is None:
                    raise self._unreachable(url, error) from error
                cause = cause_of(error)
                _log.debug("%s: %s; attempt %d, again in %.1f s", _named(url), cause, attempt, wait)
            else:
                response = answer.response
                wait = self._wait_after(ask, response, attempt)
                if wait is None:
                    async with response:
                        self._note_limits(ask, response)
                        self._raise_for_outage(url, response)
                        yield answer
                    return
                response.close()
                _log.debug("%s: %d; attempt %d, again in %.1f s", _named(url), response.status, attempt, wait)
            await rest(self.options.clock, wait)
            attempt += 1

    async def pause(self, attempt: int, retry: RetryPolicy | None = None) -> bool:
        """Wait before attempt `attempt + 1` of something; False when there should be none."""
        wait = self._wait(retry, attempt, None)
        if wait is not None:
            await rest(self.options.clock, wait)
        return wait is not None

    def _wait(self, retry: RetryPolicy | None, attempt: int, named: float | None) -> float | None:
        policy = retry or self.options.retry
        return policy.wait_seconds(attempt, named, self.options.chance, self._was_reached)

    def _wait_after(self, ask: Ask, response: aiohttp.ClientResponse, attempt: int) -> float | None:
        if response.status not in RETRIED_STATUSES:
            return None
        policy = ask.retry or self.options.retry
        named = find_named_wait(response.headers, self.options.clock.wall())
        if response.status == 429:
            policy = policy.when_limited()
            if named is not None:
                self._be_quiet(ask, response, named)
        elif named is not None:
            self._leave(Client.at(response.url, self._token_for(response.url, ask)), response, named)
        return self._wait(policy, attempt, named)

    def _note_limits(self, ask: Ask, response: aiohttp.ClientResponse) -> None:
        left = find_limit_wait(response.headers)
        if left is not None:
            self._be_quiet(ask, response, left)

    def _be_quiet(self, ask: Ask, response: aiohttp.ClientResponse, seconds: float) -> None:
        # Polite: when one request is told to wait, all that the origin cannot tell from it do.
        self._leave(Client.of(response.url, self._token_for(response.url, ask)), response, seconds)

    def _leave(self, client: Client, response: aiohttp.ClientResponse, seconds: float) -> None:
        bounded = min(seconds, self.options.retry.patience_seconds)
        self._quiet.note(client, bounded, response.headers, self.options.clock.monotonic())

    async def _wait_quiet(self, target: URL, token: str | None, ask: Ask) -> None:
        """Wait as long as the one who asks was told to.

        Where that is too long for him: raises Limited, or Unreachable where only this address is busy.
        """
        policy, now = ask.retry or self.options.retry, self.options.clock.monotonic()
        busy = self._quiet.find(Client.at(target, token), now)
        if busy is not None and busy.seconds > policy.patience_seconds:
            raise self._busy(target, busy.seconds)
        left = self._quiet.find(Client.of(target, token), now) or busy
        if left is None:
            return
        if left.seconds > policy.patience_seconds:
            raise Limited(
                f"{_named(target)} is not to be asked for anything in the next {left.seconds:.0f} s: "
                "it has asked to slow down; try again then",
                left.seconds,
                left.limits,
            )
        await rest(self.options.clock, left.seconds)

    def _token_for(self, target: URL, ask: Ask) -> str | None:
        # Credentials are for the origin itself: not for a CDN, whoever redirects there.
        return ask.token if target.origin() == self.options.places.origin.origin() else None

    async def _follow(self, ask: Ask) -> Answer:
        target, redirects = ask.url, list[aiohttp.ClientResponse]()
        while True:
            sent = self._token_for(target, ask)
            await self._wait_quiet(target, sent, ask)
            response = await self._send(target, sent, ask)
            self._was_reached = True
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return Answer(response, tuple(redirects))
            following = self._target(target, location)
            if ask.method == "HEAD" and following.origin() != target.origin():
                return Answer(response, tuple(redirects))
            response.release()
            redirects.append(response)
            if len(redirects) > _MOST_REDIRECTS:
                many = f"{_named(ask.url)} redirects more than {_MOST_REDIRECTS} times"
                raise Forbidden(many, is_nonsense=True)
            target = following

    def _target(self, source: URL, location: str) -> URL:
        try:
            target = source.join(URL(location, encoded=True))
            _ = (target.host, target.port, str(target).encode())  # yarl looks at these only when asked
        except ValueError as error:
            raise Forbidden(
                f"{_named(source)} redirects to {shown(without_secrets(location))}, which is no address",
                is_nonsense=True,
            ) from error
        self.options.places.check_redirect(source, target)
        return target

    async def _send(self, url: URL, token: str | None, ask: Ask) -> aiohttp.ClientResponse:
        sent = {**ask.headers, "Via": ", ".join([*ask.via, f"1.1 {via_name(self.options.instance)}"])}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        proxy = find_proxy(url, self.options.env)
        response = await self._open().request(
            ask.method, url, headers=sent, data=ask.body, proxy=proxy, allow_redirects=False,
            timeout=self._timeout(ask.seconds),
        )  # fmt: skip
        if response.status == _LOOP_DETECTED:
            response.close()
            raise Invalid(
                f"the origin {self.options.places.origin} is this server itself: set origin.endpoint "
                "(or HF_ENDPOINT of the server) to where models are published",
                is_loop=True,
            )
        return response

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            options = self.options
            connector = aiohttp.TCPConnector(
                limit=options.connections,
                ssl=_ssl_context(options.env),
                resolver=GuardedResolver(options.places, find_proxy_places(options.env)),
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,  # would also send ~/.netrc; find_proxy finds proxies
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": options.user_agent, "Accept-Encoding": "identity"},
                read_bufsize=1024 * 1024,
            )
        return self._session

    def _timeout(self, seconds: float | None) -> aiohttp.ClientTimeout:
        # By socket: the wait for a connection that others use is ours.
        most = self.options.timeout_seconds
        return aiohttp.ClientTimeout(total=None, sock_connect=most, sock_read=min(seconds or most, most))

    async def _read_bounded(self, response: aiohttp.ClientResponse) -> bytes:
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > _MOST_JSON_BYTES:
                raise Corrupt(
                    f"{_named(response.url)} answers with more than {_MOST_JSON_BYTES} bytes of JSON"
                )
            pieces.append(piece)
        return b"".join(pieces)

    def _raise_for_outage(self, url: URL, response: aiohttp.ClientResponse) -> None:
        if response.status == 429:
            named = find_named_wait(response.headers, self.options.clock.wall())
            later = f" in {named:.0f} s" if named is not None else " later"
            said = find_limits(response.headers)
            raise Limited(f"{_named(url)} asks to slow down (429); try again{later}", named, said)
        if response.status in RETRIED_STATUSES or (response.status >= 500 and response.status != 501):
            named = find_named_wait(response.headers, self.options.clock.wall())
            problem = f"{_named(url)} answers {response.status} {response.reason}; try again later"
            raise Unreachable(problem, address=_named(url), retry_after_seconds=named)

    def _busy(self, url: URL, seconds: float) -> Unreachable:
        said = f"{_named(url)} is not well, and not to be asked in the next {seconds:.0f} s; try again then"
        return Unreachable(said, address=_named(url), retry_after_seconds=seconds)

    def _untrusted(self, url: URL, error: aiohttp.ClientConnectorCertificateError) -> Unreachable:
        return Unreachable(
            f"{_named(url)} shows a certificate that is not trusted here: {error.certificate_error}; if your "
            "network has a certificate authority of its own, name it in SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
        )

    def _unreachable(self, url: URL, error: Exception) -> Unreachable:
        return Unreachable(
            f"{_named(url)} cannot be reached: {cause_of(error)}; "
            "check the network, HTTPS_PROXY and origin.endpoint",
            address=_named(url),
            is_gone=self._is_gone(error),
        )

    def _is_gone(self, error: Exception) -> bool:
        """Whether nothing of the origin can be reached: not only one address, or what it redirects to."""
        if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ConnectionTimeoutError):
            return True
        if not isinstance(error, aiohttp.ClientConnectorError):
            return False
        origin = self.options.places.origin
        return (error.host, error.port) == (origin.host, origin.port)


def via_name(instance: str) -> str:
    """How a process is called in the Via headers of what it asks."""
    return f"modelexpress-{instance}"


def _parse(url: URL, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        what = f"{_named(url)} answered with something that is no JSON: {error}"
        raise Corrupt(what, is_nonsense=True) from error


def _named(url: URL) -> str:
    """An address for messages: without a query, which may be a signature, and without credentials."""
    return str(url.with_query(None).with_fragment(None).with_user(None))


def _ssl_context(env: Mapping[str, str]) -> ssl.SSLContext:
    for name in _CA_VARIABLES:
        path = env.get(name)
        if path:
            return _context_from(name, Path(path))
    context = ssl.create_default_context(capath=env.get("SSL_CERT_DIR") or None)
    if not context.cert_store_stats()["x509_ca"]:
        # A Python that was not built for this system knows no certificates at all.
        context.load_verify_locations(cafile=certifi.where())
    return context


def _context_from(name: str, path: Path) -> ssl.SSLContext:
    try:
        is_folder = path.is_dir()
        return ssl.create_default_context(
            cafile=None if is_folder else str(path), capath=str(path) if is_folder else None
        )
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"{name} names {path}, which cannot be read as certificates: {error}") from error
