"""Our verifiers as verl's `compute_score`.

    reward.custom_reward_function.path=pkg://rlvr.integrations.verl reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.verifier=math

Source: verl 0.9.1, `verl/trainer/ppo/reward.py` (`get_custom_reward_fn` merges `reward_kwargs` into every call) and
`verl/experimental/reward_loop/reward_manager/naive.py` (calls from a thread pool; takes a number, or a mapping with "score").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from rlvr.errors import ConfigError, VerifierError
from rlvr.integrations.conversation import conversation_rollout, json_fields, plain
from rlvr.types import JSON, Outcome, Verdict
from rlvr.verifiers.api import shared_grader

VERIFIER_VARIABLE = "RLVR_VERIFIER"
SETTINGS_VARIABLE = "RLVR_VERIFIER_SETTINGS"


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: JSON,
    extra_info: Mapping[str, Any] | None = None,
    *,
    verifier: str | None = None,
    settings: Mapping[str, JSON] | None = None,
    unscored: float | None = None,
    workers: int = 2,
    timeout_s: float = 10.0,
    **_: Any,
) -> dict[str, float | str]:
    """`{"score", "acc", "pred", "outcome"}` of one response; verl trains on "score" and logs the rest.

    Which verifier, and with which settings: the row's `extra_info["verifier"]` and `extra_info["verifier_settings"]`, or else the
    arguments (verl's `reward_kwargs`), or else the environment's RLVR_VERIFIER and RLVR_VERIFIER_SETTINGS (JSON). The verifier
    sees `extra_info` and `data_source` as metadata.

    verl has no "not scored". When our grading fails, which is not the model's fault, this raises and the run stops, unless
    `unscored` says which number the response shall get instead.

    Raises:
        VerifierError: the response could not be graded, and `unscored` is None.
        ConfigError: no verifier was named, or a setting is wrong.
        PluginError: there is no such verifier.
    """
    row = dict(extra_info or {})
    name = row.pop("verifier", None) or verifier or os.environ.get(VERIFIER_VARIABLE)
    if not name:
        raise ConfigError(
            "no verifier: set reward.custom_reward_function.reward_kwargs.verifier, extra_info['verifier'] or RLVR_VERIFIER"
        )
    own = row.pop("verifier_settings", None)
    chosen = _settings(own if own is not None else settings)
    rollout = conversation_rollout(
        solution_str,
        plain(ground_truth),
        prompt=row.get("prompt") if isinstance(row.get("prompt"), str) else "",  # type: ignore[arg-type]
        metadata={**json_fields(row), "data_source": data_source},
        identity=str(row.get("index", "")),
    )
    shared_grader(str(name), chosen, workers=workers, timeout_s=timeout_s).grade([rollout])
    verdict = next(iter(rollout.verdicts.values()))
    return _result(verdict, unscored, f"{data_source} row {row.get('index', '?')}")


def _settings(given: Any) -> dict[str, JSON]:
    if given is None:
        given = os.environ.get(SETTINGS_VARIABLE) or {}
    if isinstance(given, str):  # a Parquet column or a variable holds JSON
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ConfigError(f"verifier settings are not JSON: {given[:80]!r}") from error
    if not isinstance(given, Mapping):
        raise ConfigError(f"verifier settings are {type(given).__name__}, not an object")
    return {str(key): plain(value) for key, value in given.items()}


def _result(verdict: Verdict, unscored: float | None, where: str) -> dict[str, float | str]:
    score = verdict.score if verdict.score is not None else unscored
    if score is None:
        raise VerifierError(f"{where} could not be graded: {verdict.reason}")
    is_correct = float(verdict.outcome is Outcome.CORRECT)
    return {"score": float(score), "acc": is_correct, "pred": verdict.extracted or "", "outcome": verdict.outcome.value}
