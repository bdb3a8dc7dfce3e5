/* reference_forward.c - see reference_forward.h. Written from the papers' formulas, sharing nothing with src/model but
 * the file reader and block_open. */
#include "support/reference_forward.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float *floats(const gguf *file, const char *format, int il) {
    char name[80];
    snprintf(name, sizeof(name), format, il);
    const gguf_tensor *t = gguf_tensor_find(file, name);
    if (!t)
        return NULL;
    int64_t n = t->ne[0] * t->ne[1];
    float *x = malloc((size_t)n * sizeof(*x));
    assert(x);
    block_open(t->type, t->data, n, x);
    return x;
}

static void product(const float *w, const double *x, int n_cols, int n_rows, double *y) {
    for (int r = 0; r < n_rows; r++) {
        y[r] = 0;
        for (int c = 0; c < n_cols; c++)
            y[r] += (double)w[(size_t)r * (size_t)n_cols + (size_t)c] * x[c];
    }
}

static void norm(const double *x, const float *w, int n, double *y) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (int i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum / n + (double)1e-5f) * (double)w[i];
}

/* Angle per position of pair i of d / 2, and the factor on sine and cosine; the formulas are those of arXiv 2306.15595
 * and 2309.00071. */
static double angle_of(const tiny_options *o, bool local, int i, double *magnitude) {
    double base = o->rope_base > 0 ? (double)o->rope_base : 10000, d = o->head_dim;
    *magnitude = 1;
    if (local)
        return pow(o->local_base > 0 ? (double)o->local_base : 10000, -2.0 * i / d);
    double angle = pow(base, -2.0 * i / d), factor = o->scaling_factor > 0 ? (double)o->scaling_factor : 1;
    if (o->rope_factors)
        angle /= (double)o->rope_factors[i];
    if (o->scaling && !strcmp(o->scaling, "none"))
        return angle;
    if (!o->scaling || strcmp(o->scaling, "yarn"))
        return angle / factor;
    double length = o->scaling_original ? o->scaling_original : o->context;
    double low = floor(d * log(length / (32 * 2 * M_PI)) / (2 * log(base))),
           high = ceil(d * log(length / (2 * M_PI)) / (2 * log(base))),
           ramp = (i - fmax(low, 0)) / (fmin(high, d - 1) - fmax(low, 0));
    ramp = fmin(fmax(ramp, 0), 1);
    *magnitude = 1 + 0.1 * log(factor);
    return angle * (1 - ramp) + angle / factor * ramp;
}

static void rotate(const tiny_options *o, double *x, bool local, int position) {
    bool neox = strcmp(o->arch, "llama") != 0;
    int d = o->head_dim;
    for (int i = 0; i < d / 2; i++) {
        int a = neox ? i : 2 * i, b = neox ? i + d / 2 : 2 * i + 1;
        double magnitude, angle = position * angle_of(o, local, i, &magnitude), xa = x[a], xb = x[b];
        x[a] = (xa * cos(angle) - xb * sin(angle)) * magnitude;
        x[b] = (xa * sin(angle) + xb * cos(angle)) * magnitude;
    }
}

/* The window of a layer, 0: none. */
static int window_of(const tiny_options *o, int il) {
    int period = o->silent_windows ? 6 : o->period;
    if (strcmp(o->arch, "gemma3") || (il + 1) % period == 0)
        return 0;
    return o->silent_windows ? 512 : o->window;
}

static void add_bias(const float *bias, int n, double *x) {
    for (int i = 0; bias && i < n; i++)
        x[i] += (double)bias[i];
}

typedef struct pass {
    const gguf *file;
    const tiny_options *o;
    bool gemma;
    int n;
    double *x; /* [n][n_embd] */
} pass;

static void attention(const pass *p, int il, const double *q, const double *k, const double *v, double *out) {
    const tiny_options *o = p->o;
    int d = o->head_dim, group = o->n_head / o->n_head_kv;
    int window = window_of(o, il);
    double *s = malloc((size_t)p->n * sizeof(*s));
    for (int t = 0; t < p->n; t++)
        for (int h = 0; h < o->n_head; h++) {
            double max = -INFINITY, sum = 0, *to = out + (t * o->n_head + h) * d;
            int from = window && t - window + 1 > 0 ? t - window + 1 : 0;
            for (int i = from; i <= t; i++) {
                s[i] = 0;
                for (int j = 0; j < d; j++)
                    s[i] += q[(t * o->n_head + h) * d + j] * k[(i * o->n_head_kv + h / group) * d + j];
                s[i] /= sqrt(d);
                max = s[i] > max ? s[i] : max;
            }
            for (int i = from; i <= t; i++)
                sum += s[i] = exp(s[i] - max);
            for (int j = 0; j < d; j++)
                to[j] = 0;
            for (int i = from; i <= t; i++)
                for (int j = 0; j < d; j++)
                    to[j] += s[i] / sum * v[(i * o->n_head_kv + h / group) * d + j];
        }
    free(s);
}

