/* twin.c - see twin.h. */
#include "support/twin.h"
#include "engine/generate.h"
#include "support/desk.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

bed twin_open(void) {
    tiny_options tiny = tiny_default();
    tiny.context = DESK_CONTEXT;
    return bed_open(tiny,
                    (pleat_engine_options){
                        .n_threads = 1, .max_step_tokens = 256, .max_sequences = 16, .pool_bytes = (size_t)64 << 20});
}

void twin_answer(const bed *b, const twin_ask *q, int32_t *ids, text *said) {
    pleat_error error;
    pleat_seq *seq = bed_seq(b, q->spec);
    generate_options options = {.max_tokens = q->n_answer, .sampling = q->sampling, .ignore_end = true};
    size_t n_bytes = (size_t)q->n * sizeof(*q->ids);
    generate_stream stream = {.seq = seq,
                              .logits = malloc((size_t)b->n_vocab * sizeof(float)),
                              .history = malloc(n_bytes),
                              .n_history = q->n,
                              .cap_history = q->n};
    memcpy(stream.history, q->ids, n_bytes);
    for (int i = 0; i < q->n_pins; i++)
        assert_int_equal(pleat_seq_pin(seq, q->pin[i].first, q->pin[i].end - q->pin[i].first, &error), PLEAT_OK);
    assert_int_equal(pleat_seq_expect(seq, q->n_answer, &error), PLEAT_OK);
    bed_prefill(b, seq, q->ids, q->n, stream.logits);
    if (generate_run(b->engine, &stream, 1, &options, NULL, NULL, &error))
        fail_msg("%s", error.text);
    assert_int_equal(stream.n_ids, q->n_answer);
    memcpy(ids, stream.history + stream.n_history - q->n_answer, (size_t)q->n_answer * sizeof(*ids));
    if (said)
        text_append(said, stream.answer.bytes, stream.answer.n);
    free(stream.history);
    free(stream.logits);
    text_free(&stream.answer);
    pleat_seq_close(seq);
}
