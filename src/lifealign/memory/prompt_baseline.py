"""Answers of the base model to a prompt that makes it an assistant: a baseline that trains nothing."""

from __future__ import annotations

from collections.abc import Sequence

from lifealign.core.errors import DataError
from lifealign.data.prompt_baselines import PromptBaseline
from lifealign.data.prompts import CutAnswer
from lifealign.data.tasks import Message, Row
from lifealign.memory.row_scores import AnswerScorer, TaskScores, answer_rows
from lifealign.memory.session import Session
from lifealign.model.sampling import sample


def baseline_scores(
    session: Session,
    baseline: PromptBaseline,
    task: str,
    rows: Sequence[Row],
    scorer: AnswerScorer,
    count: int,
    max_new_tokens: int,
    title: str,
) -> TaskScores:
    """Greedy answers of the point in place to the prompts of a task, and their scores.

    Args:
        session: with the base model in place.
        baseline: how it is asked.
        task: name.
        rows: held-out rows.
        scorer: of the answers.
        count: prompts, the first ones.
        max_new_tokens: longest answer, in tokens.
        title: of the progress stage.

    Raises:
        DataError: a prompt that leaves no room for an answer in the model's context.
    """
    encoder = session.encoder

    def answer(prompts: Sequence[Sequence[Message]], reasons: Sequence[bool]) -> list[str]:
        ids = [encoder.text_ids(baseline.text(prompt)) for prompt in prompts]
        for number, own in enumerate(ids, 1):
            if len(own) + max_new_tokens > session.base.positions:
                raise DataError(
                    f"task {task}: prompt {number} has {len(own)} tokens with the baseline's instruction, and the base model's "
                    f"context is {session.base.positions}: no room for {max_new_tokens} more; use a base model with a longer context"
                )
        made = sample(
            session.model,
            encoder,
            ids,
            1,
            max_new_tokens=max_new_tokens,
            temperature=0.0,
            batch_size=8,
            progress=session.progress,
            title=title,
            prefix=session.strategy.prefix,
        )
        return [_answer(session, baseline, own[0], max_new_tokens) for own in made]

    return answer_rows(answer, encoder, rows, scorer, count)


def _answer(session: Session, baseline: PromptBaseline, ids: Sequence[int], max_new_tokens: int) -> str:
    text, ended = baseline.cut(str(session.encoder.tokenizer.decode(ids, skip_special_tokens=True)))
    cut = not ended and len(ids) >= max_new_tokens and ids[-1] not in session.encoder.ends
    return CutAnswer(text) if cut else text
