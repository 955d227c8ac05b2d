"""The words and signs in which tools write a vote on an answer: for it, against it, or for neither. Imports no torch."""

from __future__ import annotations

import re


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


FOR = words(
    "true t up + thumbsup thumbup 👍 good great excellent positive like liked upvote upvoted helpful desirable preferred wanted "
    "chosen accept accepted approve approved satisfied happy ❤ 😀 ✅"
)
AGAINST = words(
    "false f down - thumbsdown thumbdown 👎 bad poor terrible negative dislike disliked downvote downvoted unhelpful nothelpful "
    "undesirable unpreferred unwanted wrong reject rejected dissatisfied unhappy ❌"
)
NEITHER = words("none null neutral nan na n/a skip skipped tie unsure unknown unrated norating novote nofeedback")
YES = words("yes y correct")
NO = words("no n incorrect")
"""Yes and no answer a question, so they are votes only where the question is known: "liked?", but not "label"."""

_SIGNS = re.compile("[\\s_\\-:\ufe0f\U0001f3fb-\U0001f3ff]")
_WHOLE = {"+": "+", "-": "-", ":+1:": "thumbsup", ":-1:": "thumbsdown"}


def spelt(text: str) -> str:
    """A word in the spelling of the lists: lower case, without blanks, hyphens, colons and the colour of a thumb's skin."""
    plain = text.strip().casefold()
    return _WHOLE.get(plain, _SIGNS.sub("", plain))
