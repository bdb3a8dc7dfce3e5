/* pack.c - repacks weight rows of a model file into panels of 16 rows (see pack.h for the bytes).
 *
 * Four neighbouring codes are a word here, as they are in a panel, and are taken out of a row's nibbles and bits by a
 * few shifts and masks (blocks.c has the file's bytes), four rows at a time: a matrix that is not kept packed is packed
 * anew for each step, so this is as good as part of its product. A panel's 16 rows are worked on block by block, so
 * that what is written stays in L1. Scales, minima and factors are taken over bit by bit. In types with groups of 32
 * both halves of a block share scale and minimum, so the first half's are stored. Nothing is rounded: the packed matrix
 * has the values of the file, and tests/test_pack.c holds it against those of block_affine16. */
#include "cpu/pack.h"
#include "cpu/inline.h"
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

/* ---- codes ---- */

enum { ROWS = 4 };                                       /* worked on at a time */
typedef uint32_t words __attribute__((vector_size(16))); /* of four codes each, or a word of each row */
typedef uint8_t bytes __attribute__((vector_size(16)));
typedef uint64_t long_words __attribute__((vector_size(16)));
static const uint32_t nibble = 0x0f0f0f0f, six = 0x3f3f3f3f, pair = 0x03030303, bit = 0x01010101, top = 0x80808080;

typedef struct block_codes { /* of a row, one a byte: columns 0 to 15, 16 to 31 */
    words first, second;
} block_codes;

static inline words words_at(const uint8_t *src) {
    words w;
    memcpy(&w, src, sizeof(w));
    return w;
}

static inline uint32_t word_at(const uint8_t *src) {
    uint32_t w;
    memcpy(&w, src, sizeof(w));
    return w;
}

/* Sixteen bits to the fifth of sixteen bytes. */
static inline words fifths(uint32_t bits) {
    const uint64_t each = 0x0101010101010101;
    const bytes own = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    bytes spread = (bytes)(long_words){(bits & 255) * each, (bits >> 8 & 255) * each};
    return (words)((bytes)((spread & own) == own) & 16);
}

/* A block of a type with blocks of 32. */
static inline block_codes codes_32(block_type type, const uint8_t *src) {
    bool fifth = type == BLOCK_Q5_0 || type == BLOCK_Q5_1, minimum = type == BLOCK_Q4_1 || type == BLOCK_Q5_1;
    const uint8_t *high = src + (minimum ? 4 : 2), *low = high + (fifth ? 4 : 0);
    words q = words_at(low);
    if (type == BLOCK_Q8_0)
        return (block_codes){q ^ top, words_at(low + 16) ^ top}; /* q + 128 */
    block_codes c = {q & nibble, q >> 4 & nibble};
    if (fifth) {
        uint32_t bits = word_at(high);
        c.first |= fifths(bits & 0xffff);
        c.second |= fifths(bits >> 16);
    }
    return c;
}

/* Block b of a super-block. */
static inline block_codes codes_256(block_type type, const uint8_t *src, int b) {
    if (type == BLOCK_Q6_K) {
        const uint8_t *low = src + b / 4 * 64 + b % 2 * 32, *high = src + 128 + b / 4 * 32;
        return (block_codes){(words_at(low) >> b % 4 / 2 * 4 & nibble) | (words_at(high) >> b % 4 * 2 & pair) << 4,
                             (words_at(low + 16) >> b % 4 / 2 * 4 & nibble) | (words_at(high + 16) >> b % 4 * 2 & pair)
                                                                                  << 4};
    }
    const uint8_t *low = src + (type == BLOCK_Q5_K ? 48 : 16) + b / 2 * 32, *high = src + 16;
    block_codes c = {words_at(low) >> b % 2 * 4 & nibble, words_at(low + 16) >> b % 2 * 4 & nibble};
    if (type == BLOCK_Q5_K) {
        c.first |= (words_at(high) >> b & bit) << 4;
        c.second |= (words_at(high + 16) >> b & bit) << 4;
    }
    return c;
}

/* ---- places ---- */

/* Of four rows' words the first of all, the second of all and so on; live: ones where there is such a row. */
static inline void turn(const words row[ROWS], words live, words turned[4]) {
    words a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5),
          b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5),
          c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7),
          d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    turned[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5) & live;
    turned[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7) & live;
    turned[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5) & live;
    turned[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7) & live;
}

static inline void place_words(const words row[ROWS], int n, words live, uint8_t *dst) {
    words turned[4];
    turn(row, live, turned);
    for (int i = 0; i < n; i++)
        memcpy(dst + i * PACK_ROWS * 4, &turned[i], sizeof(words));
}

/* A word of bytes of each row: the first byte of all to dst, the second `stride` behind it and so on. */
static inline void place_bytes(words w, uint8_t *dst, int stride) {
    for (int i = 0; i < 2; i++) {
        bytes low = (bytes)w, high = (bytes)__builtin_shufflevector(w, w, 2, 3, 2, 3);
        w = (words)__builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    }
    for (int i = 0; i < 4; i++)
        memcpy(dst + i * stride, (const uint8_t *)&w + 4 * i, 4);
}

