/* kernel_cases_dot.c - the cases of folded rows and of their products with integer codes and with codes into a table.
 *
 * Whole numbers must be equal at every level: fold's are compared as they are, dot's in a case whose unit is 1 and
 * whose codes and numbers stand at their limits. */
#include "support/kernel_cases.h"
#include <math.h>
#include <string.h>

/* ---- fold ---- */

enum { F_X, F_SCALE, F_MIDDLE, F_ROWS, F_NUMBERS, F_FLOATS };

static size_t ldx(const kernel_size *s) {
    return (size_t)s->n + (s->variant & 1 ? 5 : 0);
}

static void fold_layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    size_t n = (size_t)s->n, n_rows = (size_t)s->n_rows;
    b[F_X] = (kernel_buffer){.element = KERNEL_F32, .n = (n_rows - 1) * ldx(s) + n, .align = 4};
    b[F_SCALE] = b[F_MIDDLE] = (kernel_buffer){.element = KERNEL_F32, .n = n, .align = 4};
    b[F_ROWS] = (kernel_buffer){.element = KERNEL_U8, .n = n_rows * sizeof(dot_row), .scratch = true, .align = 64};
    b[F_NUMBERS] = (kernel_buffer){.element = KERNEL_I32, .n = n_rows * (n + 1), .out = true, .align = 4};
    b[F_FLOATS] = (kernel_buffer){.element = KERNEL_F32, .n = n_rows * 2, .out = true, .align = 4};
}

/* Rows of ordinary numbers, with one channel far above the others, of zeros, and too small to scale. */
static void fold_fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    fold_layout(c, s, b);
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < b[k].n; i++)
            ((float *)buffer[k])[i] = kernel_draw_float(&seed, magnitudes || k == F_SCALE);
    float *x = buffer[F_X];
    for (int r = 0; r < s->n_rows; r++)
        for (int i = 0; i < s->n; i++) {
            float *at = x + (size_t)r * ldx(s) + i;
            if (r % 4 == 1 && i == 7)
                *at *= 300;
            if (r % 4 == 2 && r > 4)
                *at = 0;
            if (r % 4 == 3 && r > 4)
                *at *= 1e-32f;
        }
    memset(buffer[F_ROWS], 0, b[F_ROWS].n);
    memset(buffer[F_NUMBERS], 0, b[F_NUMBERS].n * 4);
    memset(buffer[F_FLOATS], 0, b[F_FLOATS].n * 4);
}

/* variant bit 0: gaps between rows, bit 1: a scale, bit 2: a middle. */
static void fold_run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                     void *const *buffer) {
    (void)c;
    const float *scale = s->variant & 2 ? buffer[F_SCALE] : NULL, *middle = s->variant & 4 ? buffer[F_MIDDLE] : NULL;
    fold_item item[16];
    for (int r = 0; r < n_rows; r++)
        item[r] = (fold_item){(const float *)buffer[F_X] + (size_t)(first + r) * ldx(s), scale, middle};
    k->fold(item, n_rows, s->n, (dot_row *)buffer[F_ROWS] + first);
}

/* What tests compare of the rows. */
static void fold_extract(const kernel_size *s, void *const *buffer) {
    const dot_row *rows = buffer[F_ROWS];
    for (int r = 0; r < s->n_rows; r++) {
        int32_t *number = (int32_t *)buffer[F_NUMBERS] + r * (s->n + 1);
        float *floats = (float *)buffer[F_FLOATS] + r * 2;
        for (int i = 0; i < s->n; i++)
            number[i] = rows[r].high[i] * 256 + rows[r].low[i];
        number[s->n] = rows[r].sum;
        floats[0] = rows[r].unit;
        floats[1] = rows[r].offset;
    }
}

static const kernel_case fold = {.name = "fold",
                                 .rule = KERNEL_SUM,
                                 .step = {16, 1, 1, 0},
                                 .most = {256, 13, 1, 8},
                                 .bench = {64, 6, 1, 6},
                                 .rows_apart = true,
                                 .layout = fold_layout,
                                 .fill = fold_fill,
                                 .run = fold_run,
                                 .extract = fold_extract};

/* ---- dot ---- */

enum { D_ROWS, D_CODES, D_SCALE, D_MIDDLE, D_OUT, D_BOOK };

static int bits_of(const kernel_case *c) {
    if (c->entry == ENTRY_BOOK)
        return book_bits((book_type)c->type);
    return c->type == CODE_U8 ? 8 : c->type == CODE_U4 ? 4 : 2;
}

/* n_out tiles stand side by side; the first two share their rows, the others have the next ones. */
enum { TILES_PER_GROUP = 2 };

