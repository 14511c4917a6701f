/* What the machine can do at most: reading memory, and multiplying and adding in registers, on all threads of a team.
 *
 * A kernel cannot be faster than the slower of the two. Times are taken by the caller.
 */
#include "dot.h"
#include "team.h"

#define STRIPE (1 << 20)
#define CHAINS 12 /* sums in flight: more than latency times units of any processor */

enum { FP32, BF16, INT8 };

typedef struct {
    const char *memory;
    int64_t bytes, steps;
    int kind;
    float *sums; /* so that nothing is left out as unused */
} probe;

static void read_stripes(llmc_thread *t, void *argument) {
    const probe *p = argument;
    vf total = vf_zero();
    LLMC_FOR(t, chunk, p->bytes / STRIPE) {
        const float *from = (const float *)(const void *)(p->memory + chunk * STRIPE);
        vf a = vf_zero(), b = a, c = a, d = a;
        for (int64_t i = 0; i < STRIPE / 4; i += 4 * LLMC_LANES) {
            a += vf_load(from + i), b += vf_load(from + i + LLMC_LANES);
            c += vf_load(from + i + 2 * LLMC_LANES), d += vf_load(from + i + 3 * LLMC_LANES);
        }
        total += (a + b) + (c + d);
    }
    p->sums[t->id] = vf_sum(total);
}

/* Reads whole MiB of `bytes`; sums [LLMC_MAX_THREADS]. */
void llmc_probe_read(llmc_team *team, const void *memory, int64_t bytes, float *sums) {
    probe p = {.memory = memory, .bytes = bytes, .sums = sums};
    llmc_team_run(team, read_stripes, &p);
}

static void multiply(llmc_thread *t, void *argument) {
    const probe *p = argument;
    LLMC_FOR(t, chunk, 4 * t->count) {
        vf f[CHAINS];
        vi n[CHAINS];
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) f[i] = vf_all((float)i), n[i] = vi_all(i);
        vf x = vf_all(0.999f);
        vi q = vi_all((int32_t)chunk * 0x01020304 + 1);
        if (p->kind == INT8) {
            for (int64_t k = 0; k < p->steps; k++) {
#pragma GCC unroll 12
                for (int i = 0; i < CHAINS; i++) n[i] = vi_dot(n[i], q, q);
                __asm__ volatile("");
            }
#if defined(LLMC_HAS_BF16_DOT)
        } else if (p->kind == BF16) {
            __m512bh pairs = (__m512bh)vi_all(0x3f7f3f7f);
            for (int64_t k = 0; k < p->steps; k++) {
#pragma GCC unroll 12
                for (int i = 0; i < CHAINS; i++) f[i] = (vf)_mm512_dpbf16_ps((__m512)f[i], pairs, pairs);
                __asm__ volatile("");
            }
#endif
        } else {
            for (int64_t k = 0; k < p->steps; k++) {
#pragma GCC unroll 12
                for (int i = 0; i < CHAINS; i++) f[i] = vf_fma(f[i], x, x);
                __asm__ volatile("");
            }
        }
        float sum = 0;
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sum += vf_sum(f[i] + vf_from_int(n[i]));
        p->sums[t->id] = sum;
    }
}

/* Multiplies and adds numbers of a kind (0 fp32, 1 bf16, 2 int8) and returns how many operations that were, a product
 * and its sum being two. Without an instruction for bf16 it is fp32, as in the kernels. */
double llmc_probe_multiply(llmc_team *team, int threads, int kind, int64_t steps, float *sums) {
    probe p = {.kind = kind, .steps = steps, .sums = sums};
    llmc_team_run(team, multiply, &p);
    int width = 1;
    if (kind == INT8) width = 4;
#if defined(LLMC_HAS_BF16_DOT)
    if (kind == BF16) width = 2;
#endif
    return 2.0 * 4 * threads * (double)steps * CHAINS * LLMC_LANES * width;
}
