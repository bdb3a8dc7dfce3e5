/* integers.c - see integers.h. */
#include "kv/integers.h"
#include "base/status.h"

enum { AXIS_TOKEN };

affine integers_affine(const kv_config *c, kv_side side, int d, int bits, bool symmetric) {
    bool by_token = side == KV_V || c->value[INTEGERS_AXIS] == AXIS_TOKEN;
    int group = c->value[INTEGERS_GROUP] == 0 ? 32 : c->value[INTEGERS_GROUP] == 1 ? 64 : by_token ? d : PAGE_TOKENS;
    return (affine){.bits = bits, .symmetric = symmetric, .by_token = by_token, .group = group};
}

pleat_status integers_check(const char *format, const kv_config *c, const affine *a, int d, pleat_error *error) {
    int tail = (int)c->value[INTEGERS_TAIL];
    if (tail % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "%s: tail=%d is not a multiple of %d", format, tail, PAGE_TOKENS);
    if (d && a->by_token && d % a->group)
        return err_set(error, PLEAT_EINPUT, "%s: heads of %d elements cannot be cut in groups of %d", format, d,
                       a->group);
    return PLEAT_OK;
}

kv_geometry integers_geometry(const kv_config *c, const affine *a, kv_side side, int d) {
    return (kv_geometry){.page_bytes = affine_page_bytes(a, side, d),
                         .run_pages = 1,
                         .keep_tokens = (int)c->value[INTEGERS_TAIL],
                         .step_tokens = PAGE_TOKENS,
                         .row_writable = a->by_token};
}
