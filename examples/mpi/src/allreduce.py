"""Sums a vector over all MPI ranks and checks the result; every rank says where it is and how many there are."""

import argparse
import array
import json
import os

from mpi4py import MPI


def report(name, value):
    """Tells Muster of a metric: one JSON object a line into the pipe that it names."""
    path = os.environ.get("MUSTER_METRICS")
    if path:
        with open(path, "w") as pipe:
            pipe.write(json.dumps({"name": name, "value": value, "step": 1}) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000, help="numbers in the vector")
    arguments = parser.parse_args()

    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    mine = array.array("d", [rank + 1.0]) * arguments.count
    total = array.array("d", [0.0]) * arguments.count
    started = MPI.Wtime()
    world.Allreduce([mine, MPI.DOUBLE], [total, MPI.DOUBLE], op=MPI.SUM)
    took = MPI.Wtime() - started
    expected = size * (size + 1) / 2
    assert all(value == expected for value in total), f"expected {expected}, got {total[0]}"
    print(f"rank {rank} of {size} on {MPI.Get_processor_name()}: sum {expected:g} in {took * 1e3:.2f} ms", flush=True)
    report(f"seconds_rank_{rank}", took)


if __name__ == "__main__":
    main()
