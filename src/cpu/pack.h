/* pack.h - weight matrices repacked for the product kernels.
 *
 * A matrix [n_rows][n_cols] is cut in panels of 16 rows (the last one padded with zeros) and blocks of 32 columns; rows
 * stand side by side so that one vector holds 4 columns of 16 rows and no horizontal sum is needed:
 *
 *   PACK_I8, PACK_I4   value = scale * code + minimum, exactly what the file's type says (blocks.h), per block:
 *                      [f32 scale 16][f32 minimum 16] [codes]       groups of 32 columns (Q8_0 Q4_x Q5_x Q4_K Q5_K)
 *   PACK_I8H           two groups of 16 columns in a block (Q6_K): [scale 2][16], [minimum 2][16], codes
 *     codes, 8 bits:   [8 column groups][16 rows][4 columns] bytes, unsigned
 *     codes, 4 bits:   [4 column groups][16 rows][4 columns], low nibble: columns 4g.., high nibble: columns 16 + 4g..
 *   PACK_F16, PACK_F32 [n_cols][16 rows] halves or floats
 *
 * Panels start at multiples of 64 bytes; padding rows have scale, minimum and codes 0.
 *
 * Products of the integer types take int8 activations. Per row and token, acc = 0; then for each block in rising order,
 * with one rounding where fma stands (portable code may round twice; PACK_I8H: once for each of the block's two
 * groups):
 *
 *   t = minimum * (float)sum(a);  t = fma(scale, (float)sum(code * a), t);  acc = fma(a_scale, t, acc)
 *
 * PACK_F16 and PACK_F32 take the float rows: acc = fma(x, w, acc) over rising columns. */
#ifndef CPU_PACK_H
#define CPU_PACK_H
#include "cpu/blocks.h"
#include "pleat.h"

typedef enum pack_type { PACK_I8, PACK_I4, PACK_I8H, PACK_F16, PACK_F32, PACK_COUNT } pack_type;
enum { PACK_ROWS = 16, PACK_BLOCK = 32 };
enum { PACK_I8_BLOCK_BYTES = 640, PACK_I4_BLOCK_BYTES = 384, PACK_I8H_BLOCK_BYTES = 768 }; /* 16 rows x 32 columns */

/* Of a block, of the types that have blocks. */
static inline size_t pack_block_bytes(pack_type type) {
    return type == PACK_I8 ? PACK_I8_BLOCK_BYTES : type == PACK_I4 ? PACK_I4_BLOCK_BYTES : PACK_I8H_BLOCK_BYTES;
}

typedef struct pack_matrix {
    pack_type type;
    int n_rows, n_cols;
    size_t panel_bytes;  /* from one panel to the next */
    const uint8_t *data; /* 64-byte aligned */
} pack_matrix;

/* Activations of a step: float rows, and their int8 form where a matrix wants it. */
typedef struct act_rows {
    int n_cols;
    const float *x;       /* [n][n_cols] */
    const int8_t *code;   /* [n][n_cols] */
    const float *scale;   /* [n][n_cols/32] */
    const int16_t *sum16; /* [n][n_cols/16] */
} act_rows;

/* The packed type of a file's block type (BF16 becomes PACK_F32). */
pack_type pack_type_of(block_type type);
/* Bytes of a packed matrix (for one row: the panel_bytes of any number of rows); 0 when n_cols is not a multiple of the
 * block (32; any for F16 and F32) or the size overflows. */
size_t pack_bytes(pack_type type, int64_t n_rows, int64_t n_cols);
/* Packs panels [panel_first, +n_panels) of rows of `type` at src (file's row-major form) into dst (base of the whole
 * matrix), so that threads can share the work. scratch-free. */
void pack_panels(block_type type, const uint8_t *src, int n_rows, int n_cols, int panel_first, int n_panels,
                 uint8_t *dst);
#endif
