/* book_portable.c - products of rows with codes into a table of whole numbers, in plain C: the definition that faster
 * levels are tested against.
 *
 * A row's numbers have 15 bits (dot_portable.c), a table's 10 and a sign, so a chunk of 64 products fits in 32 bits
 * whatever they are, and longer sums go on in float. */
#include "cpu/book_tiles.h"
#include "cpu/fill.h"

/* Code of element i, column k. */
static int code_at(book_type type, const uint8_t *codes, int i, int k) {
    if (type == BOOK_4)
        return codes[(i / 8 * TILE + k) * 4 + i % 4] >> (i / 4 % 2 * 4) & 15;
    const uint8_t *block = codes + i / 16 * book_block_bytes(type);
    int part = i % 16 / 4, at = k * 4 + i % 4, low = block[at] >> (2 * part) & 3;
    return type == BOOK_3 ? low | (block[128 + 16 * part + at / 8] >> (at % 8) & 1) << 2 : low;
}

static inline void tile(book_type type, const int16_t *book, const dot_tile *at, int n_rows, int n, size_t ldo) {
    for (int k = 0; k < TILE; k++) {
        int number[DOT_MOST];
        for (int i = 0; i < n; i++)
            number[i] = book[code_at(type, at->codes, i, k)];
        for (int r = 0; r < n_rows; r++) {
            const dot_row *row = &at->rows[r];
            float sum = 0;
            for (int first = 0; first < n; first += BOOK_CHUNK) {
                int32_t chunk = 0;
                for (int i = first; i < n && i < first + BOOK_CHUNK; i++)
                    chunk += (row->high[i] * 256 + row->low[i]) * number[i];
                sum += (float)chunk;
            }
            at->out[(size_t)r * ldo + (size_t)k] += sum * (at->scale ? row->unit * at->scale[k] : row->unit);
        }
    }
}

static inline void walk(book_type type, const int16_t *book, const dot_tile *tiles, int n_tiles, int n_rows, int n,
                        size_t ldo, const void *prefetch) {
    const int bytes = n * TILE * book_bits(type) / 8;
    for (int i = 0; i < n_tiles; i++) {
        for (int line = 0; prefetch && line < bytes; line += 64)
            __builtin_prefetch((const char *)prefetch + (tiles[i].codes - tiles[0].codes) + line, 0, 2);
        tile(type, book, &tiles[i], n_rows, n, ldo);
    }
}

BOOK_KERNELS

void book_portable_fill(cpu_kernels *k) {
    book_fill(k);
}
