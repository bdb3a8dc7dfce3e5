/* rows_avx2.c - kernels on single rows of floats. The last, partial vector is loaded and stored under a mask, so that
 * every element goes through the same instructions wherever it stands. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/exp_avx2.h"
#include "cpu/x86/lanes_avx2.h"
#include <math.h>
#include <string.h>

enum { LANES = 8 };

static void scale(float *x, int n, float c) {
    for (int i = 0; i < n; i += LANES)
        store8(x + i, n - i, _mm256_mul_ps(load8(x + i, n - i), _mm256_set1_ps(c)));
}

static void add_scaled(float *acc, const float *x, int n, float c) {
    for (int i = 0; i < n; i += LANES)
        store8(acc + i, n - i, _mm256_fmadd_ps(load8(x + i, n - i), _mm256_set1_ps(c), load8(acc + i, n - i)));
}

static void f32_to_f16_row(const float *x, int n, f16 *y) {
    for (int i = 0; i < n; i += LANES) {
        f16 eight[LANES];
        __m128i half = _mm256_cvtps_ph(load8(x + i, n - i), _MM_FROUND_TO_NEAREST_INT);
        if (n - i >= LANES) {
            _mm_storeu_si128((__m128i *)(y + i), half);
        } else {
            _mm_storeu_si128((__m128i *)eight, half);
            memcpy(y + i, eight, (size_t)(n - i) * sizeof(f16));
        }
    }
}

static void f16_to_f32_row(const f16 *x, int n, float *y) {
    for (int i = 0; i < n; i += LANES) {
        f16 eight[LANES] = {0};
        const f16 *from = x + i;
        if (n - i < LANES) {
            memcpy(eight, x + i, (size_t)(n - i) * sizeof(f16));
            from = eight;
        }
        store8(y + i, n - i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)));
    }
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int i = 0; i < n; i += LANES) {
        __m256 v = load8(x + i, n - i);
        sum[i / LANES & 1] = _mm256_fmadd_ps(v, v, sum[i / LANES & 1]);
    }
    __m256 inverse = _mm256_set1_ps(1.0f / sqrtf(sum8(_mm256_add_ps(sum[0], sum[1])) / (float)n + eps));
    for (int i = 0; i < n; i += LANES)
        store8(y + i, n - i, _mm256_mul_ps(_mm256_mul_ps(load8(x + i, n - i), inverse), load8(w + i, n - i)));
}

/* x / (1 + e^-u) */
INLINE __m256 gated(__m256 x, __m256 u) {
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1), exp8(_mm256_sub_ps(_mm256_setzero_ps(), u))));
}

static void silu_mul(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i += LANES) {
        __m256 x = load8(gate + i, n - i);
        store8(gate + i, n - i, _mm256_mul_ps(gated(x, x), load8(up + i, n - i)));
    }
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), which loses no digits where tanh is near -1. */
static void gelu_mul(float *gate, const float *up, int n) {
    const __m256 twice_root = _mm256_set1_ps(1.5957691216057308f),
                 cube = _mm256_set1_ps(0.044715f); /* 2 sqrt(2 / pi) */
    for (int i = 0; i < n; i += LANES) {
        __m256 x = load8(gate + i, n - i);
        __m256 u = _mm256_fmadd_ps(_mm256_mul_ps(cube, x), x, _mm256_set1_ps(1));
        u = _mm256_mul_ps(_mm256_mul_ps(twice_root, x), u);
        store8(gate + i, n - i, _mm256_mul_ps(gated(x, u), load8(up + i, n - i)));
    }
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i += LANES)
        store8(x + i, n - i, _mm256_add_ps(load8(x + i, n - i), load8(y + i, n - i)));
}

static void rope_pairs(float *x, int n_rot, const float *cos_sin) {
    for (int i = 0; i < n_rot; i += LANES) {
        __m256 v = load8(x + i, n_rot - i), cs = load8(cos_sin + i, n_rot - i);
        __m256 across = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(cs));
        store8(x + i, n_rot - i, _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(cs), across));
    }
}