/* The upper two bits of codes of six: a byte has those of columns c, c + 8, c + 16, c + 24. */
static inline words pairs_of(const block_codes *c) {
    words both = (c->first >> 4 & pair) | (c->second >> 4 & pair) << 4;
    return both | __builtin_shufflevector(both, both, 2, 3, 2, 3) << 2;
}

static inline void place_codes(pack_type type, const block_codes code[ROWS], words live, uint8_t *dst) {
    words low[ROWS], high[ROWS];
    bool whole = pack_parts_of(type).code == PACK_ROWS * PACK_BLOCK;
    for (int k = 0; k < ROWS; k++) {
        low[k] = whole ? code[k].first : (code[k].first & nibble) | (code[k].second & nibble) << 4;
        high[k] = whole ? code[k].second : pairs_of(&code[k]);
    }
    place_words(low, 4, live, dst);
    if (whole || type == PACK_K6)
        place_words(high, whole ? 4 : 2, live, dst + 4 * PACK_ROWS * 4);
}

static inline void place_half(const uint8_t *src, uint8_t *dst, int row) {
    memcpy(dst + (size_t)row * sizeof(f16), src, sizeof(f16));
}

/* Of a row's block of a type with blocks of 32: scale, and minimum where it has one. */
static inline void place_halves(pack_parts parts, const uint8_t *src, int row, uint8_t *map) {
    place_half(src, map, row);
    if (!parts.centre)
        place_half(src + sizeof(f16), map, PACK_ROWS + row);
}

/* Of four rows' super-blocks and their eight blocks; map: of the first row's. */
static inline void place_factors(block_type type, const uint8_t *const from[ROWS], words live, uint8_t *map) {
    words row[ROWS], turned[4];
    for (int k = 0; k < ROWS; k++)
        row[k] = words_at(from[k] + (type == BLOCK_Q6_K ? 192 : 0));
    turn(row, live, turned);
    if (type == BLOCK_Q6_K) {
        for (int i = 0; i < 4; i++)
            place_bytes(turned[i], map + i * 4 * PACK_ROWS, PACK_ROWS);
        return;
    }
    const words s = turned[1], m = turned[2], rest = turned[3]; /* behind d and dmin */
    uint8_t *later = map + 4 * 2 * PACK_ROWS;
    place_bytes(s & six, map, 2 * PACK_ROWS);
    place_bytes(m & six, map + PACK_ROWS, 2 * PACK_ROWS);
    place_bytes((rest & nibble) | (s >> 6 & pair) << 4, later, 2 * PACK_ROWS);
    place_bytes((rest >> 4 & nibble) | (m >> 6 & pair) << 4, later + PACK_ROWS, 2 * PACK_ROWS);
}

static inline void place_super(block_type type, const uint8_t *src, int row, uint8_t *super) {
    place_half(src + (type == BLOCK_Q6_K ? 208 : 0), super, row);
    if (type != BLOCK_Q6_K)
        place_half(src + sizeof(f16), super, PACK_ROWS + row);
}

/* ---- panels ---- */

/* Where rows of a panel stand; those that are not there are ones that are, and not live. */
typedef struct panel_rows {
    const uint8_t *row[PACK_ROWS];
    words live[PACK_ROWS / ROWS];
    int n;
    size_t bytes; /* from a row to the next */
} panel_rows;

static panel_rows rows_of(const uint8_t *src, size_t row_bytes, int n_rows) {
    panel_rows rows = {.n = n_rows, .bytes = row_bytes};
    for (int r = 0; r < PACK_ROWS; r++) {
        rows.row[r] = src + (size_t)(r < n_rows ? r : 0) * row_bytes;
        rows.live[r / ROWS][r % ROWS] = r < n_rows ? UINT32_MAX : 0;
    }
    return rows;
}

/* The next panel's bytes, a share of them for each of n steps: no hardware sees where sixteen rows go on. */
static inline void fetch_ahead(const panel_rows *rows, size_t step, size_t n) {
    size_t all = PACK_ROWS * rows->bytes, share = (all / n + LINE_BYTES) & ~(size_t)(LINE_BYTES - 1);
    for (size_t at = step * share; at < (step + 1) * share && at < all; at += LINE_BYTES)
        __builtin_prefetch(rows->row[0] + all + at, 0, 2);
}

