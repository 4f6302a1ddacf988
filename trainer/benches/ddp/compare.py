"""Samples a second of the built-in trainer and of PyTorch DDP: same models, global batches, optimizer and ranks, in turns.

    cargo build --release -p trainer --example ranks
    python3 trainer/benches/ddp/compare.py target/release/examples/ranks [--python PYTHON] [--rounds 5] [--seconds 2]

Every rank of both is pinned to a processor and computes with one thread. PYTHON has torch (2.0 or later).
"""

import argparse
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile

# Name: batch, settings of the trainer.
MODELS = {
    "mlp": (96, ["--model.hidden", "[128,64]"]),
    "wide": (256, ["--model.hidden", "[1024,1024]"]),
    "conv8": (96, ["--model.kind", "conv"]),
    "conv28": (96, ["--model.kind", "conv"]),
    "gpt": (16, ["--model.kind", "gpt"]),
}


def images(folder):
    """4,096 images of 28 x 28 random bytes with labels, as IDX."""
    with open(f"{folder}/images", "wb") as file:
        file.write(struct.pack(">IIII", 0x803, 4096, 28, 28) + os.urandom(4096 * 784))
    with open(f"{folder}/labels", "wb") as file:
        file.write(struct.pack(">II", 0x801, 4096) + bytes(at % 10 for at in range(4096)))
    return ["--data.source", "idx", "--data.images", f"{folder}/images", "--data.labels", f"{folder}/labels"]


def text(folder):
    """Random characters of 65 kinds."""
    with open(f"{folder}/text", "w") as file:
        file.write("".join(chr(48 + byte % 65) for byte in os.urandom(300_000)))
    return ["--data.source", "text", "--data.path", f"{folder}/text", "--generate.tokens", "0"]


def ours(program, kind, ranks, seconds, rate, folder):
    batch, settings = MODELS[kind]
    data = {"conv28": images, "gpt": text}.get(kind, lambda _: [])(folder)
    steps = str(max(60, int(2 * seconds * rate / batch)))
    output = subprocess.run(
        [program, str(ranks), "--training.steps", steps, "--training.batch_size", str(batch), *settings, *data,
         "--evaluate.every_epochs", "0", "--optimizer.learning_rate", "1e-3"],
        env={**os.environ, "RANKS_PINNED": "1"}, capture_output=True, text=True, check=True, timeout=300,
    ).stdout
    found = {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.]+)$", output, re.M)}
    return found["samples_per_second"], found["wait_share"]


def theirs(python, kind, ranks, seconds, port):
    script = os.path.join(os.path.dirname(__file__), "ddp.py")
    started = []
    for rank in range(ranks):
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                       "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        command = [python, script, kind, str(MODELS[kind][0]), str(seconds), "65"]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    output = [process.communicate(timeout=300)[0] for process in started]
    return float(re.match(r"(\d+) samples/s", output[0])[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    print("| model | ranks | built-in, samples/s | waiting | PyTorch DDP, samples/s | ratio |\n|---|---|---|---|---|---|")
    port = 29600
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.models:
            for ranks in options.ranks:
                mine, waits, rivals = [], [], []
                for _ in range(options.rounds):
                    port += 1
                    rivals.append(theirs(options.python, kind, ranks, options.seconds, port))
                    rate, wait = ours(options.program, kind, ranks, options.seconds, rivals[-1], folder)
                    mine.append(rate)
                    waits.append(wait)
                ratio = statistics.median(a / b for a, b in zip(mine, rivals))
                print(f"| {kind} | {ranks} | {statistics.median(mine):,.0f} | {statistics.median(waits):.0%} | "
                      f"{statistics.median(rivals):,.0f} | {ratio:.2f} |", flush=True)


main()
