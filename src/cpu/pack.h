/* pack.h - weight matrices repacked for the product kernels.
 *
 * A matrix [n_rows][n_cols] is cut in panels of 16 rows (the last one padded with zeros) and blocks of 32 columns; rows
 * stand side by side so that one vector holds 4 columns of 16 rows and no horizontal sum is needed. A panel of an
 * integer type has the codes of all its blocks, then the numbers that give a block's scales and minima, then, where
 * the file has super-blocks of 8 blocks, theirs. They are the file's own numbers, so that a weight takes about as many
 * bytes here as there (half as many again where codes of 5 bits take bytes), and value = scale * code + minimum is
 * exactly what the file says (blocks.h):
 *
 *   type (of the file)         codes   of a block                  of a super-block           minimum
 *   PACK_I4 (Q4_1)             4 bits  f16 scale[16] minimum[16]
 *   PACK_I8 (Q5_1)             8 bits  f16 scale[16] minimum[16]
 *   PACK_S4 (Q4_0)             4 bits  f16 scale[16]                                          -8 * scale
 *   PACK_S5 (Q5_0)             8 bits  f16 scale[16]                                          -16 * scale
 *   PACK_S8 (Q8_0)             8 bits  f16 scale[16]                                          -128 * scale
 *   PACK_K4 (Q4_K)             4 bits  uint8 s[16] m[16]           f16 d[16] dmin[16]         -(dmin * m)
 *   PACK_K5 (Q5_K)             8 bits  uint8 s[16] m[16]           f16 d[16] dmin[16]         -(dmin * m)
 *   PACK_K6 (Q6_K)             6 bits  int8 s[2][16]               f16 d[16]                  -32 * scale
 *     scale = d * s in the K types; PACK_K6 has two groups of 16 columns in a block, each with its own scale
 *     codes, 8 bits:   [8 column groups][16 rows][4 columns] bytes, unsigned
 *     codes, 4 bits:   [4 column groups][16 rows][4 columns], low nibble: columns 4g.., high nibble: columns 16 + 4g..
 *     codes, 6 bits:   the lower 4 of each as above, then [2][16 rows][4 columns] with the upper 2 of column groups
 *                      h, 2 + h, 4 + h, 6 + h from the low bits up
 *   PACK_F16, PACK_F32 [n_cols][16 rows] halves or floats
 *
 * Panels start at multiples of 64 bytes; padding rows are 0 throughout.
 *
 * Products of the integer types take int8 activations. Per row and token, acc = 0; then for each block in rising order,
 * with one rounding where fma stands (portable code may round twice; PACK_K6: once for each of the block's two groups):
 *
 *   t = minimum * (float)sum(a);  t = fma(scale, (float)sum(code * a), t);  acc = fma(a_scale, t, acc)
 *
 * PACK_F16 and PACK_F32 take the float rows: acc = fma(x, w, acc) over rising columns. */
#ifndef CPU_PACK_H
#define CPU_PACK_H
#include "cpu/blocks.h"
#include "pleat.h"

typedef enum pack_type {
    PACK_I4,
    PACK_I8,
    PACK_S4,
    PACK_S5,
    PACK_S8,
    PACK_K4,
    PACK_K5,
    PACK_K6,
    PACK_F16,
    PACK_F32,
    PACK_COUNT,
} pack_type;
enum { PACK_ROWS = 16, PACK_BLOCK = 32, PACK_SUPER = 8 /* blocks of a super-block */ };

/* Bytes of an integer type's parts, for 16 rows. */
typedef struct pack_parts {
    int code, map; /* of a block: its codes; what gives its scales and minima */
    int super;     /* of a super-block; 0: there is none */
    int centre;    /* minimum = -centre * scale; 0: it has numbers of its own */
} pack_parts;

static inline pack_parts pack_parts_of(pack_type type) {
    switch (type) {
    case PACK_I4:
        return (pack_parts){.code = 256, .map = 64};
    case PACK_I8:
        return (pack_parts){.code = 512, .map = 64};
    case PACK_S4:
        return (pack_parts){.code = 256, .map = 32, .centre = 8};
    case PACK_S5:
        return (pack_parts){.code = 512, .map = 32, .centre = 16};
    case PACK_S8:
        return (pack_parts){.code = 512, .map = 32, .centre = 128};
    case PACK_K4:
        return (pack_parts){.code = 256, .map = 32, .super = 64};
    case PACK_K5:
        return (pack_parts){.code = 512, .map = 32, .super = 64};
    case PACK_K6:
        return (pack_parts){.code = 384, .map = 32, .super = 32, .centre = 32};
    default:
        return (pack_parts){0};
    }
}

static inline bool pack_is_float(pack_type type) {
    return type == PACK_F16 || type == PACK_F32;
}

static inline int pack_panel_count(int n_rows) {
    return (n_rows + PACK_ROWS - 1) / PACK_ROWS;
}

typedef struct pack_matrix {
    pack_type type;
    int n_rows, n_cols;
    size_t panel_bytes;  /* from one panel to the next */
    const uint8_t *data; /* 64-byte aligned; NULL: it is not packed, but stands in the file as */
    const uint8_t *rows; /* rows */
    block_type row_type; /* of this type */
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
 * block (32, or 256 with super-blocks; any for F16 and F32) or the size overflows. */
size_t pack_bytes(pack_type type, int64_t n_rows, int64_t n_cols);
/* Packs panels [panel_first, +n_panels) of rows of `type` at src (file's row-major form) into dst (base of the whole
 * matrix), so that threads can share the work. scratch-free. */
void pack_panels(block_type type, const uint8_t *src, int n_rows, int n_cols, int panel_first, int n_panels,
                 uint8_t *dst);
/* Panels of a matrix that is not packed as a packed matrix of their own, in scratch (64-byte aligned, n_panels *
 * panel_bytes): its products have the bits of those of the whole matrix packed. */
pack_matrix pack_part(const pack_matrix *w, int panel_first, int n_panels, uint8_t *scratch);
#endif