static size_t ldo(const kernel_size *s) {
    return (size_t)s->n_out * TILE + (s->variant & 1 ? 3 : 0);
}

static int n_sets(const kernel_size *s) {
    return (s->n_out + TILES_PER_GROUP - 1) / TILES_PER_GROUP;
}

static void dot_layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    size_t n = (size_t)(s->n * s->n_out * TILE * bits_of(c) / 8), wide = (size_t)(s->n_out * TILE);
    b[D_ROWS] =
        (kernel_buffer){.element = KERNEL_U8, .n = (size_t)(n_sets(s) * s->n_rows) * sizeof(dot_row), .align = 64};
    b[D_CODES] = (kernel_buffer){.element = KERNEL_U8, .n = n, .stream = true, .align = 64};
    b[D_SCALE] = b[D_MIDDLE] = (kernel_buffer){.element = KERNEL_F32, .n = wide, .align = 4};
    b[D_OUT] =
        (kernel_buffer){.element = KERNEL_F32, .n = ((size_t)s->n_rows - 1) * ldo(s) + wide, .out = true, .align = 4};
    if (c->entry == ENTRY_BOOK)
        b[D_BOOK] = (kernel_buffer){.element = KERNEL_I16, .n = 1u << bits_of(c), .align = 2};
}

static bool only_sums(const kernel_case *c) {
    return c->rule == KERNEL_BITS;
}

static void fill_numbers(const kernel_case *c, const kernel_size *s, uint64_t *state, bool magnitudes, dot_row *row) {
    memset(row, 0, sizeof(*row));
    uint32_t limits = kernel_draw(state);
    for (int i = 0; i < s->n; i++) {
        uint32_t u = kernel_draw(state);
        int number = (int)(u % (2 * DOT_LIMIT + 1)) - DOT_LIMIT;
        if (only_sums(c) && limits % 3 != 0)
            number = limits % 3 == 1 ? DOT_LIMIT : -DOT_LIMIT;
        number = magnitudes && number < 0 ? -number : number;
        int high = (number + 128) >> 8;
        row->high[i] = (int8_t)high;
        row->low[i] = (int8_t)(number - 256 * high);
        row->sum += number;
    }
    row->unit = only_sums(c) ? 1 : 1e-5f + 1e-4f * fabsf(kernel_draw_unit(state));
    row->offset = only_sums(c) ? 0 : kernel_draw_float(state, magnitudes);
}

static void dot_fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    dot_layout(c, s, b);
    for (int r = 0; r < n_sets(s) * s->n_rows; r++)
        fill_numbers(c, s, &seed, magnitudes, (dot_row *)buffer[D_ROWS] + r);
    uint32_t limits = kernel_draw(&seed);
    uint8_t *codes = buffer[D_CODES];
    int bits = bits_of(c), most = (1 << bits) - 1, middle = 1 << (bits - 1);
    for (size_t i = 0; i < b[D_CODES].n; i++) {
        codes[i] = (uint8_t)(only_sums(c) && limits % 4 == 0   ? 255
                             : only_sums(c) && limits % 4 == 1 ? 0
                                                               : kernel_draw(&seed));
        for (int at = 0; magnitudes && c->entry == ENTRY_DOT && at < 8; at += bits) {
            int code = codes[i] >> at & most, far = code < middle ? middle - code : code - middle;
            code = middle + far > most ? most : middle + far;
            codes[i] = (uint8_t)((codes[i] & ~(most << at)) | code << at);
        }
    }
    for (int k = 0; k < s->n_out * TILE; k++) {
        ((float *)buffer[D_SCALE])[k] = 0.01f + kernel_draw_float(&seed, true);
        ((float *)buffer[D_MIDDLE])[k] = kernel_draw_float(&seed, magnitudes);
    }
    for (size_t i = 0; i < b[D_OUT].n; i++)
        ((float *)buffer[D_OUT])[i] = only_sums(c) ? 0 : kernel_draw_float(&seed, magnitudes);
}

/* variant bit 0: gaps between rows and a prefetch, bit 1: a scale, bit 2: a middle. */
static dot_tile tile_of(const kernel_case *c, const kernel_size *s, int i, int first, void *const *buffer) {
    return (dot_tile){
        .rows = (const dot_row *)buffer[D_ROWS] + i / TILES_PER_GROUP * s->n_rows + first,
        .codes = (const uint8_t *)buffer[D_CODES] + i * (s->n * TILE * bits_of(c) / 8),
        .scale = s->variant & 2 && !only_sums(c) ? (const float *)buffer[D_SCALE] + i * TILE : NULL,
        .middle = s->variant & 4 && !only_sums(c) && c->entry == ENTRY_DOT ? (const float *)buffer[D_MIDDLE] + i * TILE
                                                                           : NULL,
        .out = (float *)buffer[D_OUT] + (size_t)first * ldo(s) + i * TILE,
    };
}

