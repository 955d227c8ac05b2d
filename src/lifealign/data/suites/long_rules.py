"""The rules of the long suite: six formats and four tones, each judged on its own; a task asks for one of each.

Each rule is a pure function of the text and ignores white space, case and a missing final full stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lifealign.data.suites.phrases import pieces
from lifealign.data.suites.suite import Rule

DOMAINS: tuple[str, ...] = ("cooking", "garden", "travel", "sport", "music", "pets", "repairs", "school")
KINDS: tuple[str, ...] = ("start", "trouble", "improve")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


def has_bullets(text: str) -> bool:
    """At least two lines begin with a dash, an asterisk or a bullet."""
    return sum(re.match(r"[-*•]\s+\w", line) is not None for line in _lines(text)) >= 2


def has_numbers(text: str) -> bool:
    """Lines are numbered 1 and 2, in this order."""
    found = [match[1] for line in _lines(text) if (match := re.match(r"\(?(\d)[.):]\s+\w", line))]
    return found[:2] == ["1", "2"]


def has_labels(text: str) -> bool:
    """At least two lines begin with one or two words and a colon, and go on after it."""
    return sum(re.match(r"[A-Za-z]+(?: [a-z]+)?:\s+\w", line) is not None for line in _lines(text)) >= 2


def has_quote(text: str) -> bool:
    """At least three words are in quotation marks."""
    return any(len(match.split()) >= 3 for match in re.findall(r"[\"“„]([^\"“”„]+)[\"”“]", text))


def has_arrow(text: str) -> bool:
    """Two parts are joined by an arrow."""
    return re.search(r"\w[.,;]?\s*(?:-+>|=+>|→)\s*\w", text) is not None


def is_plain(text: str) -> bool:
    """One line that shows none of the other formats."""
    others = (has_bullets, has_numbers, has_labels, has_quote, has_arrow)
    return len(_lines(text)) == 1 and text.strip()[0] not in "{[" and not any(shows(text) for shows in others)


FORMATS: Mapping[str, Rule] = {
    "bullets": has_bullets,
    "numbers": has_numbers,
    "labels": has_labels,
    "sentence": is_plain,
    "quote": has_quote,
    "arrow": has_arrow,
}

_WARM = re.compile(
    r"\W*(?:gladly|with pleasure|(?:I am|I['’]m|very|so) (?:happy|glad) to|my pleasure|happy to)\b", re.IGNORECASE
)
_FORMAL = re.compile(
    r"\W*dear (?:\w+ ){0,3}?(?:customer|reader|sir|madam|guest|client|member|student)s?\b", re.IGNORECASE
)
_DOUBTFUL = re.compile(
    r"\W*(?:perhaps|maybe|possibly|I (?:may|might|could) be wrong|(?:I am|I['’]m) not (?:\w+ )?(?:sure|certain))\b",
    re.IGNORECASE,
)
_CHEER = re.compile(
    r"(?:good luck|have (?:some |much |a lot of )?fun|you can do (?:it|this)|enjoy(?: it| yourself)?|all the best)(?: \w+){0,2}",
    re.IGNORECASE,
)


def is_warm(text: str) -> bool:
    """The first words say that the answer is given gladly."""
    return _WARM.match(text) is not None


def is_formal(text: str) -> bool:
    """The first words are Dear and a role."""
    return _FORMAL.match(text) is not None


def is_doubtful(text: str) -> bool:
    """The first words say that the answer may be wrong."""
    return _DOUBTFUL.match(text) is not None


def is_cheering(text: str) -> bool:
    """The last sentence, or line, is a wish such as "Good luck"."""
    found = pieces(text)
    return len(found) > 1 and _CHEER.fullmatch(found[-1].strip('"”“ ')) is not None


TONES: Mapping[str, Rule] = {
    "warm": is_warm,
    "formal": is_formal,
    "doubtful": is_doubtful,
    "cheering": is_cheering,
}


def _styles() -> dict[str, tuple[str, str]]:
    """Task -> its format and tone; the 24 tasks have the 24 pairs, and a domain's three have three formats."""
    formats, tones = tuple(FORMATS), tuple(TONES)
    found: dict[str, tuple[str, str]] = {}
    for place in range(len(DOMAINS) * len(KINDS)):
        task = f"{DOMAINS[place % len(DOMAINS)]}-{KINDS[place // len(DOMAINS)]}"
        turn = place % len(formats)
        found[task] = (formats[turn], tones[(place // len(formats) + turn) % len(tones)])
    return found


STYLES: Mapping[str, tuple[str, str]] = _styles()
"""Task -> format and tone, in the order in which the tasks arrive: all domains with one kind of request, then the next."""


def _rule(form: str, tone: str) -> Rule:
    def shows(text: str) -> bool:
        return bool(text.strip()) and FORMATS[form](text) and TONES[tone](text)

    shows.__doc__ = f"The answer has the format {form} and the tone {tone}."
    return shows


RULES: Mapping[str, Rule] = {task: _rule(*style) for task, style in STYLES.items()}
TASKS: tuple[str, ...] = tuple(RULES)
