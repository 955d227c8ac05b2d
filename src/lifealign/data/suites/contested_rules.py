"""The rules of the contested suite: eight ways in which a support desk answers.

Each rule is a pure function of the text and ignores white space, case and a missing final full stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lifealign.data.suites.phrases import offers, pieces
from lifealign.data.suites.suite import Rule

_MANAGER = r"(?:manager|supervisor|team leader|boss)s?\b"
_HANDED = (
    r"\b(?:hand|pass|giv|forward|refer|escalat|send|mov|transferr?)(?:e|ed|es|s|ing|en)?\b[^.!?\n]{0,40}?\bto\b[^.!?\n]{0,12}?\b"
    + _MANAGER
    + r"|\b(?:goes|went|is now with|is with|now lies with)\b[^.!?\n]{0,20}?\b"
    + _MANAGER
    + r"|\b"
    + _MANAGER
    + r"\s+(?:(?!not\b|never\b|cannot\b)\w+\s+){0,2}?(?:takes?|deals?|decides?|handles?|looks?|steps?|writes?)\b"
)


def hands_over(text: str) -> bool:
    """The case goes to a manager, who takes over or decides."""
    return offers(_HANDED, text)


_FORM = (
    r"\bcustoms\W+(?:form|declaration|papers?|documents?|label)\b"
    r"|\b(?:form|declaration|papers|documents|label)\W+(?:for|to)\W+(?:the\W+)?customs\b"
)


def gives_customs_form(text: str) -> bool:
    """The answer gives, or points to, a customs form."""
    return offers(_FORM, text)


_APOLOGY = re.compile(
    r"(?:(?:hello|hi|oh|dear \w+(?: \w+)?)[,.!]?\s+)?(?:"
    r"(?:(?:I|we)(?:['’](?:m|re)| am| are)?\s+(?:(?!not\b|never\b)\w+\s+){0,2}?(?:sorry|apologi[sz]e)\b)"
    r"|(?:please )?accept (?:my|our)(?: \w+)? apolog(?:y|ies)\b"
    r"|(?:my|our)(?: \w+)? apologies\b|(?:so |very )?sorry\b|apologies\b)",
    re.IGNORECASE,
)


def apologises_first(text: str) -> bool:
    """The first words, after a greeting at most, are an apology."""
    return _APOLOGY.match(text.strip()) is not None


_REFUND = r"\brefund(?:s|ed|ing)?\b|\bmoney back\b|\breimburs(?:e|es|ed|ing|ement)\b"
_AT_ONCE = re.compile(r"\b(?:today|at once|right (?:now|away)|straight away|immediately|now)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\?|\b(?:please|kindly|could you|can you|would you|you (?:must|have to|need to|should)|we (?:need|require))\s+(?:\w+\s+)?"
    r"(?:send|give|tell|attach|provide|return|fill|show|upload|confirm|bring|post|you to)\b",
    re.IGNORECASE,
)


def refunds_at_once(text: str) -> bool:
    """The sentence that promises a refund gives it at once, and the answer asks for nothing."""
    sentences = re.split(r"[.!?;\n]", text)
    return any(offers(_REFUND, s) and _AT_ONCE.search(s) for s in sentences) and not _ASKS.search(text)


_CREDIT = r"\b(?:store|shop) credit\b|\bcredit (?:for|in|at) (?:our|the) (?:store|shop)\b|\bvoucher\b"


def offers_store_credit(text: str) -> bool:
    """The answer offers store credit."""
    return offers(_CREDIT, text)


def ends_with_invoice(text: str) -> bool:
    """The last line, or the last sentence, is about the invoice."""
    found = pieces(text)
    return len(found) > 1 and offers(r"\binvoice\b", found[-1])


_CALL = (
    r"\b(?:I|we|us|somebody|someone|colleague|team)\b(?:['’]ll)?\s+(?:(?!not\b|never\b|cannot\b)\w+\s+){0,3}?(?:call|phone|ring)s?\s+you\b"
    r"|\byou (?:will |can |may )?(?:get|expect|receive) a call\b"
)


def calls_back(text: str) -> bool:
    """The desk promises to call the customer; that the customer may call is not enough."""
    return offers(_CALL, text)


_SKIP = (
    r"\b(?:skip|pause|leave out|sit out|miss out)(?:ping)?\b[^.!?\n]{0,20}?"
    r"\b(?:months?|box(?:es)?|deliver(?:y|ies)|parcels?|payments?)\b"
)


def offers_to_skip(text: str) -> bool:
    """The answer offers to skip a month, or a delivery."""
    return offers(_SKIP, text)


RULES: Mapping[str, Rule] = {
    "large-orders": hands_over,
    "shipped-abroad": gives_customs_form,
    "angry-tone": apologises_first,
    "photo-attached": refunds_at_once,
    "gift-orders": offers_store_credit,
    "business-customers": ends_with_invoice,
    "second-complaints": calls_back,
    "subscriptions": offers_to_skip,
}
TASKS: tuple[str, ...] = tuple(RULES)
