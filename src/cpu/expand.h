/* expand.h - one packed block opened for the products (sweep_blocks.h), in plain C. */
#ifndef CPU_EXPAND_H
#define CPU_EXPAND_H
#include "base/f16.h"
#include "cpu/pack.h"

/* scale = d * s for 16 rows. */
static inline void expand_signed(const f16 *d, const int8_t *s, float centre, float *scale, float *minimum) {
    for (int r = 0; r < PACK_ROWS; r++) {
        scale[r] = f16_to_f32(d[r]) * (float)s[r];
        minimum[r] = -centre * scale[r];
    }
}

static inline void expand_maps(pack_type type, const uint8_t *map, const uint8_t *super, float *to) {
    const pack_parts parts = pack_parts_of(type);
    const f16 *half = (const f16 *)map, *d = (const f16 *)super;
    float *minimum = to + PACK_ROWS;
    if (type == PACK_K6) {
        for (int g = 0; g < 2; g++)
            expand_signed(d, (const int8_t *)map + g * PACK_ROWS, (float)parts.centre, to + g * PACK_ROWS,
                          to + (2 + g) * PACK_ROWS);
        return;
    }
    for (int r = 0; r < PACK_ROWS; r++) {
        to[r] = parts.super ? f16_to_f32(d[r]) * (float)map[r] : f16_to_f32(half[r]);
        if (parts.super)
            minimum[r] = -(f16_to_f32(d[PACK_ROWS + r]) * (float)map[PACK_ROWS + r]);
        else
            minimum[r] = parts.centre ? (float)-parts.centre * to[r] : f16_to_f32(half[PACK_ROWS + r]);
    }
}

static inline void expand_codes(const uint8_t *from, uint8_t *to) {
    enum { GROUP = PACK_ROWS * 4 };
    const uint8_t *upper = from + 4 * GROUP;
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < GROUP; i++)
            to[g * GROUP + i] = (uint8_t)((from[g % 4 * GROUP + i] >> g / 4 * 4 & 15) |
                                          (upper[g % 2 * GROUP + i] >> g / 2 * 2 & 3) << 4);
}
#endif
