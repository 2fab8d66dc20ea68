"""The property predictor: a Set Transformer as trunk, one head per property."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from settx_fast._files import checksum, read_json, write_bytes
from settx_fast.nn import SetTransformer
from settx_fast.predictor.features import FeatureConfig, SetInputs
from settx_fast.predictor.losses import Z90, Band, loss_named, masked_mean, order_cost
from settx_fast.predictor.targets import BY_NAME, FRAMEWORKS, TARGETS, Target

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CHECKSUM = "weights_sha256"  # of the weights, in the config
REMEDY = "train it again"
SHIPPED = Path(__file__).parent / "pretrained" / "properties"  # the model that travels with the package


@dataclass(frozen=True)
class ModelConfig:
    """Size of the trunk and the loss of its number heads (`losses.LOSSES`)."""

    hidden: int = 64
    num_inds: int = 16
    num_heads: int = 4
    ln: bool = True
    loss: str = "gaussian_nll"

    def __post_init__(self) -> None:
        loss_named(self.loss)


class Estimate(NamedTuple):
    """What the model says of one property, in the property's own units.

    For numbers: `value` the centre, `standard_deviation`, and the 90 % interval `lower` … `upper`; (B,) or
    (B, width) per dataset, (B, F) per variable (NaN for absent columns). For classes (`role`): `value` holds
    probabilities (B, F, classes) in the order of `targets.ROLES`, the other three are None.
    """

    value: Tensor
    standard_deviation: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None


class PropertyPredictor(nn.Module):
    """Set elements (B, R, C) → properties of each dataset.

    The trunk pools the set into 1 + F tokens: one for the dataset, one for each column.
    """

    def __init__(self, features: FeatureConfig, model: ModelConfig | None = None) -> None:
        super().__init__()
        self.features, self.config = features, model or ModelConfig()
        self.loss = loss_named(self.config.loss)
        hidden = self.config.hidden
        self.trunk = SetTransformer(
            features.element_dim,
            1 + features.max_features,
            hidden,
            num_inds=self.config.num_inds,
            dim_hidden=hidden,
            num_heads=self.config.num_heads,
            ln=self.config.ln,
        )
        self.heads = nn.ModuleDict({target.name: self._head(target) for target in TARGETS})
        pairs = len(FRAMEWORKS) * (len(FRAMEWORKS) - 1) // 2
        self.log_steepness = nn.Parameter(torch.full((pairs,), 1.0))
        for target in TARGETS:
            if target.kind == "number":  # of the training distribution, on the model's scale
                self.register_buffer(f"mean_{target.name}", torch.zeros(target.shape))
                self.register_buffer(f"deviation_{target.name}", torch.ones(target.shape))
                self.register_buffer(f"spread_{target.name}", torch.ones(target.shape))

    def _head(self, target: Target) -> nn.Module:
        outputs = self.loss.outputs if target.kind == "number" else 1
        hidden = self.config.hidden
        return nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, target.width * outputs))

    def forward(self, inputs: SetInputs) -> dict[str, Tensor]:
        """Head outputs by property: the shape of the property and one axis more, of `loss.outputs` or classes."""
        tokens = self.trunk(inputs.elements)  # (B, 1 + F, hidden): the dataset, then the columns by slot
        columns = tokens[:, 1:].gather(1, inputs.slot[..., None].expand(-1, -1, tokens.shape[2]))
        outputs = {}
        for target in TARGETS:
            of = tokens[:, 0] if target.level == "dataset" else columns
            output = self.heads[target.name](of)
            several = target.kind == "number" and target.shape
            outputs[target.name] = output.unflatten(-1, (*target.shape, -1)) if several else output
        return outputs

    def costs(self, inputs: SetInputs, truth: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean loss of every property, and of the order of the risks, on which decisions rest.

        truth: on the model's scale, as `data.Example.model_truth` returns it.
        """
        outputs = self(inputs)
        costs = {target.name: self._cost(target, outputs[target.name], truth[target.name]) for target in TARGETS}
        risk = self.band(BY_NAME["risk"], outputs["risk"]).centre
        return costs | {"order_of_risks": order_cost(risk, truth["risk"], self.log_steepness.exp())}

    def _cost(self, target: Target, output: Tensor, truth: Tensor) -> Tensor:
        if target.kind == "classes":
            known = truth >= 0
            cost = nn.functional.cross_entropy(output.mT, truth.clamp(min=0), reduction="none")
            return masked_mean(cost, known)
        mean, deviation = self.standard(target)
        known = truth.isfinite() & (deviation > 0)
        return masked_mean(self.loss.cost(output, ((truth - mean) / deviation).where(known, 0.0)), known)

    def standard(self, target: Target) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (`target.shape`) over the training distribution, on the model's scale.

        A property that never varies has deviation 0: it costs nothing and is predicted exactly.
        """
        return self.get_buffer(f"mean_{target.name}"), self.get_buffer(f"deviation_{target.name}")

    @torch.no_grad()
    def predict(self, inputs: SetInputs) -> dict[str, Estimate]:
        """Every property of every dataset, in its own units (those of the data that `inputs` was encoded from)."""
        outputs = self(inputs)
        return {name: self._estimate(BY_NAME[name], output, inputs) for name, output in outputs.items()}

    def _estimate(self, target: Target, output: Tensor, inputs: SetInputs) -> Estimate:
        if target.kind == "classes":
            return Estimate(output.softmax(-1))
        centre, *ends = (target.to_raw(value, inputs) for value in self.band(target, output))
        lower, upper = torch.minimum(*ends), torch.maximum(*ends)  # swapped where the column is negated
        if target.level == "variable":
            centre, lower, upper = (value.masked_fill(~inputs.present, torch.nan) for value in (centre, lower, upper))
        return Estimate(centre, (upper - lower) / (2 * Z90), lower, upper)

    def band(self, target: Target, output: Tensor) -> Band:
        """Centre and 90 % interval of a number on the model's scale: (B,), (B, several) or (B, F) each."""
        mean, deviation = self.standard(target)
        band = self.loss.band(output, self.get_buffer(f"spread_{target.name}"))
        return Band(*(value * deviation + mean for value in band))

    def save(self, directory: Path | str) -> None:
        """Write `model.safetensors`; the training loop writes the `config.json` that `load` reads beside it."""
        weights = save({name: value.contiguous() for name, value in self.state_dict().items()})
        write_bytes(Path(directory) / WEIGHTS, weights)

    @classmethod
    def load(cls, directory: Path | str) -> PropertyPredictor:
        """The trained model of a run directory, on the CPU, in evaluation mode.

        Raises FileNotFoundError if there is none, ValueError if its files are damaged or of another version.
        """
        directory = Path(directory)
        for name in (CONFIG, WEIGHTS):
            if not (directory / name).exists():
                raise FileNotFoundError(
                    f"no trained model in {directory}: {name} is missing (`settx-fast train` writes it)"
                )
        config = read_json(directory / CONFIG, REMEDY)
        if config.get(CHECKSUM) not in (None, checksum(directory / WEIGHTS)):
            raise ValueError(f"'{directory / WEIGHTS}' is damaged, or not the model of its {CONFIG}: {REMEDY}")
        try:
            predictor = cls(FeatureConfig(**config["features"]), ModelConfig(**config["model"]))
            predictor.load_state_dict(load_file(directory / WEIGHTS))
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            detail = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{directory}: expected a model of this version of settx_fast, got one that does not fit ({detail}): "
                f"{REMEDY}"
            ) from error
        return predictor.eval()
