"""One rank of the same training in PyTorch DDP over gloo, to be timed beside the built-in trainer; see compare.py."""

import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, positions, width = x.shape
        parts = self.query_key_value(self.norm1(x)).view(batch, positions, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, positions, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, tokens, positions, layers, heads, width):
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x):
        x = self.token(x) + self.position.weight
        return self.head(self.norm(self.blocks(x)))


def perceptron(*sizes):
    layers = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def conv(height, hidden):
    size = height // 4
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), *perceptron(size * size * 32, hidden, 10),
    )


def main():
    kind, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
    torch.manual_seed(1)
    samples, classes = 4096, 10
    if kind in ("mlp", "wide"):
        hidden = {"mlp": [128, 64], "wide": [1024, 1024]}[kind]
        model, data = nn.Sequential(*perceptron(64, *hidden, 10)), torch.rand(samples, 64)
    elif kind == "conv8":
        model, data = conv(8, 64), torch.rand(samples, 1, 8, 8)
    elif kind == "conv28":
        model, data = conv(28, 64), torch.rand(samples, 1, 28, 28)
    else:
        classes = int(sys.argv[4])
        model, data = Gpt(classes, 64, 4, 4, 128), torch.randint(classes, (samples, 64))
    labels = torch.randint(classes, (samples, 64) if kind == "gpt" else (samples,))
    if world > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    share, step, timed, begun = batch // world, 0, 0, None
    order = torch.randperm(samples)
    while True:
        start = (step * batch + rank * share) % (samples - share)
        chosen = order[start:start + share]
        logits = model(data[chosen])
        loss = F.cross_entropy(logits.reshape(-1, classes), labels[chosen].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        # Every rank goes by rank 0's clock, looked at seldom.
        if step % 20 == 0:
            now = torch.tensor([time.monotonic()], dtype=torch.float64)
            dist.broadcast(now, 0)
            if begun is None and step >= 40:
                begun, timed = now.item(), step
            elif begun is not None and now.item() - begun > seconds:
                break
    if rank == 0:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{(step - timed) * batch / (now.item() - begun):.0f} samples/s, {parameters} parameters", flush=True)
    dist.destroy_process_group()


main()
