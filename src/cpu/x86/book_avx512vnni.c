/* book_avx512vnni.c - products of rows with codes into a table by vpdpwssd: 2 elements of 16 columns in one
 * instruction.
 *
 * The table is kept as two of bytes. Two shuffles look 64 codes up, two more put the halves of their numbers together:
 * words, of which 4 elements of a column stand side by side. A row's numbers are words, too, and 4 of them are
 * broadcast together, so every second lane of a sum belongs to the same column; they meet at the end of a chunk. Up to
 * 6 rows x 4 vectors of sums are 24 accumulators. The instruction is asm because GCC 12 shuffles the intrinsic's
 * accumulators. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include <immintrin.h>
#include <string.h>

enum { BOOK_ROWS = 6, PART = 4 }; /* a part: elements of a column that stand side by side */
#include "cpu/book_tiles.h"

typedef struct tables {
    __m512i low, high; /* bytes of the numbers */
} tables;

INLINE __m512i add_dot(__m512i sum, __m512i number, __m512i a) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(number), "v"(a));
    return sum;
}

INLINE __m512i four(const int16_t *a) {
    int64_t words;
    memcpy(&words, a, sizeof(words));
    return _mm512_set1_epi64(words);
}

INLINE tables tables_of(book_type type, const int16_t *book) {
    int16_t number[16] = {0};
    memcpy(number, book, sizeof(*book) << book_bits(type));
    __m256i words = _mm256_loadu_si256((const __m256i *)number);
    __m128i low = _mm256_cvtepi16_epi8(words), high = _mm256_cvtepi16_epi8(_mm256_srli_epi16(words, 8));
    return (tables){_mm512_broadcast_i32x4(low), _mm512_broadcast_i32x4(high)};
}

/* 64 codes of part `part` of a block: 4 elements of the 16 columns of half `half`. */
INLINE __m512i unpack(book_type type, const uint8_t *block, int part, int half) {
    __m512i codes = _mm512_load_si512(block + 64 * half);
    if (type == BOOK_4)
        return _mm512_and_si512(part ? _mm512_srli_epi16(codes, 4) : codes, _mm512_set1_epi8(15));
    codes = _mm512_and_si512(part ? _mm512_srli_epi16(codes, 2 * part) : codes, _mm512_set1_epi8(3));
    if (type == BOOK_2)
        return codes;
    uint64_t upper;
    memcpy(&upper, block + 128 + 16 * part + 8 * half, sizeof(upper));
    return _mm512_mask_add_epi8(codes, (__mmask64)upper, codes, _mm512_set1_epi8(4));
}

/* Lanes 2j and 2j + 1 of a sum are one column's: 0, 1, 4, 5, .. in first, 2, 3, 6, 7, .. in second. */
INLINE __m512 join(__m512i first, __m512i second) {
    __m512 a = _mm512_castsi512_ps(first), b = _mm512_castsi512_ps(second);
    __m512i even = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88));
    return _mm512_cvtepi32_ps(_mm512_add_epi32(even, _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd))));
}

/* Elements [first, end) of the tile, added to total. */
INLINE void chunk(book_type type, int n_rows, const book_place *at, const tables *t, const book_words *words, int first,
                  int end, float total[][TILE]) {
    const int in_block = book_block(type), bytes = book_block_bytes(type);
    const uint8_t *codes = at->tile->codes + first / in_block * bytes;
    const char *prefetch = at->prefetch ? at->prefetch + first / in_block * bytes : NULL;
    __m512i sum[BOOK_ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
        sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = _mm512_setzero_si512();
    for (int i = first; i < end; i += in_block, codes += bytes) {
        for (int line = 0; prefetch && line < bytes; line += 64)
            _mm_prefetch(prefetch + line, _MM_HINT_T1);
        prefetch = prefetch ? prefetch + bytes : NULL;
#pragma GCC unroll 4
        for (int part = 0; part < in_block / PART; part++) {
            __m512i number[4];
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                __m512i code = unpack(type, codes, part, half);
                __m512i low = _mm512_shuffle_epi8(t->low, code), high = _mm512_shuffle_epi8(t->high, code);
                number[2 * half] = _mm512_unpacklo_epi8(low, high);
                number[2 * half + 1] = _mm512_unpackhi_epi8(low, high);
            }
#pragma GCC unroll 6
            for (int r = 0; r < n_rows; r++) {
                __m512i a = four(words[r].number + i + PART * part);
                for (int v = 0; v < 4; v++)
                    sum[r][v] = add_dot(sum[r][v], number[v], a);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
        for (int half = 0; half < 2; half++) {
            __m512 now = join(sum[r][2 * half], sum[r][2 * half + 1]);
            _mm512_storeu_ps(total[r] + 16 * half, _mm512_add_ps(_mm512_loadu_ps(total[r] + 16 * half), now));
        }
}

INLINE void finish(const dot_row *row, const float *scale, const float *total, float *out) {
    for (int k = 0; k < TILE; k += 16) {
        __m512 unit = _mm512_set1_ps(row->unit);
        if (scale)
            unit = _mm512_mul_ps(unit, _mm512_loadu_ps(scale + k));
        _mm512_storeu_ps(out + k, _mm512_fmadd_ps(_mm512_loadu_ps(total + k), unit, _mm512_loadu_ps(out + k)));
    }
}

INLINE void block(book_type type, int n_rows, const book_place *at, const tables *t, const book_words *words) {
    float total[BOOK_ROWS][TILE] = {{0}};
    for (int first = 0; first < at->n; first += BOOK_CHUNK)
        chunk(type, n_rows, at, t, words, first, at->n - first < BOOK_CHUNK ? at->n : first + BOOK_CHUNK, total);
    for (int r = 0; r < n_rows; r++)
        finish(&at->tile->rows[at->row + r], at->tile->scale, total[r],
               at->tile->out + (size_t)(at->row + r) * at->ldo);
}

BOOK_WALK(BOOK_CASES_6)
BOOK_KERNELS

void book_avx512vnni_fill(cpu_kernels *k) {
    book_fill(k);
}
#endif
