/* Times the linear kernels on the matrices of a small transformer: kernels FORMAT ROWS MILLIONS THREADS REPEATS HUGE.
 *
 * Each repeat measures the limit, the kernels over all matrices, and the limit again: for up to LLMC_SMALL_BATCH rows
 * the limit is reading as many bytes, for more it is arithmetic in registers. Times are wall seconds and seconds of
 * processor (of all threads), so that a busy machine can be told from a slow kernel. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "dot.h"
#include "linear.h"
#include "pack.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define STRIPE (1 << 20)
#define PEAK_STEPS 1000000
#define PEAK_CHAINS 12

static const struct {
    int64_t N, K;
    int is_gated;
} SHAPES[] = {{2560, 1536, 0}, {1536, 1536, 0}, {4096, 1536, 1}, {1536, 4096, 0}};
#define NUM_SHAPES 4

typedef struct {
    llmc_matrix *matrices;
    int count, is_integer;
    const float *x;
    float *y;
    int64_t rows, bytes;
    void *workspace;
    const char *memory;
    float *sums;
} work;

static void run(llmc_thread *t, void *argument) {
    work *w = argument;
    for (int i = 0; i < w->count; i++) llmc_linear(t, &w->matrices[i], w->x, w->y, w->rows, w->workspace, 0);
}

static void read_all(llmc_thread *t, void *argument) {
    work *w = argument;
    LLMC_FOR(t, chunk, w->bytes / STRIPE) {
        const float *p = (const float *)(const void *)(w->memory + chunk * STRIPE);
        vf a = vf_zero(), b = a, c = a, d = a;
        for (int64_t i = 0; i < STRIPE / 4; i += 4 * LLMC_LANES) {
            a += vf_load(p + i), b += vf_load(p + i + LLMC_LANES);
            c += vf_load(p + i + 2 * LLMC_LANES), d += vf_load(p + i + 3 * LLMC_LANES);
        }
        w->sums[chunk * 16] = vf_sum((a + b) + (c + d));
    }
}

static void compute(llmc_thread *t, void *argument) {
    work *w = argument;
    LLMC_FOR(t, chunk, 2 * t->count) {
        vf f[PEAK_CHAINS];
        vi n[PEAK_CHAINS];
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_CHAINS; i++) f[i] = vf_all((float)i), n[i] = vi_all(i);
        vf x = vf_all(0.999f);
        vi q = vi_all((int32_t)chunk * 0x01020304);
        for (int k = 0; k < PEAK_STEPS; k++) {
            if (w->is_integer) {
#pragma GCC unroll 12
                for (int i = 0; i < PEAK_CHAINS; i++) n[i] = vi_dot(n[i], q, q);
            } else {
#pragma GCC unroll 12
                for (int i = 0; i < PEAK_CHAINS; i++) f[i] = vf_fma(f[i], x, x);
            }
            __asm__ volatile("");
        }
        float sum = 0;
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_CHAINS; i++) sum += vf_sum(f[i] + vf_from_int(n[i]));
        w->sums[chunk * 16] = sum;
    }
}

static double seconds(clockid_t clock) {
    struct timespec s;
    clock_gettime(clock, &s);
    return (double)s.tv_sec + (double)s.tv_nsec * 1e-9;
}

typedef struct {
    double wall, cpu;
} span;

static span timed(llmc_team *team, void (*function)(llmc_thread *, void *), work *w) {
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    llmc_team_run(team, function, w);
    return (span){seconds(CLOCK_MONOTONIC) - wall, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu};
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double at_rank(double *values, int count, int rank) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[rank];
}

static int64_t weight_bytes(int format, int64_t N, int64_t K, int is_gated) {
    if (format >= LLMC_INT8) return llmc_pack_bytes(format, N, K, is_gated);
    return N * (1 + is_gated) * K * (format == LLMC_FP32 ? 4 : 2);
}

/* Bytes that are moderate numbers in every format. */
static void fill(char *memory, int64_t bytes, int format) {
    uint32_t state = 1;
    for (int64_t i = 0; i < bytes; i += 4) {
        state = state * 1664525u + 1013904223u;
        uint32_t value = format == LLMC_FP32 ? 0x3c000000u + (state >> 10)
                         : format <= LLMC_FP16 ? 0x2c002c00u + (state >> 8 & 0x007f007fu)
                                               : (state & 0x11111111u) | 0x20002000u;
        memcpy(memory + i, &value, 4);
    }
}

