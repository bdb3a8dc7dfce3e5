/* fold_neon.c - rows of floats to whole numbers in two planes of bytes, 16 elements at a time. */
#include "cpu/arm/lanes_neon.h"
#include "cpu/fill.h"

/* 8 numbers as words; adds them to sum. */
INLINE int16x8_t words_of(const float *y, float to_number, int32x4_t *sum) {
    int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(y), to_number));
    int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(y + 4), to_number));
    *sum = vaddq_s32(*sum, vaddq_s32(a, b));
    return vcombine_s16(vmovn_s32(a), vmovn_s32(b));
}

/* The high byte of a word, rounded so that the low one is signed: at most 127, as words are at most DOT_LIMIT. */
INLINE int8x8_t high_of(int16x8_t words) {
    return vshrn_n_s16(vaddq_s16(words, vdupq_n_s16(128)), 8);
}

static void fold_row(const float *x, int n, const float *scale, const float *middle, dot_row *row) {
    float y[DOT_MOST];
    float32x4_t top = vdupq_n_f32(0), offset = vdupq_n_f32(0);
    for (int i = 0; i < n; i += 4) {
        float32x4_t v = vld1q_f32(x + i), w = scale ? vmulq_f32(v, vld1q_f32(scale + i)) : v;
        if (middle)
            offset = vfmaq_f32(offset, v, vld1q_f32(middle + i));
        top = vmaxnmq_f32(top, vabsq_f32(w));
        vst1q_f32(y + i, w);
    }
    float most = vmaxnmvq_f32(top);
    bool none = most < 1e-30f; /* DOT_LIMIT / most would overflow */
    float to_number = none ? 0 : DOT_LIMIT / most;
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < n; i += 16) {
        int16x8_t a = words_of(y + i, to_number, &sum), b = words_of(y + i + 8, to_number, &sum);
        vst1q_s8(row->high + i, vcombine_s8(high_of(a), high_of(b)));
        vst1q_s8(row->low + i, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
    }
    row->unit = none ? 0 : most / DOT_LIMIT;
    row->offset = middle ? vaddvq_f32(offset) : 0;
    row->sum = vaddvq_s32(sum);
}

static void fold(const fold_item *items, int n_items, int n, dot_row *rows) {
    for (int r = 0; r < n_items; r++)
        fold_row(items[r].x, n, items[r].scale, items[r].middle, &rows[r]);
}

void fold_neon_fill(cpu_kernels *k) {
    k->fold = fold;
}
