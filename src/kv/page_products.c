/* page_products.c - the products of pages of codes (page_codes.c) with queries and probabilities.
 *
 * They never make a float page. K by channel: q . (s * c + m) = sum of (q s) (c - z) + sum of q (m + s z)
 * with z the codes' middle, so the scales go into the query once per group (cpu_kernels' fold) and the codes meet whole
 * numbers (dot). V: the token's scale goes into p likewise. K by token: q alone is folded, once per group of channels
 * and kept from page to page, and the token's scale multiplies the sum. Codes into a table meet it as whole numbers
 * that are looked up (book). Deviation from exact products: q s and p s keep 15 bits of their largest element in the
 * row; measured by tests/test_fused.c.
 *
 * Rows are worked on in blocks of BLOCK_ROWS, each row's chain of additions is its own, so its bits do not depend on
 * the others. */
#include "kv/page_codes.h"
#include <math.h>
#include <string.h>

enum { BLOCK_ROWS = KV_FOLDED_ROWS, MOST_ITEMS = BLOCK_ROWS * KV_MAX_HEAD_DIM / TILE, HALVES = PAGE_TOKENS / TILE };

/* The products of such codes, table or not. */
static void multiply(const cpu_kernels *kernels, int bits, const int16_t *book, const dot_tile *tiles, int n_tiles,
                     int n_rows, int n, size_t ldo, const void *prefetch) {
    if (book)
        kernels->book[bits == 4 ? BOOK_4 : bits == 3 ? BOOK_3 : BOOK_2](book, tiles, n_tiles, n_rows, n, ldo, prefetch);
    else
        kernels->dot[bits == 8 ? CODE_U8 : bits == 4 ? CODE_U4 : CODE_U2](tiles, n_tiles, n_rows, n, ldo, prefetch);
}

/* What the middle code stands for: minimum + scale * 2^(bits-1); NULL when that is 0 everywhere. */
static const float *middles(const cpu_kernels *kernels, int bits, const page_maps *maps, int n, float *middle) {
    if (maps->centred || maps->middle)
        return maps->middle;
    memcpy(middle, maps->minimum, (size_t)n * sizeof(*middle));
    kernels->add_scaled(middle, maps->scale, n, (float)(1 << (bits - 1)));
    return middle;
}

static const float *at(const float *x, int offset) {
    return x ? x + offset : NULL;
}

/* Rows r of every group g, scaled and shifted by the group's maps: rows[g * n_rows + r]. Group g's row begins `apart`
 * floats behind the one before. */
static void fold_groups(const cpu_kernels *kernels, const float *x, size_t ldx, int n_rows, int n, int n_groups,
                        int apart, const float *scale, const float *middle, int maps_apart, dot_row *rows) {
    fold_item item[MOST_ITEMS];
    for (int g = 0; g < n_groups; g++)
        for (int r = 0; r < n_rows; r++)
            item[g * n_rows + r] = (fold_item){.x = x + (size_t)r * ldx + g * apart,
                                               .scale = at(scale, g * maps_apart),
                                               .middle = at(middle, g * maps_apart)};
    kernels->fold(item, n_groups * n_rows, n, rows);
}

/* What the numbers of a folded row leave out, as a row of its own. x [n], scale [n] or NULL: what it was folded from.
 */
static void fold_rest(const cpu_kernels *kernels, const float *x, const float *scale, int n, const dot_row *row,
                      dot_row *rest) {
    float left[KV_MAX_HEAD_DIM];
    for (int i = 0; i < n; i++) {
        float y = scale ? x[i] * scale[i] : x[i];
        left[i] = y - row->unit * (float)(row->high[i] * 256 + row->low[i]);
    }
    fold_item item = {.x = left};
    kernels->fold(&item, 1, n, rest);
}

/* The unit above which rounding a row's n numbers, multiplied with codes of 2^(bits-1) scales at most, could show in
 * the scores: half a unit is 0.29 in the mean, codes are 0.58 of the largest if they are spread evenly. Then what was
 * left out is added: a key bias (Qwen2.5), or very peaked scores. The limits are such that heads' outputs stay within
 * 9e-4 of the exact ones on captured tensors of four models; 8-bit codes, most of which are far below their group's
 * largest, need it later. With a table the largest is BOOK_LIMIT and the others are smaller beside it than 0.58, so
 * there it comes earlier than it must. */
