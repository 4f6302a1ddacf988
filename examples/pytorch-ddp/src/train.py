"""Fits a line with DistributedDataParallel over gloo; the result is the same on every rank.

Muster, or torchrun below it, sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, so `env://` finds the other ranks.
"""

import argparse
import json
import os
import pathlib

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

WEIGHTS = torch.tensor([[2.0, -3.0, 0.5]])
BIAS = 1.5


def report(name, value, step):
    """Tells Muster of a metric: one JSON object a line into the pipe that it names, which torchrun's children find too."""
    path = os.environ.get("MUSTER_METRICS")
    if path:
        with open(path, "w") as pipe:
            pipe.write(json.dumps({"name": name, "value": value, "step": step}) + "\n")


def shard(rank, world_size, rows=512):
    """This rank's rows of a data set that is the same everywhere."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, 3, generator=generator)
    y = x @ WEIGHTS.T + BIAS
    return x[rank::world_size], y[rank::world_size]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()

    dist.init_process_group("gloo", init_method="env://")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # A different start on each rank: DistributedDataParallel hands rank 0's to all.
    torch.manual_seed(rank)
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.lr)
    x, y = shard(rank, world_size)
    for step in range(arguments.steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == arguments.steps - 1:
            print(f"rank {rank} step {step} loss {loss.item():.6f}", flush=True)
            if rank == 0:
                report("loss", loss.item(), step)

    # All ranks must hold the same weights, and they must be the ones that made the data.
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    everyone = [torch.empty_like(flat) for _ in range(world_size)]
    dist.all_gather(everyone, flat)
    assert all(torch.equal(flat, other) for other in everyone), "the ranks disagree"
    error = (flat - torch.cat([WEIGHTS.flatten(), torch.tensor([BIAS])])).abs().max().item()
    assert error < 0.01, f"weights are off by {error}"
    if rank == 0 and arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        torch.save(model.module.state_dict(), arguments.out / "model.pt")
    print(f"rank {rank} of {world_size} done, weights off by {error:.6f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
