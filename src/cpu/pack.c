/* pack.c - repacks weight rows of a model file into panels of 16 rows (see pack.h for the bytes).
 *
 * Each block type is seen through block_affine16 alone: 16 codes, a scale and a minimum. In types with groups of 32
 * both halves of a block share scale and minimum, so the first half's are stored. Nothing is rounded here: the packed
 * matrix has the values of the file. */
#include "cpu/pack.h"
#include "base/f16.h"
#include <assert.h>
#include <string.h>

enum { LINE_BYTES = 64 };

pack_type pack_type_of(block_type type) {
    switch (type) {
    case BLOCK_Q4_0:
    case BLOCK_Q4_1:
    case BLOCK_Q4_K:
        return PACK_I4;
    case BLOCK_Q5_0:
    case BLOCK_Q5_1:
    case BLOCK_Q8_0:
    case BLOCK_Q5_K:
        return PACK_I8;
    case BLOCK_Q6_K:
        return PACK_I8H;
    case BLOCK_F16:
        return PACK_F16;
    case BLOCK_F32:
    case BLOCK_BF16:
        return PACK_F32;
    }
    assert(!"a block type without a packed form");
    return PACK_F32;
}

/* Bytes of 16 rows x 32 columns, or of 16 rows x 1 column for the float types. */
static size_t unit_bytes(pack_type type) {
    switch (type) {
    case PACK_I8:
    case PACK_I4:
    case PACK_I8H:
        return pack_block_bytes(type);
    case PACK_F16:
        return PACK_ROWS * sizeof(f16);
    case PACK_F32:
        return PACK_ROWS * sizeof(float);
    case PACK_COUNT:
        break;
    }
    assert(!"not a packed type");
    return 0;
}

size_t pack_bytes(pack_type type, int64_t n_rows, int64_t n_cols) {
    if (n_rows <= 0 || n_cols <= 0 || n_rows > INT64_MAX - PACK_ROWS)
        return 0;
    int64_t units = n_cols;
    if (type != PACK_F16 && type != PACK_F32) {
        if (n_cols % PACK_BLOCK)
            return 0;
        units = n_cols / PACK_BLOCK;
    }
    size_t panel, total;
    if (__builtin_mul_overflow((size_t)units, unit_bytes(type), &panel) ||
        __builtin_add_overflow(panel, (size_t)LINE_BYTES - 1, &panel))
        return 0;
    panel &= ~(size_t)(LINE_BYTES - 1);
    if (__builtin_mul_overflow(panel, (size_t)((n_rows + PACK_ROWS - 1) / PACK_ROWS), &total))
        return 0;
    return total;
}

/* Codes of one row of one block, 32 of them, to their places among the 16 rows. */
static void place_codes(pack_type type, const uint8_t code[PACK_BLOCK], int row, uint8_t *dst) {
    if (type == PACK_I4) {
        for (int c = 0; c < 16; c++) {
            assert(code[c] < 16 && code[c + 16] < 16);
            dst[(c / 4 * PACK_ROWS + row) * 4 + c % 4] = (uint8_t)(code[c] | code[c + 16] << 4);
        }
    } else {
        for (int c = 0; c < PACK_BLOCK; c++)
            dst[(c / 4 * PACK_ROWS + row) * 4 + c % 4] = code[c];
    }
}

static void pack_quantised_row(block_type type, const uint8_t *src, int n_cols, int row, uint8_t *panel) {
    pack_type packed = pack_type_of(type);
    int n_groups = packed == PACK_I8H ? 2 : 1;
    size_t block_bytes = unit_bytes(packed);
    for (int b = 0; b < n_cols / PACK_BLOCK; b++) {
        uint8_t *dst = panel + (size_t)b * block_bytes, code[PACK_BLOCK];
        float scale[2], minimum[2];
        for (int g = 0; g < 2; g++)
            block_affine16(type, src, (int64_t)b * 2 + g, code + g * 16, &scale[g], &minimum[g]);
        assert(n_groups == 2 || (scale[0] == scale[1] && minimum[0] == minimum[1]) || scale[0] != scale[0] ||
               minimum[0] != minimum[0]);
        for (int g = 0; g < n_groups; g++) {
            memcpy(dst + (g * PACK_ROWS + row) * sizeof(float), &scale[g], sizeof(float));
            memcpy(dst + ((n_groups + g) * PACK_ROWS + row) * sizeof(float), &minimum[g], sizeof(float));
        }
        place_codes(packed, code, row, dst + (size_t)n_groups * 2 * PACK_ROWS * sizeof(float));
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
        if (rows < PACK_ROWS || packed == PACK_F16)
            memset(panel, 0, panel_bytes); /* rows past the last one, and the gap up to a full line */
        for (int row = 0; row < rows; row++) {
            const uint8_t *from = src + (size_t)(p * PACK_ROWS + row) * row_bytes;
            if (packed == PACK_F16 || packed == PACK_F32)
                pack_float_row(type, from, n_cols, row, panel);
            else
                pack_quantised_row(type, from, n_cols, row, panel);
        }
    }
}