static float unit_limit(int bits, const int16_t *book, float scale, int n) {
    float most = book ? BOOK_LIMIT : (float)(1 << (bits - 1));
    return (bits == 8 ? 1e-3f : 3e-4f) / (scale * most * sqrtf((float)n) * (0.29f * 0.58f));
}

/* Adds to row r of the tile's sums what its numbers leave out. */
static void add_rest(const cpu_kernels *kernels, int bits, const int16_t *book, int n, const dot_tile *tile, int r,
                     const float *x, const float *scale) {
    dot_row rest;
    fold_rest(kernels, x, scale, n, &tile->rows[r], &rest);
    dot_tile more = {&rest, tile->codes, tile->scale, NULL, tile->out + r * PAGE_TOKENS};
    multiply(kernels, bits, book, &more, 1, 1, n, PAGE_TOKENS, NULL);
}

static void score_by_channel(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                             const float *middle, const float *q, int n_rows, float *s, const uint8_t *prefetch) {
    dot_row rows[MOST_ITEMS];
    dot_tile tile[HALVES];
    fold_groups(kernels, q, (size_t)d, n_rows, d, maps->n_groups, 0, maps->scale, middle, d, rows);
    for (int half = 0; half < HALVES; half++)
        tile[half] = (dot_tile){.rows = rows + half * maps->n_groups / HALVES * n_rows,
                                .codes = codes + page_codes_place(bits, d, KV_K, half, 0),
                                .out = s + half * TILE};
    multiply(kernels, bits, NULL, tile, HALVES, n_rows, d, PAGE_TOKENS, prefetch);
    float limit = unit_limit(bits, NULL, 1, d);
    for (int half = 0; half < HALVES; half++)
        for (int r = 0; r < n_rows; r++)
            if (tile[half].rows[r].unit > limit)
                add_rest(kernels, bits, NULL, d, &tile[half], r, q + r * d,
                         maps->scale + half * maps->n_groups / HALVES * d);
}

/* Of n numbers that are not negative: as whole numbers, their bits have the same order. */
static float largest(const cpu_kernels *kernels, const float *x, int n) {
    int32_t low, high;
    float most;
    kernels->bounds((const int32_t *)(const void *)x, n, &low, &high);
    memcpy(&most, &high, sizeof(most));
    return most;
}

/* Almost never is there anything to do, so all scales of the page are looked at together first. */
static void add_rests_by_token(const cpu_kernels *kernels, int bits, int d, const page_maps *maps,
                               const dot_tile *tiles, const dot_row *rows, const float *q, int n_rows) {
    int wide = d / maps->n_groups;
    float limit = unit_limit(bits, maps->book, largest(kernels, maps->scale, maps->n_groups * PAGE_TOKENS), wide);
    bool any = false;
    for (int i = 0; i < maps->n_groups * n_rows; i++)
        any = any || rows[i].unit > limit;
    for (int i = 0; any && i < HALVES * maps->n_groups; i++) {
        limit = unit_limit(bits, maps->book, largest(kernels, tiles[i].scale, TILE), wide);
        for (int r = 0; r < n_rows; r++)
            if (tiles[i].rows[r].unit > limit)
                add_rest(kernels, bits, maps->book, wide, &tiles[i], r, q + r * d + i % maps->n_groups * wide, NULL);
    }
}

/* Rows r.. of q by groups of channels, which are the same for all pages; own: room where they are not kept. */
static const dot_row *folded_queries(const cpu_kernels *kernels, int d, int n_groups, bool shifted, kv_query_rows *q,
                                     int r, int n_rows, dot_row *own) {
    float ones[KV_MAX_HEAD_DIM];
    bool keeps = q->n <= BLOCK_ROWS;
    dot_row *rows = keeps ? q->folded : own;
    int wide = d / n_groups;
    if (keeps && q->is_folded)
        return rows;
    for (int j = 0; shifted && j < wide; j++)
        ones[j] = 1;
    fold_groups(kernels, q->x + r * d, (size_t)d, n_rows, wide, n_groups, wide, NULL, shifted ? ones : NULL, 0, rows);
    q->is_folded = keeps;
    return rows;
}

