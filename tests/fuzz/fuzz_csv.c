/* fuzz_csv.c - CSV: read or refused with a line, cells as they were after being written again. */
#include "fuzz/fuzz.h"
#include "base/csv.h"
#include <stdlib.h>
#include <string.h>

const char fuzz_name[] = "csv";
const int fuzz_rounds = 400000;

static const char *const wanted[] = {"name", "?score", "n", NULL};

typedef struct sum {
    text out;
    int n;
} sum;

static pleat_status visit(void *context, const csv_row *row, pleat_error *error) {
    sum *s = context;
    double x;
    int64_t k;
    csv_real(row, 2, -1e6, 1e6, &x, error);
    csv_int(row, 2, -5, 1000, &k, error);
    for (int i = 0; i < row->n; i++) {
        if (row->value[i])
            csv_put(&s->out, row->value[i]);
        text_puts(&s->out, i + 1 < row->n ? "," : "\n");
    }
    s->n++;
    return PLEAT_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    sum first = {.n = 0}, second = {.n = 0};
    pleat_error error = {""};
    if (csv_read_bytes("fuzz.csv", (const char *)bytes, n, wanted, visit, &first, &error)) {
        if (strncmp(error.text, "fuzz.csv", 8) || strchr(error.text, '\n'))
            abort();
    } else {
        text all = {0};
        text_puts(&all, "name,score,n\n");
        if (first.out.n)
            text_append(&all, first.out.bytes, first.out.n);
        if (csv_read_bytes("again.csv", all.bytes, all.n, wanted, visit, &second, &error) || first.n != second.n ||
            first.out.n != second.out.n || (first.out.n && memcmp(first.out.bytes, second.out.bytes, first.out.n)))
            abort();
        text_free(&all);
    }
    text_free(&first.out);
    text_free(&second.out);
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const files[] = {
        "name,score,n\nx,0.5,3\n",
        "\xef\xbb\xbfn,name\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n\r\n2,z",
        "other,name,n,score\n,,,\nq,w,1e999,nan\n",
        "name,n\rx,1\ry,-9223372036854775809\r",
        "name;n\n1;2\n",
    };
    if (i >= 5)
        return false;
    *seed = fuzz_text(files[i]);
    return true;
}
