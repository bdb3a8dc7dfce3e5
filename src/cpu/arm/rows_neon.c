/* rows_neon.c - kernels on single rows of floats. The last, partial vector is loaded and stored by lanes, so that every
 * element goes through the same instructions wherever it stands. */
#include "cpu/arm/exp_neon.h"
#include "cpu/arm/lanes_neon.h"
#include "cpu/fill.h"
#include <math.h>

enum { LANES = 4 };

static void scale(float *x, int n, float c) {
    for (int i = 0; i < n; i += LANES)
        store4(x + i, n - i, vmulq_n_f32(load4(x + i, n - i), c));
}

static void add_scaled(float *acc, const float *x, int n, float c) {
    for (int i = 0; i < n; i += LANES)
        store4(acc + i, n - i, vfmaq_n_f32(load4(acc + i, n - i), load4(x + i, n - i), c));
}

static void f32_to_f16_row(const float *x, int n, f16 *y) {
    for (int i = 0; i < n; i += LANES)
        store4_f16(y + i, n - i, load4(x + i, n - i));
}

static void f16_to_f32_row(const f16 *x, int n, float *y) {
    for (int i = 0; i < n; i += LANES)
        store4(y + i, n - i, load4_f16(x + i, n - i));
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y) {
    float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (int i = 0; i < n; i += LANES) {
        float32x4_t v = load4(x + i, n - i);
        sum[i / LANES & 3] = vfmaq_f32(sum[i / LANES & 3], v, v);
    }
    float squares = vaddvq_f32(vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3])));
    float inverse = 1.0f / sqrtf(squares / (float)n + eps);
    for (int i = 0; i < n; i += LANES)
        store4(y + i, n - i, vmulq_f32(vmulq_n_f32(load4(x + i, n - i), inverse), load4(w + i, n - i)));
}

/* x / (1 + e^-u) */
INLINE float32x4_t gated(float32x4_t x, float32x4_t u) {
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1), exp4(vnegq_f32(u))));
}

static void silu_mul(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i += LANES) {
        float32x4_t x = load4(gate + i, n - i);
        store4(gate + i, n - i, vmulq_f32(gated(x, x), load4(up + i, n - i)));
    }
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), which loses no digits where tanh is near -1. */
static void gelu_mul(float *gate, const float *up, int n) {
    const float twice_root = 1.5957691216057308f, cube = 0.044715f; /* 2 sqrt(2 / pi) */
    for (int i = 0; i < n; i += LANES) {
        float32x4_t x = load4(gate + i, n - i);
        float32x4_t u = vfmaq_f32(vdupq_n_f32(1), vmulq_n_f32(x, cube), x);
        u = vmulq_f32(vmulq_n_f32(x, twice_root), u);
        store4(gate + i, n - i, vmulq_f32(gated(x, u), load4(up + i, n - i)));
    }
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i += LANES)
        store4(x + i, n - i, vaddq_f32(load4(x + i, n - i), load4(y + i, n - i)));
}

static void rope_pairs(float *x, int n_rot, const float *cos_sin) {
    const uint32x4_t sign = {0x80000000, 0, 0x80000000, 0};
    for (int i = 0; i < n_rot; i += LANES) {
        float32x4_t v = load4(x + i, n_rot - i), cs = load4(cos_sin + i, n_rot - i);
        float32x4_t across = vmulq_f32(vrev64q_f32(v), vtrn2q_f32(cs, cs));
        across = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(across), sign));
        store4(x + i, n_rot - i, vfmaq_f32(across, v, vtrn1q_f32(cs, cs)));
    }
}

static void rope_halves(float *x, int half, const float *cos_sin) {
    for (int i = 0; i < half; i += LANES) {
        int left = half - i;
        float32x4_t first = load4(cos_sin + 2 * i, 2 * left), second = load4(cos_sin + 2 * i + LANES, 2 * left - LANES);
        float32x4_t c = vuzp1q_f32(first, second), s = vuzp2q_f32(first, second);
        float32x4_t a = load4(x + i, left), b = load4(x + half + i, left);
        store4(x + i, left, vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c));
        store4(x + half + i, left, vfmaq_f32(vmulq_f32(a, s), b, c));
    }
}

static void rope(float *x, int n_rot, bool neox, const float *cos_sin) {
    if (neox)
        rope_halves(x, n_rot / 2, cos_sin);
    else
        rope_pairs(x, n_rot, cos_sin);
}

/* The largest magnitude of a block. As integers magnitudes order a NaN above everything, so that it is not lost. */
INLINE float largest(const float *x) {
    uint32x4_t most = vdupq_n_u32(0);
    for (int i = 0; i < PACK_BLOCK; i += LANES)
        most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
    uint32_t bits = vmaxvq_u32(most);
    float top;
    memcpy(&top, &bits, sizeof(top));
    return top;
}

/* 16 codes; returns their sum. What is not a number becomes 127; its scale says so. */
INLINE int16_t codes_of(const float *x, float to_code, int8_t *code) {
    int16x4_t c[4];
    for (int i = 0; i < 4; i++) {
        float32x4_t y = vminnmq_f32(vmulq_n_f32(vld1q_f32(x + i * LANES), to_code), vdupq_n_f32(127));
        c[i] = vmovn_s32(vcvtnq_s32_f32(vmaxq_f32(y, vdupq_n_f32(-127))));
    }
    int16x8_t low = vcombine_s16(c[0], c[1]), high = vcombine_s16(c[2], c[3]);
    vst1q_s8(code, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    return vaddvq_s16(vaddq_s16(low, high));
}

static void act_quantize(const float *x, int n, int8_t *code, float *scales, int16_t *sum16) {
    for (int b = 0; b < n / PACK_BLOCK; b++) {
        float top = largest(x + b * PACK_BLOCK);
        bool none = !(top >= 1e-30f && top < INFINITY); /* 127 / top would overflow */
        float to_code = none ? 0 : 127.0f / top;
        scales[b] = none ? top * 0 : top / 127.0f;
        for (int g = 2 * b; g < 2 * b + 2; g++)
            sum16[g] = codes_of(x + g * 16, to_code, code + g * 16);
    }
}

static void open_maps(const f16 *scale16, const f16 *minimum16, int n, float code, float *scale_out, float *middle) {
    for (int i = 0; i < n; i += LANES) {
        float32x4_t s = load4_f16(scale16 + i, n - i);
        store4(scale_out + i, n - i, s);
        if (minimum16)
            store4(middle + i, n - i, vfmaq_n_f32(load4_f16(minimum16 + i, n - i), s, code));
    }
}

static void bounds(const int32_t *x, int n, int32_t *low, int32_t *high) {
    int32x4_t least = vdupq_n_s32(x[0]), most = least;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        int32x4_t v = vld1q_s32(x + i);
        least = vminq_s32(least, v);
        most = vmaxq_s32(most, v);
    }
    *low = vminvq_s32(least);
    *high = vmaxvq_s32(most);
    for (; i < n; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
}

void rows_neon_fill(cpu_kernels *k) {
    k->open_maps = open_maps;
    k->bounds = bounds;
    k->scale = scale;
    k->add_scaled = add_scaled;
    k->f32_to_f16 = f32_to_f16_row;
    k->f16_to_f32 = f16_to_f32_row;
    k->rms_norm = rms_norm;
    k->silu_mul = silu_mul;
    k->gelu_mul = gelu_mul;
    k->add = add;
    k->rope = rope;
    k->act_quantize = act_quantize;
}
