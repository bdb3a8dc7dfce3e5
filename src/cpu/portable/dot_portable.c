/* dot_portable.c - products of rows with integer codes in plain C: the definition that faster levels are tested
 * against.
 *
 * A quantised page is never made float. What multiplies it (a query, or probabilities) takes the scales in (fold) and
 * becomes whole numbers of 15 bits in two planes of bytes: one plane, as usual for 8-bit dot products, would add an
 * error as large as the format's own on peaked scores. Codes count from their middle, so that the rounding of a row
 * does not multiply their mean. */
#include "cpu/fill.h"
#include <math.h>

static void fold(const fold_item *items, int n_items, int n, dot_row *rows) {
    for (int r = 0; r < n_items; r++) {
        const float *x = items[r].x, *scale = items[r].scale, *middle = items[r].middle;
        dot_row *row = &rows[r];
        float y[DOT_MOST], top = 0, offset = 0;
        for (int i = 0; i < n; i++) {
            y[i] = scale ? x[i] * scale[i] : x[i];
            top = fabsf(y[i]) > top ? fabsf(y[i]) : top;
            offset += middle ? x[i] * middle[i] : 0;
        }
        bool none = top < 1e-30f; /* DOT_LIMIT / top would overflow */
        float to_number = none ? 0 : DOT_LIMIT / top;
        row->unit = none ? 0 : top / DOT_LIMIT;
        row->offset = offset;
        row->sum = 0;
        for (int i = 0; i < n; i++) {
            int number = (int)rintf(y[i] * to_number), high = (number + 128) >> 8;
            row->high[i] = (int8_t)high;
            row->low[i] = (int8_t)(number - high * 256);
            row->sum += number;
        }
    }
}

/* Code of element i, column k. */
static int code_at(code_type type, const uint8_t *codes, int i, int k) {
    if (type == CODE_U8)
        return codes[(i / 4 * TILE + k) * 4 + i % 4];
    if (type == CODE_U4)
        return codes[(i / 8 * TILE + k) * 4 + i % 4] >> (i / 4 % 2 * 4) & 15;
    return codes[(i / 16 * TILE + k) * 4 + i % 4] >> (i / 4 % 4 * 2) & 3;
}

static inline void tile(code_type type, const dot_row *rows, int n_rows, int n, const uint8_t *codes,
                        const float *scale, const float *middle, float *out, size_t ldo) {
    const int bits = type == CODE_U8 ? 8 : type == CODE_U4 ? 4 : 2;
    for (int k = 0; k < TILE; k++) {
        int count[DOT_MOST];
        for (int i = 0; i < n; i++)
            count[i] = code_at(type, codes, i, k) - (1 << (bits - 1));
        for (int r = 0; r < n_rows; r++) {
            int32_t sum = 0;
            for (int i = 0; i < n; i++)
                sum += (rows[r].high[i] * 256 + rows[r].low[i]) * count[i];
            float t = rows[r].unit * (float)sum;
            out[(size_t)r * ldo + (size_t)k] += scale ? t * scale[k] : t;
            out[(size_t)r * ldo + (size_t)k] += middle ? rows[r].offset * middle[k] : rows[r].offset;
        }
    }
}

static inline void dot(code_type type, const dot_row *rows, int n_rows, int n, const uint8_t *codes, int n_tiles,
                       int tiles_per_group, const float *scale, const float *middle, float *out, size_t ldo,
                       const void *prefetch) {
    const int tile_bytes = n * TILE / (type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4);
    for (int line = 0; prefetch && line < n_tiles * tile_bytes; line += 64)
        __builtin_prefetch((const char *)prefetch + line, 0, 2);
    for (int i = 0; i < n_tiles; i++)
        tile(type, rows + i / tiles_per_group * n_rows, n_rows, n, codes + i * tile_bytes,
             scale ? scale + i * TILE : NULL, middle ? middle + i * TILE : NULL, out + i * TILE, ldo);
}

#define DOT(name, type)                                                                                                \
    static void name(const dot_row *rows, int n_rows, int n, const uint8_t *codes, int n_tiles, int tiles_per_group,   \
                     const float *scale, const float *middle, float *out, size_t ldo, const void *prefetch) {          \
        dot(type, rows, n_rows, n, codes, n_tiles, tiles_per_group, scale, middle, out, ldo, prefetch);                \
    }

DOT(dot_u8, CODE_U8)
DOT(dot_u4, CODE_U4)
DOT(dot_u2, CODE_U2)

void dot_portable_fill(cpu_kernels *k) {
    k->fold = fold;
    k->dot[CODE_U8] = dot_u8;
    k->dot[CODE_U4] = dot_u4;
    k->dot[CODE_U2] = dot_u2;
}
