"""The peer of `compare`: torch.distributed's gloo, f32 sums, timed as examples/all_reduce times ours.

Arguments: ranks bytes,bytes.. seconds. One line a size: bytes,median_us,p10_us,p90_us,algbw,busbw.
"""
import os
import sys
import time

import torch
import torch.distributed as dist

REWRITTEN_BYTES_MIN, WARM_UP, ITERATIONS_MAX = 64 << 10, 3, 2000


def measure(buffer, iterations):
    rewritten = buffer.numel() * 4 >= REWRITTEN_BYTES_MIN
    times = []
    buffer.fill_(0)
    dist.barrier()
    for iteration in range(iterations + WARM_UP):
        if rewritten:
            buffer.fill_(1)
            dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(buffer)
        if iteration >= WARM_UP:
            times.append((time.perf_counter() - started) * 1e6)
    slowest = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return sorted(slowest.tolist())


def rank_main(rank, ranks, sizes, seconds, store):
    cpus = sorted(os.sched_getaffinity(0))
    if ranks <= len(cpus):
        os.sched_setaffinity(0, {cpus[rank]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=ranks)
    for size in sizes:
        buffer = torch.zeros((size + 3) // 4)
        measure(buffer, 1)
        once = measure(buffer, 3)[1]
        iterations = int(min(max(seconds * 1e6 / (once + size / 5e3), 3), ITERATIONS_MAX))
        times = measure(buffer, iterations)
        median = times[len(times) // 2]
        algbw = size / (median * 1e3)
        if rank == 0:
            p10, p90 = times[(len(times) - 1) // 10], times[(len(times) - 1) * 9 // 10]
            print(f"{size},{median:.2f},{p10:.2f},{p90:.2f},{algbw:.3f},{algbw * 2 * (ranks - 1) / ranks:.3f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks, seconds = int(sys.argv[1]), float(sys.argv[3])
    sizes = [int(size) for size in sys.argv[2].split(",")]
    store = sys.argv[4]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            rank_main(rank, ranks, sizes, seconds, store)
            os._exit(0)
        children.append(child)
    failed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(1 if any(failed) else 0)
