/* capture.h - queries, keys and values as a real model makes them. */
#ifndef TESTS_CAPTURE_H
#define TESTS_CAPTURE_H
#include "kv/method.h"

typedef struct capture {
    kv_model shape;                      /* its numbers; pointers are not valid */
    float rope_inv[KV_MAX_HEAD_DIM / 2]; /* [n_rot/2] of its layers without a window, as in kv_layer_shape */
    int n_tokens, n_queries;
    float *q;       /* [n_layer][n_queries][n_head][d] of the last tokens, rotated, times score_scale */
    float *rows[2]; /* [n_layer][n_head_kv][n_tokens][d] K (rotated) and V, rounded to fp16 */
} capture;

/* Runs n_tokens of the committed text through the model file; the test fails when that cannot be. */
capture capture_run(const char *model_path, int n_tokens, int n_queries);
void capture_free(capture *c);
#endif
