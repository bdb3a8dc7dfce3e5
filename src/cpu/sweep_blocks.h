/* sweep_blocks.h - how the products of the integer types walk: each chunk of one or two panels is opened for all tokens
 * before they meet it.
 *
 * Packed weights are kept as small as the file has them (pack.h), for it is their bytes that decode waits for. What a
 * tile wants beside the codes are scales and minima as floats, and of PACK_K6 codes of 8 bits: they are made here, in
 * a buffer that stays in L1. So tiles know three forms of codes, not eight types.
 *
 * The including file has included one of expand.h, x86/expand_avx2.h and x86/expand_avx512.h before, whose functions
 * open one block:
 *   expand_maps   a block's [scale, minimum][groups][16] floats, from its part of the panel and its super-block's
 *   expand_codes  its codes of 8 bits from those of 6 */
#ifndef CPU_SWEEP_BLOCKS_H
#define CPU_SWEEP_BLOCKS_H
#include "cpu/inline.h"
#include "cpu/sweep.h"

/* What a tile sees: codes of 4 or 8 bits, and codes of 8 with scales for each half of a block, or of 6 as they are
 * packed, for which a level may have tiles too. */
typedef enum pack_form { FORM_4, FORM_8, FORM_8H, FORM_6 } pack_form;

enum { SWEEP_BLOCKS_MOST = 16, SWEEP_CODE_BYTES = PACK_ROWS * PACK_BLOCK, SWEEP_MAP_FLOATS = 2 * PACK_ROWS };

static inline pack_form form_of(pack_type type) {
    int bytes = pack_parts_of(type).code;
    return bytes == SWEEP_CODE_BYTES ? FORM_8 : bytes == SWEEP_CODE_BYTES / 2 ? FORM_4 : FORM_8H;
}

/* Groups of columns in a block, each with scales of its own. */
static inline int form_groups(pack_form form) {
    return form == FORM_8H || form == FORM_6 ? 2 : 1;
}

/* From one block's codes to the next's: in the packed matrix, and as a tile sees them. */
static inline size_t form_packed_bytes(pack_form form) {
    return form == FORM_4 ? SWEEP_CODE_BYTES / 2 : form == FORM_8 ? SWEEP_CODE_BYTES : SWEEP_CODE_BYTES / 4 * 3;
}
static inline size_t form_code_bytes(pack_form form) {
    return form == FORM_8H ? SWEEP_CODE_BYTES : form_packed_bytes(form);
}

typedef struct sweep_buffer {
    _Alignas(64) float maps[2][SWEEP_BLOCKS_MOST * 2 * SWEEP_MAP_FLOATS];
    _Alignas(64) uint8_t code[2][SWEEP_BLOCKS_MOST * SWEEP_CODE_BYTES];
} sweep_buffer;

/* Where parts of block `first` of a panel are. */
typedef struct packed_at {
    const uint8_t *code, *maps, *supers; /* supers: of the panel's first super-block */
} packed_at;

static inline packed_at packed_find(pack_parts parts, const pack_matrix *w, int panel, int first) {
    const uint8_t *data = w->data + (size_t)panel * w->panel_bytes;
    size_t n_blocks = (size_t)(w->n_cols / PACK_BLOCK), code = (size_t)parts.code, map = (size_t)parts.map;
    return (packed_at){.code = data + (size_t)first * code,
                       .maps = data + n_blocks * code + (size_t)first * map,
                       .supers = data + n_blocks * (code + map)};
}

/* The sweep with blocks [first, first + n) of its panels opened to a form. Asks for maps that come later; for codes a
 * tile may, so that the asking spreads over its work. */
