/* page_codes.h - pages of codes with a map per group: value = scale * code + minimum, or scale * number of the code in
 * a table. What the integer formats and the codebook share: layout and open (page_codes.c), fused
 * score and mix (page_products.c). */
#ifndef KV_PAGE_CODES_H
#define KV_PAGE_CODES_H
#include "kv/method.h"

enum { PAGE_CODES_MOST_MAPS = 2 * KV_MAX_HEAD_DIM }; /* groups of 32 at least */

/* bits of a code: 8, 4 or 2, with a table 4, 3 or 2. Bytes of 64 x d codes, a multiple of 64. */
size_t page_codes_bytes(int bits, int d);
/* Where element i of a tile begins, which is the first of a block: a multiple of 4, 8 or, 3 and 2 bits, of 16. */
size_t page_codes_place(int bits, int d, kv_side side, int tile, int i);
/* The 32 codes that stand side by side at index i of tile `tile`. K: tile = half of the page (32 tokens), i = channel.
 * V: tile = group of 32 channels, i = token. All other elements stay as they are. */
void page_codes_put(int bits, int d, kv_side side, uint8_t *codes, int tile, int i, const uint8_t code[TILE]);
void page_codes_get(int bits, int d, kv_side side, const uint8_t *codes, int tile, int i, uint8_t code[TILE]);

/* Rows code [n][d] as slots first.. of a page's codes. */
void page_codes_put_rows(int bits, int d, kv_side side, uint8_t *codes, const uint8_t *code, int first, int n);
/* All codes of a page of V, turned: code [d][64]. */
void page_codes_put_channels(int bits, int d, uint8_t *codes, const uint8_t *code);

/* The maps of a page. K by channel: group g holds tokens g*64/n_groups.., scale and minimum are [n_groups][d]. V by
 * token: group g holds channels g*d/n_groups.., scale and minimum are [n_groups][64]. K by token (by_token): as V.
 * Groups are of 32 elements or more. centred: every minimum is -2^(bits-1) times its scale, so the middle code is 0.
 * score and mix look at minimum only when neither middle (what the middle code stands for, cpu_kernels' open_maps) nor
 * centred is given; open looks at scale and minimum. With a table all maps are by token and centred, and nobody looks
 * at minimum. */
typedef struct page_maps {
    int n_groups;
    bool by_token, centred;
    const float *scale, *minimum, *middle;
    const int16_t *book; /* [2^bits], of BOOK_LIMIT at most; NULL: codes are numbers themselves */
} page_maps;

/* x [64][d] = scale * code + minimum, or scale * book[code]. */
void page_codes_open(int bits, int d, kv_side side, const uint8_t *codes, const page_maps *maps, float *x);
/* s[r*64 + t] = row r of q . K[t]; o[r*d + j] += sum of p[r*64 + t] * V[t][j]. A row's bits do not depend on the
 * others. With maps by token the folded rows are kept in q, whose pages then all have n_groups groups.
 * prefetch: another page's codes, to bring near meanwhile, or NULL. */
void page_codes_score(const cpu_kernels *, int bits, int d, const uint8_t *codes, const page_maps *maps,
                      kv_query_rows *q, float *s, const uint8_t *prefetch);
void page_codes_mix(const cpu_kernels *, int bits, int d, const uint8_t *codes, const page_maps *maps, const float *p,
                    int n_rows, float *o, const uint8_t *prefetch);
/* Asks for bytes [from, to) of a page that comes next (NULL: none): what stands behind the codes. */
void page_codes_fetch(const void *page, size_t from, size_t to);
#endif
