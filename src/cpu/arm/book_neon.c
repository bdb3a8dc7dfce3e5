/* book_neon.c - products of rows with codes into a table by sdot.
 *
 * Both factors are two planes of signed bytes: a row's as it is, and the table's numbers as two tables. Their four
 * products are three sums, two of them weigh the same; they are put together as whole numbers at the end of a chunk,
 * where what has wrapped around comes back, as the whole fits (kernels.h). A tile is swept four times, 8 columns wide:
 * 3 rows x 3 sums x 2 vectors are 18 accumulators. */
#include "cpu/arm/sdot_neon.h"
#include "cpu/book_tiles.h"
#include "cpu/fill.h"

enum { ROWS = 3, VECTORS = 2, COLUMNS = 4 * VECTORS, HIGH = 0, MIDDLE = 1, LOW = 2 };

typedef struct tables {
    int8x16_t low, high; /* number = 256 * high + low */
} tables;

INLINE size_t block_bytes(book_type type) { /* of 16 elements */
    return (size_t)(16 / book_block(type) * book_block_bytes(type));
}

INLINE tables tables_of(book_type type, const int16_t *book) {
    int8_t low[16] = {0}, high[16] = {0};
    for (int i = 0; i < 1 << book_bits(type); i++) {
        high[i] = (int8_t)((book[i] + 128) >> 8);
        low[i] = (int8_t)(book[i] - high[i] * 256);
    }
    return (tables){vld1q_s8(low), vld1q_s8(high)};
}

/* 4 columns from `column` on of 4 elements, the quarter'th 4 of a block's 16. */
INLINE uint8x16_t unpack(book_type type, const uint8_t *block, int quarter, int column) {
    if (type == BOOK_4) {
        uint8x16_t both = vld1q_u8(block + quarter / 2 * 128 + 4 * column);
        return quarter % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
    }
    uint8x16_t pairs = vshlq_u8(vld1q_u8(block + 4 * column), vdupq_n_s8((int8_t)(-2 * quarter)));
    pairs = vandq_u8(pairs, vdupq_n_u8(3));
    if (type == BOOK_2)
        return pairs;
    const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8_t *upper = block + 128 + 16 * quarter + column / 2;
    uint8x16_t bits = vcombine_u8(vdup_n_u8(upper[0]), vdup_n_u8(upper[1]));
    return vorrq_u8(pairs, vandq_u8(vtstq_u8(bits, bit), vdupq_n_u8(4)));
}

/* Elements [first, end) of columns `column` .. +7, added to total. */
INLINE void chunk(book_type type, int n_rows, const book_place *at, const tables *t, const dot_row *rows, int column,
                  int first, int end, float32x4_t total[][VECTORS]) {
    const uint8_t *block = at->tile->codes + (size_t)(first / 16) * block_bytes(type);
    int32x4_t sum[ROWS][3][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++)
            sum[r][HIGH][v] = sum[r][MIDDLE][v] = sum[r][LOW][v] = vdupq_n_s32(0);
    for (int i = first; i < end; i += 16, block += block_bytes(type)) {
        for (size_t line = 0; at->prefetch && column == 0 && line < block_bytes(type); line += 64)
            __builtin_prefetch(at->prefetch + (block - at->tile->codes) + line, 0, 2);
#pragma GCC unroll 8
        for (int quarter = 0; quarter < 4; quarter++) {
            int8x16_t low[VECTORS], high[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) {
                uint8x16_t code = unpack(type, block, quarter, column + 4 * v);
                low[v] = vqtbl1q_s8(t->low, code);
                high[v] = vqtbl1q_s8(t->high, code);
            }
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++) {
                int8x16_t a_high = vld1q_s8(rows[r].high + i), a_low = vld1q_s8(rows[r].low + i);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; v++) {
                    sum[r][HIGH][v] = add_dot(sum[r][HIGH][v], high[v], a_high, quarter);
                    sum[r][MIDDLE][v] = add_dot(sum[r][MIDDLE][v], low[v], a_high, quarter);
                    sum[r][MIDDLE][v] = add_dot(sum[r][MIDDLE][v], high[v], a_low, quarter);
                    sum[r][LOW][v] = add_dot(sum[r][LOW][v], low[v], a_low, quarter);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            int32x4_t whole = vaddq_s32(vshlq_n_s32(sum[r][HIGH][v], 8), sum[r][MIDDLE][v]);
            whole = vaddq_s32(vshlq_n_s32(whole, 8), sum[r][LOW][v]);
            total[r][v] = vaddq_f32(total[r][v], vcvtq_f32_s32(whole));
        }
}

INLINE void columns(book_type type, int n_rows, const book_place *at, const tables *t, int column) {
    const dot_row *rows = at->tile->rows + at->row;
    float32x4_t total[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++)
            total[r][v] = vdupq_n_f32(0);
    for (int first = 0; first < at->n; first += BOOK_CHUNK)
        chunk(type, n_rows, at, t, rows, column, first, at->n - first < BOOK_CHUNK ? at->n : first + BOOK_CHUNK, total);
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            float *out = at->tile->out + (size_t)(at->row + r) * at->ldo + column + 4 * v;
            float32x4_t unit = vdupq_n_f32(rows[r].unit);
            if (at->tile->scale)
                unit = vmulq_f32(unit, vld1q_f32(at->tile->scale + column + 4 * v));
            vst1q_f32(out, vfmaq_f32(vld1q_f32(out), total[r][v], unit));
        }
}

/* The first block of rows asks for the lines to come. */
INLINE void walk(book_type type, const int16_t *book, const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo,
                 const char *prefetch) {
    const tables t = tables_of(type, book);
    for (int i = 0; i < n_tiles; i++)
        for (int r = 0; r < n_rows; r += ROWS) {
            book_place at = {.tile = &tiles[i], .row = r, .n = n, .ldo = ldo};
            at.prefetch = r || !prefetch ? NULL : prefetch + (tiles[i].codes - tiles[0].codes);
            for (int column = 0; column < TILE; column += COLUMNS)
                if (n_rows - r >= ROWS)
                    columns(type, ROWS, &at, &t, column);
                else if (n_rows - r == 2)
                    columns(type, 2, &at, &t, column);
                else
                    columns(type, 1, &at, &t, column);
        }
}

BOOK_KERNELS

void book_neon_fill(cpu_kernels *k) {
    book_fill(k);
}
