"""One rank of a training step under DistributedDataParallel: python distributed_step.py FOLDER DEVICE RANK RANKS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.argv[2] == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before triton loads

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from settx_fast import ISAB


def main() -> None:
    folder, device, rank, ranks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{ranks}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = DistributedDataParallel(ISAB(16, 16, 2, 3, ln=True, impl="triton").to(device))
    x = torch.randn(4, 20, 16)[rank * 4 // ranks : (rank + 1) * 4 // ranks].to(device)
    model(x).square().mean().backward()
    torch.save({name: p.grad.cpu() for name, p in model.module.named_parameters()}, folder / f"{rank}-of-{ranks}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
