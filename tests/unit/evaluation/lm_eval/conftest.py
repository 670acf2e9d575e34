"""Tasks of lm-eval in a folder, and a model for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DOCUMENTS = [{"question": f"{i}+{i + 2}*3=", "answer": str(i), "choices": ["1", "23", "456"], "gold": i % 3} for i in range(6)]
COMMON = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
TASKS = {
    "rlvr_sums": """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["+"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
""",
    "rlvr_pick": """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "rlvr_roll": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
""",
}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks that generate, choose and score whole texts."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS))
    for name, rest in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{COMMON.format(data=data)}{rest}")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rlvr.envs.tasks import load_task
    from rlvr.trainers.model.tiny import tiny_model

    tiny = load_task("chains").tiny
    assert tiny is not None
    model, tokenizer = tiny_model(tiny, seed=0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
