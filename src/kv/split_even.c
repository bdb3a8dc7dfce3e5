/* split_even.c - every layer and head gets the policy's budget. */
#include "kv/method.h"

const kv_split kv_split_even = {
    .name = "even",
    .paper = "",
    .summary = "the same budget for every layer and head",
};
