/* blocks.c - the weight blocks of a GGUF file, each type seen as groups of 16 codes with a scale and a minimum.
 *
 * Bytes of a block (f16 little endian; nibbles: low first half, high second half of the 32):
 *   Q4_0  d, qs[16]                    d * (q - 8)
 *   Q4_1  d, m, qs[16]                 d * q + m
 *   Q5_0  d, qh[4], qs[16]             d * (q - 16), bit i of qh is the fifth bit of element i
 *   Q5_1  d, m, qh[4], qs[16]          d * q + m
 *   Q8_0  d, q[32]                     d * q, signed
 *   Q4_K  d, dmin, sc[12], qs[128]     256 elements: 8 groups of 32 with 6-bit scales and minima: d * s * q - dmin * m
 *   Q5_K  d, dmin, sc[12], qh[32], qs[128]   the same with a fifth bit: bit g of qh[i] for element i of group g
 *   Q6_K  ql[128], qh[64], sc[16], d   256 elements: 16 groups of 16 with signed scales: d * s * (q - 32)
 *
 * The layouts are facts of the file format (ggml's block_q* structures). All sums below are exact in float but for the
 * last one: f16 scales have 11 bits, 6-bit factors and codes of at most 8 bits fit beside them. */
#include "cpu/blocks.h"
#include "base/f16.h"
#include <assert.h>
#include <string.h>

enum { KNOWN_TYPES = BLOCK_BF16 + 1, GROUP = 16 };

static const block_traits traits[KNOWN_TYPES] = {
    [BLOCK_F32] = {"F32", 1, 4},       [BLOCK_F16] = {"F16", 1, 2},       [BLOCK_BF16] = {"BF16", 1, 2},
    [BLOCK_Q4_0] = {"Q4_0", 32, 18},   [BLOCK_Q4_1] = {"Q4_1", 32, 20},   [BLOCK_Q5_0] = {"Q5_0", 32, 22},
    [BLOCK_Q5_1] = {"Q5_1", 32, 24},   [BLOCK_Q8_0] = {"Q8_0", 32, 34},   [BLOCK_Q4_K] = {"Q4_K", 256, 144},
    [BLOCK_Q5_K] = {"Q5_K", 256, 176}, [BLOCK_Q6_K] = {"Q6_K", 256, 210},
};

const block_traits *block_traits_of(uint32_t type) {
    static const block_traits unknown = {NULL, 1, 1};
    return type < KNOWN_TYPES ? &traits[type] : &unknown;
}

static float read_f16(const uint8_t *at) {
    f16 h;
    memcpy(&h, at, sizeof(h));
    return f16_to_f32(h);
}

/* 16 elements of a block of 32: half 0 or 1. */
static void nibbles(const uint8_t *qs, int half, uint8_t code[GROUP]) {
    for (int i = 0; i < GROUP; i++)
        code[i] = half ? qs[i] >> 4 : qs[i] & 15;
}

static void fifth_bits(const uint8_t *qh, int half, uint8_t code[GROUP]) {
    uint32_t bits;
    memcpy(&bits, qh, sizeof(bits));
    for (int i = 0; i < GROUP; i++)
        code[i] |= (uint8_t)((bits >> (half * GROUP + i) & 1) << 4);
}

static void affine_32(block_type type, const uint8_t *b, int half, uint8_t code[GROUP], float *scale, float *minimum) {
    float d = read_f16(b);
    *scale = d;
    switch ((int)type) {
    case BLOCK_Q4_0:
        nibbles(b + 2, half, code);
        *minimum = -8 * d;
        return;
    case BLOCK_Q4_1:
        nibbles(b + 4, half, code);
        *minimum = read_f16(b + 2);
        return;
    case BLOCK_Q5_0:
        nibbles(b + 6, half, code);
        fifth_bits(b + 2, half, code);
        *minimum = -16 * d;
        return;
    case BLOCK_Q5_1:
        nibbles(b + 8, half, code);
        fifth_bits(b + 4, half, code);
        *minimum = read_f16(b + 2);
        return;
    default:
        assert(type == BLOCK_Q8_0);
        for (int i = 0; i < GROUP; i++)
            code[i] = (uint8_t)(b[2 + half * GROUP + i] ^ 0x80); /* q + 128 */
        *minimum = -128 * d;
    }
}

/* The 6-bit scale and minimum of group g among the 12 bytes of a Q4_K or Q5_K block. */
static void six_bits(const uint8_t *sc, int g, int *scale, int *minimum) {
    if (g < 4) {
        *scale = sc[g] & 63;
        *minimum = sc[g + 4] & 63;
    } else {
        *scale = (sc[g + 4] & 15) | (sc[g - 4] >> 6) << 4;
        *minimum = sc[g + 4] >> 4 | (sc[g] >> 6) << 4;
    }
}

