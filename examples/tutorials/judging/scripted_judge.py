"""A judge made of a rule, behind an OpenAI-compatible server on this machine, until Ctrl-C. For docs/tutorials/judging.md.

    python scripted_judge.py [PORT]

It stands in for a judge model, so that the tutorial needs no key and no second model. The rule looks for warm words and
for brevity; it understands nothing.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WARM = re.compile(r"\b(sorry|thank|glad|gladly|happy|pleasure|of course|help)", re.IGNORECASE)
BLOCK = re.compile(r"=== (\w+) begin (answer(?: [AB])?) ===\n(.*?)\n=== \1 end \2 ===", re.DOTALL)


def score(answer: str) -> int:
    """From 1 to 10: three points for each kind of warm word, one point less for each 20 words over 40."""
    kinds = {word.lower() for word in WARM.findall(answer)}
    return max(1, min(10, 1 + 3 * len(kinds) - max(0, len(answer.split()) - 40) // 20))


def verdict(message: str) -> dict[str, object]:
    """The verdict on the one answer, or on the two, that a message holds."""
    points = {name: score(text) for _, name, text in BLOCK.findall(message)}
    if "answer" in points:
        return {"explanation": "By the rule of warm words.", "score": points["answer"]}
    gain = points["answer A"] - points["answer B"]
    return {"explanation": "By the rule of warm words.", "winner": "tie" if not gain else "A" if gain > 0 else "B"}


class Handler(BaseHTTPRequestHandler):
    """Answers each chat completion with a verdict."""

    def do_POST(self) -> None:
        """Read the request, judge its last message, reply."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = json.dumps(verdict(request["messages"][-1]["content"]))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8731
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
