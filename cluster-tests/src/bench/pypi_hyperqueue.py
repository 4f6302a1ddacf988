"""HyperQueue as PyPI ships it: a server and four workers of four slots in this process, driven through its Python client.

Usage: pypi_hyperqueue.py FOLDER jobs N      N separate jobs of /bin/true; prints the seconds from the first submit to the last end
"""

import json
import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def true():
    job = Job()
    job.program(["/bin/true"], stdout=None, stderr=None)
    return job


def jobs(cluster, count):
    client = cluster.client()
    begun = time.monotonic()
    client.wait_for_jobs([client.submit(true()) for _ in range(count)])
    return [time.monotonic() - begun]


def main():
    folder, count = sys.argv[1], int(sys.argv[3])
    with LocalCluster(folder) as cluster:
        for _ in range(4):
            cluster.start_worker(WorkerConfig(cores=4))
        jobs(cluster, max(count // 10, 1))
        print(json.dumps(jobs(cluster, count)))


main()
