"""The linear modules of a base model that get an adapter: of its text part, without routers and fused experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lifealign.core.errors import ConfigError
from lifealign.core.lora_config import ALL_LINEAR
from lifealign.model.row_state import text_part


@dataclass(frozen=True)
class Targets:
    """What `find_targets` found.

    Attributes:
        modules: names for PEFT: as given where they are clear, else paths of modules.
        transposed: they are `Conv1D` (GPT-2), whose weights are stored transposed.
        notes: sentences about modules that were left out.
    """

    modules: tuple[str, ...]
    transposed: bool
    notes: tuple[str, ...]


def find_targets(base: PreTrainedModel, wanted: Sequence[str]) -> Targets:
    """The modules that names (suffixes) or `all-linear` stand for.

    Raises:
        ConfigError: no linear module of the text part has one of the names; tells what does, and which names there are.
    """
    kinds = _Kinds.of(base)
    every = list(wanted) == [ALL_LINEAR]
    if every:
        found = list(kinds.linear)
    else:
        found = [name for name in (*kinds.linear, *kinds.head) if any(_matches(name, t) for t in wanted)]
    if not found:
        raise ConfigError(_nothing(kinds, wanted))
    notes = _left_out(kinds, wanted, every)
    # As given where that is enough: an exported adapter then names its modules as people write them.
    plain = not every and not kinds.outside and not kinds.routers and not kinds.experts
    modules = tuple(wanted) if plain else tuple(found)
    return Targets(modules, any(isinstance(base.get_submodule(name), Conv1D) for name in found), tuple(notes))


@dataclass(frozen=True)
class _Kinds:
    """Paths of a model's modules by kind; `experts` are parameters of three dimensions.

    `alike` are linear modules named like experts (of dense layers, shared experts): PEFT takes these names for the
    experts' parameters, here and where an exported adapter is loaded, so they get no adapter either.
    """

    linear: tuple[str, ...]
    head: tuple[str, ...]
    routers: tuple[str, ...]
    outside: tuple[str, ...]
    experts: tuple[str, ...]
    alike: tuple[str, ...]

    @classmethod
    def of(cls, base: PreTrainedModel) -> _Kinds:
        names = {module: name for name, module in base.named_modules()}
        inside = names.get(text_part(base), "")
        inside = f"{inside}." if inside else ""
        head = base.get_output_embeddings()
        found: dict[str, list[str]] = {"linear": [], "head": [], "routers": [], "outside": []}
        for name, module in base.named_modules():
            router = _is_router(base, name, module)
            if not router and not isinstance(module, nn.Linear | Conv1D):
                continue
            kind = "linear" if name.startswith(inside) else "outside"
            found["head" if module is head else "routers" if router else kind].append(name)
        experts = [
            name for name, p in base.named_parameters() if p.ndim == 3 and name.startswith(inside) and "expert" in name
        ]
        alike = [n for n in found["linear"] if any(_holds(p, n) for p in experts)]
        found["linear"] = [n for n in found["linear"] if n not in alike]
        paths = {kind: tuple(names) for kind, names in found.items()}
        return cls(**paths, experts=tuple(experts), alike=tuple(alike))


def _is_router(base: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether a module chooses or weighs experts: it has "gate" or "router" in its name, and experts beside it."""
    parent, _, leaf = name.rpartition(".")
    if not isinstance(module, nn.Linear) and "Router" not in type(module).__name__:
        return False
    beside = dict(base.get_submodule(parent).named_children()) if parent else {}
    return ("gate" in leaf or "router" in leaf) and any("expert" in n and n != leaf for n in beside)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _holds(parameter: str, target: str) -> bool:
    """Whether experts' fused parameter stands for a module's name: `gate_up_proj` for `gate_proj` and `up_proj`."""
    leaf, last = parameter.rpartition(".")[2], target.rpartition(".")[2]
    return leaf == last or (leaf == "gate_up_proj" and last in ("gate_proj", "up_proj"))


def _leaves(paths: Sequence[str]) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in paths})


def _nothing(kinds: _Kinds, wanted: Sequence[str]) -> str:
    """The message where no linear module of the text part has a wanted name."""
    reasons = []
    if experts := _leaves([p for p in kinds.experts if any(_holds(p, t) for t in wanted)]):
        reasons.append(f"the experts are kept as parameters ({', '.join(experts)}), which cannot get an adapter")
    if routers := _leaves([n for n in kinds.routers if any(_matches(n, t) for t in wanted)]):
        reasons.append(f"{', '.join(routers)} chooses experts, which an adapter must leave alone")
    if outside := [n for n in kinds.outside if any(_matches(n, t) for t in wanted)]:
        reasons.append(f"{outside[0]} does not read text")
    reason = "; ".join(reasons) or "no linear module has such a name"
    return (
        f"lora.target_modules={list(wanted)}: {reason}; linear modules of this model: "
        f"{_leaves([*kinds.linear, *kinds.head])}, or {ALL_LINEAR}"
    )


def _left_out(kinds: _Kinds, wanted: Sequence[str], every: bool) -> list[str]:
    """Sentences about what `wanted` seems to mean, but does not get an adapter."""
    groups = {
        "outside the text part": [n for n in kinds.outside if every or any(_matches(n, t) for t in wanted)],
        "routers of experts": [n for n in kinds.routers if every or any(_matches(n, t) for t in wanted)],
        "experts kept as parameters": [p for p in kinds.experts if every or any(_holds(p, t) for t in wanted)],
        "modules named like them": [n for n in kinds.alike if every or any(_matches(n, t) for t in wanted)],
        "the vocabulary projection": list(kinds.head) if every else [],
    }
    parts = [f"{what} ({', '.join(_leaves(paths))})" for what, paths in groups.items() if paths]
    notes = [f"lora.target_modules: no adapter on {'; '.join(parts)}"] if parts else []
    known = [*kinds.linear, *kinds.head, *kinds.outside, *kinds.routers, *kinds.alike]
    missing = [
        t
        for t in wanted
        if not every and not any(_matches(n, t) for n in known) and not any(_holds(p, t) for p in kinds.experts)
    ]
    if missing:
        notes.append(f"lora.target_modules: no module of this model is named {', '.join(missing)}")
    return notes
