/* page_f16.h - an fp16 page of 64 slots: the tail of every lane, and the whole of an f16 one. Layout in page_f16.c. */
#ifndef KV_PAGE_F16_H
#define KV_PAGE_F16_H
#include "kv/method.h"

/* Bytes of a page of one side; d is a multiple of 32. */
size_t page_f16_bytes(int d);
/* Writes n_rows rows ([n_rows] with row_stride halves between them) as slots slot.. of the page; reads them back packed
 * [n_rows][d]. */
void page_f16_put(kv_side side, int d, uint8_t *page, int slot, const f16 *rows, int n_rows, size_t row_stride);
void page_f16_get(kv_side side, int d, const uint8_t *page, int slot, int n_rows, f16 *rows);
/* Copies one row; dst_page may be src_page. */
void page_f16_move(kv_side side, int d, uint8_t *dst_page, int dst_slot, const uint8_t *src_page, int src_slot);

/* s[r*64 + t] = q[r*d ..] . K row t for all 64 slots. prefetch: page_f16_bytes to bring near meanwhile, or NULL. */
void page_f16_score(const cpu_kernels *kernels, int d, const uint8_t *page, const float *q, int n_rows, float *s,
                    const void *prefetch);
/* o[r*d + j] += sum over t, rising, of p[r*64 + t] * V[t][j]. */
void page_f16_mix(const cpu_kernels *kernels, int d, const uint8_t *page, const float *p, int n_rows, float *o,
                  const void *prefetch);
#endif
