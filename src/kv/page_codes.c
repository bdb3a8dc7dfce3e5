/* page_codes.c - where the codes of a page are: 4 elements of what is summed over stand side by side, 32 times,
 * in the order of the sweep.
 *
 *   K   [2 halves][d channels in fours][32 tokens][4]    V   [d/32 groups][64 tokens in fours][32 channels][4]
 *   8 bits: one four after another; 4 bits: two fours in a byte, the first one low; 2 bits: four fours, from the low
 *   bits up; 3 bits: the same of their lower two, and behind these 128 bytes the upper bits of the first fours, then of
 *   the second, the third and the last, each four a nibble
 *
 * The fours that share bytes are a block. */
#include "kv/page_codes.h"
#include <string.h>

enum { HALVES = PAGE_TOKENS / TILE, FOUR = 4, LINE = FOUR * TILE }; /* bytes of a block's codes, but for upper bits */

/* Bits of a code in a block's first bytes, and fours in these. */
static int line_bits(int bits) {
    return bits == 3 ? 2 : bits;
}
static int fours_of(int bits) {
    return 8 / line_bits(bits);
}

size_t page_codes_bytes(int bits, int d) {
    return (size_t)PAGE_TOKENS * (size_t)d * (size_t)bits / 8;
}

size_t page_codes_place(int bits, int d, kv_side side, int tile, int i) {
    int per_tile = side == KV_K ? d : PAGE_TOKENS;
    return ((size_t)tile * (size_t)per_tile + (size_t)i) * (size_t)(TILE * bits / 8);
}

/* The block of element i of a tile; *four: which of its fours the element is in. */
static size_t block_of(int bits, int d, kv_side side, int tile, int i, int *four) {
    int in_block = FOUR * fours_of(bits);
    *four = i % in_block / FOUR;
    return page_codes_place(bits, d, side, tile, i / in_block * in_block);
}

static void put_bit(uint8_t *to, int at, int bit) {
    to[at / 8] = (uint8_t)((to[at / 8] & ~(1 << at % 8)) | bit << at % 8);
}

void page_codes_put(int bits, int d, kv_side side, uint8_t *codes, int tile, int i, const uint8_t code[TILE]) {
    int four, mask = (1 << line_bits(bits)) - 1;
    uint8_t *to = codes + block_of(bits, d, side, tile, i, &four), *upper = to + LINE + four * LINE / 8;
    int shift = four * line_bits(bits);
    for (int k = 0, at = i % FOUR; k < TILE; k++, at += FOUR) {
        to[at] = (uint8_t)((to[at] & ~(mask << shift)) | (code[k] & mask) << shift);
        if (bits == 3)
            put_bit(upper, at, code[k] >> 2);
    }
}

void page_codes_get(int bits, int d, kv_side side, const uint8_t *codes, int tile, int i, uint8_t code[TILE]) {
    int four, mask = (1 << line_bits(bits)) - 1;
    const uint8_t *from = codes + block_of(bits, d, side, tile, i, &four), *upper = from + LINE + four * LINE / 8;
    int shift = four * line_bits(bits);
    for (int k = 0, at = i % FOUR; k < TILE; k++, at += FOUR) {
        code[k] = (uint8_t)(from[at] >> shift & mask);
        if (bits == 3)
            code[k] |= (uint8_t)((upper[at / 8] >> at % 8 & 1) << 2);
    }
}

/* The upper bits of four codes of 3, in a nibble: bit 2 of byte m becomes bit m. */
static uint8_t upper_nibble(uint32_t four) {
    four = four >> 2 & 0x01010101;
    return (uint8_t)((four | four >> 7 | four >> 14 | four >> 21) & 15);
}

/* A column's n codes, a token's of K or a channel's of V, stand in fours, 32 columns apart: each block is one word of
 * it. */
