"""The gateway's routes as an OpenAPI document, for clients that are generated and tests that are.

Bodies are the models that the routes themselves read. What only the engine reads (messages, tools, sampling) is left to
OpenAI's own description and vLLM's: the gateway passes it through.
"""

import functools
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mopo_train import __version__

Schema = dict[str, Any]
ERRORS = {
    "400": "The request cannot be understood; `param` names the field.",
    "401": "The API key is missing, unknown or revoked.",
    "403": "The key is good, but not for this.",
    "404": "There is no such thing.",
    "405": "The route does not know this method.",
    "408": "The request took too long to arrive.",
    "409": "Nothing was changed, because what was asked for cannot go live.",
    "413": "The body is too large.",
    "415": "The engine does not take this kind of content.",
    "422": "`infeasible_profile`: no policy holds the floors; `best_attainable` and `closest` say what would.",
    "429": "A limit of the key or of the engine; see Retry-After.",
    "431": "The head of the request is too large.",
    "502": "The engine failed.",
    "503": "Nothing answers now; see Retry-After.",
    "504": "The engine did not answer in time.",
}
USUAL = ("400", "401", "405", "408", "431")
"""What every route may answer; ``ENGINE``: what one may that asks an engine."""
ENGINE = ("403", "404", "413", "415", "422", "429", "502", "503", "504")
STAMPS = {
    "x-request-id": "Names the request in logs, in the audit and for feedback; the client's own if it is plain.",
    "x-mopo-family": "The family that answers: directory name and digest.",
}
CHOICE = {
    "x-mopo-policy": "The policy that answered.",
    "x-mopo-profile": "The profile that was asked for, policy/<id> for a pinned policy, - for none.",
}
DRAW = {
    "x-mopo-feasible": "`false` where a fallback serves that does not hold every floor.",
    "x-mopo-share": "Of the policy in the mixture that it was drawn from.",
    "x-mopo-promise": "`average`: the mixture holds its floors over conversations, not in each.",
}
TEXT, WHOLE, NAMES = {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}
MAYBE_TEXT, MAYBE_NUMBER = {"type": ["string", "null"]}, {"type": ["number", "null"]}


@functools.cache
def document() -> Schema:
    """The OpenAPI document (3.1); nobody may change it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MOPO gateway",
            "version": __version__,
            "description": "OpenAI's API, where a threshold profile picks the policy that answers. Routes whose "
            "feature is switched off (audit, administration) answer 404.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],  # none is needed while no keys exist
    }


def _paths() -> Schema:
    from mopo_serve.audit.schema import TABLES

    model = {"name": "model", "in": "path", "required": True, "schema": TEXT}
    table = {"name": "table", "in": "path", "required": True, "schema": {"enum": [str(name) for name in TABLES]}}
    number = {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}
    page = [{"name": name, "in": "query", "schema": number} for name in ("before", "limit")]
    administered = ("403", "404", "409")
    return {
        "/v1/models": {"get": _route("Profiles, and policies for keys that may pin one.", "Models")},
        "/v1/models/{model}": {"get": _route("One of them.", "Model", "404", parameters=[model])},
        "/v1/chat/completions": {"post": _completion("Answer a conversation.")},
        "/v1/completions": {"post": _completion("Continue a text.")},
        "/v1/profiles/resolve": {
            "post": _route(
                "Which policy would serve, and why; generates nothing.", "Resolved", "403", "404", "413", "429",
                body="ResolveBody", headers=CHOICE,
            )
        },
        "/v1/feedback": {
            "post": _route("Judge an earlier answer.", "Stored", "404", "413", "429", "503", body="FeedbackBody")
        },
        "/v1/audit/{table}": {
            "get": _route(
                "A page of the audit, newest first; wants a key with the right.", "Rows", "403", "404", "503",
                parameters=[table, *page],
            )
        },
        "/admin/reload": {"post": _route("Go live with what is on disk.", "Anything", *administered)},
        "/admin/rollout": {
            "get": _route("Both versions side by side.", "Anything", "403", "404"),
            "post": _route("Give a new version a share.", "Anything", *administered, "413", body="RolloutBody"),
        },
        "/admin/rollout/promote": {"post": _route("Make it the only one.", "Anything", *administered)},
        "/admin/rollout/rollback": {"post": _route("Take it back.", "Anything", *administered)},
        "/healthz": {"get": _open("200 while the process lives.", "Anything")},
        "/readyz": {"get": _open("200 while an engine answers.", "Anything", "503")},
        "/metrics": {"get": _open("Metrics for Prometheus.", "Metrics")},
        "/openapi.json": {"get": _route("This document.", "Anything")},
    }  # fmt: skip


def _route(
    summary: str,
    answer: str,
    *errors: str,
    body: str | None = None,
    parameters: Sequence[Schema] = (),
    headers: dict[str, str] | None = None,
) -> Schema:
    """An operation that answers with the schema ``answer``, or with one of ``errors`` and the usual ones.

    ``headers`` of a success, by name, are described beside those of every answer.
    """
    responses = {"200": _answer("It worked.", answer, STAMPS | (headers or {}))}
    responses |= {status: _answer(ERRORS[status], "Error", STAMPS) for status in sorted({*USUAL, *errors})}
    route: Schema = {"summary": summary, "responses": responses}
    if parameters:
        route["parameters"] = list(parameters)
    if body is not None:
        route["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return route


def _open(summary: str, answer: str, *errors: str) -> Schema:
    """A route that looks at no key."""
    route = _route(summary, answer, *errors)
    del route["responses"]["401"]
    return route | {"security": []}


def _completion(summary: str) -> Schema:
    """A route whose answer is an engine's, whole or as a stream."""
    route = _route(summary, "Anything", *ENGINE, body="CompletionBody", headers=CHOICE | DRAW)
    route["responses"]["200"]["content"]["text/event-stream"] = {"schema": TEXT}
    return route


