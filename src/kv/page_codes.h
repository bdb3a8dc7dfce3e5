/* page_codes.h - pages of integer codes with an affine map per group: value = scale * code + minimum. What the integer
 * formats share: layout, open, fused score and mix. Layout in page_codes.c. */
#ifndef KV_PAGE_CODES_H
#define KV_PAGE_CODES_H
#include "kv/method.h"

/* Bits of a code: 8, 4 or 2. */
tile_type page_codes_tile(int bits);
/* Bytes of 64 x d codes, a multiple of 64. */
size_t page_codes_bytes(int bits, int d);
/* The 32 codes that stand side by side at index i of tile `tile`. K: tile = half of the page (32 tokens), i = channel.
 * V: tile = group of 32 channels, i = token. put overwrites all 32, so a V row can be written alone; put_one writes one
 * code of K. */
void page_codes_put(int bits, int d, kv_side side, uint8_t *codes, int tile, int i, const uint8_t code[TILE]);
void page_codes_get(int bits, int d, kv_side side, const uint8_t *codes, int tile, int i, uint8_t code[TILE]);

/* The maps of a page. K by channel: group g holds tokens g*64/n_groups.., scale and minimum are [n_groups][d]. V by
 * token: group g holds channels g*d/n_groups.., scale and minimum are [n_groups][64]. K by token (by_token): as V. */
typedef struct page_maps {
    int n_groups;
    bool by_token;
    const float *scale, *minimum;
} page_maps;

/* x [64][d] = scale * code + minimum. */
void page_codes_open(int bits, int d, kv_side side, const uint8_t *codes, const page_maps *maps, float *x);
/* s[r*64 + t] = q[r*d ..] . K[t]; o[r*d + j] += sum of p[r*64 + t] * V[t][j]. A row's bits do not depend on n_rows. */
void page_codes_score(const cpu_kernels *, int bits, int d, const uint8_t *codes, const page_maps *maps, const float *q,
                      int n_rows, float *s, const uint8_t *prefetch);
void page_codes_mix(const cpu_kernels *, int bits, int d, const uint8_t *codes, const page_maps *maps, const float *p,
                    int n_rows, float *o, const uint8_t *prefetch);
#endif
