/* dot_tiles.h - how every x86 level walks over tiles of codes: the function of a level that multiplies the rows with
 * one tile is called tile after tile, with constants for what is there and what is not, so that each case is compiled
 * for itself. */
#ifndef CPU_X86_DOT_TILES_H
#define CPU_X86_DOT_TILES_H
#include "cpu/kernels.h"

typedef struct dot_place { /* of one tile */
    const dot_row *rows;
    int n_rows, n;
    const uint8_t *codes;
    const float *scale, *middle; /* [32] or NULL */
    float *out;
    size_t ldo;
    const char *prefetch;
} dot_place;

static inline __attribute__((always_inline)) int dot_tile_bytes(code_type type, int n) {
    return n * TILE / (type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4);
}

/* name: the table's function; tile(type, mapped, place): the level's, mapped: with scale and middle (either may still
 * be NULL). */
#define DOT_TILES(name, type, tile)                                                                                    \
    static void name(const dot_row *rows, int n_rows, int n, const uint8_t *codes, int n_tiles, int tiles_per_group,   \
                     const float *scale, const float *middle, float *out, size_t ldo, const void *prefetch) {          \
        dot_place place = {rows, n_rows, n, codes, scale, middle, out, ldo, prefetch};                                 \
        int bytes = dot_tile_bytes(type, n);                                                                           \
        for (int i = 0, left = tiles_per_group; i < n_tiles; i++) {                                                    \
            if (scale || middle)                                                                                       \
                tile(type, true, &place);                                                                              \
            else                                                                                                       \
                tile(type, false, &place);                                                                             \
            if (--left == 0) {                                                                                         \
                left = tiles_per_group;                                                                                \
                place.rows += n_rows;                                                                                  \
            }                                                                                                          \
            place.codes += bytes;                                                                                      \
            place.out += TILE;                                                                                         \
            place.scale = scale ? place.scale + TILE : NULL;                                                           \
            place.middle = middle ? place.middle + TILE : NULL;                                                        \
            place.prefetch = prefetch ? place.prefetch + bytes : NULL;                                                 \
        }                                                                                                              \
    }
#endif
