/* What becomes of sums: bias, activation, and the product of a gated pair. */
#ifndef LLMC_EPILOGUE_H
#define LLMC_EPILOGUE_H

#include "vector_math.h"
#include "linear.h"

/* One vector of outputs at column n, of which `count` are there. */
LLMC_INLINE vf llmc_finish(const llmc_matrix *m, vf gate, vf up, int64_t n, int count) {
    if (m->bias) {
        gate += vf_load_part(m->bias + n, count);
        if (m->is_gated) up += vf_load_part(m->bias + m->N + n, count);
    }
    vf y = vf_activate(gate, m->activation);
    return m->is_gated ? y * up : y;
}

#endif
