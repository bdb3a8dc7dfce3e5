/* tensors.c - every tensor of a model checked against the numbers, and packed for the product kernels unless the model
 * stays mapped.
 *
 * Two passes over one list of slots: the first finds, checks and adds up bytes, the second (threads, by panels) packs
 * into one mapping. The embedding stays in the file's mapping, rows are opened one by one; the output matrix is packed,
 * from the embedding when they are tied. Of a mapped model only vectors take part in the second pass, and a matrix says
 * where its rows are. A tensor that the architecture does not have is refused: it would mean a model
 * that computes something else. */
#include "model/model.h"
#include "base/memory.h"
#include "base/status.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PANELS_PER_TASK = 8, ALIGN_BYTES = 64 };

typedef struct slot {
    const gguf_tensor *tensor;
    pack_matrix *matrix;  /* a matrix, or */
    const float **vector; /* floats */
    size_t offset;        /* in the mapping */
    int first_task;
} slot;

typedef struct plan {
    pleat_model *model;
    slot *slot;
    int n_slots, cap_slots, n_tasks;
    int n_other; /* tensors that were found and need no slot */
    size_t bytes;
    uint8_t *base;
} plan;

static pleat_status add_slot(plan *p, slot s, size_t bytes, pleat_error *error) {
    if (!mem_grow(&p->slot, &p->cap_slots, p->n_slots + 1, sizeof(*p->slot)))
        return err_set(error, PLEAT_EMEMORY, "no memory for a list of tensors");
    s.offset = p->bytes;
    bool too_large = __builtin_add_overflow(p->bytes, bytes, &p->bytes) ||
                     __builtin_add_overflow(p->bytes, (size_t)ALIGN_BYTES - 1, &p->bytes);
    if (too_large)
        return gguf_refuse(p->model->file, NULL, error, "the weights are larger than the address space");
    p->bytes = p->bytes / ALIGN_BYTES * ALIGN_BYTES;
    s.first_task = p->n_tasks;
    if (!s.matrix)
        p->n_tasks++;
    else if (!p->model->mapped)
        p->n_tasks += (pack_panel_count((int)s.tensor->ne[1]) + PANELS_PER_TASK - 1) / PANELS_PER_TASK;
    p->slot[p->n_slots++] = s;
    return PLEAT_OK;
}

static pleat_status bad_shape(const plan *p, const char *name, const gguf_tensor *t, int64_t n_cols, int64_t n_rows,
                              pleat_error *error) {
    return gguf_refuse(p->model->file, name, error,
                       "the tensor %s is %lld x %lld; the model's numbers make it %lld x %lld", name,
                       (long long)t->ne[0], (long long)t->ne[1], (long long)n_cols, (long long)n_rows);
}

static pleat_status find(const plan *p, const char *name, int64_t n_cols, int64_t n_rows, const gguf_tensor **tensor,
                         pleat_error *error) {
    const gguf_tensor *t = gguf_tensor_find(p->model->file, name);
    if (!t)
        return gguf_refuse(p->model->file, NULL, error, "the tensor %s is missing", name);
    if (t->ne[0] != n_cols || t->ne[1] != n_rows || t->ne[2] != 1 || t->ne[3] != 1)
        return bad_shape(p, name, t, n_cols, n_rows, error);
    *tensor = t;
    return PLEAT_OK;
}

static pleat_status add_matrix(plan *p, const char *name, int n_cols, int n_rows, pack_matrix *matrix,
                               pleat_error *error) {
    const gguf_tensor *t = NULL;
    pleat_status status = find(p, name, n_cols, n_rows, &t, error);
    if (status)
        return status;
    pack_type type = pack_type_of(t->type);
    size_t bytes = pack_bytes(type, n_rows, n_cols);
    if (!bytes)
        return gguf_refuse(p->model->file, name, error,
                           "the tensor %s of type %s needs rows of a multiple of 32 elements, not %d", name,
                           block_traits_of(t->type)->name, n_cols);
    *matrix = (pack_matrix){
        .type = type, .n_rows = n_rows, .n_cols = n_cols, .panel_bytes = pack_bytes(type, PACK_ROWS, n_cols)};
    if (p->model->mapped) {
        matrix->rows = t->data;
        matrix->row_type = t->type;
        p->model->mapped_bytes += t->bytes;
        bytes = 0;
    }
    return add_slot(p, (slot){.tensor = t, .matrix = matrix}, bytes, error);
}

