/* exp, tanh, erf and the activations made of them, on vectors: relative error about 1e-7 over the whole range.
 *
 * Polynomials are minimax fits, made for this file by iteratively reweighted least squares on Chebyshev nodes.
 */
#ifndef LLMC_VECTOR_MATH_H
#define LLMC_VECTOR_MATH_H

#include "activations.h"
#include "vector.h"

/* 2^n for whole n as a float would overflow or lose subnormals at the ends: two halves, multiplied one by one. */
LLMC_INLINE vf vf_times_power(vf a, vi n) {
#if defined(LLMC_AVX512)
    return (vf)_mm512_scalef_ps((__m512)a, (__m512)vf_from_int(n));
#else
    vi half = n >> 1;
    return a * vf_bits((half + 127) << 23) * vf_bits((n - half + 127) << 23);
#endif
}

/* exp(high + low), where |low| is small beside |high|: exact to about 1 unit in the last place. */
LLMC_INLINE vf vf_exp_split(vf high, vf low) {
    vf bounded = vf_min(vf_max(high, vf_all(-104.0f)), vf_all(89.0f)); /* exp is inf and 0 there */
    vi n = vi_nearest(bounded * vf_all(0x1.715476p+0f));
    vf whole = vf_from_int(n);
    vf r = vf_fma(whole, vf_all(-0x1.62e4p-1f), bounded); /* ln 2 in two parts; the first product is exact */
    r = vf_fma(whole, vf_all(-0x1.7f7d1cp-20f), r) + low;
    vf p = vf_all(0x1.a1b8a4p-13f);
    p = vf_fma(p, r, vf_all(0x1.6d9736p-10f));
    p = vf_fma(p, r, vf_all(0x1.11107cp-7f));
    p = vf_fma(p, r, vf_all(0x1.555480p-5f));
    p = vf_fma(p, r, vf_all(0x1.555556p-3f));
    p = vf_fma(p, r, vf_all(0.5f));
    vf e = vf_times_power(vf_fma(p, r * r, r) + vf_all(1.0f), n);
    return vf_select((vi)(high != high), high, e);
}

LLMC_INLINE vf vf_exp(vf x) { return vf_exp_split(x, vf_zero()); }

LLMC_INLINE vf vf_sigmoid(vf x) {
    vf e = vf_exp(vf_zero() - vf_abs(x)); /* at most 1: neither end overflows */
    vf one = vf_all(1.0f);
    return vf_select((vi)(x < vf_zero()), e, one) / (one + e);
}

LLMC_INLINE vf vf_tanh(vf x) {
    vf u = x * x, size = vf_abs(x);
    vf p = vf_all(0x1.197b7cp-9f);
    p = vf_fma(p, u, vf_all(-0x1.0c2146p-7f));
    p = vf_fma(p, u, vf_all(0x1.6394dap-6f));
    p = vf_fma(p, u, vf_all(-0x1.b9ef7cp-5f));
    p = vf_fma(p, u, vf_all(0x1.11106cp-3f));
    p = vf_fma(p, u, vf_all(-0x1.555554p-2f));
    vf small = vf_fma(p * u, x, x);
    vf e = vf_exp(size * vf_all(-2.0f)), one = vf_all(1.0f);
    vf large = (one - e) / (one + e);
    large = vf_select((vi)(x < vf_zero()), vf_zero() - large, large);
    return vf_select((vi)(size < 0.625f), small, large);
}

/* log(1 + exp(x)) = max(x, 0) + log(1 + u) with u = exp(-|x|), and log(1 + u) = 2 atanh(s) with s = u / (2 + u), whose
 * first term is 2 s = u - s u: what rounding costs s counts little. */
LLMC_INLINE vf vf_softplus(vf x) {
    vf u = vf_exp(vf_zero() - vf_abs(x)), s = u / (vf_all(2.0f) + u), z = s * s;
    vf p = vf_all(0x1.dbf0e6p-4f);
    p = vf_fma(p, z, vf_all(0x1.bc7b8ap-4f));
    p = vf_fma(p, z, vf_all(0x1.24c9c2p-3f));
    p = vf_fma(p, z, vf_all(0x1.9998d2p-3f));
    p = vf_fma(p, z, vf_all(0x1.555556p-2f));
    vf rest = u - s * (u - (z + z) * p);
    return vf_select((vi)(x > vf_zero()), x, vf_zero()) + rest;
}

