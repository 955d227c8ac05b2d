"""TRL's DPOTrainer on the rows of `preference_step.py`, timed; the peer's half of that benchmark.

Runs in an environment of its own (`preference_step.py` makes it) and imports nothing of ours. Rows are used as given and
in the order given, one user turn each, so that both sides see the same text in the same order. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="directory of the base model")
    parser.add_argument("rows", type=Path, help="JSON list of query, chosen, rejected")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--precompute", action="store_true", help="reference log-probs once, before training")
    parser.add_argument("--batch", type=int, default=4, help="pairs per forward")
    parser.add_argument("--accumulate", type=int, default=4, help="forwards per optimizer step")
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--scheduler", default="linear")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-initial-adapter", type=Path, help="write the adapter as it is before training")
    return parser.parse_args()


def plain(row: dict[str, str], tokenizer: Any) -> dict[str, str]:
    """A row as TRL's plain prompt, chosen, rejected, the chat template applied to the prompt; TRL ends answers with EOS.

    Given as messages, the template's line break after the answer's EOS would be trained on as well: one token more than
    ours, and other losses.
    """
    turns = [{"role": "user", "content": row["query"]}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}


def build_trainer(options: argparse.Namespace, rows: list[dict[str, str]], scratch: str) -> Any:
    """A DPOTrainer as its users set it up on a CPU: everything not named here is TRL's default."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(options.threads)
    config = DPOConfig(
        output_dir=scratch,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        train_sampling_strategy="sequential",
        beta=0.1,
        max_length=options.max_length,
        precompute_ref_log_probs=options.precompute,
        # Recomputing activations would only slow the peer down.
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)),
        args=config,
        train_dataset=Dataset.from_list([plain(row, tokenizer) for row in rows]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )


def main() -> None:
    options = arguments()
    rows = json.loads(options.rows.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        trainer = build_trainer(options, rows, scratch)
        built = time.perf_counter()
        if options.save_initial_adapter is not None:
            trainer.model.save_pretrained(options.save_initial_adapter)
        before = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - before
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    result = {
        "pairs_per_second": len(rows) * options.epochs / seconds,
        "seconds": seconds,
        # Loading, tokenizing and, with --precompute, the reference log-probs.
        "setup_seconds": built - started,
        "peak_rss_gb": peak / 1e9,
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
