"""The reference of priors in YAML, from the dataclasses that read it."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields
from typing import get_args

import yaml

from builder.docstrings import with_tables
from settx_fast import scm
from settx_fast.scm import distributions, graphs, mechanisms, noises, observation
from settx_fast.scm._fields import encode

GROUPS: dict[str, tuple[type, ...]] = {
    "The prior": (scm.Prior, scm.PerVariable),
    "Distributions of a number": get_args(distributions.Distribution),
    "Graphs": get_args(graphs.Graph),
    "Mechanisms": get_args(mechanisms.Mechanism),
    "Noises": get_args(noises.Noise),
    "How environments differ": (scm.Intervention, scm.Shifts),
    "What is seen": get_args(observation.Observation),
}
TYPES = {
    "Parameter": "number, `[low, high]` or distribution",
    "Graph": "graph",
    "Mechanism": "mechanism",
    "Noise": "noise",
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "`true` or `false`",
    "None": "`null`",
    "PerVariable": "PerVariable",
    "LogUniform": "LogUniform",
    "Variables": "list of numbers, names or roles, or `null`",
    "Shifts": "Shifts",
    "Kind": "kind",
    "Loss": "kind",
    "Side": "`source`, `target` or `all`",
    "Standardisation": "`none`, `internal` or `sample`",
    "FunctionName": "function",
}


def page() -> str:
    """The page: how a file looks, then every type with its keys and their defaults."""
    parts = [HEAD]
    for title, classes in GROUPS.items():
        parts += [f"## {title}", *map(_section, classes)]
    return "\n\n".join(parts) + "\n"


def _section(cls: type) -> str:
    documentation = with_tables(inspect.cleandoc(cls.__doc__ or ""))
    known = fields(cls)
    if not known:
        return f"### {cls.__name__}\n\n{documentation}\n\nNo keys."
    rows = "\n".join(f"| `{f.name}` | {type_in_yaml(str(f.type))} | {_default(f)} |" for f in known)
    return f"### {cls.__name__}\n\n{documentation}\n\n| key | value | default |\n|---|---|---|\n{rows}"


def type_in_yaml(annotation: str) -> str:
    """What may stand in YAML where Python has this annotation."""
    return " or ".join(dict.fromkeys(_name(part) for part in _split(annotation, " | ")))


def _name(annotation: str) -> str:
    if annotation.startswith("Literal["):
        return " or ".join(f"`{value}`" for value in eval(annotation.removeprefix("Literal"), {}))
    if annotation.startswith("tuple["):
        inside = _split(annotation[6:-1], ", ")
        if inside[-1] == "...":
            return f"list of {type_in_yaml(inside[0])}"
        return "`[low, high]`"
    return TYPES.get(annotation, annotation)


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at + len(separator)
    return [*parts, text[start:]]


def _default(field: Field[object]) -> str:
    if field.default is MISSING:
        return "required"
    text = yaml.safe_dump(encode(field.default), default_flow_style=True, allow_unicode=True, width=10_000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


HEAD = """# Priors in YAML

A prior is a distribution of structural causal models. As a file it is what `settx-fast sample`, `train` and
`scm.Prior.read` take. Every mapping names its type under `type`; what is left out has its default; an unknown key is an
error that names the nearest known one.

```yaml
type: Prior
num_variables: [5, 20]            # a range: drawn per dataset
graph: {type: ErdosRenyi, expected_in_degree: 2}
mechanism:                        # several: each variable takes one
- {type: Linear}
- {type: MLP, hidden: [4, 16]}
noise: [{type: Gaussian}, {type: StudentT, degrees: [3, 10]}]
noise_scale: {type: LogUniform, low: 0.25, high: 1.5}
source_environments: 3
target_interventions:
- {type: Intervention, kind: shift, value: [1.0, 2.0]}
target: inner
```

`settx-fast prior show random_linear > my.yaml` prints a preset with every field explained, to be changed. JSON has the
same keys."""
