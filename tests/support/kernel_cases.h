/* kernel_cases.h - every entry of the table of kernels as data: its sizes, its operands, its call. The kernel tests and
 * the benchmarks run the same closures.
 *
 * A case lays out up to KERNEL_BUFFERS operands for a size, fills them from a seed, and calls one kernel of any table.
 */
#ifndef TESTS_KERNEL_CASES_H
#define TESTS_KERNEL_CASES_H
#include "cpu/kernels.h"

enum { KERNEL_BUFFERS = 6 };

typedef struct kernel_size {
    int n;       /* the kernel's own length */
    int n_rows;  /* rows, queries or tokens of one call */
    int n_out;   /* rows of a matrix */
    int variant; /* gaps between rows, masks, flags: what else the case tries */
} kernel_size;

typedef enum kernel_element { KERNEL_U8, KERNEL_I8, KERNEL_I16, KERNEL_I32, KERNEL_F16, KERNEL_F32 } kernel_element;

typedef struct kernel_buffer {
    kernel_element element;
    size_t n;     /* elements; 0: not used */
    bool out;     /* the kernel writes it */
    bool scratch; /* written, but its bytes are nobody's promise */
    bool stream;  /* comes from memory in real use: cache pages, weights */
    int align;    /* bytes that the kernel may count on */
} kernel_buffer;

typedef enum kernel_rule {
    KERNEL_BITS, /* equal at every level */
    KERNEL_NEAR, /* each element within 1e-5 of itself */
    KERNEL_SUM,  /* each element within 1e-5 of the sum of its terms' magnitudes */
} kernel_rule;

/* The entry of the table of kernels that a case calls, of its type where there is one for each. */
typedef enum kernel_entry {
    ENTRY_ROW, /* any that has no arithmetic peak */
    ENTRY_TILE,
    ENTRY_BOOK,
    ENTRY_DOT,
    ENTRY_LOW_RANK_DOTS,
    ENTRY_LOW_RANK_ADD,
    ENTRY_SPARSE,
    ENTRY_MATMUL,
} kernel_entry;

typedef struct kernel_case kernel_case;
struct kernel_case {
    const char *name;
    kernel_rule rule;
    kernel_size step, most; /* tested: n, n_rows and n_out from step to most; all variants below most.variant */
    kernel_size bench;      /* a size of real use; n 0: no benchmark of its own */
    bool in_place;          /* a second call on the same operands would not do the same work */
    bool rows_apart;        /* a row's bits do not depend on the other rows of the call */
    kernel_entry entry;
    int type; /* of a tile, a book, codes or a packed matrix */
    void (*layout)(const kernel_case *, const kernel_size *, kernel_buffer buffer[KERNEL_BUFFERS]);
    /* magnitudes: the same numbers without their signs (for KERNEL_SUM) */
    void (*fill)(const kernel_case *, const kernel_size *, uint64_t seed, bool magnitudes, void *const buffer[]);
    /* One call for rows [first, first + n_rows) of the size's. */
    void (*run)(const cpu_kernels *, const kernel_case *, const kernel_size *, int first, int n_rows,
                void *const buffer[]);
    /* Turns scratch operands into comparable ones, after run; NULL: nothing to do. */
    void (*extract)(const kernel_size *, void *const buffer[]);
    double (*ops)(const kernel_case *,
                  const kernel_size *); /* multiplications and additions of one call; NULL: a row kernel */
};

/* NULL-ended. */
extern const kernel_case *const kernel_cases_rows[],
    *const kernel_cases_tile[], *const kernel_cases_matmul[], *const kernel_cases_dot[],
                                                                  *const kernel_cases_sparse[],
                                                                      *const kernel_cases_ends[],
                                                                          *const kernel_cases_transpose[];
/* All of them, NULL-ended. */
const kernel_case *const *kernel_cases(void);
size_t kernel_element_bytes(kernel_element element);

/* Numbers for the fills: a state that each draw moves on. */
uint32_t kernel_draw(uint64_t *state);
float kernel_draw_unit(uint64_t *state);                  /* [-1, 1), with rare zeros */
float kernel_draw_float(uint64_t *state, bool magnitude); /* about normal, without its sign when magnitude */
#endif