static pleat_status add_vector(plan *p, const char *name, int n, const float **vector, pleat_error *error) {
    const gguf_tensor *t = NULL;
    pleat_status status = find(p, name, n, 1, &t, error);
    if (status)
        return status;
    if (t->type != BLOCK_F32 && t->type != BLOCK_F16 && t->type != BLOCK_BF16)
        return gguf_refuse(p->model->file, name, error, "the tensor %s is of type %s; F32, F16 or BF16 is expected",
                           name, block_traits_of(t->type)->name);
    return add_slot(p, (slot){.tensor = t, .vector = vector}, (size_t)n * sizeof(float), error);
}

typedef struct layer_tensor {
    const char *name;
    int n_cols, n_rows; /* n_rows 0: a vector */
    bool optional;
    void *to;
} layer_tensor;

static pleat_status add_layer(plan *p, int il, pleat_error *error) {
    const pleat_model *m = p->model;
    model_layer *l = &m->layer[il];
    bool gemma = m->arch == MODEL_GEMMA3, bias = m->arch == MODEL_QWEN2;
    int e = m->n_embd, d = m->head_dim, q = m->n_head * d, kv = m->n_head_kv * d, f = m->n_ff;
    const layer_tensor list[] = {
        {"attn_norm.weight", e, 0, false, &l->attn_norm},
        {"ffn_norm.weight", e, 0, false, &l->ffn_norm},
        {"attn_q.weight", e, q, false, &l->wq},
        {"attn_k.weight", e, kv, false, &l->wk},
        {"attn_v.weight", e, kv, false, &l->wv},
        {"attn_output.weight", q, e, false, &l->wo},
        {"ffn_gate.weight", e, f, false, &l->gate},
        {"ffn_up.weight", e, f, false, &l->up},
        {"ffn_down.weight", f, e, false, &l->down},
        {gemma ? NULL : "attn_q.bias", q, 0, !bias, &l->q_bias},
        {gemma ? NULL : "attn_k.bias", kv, 0, !bias, &l->k_bias},
        {gemma ? NULL : "attn_v.bias", kv, 0, !bias, &l->v_bias},
        {gemma ? "attn_q_norm.weight" : NULL, d, 0, false, &l->q_norm},
        {gemma ? "attn_k_norm.weight" : NULL, d, 0, false, &l->k_norm},
        {gemma ? "post_attention_norm.weight" : NULL, e, 0, false, &l->attn_post_norm},
        {gemma ? "post_ffw_norm.weight" : NULL, e, 0, false, &l->ffn_post_norm},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        if (!list[i].name)
            continue;
        char name[64];
        snprintf(name, sizeof(name), "blk.%d.%s", il, list[i].name);
        if (list[i].optional && !gguf_tensor_find(m->file, name))
            continue;
        pleat_status status = list[i].n_rows ? add_matrix(p, name, list[i].n_cols, list[i].n_rows, list[i].to, error)
                                             : add_vector(p, name, list[i].n_cols, list[i].to, error);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

static pleat_status add_embedding(plan *p, pleat_error *error) {
    pleat_model *m = p->model;
    const gguf_tensor *t = NULL;
    pleat_status status = find(p, "token_embd.weight", m->n_embd, m->n_vocab, &t, error);
    if (status)
        return status;
    if (m->n_embd % block_traits_of(t->type)->elements)
        return gguf_refuse(m->file, "token_embd.weight", error,
                           "rows of %d elements are no whole blocks of %s (token_embd.weight)", m->n_embd,
                           block_traits_of(t->type)->name);
    m->embed = t;
    bool tied = !gguf_tensor_find(m->file, "output.weight");
    p->n_other = !tied + (gguf_tensor_find(m->file, "rope_freqs.weight") != NULL);
    m->mapped_bytes = tied && m->mapped ? 0 : t->bytes; /* 0: it is counted as the output matrix */
    return add_matrix(p, tied ? "token_embd.weight" : "output.weight", m->n_embd, m->n_vocab, &m->head, error);
}

/* Every tensor of the file was asked for; else names the first that was not. */
static pleat_status check_all_used(const plan *p, pleat_error *error) {
    int n = gguf_n_tensors(p->model->file);
    if (n == p->n_slots + p->n_other)
        return PLEAT_OK;
    for (int i = 0; i < n; i++) {
        const gguf_tensor *t = gguf_tensor_at(p->model->file, i);
        bool used = t == p->model->embed || (t->name.n == 17 && !memcmp(t->name.bytes, "rope_freqs.weight", 17));
        for (int s = 0; s < p->n_slots && !used; s++)
            used = p->slot[s].tensor == t;
        char name[80];
        snprintf(name, sizeof(name), "%.*s", (int)(t->name.n < 79 ? t->name.n : 79), t->name.bytes);
        if (!used)
            return gguf_refuse(p->model->file, name, error, "the tensor %s is not one that a %s model of %d layers has",
                               name, p->model->arch_name, p->model->n_layer);
    }
    return PLEAT_OK;
}

static void pack_task(void *context, int task, int worker) {
    (void)worker;
    const plan *p = context;
    int low = 0, high = p->n_slots - 1; /* the last slot whose first task is not after this one */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (p->slot[middle].first_task <= task)
            low = middle;
        else
            high = middle - 1;
    }
    const slot *s = &p->slot[low];
    if (s->vector) {
        block_open(s->tensor->type, s->tensor->data, s->tensor->ne[0], (float *)(p->base + s->offset));
        return;
    }
    int first = (task - s->first_task) * PANELS_PER_TASK, n_panels = pack_panel_count(s->matrix->n_rows);
    int n = n_panels - first < PANELS_PER_TASK ? n_panels - first : PANELS_PER_TASK;
    pack_panels(s->tensor->type, s->tensor->data, s->matrix->n_rows, s->matrix->n_cols, first, n, p->base + s->offset);
}

static pleat_status list_tensors(plan *p, pleat_error *error) {
    pleat_status status = add_embedding(p, error);
    status = status ? status : add_vector(p, "output_norm.weight", p->model->n_embd, &p->model->out_norm, error);
    for (int il = 0; !status && il < p->model->n_layer; il++)
        status = add_layer(p, il, error);
    return status ? status : check_all_used(p, error);
}

void tensors_open_wo(const void *owner, int il, int h, float *wo) {
    enum { MOST_BLOCK = 256 };
    const pleat_model *m = owner;
    char name[64];
    snprintf(name, sizeof(name), "blk.%d.attn_output.weight", il);
    const gguf_tensor *t = gguf_tensor_find(m->file, name);
    const block_traits *traits = block_traits_of(t->type);
    int d = m->head_dim, block = traits->elements, first = h * d / block, last = (h * d + d - 1) / block;
    size_t row_bytes = t->bytes / (size_t)m->n_embd;
    for (int e = 0; e < m->n_embd; e++) {
        float x[KV_MAX_HEAD_DIM + 2 * MOST_BLOCK];
        block_open(t->type, t->data + (size_t)e * row_bytes + (size_t)(first * traits->bytes),
                   (int64_t)(last - first + 1) * block, x);
        memcpy(wo + (size_t)e * (size_t)d, x + h * d - first * block, (size_t)d * sizeof(*wo));
    }
}

pleat_status tensors_pack(pleat_model *model, threads *pool, pleat_error *error) {
    plan p = {.model = model};
    pleat_status status = list_tensors(&p, error);
    if (!status) {
        model->packed = p.base = mem_map(p.bytes);
        model->packed_bytes = p.bytes;
        if (!p.base)
            status = err_set(error, PLEAT_EMEMORY, "no memory for %zu bytes of packed weights of %s", p.bytes,
                             gguf_path(model->file));
    }
    if (!status) {
        threads_run(pool, p.n_tasks, pack_task, &p);
        for (int i = 0; i < p.n_slots; i++) {
            if (p.slot[i].vector)
                *p.slot[i].vector = (const float *)(p.base + p.slot[i].offset);
            else if (!model->mapped)
                p.slot[i].matrix->data = p.base + p.slot[i].offset;
        }
        model->kv.has_key_bias = model->layer[0].k_bias != NULL;
        model->kv.has_qk_norm = model->layer[0].k_norm != NULL;
    }
    free(p.slot);
    return status;
}
