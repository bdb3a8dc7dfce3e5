/* page_book.h - pages whose rows are an fp16 gain times values of a table (or 8-bit floats): what lm and fp8 share. */
#ifndef KV_PAGE_BOOK_H
#define KV_PAGE_BOOK_H
#include "kv/method.h"

typedef struct book {
    book_type type;
    const float *value; /* [2^bits]; NULL for BOOK_E4M3 */
} book;

/* codes [64 x d], then gains fp16 [64] */
size_t book_page_bytes(book_type type, int d);
/* Rows as slots first..: code [n][d], gain [n]. */
void book_put(book_type type, kv_side side, int d, uint8_t *page, const uint8_t *code, const f16 *gain, int first,
              int n);
void book_open(const book *b, kv_side side, int d, const uint8_t *page, float *x);
void book_score(const cpu_kernels *, const book *b, int d, const uint8_t *page, const float *q, int n_rows, float *s,
                const void *prefetch);
void book_mix(const cpu_kernels *, const book *b, int d, const uint8_t *page, const float *p, int n_rows, float *o,
              const void *prefetch);
#endif
