"""The Modelfile that lets Ollama answer with a merged GGUF; its template is found from what the chat template writes."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

MODELFILE = "Modelfile"
SYSTEM, USER, ASSISTANT, AGAIN = "the-system-turn", "the-user-turn", "the-answer-turn", "the-second-turn"
"""Contents that no template writes by itself."""


def modelfile(tokenizer: Any, chat: bool, model: str) -> tuple[str, list[str]]:
    """The text of the file, and what a user must know of it.

    Args:
        tokenizer: of the base model.
        chat: the memory was trained with the tokenizer's chat template.
        model: name of the GGUF file beside it.
    """
    end = tokenizer.eos_token
    lines = [f"FROM ./{model}"]
    template = go_template(tokenizer) if chat else None
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    if '"' not in end:
        lines.append(f'PARAMETER stop "{end}"')
    notes = ["Modelfile: untested with Ollama"]
    if template is None:
        notes.append(
            "Modelfile: without a TEMPLATE, because turns that follow one another do not give this chat template; check that "
            "Ollama recognises it (ollama show --modelfile)"
            if chat
            else "Modelfile: without a TEMPLATE, because the memory was trained without a chat template"
        )
    return "\n".join(lines) + "\n", notes


def go_template(tokenizer: Any) -> str | None:
    """The chat template in Ollama's language; None if it is more than a text before and after each turn."""
    try:
        return _go_template(tokenizer)
    except (TemplateError, ValueError, TypeError):  # it refuses a system turn, or writes a turn in another way
        return None


def _go_template(tokenizer: Any) -> str | None:
    turns = {"s": ("system", SYSTEM), "u": ("user", USER), "a": ("assistant", ASSISTANT), "v": ("user", AGAIN)}

    def render(order: str, ask: bool) -> str:
        messages = [{"role": turns[c][0], "content": turns[c][1]} for c in order]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))

    begin, rest = render("suav", False).split(SYSTEM)
    system_user, rest = rest.split(USER)
    user_answer, rest = rest.split(ASSISTANT)
    answer_user, user_end = rest.split(AGAIN)
    answer_end = render("sua", False).split(ASSISTANT)[1]
    ask = render("su", True).split(USER)[1].removeprefix(user_end)
    user = answer_user.removeprefix(answer_end)
    system_end, answer = system_user.removesuffix(user), user_answer.removeprefix(user_end)
    lead = render("u", False).split(USER)[0].removesuffix(user)

    def joined(order: str) -> str:
        frames = {"u": (user, user_end), "v": (user, user_end), "a": (answer, answer_end)}
        head = f"{begin}{SYSTEM}{system_end}" if order[0] == "s" else lead
        body = "".join(f"{frames[c][0]}{turns[c][1]}{frames[c][1]}" for c in order if c != "s")
        return head + body + ask

    if any(joined(order) != render(order, True) for order in ("su", "u", "suav", "uav")):
        return None
    first = str(tokenizer.bos_token or "")
    begin, lead = (part.removeprefix(first) if first and bos_added(tokenizer) else part for part in (begin, lead))
    if any(
        "{{" in part or '"""' in part for part in (begin, lead, system_end, user, user_end, answer, answer_end, ask)
    ):
        return None
    return (
        "{{ if .System }}" + begin + "{{ .System }}" + system_end + "{{ else }}" + lead + "{{ end }}"
        '{{ range .Messages }}{{ if eq .Role "user" }}' + user + "{{ .Content }}" + user_end + "{{ else if eq .Role "
        '"assistant" }}' + answer + "{{ .Content }}" + answer_end + "{{ end }}{{ end }}" + ask
    )


def bos_added(tokenizer: Any) -> bool:
    """Whether the tokenizer, and so llama.cpp, puts BOS before a text by itself."""
    ids = tokenizer("", add_special_tokens=True)["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id
