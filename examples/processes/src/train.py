"""Fits a line on all ranks of a gang without any framework: sockets, the manifest, and a sum in rank order.

Rank 0 listens on the descriptor MUSTER_LISTEN_FD, which is bound before any rank starts: nobody has to try again.
"""

import argparse
import hmac
import json
import os
import random
import socket

WEIGHTS = [2.0, -3.0, 0.5]
BIAS = 1.5


def report(**point):
    """Tells Muster of a metric: one JSON object a line into the pipe that it names."""
    with open(os.environ["MUSTER_METRICS"], "w") as pipe:
        pipe.write(json.dumps(point) + "\n")


class Gang:
    """The ranks of this attempt, joined at rank 0."""

    def __init__(self):
        with open(os.environ["MUSTER_MANIFEST"]) as file:
            manifest = json.load(file)
        self.rank = int(os.environ["MUSTER_RANK"])
        self.size = manifest["world_size"]
        self.others = [None] * self.size
        if self.rank == 0:
            self._accept(manifest)
        else:
            host, port = manifest["peers"][0]["data"].rsplit(":", 1)
            connection = socket.create_connection((host, int(port)), timeout=60).makefile("rw")
            self.others[0] = connection
            self._send(0, {"secret": manifest["secret"], "rank": self.rank})

    def _accept(self, manifest):
        listener = socket.socket(fileno=int(os.environ["MUSTER_LISTEN_FD"]))
        listener.settimeout(60)
        while None in self.others[1:]:
            connection, address = listener.accept()
            connection.settimeout(60)
            file = connection.makefile("rw")
            try:
                hello = json.loads(file.readline(4096))
                known = hmac.compare_digest(hello["secret"], manifest["secret"])
                rank = int(hello["rank"])
            except (ValueError, TypeError, KeyError, OSError):
                known, rank = False, 0
            if known and 0 < rank < self.size and self.others[rank] is None:
                self.others[rank] = file
            else:
                print(f"turned away {address}", flush=True)
                connection.close()

    def _send(self, to, value):
        self.others[to].write(json.dumps(value) + "\n")
        self.others[to].flush()

    def _receive(self, source):
        line = self.others[source].readline()
        if not line:
            raise ConnectionError(f"rank {source} is gone")
        return json.loads(line)

    def gather(self, value):
        """Every rank's value, in rank order, on every rank."""
        if self.rank != 0:
            self._send(0, value)
            return self._receive(0)
        values = [value] + [self._receive(rank) for rank in range(1, self.size)]
        for rank in range(1, self.size):
            self._send(rank, values)
        return values

    def mean(self, vector):
        """The mean of all ranks' vectors: the same bits everywhere."""
        return [sum(column) / self.size for column in zip(*self.gather(vector))]


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
    return [value / len(data) for value in total]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()

    gang = Gang()
    data = shard(gang.rank, gang.size)
    model = [0.0] * (len(WEIGHTS) + 1)
    for step in range(arguments.steps):
        *slope, loss = gang.mean(gradient(model, data))
        model = [value - arguments.lr * down for value, down in zip(model, slope)]
        if gang.rank == 0 and (step % 10 == 0 or step == arguments.steps - 1):
            print(f"step {step} loss {loss:.6f}", flush=True)
            report(name="loss", value=loss, step=step)

    everyone = gang.gather(model)
    assert all(other == model for other in everyone), "the ranks disagree"
    error = max(abs(found - wanted) for found, wanted in zip(model, [*WEIGHTS, BIAS]))
    assert error < 0.01, f"weights are off by {error}"
    print(f"rank {gang.rank} of {gang.size} done, weights off by {error:.6f}", flush=True)


if __name__ == "__main__":
    main()
