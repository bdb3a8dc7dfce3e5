/* book_tiles.h - what the products with codes into a table share at all levels: their entries in the table of kernels,
 * over the including file's
 *   walk(type, book, tiles, n_tiles, n_rows, n, ldo, prefetch)    type: constant in it
 *
 * And a walk for those that multiply words: rows are outermost, a few at a time, so that their numbers are widened once
 * for all tiles that share them. For that the file defines before this header BOOK_ROWS, the most rows that it
 * multiplies at once, and after it
 *   tables                                       the table as the level looks codes up in it
 *   tables_of(type, book)
 *   block(type, n_rows, place, tables, words)    one tile with n_rows of its rows, from place->row on
 * with type and n_rows constant in all of them. */
#ifndef CPU_BOOK_TILES_H
#define CPU_BOOK_TILES_H
#include "cpu/inline.h"
#include "cpu/kernels.h"

typedef struct book_place {
    const dot_tile *tile;
    int row, n;
    size_t ldo;
    const char *prefetch; /* of this tile, or NULL */
} book_place;

/* A dot_row's numbers, whole. */
typedef struct book_words {
    _Alignas(64) int16_t number[DOT_MOST];
} book_words;

INLINE void book_widen(const dot_row *rows, int n_rows, int n, book_words *words) {
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < n; i++)
            words[r].number[i] = (int16_t)(rows[r].high[i] * 256 + rows[r].low[i]);
}

/* walk, over the including file's block; cases: as many as BOOK_ROWS. */
#define BOOK_BLOCK(rows)                                                                                               \
    case rows:                                                                                                         \
        block(type, rows, place, t, words);                                                                            \
        break;
#define BOOK_CASES_3 BOOK_BLOCK(1) BOOK_BLOCK(2) BOOK_BLOCK(3)
#define BOOK_CASES_6 BOOK_CASES_3 BOOK_BLOCK(4) BOOK_BLOCK(5) BOOK_BLOCK(6)
#define BOOK_WALK(cases)                                                                                               \
    INLINE void block_of(book_type type, int n_rows, const book_place *place, const tables *t,                         \
                         const book_words *words) {                                                                    \
        switch (n_rows) { cases }                                                                                      \
    }                                                                                                                  \
    INLINE void walk(book_type type, const int16_t *book, const dot_tile *tiles, int n_tiles, int n_rows, int n,       \
                     size_t ldo, const void *prefetch) {                                                               \
        const tables t = tables_of(type, book);                                                                        \
        int n_blocks = (n_rows + BOOK_ROWS - 1) / BOOK_ROWS;                                                           \
        for (int r = 0, now; r < n_rows; r += now, n_blocks--) { /* of nearly equal size: 7 rows are 4 and 3 */        \
            book_words words[BOOK_ROWS];                                                                               \
            now = (n_rows - r + n_blocks - 1) / n_blocks;                                                              \
            for (int i = 0; i < n_tiles; i++) {                                                                        \
                const char *ahead = r || !prefetch ? NULL : prefetch;                                                  \
                book_place at = {.tile = &tiles[i], .row = r, .n = n, .ldo = ldo};                                     \
                at.prefetch = ahead ? ahead + (tiles[i].codes - tiles[0].codes) : NULL;                                \
                if (i == 0 || tiles[i].rows != tiles[i - 1].rows)                                                      \
                    book_widen(tiles[i].rows + r, now, n, words);                                                      \
                block_of(type, now, &at, &t, words);                                                                   \
            }                                                                                                          \
        }                                                                                                              \
    }
#define BOOK_KERNEL(name, type)                                                                                        \
    static void name(const int16_t *book, const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo,           \
                     const void *prefetch) {                                                                           \
        walk(type, book, tiles, n_tiles, n_rows, n, ldo, prefetch);                                                    \
    }
/* The three entries, and book_fill(k), which writes them into the table. */
#define BOOK_KERNELS                                                                                                   \
    BOOK_KERNEL(book_4, BOOK_4)                                                                                        \
    BOOK_KERNEL(book_3, BOOK_3)                                                                                        \
    BOOK_KERNEL(book_2, BOOK_2)                                                                                        \
    static void book_fill(cpu_kernels *k) {                                                                            \
        k->book[BOOK_4] = book_4;                                                                                      \
        k->book[BOOK_3] = book_3;                                                                                      \
        k->book[BOOK_2] = book_2;                                                                                      \
    }
#endif