INLINE sweep sweep_open(pack_type type, pack_form form, const sweep *s, sweep_buffer *buffer, int panel, int n_panels,
                        int first, int n) {
    const pack_parts parts = pack_parts_of(type);
    const size_t map_floats = (size_t)form_groups(form) * SWEEP_MAP_FLOATS;
    sweep at = *s;
    for (int p = 0; p < n_panels; p++) {
        packed_at now = packed_find(parts, s->w, panel + p, first);
        packed_at later = packed_find(parts, s->w, s->ahead_panel + p, s->ahead_first);
        at.ahead[p] = later.code;
        at.code[p] = form == FORM_8H ? buffer->code[p] : now.code;
        at.maps[p] = buffer->maps[p];
        sweep_fetch(later.maps, (size_t)(n * parts.map));
        sweep_fetch(later.supers + s->ahead_first / PACK_SUPER * parts.super, (size_t)(n * parts.super / PACK_SUPER));
        for (int b = 0; b < n; b++) {
            expand_maps(type, now.maps + b * parts.map, now.supers + (first + b) / PACK_SUPER * parts.super,
                        buffer->maps[p] + (size_t)b * map_floats);
            if (form == FORM_8H)
                expand_codes(now.code + b * parts.code, buffer->code[p] + b * SWEEP_CODE_BYTES);
        }
    }
    return at;
}

/* All integer types. */
#define SWEEP_EACH(X)                                                                                                  \
    X(i4, PACK_I4)                                                                                                     \
    X(i8, PACK_I8)                                                                                                     \
    X(s4, PACK_S4)                                                                                                     \
    X(s5, PACK_S5)                                                                                                     \
    X(s8, PACK_S8)                                                                                                     \
    X(k4, PACK_K4)                                                                                                     \
    X(k5, PACK_K5)                                                                                                     \
    X(k6, PACK_K6)
#define SWEEP_CHUNK(name, type)                                                                                        \
    static void name##_chunk(const sweep *s, const void *how, int panel, int n_panels, int first, int n,               \
                             int n_tokens) {                                                                           \
        (void)how;                                                                                                     \
        sweep_buffer buffer;                                                                                           \
        sweep at = sweep_open(type, form_of(type), s, &buffer, panel, n_panels, first, n);                             \
        meet(form_of(type), &at, panel, n_panels, first, n, n_tokens);                                                 \
    }
#define SWEEP_PRODUCT(name, type)                                                                                      \
    static void matmul_##name(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,    \
                              float *out, size_t ldo) {                                                                \
        sweep s = {.w = w, .x = x, .out = out, .ldo = ldo};                                                            \
        sweep_walk(&s, name##_chunk, NULL, w->n_cols / PACK_BLOCK, SWEEP_BLOCKS_MOST, PACK_BLOCK, panel_first,         \
                   n_panels, n_tokens);                                                                                \
    }
#define SWEEP_ENTRY(name, type) k->matmul[type] = matmul_##name;
/* sweep_blocks_fill(k) of a level, over its meet(form, sweep, panel, n_panels, first, n, n_tokens): all tokens with an
 * opened chunk. */
#define SWEEP_MEETINGS                                                                                                 \
    SWEEP_EACH(SWEEP_CHUNK)                                                                                            \
    SWEEP_EACH(SWEEP_PRODUCT)                                                                                          \
    static void sweep_blocks_fill(cpu_kernels *k) {                                                                    \
        SWEEP_EACH(SWEEP_ENTRY)                                                                                        \
    }
/* The same over a tile function as SWEEP_TILES takes it, of any form. */
#define SWEEP_BLOCKS(tile, most)                                                                                       \
    SWEEP_TILES(most, form_4, FORM_4, tile)                                                                            \
    SWEEP_TILES(most, form_8, FORM_8, tile)                                                                            \
    SWEEP_TILES(most, form_8h, FORM_8H, tile)                                                                          \
    static inline void meet(pack_form form, const sweep *s, int panel, int n_panels, int first, int n, int n_tokens) { \
        const sweep_tile *tiles = form == FORM_4 ? form_4_tiles : form == FORM_8 ? form_8_tiles : form_8h_tiles;       \
        sweep_tiles how = {tiles, most};                                                                               \
        sweep_tiles_run(s, &how, panel, n_panels, first, n, n_tokens);                                                 \
    }                                                                                                                  \
    SWEEP_MEETINGS
#endif