/* erfc(z) for z >= 0: exp(-z^2) times a polynomial in (z - 2) / (z + 2), over 1 + 2z (Shepherd and Laframboise 1981). */
LLMC_INLINE vf vf_erfc_positive(vf z) {
    z = vf_min(vf_all(10.5f), z); /* 0 from 10.06 on */
    vf t = (z - vf_all(2.0f)) / (z + vf_all(2.0f));
    vf p = vf_all(0x1.514d0ep-14f);
    p = vf_fma(p, t, vf_all(0x1.6703c6p-13f));
    p = vf_fma(p, t, vf_all(-0x1.a48330p-12f));
    p = vf_fma(p, t, vf_all(-0x1.74ef72p-10f));
    p = vf_fma(p, t, vf_all(0x1.484f34p-10f));
    p = vf_fma(p, t, vf_all(0x1.1d66dep-7f));
    p = vf_fma(p, t, vf_all(-0x1.0726a2p-7f));
    p = vf_fma(p, t, vf_all(-0x1.bc2740p-5f));
    p = vf_fma(p, t, vf_all(0x1.4ff9fcp-3f));
    p = vf_fma(p, t, vf_all(-0x1.5407cep-3f));
    p = vf_fma(p, t, vf_all(-0x1.7bf5eap-4f));
    p = vf_fma(p, t, vf_all(0x1.46e80ep+0f));
    vf square = z * z;
#if defined(LLMC_AVX512) || defined(LLMC_AVX2)
    vf rest = vf_fma(z, z, vf_zero() - square);
#else
    vf upper = vf_bits(vi_bits(z) & vi_all((int32_t)0xfffff000u)), lower = z - upper;
    vf rest = ((upper * upper - square) + 2.0f * upper * lower) + lower * lower;
#endif
    return vf_exp_split(vf_zero() - square, vf_zero() - rest) * p / (vf_all(1.0f) + z + z);
}

LLMC_INLINE vf vf_erf(vf x) {
    vf u = x * x, size = vf_abs(x);
    vf p = vf_all(-0x1.44cfc4p-17f);
    p = vf_fma(p, u, vf_all(0x1.d8b890p-14f));
    p = vf_fma(p, u, vf_all(-0x1.bcd7e0p-11f));
    p = vf_fma(p, u, vf_all(0x1.562b1ap-8f));
    p = vf_fma(p, u, vf_all(-0x1.b829d8p-6f));
    p = vf_fma(p, u, vf_all(0x1.ce2f0ap-4f));
    p = vf_fma(p, u, vf_all(-0x1.812746p-2f));
    p = vf_fma(p, u, vf_all(0x1.20dd76p+0f));
    vf large = vf_all(1.0f) - vf_erfc_positive(size);
    large = vf_select((vi)(x < vf_zero()), vf_zero() - large, large);
    return vf_select((vi)(size < 1.0f), p * x, large);
}

LLMC_INLINE vf vf_silu(vf x) { return x * vf_sigmoid(x); }

/* x times the normal distribution function, without the cancellation of 1 + erf where x < 0. */
LLMC_INLINE vf vf_gelu(vf x) {
    vf tail = vf_all(0.5f) * vf_erfc_positive(vf_abs(x) * vf_all(0x1.6a09e6p-1f));
    vf phi = vf_select((vi)(x < vf_zero()), tail, vf_all(1.0f) - tail);
    return vf_select((vi)(x != x), x, x * phi);
}

/* 0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3), which is x sigmoid(2u). */
LLMC_INLINE vf vf_gelu_tanh(vf x) {
    vf u = vf_fma(x * x * vf_all(0.044715f), x, x) * vf_all(1.5957691216f);
    return x * vf_sigmoid(u);
}

LLMC_INLINE vf vf_relu(vf x) { return vf_select((vi)(x < vf_zero()), vf_zero(), x); }
LLMC_INLINE vf vf_relu2(vf x) { return vf_relu(x) * vf_relu(x); }

LLMC_INLINE vf vf_activate(vf x, int activation) {
    switch (activation) {
    case LLMC_SILU: return vf_silu(x);
    case LLMC_GELU: return vf_gelu(x);
    case LLMC_GELU_TANH: return vf_gelu_tanh(x);
    case LLMC_RELU: return vf_relu(x);
    case LLMC_RELU2: return vf_relu2(x);
    case LLMC_SIGMOID: return vf_sigmoid(x);
    case LLMC_TANH: return vf_tanh(x);
    default: return x;
    }
}

#endif