static void put_column(int bits, int d, kv_side side, uint8_t *codes, int column, const uint8_t *code, int n) {
    const int in_word = fours_of(bits), k = column % TILE;
    const uint32_t mask = 0x01010101u * ((1u << line_bits(bits)) - 1);
    uint8_t *to = codes + page_codes_place(bits, d, side, column / TILE, 0);
    for (int i = 0; i < n; i += FOUR * in_word, to += FOUR * in_word * TILE * bits / 8) {
        uint32_t word = 0, four;
        for (int m = 0; m < in_word; m++) {
            memcpy(&four, code + i + FOUR * m, sizeof(four));
            word |= (four & mask) << (m * line_bits(bits));
            if (bits == 3) {
                uint8_t *pair = to + LINE + m * LINE / 8 + k / 2;
                *pair = (uint8_t)((*pair & ~(15 << k % 2 * 4)) | upper_nibble(four) << k % 2 * 4);
            }
        }
        memcpy(to + FOUR * k, &word, sizeof(word));
    }
}

/* A block of tokens, which share their bytes. */
static void put_v_tokens(int bits, int d, uint8_t *codes, int slot, const uint8_t *restrict code) {
    const int n = FOUR * fours_of(bits), low = (1 << line_bits(bits)) - 1;
    for (int tile = 0; tile < d / TILE; tile++) {
        uint8_t *to = codes + page_codes_place(bits, d, KV_V, tile, slot), upper[LINE / 2] = {0};
        uint32_t word[TILE] = {0};
        for (int i = 0; i < n; i++) {
            const uint8_t *row = code + i * d + tile * TILE;
            for (int k = 0, shift = i % FOUR * 8 + i / FOUR * line_bits(bits); k < TILE; k++)
                word[k] |= (uint32_t)(row[k] & low) << shift;
            for (int k = 0; bits == 3 && k < TILE; k++)
                upper[i / FOUR * LINE / 8 + k / 2] |= (uint8_t)(row[k] >> 2 << (k % 2 * 4 + i % FOUR));
        }
        memcpy(to, word, sizeof(word));
        if (bits == 3)
            memcpy(to + LINE, upper, sizeof(upper));
    }
}

void page_codes_put_rows(int bits, int d, kv_side side, uint8_t *codes, const uint8_t *code, int first, int n) {
    int together = FOUR * fours_of(bits);
    for (int i = 0, done; i < n; i += done) {
        int slot = first + i;
        const uint8_t *row = code + i * d;
        done = 1;
        if (side == KV_K) {
            put_column(bits, d, KV_K, codes, slot, row, d);
        } else if (slot % together == 0 && n - i >= together) {
            put_v_tokens(bits, d, codes, slot, row);
            done = together;
        } else {
            for (int tile = 0; tile < d / TILE; tile++)
                page_codes_put(bits, d, side, codes, tile, slot, row + tile * TILE);
        }
    }
}

void page_codes_put_channels(int bits, int d, uint8_t *codes, const uint8_t *code) {
    for (int j = 0; j < d; j++)
        put_column(bits, d, KV_V, codes, j, code + j * PAGE_TOKENS, PAGE_TOKENS);
}

void page_codes_open(int bits, int d, kv_side side, const uint8_t *codes, const page_maps *maps, float *x) {
    uint8_t code[TILE];
    int n_tiles = side == KV_K ? HALVES : d / TILE, per_tile = side == KV_K ? d : PAGE_TOKENS;
    bool by_token = side == KV_V || maps->by_token;
    for (int tile = 0; tile < n_tiles; tile++)
        for (int i = 0; i < per_tile; i++) {
            page_codes_get(bits, d, side, codes, tile, i, code);
            for (int k = 0; k < TILE; k++) {
                int t = side == KV_K ? tile * TILE + k : i, j = side == KV_K ? i : tile * TILE + k;
                int map =
                    by_token ? j * maps->n_groups / d * PAGE_TOKENS + t : t * maps->n_groups / PAGE_TOKENS * d + j;
                x[t * d + j] = maps->book ? maps->scale[map] * (float)maps->book[code[k]]
                                          : maps->scale[map] * (float)code[k] + maps->minimum[map];
            }
        }
}
