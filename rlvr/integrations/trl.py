"""Our verifiers as TRL reward functions: `GRPOTrainer(reward_funcs=[reward_function("math")])`.

Source: trl 1.16.0, `GRPOTrainer._calculate_rewards`: a reward function gets `prompts`, `completions` (texts, or lists of chat
messages), `completion_ids` and one list for each column of the data set, and returns a number or None for each completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.errors import ConfigError
from rlvr.integrations.conversation import conversation_rollout, json_fields
from rlvr.integrations.unscored import UnscoredLimit
from rlvr.types import JSON, Verdict
from rlvr.verifiers.api import BlockingGrader
from rlvr.verifiers.runner import WeightedVerifier

# What TRL passes beside the columns of the data set.
TRAINER_ARGUMENTS = {"trainer_state", "log_extra", "log_metric", "environments"}


class RewardFunction:
    """A verifier that TRL can call; made by `reward_function`. It can be pickled, and used from several trainers."""

    def __init__(self, grader: BlockingGrader, name: str, answer_column: str | None, max_unscored: float) -> None:
        self.__name__ = name
        self._grader = grader
        self._answer_column = answer_column
        self._limit = UnscoredLimit(max_unscored)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The score of each completion in [0, 1]; None where there is none, which TRL leaves out of the update.

        A row whose answer is None belongs to another reward function and gets None without being graded.

        Raises:
            ConfigError: the data set has no answer column.
            VerifierError: more than `max_unscored` of all completions so far could not be graded.
        """
        answers = self._answers(columns, len(completions))
        rows = _rows(columns, len(completions))
        tokens = [len(ids) for ids in completion_ids] if completion_ids is not None else [0] * len(completions)
        rollouts = [
            conversation_rollout(completion, answer, prompt=prompt, metadata=row, identity=str(row.get("id", "")), tokens=count)
            for prompt, completion, answer, row, count in zip(prompts, completions, answers, rows, tokens, strict=True)
        ]
        is_ours = [answer is not None or self._answer_column is None for answer in answers]
        graded = [rollout for rollout, mine in zip(rollouts, is_ours, strict=True) if mine]
        self._grader.grade(graded)
        verdicts = [rollout.verdict for rollout in rollouts]
        self._log(verdicts, columns.get("log_metric"), columns.get("log_extra"))
        self._limit.observe(verdict for verdict in verdicts if verdict is not None)
        return [None if verdict is None else verdict.score for verdict in verdicts]

    def close(self) -> None:
        """End the worker processes now, instead of with the process."""
        self._grader.close()

    def _answers(self, columns: Mapping[str, Any], count: int) -> Sequence[JSON]:
        if self._answer_column is None:
            return [None] * count
        answers = columns.get(self._answer_column)
        if answers is None:
            known = ", ".join(sorted(set(columns) - TRAINER_ARGUMENTS)) or "none besides the prompt"
            raise ConfigError(
                f"the data set has no column {self._answer_column!r} (it has {known}); set answer_column, "
                "or answer_column=None for a verifier that needs no gold answer"
            )
        if len(answers) != count:
            raise ConfigError(f"column {self._answer_column!r} has {len(answers)} values for {count} completions")
        return list(answers)

    def _log(self, verdicts: Sequence[Verdict | None], log_metric: Callable[..., None] | None, log_extra: Any) -> None:
        graded = [verdict for verdict in verdicts if verdict is not None]
        if log_metric is not None and graded:
            log_metric(f"{self.__name__}/unscored", sum(verdict.score is None for verdict in graded) / len(graded))
            log_metric(f"{self.__name__}/unparsed", sum(verdict.outcome == "unparsed" for verdict in graded) / len(graded))
        if log_extra is not None:
            log_extra(f"{self.__name__}_verdict", [None if v is None else f"{v.outcome.value}: {v.reason}" for v in verdicts])


def reward_function(
    verifier: str,
    *,
    answer_column: str | None = "answer",
    name: str | None = None,
    workers: int = 2,
    timeout_s: float = 10.0,
    max_unscored: float = 0.02,
    **settings: JSON,
) -> RewardFunction:
    """A TRL reward function that grades with `verifier` (a name, `path/file.py:name` or `package.module:name`).

    `answer_column` of the data set holds the gold answers (None: the verifier needs none); the verifier sees all columns as
    metadata. `settings` are the verifier's, `name` is what TRL's logs call it. Worker processes start at the first call, are
    shared by all calls, and end with the process. Weights belong to TRL: `GRPOConfig(reward_weights=[...])`.

    Raises:
        PluginError, ConfigError: as `rlvr.verifiers.runner.Grader`.
    """
    grader = BlockingGrader([WeightedVerifier(verifier, 1.0, settings)], workers=workers, timeout_s=timeout_s)
    label = name or next(iter(grader.provenance()))
    return RewardFunction(grader, label, answer_column, max_unscored)


def _rows(columns: Mapping[str, Any], count: int) -> list[dict[str, JSON]]:
    """The columns as one mapping for each completion."""
    lists = {key: values for key, values in columns.items() if key not in TRAINER_ARGUMENTS and isinstance(values, list)}
    return [json_fields({key: values[index] for key, values in lists.items() if len(values) == count}) for index in range(count)]
