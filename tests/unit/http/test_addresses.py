"""Which URLs pass the door. The corpus is what attackers and odd clients write."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnsafeAddress
from shared.http.addresses import PUBLIC_ONLY, AddressPolicy, check_url, host_of, is_allowed, is_private, literal_address, normal_host

PRIVATE_HOSTS = [host for line in Path(__file__).with_name("private_hosts.txt").read_text().splitlines()[1:] for host in line.split()]

PRIVATE_URLS = [
    *(f"http://{host}/a.jpg" for host in PRIVATE_HOSTS),
    "https://127.0.0.1:8443/",
    "HTTP://127.0.0.1/",
    "http://127.0.0.1?x=1",
    "http://127.0.0.1#@example.org/",
    "http://127.0.0.1:80/http://example.org/",
    "http://[::1]:9000/bucket",
    "http://[::ffff:10.0.0.1]:80/",
]

NO_URLS = [
    "",
    "not a url",
    "example.org/a.jpg",
    "//example.org/a.jpg",
    "http:example.org",
    "http:/example.org",
    "http://",
    "http:///a.jpg",
    "http://:80/",
    "http://?x",
    "http://#x",
    "ftp://example.org/a.jpg",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "http://user@example.org/",
    "http://user:password@example.org/",
    "http://example.org@127.0.0.1/",
    "http://127.0.0.1@example.org/",
    "http://example.org:80@127.0.0.1/",
    "http://@127.0.0.1/",
    "http://:@127.0.0.1/",
    "http://example.org%40127.0.0.1/",
    "http://example.org\\@127.0.0.1/",
    "http://127.0.0.1\\.example.org/",
    "http:\\\\127.0.0.1\\",
    " http://example.org/",
    "http://example.org/ ",
    "http://exa mple.org/",
    "http://example.org\t/",
    "http://example.org/\r\nHost: internal",
    "http://example.org\n@127.0.0.1/",
    "http://exam\0ple.org/",
    "http://example.org/\x7f",
    "http://example.org/\u202egpj.exe",
    "http://\u200b127.0.0.1/",
    "http://127.0.0\u00ad.1/",
    "http://example.org/\ud800",
    "http://\udcff.org/",
    "http://example.org:0/",
    "http://example.org:65536/",
    "http://example.org:-1/",
    "http://example.org:http/",
    "http://example.org:80:80/",
    "http://127.0.0.1:80:80/",
    "http://[::1",
    "http://::1/",
    "http://[::1]x/",
    "http://[::1]]/",
    "http://x[::1]/",
    "http://[[::1]]/",
    "http://[8.8.8.8]@[::1]/",
    "http://[1.2.3.4]/",
    "http://[v1.fe80::1]/",
    "http://[gggg::1]/",
    "http://[::1::]/",
    "http://[]/",
    "http://[127.0.0.1]/",
    "http://[example.org]/",
    "http://127.0.0.08/",
    "http://127.0.0.09/",
    "http://127.0.0.256/",
    "http://1.2.3.4.5/",
    "http://256.256.256.256/",
    "http://4294967296/",
    "http://0x100000000/",
    "http://0x7f.0.0.0x100/",
    "http://127.0.0.1.0x/",
    "http://example.1/",
    "http://example.0x7f/",
    "http://999999999999999999999999/",
    "http://127..0.1/",
    "http://.127.0.0.1/",
    "http://127.0.0.1../",
    "http://example..org/",
    "http://.example.org/",
    "http://./",
    "http://../",
    "http://127%2e0%2e0%2e1/",
    "http://127.0.0.1%00.example.org/",
    "http://%31%32%37.0.0.1/",
    "http://example.org%23.evil/",
    "http://exa$mple.org/",
    "http://example.org;127.0.0.1/",
    "http://example.org,127.0.0.1/",
    "http://a" + "b" * 63 + ".org/",
    "http://" + "a." * 130 + "org/",
    "http://example.org/" + "a" * 9000,
    "http://℀.org/",
    "http://exam／ple.org/",
    "http://١٢٧.0.0.1/",
]

PUBLIC_URLS = [
    "http://example.org/a.jpg",
    "https://example.org:8443/photo%20one.jpg?X-Amz-Signature=abc&x=/../..#frag",
    "http://example.org./",
    "HTTPS://EXAMPLE.ORG/A.JPG",
    "http://8.8.8.8/",
    "http://134744072/",
    "http://010.8.8.8/",
    "http://1.1/",
    "http://172.32.0.1/",
    "http://172.15.255.255/",
    "http://11.0.0.1/",
    "http://126.255.255.255/",
    "http://128.0.0.1/",
    "http://100.128.0.1/",
    "http://169.253.255.255/",
    "http://192.169.0.1/",
    "http://223.255.255.255/",
    "http://[2606:4700:4700::1111]/",
    "http://[2a00:1450:4001:800::200e]:443/",
    "http://[::ffff:8.8.8.8]/",
    "http://[64:ff9b::8.8.8.8]/",
    "http://[2002:808:808::1]/",
    "http://bücher.example/é.jpg",
    "http://faß.example/",
    "http://例え.テスト/写真.jpg",
    "http://my_service/a.jpg",
    "http://minio:9000/bucket/a b.jpg",
    "http://127.0.0.1.example.org/",
    "http://localhost/",
    "http://0x7f.example/",
    "http://10.0.0.1.nip.io/",
    "http://xn--bcher-kva.example/",
    "http://a-b.c-d.example/",
    "http://1e100.net/",
    "http://example.org/@127.0.0.1/",
    "http://example.org/?u=http://u:p@127.0.0.1/",
]


def test_the_corpus_is_large() -> None:
    """At least 150 URLs that must not pass."""
    assert len(set(PRIVATE_URLS) | set(NO_URLS)) >= 150


@pytest.mark.parametrize("url", PRIVATE_URLS, ids=ascii)
def test_a_private_address_never_passes(url: str) -> None:
    """However it is spelt, a literal private address is told as such."""
    with pytest.raises(UnsafeAddress):
        check_url(url, PUBLIC_ONLY)


@pytest.mark.parametrize("url", NO_URLS, ids=lambda url: ascii(url)[:60])
def test_what_is_no_url_of_ours_is_refused_with_a_sentence(url: str) -> None:
    """Anything that two readers could understand differently is refused."""
    with pytest.raises(ValueError) as caught:
        check_url(url, PUBLIC_ONLY)
    assert len(str(caught.value).split()) > 2
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("url", PUBLIC_URLS, ids=ascii)
def test_public_urls_pass(url: str) -> None:
    """Ordinary URLs, international ones, and names (which are checked when they are dialled) pass."""
    check_url(url, PUBLIC_ONLY)


@given(st.text(max_size=60))
def test_no_text_breaks_the_check(text: str) -> None:
    """Whatever a caller sends, the answer is one of the three."""
    for url in (text, f"http://{text}/", f"http://[{text}]/"):
        try:
            check_url(url, PUBLIC_ONLY)
        except (UnsafeAddress, ValueError):
            continue


@given(st.ip_addresses(v=4))
def test_every_wrapping_of_an_address_is_judged_like_the_address(address: ipaddress.IPv4Address) -> None:
    """IPv4-mapped, NAT64, 6to4 and all numeric spellings agree with the plain address."""
    number = int(address)
    wrapped = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1),
    ]
    spelt = [str(number), hex(number), f"0{number:o}", ".".join(hex(byte) for byte in address.packed)]

    assert {is_private(address)} == {is_private(other) for other in wrapped}
    assert {address} == {literal_address(text) for text in spelt}


def test_the_allow_list_applies_to_the_inner_address() -> None:
    """One network in the list opens every wrapping of its addresses, and nothing else."""
    policy = AddressPolicy.parse(["127.0.0.1/32", "10.1.0.0/16", "fd00::/8"])

    for host in ["127.0.0.1", "2130706433", "127.1", "[::ffff:127.0.0.1]", "[64:ff9b::a01:203]", "[2002:a01:203::]", "[fd12::1]"]:
        check_url(f"http://{host}/", policy)
    for host in ["127.0.0.2", "10.2.0.1", "[::1]", "[::ffff:10.2.0.1]", "[fe80::1]", "169.254.169.254"]:
        with pytest.raises(UnsafeAddress):
            check_url(f"http://{host}/", policy)


def test_an_ipv6_network_does_not_open_what_is_wrapped_in_it() -> None:
    """Allowing the NAT64 prefix allows no private IPv4 address behind it."""
    policy = AddressPolicy.parse(["64:ff9b::/96", "2002::/16", "::/0"])

    for host in ["[64:ff9b::a00:1]", "[2002:7f00:1::]", "[::ffff:127.0.0.1]"]:
        with pytest.raises(UnsafeAddress):
            check_url(f"http://{host}/", policy)


def test_metadata_addresses_open_only_by_the_operators_word() -> None:
    """No default, and no neighbour in the list, opens them."""
    for address in ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"]:
        assert not is_allowed(ipaddress.ip_address(address), AddressPolicy.parse(["10.0.0.0/8"]).networks)
    assert is_allowed(ipaddress.ip_address("169.254.169.254"), AddressPolicy.parse(["169.254.169.254"]).networks)


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "10.0.0/8", "1.2.3.4.5", "http://minio", "minio:9000", "a b", "", "::1/129", "0x7f.1", "*"]
)
def test_a_misspelt_allow_list_is_refused(entry: str) -> None:
    """A typing mistake stops the process at start and does not silently close or open anything."""
    with pytest.raises(ValueError):
        AddressPolicy.parse([entry])


def test_host_names_in_the_allow_list_are_compared_as_looked_up() -> None:
    """Case, a final dot and international spelling do not matter; sub-domains and suffixes are other names."""
    policy = AddressPolicy.parse(["MinIO", "photos.internal.", "bücher.example"])

    for host in ["minio", "MINIO.", "photos.internal", "xn--bcher-kva.example", "BÜCHER.example"]:
        assert policy.allows_host(host)
    for host in ["minio.evil.org", "x.photos.internal", "internal", "127.0.0.1", "::1"]:
        assert not policy.allows_host(host)


def test_hosts_are_named_the_same_however_they_are_written() -> None:
    """What `host_of` says is fit to compare."""
    assert host_of("HTTP://Example.ORG.:80/x") == "example.org"
    assert host_of("https://[2606:4700::1111]:443/") == "2606:4700::1111"
    assert normal_host("BÜCHER.Example") == "xn--bcher-kva.example"
