"""`benchmarks/gpu.py` on a CPU with tiny shapes: what it counts, what it reports, and that a broken process costs one job."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmark by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def job(module: ModuleType, name: str, side: str) -> dict[str, Any]:
    """A job of the tiny plan with an hour's time."""
    found = next(job for job in module.tiny_plan()[side] if job["name"] == name)
    return {**found, "deadline": time.time() + 3600}


def results(bench: Any, tmp_path: Path, module: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """What a job reports, without the marks of its beginning and end."""
    lines = tmp_path / "lines.jsonl"
    bench("gpu_work").Jobs([job], lines).run(bench(module).WAYS, "cpu")
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert "started" in found[0] and found[-1] == {"job": job["name"], "finished": True}
    return found[1:-1]


def test_scores_are_those_that_a_packed_row_needs(bench: Any) -> None:
    work = bench("gpu_work")
    prompt, chosen, rejected = lengths = (5, 4, 3)
    seen = 0
    for answer in (chosen - 1, rejected - 1):  # the last token of an answer is fed to no layer
        seen += sum(prompt + i + 1 for i in range(answer))
    assert work.scores(lengths) == seen + sum(i + 1 for i in range(prompt))
    assert work.columns(lengths) == prompt + chosen - 1 + rejected - 1


def test_matrix_work_is_that_of_a_forward(bench: Any) -> None:
    work = bench("gpu_work")
    lengths = (12, 6, 5)
    model = work.build({"shape": "tiny", "dtype": "float32"}, "cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = model.base_model(torch.randint(300, (1, work.columns(lengths)))).last_hidden_state
        model.lm_head(hidden[0, : lengths[1] + lengths[2]])
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    shape = work.SHAPES["tiny"]
    attention = 4 * work.scores(lengths) * shape.heads * shape.head * shape.layers
    needed = work.needed_work(shape, [lengths])
    assert needed["reference"] - attention == products
    large = work.needed_work(work.SHAPES["qwen2.5-7b"], [work.LONG])
    assert 2 * large["reference"] < large["train"] < 2.1 * large["reference"]  # frozen matrices get no gradient


def test_ours_is_raced_by_budget_and_taken_apart(bench: Any, tmp_path: Path) -> None:
    first, second, kinds = results(bench, tmp_path, "gpu_ours", job(bench("gpu"), "tiny", "ours"))
    assert [first["way"], second["way"], kinds["way"]["budget"] in (64, 256)] == [{"budget": 64}, {"budget": 256}, True]
    assert first["pairs"] == 8 and first["pairs_per_second"] > 0 and first["shared_prefix"]
    assert first["losses"] == pytest.approx(second["losses"], abs=1e-5)  # whatever the packing
    assert kinds["kinds"]["seconds"]["matrix products"] > 0 and kinds["kinds"]["seconds"]["vocabulary"] > 0


def test_losses_fall_and_do_not_depend_on_the_budget(bench: Any, tmp_path: Path) -> None:
    first, second = results(bench, tmp_path, "gpu_ours", job(bench("gpu"), "losses", "ours"))
    assert first["losses"] == pytest.approx(second["losses"], abs=1e-5)
    assert first["losses"][0] == pytest.approx(0.6931472, abs=1e-6) and first["losses"][-1] < 0.65


@pytest.mark.parametrize("name", ["probe, float32", "probe, bfloat16", "resume"])
def test_checks(bench: Any, tmp_path: Path, name: str) -> None:
    (found,) = results(bench, tmp_path, "gpu_ours", job(bench("gpu"), name, "ours"))
    assert found["ok"] is True


def test_trl_is_raced(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    found = results(bench, tmp_path, "gpu_peer", job(bench("gpu"), "tiny", "trl"))
    assert all(line["pairs_per_second"] > 0 for line in found)
    assert any(line["way"].get("precomputed") for line in found)


def test_a_job_that_fails_is_reported_and_the_next_one_runs(bench: Any, tmp_path: Path) -> None:
    work, lines = bench("gpu_work"), tmp_path / "lines.jsonl"
    later = time.time() + 60

    def broken(jobs: Any, job: Any, device: str) -> None:
        raise ValueError("no kernel")

    def late(jobs: Any, job: Any, device: str) -> None:
        raise AssertionError("it has no time")

    jobs = [
        {"name": "a", "do": "broken", "deadline": later},
        {"name": "b", "do": "late", "deadline": 0},
        {"name": "c", "do": "fine", "deadline": later},
    ]
    work.Jobs(jobs, lines).run({"broken": broken, "late": late, "fine": lambda jobs, job, _: jobs.emit(ok=True)}, "cpu")
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {"job": "a", "failed": "ValueError: no kernel"} in found
    assert {"job": "b", "skipped": "no time is left for this part"} in found
    assert {"job": "c", "ok": True} in found


DYING = """
import json, os, sys
for job in json.load(open(sys.argv[1])):
    out = open(sys.argv[2], "a")
    out.write(json.dumps({"job": job["name"], "started": 1}) + "\\n")
    if job["name"] == "dies":
        out.close()
        os._exit(7)
    for line in ({"job": job["name"], "ok": True}, {"job": job["name"], "finished": True}):
        out.write(json.dumps(line) + "\\n")
    out.close()
"""


def test_a_process_that_dies_costs_one_job(bench: Any, tmp_path: Path) -> None:
    gpu, script = bench("gpu"), tmp_path / "dying.py"
    script.write_text(DYING)
    document: dict[str, Any] = {"results": []}
    later = time.time() + 60
    jobs = [{"name": name, "deadline": later} for name in ("first", "dies", "last")]
    side = gpu.Side("ours", [sys.executable, str(script)], "cpu", document, tmp_path / "out.json")
    side.run(jobs, later)
    assert document["results"] == [
        {"by": "ours", "job": "first", "ok": True},
        {"by": "ours", "job": "dies", "failed": "the process ended with code 7"},
        {"by": "ours", "job": "last", "ok": True},
    ]
    assert json.loads((tmp_path / "out.json").read_text()) == document


def test_each_side_is_compared_at_its_best(bench: Any) -> None:
    def line(by: str, rate: float, memory: float, **way: Any) -> dict[str, Any]:
        with_reference = {"pairs_per_second_with_reference": rate / 2} if by == "ours" else {}
        return {"by": by, "job": "7B", "way": way, "pairs_per_second": rate, "peak_gb": memory, "needed_tflops": 300.0,
                **with_reference}  # fmt: skip

    found = bench("gpu").compare(
        [
            {"by": "ours", "job": "machine", "matrix_tflops": 600.0},
            line("ours", 12.0, 30.0, budget=8192),
            line("ours", 10.0, 20.0, budget=4096),
            line("trl", 3.0, 60.0, batch=2),
            {"by": "trl", "job": "7B", "way": {"batch": 4}, "out_of_memory": True},
            line("trl", 4.0, 60.0, batch=2, precomputed=True),
        ]
    )["7B"]
    assert found["ours"]["mfu"] == 0.5 and found["ours"]["way"] == {"budget": 8192}
    assert found["speed over trl live"] == 2.0 and found["speed over trl precomputed"] == 3.0
    assert found["memory of trl live"] == 0.5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("triton_tem_fused_flex_attention_backward_0", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>", "elementwise"),
        ("void at::native::reduce_kernel<512, 1, ...>", "reductions"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copies"),
        ("something_else", "other"),
    ],
)
def test_kinds_of_kernels(bench: Any, name: str, kind: str) -> None:
    assert bench("gpu_kinds").kind_of(name) == kind


def test_overlapping_kernels_are_counted_once(bench: Any) -> None:
    assert bench("gpu_kinds").union([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0)]) == 5.0


def test_deadlines_follow_the_shares(bench: Any) -> None:
    jobs = bench("gpu").give_deadlines([{"share": 1.0}, {"share": 3.0}], 100.0, 200.0)
    assert [job["deadline"] for job in jobs] == [125.0, 200.0]
    plan = bench("gpu").plan(None)
    assert [job["name"] for job in plan["trl"]] == [
        job["name"] for job in plan["ours"] if job["do"] in ("race", "losses")
    ]
