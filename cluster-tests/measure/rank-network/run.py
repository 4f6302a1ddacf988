"""What it costs a framework's ranks to be in a network of their gang's own.

Start one worker pair with `--rank-user FIRST-LAST --rank-network` and one without the last flag (as root, each pair with a label of its own),
and submit this folder to each, three times in turns:

    command: python3 run.py
    code: .
    resources: {instance_count: 2}
    distribution: {type: pytorch, process_count_per_instance: 1}
    x-muster: {spread: true}

Rank 0 prints medians: microseconds for 64 bytes there and back, and megabytes a second one way in pieces of 1 MiB.
"""

import os
import socket
import statistics
import time

RANK = int(os.environ["RANK"])
AT = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
TURNS, PIECES, PIECE = 2_000, 400, 1 << 20


def connection():
    if RANK == 0:
        server = socket.create_server(AT)
        line, _ = server.accept()
    else:
        while True:
            try:
                line = socket.create_connection(AT)
                break
            except OSError:
                time.sleep(0.02)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def receive(line, count, into=bytearray(PIECE)):
    view, got = memoryview(into)[:count], 0
    while got < count:
        some = line.recv_into(view[got:])
        if some == 0:
            raise ConnectionError("the other rank is gone")
        got += some


def there_and_back(line):
    times = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        if RANK == 0:
            line.sendall(b"x" * 64)
            receive(line, 64)
        else:
            receive(line, 64)
            line.sendall(b"x" * 64)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


def one_way(line):
    begun, piece = time.perf_counter(), b"x" * PIECE
    for _ in range(PIECES):
        if RANK == 0:
            line.sendall(piece)
        else:
            receive(line, PIECE)
    if RANK == 0:
        receive(line, 1)
    else:
        line.sendall(b"y")
    return PIECES * PIECE / 1e6 / (time.perf_counter() - begun)


line = connection()
latency, speed = there_and_back(line), one_way(line)
if RANK == 0:
    print(f"{latency:.0f} us there and back, {speed:.0f} MB/s", flush=True)
