/* book_neon.c - attention products over KV tiles of codes into a table, and of 8-bit floats (sweep_rows_neon.h).
 *
 * A table of up to 16 floats is kept as four vectors: the first bytes of all of them, the second, the third, the
 * fourth. Each looks up 16 codes at a time (tbl), and zipping the four answers makes floats of them. */
#include "cpu/arm/codes_neon.h"
#include "cpu/arm/sweep_rows_neon.h"
#include "cpu/fill.h"

INLINE void look_up(const uint8x16_t *table, uint8x16_t code, float32x4_t v[4]) {
    uint8x16_t byte[4];
    for (int i = 0; i < 4; i++)
        byte[i] = vqtbl1q_u8(table[i], code);
    uint16x8_t low[2] = {vreinterpretq_u16_u8(vzip1q_u8(byte[0], byte[1])),
                         vreinterpretq_u16_u8(vzip2q_u8(byte[0], byte[1]))};
    uint16x8_t high[2] = {vreinterpretq_u16_u8(vzip1q_u8(byte[2], byte[3])),
                          vreinterpretq_u16_u8(vzip2q_u8(byte[2], byte[3]))};
    for (int i = 0; i < 2; i++) {
        v[2 * i] = vreinterpretq_f32_u16(vzip1q_u16(low[i], high[i]));
        v[2 * i + 1] = vreinterpretq_f32_u16(vzip2q_u16(low[i], high[i]));
    }
}

INLINE void open_two(const uint8_t *x, int half, const uint8x16_t *table, float32x4_t v[4]) {
    look_up(table, codes_pairs(x, half), v);
}

INLINE void open_three(const uint8_t *x, int half, const uint8x16_t *table, float32x4_t v[4]) {
    const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bits = vcombine_u8(vdup_n_u8(x[8 + half * 2]), vdup_n_u8(x[9 + half * 2]));
    uint8x16_t upper = vandq_u8(vtstq_u8(bits, bit), vdupq_n_u8(4));
    look_up(table, vorrq_u8(codes_pairs(x, half), upper), v);
}

INLINE void open_four(const uint8_t *x, int half, const uint8x16_t *table, float32x4_t v[4]) {
    look_up(table, codes_nibbles(x, half), v);
}

/* seeeemmm, bias 7, moved to the bits of a half, bias 15. */
INLINE void open_e4m3(const uint8_t *x, int half, const uint8x16_t *table, float32x4_t v[4]) {
    (void)table;
    for (int i = 0; i < 2; i++) {
        uint8x8_t eight = vld1_u8(x + half * 16 + i * 8);
        uint16x8_t sign = vshll_n_u8(vand_u8(eight, vdup_n_u8(128)), 8);
        float16x8_t y = vreinterpretq_f16_u16(vorrq_u16(sign, vshll_n_u8(vand_u8(eight, vdup_n_u8(127)), 7)));
        v[2 * i] = vmulq_n_f32(vcvt_f32_f16(vget_low_f16(y)), 256);
        v[2 * i + 1] = vmulq_n_f32(vcvt_high_f32_f16(y), 256);
    }
}

/* entries: of the table at book. */
#define KERNEL(name, row_bytes, entries)                                                                               \
    static void book_##name(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,      \
                            const void *prefetch, const float *book) {                                                 \
        uint8_t padded[64] = {0};                                                                                      \
        if (entries)                                                                                                   \
            memcpy(padded, book, entries * sizeof(*book));                                                             \
        uint8x16x4_t table = vld4q_u8(padded);                                                                         \
        sweep_rows(open_##name, row_bytes, n_rows, (sweep_product){a, lda, ldo, x, n, out, prefetch, table.val});      \
    }

KERNEL(two, 8, 4)
KERNEL(three, 12, 8)
KERNEL(four, 16, 16)
KERNEL(e4m3, 32, 0)

void book_neon_fill(cpu_kernels *k) {
    k->book[BOOK_2] = book_two;
    k->book[BOOK_3] = book_three;
    k->book[BOOK_4] = book_four;
    k->book[BOOK_E4M3] = book_e4m3;
}
