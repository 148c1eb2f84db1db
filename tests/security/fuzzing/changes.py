"""Changes that make a valid value nearly valid. Everything is drawn from the `Random` that is given, so that a seed tells it all."""

import copy
import json
from random import Random
from typing import Any

_DEEP: list[Any] = []
for _ in range(70):
    _DEEP = [_DEEP]

TEXTS = [
    "", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "\u202egpj.exe", "\u200b", "ü" * 300, "x" * 9000, "🦊" * 70, "\r\nX-Evil: 1",
    "%00", "%", "%zz",
    "../../etc/passwd", "..\\x", "/", ".", "..", "~", "*", "null", "true", "-1", "1e999", "NaN", "٣", "１２", "0x10", "' OR 1=1 --",
    "${7*7}", "{{7*7}}",
    "%s%n", "<script>", "\x1b[31m", "completed", "job.completed", "model.glb", "manifest.json", "00000000-0000-4000-8000-000000000000",
    "http://127.0.0.1/a.jpg", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/", "http://[fe80::1%25eth0]/", "http://[::1",
    "http://example.org:99999/",
    "http://example.org:/", "http://user:pass@example.org/", "http://exa mple.org/", "http://ⅷ.example/", "http://xn--a/",
    "http://" + "a." * 130 + "/",
    "http://" + "a" * 64 + ".example/", "http:///x", "http:x", "//example.org/x.jpg", "ftp://example.org/x", "file:///etc/passwd",
    "HTTPS://EXAMPLE.ORG/A.ZIP",
    "https://example.org/%ff%fe/%2e%2e/x.zip?a=b#c", "https://example.org/\u2028.jpg", "data:image/png;base64,AAAA",
    "https://例え.テスト/写真.jpg",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3, 101, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 0.0, -0.0, 0.5, 1e308, -1e308, 5e-324,
    float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
OTHERS = [None, True, False, [], {}, [[]], {"": ""}, {"\0": 1}, [None] * 50, _DEEP, [1, "a", None, {}], {"a": {"b": {"c": []}}}]
ODD: list[Any] = [*TEXTS, *NUMBERS, *OTHERS]
BYTES = [
    b"", b"\0", b"\xff", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\x80", b"\n", b"\r\n", b"\r\n\r\n", b"--", b"{", b"}", b'"',
    b"[" * 300, b"0" * 5000,
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x01", b"%", b"&", b"=", b";", b":", b",", b"\xef\xbb\xbf",
    b"\\u0000", b"\\ud800", b"1e999",
]  # fmt: skip


def odd_text(random: Random) -> str:
    """A text that somebody did not think of."""
    made = random.choice(TEXTS)
    return made + random.choice(TEXTS) if random.random() < 0.1 else made


def changed_text(random: Random, text: str) -> str:
    """The text with something put in, cut out or put in its place."""
    if random.random() < 0.3:
        return odd_text(random)
    at, length = random.randrange(len(text) + 1), random.choice((0, 0, 1, 5))
    return text[:at] + random.choice(("", odd_text(random), chr(random.randrange(0x11000)))) + text[at + length :]


def changed_bytes(random: Random, data: bytes, near_the_start: int = 600) -> bytes:
    """One to six places changed, half of them where headers are."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        at = random.randrange(min(len(result), near_the_start if random.random() < 0.5 else len(result)) + 1)
        new = random.choice(BYTES) if random.random() < 0.5 else random.randbytes(random.randrange(9))
        result[at : at + random.choice((0, 1, len(new), random.randrange(9)))] = new
        if random.random() < 0.05:
            del result[at:]
    return bytes(result)


def changed_value(random: Random, value: Any, times: int = 1) -> Any:
    """A copy of a JSON value with some of its nodes changed, put in, doubled, renamed or left out."""
    result = [copy.deepcopy(value)]
    for _ in range(times):
        places = list(_places(result))
        _change(random, *random.choice(places))
    return result[0] if result else None


def _places(node: Any) -> Any:
    """(container, key or index) of everything below, once for each."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        for place in range(len(inner)) if isinstance(inner, list) else inner:
            yield inner, place
            if isinstance(inner[place], dict | list) and inner[place] is not _DEEP:
                waiting.append(inner[place])


def _change(random: Random, container: Any, place: Any) -> None:
    value, kind = container[place], random.random()
    if kind < 0.15:
        container[place] = random.choice((None, [value], {"x": value}, str(value)[:9000]))
    elif kind < 0.3 and isinstance(value, str):
        container[place] = changed_text(random, value)
    elif kind < 0.4 and isinstance(container, dict):
        container[changed_text(random, place)] = container.pop(place)
    elif kind < 0.5 and isinstance(value, dict | list):
        _grow(random, value)
    elif kind < 0.6 and isinstance(container, dict):
        del container[place]
    else:
        container[place] = copy.deepcopy(random.choice(ODD))


def _grow(random: Random, value: Any) -> None:
    if isinstance(value, dict):
        value[odd_text(random)] = copy.deepcopy(random.choice(ODD))
    else:
        value += [copy.deepcopy(random.choice(value or ODD)) for _ in range(random.choice((1, 5, 70)))]


def json_bytes(random: Random, value: Any) -> bytes:
    """The value as some client writes it: escaped or not, NaN and lone surrogates included."""
    return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