/* Blocks [first, + n) of four rows, a super-block where there are those; code, map, super: of the first. */
INLINE void pack_four(block_type type, const panel_rows *rows, int row, int first, int n, uint8_t *code, uint8_t *map,
                      uint8_t *super) {
    const pack_type packed = pack_type_of(type);
    const pack_parts parts = pack_parts_of(packed);
    const size_t block = (size_t)block_traits_of(type)->bytes, unit = parts.super ? PACK_SUPER : 1;
    const uint8_t *from[ROWS];
    for (int k = 0; k < ROWS; k++)
        from[k] = rows->row[row + k] + (size_t)first / unit * block;
#pragma GCC unroll 8
    for (int b = 0; b < n; b++) {
        block_codes c[ROWS];
        for (int k = 0; k < ROWS; k++)
            c[k] = parts.super ? codes_256(type, from[k], b) : codes_32(type, from[k] + (size_t)b * block);
        place_codes(packed, c, rows->live[row / ROWS], code + b * parts.code + row * 4);
    }
    if (parts.super)
        place_factors(type, from, rows->live[row / ROWS], map + row);
    for (int k = 0; k < ROWS && row + k < rows->n; k++)
        if (parts.super)
            place_super(type, from[k], row + k, super);
        else
            for (int b = 0; b < n; b++)
                place_halves(parts, from[k] + (size_t)b * block, row + k, map + b * parts.map);
}

INLINE void pack_quantised(block_type type, const panel_rows *rows, int n_cols, uint8_t *panel) {
    const pack_parts parts = pack_parts_of(pack_type_of(type));
    const int n_blocks = n_cols / PACK_BLOCK;
    const size_t n_steps = (size_t)((n_blocks + PACK_SUPER - 1) / PACK_SUPER * (PACK_ROWS / ROWS));
    uint8_t *maps = panel + (size_t)n_blocks * (size_t)parts.code,
            *supers = maps + (size_t)n_blocks * (size_t)parts.map;
    for (int b = 0; b < n_blocks; b += PACK_SUPER) {
        size_t at = (size_t)b;
        int n = n_blocks - b;
        for (int row = 0; row < rows->n; row += ROWS) {
            fetch_ahead(rows, at / PACK_SUPER * (PACK_ROWS / ROWS) + (size_t)(row / ROWS), n_steps);
            if (parts.super || n >= PACK_SUPER)
                pack_four(type, rows, row, b, PACK_SUPER, panel + at * (size_t)parts.code,
                          maps + at * (size_t)parts.map, supers + at / PACK_SUPER * (size_t)parts.super);
            else
                pack_four(type, rows, row, b, n, panel + at * (size_t)parts.code, maps + at * (size_t)parts.map, NULL);
        }
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

static void pack_panel(block_type type, const uint8_t *src, size_t row_bytes, int n_rows, int n_cols, uint8_t *panel) {
    panel_rows rows = rows_of(src, row_bytes, n_rows);
    switch (type) { /* compiled apart for each */
#define QUANTISED(name)                                                                                                \
    case name:                                                                                                         \
        pack_quantised(name, &rows, n_cols, panel);                                                                    \
        return;
        QUANTISED(BLOCK_Q4_0)
        QUANTISED(BLOCK_Q4_1)
        QUANTISED(BLOCK_Q5_0)
        QUANTISED(BLOCK_Q5_1)
        QUANTISED(BLOCK_Q8_0)
        QUANTISED(BLOCK_Q4_K)
        QUANTISED(BLOCK_Q5_K)
        QUANTISED(BLOCK_Q6_K)
#undef QUANTISED
    case BLOCK_F32:
    case BLOCK_F16:
    case BLOCK_BF16:
        for (int row = 0; row < n_rows; row++)
            pack_float_row(type, src + (size_t)row * row_bytes, n_cols, row, panel);
    }
}

static size_t row_bytes_of(block_type type, int n_cols) {
    const block_traits *traits = block_traits_of(type);
    assert(traits->name && n_cols % traits->elements == 0);
    return (size_t)(n_cols / traits->elements) * (size_t)traits->bytes;
}

void pack_panels(block_type type, const uint8_t *src, int n_rows, int n_cols, int panel_first, int n_panels,
                 uint8_t *dst) {
    size_t row_bytes = row_bytes_of(type, n_cols), panel_bytes = pack_bytes(pack_type_of(type), 1, n_cols);
    for (int p = panel_first; p < panel_first + n_panels; p++) {
        uint8_t *panel = dst + (size_t)p * panel_bytes;
        int rows = n_rows - p * PACK_ROWS < PACK_ROWS ? n_rows - p * PACK_ROWS : PACK_ROWS;
        if (rows < PACK_ROWS)
            memset(panel, 0, panel_bytes);
        memset(panel + panel_bytes - LINE_BYTES, 0, LINE_BYTES); /* of which the end may be a gap */
        pack_panel(type, src + (size_t)(p * PACK_ROWS) * row_bytes, row_bytes, rows, n_cols, panel);
    }
}

pack_matrix pack_part(const pack_matrix *w, int panel_first, int n_panels, uint8_t *scratch) {
    pack_matrix part = *w;
    int first = panel_first * PACK_ROWS, n_rows = w->n_rows - first;
    part.n_rows = n_rows < n_panels * PACK_ROWS ? n_rows : n_panels * PACK_ROWS;
    part.data = scratch;
    pack_panels(w->row_type, w->rows + (size_t)first * row_bytes_of(w->row_type, w->n_cols), part.n_rows, w->n_cols, 0,
                n_panels, scratch);
    return part;
}
