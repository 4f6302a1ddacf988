"""Fits a line on all MPI ranks: each has its part of the data, and MPI_Allreduce sums the gradients.

Every rank says where it is and how many there are; it fails if the ranks end with different weights or with wrong ones.
"""

import argparse
import array
import json
import os
import random

from mpi4py import MPI

WEIGHTS = [2.0, -3.0, 0.5]
BIAS = 1.5


def report(name, value, step):
    """Tells Muster of a metric: one JSON object a line into the pipe that it names."""
    path = os.environ.get("MUSTER_METRICS")
    if path:
        with open(path, "w") as pipe:
            pipe.write(json.dumps({"name": name, "value": value, "step": step}) + "\n")


def shard(rank, size, rows=512):
    """This rank's rows of a data set that is the same everywhere."""
    numbers = random.Random(7)
    data = []
    for _ in range(rows):
        x = [numbers.gauss(0, 1) for _ in WEIGHTS]
        data.append((x, sum(w * v for w, v in zip(WEIGHTS, x)) + BIAS))
    return data[rank::size]


def gradient(model, data):
    """Mean squared error on these rows: its gradient, then itself."""
    total = [0.0] * (len(model) + 1)
    for x, y in data:
        off = sum(w * v for w, v in zip(model, x)) + model[-1] - y
        for place, value in enumerate([*x, 1.0]):
            total[place] += 2 * off * value
        total[-1] += off * off
    return array.array("d", [value / len(data) for value in total])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()

    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    data = shard(rank, size)
    model = [0.0] * (len(WEIGHTS) + 1)
    total = array.array("d", [0.0] * (len(model) + 1))
    started = MPI.Wtime()
    for step in range(arguments.steps):
        world.Allreduce([gradient(model, data), MPI.DOUBLE], [total, MPI.DOUBLE], op=MPI.SUM)
        model = [value - arguments.lr * down / size for value, down in zip(model, total)]
        if rank == 0 and (step % 10 == 0 or step == arguments.steps - 1):
            report("loss", total[-1] / size, step)
    took = MPI.Wtime() - started

    assert all(other == model for other in world.allgather(model)), "the ranks disagree"
    error = max(abs(found - wanted) for found, wanted in zip(model, [*WEIGHTS, BIAS]))
    assert error < 0.01, f"weights are off by {error}"
    where = MPI.Get_processor_name()
    print(f"rank {rank} of {size} on {where} done in {took * 1e3:.0f} ms, weights off by {error:.6f}", flush=True)
    report(f"seconds_rank_{rank}", took, 1)


if __name__ == "__main__":
    main()
