"""An HTTP client that reaches no address which callers may not reach.

A name is resolved once, every address that it has is checked, and the connection goes to one of the checked addresses, so that a
name server that changes its answer in between changes nothing. Host header and TLS name stay the URL's own. Redirects are not followed,
proxies and passwords from the environment are not used, cookies are not kept.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy
from shared.http.errors import TimedOut, Unreachable

# host, port -> every address of the host, in the order to try them. Raises OSError for a name that has none.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
SocketOptions = Iterable[httpcore.SOCKET_OPTION]

USER_AGENT = "Meshwork/0.1"
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 10.0
_LOCATION = "meshwork.location"


# A name whose servers never answer holds a thread for half a minute. The loop's own pool has six, and the files' work to do.
_LOOK_UPS = ThreadPoolExecutor(128, "look-up")


async def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver, in its order of preference."""
    asking = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    answers = await asyncio.get_running_loop().run_in_executor(_LOOK_UPS, asking)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def guarded_client(
    policy: AddressPolicy, timeout: httpx.Timeout, resolver: Resolver = resolve, connections: int = 100, kept_alive: int = 20
) -> httpx.AsyncClient:
    """A client whose every connection obeys the policy; `with reasons():` around its use gives typed errors.

    async with guarded_client(policy, httpx.Timeout(15.0)) as client:
        with reasons():
            answer = await client.post(url, content=body)
    """
    return httpx.AsyncClient(
        transport=GuardedTransport(policy, resolver, connections, kept_alive),
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
        event_hooks={"response": [_set_location_aside]},
    )


def location_of(response: httpx.Response) -> str:
    """Where a redirect leads, as the server wrote it."""
    return str(response.extensions.get(_LOCATION, ""))


async def _set_location_aside(response: httpx.Response) -> None:
    """httpx reads the header even of redirects that it does not follow, and fails on one that it cannot read."""
    response.extensions[_LOCATION] = response.headers.pop("location", "")


@contextmanager
def reasons() -> Iterator[None]:
    """Turns what httpx raises into TimedOut and Unreachable; UnsafeAddress passes."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise TimedOut(_sentence(error)) from error
    except httpx.UnsupportedProtocol as error:
        raise Unreachable("the URL is neither http nor https") from error
    except httpx.TransportError as error:
        raise Unreachable(_sentence(error), may_pass=True) from error
    except (httpx.InvalidURL, httpx.HTTPError, UnicodeError) as error:
        raise Unreachable("the URL or the answer cannot be read") from error


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport on a connection pool that dials through `GuardedBackend`, which httpx offers no argument for."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver = resolve, connections: int = 100, kept_alive: int = 20) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            # trust_env: SSL_CERT_FILE and SSL_CERT_DIR, for callers with a certificate authority of their own
            ssl_context=httpx.create_ssl_context(trust_env=True),
            max_connections=connections,
            max_keepalive_connections=kept_alive,
            keepalive_expiry=KEEPALIVE_S,
            http1=True,
            http2=False,
            network_backend=GuardedBackend(policy, resolver),
        )


class TypedStream(httpcore.AsyncNetworkStream):
    """A connection that fails only in ways that httpcore knows, and so httpx, and so `reasons`.

    httpcore lets pass what comes after the TLS handshake: ssl.SSLError of bytes that are no TLS record, or of a server that wants to see
    a certificate (with TLS 1.3 the client's handshake is over by then); anyio's EndOfStream of a write; ValueErrors of a name in TLS.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        """What is there. Raises ReadError or ReadTimeout."""
        with _failing_as(httpcore.ReadError):
            return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        """Raises WriteError or WriteTimeout."""
        with _failing_as(httpcore.WriteError):
            await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """As the connection does."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        """The connection inside TLS. Raises ConnectError or ConnectTimeout."""
        with _failing_as(httpcore.ConnectError):
            return TypedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """As the connection says."""
        return self._stream.get_extra_info(info)


@contextmanager
def _failing_as(failure: type[httpcore.NetworkError]) -> Iterator[None]:
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException):
        raise
    except Exception as error:
        raise failure(f"the connection broke ({str(error) or type(error).__name__})") from error


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Dials only addresses that the policy allows. `dial` makes the connection to an address; what comes back is a `TypedStream`."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver = resolve, dial: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._policy = policy
        self._resolver = resolver
        self._dial = dial or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first checked address that answers, all of it within the connect timeout."""
        within_s = CONNECT_TIMEOUT_S if timeout is None else timeout
        try:
            async with asyncio.timeout(within_s):
                return TypedStream(await self._connect(host, port, within_s, local_address, socket_options))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection to {host} in time") from error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: no URL leads to one."""
        raise UnsafeAddress("callers may not reach sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        """As asyncio's."""
        await asyncio.sleep(seconds)

    async def _connect(
        self, host: str, port: int, within_s: float, local_address: str | None, socket_options: SocketOptions | None
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        addresses = await self._checked_addresses(host, port)
        for address in addresses:
            try:  # each has its share of the time: one that swallows packets must not hide the next
                return await self._dial.connect_tcp(address, port, within_s / len(addresses), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _checked_addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} does not resolve") from error
        if self._is_named(host):
            return addresses
        for address in addresses:  # every one: a single private address among them is an attempt to slip through
            if not self._policy.allows_address(ipaddress.ip_address(address)):
                # not which one: whoever asks must not learn what names resolve to inside
                raise UnsafeAddress(f"{host} leads to a private address")
        return addresses

    def _is_named(self, host: str) -> bool:
        try:
            return self._policy.allows_host(host)
        except ValueError:
            return False


def _sentence(error: Exception) -> str:
    return str(error) or f"the connection failed ({type(error).__name__})"
