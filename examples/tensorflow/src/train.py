"""Fits a line with MultiWorkerMirroredStrategy; the variables are the same on every rank.

Muster sets TF_CONFIG, by which the strategy finds the other ranks and its own address.
"""

import argparse
import json
import os

import tensorflow as tf

WEIGHTS = [[2.0], [-3.0], [0.5]]
BIAS = 1.5


def report(name, value, step):
    """Tells Muster of a metric: one JSON object a line into the pipe that it names."""
    path = os.environ.get("MUSTER_METRICS")
    if path:
        with open(path, "w") as pipe:
            pipe.write(json.dumps({"name": name, "value": value, "step": step}) + "\n")


def shard(rank, size, rows=512):
    """This rank's rows of a data set that is the same everywhere."""
    x = tf.random.stateless_normal([rows, 3], seed=[7, 7])
    y = tf.matmul(x, tf.constant(WEIGHTS)) + BIAS
    return x[rank::size], y[rank::size]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()

    # Before anything else of TensorFlow: it begins to listen at its address of TF_CONFIG.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    config = json.loads(os.environ["TF_CONFIG"])
    rank, size = config["task"]["index"], len(config["cluster"]["worker"])
    assert strategy.num_replicas_in_sync == size, strategy.num_replicas_in_sync

    with strategy.scope():
        weights, bias = tf.Variable(tf.zeros([3, 1])), tf.Variable(0.0)
    x, y = shard(rank, size)

    @tf.function
    def train_step():
        def replica():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(tf.matmul(x, weights) + bias - y))
            slopes = tape.gradient(loss, [weights, bias])
            mean = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, [*slopes, loss])
            weights.assign_sub(arguments.lr * mean[0])
            bias.assign_sub(arguments.lr * mean[1])
            return mean[2]

        return strategy.experimental_local_results(strategy.run(replica))[0]

    for step in range(arguments.steps):
        loss = float(train_step())
        if rank == 0 and (step % 10 == 0 or step == arguments.steps - 1):
            print(f"step {step} loss {loss:.6f}", flush=True)
            report("loss", loss, step)

    off = tf.concat([tf.reshape(weights - WEIGHTS, [-1]), [bias - BIAS]], 0)
    error = float(tf.reduce_max(tf.abs(off)))
    assert error < 0.01, f"weights are off by {error}"
    print(f"rank {rank} of {size} done, weights off by {error:.6f}", flush=True)


if __name__ == "__main__":
    main()
