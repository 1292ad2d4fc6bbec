/* Bytes that grow, and JSON strings in them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

bool text_try_room(Text *text, size_t more) {
    if (more <= text->room - text->length) return true;
    size_t room = text->room ? text->room : 256;
    while (room - text->length < more) {
        if (room > SIZE_MAX / 2) return false;
        room *= 2;
    }
    char *data = realloc(text->data, room);
    if (!data) return false;
    text->data = data;
    text->room = room;
    return true;
}

void *need(void *memory) {
    if (!memory) {
        log_line(LOG_ERROR, "out of memory", "");
        log_flush();
        abort();
    }
    return memory;
}

void text_add(Text *text, const void *data, size_t length) {
    need(text_try_room(text, length ? length : 1) ? text : NULL);
    if (length) memcpy(text->data + text->length, data, length);
    text->length += length;
}

void text_say(Text *text, const char *words) { text_add(text, words, strlen(words)); }

void text_format(Text *text, const char *format, ...) {
    char words[1024];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(words, sizeof words, format, list);
    va_end(list);
    if (length > 0) text_add(text, words, (size_t)length < sizeof words ? (size_t)length : sizeof words - 1);
}

/* Bytes above ASCII are taken for UTF-8 that was checked before; whoever cannot know that escapes them himself. */
void text_json(Text *text, const char *value, size_t length) {
    static const char hex[] = "0123456789abcdef";
    text_add(text, "\"", 1);
    for (size_t place = 0; place < length; place++) {
        unsigned char letter = (unsigned char)value[place];
        if (letter == '"' || letter == '\\') {
            char pair[2] = {'\\', (char)letter};
            text_add(text, pair, 2);
        } else if (letter < 0x20 || letter == 0x7f) {
            char code[6] = {'\\', 'u', '0', '0', hex[letter >> 4], hex[letter & 15]};
            text_add(text, code, 6);
        } else {
            text_add(text, value + place, 1);
        }
    }
    text_add(text, "\"", 1);
}

void text_free(Text *text) {
    free(text->data);
    *text = (Text){0};
}
