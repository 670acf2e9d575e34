"""`json_schema`: is the answer JSON that a schema accepts? Isolated, for a schema's patterns run on the model's text."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from rlvr.errors import ConfigError, VerifierError, boundary
from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.json_text import canonical, find_json

MAX_SHOWN_CHARS = 2_000


def _load() -> None:
    _package()


@verifier("json_schema", warm_up=_load, grades="form")
def json_schema(
    problem: Problem,
    rollout: Rollout,
    *,
    schema: dict[str, Any] | None = None,
    strict: bool = False,
    check_formats: bool = False,
) -> Verdict:
    """Correct when the answer is one JSON value that is valid under the schema (2020-12, or the draft that `$schema` names).

    Without `schema`, `problem.metadata["schema"]` is used, else a gold answer that is an object. References to other
    documents are never fetched. The answer is read from an answer tag, a single code block, or the whole text after the
    thinking; outside `strict`, words may surround one object or array. `check_formats` also asserts `format`.
    """
    given = next((s for s in (schema, problem.metadata.get("schema"), problem.answer) if isinstance(s, dict)), None)
    if given is None:
        return Verdict.error(f"{problem.id} has no schema: set `schema`, or give one as metadata or as gold answer")
    validator = _validator(json.dumps(given, sort_keys=True), check_formats)
    found = find_json(rollout.response, strict=strict)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    with boundary(VerifierError, "checking against the schema"):
        error = next(iter(validator.iter_errors(found.value)), None)
    shown = found.text[:MAX_SHOWN_CHARS]
    if error is None:
        return Verdict.correct(shown)
    return Verdict.incorrect(shown, f"{error.json_path[:200]}: {error.message[:300]}")


@functools.lru_cache(maxsize=64)
def _validator(schema: str, check_formats: bool) -> Any:  # noqa: FBT001
    """
    Raises:
        ConfigError: jsonschema is not installed.
        VerifierError: the schema is invalid.
    """
    jsonschema = _package()
    from referencing import Registry

    parsed = json.loads(schema)
    with boundary(VerifierError, "the schema is invalid"):
        kind = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft202012Validator)
        kind.check_schema(parsed)
    # The package's own check compares every pair of items.
    kind = jsonschema.validators.extend(kind, {"uniqueItems": _unique_items})
    # An empty registry: a reference to another document is an error, never a download.
    return kind(parsed, registry=Registry(), format_checker=kind.FORMAT_CHECKER if check_formats else None)


def _unique_items(validator: Any, wanted: bool, instance: JSON, schema: Any) -> Iterator[Any]:  # noqa: FBT001
    if wanted and isinstance(instance, list) and len({canonical(item) for item in instance}) < len(instance):
        yield _package().ValidationError(f"{str(instance)[:200]} has repeated items")


def _package() -> Any:
    try:
        import jsonschema
        import jsonschema.validators
    except ModuleNotFoundError as error:
        raise ConfigError("the verifier 'json_schema' needs jsonschema: pip install 'rlvr[schema]'") from error
    return jsonschema
