/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers made of the fields of HTTP and DNS events. */
#include <stdio.h>

#include "ids.h"

#define ABSENT ((nfm_view){NULL, 0})

static uint64_t cell_of(const ids_occasion *o, uint32_t cell) {
    const nfm_app_view *app = &o->record->app;
    uint64_t value = 0, at = app->fields + (uint64_t)cell * 8;
    if ((cell + 1) * 8 <= app->fields_len && at + 8 <= o->mem->fields_size)
        memcpy(&value, o->mem->fields + at, 8);
    return value;
}

/* A field of text or bytes: its cell is offset | length << 32. */
static nfm_view field_of(const ids_occasion *o, uint32_t cell) {
    const nfm_app_view *app = &o->record->app;
    uint64_t value = cell_of(o, cell), off = value & UINT32_MAX, len = value >> 32;
    if (len == 0 || off + len > app->fields_len || app->fields + off + len > o->mem->fields_size)
        return ABSENT;
    return (nfm_view){o->mem->fields + app->fields + off, (uint32_t)len};
}

static uint8_t lower(uint8_t c) {
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 32) : c;
}

static int hex_of(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Where the path begins: behind "scheme://authority", if the target has those. */
static uint32_t path_at(nfm_view target) {
    const uint8_t *end = memchr(target.data, '?', target.len);
    uint32_t n = end == NULL ? target.len : (uint32_t)(end - target.data), at = 0;
    if (target.data[0] == '/')
        return 0;
    while (at + 3 <= n && memcmp(target.data + at, "://", 3) != 0)
        at++;
    if (at + 3 > n)
        return 0;
    at += 3;
    while (at < n && target.data[at] != '/')
        at++;
    return at;
}

/* Path and query, the path's %XX decoded once, runs of slashes made one. */
static nfm_view uri_of(const ids_table *table, nfm_view target) {
    uint32_t n = 0, at = path_at(target);
    bool in_query = false;
    if (target.len > IDS_TEXT)
        target.len = IDS_TEXT;
    while (at < target.len) {
        uint8_t c = target.data[at++];
        in_query |= c == '?';
        if (!in_query && c == '%' && at + 2 <= target.len && hex_of(target.data[at]) >= 0 &&
            hex_of(target.data[at + 1]) >= 0) {
            c = (uint8_t)(hex_of(target.data[at]) << 4 | hex_of(target.data[at + 1]));
            at += 2;
        }
        if (!in_query && c == '\\')
            c = '/';
        if (!in_query && c == '/' && n > 0 && table->text[n - 1] == '/')
            continue;
        table->text[n++] = c;
    }
    return (nfm_view){table->text, n};
}

/* In lower case, without a port. */
static nfm_view host_of(const ids_table *table, nfm_view host) {
    uint32_t n = host.len < IDS_TEXT ? host.len : IDS_TEXT, end = n;
    for (uint32_t i = 0; i < n; i++)
        table->text[i] = lower(host.data[i]);
    while (end > 0 && table->text[end - 1] >= '0' && table->text[end - 1] <= '9')
        end--;
    if (end > 0 && end < n && table->text[end - 1] == ':')
        n = end - 1;
    return (nfm_view){table->text, n};
}

/* Whether |line| is "name:" and more, in any case. */
static bool is_named(nfm_view line, const char *name) {
    uint32_t i = 0;
    while (i < line.len && name[i] != '\0' && lower(line.data[i]) == (uint8_t)name[i])
        i++;
    return name[i] == '\0' && i < line.len && line.data[i] == ':';
}

/* The value of the first field of this name in a header section. */
static nfm_view header_of(nfm_view section, const char *name) {
    uint32_t at = 0, skip = (uint32_t)strlen(name) + 1;
    while (at < section.len) {
        const uint8_t *begin = section.data + at;
        const uint8_t *end = memchr(begin, '\n', section.len - at);
        uint32_t len = end == NULL ? section.len - at : (uint32_t)(end - begin);
        nfm_view line = {begin, len};
        at += len + 1;
        if (!is_named(line, name))
            continue;
        while (line.len > skip &&
               (line.data[line.len - 1] == '\r' || line.data[line.len - 1] == ' '))
            line.len--;
        while (skip < line.len && (line.data[skip] == ' ' || line.data[skip] == '\t'))
            skip++;
        return (nfm_view){line.data + skip, line.len - skip};
    }
    return ABSENT;
}

/*
 * ids_buffer_of makes a buffer of the event at hand; without data: the event has it not. Valid
 * until the next call.
 */
nfm_view ids_buffer_of(const ids_table *table, const ids_buffer *buffer, const ids_occasion *o) {
    if (buffer->source == IDS_NUMBER) {
        char *text = (char *)table->text;
        int n = snprintf(text, IDS_TEXT, "%llu", (unsigned long long)cell_of(o, buffer->cell));
        return (nfm_view){table->text, (uint32_t)n};
    }
    nfm_view field = field_of(o, buffer->cell);
    if (field.data == NULL)
        return ABSENT;
    switch ((enum ids_source)buffer->source) {
    case IDS_URI:
        return uri_of(table, field);
    case IDS_HOST:
        return host_of(table, field);
    case IDS_HEADER:
        return header_of(field, buffer->header);
    case IDS_BYTES:
    case IDS_NUMBER:
        break;
    }
    return field;
}
