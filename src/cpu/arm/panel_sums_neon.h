/* panel_sums_neon.h - where a panel's 16 sums of each token are kept while a chunk is added: in out itself, or, when
 * the matrix ends within the panel, in a copy of which only the live rows go back. */
#ifndef CPU_ARM_PANEL_SUMS_NEON_H
#define CPU_ARM_PANEL_SUMS_NEON_H
#include "cpu/arm/lanes_neon.h"
#include "cpu/sweep.h"

enum { PANEL_TOKENS = 6 };

typedef struct panel_sums {
    float *at, *out;
    size_t ld, ldo; /* from one token to the next */
    int n_tokens, n_live;
    float copy[PANEL_TOKENS][PACK_ROWS];
} panel_sums;

/* fresh: out holds nothing yet. */
INLINE void panel_sums_open(panel_sums *p, const sweep *s, int panel, int token, int n_tokens, bool fresh) {
    int left = s->w->n_rows - panel * PACK_ROWS;
    p->at = p->out = s->out + (size_t)token * s->ldo + (size_t)panel * PACK_ROWS;
    p->ld = p->ldo = s->ldo;
    p->n_tokens = n_tokens;
    p->n_live = left < PACK_ROWS ? left : PACK_ROWS;
    if (left >= PACK_ROWS)
        return;
    p->at = p->copy[0];
    p->ld = PACK_ROWS;
    memset(p->copy, 0, sizeof(p->copy));
    for (int t = 0; t < n_tokens && !fresh; t++)
        memcpy(p->copy[t], p->out + (size_t)t * p->ldo, (size_t)left * sizeof(float));
}

INLINE void panel_sums_close(const panel_sums *p) {
    for (int t = 0; t < p->n_tokens && p->at != p->out; t++)
        memcpy(p->out + (size_t)t * p->ldo, p->copy[t], (size_t)p->n_live * sizeof(float));
}
#endif
