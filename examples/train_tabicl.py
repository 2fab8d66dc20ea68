"""Pretrain TabICL by its own trainer on datasets of ours: pip install 'tabicl[pretrain]'.

    python examples/train_tabicl.py DIRECTORY [--steps 3]

A tiny model on a CPU, so that it takes seconds; a real one takes other options of the trainer and the same datasets.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from settx_fast import scm

DATASETS, MICRO_BATCHES = 4, 2

PRIOR = scm.Prior(
    num_variables=(4, 13),
    graph=(scm.ErdosRenyi(expected_in_degree=(1.0, 3.0)), scm.ScaleFree((1, 3))),
    mechanism=(
        scm.MLP(hidden=(4, 32), activation=("tanh", "relu", "sine")),
        scm.Trees(),
        scm.Clusters(),
        scm.Product(),
    ),
    noise_scale=scm.LogUniform(0.05, 1.0),
    target_environments=0,
    observation=(scm.Levels((2, 10), ordered=False, probability=(0.0, 0.3)),),
    target="inner",
)

parser = argparse.ArgumentParser()
parser.add_argument("directory", type=Path)
parser.add_argument("--steps", type=int, default=3)
options = parser.parse_args()

stream = scm.tabular_stream(
    PRIOR, DATASETS, seed=0, num_rows=128, max_classes=5, predictable=0.05, columns_per_variable=(1, 2)
)
scm.write_prior_dir(stream, options.directory / "prior", options.steps, batches_per_file=MICRO_BATCHES)

trainer = {
    "prior_dir": options.directory / "prior",
    "checkpoint_dir": options.directory,
    "max_steps": options.steps,
    "batch_size": DATASETS * MICRO_BATCHES,
    "micro_batch_size": DATASETS,
    "max_classes": stream.max_classes,
    "embed_dim": 32, "row_nhead": 4, "col_num_blocks": 1, "col_num_inds": 8, "row_num_blocks": 1, "icl_num_blocks": 1,
    "device": "cpu", "amp": False, "save_temp_every": options.steps, "save_perm_every": options.steps,
}  # fmt: skip
flags = [part for name, value in trainer.items() for part in (f"--{name}", str(value))]
subprocess.run([sys.executable, "-m", "tabicl.train", *flags], check=True)
print(f"trained for {options.steps} steps: {sorted(path.name for path in options.directory.glob('*.ckpt'))}")