static void add_normed(const pass *p, const double *y, const float *w, double *x) {
    double *z = malloc((size_t)p->o->n_embd * sizeof(*z));
    memcpy(z, y, (size_t)p->o->n_embd * sizeof(*z));
    if (w)
        norm(y, w, p->o->n_embd, z);
    for (int i = 0; i < p->o->n_embd; i++)
        x[i] += z[i];
    free(z);
}

static void layer(const pass *p, int il) {
    const tiny_options *o = p->o;
    int e = o->n_embd, d = o->head_dim, nq = o->n_head * d, nk = o->n_head_kv * d, f = o->n_ff;
    static const char *const names[] = {"blk.%d.attn_norm.weight",
                                        "blk.%d.attn_q.weight",
                                        "blk.%d.attn_k.weight",
                                        "blk.%d.attn_v.weight",
                                        "blk.%d.attn_q.bias",
                                        "blk.%d.attn_k.bias",
                                        "blk.%d.attn_v.bias",
                                        "blk.%d.attn_q_norm.weight",
                                        "blk.%d.attn_k_norm.weight",
                                        "blk.%d.attn_output.weight",
                                        "blk.%d.post_attention_norm.weight",
                                        "blk.%d.ffn_norm.weight",
                                        "blk.%d.ffn_gate.weight",
                                        "blk.%d.ffn_up.weight",
                                        "blk.%d.ffn_down.weight",
                                        "blk.%d.post_ffw_norm.weight"};
    enum { AN, WQ, WK, WV, BQ, BK, BV, QN, KN, WO, PAN, FN, WG, WU, WD, PFN, N };
    float *w[N];
    for (int i = 0; i < N; i++)
        w[i] = floats(p->file, names[i], il);
    size_t n = (size_t)p->n;
    double *q = calloc(n * (size_t)nq, sizeof(double)), *k = calloc(n * (size_t)nk, sizeof(double)),
           *v = calloc(n * (size_t)nk, sizeof(double)), *mixed = calloc(n * (size_t)nq, sizeof(double)),
           *y = calloc((size_t)(e + 2 * f), sizeof(double)), *gate = y + e, *up = gate + f;
    bool local = window_of(o, il) > 0;
    for (int t = 0; t < p->n; t++) {
        norm(p->x + t * e, w[AN], e, y);
        product(w[WQ], y, e, nq, q + t * nq);
        product(w[WK], y, e, nk, k + t * nk);
        product(w[WV], y, e, nk, v + t * nk);
        add_bias(w[BQ], nq, q + t * nq);
        add_bias(w[BK], nk, k + t * nk);
        add_bias(w[BV], nk, v + t * nk);
        for (int h = 0; h < o->n_head; h++) {
            if (w[QN])
                norm(q + t * nq + h * d, w[QN], d, q + t * nq + h * d);
            rotate(o, q + t * nq + h * d, local, t);
        }
        for (int h = 0; h < o->n_head_kv; h++) {
            if (w[KN])
                norm(k + t * nk + h * d, w[KN], d, k + t * nk + h * d);
            rotate(o, k + t * nk + h * d, local, t);
        }
    }
    attention(p, il, q, k, v, mixed);
    for (int t = 0; t < p->n; t++) {
        product(w[WO], mixed + t * nq, nq, e, y);
        add_normed(p, y, w[PAN], p->x + t * e);
        norm(p->x + t * e, w[FN], e, y);
        product(w[WG], y, e, f, gate);
        product(w[WU], y, e, f, up);
        for (int i = 0; i < f; i++) {
            double g = gate[i];
            gate[i] =
                p->gemma ? 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) : g / (1 + exp(-g));
            gate[i] *= up[i];
        }
        product(w[WD], gate, f, e, y);
        add_normed(p, y, w[PFN], p->x + t * e);
    }
    for (int i = 0; i < N; i++)
        free(w[i]);
    free(q);
    free(k);
    free(v);
    free(mixed);
    free(y);
}

void reference_logits(const gguf *file, const tiny_options *o, const int32_t *tokens, int n, double *logits,
                      int n_vocab) {
    int e = o->n_embd;
    pass p = {.file = file,
              .o = o,
              .gemma = !strcmp(o->arch, "gemma3"),
              .n = n,
              .x = calloc((size_t)(n * e), sizeof(double))};
    float *embed = floats(file, "token_embd.weight", 0), *head = floats(file, "output.weight", 0);
    float *last = floats(file, "output_norm.weight", 0);
    for (int t = 0; t < n; t++)
        for (int i = 0; i < e; i++)
            p.x[t * e + i] = (double)embed[tokens[t] * e + i] * (p.gemma ? sqrt(e) : 1);
    for (int il = 0; il < o->n_layer; il++)
        layer(&p, il);
    double *y = p.x + (n - 1) * e;
    norm(y, last, e, y);
    product(head ? head : embed, y, e, n_vocab, logits);
    free(embed);
    free(head);
    free(last);
    free(p.x);
}
