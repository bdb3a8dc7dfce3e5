/* dot_tiles.h - how the levels' products with integer codes walk over tiles of them: the level's function for one tile
 * is compiled apart for tiles with and without scale or middle. */
#ifndef CPU_DOT_TILES_H
#define CPU_DOT_TILES_H
#include "cpu/kernels.h"

typedef struct dot_place {
    const dot_tile *tile;
    int n_rows, n;
    size_t ldo;
    const char *prefetch; /* of this tile, or NULL */
} dot_place;

/* name: the table's function; tile(type, mapped, place): the level's; mapped: there may be a scale or a middle. */
#define DOT_TILES(name, type, level_tile)                                                                              \
    static void name(const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo, const void *prefetch) {        \
        dot_place place = {.n_rows = n_rows, .n = n, .ldo = ldo};                                                      \
        for (int i = 0; i < n_tiles; i++) {                                                                            \
            place.tile = &tiles[i];                                                                                    \
            place.prefetch = prefetch ? (const char *)prefetch + (tiles[i].codes - tiles[0].codes) : NULL;             \
            if (tiles[i].scale || tiles[i].middle)                                                                     \
                level_tile(type, true, &place);                                                                        \
            else                                                                                                       \
                level_tile(type, false, &place);                                                                       \
        }                                                                                                              \
    }
#endif
