"""Too many verdicts without a score stop a run, in other trainers as in ours."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from rlvr.errors import VerifierError
from rlvr.types import Verdict

MAX_CAUSES = 3


class UnscoredLimit:
    """Counts verdicts over the life of a reward function. `share` of all may lack a score, and `MAX_CAUSES` always may."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.graded = 0
        self.unscored = 0
        self.causes: list[str] = []
        self._lock = threading.Lock()  # guards the counts: trainers grade on several threads

    def observe(self, verdicts: Iterable[Verdict]) -> None:
        """Count these verdicts.

        Raises:
            VerifierError: more than the share had no score; the text has the first causes.
        """
        with self._lock:
            for verdict in verdicts:
                self.graded += 1
                if verdict.score is None:
                    self.unscored += 1
                    if len(self.causes) < MAX_CAUSES:
                        self.causes.append(verdict.reason)
            is_exceeded = self.unscored > max(MAX_CAUSES, self.share * self.graded)
            text = f"{self.unscored} of {self.graded} responses could not be graded (max_unscored = {self.share:g}): "
            text += "; ".join(self.causes)
        if is_exceeded:
            raise VerifierError(text)

    def __reduce__(self) -> tuple[type[UnscoredLimit], tuple[float]]:
        return UnscoredLimit, (self.share,)
