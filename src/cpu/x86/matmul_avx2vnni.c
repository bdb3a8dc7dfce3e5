/* matmul_avx2vnni.c - integer products by the 256-bit vpdpbusd (AVX-VNNI): 4 columns of 8 rows in one instruction. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/expand_avx2.h"
#include "cpu/x86/lanes_avx2.h"
#include "cpu/x86/vnni_256.h"
#include "cpu/sweep_blocks.h"

enum { TOKENS = 4, CHUNK = SWEEP_BLOCKS_MOST, ROWS = 8 };

typedef struct token_rows {
    float sums[CHUNK * 2]; /* of each block or group of 16 */
} token_rows;

INLINE void open_columns(pack_form form, const int8_t *a, int n, token_rows *rows) {
    (void)form, (void)a, (void)n, (void)rows; /* the instruction takes them as they are */
}

INLINE void dot_group(pack_form form, int n_tokens, const uint8_t *code, const token_rows *rows, const int8_t *a,
                      size_t lda, int b, int g, __m256i sum[TOKENS]) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const int n_lines = form == FORM_8 ? 8 : 4;
    (void)rows, (void)b;
#pragma GCC unroll 8
    for (int i = 0; i < n_lines; i++) {
        int line = form == FORM_8H ? g * 4 + i : i;
        __m256i w = _mm256_load_si256((const __m256i *)(code + line * 64));
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
        if (form == FORM_4)
            w = _mm256_and_si256(w, nibble);
        for (int t = 0; t < n_tokens; t++) {
            const int8_t *from = a + (size_t)t * lda + line * 4;
            sum[t] = vnni_256(sum[t], w, four_bytes(from));
            if (form == FORM_4)
                sum[t] = vnni_256(sum[t], high, four_bytes(from + 16));
        }
    }
}

#include "cpu/x86/matmul_256.h"

SWEEP_BLOCKS(tile, 4)

void matmul_avx2vnni_fill(cpu_kernels *k) {
    sweep_blocks_fill(k);
}
#endif
