"""Which text encoding a file is in, and whether it is text at all."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final

from agentsys.lake.faults import FileEncodingUnknownError, FileFormatUnknownError

SAMPLE_BYTES: Final = 16 << 20
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL: Final = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f\x1a\x1b")


def text_encoding(path: Path) -> str:
    """Return the Python codec of a text file, judged from its first 16 MiB.

    Raises FileFormatUnknownError for binary content and FileEncodingUnknownError for text that nothing decodes.
    """
    with path.open("rb") as stream:
        sample = stream.read(SAMPLE_BYTES)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            return encoding
    if wide := _unmarked_utf16(sample):
        return wide
    controls = len(sample) - len(sample.translate(None, _CONTROL))
    if controls > len(sample) / 500:
        raise FileFormatUnknownError(f"{path.name} is binary: {controls} control bytes in its first {len(sample)}.")
    if _decodes(sample, "utf-8"):
        return "utf-8"
    return _legacy_encoding(sample, path.name)


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        # A sample may end inside a character, so the decoder must not be told that it is final.
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _unmarked_utf16(sample: bytes) -> str | None:
    """Recognise UTF-16 without a mark by zeros in every other byte, as Western text has."""
    pairs = len(sample) // 2
    if pairs < 4:
        return None
    even, odd = sample[: 2 * pairs : 2].count(0), sample[1 : 2 * pairs : 2].count(0)
    if odd > pairs * 0.7 and even < pairs * 0.05:
        return "utf-16-le"
    if even > pairs * 0.7 and odd < pairs * 0.05:
        return "utf-16-be"
    return None


def _legacy_encoding(sample: bytes, name: str) -> str:
    # A few stray bytes in otherwise plain ASCII are Windows punctuation (dashes, quotes); statistics mislead there.
    high = sum(byte >= 0x80 for byte in sample)
    if high * 50 < len(sample) and _decodes(sample, "cp1252"):
        return "cp1252"
    from charset_normalizer import from_bytes

    best = from_bytes(sample[: 64 * 1024]).best()
    if best is not None and _decodes(sample, best.encoding):
        return str(best.encoding)
    if _decodes(sample, "cp1252"):
        return "cp1252"
    raise FileEncodingUnknownError(f"{name} is neither UTF-8, UTF-16, UTF-32 nor a known single-byte encoding.")
