/* model.c - opening and closing a model, and what the public face says of one. */
#include "model/model.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdlib.h>

/* Of the file's metadata, tensor table and a sample of its weights: enough to tell any two real models apart. */
static uint64_t fingerprint(const pleat_model *model) {
    enum { N_SAMPLES = 64, SAMPLE_BYTES = 4096 };
    const gguf_tensor *first = gguf_tensor_at(model->file, 0);
    const uint8_t *start = first->data - first->file_offset;
    size_t n = gguf_file_bytes(model->file), n_head = first->file_offset;
    uint64_t hash = hash_bytes(start, n_head, n);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        size_t at = n_head + (n - n_head) / N_SAMPLES * i, left = n - at;
        hash = hash_bytes(start + at, left < SAMPLE_BYTES ? left : SAMPLE_BYTES, hash);
    }
    return hash;
}

static pleat_status open_parts(pleat_model *model, const char *path, int n_threads, pleat_error *error) {
    threads *pool = NULL;
    pleat_status status = gguf_open(path, &model->file, error);
    status = status ? status : hparams_read(model, error);
    status = status ? status : rope_read(model, error);
    status = status ? status : tokenizer_open(model->file, &model->tok, error);
    if (status)
        return status;
    model->n_vocab = tokenizer_n_vocab(model->tok);
    status = threads_open(n_threads, &pool, error);
    if (status)
        return status;
    status = tensors_pack(model, pool, error);
    if (!status)
        model->kv.fingerprint = fingerprint(model);
    gguf_let_go(model->file); /* what is read from now on, rows of the embedding or all weights, comes back */
    threads_close(pool);
    return status;
}

static pleat_status open_model(const char *path, int n_threads, bool mapped, pleat_model **out, pleat_error *error) {
    pleat_model *model = calloc(1, sizeof(*model));
    if (!model)
        return err_set(error, PLEAT_EMEMORY, "no memory for a model");
    model->mapped = mapped;
    pleat_status status = open_parts(model, path, n_threads, error);
    if (status) {
        pleat_model_close(model);
        return status;
    }
    *out = model;
    return PLEAT_OK;
}

pleat_status pleat_model_open(const char *path, int n_threads, pleat_model **out, pleat_error *error) {
    return open_model(path, n_threads, false, out, error);
}

pleat_status pleat_model_open_mapped(const char *path, pleat_model **out, pleat_error *error) {
    return open_model(path, 1, true, out, error);
}

void pleat_model_close(pleat_model *model) {
    if (!model)
        return;
    if (model->packed)
        mem_unmap(model->packed, model->packed_bytes);
    mem_free(model->rope_inv[0]);
    mem_free(model->rope_inv[1]);
    free(model->layer);
    free(model->shape);
    if (model->tok)
        tokenizer_close(model->tok);
    if (model->file)
        gguf_close(model->file);
    free(model);
}

pleat_model_info pleat_model_describe(const pleat_model *model) {
    size_t lane_bytes = 2 * sizeof(uint16_t) * (size_t)model->head_dim;
    return (pleat_model_info){.path = gguf_path(model->file),
                              .architecture = model->arch_name,
                              .name = model->name,
                              .n_layer = model->n_layer,
                              .n_head = model->n_head,
                              .n_head_kv = model->n_head_kv,
                              .head_dim = model->head_dim,
                              .n_embd = model->n_embd,
                              .n_vocab = model->n_vocab,
                              .context_tokens = model->context_tokens,
                              .file_bytes = gguf_file_bytes(model->file),
                              .packed_bytes = model->packed_bytes,
                              .mapped_bytes = model->mapped_bytes,
                              .f16_token_bytes = lane_bytes * (size_t)model->n_layer * (size_t)model->n_head_kv};
}

pleat_status pleat_tokenize(const pleat_model *model, const char *text, size_t text_bytes, bool special, int32_t **ids,
                            int *n_ids, pleat_error *error) {
    return tokenizer_encode(model->tok, text, text_bytes, special ? TOKENIZER_SPECIAL : TOKENIZER_PLAIN, ids, n_ids,
                            error);
}

const char *pleat_token_bytes(const pleat_model *model, int32_t id, bool special, size_t *n_bytes) {
    return tokenizer_bytes(model->tok, id, special, n_bytes);
}

bool pleat_token_ends(const pleat_model *model, int32_t id) {
    return tokenizer_ends(model->tok, id);
}

void model_stretch_context(pleat_model *model, int n_tokens) {
    model->context_tokens = model->kv.context_tokens = n_tokens;
}
