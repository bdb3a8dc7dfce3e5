/* pack.c - repacks weight rows of a model file into panels of 16 rows (see pack.h for the bytes).
 *
 * Codes come from block_affine16, 16 at a time. Scales and minima of the types with blocks of 32 were halves in the
 * file and are halves here; of those with blocks of 256 their factors are taken over. In types with groups of 32 both
 * halves of a block share scale and minimum, so the first half's are stored. Nothing is rounded: the packed matrix has
 * the values of the file. */
#include "cpu/pack.h"
#include <assert.h>
#include <string.h>

enum { LINE_BYTES = 64 };

pack_type pack_type_of(block_type type) {
    switch (type) {
    case BLOCK_Q4_0:
        return PACK_S4;
    case BLOCK_Q4_1:
        return PACK_I4;
    case BLOCK_Q5_0:
        return PACK_S5;
    case BLOCK_Q5_1:
        return PACK_I8;
    case BLOCK_Q8_0:
        return PACK_S8;
    case BLOCK_Q4_K:
        return PACK_K4;
    case BLOCK_Q5_K:
        return PACK_K5;
    case BLOCK_Q6_K:
        return PACK_K6;
    case BLOCK_F16:
        return PACK_F16;
    case BLOCK_F32:
    case BLOCK_BF16:
        return PACK_F32;
    }
    assert(!"a block type without a packed form");
    return PACK_F32;
}

/* Columns and bytes of the smallest part of a panel that repeats: a column, block or super-block. */
static void unit_of(pack_type type, int *columns, size_t *bytes) {
    pack_parts parts = pack_parts_of(type);
    int n_blocks = parts.super ? PACK_SUPER : 1;
    *columns = pack_is_float(type) ? 1 : n_blocks * PACK_BLOCK;
    *bytes = pack_is_float(type) ? PACK_ROWS * (type == PACK_F16 ? sizeof(f16) : sizeof(float))
                                 : (size_t)(n_blocks * (parts.code + parts.map) + parts.super);
}

size_t pack_bytes(pack_type type, int64_t n_rows, int64_t n_cols) {
    int columns;
    size_t bytes, panel, total;
    unit_of(type, &columns, &bytes);
    if (n_rows <= 0 || n_cols <= 0 || n_rows > INT64_MAX - PACK_ROWS || n_cols % columns)
        return 0;
    if (__builtin_mul_overflow((size_t)(n_cols / columns), bytes, &panel) ||
        __builtin_add_overflow(panel, (size_t)LINE_BYTES - 1, &panel))
        return 0;
    panel &= ~(size_t)(LINE_BYTES - 1);
    if (__builtin_mul_overflow(panel, (size_t)((n_rows + PACK_ROWS - 1) / PACK_ROWS), &total))
        return 0;
    return total;
}

/* Codes of one row of one block, 32 of them, to their places among the 16 rows. */
static void place_bytes(const uint8_t code[PACK_BLOCK], int row, uint8_t *dst) {
    for (int c = 0; c < PACK_BLOCK; c++)
        dst[(c / 4 * PACK_ROWS + row) * 4 + c % 4] = code[c];
}

static void place_nibbles(const uint8_t code[PACK_BLOCK], int row, uint8_t *dst) {
    for (int c = 0; c < PACK_BLOCK / 2; c++)
        dst[(c / 4 * PACK_ROWS + row) * 4 + c % 4] = (uint8_t)((code[c] & 15) | (code[c + 16] & 15) << 4);
}

/* The upper two bits of codes of six. */
static void place_pairs(const uint8_t code[PACK_BLOCK], int row, uint8_t *dst) {
    for (int c = 0; c < PACK_BLOCK / 4; c++) {
        int both = 0;
        for (int k = 0; k < 4; k++)
            both |= code[c + 8 * k] >> 4 << 2 * k;
        dst[(c / 4 * PACK_ROWS + row) * 4 + c % 4] = (uint8_t)both;
    }
}

static void place_codes(pack_type type, const uint8_t code[PACK_BLOCK], int row, uint8_t *dst) {
    if (pack_parts_of(type).code == PACK_ROWS * PACK_BLOCK) {
        place_bytes(code, row, dst);
        return;
    }
    place_nibbles(code, row, dst);
    if (type == PACK_K6)
        place_pairs(code, row, dst + PACK_ROWS * PACK_BLOCK / 2);
}