int main(int count, char **arguments) {
    if (count != 7) return 2;
    int format = atoi(arguments[1]), threads = atoi(arguments[4]), repeats = atoi(arguments[5]), huge = atoi(arguments[6]);
    int64_t rows = atoll(arguments[2]), wanted = atoll(arguments[3]) * 1000000, parameters = 0, bytes = 0;
    int number = 0;
    while (parameters < wanted) {
        int s = number++ % NUM_SHAPES;
        parameters += SHAPES[s].N * (1 + SHAPES[s].is_gated) * SHAPES[s].K;
        bytes += (weight_bytes(format, SHAPES[s].N, SHAPES[s].K, SHAPES[s].is_gated) + 4095) / 4096 * 4096;
    }
    bytes = (bytes + (2 << 20) - 1) >> 21 << 21;
    char *memory = mmap(NULL, (size_t)bytes + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 3;
    memory = (char *)(((uintptr_t)memory + (2 << 20) - 1) >> 21 << 21);
    madvise(memory, (size_t)bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    fill(memory, bytes, format);
    if (huge) madvise(memory, (size_t)bytes, MADV_COLLAPSE);
    llmc_matrix *matrices = calloc((size_t)number, sizeof *matrices);
    int64_t at = 0;
    for (int i = 0; i < number; i++) {
        int s = i % NUM_SHAPES;
        matrices[i] = (llmc_matrix){.weight = memory + at, .N = SHAPES[s].N, .K = SHAPES[s].K, .format = format,
                                    .activation = SHAPES[s].is_gated ? LLMC_SILU : LLMC_IDENTITY, .is_gated = SHAPES[s].is_gated};
        at += (weight_bytes(format, SHAPES[s].N, SHAPES[s].K, SHAPES[s].is_gated) + 4095) / 4096 * 4096;
    }
    float *x = malloc((size_t)rows * 4096 * 4), *y = malloc((size_t)rows * 4096 * 4);
    for (int64_t i = 0; i < rows * 4096; i++) x[i] = (float)(i * 37 % 101 - 50) * 0.01f;
    llmc_team *team = llmc_team_new(threads, llmc_linear_scratch(4096));
    int64_t stripes = bytes / STRIPE > 2 * threads ? bytes / STRIPE : 2 * threads;
    work w = {matrices, number, format >= LLMC_INT8, x, y, rows, bytes,
              aligned_alloc(64, (llmc_linear_workspace(rows, 4096) + 63) / 64 * 64), memory, calloc((size_t)stripes * 16, 4)};
    int is_read = rows <= LLMC_SMALL_BATCH;
    double *wall = malloc(sizeof(double) * (size_t)repeats), *cpu = malloc(sizeof(double) * (size_t)repeats);
    double *limit = malloc(sizeof(double) * (size_t)repeats), *limit_cpu = malloc(sizeof(double) * (size_t)repeats);
    double *share = malloc(sizeof(double) * (size_t)repeats), *share_cpu = malloc(sizeof(double) * (size_t)repeats);
    double products = 2.0 * (double)parameters * (double)rows;
    double peak = 2.0 * threads * PEAK_STEPS * PEAK_CHAINS * LLMC_LANES * 2 * (w.is_integer ? 4 : 1);
    double scale = is_read ? 1.0 : products / peak; /* the time that the limit would take for all the work */
    timed(team, run, &w);
    for (int i = 0; i < repeats; i++) {
        span before = timed(team, is_read ? read_all : compute, &w), kernel = timed(team, run, &w);
        span after = timed(team, is_read ? read_all : compute, &w);
        wall[i] = kernel.wall, cpu[i] = kernel.cpu;
        limit[i] = (before.wall + after.wall) / 2 * scale, limit_cpu[i] = (before.cpu + after.cpu) / 2 * scale;
        share[i] = limit[i] / wall[i], share_cpu[i] = limit_cpu[i] / cpu[i];
    }
    printf("{\"parameters\": %lld, \"bytes\": %lld, \"products\": %.0f, \"best\": %.6g, \"limit_best\": %.6g, ", (long long)parameters,
           (long long)bytes, products, at_rank(wall, repeats, 0), at_rank(limit, repeats, 0));
    printf("\"median\": %.6g, \"limit_median\": %.6g, \"cpu\": %.6g, \"share\": %.6g, \"share_cpu\": %.6g}\n",
           at_rank(wall, repeats, repeats / 2), at_rank(limit, repeats, repeats / 2), at_rank(cpu, repeats, 0),
           at_rank(share, repeats, repeats / 2), at_rank(share_cpu, repeats, repeats / 2));
    return 0;
}
