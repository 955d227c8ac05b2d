"""Finding a key in texts of a server, however it is written there. PURE; imports no torch."""

from __future__ import annotations

import base64
import re
from html.entities import codepoint2name

HIDDEN = "[key]"


def key_pattern(key: str) -> re.Pattern[str]:
    """Matches a key as it is, with the escapes of JSON (also of JSON within JSON), URLs and HTML, in base64 and in hex.

    Args:
        key: printable ASCII.
    """
    spelt = "".join(map(_spelt, key))
    return re.compile("|".join([spelt, *map(re.escape, _base64(key)), f"(?i:{key.encode().hex()})"]))


def _spelt(character: str) -> str:
    """One character, plain or escaped."""
    code = ord(character)
    digits = f"(?i:{code:02x})"
    forms = [
        rf"\\{{0,7}}(?:{re.escape(character)}|u00{digits}|x{digits})",
        f"%(?:25){{0,4}}{digits}",
        f"&#(?:0{{0,6}}{code}|[xX]0{{0,6}}{digits});",
    ]
    if code in codepoint2name:
        forms.append(f"&{codepoint2name[code]};")
    return f"(?:{'|'.join(forms)})"


def _base64(key: str) -> list[str]:
    """The characters that stand for the key alone, wherever in a longer text it begins; both alphabets."""
    found = []
    for shift in range(3):
        # A character has 6 bits: leave out those that the bytes before and after the key have a part in.
        first, last = -(-8 * shift // 6), 8 * (shift + len(key)) // 6
        data = b"\0" * shift + key.encode()
        found += [encode(data).decode()[first:last] for encode in (base64.b64encode, base64.urlsafe_b64encode)]
    return list(dict.fromkeys(found))