static void score_by_token(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                           const float *middle, const dot_row *rows, const float *q, int n_rows, float *s,
                           const uint8_t *prefetch) {
    dot_tile tile[HALVES * KV_MAX_HEAD_DIM / TILE];
    int wide = d / maps->n_groups, n_tiles = HALVES * maps->n_groups;
    for (int i = 0; i < n_tiles; i++) {
        int half = i / maps->n_groups, g = i % maps->n_groups, map = g * PAGE_TOKENS + half * TILE;
        tile[i] = (dot_tile){.rows = rows + g * n_rows,
                             .codes = codes + page_codes_place(bits, d, KV_K, half, g * wide),
                             .scale = maps->scale + map,
                             .middle = at(middle, map),
                             .out = s + half * TILE};
    }
    multiply(kernels, bits, maps->book, tile, n_tiles, n_rows, wide, PAGE_TOKENS, prefetch);
    add_rests_by_token(kernels, bits, d, maps, tile, rows, q, n_rows);
}

void page_codes_score(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                      kv_query_rows *q, float *s, const uint8_t *prefetch) {
    float room[PAGE_CODES_MOST_MAPS];
    dot_row own[MOST_ITEMS];
    const float *middle = middles(kernels, bits, maps, maps->n_groups * (maps->by_token ? PAGE_TOKENS : d), room);
    memset(s, 0, (size_t)q->n * PAGE_TOKENS * sizeof(*s));
    for (int r = 0; r < q->n; r += BLOCK_ROWS, s += BLOCK_ROWS * PAGE_TOKENS, prefetch = NULL) {
        int n = q->n - r < BLOCK_ROWS ? q->n - r : BLOCK_ROWS;
        const float *x = q->x + r * d;
        if (!maps->by_token) {
            score_by_channel(kernels, bits, d, codes, maps, middle, x, n, s, prefetch);
            continue;
        }
        const dot_row *rows = folded_queries(kernels, d, maps->n_groups, middle != NULL, q, r, n, own);
        score_by_token(kernels, bits, d, codes, maps, middle, rows, x, n, s, prefetch);
    }
}

static void mix_block(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                      const float *middle, const float *p, int n_rows, float *o, const uint8_t *prefetch) {
    dot_row rows[MOST_ITEMS];
    dot_tile tile[KV_MAX_HEAD_DIM / TILE];
    fold_groups(kernels, p, PAGE_TOKENS, n_rows, PAGE_TOKENS, maps->n_groups, 0, maps->scale, middle, PAGE_TOKENS,
                rows);
    for (int i = 0; i < d / TILE; i++)
        tile[i] = (dot_tile){.rows = rows + i * TILE * maps->n_groups / d * n_rows,
                             .codes = codes + page_codes_place(bits, d, KV_V, i, 0),
                             .out = o + i * TILE};
    multiply(kernels, bits, maps->book, tile, d / TILE, n_rows, PAGE_TOKENS, (size_t)d, prefetch);
}

void page_codes_mix(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                    const float *p, int n_rows, float *o, const uint8_t *prefetch) {
    float room[PAGE_CODES_MOST_MAPS];
    const float *middle = middles(kernels, bits, maps, maps->n_groups * PAGE_TOKENS, room);
    for (int r = 0; r < n_rows; r += BLOCK_ROWS) {
        int n = n_rows - r < BLOCK_ROWS ? n_rows - r : BLOCK_ROWS;
        mix_block(kernels, bits, d, codes, maps, middle, p + r * PAGE_TOKENS, n, o + r * d, r ? NULL : prefetch);
    }
}

void page_codes_fetch(const void *page, size_t from, size_t to) {
    for (size_t line = from; page && line < to; line += 64)
        __builtin_prefetch((const char *)page + line, 0, 2);
}
