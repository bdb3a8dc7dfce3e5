/* forward.c - rows of a batch through the layers (llama, qwen2, gemma3).
 *
 * Rows of all items lie one after another. A layer is a short list of stages; each stage is a set of tasks that any
 * thread may take, and every output element is made by one task in one fixed order, so neither the number of threads
 * nor the other rows of the batch can change a bit. A stage over rows (norms, rotations) goes through rows_run, a
 * product through matmul_run, which shares one matrix among all rows: panels of 16 outputs x blocks of rows.
 *
 *   x > norm > int8 > q k v (+ bias) > norm, rope > append > attend > int8 > wo (> norm) > + x
 *     > norm > int8 > act(gate) * up > int8 > down (> norm) > + x
 *
 * Cost of a decode row: one pass over the packed weights and one over the cache it reads; the rest is a few percent. Of
 * a mapped model each product packs a few panels at a time into its worker's scratch, for all rows of the step. */
#include "model/forward.h"
#include "base/memory.h"
#include "base/status.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS_PER_TASK = 8,      /* of a stage over rows */
    INLINE_ROWS = 4,        /* so many rows or fewer are not worth waking threads */
    MATMUL_ROWS = 128,      /* rows of one product task: their int8 form stays in L2 */
    TASKS_PER_WORKER = 6,   /* products are cut at least so fine */
    MOST_PANELS = 16,       /* of one product task */
    LOGIT_ROWS = 32,        /* rows of one pass over the output matrix */
    PANELS_BYTES = 1 << 18, /* of panels packed at a time for many rows, which stay in L2 where two are no more */
    FEW_PANELS = 2,         /* packed at a time for a few rows; kernels take pairs */
};

struct forward {
    const pleat_model *model;
    const cpu_kernels *kernels;
    threads *pool;
    kv_attend *attend;
    kv_scratch **scratch; /* [threads] */
    kv_attend_item *attend_item;
    int max_rows, max_items;
    bool wants_angles[2]; /* there are global, local layers */
    /* activations [max_rows][...] */
    float *x;          /* [n_embd] the residual stream */
    float *norm;       /* [n_embd] also the outputs of wo and down */
    float *q, *mixed;  /* [n_head * d] */
    float *k, *v;      /* [n_head_kv * d] */
    float *gate, *up;  /* [n_ff] */
    float *cos_sin[2]; /* [n_rot] per row, global and local layers */
    int8_t *code;      /* [widest] int8 form of the stage's input */
    float *scale;      /* [widest / 32] */
    int16_t *sum16;    /* [widest / 16] */
    float *logits;     /* [LOGIT_ROWS][n_vocab] */
    uint8_t *panels;   /* of a mapped model: [threads][panels_bytes] */
    size_t panels_bytes;
    int32_t *position, *item_of; /* [max_rows] of a row */
    /* this step */
    const forward_item *items;
    int n_items, n_rows, il;
};

static bool is_local(const pleat_model *m, int il) {
    return m->shape[il].window_tokens > 0;
}

/* ---- memory ---- */

static size_t widest(const pleat_model *m) {
    size_t n = (size_t)m->n_embd, q = (size_t)m->n_head * (size_t)m->head_dim, f = (size_t)m->n_ff;
    n = q > n ? q : n;
    return ((f > n ? f : n) + 31) / 32 * 32;
}

void forward_close(forward *f) {
    if (!f)
        return;
    kv_attend_close(f->attend);
    for (int i = 0; f->scratch && i < threads_count(f->pool); i++)
        kv_scratch_close(f->scratch[i]);
    free(f->scratch);
    free(f->attend_item);
    void *parts[] = {f->x,          f->norm,       f->q,    f->mixed, f->k,     f->v,        f->gate,    f->up,
                     f->cos_sin[0], f->cos_sin[1], f->code, f->scale, f->sum16, f->position, f->item_of, f->panels};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        mem_free(parts[i]);
    if (f->logits)
        mem_unmap(f->logits, LOGIT_ROWS * (size_t)f->model->n_vocab * sizeof(float));
    free(f);
}

