"""Which addresses callers may reach. Pure: nothing is resolved here.

Private means not global, or multicast, also inside IPv4-mapped, NAT64, 6to4 and Teredo addresses, and in every spelling that the
C library reads as an address (`127.1`, `0x7f.0.0.1`, `0177.0.0.1`, `2130706433`). The allow-list is the operator's word and
decides alone: it applies to the inner address, and nothing but it opens an address that hands out cloud credentials
(169.254.169.254, fd00:ec2::254), so that an allowed network had better not contain one.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import SplitResult, urlsplit

from shared.errors import UnsafeAddress

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

MAX_URL_CHARS = 8192
_MAX_HOST_CHARS = 254  # as many bytes as DNS takes, and a final dot; spelt in another script a name is no longer than in ASCII

# IANA's registries of special-purpose addresses. Written out because `is_global` differs between patch releases of Python.
_PRIVATE_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # a host's own agent in one large cloud, although the number is a public one
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_PRIVATE_V6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")

_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_HOST = re.compile(r"[a-z0-9_.-]+")
_BRACKETED = re.compile(r"\[[^\[\]]+\](:[0-9]*)?")
_UNFIT_FOR_URLS = re.compile(r"[\x00-\x1f\x7f\\]|^\s|\s$")


def innermost(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 address carries inside, where it carries one."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        return address.sixtofour
    return address.teredo[1] if address.teredo is not None else address


def is_private(address: IPAddress) -> bool:
    """Whether this address, or the one that it carries inside, is not a global unicast address."""
    inner = innermost(address)
    if isinstance(inner, IPv4Address):
        return not inner.is_global or any(inner in network for network in _PRIVATE_V4)
    return inner not in _GLOBAL_V6 or any(inner in network for network in _PRIVATE_V6)


def is_allowed(address: IPAddress, allowed_networks: Iterable[IPNetwork]) -> bool:
    """Whether callers may reach this address: a global one, or one whose inner address is in the allow-list."""
    inner = innermost(address)
    return not is_private(address) or any(inner in network for network in allowed_networks if network.version == inner.version)


@lru_cache(maxsize=512)  # a job's photos are on one host: these three are asked the same again and again
def literal_address(host: str) -> IPAddress | None:
    """The address that a host spells, in any notation that the C library reads; None for a name.

    Raises ValueError for a host that ends in a number but is no address (`127.0.0.08`, `1.2.3.4.5`): clients disagree about those.
    """
    if ":" in host:
        return IPv6Address(host.strip("[]").partition("%")[0])
    labels = normal_host(host).split(".")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    address = _inet_aton(labels)
    if address is None:
        raise ValueError(f"{host[:100]!r} ends in a number but is no address")
    return address


@lru_cache(maxsize=512)
def normal_host(host: str) -> str:
    """A host name as it is looked up: lower case, ASCII (full-width digits, ideographic dots and the like resolved), no final dot.

    Raises ValueError for what cannot be a host name.
    """
    if len(host) > _MAX_HOST_CHARS:  # before each character is looked up in nameprep's tables, 3 µs apiece
        raise ValueError(f"{host[:100]!r} is no host name")
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise ValueError(f"{host[:100]!r} is no host name") from None
    if len(name) > 253 or not _HOST.fullmatch(name) or ".." in name or name.startswith("."):
        raise ValueError(f"{host[:100]!r} is no host name")
    return name


@dataclass(frozen=True)
class AddressPolicy:
    """The operator's allow-list: networks and host names that image and callback URLs may reach although they are private."""

    networks: tuple[IPNetwork, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "AddressPolicy":
        """From addresses, CIDRs and host names. Raises ValueError for anything else.

        AddressPolicy.parse(["10.1.0.0/16", "::1", "minio"])
        """
        networks: list[IPNetwork] = []
        hosts: set[str] = set()
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip(), strict=False))
            except ValueError:
                hosts.add(_name_of_entry(entry.strip()))
        return cls(tuple(networks), frozenset(hosts))

    def allows_host(self, host: str) -> bool:
        """Whether the name is in the allow-list, so that every address it resolves to may be reached."""
        return ":" not in host and normal_host(host) in self.hosts

    def allows_address(self, address: IPAddress) -> bool:
        """Whether this address may be reached."""
        return is_allowed(address, self.networks)


PUBLIC_ONLY = AddressPolicy()


def check_url(url: str, policy: AddressPolicy) -> None:
    """Returns for a URL that may be tried. What its host resolves to is checked again when it is dialled.

    Raises UnsafeAddress when the host is a private address however it is spelt, ValueError, with a sentence, for a URL that is none of
    ours: not http or https, no host, or with a password in it, which would be stored and shown.
    """
    host = host_of(url)
    address = literal_address(host)
    if address is not None and not policy.allows_address(address):
        raise UnsafeAddress(f"the URL leads to the private address {address}")


def host_of(url: str) -> str:
    """The host of an http or https URL, IPv6 without brackets. Raises ValueError, with a sentence, for any other text."""
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"a URL may have at most {MAX_URL_CHARS} characters")
    if _UNFIT_FOR_URLS.search(url) or not url.isprintable():
        raise ValueError("a URL may not contain control characters, backslashes or surrounding spaces")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("this is no URL") from None
    return _host_in(parts.scheme, parts.netloc)


@lru_cache(maxsize=512)
def _host_in(scheme: str, netloc: str) -> str:
    parts = SplitResult(scheme, netloc, "", "", "")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("this is no URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("a URL must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("a URL may not carry a user name or password; use a signed link")
    if port == 0:
        raise ValueError("port 0 cannot be reached")
    return _checked_host(parts)


def _checked_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if "[" not in parts.netloc and "]" not in parts.netloc:
        return normal_host(host)
    if not _BRACKETED.fullmatch(parts.netloc):
        raise ValueError("brackets in a URL's host belong around an IPv6 address")
    try:
        IPv6Address(host.partition("%")[0])
    except ValueError:
        raise ValueError(f"{host[:100]!r} is no IPv6 address") from None
    return host


def _name_of_entry(entry: str) -> str:
    """A host name of the allow-list. One that is a misspelt network must not pass as a name that opens nothing."""
    if "/" in entry or ":" in entry or literal_address(entry) is not None:
        raise ValueError(f"{entry!r} is neither an address, a network in CIDR notation nor a host name")
    return normal_host(entry)


def _inet_aton(labels: list[str]) -> IPv4Address | None:
    """As the C library reads it: all but the last number are one byte each, the last fills the rest."""
    numbers = [_number(label) for label in labels]
    *bytes_, last = numbers
    if len(labels) > 4 or last is None or last >= 256 ** (4 - len(bytes_)):
        return None
    value = last
    for index, byte in enumerate(bytes_):
        if byte is None or byte > 255:
            return None
        value += byte << (24 - 8 * index)
    return IPv4Address(value)


def _number(label: str) -> int | None:
    """Decimal, octal after `0`, hexadecimal after `0x`."""
    if not _NUMBER.fullmatch(label):
        return None
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    if label.startswith("0"):
        return None if "8" in label or "9" in label else int(label, 8)
    return int(label)
