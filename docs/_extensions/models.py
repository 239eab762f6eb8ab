"""References of what pydantic models describe: settings, and the files that runs and certificates leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module, resources
from typing import Any

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

from empirics.config import CertifyConfig, RunConfig, presets

Schema = Mapping[str, Any]
_NUMBERS = {"integer": "whole number", "number": "number"}
_PLAIN = {"string": "text", "boolean": "`true` or `false`", "null": "`null`"}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def settings() -> str:
    """Every setting of a run, group by group."""
    schema = RunConfig.model_json_schema()
    return "\n\n".join(_settings_of(schema, schema["properties"], ""))


def _settings_of(schema: Schema, found: Mapping[str, Schema], prefix: str) -> Iterator[str]:
    groups = {name: field for name, field in found.items() if "$ref" in field}
    for name, field in found.items():
        if name not in groups:
            yield f"```{{setting}} {prefix}{name} = {_yaml(field.get('default'))}\n{_sentence(field)}\n```"
    for name, field in groups.items():
        group = schema["$defs"][field["$ref"].rpartition("/")[2]]
        yield f"(settings-{name})=\n## {name}"
        yield _paragraph(group)
        yield from _settings_of(schema, group["properties"], f"{name}.")


def certify_settings() -> str:
    """Settings of `proteus-bounds certify` that a run has not, or has otherwise."""
    own, run = CertifyConfig.model_json_schema(), dict(_leaves(RunConfig.model_json_schema()))
    rows = [(name, field) for name, field in _leaves(own) if run.get(name) != field]
    return "\n\n".join(f"`{name} = {_yaml(field.get('default'))}`\n: {_sentence(field)}" for name, field in rows)


def _leaves(schema: Schema, found: Mapping[str, Schema] | None = None, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    for name, field in (schema["properties"] if found is None else found).items():
        if "$ref" in field:
            yield from _leaves(schema, schema["$defs"][field["$ref"].rpartition("/")[2]]["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name, field


def preset_files() -> str:
    """The shipped settings, as they are."""
    folder = resources.files("empirics").joinpath("configs")
    return "\n\n".join(
        f"(preset-{name})=\n### {name}\n\n```yaml\n{folder.joinpath(f'{name}.yaml').read_text('utf-8').strip()}\n```" for name in presets()
    )


def variants() -> str:
    """The shipped table of variants, as it is."""
    text = resources.files("empirics").joinpath("configs", "ablation", "text.yaml").read_text("utf-8")
    return f"```yaml\n{text.strip()}\n```"


def fields(where: str, known: str | None = None) -> str:
    """Fields of a model, ``module:name``, and of the models in it, each a table; those that another model holds too are told there."""
    schema = _schema(where)
    parts = {where.partition(":")[2]: schema, **schema.get("$defs", {})}
    told = _schema(known).get("$defs", {}) if known else {}
    return "\n\n".join(_table(name, part) for name, part in parts.items() if name not in told)


def _schema(where: str) -> Schema:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name).model_json_schema()


def _table(name: str, model: Schema) -> str:
    required = model.get("required", [])
    rows = []
    for field, about in model["properties"].items():
        value = _allowed(about) + ("" if field in required else f"; {_code(about.get('default'))} by default")
        rows.append([f"`{field}`", value, about.get("description", "")])
    head = ["field", "value", "meaning"]
    if not any(row[2] for row in rows):
        head, rows = head[:2], [row[:2] for row in rows]
    lines = [head, ["---"] * len(head), *rows]
    return f"### {name}\n\n{_paragraph(model)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraph(model: Schema) -> str:
    return " ".join(model.get("description", "").split())


def _sentence(field: Schema) -> str:
    description = field.get("description", "")
    text = f"{description[:1].upper()}{description[1:]}." if description else ""
    return f"{text}\n\n{_allowed(field)[:1].upper()}{_allowed(field)[1:]}."


def _allowed(field: Schema) -> str:
    """What a field may hold, in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return "; or ".join(_allowed(item) for item in field["anyOf"])
    if "const" in field:
        return _code(field["const"])
    if "enum" in field:
        return "one of " + ", ".join(map(_code, field["enum"]))
    kind = field.get("type")
    if kind == "array":
        return _array(field)
    if kind == "object":
        inner = field.get("additionalProperties", True)
        return "mapping of text to anything" if isinstance(inner, bool) else f"mapping of text to {_allowed(inner)}"
    if kind == "string":
        return "path" if field.get("format") == "path" else "text"
    if kind in _NUMBERS:
        return ", ".join([_NUMBERS[kind], *(f"{words} {field[key]:g}" for key, words in _LIMITS.items() if key in field)])
    return _PLAIN.get(str(kind), "anything")


def _array(field: Schema) -> str:
    if "prefixItems" in field:
        return "pair of " + " and ".join(_allowed(item) for item in field["prefixItems"])
    least = f" (at least {field['minItems']})" if field.get("minItems") else ""
    return f"list{least} of {_allowed(field['items'])}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _code(value: Any) -> str:
    return f"`{_yaml(value)}`"


def _describe(env: BuildEnvironment, text: str, signature: addnodes.desc_signature) -> str:
    name, _, default = text.partition(" = ")
    signature += addnodes.desc_name(name, name)
    signature += addnodes.desc_annotation("", "", nodes.Text(f" = {default}"))
    return name


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register settings as things that can be linked to."""
    app.add_object_type("setting", "setting", objname="setting", indextemplate="single: %s", parse_node=_describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