static bool alloc_rows(forward *f) {
    const pleat_model *m = f->model;
    size_t n = (size_t)f->max_rows, wide = widest(m), d = (size_t)m->head_dim;
    const struct {
        void *to;
        size_t count, bytes;
    } list[] = {
        {&f->x, (size_t)m->n_embd, sizeof(float)},
        {&f->norm, (size_t)m->n_embd, sizeof(float)},
        {&f->q, (size_t)m->n_head * d, sizeof(float)},
        {&f->mixed, (size_t)m->n_head * d, sizeof(float)},
        {&f->k, (size_t)m->n_head_kv * d, sizeof(float)},
        {&f->v, (size_t)m->n_head_kv * d, sizeof(float)},
        {&f->gate, (size_t)m->n_ff, sizeof(float)},
        {&f->up, (size_t)m->n_ff, sizeof(float)},
        {&f->cos_sin[0], (size_t)m->kv.n_rot, sizeof(float)},
        {&f->cos_sin[1], (size_t)m->kv.n_rot, sizeof(float)},
        {&f->code, wide, sizeof(int8_t)},
        {&f->scale, wide / 32, sizeof(float)},
        {&f->sum16, wide / 16, sizeof(int16_t)},
        {&f->position, 1, sizeof(int32_t)},
        {&f->item_of, 1, sizeof(int32_t)},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        void *p = mem_alloc(n * list[i].count, list[i].bytes);
        memcpy(list[i].to, &p, sizeof(p));
        if (!p)
            return false;
    }
    f->logits = mem_map(LOGIT_ROWS * (size_t)m->n_vocab * sizeof(float));
    f->attend_item = calloc((size_t)f->max_items, sizeof(*f->attend_item));
    f->scratch = calloc((size_t)threads_count(f->pool), sizeof(*f->scratch));
    return f->logits && f->attend_item && f->scratch;
}

static size_t larger(size_t a, const pack_matrix *w) {
    return w->panel_bytes > a ? w->panel_bytes : a;
}

