"""Reference log-probs: computed once, in float32, by the code path of the policy, and cached by content.

The key of a pair is a hash of everything its log-probs are a function of: base weights and dtype, the adapter's tensors
(or "off"), and the token ids of prompt and answers, which depend on the tokenizer, the template and `max_length`. In half
precision, device and layout belong to it too, because they change how values round.
So a stale value cannot be found, and tasks, replay rows, runs and processes share known values.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from lifealign.core.errors import StoreError
from lifealign.core.files import check_regular
from lifealign.core.progress import NullProgress, Progress
from lifealign.model.adapters import causal_lm
from lifealign.model.compiling import is_compiled
from lifealign.model.encoding import EncodedPair
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs, split_by_budget


class ReferenceCache:
    """Log-probs by key in one SQLite file; several processes may use it at once.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def get(self, keys: Sequence[str]) -> dict[str, tuple[float, float]]:
        """(chosen, rejected) of the known keys."""
        if self.path is None or not self.path.exists():
            return {}
        found = {}
        # Opened for writing, because SQLite must roll back a transaction that a killed writer left open.
        with self._open("rw") as database:
            # Another process may have made the file but not its table yet.
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'logps'").fetchone() is None:
                return {}
            for key in keys:
                row = database.execute("SELECT chosen, rejected FROM logps WHERE key = ?", (key,)).fetchone()
                if row is not None and None not in row:  # SQLite keeps NaN as NULL
                    found[key] = (float(row[0]), float(row[1]))
        return found

    def put(self, values: Mapping[str, tuple[float, float]]) -> None:
        """Add values, all or none of them; known keys keep their values."""
        if self.path is None or not values:
            return
        with self._open("rwc") as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS logps (key TEXT PRIMARY KEY, chosen REAL, rejected REAL)")
            database.executemany(
                "INSERT OR IGNORE INTO logps VALUES (?, ?, ?)", [(key, *pair) for key, pair in values.items()]
            )

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                check_regular(self.path)
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(uri, uri=True, timeout=60)) as database:
                yield database
        except (OSError, sqlite3.Error, ValueError, TypeError) as error:  # the last two: a value that is no number
            raise StoreError(
                f"{self.path}: the cache of log-probs cannot be used: {error}; "
                "remove it, or set LIFEALIGN_CACHE to another directory"
            ) from error


def adapter_sha256(tensors: Mapping[str, Tensor] | None) -> str:
    """SHA-256 (hex) of an adapter's names and values; "off" for None and for a LoRA adapter whose every B is zero."""
    factors = [t for n, t in (tensors or {}).items() if n.endswith(".lora_B")]
    if tensors is None or (2 * len(factors) == len(tensors) and not any(bool(b.any()) for b in factors)):
        return "off"
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pair_keys(
    pairs: Sequence[EncodedPair], base: Mapping[str, Any], adapter: str, way: Sequence[Any] = ()
) -> list[str]:
    """Cache keys of pairs under a base model (`BaseModel.identity`: weights, dtype, code) and an adapter.

    In half precision, the place where a row is cut (`EncodedPair.opening`) and the `way` that it is computed change how its
    log-probs round, so they are in the key: a policy equal to its reference would have a margin otherwise.
    """
    exact = base["dtype"] == "float32"
    found = [base["weights"], base["dtype"], adapter, *([base["code"]] if "code" in base else [])]
    scope = json.dumps(found if exact else [*found, list(way)]).encode()
    contents = [[p.prompt, p.chosen, p.rejected, *([] if exact else [p.opening]), *_context(p)] for p in pairs]
    return [hashlib.sha256(scope + json.dumps(content).encode()).hexdigest() for content in contents]


def _context(pair: EncodedPair) -> list[list[int]]:
    """The ids that are not scored, if there are any; as a list, so that they cannot be taken for an opening."""
    context = [pair.chosen_context, pair.rejected_context]
    return [context] if any(context) else []


@torch.no_grad()
def pair_logps(
    model: nn.Module,
    pairs: Sequence[EncodedPair],
    *,
    shared_prefix: bool,
    tokens_per_pack: int,
    accelerator: Accelerator,
    progress: Progress | None = None,
    title: str = "log-probs",
    beyond: float = 1.0,
) -> Tensor:
    """Summed log-probs [N, 2] (chosen, rejected), float32 on the CPU, under `model` as it is; dropout off.

    `beyond` is that of `TokenLogps.pairs`. The packs are divided over the processes of `accelerator`; every process gets the whole result.
    """
    training = model.training
    model.eval()
    groups = list(split_by_budget(pairs, range(len(pairs)), tokens_per_pack, shared_prefix))
    mine = groups[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, float, float]] = []
    with (progress or NullProgress()).stage(title, sum(map(len, mine)), "pairs") as stage:
        for group in mine:
            logps = token_logps(model, pack_pairs(pairs, group, shared_prefix).to(accelerator.device)).pairs(beyond)
            found += list(zip(group, logps.chosen.tolist(), logps.rejected.tolist(), strict=True))
            stage.advance(len(group))
    model.train(training)
    everywhere: Iterable[tuple[int, float, float]] = gather_object(found)
    values = torch.zeros(len(pairs), 2)
    for i, chosen, rejected in everywhere:
        values[i, 0], values[i, 1] = chosen, rejected
    return values


def cached_logps(
    model: nn.Module,
    pairs: Sequence[EncodedPair],
    *,
    cache: ReferenceCache,
    base: Mapping[str, Any],
    adapter: str,
    shared_prefix: bool,
    tokens_per_pack: int,
    accelerator: Accelerator,
    progress: Progress | None = None,
    title: str = "log-probs",
    beyond: float = 1.0,
) -> Tensor:
    """`pair_logps` through the cache: only unknown pairs are computed, and all of them are stored at once.

    Args:
        model: with that adapter's weights in it, or with it switched off (`model.adapters.adapter_off`).
        pairs: encoded pairs.
        cache: has the known values and gets the new ones.
        base: identity of the base model.
        adapter: `adapter_sha256` of the adapter that `model` holds.
        shared_prefix: packed rows or plain ones.
        tokens_per_pack: columns of a packed row.
        accelerator: divides the work.
        progress: where to report.
        title: of the progress stage.
        beyond: see `TokenLogps.pairs`; part of the key.
    """
    way = (
        accelerator.device.type,
        "packed" if shared_prefix else "plain",
        "compiled" if is_compiled(causal_lm(model)) else "not compiled",
    )
    keys = pair_keys(pairs, base, adapter if beyond == 1 else f"{adapter} beyond {beyond}", way)
    known = cache.get(keys)
    missing = [i for i, key in enumerate(keys) if key not in known]
    # All processes must agree on what is missing, or they would wait for each other for ever.
    missing = sorted(set(gather_object(missing))) if accelerator.num_processes > 1 else missing
    if missing:
        fresh = pair_logps(
            model,
            [pairs[i] for i in missing],
            shared_prefix=shared_prefix,
            tokens_per_pack=tokens_per_pack,
            accelerator=accelerator,
            progress=progress,
            title=title,
            beyond=beyond,
        )
        for i, (chosen, rejected) in zip(missing, fresh.tolist(), strict=True):
            known[keys[i]] = (chosen, rejected)
        if accelerator.is_main_process:
            cache.put({keys[i]: known[keys[i]] for i in missing})
        accelerator.wait_for_everyone()
    return torch.tensor([known[key] for key in keys], dtype=torch.float32).reshape(len(pairs), 2)
