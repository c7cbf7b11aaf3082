/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the message machine among themselves. */
#ifndef NFM_HTTP_SIDE_H
#define NFM_HTTP_SIDE_H

#include "http_parse.h"

#define NFM__HTTP_BIT(kind) (1u << (kind))

/* http_side.c */
void nfm__http_report(nfm__http_side *side, const nfm__http_sink *sink, int kind);
void nfm__http_report_all(nfm__http_side *side, const nfm__http_sink *sink, uint32_t errors);
void nfm__http_drop_buffer(nfm__http_side *side, const nfm__http_sink *sink);
void nfm__http_end_message(nfm__http_side *side, const nfm__http_sink *sink, bool complete,
                           nfm_view trailers);
void nfm__http_abort_message(nfm__http_side *side, const nfm__http_sink *sink, int kind, int state);
uint32_t nfm__http_find_end(nfm_view data, uint8_t *newline);
uint8_t *nfm__http_append(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data,
                          uint32_t *used);

/* http_chunk.c */
uint32_t nfm__http_chunk_step(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data);
uint32_t nfm__http_trailer_step(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data);

#endif
