/* rows_avx512.c - kernels on single rows of floats. The last, partial vector is loaded and stored under a mask, so that
 * every element goes through the same instructions wherever it stands. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/exp_avx512.h"
#include <math.h>
#include <string.h>

enum { LANES = 16 };

static inline __mmask16 lanes(int left) {
    return left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
}

static void scale(float *x, int n, float c) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        _mm512_mask_storeu_ps(x + i, k, _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + i), _mm512_set1_ps(c)));
    }
}

static void add_scaled(float *acc, const float *x, int n, float c) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        __m512 sum = _mm512_maskz_loadu_ps(k, acc + i);
        _mm512_mask_storeu_ps(acc + i, k, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(k, x + i), _mm512_set1_ps(c), sum));
    }
}

static void f32_to_f16_row(const float *x, int n, f16 *y) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(k, x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_mask_storeu_epi16(y + i, k, half);
    }
}

static void f16_to_f32_row(const f16 *x, int n, float *y) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        _mm512_mask_storeu_ps(y + i, k, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(k, x + i)));
    }
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < n; i += LANES) {
        __m512 v = _mm512_maskz_loadu_ps(lanes(n - i), x + i);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    __m512 inverse = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)n + eps));
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + i), inverse);
        _mm512_mask_storeu_ps(y + i, k, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(k, w + i)));
    }
}

/* x / (1 + e^-u) */
static inline __m512 gated(__m512 x, __m512 u) {
    __m512 one = _mm512_set1_ps(1);
    return _mm512_div_ps(x, _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), u))));
}

static void silu_mul(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        __m512 x = _mm512_maskz_loadu_ps(k, gate + i);
        _mm512_mask_storeu_ps(gate + i, k, _mm512_mul_ps(gated(x, x), _mm512_maskz_loadu_ps(k, up + i)));
    }
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), which loses no digits where tanh is near -1. */
static void gelu_mul(float *gate, const float *up, int n) {
    const __m512 twice_root = _mm512_set1_ps(1.5957691216057308f),
                 cube = _mm512_set1_ps(0.044715f); /* 2 sqrt(2 / pi) */
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        __m512 x = _mm512_maskz_loadu_ps(k, gate + i);
        __m512 u = _mm512_fmadd_ps(_mm512_mul_ps(cube, x), x, _mm512_set1_ps(1));
        u = _mm512_mul_ps(_mm512_mul_ps(twice_root, x), u);
        _mm512_mask_storeu_ps(gate + i, k, _mm512_mul_ps(gated(x, u), _mm512_maskz_loadu_ps(k, up + i)));
    }
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        _mm512_mask_storeu_ps(x + i, k,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(k, x + i), _mm512_maskz_loadu_ps(k, y + i)));
    }
}

static void rope_pairs(float *x, int n_rot, const float *cos_sin) {
    for (int i = 0; i < n_rot; i += LANES) {
        __mmask16 k = lanes(n_rot - i);
        __m512 v = _mm512_maskz_loadu_ps(k, x + i), cs = _mm512_maskz_loadu_ps(k, cos_sin + i);
        __m512 across = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), _mm512_movehdup_ps(cs));
        _mm512_mask_storeu_ps(x + i, k, _mm512_fmaddsub_ps(v, _mm512_moveldup_ps(cs), across));
    }
}

static void rope_halves(float *x, int half, const float *cos_sin) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    for (int i = 0; i < half; i += LANES) {
        int left = half - i;
        __mmask16 k = lanes(left);
        __m512 first = _mm512_maskz_loadu_ps(lanes(2 * left), cos_sin + 2 * i);
        __m512 second = _mm512_maskz_loadu_ps(left > 8 ? lanes(2 * left - LANES) : 0, cos_sin + 2 * i + LANES);
        __m512 c = _mm512_permutex2var_ps(first, even, second), s = _mm512_permutex2var_ps(first, odd, second);
        __m512 a = _mm512_maskz_loadu_ps(k, x + i), b = _mm512_maskz_loadu_ps(k, x + half + i);
        _mm512_mask_storeu_ps(x + i, k, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, k, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

static void rope(float *x, int n_rot, bool neox, const float *cos_sin) {
    if (neox)
        rope_halves(x, n_rot / 2, cos_sin);
    else
        rope_pairs(x, n_rot, cos_sin);
}

static void act_quantize(const float *x, int n, int8_t *code, float *scales, int16_t *sum16) {
    const __m512 most = _mm512_set1_ps(127), least = _mm512_set1_ps(-127);
    for (int b = 0; b < n / PACK_BLOCK; b++) {
        __m512 v[2] = {_mm512_loadu_ps(x + b * 32), _mm512_loadu_ps(x + b * 32 + 16)};
        /* as integers, magnitudes order a NaN above everything, so that it is not lost */
        int32_t bits = _mm512_reduce_max_epi32(
            _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(v[0])), _mm512_castps_si512(_mm512_abs_ps(v[1]))));
        float top;
        memcpy(&top, &bits, sizeof(top));
        bool none = !(top >= 1e-30f && top < INFINITY); /* 127 / top would overflow */
        __m512 to_code = _mm512_set1_ps(none ? 0 : 127.0f / top);
        scales[b] = none ? top * 0 : top / 127.0f;
        for (int g = 0; g < 2; g++) {
            __m512 y =
                _mm512_min_ps(_mm512_mul_ps(v[g], to_code), most); /* not a number becomes 127, with a scale like it */
            __m512i c = _mm512_cvtps_epi32(_mm512_max_ps(y, least));
            _mm_storeu_si128((__m128i *)(code + b * 32 + g * 16), _mm512_cvtepi32_epi8(c));
            sum16[b * 2 + g] = (int16_t)_mm512_reduce_add_epi32(c);
        }
    }
}

static void open_maps(const f16 *scale16, const f16 *minimum16, int n, float code, float *scale_out, float *middle) {
    for (int i = 0; i < n; i += LANES) {
        __mmask16 k = lanes(n - i);
        __m512 s = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(k, scale16 + i));
        _mm512_mask_storeu_ps(scale_out + i, k, s);
        if (minimum16) {
            __m512 m = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(k, minimum16 + i));
            _mm512_mask_storeu_ps(middle + i, k, _mm512_fmadd_ps(s, _mm512_set1_ps(code), m));
        }
    }
}

static void bounds(const int32_t *x, int n, int32_t *low, int32_t *high) {
    __m512i least = _mm512_set1_epi32(x[0]), most = least;
    for (int i = 0; i < n; i += LANES) {
        __m512i v = _mm512_mask_loadu_epi32(least, lanes(n - i), x + i);
        least = _mm512_min_epi32(least, v);
        most = _mm512_max_epi32(most, _mm512_mask_mov_epi32(most, lanes(n - i), v));
    }
    *low = _mm512_reduce_min_epi32(least);
    *high = _mm512_reduce_max_epi32(most);
}

void rows_avx512_fill(cpu_kernels *k) {
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
