/* tiles_emulated.h - src/cpu/x86/tiles.h's tile instructions in plain C, after the manual's operation of each. What
 * raises an exception in a processor stops the program here: a configuration that is refused, an instruction while none
 * is loaded, a register that it does not name, and factors whose shapes do not fit.
 *
 * Included by tiles.h alone, in place of the instructions. Each thread has its own registers. */
#ifndef TESTS_TILES_EMULATED_H
#define TESTS_TILES_EMULATED_H
#include "cpu/x86/tiles.h"
#include <stdlib.h>
#include <string.h>

enum { TILES_COUNT = 8, TILES_ROWS = 16, TILES_ROW_BYTES = 64 };

static _Thread_local struct {
    tiles_config config; /* palette 0: none */
    uint8_t data[TILES_COUNT][TILES_ROWS][TILES_ROW_BYTES];
} tiles_state;
static _Thread_local long tiles_n_products; /* of tiles, ever */

static inline void tiles_check(int holds) {
    if (!holds)
        abort();
}

static inline void tiles_open(const tiles_config *config) {
    static const uint8_t zero[14];
    tiles_check(config->palette == 1 && config->start_row == 0 && !memcmp(config->zero, zero, sizeof(config->zero)));
    for (int t = 0; t < 16; t++) {
        tiles_check(config->rows[t] <= (t < TILES_COUNT ? TILES_ROWS : 0));
        tiles_check(config->row_bytes[t] <= (t < TILES_COUNT ? TILES_ROW_BYTES : 0));
        tiles_check(!config->rows[t] == !config->row_bytes[t]);
    }
    memset(&tiles_state, 0, sizeof(tiles_state));
    tiles_state.config = *config;
}

static inline void tiles_close(void) {
    memset(&tiles_state, 0, sizeof(tiles_state));
}

static inline void tiles_check_register(int t) {
    tiles_check(tiles_state.config.palette == 1 && t >= 0 && t < TILES_COUNT && tiles_state.config.rows[t] &&
                tiles_state.config.row_bytes[t] % 4 == 0);
}

static inline void tiles_zero(int t) {
    tiles_check_register(t);
    memset(tiles_state.data[t], 0, sizeof(tiles_state.data[t]));
}

static inline void tiles_load(int t, const void *from, size_t stride) {
    tiles_zero(t); /* also behind the rows and bytes in use */
    for (size_t m = 0; m < tiles_state.config.rows[t]; m++)
        memcpy(tiles_state.data[t][m], (const char *)from + m * stride, tiles_state.config.row_bytes[t]);
}

static inline void tiles_store(int t, void *to, size_t stride) {
    tiles_check_register(t);
    for (size_t m = 0; m < tiles_state.config.rows[t]; m++)
        memcpy((char *)to + m * stride, tiles_state.data[t][m], tiles_state.config.row_bytes[t]);
}

/* c + the four products of the bytes of two double words, a signed, b unsigned; wraps around. */
static inline uint32_t tiles_dot_word(uint32_t c, const uint8_t *a, const uint8_t *b) {
    for (int i = 0; i < 4; i++)
        c += (uint32_t)((int8_t)a[i] * b[i]);
    return c;
}

static inline void tiles_dot(int t, int a, int b) {
    const tiles_config *config = &tiles_state.config;
    tiles_check(t != a && t != b && a != b);
    tiles_check_register(t);
    tiles_check_register(a);
    tiles_check_register(b);
    tiles_check(config->rows[t] == config->rows[a] && config->row_bytes[t] == config->row_bytes[b] &&
                config->row_bytes[a] / 4 == config->rows[b]);
    tiles_n_products++;
    for (int m = 0; m < config->rows[t]; m++)
        for (int k = 0; k < config->row_bytes[a] / 4; k++)
            for (int n = 0; n < config->row_bytes[t] / 4; n++) {
                uint32_t c;
                memcpy(&c, &tiles_state.data[t][m][4 * n], sizeof(c));
                c = tiles_dot_word(c, &tiles_state.data[a][m][4 * k], &tiles_state.data[b][k][4 * n]);
                memcpy(&tiles_state.data[t][m][4 * n], &c, sizeof(c));
            }
}
#endif