/* What scale and minimum of a group are products of: scale = d * s, minimum = -(dmin * m); in Q6_K minimum = -32 *
 * scale, and dmin and m are 0. */
typedef struct block_factors {
    f16 d, dmin;
    int s, m; /* 0..63; in Q6_K -128..127 */
} block_factors;

static block_factors factors_k(block_type type, const uint8_t *b, int group16) {
    block_factors f = {0};
    if (type == BLOCK_Q6_K) {
        memcpy(&f.d, b + 208, sizeof(f.d));
        f.s = (int8_t)b[192 + group16];
    } else {
        memcpy(&f.d, b, sizeof(f.d));
        memcpy(&f.dmin, b + 2, sizeof(f.dmin));
        six_bits(b + 4, group16 / 2, &f.s, &f.m);
    }
    return f;
}

static void affine_k(block_type type, const uint8_t *b, int group16, uint8_t code[GROUP], float *scale,
                     float *minimum) {
    int g = group16 / 2, first = group16 % 2 * GROUP;
    const uint8_t *qs = b + (type == BLOCK_Q5_K ? 48 : 16) + g / 2 * 32 + first;
    nibbles(qs, g % 2, code);
    for (int i = 0; type == BLOCK_Q5_K && i < GROUP; i++)
        code[i] |= (uint8_t)((b[16 + first + i] >> g & 1) << 4);
    block_factors f = factors_k(type, b, group16);
    *scale = f16_to_f32(f.d) * (float)f.s;
    *minimum = -(f16_to_f32(f.dmin) * (float)f.m);
}

/* Elements 128 h + 32 r + i: low bits in ql[64 h + 32 (r % 2) + i], nibble r / 2; high bits in qh[32 h + i], pair r. */
static void affine_6(const uint8_t *b, int group16, uint8_t code[GROUP], float *scale, float *minimum) {
    int h = group16 / 8, r = group16 % 8 / 2, first = group16 % 2 * GROUP;
    const uint8_t *ql = b + 64 * h + 32 * (r % 2) + first, *qh = b + 128 + 32 * h + first;
    nibbles(ql, r / 2, code);
    for (int i = 0; i < GROUP; i++)
        code[i] |= (uint8_t)((qh[i] >> (2 * r) & 3) << 4);
    block_factors f = factors_k(BLOCK_Q6_K, b, group16);
    *scale = f16_to_f32(f.d) * (float)f.s;
    *minimum = -32 * *scale;
}

/* The block that holds a group of a row, and the group's number in it. */
static const uint8_t *block_of(block_type type, const uint8_t *row, int64_t group, int *within) {
    const block_traits *t = block_traits_of(type);
    int64_t per_block = t->elements / GROUP;
    *within = (int)(group % per_block);
    return row + group / per_block * t->bytes;
}

void block_affine16(block_type type, const uint8_t *row, int64_t group, uint8_t code[16], float *scale,
                    float *minimum) {
    int within;
    const uint8_t *b = block_of(type, row, group, &within);
    if (type == BLOCK_Q6_K)
        affine_6(b, within, code, scale, minimum);
    else if (type == BLOCK_Q4_K || type == BLOCK_Q5_K)
        affine_k(type, b, within, code, scale, minimum);
    else
        affine_32(type, b, within, code, scale, minimum);
}

static void open_floats(block_type type, const uint8_t *src, int64_t n, float *x) {
    uint16_t h;
    if (type == BLOCK_F32) {
        memcpy(x, src, (size_t)n * sizeof(*x));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        memcpy(&h, src + 2 * i, sizeof(h));
        x[i] = type == BLOCK_F16 ? f16_to_f32(h) : bf16_to_f32(h);
    }
}

void block_open(block_type type, const uint8_t *src, int64_t n, float *x) {
    assert(block_traits_of(type)->name && n % block_traits_of(type)->elements == 0);
    if (type == BLOCK_F32 || type == BLOCK_F16 || type == BLOCK_BF16) {
        open_floats(type, src, n, x);
        return;
    }
    for (int64_t group = 0; group < n / GROUP; group++) {
        uint8_t code[GROUP];
        float scale, minimum;
        block_affine16(type, src, group, code, &scale, &minimum);
        for (int i = 0; i < GROUP; i++)
            x[group * GROUP + i] = scale * (float)code[i] + minimum;
    }
}
