"""Files as attackers make them. Each is small; what it asks for is not."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 2500  # pixels of what is allowed to be large here: 6 megapixels


def zeros(size: int) -> bytes:
    """Deflated zeros, a thousandth of their size."""
    packer, parts = zlib.compressobj(9), []
    while size > 0:
        parts.append(packer.compress(bytes(min(size, 1 << 20))))
        size -= 1 << 20
    return b"".join(parts) + packer.flush()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, channels: int = 3, extra: bytes = b"", data: bytes | None = None
) -> bytes:
    """A PNG of zeros; `data` instead of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zeros((1 + (width * channels * depth + 7) // 8) * height) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int = 8, kind: int = 1, **tags: tuple[int, int, int]) -> bytes:
    """A deflated grey TIFF of zeros. `t322=(4, 1, 65536)`: type, count and value of a further or another tag."""
    data = zeros(min(width * height * bits // 8, 64 << 20))
    entries = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, bits), 259: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8)}
    entries |= {277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, len(data)), 339: (3, 1, kind)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    table = struct.pack("<H", len(entries))
    for tag, (type_, count, value) in sorted(entries.items()):
        table += struct.pack("<HHI", tag, type_, count) + (struct.pack("<HH", value, 0) if type_ == 3 else struct.pack("<I", value))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + struct.pack("<I", 0)


def far_tiff() -> bytes:
    """A BigTIFF whose pixels lie where no file can reach."""
    entries = {
        256: (3, 8),
        257: (3, 8),
        258: (3, 8),
        259: (3, 1),
        262: (3, 1),
        273: (16, (1 << 63) - 1),
        277: (3, 1),
        278: (3, 8),
        279: (4, 64),
    }
    table = b"".join(struct.pack("<HHQQ", tag, type_, 1, value) for tag, (type_, value) in entries.items())
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(entries)) + table + bytes(8)


def tiled_tiff(side: int) -> bytes:
    """A photo of 64x64 pixels that is the corner of one tile of `side` pixels."""
    data = zeros(side * side)
    table = struct.pack("<H", 10)
    for tag, type_, value in (
        *((256, 4, 64), (257, 4, 64), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)),
        *((322, 4, side), (323, 4, side), (324, 4, 8), (325, 4, len(data))),
    ):
        table += struct.pack("<HHII", tag, type_, 1, value)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + struct.pack("<I", 0)


def many_scans(more: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    out = io.BytesIO()
    Image.new("L", (SIDE, SIDE), 128).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data[max(data.rfind(b"\xff\xc4"), data.rfind(b"\xff\xda", 0, data.rfind(b"\xff\xda"))) : -2]
    return data[:-2] + last * more + data[-2:]


def far_zip() -> bytes:
    """An archive whose directory says that its one file lies where no file can reach (ZIP64, APPNOTE.TXT 4.5.3)."""
    extra = struct.pack("<HHQ", 1, 8, (1 << 63) - 1)
    header = struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 10, 10, 5, len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
    directory = header + b"a.jpg" + extra
    return b"PK\3\4" + bytes(60) + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), 64, 0)


def heic(side: int, told: tuple[int, int] | None = None) -> bytes:
    """A HEIC of one colour; `told` is the size that its container lies about."""
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "HEIF", quality=5)
    said = b"ispe\0\0\0\0"
    return out.getvalue() if told is None else out.getvalue().replace(
        said + struct.pack(">II", side, side), said + struct.pack(">II", *told)
    )  # fmt: skip


def photo(seed: int, kind: str = "JPEG", **options: object) -> bytes:
    """A small sharp photo, different for each seed."""
    random, pixels = np.random.default_rng(seed), np.full((120, 160, 3), 128, np.uint8)
    for _ in range(80):
        x, y = random.integers(0, (160, 120))
        pixels[y : y + 20, x : x + 20] = random.integers(0, 256, 3)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def jpeg_with(marker: int, payload: bytes, times: int = 1) -> bytes:
    """A photo with application segments after its start."""
    segment, plain = struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload, photo(77)
    return plain[:2] + segment * times + plain[2:]


