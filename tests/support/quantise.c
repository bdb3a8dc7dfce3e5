/* quantise.c - tests: the inverse of cpu/blocks.c, written from the published bit layouts.
 *
 * Each block (for K types: each group of 32 or 16) takes its scale from its extreme values and rounds to the nearest
 * code; no search for a better scale. Codes are computed against the scale as it is stored, after its own rounding. The
 * layouts stand in cpu/blocks.c. */
#include "support/quantise.h"
#include "base/f16.h"
#include <assert.h>
#include <math.h>
#include <string.h>

static void put_f16(uint8_t *at, float x) {
    const f16 h = f16_from_f32(x);
    memcpy(at, &h, sizeof h);
}

static float stored_f16(float x) {
    return f16_to_f32(f16_from_f32(x));
}

/* Nearest code of x = scale * code + minimum in 0..top. */
static int code_of(float x, float scale, float minimum, int top) {
    if (scale == 0)
        return 0;
    const long code = lrintf((x - minimum) / scale);
    return code < 0 ? 0 : code > top ? top : (int)code;
}

static void extremes(const float *x, int n, float *low, float *high) {
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        *low = fminf(*low, x[i]);
        *high = fmaxf(*high, x[i]);
    }
}

static float magnitude(const float *x, int n) {
    float low, high;
    extremes(x, n, &low, &high);
    return fmaxf(-low, high);
}

/* ---- blocks of 32 ---- */

/* Q4_0 and Q5_0: d and codes around the middle. Q4_1 and Q5_1: d, minimum and codes from 0. */
static void quantise_32(int bits, bool with_minimum, const float *x, uint8_t *dst) {
    const int top = (1 << bits) - 1, middle = 1 << (bits - 1);
    float low, high;
    extremes(x, 32, &low, &high);
    float d = stored_f16(with_minimum ? (high - low) / (float)top : fmaxf(-low, high) / (float)(middle - 1));
    const float minimum = with_minimum ? stored_f16(low) : -d * (float)middle;
    put_f16(dst, d);
    dst += 2;
    if (with_minimum) {
        put_f16(dst, minimum);
        dst += 2;
    }
    uint8_t code[32];
    uint32_t fifth = 0;
    for (int i = 0; i < 32; i++) {
        code[i] = (uint8_t)code_of(x[i], d, minimum, top);
        fifth |= (uint32_t)(code[i] >> 4) << i;
    }
    if (bits == 5) {
        memcpy(dst, &fifth, 4);
        dst += 4;
    }
    for (int i = 0; i < 16; i++)
        dst[i] = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
}

static void quantise_q8_0(const float *x, uint8_t *dst) {
    const float d = stored_f16(magnitude(x, 32) / 127);
    put_f16(dst, d);
    for (int i = 0; i < 32; i++)
        dst[2 + i] = (uint8_t)(code_of(x[i], d, -128 * d, 255) - 128);
}

/* ---- blocks of 256 ---- */

/* Eight 6-bit scales and minima in 12 bytes; see cpu/blocks.c. */
static void put_scales(const uint8_t scale[8], const uint8_t minimum[8], uint8_t *at) {
    for (int g = 0; g < 4; g++) {
        at[g] = (uint8_t)(scale[g] | (scale[g + 4] >> 4) << 6);
        at[g + 4] = (uint8_t)(minimum[g] | (minimum[g + 4] >> 4) << 6);
        at[g + 8] = (uint8_t)((scale[g + 4] & 15) | (minimum[g + 4] & 15) << 4);
    }
}

