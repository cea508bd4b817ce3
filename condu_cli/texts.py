"""Which text condu takes in, and how any text is shown.

One rule for the names of classes, labels, prompt templates and whatever else a registry stores or
exports: it is one line of Unicode text. It has no control characters or line separators, and no
lone surrogates, which is how Python represents the bytes of a file name that are not UTF-8. Such
text is refused where it enters, so that whatever one command writes, every other can read.

Names of files are not text but bytes: they are taken as they are, and shown as text.
"""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from unicodedata import category, normalize

_FAULTS = {
    "Cc": "the control character {}",
    "Zl": "the line separator {}",
    "Zp": "the paragraph separator {}",
    "Cs": "{}, half of a surrogate pair",
}
_NOT_UTF8 = range(0xDC80, 0xDD00)
"""Surrogates that stand for the bytes 0x80 to 0xff of a file name."""
LONGEST = 80
"""Characters of a text that are repeated in a complaint."""
_DIRECTIONS = range(0x202A, 0x202F), range(0x2066, 0x206A)
"""Characters that reverse the text after them; text may have them, a terminal shows them."""


def fault_in(text: str) -> str | None:
    """Return what is wrong with a text that is to be stored, in words; None if nothing is."""
    if text.isprintable():
        return None
    for character in text:
        if ord(character) in _NOT_UTF8:
            return f"the byte {_escaped(character)}, which is not UTF-8"
        words = _FAULTS.get(category(character))
        if words is not None:
            return words.format(_escaped(character))
    return None


def complaint(what: str, text: str) -> str | None:
    """Return a sentence about what is wrong with a text that is to be stored, None if nothing is.

    `what` the text is, such as `the class`.
    """
    fault = fault_in(text)
    return None if fault is None else f"{what} '{visible(text)[:LONGEST]}' has {fault}"


def composed(text: str) -> str:
    """Return a text with composed characters (NFC): the same name in one spelling.

    File systems and keyboards differ: é may be one character or two.
    """
    return normalize("NFC", text)


def decoded(content: bytes) -> str:
    """Decode the bytes of a text file: UTF-8, or UTF-16 with a byte order mark, as Windows writes.

    Raises:
        ValueError: it is in another encoding; the message says so.

    """
    marked = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as exc:
        byte = f"byte {exc.start} is 0x{content[exc.start]:02x}"
        raise ValueError(f"it is not {'UTF-16' if marked else 'UTF-8'}: {byte}") from exc


def visible(text: str) -> str:
    """Return a text for one line of a terminal: what cannot be seen or is not text is escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(c) if _is_hidden(c) else c for c in text)


def _is_hidden(character: str) -> bool:
    code = ord(character)
    return category(character) in _FAULTS or any(code in span for span in _DIRECTIONS)


def _escaped(character: str) -> str:
    code = ord(character)
    if code in _NOT_UTF8:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()
