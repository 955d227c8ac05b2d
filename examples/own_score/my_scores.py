"""A score of held-out pairs and a text metric of your own; see docs/how-to/own-score.md."""

from lifealign import register_score, register_text_metric


@register_score("short_wins", label="Short answer wins", rate=True, better="neither")
def short_wins(pairs):
    """Share of rows whose shorter answer has the higher implicit reward."""
    reward = pairs.beta * (pairs.policy - pairs.reference)  # [N, 2]: chosen, rejected
    shorter_is_chosen = pairs.tokens[:, 0] < pairs.tokens[:, 1]
    return shorter_is_chosen == (reward[:, 0] > reward[:, 1])


@register_text_metric("shouting", label="Shouting", rate=True, better="lower")
def shouting(answer, reference):
    """Share of an answer's letters that are capitals. Lower is better."""
    letters = [c for c in answer if c.isalpha()]
    return sum(c.isupper() for c in letters) / len(letters) if letters else 0.0