static void dot_run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                    void *const *buffer) {
    dot_tile tile[8];
    for (int i = 0; i < s->n_out; i++)
        tile[i] = tile_of(c, s, i, first, buffer);
    k->dot[c->type](tile, s->n_out, n_rows, s->n, ldo(s), s->variant & 1 ? buffer[D_CODES] : NULL);
}

/* A table's numbers: any, or all at one limit. */
static void book_fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    dot_fill(c, s, seed, magnitudes, buffer);
    uint32_t limits = kernel_draw(&seed);
    int16_t *book = buffer[D_BOOK];
    for (int i = 0; i < 1 << bits_of(c); i++) {
        int number = (int)(kernel_draw(&seed) % (2 * BOOK_LIMIT + 1)) - BOOK_LIMIT;
        if (only_sums(c) && limits % 3 != 0)
            number = limits % 3 == 1 ? BOOK_LIMIT : -BOOK_LIMIT;
        book[i] = (int16_t)(magnitudes && number < 0 ? -number : number);
    }
    for (int r = 0; r < n_sets(s) * s->n_rows; r++)
        ((dot_row *)buffer[D_ROWS])[r].offset = 0;
}

static void book_run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                     void *const *buffer) {
    dot_tile tile[8];
    for (int i = 0; i < s->n_out; i++)
        tile[i] = tile_of(c, s, i, first, buffer);
    k->book[c->type](buffer[D_BOOK], tile, s->n_out, n_rows, s->n, ldo(s), s->variant & 1 ? buffer[D_CODES] : NULL);
}

/* Both planes are counted. */
static double dot_ops(const kernel_case *c, const kernel_size *s) {
    (void)c;
    return 2.0 * 2 * s->n * s->n_rows * s->n_out * TILE;
}

#define PRODUCT_CASE(id, text, how, table_entry, code, bench_n, fills, runs)                                           \
    static const kernel_case id = {                                                                                    \
        .name = text,                                                                                                  \
        .rule = how,                                                                                                   \
        .step = {16, 1, 1, 0},                                                                                         \
        .most = {256, 19, 5, 8},                                                                                       \
        .bench = {bench_n, 6, bench_n ? 2 : 1, 0},                                                                     \
        .rows_apart = true,                                                                                            \
        .entry = table_entry,                                                                                          \
        .type = code,                                                                                                  \
        .layout = dot_layout,                                                                                          \
        .fill = fills,                                                                                                 \
        .run = runs,                                                                                                   \
        .ops = dot_ops,                                                                                                \
    }
#define DOT_CASE(id, text, how, code, bench_n) PRODUCT_CASE(id, text, how, ENTRY_DOT, code, bench_n, dot_fill, dot_run)
#define BOOK_CASE(id, text, how, code, bench_n)                                                                        \
    PRODUCT_CASE(id, text, how, ENTRY_BOOK, code, bench_n, book_fill, book_run)

DOT_CASE(u8, "dot.u8", KERNEL_SUM, CODE_U8, 128);
DOT_CASE(u4, "dot.u4", KERNEL_SUM, CODE_U4, 128);
DOT_CASE(u2, "dot.u2", KERNEL_SUM, CODE_U2, 128);
DOT_CASE(u8_sums, "dot.u8 sums", KERNEL_BITS, CODE_U8, 0);
DOT_CASE(u4_sums, "dot.u4 sums", KERNEL_BITS, CODE_U4, 0);
DOT_CASE(u2_sums, "dot.u2 sums", KERNEL_BITS, CODE_U2, 0);
BOOK_CASE(b4, "book.4", KERNEL_SUM, BOOK_4, 64);
BOOK_CASE(b3, "book.3", KERNEL_SUM, BOOK_3, 64);
BOOK_CASE(b2, "book.2", KERNEL_SUM, BOOK_2, 64);
BOOK_CASE(b4_sums, "book.4 sums", KERNEL_BITS, BOOK_4, 0);
BOOK_CASE(b3_sums, "book.3 sums", KERNEL_BITS, BOOK_3, 0);
BOOK_CASE(b2_sums, "book.2 sums", KERNEL_BITS, BOOK_2, 0);

const kernel_case *const kernel_cases_dot[] = {&fold, &u8, &u4, &u2,      &u8_sums, &u4_sums, &u2_sums,
                                               &b4,   &b3, &b2, &b4_sums, &b3_sums, &b2_sums, NULL};