def _answer(description: str, name: str, headers: dict[str, str]) -> Schema:
    described = {header: {"description": text, "schema": TEXT} for header, text in headers.items()}
    media = "text/plain" if name == "Metrics" else "application/json"
    return {"description": description, "content": {media: {"schema": _ref(name)}}, "headers": described}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Schema:
    from mopo_serve.admin import RolloutBody
    from mopo_serve.feedback import FeedbackBody
    from mopo_serve.requests import RequestedProfile, ResolveBody

    read: list[type[BaseModel]] = [RequestedProfile, ResolveBody, FeedbackBody, RolloutBody]
    _, defined = models_json_schema([(model, "validation") for model in read], ref_template=_ref("{model}")["$ref"])
    schemas: Schema = defined["$defs"]
    profile = {"anyOf": [_ref("RequestedProfile"), {"type": "null"}]}
    schemas["ResolveBody"]["properties"]["objective_profile"] = profile  # taken out before the model reads the rest
    asked = {"model": TEXT | {"description": "mopo/<profile>, mopo, or mopo/policy/<id>"}, "objective_profile": profile}
    margins = {"type": "object", "additionalProperties": MAYBE_NUMBER}
    policy = _object(id=TEXT, margins=margins, meets={"type": "boolean"})
    return schemas | {
        "CompletionBody": {"type": "object", "properties": asked, "required": ["model"], "additionalProperties": True},
        "Anything": {"type": "object"},
        "Metrics": TEXT,
        "Model": _object(id=TEXT, object=TEXT, created=WHOLE, owned_by=TEXT),
        "Models": _object(object=TEXT, data={"type": "array", "items": _ref("Model")}),
        "Rows": _object(object=TEXT, data={"type": "array", "items": {"type": "object"}}),
        "Stored": _object(request_id=TEXT, policy=TEXT, profile=TEXT, family=TEXT, stored=NAMES, kept=NAMES),
        "Resolved": _object(
            policy=MAYBE_TEXT,
            feasible={"type": "boolean"},
            profile=MAYBE_TEXT,
            floors={"type": "object", "additionalProperties": {"type": "number"}},
            policies={"type": "array", "items": policy},
            reason=TEXT,
        ),
        "Error": _object(error=_object(message=TEXT, type=TEXT, param=MAYBE_TEXT, code=MAYBE_TEXT)),
    }


def _object(**members: Schema) -> Schema:
    """The schema of an object that has at least ``members``."""
    return {"type": "object", "properties": members, "required": list(members)}
