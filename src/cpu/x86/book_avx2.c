/* book_avx2.c - products of rows with codes into a table by vpmaddwd.
 *
 * As book_avx512vnni.c, in vectors of 256 bits: a tile is swept twice, 16 columns wide, 3 rows x 4 vectors of sums at a
 * time. Upper bits of 3-bit codes are spread over bytes by a shuffle and a comparison. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include <immintrin.h>
#include <string.h>

enum { BOOK_ROWS = 3, PART = 4 }; /* a part: elements of a column that stand side by side */
#include "cpu/book_tiles.h"

typedef struct tables {
    __m256i low, high; /* bytes of the numbers */
} tables;

INLINE __m256i four(const int16_t *a) {
    int64_t words;
    memcpy(&words, a, sizeof(words));
    return _mm256_set1_epi64x(words);
}

INLINE tables tables_of(book_type type, const int16_t *book) {
    uint8_t low[16] = {0}, high[16] = {0};
    for (int i = 0; i < 1 << book_bits(type); i++) {
        low[i] = (uint8_t)book[i];
        high[i] = (uint8_t)(book[i] >> 8);
    }
    return (tables){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high))};
}

/* Bit b of the 32 at x as byte b, 0 or 4. */
INLINE __m256i spread(const uint8_t *x) {
    const __m256i byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                                          3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    int32_t bits;
    memcpy(&bits, x, sizeof(bits));
    __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(own, bit), _mm256_set1_epi8(4));
}

/* 32 codes of part `part` of a block: 4 elements of the 8 columns of vector v. */
INLINE __m256i unpack(book_type type, const uint8_t *block, int part, int v) {
    __m256i codes = _mm256_load_si256((const __m256i *)(block + 32 * v));
    if (type == BOOK_4)
        return _mm256_and_si256(part ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
    codes = _mm256_and_si256(part ? _mm256_srli_epi16(codes, 2 * part) : codes, _mm256_set1_epi8(3));
    return type == BOOK_3 ? _mm256_or_si256(codes, spread(block + 128 + 16 * part + 4 * v)) : codes;
}

/* Lanes 2j and 2j + 1 of a sum are one column's: 0, 1, 4, 5 in first, 2, 3, 6, 7 in second. */
INLINE __m256 join(__m256i first, __m256i second) {
    __m256 a = _mm256_castsi256_ps(first), b = _mm256_castsi256_ps(second);
    __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(even, _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd))));
}

/* Elements [first, end) of columns 16 half .. +15, added to total. */
INLINE void chunk(book_type type, int n_rows, int half, const book_place *at, const tables *t, const book_words *words,
                  int first, int end, float total[][TILE]) {
    const int in_block = book_block(type), bytes = book_block_bytes(type);
    const uint8_t *codes = at->tile->codes + first / in_block * bytes;
    const char *prefetch = at->prefetch && half == 0 ? at->prefetch + first / in_block * bytes : NULL;
    __m256i sum[BOOK_ROWS][4];
#pragma GCC unroll 3
    for (int r = 0; r < n_rows; r++)
        sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = _mm256_setzero_si256();
    for (int i = first; i < end; i += in_block, codes += bytes) {
        for (int line = 0; prefetch && line < bytes; line += 64)
            _mm_prefetch(prefetch + line, _MM_HINT_T1);
        prefetch = prefetch ? prefetch + bytes : NULL;
#pragma GCC unroll 4
        for (int part = 0; part < in_block / PART; part++)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) {
                __m256i code = unpack(type, codes, part, 2 * half + v);
                __m256i low = _mm256_shuffle_epi8(t->low, code), high = _mm256_shuffle_epi8(t->high, code);
                __m256i number[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
#pragma GCC unroll 3
                for (int r = 0; r < n_rows; r++) {
                    __m256i a = four(words[r].number + i + PART * part);
                    sum[r][2 * v] = _mm256_add_epi32(sum[r][2 * v], _mm256_madd_epi16(number[0], a));
                    sum[r][2 * v + 1] = _mm256_add_epi32(sum[r][2 * v + 1], _mm256_madd_epi16(number[1], a));
                }
            }
    }
#pragma GCC unroll 3
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < 2; v++) {
            __m256 now = join(sum[r][2 * v], sum[r][2 * v + 1]);
            float *to = total[r] + 16 * half + 8 * v;
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), now));
        }
}

INLINE void finish(const dot_row *row, const float *scale, const float *total, float *out) {
    for (int k = 0; k < TILE; k += 8) {
        __m256 unit = _mm256_set1_ps(row->unit);
        if (scale)
            unit = _mm256_mul_ps(unit, _mm256_loadu_ps(scale + k));
        _mm256_storeu_ps(out + k, _mm256_fmadd_ps(_mm256_loadu_ps(total + k), unit, _mm256_loadu_ps(out + k)));
    }
}

INLINE void block(book_type type, int n_rows, const book_place *at, const tables *t, const book_words *words) {
    float total[BOOK_ROWS][TILE] = {{0}};
    for (int first = 0; first < at->n; first += BOOK_CHUNK) {
        int end = at->n - first < BOOK_CHUNK ? at->n : first + BOOK_CHUNK;
        chunk(type, n_rows, 0, at, t, words, first, end, total);
        chunk(type, n_rows, 1, at, t, words, first, end, total);
    }
    for (int r = 0; r < n_rows; r++)
        finish(&at->tile->rows[at->row + r], at->tile->scale, total[r],
               at->tile->out + (size_t)(at->row + r) * at->ldo);
}

BOOK_WALK(BOOK_CASES_3)
BOOK_KERNELS

void book_avx2_fill(cpu_kernels *k) {
    book_fill(k);
}
#endif
