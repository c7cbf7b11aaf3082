/* SPDX-License-Identifier: Apache-2.0 */
/* Events that inline receivers raise with their verdicts: see "Raising" in transit.h. */
#include <string.h>

#include "engine/strand.h"

int nfm_worker_allow_raise(nfm_worker *w, nfm_ring *ring, const nfm_raisable *what) {
    struct nfm_inline *in = ring->in_line;
    (void)w;
    if (in == NULL || what->type == 0 || what->n_cells > 64 ||
        (what->n_cells < 64 && what->bytes_cells >> what->n_cells != 0))
        return NFM_E_INVAL;
    if (in->n_raisable == NFM_MAX_RAISABLE)
        return NFM_E_LIMIT;
    in->raisable[in->n_raisable++] = *what;
    return NFM_OK;
}

/* The type, when the receiver may raise it; NULL: it may not. */
static const nfm_raisable *raisable_of(const struct nfm_inline *in, uint32_t type) {
    for (uint32_t i = 0; i < in->n_raisable; i++)
        if (in->raisable[i].type == type)
            return &in->raisable[i];
    return NULL;
}

/* The question that the entry at |position| is, and the frame that waits for it. NULL: none. */
static const nfm_question *question_at(const nfm_worker *w, const nfm_ring *ring, uint64_t position,
                                       uint32_t *slot) {
    const struct nfm_inline *in = ring->in_line;
    if (position < in->judged || position >= nfm_ring_in(ring))
        return NULL;
    uint32_t who = in->who_of[position & in->mask];
    if (who == 0)
        return NULL;
    if (who & NFM_WHO_INQUIRY) {
        const nfm_inquiry *i = &w->way->stream->inquiries[who & ~NFM_WHO_INQUIRY];
        *slot = i->slot;
        return &i->q;
    }
    *slot = who - 1;
    return &w->way->transits[who - 1].q;
}

/* Whether all cells are there, and what they point to. */
static bool is_field_record(const nfm_raisable *what, const uint8_t *fields, uint32_t len) {
    if (len < what->n_cells * 8)
        return false;
    for (uint64_t left = what->bytes_cells; left != 0; left &= left - 1) {
        uint32_t cell[2];
        memcpy(cell, fields + 8 * (uint32_t)__builtin_ctzll(left), sizeof(cell));
        if (cell[0] > len || cell[1] > len - cell[0])
            return false;
    }
    return true;
}

/* Makes the event's record from that of its entry. False: it makes no sense. */
static bool raise_one(nfm_worker *w, const nfm_ring *ring, const nfm_command *command) {
    uint32_t slot = NFM_NO_SLOT, len = (uint32_t)command->b;
    const nfm_raisable *what = raisable_of(ring->in_line, command->number);
    const nfm_question *about = question_at(w, ring, command->a, &slot);
    const uint8_t *bytes = nfm_ring_command_bytes(ring, command);
    nfm_raised raised = {.type = command->number, .fields_len = len};
    if (what == NULL || about == NULL || command->b > NFM_RAISE_BYTES || (len > 0 && bytes == NULL))
        return false;
    if (nfm_fields_get(&w->delivery, len, &raised.fields) != NFM_OK) {
        w->core_counters[NFM_CC_RAISE_LIMIT]++;
        nfm__inquire_lost(w, about, slot, raised.type);
        return true;
    }
    uint8_t *fields = w->delivery.fields + raised.fields;
    if (len > 0)
        memcpy(fields, bytes, len);
    if (!is_field_record(what, fields, len)) { /* the copy: its writer may change it any time */
        nfm_fields_put(&w->delivery, raised.fields, len);
        return false;
    }
    const nfm_record *trigger = &w->mem.records[about->record];
    raised.side = trigger->side;
    nfm_record record = nfm__raised_record(trigger, &raised);
    w->core_counters[NFM_CC_INLINE_RAISED]++;
    nfm__inquire_raised(w, about, slot, &record);
    return true;
}

void nfm__raise(nfm_worker *w, nfm_ring *ring, const nfm_command *command) {
    const struct nfm_inline *in = ring->in_line;
    bool is_done = in != NULL && ring->cmd_tail <= in->raised_to;
    if (!is_done && (in == NULL || !raise_one(w, ring, command)))
        w->core_counters[NFM_CC_INLINE_BAD_RAISE]++;
}

void nfm__raise_pending(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    nfm_command command;
    if (in->raised_to < ring->cmd_tail)
        in->raised_to = ring->cmd_tail;
    for (; nfm_ring_see_command(ring, in->raised_to, &command); in->raised_to++)
        if (command.kind == NFM_CMD_RAISE && !raise_one(w, ring, &command))
            w->core_counters[NFM_CC_INLINE_BAD_RAISE]++;
}