size_t forward_panels_bytes(const pleat_model *m) {
    size_t most = larger(0, &m->head);
    for (int il = 0; il < m->n_layer; il++) {
        const model_layer *l = &m->layer[il];
        const pack_matrix *list[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
        for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
            most = larger(most, list[i]);
    }
    most = FEW_PANELS * most > PANELS_BYTES ? FEW_PANELS * most : PANELS_BYTES;
    return m->mapped ? most : 0;
}

static bool alloc_panels(forward *f) {
    f->panels_bytes = forward_panels_bytes(f->model);
    f->panels = f->panels_bytes ? mem_alloc((size_t)threads_count(f->pool), f->panels_bytes) : NULL;
    return f->panels || !f->panels_bytes;
}

pleat_status forward_open(const pleat_model *model, int max_rows, int max_items, threads *pool,
                          const cpu_kernels *kernels, forward **out, pleat_error *error) {
    forward *f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(error, PLEAT_EMEMORY, "no memory for the forward pass");
    f->model = model;
    f->kernels = kernels;
    f->pool = pool;
    f->max_rows = max_rows;
    f->max_items = max_items;
    for (int il = 0; il < model->n_layer; il++)
        f->wants_angles[is_local(model, il)] = true;
    pleat_status status = PLEAT_OK;
    if (!alloc_rows(f) || !alloc_panels(f))
        status = err_set(error, PLEAT_EMEMORY, "no memory for steps of %d tokens", max_rows);
    for (int i = 0; !status && i < threads_count(pool); i++)
        status = kv_scratch_open(&model->kv, &f->scratch[i], error);
    status = status ? status : kv_attend_open(&model->kv, max_items, max_rows, threads_count(pool), &f->attend, error);
    if (status) {
        forward_close(f);
        return status;
    }
    *out = f;
    return PLEAT_OK;
}

kv_scratch *forward_scratch(forward *f, int worker) {
    return f->scratch[worker];
}

/* ---- stages over rows ---- */

typedef void (*row_stage)(forward *f, int row);

typedef struct rows_job {
    forward *f;
    row_stage stage;
    int n_rows;
} rows_job;

static void rows_task(void *context, int task, int worker) {
    (void)worker;
    const rows_job *job = context;
    int to = (task + 1) * ROWS_PER_TASK;
    for (int row = task * ROWS_PER_TASK; row < to && row < job->n_rows; row++)
        job->stage(job->f, row);
}

static void rows_run(forward *f, int n_rows, row_stage stage) {
    rows_job job = {.f = f, .stage = stage, .n_rows = n_rows};
    if (n_rows > INLINE_ROWS) {
        threads_run(f->pool, (n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, rows_task, &job);
        return;
    }
    for (int row = 0; row < n_rows; row++)
        stage(f, row);
}

static float *at(float *base, int row, int n) {
    return base + (size_t)row * (size_t)n;
}

/* ---- products ---- */

static void quantise(forward *f, const float *x, int n, int row) {
    if (n % PACK_BLOCK)
        return; /* only float matrices have such rows */
    size_t from = (size_t)row * (size_t)n;
    f->kernels->act_quantize(x + from, n, f->code + from, f->scale + from / 32, f->sum16 + from / 16);
}

static act_rows acts(const forward *f, const float *x, int n, int first) {
    size_t from = (size_t)first * (size_t)n;
    return (act_rows){.n_cols = n,
                      .x = x + from,
                      .code = f->code + from,
                      .scale = f->scale + from / 32,
                      .sum16 = f->sum16 + from / 16};
}

typedef struct product {
    const pack_matrix *w;
    float *out; /* [rows][w->n_rows] */
} product;

/* Up to three products of the same rows, cut into tasks of `panels` panels x MATMUL_ROWS rows; of a mapped model x all
 * rows, so that a panel is packed once. gated: two products whose results become act(first) * second in the first. */
typedef struct matmul_job {
    const forward *f;
    const float *x;
    product p[3];
    int n_products, n_rows, panels, n_blocks;
    bool gated;
} matmul_job;

static void packed_part(const matmul_job *job, const product *p, int panel, int n_panels, int first, int n) {
    act_rows rows = acts(job->f, job->x, p->w->n_cols, first);
    job->f->kernels->matmul[p->w->type](p->w, panel, n_panels, &rows, n, p->out + (size_t)first * (size_t)p->w->n_rows,
                                        (size_t)p->w->n_rows);
}

static void mapped_part(const matmul_job *job, const product *p, int panel, int n_panels, int worker) {
    const forward *f = job->f;
    size_t room = f->panels_bytes / p->w->panel_bytes;
    int step = job->n_rows > MATMUL_ROWS && room > FEW_PANELS ? (int)room / FEW_PANELS * FEW_PANELS : FEW_PANELS;
    for (int from = panel; from < panel + n_panels; from += step) {
        int n = panel + n_panels - from < step ? panel + n_panels - from : step;
        pack_matrix part = pack_part(p->w, from, n, f->panels + (size_t)worker * f->panels_bytes);
        for (int first = 0; first < job->n_rows; first += MATMUL_ROWS) {
            act_rows rows = acts(f, job->x, part.n_cols, first);
            int some = job->n_rows - first < MATMUL_ROWS ? job->n_rows - first : MATMUL_ROWS;
            f->kernels->matmul[part.type](&part, 0, n, &rows, some, at(p->out, first, p->w->n_rows) + from * PACK_ROWS,
                                          (size_t)p->w->n_rows);
        }
    }
}

static void gate_part(const matmul_job *job, int panel, int n_panels, int first, int n) {
    const cpu_kernels *kernels = job->f->kernels;
    int n_ff = job->p[0].w->n_rows, from = panel * PACK_ROWS, to = (panel + n_panels) * PACK_ROWS;
    to = to < n_ff ? to : n_ff;
    for (int row = first; row < first + n; row++) {
        float *gate = at(job->p[0].out, row, n_ff) + from, *up = at(job->p[1].out, row, n_ff) + from;
        if (job->f->model->arch == MODEL_GEMMA3)
            kernels->gelu_mul(gate, up, to - from);
        else
            kernels->silu_mul(gate, up, to - from);
    }
}

static int chunk_count(const matmul_job *job, int i) {
    return (pack_panel_count(job->p[i].w->n_rows) + job->panels - 1) / job->panels;
}

/* Chunks count on through all products, so that no task straddles two matrices. */
static void matmul_task(void *context, int task, int worker) {
    const matmul_job *job = context;
    int first = task % job->n_blocks * MATMUL_ROWS, n = job->n_rows - first, chunk = task / job->n_blocks, i = 0;
    n = n < MATMUL_ROWS || job->f->model->mapped ? n : MATMUL_ROWS;
    for (; !job->gated && chunk >= chunk_count(job, i); i++)
        chunk -= chunk_count(job, i);
    int panel = chunk * job->panels, n_panels = pack_panel_count(job->p[i].w->n_rows) - panel;
    n_panels = n_panels < job->panels ? n_panels : job->panels;
    for (int end = job->gated ? 2 : i + 1; i < end; i++)
        if (job->f->model->mapped)
            mapped_part(job, &job->p[i], panel, n_panels, worker);
        else
            packed_part(job, &job->p[i], panel, n_panels, first, n);
    if (job->gated)
        gate_part(job, panel, n_panels, first, n);
}

static void matmul_run(forward *f, const float *x, const product *p, int n_products, bool gated, int n_rows) {
    matmul_job job = {.f = f, .x = x, .n_products = n_products, .n_rows = n_rows, .gated = gated};
    memcpy(job.p, p, (size_t)n_products * sizeof(*p));
    job.n_blocks = f->model->mapped ? 1 : (n_rows + MATMUL_ROWS - 1) / MATMUL_ROWS;
    int n_panels = 0, n_chunks = 0, n_parts = gated ? 1 : n_products;
    for (int i = 0; i < n_parts; i++)
        n_panels += pack_panel_count(p[i].w->n_rows);
    job.panels = n_panels * job.n_blocks / (TASKS_PER_WORKER * threads_count(f->pool));
    job.panels = job.panels < 1 ? 1 : job.panels > MOST_PANELS ? MOST_PANELS : job.panels;
    for (int i = 0; i < n_parts; i++)
        n_chunks += chunk_count(&job, i);
    threads_run(f->pool, n_chunks * job.n_blocks, matmul_task, &job);
}

/* ---- one layer ---- */

static void embed_row(forward *f, int row) {
    const pleat_model *m = f->model;
    const forward_item *item = &f->items[f->item_of[row]];
    int32_t token = item->tokens[f->position[row] - kv_cache_tokens(item->cache)];
    float *x = at(f->x, row, m->n_embd);
    size_t row_bytes = m->embed->bytes / (size_t)m->n_vocab;
    block_open(m->embed->type, m->embed->data + (size_t)token * row_bytes, m->n_embd, x);
    if (m->embed_scale != 1)
        f->kernels->scale(x, m->n_embd, m->embed_scale);
}

static void angles_row(forward *f, int row) {
    const pleat_model *m = f->model;
    for (int kind = 0; kind < 2; kind++) {
        float *to = at(f->cos_sin[kind], row, m->kv.n_rot);
        for (int i = 0; f->wants_angles[kind] && i < m->kv.n_rot / 2; i++) {
            double angle = (double)f->position[row] * (double)m->rope_inv[kind][i];
            to[2 * i] = (float)cos(angle) * m->rope_magnitude[kind];
            to[2 * i + 1] = (float)sin(angle) * m->rope_magnitude[kind];
        }
    }
}

static void norm_into_codes(forward *f, int row, const float *w) {
    int n = f->model->n_embd;
    f->kernels->rms_norm(at(f->x, row, n), w, n, f->model->norm_eps, at(f->norm, row, n));
    quantise(f, f->norm, n, row);
}

static void attn_norm_row(forward *f, int row) {
    norm_into_codes(f, row, f->model->layer[f->il].attn_norm);
}

static void ffn_norm_row(forward *f, int row) {
    norm_into_codes(f, row, f->model->layer[f->il].ffn_norm);
}

/* Bias, norm and rotation of all heads of q and k of a row, and v's bias. */
static void rotate_row(forward *f, int row) {
    const pleat_model *m = f->model;
    const model_layer *l = &m->layer[f->il];
    const float *cos_sin = at(f->cos_sin[is_local(m, f->il)], row, m->kv.n_rot);
    int d = m->head_dim;
    float *q = at(f->q, row, m->n_head * d), *k = at(f->k, row, m->n_head_kv * d), *v = at(f->v, row, m->n_head_kv * d);
    if (l->q_bias)
        f->kernels->add(q, l->q_bias, m->n_head * d);
    if (l->k_bias)
        f->kernels->add(k, l->k_bias, m->n_head_kv * d);
    if (l->v_bias)
        f->kernels->add(v, l->v_bias, m->n_head_kv * d);
    for (int ih = 0; ih < m->n_head + m->n_head_kv; ih++) {
        float *head = ih < m->n_head ? q + ih * d : k + (ih - m->n_head) * d;
        const float *norm = ih < m->n_head ? l->q_norm : l->k_norm;
        if (norm)
            f->kernels->rms_norm(head, norm, d, m->norm_eps, head);
        f->kernels->rope(head, m->kv.n_rot, m->kv.rope_neox, cos_sin);
    }
}

static void mixed_row(forward *f, int row) {
    quantise(f, f->mixed, f->model->n_head * f->model->head_dim, row);
}

static void gated_row(forward *f, int row) {
    quantise(f, f->gate, f->model->n_ff, row);
}

static void add_to_stream(forward *f, int row, const float *post_norm) {
    int n = f->model->n_embd;
    float *y = at(f->norm, row, n);
    if (post_norm)
        f->kernels->rms_norm(y, post_norm, n, f->model->norm_eps, y);
    f->kernels->add(at(f->x, row, n), y, n);
}

static void attn_add_row(forward *f, int row) {
    add_to_stream(f, row, f->model->layer[f->il].attn_post_norm);
    ffn_norm_row(f, row);
}

static void ffn_add_row(forward *f, int row) {
    add_to_stream(f, row, f->model->layer[f->il].ffn_post_norm);
    if (f->il + 1 == f->model->n_layer)
        return;
    norm_into_codes(f, row, f->model->layer[f->il + 1].attn_norm);
}

static int first_row(const forward *f, int item) {
    int row = 0;
    for (int i = 0; i < item; i++)
        row += f->items[i].n_tokens;
    return row;
}

/* One lane takes the new rows of its head. */
static void append_task(void *context, int task, int worker) {
    (void)worker;
    forward *f = context;
    const pleat_model *m = f->model;
    int item = task / m->n_head_kv, ih = task % m->n_head_kv, row = first_row(f, item),
        width = m->n_head_kv * m->head_dim;
    kv_cache_append(f->items[item].cache, f->il, ih, at(f->k, row, width) + ih * m->head_dim,
                    at(f->v, row, width) + ih * m->head_dim, (size_t)width, f->kernels);
    int group = m->n_head / m->n_head_kv, q_width = m->n_head * m->head_dim;
    kv_cache_note_queries(f->items[item].cache, f->il, ih, at(f->q, row, q_width) + ih * group * m->head_dim,
                          (size_t)q_width, at(f->cos_sin[is_local(m, f->il)], row, m->kv.n_rot), f->kernels);
}

static void pick_task(void *context, int task, int worker) {
    forward *f = context;
    kv_attend_pick(f->attend, task, f->scratch[worker], f->kernels);
}

static void attend_task(void *context, int task, int worker) {
    forward *f = context;
    kv_attend_task(f->attend, task, worker, f->scratch[worker], f->kernels);
}

static void attention_run(forward *f) {
    int n_tasks = f->n_items * f->model->n_head_kv;
    if (f->n_rows > INLINE_ROWS)
        threads_run(f->pool, n_tasks, append_task, f);
    else
        for (int task = 0; task < n_tasks; task++)
            append_task(f, task, 0);
    kv_attend_layer(f->attend, f->attend_item, f->n_items, f->il);
    threads_run(f->pool, kv_attend_picks(f->attend), pick_task, f);
    threads_run(f->pool, kv_attend_tasks(f->attend), attend_task, f);
}

/* The first attention norm of a layer is done by the layer before it (ffn_add_row). */
static void layer_run(forward *f, int il) {
    const model_layer *l = &f->model->layer[il];
    f->il = il;
    if (il == 0)
        rows_run(f, f->n_rows, attn_norm_row);
    matmul_run(f, f->norm, (product[]){{&l->wq, f->q}, {&l->wk, f->k}, {&l->wv, f->v}}, 3, false, f->n_rows);
    rows_run(f, f->n_rows, rotate_row);
    attention_run(f);
    rows_run(f, f->n_rows, mixed_row);
    matmul_run(f, f->mixed, (product[]){{&l->wo, f->norm}}, 1, false, f->n_rows);
    rows_run(f, f->n_rows, attn_add_row);
    matmul_run(f, f->norm, (product[]){{&l->gate, f->gate}, {&l->up, f->up}}, 2, true, f->n_rows);
    rows_run(f, f->n_rows, gated_row);
    matmul_run(f, f->gate, (product[]){{&l->down, f->norm}}, 1, false, f->n_rows);
    rows_run(f, f->n_rows, ffn_add_row);
}

/* ---- a step ---- */

static void place_items(forward *f, const forward_item *items, int n_items) {
    const pleat_model *m = f->model;
    int width = m->n_head * m->head_dim;
    f->items = items;
    f->n_items = n_items;
    f->n_rows = 0;
    for (int i = 0; i < n_items; i++) {
        f->attend_item[i] = (kv_attend_item){.cache = items[i].cache,
                                             .q = at(f->q, f->n_rows, width),
                                             .out = at(f->mixed, f->n_rows, width),
                                             .n_tokens = items[i].n_tokens,
                                             .q_stride = (size_t)width,
                                             .out_stride = (size_t)width};
        for (int t = 0; t < items[i].n_tokens; t++, f->n_rows++) {
            f->item_of[f->n_rows] = i;
            f->position[f->n_rows] = kv_cache_tokens(items[i].cache) + t;
        }
    }
}

pleat_status forward_plan(forward *f, const forward_item *items, int n_items, pleat_error *error) {
    place_items(f, items, n_items);
    for (int i = 0; i < n_items; i++)
        for (int w = 0; w < threads_count(f->pool); w++)
            if (!kv_scratch_grow(f->scratch[w], items[i].cache, items[i].n_tokens))
                return err_set(error, PLEAT_EMEMORY, "no memory for the work of %s",
                               kv_cache_method(items[i].cache)->policy->name);
    return kv_attend_plan(f->attend, f->attend_item, n_items, error);
}

static void finish_task(void *context, int task, int worker) {
    forward *f = context;
    int il = task / f->n_items;
    kv_cache_finish_layer(f->items[task % f->n_items].cache, il, f->scratch[worker], f->kernels);
}

/* Final norm and output matrix for the wanted rows, a block of rows at a time. */
static void logits_run(forward *f, const int *row, float *const *logits, int n_logits) {
    const pleat_model *m = f->model;
    size_t row_bytes = (size_t)m->n_vocab * sizeof(float);
    for (int from = 0; from < n_logits; from += LOGIT_ROWS) {
        int n = n_logits - from < LOGIT_ROWS ? n_logits - from : LOGIT_ROWS;
        for (int i = 0; i < n; i++) {
            f->kernels->rms_norm(at(f->x, row[from + i], m->n_embd), m->out_norm, m->n_embd, m->norm_eps,
                                 at(f->norm, i, m->n_embd));
            quantise(f, f->norm, m->n_embd, i);
        }
        matmul_run(f, f->norm, (product[]){{&m->head, f->logits}}, 1, false, n);
        for (int i = 0; i < n; i++)
            memcpy(logits[from + i], at(f->logits, i, m->n_vocab), row_bytes);
    }
}

void forward_run(forward *f, const forward_item *items, int n_items) {
    place_items(f, items, n_items);
    assert(f->n_rows <= f->max_rows && n_items <= f->max_items);
    rows_run(f, f->n_rows, embed_row);
    rows_run(f, f->n_rows, angles_row);
    for (int il = 0; il < f->model->n_layer; il++)
        layer_run(f, il);
}

void forward_finish(forward *f, const int *row, float *const *logits, int n_logits) {
    threads_run(f->pool, f->model->n_layer * f->n_items, finish_task, f);
    logits_run(f, row, logits, n_logits);
}
