#include "text.h"

size_t text_length(const char *text)
{
    size_t length = 0;
    for (; *text; text++)
        length++;
    return length;
}

void text_shorten(char *text, size_t bytes)
{
    if (strlen(text) > bytes)
        text[bytes] = '\0';
}