def exif(entries: int, kind: int = 2, count: int = 0x7FFFFFFF, offset: int = 8) -> bytes:
    """An APP1 payload of so many entries, each with a count and an offset that lie outside, or lead back to the table."""
    table = struct.pack("<H", entries & 0xFFFF) + struct.pack("<HHII", 0x8769, kind, count, offset) * entries
    return (b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", 8))[:65_000]


def exif_of_other_types(tag: int, kind: int) -> bytes:
    """An APP1 payload that turns the photo, and has one tag of a type that it never has."""
    table = struct.pack("<HHHII", 2, tag, kind, 1, 8) + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table


VALUES = {
    3: "<H",
    4: "<L",
    6: "<b",
    7: "<B",
    8: "<h",
    9: "<l",
    11: "<f",
    12: "<d",
    13: "<L",
    16: "<Q",
}  # types of one number (TIFF 6.0, BigTIFF)
EXIF_POINTER, GPS_POINTER, INTEROP_POINTER, ORIENTATION = 0x8769, 0x8825, 0xA005, 0x0112


def directory(at: int, *entries: tuple[int, int, int], following: int = 0) -> bytes:
    """Of an EXIF payload, `at` bytes behind its header: tags with a type and one value, then where the next directory is."""
    table, data = struct.pack("<H", len(entries)), b""
    for tag, kind, value in entries:
        packed = struct.pack(VALUES[kind], value)
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", at + 6 + 12 * len(entries) + len(data))
        table += struct.pack("<HHI", tag, kind, 1) + where
        data += packed if len(packed) > 4 else b""
    return table + struct.pack("<I", following) + data


def exif_of(*entries: tuple[int, int, int], following: int = 0, inner: tuple[tuple[int, int, int], ...] = ()) -> bytes:
    """An APP1 payload of these tags; `inner` are those of its Exif directory."""
    pointer = ((EXIF_POINTER, 4, 512),) if inner else ()
    first = directory(8, *entries, *pointer, following=following)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + (first.ljust(504, b"\0") + directory(512, *inner) if inner else first)


def zipped(names: Iterator[tuple[str, bytes]] | list[tuple[str, bytes]], link: str = "") -> bytes:
    """A zip file; `link` adds a symbolic link that leads there."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names:
            archive.writestr(name, data)
        if link:
            info = zipfile.ZipInfo("photo.jpg")
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, link)
    return out.getvalue()


def nested(levels: int) -> bytes:
    """A zip in a zip in a zip …"""
    data = b"x"
    for _ in range(levels):
        data = zipped([("inner.zip", data)])
    return data


def pointers() -> dict[str, bytes]:
    """Photos, upright and turned, whose EXIF leads with numbers of every type to where no directory can be."""
    found = {}
    for kind, layout in VALUES.items():
        value = -5 if layout[1].islower() else (1 << 8 * struct.calcsize(layout)) - 5
        for orientation in (1, 6):
            turn = (ORIENTATION, 3, orientation)
            payloads = {
                "exif": exif_of(turn, (EXIF_POINTER, kind, value)),
                "gps": exif_of(turn, (GPS_POINTER, kind, value)),
                "interop": exif_of(turn, inner=((INTEROP_POINTER, kind, value),)),
                "turn": exif_of((ORIENTATION, kind, value)),
            }
            found |= {f"{name}-{kind}-{orientation}.jpg": jpeg_with(0xE1, payload) for name, payload in payloads.items()}
    found |= {f"thumbnail-{at}.jpg": jpeg_with(0xE1, exif_of(following=at)) for at in (1, 8, 0x7FFFFFFF, 0xFFFFFFFB)}
    odd = exif_of((EXIF_POINTER, 9, -5))
    found["exif.png"] = png(64, 64, extra=chunk(b"eXIf", odd[6:]))
    found["exif.webp"] = photo(78, "WEBP", exif=odd)
    found["exif.heic"] = photo(79, "HEIF", exif=odd)
    return found


def bombs() -> dict[str, bytes]:
    """Photos that open, of as many pixels as are allowed, in every way that takes much memory to unpack."""
    lossless = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)).save(lossless, "WEBP", lossless=True)
    progressive = io.BytesIO()
    Image.new("CMYK", (SIDE, SIDE)).save(progressive, "JPEG", progressive=True, quality=5)
    palette = chunk(b"PLTE", b"\0\0\0\xff\xff\xff") + chunk(b"tRNS", b"\0\x80")
    return {
        "rgba16.png": png(SIDE, SIDE, 16, 6, 4),
        "palette.png": png(SIDE, SIDE, 1, 3, 1, palette),
        "grey16.png": png(SIDE, SIDE, 16, 0, 1),
        "float.tif": tiff(SIDE, SIDE, 32, 3),
        "int.tif": tiff(SIDE, SIDE, 32, 2),
        "alpha.webp": lossless.getvalue(),
        "cmyk.jpg": progressive.getvalue(),
        "large.heic": heic(SIDE),
    }


def too_large() -> dict[str, bytes]:
    """Headers that promise more pixels than are allowed, with little behind them."""
    return {
        "wide.png": png(60_000, 60_000, 1, 0, 1, data=b"\x78\x9c"),
        "square.png": png(SIDE + 1, SIDE, data=zeros(10)),
        "longest.png": png(0x7FFFFFFF, 1, data=zeros(10)),
        "wide.tif": tiff(60_000, 60_000, 1),
        "tile.tif": tiled_tiff(16_000),
        "lie.heic": heic(512, told=(30_000, 30_000)),
        "frame.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff\xff\xff" * 2,
    }


def broken() -> dict[str, bytes]:
    """Photos that say one thing and hold another. Dropped or opened, they cost nothing."""
    return {
        "tiles.tif": tiff(64, 64, t322=(4, 1, 1 << 16), t323=(4, 1, 1 << 16), t324=(4, 1, 8), t325=(4, 1, 60)),
        "larger_tiles.tif": tiff(64, 64, t322=(4, 1, 1 << 20), t323=(4, 1, 1 << 20), t324=(4, 1, 8), t325=(4, 1, 60)),
        "rows.tif": tiff(64, 64, t278=(4, 1, 0xFFFFFFFF)),
        "samples.tif": tiff(64, 64, t277=(3, 1, 0xFFFF)),
        "count.tif": tiff(64, 64, t273=(4, 0x40000000, 8)),
        "description.tif": tiff(64, 64, t270=(2, 0x7FFFFFFF, 8)),
        "far.tif": far_tiff(),
        "loop.tif": tiff(64, 64, t34665=(4, 1, 8)),
        **{f"exif_{kind}.tif": tiff(64, 64, t34665=(kind, 1, 0xFFFFFFFB)) for kind in (4, 6, 8, 9, 13)},
        **{f"gps_{kind}.tif": tiff(64, 64, t34853=(kind, 1, 0xFFFFFFFB)) for kind in (4, 6, 8, 9, 13)},
        "small_lie.heic": heic(2000, told=(64, 64)),
        "text_bomb.png": png(64, 64, extra=chunk(b"zTXt", b"Comment\0\0" + zeros(64 << 20))),
        "profile_bomb.png": png(64, 64, extra=chunk(b"iCCP", b"icc\0\0" + zeros(64 << 20))),
        "international_bomb.png": png(64, 64, extra=chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(64 << 20))),
        "pixels_bomb.png": png(64, 64, data=zeros(256 << 20)),
        "many_chunks.png": png(64, 64, extra=chunk(b"tEXt", b"a\0b") * 50_000),
        "exif.png": png(64, 64, extra=chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<H", 0xFFFF) + bytes(12 << 20))),
        "rational_make.jpg": jpeg_with(0xE1, exif_of_other_types(0x010F, 5)),
        "float_model.jpg": jpeg_with(0xE1, exif_of_other_types(0x0110, 11)),
        "exif.jpg": jpeg_with(0xE1, exif(5000)),
        "exif_loop.jpg": jpeg_with(0xE1, exif(3, kind=4, count=1, offset=8)),
        "exifs.jpg": jpeg_with(0xE1, exif(4000), times=200),
        "profiles.jpg": jpeg_with(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000), times=200),
        "thumbnails.jpg": jpeg_with(0xE0, b"JFXX\0\x10" + bytes(60_000), times=100),
        "scans.jpg": many_scans(20_000),
        "comments.jpg": jpeg_with(0xFE, bytes(65_000), times=200),
        "segments.jpg": jpeg_with(0xE1, b"", times=2 << 20),
        "hidden_segments.jpg": jpeg_with(0xF0, b"\xff\xe1\0\2" * 16_000, times=128),  # Pillow looks into what is none to it
        "frames.jpg": jpeg_with(0xC0, b"\x08\0\x40\0\x40\3" + bytes(65_520), times=128),
        "texts.png": png(64, 64, extra=b"".join(chunk(b"iTXt", b"%d\0\0\0\0\0" % index) for index in range(400_000))),
        "nothing.heic": b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(4096),
        "boxes.heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0\0\0\x08meta" * 5000,
        "nested_boxes.heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"
        + b"".join(struct.pack(">I", 80_000 - 8 * i) + b"meta" for i in range(9000)),
        "endless.webp": b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(100),
    }


def archives() -> dict[str, tuple[bytes, set[str | None]]]:
    """ZIP files as attackers make them, and what may be said of them or of what is in them."""
    bomb = png(SIDE, SIDE) + bytes(63 << 20)
    inside = bytearray(zipped([(f"{index}.tif", tiff(SIDE, SIDE)) for index in range(2)]))
    quoted = inside.rfind(b"PK\x01\x02") + 42
    inside[quoted : quoted + 4] = struct.pack("<I", 0)
    odd = {None, "CORRUPT_IMAGE", "IMAGE_TOO_LARGE", "NOT_AN_IMAGE", "NOT_UNPACKED", "DUPLICATE"}
    return {
        "zeros.zip": (zipped([("a.jpg", bytes(64 << 20))]), {"NOT_AN_IMAGE"}),
        "bombs.zip": (zipped([(f"{index}.png", bomb) for index in range(4)]), {"NOT_UNPACKED"}),
        "photos.zip": (zipped(list(bombs().items())), {None, "DUPLICATE"}),
        "broken.zip": (zipped(list((too_large() | broken()).items())), odd),
        "slip.zip": (zipped([("../../../escaped.jpg", photo(31)), ("/tmp/escaped-absolute.jpg", photo(32))]), {None}),
        "link.zip": (zipped([("photo.jpg/below.jpg", photo(33))], link="/etc/passwd"), {None, "NOT_UNPACKED"}),
        "nested.zip": (nested(50), {"NESTED_ARCHIVE"}),
        "quoted.zip": (bytes(inside), {"CORRUPT_ARCHIVE"}),
        "far.zip": (far_zip(), {"CORRUPT_IMAGE"}),
        "tiny.zip": (zipped((f"{index}.jpg", b"") for index in range(100_000)), {"ARCHIVE_TOO_LARGE"}),
        "deep.zip": (zipped([("a/" * 30_000 + "deep.jpg", photo(34))]), {None}),
    }


def no_photos() -> dict[str, bytes]:
    """Pages and programs under the names of photos."""
    return {
        "page.jpg": b"<html><script>alert(1)</script></html>",
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "script.jpg": b"%!PS-Adobe-3.0\n(/tmp/escaped-ps) (w) file closefile\n",
        "magick.jpg": b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x'\npop graphic-context",
        "list.jpg": b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\nconcat:file:///etc/passwd\n",
        "program.jpg": b"\x7fELF" + bytes(200),
    }


def polyglots() -> dict[str, bytes]:
    """Photos that are something else besides: they are photos to us, and nothing else."""
    archive = zipped([("../escaped.jpg", b"x"), ("index.html", b"<script>alert(1)</script>")])
    return {
        "zip.jpg": photo(11) + archive,
        "page.jpg": jpeg_with(0xFE, b"--><script>alert(1)</script>"),
        "zip.png": photo(12, "PNG") + archive,
        "page.webp": photo(13, "WEBP", lossless=True) + b"<html><script>alert(1)</script>",
        "program.tif": photo(14, "TIFF") + b"\x7fELF" + bytes(64),
    }
