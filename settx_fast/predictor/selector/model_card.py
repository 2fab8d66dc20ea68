"""The model card of the shipped selector: everything in it was measured when the model was made."""

from __future__ import annotations

import json

from settx_fast.predictor.frameworks import FRAMEWORKS, TITLES
from settx_fast.predictor.selector.decision import LEAST_GAIN
from settx_fast.predictor.selector.shipped import Selector

_LIMITS = """\
- It was trained on simulated tables alone: structural causal models whose mechanisms move between sources and move
  again, by half to four times as much, in deployment. Where what moves in deployment never moved between the sources,
  nothing in a table can say so, and the selector does not know either.
- 4 to 30 columns, 2 to 20 sources, 100 to 20,000 rows. A table with a trait outside training gets ERM, and is told so.
- It chooses between linear frameworks; risks are those of linear models. Gradient-boosted ERM is not ranked.
- Risks are mean squared errors; a target of two categories is treated as a number.
- Intervals hold for datasets of the training prior. On real tables they have to be checked by whoever uses them."""


def model_card(selector: Selector, size: int) -> str:
    """Markdown: what it is, what it was made of, what it is worth, and where it ends."""
    record, config = selector.record, selector.network.config
    members = list(selector.network.members)
    parameters = sum(parameter.numel() for parameter in members[0].parameters())
    made_of = (
        f"{record['training datasets']:,} datasets, {record['epochs']} epochs, seed {record['seed']}, "
        f"torch {record['torch']}, sampler stream {record['stream version']}"
    )
    return f"""\
# Model card: framework selector

Predicts, for a table of rows from several environments, the risk in deployment of {len(FRAMEWORKS)} learning frameworks
({", ".join(TITLES[name] for name in FRAMEWORKS)}), and recommends one:
ERM unless another is expected to do better, doubt deducted.

| | |
|---|---|
| network | {len(members)} of {parameters:,} parameters, together, {size / 1e6:.2f} MB; {json.dumps(vars(config))} |
| training | {made_of} |
| prior | `scm.presets.recurring(12, 6)` and `scm.presets.recurring(30, 20)`; as JSON in the file's metadata |
| made by | `make pretrained` |
| licence | MIT, as the package |

## What it is worth

{record["datasets"]:,} held-out datasets of the training prior (4 to 12 columns, 2 to 6 sources, 1,000 rows). Regret:
the geometric mean of the risk of the chosen framework over that of the best of the {len(FRAMEWORKS)}, less 1.
{_trees(record)}
{_regrets(record)}

Of its choices {_choices(record)}. It abstained on {record["abstained"]:.1%}.
It recommends the framework whose expected gain over ERM, as a log ratio of risks, is greatest less
{record["caution"]:.2f} of its variance, and ERM where none is above {LEAST_GAIN}.
Its 90 % intervals hold the true risk in {record["interval coverage"]:.1%}.
Roles of columns: macro AUROC {record["roles AUROC"]:.3f}; on linear SCMs of 5 to 10 variables with 4 sources
{record["roles AUROC, linear"]:.3f}. At 1,000 rows a column that is independent of the target is named unrelated in
{record["independent named unrelated"]:.1%}, with a probability of {record["unrelated, independent"]:.2f} on average.

## Limits

{_LIMITS}
"""


def _regrets(record: dict) -> str:
    by_sources = record["regret by sources"]
    header = "| choice | all | " + " | ".join(f"{k} sources" for k in by_sources) + " |"
    lines = [header, "|---" * (2 + len(by_sources)) + "|"]
    for name, regret in record["regret"].items():
        cells = " | ".join(f"{each[name]:.1%}" for each in by_sources.values())
        lines.append(f"| {name} | {regret:.1%} | {cells} |")
    return "\n".join(lines)


def _trees(record: dict) -> str:
    if "trees" not in record["regret"]:
        return ""
    return f"Trees are gradient-boosted on the same descriptors of {record['trees fitted to']:,} training datasets.\n"


def _choices(record: dict) -> str:
    ordered = sorted(record["chosen"].items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{share:.0%} were {TITLES[name]}" for name, share in ordered)