/* Of a type with blocks of 32. */
static void place_halves(float scale, float minimum, int centre, int row, f16 *map) {
    map[row] = f16_from_f32(scale);
    assert(!centre || minimum == (float)-centre * scale || scale != scale);
    if (!centre)
        map[PACK_ROWS + row] = f16_from_f32(minimum);
}

/* Block b of a row of a type with blocks of 256; super: its super-block's. */
static void place_factors(block_type type, const uint8_t *src, int b, int row, uint8_t *map, f16 *super) {
    block_factors first = block_factors_of(type, src, (int64_t)b * 2),
                  second = block_factors_of(type, src, (int64_t)b * 2 + 1);
    super[row] = first.d;
    map[row] = (uint8_t)first.s;
    map[PACK_ROWS + row] = (uint8_t)(type == BLOCK_Q6_K ? second.s : first.m);
    if (type != BLOCK_Q6_K)
        super[PACK_ROWS + row] = first.dmin;
}

static void pack_quantised_row(block_type type, const uint8_t *src, int n_cols, int row, uint8_t *panel) {
    pack_type packed = pack_type_of(type);
    pack_parts parts = pack_parts_of(packed);
    int n_blocks = n_cols / PACK_BLOCK;
    uint8_t *maps = panel + (size_t)n_blocks * (size_t)parts.code,
            *supers = maps + (size_t)n_blocks * (size_t)parts.map;
    for (int b = 0; b < n_blocks; b++) {
        uint8_t code[PACK_BLOCK], *map = maps + (size_t)b * (size_t)parts.map;
        float scale[2], minimum[2];
        for (int g = 0; g < 2; g++)
            block_affine16(type, src, (int64_t)b * 2 + g, code + g * 16, &scale[g], &minimum[g]);
        place_codes(packed, code, row, panel + (size_t)b * (size_t)parts.code);
        if (parts.super)
            place_factors(type, src, b, row, map, (f16 *)(supers + (size_t)(b / PACK_SUPER * parts.super)));
        else
            place_halves(scale[0], minimum[0], parts.centre, row, (f16 *)map);
    }
}

static void pack_float_row(block_type type, const uint8_t *src, int n_cols, int row, uint8_t *panel) {
    for (int c = 0; c < n_cols; c++) {
        size_t at = (size_t)c * PACK_ROWS + (size_t)row;
        if (type == BLOCK_F16) {
            memcpy(panel + at * sizeof(f16), src + (size_t)c * sizeof(f16), sizeof(f16));
        } else if (type == BLOCK_F32) {
            memcpy(panel + at * sizeof(float), src + (size_t)c * sizeof(float), sizeof(float));
        } else {
            uint16_t half;
            memcpy(&half, src + (size_t)c * sizeof half, sizeof half);
            float value = bf16_to_f32(half);
            memcpy(panel + at * sizeof value, &value, sizeof value);
        }
    }
}

void pack_panels(block_type type, const uint8_t *src, int n_rows, int n_cols, int panel_first, int n_panels,
                 uint8_t *dst) {
    const block_traits *traits = block_traits_of(type);
    pack_type packed = pack_type_of(type);
    assert(traits->name && n_cols % traits->elements == 0);
    size_t row_bytes = (size_t)(n_cols / traits->elements) * (size_t)traits->bytes;
    size_t panel_bytes = pack_bytes(packed, 1, n_cols);
    for (int p = panel_first; p < panel_first + n_panels; p++) {
        uint8_t *panel = dst + (size_t)p * panel_bytes;
        int rows = n_rows - p * PACK_ROWS < PACK_ROWS ? n_rows - p * PACK_ROWS : PACK_ROWS;
        if (rows < PACK_ROWS)
            memset(panel, 0, panel_bytes);
        memset(panel + panel_bytes - LINE_BYTES, 0, LINE_BYTES); /* of which the end may be a gap */
        for (int row = 0; row < rows; row++) {
            const uint8_t *from = src + (size_t)(p * PACK_ROWS + row) * row_bytes;
            if (pack_is_float(packed))
                pack_float_row(type, from, n_cols, row, panel);
            else
                pack_quantised_row(type, from, n_cols, row, panel);
        }
    }
}
