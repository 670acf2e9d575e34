"""What we measured, as the results file of lm-evaluation-harness: for leaderboards and tables that read nothing else.

Source: lm-eval 0.4.13, `lm_eval/result_schema.py` (keys) and `lm_eval/utils.py`, `make_table` (what is read of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev

import rlvr
from rlvr.errors import ConfigError
from rlvr.evaluation.comparison import Study
from rlvr.evaluation.evaluations import Evaluation
from rlvr.evaluation.samples import Kind, Metric, metrics_for
from rlvr.types import JSON

ENDING = ".lm-eval.json"


def lm_eval_results(study: Study, k: Sequence[int]) -> dict[str, JSON]:
    """One model's tasks by name, each mean (`pass@1,none`) with its standard error over problems (`pass@1_stderr,none`).

    Raises:
        ConfigError: several models, which one results file cannot hold, or one task twice.
    """
    models = list(dict.fromkeys(str(one.about.get("model", one.label)) for one in study.evaluations))
    names = [one.title for one in study.evaluations]
    if len(models) != 1 or len(set(names)) < len(names):
        raise ConfigError(
            f"a results file of lm-eval holds one model and every task once, but these are {', '.join(models)} on "
            f"{', '.join(names)}; export each by itself, or as .json"
        )
    tasks = dict(zip(names, study.evaluations, strict=True))
    values = {name: _values(one, k) for name, one in tasks.items()}
    return {
        "results": {name: {"alias": name, "sample_len": len(one.samples), **values[name]} for name, one in tasks.items()},
        "group_subtasks": {},
        "configs": {name: _config(one) for name, one in tasks.items()},
        "versions": {name: _version(one) for name, one in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {name: {key.partition(",")[0]: True for key in found} for name, found in values.items()},
        "n-samples": {name: {"original": len(one.samples), "effective": len(one.samples)} for name, one in tasks.items()},
        "config": {"model": "rlvr", "model_args": {"pretrained": models[0]}},
        "model_source": f"rlvr {rlvr.__version__}",
        "model_name": models[0],
        "model_name_sanitized": "".join(char if char.isalnum() or char in "-." else "_" for char in models[0]),
    }


def _values(evaluation: Evaluation, k: Sequence[int]) -> dict[str, float | str]:
    sizes = [size for size in sorted(set(k)) if size <= evaluation.n]
    metrics = [Metric(Kind.PASS, size) for size in sizes]
    metrics += metrics_for(evaluation.samples, sizes, str(evaluation.about.get("scorer", "")))
    found: dict[str, float | str] = {}
    for name, values in [(str(one), one.values(evaluation.samples)) for one in metrics] + [("greedy", evaluation.greedy)]:
        if values:
            found[f"{name},none"] = sum(values.values()) / len(values)
            found[f"{name}_stderr,none"] = stdev(values.values()) / len(values) ** 0.5 if len(values) > 1 else "N/A"
    return found


def _config(evaluation: Evaluation) -> dict[str, JSON]:
    about = evaluation.about
    return {
        "task": str(about.get("task", "?")),
        "test_split": str(about.get("split", "")),
        "output_type": "generate_until",
        "repeats": evaluation.n,
        "generation_kwargs": dict(about.get("sampling") or {}),
        "metadata": {"problems_sha256": about.get("problems_sha256"), "template": about.get("template")},
    }


def _version(evaluation: Evaluation) -> str:
    grading = evaluation.about.get("grading") or {}
    return ", ".join(f"{name} {one.get('version')}" for name, one in grading.items()) or "?"
