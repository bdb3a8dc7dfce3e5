/* policy_all.c - keeps every token. */
#include "kv/method.h"
#include <limits.h>

static int budget(const kv_config *c, const kv_view *view) {
    (void)c;
    (void)view;
    return INT_MAX;
}

const kv_policy kv_policy_all = {
    .name = "all",
    .paper = "",
    .summary = "keeps every token",
    .one_set = true,
    .budget = budget,
};
