/* matmul_avx2vnni.c - integer products by the 256-bit vpdpbusd (AVX-VNNI): 4 columns of 8 rows in one instruction. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/lanes_avx2.h"
#include "cpu/x86/vnni_256.h"

enum { TOKENS = 4, CHUNK = 16, ROWS = 8 };

typedef struct token_rows {
    float sums[CHUNK * 2]; /* of each block or group of 16 */
} token_rows;

INLINE void open_columns(pack_type type, const int8_t *a, int n, token_rows *rows) {
    (void)type, (void)a, (void)n, (void)rows; /* the instruction takes them as they are */
}

INLINE void dot_group(pack_type type, int n_tokens, const uint8_t *code, const token_rows *rows, const int8_t *a,
                      size_t lda, int b, int g, __m256i sum[TOKENS]) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const int n_lines = type == PACK_I8 ? 8 : 4;
    (void)rows, (void)b;
#pragma GCC unroll 8
    for (int i = 0; i < n_lines; i++) {
        int line = type == PACK_I8H ? g * 4 + i : i;
        __m256i w = _mm256_load_si256((const __m256i *)(code + line * 64));
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
        if (type == PACK_I4)
            w = _mm256_and_si256(w, nibble);
        for (int t = 0; t < n_tokens; t++) {
            const int8_t *from = a + (size_t)t * lda + line * 4;
            sum[t] = vnni_256(sum[t], w, four_bytes(from));
            if (type == PACK_I4)
                sum[t] = vnni_256(sum[t], high, four_bytes(from + 16));
        }
    }
}

#include "cpu/x86/matmul_256.h"

SWEEP_BLOCKS(i8, PACK_I8, tile, 4, CHUNK)
SWEEP_BLOCKS(i4, PACK_I4, tile, 4, CHUNK)
SWEEP_BLOCKS(i8h, PACK_I8H, tile, 4, CHUNK)

void matmul_avx2vnni_fill(cpu_kernels *k) {
    k->matmul[PACK_I8] = matmul_i8;
    k->matmul[PACK_I4] = matmul_i4;
    k->matmul[PACK_I8H] = matmul_i8h;
}
#endif
