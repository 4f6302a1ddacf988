/* The peer of `compare`: MPI_Allreduce of f32 sums, timed as examples/all_reduce times ours.
 * Arguments: bytes,bytes.. seconds. One line a size: bytes,median_us,p10_us,p90_us,algbw,busbw. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REWRITTEN_BYTES_MIN = 64 << 10, WARM_UP = 3, ITERATIONS_MAX = 2000 };

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* Fills `times` with what each operation took on its slowest rank. */
static void measure(float *buffer, size_t count, int iterations, double *times) {
    int rewritten = count * sizeof *buffer >= REWRITTEN_BYTES_MIN;
    for (size_t at = 0; at < count; at++) buffer[at] = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    for (int iteration = -WARM_UP; iteration < iterations; iteration++) {
        if (rewritten) {
            for (size_t at = 0; at < count; at++) buffer[at] = 1;
            MPI_Barrier(MPI_COMM_WORLD);
        }
        double started = MPI_Wtime();
        MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        if (iteration >= 0) times[iteration] = (MPI_Wtime() - started) * 1e6;
    }
    MPI_Allreduce(MPI_IN_PLACE, times, iterations, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    qsort(times, iterations, sizeof *times, ascending);
}

int main(int argc, char **argv) {
    int rank, world;
    static double times[ITERATIONS_MAX];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    double seconds = atof(argv[2]);
    for (char *size = strtok(argv[1], ","); size; size = strtok(NULL, ",")) {
        size_t bytes = strtoul(size, NULL, 10), count = (bytes + 3) / 4;
        float *buffer = malloc(count * sizeof *buffer);
        measure(buffer, count, 1, times);
        measure(buffer, count, 3, times);
        double wanted = seconds * 1e6 / (times[1] + bytes / 5e3);
        int iterations = wanted < 3 ? 3 : wanted > ITERATIONS_MAX ? ITERATIONS_MAX : (int)wanted;
        measure(buffer, count, iterations, times);
        double median = times[iterations / 2], algbw = bytes / (median * 1e3);
        if (rank == 0)
            printf("%zu,%.2f,%.2f,%.2f,%.3f,%.3f\n", bytes, median, times[(iterations - 1) / 10],
                   times[(iterations - 1) * 9 / 10], algbw, algbw * 2 * (world - 1) / world);
        fflush(stdout);
        free(buffer);
    }
    MPI_Finalize();
    return 0;
}
