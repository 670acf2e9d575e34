"""Both directions of EleutherAI's lm-evaluation-harness: our engines as its model, and its samples as our evaluations."""