/* Q4_K and Q5_K: x = d * scale * code - dmin * minimum in groups of 32, minima at or below 0. */
static void quantise_k(int bits, const float *x, uint8_t *dst) {
    const int top = (1 << bits) - 1;
    float step[8], below[8];
    for (int g = 0; g < 8; g++) {
        float low, high;
        extremes(x + 32 * g, 32, &low, &high);
        low = fminf(low, 0);
        step[g] = (high - low > 0 ? high - low : 0) / (float)top;
        below[g] = -low;
    }
    const float d = stored_f16(magnitude(step, 8) / 63), dmin = stored_f16(magnitude(below, 8) / 63);
    uint8_t scale[8], minimum[8], code[256];
    for (int g = 0; g < 8; g++) {
        scale[g] = (uint8_t)code_of(step[g], d, 0, 63);
        minimum[g] = (uint8_t)code_of(below[g], dmin, 0, 63);
        for (int i = 32 * g; i < 32 * g + 32; i++)
            code[i] = (uint8_t)code_of(x[i], d * (float)scale[g], -dmin * (float)minimum[g], top);
    }
    put_f16(dst, d);
    put_f16(dst + 2, dmin);
    put_scales(scale, minimum, dst + 4);
    uint8_t *high = dst + 16, *low = dst + (bits == 5 ? 48 : 16);
    if (bits == 5)
        memset(high, 0, 32);
    for (int i = 0; i < 256; i++) {
        const int g = i / 32, lane = i % 32;
        uint8_t *at = low + 32 * (g / 2) + lane;
        *at = g % 2 ? (uint8_t)(*at | (code[i] & 15) << 4) : (code[i] & 15);
        if (bits == 5)
            high[lane] |= (uint8_t)((code[i] >> 4) << g);
    }
}

/* x = d * scale * (code - 32) in groups of 16. */
static void quantise_q6_k(const float *x, uint8_t *dst) {
    float step[16];
    for (int g = 0; g < 16; g++)
        step[g] = magnitude(x + 16 * g, 16) / 31;
    const float d = stored_f16(magnitude(step, 16) / 127);
    uint8_t *low = dst, *high = dst + 128, *scale = dst + 192;
    memset(dst, 0, 192);
    put_f16(dst + 208, d);
    for (int g = 0; g < 16; g++)
        scale[g] = (uint8_t)code_of(step[g], d, 0, 127);
    for (int i = 0; i < 256; i++) {
        const float s = d * (float)scale[i / 16];
        const int code = code_of(x[i], s, -32 * s, 63);
        const int half = i / 128, quarter = i % 128 / 32, lane = i % 32;
        low[64 * half + 32 * (quarter % 2) + lane] |= (uint8_t)((code & 15) << 4 * (quarter / 2));
        high[32 * half + lane] |= (uint8_t)((code >> 4) << 2 * quarter);
    }
}

/* ---- all types ---- */

static void quantise_block(block_type type, const float *x, uint8_t *dst) {
    switch (type) {
    case BLOCK_F32:
        memcpy(dst, x, 4);
        return;
    case BLOCK_F16:
        put_f16(dst, *x);
        return;
    case BLOCK_BF16: {
        uint32_t bits;
        memcpy(&bits, x, 4);
        const uint16_t half = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
        memcpy(dst, &half, 2);
        return;
    }
    case BLOCK_Q4_0:
    case BLOCK_Q4_1:
        quantise_32(4, type == BLOCK_Q4_1, x, dst);
        return;
    case BLOCK_Q5_0:
    case BLOCK_Q5_1:
        quantise_32(5, type == BLOCK_Q5_1, x, dst);
        return;
    case BLOCK_Q8_0:
        quantise_q8_0(x, dst);
        return;
    case BLOCK_Q4_K:
    case BLOCK_Q5_K:
        quantise_k(type == BLOCK_Q5_K ? 5 : 4, x, dst);
        return;
    case BLOCK_Q6_K:
        quantise_q6_k(x, dst);
        return;
    }
    assert(!"a block type that cannot be written");
}

size_t quantise_bytes(block_type type, int64_t n) {
    const block_traits *traits = block_traits_of(type);
    assert(traits->name && n % traits->elements == 0);
    return (size_t)(n / traits->elements) * (size_t)traits->bytes;
}

void quantise(block_type type, const float *x, int64_t n, uint8_t *dst) {
    const block_traits *traits = block_traits_of(type);
    assert(traits->name && n % traits->elements == 0);
    for (int64_t i = 0; i < n; i += traits->elements, dst += traits->bytes)
        quantise_block(type, x + i, dst);
}
