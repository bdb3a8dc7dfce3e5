/* metrics.c - see metrics.h. */
#include "measure/metrics.h"

const char *metrics_name(metrics_kind kind) {
    static const char *const names[] = {
        [METRICS_F1] = "f1",
        [METRICS_ROUGE_L] = "rouge-l",
        [METRICS_CLASSIFICATION] = "classification",
        [METRICS_RETRIEVAL] = "retrieval",
        [METRICS_RETRIEVAL_ZH] = "retrieval",
        [METRICS_COUNT] = "count",
        [METRICS_EDIT] = "edit",
        [METRICS_SEGMENTED] = "segmented",
    };
    return names[kind];
}