/* The even lanes of two vectors in order, and the odd ones. */
INLINE __m256 in_order(__m256 v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
}

static void rope_halves(float *x, int half, const float *cos_sin) {
    for (int i = 0; i < half; i += LANES) {
        int left = half - i;
        __m256 first = load8(cos_sin + 2 * i, 2 * left);
        __m256 second = left > LANES / 2 ? load8(cos_sin + 2 * i + LANES, 2 * left - LANES) : _mm256_setzero_ps();
        __m256 c = in_order(_mm256_shuffle_ps(first, second, 0x88)),
               s = in_order(_mm256_shuffle_ps(first, second, 0xdd));
        __m256 a = load8(x + i, left), b = load8(x + half + i, left);
        store8(x + i, left, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        store8(x + half + i, left, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
}

static void rope(float *x, int n_rot, bool neox, const float *cos_sin) {
    if (neox)
        rope_halves(x, n_rot / 2, cos_sin);
    else
        rope_pairs(x, n_rot, cos_sin);
}

static void act_quantize(const float *x, int n, int8_t *code, float *scales, int16_t *sum16) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int b = 0; b < n / PACK_BLOCK; b++) {
        __m256i most = _mm256_setzero_si256();
        float top;
        __m256i c[4];
        /* as integers, magnitudes order a NaN above everything, so that it is not lost */
        for (int i = 0; i < 4; i++) {
            __m256i v = _mm256_castps_si256(_mm256_loadu_ps(x + b * 32 + i * 8));
            most = _mm256_max_epi32(most, _mm256_and_si256(v, magnitude));
        }
        int32_t bits = max8_epi32(most);
        memcpy(&top, &bits, sizeof(top));
        bool none = !(top >= 1e-30f && top < INFINITY); /* 127 / top would overflow */
        __m256 to_code = _mm256_set1_ps(none ? 0 : 127.0f / top);
        scales[b] = none ? top * 0 : top / 127.0f;
        for (int i = 0; i < 4; i++) { /* what is not a number becomes 127; its scale says so */
            __m256 y = _mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(x + b * 32 + i * 8), to_code), _mm256_set1_ps(127));
            c[i] = _mm256_cvtps_epi32(_mm256_max_ps(y, _mm256_set1_ps(-127)));
        }
        for (int g = 0; g < 2; g++)
            sum16[b * 2 + g] = (int16_t)sum8_epi32(_mm256_add_epi32(c[g * 2], c[g * 2 + 1]));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
        _mm256_storeu_si256((__m256i *)(code + b * 32), _mm256_permutevar8x32_epi32(bytes, order));
    }
}

static void open_maps(const f16 *scale16, const f16 *minimum16, int n, float code, float *scale_out, float *middle) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 s = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scale16 + i)));
        _mm256_storeu_ps(scale_out + i, s);
        if (minimum16)
            _mm256_storeu_ps(middle + i,
                             _mm256_fmadd_ps(s, _mm256_set1_ps(code),
                                             _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(minimum16 + i)))));
    }
    for (; i < n; i++) {
        scale_out[i] = _cvtsh_ss(scale16[i]);
        if (minimum16)
            middle[i] = __builtin_fmaf(scale_out[i], code, _cvtsh_ss(minimum16[i]));
    }
}

static void bounds(const int32_t *x, int n, int32_t *low, int32_t *high) {
    __m256i least = _mm256_set1_epi32(x[0]), most = least;
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(x + i));
        least = _mm256_min_epi32(least, v);
        most = _mm256_max_epi32(most, v);
    }
    int32_t a[8], b[8];
    _mm256_storeu_si256((__m256i *)a, least);
    _mm256_storeu_si256((__m256i *)b, most);
    *low = a[0];
    *high = b[0];
    for (int k = 1; k < 8; k++) {
        *low = a[k] < *low ? a[k] : *low;
        *high = b[k] > *high ? b[k] : *high;
    }
    for (; i < n; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
}

void rows_avx2_fill(cpu_kernels *k) {
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
#endif
